//! A run's folder: its name, its lease, config.toml, metrics.jsonl, the TensorBoard file, pictures, and where the
//! checkpoints go. PRODUCT's list of files is this room's contract with everything outside.

mod config;
mod folder;
pub mod lease;
pub(super) mod name;

pub(super) use folder::read_lines;
pub use folder::{Past, RunDir, read_metrics};
use lease::{Holder, STALE_AFTER};
pub use lease::{HostId, Owner};

use super::status::run_arguments;
use crate::domain::text::command_line;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

pub(super) const METRICS: &str = "metrics.jsonl";
pub(super) const CONFIG: &str = "config.toml";
pub(super) const NOTE: &str = "note.txt";
/// Name of the log file.
pub const LOG: &str = "log.txt";

/// Errors of a run's folder.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{what} {}: {source}. Check the path, that you may write there and that there is room, or choose another folder with --runs.", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    InUse(Box<InUse>),
    #[error(transparent)]
    Lost(Lost),
    #[error("'{name}' cannot be a run's name: {why}. Use letters, digits, '-', '_' and '.'.")]
    Name { name: String, why: &'static str },
    #[error(
        "there is a run in {} already. Choose another name, or resume that one with `cifar-tui {}`.",
        .0.display(), run_arguments("--resume", .0)
    )]
    Exists(PathBuf),
    #[error("there is no run called '{0}' here.")]
    Absent(String),
}

impl RunError {
    pub(super) fn io(
        what: &'static str,
        path: &Path,
    ) -> impl FnOnce(io::Error) -> RunError + use<> {
        let path = path.to_owned();
        move |source| RunError::Io { what, path, source }
    }
}

/// Another session has the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InUse {
    pub folder: PathBuf,
    pub holder: Holder,
    /// Whether the session runs on this computer.
    pub here: bool,
    /// Whether the session is known to live. Otherwise its lease is the only sign of it.
    pub certain: bool,
}

impl InUse {
    /// The session that holds the lock, which has not described itself in a lease.
    fn by_unknown_process(folder: &Path) -> Self {
        InUse {
            folder: folder.into(),
            holder: Holder::unknown(),
            here: true,
            certain: true,
        }
    }

    fn process(&self) -> String {
        match self.holder.process {
            0 => String::new(),
            number => format!(" (process {number})"),
        }
    }

    /// The command that attaches to the session from this computer.
    fn attach(&self) -> String {
        attach_command(&self.folder, (!self.here).then_some(&*self.holder.host))
    }
}

/// The command that attaches to the session that has the run in `folder`, on this computer or on `host`.
pub(super) fn attach_command(folder: &Path, host: Option<&str>) -> String {
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.into());
    let text = |part: Option<&std::ffi::OsStr>| {
        part.map_or(String::new(), |p| p.to_string_lossy().into_owned())
    };
    let name = text(folder.file_name());
    let runs = text(folder.parent().map(Path::as_os_str));
    match host {
        None => command_line(&["cifar-tui", "attach", &name, "--runs", &runs]),
        Some(host) => {
            let place = format!("{host}:{}", folder.display());
            command_line(&["cifar-tui", "attach", &place])
        }
    }
}

impl std::error::Error for InUse {}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (folder, process) = (self.folder.display(), self.process());
        if self.here {
            return write!(
                f,
                "the run in {folder} is in use by another process{process}. Attach to it with `{}`, wait for it, or start a new run.",
                self.attach()
            );
        }
        write!(
            f,
            "the run in {folder} is open on {}{process}. Attach to it there: `{}`.",
            self.holder.host,
            self.attach()
        )?;
        match self.certain {
            true => Ok(()),
            false => write!(
                f,
                " If that session is gone, `cifar-tui --resume` takes the run over once its lease has not changed for {} s.",
                STALE_AFTER.as_secs()
            ),
        }
    }
}

/// This session has lost its run to another session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub folder: PathBuf,
    /// The session that has the run, if that is recorded.
    pub by: Option<Holder>,
}

impl std::error::Error for Lost {}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let folder = self.folder.display();
        match &self.by {
            Some(by) => write!(
                f,
                "the run in {folder} was taken over by process {} on {}, as this session's lease had not changed for {} s (was this computer suspended, or the file system away?). Nothing more is written there; what this session trained since its last checkpoint is not kept.",
                by.process,
                by.host,
                STALE_AFTER.as_secs()
            ),
            None => write!(
                f,
                "the lease of the run in {folder} no longer belongs to this session: another session took the run over, or the file was deleted. Nothing more is written there; `cifar-tui --resume` resumes from the last checkpoint."
            ),
        }
    }
}

/// Seconds since the Unix epoch.
pub(super) fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64())
}
