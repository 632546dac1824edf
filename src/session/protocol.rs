//! The messages between a front end and the worker: plain serde data, the same over a channel and over a socket.
//! Knows only the domain.

pub use crate::domain::params::Change;
use crate::domain::params::{Applies, HyperParamError, Hyperparameters, Value};
use crate::domain::report::{
    CheckpointReport, DataInfo, EpochReport, Evaluation, Health, ModelReport, Picture, Prediction,
    RunInfo, RunSummary, Split, State, StepReport, SystemLoad,
};
use serde::{Deserialize, Serialize};

/// A command of a front end to the worker. The worker handles it between two batches, also while it evaluates.
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
    /// Start again in a new run folder, with the pending changes of `next run`.
    Restart,
    /// End the run: last checkpoint, pictures, state `stopped`. The session stays for questions and a restart.
    Stop,
    /// Change a hyperparameter. Answered by `Pending` or `Applied`, or by `Refused`.
    Set {
        key: String,
        value: Value,
    },
    /// Take the last change back.
    Undo,
    /// Which images Confusion and Samples show from now on: validation or test.
    Show {
        split: Split,
    },
    /// Answered by `Event::Answer` with the same id.
    Ask {
        id: u64,
        question: Question,
    },
    /// Download CIFAR-10 into the data folder. Progress is reported as `Event::Download`.
    Download,
    /// Save what is unsaved, then end the session. If saving fails, the session goes on and `Unsaved` reports the
    /// reason.
    SaveAndQuit,
    /// End the session; save what is unsaved as far as possible.
    Quit,
}

impl Command {
    /// Whether a training step under way is abandoned for it: the user waits for its effect. A question is answered after
    /// the step, or a screen that asks all the time would stop the training.
    pub fn interrupts(&self) -> bool {
        !matches!(
            self,
            Command::Ask { .. } | Command::Show { .. } | Command::Download
        )
    }
}

/// A question about the newest evaluation, the data, the network or the runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "question")]
pub enum Question {
    /// `count` images of the shown split from `offset`, of those that pass the filter.
    Samples {
        filter: Filter,
        offset: u32,
        count: u32,
    },
    /// Images of one confusion cell, most confident first.
    Cell {
        truth: u8,
        predicted: u8,
        offset: u32,
        count: u32,
    },
    /// Images of the data as they are, optionally of one class only.
    Browse {
        split: Split,
        class: Option<u8>,
        offset: u32,
        count: u32,
    },
    /// One training image as augmentation would show it, `count` times.
    Augmented {
        index: u32,
        count: u32,
    },
    /// Filters, norms, dead units, and the activations of one image of the shown split.
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

/// Which images Samples shows. The order is the split's own unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "filter")]
pub enum Filter {
    All,
    Wrong,
    /// Wrong, most confident first.
    MostConfidentWrong,
    /// Smallest gap between the two highest probabilities first.
    LeastSure,
    /// Images whose true class is this one.
    Class {
        class: u8,
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
    /// To `Samples` and `Cell`; `total` images pass the filter.
    Predictions {
        split: Split,
        total: u32,
        offset: u32,
        items: Vec<Prediction>,
    },
    /// To `Browse` and `Augmented`: (index, class, picture).
    Pictures {
        total: u32,
        offset: u32,
        items: Vec<(u32, u8, Picture)>,
    },
    Model(Box<ModelReport>),
    /// To `Runs` and whatever changed a run.
    Runs {
        folder: String,
        items: Vec<RunSummary>,
    },
    /// It could not be answered.
    Failed {
        why: String,
    },
}

/// An event of the worker. Step reports are lossy (they merge while nobody reads); all others arrive in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    State(State),
    /// The data set is loaded.
    Data(DataInfo),
    /// A run begins: forget the last one.
    Started(Box<RunInfo>),
    Steps(StepReport),
    /// A change was accepted and waits for the next epoch or the next run.
    Pending {
        change: Change,
        applies: Applies,
    },
    /// A waiting change was taken back.
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
    Epoch(EpochReport),
    Evaluation(Evaluation),
    /// The run's health has changed. It may be good again.
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
    /// Why something of the run could not be saved; None when everything is saved again. Saving is retried while the
    /// session lives. Sent again if the session does not end because of it.
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
    Answer {
        id: u64,
        answer: Answer,
    },
    /// For a viewer that attaches late or fell behind: drop everything known; these events describe the session so far.
    Snapshot {
        events: Vec<Event>,
    },
    /// The session has ended; no event follows.
    Ended {
        params: Box<Hyperparameters>,
        state: State,
    },
}
