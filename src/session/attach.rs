//! Finds running sessions and attaches to one over its socket ([`super::serve`]), as a [`SessionClient`].

use super::client::{BlockingQueue, Commands, SessionClient};
use super::from_files;
use super::protocol::{self, Event, EventMessage, MAX_EVENT_LINE, MessageError};
use super::run_dir::lease::Watch;
use super::run_dir::name::folder_of;
use super::run_dir::{HostId, InUse};
use super::serve::is_stale;
use super::status::run_arguments;
use crossbeam_channel::unbounded;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time limit for a session's first message.
pub(super) const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why no session can be attached to.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error(
        "no session is running in {}. Start one with `cifar-tui`, or name its folder with --runs.", .0.display()
    )]
    None(PathBuf),
    #[error("{} sessions are running in {}; name the run of one: {}.", names.len(), runs.display(), names.join(", "))]
    Several { names: Vec<String>, runs: PathBuf },
    #[error("there is no run called '{name}' in {}. `cifar-tui runs` lists them.", runs.display())]
    Absent { name: String, runs: PathBuf },
    #[error(
        "the run in {} is not running. `cifar-tui {}` resumes it.",
        .0.display(), run_arguments("--resume", .0)
    )]
    NotRunning(PathBuf),
    #[error(transparent)]
    Elsewhere(Box<InUse>),
    #[error(
        "the session of '{}' (process {}) accepts no viewers: it has no socket, or is creating a new one. Try again in a few seconds; see its log.txt.",
        .0.folder.file_name().unwrap_or_default().display(), .0.holder.process
    )]
    NoSocket(Box<InUse>),
    #[error(
        "the session of '{name}' (process {process}) has not answered within {seconds} s; is its process stopped?"
    )]
    Silent {
        name: String,
        process: u32,
        seconds: f64,
    },
    #[error("cannot reach the session of {}: {source}", run.display())]
    Io { run: PathBuf, source: io::Error },
    #[error(
        "the session of '{}' (process {process}) speaks {} of the protocol, and this cifar-tui {}. Attach with the cifar-tui that started the session, or end the session (`kill {process}` saves a checkpoint) and resume its run: `cifar-tui {}`.",
        folder.file_name().unwrap_or_default().display(), protocol::version(*v),
        protocol::version(Some(protocol::VERSION)), run_arguments("--resume", folder)
    )]
    Version {
        folder: PathBuf,
        process: u32,
        v: Option<u64>,
    },
}

impl AttachError {
    /// The session that exists and has no socket on this computer.
    pub fn unreachable(&self) -> Option<&InUse> {
        match self {
            AttachError::Elsewhere(session) | AttachError::NoSocket(session) => Some(session),
            _ => None,
        }
    }
}

/// A running session on this computer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningSession {
    /// Name of its run.
    pub name: String,
    pub folder: PathBuf,
    pub socket: PathBuf,
    /// Its process id.
    process: u32,
    since: u64,
}

#[cfg(test)]
impl RunningSession {
    pub(super) fn of_test(name: &str, folder: &Path, socket: &Path, process: u32) -> Self {
        RunningSession {
            name: name.into(),
            folder: folder.into(),
            socket: socket.into(),
            process,
            since: 0,
        }
    }
}

/// The session that has the run in `folder` open. None if no session has.
fn session_of(folder: &Path, host: &HostId) -> Option<Result<RunningSession, AttachError>> {
    let session = Watch::default().look(folder, host, Instant::now())?;
    let name = folder.file_name()?.to_string_lossy().into_owned();
    if !session.here {
        return Some(Err(AttachError::Elsewhere(Box::new(session))));
    }
    let holder = &session.holder;
    let socket = holder.socket.as_ref().map(PathBuf::from);
    Some(match socket.filter(|socket| !is_stale(socket)) {
        Some(socket) => Ok(RunningSession {
            name,
            folder: folder.into(),
            socket,
            process: holder.process,
            since: holder.since,
        }),
        None => Err(AttachError::NoSocket(Box::new(session))),
    })
}

