//! The training loop. [`Trainer::run`] reads top to bottom: epochs, batches, one step, the evaluation after each epoch.
//! Whoever hosts it is asked between any two batches, also while images are scored, and may change a hyperparameter, ask
//! for anything, or leave; the loop is picked up later where it was left. All that decides what comes next is in
//! [`RunState`], the weights and the optimizer's state, so a checkpoint of the three continues bit for bit.

use super::checkpoint::{
    Applied, Best, Checkpoint, CheckpointError, EpochTotals, FORMAT, RunState,
};
use super::evaluate::{Scores, Scoring};
use super::training_data::{self, TrainingData};
use super::{Error, Result, schedule};
use crate::backend::{
    Backend, Device, Inspected, Inspection, MemberId, NetworkSpec, NetworkState, Scaling,
    StepOutcome, StepPlan,
};
use crate::data::batches::{self, Division};
use crate::domain::arch::{self, Shape};
use crate::domain::params::{
    self, Applies, Change, HYPERPARAMS, HyperParam, Hyperparameters, Value,
};
use crate::domain::report::{EpochReport, Split, StepReport};
use crate::hardware::stopwatch::Stopwatch;
use std::ops::ControlFlow;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Fewest images that are scored at once: a pass over a few keeps no thread busy.
const MIN_CAPACITY: usize = 32;
/// Share of a new step in the running throughput that the remaining time is estimated from, and steps before there is
/// an estimate.
const SPEED_SHARE: f64 = 0.02;
const STEPS_BEFORE_ETA: u64 = 10;
/// Seconds of training steps that a backend is asked for at a time, where it gains by more than one: the host is asked
/// that often, and the screen is drawn about that often.
pub const SECONDS_PER_SUBMISSION: f64 = 1.0 / 60.0;

/// What the trainer is doing when it polls its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Training,
    /// Scoring; `done` of `total` images.
    Evaluating {
        split: Split,
        done: u32,
        total: u32,
    },
}

/// Drives a [`Trainer`]: takes up commands between its steps and receives its reports.
pub trait TrainingHost {
    /// Called before each submission of training steps and before each chunk of an evaluation. May change the trainer.
    /// `Break` leaves the loop, or the evaluation.
    fn poll(&mut self, trainer: &mut Trainer, phase: Phase) -> ControlFlow<()>;
    /// Number of steps to submit before the host is asked again, given that `fits` of them take
    /// [`SECONDS_PER_SUBMISSION`].
    fn steps_to_submit(&self, fits: usize) -> usize {
        fits
    }
    /// A change that was accepted could not be carried out and was taken back.
    fn change_refused(&mut self, why: String);
    /// A change took effect.
    fn applied(&mut self, applied: &Applied);
    /// An epoch begins.
    fn epoch_begins(&mut self, trainer: &Trainer);
    fn stepped(&mut self, report: &StepReport);
    fn evaluated(&mut self, scores: Scores);
    /// An epoch is over and the checkpoint of its end may be taken.
    fn epoch_over(&mut self, trainer: &mut Trainer, report: &EpochReport);
}

/// Why [`Trainer::run`] came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// All epochs are through.
    Finished,
    /// The host left.
    Left,
    /// Something of step `step` is not finite, and `first` says what. Where that was the loss or a gradient, the step
    /// was not applied; where a weight, the network is spoilt and there is no checkpoint of it.
    Diverged { step: u64, first: String },
}

/// What a request to change a hyperparameter led to.
#[derive(Clone, Debug, PartialEq)]
pub enum ChangeOutcome {
    Applied(Applied),
    Waits(Change, Applies),
    /// The request was withdrawn: it equals the current value.
    Withdrawn,
    /// The requested value was requested before or is in force already.
    Unchanged,
}

