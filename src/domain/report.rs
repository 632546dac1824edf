//! Reports of the trainer: plain data that describe the state after the step they name.

use super::arch::Summary;
use super::confusion::Confusion;
use super::number;
use super::params::{Hyperparameters, Optimizer};
use super::text::{command_line, grouped};
use serde::{Deserialize, Serialize};
use std::path::Path;

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
    /// The next step, if the run was resumed.
    pub resumed_at: Option<u64>,
    /// Seconds since the Unix epoch.
    pub started: f64,
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

/// The end of an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "EpochFields", into = "EpochFields")]
pub struct EpochReport {
    /// From 1.
    pub epoch: u32,
    pub step: u64,
    /// Means over the epoch's training images during training, with dropout, as Keras reports them.
    pub train_loss: f64,
    pub train_accuracy: f64,
    /// The images that were scored: the validation images, or the test images if none are held out.
    pub split: Split,
    /// Of the images in `split`.
    pub loss: f64,
    pub accuracy: f64,
    /// Present with `test_each_epoch`, or if a viewer shows the test images.
    pub test_accuracy: Option<f64>,
    /// Whether this is the best validation accuracy so far.
    pub best: bool,
    pub images_per_s: f64,
    pub elapsed: f64,
    /// Number of epochs done: `epoch`, or less if the run ended within it.
    pub position: f64,
    /// The target, if this epoch reached it.
    pub reached: Option<f64>,
}

/// The JSON form of an [`EpochReport`]: the scores are `val_loss` and `val_accuracy`, or `test_loss` and
/// `test_accuracy`, by the split.
#[derive(Serialize, Deserialize)]
struct EpochFields {
    epoch: u32,
    step: u64,
    #[serde(with = "number")]
    train_loss: f64,
    #[serde(with = "number")]
    train_accuracy: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    val_loss: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    val_accuracy: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    test_loss: Option<Number>,
    #[serde(default)]
    test_accuracy: Option<f64>,
    best: bool,
    images_per_s: f64,
    elapsed: f64,
    /// Missing at the end of a whole epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    position: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reached: Option<f64>,
}

/// A number that may be infinite or NaN.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Number(#[serde(with = "number")] f64);

impl From<EpochReport> for EpochFields {
    fn from(e: EpochReport) -> Self {
        let validated = e.split == Split::Validation;
        EpochFields {
            epoch: e.epoch,
            step: e.step,
            train_loss: e.train_loss,
            train_accuracy: e.train_accuracy,
            val_loss: validated.then_some(Number(e.loss)),
            val_accuracy: validated.then_some(Number(e.accuracy)),
            test_loss: (!validated).then_some(Number(e.loss)),
            test_accuracy: e.test_accuracy,
            best: e.best,
            images_per_s: e.images_per_s,
            elapsed: e.elapsed,
            position: (e.position != f64::from(e.epoch)).then_some(e.position),
            reached: e.reached,
        }
    }
}

impl TryFrom<EpochFields> for EpochReport {
    type Error = &'static str;

    fn try_from(e: EpochFields) -> Result<Self, Self::Error> {
        let (split, loss, accuracy) = match (e.val_loss, e.val_accuracy, e.test_loss) {
            (Some(loss), Some(accuracy), _) => (Split::Validation, loss.0, accuracy.0),
            (None, None, Some(loss)) => {
                let accuracy = e.test_accuracy.ok_or("test_accuracy is missing")?;
                (Split::Test, loss.0, accuracy)
            }
            _ => return Err("val_loss and val_accuracy, or test_loss, are missing"),
        };
        Ok(EpochReport {
            epoch: e.epoch,
            step: e.step,
            train_loss: e.train_loss,
            train_accuracy: e.train_accuracy,
            split,
            loss,
            accuracy,
            test_accuracy: e.test_accuracy,
            best: e.best,
            images_per_s: e.images_per_s,
            elapsed: e.elapsed,
            position: e.position.unwrap_or(f64::from(e.epoch)),
            reached: e.reached,
        })
    }
}