/// Finds the session of the run with this name or folder, or the newest session if `name` is None. Also returns the
/// other sessions that match.
///
/// # Errors
/// Returns an error if no session matches on this computer. The message names other computers that have one.
pub fn find(
    runs: &Path,
    name: Option<&str>,
    host: &HostId,
) -> Result<(RunningSession, Vec<RunningSession>), AttachError> {
    if let Some(name) = name {
        let folder = folder_of(runs, Path::new(name)).ok_or_else(|| AttachError::Absent {
            name: name.into(),
            runs: runs.into(),
        })?;
        return match session_of(&folder, host) {
            Some(session) => Ok((session?, Vec::new())),
            None => Err(AttachError::NotRunning(folder)),
        };
    }
    let entries = fs::read_dir(runs).into_iter().flatten().flatten();
    let (mut sessions, mut elsewhere) = (Vec::new(), None);
    for session in entries.filter_map(|entry| session_of(&entry.path(), host)) {
        match session {
            Ok(session) => sessions.push(session),
            Err(error) => elsewhere = Some(error),
        }
    }
    sessions.sort_by(|a, b| b.since.cmp(&a.since).then(a.name.cmp(&b.name)));
    match sessions.is_empty() {
        true => Err(elsewhere.unwrap_or_else(|| AttachError::None(runs.into()))),
        false => Ok((sessions.remove(0), sessions)),
    }
}

/// Finds the session of the run with this name or folder, or the only session if `name` is None.
///
/// # Errors
/// Returns the errors of [`find`], and one that lists the sessions if several match.
pub fn find_one(
    runs: &Path,
    name: Option<&str>,
    host: &HostId,
) -> Result<RunningSession, AttachError> {
    let (session, others) = find(runs, name, host)?;
    if others.is_empty() {
        return Ok(session);
    }
    let all = std::iter::once(&session).chain(&others);
    Err(AttachError::Several {
        names: all.map(|session| session.name.clone()).collect(),
        runs: runs.into(),
    })
}

/// Attaches to the session of the run with this name or folder: through its socket or, if it has none on this computer,
/// through the files of the run's folder.
///
/// # Errors
/// Returns the errors of [`find`], [`attach`] and [`from_files::attach`].
pub fn attach_here_or_through_files(
    runs: &Path,
    name: &str,
    host: &HostId,
) -> Result<SessionClient, AttachError> {
    match find_one(runs, Some(name), host) {
        Ok(session) => attach(&session),
        Err(error) => match error.unreachable() {
            Some(session) => from_files::attach(session, host),
            None => Err(error),
        },
    }
}

/// Attaches to a session that answers within [`FIRST_MESSAGE_TIMEOUT`].
///
/// # Errors
/// Returns the errors of [`attach_within`].
pub fn attach(session: &RunningSession) -> Result<SessionClient, AttachError> {
    attach_within(session, FIRST_MESSAGE_TIMEOUT)
}

/// Attaches to a session that answers within `limit`. The client's first event is the snapshot; dropping the client
/// detaches.
///
/// # Errors
/// Returns an error if the session has ended in the meantime, does not answer, takes no more viewers, or speaks another
/// version of the protocol.
pub fn attach_within(
    session: &RunningSession,
    limit: Duration,
) -> Result<SessionClient, AttachError> {
    let io = |source| AttachError::Io {
        run: session.folder.clone(),
        source,
    };
    let (stream, lines, line) = open(session, limit)?;
    let snapshot = match protocol::read::<EventMessage>(&line) {
        Ok(message) => match message.event {
            // The session says why it takes no viewer.
            Event::Warning { text } => return Err(io(io::Error::other(text))),
            _ => message,
        },
        Err(MessageError::Version { v, .. }) => {
            return Err(AttachError::Version {
                folder: session.folder.clone(),
                process: session.process,
                v,
            });
        }
        Err(error) => return Err(io(io::Error::other(error))),
    };
    connect(stream, lines, snapshot).map_err(io)
}

