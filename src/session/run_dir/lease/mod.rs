//! A run's lease: a file in its folder that tells users and other computers which session has the run.
//!
//! The owner's id is part of the file's name (`lease-KERNEL-RANDOM`), so that one rename changes the lease's owner. If
//! several sessions try, only one of them finds the old name; an owner that was suspended in the meantime finds that
//! its own name is missing. The lease of a run that no session has is named `lease`. The file's text describes the
//! owner and contains a counter that a thread of the session increments every [`HEARTBEAT`].
//!
//! On one kernel, the system's lock on the file `lock` shows whether the owner lives: the system releases the lock when
//! the process ends for any reason. Between computers, locks of a network file system may not work. There, a lease is
//! stale if its counter has not changed for [`STALE_AFTER`] by the observer's clock, since the clocks of computers
//! differ.
//!
//! Observers do not change the folder.

mod host;
mod watch;

pub use host::{HostId, Owner};
pub use watch::{Holder, SessionWatch, Watch};

use super::{InUse, Lost, RunError};
use crate::files;
use crate::session::log::RunLog;
use crate::train::files::{FileOp, Permit, through};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use watch::{LeaseFile, LockKind, Probe, leases, open_lock, try_lock};

/// Name of the lease of a run that no session has, and prefix of the names of held leases.
const FREE: &str = "lease";
const HELD: &str = "lease-";
const LOCK: &str = "lock";
/// Time between two increments of the counter.
pub const HEARTBEAT: Duration = Duration::from_secs(3);
/// Time after which an unchanged counter means that the session has ended. It is twenty heartbeats, so that a slow
/// network file system does not make a lease stale.
pub const STALE_AFTER: Duration = Duration::from_secs(60);

/// Whether the error means that the file system has no locks.
fn has_no_locks(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| {
        [libc::ENOLCK, libc::ENOTSUP, libc::EOPNOTSUPP, libc::ENOSYS].contains(&code)
    })
}

/// The clock that measures the wait for a lease.
pub trait Clock {
    fn now(&self) -> Instant;
    /// Waits for `time`. Returns false if the wait for the lease should end.
    fn wait(&mut self, time: Duration) -> bool;
}

/// A held lease of a run. Dropping it releases the run.
pub struct Lease {
    shared: Arc<Shared>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// A warning for the user about how the lease was taken.
    pub warnings: Vec<String>,
    /// Dropped last, so that the lock is held until the lease is released.
    _lock: Option<File>,
}

struct Shared {
    id: String,
    owner: Owner,
    inner: Mutex<Inner>,
    /// Set when the lease is found to belong to another session.
    lost: OnceLock<Lost>,
    /// The run's log.
    log: OnceLock<RunLog>,
    /// A channel that receives a token when the lease is lost.
    loss: (Sender<()>, Receiver<()>),
}

struct Inner {
    folder: PathBuf,
    holder: Holder,
}

