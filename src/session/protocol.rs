//! The messages between a front end and the worker: plain serde data, the same over a channel and over a socket.
//! Knows only the domain.
//!
//! Over a socket, each message is one line of JSON, with the fields of its command or event beside those of the envelope:
//!
//! ```text
//! {"v":1,"id":7,"command":"set","key":"learning_rate","value":0.01}
//! {"v":1,"run":"one","event":"applied","change":{...},"step":120,"epoch":1}
//! {"v":1,"event":"done","id":7,"applied_at":120}
//! ```
//!
//! [`page`] describes all of it for other programs. A sender numbers its commands. Each is answered by exactly one
//! [`Event::Done`], which only its sender receives; after [`Event::Ended`], no more answers follow. In metrics.jsonl, which belongs to one run, an event has no envelope; only
//! the lines at which a session begins have a version.

mod comparison;
mod page;
mod table;

pub use crate::domain::params::Change;
pub use comparison::{resolve_comparisons, resolved_past};
pub use page::page;
pub use table::{TypedRequest, Until, parse_setting, parse_words, typed_commands, until_of};

use crate::domain::comparison::ComparisonReport;
use crate::domain::fork::ForkAt;
use crate::domain::params::{Applies, HyperParamError, Hyperparameters, Value};
use crate::domain::rate_test::RateTestReport;
use crate::domain::report::{
    CheckpointReport, DataInfo, EpochReport, Evaluation, Health, LayerReset, ModelReport, Picture,
    Prediction, RunInfo, RunSummary, Split, State, StepReport, SystemLoad,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The version of the messages. It changes when readers of the old version cannot read them.
pub const VERSION: u64 = 1;

/// Maximum length in bytes of a line from a viewer. A command with an architecture has a few hundred.
pub const MAX_COMMAND_LINE: u64 = 1 << 16;
/// Maximum length in bytes of a line from a session: ten times a snapshot of the longest run.
pub const MAX_EVENT_LINE: u64 = 256 << 20;
/// Maximum number of viewers at the same time, and of those in one process.
pub const MAX_VIEWERS: usize = 128;
pub const MAX_VIEWERS_OF_PROCESS: usize = 16;
/// Maximum number of a viewer's commands that are not answered yet. The next ones are not read until then.
pub const MAX_UNANSWERED: usize = 64;
/// Number of unread events of a viewer at which they are replaced by a snapshot.
pub const MAX_UNREAD: usize = 2048;

/// While a session sends nothing, `attach --pipe` writes an empty line after each such interval: the connection holds.
pub const PIPE_HEARTBEAT: Duration = Duration::from_secs(5);

/// A command with its envelope.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommandMessage {
    pub v: u64,
    /// A number that the sender chooses. [`Event::Done`] contains it.
    pub id: u64,
    /// Name of the run that the command is for. None means the shown run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    #[serde(flatten)]
    pub command: Command,
}

impl CommandMessage {
    /// A command for the shown run.
    pub fn new(id: u64, command: Command) -> Self {
        CommandMessage {
            v: VERSION,
            id,
            run: None,
            command,
        }
    }
}

/// An event with its envelope.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventMessage {
    pub v: u64,
    /// Name of the run that the event is about. None if it is about the session, or the run has no name because nothing
    /// of it is saved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    #[serde(flatten)]
    pub event: Event,
}

impl EventMessage {
    /// An event while the run named `run` is shown.
    pub fn new(run: Option<&str>, event: Event) -> Self {
        EventMessage {
            v: VERSION,
            run: run.filter(|_| event.is_of_run()).map(str::to_owned),
            event,
        }
    }
}

/// Why a line is not a message.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The line has version `v`, or none.
    #[error("it has {}, and this program reads version {VERSION}", version(*.v))]
    Version { v: Option<u64>, id: Option<u64> },
    #[error("{source}")]
    Content {
        id: Option<u64>,
        source: serde_json::Error,
    },
}

impl MessageError {
    /// The reason why a session refuses the line as a command.
    pub fn refusal(&self) -> String {
        match self {
            MessageError::Version { v, .. } => format!(
                "the command has {}, and this session speaks version {VERSION} of the protocol: use the cifar-tui that started the session, or send commands of that version",
                version(*v)
            ),
            MessageError::Content { source, .. } => format!("not a command: {source}"),
        }
    }

