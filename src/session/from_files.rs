//! Attaches to a session on another computer through the files of its run's folder, which both computers see: what it
//! records in metrics.jsonl, and its answers to commands and questions in files ([`super::command_files`]).
//!
//! Recorded lines arrive one or two seconds late, and step reports are as coarse as the lines. Pending changes and whether
//! the run is paused are asked. What is neither recorded nor asked is not shown here: the session's load, its warnings and
//! checkpoints, the second curve of a comparison, and a test of learning rates.

use super::attach::AttachError;
use super::client::{BlockingQueue, Commands, ReceivedCommand, SessionClient};
use super::command_files::{CommandFileSender, FileRequest, FiledCommand};
use super::protocol::{
    Answer, Change, Command, CommandMessage, Done, Event, EventMessage, Outcome, resolved_past,
};
use super::run_dir::lease::SessionWatch;
use super::run_dir::{HostId, InUse, METRICS, read_lines};
use super::run_view::RunView;
use super::sent::NoAnswer;
use crate::domain::params::Applies;
use crate::domain::report::State;
use crate::files;
use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};
use serde::Deserialize;
use serde_json::Value;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Interval at which an answer is looked for while a command is under way, and at which the record is read.
const ANSWER_INTERVAL: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 200 });
const RECORD_INTERVAL: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 1000 });
/// Time from one question about the session's status to the next.
const STATUS_INTERVAL: Duration = Duration::from_millis(if cfg!(test) { 60 } else { 3000 });
/// Time after which a command is withdrawn.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Successive looks without a lease after which the session is over. A network file system may fail for a moment.
const LOOKS_WITHOUT_LEASE: u32 = 3;

/// Attaches to the session that has a run open. The client's first event is the snapshot; dropping the client detaches.
///
/// # Errors
/// Returns an error if what it has recorded cannot be read, is of another version of the protocol, or has no beginning.
pub fn attach(session: &InUse, host: &HostId) -> Result<SessionClient, AttachError> {
    let io = |source| AttachError::Io {
        run: session.folder.clone(),
        source,
    };
    let mut record = Record::of(session.folder.clone());
    let snapshot = record.snapshot().map_err(io)?;
    let (sender, requests) = unbounded();
    let (client, queue) = BlockingQueue::pair(Commands::new(sender, 1, Arc::default(), true));
    queue.event(record.message(snapshot));
    let mut follower = Follower {
        state: record.view.state.clone(),
        not_running_at: None,
        pending: Vec::new(),
        record,
        sender: CommandFileSender::to(session, host),
        queue,
        waiting: VecDeque::new(),
        open: None,
        watch: SessionWatch::of(session, host),
        looks_without_lease: 0,
        is_warned: false,
    };
    std::thread::Builder::new()
        .name("from files".into())
        .spawn(move || follower.run(&requests))
        .map_err(io)?;
    Ok(client)
}

/// The recorded events of a run, read while its session appends to them.
struct Record {
    folder: PathBuf,
    /// Number of bytes that were read: whole lines.
    offset: u64,
    /// What the events that were read say.
    view: RunView,
}

impl Record {
    fn of(folder: PathBuf) -> Self {
        Record {
            folder,
            offset: 0,
            view: RunView::default(),
        }
    }

