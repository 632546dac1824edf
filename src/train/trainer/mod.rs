//! The training loop. [`Trainer::run`] reads top to bottom: epochs, batches, one step, the evaluation after each epoch.
//!
//! The [`TrainingHost`] is polled between batches, and between chunks of an evaluation. It may change a hyperparameter,
//! query the network, or leave; a later call of [`Trainer::run`] continues where the loop was left. The [`RunState`],
//! the weights and the optimizer's state determine all following steps, so a checkpoint of the three continues bit for
//! bit.

mod changes;
mod comparison;
mod epochs;
mod fork;
mod look_back;
mod pace;
mod rate_test;
mod reset;
mod resume;
mod scoring;
#[cfg(test)]
mod tests;

pub use changes::ChangeOutcome;
pub use comparison::{CompareError, KeptVariant};
pub use epochs::SplitScores;
pub use reset::ResetError;
pub use resume::Suspended;

use super::checkpoint::{Applied, RunState};
use super::evaluate::Scores;
use super::training_data::TrainingData;
use super::{Error, Result, schedule};
use crate::backend::{
    Backend, Inspected, Inspection, MemberId, NetworkSpec, Scaling, StepOutcome, StepPlan, rule,
};
use crate::data::batches::{self, Division};
use crate::domain::arch::{self, Shape};
use crate::domain::comparison::ComparisonReport;
use crate::domain::params::{Hyperparameters, Rates};
use crate::domain::report::{EpochReport, Evaluation, Split, StepReport};
use crate::hardware::stopwatch::Stopwatch;
use changes::Undoable;
use comparison::Variant;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Minimum number of images scored at once; fewer do not keep all threads busy.
const MIN_CAPACITY: usize = 32;
/// Duration in seconds of the training steps submitted at a time to a backend that takes several. It is also the
/// interval at which the host is polled.
pub const SECONDS_PER_SUBMISSION: f64 = 1.0 / 60.0;

/// What the trainer is doing when it polls its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Training,
    /// Scoring a split: `done` of `total` images.
    Evaluating {
        split: Split,
        done: u32,
        total: u32,
    },
    /// Testing learning rates on a copy of the network.
    TestingRates,
}

/// The caller of a [`Trainer`]: is polled between steps, when it may carry out commands, and receives the reports.
pub trait TrainingHost {
    /// Called before each submission of training steps and before each chunk of an evaluation. May change the trainer.
    /// `Break` leaves the loop, or the evaluation.
    fn poll(&mut self, trainer: &mut Trainer, phase: Phase) -> ControlFlow<()>;
    /// Number of steps to submit before the host is asked again, given that `fits` of them take
    /// [`SECONDS_PER_SUBMISSION`].
    fn steps_to_submit(&self, fits: usize) -> usize {
        fits
    }
    /// An accepted change could not be carried out and was undone.
    fn change_refused(&mut self, why: String);
    /// A change took effect.
    fn applied(&mut self, applied: &Applied);
    /// An epoch begins.
    fn epoch_begins(&mut self, trainer: &Trainer);
    fn stepped(&mut self, report: &StepReport);
    fn evaluated(&mut self, scores: Scores);
    /// An epoch has ended; a checkpoint of its end may be made now.
    fn epoch_over(&mut self, trainer: &mut Trainer, report: &EpochReport);
    /// The variant made a step, or an epoch was scored with it, or it diverged (None).
    fn compared(&mut self, _step: Option<&StepReport>, _report: &ComparisonReport) {}
    fn variant_evaluated(&mut self, _evaluation: &Evaluation) {}
    fn variant_epoch_over(&mut self, _report: &EpochReport) {}
    /// The comparison ended because memory was short.
    fn comparison_refused(&mut self, _report: ComparisonReport, _why: String) {}
}

/// Which of the trainer's networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    Run,
    /// That with the change of a comparison.
    Variant,
}

/// The reason why [`Trainer::run`] returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// All epochs are done.
    Finished,
    /// The host left.
    Left,
    /// A value in step `step` is not finite; `first` names the first one. If it is the loss or a gradient, the step was
    /// not applied. If it is a weight, the weights are unusable and no checkpoint is made of them.
    Diverged { step: u64, first: String },
}