/// The weights that were scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScoredWeights {
    /// The weights after the step.
    #[default]
    Last,
    /// The weights of the best checkpoint, scored at the end of the run.
    Best,
}

/// A scoring of one whole split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    pub split: Split,
    /// Missing in old files, which contain scores of the last weights only.
    #[serde(default)]
    pub weights: ScoredWeights,
    /// The step whose weights were scored.
    pub step: u64,
    pub epoch: u32,
    /// Cross-entropy, without smoothing.
    #[serde(with = "number")]
    pub loss: f64,
    #[serde(with = "number")]
    pub accuracy: f64,
    pub confusion: Confusion,
    pub images_per_s: f64,
}

/// Detected problems of a run at the end of an epoch; empty if there are none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    pub step: u64,
    pub epoch: u32,
    pub collapse: Option<Collapse>,
    pub plateau: Option<Plateau>,
}

/// A collapse: the network is no better than a constant prediction, or all ReLUs of a layer are dead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Collapse {
    /// The first epoch whose scores show it.
    pub since: u32,
    /// At least one.
    pub signs: Vec<Symptom>,
    /// The best epoch before it, if one was better than a constant answer.
    pub best: Option<u32>,
}

/// A symptom of a collapsed network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "sign")]
pub enum Symptom {
    /// All or nearly all scored images, `images` of `of`, are predicted as this class.
    OneClass { class: usize, images: u32, of: u32 },
    /// The accuracy was at chance in this many consecutive epochs.
    Chance { epochs: u32 },
    /// Every ReLU of these layers is zero for every sampled image.
    DeadLayers { layers: Vec<String> },
    /// The training loss was that of a uniform prediction, ln(classes), in this many consecutive epochs.
    FlatLoss { epochs: u32 },
}

impl Collapse {
    /// The recommended learning rate for a new run. A network that always predicts one class was trained with too large
    /// steps; otherwise the steps may also have been too small.
    pub fn rate_to_try(&self) -> &'static str {
        let is_stuck =
            |sign: &Symptom| matches!(sign, Symptom::OneClass { .. } | Symptom::DeadLayers { .. });
        match self.signs.iter().any(is_stuck) {
            true => "a lower learning rate",
            false => "another learning rate (it may be far too low or too high)",
        }
    }

    /// `every prediction is deer; every ReLU of dense1 is dead`.
    pub fn describe(&self, classes: &[String]) -> String {
        let sign = |sign: &Symptom| match sign {
            Symptom::OneClass { class, images, of } => {
                let name = classes.get(*class).cloned();
                let name = name.unwrap_or_else(|| format!("class {class}"));
                match images == of {
                    true => format!("every prediction is {name}"),
                    false => format!(
                        "{} of {} predictions are {name}",
                        grouped(u64::from(*images)),
                        grouped(u64::from(*of))
                    ),
                }
            }
            Symptom::Chance { epochs } => {
                format!("accuracy was at chance for {epochs} epochs")
            }
            Symptom::DeadLayers { layers } => {
                format!("every ReLU of {} is dead", layers.join(" and "))
            }
            Symptom::FlatLoss { epochs } => format!(
                "training loss stayed at ln({}), that of a uniform answer, for {epochs} epochs",
                classes.len()
            ),
        };
        self.signs.iter().map(sign).collect::<Vec<_>>().join("; ")
    }
}

/// Accuracy and loss of the scored images no longer improve: epochs `from` to `to` are on average no better than as many before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plateau {
    pub from: u32,
    pub to: u32,
    /// Whether the training loss still falls.
    pub overfits: bool,
}

impl Plateau {
    /// The finding and a recommendation.
    pub fn describe(&self) -> String {
        let Plateau { from, to, .. } = self;
        let count = to - from + 1;
        let helps = match self.overfits {
            true => {
                "the training loss still falls: more dropout, weight decay or augmentation (flip, crop, cutout) may help"
            }
            false => "another learning rate, or a schedule that lowers it (cosine), may help",
        };
        format!(
            "plateau: accuracy and loss were no better in epochs {from} to {to} than in the {count} before; {helps}"
        )
    }
}

