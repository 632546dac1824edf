//! Observes leases without changing them: which session has a run, and whether that session lives.

use super::{FREE, HEARTBEAT, HELD, HostId, InUse, LOCK, STALE_AFTER};
use crate::domain::text::plain;
use crate::files;
use crate::train::files::{FileOp, through};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Maximum number of bytes of a lease that are read.
const MAX_LEASE_BYTES: u64 = 4096;

/// The kind of the system's lock that an owner holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum LockKind {
    /// No other process can lock the run.
    #[default]
    Exclusive,
    /// The owner holds a shared lock, because another process that only reads holds one too.
    Shared,
    /// The file system has no locks.
    None,
}

/// The owner's description in a lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub(in crate::session) owner: String,
    pub host: String,
    pub process: u32,
    /// The socket for viewers on that computer.
    #[serde(default)]
    pub socket: Option<String>,
    /// Seconds since the Unix epoch, by the owner's clock.
    pub since: u64,
    /// Whether it reads commands from files in the run's folder.
    #[serde(default)]
    pub(in crate::session) inbox: bool,
    #[serde(default)]
    pub(super) lock: LockKind,
    pub(super) counter: u64,
}

impl Holder {
    /// Placeholder for an owner that has not written its lease yet.
    pub(in crate::session) fn unknown() -> Self {
        Holder {
            host: "another computer".into(),
            ..Holder::default()
        }
    }

    pub(super) fn text(&self) -> io::Result<Vec<u8>> {
        let fields = toml_edit::ser::to_string(self).map_err(io::Error::other)?;
        let seconds = HEARTBEAT.as_secs();
        let text = format!(
            "# The session that has this run; it moves the counter every {seconds} s.\n{fields}"
        );
        Ok(text.into_bytes())
    }

    /// Parses the text of a lease. None if it is not one. Removes control characters from the name, since any process
    /// may have written the file.
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
            Ok(file) => drop(file.take(MAX_LEASE_BYTES).read_to_end(&mut text)?),
            // The lease's owner has just changed, or the entry is not a regular file and so not a lease.
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
    /// This process holds the lock, so no other process of this kernel does.
    Mine,
    /// No process holds the lock exclusively.
    Free,
    Taken,
    /// The lock cannot be queried.
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
    // Take a shared lock for an instant. It does not prevent an owner from taking the run.
    match try_lock(folder, || file.try_lock_shared()) {
        Ok(true) => Probe::Free,
        Ok(false) => Probe::Taken,
        Err(_) => Probe::Unknown,
    }
}

/// Whether a lease's owner lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Liveness {
    Alive,
    /// The counter has not been watched for long enough to decide.
    Unsure,
    Dead,
}

/// Remembers when the counters of leases last changed, by this computer's clock.
#[derive(Debug, Default)]
pub struct Watch {
    /// For each lease's path: its text, and the time since which it has had this text.
    seen: HashMap<PathBuf, (Vec<u8>, Instant)>,
}

impl Watch {
    /// The session that has or may have the run in `folder`. None if there is none, or the folder cannot be read.
    pub fn look(&mut self, folder: &Path, host: &HostId, now: Instant) -> Option<InUse> {
        let all = leases(folder).unwrap_or_default();
        self.check_all(folder, &all, probe(folder), host, now)
    }

    /// [`Watch::look`] with the leases and the state of the lock as arguments.
    pub(super) fn check_all(
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
            let liveness = self.check_one(folder, lease, here, probe, now);
            let certain = liveness == Liveness::Alive;
            if certain || (liveness == Liveness::Unsure && in_use.is_none()) {
                in_use = Some(InUse {
                    folder: folder.into(),
                    holder: lease.holder().unwrap_or_else(Holder::unknown),
                    here,
                    certain,
                });
            }
        }
        // If there is no lease, the process that holds the lock is about to create one, or is a version of the program
        // without leases.
        in_use.or_else(|| (probe == Probe::Taken).then(|| InUse::by_unknown_process(folder)))
    }

    fn check_one(
        &mut self,
        folder: &Path,
        lease: &LeaseFile,
        here: bool,
        probe: Probe,
        now: Instant,
    ) -> Liveness {
        let by_counter = self.check_counter(folder.join(&lease.file), &lease.text, now);
        let locked = lease.holder().unwrap_or_default().lock;
        match (probe, locked) {
            (Probe::Taken, LockKind::Exclusive) => Liveness::Alive,
            (Probe::Free, LockKind::Exclusive) if here => Liveness::Dead,
            (Probe::Mine, LockKind::Exclusive | LockKind::Shared) if here => Liveness::Dead,
            _ => by_counter,
        }
    }

    fn check_counter(&mut self, lease: PathBuf, text: &[u8], now: Instant) -> Liveness {
        match self.seen.get(&lease) {
            Some((before, since)) if before == text => {
                match now.saturating_duration_since(*since) >= STALE_AFTER {
                    true => Liveness::Dead,
                    false => Liveness::Unsure,
                }
            }
            before => {
                let liveness = before.map_or(Liveness::Unsure, |_| Liveness::Alive);
                self.seen.insert(lease, (text.into(), now));
                liveness
            }
        }
    }
}

/// Looks whether one session still has its run.
#[derive(Debug)]
pub struct SessionWatch {
    folder: PathBuf,
    /// The id under which the session holds the run's lease.
    owner: String,
    /// This computer.
    host: HostId,
    watch: Watch,
}

impl SessionWatch {
    /// A watch of the session that has a run open.
    pub fn of(session: &InUse, host: &HostId) -> Self {
        SessionWatch {
            folder: session.folder.clone(),
            owner: session.holder.owner.clone(),
            host: host.clone(),
            watch: Watch::default(),
        }
    }

    /// Whether the session still has the run. Also false if the folder cannot be read.
    pub fn has_session(&mut self) -> bool {
        let session = self.watch.look(&self.folder, &self.host, Instant::now());
        // An owner that is just writing its lease has no id.
        session.is_some_and(|session| [&*self.owner, ""].contains(&&*session.holder.owner))
    }
}
