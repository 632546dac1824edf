//! Trains and scores networks through [`Backend`], a trait with one implementation for each engine. No code above this
//! room depends on which one it has.
//!
//! A [`Device`] owns what its backends share (threads, compiled kernels, copies of image sets) and outlives them. A
//! backend holds members: networks of one architecture under one optimizer, each with its own weights, optimizer state
//! and numbers. A plain run has one member. The optimizer's state lives inside the backend, beside the weights it moves.
//!
//! No Candle type appears in a signature; state crosses as [`NetworkState`], plain numbers by name.

pub mod candle;
mod checks;
pub mod cpu;
pub mod gpu;
mod images;
mod inspection;
mod members;
pub mod shared;
mod state;
mod weights;

pub use crate::layers::input::Scaling;
pub use crate::optimizers::{Rule, rule};
pub use images::ImageSet;
pub use inspection::{Inspected, Inspection, filters, parameter_health};
pub use state::{NetworkState, TensorData};

use crate::domain::arch::{Arch, ArchError, Node, Shape};
use crate::domain::augment::Augmentation;
use crate::domain::engine::EngineChoice;
use crate::domain::gpu_tuning::GpuTuning;
use crate::domain::params::{Hyperparameters, NumberFormat, Precision, Rates, Tta, Weights};
use crate::domain::report::StepSettings;
use crate::hardware::device::{DeviceChoice, DeviceError};
use crate::hardware::executor::ExecutorError;
use crate::hardware::threads::Threads;
use crate::layers::kind::SeenImages;
use candle::CandleDevice;
use gpu::timing::LaunchTimes;
use gpu::tuning::TunedProduct;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;

/// The errors of a backend. The messages say what to do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("the architecture does not fit: {0}")]
    Arch(#[from] ArchError),
    #[error("the computation failed: {0}")]
    Compute(String),
    #[error(
        "these weights belong to another architecture: {0}; use the architecture that they were trained with"
    )]
    Weights(String),
    #[error("{0}")]
    Batch(String),
    #[error(transparent)]
    Executor(#[from] ExecutorError),
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Error::Compute(error.to_string())
    }
}

impl Error {
    /// Whether the device had too little memory. The members' state is then as before the call.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Error::Executor(ExecutorError::Memory { .. }))
    }

    /// Whether [`Backend::train`] returned it before any step.
    fn is_before_any_step(&self) -> bool {
        self.is_out_of_memory() || matches!(self, Error::Batch(_))
    }

    /// The error of a member that cannot be restored after memory was short: its old memory cannot be allocated again.
    fn while_restoring(self) -> Self {
        match self {
            Error::Executor(ExecutorError::Memory { device, .. }) => {
                Error::Executor(ExecutorError::Lost {
                    device,
                    what: "allocating the network's memory again",
                    why: "another program has taken it".into(),
                })
            }
            other => other,
        }
    }
}

pub type Result<T> = std::result::Result<T, Error>;

/// The properties that all members of a backend share.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkSpec {
    pub arch: Arch,
    /// The shape of an image.
    pub input: Shape,
    pub classes: usize,
    /// How bytes become the network's input.
    pub scaling: Scaling,
    pub optimizer: &'static Rule,
    pub precision: Precision,
}

impl NetworkSpec {
    /// The layers with their names and shapes.
    ///
    /// # Errors
    /// Returns an error if the architecture does not fit the input or the classes, or the images do not have 1 or 3
    /// channels.
    pub fn nodes(&self) -> Result<Vec<Node>> {
        if !matches!(self.input.channels, 1 | 3) {
            return Err(Error::Batch(format!(
                "networks take images of 1 or 3 channels, not {}",
                self.input.channels
            )));
        }
        Ok(self.arch.infer_shapes(self.input, self.classes)?)
    }
}

/// The id of a member of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u32);

/// The settings and the batch of one training step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepPlan {
    pub settings: StepSettings,
    pub augmentation: Augmentation,
    /// The batch: indices of images in the image set.
    pub images: Vec<u32>,
}

impl StepPlan {
    /// A step under these hyperparameters, at these learning rates. `step` is its number and `epoch` that of its
    /// epoch, both from 1.
    pub fn new(
        params: &Hyperparameters,
        rates: Rates,
        (step, epoch): (u64, u32),
        images: &[u32],
    ) -> Self {
        StepPlan {
            settings: StepSettings::new(params, rates, step, epoch),
            augmentation: Augmentation::of(params),
            images: images.to_vec(),
        }
    }
}

