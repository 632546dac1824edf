//! The hyperparameters: each has a field, a default and a row of the table.

use super::{
    Applies, CropPadding, Flip, HyperParam, Influence, LossReduction, Nudge, Optimizer, Precision,
    Schedule, Tta, Value, ValueKind,
};

use super::choices::choice_or_bool;
use crate::domain::layer_rates::{self, LayerRates};
use crate::domain::recipes;
use serde::{Deserialize, Serialize};

/// All hyperparameters of a run. Every field has a row in [`HYPERPARAMS`]. A field that is missing in a file takes its
/// default, so the default of a new hyperparameter must be the value that reproduces older runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hyperparameters {
    /// The recipe that the run began with; the other fields are its values unless they were changed.
    pub recipe: String,
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub dropout: f64,
    pub label_smoothing: f64,
    pub loss_reduction: LossReduction,
    pub momentum: f64,
    pub sgd_momentum: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub bias_rate: f64,
    pub head_rate: f64,
    pub whiten_rate: f64,
    /// Factors on the learning rates of single layers.
    pub layer_rates: LayerRates,
    /// Epochs after which whitening layers' biases stop learning; 0 is off.
    pub whiten_epochs: f64,
    /// Maximum L2 norm of the whole gradient; 0 is off.
    pub clip_norm: f64,
    /// Share that each step keeps of the exponential moving average of the weights; 0 is off.
    pub average_decay: f64,
    #[serde(deserialize_with = "choice_or_bool")]
    pub flip: Flip,
    /// Random shift, in pixels each way; 0 is off.
    pub crop: u32,
    pub crop_padding: CropPadding,
    /// Side of the square cut out, in pixels; 0 is off.
    pub cutout: u32,
    pub batch_size: u32,
    /// Skip an epoch's last batch if it is smaller than the others.
    pub drop_last: bool,
    /// Number of epochs. May be a fraction: 2.5 ends in the middle of the third.
    pub epochs: f64,
    pub schedule: Schedule,
    /// Epochs over which the learning rate rises linearly from zero.
    pub warmup: f64,
    pub test_each_epoch: bool,
    pub tta: Tta,
    /// Use `tta` in the scoring after each epoch too, and not only at the end.
    pub tta_each_evaluation: bool,
    /// Accuracy to reach, on the images that are scored after each epoch; 0 is off.
    pub target: f64,
    /// End the run when an epoch reaches the target.
    pub stop_at_target: bool,
    /// A name in `ARCHS`, or the text of an architecture.
    pub architecture: String,
    pub optimizer: Optimizer,
    pub nesterov: bool,
    pub seed: u64,
    /// Share of the training images held out for validation; 0 scores the test images instead.
    pub validation: f64,
    /// Subtract each channel's mean and divide by its standard deviation (over the training images), after the scaling to [0, 1].
    pub standardize: bool,
    pub precision: Precision,
}

impl Default for Hyperparameters {
    /// The seed recipe (the 2018 blog post's Keras CNN).
    fn default() -> Self {
        Hyperparameters {
            recipe: "seed".into(),
            learning_rate: 1e-3,
            weight_decay: 0.0,
            dropout: 0.5,
            label_smoothing: 0.0,
            loss_reduction: LossReduction::Mean,
            momentum: 0.9,
            sgd_momentum: 0.85,
            beta1: 0.9,
            beta2: 0.999,
            bias_rate: 0.01,
            head_rate: 0.01,
            whiten_rate: 0.01,
            layer_rates: LayerRates::default(),
            whiten_epochs: 0.0,
            clip_norm: 0.0,
            average_decay: 0.0,
            flip: Flip::Off,
            crop: 0,
            crop_padding: CropPadding::Zero,
            cutout: 0,
            batch_size: 32,
            drop_last: false,
            epochs: 15.0,
            schedule: Schedule::Constant,
            warmup: 0.0,
            test_each_epoch: false,
            tta: Tta::None,
            tta_each_evaluation: false,
            target: 0.0,
            stop_at_target: false,
            architecture: "seed".into(),
            optimizer: Optimizer::Adam,
            nesterov: false,
            seed: 4,
            validation: 0.2,
            standardize: false,
            precision: Precision::Auto,
        }
    }
}

