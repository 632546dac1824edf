//! Beginning a run: a new one, one that continues from a checkpoint, or a restart.

use super::{Result, SessionError, Worker, health};
use crate::domain::health::HealthMonitor;
use crate::domain::params::{self, Hyperparameters};
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

impl Worker<'_> {
    /// A new run, which the session starts with.
    pub(super) fn first_run(&mut self) -> Result<Trainer> {
        let mut trainer = self.new_trainer(self.settings.params.clone())?;
        let run = self.new_run(&trainer, self.settings.name.as_deref())?;
        self.begin(&mut trainer, run, None);
        // So that there is always something to go back to.
        self.save(&mut trainer, false);
        Ok(trainer)
    }

    /// A run that goes on, which the session starts with.
    pub(super) fn resumed_run(&mut self, point: ResumePoint) -> Result<Trainer> {
        if let Some(text) = point.warning {
            self.tell.event(Event::Warning { text });
        }
        let mut trainer = self.trainer_from(point.checkpoint, &point.path)?;
        let run_state = trainer.run_state();
        let mut past = Vec::new();
        let run = match (point.path.parent().zip(point.path.file_name()), point.lease) {
            // The checkpoint lies in no run's folder.
            (_, None) => self.new_run(&trainer, self.settings.name.as_deref())?,
            (None, Some(_)) => None,
            (Some((folder, file)), Some(lease)) => {
                let (run, whole) = RunDir::resume(
                    folder,
                    lease,
                    &run_state.params,
                    run_state.step,
                    run_state.metrics_bytes,
                    run_state.unwritten.clone(),
                )?;
                if !whole {
                    self.tell.event(Event::Warning {
                        text: format!(
                            "the metrics of {} are shorter than the checkpoint expects; the curves have a gap",
                            run.name
                        ),
                    });
                }
                run.adopt(&file.to_string_lossy(), run_state.is_best())?;
                past = self.read_past(folder, run_state.metrics_bytes)?;
                Some(run)
            }
        };
        let step = run_state.step;
        self.begin(&mut trainer, run, Some(step + 1));
        self.go_on_from(step, trainer.scored_split(), past);
        for key in &self.settings.overrides {
            if let Some(row) = params::param(key) {
                let value = row.get(&self.settings.params);
                // If the value is refused, every viewer is told.
                let _ = self.set(&mut trainer, row.key, value);
            }
        }
        Ok(trainer)
    }

    /// The events in the first `bytes` of a run's metrics; warns of lines that were passed over.
    pub(super) fn read_past(&self, folder: &Path, bytes: u64) -> Result<Vec<Event>> {
        let (events, too_long) = run_dir::read_metrics(folder, bytes)
            .map_err(RunError::io("cannot read the metrics in", folder))?;
        if too_long > 0 {
            let text = format!(
                "the metrics in {} have lines that are too long to be read ({too_long}); the curves may have a gap",
                folder.display()
            );
            self.tell.event(Event::Warning { text });
        }
        Ok(events)
    }

    /// Tells what a run that goes on after `step` knows of its past, and has a look at the images wanted.
    pub(super) fn go_on_from(&mut self, step: u64, split: Split, mut past: Vec<Event>) {
        past.retain(|event| {
            matches!(
                event,
                Event::Steps(_)
                    | Event::Epoch(_)
                    | Event::Evaluation(_)
                    | Event::Applied { .. }
                    | Event::Health(_)
            )
        });
        self.health = health::recall(&past);
        self.tell.past(past);
        self.saved_step = Some(step);
        if step > 0 {
            self.to_score = vec![split];
            self.look_only = Some(split);
        }
    }

    pub(super) fn new_trainer(&self, params: Hyperparameters) -> Result<Trainer> {
        let training_data = Rc::clone(&self.training_data);
        let stop = Arc::clone(self.tell.interrupt());
        Ok(Trainer::new(params, training_data, &*self.device, stop)?)
    }

    /// A trainer that goes on from a checkpoint; `path` is for the messages.
    pub(super) fn trainer_from(&self, checkpoint: Checkpoint, path: &Path) -> Result<Trainer> {
        let training_data = Rc::clone(&self.training_data);
        let stop = Arc::clone(self.tell.interrupt());
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

    /// Makes this the run of the session, and tells.
    pub(super) fn begin(
        &mut self,
        trainer: &mut Trainer,
        run: Option<RunDir>,
        resumed_at: Option<u64>,
    ) {
        self.run = run;
        // Left before the next is entered, as the end of the former would end the latter.
        self.logging = None;
        self.logging = self.run.as_ref().map(|run| run.log().enter());
        self.known = Default::default();
        self.health = HealthMonitor::default();
        self.best_scored = None;
        self.to_score.clear();
        self.look_only = None;
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
            device: self.device.info().words.clone(),
            params: run_state.params.clone(),
            architecture: run_state.architecture.clone(),
            parameters: layers.iter().map(|l| l.parameters).sum(),
            multiply_adds: layers.iter().map(|l| l.multiply_adds).sum(),
            layers,
            train: division.train.len() as u32,
            validation: division.validation.len() as u32,
            test: self.training_data.info.test,
            steps_per_epoch: trainer.steps_per_epoch(),
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

    /// Replaces the run by a new one with everything that waits. The old network's memory is freed before the new one
    /// needs some; where there is no new run, the old one is built again and continues, and the reason is returned
    /// beside it.
    ///
    /// # Errors
    /// Returns an error if the old run cannot be built again.
    pub(super) fn restart(
        &mut self,
        mut trainer: Trainer,
    ) -> Result<(Trainer, std::result::Result<(), String>)> {
        let failed =
            |error: &dyn std::fmt::Display| Err(format!("the run could not be restarted: {error}"));
        self.save_everything(&mut trainer);
        let params = trainer.wanted_params();
        let suspended = match trainer.suspend() {
            Ok(suspended) => suspended,
            Err(kept) => {
                let (trainer, error) = *kept;
                return Ok((trainer, failed(&error)));
            }
        };
        let made = self
            .new_trainer(params)
            .and_then(|new| Ok((self.new_run(&new, None)?, new)));
        match made {
            Ok((run, mut new)) => {
                if self.over.is_none() {
                    self.record(Event::State(State::Stopped));
                }
                self.paused = false;
                self.begin(&mut new, run, None);
                self.save(&mut new, false);
                Ok((new, Ok(())))
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
