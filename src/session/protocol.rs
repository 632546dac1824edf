//! What a front end and the worker say to each other: plain serde data, the same over a channel and over a socket.
//! Knows only the domain.

pub use crate::domain::params::Change;
use crate::domain::params::{Applies, HyperParamError, Hyperparameters, Value};
use crate::domain::report::{
    CheckpointReport, DataInfo, EpochReport, Evaluation, Health, ModelReport, Picture, Prediction,
    RunInfo, RunSummary, Split, State, StepReport, SystemLoad,
};
use serde::{Deserialize, Serialize};

/// What a front end asks of the worker. Taken up between two batches, also while it evaluates.
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
    /// After a divergence or a collapse: go on from an earlier checkpoint with a lower learning rate. What came after it
    /// is void.
    GoBack,
    /// Start anew in a new run folder, with the pending changes of `next run`.
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
    /// Fetch CIFAR-10 into the data folder; progress comes as `Event::Download`.
    Download,
    /// Save what is unsaved; then finish, or go on where it could not be saved: `Unsaved` says why.
    SaveAndQuit,
    /// Finish: save what is unsaved as far as that can be done, end the thread.
    Quit,
}

/// A question about the newest evaluation, the data, the network or the runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "question")]
pub enum Question {
    /// Images of the shown split, `count` from `offset` of those that pass the filter.
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
    /// Images whose true class it is.
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

/// What the worker tells. Step reports are lossy (ranges merge when nobody reads); all others arrive, in order.
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
    /// What is wrong with how the run learns is another than before; it may be nothing any more.
    Health(Health),
    Checkpoint(CheckpointReport),
    /// Something to read that is not an error.
    Notice {
        text: String,
    },
    /// Something went wrong and training goes on (a save that failed, say).
    Warning {
        text: String,
    },
    /// Whether something of the run could not be saved and why; None when everything is saved again. It is tried again
    /// for as long as the session lives; told anew when the session does not end for it.
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
    /// To a viewer that comes late or fell behind: forget everything; this is what happened so far.
    Snapshot {
        events: Vec<Event>,
    },
    /// The session is over; nothing follows. None when it went well, else what was wrong.
    Ended {
        params: Box<Hyperparameters>,
        state: State,
    },
}
