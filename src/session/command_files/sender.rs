//! The sender's side: writes commands into the inbox of a run, and waits for their answers.

use super::{ANSWER, COMMAND, FileRequest, INBOX, names};
use crate::domain::text::plain;
use crate::files;
use crate::session::protocol::MAX_EVENT_LINE;
use crate::session::run_dir::lease::SessionWatch;
use crate::session::run_dir::{HostId, InUse};
use crate::session::sent::NoAnswer;
use crate::train::files::Folder;
use serde_json::Value;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Interval at which the sender looks for the answer.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Sends commands to one session.
pub struct CommandFileSender {
    /// The folder of the session's run.
    folder: PathBuf,
    /// The id under which the session holds the run's lease.
    owner: String,
    /// This computer.
    host: HostId,
    watch: SessionWatch,
}

impl CommandFileSender {
    /// A sender of commands to the session that has a run open. None if that session does not read command files.
    pub fn to(session: &InUse, host: &HostId) -> Option<Self> {
        session.holder.inbox.then(|| CommandFileSender {
            folder: session.folder.clone(),
            owner: session.holder.owner.clone(),
            host: host.clone(),
            watch: SessionWatch::of(session, host),
        })
    }

    /// The run's name.
    pub fn run(&self) -> String {
        let name = self.folder.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    fn inbox(&self) -> Folder {
        Folder::from(&*self.folder).inner(INBOX)
    }

    /// Writes a request. Returns its key.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub fn send(&self, request: &FileRequest) -> io::Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let micros = now.unwrap_or_default().as_micros();
        let key = format!("{micros:020}-{}", self.host.new_id());
        Folder::from(&*self.folder).create_inner(INBOX)?;
        self.inbox()
            .write(&self.command_file(&key), &request.line()?)?;
        Ok(key)
    }

    fn command_file(&self, key: &str) -> String {
        format!("{key}.{}{COMMAND}", self.owner)
    }

    /// Waits for the answer to the request with this key, for `limit` at most. A command that the session has not taken
    /// by then is withdrawn.
    ///
    /// # Errors
    /// Returns an error if there is no answer in time, or the session has ended without one.
    pub fn wait(
        &mut self,
        key: &str,
        limit: Option<(Instant, Duration)>,
    ) -> Result<Value, NoAnswer> {
        loop {
            if let Some(answered) = self.look(key, limit) {
                return answered;
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Looks once for the answer to the request with this key, as [`CommandFileSender::wait`] does. None if it may still
    /// come.
    ///
    /// # Errors
    /// Returns the errors of [`CommandFileSender::wait`].
    pub fn look(
        &mut self,
        key: &str,
        limit: Option<(Instant, Duration)>,
    ) -> Option<Result<Value, NoAnswer>> {
        // Look at the lease first: a session writes its answers before it gives the run back.
        let is_over = !self.watch.has_session();
        if let Some(answer) = self.answer(key) {
            return Some(Ok(answer));
        }
        let late = limit.filter(|(deadline, _)| Instant::now() >= *deadline);
        if !is_over && late.is_none() {
            return None;
        }
        let run = plain(&self.run()).into_owned();
        let is_withdrawn = self.inbox().take(&self.command_file(key)).is_ok();
        Some(Err(match late {
            _ if is_over => NoAnswer::Ended { run },
            Some((_, limit)) if is_withdrawn => NoAnswer::Withdrawn {
                run,
                seconds: limit.as_secs_f64(),
            },
            late => NoAnswer::TimedOut {
                run,
                seconds: late.map_or(0.0, |(_, limit)| limit.as_secs_f64()),
            },
        }))
    }

    /// Reads and removes the answer, if it is there.
    fn answer(&self, key: &str) -> Option<Value> {
        let name = format!("{key}{ANSWER}");
        // A folder that cannot be read now may be readable later.
        let names = names(&self.folder).unwrap_or_default();
        names.binary_search(&name).ok()?;
        let bytes = files::read(&self.inbox().join(&name), MAX_EVENT_LINE).ok()?;
        let answer = serde_json::from_slice(&bytes).ok()?;
        if let Err(error) = self.inbox().remove(&name) {
            tracing::warn!("the answer {name} stays: {error}");
        }
        Some(answer)
    }
}