/// The result of a training step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOutcome {
    pub step: u64,
    /// Mean over the batch, with label smoothing.
    pub loss: f64,
    /// Norm of the whole gradient, before clipping and without weight decay.
    pub grad_norm: f64,
    /// Images whose largest logit was their label's.
    pub correct: u32,
    /// The first value of the step that was not finite, if one was: `the gradient of conv1.weight`. The step then
    /// changed nothing, unless the value is a weight.
    pub not_finite: Option<String>,
}

/// Mean seconds that one part of a training step takes.
#[derive(Clone, Debug, PartialEq)]
pub struct PartTime {
    /// A layer's name; `input`, `loss` and `optimizer` are parts of their own.
    pub name: String,
    pub forward: f64,
    pub backward: f64,
}

/// Images to be scored, and where their scores go.
pub struct ScoringBatch<'a> {
    pub images: &'a Rc<ImageSet>,
    /// The numbers of the images in the set.
    pub numbers: &'a [u32],
    /// The weights that are scored.
    pub weights: Weights,
    /// The views over which each image's logits are averaged.
    pub tta: Tta,
    /// The class probabilities, `[numbers, classes]`.
    pub probabilities: &'a mut [f32],
    /// Each image's cross-entropy, without label smoothing.
    pub losses: &'a mut [f32],
}

/// What is known of an opened device.
#[derive(Clone)]
pub struct DeviceInfo {
    /// The device in the header's words: `CPU 2 threads AVX-512`.
    pub words: String,
    /// Threads of the CPU that compute.
    pub threads: Rc<Threads>,
    /// The index of the CUDA device that computes, if one does.
    pub gpu_index: Option<usize>,
    /// Why `--device auto` does not use the GPU of this computer. None if it uses it, or there is no GPU.
    pub unused_gpu: Option<String>,
}

/// An opened device. It owns what its backends share and outlives them. One thread opens, uses and drops it.
pub trait Device {
    fn info(&self) -> &DeviceInfo;

    /// The number formats that the device supports.
    fn precisions(&self) -> &'static [Precision] {
        &[Precision::F32]
    }

    /// The number format of its products where `precision` is wanted: f32 on a device with one format.
    fn number_format(&self, precision: Precision) -> NumberFormat {
        match self.precisions() {
            [_] => NumberFormat::F32,
            _ => precision.on_gpu(),
        }
    }

    /// Whether the runs of one process should share it: steps of members of several runs go into the same launches.
    fn is_shared(&self) -> bool {
        false
    }

    /// Measures the peak of the multiply-add units in floating-point operations a second. None if it cannot be
    /// measured.
    fn peak_flops(&self) -> Option<f64> {
        None
    }

    /// Measures each launch of a training step and of a scoring pass alone, on a network that is then dropped. The step's
    /// batch is the largest that the network takes. None on a device without launches of its own.
    ///
    /// # Errors
    /// Returns an error if the step or the architecture does not fit, memory is short, or the device fails.
    fn time_launches(
        &self,
        _spec: &NetworkSpec,
        _images: &Rc<ImageSet>,
        _step: &StepPlan,
    ) -> Result<Option<LaunchTimes>> {
        Ok(None)
    }

    /// Measures the variants of a network's kernels in batches of up to `capacity` images, as `tuning` says; those that
    /// were measured before only if `again` is set. Returns what is known of them, in the order of the launches; nothing on
    /// a device without variants. Without this call a backend measures them between two steps.
    ///
    /// # Errors
    /// Returns an error if the architecture does not fit or the device fails.
    fn tune(
        &self,
        _spec: &NetworkSpec,
        _capacity: usize,
        _tuning: GpuTuning,
        _again: bool,
    ) -> Result<Vec<TunedProduct>> {
        Ok(Vec::new())
    }

    /// A backend without members, for batches of up to `capacity` images.
    ///
    /// # Errors
    /// Returns an error if the architecture does not fit or the device fails.
    fn backend(&self, spec: &NetworkSpec, capacity: usize) -> Result<Box<dyn Backend>>;
}

/// Why no device could be opened. The messages say what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(
        "Candle cannot open {device}: {why}. This needs a program that was built with `cargo build --release --features {feature}`"
    )]
    Candle {
        device: DeviceChoice,
        feature: &'static str,
        why: String,
    },
}

