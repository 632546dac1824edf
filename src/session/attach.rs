//! The other end of [`super::serve`]: finds running sessions and connects a socket to a [`SessionClient`].

use super::client::{BlockingQueue, Commands, SessionClient};
use super::protocol::Event;
use super::run_dir::lease::Watch;
use super::run_dir::name::folder_of;
use super::run_dir::{HostId, InUse};
use super::serve::is_stale;
use crossbeam_channel::unbounded;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Maximum length of a session's line: ten times a snapshot of the longest run.
const LONGEST_LINE: u64 = 256 << 20;

/// Why there is nothing to attach to.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error(
        "no session is running in {}. Start one with `cifar-tui`, or name its folder with --runs.", .0.display()
    )]
    None(PathBuf),
    #[error("there is no run called '{name}' in {}. `cifar-tui runs` lists them.", runs.display())]
    Absent { name: String, runs: PathBuf },
    #[error("the run '{0}' is not running. `cifar-tui --resume {0}` resumes it.")]
    NotRunning(String),
    #[error(transparent)]
    Elsewhere(Box<InUse>),
    #[error(
        "the session of '{name}' (process {process}) accepts no viewers: it has no socket, or is creating a new one. Try again in a few seconds; see its log.txt."
    )]
    NoSocket { name: String, process: u32 },
    #[error("cannot reach the session of {}: {source}", run.display())]
    Io { run: PathBuf, source: io::Error },
}

/// A session that runs on this computer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningSession {
    /// Name of its run.
    pub name: String,
    pub folder: PathBuf,
    pub socket: PathBuf,
    since: u64,
}

/// The session that has the run in `folder`. None when no session has it.
fn session_of(folder: &Path, host: &HostId) -> Option<Result<RunningSession, AttachError>> {
    let session = Watch::default().look(folder, host, Instant::now())?;
    let name = folder.file_name()?.to_string_lossy().into_owned();
    if !session.here {
        return Some(Err(AttachError::Elsewhere(Box::new(session))));
    }
    let holder = session.holder;
    let socket = holder.socket.map(PathBuf::from);
    Some(match socket.filter(|socket| !is_stale(socket)) {
        Some(socket) => Ok(RunningSession {
            name,
            folder: folder.into(),
            socket,
            since: holder.since,
        }),
        None => Err(AttachError::NoSocket {
            name,
            process: holder.process,
        }),
    })
}

/// The session of the run with this name, or in the folder of this name; without a name, the newest session. Also
/// returns the other sessions that match.
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
            None => Err(AttachError::NotRunning(name.into())),
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

/// Attaches to a session. The link's first event is the snapshot; dropping the link detaches.
///
/// # Errors
/// Returns an error if the session has ended in the meantime.
pub fn attach(session: &RunningSession) -> Result<SessionClient, AttachError> {
    connect(&session.socket).map_err(|source| AttachError::Io {
        run: session.folder.clone(),
        source,
    })
}

fn connect(socket: &Path) -> io::Result<SessionClient> {
    let stream = UnixStream::connect(socket)?;
    let (sender, commands) = unbounded();
    // Dropping viewer 0 would end the session; this one only detaches.
    let (client, queue) = BlockingQueue::pair(Commands::new(sender, 1, Arc::default()));
    let (reader, mut writer) = (stream.try_clone()?, stream);
    std::thread::Builder::new()
        .name("from session".into())
        .spawn(move || read_events(reader, &queue))?;
    std::thread::Builder::new()
        .name("to session".into())
        .spawn(move || {
            for command in commands {
                let line = serde_json::to_vec(&command).map(|mut line| {
                    line.push(b'\n');
                    line
                });
                let sent = line
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
fn read_events(stream: UnixStream, queue: &BlockingQueue) {
    let mut lines = BufReader::with_capacity(1 << 16, &stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut lines).take(LONGEST_LINE).read_until(b'\n', &mut line) {
            Ok(1..) => {}
            Ok(0) | Err(_) => break,
        }
        let event = serde_json::from_slice::<Event>(&line);
        let understood = event.is_ok();
        let event = event.unwrap_or_else(|error| {
            let text = format!(
                "a message of the session cannot be read ({error}): it may be of another version of the program"
            );
            tracing::error!("{text}");
            Event::Warning { text }
        });
        if !queue.event(event) || !understood {
            break;
        }
    }
    // The thread that sends commands may be blocked in a write that the session does not read.
    let _ = stream.shutdown(Shutdown::Both);
}