    /// The run's name.
    fn run(&self) -> String {
        let name = self.folder.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    fn message(&self, event: Event) -> EventMessage {
        EventMessage::new(Some(&self.run()), event)
    }

    /// Reads everything. Returns the snapshot of it.
    ///
    /// # Errors
    /// Returns an error if it cannot be read, is of another version of the protocol, or has no beginning.
    fn snapshot(&mut self) -> io::Result<Event> {
        self.offset = 0;
        let events = resolved_past(self.lines()?.unwrap_or_default());
        self.view = RunView::default();
        events.iter().for_each(|event| self.view.recorded(event));
        let Some(mut run) = self.view.run.clone() else {
            let why = format!("its {METRICS} has no beginning of a run yet");
            return Err(io::Error::new(ErrorKind::InvalidData, why));
        };
        // The folder as this computer sees it.
        run.folder = self.folder.display().to_string();
        let begins = |event: &Event| matches!(event, Event::Started(_));
        let present = events.iter().rposition(begins).unwrap_or(0);
        let (data, is_resumed) = (run.data.clone(), run.resumed_at.is_some());
        let mut shown = vec![Event::Data(data), Event::Started(run)];
        for (i, event) in events.into_iter().enumerate() {
            if i == present && is_resumed {
                // The past ends here.
                shown.push(Event::State(State::Running));
            }
            let is_of_comparison = matches!(
                event,
                Event::ComparisonBegan { .. } | Event::ComparisonOver { .. }
            );
            if event.is_of_training() || is_of_comparison {
                shown.push(event);
            }
        }
        shown.push(Event::State(self.view.state.clone()));
        Ok(Event::Snapshot { events: shown })
    }

    /// The events that were added since the last call, or a snapshot if they do not continue what was read: the run went
    /// back, kept a change, or another session has begun.
    ///
    /// # Errors
    /// Returns the errors of [`Record::snapshot`].
    fn news(&mut self) -> io::Result<Vec<Event>> {
        let known = self.view.steps.as_ref().map_or(0, |steps| steps.last);
        let Some(events) = self.lines()? else {
            return Ok(vec![self.snapshot()?]);
        };
        let continues = events.iter().all(|event| match event {
            Event::Steps(steps) => steps.first > known,
            Event::Started(_) | Event::ComparisonOver { kept: true, .. } => false,
            _ => true,
        });
        if !continues {
            return Ok(vec![self.snapshot()?]);
        }
        events.iter().for_each(|event| self.view.recorded(event));
        Ok(events)
    }

    /// The events in the whole lines from the offset on. None if the file is shorter, or no line begins there.
    fn lines(&mut self) -> io::Result<Option<Vec<Event>>> {
        let mut file = files::open(&self.folder.join(METRICS))?;
        let length = file.metadata()?.len();
        if length < self.offset {
            return Ok(None);
        }
        if let Some(before) = self.offset.checked_sub(1) {
            let mut end = [0];
            file.seek(SeekFrom::Start(before))?;
            file.read_exact(&mut end)?;
            if end != *b"\n" {
                return Ok(None);
            }
        }
        let end = end_of_lines(&mut file, self.offset, length)?;
        file.seek(SeekFrom::Start(self.offset))?;
        let (events, _) = read_lines(file.take(end - self.offset))?;
        self.offset = end;
        Ok(Some(events))
    }
}

/// The offset after the last line break between `begin` and `end`; `begin` if there is none.
fn end_of_lines(file: &mut File, begin: u64, mut end: u64) -> io::Result<u64> {
    let mut block = [0; 1 << 12];
    while end > begin {
        let from = end.saturating_sub(block.len() as u64).max(begin);
        let block = &mut block[..(end - from) as usize];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(block)?;
        if let Some(at) = block.iter().rposition(|byte| *byte == b'\n') {
            return Ok(from + at as u64 + 1);
        }
        end = from;
    }
    Ok(begin)
}

/// A command or question whose answer is awaited.
struct OpenRequest {
    key: String,
    deadline: Instant,
    /// The client's command. None: a question about the session's status.
    command: Option<CommandMessage>,
}

/// Passes on what a session records and answers, and what the client sends.
struct Follower {
    record: Record,
    /// The state that the client knows.
    state: State,
    /// The step at which the session said that it does not train. Steps up to it were trained before.
    not_running_at: Option<u64>,
    /// The pending changes that the client knows.
    pending: Vec<PendingChange>,
    /// None if the session does not read commands in files.
    sender: Option<CommandFileSender>,
    queue: BlockingQueue,
    /// The client's commands that are not sent yet.
    waiting: VecDeque<CommandMessage>,
    open: Option<OpenRequest>,
    watch: SessionWatch,
    looks_without_lease: u32,
    /// Whether the client knows that the record cannot be read.
    is_warned: bool,
}

impl Follower {
    /// Runs until the session is over, or the client is gone and its commands are sent.
    fn run(&mut self, requests: &Receiver<ReceivedCommand>) {
        let mut has_client = true;
        let (mut record_at, mut status_at) = (Instant::now(), Instant::now());
        loop {
            match requests.recv_timeout(self.pause(record_at)) {
                Ok(request) => self.waiting.push_back(request.message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) if has_client => {
                    has_client = false;
                    // Nobody reads the answers.
                    let is_question = |m: &CommandMessage| matches!(m.command, Command::Ask { .. });
                    self.waiting.retain(|message| !is_question(message));
                }
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(ANSWER_INTERVAL),
            }
            self.advance(&mut status_at);
            if !has_client && self.waiting.is_empty() {
                return;
            }
            if Instant::now() >= record_at {
                record_at = Instant::now() + RECORD_INTERVAL;
                if self.read_record() {
                    return self.end();
                }
            }
        }
    }

