//! Log files. Each run has one, `log.txt` in its folder, since the screen and standard output are in use. It receives
//! the lines of the threads that have entered it ([`RunLog::enter`]). The lines of all other threads go to the log of
//! this process's newest run. Lines that cannot be written yet, because there is no run or the disk is full, are queued
//! and written later.

use crate::files;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use tracing::Dispatch;
use tracing::dispatcher::{self, DefaultGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::{MakeWriter, SubscriberBuilder};

/// The environment variable with the log filter, such as `info` (the default), `debug` or `cifar_tui=trace`.
pub const ENV: &str = "CIFAR_TUI_LOG";
/// Maximum size in bytes of the queue of lines that cannot be written yet: a few hundred lines.
const MAX_QUEUED: usize = 1 << 16;

/// The destination of log lines.
struct Sink<F> {
    /// Lines that are not written yet.
    queued: Vec<u8>,
    file: Option<F>,
}

type SharedSink = Arc<Mutex<Sink<File>>>;

/// The sink of the newest run. Before the first run it has no file and queues the lines.
static NEWEST: LazyLock<Mutex<SharedSink>> = LazyLock::new(|| {
    Mutex::new(Arc::new(Mutex::new(Sink {
        queued: Vec::new(),
        file: None,
    })))
});

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<F: Write> Sink<F> {
    /// Adds a line to the queue, or drops it if the queue is full.
    fn add(&mut self, line: &[u8]) {
        if self.queued.len() + line.len() <= MAX_QUEUED {
            self.queued.extend_from_slice(line);
        }
    }

    /// Writes the queued lines.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written; the lines not written stay in the queue.
    fn flush(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        while !self.queued.is_empty() {
            match file.write(&self.queued) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => drop(self.queued.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Writes lines into a sink.
struct Writer(SharedSink);

impl Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut sink = locked(&self.0);
        sink.add(line);
        // The error must not be printed: while the screen is shown, standard error is redirected to the log.
        let _ = sink.flush();
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn dispatch<W>(writer: W) -> Dispatch
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_from_env(ENV).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = SubscriberBuilder::default()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(writer);
    Dispatch::new(lines.finish())
}

/// Turns logging on for all threads of this process. A second call has no effect.
pub fn start() {
    // This fails only if a logger is already installed.
    let _ = dispatcher::set_global_default(dispatch(|| Writer(Arc::clone(&locked(&NEWEST)))));
}

/// The log of a run.
#[derive(Clone)]
pub(super) struct RunLog {
    sink: SharedSink,
    dispatch: Dispatch,
}

impl RunLog {
    /// Opens the log of the run in `folder` for appending.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened or written.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join(super::run_dir::LOG);
        let file = files::open_with(OpenOptions::new().create(true).append(true), &path)?;
        let mut newest = locked(&NEWEST);
        let mut before = locked(&newest);
        let mut own = Sink {
            // Take over the lines that were logged before there was a run.
            queued: match before.file {
                None => std::mem::take(&mut before.queued),
                Some(_) => Vec::new(),
            },
            file: Some(file),
        };
        drop(before);
        own.flush()?;
        let sink = Arc::new(Mutex::new(own));
        *newest = Arc::clone(&sink);
        drop(newest);
        let written = Arc::clone(&sink);
        Ok(RunLog {
            sink,
            dispatch: dispatch(move || Writer(Arc::clone(&written))),
        })
    }

    /// Directs this thread's lines to this log until the guard is dropped.
    pub fn enter(&self) -> DefaultGuard {
        dispatcher::set_default(&self.dispatch)
    }

    /// Stops writing to the file, because another session has the run. Later lines are queued for the next run.
    pub fn close(&self) {
        locked(&self.sink).file = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file on a nearly full disk.
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
            queued: Vec::new(),
            file: None,
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
        assert!(sink.queued.len() <= MAX_QUEUED);
        sink.file.as_mut().unwrap().room = 1 << 20;
        sink.flush().unwrap();
        let written = &sink.file.as_ref().unwrap().written;
        assert!(written.starts_with(b"early\nfull\nxxx"));
        assert!(sink.queued.is_empty());
    }
}
