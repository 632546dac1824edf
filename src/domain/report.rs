//! Reports of the trainer: plain data that describe the state after the step they name.

mod family;
mod health;
mod inspection;
mod run_summary;
mod scores;

pub use family::into_families;
pub use health::{Collapse, Health, Plateau, Symptom};
pub use inspection::{
    Activations, ModelReport, ParameterHealth, PastPrediction, Picture, Prediction, UnitHealth,
};
pub use run_summary::{RunSummary, THIS_COMPUTER, TargetReached};
pub use scores::{AverageScores, EpochReport, Evaluation, ScoredWeights};

use super::arch::{Shape, Summary};
use super::fork::ForkOrigin;
use super::number;
use super::params::{Hyperparameters, ParameterGroup, Rates};
use serde::{Deserialize, Serialize};

/// A split of the data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    Train,
    Validation,
    Test,
}

impl Split {
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "training",
            Split::Validation => "validation",
            Split::Test => "test",
        }
    }

    /// Its short name beside a number.
    pub fn short(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Validation => "val",
            Split::Test => "test",
        }
    }
}

/// The state of the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum State {
    /// `what` is being loaded or drawn: `done` of `total` images; `total` is 0 if unknown.
    Loading {
        what: String,
        done: u64,
        total: u64,
    },
    Running,
    Paused,
    /// Scoring `done` of `total` images.
    Evaluating {
        split: Split,
        done: u32,
        total: u32,
    },
    /// All epochs are done.
    Done,
    /// Stopped by the user before the end.
    Stopped,
    /// The loss, a gradient or a weight is not finite; paused at that step.
    Diverged {
        step: u64,
        /// The first tensor that is not finite, and its layer: `the output of conv2`. Empty in old files.
        #[serde(default)]
        first: String,
    },
    Failed {
        why: String,
    },
}

impl State {
    /// Whether the run has ended, so that the session only waits for commands.
    pub fn is_over(&self) -> bool {
        match self {
            State::Done | State::Stopped | State::Diverged { .. } | State::Failed { .. } => true,
            State::Loading { .. } | State::Running | State::Paused | State::Evaluating { .. } => {
                false
            }
        }
    }
}

/// A layer or block has got fresh weights, or has got back those that it had before that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerReset {
    pub layer: String,
    /// Whether the reset was taken back.
    #[serde(default)]
    pub taken_back: bool,
    /// The first step with these weights, and its epoch.
    pub step: u64,
    pub epoch: u32,
}

impl LayerReset {
    /// In words: `dense1 reset`.
    pub fn words(&self) -> String {
        match self.taken_back {
            false => format!("{} reset", self.layer),
            true => format!("reset of {} undone", self.layer),
        }
    }
}

/// Constants of a run, reported when it starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Default))]
pub struct RunInfo {
    /// The run's name: its folder under the runs folder. Empty if nothing is saved.
    pub name: String,
    pub folder: String,
    pub data: DataInfo,
    /// For the header: `CPU 2 threads AVX-512`, `CUDA:0 NVIDIA H200`.
    pub device: String,
    pub params: Hyperparameters,
    /// The architecture as text; for a preset, its text.
    pub architecture: String,
    pub layers: Vec<Summary>,
    pub parameters: u64,
    /// Multiply-adds of one image's forward pass.
    pub multiply_adds: u64,
    /// Sizes of the three splits.
    pub train: u32,
    pub validation: u32,
    pub test: u32,
    pub steps_per_epoch: u64,
    /// The seed that splits the images; a fork keeps that of its parent.
    #[serde(default)]
    pub split_seed: u64,
    /// If the run is a fork: its parent. The run begins there if it was not resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<ForkOrigin>,
    /// The next step, if the run was resumed.
    pub resumed_at: Option<u64>,
    /// Seconds since the Unix epoch.
    pub started: f64,
}

impl RunInfo {
    /// The parent, if the run begins as a fork with this report.
    pub fn begins_fork(&self) -> Option<&ForkOrigin> {
        self.origin.as_ref().filter(|_| self.resumed_at.is_none())
    }

    /// `two is forked from one at the end of epoch 5, step 6,250`, if the run begins as a fork with this report.
    pub fn fork_words(&self) -> Option<String> {
        let origin = self.begins_fork()?;
        Some(format!(
            "{} is forked from {}",
            self.name,
            origin.describe()
        ))
    }

    /// The first step that follows the past of a resumed or forked run; None if the run is new.
    pub fn continues_at(&self) -> Option<u64> {
        let forked_at = self.origin.as_ref().map(|origin| origin.step + 1);
        self.resumed_at.or(forked_at)
    }
}

/// The loaded data set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DataInfo {
    /// For the header: `CIFAR-10`, `sample set`.
    pub name: String,
    /// The file or folder, or a description of how the set was made.
    pub source: String,
    /// The row in FORMATS.
    pub format: String,
    pub is_sample: bool,
    pub classes: Vec<String>,
    pub side: u32,
    pub train: u32,
    pub test: u32,
    /// Number of images of each class.
    pub train_counts: Vec<u32>,
    pub test_counts: Vec<u32>,
    /// Mean and standard deviation of each channel over the training images, in [0, 1].
    pub mean: Vec<f32>,
    #[serde(rename = "deviation")]
    pub std: Vec<f32>,
    pub bytes: u64,
    /// None if unknown because the process was suspended while loading.
    pub load_seconds: Option<f64>,
}

