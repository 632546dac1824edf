//! The session's side: reads the commands in the inbox of its run, hands them to the worker as a viewer does, and writes
//! the answers.

use super::{
    ANSWER, COMMAND, FileRequest, FiledCommand, INBOX, LEFTOVER_LIFE, MAX_OPEN, SCAN_INTERVAL,
    names,
};
use crate::domain::text::plain;
use crate::files;
use crate::session::broadcaster::Broadcaster;
use crate::session::client::SessionClient;
use crate::session::log::RunLog;
use crate::session::protocol::{self, MAX_COMMAND_LINE, Until, until_of};
use crate::session::run_dir::RunDir;
use crate::session::sent::{Sent, SnapshotView};
use crate::session::status::Status;
use crate::train::files::Folder;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use serde::Serialize;
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Interval at which the effects of commands under way are followed.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(50);
/// Why a command is refused that the session reads at its end.
const OVER: &str = "the session has ended; `cifar-tui --resume` resumes its run";

/// Reads the commands for a session on a thread of its own. Dropping it, after the session's last event, answers the
/// remaining ones.
pub struct CommandFileReader {
    broadcaster: Arc<Broadcaster>,
    run: Arc<Mutex<Option<OpenRun>>>,
    /// None before the first run.
    thread: Option<(Sender<()>, JoinHandle<()>)>,
}

/// The run whose inbox is read.
#[derive(Clone)]
struct OpenRun {
    name: String,
    folder: PathBuf,
    owner: String,
    log: RunLog,
}

impl CommandFileReader {
    pub fn new(broadcaster: Arc<Broadcaster>) -> Self {
        CommandFileReader {
            broadcaster,
            run: Arc::default(),
            thread: None,
        }
    }

    /// Reads the commands for this run from now on, and no others.
    pub fn follow(&mut self, run: Option<&RunDir>) {
        let open = run.map(|run| OpenRun {
            name: run.name.clone(),
            folder: run.folder().into(),
            owner: run.owner_id().into(),
            log: run.log().clone(),
        });
        let is_first = self.thread.is_none() && open.is_some();
        *self.run.lock().unwrap_or_else(PoisonError::into_inner) = open;
        if !is_first {
            return;
        }
        let (stop, stopped) = bounded(0);
        let mut reading = Reading {
            broadcaster: Arc::clone(&self.broadcaster),
            run: Arc::clone(&self.run),
            open: Vec::new(),
            seen: HashMap::new(),
            stuck: HashSet::new(),
        };
        let thread = std::thread::Builder::new()
            .name("inbox".into())
            .spawn(move || reading.run(&stopped));
        match thread {
            Ok(thread) => self.thread = Some((stop, thread)),
            Err(error) => tracing::warn!("commands in files are not read: no thread: {error}"),
        }
    }
}

impl Drop for CommandFileReader {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.thread.take() {
            drop(stop);
            // The thread does not panic. If it did, its senders would find that the session has ended.
            let _ = thread.join();
        }
    }
}

struct Reading {
    broadcaster: Arc<Broadcaster>,
    run: Arc<Mutex<Option<OpenRun>>>,
    open: Vec<OpenCommand>,
    /// When files were first seen that are not commands for this session.
    seen: HashMap<String, Instant>,
    /// Names of commands that cannot be removed, each of which is reported once.
    stuck: HashSet<String>,
}