/// Opens the device `choice` for an engine, with this number of CPU threads (0: one per core) and plain kernels.
///
/// # Errors
/// Returns an error if a GPU was asked for by name and cannot be used.
pub fn open(
    choice: DeviceChoice,
    engine: EngineChoice,
    threads: usize,
) -> std::result::Result<Rc<dyn Device>, OpenError> {
    open_tuned(choice, engine, threads, GpuTuning::Off)
}

/// Like [`open`], with a choice of the GPU's kernels.
///
/// # Errors
/// Returns an error if a GPU was asked for by name and cannot be used.
pub fn open_tuned(
    choice: DeviceChoice,
    engine: EngineChoice,
    threads: usize,
    tuning: GpuTuning,
) -> std::result::Result<Rc<dyn Device>, OpenError> {
    let threads = Rc::new(Threads::new(threads));
    if engine == EngineChoice::Candle {
        return open_candle(choice, threads);
    }
    let opened = choice.open()?;
    let info = DeviceInfo {
        words: opened.describe(threads.count()),
        threads,
        gpu_index: opened.gpu_index(),
        unused_gpu: opened.unused_gpu().map(ToString::to_string),
    };
    Ok(match opened.gpu() {
        Some(gpu) => Rc::new(gpu::GpuDevice::new(Rc::clone(gpu) as _, info, tuning)),
        None => Rc::new(cpu::CpuDevice::new(info)),
    })
}

/// Opens a device for Candle. `auto` is the CPU, since Candle is mainly used for comparisons.
fn open_candle(
    choice: DeviceChoice,
    threads: Rc<Threads>,
) -> std::result::Result<Rc<dyn Device>, OpenError> {
    let (opened, feature) = match choice {
        DeviceChoice::Auto | DeviceChoice::Cpu => {
            return Ok(Rc::new(CandleDevice::cpu(threads)));
        }
        DeviceChoice::Cuda(index) => (CandleDevice::cuda(index, threads), "cuda"),
        DeviceChoice::Metal(index) => (CandleDevice::metal(index, threads), "metal"),
    };
    match opened {
        Ok(device) => Ok(Rc::new(device)),
        Err(error) => Err(OpenError::Candle {
            device: choice,
            feature,
            why: error.to_string(),
        }),
    }
}

/// Trains and scores networks of one architecture.
///
/// If memory is short, a call returns an error for which [`Error::is_out_of_memory`] is true. State and capacity are
/// then as before, but the last gradients may be lost.
pub trait Backend {
    /// The number of steps per member that a call of [`Backend::train`] should have at most. It is 1 if more steps at
    /// once would not be faster.
    fn max_steps(&self) -> usize;

    /// Seconds per step of the last call of [`Backend::train`], where the call may also have waited for more steps of other
    /// runs. None where it makes no steps but the caller's, who can measure it.
    fn seconds_per_step(&self) -> Option<f64> {
        None
    }

    /// Most members that [`Backend::train`] takes in one call.
    fn members_at_once(&self) -> usize;

    /// A new member with fresh weights from `seed`, as the layers say that they begin. What layers take from training
    /// images comes from [`take_from_images`].
    ///
    /// # Errors
    /// Returns an error if memory is short or the device fails.
    fn add(&mut self, seed: u64) -> Result<MemberId>;

    /// Adds a member with a copy of another member's state.
    ///
    /// # Errors
    /// Returns an error if there is no such member, memory is short or the device fails.
    fn copy(&mut self, member: MemberId) -> Result<MemberId> {
        let state = self.export(member)?;
        let copy = self.add(0)?;
        if let Err(error) = self.import(copy, &state) {
            self.remove(copy);
            return Err(error);
        }
        Ok(copy)
    }

    /// Removes a member and frees its memory.
    fn remove(&mut self, member: MemberId);

    /// Maximum number of images in a batch.
    fn capacity(&self) -> usize;

    /// Changes the maximum number of images in a batch. Keeps the members' state; their last gradients are lost.
    ///
    /// # Errors
    /// Returns an error if memory is short or the device fails.
    fn resize(&mut self, capacity: usize) -> Result<()>;

    /// Makes training steps on images of a set: for each member in `work`, its steps in order. Returns the outcomes of
    /// each member's steps, in the order of `work`. A member has fewer outcomes than steps if a step was not finite,
    /// which is then its last, or if `stop` was set. Setting `stop` abandons the current step; only the gradients of
    /// the step before it are lost.
    ///
    /// # Errors
    /// Returns an error before any step if a batch is empty, exceeds the capacity or does not fit the network, a step
    /// is for another optimizer, a member does not exist or is listed twice, or there are more than
    /// [`Backend::members_at_once`]. Also returns an error if the device fails.
    fn train(
        &mut self,
        images: &Rc<ImageSet>,
        work: &[(MemberId, Vec<StepPlan>)],
        stop: &AtomicBool,
    ) -> Result<Vec<Vec<StepOutcome>>>;

