//! The file operations of a save, each in one function, so that tests can make any of them fail or simulate a crash at
//! it. This module does not know what is saved.

mod appender;
#[cfg(test)]
pub(crate) mod faults;
#[cfg(test)]
mod tests;

pub use appender::Appender;

use crate::files;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
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
const TEMPORARY_SUFFIX: &str = ".tmp";

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
        let (path, temporary) = (self.join(name), self.temporary(name));
        let written = (|| {
            let mut file =
                self.through(FileOp::Create, &temporary, || files::create(&temporary))?;
            let mut rest = bytes;
            while !rest.is_empty() {
                rest = &rest[self.some_through(&temporary, rest, |bytes| file.write(bytes))?..];
            }
            self.through(FileOp::Sync, &temporary, || file.sync_all())?;
            self.through(FileOp::Rename, &path, || fs::rename(&temporary, &path))
        })();
        if written.is_err() {
            // Remove the partial file. If that fails too, the first error is the one to report.
            let _ = self.remove_at(&temporary);
        }
        written?;
        self.sync(&path)
    }

    /// Gives the file `name` a second name (a hard link, or a copy), atomically replacing a file of that name.
    ///
    /// # Errors
    /// Returns an error if the file system does. If the rename fails, both files keep their contents.
    pub fn keep_as(&self, name: &str, second: &str) -> io::Result<()> {
        let (path, temporary) = (self.join(name), self.temporary(second));
        let second = self.join(second);
        self.remove_at(&temporary)?;
        let kept = (|| {
            if self
                .through(FileOp::Link, &temporary, || {
                    fs::hard_link(&path, &temporary)
                })
                .is_err()
            {
                // Not every file system supports hard links.
                self.through(FileOp::Copy, &temporary, || fs::copy(&path, &temporary))?;
                self.through(FileOp::Sync, &temporary, || {
                    File::open(&temporary)?.sync_all()
                })?;
            }
            self.through(FileOp::Rename, &second, || fs::rename(&temporary, &second))
        })();
        // A rename between two names of one file does nothing, by POSIX, and leaves both.
        let removed = self.remove_at(&temporary);
        kept.and(removed)
    }

    /// A folder within this one, with the same permit. It need not exist.
    pub fn inner(&self, name: &str) -> Folder {
        Folder {
            path: self.join(name),
            permit: self.permit.clone(),
        }
    }

    /// Creates a folder within this one, if it is not there.
    ///
    /// # Errors
    /// Returns an error if the file system does.
    pub fn create_inner(&self, name: &str) -> io::Result<()> {
        let path = self.join(name);
        match path.is_dir() {
            true => Ok(()),
            false => self.through(FileOp::Create, &path, || fs::create_dir(&path)),
        }
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
                .is_some_and(|n| n.ends_with(TEMPORARY_SUFFIX));
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

    fn temporary(&self, name: &str) -> PathBuf {
        self.join(&format!("{name}{TEMPORARY_SUFFIX}"))
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// Returns an error if the file system does.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.remove_at(&self.join(name))
    }

    /// Removes a file that has to be there: of several that try, one succeeds.
    ///
    /// # Errors
    /// Returns an error if it is not there, or the file system does.
    pub fn take(&self, name: &str) -> io::Result<()> {
        let path = self.join(name);
        self.through(FileOp::Remove, &path, || fs::remove_file(&path))
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
