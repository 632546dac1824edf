//! Starts a run in the state of another one.

use super::starting::Replaced;
use super::{Exit, Result, Worker};
use crate::domain::fork::ForkAt;
use crate::domain::params::{Applies, Change, Value, param};
use crate::session::fork::{self, ForkPoint};
use crate::session::protocol::{Event, ForkRequest, Outcome};
use crate::session::run_dir::{Past, RunDir};
use crate::train::checkpoint::Checkpoint;
use crate::train::saver::NewBest;
use crate::train::trainer::Trainer;
use std::rc::Rc;
use std::sync::Arc;

/// A fork that was asked for and found to be possible.
pub(super) struct CheckedFork {
    point: ForkPoint,
    /// The request with all changes, the pending ones included.
    request: ForkRequest,
}

/// A run that is ready to begin.
pub(super) struct Fork {
    trainer: Trainer,
    run: Option<RunDir>,
    /// The parent's events up to there.
    past: Vec<Event>,
    /// The best checkpoint up to there.
    best: NewBest,
}

impl Worker<'_> {
    /// Starts a fork as the session's first run.
    pub(super) fn forked_run(&mut self, point: ForkPoint) -> Result<Trainer> {
        let changes = self.settings.changes();
        let fork = self.prepare_fork(point, &changes, self.settings.name.as_deref())?;
        Ok(self.begin_fork(fork))
    }

    /// Finds the state of a run, the shown one if `of` is None. The shown run is saved first.
    ///
    /// # Errors
    /// Returns the reason if there is no such run or it has no checkpoint of that state.
    fn state_to_fork(
        &mut self,
        trainer: &mut Trainer,
        of: Option<&str>,
        at: ForkAt,
    ) -> std::result::Result<ForkPoint, String> {
        const UNSAVED: &str = "nothing is saved: this session has no runs folder";
        let own = self.run.as_ref().map(|run| run.folder().to_owned());
        let folder = match of {
            None => own.clone().ok_or(UNSAVED)?,
            Some(name) => {
                let runs = self.runs.as_ref().ok_or(UNSAVED)?;
                runs.run(name).map_err(|error| error.to_string())?
            }
        };
        if own.as_ref() == Some(&folder) {
            self.save_everything(trainer);
            if let Some(why) = &self.unsaved {
                return Err(why.clone());
            }
        }
        ForkPoint::of_run(folder, at).map_err(|error| error.to_string())
    }

    /// Handles the command to fork: the fork begins when the training loop has ended.
    ///
    /// # Errors
    /// Returns the reason if there is no such state, or the changes do not fit it.
    pub(super) fn request_fork(
        &mut self,
        trainer: &mut Trainer,
        mut request: ForkRequest,
    ) -> std::result::Result<Option<Outcome>, String> {
        let point = self.state_to_fork(trainer, request.of.as_deref(), request.at)?;
        let pending = trainer.run_state().pending.iter().cloned();
        request.changes = pending.chain(request.changes).collect();
        fork::changes(&point.checkpoint.run_state, &request.changes)
            .map_err(|error| error.to_string())?;
        self.exit = Some(Exit::Fork(Box::new(CheckedFork { point, request })));
        Ok(None)
    }

    /// Replaces the run by the requested fork; see [`Worker::replace`].
    pub(super) fn replace_by_fork(
        &mut self,
        trainer: Trainer,
        fork: CheckedFork,
    ) -> Result<Replaced> {
        let CheckedFork { point, request } = fork;
        let make =
            |worker: &Self| worker.prepare_fork(point, &request.changes, request.name.as_deref());
        self.replace(trainer, "forked", make, |worker, fork| {
            worker.paused = request.paused;
            worker.begin_fork(fork)
        })
    }

    /// Builds the network and the folder of a run that begins in a state of another one, with these changes of its
    /// hyperparameters. The other run is only read.
    pub(super) fn prepare_fork(
        &self,
        point: ForkPoint,
        changes: &[(String, Value)],
        name: Option<&str>,
    ) -> Result<Fork> {
        let changes = fork::changes(&point.checkpoint.run_state, changes)?;
        let (origin, best) = (point.origin(changes), point.best());
        if let Some(text) = point.warning {
            self.warn(text);
        }
        let trainer = Trainer::fork(
            point.checkpoint,
            &point.path,
            origin,
            Rc::clone(&self.training_data),
            &*self.device,
            Arc::clone(self.sender.interrupt()),
        )?;
        let run_state = trainer.run_state();
        let past = match &point.parent {
            Some(parent) => self.read_past(parent, run_state.metrics_bytes)?,
            None => Vec::new(),
        };
        let run = match (&point.parent, &self.runs) {
            (Some(parent), Some(runs)) => {
                let past = Past {
                    folder: parent,
                    step: run_state.step,
                    bytes: run_state.metrics_bytes,
                    unwritten: run_state.unwritten.clone(),
                };
                let params = &run_state.params;
                let (run, whole) = RunDir::fork(runs.folder(), name, params, &self.owner, past)?;
                self.warn_of_gap(whole, parent);
                Some(run)
            }
            _ => self.new_run(&trainer, name)?,
        };
        let best = match best.filter(|_| run_state.best.is_some() && !run_state.is_best()) {
            Some(best) => NewBest::Inherited(Box::new(Checkpoint::read(&best)?)),
            None if run_state.is_best() => NewBest::This,
            None => NewBest::None,
        };
        Ok(Fork {
            trainer,
            run,
            past,
            best,
        })
    }

    /// Makes a fork the run of the session.
    pub(super) fn begin_fork(&mut self, fork: Fork) -> Trainer {
        let Fork {
            mut trainer,
            run,
            past,
            best,
        } = fork;
        let (step, epochs) = (trainer.run_state().step, trainer.run_state().epochs);
        self.begin(&mut trainer, run, None);
        self.continue_from(step, trainer.scored_split(), past);
        let origin = trainer.run_state().origin.clone();
        let changes = origin.as_ref().map_or(Vec::new(), |o| o.changes.clone());
        let is_applied =
            |change: &Change| param(&change.key).is_some_and(|row| row.applies == Applies::NextRun);
        let (applied, others): (Vec<_>, Vec<_>) = changes.into_iter().partition(is_applied);
        for change in applied {
            self.record(Event::Applied {
                change,
                step: step + 1,
                epoch: epochs + 1,
            });
        }
        let others = others.into_iter().map(|change| (change.key, change.new));
        self.set_all(&mut trainer, others.collect());
        let weights = origin.map_or(String::new(), |origin| origin.describe_weights());
        if !weights.is_empty() {
            self.notice(&weights);
        }
        // Save the state at once, so that the run can be resumed whatever happens.
        self.save_with(&mut trainer, best);
        trainer
    }
}
