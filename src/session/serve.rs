//! The session's Unix socket: viewers of the same user attach to it and exchange the same commands and events as the
//! session's own front end, one JSON value per line. This module knows the broadcaster, not the meaning of events.
//!
//! The socket is in a private folder of the user; the lease of the session's run contains its path. The end of a login
//! may remove the private folder (systemd does), so a missing socket is created again.

use super::broadcaster::Broadcaster;
use super::client::SessionClient;
use super::protocol::{self, CommandMessage, Done, Event, EventMessage, MessageError, Outcome};
use crate::files;
use crossbeam_channel::{Receiver, after, bounded, never, select};
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest path that fits a socket's address.
const LONGEST_PATH: usize = 107;
/// Maximum length in bytes of a viewer's line. A command with an architecture has a few hundred.
const LONGEST_LINE: u64 = 1 << 16;
/// Viewers at once.
const MAX_VIEWERS: usize = 32;
/// Interval at which the socket is checked.
const LOOK: Duration = Duration::from_secs(2);
/// Minimum time between two step reports to a viewer.
const STEPS_EVERY: Duration = Duration::from_millis(100);
/// Time that viewers get to receive the end of the session.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// An open socket. Dropping it closes it and removes its files.
pub struct Server {
    shared: Arc<Shared>,
}

struct Shared {
    broadcaster: Arc<Broadcaster>,
    socket: Arc<Mutex<PathBuf>>,
    /// Number of threads that still have events to send.
    telling: AtomicUsize,
    closed: AtomicBool,
}

impl Shared {
    fn socket(&self) -> MutexGuard<'_, PathBuf> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Opens a socket for viewers of `broadcaster`.
    ///
    /// # Errors
    /// Returns an error if no private folder can be had, or the system refuses.
    pub fn start(broadcaster: Arc<Broadcaster>) -> io::Result<Self> {
        let (listener, socket) = open()?;
        let shared = Arc::new(Shared {
            broadcaster,
            socket: Arc::new(Mutex::new(socket)),
            telling: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        });
        let of_thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("attach".into())
            .spawn(move || listen(&of_thread, listener))?;
        shared.broadcaster.set_has_socket();
        Ok(Server { shared })
    }

    /// The current path of the socket. It may be created again at another path.
    pub fn socket(&self) -> Arc<Mutex<PathBuf>> {
        Arc::clone(&self.shared.socket)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        let socket = self.shared.socket();
        // Wakes the listening thread as well.
        let _ = UnixStream::connect(&*socket);
        let _ = fs::remove_file(&*socket);
        drop(socket);
        let end = Instant::now() + LAST_WORDS;
        while self.shared.telling.load(Ordering::SeqCst) > 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The user's private folder for sockets: in XDG_RUNTIME_DIR, or a short one of its own.
fn folder() -> io::Result<PathBuf> {
    // SAFETY: no arguments, cannot fail.
    let user = unsafe { libc::geteuid() };
    let own = PathBuf::from(format!("/tmp/cifar-tui-{user}"));
    let runtime = std::env::var_os("XDG_RUNTIME_DIR")
        .map(|folder| Path::new(&folder).join("cifar-tui"))
        .filter(|folder| folder.is_absolute());
    let mut outcome = Err(io::Error::other("no folder"));
    for folder in runtime.into_iter().chain([own]) {
        outcome = private(&folder, user).map(|()| folder.clone());
        let longest = folder.join(format!("{}.sock", u32::MAX));
        if outcome.is_ok() && longest.as_os_str().len() <= LONGEST_PATH {
            return outcome;
        }
    }
    outcome
}

/// Creates a folder that only the user can access, or checks an existing one.
fn private(folder: &Path, user: u32) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = fs::symlink_metadata(folder)?;
    if !found.is_dir() || found.uid() != user || found.mode() & 0o077 != 0 {
        return Err(io::Error::other(format!(
            "{} is not a private folder of this user",
            folder.display()
        )));
    }
    Ok(())
}

/// Creates a socket of this process. Removes sockets that no process listens on.
fn open() -> io::Result<(UnixListener, PathBuf)> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let folder = folder()?;
    let lock = files::create(&folder.join("lock"))?;
    // One at a time: between creation and listening, a socket looks like one that was left behind.
    lock.lock()?;
    sweep(&folder);
    let name = match NUMBER.fetch_add(1, Ordering::SeqCst) {
        0 => format!("{}.sock", std::process::id()),
        n => format!("{}-{n}.sock", std::process::id()),
    };
    let path = folder.join(name);
    // A process of this number that has long ended may have left one.
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok((listener, path))
}

fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_some_and(|e| e == "sock") && is_stale(&path) {
            tracing::info!("removing {}, to which nobody listens", path.display());
            let _ = fs::remove_file(&path);
        }
    }
}

/// Whether no process listens on a socket.
pub(super) fn is_stale(path: &Path) -> bool {
    UnixStream::connect(path).is_err_and(|error| {
        matches!(
            error.kind(),
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
        )
    })
}

/// Takes viewers in until the session closes.
fn listen(shared: &Arc<Shared>, mut listener: UnixListener) {
    while !shared.closed.load(Ordering::SeqCst) {
        if !ready(&listener, LOOK) {
            let mut socket = shared.socket();
            if socket.exists() || shared.closed.load(Ordering::SeqCst) {
                continue;
            }
            match open() {
                Ok((new, path)) => {
                    tracing::info!("the socket had gone; it is now {}", path.display());
                    listener = new;
                    *socket = path;
                }
                Err(error) => tracing::warn!("the socket has gone: {error}"),
            }
            continue;
        }
        match listener.accept() {
            Ok((stream, _)) => {
                if let Err(error) = admit(shared, stream) {
                    tracing::warn!("a viewer was turned away: {error}");
                }
            }
            Err(error) => {
                tracing::warn!("cannot take viewers in: {error}");
                std::thread::sleep(LOOK);
            }
        }
    }
}

