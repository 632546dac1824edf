//! The log of the program. It is written to `log.txt` in the current run's folder, since the screen and standard output
//! are in use. Lines logged before there is a run, or while its disk is full, are kept and written later.

use crate::files;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tracing_subscriber::EnvFilter;

/// The environment variable with the log filter, such as `info` (the default), `debug` or `cifar_tui=trace`.
pub const ENV: &str = "CIFAR_TUI_LOG";
/// Bytes that are kept while they cannot be written: some hundred lines.
const MAX_WAITING: usize = 1 << 16;

/// The destination of log lines.
struct Sink<F> {
    /// Not written yet.
    waiting: Vec<u8>,
    file: Option<F>,
    /// Path of the file.
    path: Option<PathBuf>,
}

static SINK: Mutex<Sink<File>> = Mutex::new(Sink {
    waiting: Vec::new(),
    file: None,
    path: None,
});

fn sink() -> MutexGuard<'static, Sink<File>> {
    SINK.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<F: Write> Sink<F> {
    /// Adds a line, unless too many wait already.
    fn add(&mut self, line: &[u8]) {
        if self.waiting.len() + line.len() <= MAX_WAITING {
            self.waiting.extend_from_slice(line);
        }
    }

    /// Writes the lines that are kept.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written; the rest is kept for the next call.
    fn flush(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        while !self.waiting.is_empty() {
            match file.write(&self.waiting) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

struct Writer;

impl Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut sink = sink();
        sink.add(line);
        // An error must not be printed: while the screen is shown, standard error leads back into the log.
        let _ = sink.flush();
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Turns the log on for this process. A second call changes nothing.
pub fn start() {
    let filter = EnvFilter::try_from_env(ENV).unwrap_or_else(|_| EnvFilter::new("info"));
    // This fails only if a logger is already installed.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(|| Writer)
        .try_init();
}

/// From now on, appends to the log of the run in `folder`.
///
/// # Errors
/// Returns an error if the file cannot be opened or written.
pub(super) fn open(folder: &Path) -> io::Result<()> {
    let path = folder.join(super::run_dir::LOG);
    let file = files::open_with(OpenOptions::new().create(true).append(true), &path)?;
    let mut sink = sink();
    sink.file = Some(file);
    sink.path = Some(path);
    sink.flush()
}

/// Stops writing to the file at `path`, if that is the current one. Later lines are kept.
pub(super) fn close(path: &Path) {
    let mut sink = sink();
    if sink.path.as_deref() == Some(path) {
        sink.file = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file on a disk with little room.
    struct Small {
        written: Vec<u8>,
        room: usize,
    }

    impl Write for Small {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room - self.written.len());
            if count == 0 {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            self.written.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_wait_for_a_file_and_for_room_in_bounded_number() {
        let mut sink = Sink {
            waiting: Vec::new(),
            file: None,
            path: None,
        };
        sink.add(b"early\n");
        sink.flush().unwrap();
        let small = Small {
            written: Vec::new(),
            room: 8,
        };
        sink.file = Some(small);
        sink.add(b"full\n");
        let error = sink.flush().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        let line = [b'x'; 1000];
        (0..200).for_each(|_| sink.add(&line));
        assert!(sink.waiting.len() <= MAX_WAITING);
        sink.file.as_mut().unwrap().room = 1 << 20;
        sink.flush().unwrap();
        let written = &sink.file.as_ref().unwrap().written;
        assert!(written.starts_with(b"early\nfull\nxxx"));
        assert!(sink.waiting.is_empty());
    }
}