impl Lease {
    /// Takes the lease of the run in `folder`. If another computer holds it, takes it over only if `watch` has seen its
    /// counter unchanged for [`STALE_AFTER`] at the time `now`.
    ///
    /// # Errors
    /// Returns an error if another session has or may have the run, or a file operation fails.
    pub fn take(
        folder: &Path,
        owner: &Owner,
        watch: &mut Watch,
        now: Instant,
    ) -> Result<Self, RunError> {
        let cannot = |source| RunError::Io {
            what: "cannot take the lease in",
            path: folder.into(),
            source,
        };
        let in_use = |in_use: Option<InUse>| {
            let in_use = in_use.unwrap_or_else(|| InUse::by_unknown_process(folder));
            RunError::InUse(Box::new(in_use))
        };
        let mut warnings = Vec::new();
        let (lock, locked, probe) = match lock(folder) {
            Ok(Some((file, LockKind::Exclusive))) => (Some(file), LockKind::Exclusive, Probe::Mine),
            Ok(Some((file, locked))) => (Some(file), locked, Probe::Free),
            Ok(None) => return Err(in_use(watch.look(folder, &owner.host, now))),
            Err(error) if has_no_locks(&error) => {
                warnings.push(format!(
                    "the file system of {} has no locks ({error}): the lease file alone keeps other sessions out of this run",
                    folder.display()
                ));
                (None, LockKind::None, Probe::Unknown)
            }
            Err(source) => return Err(RunError::io("cannot lock", &folder.join(LOCK))(source)),
        };
        let all = leases(folder).map_err(cannot)?;
        if let Some(session) = watch.check_all(folder, &all, probe, &owner.host, now) {
            return Err(in_use(Some(session)));
        }
        let id = owner.host.new_id();
        if !rename_all(folder, &all, &id).map_err(cannot)? {
            return Err(in_use(None));
        }
        let before = all.iter().filter_map(LeaseFile::holder);
        for before in before.filter(|b| !owner.host.is_of(&b.owner)) {
            warnings.push(format!(
                "the run was open on {} (process {}), whose lease has not changed for {} s: this session takes it over",
                before.host,
                before.process,
                STALE_AFTER.as_secs()
            ));
        }
        let holder = Holder {
            owner: id.clone(),
            host: owner.host.name.clone(),
            process: std::process::id(),
            socket: None,
            since: super::now() as u64,
            inbox: true,
            lock: locked,
            counter: 0,
        };
        let shared = Arc::new(Shared {
            id,
            owner: owner.clone(),
            inner: Mutex::new(Inner {
                folder: folder.into(),
                holder,
            }),
            lost: OnceLock::new(),
            log: OnceLock::new(),
            loss: bounded(1),
        });
        shared.beat().map_err(cannot)?;
        let (stop, stopped) = bounded(0);
        let beats = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("lease".into())
            .spawn(move || beats.run(&stopped))
            .map_err(cannot)?;
        Ok(Lease {
            shared,
            stop: Some(stop),
            thread: Some(thread),
            warnings,
            _lock: lock,
        })
    }

    /// Like [`Lease::take`], but if only another computer's lease says that the run is in use, waits until its counter
    /// changes or the lease is stale. Calls `on_wait` once, before the first wait. Returns None if [`Clock::wait`]
    /// returns false.
    ///
    /// # Errors
    /// Returns the errors of [`Lease::take`].
    pub fn wait_and_take(
        folder: &Path,
        owner: &Owner,
        clock: &mut impl Clock,
        on_wait: impl FnOnce(&InUse),
    ) -> Result<Option<Self>, RunError> {
        let mut watch = Watch::default();
        let mut on_wait = Some(on_wait);
        loop {
            match Lease::take(folder, owner, &mut watch, clock.now()) {
                Err(RunError::InUse(in_use)) if !in_use.certain => {
                    if let Some(on_wait) = on_wait.take() {
                        on_wait(&in_use);
                    }
                    if !clock.wait(HEARTBEAT / 3) {
                        return Ok(None);
                    }
                }
                other => return other.map(Some),
            }
        }
    }

    /// The id of this owner.
    pub(in crate::session) fn owner_id(&self) -> &str {
        &self.shared.id
    }

    /// A permit that checks before each operation on the run's files that this session still holds the lease.
    pub fn permit(&self) -> Permit {
        let shared = Arc::clone(&self.shared);
        Arc::new(move || shared.check())
    }

    /// Logs later messages about the lease to `log`.
    pub(in crate::session) fn log_to(&self, log: &RunLog) {
        // This cannot fail: a lease belongs to one run, whose log is opened once.
        let _ = self.shared.log.set(log.clone());
    }

    /// The session that has the run, after this session has lost it.
    pub fn lost(&self) -> Option<&Lost> {
        self.shared.lost.get()
    }

    /// A channel that receives a token when the lease is lost.
    pub fn on_loss(&self) -> Receiver<()> {
        self.shared.loss.1.clone()
    }

    /// Records that the run's folder has been renamed.
    pub fn moved_to(&self, folder: &Path) {
        self.shared.inner().folder = folder.into();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // The thread does not panic. If it did, its counter would stop and the lease would become stale.
            let _ = thread.join();
        }
        if self.lost().is_none() {
            let folder = self.shared.inner().folder.clone();
            release(&folder, &self.shared.id);
        }
    }
}

/// Releases a lease if its name still contains the owner's id.
fn release(folder: &Path, id: &str) {
    let (held, free) = (folder.join(format!("{HELD}{id}")), folder.join(FREE));
    match through(FileOp::Rename, &held, || fs::rename(&held, &free)) {
        Ok(()) => {}
        // Another session has the lease, or the folder was deleted.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(
            "the lease in {} could not be released: {error}",
            folder.display()
        ),
    }
}

