//! The file operations that a save is made of, each in one place, so that tests can make any of them fail or crash.
//! Knows nothing of what is saved.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// One operation on files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Create,
    Write,
    Sync,
    Rename,
    Link,
    Copy,
    Remove,
    SyncFolder,
}

/// What is added to a file's name while it is written beside.
const BESIDE: &str = ".tmp";

/// Writes a file so that a crash at any moment leaves the old one or the new one: write beside, sync the file, rename,
/// sync the folder.
///
/// # Errors
/// Those of the file system; the old file then still stands, unless only the folder could not be synced.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = beside(path);
    let written = (|| {
        let mut file = through(Op::Create, &beside, || File::create(&beside))?;
        write(&mut file, &beside, bytes)?;
        through(Op::Sync, &beside, || file.sync_all())?;
        through(Op::Rename, path, || fs::rename(&beside, path))
    })();
    if written.is_err() {
        // What was written in part is of no use; the error that is told is the one above.
        let _ = remove(&beside);
    }
    written?;
    sync_folder(path)
}

/// Gives the file at `path` a second name, which replaces whatever had it, at once.
///
/// # Errors
/// Those of the file system; both names then stand for what they stood for.
pub fn keep_as(path: &Path, name: &Path) -> io::Result<()> {
    let beside = beside(name);
    remove(&beside)?;
    let kept = (|| {
        if through(Op::Link, &beside, || fs::hard_link(path, &beside)).is_err() {
            // Not every file system knows two names for one file.
            through(Op::Copy, &beside, || fs::copy(path, &beside))?;
            through(Op::Sync, &beside, || File::open(&beside)?.sync_all())?;
        }
        through(Op::Rename, name, || fs::rename(&beside, name))
    })();
    // A rename between two names of one file does nothing, by POSIX, and leaves both.
    let removed = remove(&beside);
    kept.and(removed)
}

/// Removes what saves that were cut short have left in `folder`.
///
/// # Errors
/// Those of the file system.
pub fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let stray = entry
            .file_name()
            .to_str()
            .is_some_and(|n| n.ends_with(BESIDE));
        if stray && entry.file_type()?.is_file() {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(BESIDE);
    PathBuf::from(name)
}

fn remove(path: &Path) -> io::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    through(Op::Remove, path, || fs::remove_file(path))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    if let Some(folder) = path.parent() {
        through(Op::SyncFolder, path, || File::open(folder)?.sync_all())?;
    }
    Ok(())
}

/// A file that lines are added to. What could not be written waits and is tried again, so that a disk that was full for
/// a while leaves no gap; a part that was written is never written twice.
pub struct Appender {
    file: File,
    path: PathBuf,
    waiting: Vec<u8>,
}

/// Bytes that wait before they are handed to the system unasked.
const FLUSH_AT: usize = 8 << 10;

impl Appender {
    /// Adds to `file`, from where it stands; `path` is its name.
    pub fn new(file: File, path: PathBuf) -> Self {
        Appender {
            file,
            path,
            waiting: Vec::new(),
        }
    }

    /// Adds bytes. They are not lost when there is an error: they wait.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= FLUSH_AT {
            self.flush()?;
        }
        Ok(())
    }

    /// Hands everything to the system.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.waiting.is_empty() {
            let (file, waiting) = (&mut self.file, &self.waiting);
            match some_through(&self.path, waiting, |bytes| file.write(bytes)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether nothing waits.
    pub fn is_flushed(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Cuts the file back to its first `length` bytes and goes on from there; what waits is dropped.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn cut(&mut self, length: u64) -> io::Result<()> {
        use std::io::{Seek, SeekFrom};
        self.waiting.clear();
        self.file.set_len(length)?;
        self.file.seek(SeekFrom::Start(length))?;
        Ok(())
    }

    /// Another handle, to sync the file from another thread.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        // Whoever must know has flushed before.
        let _ = self.flush();
    }
}

fn write(file: &mut File, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match some_through(path, rest, |bytes| file.write(bytes)) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(not(test))]
fn through<T>(_: Op, _: &Path, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    act()
}

#[cfg(not(test))]
fn some_through(
    _: &Path,
    bytes: &[u8],
    act: impl FnOnce(&[u8]) -> io::Result<usize>,
) -> io::Result<usize> {
    act(bytes)
}

#[cfg(test)]
use faults::{some_through, through};

/// Files that fail. A fault is laid on a folder and works in all threads, so tests of other folders do not see it.
#[cfg(test)]
pub(crate) mod faults {
    use super::*;
    use std::collections::{HashMap, HashSet};
    use std::sync::{LazyLock, Mutex};