impl DataInfo {
    /// The shape of an image.
    pub fn shape(&self) -> Shape {
        Shape::new(self.mean.len() as u32, self.side, self.side)
    }

    /// The loading time preceded by the words `before`; empty if it is unknown.
    pub fn load_time(&self, before: &str) -> String {
        self.load_seconds
            .map_or(String::new(), |seconds| format!("{before}{seconds:.2} s"))
    }
}

/// A range of training steps, aggregated. Step numbers count from 1 over the whole run: `last` steps are done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    pub first: u64,
    pub last: u64,
    /// Epoch of `last`, from 1.
    pub epoch: u32,
    /// Steps done in that epoch.
    pub step_in_epoch: u64,
    pub steps_per_epoch: u64,
    pub images: u64,
    /// Mean loss over the images of the range, with dropout and smoothing as trained.
    #[serde(with = "number")]
    pub loss: f64,
    /// Smallest and largest batch loss of the range.
    #[serde(with = "number")]
    pub loss_min: f64,
    #[serde(with = "number")]
    pub loss_max: f64,
    /// Correct predictions among `images`.
    pub correct: u64,
    /// Norm of the whole gradient at `last`, before clipping.
    #[serde(with = "number")]
    pub grad_norm: f64,
    /// Effective learning rate at `last`.
    pub learning_rate: f64,
    /// Training throughput over the range (pauses and evaluations left out).
    pub images_per_s: f64,
    /// Seconds of training since the start of the run (pauses left out, evaluations in).
    pub elapsed: f64,
    /// Seconds that remain, estimated; None until known.
    pub eta: Option<f64>,
}

impl StepReport {
    /// Appends the range that follows this one.
    pub fn extend(&mut self, next: &StepReport) {
        let (a, b) = (self.images as f64, next.images as f64);
        let rate = |r: &StepReport| {
            if r.images_per_s > 0.0 {
                r.images as f64 / r.images_per_s
            } else {
                0.0
            }
        };
        let seconds = rate(self) + rate(next);
        // f64::min would ignore a NaN, which must stay visible.
        let worse = |x: f64, y: f64, f: fn(f64, f64) -> f64| {
            if x.is_nan() || y.is_nan() {
                f64::NAN
            } else {
                f(x, y)
            }
        };
        *self = StepReport {
            first: self.first,
            images: self.images + next.images,
            loss: (self.loss * a + next.loss * b) / (a + b).max(1.0),
            loss_min: worse(self.loss_min, next.loss_min, f64::min),
            loss_max: worse(self.loss_max, next.loss_max, f64::max),
            correct: self.correct + next.correct,
            images_per_s: if seconds > 0.0 {
                (a + b) / seconds
            } else {
                0.0
            },
            ..next.clone()
        };
    }
}

/// A checkpoint that is on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointReport {
    pub step: u64,
    pub epoch: u32,
    pub path: String,
    pub bytes: u64,
    /// Whether it is the best so far, not just the last.
    pub best: bool,
}

/// Load of the computer. Unknown values are None.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SystemLoad {
    /// CPU load from 0 to 1, over all cores.
    pub cpu: Option<f64>,
    /// Resident memory of this process, in bytes.
    pub memory: Option<u64>,
    pub gpu: Option<f64>,
    pub gpu_memory: Option<(u64, u64)>,
    pub gpu_temperature: Option<f64>,
    pub gpu_watts: Option<f64>,
}

/// The settings of one training step: the hyperparameters, and what the trainer makes of them and the schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct StepSettings {
    pub params: Hyperparameters,
    /// The effective learning rate of the filters, after the schedule; that in `params` is its base.
    pub learning_rate: f64,
    /// The learning rates of the groups of parameters; that of the filters is `learning_rate`.
    pub rates: Rates,
    /// Number of this step, from 1. Adam's bias correction and the random streams depend on it.
    pub step: u64,
    /// The step's epoch, from 1.
    pub epoch: u32,
}

/// The hyperparameters can be read as if they were fields.
impl std::ops::Deref for StepSettings {
    type Target = Hyperparameters;

    fn deref(&self) -> &Hyperparameters {
        &self.params
    }
}

impl StepSettings {
    /// The settings of step `step` in epoch `epoch` under these hyperparameters and learning rates.
    pub fn new(params: &Hyperparameters, rates: Rates, step: u64, epoch: u32) -> Self {
        StepSettings {
            params: params.clone(),
            learning_rate: rates[ParameterGroup::Filters as usize].effective,
            rates,
            step,
            epoch,
        }
    }

    /// The same with other hyperparameters.
    #[must_use]
    pub fn with(&self, change: impl FnOnce(&mut Hyperparameters)) -> Self {
        let mut settings = self.clone();
        change(&mut settings.params);
        settings
    }
}