/// A run in memory: network, optimizer, data and progress.
pub struct Trainer {
    backend: Box<dyn Backend>,
    member: MemberId,
    spec: NetworkSpec,
    /// Setting it abandons the current step.
    stop: Arc<AtomicBool>,
    training_data: Rc<TrainingData>,
    division: Division,
    layers: Vec<arch::Summary>,
    run_state: RunState,
    /// The network with the change of a comparison, while there is one.
    variant: Option<Variant>,
    /// Whether to score the test images too at each evaluation, since a viewer shows them.
    pub watch_test: bool,
    /// The order of the images in the current epoch.
    order: Vec<u32>,
    /// For undo.
    requests: Vec<Undoable>,
    /// Running mean of the training throughput in images/s, the number of steps in it, and the seconds of the last
    /// epoch's evaluation.
    speed: f64,
    steps_timed: u64,
    evaluation_seconds: f64,
}

impl Trainer {
    /// Trains until all epochs are done, the host leaves, or a step is not finite.
    ///
    /// # Errors
    /// Returns an error if the device runs out of memory or a kernel launch fails.
    pub fn run(&mut self, host: &mut impl TrainingHost) -> Result<End> {
        loop {
            if self.run_state.is_closed() {
                self.apply_pending(host)?;
                if self.is_finished() {
                    return Ok(End::Finished);
                }
                if self.at_epoch_start() {
                    host.epoch_begins(self);
                }
            }
            while self.run_state.step_in_epoch < self.steps_of_epoch() {
                if host.poll(self, Phase::Training).is_break() {
                    return Ok(End::Left);
                }
                if let Some(first) = self.train_steps(host)? {
                    return Ok(End::Diverged {
                        step: self.run_state.step + 1,
                        first,
                    });
                }
            }
            if self.close_epoch(host)?.is_break() {
                return Ok(End::Left);
            }
        }
    }

    /// Trains on the next batches: as many as take [`SECONDS_PER_SUBMISSION`], up to the backend's most at a time.
    /// Returns the name of the first value that was not finite, if any.
    fn train_steps(&mut self, host: &mut impl TrainingHost) -> Result<Option<String>> {
        let watch = Stopwatch::start();
        let left = self.steps_of_epoch() - self.run_state.step_in_epoch;
        let most = self.backend.max_steps().min(left as usize);
        let count = host.steps_to_submit(self.steps_that_fit()).clamp(1, most);
        let plans = self.plan_steps(&self.run_state, count);
        let (outcomes, of_variant) = match self.train_networks(&plans) {
            Err(Error::Backend(error))
                if error.is_out_of_memory() && self.refuse_average(host, &error)? =>
            {
                return Ok(None);
            }
            other => other?,
        };
        let seconds = watch.seconds().map(|all| all / plans.len() as f64);
        let mut not_finite = None;
        for (plan, outcome) in plans.iter().zip(&outcomes) {
            if outcome.not_finite.is_some() {
                not_finite = outcome.not_finite.clone();
                break;
            }
            host.stepped(&self.advance(plan, outcome, seconds));
        }
        if let Some(steps) = of_variant {
            self.advance_variant(host, steps, &outcomes, seconds)?;
        }
        Ok(not_finite)
    }

    /// The batches and settings of the next `count` steps of the current epoch, for a network in this state.
    fn plan_steps(&self, run_state: &RunState, count: usize) -> Vec<StepPlan> {
        let params = &run_state.params;
        let mut ahead = 0;
        let mut plan = |i: u64| {
            let number = run_state.step_in_epoch + i;
            let batch = batches::batch(&self.order, number, params.batch_size);
            let rates = self.learning_rates(run_state, ahead, batch.len() as u64);
            ahead += batch.len() as u64;
            let number = (run_state.step + 1 + i, run_state.epochs + 1);
            StepPlan::new(params, rates, number, batch)
        };
        (0..count as u64).map(&mut plan).collect()
    }

