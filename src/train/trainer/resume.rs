//! New runs, runs that continue from a checkpoint, and the checkpoints themselves.

use super::changes::Undoable;
use super::{Trainer, capacity, network_spec};
use crate::backend::{self, Device, NetworkState};
use crate::data::batches::Division;
use crate::domain::arch;
use crate::domain::params::{HYPERPARAMS, Hyperparameters};
use crate::domain::report::StepReport;
use crate::train::checkpoint::{Checkpoint, CheckpointError, EpochTotals, FORMAT, RunState};
use crate::train::training_data::TrainingData;
use crate::train::{Error, Result};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A run whose network holds no memory of the device.
pub struct Suspended {
    checkpoint: Checkpoint,
    training_data: Rc<TrainingData>,
    stop: Arc<AtomicBool>,
    watch_test: bool,
    requests: Vec<Undoable>,
    /// Running throughput, steps that it rests on, and seconds of an evaluation.
    pace: (f64, u64, f64),
}

impl Suspended {
    /// Builds the network again, in the state in which it was.
    ///
    /// # Errors
    /// Returns an error if the device has too little memory or fails.
    pub fn rebuild(self, device: &dyn Device) -> Result<Trainer> {
        let path = Path::new("the suspended run");
        let mut trainer =
            Trainer::resume(self.checkpoint, path, self.training_data, device, self.stop)?;
        trainer.watch_test = self.watch_test;
        trainer.requests = self.requests;
        (
            trainer.speed,
            trainer.steps_timed,
            trainer.evaluation_seconds,
        ) = self.pace;
        Ok(trainer)
    }
}

pub(super) fn mismatch(path: &Path, why: String) -> CheckpointError {
    CheckpointError::Mismatch {
        path: path.into(),
        why,
    }
}

/// Whether a run can continue on this data.
pub(super) fn check(
    run_state: &RunState,
    path: &Path,
    training_data: &TrainingData,
) -> std::result::Result<(), CheckpointError> {
    for row in HYPERPARAMS {
        row.check(row.get(&run_state.params))
            .map_err(|e| mismatch(path, format!("its hyperparameter {e}")))?;
    }
    if run_state.data != training_data.identity {
        let why = format!(
            "its run was trained on {} at {} ({} + {} images, digest {}), but the data set found is {} ({} + {} images, digest {}); name the run's data with --data",
            run_state.data.name,
            run_state.data_source,
            run_state.data.train,
            run_state.data.test,
            run_state.data.digest,
            training_data.identity.name,
            training_data.identity.train,
            training_data.identity.test,
            training_data.identity.digest,
        );
        return Err(mismatch(path, why));
    }
    Ok(())
}

impl Trainer {
    /// A new run on a device. Setting `stop` abandons the training step under way.
    ///
    /// # Errors
    /// Returns an error if the architecture does not fit or lacks a layer that the layer rates name, or the device has
    /// too little memory or fails.
    pub fn new(
        params: Hyperparameters,
        training_data: Rc<TrainingData>,
        device: &dyn Device,
        stop: Arc<AtomicBool>,
    ) -> Result<Self> {
        let split_seed = params.seed;
        Self::with_split(params, split_seed, training_data, device, stop)
    }

    /// A run with fresh weights for a state of another run, which the caller then puts into it.
    pub(super) fn in_state(
        run_state: &RunState,
        training_data: Rc<TrainingData>,
        device: &dyn Device,
        stop: Arc<AtomicBool>,
    ) -> Result<Self> {
        let params = Hyperparameters {
            architecture: run_state.architecture.clone(),
            ..run_state.params.clone()
        };
        Self::with_split(params, run_state.split_seed, training_data, device, stop)
    }