    /// What goes wrong.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Fault {
        /// The operation number `at` fails with this error of the system, and it alone.
        Error {
            at: usize,
            code: i32,
        },
        /// A write is done by half, the rest of it finds no room.
        Short {
            at: usize,
        },
        /// The machine stops before the operation, or after it: nothing is done from there on, and files that were not
        /// synced keep only a part.
        CrashBefore {
            at: usize,
        },
        CrashAfter {
            at: usize,
        },
        /// All operations find no room, until the plan is lifted.
        Full,
    }

    #[derive(Default)]
    struct Plan {
        fault: Option<Fault>,
        done: Vec<Op>,
        crashed: bool,
        unsynced: HashSet<PathBuf>,
    }

    static PLANS: LazyLock<Mutex<HashMap<PathBuf, Plan>>> = LazyLock::new(Mutex::default);

    /// Lays a fault on the files of `folder` (None only counts) until the guard is dropped.
    pub(crate) fn lay(folder: &Path, fault: Option<Fault>) -> Laid {
        let plan = Plan {
            fault,
            ..Plan::default()
        };
        PLANS.lock().unwrap().insert(folder.into(), plan);
        Laid(folder.into())
    }

    pub(crate) struct Laid(PathBuf);

    impl Laid {
        /// The operations so far.
        pub(crate) fn done(&self) -> Vec<Op> {
            PLANS.lock().unwrap()[&self.0].done.clone()
        }
    }

    impl Drop for Laid {
        fn drop(&mut self) {
            PLANS.lock().unwrap().remove(&self.0);
        }
    }

    fn crash<T>() -> io::Result<T> {
        Err(io::Error::other("the machine has stopped"))
    }

    pub(super) fn through<T>(
        op: Op,
        path: &Path,
        act: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let mut plans = PLANS.lock().unwrap();
        let Some(plan) = path.parent().and_then(|f| plans.get_mut(f)) else {
            drop(plans);
            return act();
        };
        if plan.crashed {
            return crash();
        }
        let number = plan.done.len();
        plan.done.push(op);
        match plan.fault {
            Some(Fault::Full) if !matches!(op, Op::Remove) => {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            Some(Fault::Error { at, code }) if at == number => {
                return Err(io::Error::from_raw_os_error(code));
            }
            Some(Fault::CrashBefore { at }) if at == number => {
                plan.stop();
                return crash();
            }
            _ => {}
        }
        let outcome = act();
        if outcome.is_ok() {
            let beside = beside(path);
            match op {
                Op::Create | Op::Write | Op::Copy => {
                    plan.unsynced.insert(path.into());
                }
                Op::Sync | Op::Remove => {
                    plan.unsynced.remove(path);
                }
                Op::Rename => {
                    plan.unsynced.remove(path);
                    if plan.unsynced.remove(&beside) {
                        plan.unsynced.insert(path.into());
                    }
                }
                Op::Link | Op::SyncFolder => {}
            }
        }
        if plan.fault == Some(Fault::CrashAfter { at: number }) {
            plan.stop();
            return crash();
        }
        outcome
    }

    pub(super) fn some_through(
        path: &Path,
        bytes: &[u8],
        act: impl FnOnce(&[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let short = {
            let plans = PLANS.lock().unwrap();
            let plan = path.parent().and_then(|f| plans.get(f));
            plan.and_then(|p| p.fault.map(|f| (f, p.done.len())))
        };
        match short {
            Some((Fault::Short { at }, number)) if number == at => {
                through(Op::Write, path, || act(&bytes[..bytes.len() / 2]))
            }
            Some((Fault::Short { at }, number)) if number == at + 1 => {
                through(Op::Write, path, || {
                    Err(io::Error::from_raw_os_error(libc::ENOSPC))
                })
            }
            _ => through(Op::Write, path, || act(bytes)),
        }
    }

    impl Plan {
        fn stop(&mut self) {
            self.crashed = true;
            for path in self.unsynced.drain() {
                if let Ok(file) = File::options().write(true).open(&path) {
                    let length = file.metadata().unwrap().len();
                    file.set_len(length / 2).unwrap();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::faults::{Fault, lay};
    use super::*;

    #[test]
    fn lines_wait_for_room_and_are_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        let file = File::create(&path).unwrap();
        let mut lines = Appender::new(file, path.clone());
        let short = lay(folder.path(), Some(Fault::Short { at: 0 }));
        lines.add(b"one\n").unwrap();
        let error = lines.flush().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        assert_eq!(fs::read(&path).unwrap(), b"on");
        drop(short);
        let full = lay(folder.path(), Some(Fault::Full));
        lines.add(b"two\n").unwrap();
        assert!(lines.flush().is_err());
        drop(full);
        lines.add(b"three\n").unwrap();
        lines.flush().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\nthree\n");
        lines.add(b"gone").unwrap();
        lines.cut(4).unwrap();
        lines.add(b"2\n").unwrap();
        drop(lines);
        assert_eq!(fs::read(&path).unwrap(), b"one\n2\n");
    }

    #[test]
    fn strays_are_swept_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.tmp", "last.safetensors.tmp", "note.txt"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        fs::create_dir(folder.path().join("folder.tmp")).unwrap();
        sweep(folder.path()).unwrap();
        let names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|f| f.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }
}
