//! The process of a program such as ssh that carries a connection: its pipes, its error output, and its end.

use super::{Destination, RemoteError};
use crate::domain::text::plain_lines;
use crossbeam_channel::{Receiver, bounded};
use std::io::{self, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Maximum number of bytes of error output that are kept, the newest ones.
const MAX_SAID: usize = 4096;
/// How long to wait for the last error output of a process that has ended. Another process may hold the pipe open: ssh
/// with ControlPersist leaves one.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// How long a process may take to end after SIGTERM.
const TERM_TIME: Duration = Duration::from_millis(500);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// What the program has written to its standard error.
pub(super) struct Said {
    text: Arc<Mutex<Text>>,
    ended: Receiver<()>,
}

#[derive(Default)]
struct Text {
    bytes: Vec<u8>,
    /// Number of bytes that [`Said::unread`] has returned.
    read: usize,
}

impl Said {
    fn of(mut from: impl Read + Send + 'static) -> io::Result<Self> {
        let text = Arc::new(Mutex::new(Text::default()));
        let (end, ended) = bounded::<()>(0);
        let kept = Arc::clone(&text);
        std::thread::Builder::new()
            .name("ssh's errors".into())
            .spawn(move || {
                let _end = end;
                let mut bytes = [0; 1024];
                while let Ok(count @ 1..) = from.read(&mut bytes) {
                    let mut text = lock(&kept);
                    text.bytes.extend(&bytes[..count]);
                    let surplus = text.bytes.len().saturating_sub(MAX_SAID);
                    text.bytes.drain(..surplus);
                    text.read = text.read.saturating_sub(surplus);
                }
            })?;
        Ok(Said { text, ended })
    }

    /// All of it, safe to print, once the program has ended.
    pub fn last_words(&self) -> String {
        // This returns at once, disconnected, if everything has been read.
        let _ = self.ended.recv_timeout(LAST_WORDS);
        readable(&lock(&self.text).bytes)
    }

    /// What has come since the last call, safe to print.
    pub fn unread(&self) -> Option<String> {
        let mut text = lock(&self.text);
        let new = readable(&text.bytes[text.read..]);
        text.read = text.bytes.len();
        Some(new).filter(|new| !new.is_empty())
    }
}

fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).replace('\r', "");
    plain_lines(text.trim()).into_owned()
}

/// The program's standard output. Reading fails with `TimedOut` if nothing arrives for `limit`.
pub(super) struct Output {
    from: ChildStdout,
    pub limit: Duration,
}

impl Read for Output {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut fds = libc::pollfd {
            fd: self.from.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let limit = i32::try_from(self.limit.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: `fds` is one valid pollfd during the call.
        match unsafe { libc::poll(&raw mut fds, 1, limit) } {
            0 => Err(io::ErrorKind::TimedOut.into()),
            1.. => self.from.read(into),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// The pipes of a started program.
pub(super) struct Pipes {
    /// None once it is taken.
    pub input: Option<ChildStdin>,
    pub lines: BufReader<Output>,
    pub said: Said,
}

/// The place of the running program. Once closed, no other is started.
#[derive(Default)]
pub(super) struct Process(Mutex<(Option<Child>, bool)>);

impl Process {
    fn lock(&self) -> MutexGuard<'_, (Option<Child>, bool)> {
        lock(&self.0)
    }

    /// Starts the program. With `asks`, it can ask the user on the terminal; otherwise it has no terminal.
    ///
    /// # Errors
    /// Returns an error if it cannot be started, or the place is closed.
    pub fn start(
        &self,
        to: &Destination,
        run: Option<&str>,
        asks: bool,
    ) -> Result<Pipes, RemoteError> {
        let failed = |source| RemoteError::Start {
            program: to.program().into(),
            source,
        };
        let mut command = Command::new(to.program());
        command
            .args(to.arguments(run))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if !asks {
            // SAFETY: setsid() may be called between fork and exec, and keeps no memory.
            unsafe {
                command.pre_exec(|| {
                    // Without a terminal of its own, it cannot write on the screen.
                    libc::setsid();
                    Ok(())
                });
            }
        }
        let mut place = self.lock();
        if place.1 {
            return Err(failed(io::Error::other("the screen is closed")));
        }
        let mut child = command.spawn().map_err(failed)?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        place.0 = Some(child);
        drop(place);
        let (input, Some(from), Some(errors)) = pipes else {
            return Err(failed(io::Error::other("it has no pipes")));
        };
        Ok(Pipes {
            input,
            lines: BufReader::with_capacity(
                1 << 16,
                Output {
                    from,
                    limit: Duration::MAX,
                },
            ),
            said: Said::of(errors).map_err(failed)?,
        })
    }

    /// Waits for `patience` until the program ends, then ends it. Returns its exit code, or None if a signal ended it.
    pub fn end(&self, patience: Duration) -> Option<i32> {
        let now = Instant::now();
        let (terminate, kill) = (now + patience, now + patience + TERM_TIME);
        let mut is_told = false;
        loop {
            let mut place = self.lock();
            let child = place.0.as_mut()?;
            match child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => {
                    place.0 = None;
                    return status.code();
                }
                Err(_) => return None,
            }
            if Instant::now() >= kill {
                // This fails only if it has ended.
                let _ = child.kill();
            } else if Instant::now() >= terminate && !is_told {
                is_told = true;
                terminate_child(child);
            }
            drop(place);
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Ends the program; none is started after it.
    pub fn close(&self) {
        let mut place = self.lock();
        place.1 = true;
        if let Some(child) = &place.0 {
            terminate_child(child);
        }
    }
}

/// Sends SIGTERM to a process that has not been waited for.
fn terminate_child(child: &Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // SAFETY: no memory is involved, and the number is still the child's.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