    /// Time until there is something to do.
    fn pause(&self, record_at: Instant) -> Duration {
        match self.open {
            Some(_) => ANSWER_INTERVAL,
            None => record_at.saturating_duration_since(Instant::now()),
        }
    }

    /// Reads what is recorded. Returns whether the session is over.
    fn read_record(&mut self) -> bool {
        // Look at the lease first: a session records its end before it gives the run back.
        match self.watch.has_session() {
            true => self.looks_without_lease = 0,
            false => self.looks_without_lease += 1,
        }
        let is_over = self.looks_without_lease >= LOOKS_WITHOUT_LEASE;
        match self.record.news() {
            Ok(events) => {
                self.is_warned = false;
                events.into_iter().for_each(|event| self.pass(event));
            }
            Err(_) if is_over => {}
            Err(error) => {
                // It may be readable again at the next look.
                if !std::mem::replace(&mut self.is_warned, true) {
                    let text = format!("what the session records cannot be read: {error}");
                    self.pass(Event::Warning { text });
                }
            }
        }
        is_over
    }

    fn pass(&mut self, event: Event) {
        match &event {
            Event::State(state) => self.state = state.clone(),
            Event::Snapshot { .. } => {
                self.state = self.record.view.state.clone();
                self.pending.clear();
            }
            // The run was paused or had ended, and trains again.
            Event::Steps(steps)
                if self.state != State::Running
                    && self.not_running_at.is_none_or(|step| steps.last > step) =>
            {
                self.pass(Event::State(State::Running));
            }
            Event::Applied { change, .. } => {
                self.pending
                    .retain(|pending| pending.change.key != change.key);
            }
            _ => {}
        }
        self.queue.event(self.record.message(event));
    }

    /// Looks for the answer to the request under way, then sends the next one.
    fn advance(&mut self, status_at: &mut Instant) {
        if let (Some(open), Some(sender)) = (&self.open, &mut self.sender) {
            let Some(answer) = sender.look(&open.key, Some((open.deadline, ANSWER_TIMEOUT))) else {
                return;
            };
            match self.open.take().and_then(|open| open.command) {
                Some(message) => {
                    self.answer(
                        &message,
                        answer.map_err(|error: NoAnswer| error.to_string()),
                    );
                    // It may have changed what is not recorded.
                    *status_at = Instant::now();
                }
                None => {
                    *status_at = Instant::now() + STATUS_INTERVAL;
                    if let Ok(status) = answer {
                        self.status(status);
                    }
                }
            }
        }
        while self.open.is_none() {
            let command = match self.waiting.pop_front() {
                Some(message) => match self.refusal(&message.command) {
                    Some(answer) => {
                        self.answer(&message, answer);
                        continue;
                    }
                    None => Some(message),
                },
                None if Instant::now() >= *status_at && self.sender.is_some() => None,
                None => return,
            };
            self.send(command);
        }
    }

    /// The answer to a command that is not sent.
    fn refusal(&self, command: &Command) -> Option<Result<Value, String>> {
        let shown_by =
            "here, where the run is shown from its files; `cifar-tui attach HOST:RUN` shows it";
        match command {
            // A session knows nothing of those that read its files.
            Command::Watch => Some(Ok(serde_json::json!({"applied_at": 0}))),
            Command::FindLr { .. } => Some(Err(format!(
                "a test of learning rates cannot be followed {shown_by}"
            ))),
            Command::Compare { .. } => Some(Err(format!(
                "a comparison cannot be followed {shown_by}"
            ))),
            _ if self.sender.is_none() => Some(Err(
                "the session does not read commands in files: it is of an older version, or is ending"
                    .into(),
            )),
            _ => None,
        }
    }

