//! Attaches to a session on another computer through the files of its run's folder, which both computers see: what it
//! records in metrics.jsonl, and its answers to commands in files ([`super::command_files`]).
//!
//! Recorded lines arrive about a second late, and step reports are as coarse as the lines. What a session does not record
//! (its load, a pending change, a running test of learning rates) is not known here; whether it is paused is asked.

use super::attach::AttachError;
use super::client::{BlockingQueue, Commands, ReceivedCommand, SessionClient};
use super::command_files::{CommandFileSender, FileRequest, FiledCommand};
use super::lines::Lines;
use super::protocol::{
    self, Answer, Command, CommandMessage, Done, Event, EventMessage, MessageError, Outcome,
    resolved_past,
};
use super::run_dir::lease::Watch;
use super::run_dir::{HostId, InUse, METRICS};
use super::run_view::RunView;
use crate::domain::report::State;
use crate::files;
use crossbeam_channel::{Receiver, unbounded};
use serde::Deserialize;
use serde_json::Value;
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Interval at which the files are read.
const LOOK_INTERVAL: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 1000 });
/// Number of looks from one question about the state to the next.
const LOOKS_PER_QUESTION: u32 = 3;
/// Time after which a command is given up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Attaches to the session that has a run open. The client's first event is the snapshot; dropping the client detaches.
///
/// # Errors
/// Returns an error if what it has recorded cannot be read, is of another version of the protocol, or has no beginning.
pub fn attach(session: &InUse, host: &HostId) -> Result<SessionClient, AttachError> {
    let io = |source| AttachError::Io {
        run: session.folder.clone(),
        source,
    };
    let mut files = RecordedEvents::of(session.folder.clone());
    let snapshot = files.snapshot().map_err(io)?;
    let (sender, requests) = unbounded();
    let (client, queue) = BlockingQueue::pair(Commands::new(sender, 1, Arc::default(), true));
    queue.event(files.message(snapshot));
    // The client is disconnected when the session is over.
    let queue = Arc::new(queue);
    let answers = Arc::downgrade(&queue);
    let mut following = Following {
        state: files.view.state.clone(),
        files,
        sender: CommandFileSender::to(session, host),
        queue,
        watch: Watch::default(),
        owner: session.holder.owner.clone(),
        host: host.clone(),
    };
    let commands = CommandFileSender::to(session, host);
    std::thread::Builder::new()
        .name("from files".into())
        .spawn(move || following.run())
        .map_err(io)?;
    std::thread::Builder::new()
        .name("to files".into())
        .spawn(move || pass_on(&requests, commands, &answers))
        .map_err(io)?;
    Ok(client)
}

/// Reads the events of a run while its session appends to them.
struct RecordedEvents {
    folder: PathBuf,
    /// Number of bytes that were read: whole lines.
    offset: u64,
    /// What the events that were read say.
    view: RunView,
}