/// Renames all of a run's leases, which no session holds any more, to the lease of owner `id`. Returns false if another
/// session was faster.
fn rename_all(folder: &Path, all: &[LeaseFile], id: &str) -> io::Result<bool> {
    let own = format!("{HELD}{id}");
    let mine = folder.join(&own);
    let mut missed = false;
    for lease in all {
        let from = folder.join(&lease.file);
        match through(FileOp::Rename, &mine, || fs::rename(&from, &mine)) {
            Ok(()) => {}
            // A network file system may rename the file, lose the reply, repeat the request and report that the file is
            // missing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => missed |= !mine.exists(),
            Err(error) => return Err(error),
        }
    }
    if all.is_empty() {
        through(FileOp::Create, &mine, || File::create_new(&mine))?;
    }
    // If two sessions found no lease and both created one, each finds the other's, and neither takes the run.
    missed |= leases(folder)?
        .iter()
        .any(|l| l.id.is_some() && l.file != own);
    if missed {
        release(folder, id);
    }
    Ok(!missed)
}

/// Locks the run. None if another process holds the lock.
fn lock(folder: &Path) -> io::Result<Option<(File, LockKind)>> {
    let mut options = OpenOptions::new();
    let file = open_lock(
        folder,
        options.create(true).truncate(false).write(true).read(true),
    )?;
    if try_lock(folder, || file.try_lock())? {
        return Ok(Some((file, LockKind::Exclusive)));
    }
    // The exclusive lock fails also if another process only reads and holds a shared lock.
    match try_lock(folder, || file.try_lock_shared())? {
        true => Ok(Some((file, LockKind::Shared))),
        false => Ok(None),
    }
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{HELD}{}", self.id))
    }

    /// Increments the counter until the run ends or the lease is lost.
    fn run(&self, stopped: &Receiver<()>) {
        let mut failed = false;
        let mut entered = None;
        while stopped.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
            if entered.is_none() {
                entered = self.log.get().map(RunLog::enter);
            }
            match self.beat() {
                Ok(()) => failed = false,
                Err(_) if self.lost.get().is_some() => return,
                Err(error) if !failed => {
                    tracing::warn!("the lease cannot be renewed: {error}");
                    failed = true;
                }
                Err(_) => {}
            }
        }
    }

    /// Writes the lease with an incremented counter into the existing file of this name. Never creates the file.
    fn beat(&self) -> io::Result<()> {
        let (path, text) = {
            let mut inner = self.inner();
            inner.holder.counter += 1;
            inner.holder.socket = self.owner.socket.as_ref().map(|socket| {
                let socket = socket.lock().unwrap_or_else(PoisonError::into_inner);
                socket.display().to_string()
            });
            (self.path(&inner.folder), inner.holder.text()?)
        };
        let written = through(FileOp::Write, &path, || {
            let mut file = files::open_with(OpenOptions::new().write(true), &path)?;
            file.write_all(&text)?;
            file.set_len(text.len() as u64)
        });
        match written {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.check(),
            other => other,
        }
    }

    /// Returns an error if this session no longer holds the lease, or the lease file cannot be opened.
    fn check(&self) -> io::Result<()> {
        if let Some(lost) = self.lost.get() {
            return Err(io::Error::other(lost.to_string()));
        }
        let folder = self.inner().folder.clone();
        // Open the file: a network file system may answer a query for its metadata from a cache that is a minute old.
        match files::open(&self.path(&folder)) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && folder.is_dir() => {
                let by = leases(&folder).unwrap_or_default();
                let lost = self.lost.get_or_init(|| Lost {
                    by: by.iter().find_map(LeaseFile::holder),
                    folder: folder.clone(),
                });
                // Close the log first, since nothing more may be written into the folder. The next message goes to the
                // log of the next run.
                if let Some(log) = self.log.get() {
                    log.close();
                }
                tracing::error!("{lost}");
                // If the channel is full, the loss has been reported already.
                let _ = self.loss.0.try_send(());
                Err(io::Error::other(lost.to_string()))
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