    /// [`Trainer::new`] with images that are split by this seed.
    fn with_split(
        params: Hyperparameters,
        split_seed: u64,
        training_data: Rc<TrainingData>,
        device: &dyn Device,
        stop: Arc<AtomicBool>,
    ) -> Result<Self> {
        let info = &training_data.info;
        let architecture = arch::resolve(&params.architecture)?;
        let division = Division::new(training_data.train.len(), split_seed, params.validation);
        let run_state = RunState {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").into(),
            run: String::new(),
            started: 0.0,
            origin: None,
            split_seed,
            pending: Vec::new(),
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
        run_state.params.layer_rates.check(&layers)?;
        let mut backend = device.backend(&spec, capacity(&run_state.params))?;
        let member = backend.add(run_state.params.seed)?;
        let images = &training_data.train;
        backend::take_from_images(&mut *backend, member, &spec, images, &division.train)?;
        let mut trainer = Trainer {
            backend,
            member,
            spec,
            stop,
            layers,
            training_data,
            division,
            run_state,
            variant: None,
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

    /// Resumes a run from a checkpoint; `path` is named in errors.
    ///
    /// # Errors
    /// Returns an error if the run was trained on other data, or the checkpoint's tensors do not fit its architecture.
    pub fn resume(
        checkpoint: Checkpoint,
        path: &Path,
        training_data: Rc<TrainingData>,
        device: &dyn Device,
        stop: Arc<AtomicBool>,
    ) -> Result<Self> {
        check(&checkpoint.run_state, path, &training_data)?;
        let mut trainer = Self::in_state(&checkpoint.run_state, training_data, device, stop)?;
        trainer.take_over(checkpoint, path)?;
        Ok(trainer)
    }

    /// Whether a checkpoint is of this network.
    pub fn can_exchange(&self, checkpoint: &Checkpoint) -> bool {
        network_spec(&checkpoint.run_state).is_ok_and(|spec| spec == self.spec)
    }

    /// Continues from another checkpoint of this run. Its state is put into the network that is there, so that no second
    /// one needs memory. Returns the state before; undo and the estimate of the remaining time begin anew.
    ///
    /// # Errors
    /// Returns an error if the checkpoint is of another network or other data, or the device fails. Nothing has changed
    /// then.
    pub fn exchange(&mut self, checkpoint: Checkpoint, path: &Path) -> Result<Checkpoint> {
        check(&checkpoint.run_state, path, &self.training_data)?;
        if !self.can_exchange(&checkpoint) {
            return Err(mismatch(path, "it is of another network".into()).into());
        }
        let before = self.whole_state()?;
        let needed = capacity(&checkpoint.run_state.params);
        if needed != self.backend.capacity() {
            self.backend.resize(needed)?;
        }
        self.take_over(checkpoint, path)?;
        self.requests.clear();
        (self.speed, self.steps_timed, self.evaluation_seconds) = (0.0, 0, 0.0);
        Ok(before)
    }

    /// Frees the network's memory and keeps its state as plain numbers.
    ///
    /// # Errors
    /// Returns the trainer, unchanged, if the device fails.
    pub fn suspend(mut self) -> std::result::Result<Suspended, Box<(Trainer, Error)>> {
        match self.whole_state() {
            Ok(checkpoint) => Ok(Suspended {
                checkpoint,
                training_data: self.training_data,
                stop: self.stop,
                watch_test: self.watch_test,
                requests: self.requests,
                pace: (self.speed, self.steps_timed, self.evaluation_seconds),
            }),
            Err(error) => Err(Box::new((self, error))),
        }
    }

    /// Puts a checkpoint's state into the network. If it fails, nothing has changed.
    pub(super) fn take_over(&mut self, checkpoint: Checkpoint, path: &Path) -> Result<()> {
        let Checkpoint { run_state, tensors } = checkpoint;
        let steps = self.steps_per_epoch_of(&run_state.params);
        let images = self.epoch_images_of(&run_state.params);
        let expected =
            (run_state.step_in_epoch * u64::from(run_state.params.batch_size)).min(images);
        if run_state.step_in_epoch > steps || run_state.images_in_epoch != expected {
            let why = format!(
                "it stands at step {} of {steps} in its epoch, after {} images",
                run_state.step_in_epoch, run_state.images_in_epoch
            );
            return Err(mismatch(path, why).into());
        }
        let state = NetworkState {
            tensors,
            scalars: run_state.optimizer.clone(),
        };
        self.backend
            .import(self.member, &state)
            .map_err(|e| mismatch(path, e.to_string()))?;
        self.run_state = run_state;
        self.shuffle();
        Ok(())
    }

    /// The run as it is, also with weights that are not finite.
    fn whole_state(&mut self) -> Result<Checkpoint> {
        let state = self.backend.export(self.member)?;
        let mut run_state = self.run_state.clone();
        run_state.optimizer = state.scalars;
        Ok(Checkpoint {
            run_state,
            tensors: state.tensors,
        })
    }

    /// Copies everything that resuming needs to host memory. Returns None if a weight is not finite: such weights are
    /// not saved.
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

    /// Sets the run's name and start time that its checkpoints record.
    pub fn set_identity(&mut self, run: String, started: f64) {
        self.run_state.run = run;
        self.run_state.started = started;
    }

    /// Sets the position in the metrics file that the next checkpoint records.
    pub fn set_metrics(&mut self, (bytes, unwritten): (u64, Option<StepReport>)) {
        self.run_state.metrics_bytes = bytes;
        self.run_state.unwritten = unwritten;
    }

    /// A copy of the network's and the optimizer's state.
    ///
    /// # Errors
    /// Returns an error if the device fails.
    pub fn state(&mut self) -> Result<NetworkState> {
        Ok(self.backend.export(self.member)?)
    }
}
