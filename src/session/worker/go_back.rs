//! Returns to an earlier checkpoint of the run after a divergence or a collapse, with a lower learning rate.

use super::{Exit, Result, Worker};
use crate::domain::params::Value;
use crate::domain::report::State;
use crate::domain::text::grouped;
use crate::session::protocol::{Event, Outcome};
use crate::session::run_dir::RunError;
use crate::train::checkpoint::RunState;
use crate::train::recovery::recovery;
use crate::train::saver::whole_checkpoints;
use crate::train::trainer::Trainer;
use std::path::Path;

impl Worker<'_> {
    /// Handles the command to go back.
    ///
    /// # Errors
    /// Returns the reason if the run has neither diverged nor collapsed.
    pub(super) fn request_go_back(
        &mut self,
        trainer: &mut Trainer,
    ) -> std::result::Result<Option<Outcome>, String> {
        let collapse = self.health.health().collapse.as_ref();
        match (&self.end_state, collapse.and_then(|c| c.best)) {
            (Some(State::Diverged { .. }), _) | (Some(_), Some(_)) => {
                let went_back = self.go_back(trainer);
                self.answer(went_back, trainer);
            }
            // The training loop must end before its trainer is replaced.
            (None, Some(_)) => self.exit = Some(Exit::GoBack),
            (_, None) => {
                return Err("the run has neither diverged nor collapsed after a better epoch: there is nothing to go back from".into());
            }
        }
        Ok(None)
    }

    /// Continues the run from an earlier checkpoint with a lower learning rate. [`recovery`] chooses both.
    ///
    /// # Errors
    /// Returns the reason if the run could not go back.
    pub(super) fn go_back(&mut self, trainer: &mut Trainer) -> std::result::Result<(), String> {
        if self.run.is_none() {
            return Err("there is no checkpoint to go back to, as nothing is saved: lower the learning rate and restart".into());
        }
        match self.try_go_back(trainer) {
            Ok(true) => Ok(()),
            Ok(false) => Err("no checkpoint of the run is from before its collapse: lower the learning rate and restart".into()),
            Err(error) => Err(format!("the run could not go back: {error}")),
        }
    }

    /// Does the work of [`Worker::go_back`]. Returns false if there is no checkpoint to go back to.
    fn try_go_back(&mut self, trainer: &mut Trainer) -> Result<bool> {
        self.drop_change(trainer);
        self.report_saved(true);
        let Some(run) = &self.run else {
            return Ok(false);
        };
        let folder = run.folder().to_owned();
        let (mut found, damage) = whole_checkpoints(&folder)?;
        if let Some(error) = damage {
            self.warn(error.to_string());
        }
        // The best checkpoint of a fork may be one of its parent's with another optimizer.
        found.retain(|(checkpoint, _)| trainer.can_exchange(checkpoint));
        let collapse = self.health.health().collapse.clone();
        let collapsed_after = collapse.and_then(|c| c.best);
        let failed = trainer.run_state();
        let all: Vec<_> = found.iter().map(|(c, _)| c.run_state.clone()).collect();
        let chosen = recovery(&all, failed, collapsed_after, self.went_back_to);
        let Some(chosen) = chosen else {
            return Ok(false);
        };
        let failed_step = failed.step;
        let why = match &self.end_state {
            Some(State::Diverged { first, .. }) => format!("{first} was not finite"),
            _ => "it had collapsed".into(),
        };
        let (checkpoint, path) = found.swap_remove(chosen.checkpoint);
        let before = trainer.exchange(checkpoint, &path)?;
        let past = match self.cut_back(trainer.run_state(), &path) {
            Ok(past) => past,
            Err(error) => {
                trainer.exchange(before, &path)?;
                return Err(error);
            }
        };
        let (step, epochs) = (trainer.run_state().step, trainer.run_state().epochs);
        let run = self.run.take();
        self.begin(trainer, run, Some(step + 1));
        self.continue_from(step, trainer.scored_split(), past);
        self.went_back_to = Some(step);
        self.notice(&format!(
            "went back from step {} ({why}) to step {}, after {epochs} epochs, with a lower learning rate; the last one that did well was {}",
            grouped(failed_step),
            grouped(step),
            Value::Float(chosen.good)
        ));
        // If the value is refused, every viewer receives the reason.
        let _ = self.set(trainer, "learning_rate", Value::Float(chosen.learning_rate));
        (self.paused, self.train_again, self.end_state) = (false, true, None);
        Ok(true)
    }

    /// Makes the checkpoint in `path` the run's last one and truncates the metrics to it. Returns the events up to the
    /// checkpoint.
    fn cut_back(&mut self, run_state: &RunState, path: &Path) -> Result<Vec<Event>> {
        let Some(run) = &mut self.run else {
            return Ok(Vec::new());
        };
        let folder = run.folder().to_owned();
        let file = path.file_name().unwrap_or_default();
        run.adopt(&file.to_string_lossy(), run_state.is_best())?;
        run.cut_back(
            run_state.step,
            run_state.metrics_bytes,
            run_state.unwritten.clone(),
        )
        .map_err(RunError::io("cannot cut back the metrics in", &folder))?;
        self.read_past(&folder, run_state.metrics_bytes)
    }
}