    /// The number of the command, if the line has one.
    pub fn id(&self) -> Option<u64> {
        match self {
            MessageError::Version { id, .. } | MessageError::Content { id, .. } => *id,
        }
    }
}

/// Describes a version of the messages. Messages before version 1 had none.
pub fn version(v: Option<u64>) -> String {
    match v {
        Some(v) => format!("version {v}"),
        None => "no version".into(),
    }
}

/// Reads a message: a [`CommandMessage`] or an [`EventMessage`].
///
/// # Errors
/// Returns an error if the line is not JSON, is of another version, or is not such a message.
pub fn read<T: DeserializeOwned>(line: &[u8]) -> Result<T, MessageError> {
    #[derive(Deserialize)]
    struct Header {
        v: Option<u64>,
        id: Option<u64>,
    }
    let content = |id| move |source| MessageError::Content { id, source };
    let Header { v, id } = serde_json::from_slice(line).map_err(content(None))?;
    if v != Some(VERSION) {
        return Err(MessageError::Version { v, id });
    }
    serde_json::from_slice(line).map_err(content(id))
}

/// A message as a line.
///
/// # Errors
/// Returns an error if the message cannot be written as JSON.
pub fn line(message: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// An event as a line of a run's metrics. It has no envelope, since the file belongs to one run; the line at which a
/// session begins has the version.
///
/// # Errors
/// Returns an error if the event cannot be written as JSON.
pub fn recorded_line(event: &Event) -> serde_json::Result<Vec<u8>> {
    match event {
        Event::Started(_) => line(&EventMessage::new(None, event.clone())),
        _ => line(event),
    }
}

/// Reads a line of a run's metrics. Before version 1, no line had a version.
///
/// # Errors
/// Returns an error if the line is not an event, or is of another version.
pub fn read_recorded(line: &[u8]) -> Result<Event, MessageError> {
    match line.starts_with(br#"{"v":"#) {
        true => read(line).map(|message: EventMessage| message.event),
        false => serde_json::from_slice(line)
            .map_err(|source| MessageError::Content { id: None, source }),
    }
}

/// A command from a front end to the worker. The worker handles it between two batches, also during an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "command")]
pub enum Command {
    Pause,
    Resume,
    /// One training step, then pause.
    Step,
    /// Score the validation images now.
    Evaluate,
    /// Write a checkpoint now.
    Checkpoint,
    /// After a divergence or a collapse: resume from an earlier checkpoint with a lower learning rate. Later steps are
    /// dropped.
    GoBack,
    /// Start a new run in a new folder, with the changes that are pending for the next run.
    Restart,
    /// Save and close the run, then begin a new one in a saved state of a run, with the pending changes.
    Fork(ForkRequest),
    /// End the run: write its last checkpoint and pictures, and report the state `stopped`. The session continues to
    /// answer questions and can restart the run.
    Stop,
    /// Change a hyperparameter. Every viewer receives `Pending`, `Applied`, `Withdrawn` or `Refused`.
    Set {
        key: String,
        value: Value,
    },
    /// Undo the last change.
    Undo,
    /// Give a layer or block fresh weights: its weights, running statistics and optimizer's state begin again. Every
    /// viewer receives `LayerReset`. `Undo` gives it back what it had.
    ResetLayer {
        layer: String,
    },
    /// Train with and without this change from here on, side by side, until one of them is chosen.
    Compare {
        key: String,
        value: Value,
    },
    /// End the comparison: the run goes on with the change, as if it had been made when the comparison began.
    KeepChange,
    /// End the comparison: the run goes on without the change.
    DropChange,
    /// Test learning rates on a copy of the network. Training waits, and nothing of the run changes. Any later command
    /// but a question ends the test. Reported as `Event::RateTest`.
    FindLr {
        /// Number of steps of the test. None: [`crate::domain::rate_test::STEPS`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<usize>,
    },
    /// End the test of learning rates.
    StopFindLr,
    /// Choose the images that Confusion and Samples show: validation or test.
    Show {
        split: Split,
    },
    /// Ask a question. The sender receives an `Event::Answer` with the command's id before the `Event::Done`.
    Ask {
        question: Question,
        /// Answer as it was at the end of this epoch, from the checkpoint that the run keeps of it. None: as it is now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epoch: Option<u32>,
    },
    /// Download CIFAR-10 into the data folder. Progress is reported as `Event::Download`.
    Download,
    /// The sender only watches: a session that has nothing left to do ends without waiting for it to leave.
    Watch,
    /// Save everything, then end the session. If saving fails, the session continues and `Unsaved` reports the reason.
    SaveAndQuit,
    /// End the session; save as much as possible.
    Quit,
}

impl Command {
    /// Whether the worker abandons the current training step to handle the command, because the user waits for its
    /// effect. Questions are answered after the step: a screen that asks continually would stop the training.
    pub fn interrupts(&self) -> bool {
        !matches!(
            self,
            Command::Ask { .. } | Command::Show { .. } | Command::Download | Command::Watch
        )
    }
}

/// The run that [`Command::Fork`] begins.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ForkRequest {
    /// Name of the run to fork. None means the shown run, as it is now if `at` is its last state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    pub at: ForkAt,
    /// Changes of hyperparameters beside the pending ones, as (key, value).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<(String, Value)>,
    /// The new run's name. None: generate one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Pause the new run before its first step.
    pub paused: bool,
}