impl RecordedEvents {
    fn of(folder: PathBuf) -> Self {
        RecordedEvents {
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
        let Some(run) = self.view.run.clone() else {
            let why = format!("its {METRICS} has no beginning of a run yet");
            return Err(io::Error::new(ErrorKind::InvalidData, why));
        };
        let data = Event::Data(run.data.clone());
        let mut told = vec![data, Event::Started(run)];
        let shown = |event: &Event| {
            event.is_of_training()
                || matches!(
                    event,
                    Event::ComparisonBegan { .. } | Event::ComparisonOver { .. }
                )
        };
        told.extend(events.into_iter().filter(shown));
        told.push(Event::State(self.view.state.clone()));
        Ok(Event::Snapshot { events: told })
    }

    /// The events that were added since the last call, or a snapshot if they do not continue what was read: the run went
    /// back, kept a change, or another session has begun.
    ///
    /// # Errors
    /// Returns the errors of [`RecordedEvents::snapshot`].
    fn news(&mut self) -> io::Result<Vec<Event>> {
        let step = |view: &RunView| view.steps.as_ref().map_or(0, |steps| steps.last);
        let known = step(&self.view);
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

    /// The events in the whole lines from the offset on. None if there is not that much, or no line begins there.
    fn lines(&mut self) -> io::Result<Option<Vec<Event>>> {
        let mut file = files::open(&self.folder.join(METRICS))?;
        if file.metadata()?.len() < self.offset {
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
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n');
        bytes.truncate(whole.map_or(0, |at| at + 1));
        self.offset += bytes.len() as u64;
        let mut lines = Lines::new(BufReader::new(&*bytes));
        let mut events = Vec::new();
        while let Some(line) = lines.next()? {
            match protocol::read_recorded(line) {
                Ok(event) => events.push(event),
                Err(error @ MessageError::Version { .. }) => {
                    return Err(io::Error::new(ErrorKind::InvalidData, error));
                }
                // A newer session may record events that this program does not know.
                Err(MessageError::Content { .. }) => {}
            }
        }
        Ok(Some(events))
    }
}

/// Passes on what a session records, until it ends or the client is gone.
struct Following {
    files: RecordedEvents,
    /// The state that the client knows.
    state: State,
    /// None if the session does not read commands in files.
    sender: Option<CommandFileSender>,
    queue: Arc<BlockingQueue>,
    watch: Watch,
    /// The id under which the session holds the run's lease.
    owner: String,
    host: HostId,
}

impl Following {
    fn run(&mut self) {
        let mut looks = 0;
        let mut is_warned = false;
        while self.queue.is_read() {
            sleep(LOOK_INTERVAL);
            // Look at the lease first: a session records its end before it gives the run back.
            let is_over = !self.has_session();
            match self.files.news() {
                Ok(events) => {
                    is_warned = false;
                    events.into_iter().for_each(|event| self.pass(event));
                }
                Err(_) if is_over => {}
                Err(error) => {
                    // It may be readable again at the next look.
                    if !std::mem::replace(&mut is_warned, true) {
                        let text = format!("what the session records cannot be read: {error}");
                        self.pass(Event::Warning { text });
                    }
                }
            }
            if is_over {
                return self.end();
            }
            looks += 1;
            if looks % LOOKS_PER_QUESTION == 0 {
                self.ask_state();
            }
        }
    }

    fn pass(&mut self, event: Event) {
        match &event {
            Event::State(state) => self.state = state.clone(),
            Event::Snapshot { .. } => self.state = self.files.view.state.clone(),
            // The run had ended or was paused, and trains again.
            Event::Steps(_) if self.state != State::Running => {
                self.pass(Event::State(State::Running));
            }
            _ => {}
        }
        self.queue.event(self.files.message(event));
    }

    /// Asks for the state, which is not recorded while a run is paused.
    fn ask_state(&mut self) {
        let Some(sender) = &mut self.sender else {
            return;
        };
        let limit = Some((Instant::now() + ANSWER_TIMEOUT, ANSWER_TIMEOUT));
        let asked = sender.send(&FileRequest::Status);
        let answered = asked.ok().and_then(|key| sender.wait(&key, limit).ok());
        let state = answered.and_then(|mut status| {
            serde_json::from_value::<State>(status.get_mut("state")?.take()).ok()
        });
        if let Some(state) = state.filter(|state| *state != self.state) {
            self.pass(Event::State(state));
        }
    }

    /// Whether the session still has the run.
    fn has_session(&mut self) -> bool {
        let session = (self.watch).look(&self.files.folder, &self.host, Instant::now());
        // An owner that is just writing its lease has no id.
        session.is_some_and(|session| [&*self.owner, ""].contains(&&*session.holder.owner))
    }

    fn end(&mut self) {
        let state = match self.state.is_over() {
            true => self.state.clone(),
            false => State::Stopped,
        };
        let params = Box::new(self.files.view.params.clone());
        self.pass(Event::Ended { params, state });
    }
}

/// Passes a client's commands on as files, one after the other, and their answers back.
fn pass_on(
    requests: &Receiver<ReceivedCommand>,
    mut sender: Option<CommandFileSender>,
    queue: &Weak<BlockingQueue>,
) {
    for ReceivedCommand { message, .. } in requests {
        let id = message.id;
        let is_question = matches!(message.command, Command::Ask { .. });
        let answer = match &mut sender {
            // A session knows nothing of those that read its files.
            _ if message.command == Command::Watch => Ok(Value::Null),
            Some(sender) => answer(sender, message),
            None => Err("the session does not read commands in files: it is of an older version, or is ending".into()),
        };
        let (answer, outcome) = match answer {
            Ok(value) => read_answer(value),
            Err(why) => (None, Outcome::Refused(why)),
        };
        let answer = answer.or(match &outcome {
            Outcome::Refused(why) if is_question => Some(Answer::Failed { why: why.clone() }),
            _ => None,
        });
        let answered = answer.map(|answer| Event::Answer { id, answer });
        let Some(queue) = queue.upgrade() else {
            return;
        };
        for event in answered
            .into_iter()
            .chain([Event::Done(Done { id, outcome })])
        {
            queue.event(EventMessage::new(None, event));
        }
    }
}

/// Sends a command and waits for its answer.
fn answer(sender: &mut CommandFileSender, message: CommandMessage) -> Result<Value, String> {
    let message = CommandMessage {
        run: Some(sender.run()),
        ..message
    };
    let request = FileRequest::Command(FiledCommand {
        message,
        wait: false,
    });
    let key = sender
        .send(&request)
        .map_err(|error| format!("the command cannot be written into the run's folder: {error}"))?;
    let limit = Some((Instant::now() + ANSWER_TIMEOUT, ANSWER_TIMEOUT));
    sender.wait(&key, limit).map_err(|error| error.to_string())
}

/// The part of an answer that every command has.
#[derive(Deserialize)]
struct AnyAnswer {
    #[serde(flatten)]
    outcome: Outcome,
}

/// The answer to a question, and the outcome of the command.
fn read_answer(mut value: Value) -> (Option<Answer>, Outcome) {
    if value.is_null() {
        return (None, Outcome::AppliedAt(0));
    }
    let answer = value.get_mut("answer").map(Value::take);
    let answer = answer.and_then(|answer| serde_json::from_value(answer).ok());
    let outcome = match serde_json::from_value::<AnyAnswer>(value) {
        Ok(answer) => answer.outcome,
        Err(error) => Outcome::Refused(format!("the session's answer cannot be read: {error}")),
    };
    (answer, outcome)
}