/// Connects to a session that answers within `limit`. Returns the connection and its first line.
///
/// # Errors
/// Returns an error if the session has ended in the meantime, or does not answer.
pub(super) fn open(
    session: &RunningSession,
    limit: Duration,
) -> Result<(UnixStream, BufReader<UnixStream>, Vec<u8>), AttachError> {
    let io = |source| AttachError::Io {
        run: session.folder.clone(),
        source,
    };
    let stream = UnixStream::connect(&session.socket).map_err(io)?;
    let mut lines = BufReader::with_capacity(1 << 16, stream.try_clone().map_err(io)?);
    match first(&stream, &mut lines, limit) {
        Ok(line) => Ok((stream, lines, line)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(AttachError::Silent {
            name: session.name.clone(),
            process: session.process,
            seconds: limit.as_secs_f64(),
        }),
        Err(error) => Err(io(error)),
    }
}

/// Waits for the first line of a session. The error is `WouldBlock` if nothing arrives for `limit`.
fn first(
    stream: &UnixStream,
    lines: &mut BufReader<UnixStream>,
    limit: Duration,
) -> io::Result<Vec<u8>> {
    // Zero would mean no limit.
    stream.set_read_timeout(Some(limit.max(Duration::from_millis(1))))?;
    let mut line = Vec::new();
    let read = lines.take(MAX_EVENT_LINE).read_until(b'\n', &mut line);
    stream.set_read_timeout(None)?;
    match read {
        Ok(0) => Err(io::Error::other("it has ended, or takes no more viewers")),
        Ok(_) => Ok(line),
        Err(error) => Err(error),
    }
}

/// A client of the session at the other end of `stream`, which has sent `snapshot`.
fn connect(
    stream: UnixStream,
    lines: BufReader<UnixStream>,
    snapshot: EventMessage,
) -> io::Result<SessionClient> {
    let (sender, requests) = unbounded();
    // Dropping viewer 0 would end the session; this one only detaches.
    let (client, queue) = BlockingQueue::pair(Commands::new(sender, 1, Arc::default(), true));
    queue.event(snapshot);
    let mut writer = stream;
    std::thread::Builder::new()
        .name("from session".into())
        .spawn(move || read_events(lines, &queue))?;
    std::thread::Builder::new()
        .name("to session".into())
        .spawn(move || {
            for request in requests {
                let sent = protocol::line(&request.message)
                    .map_err(io::Error::from)
                    .and_then(|line| writer.write_all(&line));
                if let Err(error) = sent {
                    tracing::warn!("the session takes no commands: {error}");
                    break;
                }
            }
            // If the client has been dropped, disconnect from the session.
            let _ = writer.shutdown(Shutdown::Both);
        })?;
    Ok(client)
}

/// Queues the session's events until the session or the client is gone.
fn read_events(mut lines: BufReader<UnixStream>, queue: &BlockingQueue) {
    let mut line = Vec::new();
    let mut is_warned = false;
    loop {
        line.clear();
        match (&mut lines)
            .take(MAX_EVENT_LINE)
            .read_until(b'\n', &mut line)
        {
            Ok(1..) => {}
            Ok(0) | Err(_) => break,
        }
        if let Some(message) = message(&line, &mut is_warned)
            && !queue.event(message)
        {
            break;
        }
    }
    // The thread that sends commands may be blocked in a write that the session does not read.
    let _ = lines.get_ref().shutdown(Shutdown::Both);
}

/// The message of a line. A newer session may send events that this program does not know: one warning says so for all
/// of them, and they are left out.
pub(super) fn message(line: &[u8], is_warned: &mut bool) -> Option<EventMessage> {
    let error = match protocol::read(line) {
        Ok(message) => return Some(message),
        Err(error) => error,
    };
    if std::mem::replace(is_warned, true) {
        return None;
    }
    let text = format!(
        "a message of the session cannot be read: {error}. The cifar-tui that started the session reads all of them."
    );
    tracing::error!("{text}");
    Some(EventMessage::new(None, Event::Warning { text }))
}
