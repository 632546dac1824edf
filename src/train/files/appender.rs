//! Files that grow by appending.

use super::{FileOp, Folder};
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::PathBuf;

/// A file that lines are appended to. Bytes that could not be written stay queued and are tried again, so that a
/// temporarily full disk leaves no gap; no byte is written twice.
pub struct Appender {
    folder: Folder,
    path: PathBuf,
    file: File,
    queued: Vec<u8>,
}

/// Number of queued bytes at which [`Appender::add`] writes them.
const FLUSH_AT: usize = 8 << 10;

impl Appender {
    pub(super) fn new(folder: Folder, path: PathBuf, file: File) -> Self {
        Appender {
            folder,
            path,
            file,
            queued: Vec::new(),
        }
    }

    /// Adds bytes. If writing them fails, they stay queued for the next flush.
    ///
    /// # Errors
    /// Returns an error if the file system does.
    pub fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.queued.extend_from_slice(bytes);
        if self.queued.len() >= FLUSH_AT {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes all queued bytes to the file.
    ///
    /// # Errors
    /// Returns an error if the file system does.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.queued.is_empty() {
            let (file, queued) = (&mut self.file, &self.queued);
            let written = self
                .folder
                .some_through(&self.path, queued, |bytes| file.write(bytes))?;
            self.queued.drain(..written);
        }
        Ok(())
    }

    /// Whether no bytes are queued.
    pub fn is_flushed(&self) -> bool {
        self.queued.is_empty()
    }

    /// Truncates the file to `length` bytes and continues there. Drops queued bytes.
    ///
    /// # Errors
    /// Returns an error if the file system does.
    pub fn cut(&mut self, length: u64) -> io::Result<()> {
        self.queued.clear();
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
