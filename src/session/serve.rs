//! The session's Unix socket: viewers of the same user attach to it and exchange the same commands and events as the
//! session's own front end, one JSON value per line. This module knows the broadcaster, not the meaning of events.
//!
//! The socket is in a private folder of the user; the lease of the session's run contains its path. The end of a login
//! may remove the private folder (systemd does), so a missing socket is created again.

use super::broadcaster::Broadcaster;
use super::client::SessionClient;
use super::protocol::{
    self, Command, CommandMessage, Done, Event, EventMessage, MAX_COMMAND_LINE, MAX_UNANSWERED,
    MAX_VIEWERS, MAX_VIEWERS_OF_PROCESS, Outcome,
};
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

/// Maximum length in bytes of a socket's path.
const MAX_PATH: usize = 107;
/// Interval between checks that the socket's file still exists.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Minimum time between two step reports to a viewer.
const STEP_INTERVAL: Duration = Duration::from_millis(100);
/// Time limit for sending the session's last events to viewers.
const CLOSING_TIME: Duration = Duration::from_millis(500);

/// An open socket. Dropping it closes it and removes its files.
pub struct Server {
    shared: Arc<Shared>,
}

struct Shared {
    broadcaster: Arc<Broadcaster>,
    socket: Arc<Mutex<PathBuf>>,
    /// The processes of the viewers: one entry for each thread that sends events.
    viewers: Mutex<Vec<Peer>>,
    closed: AtomicBool,
}