/// A run in memory: network, optimizer, data, and how far it has come.
pub struct Trainer {
    backend: Box<dyn Backend>,
    member: MemberId,
    spec: NetworkSpec,
    /// Abandons the step under way when it is set.
    stop: Arc<AtomicBool>,
    training_data: Rc<TrainingData>,
    division: Division,
    layers: Vec<arch::Summary>,
    run_state: RunState,
    /// Also score the test images at each evaluation, for those who look at them.
    pub watch_test: bool,
    /// The order of the epoch under way.
    order: Vec<u32>,
    /// The hyperparameter of each request and the value that was requested before, for undo.
    requests: Vec<(&'static HyperParam, Value)>,
    /// Running throughput of the training steps, steps it rests on, and seconds of the last epoch's evaluation.
    speed: f64,
    steps_timed: u64,
    evaluation_seconds: f64,
}

impl Trainer {
    /// A new run on a device. Setting `stop` abandons the training step under way.
    ///
    /// # Errors
    /// Returns an error if the architecture does not fit, or the device has too little memory or fails.
    pub fn new(
        params: Hyperparameters,
        training_data: Rc<TrainingData>,
        device: &dyn Device,
        stop: Arc<AtomicBool>,
    ) -> Result<Self> {
        let info = &training_data.info;
        let architecture = arch::resolve(&params.architecture)?;
        let division = Division::new(training_data.train.len(), params.seed, params.validation);
        let run_state = RunState {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").into(),
            run: String::new(),
            started: 0.0,
            waiting: Vec::new(),
            changes: Vec::new(),
            architecture: architecture.to_string(),
            data: training_data.identity.clone(),
            data_source: training_data.source.clone(),
            classes: info.classes.clone(),
            side: info.side,
            mean: info.mean.clone(),
            deviation: info.std.clone(),
            step: 0,
            epochs: 0,
            step_in_epoch: 0,
            images_in_epoch: 0,
            totals: EpochTotals::default(),
            best: None,
            elapsed: 0.0,
            optimizer: Default::default(),
            metrics_bytes: 0,
            unwritten: None,
            params,
        };
        let spec = network_spec(&run_state)?;
        let layers = spec.arch.summary(spec.input, spec.classes)?;
        let mut backend = device.backend(&spec, capacity(&run_state.params))?;
        let member = backend.add(run_state.params.seed)?;
        let mut trainer = Trainer {
            backend,
            member,
            spec,
            stop,
            layers,
            training_data,
            division,
            run_state,
            watch_test: false,
            order: Vec::new(),
            requests: Vec::new(),
            speed: 0.0,
            steps_timed: 0,
            evaluation_seconds: 0.0,
        };
        trainer.shuffle();
        Ok(trainer)
    }

    /// A run that goes on from a checkpoint; `path` is for the messages.
    ///
    /// # Errors
    /// When the checkpoint does not fit the data, or its tensors not the architecture.
    pub fn resume(
        checkpoint: Checkpoint,
        path: &Path,
        training_data: Rc<TrainingData>,
        device: &dyn Device,
        stop: Arc<AtomicBool>,
    ) -> Result<Self> {
        let mismatch = |why: String| CheckpointError::Mismatch {
            path: path.into(),
            why,
        };
        let Checkpoint { run_state, tensors } = checkpoint;
        for row in HYPERPARAMS {
            row.check(row.get(&run_state.params))
                .map_err(|e| mismatch(format!("its hyperparameter {e}")))?;
        }
        if run_state.data != training_data.identity {
            return Err(mismatch(format!(
                "its run learned from {} at {} ({} + {} images, digest {}), and the data at hand is {} ({} + {} images, digest {}); name the run's data with --data",
                run_state.data.name,
                run_state.data_source,
                run_state.data.train,
                run_state.data.test,
                run_state.data.digest,
                training_data.identity.name,
                training_data.identity.train,
                training_data.identity.test,
                training_data.identity.digest,
            ))
            .into());
        }
        let params = Hyperparameters {
            architecture: run_state.architecture.clone(),
            ..run_state.params.clone()
        };
        let mut trainer = Self::new(params, training_data, device, stop)?;
        let steps = trainer.steps_per_epoch_of(&run_state.params);
        let images = trainer.division.train.len() as u64;
        let expected =
            (run_state.step_in_epoch * u64::from(run_state.params.batch_size)).min(images);
        if run_state.step_in_epoch > steps || run_state.images_in_epoch != expected {
            return Err(mismatch(format!(
                "it stands at step {} of {steps} in its epoch, after {} images",
                run_state.step_in_epoch, run_state.images_in_epoch
            ))
            .into());
        }
        let state = NetworkState {
            tensors,
            scalars: run_state.optimizer.clone(),
        };
        trainer
            .backend
            .import(trainer.member, &state)
            .map_err(|e| mismatch(e.to_string()))?;
        trainer.run_state = run_state;
        trainer.shuffle();
        Ok(trainer)
    }

