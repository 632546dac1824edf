//! The file operations of a save, each in one function, so that tests can make any of them fail or simulate a crash at
//! it. This module does not know what is saved.

use crate::files;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One operation on files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileOp {
    Create,
    /// Opens a file for appending, and truncates it.
    Open,
    Cut,
    Write,
    Sync,
    Rename,
    Link,
    Copy,
    Remove,
    SyncFolder,
    /// Takes an advisory lock.
    Lock,
}

/// Suffix of the temporary file that is later renamed to the file's name.
const BESIDE: &str = ".tmp";

/// Called before each operation. Returns an error, with the reason, if the operation must not be carried out.
pub type Permit = Arc<dyn Fn() -> io::Result<()> + Send + Sync>;

/// A folder that files are written into. If it has a permit, each operation needs it.
#[derive(Clone)]
pub struct Folder {
    path: PathBuf,
    permit: Option<Permit>,
}

/// A folder without a permit.
impl From<&Path> for Folder {
    fn from(path: &Path) -> Self {
        Folder {
            path: path.into(),
            permit: None,
        }
    }
}

impl Folder {
    /// A folder that is written into only as long as `permit` returns no error.
    pub fn with_permit(path: &Path, permit: Permit) -> Self {
        Folder {
            path: path.into(),
            permit: Some(permit),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file so that a crash at any moment leaves either the old or the new contents: writes a temporary file,
    /// syncs it, renames it, syncs the folder.
    ///
    /// # Errors
    /// Returns an error if the file system does. The old file is then unchanged, unless only the sync of the folder
    /// failed.
    pub fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let (path, beside) = (self.join(name), self.beside(name));
        let written = (|| {
            let mut file = self.through(FileOp::Create, &beside, || files::create(&beside))?;
            let mut rest = bytes;
            while !rest.is_empty() {
                rest = &rest[self.some_through(&beside, rest, |bytes| file.write(bytes))?..];
            }
            self.through(FileOp::Sync, &beside, || file.sync_all())?;
            self.through(FileOp::Rename, &path, || fs::rename(&beside, &path))
        })();
        if written.is_err() {
            // Remove the partial file. If that fails too, the first error is the one to report.
            let _ = self.remove_at(&beside);
        }
        written?;
        self.sync(&path)
    }

    /// Gives the file `name` a second name (a hard link, or a copy), atomically replacing a file of that name.
    ///
    /// # Errors
    /// Returns an error if the file system does. If the rename fails, both files keep their contents.
    pub fn keep_as(&self, name: &str, second: &str) -> io::Result<()> {
        let (path, beside) = (self.join(name), self.beside(second));
        let second = self.join(second);
        self.remove_at(&beside)?;
        let kept = (|| {
            if self
                .through(FileOp::Link, &beside, || fs::hard_link(&path, &beside))
                .is_err()
            {
                // Not every file system supports hard links.
                self.through(FileOp::Copy, &beside, || fs::copy(&path, &beside))?;
                self.through(FileOp::Sync, &beside, || File::open(&beside)?.sync_all())?;
            }
            self.through(FileOp::Rename, &second, || fs::rename(&beside, &second))
        })();
        // A rename between two names of one file does nothing, by POSIX, and leaves both.
        let removed = self.remove_at(&beside);
        kept.and(removed)
    }

    /// Removes the temporary files of interrupted saves.
    ///
    /// # Errors
    /// Returns an error if the file system does.
    pub fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let stray = entry
                .file_name()
                .to_str()
                .is_some_and(|n| n.ends_with(BESIDE));
            if stray && entry.file_type()?.is_file() {
                self.remove_at(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Opens a file for appending, truncated to its first `keep` bytes.
    ///
    /// # Errors
    /// Returns an error if the file system does.
    pub fn append_to(&self, name: &str, keep: u64) -> io::Result<Appender> {
        let path = self.join(name);
        let file = self.through(FileOp::Open, &path, || {
            let mut options = OpenOptions::new();
            files::open_with(options.create(true).truncate(false).write(true), &path)
        })?;
        let mut appender = Appender::new(self.clone(), path, file);
        appender.cut(keep)?;
        Ok(appender)
    }

    /// Creates a file for appending.
    ///
    /// # Errors
    /// Returns an error if the file exists already or the file system does.
    pub fn append_to_new(&self, name: &str) -> io::Result<Appender> {
        let path = self.join(name);
        let file = self.through(FileOp::Open, &path, || {
            OpenOptions::new().create_new(true).write(true).open(&path)
        })?;
        Ok(Appender::new(self.clone(), path, file))
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.join(&format!("{name}{BESIDE}"))
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// Returns an error if the file system does.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.remove_at(&self.join(name))
    }

    fn remove_at(&self, path: &Path) -> io::Result<()> {
        if !path.exists() {
            return Ok(());
        }
        self.through(FileOp::Remove, path, || fs::remove_file(path))
    }

    /// Syncs the folder, so that the new name of the file at `path` survives a crash.
    fn sync(&self, path: &Path) -> io::Result<()> {
        #[cfg(unix)]
        self.through(FileOp::SyncFolder, path, || {
            File::open(&self.path)?.sync_all()
        })?;
        Ok(())
    }

    fn through<T>(
        &self,
        op: FileOp,
        path: &Path,
        act: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        if let Some(permit) = &self.permit {
            permit()?;
        }
        through(op, path, act)
    }

    /// Writes some of `bytes` and returns their number.
    fn some_through(
        &self,
        path: &Path,
        bytes: &[u8],
        mut act: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if let Some(permit) = &self.permit {
            permit()?;
        }
        loop {
            match some_through(path, bytes, &mut act) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

/// A file that lines are appended to. Bytes that could not be written stay queued and are tried again, so that a
/// temporarily full disk leaves no gap; no byte is written twice.
pub struct Appender {
    folder: Folder,
    path: PathBuf,
    file: File,
    waiting: Vec<u8>,
}

/// Number of queued bytes at which [`Appender::add`] writes them.
const FLUSH_AT: usize = 8 << 10;

impl Appender {
    fn new(folder: Folder, path: PathBuf, file: File) -> Self {
        Appender {
            folder,
            path,
            file,
            waiting: Vec::new(),
        }
    }

    /// Adds bytes. If writing them fails, they stay queued for the next flush.
    ///
    /// # Errors
    /// Returns an error if the file system does.
    pub fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= FLUSH_AT {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes all queued bytes to the file.
    ///
    /// # Errors
    /// Returns an error if the file system does.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.waiting.is_empty() {
            let (file, waiting) = (&mut self.file, &self.waiting);
            let written = self
                .folder
                .some_through(&self.path, waiting, |bytes| file.write(bytes))?;
            self.waiting.drain(..written);
        }
        Ok(())
    }

    /// Whether no bytes are queued.
    pub fn is_flushed(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Truncates the file to `length` bytes and continues there. Drops queued bytes.
    ///
    /// # Errors
    /// Returns an error if the file system does.
    pub fn cut(&mut self, length: u64) -> io::Result<()> {
        self.waiting.clear();
        let file = &mut self.file;
        self.folder.through(FileOp::Cut, &self.path, || {
            file.set_len(length)?;
            file.seek(SeekFrom::Start(length))
        })?;
        Ok(())
    }

    /// Another handle, to sync the file from another thread.
    ///
    /// # Errors
    /// Returns an error if the file system does.
    pub fn handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        // Callers that need the error have called flush before.
        let _ = self.flush();
    }
}

/// Carries out one operation on the file at `path`; tests can make it fail.
///
/// # Errors
/// Returns the error of `act`.
#[cfg(not(test))]
pub fn through<T>(_: FileOp, _: &Path, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
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
use faults::some_through;
#[cfg(test)]
pub(crate) use faults::through;

/// Fault injection. A fault is set for a folder and affects all threads, but not tests that use other folders.
#[cfg(test)]
pub(crate) mod faults {
    use super::*;
    use std::collections::{HashMap, HashSet};
    use std::sync::{LazyLock, Mutex};

    /// A fault to inject.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Fault {
        /// Only operation number `at` fails, with this error code of the system.
        Error {
            at: usize,
            code: i32,
        },
        /// Operation number `at` writes half of its bytes, and then fails because the disk is full.
        Short {
            at: usize,
        },
        /// The computer crashes before operation number `at`, or after it: all later operations fail, and files that
        /// were not synced keep only a part of their bytes.
        CrashBefore {
            at: usize,
        },
        CrashAfter {
            at: usize,
        },
        /// The disk is full: all operations that need space fail until the guard is dropped.
        Full,
        /// Every operation of this kind fails with this error code of the system.
        Deny {
            op: FileOp,
            code: i32,
        },
    }

    #[derive(Default)]
    struct Plan {
        fault: Option<Fault>,
        done: Vec<FileOp>,
        crashed: bool,
        unsynced: HashSet<PathBuf>,
    }

    static PLANS: LazyLock<Mutex<HashMap<PathBuf, Plan>>> = LazyLock::new(Mutex::default);

    /// Sets the fault for the files of `folder` until the guard is dropped. None only records the operations.
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
        /// The operations carried out so far.
        pub(crate) fn done(&self) -> Vec<FileOp> {
            PLANS.lock().unwrap()[&self.0].done.clone()
        }
    }

    impl Drop for Laid {
        fn drop(&mut self) {
            PLANS.lock().unwrap().remove(&self.0);
        }
    }

    fn crash<T>() -> io::Result<T> {
        Err(io::Error::other(
            "the computer has crashed (injected fault)",
        ))
    }

    pub(crate) fn through<T>(
        op: FileOp,
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
            // Operations that need no space succeed on a full disk.
            Some(Fault::Full)
                if !matches!(
                    op,
                    FileOp::Remove | FileOp::Open | FileOp::Cut | FileOp::Lock
                ) =>
            {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            Some(Fault::Deny { op: denied, code }) if denied == op => {
                return Err(io::Error::from_raw_os_error(code));
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
            let beside = PathBuf::from(format!("{}{BESIDE}", path.display()));
            match op {
                FileOp::Create | FileOp::Write | FileOp::Copy => {
                    plan.unsynced.insert(path.into());
                }
                FileOp::Sync | FileOp::Remove => {
                    plan.unsynced.remove(path);
                }
                FileOp::Rename => {
                    plan.unsynced.remove(path);
                    if plan.unsynced.remove(&beside) {
                        plan.unsynced.insert(path.into());
                    }
                }
                FileOp::Open | FileOp::Cut | FileOp::Link | FileOp::SyncFolder | FileOp::Lock => {}
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
                through(FileOp::Write, path, || act(&bytes[..bytes.len() / 2]))
            }
            Some((Fault::Short { at }, number)) if number == at + 1 => {
                through(FileOp::Write, path, || {
                    Err(io::Error::from_raw_os_error(libc::ENOSPC))
                })
            }
            _ => through(FileOp::Write, path, || act(bytes)),
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
        let mut lines = Folder::from(folder.path()).append_to("lines", 0).unwrap();
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
    fn a_pipe_in_place_of_a_file_is_refused_without_blocking() {
        let folder = tempfile::tempdir().unwrap();
        let mine = Folder::from(folder.path());
        for name in ["lines", "state.tmp"] {
            crate::files::tests::make_fifo(&folder.path().join(name));
        }
        for outcome in [
            mine.append_to("lines", 0).map(drop),
            mine.write("state", b"x"),
        ] {
            let why = outcome.unwrap_err().to_string();
            assert!(why.contains("a named pipe (FIFO), not a regular"), "{why}");
        }
        // The permit allows the operation again.
        mine.write("state", b"x").unwrap();
        assert_eq!(fs::read(folder.path().join("state")).unwrap(), b"x");
    }

    #[test]
    fn strays_are_swept_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.tmp", "last.safetensors.tmp", "note.txt"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        fs::create_dir(folder.path().join("folder.tmp")).unwrap();
        Folder::from(folder.path()).sweep().unwrap();
        let names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|f| f.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }

    #[test]
    fn without_its_permit_a_folder_does_not_change() {
        let folder = tempfile::tempdir().unwrap();
        let allowed = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let asked = Arc::clone(&allowed);
        let permit: Permit =
            Arc::new(
                move || match asked.load(std::sync::atomic::Ordering::SeqCst) {
                    true => Ok(()),
                    false => Err(io::Error::other("not any more")),
                },
            );
        let mine = Folder::with_permit(folder.path(), permit);
        mine.write("a", b"1").unwrap();
        let mut lines = mine.append_to("lines", 0).unwrap();
        lines.add(b"one\n").unwrap();
        lines.flush().unwrap();
        fs::write(folder.path().join("b.tmp"), "another's").unwrap();
        let all = || {
            let mut all: Vec<_> = fs::read_dir(folder.path())
                .unwrap()
                .map(|f| f.unwrap().path())
                .map(|path| (fs::read(&path).unwrap(), path))
                .collect();
            all.sort();
            all
        };
        let before = all();
        allowed.store(false, std::sync::atomic::Ordering::SeqCst);
        lines.add(b"two\n").unwrap();
        let refused = [
            mine.write("a", b"2"),
            mine.write("b", b"2"),
            mine.keep_as("a", "c"),
            mine.sweep(),
            mine.append_to("lines", 0).map(drop),
            mine.append_to_new("d").map(drop),
            lines.flush(),
            lines.cut(0),
        ];
        for outcome in refused {
            assert_eq!(outcome.unwrap_err().to_string(), "not any more");
        }
        lines.add(b"three\n").unwrap();
        drop(lines);
        assert_eq!(all(), before);
    }
}
