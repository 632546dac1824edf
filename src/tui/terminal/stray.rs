//! Captures output that bypasses the screen while it is shown: it goes to the log.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

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