/// A row's getter and setter for a field of plain type. [`HyperParam::check`] runs first, so the kind always matches.
macro_rules! field {
    (float $name:ident) => {
        (
            |p: &Hyperparameters| Value::Float(p.$name),
            |p: &mut Hyperparameters, v: Value| {
                if let Value::Float(v) = v {
                    p.$name = v;
                }
            },
        )
    };
    (int $name:ident) => {
        (
            |p: &Hyperparameters| Value::Int(u64::from(p.$name)),
            |p: &mut Hyperparameters, v: Value| {
                if let Value::Int(v) = v {
                    p.$name = v as _;
                }
            },
        )
    };
    (bool $name:ident) => {
        (
            |p: &Hyperparameters| Value::Bool(p.$name),
            |p: &mut Hyperparameters, v: Value| {
                if let Value::Bool(v) = v {
                    p.$name = v;
                }
            },
        )
    };
    (text $name:ident) => {
        (
            |p: &Hyperparameters| Value::Text(p.$name.clone()),
            |p: &mut Hyperparameters, v: Value| {
                if let Value::Text(v) = v {
                    p.$name = v;
                }
            },
        )
    };
    (parsed $name:ident) => {
        (
            |p: &Hyperparameters| Value::Text(p.$name.to_string()),
            |p: &mut Hyperparameters, v: Value| {
                if let Value::Text(v) = v
                    && let Ok(parsed) = v.parse()
                {
                    p.$name = parsed;
                }
            },
        )
    };
    (choice $name:ident: $of:ident) => {
        (
            |p: &Hyperparameters| Value::Text(p.$name.word().into()),
            |p: &mut Hyperparameters, v: Value| {
                if let Value::Text(v) = v
                    && let Some(choice) = $of::ALL.iter().find(|choice| choice.word() == v)
                {
                    p.$name = *choice;
                }
            },
        )
    };
}

type Access = (
    fn(&Hyperparameters) -> Value,
    fn(&mut Hyperparameters, Value),
);

const fn row(
    key: &'static str,
    label: &'static str,
    unit: &'static str,
    applies: Applies,
    kind: ValueKind,
    access: Access,
    help: &'static str,
) -> HyperParam {
    HyperParam {
        key,
        label,
        short: key,
        alias: None,
        optimizers: &[],
        help,
        unit,
        applies,
        kind,
        zero_is_off: false,
        influence: Influence::Steps,
        get: access.0,
        set: access.1,
    }
}

/// Optional columns of a row.
impl HyperParam {
    const fn short(mut self, short: &'static str) -> Self {
        self.short = short;
        self
    }

    const fn alias(mut self, alias: &'static str) -> Self {
        self.alias = Some(alias);
        self
    }

    const fn only(mut self, optimizers: &'static [Optimizer]) -> Self {
        self.optimizers = optimizers;
        self
    }

    const fn on(mut self, influence: Influence) -> Self {
        self.influence = influence;
        self
    }

    const fn off_at_zero(mut self) -> Self {
        self.zero_is_off = true;
        self
    }
}

const fn float(min: f64, max: f64, nudge: Nudge) -> ValueKind {
    ValueKind::Float { min, max, nudge }
}

const fn int(min: u64, max: u64, nudge: Nudge) -> ValueKind {
    ValueKind::Int { min, max, nudge }
}

const SQRT_10: f64 = 3.162_277_660_168_379_5;

