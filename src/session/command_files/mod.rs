//! Commands to a session that has no socket on this computer, as files in the folder `inbox` of its run: for runs of other
//! computers on a shared file system.
//!
//! `KEY.OWNER.command` holds one command as a line of the protocol. KEY begins with the time, so that the names are in the
//! order of sending; OWNER is the id in the name of the lease of the session that it is for. The session takes a command
//! by removing its file, so that it is carried out once at most, and writes the line that `send` prints to `KEY.answer`,
//! which the sender removes. Every file is written under another name and renamed. What nobody removes, the session of the
//! run removes after [`LEFTOVER_LIFE`].

mod reader;
mod sender;

pub use reader::CommandFileReader;
pub use sender::CommandFileSender;

use super::protocol::{self, CommandMessage, VERSION};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

/// The folder in the run's folder.
const INBOX: &str = "inbox";
const COMMAND: &str = ".command";
const ANSWER: &str = ".answer";
/// Interval at which a session looks for commands.
const SCAN_INTERVAL: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 1000 });
/// Time after which a file that nobody removes is removed.
const LEFTOVER_LIFE: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 600 });
/// Maximum number of entries of the folder that are read at a time, and of commands under way.
const MAX_ENTRIES: usize = 10_000;
const MAX_OPEN: usize = 64;

/// A command with its envelope, as a file holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FiledCommand {
    #[serde(flatten)]
    pub message: CommandMessage,
    /// Whether the answer waits until the effect is complete.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wait: bool,
}

/// What a file asks of a session.
#[derive(Clone, Debug, PartialEq)]
pub enum FileRequest {
    Command(FiledCommand),
    /// Describe the session, as `send RUN ask status` prints it.
    Status,
}

impl FileRequest {
    /// The content of the file.
    ///
    /// # Errors
    /// Returns an error if the request cannot be written as JSON.
    fn line(&self) -> serde_json::Result<Vec<u8>> {
        match self {
            FileRequest::Command(filed) => protocol::line(filed),
            FileRequest::Status => protocol::line(
                &json!({"v": VERSION, "id": 1, "command": "ask", "question": {"question": "status"}}),
            ),
        }
    }

    /// Reads the content of a file.
    ///
    /// # Errors
    /// Returns the reason why the file is refused.
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let value: Value = protocol::read(bytes).map_err(|error| error.refusal())?;
        let status = value["question"]["question"] == "status";
        if value["command"] == "ask" && status {
            return Ok(FileRequest::Status);
        }
        let filed = serde_json::from_value(value);
        filed
            .map(FileRequest::Command)
            .map_err(|error| format!("not a command: {error}"))
    }
}

/// The names in the inbox of the run in `folder`, sorted, at most [`MAX_ENTRIES`]. Empty if there is no inbox.
///
/// The folders are read, and no single file is looked up: a network file system may answer for a minute that a new file
/// does not exist, but a folder that is opened is up to date.
///
/// # Errors
/// Returns an error if a folder cannot be read.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let is_inbox = |entry: &fs::DirEntry| {
        // Not a link, which may lead to another folder.
        entry.file_name() == INBOX && entry.file_type().is_ok_and(|kind| kind.is_dir())
    };
    if !fs::read_dir(folder)?
        .flatten()
        .any(|entry| is_inbox(&entry))
    {
        return Ok(Vec::new());
    }
    let entries = match fs::read_dir(folder.join(INBOX)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?.take(MAX_ENTRIES).flatten(),
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    Ok(names)
}
