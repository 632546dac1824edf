//! Looking at leases, changing nothing: who has a run, and whether that session lives.

use super::{BEAT, FREE, HELD, HostId, InUse, LOCK, STALE};
use crate::domain::text::plain;
use crate::files;
use crate::train::files::{FileOp, through};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Bytes of a lease that are read.
const LONGEST: u64 = 4096;

/// The system's lock as held by an owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Locked {
    /// No other process can lock the run.
    #[default]
    Exclusive,
    /// Somebody who only reads has a shared lock, which must not keep the owner out.
    Shared,
    /// The file system has no locks.
    None,
}

/// The owner's description in a lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub(super) owner: String,
    pub host: String,
    pub process: u32,
    /// The socket for viewers on that computer.
    #[serde(default)]
    pub socket: Option<String>,
    /// Seconds since the Unix epoch, by the owner's clock.
    pub since: u64,
    #[serde(default)]
    pub(super) lock: Locked,
    pub(super) counter: u64,
}

impl Holder {
    /// Placeholder for an owner that has not written yet.
    pub(in crate::session) fn unknown() -> Self {
        Holder {
            host: "another computer".into(),
            ..Holder::default()
        }
    }

    pub(super) fn text(&self) -> io::Result<Vec<u8>> {
        let fields = toml_edit::ser::to_string(self).map_err(io::Error::other)?;
        let seconds = BEAT.as_secs();
        let text = format!(
            "# The session that has this run; it moves the counter every {seconds} s.\n{fields}"
        );
        Ok(text.into_bytes())
    }

    /// None if the text is not that of a lease. Any process may have written it, so the name is sanitised.
    fn read(text: &[u8]) -> Option<Self> {
        let mut holder: Holder = toml_edit::de::from_slice(text).ok()?;
        holder.host = plain(&holder.host).into_owned();
        Some(holder)
    }
}

/// A lease file in a run's folder.
pub(super) struct LeaseFile {
    pub file: String,
    /// The owner's id; None for the lease of a run that no session has.
    pub id: Option<String>,
    text: Vec<u8>,
}

impl LeaseFile {
    /// The owner's description. None if a new owner has not written it yet and the text is still the previous owner's.
    pub fn holder(&self) -> Option<Holder> {
        Holder::read(&self.text).filter(|holder| Some(&holder.owner) == self.id.as_ref())
    }
}

/// The leases in a run's folder: one, or none in a run of an older version of the program.
pub(super) fn leases(folder: &Path) -> io::Result<Vec<LeaseFile>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(file) = entry.file_name().into_string() else {
            continue;
        };
        let id = file.strip_prefix(HELD).map(str::to_owned);
        if id.is_none() && file != FREE {
            continue;
        }
        let mut text = Vec::new();
        match files::open(&entry.path()) {
            Ok(file) => drop(file.take(LONGEST).read_to_end(&mut text)?),
            // Its owner has just changed, or it is not a regular file and so not a lease.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::InvalidInput
                ) =>
            {
                continue;
            }
            Err(error) => return Err(error),
        }
        all.push(LeaseFile { file, id, text });
    }
    Ok(all)
}

/// The state of the system's lock on a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// This process has it, so that no other process of this kernel has a lock.
    Mine,
    /// No process has the lock exclusively.
    Free,
    Taken,
    /// It cannot be asked.
    Unknown,
}

pub(super) fn open_lock(folder: &Path, options: &mut OpenOptions) -> io::Result<File> {
    files::open_with(options, &folder.join(LOCK))
}

pub(super) fn try_lock(
    folder: &Path,
    attempt: impl Fn() -> Result<(), TryLockError>,
) -> io::Result<bool> {
    through(FileOp::Lock, &folder.join(LOCK), || match attempt() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    })
}

fn probe(folder: &Path) -> Probe {
    let file = match open_lock(folder, OpenOptions::new().read(true)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Probe::Free,
        Err(_) => return Probe::Unknown,
    };
    // A shared lock, for an instant: it does not keep an owner out.
    match try_lock(folder, || file.try_lock_shared()) {
        Ok(true) => Probe::Free,
        Ok(false) => Probe::Taken,
        Err(_) => Probe::Unknown,
    }
}

/// Whether a lease's owner lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Alive,
    /// The counter was not watched for long enough.
    Unsure,
    Dead,
}

/// Remembers when counters of leases were last seen to move, by the clock of the one that looks.
#[derive(Debug, Default)]
pub struct Watch {
    /// By the lease's path: its text, and since when it has been that.
    seen: HashMap<PathBuf, (Vec<u8>, Instant)>,
}

impl Watch {
    /// The session that has the run in `folder`, or may have it. None if there is none or the folder cannot be read.
    pub fn look(&mut self, folder: &Path, host: &HostId, now: Instant) -> Option<InUse> {
        let all = leases(folder).unwrap_or_default();
        self.judge_all(folder, &all, probe(folder), host, now)
    }

    /// [`Watch::look`] at leases that were read, and a lock that was probed.
    pub(super) fn judge_all(
        &mut self,
        folder: &Path,
        all: &[LeaseFile],
        probe: Probe,
        host: &HostId,
        now: Instant,
    ) -> Option<InUse> {
        let mut in_use: Option<InUse> = None;
        for lease in all {
            let Some(id) = &lease.id else { continue };
            let here = host.is_of(id);
            let life = self.judge(folder, lease, here, probe, now);
            let certain = life == Life::Alive;
            if certain || (life == Life::Unsure && in_use.is_none()) {
                in_use = Some(InUse {
                    folder: folder.into(),
                    holder: lease.holder().unwrap_or_else(Holder::unknown),
                    here,
                    certain,
                });
            }
        }
        // Without a lease, the holder of the lock is about to create one, or is a version of the program without
        // leases.
        in_use.or_else(|| (probe == Probe::Taken).then(|| InUse::by_some_process(folder)))
    }

    fn judge(
        &mut self,
        folder: &Path,
        lease: &LeaseFile,
        here: bool,
        probe: Probe,
        now: Instant,
    ) -> Life {
        let by_counter = self.moved(folder.join(&lease.file), &lease.text, now);
        let locked = lease.holder().unwrap_or_default().lock;
        match (probe, locked) {
            (Probe::Taken, Locked::Exclusive) => Life::Alive,
            (Probe::Free, Locked::Exclusive) if here => Life::Dead,
            (Probe::Mine, Locked::Exclusive | Locked::Shared) if here => Life::Dead,
            _ => by_counter,
        }
    }

    fn moved(&mut self, lease: PathBuf, text: &[u8], now: Instant) -> Life {
        match self.seen.get(&lease) {
            Some((before, since)) if before == text => {
                match now.saturating_duration_since(*since) >= STALE {
                    true => Life::Dead,
                    false => Life::Unsure,
                }
            }
            before => {
                let life = before.map_or(Life::Unsure, |_| Life::Alive);
                self.seen.insert(lease, (text.into(), now));
                life
            }
        }
    }
}