    /// Trains until all epochs are through, the host leaves, or the loss is no number any more.
    ///
    /// # Errors
    /// Those of the network and the device.
    pub fn run(&mut self, host: &mut impl TrainingHost) -> Result<End> {
        loop {
            if self.at_epoch_start() {
                self.apply_waiting(host)?;
                if self.is_finished() {
                    return Ok(End::Finished);
                }
                host.epoch_begins(self);
            }
            while self.run_state.step_in_epoch < self.steps_per_epoch() {
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

    /// Makes the next training steps: one, or as many as fill a moment where the backend gains by it. Returns the first
    /// value that was not finite, if one was.
    fn train_steps(&mut self, host: &mut impl TrainingHost) -> Result<Option<String>> {
        let watch = Stopwatch::start();
        let batch_size = f64::from(self.run_state.params.batch_size);
        let fits = (SECONDS_PER_SUBMISSION * self.speed / batch_size) as usize;
        let left = self.steps_per_epoch() - self.run_state.step_in_epoch;
        let most = self.backend.max_steps().min(left as usize);
        let work = [(
            self.member,
            self.plan_steps(host.steps_to_submit(fits).clamp(1, most)),
        )];
        let outcomes = self
            .backend
            .train(&self.training_data.train, &work, &self.stop)?;
        let [(_, plans)] = work;
        let seconds = watch.seconds().map(|all| all / plans.len() as f64);
        for (plan, outcome) in plans.iter().zip(outcomes.into_iter().flatten()) {
            if outcome.not_finite.is_some() {
                return Ok(outcome.not_finite);
            }
            host.stepped(&self.advance(plan, &outcome, seconds));
        }
        Ok(None)
    }

    /// The next `count` steps of the epoch under way.
    fn plan_steps(&self, count: usize) -> Vec<StepPlan> {
        let params = &self.run_state.params;
        let mut ahead = 0;
        let mut plan = |i: u64| {
            let number = self.run_state.step_in_epoch + i;
            let batch = batches::batch(&self.order, number, params.batch_size);
            let rate = self.learning_rate(ahead, batch.len() as u64);
            ahead += batch.len() as u64;
            StepPlan::new(params, rate, self.run_state.step + 1 + i, batch)
        };
        (0..count as u64).map(&mut plan).collect()
    }

    /// Counts a step that was made; in how many seconds is not known when the process was stopped meanwhile.
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
        // Then as many as a step usually takes; before there was one, none.
        let seconds = seconds.unwrap_or(match self.steps_timed {
            0 => 0.0,
            _ => images as f64 / self.speed,
        });
        let run_state = &mut self.run_state;
        run_state.step = outcome.step;
        run_state.step_in_epoch += 1;
        run_state.images_in_epoch += images;
        run_state.elapsed += seconds;
        run_state.totals.loss += outcome.loss * images as f64;
        run_state.totals.correct += u64::from(outcome.correct);
        run_state.totals.images += images;
        run_state.totals.seconds += seconds;
        StepReport {
            first: outcome.step,
            last: outcome.step,
            epoch: self.run_state.epochs + 1,
            step_in_epoch: self.run_state.step_in_epoch,
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
            elapsed: self.run_state.elapsed,
            eta: self.eta(),
        }
    }

    /// Scores the validation images (and the test images if asked for), and closes the epoch.
    fn close_epoch(&mut self, host: &mut impl TrainingHost) -> Result<ControlFlow<()>> {
        let before = self.run_state.elapsed;
        let Some(validation) = self.evaluate(host, Split::Validation)? else {
            return Ok(ControlFlow::Break(()));
        };
        let validation = (
            validation.evaluation.loss,
            validation.evaluation.accuracy,
            {
                host.evaluated(validation);
            },
        );
        let wanted = self.run_state.params.test_each_epoch;
        let mut test_accuracy = None;
        if wanted || self.watch_test {
            let Some(test) = self.evaluate(host, Split::Test)? else {
                return Ok(ControlFlow::Break(()));
            };
            test_accuracy = wanted.then_some(test.evaluation.accuracy);
            host.evaluated(test);
        }
        self.evaluation_seconds = self.run_state.elapsed - before;

        let run_state = &mut self.run_state;
        let epoch = run_state.epochs + 1;
        let best = run_state.best.is_none_or(|b| validation.1 > b.accuracy);
        if best {
            run_state.best = Some(Best {
                accuracy: validation.1,
                epoch,
                step: run_state.step,
            });
        }
        let totals = std::mem::take(&mut run_state.totals);
        let images = totals.images.max(1) as f64;
        let report = EpochReport {
            epoch,
            step: run_state.step,
            train_loss: totals.loss / images,
            train_accuracy: totals.correct as f64 / images,
            val_loss: validation.0,
            val_accuracy: validation.1,
            test_accuracy,
            best,
            images_per_s: images / totals.seconds.max(1e-9),
            elapsed: run_state.elapsed,
        };
        run_state.epochs = epoch;
        run_state.step_in_epoch = 0;
        run_state.images_in_epoch = 0;
        self.shuffle();
        host.epoch_over(self, &report);
        Ok(ControlFlow::Continue(()))
    }

    /// Scores all images of a split. None when the host left half-way.
    ///
    /// # Errors
    /// Those of the network and the device.
    pub fn evaluate(
        &mut self,
        host: &mut impl TrainingHost,
        split: Split,
    ) -> Result<Option<Scores>> {
        let data = Rc::clone(&self.training_data);
        let set = data.images(split);
        let images = self.images(split);
        let labels = images
            .iter()
            .map(|&i| training_data::label(set, i))
            .collect();
        let classes = self.run_state.classes.len();
        let total = images.len() as u32;
        let mut scoring = Scoring::new(images, labels, classes);
        let mut done = 0;
        while done < total as usize {
            let phase = Phase::Evaluating {
                split,
                done: done as u32,
                total,
            };
            if host.poll(self, phase).is_break() {
                return Ok(None);
            }
            let watch = Stopwatch::start();
            let end = (done + self.backend.capacity()).min(total as usize);
            self.backend.score(
                self.member,
                set,
                &scoring.images[done..end],
                &mut scoring.probabilities[done * classes..end * classes],
                &mut scoring.losses[done..end],
            )?;
            // Where the process was stopped meanwhile: as many as it took for the images before.
            let usual = || scoring.seconds / done.max(1) as f64 * (end - done) as f64;
            let seconds = watch.seconds().unwrap_or_else(usual);
            scoring.seconds += seconds;
            self.run_state.elapsed += seconds;
            done = end;
        }
        let (step, epoch) = (self.run_state.step, self.epoch());
        Ok(Some(scoring.finish(split, step, epoch, classes)))
    }

    /// Changes a hyperparameter, now or when it may change.
    ///
    /// # Errors
    /// When the value is not allowed.
    pub fn request_change(
        &mut self,
        row: &'static HyperParam,
        value: Value,
    ) -> std::result::Result<ChangeOutcome, crate::domain::params::HyperParamError> {
        let value = row.check(value)?;
        let before = self.wanted(row);
        if value == before {
            return Ok(ChangeOutcome::Unchanged);
        }
        self.requests.push((row, before));
        self.accept(row, value)
    }

    /// Takes the last request back. Returns None if there is none.
    ///
    /// # Errors
    /// When the earlier value is not allowed (it was, so never).
    pub fn undo(
        &mut self,
    ) -> std::result::Result<
        Option<(&'static HyperParam, ChangeOutcome)>,
        crate::domain::params::HyperParamError,
    > {
        match self.requests.pop() {
            Some((row, before)) => Ok(Some((row, self.accept(row, before)?))),
            None => Ok(None),
        }
    }

    fn accept(
        &mut self,
        row: &'static HyperParam,
        value: Value,
    ) -> std::result::Result<ChangeOutcome, crate::domain::params::HyperParamError> {
        self.run_state.waiting.retain(|(key, _)| key != row.key);
        let live = row.get(&self.run_state.params);
        if live == value {
            return Ok(ChangeOutcome::Withdrawn);
        }
        let now = match row.applies {
            Applies::Now => true,
            Applies::NextEpoch => self.at_epoch_start(),
            Applies::NextRun => false,
        };
        if now {
            return Ok(ChangeOutcome::Applied(self.apply(row, value)?));
        }
        let waiting = (row.key.into(), value.clone());
        self.run_state.waiting.push(waiting);
        let change = Change {
            key: row.key.into(),
            old: live,
            new: value,
        };
        Ok(ChangeOutcome::Waits(change, row.applies))
    }

    /// The hyperparameters of a restart: those in force, with everything that waits.
    pub fn wanted_params(&self) -> Hyperparameters {
        let mut params = self.run_state.params.clone();
        for row in HYPERPARAMS {
            // A value that waits was checked when it was requested.
            let _ = row.set(&mut params, self.wanted(row));
        }
        params
    }

    fn wanted(&self, row: &HyperParam) -> Value {
        let waiting = self
            .run_state
            .waiting
            .iter()
            .find(|(key, _)| key == row.key);
        waiting.map_or_else(
            || row.get(&self.run_state.params),
            |(_, value)| value.clone(),
        )
    }

    fn apply(
        &mut self,
        row: &'static HyperParam,
        value: Value,
    ) -> std::result::Result<Applied, crate::domain::params::HyperParamError> {
        let old = row.get(&self.run_state.params);
        row.set(&mut self.run_state.params, value.clone())?;
        let applied = Applied {
            change: Change {
                key: row.key.into(),
                old,
                new: value,
            },
            step: self.run_state.step + 1,
            epoch: self.run_state.epochs + 1,
        };
        self.run_state.changes.push(applied.clone());
        Ok(applied)
    }

    /// At the start of an epoch: makes true what waited for it.
    fn apply_waiting(&mut self, host: &mut impl TrainingHost) -> Result<()> {
        let batch_size = self.run_state.params.batch_size;
        for row in HYPERPARAMS
            .iter()
            .filter(|r| r.applies == Applies::NextEpoch)
        {
            let waiting = &mut self.run_state.waiting;
            if let Some(at) = waiting.iter().position(|(key, _)| key == row.key) {
                let (_, value) = waiting.remove(at);
                let applied = self.apply(row, value)?;
                host.applied(&applied);
            }
        }
        let capacity = capacity(&self.run_state.params);
        if capacity == self.backend.capacity() {
            return Ok(());
        }
        match self.backend.resize(capacity) {
            Err(error) if error.is_out_of_memory() => {
                if let Some(row) = params::param("batch_size") {
                    let before = Value::Int(u64::from(batch_size));
                    if let Ok(applied) = self.apply(row, before) {
                        host.applied(&applied);
                    }
                }
                host.change_refused(error.to_string());
            }
            other => other?,
        }
        Ok(())
    }

    /// Spoils the first number of parameter number `which`, to see what comes of it.
    #[cfg(test)]
    pub(crate) fn spoil(&mut self, which: usize, with: f32) {
        let look = Inspection {
            gradients: true,
            ..Inspection::default()
        };
        let parameters = self.inspect(&look).unwrap().gradients;
        let (name, _) = &parameters[which % parameters.len()];
        let mut state = self.state().unwrap();
        state.tensors.get_mut(name).unwrap().values[0] = with;
        self.backend.import(self.member, &state).unwrap();
    }

    /// A copy of all that resuming needs, on no device. None when a weight is not finite: such weights are not saved.
    ///
    /// # Errors
    /// Returns an error if the device fails.
    pub fn checkpoint(&mut self) -> Result<Option<Checkpoint>> {
        let state = self.backend.export(self.member)?;
        if !state.is_finite() {
            return Ok(None);
        }
        let mut run_state = self.run_state.clone();
        run_state.optimizer = state.scalars;
        Ok(Some(Checkpoint {
            run_state,
            tensors: state.tensors,
        }))
    }

    /// The numbers of a split's images in their pool, in the split's own order.
    pub fn images(&self, split: Split) -> Vec<u32> {
        match split {
            Split::Train => self.division.train.clone(),
            Split::Validation => self.division.validation.clone(),
            Split::Test => (0..self.training_data.test.len() as u32).collect(),
        }
    }

    /// The network's layers, line by line.
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

    /// The run's name and start, for its checkpoints.
    pub fn set_identity(&mut self, run: String, started: f64) {
        self.run_state.run = run;
        self.run_state.started = started;
    }

    /// Where the metrics stand, for the next checkpoint.
    pub fn set_metrics(&mut self, (bytes, unwritten): (u64, Option<StepReport>)) {
        self.run_state.metrics_bytes = bytes;
        self.run_state.unwritten = unwritten;
    }

    pub fn spec(&self) -> &NetworkSpec {
        &self.spec
    }

    /// A copy of the network's and the optimizer's state.
    ///
    /// # Errors
    /// Returns an error if the device fails.
    pub fn state(&mut self) -> Result<NetworkState> {
        Ok(self.backend.export(self.member)?)
    }

    /// Looks inside the network.
    ///
    /// # Errors
    /// Returns an error if an image does not exist or the device fails.
    pub fn inspect(&mut self, inspection: &Inspection) -> Result<Inspected> {
        Ok(self.backend.inspect(self.member, inspection)?)
    }

    /// The epoch under way or just over, from 1; 0 before the first step.
    pub fn epoch(&self) -> u32 {
        self.run_state.epochs + u32::from(self.run_state.step_in_epoch > 0)
    }

    pub fn is_finished(&self) -> bool {
        self.at_epoch_start() && self.run_state.epochs >= self.run_state.params.epochs
    }

    /// Steps of an epoch with the batch size in force.
    pub fn steps_per_epoch(&self) -> u64 {
        self.steps_per_epoch_of(&self.run_state.params)
    }

    fn steps_per_epoch_of(&self, params: &Hyperparameters) -> u64 {
        batches::steps(self.division.train.len(), params.batch_size)
    }

    fn at_epoch_start(&self) -> bool {
        self.run_state.step_in_epoch == 0
    }

    fn shuffle(&mut self) {
        let epoch = u64::from(self.run_state.epochs) + 1;
        self.order = self.division.order(self.run_state.params.seed, epoch);
    }

    /// The effective learning rate of a step of `images` images that comes after `ahead` images which are planned but not
    /// yet trained on.
    fn learning_rate(&self, ahead: u64, images: u64) -> f64 {
        let whole = self.division.train.len().max(1) as f64;
        let epochs = f64::from(self.run_state.epochs);
        let seen = self.run_state.images_in_epoch + ahead;
        let before = epochs + seen as f64 / whole;
        let after = epochs + (seen + images) as f64 / whole;
        schedule::rate(&self.run_state.params, before, after)
    }

    fn time(&mut self, images: u64, seconds: f64) {
        let speed = images as f64 / seconds.max(1e-9);
        self.steps_timed += 1;
        // A plain mean at first, so that the slow first step does not linger.
        let share = SPEED_SHARE.max(1.0 / self.steps_timed as f64);
        self.speed += share * (speed - self.speed);
    }

    fn eta(&self) -> Option<f64> {
        if self.steps_timed < STEPS_BEFORE_ETA {
            return None;
        }
        let whole = self.division.train.len() as f64;
        let epochs = f64::from(
            self.run_state
                .params
                .epochs
                .saturating_sub(self.run_state.epochs),
        );
        let images = epochs * whole - self.run_state.images_in_epoch as f64;
        Some(images.max(0.0) / self.speed + epochs * self.evaluation_seconds)
    }
}

fn capacity(params: &Hyperparameters) -> usize {
    (params.batch_size as usize).max(MIN_CAPACITY)
}

/// What a run trains: its architecture for its data, with its optimizer and number format.
///
/// # Errors
/// Returns an error if the architecture cannot be read, or the statistics are not those of three channels.
pub fn network_spec(run_state: &RunState) -> Result<NetworkSpec> {
    let three = |numbers: &[f32]| {
        <[f32; 3]>::try_from(numbers)
            .map_err(|_| Error::Question("the data's channel statistics are missing".into()))
    };
    let scaling = match run_state.params.standardize {
        true => Scaling::standard(three(&run_state.mean)?, three(&run_state.deviation)?),
        false => Scaling::UNIT,
    };
    Ok(NetworkSpec {
        arch: arch::resolve(&run_state.architecture)?,
        input: Shape::new(3, run_state.side, run_state.side),
        classes: run_state.classes.len(),
        scaling,
        optimizer: run_state.params.optimizer,
        precision: run_state.params.precision,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend;
    use crate::data::{Dataset, Images};
    use crate::domain::engine::EngineChoice;
    use crate::domain::params;
    use crate::domain::report::DataInfo;
    use crate::hardware::device::DeviceChoice;
    use std::sync::atomic::Ordering;

    /// Changes the learning rate half-way through an evaluation, and leaves another one.
    #[derive(Default)]
    struct Meddler {
        chunks: Vec<u32>,
        outcomes: Vec<ChangeOutcome>,
        leave_at: Option<u32>,
    }

    impl TrainingHost for Meddler {
        fn poll(&mut self, trainer: &mut Trainer, phase: Phase) -> ControlFlow<()> {
            if let Phase::Evaluating { done, .. } = phase {
                self.chunks.push(done);
                if self.leave_at == Some(done) {
                    return ControlFlow::Break(());
                }
                if done == 32 {
                    let row = params::param("learning_rate").unwrap();
                    self.outcomes
                        .push(trainer.request_change(row, Value::Float(0.25)).unwrap());
                }
            }
            ControlFlow::Continue(())
        }

        fn change_refused(&mut self, why: String) {
            panic!("{why}");
        }
        fn applied(&mut self, _: &Applied) {}
        fn epoch_begins(&mut self, _: &Trainer) {}
        fn stepped(&mut self, _: &StepReport) {}
        fn evaluated(&mut self, _: Scores) {}
        fn epoch_over(&mut self, _: &mut Trainer, _: &EpochReport) {}
    }

    /// Wants the first submissions of training steps abandoned.
    struct Impatient {
        stop: Arc<AtomicBool>,
        times: u32,
        steps: u32,
    }

    impl TrainingHost for Impatient {
        fn poll(&mut self, _: &mut Trainer, _: Phase) -> ControlFlow<()> {
            self.stop.store(self.times > 0, Ordering::Relaxed);
            self.times = self.times.saturating_sub(1);
            ControlFlow::Continue(())
        }
        fn change_refused(&mut self, why: String) {
            panic!("{why}");
        }
        fn applied(&mut self, _: &Applied) {}
        fn epoch_begins(&mut self, _: &Trainer) {}
        fn stepped(&mut self, _: &StepReport) {
            self.steps += 1;
        }
        fn evaluated(&mut self, _: Scores) {}
        fn epoch_over(&mut self, _: &mut Trainer, _: &EpochReport) {}
    }

    fn small_data() -> Rc<TrainingData> {
        let images = |n: usize| Images {
            side: 8,
            pixels: (0..n * 192).map(|i| (i * 37 % 251) as u8).collect(),
            labels: (0..n).map(|i| (i % 10) as u8).collect(),
        };
        let info = DataInfo {
            classes: (0..10).map(|c| c.to_string()).collect(),
            side: 8,
            train: 120,
            test: 20,
            ..DataInfo::default()
        };
        let (train, test) = (images(120), images(20));
        Rc::new(TrainingData::new(Dataset { info, train, test }).unwrap())
    }

    #[test]
    fn a_step_that_is_abandoned_leaves_no_trace() {
        let run = |times| {
            let params = Hyperparameters {
                architecture: "conv 4, norm, relu, drop, dense 10".into(),
                epochs: 1,
                ..Hyperparameters::default()
            };
            let device = backend::open(DeviceChoice::Cpu, EngineChoice::Native, 1).unwrap();
            let stop = Arc::default();
            let mut host = Impatient {
                stop: Arc::clone(&stop),
                times,
                steps: 0,
            };
            let mut trainer = Trainer::new(params, small_data(), &*device, stop).unwrap();
            assert_eq!(trainer.run(&mut host).unwrap(), End::Finished);
            assert_eq!(host.steps, 3);
            trainer.checkpoint().unwrap().unwrap().tensors
        };
        assert!(run(0) == run(4));
    }

    #[test]
    fn a_change_is_taken_up_in_the_middle_of_an_evaluation() {
        let params = Hyperparameters {
            architecture: "conv 4, relu, dense 10".into(),
            validation: 0.8,
            ..Hyperparameters::default()
        };
        let device = backend::open(DeviceChoice::Cpu, EngineChoice::Native, 1).unwrap();
        let mut trainer = Trainer::new(params, small_data(), &*device, Arc::default()).unwrap();

        let mut host = Meddler::default();
        let scores = trainer.evaluate(&mut host, Split::Validation).unwrap();
        assert_eq!(scores.unwrap().labels.len(), 96);
        assert_eq!(host.chunks, [0, 32, 64]);
        match &host.outcomes[..] {
            [ChangeOutcome::Applied(applied)] => assert_eq!((applied.step, applied.epoch), (1, 1)),
            other => panic!("{other:?}"),
        }
        assert_eq!(trainer.run_state().params.learning_rate, 0.25);

        let mut host = Meddler {
            leave_at: Some(64),
            ..Meddler::default()
        };
        let scores = trainer.evaluate(&mut host, Split::Validation).unwrap();
        assert!(scores.is_none());
    }
}