impl Shared {
    fn socket(&self) -> MutexGuard<'_, PathBuf> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn viewers(&self) -> MutexGuard<'_, Vec<Peer>> {
        self.viewers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The process at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Peer {
    user: u32,
    /// None if the system does not say.
    process: Option<i32>,
}

impl Server {
    /// Opens a socket for viewers of `broadcaster`.
    ///
    /// # Errors
    /// Returns an error if there is no private folder for the socket, or the system refuses to create the socket or a
    /// thread.
    pub fn start(broadcaster: Arc<Broadcaster>) -> io::Result<Self> {
        let (listener, socket) = open()?;
        let shared = Arc::new(Shared {
            broadcaster,
            socket: Arc::new(Mutex::new(socket)),
            viewers: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        let of_thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("attach".into())
            .spawn(move || listen(&of_thread, listener))?;
        shared.broadcaster.set_has_socket();
        Ok(Server { shared })
    }

    /// The current path of the socket. It changes if the socket has to be created again.
    pub fn socket(&self) -> Arc<Mutex<PathBuf>> {
        Arc::clone(&self.shared.socket)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        let socket = self.shared.socket();
        // Connect to the socket to wake the listening thread.
        let _ = UnixStream::connect(&*socket);
        let _ = fs::remove_file(&*socket);
        drop(socket);
        let end = Instant::now() + CLOSING_TIME;
        while !self.shared.viewers().is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The user's private folder for sockets: in XDG_RUNTIME_DIR, or in /tmp if that path is too long.
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
        if outcome.is_ok() && longest.as_os_str().len() <= MAX_PATH {
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
    // Lock the folder: between its creation and the start of listening, a socket looks like one that a process left
    // behind.
    lock.lock()?;
    sweep(&folder);
    let name = match NUMBER.fetch_add(1, Ordering::SeqCst) {
        0 => format!("{}.sock", std::process::id()),
        n => format!("{}-{n}.sock", std::process::id()),
    };
    let path = folder.join(name);
    // An earlier process with the same id may have left a socket.
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
            tracing::info!(
                "removing the socket {}, on which no process listens",
                path.display()
            );
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

/// Accepts viewers until the session closes.
fn listen(shared: &Arc<Shared>, mut listener: UnixListener) {
    while !shared.closed.load(Ordering::SeqCst) {
        if !ready(&listener, CHECK_INTERVAL) {
            let mut socket = shared.socket();
            if socket.exists() || shared.closed.load(Ordering::SeqCst) {
                continue;
            }
            match open() {
                Ok((new, path)) => {
                    tracing::info!(
                        "the socket's file was removed; the new socket is {}",
                        path.display()
                    );
                    listener = new;
                    *socket = path;
                }
                Err(error) => tracing::warn!(
                    "the socket's file was removed, and no new socket could be created: {error}"
                ),
            }
            continue;
        }
        match listener.accept() {
            Ok((stream, _)) => {
                if let Err(error) = admit(shared, stream) {
                    // Not more, since a program that connects without end would fill the log.
                    tracing::debug!("a viewer was refused: {error}");
                }
            }
            Err(error) => {
                tracing::warn!("cannot accept viewers: {error}");
                std::thread::sleep(CHECK_INTERVAL);
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
    // SAFETY: `fds` is one valid pollfd during the call.
    unsafe { libc::poll(&raw mut fds, 1, limit.as_millis() as i32) > 0 }
}

/// The connected process. One in another namespace has no number here.
#[cfg(target_os = "linux")]
fn peer_of(stream: &UnixStream) -> io::Result<Peer> {
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
        0 => Ok(Peer {
            user: peer.uid,
            process: Some(peer.pid).filter(|pid| *pid > 0),
        }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The connected process.
#[cfg(not(target_os = "linux"))]
fn peer_of(stream: &UnixStream) -> io::Result<Peer> {
    let (mut user, mut group) = (u32::MAX, u32::MAX);
    // SAFETY: both pointers are valid for the length of the call.
    match unsafe { libc::getpeereid(stream.as_raw_fd(), &raw mut user, &raw mut group) } {
        0 => Ok(Peer {
            user,
            process: None,
        }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A viewer's place among the viewers, given back when dropped.
struct ViewerPlace {
    shared: Arc<Shared>,
    peer: Peer,
}

impl ViewerPlace {
    /// A place for a viewer.
    ///
    /// # Errors
    /// Returns the reason if too many viewers are attached. One process cannot take the places of all others.
    fn take(shared: &Arc<Shared>, peer: Peer) -> Result<Self, String> {
        let mut viewers = shared.viewers();
        if viewers.len() >= MAX_VIEWERS {
            return Err(format!(
                "{MAX_VIEWERS} viewers are attached, which is the most"
            ));
        }
        let of_process = viewers.iter().filter(|viewer| **viewer == peer).count();
        if peer.process.is_some() && of_process >= MAX_VIEWERS_OF_PROCESS {
            return Err(format!(
                "this process has attached {MAX_VIEWERS_OF_PROCESS} viewers, which is the most"
            ));
        }
        viewers.push(peer);
        Ok(ViewerPlace {
            shared: Arc::clone(shared),
            peer,
        })
    }
}

impl Drop for ViewerPlace {
    fn drop(&mut self) {
        let mut viewers = self.shared.viewers();
        if let Some(at) = viewers.iter().position(|viewer| *viewer == self.peer) {
            viewers.swap_remove(at);
        }
    }
}

fn admit(shared: &Arc<Shared>, stream: UnixStream) -> io::Result<()> {
    let peer = peer_of(&stream)?;
    // SAFETY: no arguments, cannot fail.
    if peer.user != unsafe { libc::geteuid() } {
        return Err(io::Error::other("it belongs to another user"));
    }
    if shared.closed.load(Ordering::SeqCst) {
        return Ok(());
    }
    let place = match ViewerPlace::take(shared, peer) {
        Ok(place) => place,
        Err(why) => {
            // The buffer of a new connection has room for a line, so this does not block.
            warn(&mut &stream, format!("this viewer is closed: {why}"))?;
            return Err(io::Error::other(why));
        }
    };
    std::thread::Builder::new()
        .name("viewer".into())
        .spawn(move || {
            let client = place.shared.broadcaster.attach();
            if let Err(error) = serve(&client, stream) {
                tracing::debug!("the connection to a viewer has ended: {error}");
            }
        })?;
    Ok(())
}

/// Serves one viewer until it disconnects or the session ends.
fn serve(client: &SessionClient, stream: UnixStream) -> io::Result<()> {
    let (lines, commands) = bounded(64);
    let reader = stream.try_clone()?;
    std::thread::Builder::new()
        .name("viewer's keys".into())
        .spawn(move || read_commands(reader, |line| lines.send(line).is_ok()))?;
    let outcome = send_events(client, &commands, &stream);
    // This ends the reading thread.
    let _ = stream.shutdown(Shutdown::Both);
    outcome
}

/// A line from a viewer: a command, a command that is refused, or a line without an id that could be answered.
enum Line {
    Command(CommandMessage),
    Refused(Done),
    Malformed(String),
}

impl Line {
    fn read(line: &[u8]) -> Self {
        if line.last() != Some(&b'\n') {
            return Line::Malformed(format!(
                "a line of more than {MAX_COMMAND_LINE} bytes, or half a line"
            ));
        }
        let error = match protocol::read(line) {
            Ok(message) => return Line::Command(message),
            Err(error) => error,
        };
        let words = error.refusal();
        match error.id() {
            Some(id) => Line::Refused(Done {
                id,
                outcome: Outcome::Refused(words),
            }),
            None => Line::Malformed(words),
        }
    }
}

/// Reads commands, one per line, until the viewer disconnects or sends a malformed line.
fn read_commands(stream: UnixStream, mut handle: impl FnMut(Line) -> bool) {
    let mut lines = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        match (&mut lines)
            .take(MAX_COMMAND_LINE)
            .read_until(b'\n', &mut line)
        {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
        let line = Line::read(&line);
        let malformed = matches!(line, Line::Malformed(_));
        if !handle(line) || malformed {
            return;
        }
    }
}

fn send_events(
    client: &SessionClient,
    commands: &Receiver<Line>,
    stream: &UnixStream,
) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 16, stream);
    let mut step_pause: Option<Receiver<Instant>> = None;
    let (silent, idle, unread) = (never(), never(), never());
    let mut steps_closed = false;
    let mut unanswered: usize = 0;
    loop {
        let commands = match unanswered < MAX_UNANSWERED {
            true => commands,
            false => &unread,
        };
        let steps_ready = match step_pause.is_some() || steps_closed {
            true => &silent,
            false => &client.steps_ready,
        };
        select! {
            recv(client.events) -> message => {
                // Steps made before the event are sent before it; those that wait behind a snapshot were made after it.
                if !matches!(&message, Ok(message) if message.event.is_snapshot())
                    && let Some(steps) = client.take_steps_message()
                {
                    write(&mut out, &steps)?;
                }
                let Ok(message) = message else { return out.flush() };
                if matches!(message.event, Event::Done(_)) {
                    unanswered = unanswered.saturating_sub(1);
                }
                write(&mut out, &message)?;
                if client.events.is_empty() {
                    out.flush()?;
                }
            }
            recv(steps_ready) -> token => {
                steps_closed |= token.is_err();
                // The events that wait may begin with a snapshot.
                if client.events.is_empty()
                    && let Some(steps) = client.take_steps_message()
                {
                    write(&mut out, &steps)?;
                    out.flush()?;
                }
                step_pause = Some(after(STEP_INTERVAL));
            }
            recv(step_pause.as_ref().unwrap_or(&idle)) -> _ => step_pause = None,
            recv(commands) -> line => match line {
                Ok(Line::Command(message)) => {
                    if message.command == Command::Watch {
                        client.commands.stop_counting();
                    }
                    unanswered += 1;
                    client.commands.send_message(message).map_err(io::Error::other)?;
                }
                Ok(Line::Refused(done)) => {
                    write(&mut out, &EventMessage::new(None, Event::Done(done)))?;
                    out.flush()?;
                }
                Ok(Line::Malformed(why)) => {
                    let text = format!("this viewer is closed: {why}");
                    warn(&mut out, text.clone())?;
                    return Err(io::Error::other(text));
                }
                Err(_) => return Ok(()),
            },
        }
    }
}

/// Tells a viewer why it is closed.
fn warn(out: &mut impl Write, text: String) -> io::Result<()> {
    write(out, &EventMessage::new(None, Event::Warning { text }))?;
    out.flush()
}

fn write(out: &mut impl Write, message: &EventMessage) -> io::Result<()> {
    out.write_all(&protocol::line(message)?)
}

#[cfg(test)]
mod tests;
