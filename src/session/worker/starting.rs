//! Starts a run: a new run, a resumed one, or a restart.

use super::{Result, SessionError, Worker, health};
use crate::backend::Device;
use crate::domain::health::HealthMonitor;
use crate::domain::params::{Hyperparameters, Precision, Value};
use crate::domain::report::{RunInfo, Split, State};
use crate::session::protocol::Event;
use crate::session::resume::ResumePoint;
use crate::session::run_dir::{self, RunDir, RunError};
use crate::train::checkpoint::Checkpoint;
use crate::train::trainer::Trainer;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// The trainer that continues, and why it is that of the old run if no new one could be made.
pub(super) type Replaced = (Trainer, std::result::Result<(), String>);

impl Worker<'_> {
    /// Starts a new run as the session's first.
    pub(super) fn first_run(&mut self) -> Result<Trainer> {
        let mut trainer = self.new_trainer(self.settings.params.clone())?;
        let run = self.new_run(&trainer, self.settings.name.as_deref())?;
        self.begin(&mut trainer, run, None);
        // Save the initial weights, so that the run can always go back to a checkpoint.
        self.save(&mut trainer, false);
        Ok(trainer)
    }

    /// Resumes a run as the session's first.
    pub(super) fn resumed_run(&mut self, point: ResumePoint) -> Result<Trainer> {
        if let Some(text) = point.warning {
            self.sender.event(Event::Warning { text });
        }
        let mut trainer = self.trainer_from(point.checkpoint, &point.path)?;
        let run_state = trainer.run_state();
        let (run, whole) = RunDir::resume(
            &point.folder,
            point.lease,
            &run_state.params,
            run_state.step,
            run_state.metrics_bytes,
            run_state.unwritten.clone(),
        )?;
        self.warn_of_gap(whole, &point.folder);
        let file = point.path.file_name().unwrap_or_default();
        run.adopt(&file.to_string_lossy(), run_state.is_best())?;
        let past = self.read_past(&point.folder, run_state.metrics_bytes)?;
        let step = run_state.step;
        self.begin(&mut trainer, Some(run), Some(step + 1));
        self.continue_from(step, trainer.scored_split(), past);
        self.set_all(&mut trainer, self.settings.changes());
        Ok(trainer)
    }

    /// Changes hyperparameters. If a value is refused, every viewer receives the reason.
    pub(super) fn set_all(&mut self, trainer: &mut Trainer, changes: Vec<(String, Value)>) {
        for (key, value) in changes {
            let _ = self.set(trainer, &key, value);
        }
    }

    /// Warns if the metrics in `folder` are not `whole`.
    pub(super) fn warn_of_gap(&self, whole: bool, folder: &Path) {
        if !whole {
            let text = format!(
                "the metrics in {} are shorter than the checkpoint expects; the curves have a gap",
                folder.display()
            );
            self.sender.event(Event::Warning { text });
        }
    }

    /// Reads the events in the first `bytes` of a run's metrics. Warns if lines were skipped.
    pub(super) fn read_past(&self, folder: &Path, bytes: u64) -> Result<Vec<Event>> {
        let (events, too_long) = run_dir::read_metrics(folder, bytes)
            .map_err(RunError::io("cannot read the metrics in", folder))?;
        if too_long > 0 {
            let text = format!(
                "the metrics in {} have lines that are too long to be read ({too_long}); the curves may have a gap",
                folder.display()
            );
            self.sender.event(Event::Warning { text });
        }
        Ok(events)
    }

    /// Sends the past events of a run that continues after `step`, and requests an evaluation of `split` for the
    /// screen.
    pub(super) fn continue_from(&mut self, step: u64, split: Split, mut past: Vec<Event>) {
        past.retain(Event::is_of_training);
        self.health = health::restore_monitor(&past);
        self.sender.past(past);
        self.saved_step = Some(step);
        if step > 0 {
            self.splits_to_score = vec![split];
            self.unrecorded_split = Some(split);
        }
    }

    pub(super) fn new_trainer(&self, params: Hyperparameters) -> Result<Trainer> {
        let training_data = Rc::clone(&self.training_data);
        let stop = Arc::clone(self.sender.interrupt());
        Ok(Trainer::new(params, training_data, &*self.device, stop)?)
    }

    /// A trainer that continues from a checkpoint. `path` is used in error messages.
    pub(super) fn trainer_from(&self, checkpoint: Checkpoint, path: &Path) -> Result<Trainer> {
        let training_data = Rc::clone(&self.training_data);
        let stop = Arc::clone(self.sender.interrupt());
        let device = &*self.device;
        Ok(Trainer::resume(
            checkpoint,
            path,
            training_data,
            device,
            stop,
        )?)
    }

    pub(super) fn new_run(&self, trainer: &Trainer, name: Option<&str>) -> Result<Option<RunDir>> {
        let params = &trainer.run_state().params;
        match &self.runs {
            Some(runs) => Ok(Some(RunDir::create(
                runs.folder(),
                name,
                params,
                &self.owner,
            )?)),
            None => Ok(None),
        }
    }

    /// Makes `run` the run of the session, and reports its start.
    pub(super) fn begin(
        &mut self,
        trainer: &mut Trainer,
        run: Option<RunDir>,
        resumed_at: Option<u64>,
    ) {
        self.command_files.follow(run.as_ref());
        self.run = run;
        // Leave the old log before entering the new one: leaving the old one later would undo entering the new one.
        self.logging = None;
        self.logging = self.run.as_ref().map(|run| run.log().enter());
        self.results = Default::default();
        self.earlier.clear();
        self.comparison = None;
        self.health = HealthMonitor::default();
        self.best_scored = None;
        self.average_scored = None;
        self.splits_to_score.clear();
        self.rate_test = None;
        self.unrecorded_split = None;
        self.steps = None;
        self.saved_step = None;
        self.saved_at = Instant::now();
        self.pictures_failed = None;
        let (name, folder) = match &self.run {
            Some(run) => (run.name.clone(), run.folder().display().to_string()),
            None => Default::default(),
        };
        let started = match trainer.run_state().started {
            started if started > 0.0 => started,
            _ => run_dir::now(),
        };
        trainer.set_identity(name.clone(), started);
        if trainer.scored_split() == Split::Test {
            self.shown = Split::Test;
        }
        trainer.watch_test = self.shown == Split::Test;
        self.set_length(trainer);
        let layers = trainer.layers();
        let division = trainer.division();
        let run_state = trainer.run_state();
        let info = RunInfo {
            name,
            folder,
            data: self.training_data.info.clone(),
            device: words_of_device(&*self.device, run_state.params.precision),
            params: run_state.params.clone(),
            architecture: run_state.architecture.clone(),
            parameters: layers.iter().map(|l| l.parameters).sum(),
            multiply_adds: layers.iter().map(|l| l.multiply_adds).sum(),
            layers,
            train: division.train.len() as u32,
            validation: division.validation.len() as u32,
            test: self.training_data.info.test,
            steps_per_epoch: trainer.steps_per_epoch(),
            split_seed: run_state.split_seed,
            origin: run_state.origin.clone(),
            resumed_at,
            started,
        };
        tracing::info!("run {} begins: {:?}", info.name, info.params);
        self.record(Event::Started(Box::new(info)));
        if let Some(error) = &self.device.info().unused_gpu {
            self.warn(format!("the GPU is not used: {error}"));
        }
        let warnings = self.run.as_mut().map(RunDir::take_warnings);
        warnings.into_iter().flatten().for_each(|w| self.warn(w));
    }

    /// Replaces the run by a new one with all pending changes; see [`Worker::replace`].
    pub(super) fn restart(&mut self, trainer: Trainer) -> Result<Replaced> {
        let params = trainer.wanted_params();
        let make = |worker: &Self| {
            let trainer = worker.new_trainer(params)?;
            Ok((worker.new_run(&trainer, None)?, trainer))
        };
        self.replace(trainer, "restarted", make, |worker, (run, mut trainer)| {
            worker.begin(&mut trainer, run, None);
            worker.save(&mut trainer, false);
            trainer
        })
    }

    /// Replaces the run by another one, which `make` builds and `begin` starts. The old network's memory is freed before
    /// the new network is built. If the new run cannot be made, the old network is built again and its run continues; the
    /// reason, which says that the run could not be `verb`, is then the second part of the result.
    ///
    /// # Errors
    /// Returns an error if the old run cannot be built again.
    pub(super) fn replace<T>(
        &mut self,
        mut trainer: Trainer,
        verb: &str,
        make: impl FnOnce(&Self) -> Result<T>,
        begin: impl FnOnce(&mut Self, T) -> Trainer,
    ) -> Result<Replaced> {
        let failed =
            |error: &dyn std::fmt::Display| Err(format!("the run could not be {verb}: {error}"));
        self.save_everything(&mut trainer);
        let suspended = match trainer.suspend() {
            Ok(suspended) => suspended,
            Err(kept) => {
                let (trainer, error) = *kept;
                return Ok((trainer, failed(&error)));
            }
        };
        match make(self) {
            Ok(new) => {
                if self.end_state.is_none() {
                    // Viewers learn it from the start of the new run: the session goes on.
                    self.write(|run| run.event(&Event::State(State::Stopped)));
                }
                (self.paused, self.went_back_to) = (false, None);
                Ok((begin(self, new), Ok(())))
            }
            Err(restart) => match suspended.rebuild(&*self.device) {
                Ok(trainer) => Ok((trainer, failed(&restart))),
                Err(rebuild) => Err(SessionError::Restart {
                    restart: restart.to_string(),
                    rebuild,
                }),
            },
        }
    }

    pub(super) fn set_length(&mut self, trainer: &Trainer) {
        if let Some(run) = &mut self.run {
            run.set_length(trainer.total_steps());
        }
    }
}

/// The device in the header's words, with the number format of its products where it has several.
fn words_of_device(device: &dyn Device, precision: Precision) -> String {
    let words = &device.info().words;
    match device.precisions() {
        [_] => words.clone(),
        _ => format!("{words} {}", device.number_format(precision).word()),
    }
}