/// The outcome of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The command took effect. The number is the first step after it, or 0 if the session has no run: not yet, or no
    /// longer.
    AppliedAt(u64),
    /// The command was accepted and takes effect at that time.
    #[serde(rename = "waits_for")]
    PendingUntil(Applies),
    /// The command has no effect, for this reason.
    Refused(String),
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The command's id.
    pub id: u64,
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// A question about the newest evaluation, the data, the network or the runs. [`Question::Evaluation`],
/// [`Question::Samples`], [`Question::Cell`] and [`Question::Model`] can also be asked about the past.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "question")]
pub enum Question {
    /// The newest evaluation of the shown split. Of the past: that of the images that are scored after each epoch.
    Evaluation,
    /// Of the images of the shown split that pass the filter, `count` from `offset` on.
    Samples {
        filter: Filter,
        offset: u32,
        count: u32,
    },
    /// Images of one confusion cell, most confident first.
    Cell {
        truth: u16,
        predicted: u16,
        offset: u32,
        count: u32,
    },
    /// Images of the data without augmentation, of one class or of all.
    Browse {
        split: Split,
        class: Option<u16>,
        offset: u32,
        count: u32,
    },
    /// `count` augmented versions of one training image.
    Augmented {
        index: u32,
        count: u32,
    },
    /// The first layer's filters, the norms of weights and gradients, the shares of dead units, and the activations of
    /// one image of the shown split.
    Model {
        activations_of: Option<u32>,
    },
    /// All runs in the runs folder.
    Runs,
    RenameRun {
        name: String,
        to: String,
    },
    NoteRun {
        name: String,
        note: String,
    },
    DeleteRun {
        name: String,
    },
}

/// The images that Samples shows, in the split's own order unless a variant says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "filter")]
pub enum Filter {
    All,
    Wrong,
    /// Wrong predictions, the most confident first.
    MostConfidentWrong,
    /// All images, those with the smallest difference between the two highest probabilities first.
    LeastSure,
    /// Images whose true class is this one.
    Class {
        class: u16,
    },
    /// These images, in this order.
    Pinned {
        indices: Vec<u32>,
    },
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "answer")]
pub enum Answer {
    /// The answer to `Evaluation`.
    Evaluation {
        evaluation: Box<Evaluation>,
    },
    /// The answer to `Samples` and `Cell`. `total` is the number of images that pass the filter.
    Predictions {
        split: Split,
        total: u32,
        offset: u32,
        items: Vec<Prediction>,
    },
    /// The answer to `Browse` and `Augmented`. The items are (index, class, picture).
    Pictures {
        total: u32,
        offset: u32,
        items: Vec<(u32, u16, Picture)>,
    },
    Model(Box<ModelReport>),
    /// The answer to `Runs` and to questions that change a run.
    Runs {
        folder: String,
        items: Vec<RunSummary>,
    },
    /// The question could not be answered.
    Failed {
        why: String,
    },
}