/// The pixels of one image: 8-bit RGB, row by row, `3 * side * side` bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picture {
    pub side: u32,
    pub rgb: Vec<u8>,
}

/// One image and the network's prediction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    pub split: Split,
    /// The image's index in its split.
    pub index: u32,
    pub truth: u8,
    pub predicted: u8,
    /// Probability of each class in the evaluation at `step`.
    pub probabilities: Vec<f32>,
    pub step: u64,
    pub picture: Picture,
    /// The predictions at all evaluations so far, oldest first.
    pub past: Vec<PastPrediction>,
}

/// The prediction of one image at one evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PastPrediction {
    pub step: u64,
    pub predicted: u8,
    pub confidence: f32,
}

/// Health of one parameter tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParameterHealth {
    /// The name in the checkpoint: `conv1.weight`.
    pub name: String,
    pub shape: Vec<usize>,
    /// L2 norms of the weights and of their last gradient.
    #[serde(with = "number")]
    pub weight_norm: f64,
    #[serde(with = "number")]
    pub grad_norm: f64,
}

/// Health of one layer's outputs over a sample of validation images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnitHealth {
    pub name: String,
    /// Share of its ReLU units that were zero for every image.
    pub dead: f64,
    /// Share of its outputs that were zero.
    pub zero: f64,
}

/// Feature maps of one image at one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Activations {
    pub name: String,
    pub height: u32,
    pub width: u32,
    /// One map a channel, each `height * width` bytes, scaled so that the layer's largest value is 255.
    pub maps: Vec<Vec<u8>>,
    /// The value that 255 represents.
    pub largest: f32,
}

/// Figures and pictures of the network's inside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelReport {
    pub step: u64,
    pub parameters: Vec<ParameterHealth>,
    pub units: Vec<UnitHealth>,
    /// First-layer filters as RGB pictures, each scaled to its own range; empty unless the first layer is a convolution.
    pub filters: Vec<Picture>,
    /// Activations of the requested image.
    pub activations: Vec<Activations>,
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

/// When a run reached its target.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetReached {
    pub epoch: u32,
    pub step: u64,
    /// Seconds of training until then.
    pub elapsed: f64,
}

/// Summary of a run in the runs folder, read from its files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    pub name: String,
    pub folder: String,
    pub note: String,
    /// Seconds since the Unix epoch.
    pub started: f64,
    /// The outcome: `done`, `stopped`, `diverged` or `failed`. If the run has not ended: `running` while a session has
    /// it open, otherwise `interrupted`. `unreadable` if its metrics cannot be read.
    pub outcome: String,
    /// The host whose session has the run open: [`HERE`] or another host's name. None if no session has it.
    pub open: Option<String>,
    /// The error of reading its metrics; empty if there was none.
    #[serde(default)]
    pub problem: String,
    pub data: String,
    pub params: Hyperparameters,
    pub epochs_done: u32,
    pub step: u64,
    pub best_val_accuracy: Option<f64>,
    pub best_epoch: Option<u32>,
    /// The first epoch that reached the target.
    #[serde(default)]
    pub reached: Option<TargetReached>,
    pub final_val_accuracy: Option<f64>,
    /// Test accuracy of the last weights.
    pub test_accuracy: Option<f64>,
    /// Test accuracy of the best weights, scored at the end if they are not the last.
    pub best_test_accuracy: Option<f64>,
    pub elapsed: f64,
    pub bytes: u64,
    /// Hyperparameters that differ from the seed recipe, as (key, value).
    pub differs: Vec<(String, String)>,
    /// The run's epochs.
    pub epochs: Vec<EpochReport>,
}

/// The value of [`RunSummary::open`] for a session on this computer.
pub const HERE: &str = "here";

