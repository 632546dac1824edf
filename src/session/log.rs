//! The log: what the program has to say of itself goes to `log.txt` in the folder of the run at hand, since the screen
//! and standard output belong to others. What is said before there is a run is kept, and opens its log.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tracing_subscriber::EnvFilter;

/// The environment variable that says what is logged, as `info` (the default), `debug` or `cifar_tui=trace`.
pub const ENV: &str = "CIFAR_TUI_LOG";
/// Bytes that are kept while there is no run: some hundred lines.
const MOST_EARLY: usize = 1 << 16;

/// Where lines go.
enum Sink {
    Early(Vec<u8>),
    File(PathBuf, File),
}

static SINK: Mutex<Sink> = Mutex::new(Sink::Early(Vec::new()));

fn sink() -> MutexGuard<'static, Sink> {
    SINK.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Writer;

impl Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match &mut *sink() {
            Sink::File(_, file) => file.write(line),
            Sink::Early(kept) => {
                if kept.len() + line.len() <= MOST_EARLY {
                    kept.extend_from_slice(line);
                }
                Ok(line.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Turns the log on for this process. A second call changes nothing.
pub fn start() {
    let filter = EnvFilter::try_from_env(ENV).unwrap_or_else(|_| EnvFilter::new("info"));
    // It fails only where a log is on already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(|| Writer)
        .try_init();
}

/// From now on the log is that of the run in `folder`; it is appended to.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn open(folder: &Path) -> io::Result<()> {
    let path = folder.join(super::run_dir::LOG);
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    let mut sink = sink();
    if let Sink::Early(kept) = &*sink {
        file.write_all(kept)?;
    }
    *sink = Sink::File(path, file);
    Ok(())
}

/// From now on the log is not the file at `path`, if it was: what is said is kept again.
pub(super) fn close(path: &Path) {
    let mut sink = sink();
    if matches!(&*sink, Sink::File(open, _) if open == path) {
        *sink = Sink::Early(Vec::new());
    }
}