    /// Counts a finished step and returns its report. `seconds` is None if the process was suspended during the step;
    /// the usual time of a step is then assumed.
    fn advance(
        &mut self,
        plan: &StepPlan,
        outcome: &StepOutcome,
        seconds: Option<f64>,
    ) -> StepReport {
        let images = plan.images.len() as u64;
        if let Some(seconds) = seconds {
            self.time(images, seconds);
        }
        let seconds = seconds.unwrap_or(match self.steps_timed {
            0 => 0.0,
            _ => images as f64 / self.speed,
        });
        count(&mut self.run_state, images, outcome, seconds);
        self.step_report(&self.run_state, plan, outcome, seconds)
    }

    /// The report of the last step of a network in this state.
    fn step_report(
        &self,
        run_state: &RunState,
        plan: &StepPlan,
        outcome: &StepOutcome,
        seconds: f64,
    ) -> StepReport {
        let images = plan.images.len() as u64;
        StepReport {
            first: outcome.step,
            last: outcome.step,
            epoch: run_state.epochs + 1,
            step_in_epoch: run_state.step_in_epoch,
            steps_per_epoch: self.steps_per_epoch(),
            images,
            loss: outcome.loss,
            loss_min: outcome.loss,
            loss_max: outcome.loss,
            correct: u64::from(outcome.correct),
            grad_norm: outcome.grad_norm,
            learning_rate: plan.settings.learning_rate,
            images_per_s: match seconds {
                0.0 => 0.0,
                seconds => images as f64 / seconds.max(1e-9),
            },
            elapsed: run_state.elapsed,
            eta: self.eta(),
        }
    }

    fn has_average_of(&mut self, network: Network) -> Result<bool> {
        let member = self.member_of(network);
        Ok(self.backend.has_average(member)?)
    }

    fn member_of(&self, network: Network) -> MemberId {
        match (&self.variant, network) {
            (Some(variant), Network::Variant) => variant.member(),
            _ => self.member,
        }
    }

    /// Whether there is an average of the weights: the last step had an `average_decay`.
    ///
    /// # Errors
    /// Returns an error if the device fails.
    pub fn has_average(&mut self) -> Result<bool> {
        self.has_average_of(Network::Run)
    }

    /// The indices of a split's images in their image set, in the split's order.
    pub fn images(&self, split: Split) -> Vec<u32> {
        match split {
            Split::Train => self.division.train.clone(),
            Split::Validation => self.division.validation.clone(),
            Split::Test => (0..self.training_data.test.len() as u32).collect(),
        }
    }

    /// The images that are scored after each epoch.
    pub fn scored_split(&self) -> Split {
        self.run_state.params.scored_split()
    }

    /// A summary of each layer of the network.
    pub fn layers(&self) -> Vec<arch::Summary> {
        self.layers.clone()
    }

    pub fn division(&self) -> &Division {
        &self.division
    }

    pub fn training_data(&self) -> &Rc<TrainingData> {
        &self.training_data
    }

    pub fn run_state(&self) -> &RunState {
        &self.run_state
    }

    pub fn spec(&self) -> &NetworkSpec {
        &self.spec
    }

    /// Returns activations, norms or filters of the network.
    ///
    /// # Errors
    /// Returns an error if an image does not exist or the device fails.
    pub fn inspect(&mut self, inspection: &Inspection) -> Result<Inspected> {
        Ok(self.backend.inspect(self.member, inspection)?)
    }

    /// The current epoch, or the one that has just ended, counted from 1; 0 before the first step.
    pub fn epoch(&self) -> u32 {
        self.run_state.epoch()
    }

    pub fn is_finished(&self) -> bool {
        self.run_state.is_closed() && self.run_state.step_in_epoch >= self.steps_of_epoch()
    }

    /// Number of training steps in the whole run at the current batch size.
    pub fn total_steps(&self) -> u64 {
        self.run_state.params.total_steps(self.steps_per_epoch())
    }