impl RunSummary {
    /// The command that resumes the run, from any folder.
    pub fn resume_command(&self) -> String {
        let runs = Path::new(&self.folder).parent();
        let runs = runs.map_or(String::new(), |runs| runs.display().to_string());
        // A name that begins with a dash would be parsed as a flag.
        let resume = match self.name.starts_with('-') {
            true => vec![format!("--resume={}", self.name)],
            false => vec!["--resume".into(), self.name.clone()],
        };
        let words = ["cifar-tui"]
            .into_iter()
            .chain(resume.iter().map(String::as_str));
        command_line(&words.chain(["--runs", &runs]).collect::<Vec<_>>())
    }

    /// The state of the run in words: `running`, `done`, `done, open`, `running on gpu-7`.
    pub fn standing(&self) -> String {
        let Some(place) = &self.open else {
            return self.outcome.clone();
        };
        let open = match self.outcome.as_str() {
            "running" => "",
            _ => ", open",
        };
        let place = match place.as_str() {
            HERE => String::new(),
            host => format!(" on {host}"),
        };
        format!("{}{open}{place}", self.outcome)
    }
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

/// The settings of one optimizer step, made by the trainer from the hyperparameters and the schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSettings {
    pub optimizer: Optimizer,
    /// The effective learning rate, after the schedule.
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub momentum: f64,
    pub nesterov: bool,
    pub beta1: f64,
    pub beta2: f64,
    pub clip_norm: f64,
    pub dropout: f64,
    pub label_smoothing: f64,
    pub seed: u64,
    /// Number of this step, from 1. Adam's bias correction and the random streams depend on it.
    pub step: u64,
    /// The step's epoch, from 1.
    pub epoch: u32,
}

impl StepSettings {
    /// The settings of step `step` in epoch `epoch` under these hyperparameters and this effective learning rate.
    pub fn new(params: &Hyperparameters, learning_rate: f64, step: u64, epoch: u32) -> Self {
        StepSettings {
            optimizer: params.optimizer,
            learning_rate,
            weight_decay: params.weight_decay,
            momentum: params.momentum,
            nesterov: params.nesterov,
            beta1: params.beta1,
            beta2: params.beta2,
            clip_norm: params.clip_norm,
            dropout: params.dropout,
            label_smoothing: params.label_smoothing,
            seed: params.seed,
            step,
            epoch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_written_under_the_name_of_the_images_that_were_scored() {
        let validated = r#"{"epoch":1,"step":5,"train_loss":2.0,"train_accuracy":0.25,"val_loss":"NaN","val_accuracy":0.5,"test_accuracy":null,"best":true,"images_per_s":9.0,"elapsed":1.5}"#;
        let tested = r#"{"epoch":1,"step":5,"train_loss":2.0,"train_accuracy":0.25,"test_loss":1.5,"test_accuracy":0.5,"best":false,"images_per_s":9.0,"elapsed":1.5}"#;
        for (text, split) in [(validated, Split::Validation), (tested, Split::Test)] {
            let read: EpochReport = serde_json::from_str(text).unwrap();
            assert_eq!((read.split, read.accuracy), (split, 0.5));
            assert_eq!(serde_json::to_string(&read).unwrap(), text);
        }
        let neither = tested.replace("test_loss", "other");
        assert!(serde_json::from_str::<EpochReport>(&neither).is_err());
    }

    #[test]
    fn an_evaluation_of_an_old_file_is_of_the_last_weights() {
        let old = r#"{"split":"test","step":5,"epoch":1,"loss":2.0,"accuracy":0.25,"confusion":{"classes":2,"counts":[1,2,1,0]},"images_per_s":9.0}"#;
        let read: Evaluation = serde_json::from_str(old).unwrap();
        assert_eq!((read.weights, read.accuracy), (ScoredWeights::Last, 0.25));
        let best = Evaluation {
            weights: ScoredWeights::Best,
            ..read
        };
        let text = serde_json::to_string(&best).unwrap();
        assert!(text.contains(r#""weights":"best""#), "{text}");
        assert_eq!(serde_json::from_str::<Evaluation>(&text).unwrap(), best);
    }
}
