//! Captures output that bypasses the screen while it is shown: output of libraries goes to the log, and panic messages
//! are kept until the screen has closed.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

/// Redirects standard output and standard error to the log while the screen is shown. Dropping it restores them.
pub struct Captured(Vec<(RawFd, OwnedFd)>);

impl Captured {
    /// # Errors
    /// Returns an error if a pipe, a copy of a descriptor or a thread cannot be created.
    pub fn begin() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        let mut captured = Captured(Vec::new());
        for fd in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
            // SAFETY: a descriptor number; the process does not close it.
            if unsafe { libc::isatty(fd) } == 0 {
                continue;
            }
            // SAFETY: as above; the copy is owned by nobody else.
            let saved = unsafe {
                match libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) {
                    -1 => return Err(io::Error::last_os_error()),
                    copy => OwnedFd::from_raw_fd(copy),
                }
            };
            redirect(writer.as_raw_fd(), fd)?;
            captured.0.push((fd, saved));
        }
        std::thread::Builder::new()
            .name("stray output".into())
            .spawn(move || {
                for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
                    tracing::warn!("written to the screen: {}", String::from_utf8_lossy(&line));
                }
            })?;
        Ok(captured)
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        // Log a line that has no line break yet.
        let _ = io::stdout().flush();
        for (fd, saved) in &self.0 {
            // Restoring the earlier descriptor cannot fail.
            let _ = redirect(saved.as_raw_fd(), *fd);
        }
    }
}

/// Makes descriptor `to` refer to the file of `from`.
pub fn redirect(from: RawFd, to: RawFd) -> io::Result<()> {
    // SAFETY: descriptor numbers; both stay open.
    match unsafe { libc::dup2(from, to) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Panic messages, kept while the screen is shown: they would disturb it and be lost.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Keeps the panic messages of all threads off the screen. When dropped, after the screen, prints them to standard
/// error.
pub struct HeldPanics;

impl HeldPanics {
    pub fn begin() -> Self {
        std::panic::set_hook(Box::new(|info| {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or("unnamed");
            let words = format!("thread '{name}' {info}");
            tracing::error!("{words}");
            PANICS
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(words);
        }));
        HeldPanics
    }
}

impl Drop for HeldPanics {
    fn drop(&mut self) {
        // The hook cannot be changed while this thread panics.
        if !std::thread::panicking() {
            drop(std::panic::take_hook());
        }
        let mut held = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
        for words in held.drain(..) {
            // Standard error may have disappeared with the terminal.
            let _ = writeln!(io::stderr(), "{words}");
        }
    }
}
