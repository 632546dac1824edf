//! Reads keys and mouse reports on a thread while the screen is shown. Input that still arrives when the screen closes
//! is discarded, so that the shell does not take it for typed text.

use crossbeam_channel::Sender;
use std::fs::File;
use std::io::{self, IsTerminal, PipeReader, PipeWriter};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Messages of the reading thread.
pub enum FromTerminal {
    Input(crossterm::event::Event),
    /// The terminal has disappeared.
    Gone,
}

/// Asks the terminal for its status. The answer follows everything that the terminal sent before, including the last
/// mouse report.
pub const STATUS_REQUEST: &str = "\x1b[5n";
const STATUS: [u8; 4] = *b"\x1b[0n";
/// Maximum time to wait for the answer, enough for a slow connection.
const ANSWERED_WITHIN: Duration = Duration::from_millis(500);

/// The descriptor from which crossterm reads keys.
pub struct Keyboard(Option<File>);

enum Waited {
    Ready,
    Stopped,
    Gone,
}

impl Keyboard {
    /// Standard input if it is a terminal, otherwise the controlling terminal.
    ///
    /// # Errors
    /// Returns an error if neither is a terminal.
    pub fn open() -> io::Result<Self> {
        if io::stdin().is_terminal() {
            Ok(Keyboard(None))
        } else {
            Ok(Keyboard(Some(File::open("/dev/tty")?)))
        }
    }

    fn fd(&self) -> RawFd {
        self.0
            .as_ref()
            .map_or(libc::STDIN_FILENO, AsRawFd::as_raw_fd)
    }

    /// Blocks until input is available, the terminal has disappeared, or `stop` was closed. crossterm's own poll would
    /// spin after the terminal has disappeared.
    fn wait(&self, stop: &PipeReader) -> Waited {
        loop {
            let mut fds = [readable(self.fd()), readable(stop.as_raw_fd())];
            // SAFETY: two valid pollfds, for the length of the call.
            let n = unsafe { libc::poll(fds.as_mut_ptr(), 2, -1) };
            if n < 0 {
                if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Waited::Gone;
            }
            if fds[1].revents != 0 {
                return Waited::Stopped;
            }
            if fds[0].revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0 {
                return Waited::Gone;
            }
            if fds[0].revents & libc::POLLIN != 0 {
                return Waited::Ready;
            }
        }
    }

    /// Reads and discards input up to the terminal's answer to [`STATUS_REQUEST`], for at most half a second. Input
    /// after the answer is left unread. The terminal must be in raw mode.
    pub fn discard_until_status(&self) {
        let end = Instant::now() + ANSWERED_WITHIN;
        let mut last = [0; STATUS.len()];
        while last != STATUS {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let mut fds = readable(self.fd());
            // SAFETY: one valid pollfd, for the length of the call.
            unsafe { libc::poll(&raw mut fds, 1, left.as_millis() as i32 + 1) };
            match fds.revents {
                // No input yet, or interrupted by a signal.
                0 => continue,
                libc::POLLIN => {}
                _ => return,
            }
            last.rotate_left(1);
            let newest = &raw mut last[STATUS.len() - 1];
            // SAFETY: room for one byte, for the length of the call.
            if unsafe { libc::read(self.fd(), newest.cast(), 1) } != 1 {
                return;
            }
        }
    }
}

fn readable(fd: RawFd) -> libc::pollfd {
    libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    }
}

/// The reading thread. Dropping it ends the thread.
pub struct Reader {
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Reads until dropped, or until the terminal has gone.
    ///
    /// # Errors
    /// Returns an error if a pipe or thread cannot be created.
    pub fn start(keyboard: Arc<Keyboard>, sender: Sender<FromTerminal>) -> io::Result<Self> {
        let (stopped, stop) = io::pipe()?;
        let read = move || {
            loop {
                match keyboard.wait(&stopped) {
                    Waited::Ready if pass_on(&sender) => {}
                    Waited::Stopped => return,
                    Waited::Ready | Waited::Gone => break,
                }
            }
            // Sending fails if the screen's loop has ended.
            let _ = sender.send(FromTerminal::Gone);
        };
        let thread = std::thread::Builder::new()
            .name("keys".into())
            .spawn(read)?;
        Ok(Reader {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that reads keys panicked");
        }
    }
}

/// Forwards available input. Returns false if the terminal has disappeared or the screen's loop has ended.
fn pass_on(sender: &Sender<FromTerminal>) -> bool {
    loop {
        match crossterm::event::poll(Duration::ZERO) {
            Ok(false) => return true,
            Ok(true) => {}
            Err(_) => return false,
        }
        let Ok(input) = crossterm::event::read() else {
            return false;
        };
        if sender.send(FromTerminal::Input(input)).is_err() {
            return false;
        }
    }
}
