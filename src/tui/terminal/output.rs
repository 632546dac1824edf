//! Writes to the terminal without ever blocking.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Maximum time to wait for a terminal that accepts no output when it is restored.
const TIMEOUT: Duration = Duration::from_millis(200);

/// A writer to the terminal that never blocks. It has its own descriptor, so that standard output and standard error
/// can be redirected. Output that the terminal does not accept yet is queued.
#[derive(Clone)]
pub struct Tty(Rc<RefCell<Output>>);

struct Output {
    file: File,
    /// Flushed, but not written yet.
    waiting: Vec<u8>,
    /// Not flushed yet.
    frame: Vec<u8>,
    /// Time since which the terminal accepts no output.
    stalled: Option<Instant>,
}

impl Tty {
    /// The terminal of standard output, otherwise the controlling terminal.
    ///
    /// # Errors
    /// Returns an error if there is no terminal.
    pub fn open() -> io::Result<Self> {
        // Open the terminal again, since the non-blocking flag must not affect the shell's own descriptor.
        let anew = ["/proc/self/fd/1", "/dev/tty"]
            .into_iter()
            .find_map(|path| {
                let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
                let mut options = OpenOptions::new();
                let file = options.write(true).custom_flags(flags).open(path).ok()?;
                file.is_terminal().then_some(file)
            });
        let file = match anew {
            Some(file) => file,
            None => io::stdout().as_fd().try_clone_to_owned()?.into(),
        };
        Ok(Tty(Rc::new(RefCell::new(Output {
            file,
            waiting: Vec::new(),
            frame: Vec::new(),
            stalled: None,
        }))))
    }

    pub fn fd(&self) -> RawFd {
        self.0.borrow().file.as_raw_fd()
    }

    /// Writes as much as the terminal accepts. Returns true if nothing is queued.
    ///
    /// # Errors
    /// Returns an error if the terminal has disappeared.
    pub fn push(&self) -> io::Result<bool> {
        self.0.borrow_mut().push()
    }

    /// Writes until nothing is queued.
    ///
    /// # Errors
    /// Returns an error if the terminal has disappeared, or has accepted no output for 200 ms; the queue is then
    /// dropped.
    pub fn drain(&self) -> io::Result<()> {
        self.0.borrow_mut().drain()
    }

    /// How long the terminal has accepted no output, if output is queued.
    pub fn stalled(&self) -> Option<Duration> {
        self.0.borrow().stalled.map(|since| since.elapsed())
    }
}

impl Output {
    fn push(&mut self) -> io::Result<bool> {
        let mut done = 0;
        let outcome = loop {
            if done == self.waiting.len() {
                break Ok(true);
            }
            match self.file.write(&self.waiting[done..]) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    done += n;
                    self.stalled = None;
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => break Ok(false),
                    _ => break Err(error),
                },
            }
        };
        self.waiting.drain(..done);
        match outcome {
            Ok(false) => {
                self.stalled.get_or_insert_with(Instant::now);
            }
            _ => self.stalled = None,
        }
        outcome
    }

    fn drain(&mut self) -> io::Result<()> {
        let end = Instant::now() + TIMEOUT;
        while !self.push()? {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.waiting.clear();
                return Err(io::ErrorKind::TimedOut.into());
            }
            let mut fds = libc::pollfd {
                fd: self.file.as_raw_fd(),
                events: libc::POLLOUT,
                revents: 0,
            };
            // SAFETY: one valid pollfd, for the length of the call.
            unsafe { libc::poll(&raw mut fds, 1, left.as_millis() as i32 + 1) };
        }
        Ok(())
    }
}

impl Write for Tty {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().frame.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut output = self.0.borrow_mut();
        let frame = std::mem::take(&mut output.frame);
        output.waiting.extend(frame);
        output.push().map(|_| ())
    }
}