fn ready(listener: &UnixListener, limit: Duration) -> bool {
    let mut fds = libc::pollfd {
        fd: listener.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid pollfd, for the length of the call.
    unsafe { libc::poll(&raw mut fds, 1, limit.as_millis() as i32) > 0 }
}

/// The user of the connected process.
#[cfg(target_os = "linux")]
fn user_of(stream: &UnixStream) -> io::Result<u32> {
    let mut peer = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `peer` and `size` are valid for the length of the call, and `size` is that of `peer`.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut size,
        )
    };
    match done {
        0 => Ok(peer.uid),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The user of the connected process.
#[cfg(not(target_os = "linux"))]
fn user_of(stream: &UnixStream) -> io::Result<u32> {
    let (mut user, mut group) = (u32::MAX, u32::MAX);
    // SAFETY: both pointers are valid for the length of the call.
    match unsafe { libc::getpeereid(stream.as_raw_fd(), &raw mut user, &raw mut group) } {
        0 => Ok(user),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Counts a thread that sends events.
struct Telling(Arc<Shared>);

impl Drop for Telling {
    fn drop(&mut self) {
        self.0.telling.fetch_sub(1, Ordering::SeqCst);
    }
}

fn admit(shared: &Arc<Shared>, stream: UnixStream) -> io::Result<()> {
    // SAFETY: no arguments, cannot fail.
    if user_of(&stream)? != unsafe { libc::geteuid() } {
        return Err(io::Error::other("it is another user's"));
    }
    if shared.closed.load(Ordering::SeqCst) {
        return Ok(());
    }
    if shared.telling.fetch_add(1, Ordering::SeqCst) >= MAX_VIEWERS {
        shared.telling.fetch_sub(1, Ordering::SeqCst);
        return Err(io::Error::other("too many viewers are attached"));
    }
    let telling = Telling(Arc::clone(shared));
    std::thread::Builder::new()
        .name("viewer".into())
        .spawn(move || {
            let client = telling.0.broadcaster.attach();
            if let Err(error) = serve(&client, stream) {
                tracing::info!("a viewer has gone: {error}");
            }
        })?;
    Ok(())
}

/// One viewer, from its snapshot to its end or the session's.
fn serve(client: &SessionClient, stream: UnixStream) -> io::Result<()> {
    let (heard, commands) = bounded(64);
    let reader = stream.try_clone()?;
    std::thread::Builder::new()
        .name("viewer's keys".into())
        .spawn(move || read_commands(reader, |heard_now| heard.send(heard_now).is_ok()))?;
    let outcome = tell_viewer(client, &commands, &stream);
    // Ends the reader.
    let _ = stream.shutdown(Shutdown::Both);
    outcome
}

/// A line of a viewer: a command, a command that is refused, or nothing that can be answered.
enum Line {
    Command(CommandMessage),
    Refused(Done),
    Malformed(String),
}

impl Line {
    fn read(line: &[u8]) -> Self {
        if line.last() != Some(&b'\n') {
            return Line::Malformed(format!(
                "a line of more than {LONGEST_LINE} bytes, or half a line"
            ));
        }
        let error = match protocol::read(line) {
            Ok(message) => return Line::Command(message),
            Err(error) => error,
        };
        let words = match &error {
            MessageError::Version { v, .. } => format!(
                "the command has {}, and this session speaks version {} of the protocol: use the cifar-tui that started the session, or send commands of that version",
                protocol::version(*v),
                protocol::VERSION
            ),
            MessageError::Content { source, .. } => format!("not a command: {source}"),
        };
        match error.id() {
            Some(id) => Line::Refused(Done {
                id,
                outcome: Outcome::Refused(words),
            }),
            None => Line::Malformed(words),
        }
    }
}

/// Reads commands, one per line, until the viewer disconnects or sends a line that cannot be answered.
fn read_commands(stream: UnixStream, mut heard: impl FnMut(Line) -> bool) {
    let mut lines = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        match (&mut lines).take(LONGEST_LINE).read_until(b'\n', &mut line) {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
        let line = Line::read(&line);
        let malformed = matches!(line, Line::Malformed(_));
        if !heard(line) || malformed {
            return;
        }
    }
}

fn tell_viewer(
    client: &SessionClient,
    commands: &Receiver<Line>,
    stream: &UnixStream,
) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 16, stream);
    let mut rest: Option<Receiver<Instant>> = None;
    let (silent, idle) = (never(), never());
    let mut steps_closed = false;
    loop {
        let steps_ready = match rest.is_some() || steps_closed {
            true => &silent,
            false => &client.steps_ready,
        };
        select! {
            recv(client.events) -> message => {
                // Steps made before the event are sent before it.
                if let Some(steps) = client.take_steps_message() {
                    write(&mut out, &steps)?;
                }
                let Ok(message) = message else { return out.flush() };
                write(&mut out, &message)?;
                if client.events.is_empty() {
                    out.flush()?;
                }
            }
            recv(steps_ready) -> token => {
                steps_closed |= token.is_err();
                if let Some(steps) = client.take_steps_message() {
                    write(&mut out, &steps)?;
                    out.flush()?;
                }
                rest = Some(after(STEPS_EVERY));
            }
            recv(rest.as_ref().unwrap_or(&idle)) -> _ => rest = None,
            recv(commands) -> line => match line {
                Ok(Line::Command(message)) => {
                    client.commands.send_message(message).map_err(io::Error::other)?;
                }
                Ok(Line::Refused(done)) => {
                    write(&mut out, &EventMessage::new(None, Event::Done(done)))?;
                    out.flush()?;
                }
                Ok(Line::Malformed(why)) => {
                    let text = format!("this viewer is closed: {why}");
                    let warning = Event::Warning { text: text.clone() };
                    write(&mut out, &EventMessage::new(None, warning))?;
                    out.flush()?;
                    return Err(io::Error::other(text));
                }
                Err(_) => return Ok(()),
            },
        }
    }
}

fn write(out: &mut impl Write, message: &EventMessage) -> io::Result<()> {
    out.write_all(&protocol::line(message)?)
}

#[cfg(test)]
mod tests;