/// Every hyperparameter, in the panel's order.
#[rustfmt::skip]
pub static HYPERPARAMS: &[HyperParam] = &[
    row("learning_rate", "learning rate", "", Applies::Now, float(0.0, 10.0, Nudge::Times(2.0, 10.0, 1e-7)), field!(float learning_rate),
        "Step size of the optimizer; the base that the schedule scales. With muon, that of the convolutions' filters.").short("lr").alias("lr"),
    row("weight_decay", "weight decay", "", Applies::Now, float(0.0, 1.0, Nudge::Times(2.0, 10.0, 1e-5)), field!(float weight_decay),
        "Pull of the weights towards zero: L2 added to the gradient for sgd and adam, decoupled for adamw; not on biases and norms. With muon, the share that a step at the base rate takes off dense weights and biases.").short("decay"),
    row("dropout", "dropout", "", Applies::Now, float(0.0, 0.95, Nudge::Add(0.05, 0.25)), field!(float dropout),
        "Share of activations dropped by every `drop` layer that does not pin its own.").short("drop").on(Influence::Losses),
    row("label_smoothing", "label smoothing", "", Applies::Now, float(0.0, 0.9, Nudge::Add(0.05, 0.1)), field!(float label_smoothing),
        "Share of each target spread evenly over all classes.").short("smooth").on(Influence::Losses),
    row("loss_reduction", "loss reduction", "", Applies::NextRun, ValueKind::Choice(LossReduction::WORDS), field!(choice loss_reduction: LossReduction),
        "Whether the gradient is that of the mean or of the sum of a batch's losses; losses are shown as means.").short("reduction"),
    row("momentum", "momentum", "", Applies::Now, float(0.0, 0.999, Nudge::Add(0.01, 0.1)), field!(float momentum),
        "Momentum of sgd; with muon, that of the convolutions' filters.").only(&[Optimizer::Sgd, Optimizer::Muon]),
    row("sgd_momentum", "sgd momentum", "", Applies::Now, float(0.0, 0.999, Nudge::Add(0.01, 0.1)), field!(float sgd_momentum),
        "Momentum of the parameters that muon leaves to sgd: all but the convolutions' filters.").only(&[Optimizer::Muon]),
    row("bias_rate", "bias rate", "", Applies::Now, float(0.0, 10.0, Nudge::Times(2.0, 10.0, 1e-7)), field!(float bias_rate),
        "Learning rate of biases and norms under muon.").only(&[Optimizer::Muon]),
    row("head_rate", "head rate", "", Applies::Now, float(0.0, 10.0, Nudge::Times(2.0, 10.0, 1e-7)), field!(float head_rate),
        "Learning rate of dense layers' weights under muon.").only(&[Optimizer::Muon]),
    row("whiten_rate", "whiten rate", "", Applies::Now, float(0.0, 10.0, Nudge::Times(2.0, 10.0, 1e-7)), field!(float whiten_rate),
        "Learning rate of whitening layers' biases under muon.").only(&[Optimizer::Muon]),
    row("whiten_epochs", "whiten epochs", "epochs", Applies::NextEpoch, float(0.0, 10_000.0, Nudge::Add(1.0, 10.0)), field!(float whiten_epochs),
        "Epochs over which the schedule of the whitening biases stretches under muon, after which they stop learning; 0 is the whole run.").only(&[Optimizer::Muon]).off_at_zero(),
    row("beta1", "beta 1", "", Applies::Now, float(0.0, 0.9999, Nudge::Add(0.01, 0.1)), field!(float beta1),
        "Decay of the gradient's running mean in adam and adamw.").only(&[Optimizer::Adam, Optimizer::Adamw]),
    row("beta2", "beta 2", "", Applies::Now, float(0.0, 0.99999, Nudge::Add(0.001, 0.01)), field!(float beta2),
        "Decay of the squared gradient's running mean in adam and adamw.").only(&[Optimizer::Adam, Optimizer::Adamw]),
    row("clip_norm", "clip norm", "", Applies::Now, float(0.0, 1e6, Nudge::Times(SQRT_10, 10.0, 0.01)), field!(float clip_norm),
        "Largest allowed norm of the whole gradient; 0 is off.").short("clip").off_at_zero(),
    row("average_decay", "average decay", "", Applies::Now, float(0.0, 0.99999, Nudge::Add(0.001, 0.1)), field!(float average_decay),
        "Keep an exponential moving average (EMA) of the weights, scored beside them: the share that each step keeps of it, such as 0.999; 0 is off.").short("average").off_at_zero(),
    row("flip", "flip", "", Applies::Now, ValueKind::Choice(Flip::WORDS), field!(choice flip: Flip),
        "Mirror training images left to right: a random half in each step, or each in every second epoch.").on(Influence::Losses),
    row("crop", "crop", "px", Applies::Now, int(0, 16, Nudge::Add(1.0, 4.0)), field!(int crop),
        "Shift each training image at random by up to this many pixels each way; 0 is off.").off_at_zero().on(Influence::Losses),
    row("crop_padding", "crop padding", "", Applies::Now, ValueKind::Choice(CropPadding::WORDS), field!(choice crop_padding: CropPadding),
        "What a shifted image shows beyond its edge: zeros, or the image mirrored at its edge.").short("padding").on(Influence::Losses),
    row("cutout", "cutout", "px", Applies::Now, int(0, 32, Nudge::Add(1.0, 4.0)), field!(int cutout),
        "Blank a square of this side at a random place of each training image; 0 is off.").off_at_zero().on(Influence::Losses),
    row("batch_size", "batch size", "", Applies::NextEpoch, int(1, 8192, Nudge::Times(2.0, 8.0, 1.0)), field!(int batch_size),
        "Images in one training step.").short("batch").alias("batch").on(Influence::Batches),
    row("drop_last", "drop last", "", Applies::NextEpoch, ValueKind::Bool, field!(bool drop_last),
        "Leave an epoch's last batch out when it is smaller than the others.").on(Influence::Batches),
    row("epochs", "epochs", "", Applies::NextEpoch, float(0.01, 10_000.0, Nudge::Add(1.0, 10.0)), field!(float epochs),
        "Passes over the training images; 2.5 ends in the middle of the third.").on(Influence::Batches),
    row("schedule", "schedule", "", Applies::NextEpoch, ValueKind::Choice(Schedule::WORDS), field!(choice schedule: Schedule),
        "How the learning rate moves over the run."),
    row("warmup", "warm-up", "epochs", Applies::NextEpoch, float(0.0, 1000.0, Nudge::Add(0.5, 5.0)), field!(float warmup),
        "Epochs over which the learning rate first rises from zero; 0 is off.").off_at_zero(),
    row("target", "target", "", Applies::Now, float(0.0, 1.0, Nudge::Add(0.01, 0.05)), field!(float target),
        "Accuracy to reach: a line on the chart, with the time and the step of the first epoch whose scores reach it (not the final ones with tta); 0 is off.").off_at_zero().on(Influence::Reports),
    row("stop_at_target", "stop at target", "", Applies::Now, ValueKind::Bool, field!(bool stop_at_target),
        "End the run after the first epoch that reaches the target.").on(Influence::Reports),
    row("test_each_epoch", "test each epoch", "", Applies::NextEpoch, ValueKind::Bool, field!(bool test_each_epoch),
        "Score the test images after every epoch, not only at the end.").short("test").on(Influence::Reports),
    row("tta", "tta", "", Applies::Now, ValueKind::Choice(Tta::WORDS), field!(choice tta: Tta),
        "Views of each image that the final test score, `eval` and `predict` average over: its mirror image, and shifts by one pixel.").on(Influence::Reports),
    row("tta_each_evaluation", "tta each eval", "", Applies::Now, ValueKind::Bool, field!(bool tta_each_evaluation),
        "Score after each epoch with tta too.").short("tta each").on(Influence::Reports),
    row(layer_rates::KEY, "layer rates", "", Applies::Now, ValueKind::Text(layer_rates::check), field!(parsed layer_rates),
        "Factors on the learning rates of layers, such as `conv1 0, dense2 0.5`; 0 freezes a layer, its decay included. A layer's name is its word and number: the second `conv` is conv2.").short("layers"),
    row(recipes::KEY, "recipe", "", Applies::NextRun, ValueKind::Choice(recipes::NAMES), field!(text recipe),
        "An architecture and the hyperparameters that belong to it; what is set beside it changes it. See `cifar-tui recipes`."),
    row("architecture", "architecture", "", Applies::NextRun, ValueKind::Text(crate::domain::arch::check), field!(text architecture),
        "A preset's name, or layers such as `conv 32, relu, pool, drop, dense 10`.").alias("arch"),
    row("optimizer", "optimizer", "", Applies::NextRun, ValueKind::Choice(Optimizer::WORDS), field!(choice optimizer: Optimizer),
        "The rule that turns gradients into steps."),
    row("nesterov", "nesterov", "", Applies::NextRun, ValueKind::Bool, field!(bool nesterov),
        "Nesterov's look-ahead for sgd's momentum; muon always has it.").only(&[Optimizer::Sgd]),
    row("seed", "seed", "", Applies::NextRun, int(0, i64::MAX as u64, Nudge::Add(1.0, 10.0)), field!(int seed),
        "Fixes the split, the order, the initial weights, dropout and augmentation."),
    row("validation", "validation", "", Applies::NextRun, float(0.0, 0.9, Nudge::Add(0.05, 0.1)), field!(float validation),
        "Share of the training images held out for validation; 0 trains on all of them and scores the test images instead, so that no best checkpoint is chosen.").off_at_zero(),
    row("standardize", "standardize", "", Applies::NextRun, ValueKind::Bool, field!(bool standardize),
        "Give each colour channel mean 0 and standard deviation 1 instead of the range 0 to 1."),
    row("precision", "precision", "", Applies::NextRun, ValueKind::Choice(Precision::WORDS), field!(choice precision: Precision),
        "Number format of the matrix products on a GPU, where auto is tf32; the CPU computes in f32."),
];