    /// Number of steps in a whole epoch at the current batch size.
    pub fn steps_per_epoch(&self) -> u64 {
        self.steps_per_epoch_of(&self.run_state.params)
    }

    fn steps_per_epoch_of(&self, params: &Hyperparameters) -> u64 {
        batches::steps(
            self.division.train.len(),
            params.batch_size,
            params.drop_last,
        )
    }

    /// Number of steps in the current epoch: fewer than in others if the run ends within it, 0 if the run has ended.
    pub fn steps_of_epoch(&self) -> u64 {
        let whole = self.steps_per_epoch();
        let before = u64::from(self.run_state.epochs) * whole;
        whole.min(self.total_steps().saturating_sub(before))
    }

    /// Number of images that an epoch trains on.
    fn epoch_images(&self) -> f64 {
        self.epoch_images_of(&self.run_state.params) as f64
    }

    fn epoch_images_of(&self, params: &Hyperparameters) -> u64 {
        let most = self.steps_per_epoch_of(params) * u64::from(params.batch_size);
        most.min(self.division.train.len() as u64)
    }

    fn at_epoch_start(&self) -> bool {
        self.run_state.step_in_epoch == 0
    }

    fn shuffle(&mut self) {
        let epoch = u64::from(self.run_state.epochs) + 1;
        self.order = self.division.order(self.run_state.params.seed, epoch);
    }

    /// The learning rates of a step of `images` images that comes after `ahead` images which are planned but not
    /// yet trained on.
    fn learning_rates(&self, run_state: &RunState, ahead: u64, images: u64) -> Rates {
        let whole = self.epoch_images().max(1.0);
        let epochs = f64::from(run_state.epochs);
        let seen = run_state.images_in_epoch + ahead;
        let before = epochs + seen as f64 / whole;
        let after = epochs + (seen + images) as f64 / whole;
        schedule::rates(&run_state.params, before, after)
    }
}

/// Counts a finished step of `images` images, which took `seconds`.
fn count(run_state: &mut RunState, images: u64, outcome: &StepOutcome, seconds: f64) {
    run_state.step = outcome.step;
    run_state.step_in_epoch += 1;
    run_state.images_in_epoch += images;
    run_state.elapsed += seconds;
    run_state.totals.loss += outcome.loss * images as f64;
    run_state.totals.correct += u64::from(outcome.correct);
    run_state.totals.images += images;
    run_state.totals.seconds += seconds;
}

/// Maximum number of images that the network of a run computes at once.
pub fn capacity(params: &Hyperparameters) -> usize {
    (params.batch_size as usize).max(MIN_CAPACITY)
}

/// The network of a run: its architecture, input, classes, optimizer and number format.
///
/// # Errors
/// Returns an error if the architecture cannot be read or the statistics are missing.
pub fn network_spec(run_state: &RunState) -> Result<NetworkSpec> {
    let params = Hyperparameters {
        architecture: run_state.architecture.clone(),
        ..run_state.params.clone()
    };
    let classes = run_state.classes.len();
    let statistics = (&run_state.mean[..], &run_state.deviation[..]);
    spec_for(&params, run_state.side, classes, statistics)
}

/// The network of these hyperparameters for images of `side` x `side` pixels with `classes` classes. The
/// statistics are the mean and the standard deviation of each of the images' channels.
///
/// # Errors
/// Returns an error if the architecture cannot be read or the statistics are missing.
pub fn spec_for(
    params: &Hyperparameters,
    side: u32,
    classes: usize,
    (mean, std): (&[f32], &[f32]),
) -> Result<NetworkSpec> {
    if mean.is_empty() || mean.len() != std.len() {
        return Err(Error::Question(
            "the data's channel statistics are missing".into(),
        ));
    }
    let scaling = match params.standardize {
        true => Scaling::standard(mean, std),
        false => Scaling::UNIT,
    };
    Ok(NetworkSpec {
        arch: arch::resolve(&params.architecture)?,
        input: Shape::new(mean.len() as u32, side, side),
        classes,
        scaling,
        optimizer: rule(params.optimizer),
        precision: params.precision,
    })
}
