//! Resets layers. The training loop, and an evaluation under way, ends before the weights change; it then goes on.

use super::commands::Handled;
use super::{Exit, Worker, split_index};
use crate::domain::report::{LayerReset, Split, State};
use crate::session::protocol::Event;
use crate::train::Error;
use crate::train::trainer::{ResetError, Trainer};

impl Worker<'_> {
    /// Handles the command to reset a layer.
    ///
    /// # Errors
    /// Returns the reason if the run is over or the layer cannot be reset.
    pub(super) fn request_reset(&mut self, trainer: &Trainer, layer: &str) -> Handled {
        self.check_trains("reset layers")?;
        trainer.can_reset(layer).map_err(|e| e.to_string())?;
        self.exit = Some(Exit::ResetLayer(layer.into()));
        Ok(None)
    }

    /// Handles the command to undo if it is about a reset. Returns whether it is.
    ///
    /// # Errors
    /// Returns the reason if it is, and the run is over or a comparison is under way.
    pub(super) fn take_back_reset(&mut self, trainer: &Trainer) -> Result<bool, String> {
        let is_reset = trainer.can_take_back_reset().map_err(|e| e.to_string())?;
        if is_reset {
            self.check_trains("undo the reset")?;
            self.exit = Some(Exit::TakeBackReset);
        }
        Ok(is_reset)
    }

    fn check_trains(&self, what: &str) -> Result<(), String> {
        match &self.end_state {
            None => Ok(()),
            Some(State::Diverged { .. }) => {
                Err("the run has diverged: go back to an earlier checkpoint first".into())
            }
            Some(_) => Err(format!("the run is over: continue it first, then {what}")),
        }
    }

    /// Drops the scores of this step, which are of other weights. Those that are shown are requested again.
    fn drop_scores(&mut self, step: u64, scored: Split) {
        for split in [Split::Validation, Split::Test] {
            let results = &mut self.results[split_index(split)];
            if results.scores.as_ref().is_some_and(|s| s.step == step) {
                *results = Default::default();
                if split == self.shown || split == scored {
                    self.request_score(split);
                }
            }
        }
        self.average_scored = None;
    }

    /// Reports a layer that was reset, or why it was not, to the sender of the command.
    pub(super) fn layer_reset(
        &mut self,
        reset: Result<Option<LayerReset>, ResetError>,
        trainer: &Trainer,
    ) {
        let answer = match reset {
            Ok(None) => Err("there is no reset to take back".into()),
            Ok(Some(reset)) => {
                self.report_steps();
                // The newest checkpoint has the other weights, even if it is of this step.
                self.saved_step = None;
                self.health.changed();
                self.drop_scores(trainer.run_state().step, trainer.scored_split());
                tracing::info!("{} from step {}", reset.words(), reset.step);
                self.record(Event::LayerReset(reset));
                Ok(())
            }
            Err(ResetError::Train(Error::Backend(error))) if error.is_out_of_memory() => {
                Err(error.to_string())
            }
            Err(ResetError::Train(error)) => {
                let why = error.to_string();
                self.error = Some(error.into());
                self.exit = Some(Exit::Failed);
                Err(why)
            }
            Err(error) => Err(error.to_string()),
        };
        self.answer(answer, trainer);
    }
}
