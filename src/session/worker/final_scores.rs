//! Scores the test images at the end of a run, with the last weights, which are its result, with their average if there
//! is one, and with the best weights.

use super::{Result, Worker};
use crate::backend::NetworkState;
use crate::domain::params::Weights;
use crate::domain::report::{Evaluation, ScoredWeights, Split};
use crate::session::protocol::Event;
use crate::train::checkpoint::Checkpoint;
use crate::train::saver::BEST;
use crate::train::trainer::{Trainer, TrainingHost};
use std::path::Path;

impl Worker<'_> {
    /// Scores the test images, unless they have been scored with the current weights in the final views. Returns false if
    /// a command interrupted the scoring.
    pub(super) fn score_at_the_end(&mut self, trainer: &mut Trainer) -> Result<bool> {
        let (step, tta) = (trainer.run_state().step, trainer.run_state().params.tta);
        let scores = self.results[1].scores.as_ref();
        if scores.is_none_or(|scores| scores.step != step || scores.evaluation.tta != tta) {
            match trainer.evaluate(self, Split::Test, Weights::Last, tta)? {
                Some(scores) => self.evaluated(scores),
                None => return Ok(false),
            }
        }
        if trainer.has_average()? && self.average_scored != Some((step, tta)) {
            match trainer.evaluate(self, Split::Test, Weights::Average, tta)? {
                Some(scores) => self.evaluated(scores),
                None => return Ok(false),
            }
        }
        self.score_best(trainer)
    }

    /// Scores the best checkpoint if it is of another step. A run without a folder has none. Returns false if a command
    /// interrupted the scoring.
    fn score_best(&mut self, trainer: &mut Trainer) -> Result<bool> {
        let (step, best) = (trainer.run_state().step, trainer.run_state().best);
        let Some(best) = best.filter(|best| best.step != step) else {
            return Ok(true);
        };
        if self.run.is_none() || self.best_scored == Some(best.step) {
            return Ok(true);
        }
        self.report_saved(true);
        let Some(run) = &self.run else {
            return Ok(true);
        };
        let path = run.folder().join(BEST);
        let state = match best_state(&path, best.step) {
            Ok(state) => state,
            Err(why) => {
                self.warn(format!("the best weights were not scored: {why}"));
                return Ok(true);
            }
        };
        let tta = trainer.run_state().params.tta;
        let Some(scores) = trainer.evaluate_state(&state, self, Split::Test, tta)? else {
            return Ok(false);
        };
        let evaluation = Evaluation {
            weights: ScoredWeights::Best,
            step: best.step,
            epoch: best.epoch,
            ..scores.evaluation
        };
        self.best_scored = Some(best.step);
        self.record(Event::Evaluation(evaluation));
        Ok(true)
    }
}

/// The weights of the best checkpoint, which must be of this step.
fn best_state(path: &Path, step: u64) -> std::result::Result<NetworkState, String> {
    let checkpoint = Checkpoint::read(path).map_err(|error| error.to_string())?;
    let found = checkpoint.run_state.step;
    if found != step {
        let path = path.display();
        return Err(format!("{path} is of step {found} instead of {step}"));
    }
    Ok(NetworkState {
        tensors: checkpoint.tensors,
        scalars: checkpoint.run_state.optimizer,
    })
}