    /// Scores images: as many as fit into [`Backend::capacity`] in all their views. Nothing is dropped and norms use their
    /// running statistics.
    ///
    /// # Errors
    /// Returns an error if there are no images or too many, or the slices have other lengths; if the average is to be
    /// scored and there is none; if the device fails.
    fn score(&mut self, member: MemberId, batch: ScoringBatch) -> Result<()>;

    /// Whether a member has an average of its weights. It begins as a copy of the weights after the first step with an
    /// `average_decay`, moves with each later one, and is dropped by a step without. It includes what the optimizer does
    /// not move: fixed filters, and the norms' running statistics, like `AveragedModel(use_buffers=True)` of PyTorch.
    ///
    /// # Errors
    /// Returns an error if there is no such member.
    fn has_average(&mut self, member: MemberId) -> Result<bool>;

    /// Scores images as [`Backend::score`] does, but with the weights of `state`. The member's own state is back when this
    /// returns.
    ///
    /// # Errors
    /// Returns the errors of [`Backend::score`], [`Backend::export`] and [`Backend::import`].
    fn score_state(
        &mut self,
        member: MemberId,
        state: &NetworkState,
        batch: ScoringBatch,
    ) -> Result<()> {
        let own = self.export(member)?;
        self.import(member, &own.with_weights(state)?)?;
        let scored = self.score(member, batch);
        self.import(member, &own)?;
        scored
    }

    /// Looks inside a network.
    ///
    /// # Errors
    /// Returns an error if there is no such member, an image does not exist, or the device fails.
    fn inspect(&mut self, member: MemberId, inspection: &Inspection) -> Result<Inspected>;

    /// A copy of a member's whole state.
    ///
    /// # Errors
    /// Returns an error if there is no such member or the device fails.
    fn export(&mut self, member: MemberId) -> Result<NetworkState>;

    /// Replaces a member's whole state. `state` may contain more tensors. The member has an average afterwards if
    /// `state` has one.
    ///
    /// # Errors
    /// Returns an error that names the tensors that are missing or have another shape; the member is then unchanged.
    /// Also returns an error if the device fails.
    fn import(&mut self, member: MemberId, state: &NetworkState) -> Result<()>;

    /// Starts measuring the parts of a training step from zero, or stops measuring.
    fn measure(&mut self, on: bool);

    /// The times since [`Backend::measure`] began, in the order of the parts; empty where they cannot be measured.
    fn timings(&self) -> Vec<PartTime>;
}

/// Puts into a new member what its layers take from training images: the images `numbers` of a set, in this order.
///
/// # Errors
/// Returns an error if there is no such member, the architecture does not fit, or the device fails.
pub fn take_from_images(
    backend: &mut dyn Backend,
    member: MemberId,
    spec: &NetworkSpec,
    images: &ImageSet,
    numbers: &[u32],
) -> Result<()> {
    checks::check_batch(spec, numbers.len(), images, numbers.iter().copied())?;
    let seen = SeenImages {
        pixels: images.pixels(),
        side: images.side(),
        numbers,
        scaling: &spec.scaling,
    };
    let tensors = weights::from_images(&spec.nodes()?, &seen);
    if tensors.is_empty() {
        return Ok(());
    }
    let mut state = backend.export(member)?;
    state.tensors.extend(tensors);
    backend.import(member, &state)
}

/// Batch size of a CPU copy of a network, which answers questions about single images for a backend that computes
/// elsewhere.
const CPU_MIRROR_BATCH: usize = 32;

/// Makes a member's steps in order until one is abandoned (None) or not finite.
fn make_steps(
    plans: &[StepPlan],
    mut step: impl FnMut(&StepPlan) -> Result<Option<StepOutcome>>,
) -> Result<Vec<StepOutcome>> {
    let mut outcomes = Vec::with_capacity(plans.len());
    for plan in plans {
        let Some(outcome) = step(plan)? else {
            break;
        };
        let ends = outcome.not_finite.is_some();
        outcomes.push(outcome);
        if ends {
            break;
        }
    }
    Ok(outcomes)
}