/// An event from the worker. Step reports that are not read are merged; all other events arrive in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    State(State),
    /// The data set is loaded.
    Data(DataInfo),
    /// A run begins: drop the state of the previous one.
    Started(Box<RunInfo>),
    Steps(StepReport),
    /// A change was accepted and is pending until the next epoch or the next run.
    Pending {
        change: Change,
        applies: Applies,
    },
    /// A pending change was withdrawn.
    Withdrawn {
        key: String,
    },
    /// A change took effect: step `step` is the first that used it.
    Applied {
        change: Change,
        step: u64,
        epoch: u32,
    },
    Refused {
        error: HyperParamError,
    },
    /// A layer was reset, or a reset was taken back.
    LayerReset(LayerReset),
    /// A comparison begins: the change is made in a second network only, the variant, with step `step` as its first.
    ComparisonBegan {
        change: Change,
        step: u64,
        epoch: u32,
    },
    /// What is known of the difference that the change makes.
    Compared(ComparisonReport),
    /// An event of the variant: `steps`, `epoch`, `evaluation` or `applied`.
    Variant {
        of: Box<Event>,
    },
    /// The comparison ended. If the change was kept, the variant is the run's network: its events since the comparison
    /// began replace the run's.
    ComparisonOver {
        change: Change,
        kept: bool,
        report: ComparisonReport,
    },
    Epoch(EpochReport),
    Evaluation(Evaluation),
    /// The points of a test of learning rates since the last report. A test begins with a report without points.
    RateTest(RateTestReport),
    /// The run's health has changed, for better or worse.
    Health(Health),
    Checkpoint(CheckpointReport),
    /// Information for the user.
    Notice {
        text: String,
    },
    /// An operation failed, such as a save, and training continues.
    Warning {
        text: String,
    },
    /// Why a file of the run could not be saved; None when everything is saved again. Saving is retried while the
    /// session lives. Sent again when `SaveAndQuit` is refused for this reason.
    Unsaved {
        why: Option<String>,
    },
    Load(SystemLoad),
    Download {
        done: u64,
        total: u64,
        finished: bool,
        error: Option<String>,
    },
    /// The answer to an `Ask` with this id; only its sender receives it.
    Answer {
        id: u64,
        answer: Answer,
    },
    /// The outcome of a command; only its sender receives it.
    Done(Done),
    /// Sent to a viewer that attaches late or fell behind: drop all state; these events describe the session so far.
    Snapshot {
        #[serde(deserialize_with = "known_events")]
        events: Vec<Event>,
    },
    /// The session has ended; no event follows.
    Ended {
        params: Box<Hyperparameters>,
        state: State,
    },
}

/// Reads the events of a snapshot. A newer session may send events that this program does not know; they are left out.
fn known_events<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Event>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Known {
        Event(Box<Event>),
        Unknown(serde::de::IgnoredAny),
    }
    let events = Vec::<Known>::deserialize(from)?;
    let known = events.into_iter().filter_map(|event| match event {
        Known::Event(event) => Some(*event),
        Known::Unknown(_) => None,
    });
    Ok(known.collect())
}

impl Event {
    pub fn is_snapshot(&self) -> bool {
        matches!(self, Event::Snapshot { .. })
    }

    /// Whether the event tells how a network trains. A run that continues begins with those of its past.
    pub fn is_of_training(&self) -> bool {
        matches!(
            self,
            Event::Steps(_)
                | Event::Epoch(_)
                | Event::Evaluation(_)
                | Event::Applied { .. }
                | Event::LayerReset(_)
                | Event::Health(_)
        )
    }

    /// Whether the event is about a run, not about the session or one viewer.
    fn is_of_run(&self) -> bool {
        !matches!(
            self,
            Event::Data(_)
                | Event::Load(_)
                | Event::Download { .. }
                | Event::Answer { .. }
                | Event::Done(_)
                | Event::Snapshot { .. }
                | Event::Ended { .. }
        )
    }
}

#[cfg(test)]
mod tests;