    fn send(&mut self, command: Option<CommandMessage>) {
        let Some(sender) = &self.sender else {
            return;
        };
        let request = match &command {
            None => FileRequest::Status,
            Some(message) => FileRequest::Command(FiledCommand {
                message: CommandMessage {
                    run: Some(sender.run()),
                    ..message.clone()
                },
                wait: false,
            }),
        };
        match (sender.send(&request), command) {
            (Ok(key), command) => {
                let deadline = Instant::now() + ANSWER_TIMEOUT;
                self.open = Some(OpenRequest {
                    key,
                    deadline,
                    command,
                });
            }
            (Err(error), Some(message)) => {
                let why = format!("the command cannot be written into the run's folder: {error}");
                self.answer(&message, Err(why));
            }
            // The next look tries again.
            (Err(_), None) => {}
        }
    }

    /// Sends the client the answer to its command.
    fn answer(&self, message: &CommandMessage, answer: Result<Value, String>) {
        let id = message.id;
        let (mut answer, mut outcome) = match answer {
            Ok(value) => read_answer(value),
            Err(why) => (None, Outcome::Refused(why)),
        };
        match (&message.command, &outcome) {
            (Command::Ask { .. }, Outcome::Refused(why)) => {
                answer.get_or_insert(Answer::Failed { why: why.clone() });
                outcome = Outcome::AppliedAt(0);
            }
            (Command::Set { key, .. }, Outcome::Refused(why)) => {
                // The sentence begins with the key.
                let why = why.strip_prefix(&format!("{key}: ")).unwrap_or(why);
                let (key, why) = (key.clone(), why.to_owned());
                let error = crate::domain::params::HyperParamError { key, why };
                self.queue
                    .event(self.record.message(Event::Refused { error }));
            }
            _ => {}
        }
        let answered = answer.map(|answer| Event::Answer { id, answer });
        let done = Event::Done(Done { id, outcome });
        for event in answered.into_iter().chain([done]) {
            self.queue.event(EventMessage::new(None, event));
        }
    }

    /// Passes on what is new in the session's status: its state, and the pending changes.
    fn status(&mut self, status: Value) {
        let Ok(status) = serde_json::from_value::<AskedStatus>(status) else {
            return;
        };
        let is_running = status.state == State::Running;
        self.not_running_at = (!is_running).then_some(status.step);
        if status.state != self.state {
            self.pass(Event::State(status.state));
        }
        for old in std::mem::take(&mut self.pending) {
            let key = &old.change.key;
            if status.pending.iter().all(|new| new.change.key != *key) {
                self.pass(Event::Withdrawn { key: key.clone() });
            } else {
                self.pending.push(old);
            }
        }
        for new in status.pending {
            if !self.pending.contains(&new) {
                let (change, applies) = (new.change.clone(), new.waits_for);
                self.pass(Event::Pending { change, applies });
                self.pending.retain(|old| old.change.key != new.change.key);
                self.pending.push(new);
            }
        }
    }

    fn end(&mut self) {
        let state = match self.state.is_over() {
            true => self.state.clone(),
            false => State::Stopped,
        };
        let open = self.open.take().and_then(|open| open.command);
        for message in open.into_iter().chain(std::mem::take(&mut self.waiting)) {
            self.answer(&message, Err("the session has ended".into()));
        }
        let params = Box::new(self.record.view.params.clone());
        self.pass(Event::Ended { params, state });
    }
}

/// The part of the answer to `ask status` that is not recorded.
#[derive(Deserialize)]
struct AskedStatus {
    state: State,
    step: u64,
    #[serde(default)]
    pending: Vec<PendingChange>,
}

#[derive(PartialEq, Deserialize)]
struct PendingChange {
    #[serde(flatten)]
    change: Change,
    waits_for: Applies,
}

/// The part of an answer that every command has.
#[derive(Deserialize)]
struct AnyAnswer {
    #[serde(flatten)]
    outcome: Outcome,
}

/// The answer to a question, and the outcome of the command.
fn read_answer(mut value: Value) -> (Option<Answer>, Outcome) {
    let answer = value.get_mut("answer").map(Value::take);
    let answer = answer.and_then(|answer| serde_json::from_value(answer).ok());
    let outcome = match serde_json::from_value::<AnyAnswer>(value) {
        Ok(answer) => answer.outcome,
        Err(error) => Outcome::Refused(format!("the session's answer cannot be read: {error}")),
    };
    (answer, outcome)
}