impl Reading {
    /// Reads and answers commands until the session ends.
    fn run(&mut self, stopped: &Receiver<()>) {
        let mut scan_at = Instant::now();
        loop {
            if Instant::now() >= scan_at {
                scan_at = Instant::now() + SCAN_INTERVAL;
                self.scan(false);
            }
            let pause = match self.open.is_empty() {
                true => scan_at.saturating_duration_since(Instant::now()),
                false => FOLLOW_INTERVAL,
            };
            if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                break;
            }
            self.open.retain_mut(|command| !command.advance());
        }
        for command in &mut self.open {
            command.advance();
            command.end();
        }
        self.scan(true);
    }

    /// Takes the commands for the run's session. At the session's end, refuses them.
    fn scan(&mut self, is_over: bool) {
        let run = self
            .run
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let Some(run) = run else { return };
        let _logging = run.log.enter();
        let names = match names(&run.folder) {
            Ok(names) => names,
            Err(error) => return tracing::debug!("the inbox cannot be read: {error}"),
        };
        let present = |name: &String| names.binary_search(name).is_ok();
        self.seen.retain(|name, _| present(name));
        self.stuck.retain(present);
        let inbox = Folder::from(&*run.folder).inner(INBOX);
        let suffix = format!(".{}{COMMAND}", run.owner);
        for name in &names {
            match name.strip_suffix(&suffix) {
                // The others are read when these have been answered.
                Some(_) if self.open.len() >= MAX_OPEN => break,
                Some(key) => self.take(&run, &inbox, name, key, is_over),
                None => self.forget(&inbox, name),
            }
        }
    }

    /// Takes a command and hands it to the worker.
    fn take(&mut self, run: &OpenRun, inbox: &Folder, name: &str, key: &str, is_over: bool) {
        let read = files::read(&inbox.join(name), MAX_COMMAND_LINE);
        let request = match read {
            // The sender has withdrawn it.
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(error) => Err(format!("its file cannot be read: {error}")),
            Ok(bytes) => FileRequest::read(&bytes),
        };
        match inbox.take(name) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            // It is not carried out yet, since it would be again, at the next look.
            Err(error) => {
                if self.stuck.insert(name.into()) {
                    tracing::warn!(
                        "the command in {} waits, since its file cannot be removed: {error}",
                        plain(name)
                    );
                }
                return;
            }
        }
        let mut command = OpenCommand {
            inbox: inbox.clone(),
            file: format!("{key}{ANSWER}"),
            run: run.name.clone(),
            following: None,
            answer: None,
            since: Instant::now(),
        };
        match request {
            Ok(_) if is_over => command.refuse(OVER),
            Ok(FileRequest::Status) => command.describe(&self.broadcaster),
            Ok(FileRequest::Command(filed)) => command.send(&self.broadcaster, filed),
            Err(why) => {
                tracing::warn!("{} in the inbox is refused: {why}", plain(name));
                command.refuse(&why);
            }
        }
        if !command.advance() {
            self.open.push(command);
        }
    }

    /// Removes a file that nobody has removed for [`LEFTOVER_LIFE`].
    fn forget(&mut self, inbox: &Folder, name: &str) {
        let since = *self.seen.entry(name.into()).or_insert_with(Instant::now);
        if since.elapsed() < LEFTOVER_LIFE {
            return;
        }
        match inbox.take(name) {
            Ok(()) => tracing::info!("removed {} from the inbox: it was left there", plain(name)),
            Err(error) => {
                tracing::warn!("{} stays in the inbox: {error}", plain(name));
                // Try again after the same time.
                self.seen.insert(name.into(), Instant::now());
            }
        }
    }
}

/// A command that was taken and whose answer is not written yet.
struct OpenCommand {
    inbox: Folder,
    /// The name of the answer's file.
    file: String,
    run: String,
    following: Option<Following>,
    /// The content of the answer's file.
    answer: Option<Vec<u8>>,
    since: Instant,
}

/// A command whose effect is not complete.
struct Following {
    client: SessionClient,
    status: Status,
    sent: Sent,
}

impl OpenCommand {
    fn send(&mut self, broadcaster: &Broadcaster, filed: FiledCommand) {
        let client = broadcaster.attach_as(false);
        let name = serde_json::to_value(&filed.message.command);
        let name = name.unwrap_or_default();
        let until = match filed.wait {
            true => until_of(name["command"].as_str().unwrap_or_default()),
            false => Until::Answered,
        };
        let (id, command) = (filed.message.id, filed.message.command.clone());
        if client.commands.send_message(filed.message).is_err() {
            return self.refuse(OVER);
        }
        self.following = Some(Following {
            client,
            status: Status::default(),
            sent: Sent::new(id, command, until),
        });
    }

    fn describe(&mut self, broadcaster: &Broadcaster) {
        match broadcaster.attach_as(false).events.try_recv() {
            Ok(snapshot) => self.answer_with(&SnapshotView::of(&snapshot.event).answer()),
            Err(_) => self.refuse(OVER),
        }
    }

    fn refuse(&mut self, why: &str) {
        self.answer_with(&json!({"run": self.run, "refused": why}));
    }

    fn answer_with(&mut self, answer: &impl Serialize) {
        self.following = None;
        self.answer = Some(protocol::line(answer).unwrap_or_else(|error| {
            let why = format!("the answer cannot be written: {error}");
            format!("{}\n", json!({"refused": why})).into_bytes()
        }));
    }

    /// Processes the events so far. Returns whether the answer is written, or will never be.
    fn advance(&mut self) -> bool {
        while let Some(Following {
            client,
            status,
            sent,
        }) = &mut self.following
        {
            match client.events.try_recv() {
                Ok(message) => {
                    status.event(&message.event);
                    sent.event(&message.event, status);
                }
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => self.end(),
            }
            self.complete();
        }
        self.write()
    }

    /// Answers if the effect is complete.
    fn complete(&mut self) {
        let Some(following) = self.following.take_if(|of| of.sent.is_complete) else {
            return;
        };
        let run = self.run.clone();
        self.answer_with(&following.sent.answer(&run));
    }

    /// The session has ended: answers, whatever the effect is.
    fn end(&mut self) {
        if let Some(mut following) = self.following.take() {
            if !following.sent.ends_with_the_session() {
                following
                    .sent
                    .refuse("the session ended before the command had taken effect");
            }
            let run = self.run.clone();
            self.answer_with(&following.sent.answer(&run));
        }
        self.write();
    }

    fn write(&mut self) -> bool {
        let Some(answer) = &self.answer else {
            return false;
        };
        match self.inbox.write(&self.file, answer) {
            Ok(()) => {
                self.answer = None;
                true
            }
            Err(_) if self.since.elapsed() < LEFTOVER_LIFE => false,
            Err(error) => {
                tracing::warn!("an answer was not written into the inbox: {error}");
                true
            }
        }
    }
}
