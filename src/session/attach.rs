//! The other end of [`super::serve`]: finds the sessions that run, and makes a socket look like any other session.

use super::link::{Commands, Feed, Link};
use super::protocol::Event;
use super::serve::{RECORD, is_stale};
use crate::files;
use crossbeam_channel::unbounded;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Longest line of a session: a snapshot of the longest run is a tenth of it.
const LONGEST_LINE: u64 = 256 << 20;

/// Bytes of a record: the path of a socket.
const MAX_RECORD: u64 = 4096;

/// Why there is nothing to attach to.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error(
        "no session is running in {}. Start one with `cifar-tui`, or say with --runs where it is.", .0.display()
    )]
    None(PathBuf),
    #[error("there is no run called '{name}' in {}. `cifar-tui runs` lists them.", runs.display())]
    Absent { name: String, runs: PathBuf },
    #[error("the run '{0}' is not running. `cifar-tui --resume {0}` goes on with it.")]
    NotRunning(String),
    #[error("cannot reach the session of {}: {source}", run.display())]
    Io { run: PathBuf, source: io::Error },
}

/// A session that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The run that it is at.
    pub name: String,
    pub folder: PathBuf,
    pub socket: PathBuf,
    began: SystemTime,
}

/// The sessions that run in a runs folder, newest first. Records of those that have died are removed.
pub fn running(runs: &Path) -> Vec<Found> {
    let entries = fs::read_dir(runs).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| session_of(&entry.path()))
        .collect();
    found.sort_by(|a, b| b.began.cmp(&a.began).then(a.name.cmp(&b.name)));
    found
}

/// The session that is at the run in `folder`.
fn session_of(folder: &Path) -> Option<Found> {
    let record = folder.join(RECORD);
    let socket = PathBuf::from(files::read_text(&record, MAX_RECORD).ok()?.trim_end());
    if is_stale(&socket) {
        // A live session whose socket has gone makes a new one soon, and writes it down again.
        if !super::run_dir::is_locked(folder) {
            let _ = fs::remove_file(&record);
        }
        return None;
    }
    Some(Found {
        name: folder.file_name()?.to_string_lossy().into_owned(),
        folder: folder.into(),
        socket,
        began: fs::metadata(&record).and_then(|m| m.modified()).ok()?,
    })
}

/// What `attach [RUN]` means: the run called `name`, or in the folder of that name; without one the newest. The second
/// are the others that could have been meant.
///
/// # Errors
/// When there is none.
pub fn find(runs: &Path, name: Option<&str>) -> Result<(Found, Vec<Found>), AttachError> {
    let Some(name) = name else {
        let mut all = running(runs);
        return match all.is_empty() {
            true => Err(AttachError::None(runs.into())),
            false => Ok((all.remove(0), all)),
        };
    };
    let folder = [runs.join(name), PathBuf::from(name)]
        .into_iter()
        .find(|folder| folder.is_dir())
        .ok_or_else(|| AttachError::Absent {
            name: name.into(),
            runs: runs.into(),
        })?;
    session_of(&folder)
        .map(|found| (found, Vec::new()))
        .ok_or_else(|| AttachError::NotRunning(name.into()))
}

/// Attaches to a session. The link's first event is the snapshot; dropping the link detaches.
///
/// # Errors
/// When the session has gone meanwhile.
pub fn attach(found: &Found) -> Result<Link, AttachError> {
    connect(&found.socket).map_err(|source| AttachError::Io {
        run: found.folder.clone(),
        source,
    })
}

fn connect(socket: &Path) -> io::Result<Link> {
    let stream = UnixStream::connect(socket)?;
    let (sender, commands) = unbounded();
    // Viewer 0 asks to quit when it is dropped; this one only leaves.
    let (link, feed) = Feed::pair(Commands::new(sender, 1, Arc::default()));
    let (reader, mut writer) = (stream.try_clone()?, stream);
    std::thread::Builder::new()
        .name("from session".into())
        .spawn(move || read_events(reader, &feed))?;
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
            // The link has gone: so does the session's side.
            let _ = writer.shutdown(Shutdown::Both);
        })?;
    Ok(link)
}

fn read_events(stream: UnixStream, feed: &Feed) {
    let mut lines = BufReader::with_capacity(1 << 16, stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut lines).take(LONGEST_LINE).read_until(b'\n', &mut line) {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
        match serde_json::from_slice::<Event>(&line) {
            Ok(event) => feed.event(event),
            Err(error) => {
                let text = format!(
                    "the session says what this program does not understand ({error}): they may be of different versions"
                );
                tracing::error!("{text}");
                feed.event(Event::Warning { text });
                return;
            }
        }
        if !feed.is_read() {
            return;
        }
    }
}
