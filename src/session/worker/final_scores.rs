//! Scores the test images at the end of a run, with the last weights, which are its result, and with the best weights.

use super::{Result, Worker};
use crate::domain::report::{EpochReport, ScoredWeights, Split, StepReport};
use crate::session::protocol::Event;
use crate::train::checkpoint::{Applied, Checkpoint};
use crate::train::evaluate::Scores;
use crate::train::saver::BEST;
use crate::train::trainer::{Phase, Trainer, TrainingHost};
use std::ops::ControlFlow;

impl Worker<'_> {
    /// Scores the test images, unless they have been scored with the current weights. Returns false if a command
    /// interrupted the scoring.
    pub(super) fn score_at_the_end(&mut self, trainer: &mut Trainer) -> Result<bool> {
        let step = trainer.run_state().step;
        let scores = self.results[1].scores.as_ref();
        if scores.is_none_or(|scores| scores.step != step) {
            match trainer.evaluate(self, Split::Test)? {
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
        let checkpoint = Checkpoint::read(&path);
        let made = match checkpoint {
            Ok(checkpoint) if checkpoint.run_state.step == best.step => self
                .trainer_from(checkpoint, &path)
                .map_err(|e| e.to_string()),
            Ok(other) => Err(format!(
                "{} is of step {} instead of {}",
                path.display(),
                other.run_state.step,
                best.step
            )),
            Err(error) => Err(error.to_string()),
        };
        let mut of_best = match made {
            Ok(made) => made,
            Err(why) => {
                self.warn(format!("the best weights were not scored: {why}"));
                return Ok(true);
            }
        };
        let mut host = BestEvaluationHost {
            worker: self,
            trainer,
        };
        let Some(scores) = of_best.evaluate(&mut host, Split::Test)? else {
            return Ok(false);
        };
        let mut evaluation = scores.evaluation;
        evaluation.weights = ScoredWeights::Best;
        self.best_scored = Some(best.step);
        self.record(Event::Evaluation(evaluation));
        Ok(true)
    }
}

/// Hosts the evaluation of the best weights. Commands still act on the run's own trainer.
struct BestEvaluationHost<'a, 'w> {
    worker: &'a mut Worker<'w>,
    trainer: &'a mut Trainer,
}

impl TrainingHost for BestEvaluationHost<'_, '_> {
    fn poll(&mut self, _: &mut Trainer, phase: Phase) -> ControlFlow<()> {
        self.worker.poll(self.trainer, phase)
    }
    fn change_refused(&mut self, why: String) {
        self.worker.change_refused(why);
    }
    // The functions below are not called during an evaluation.
    fn applied(&mut self, _: &Applied) {}
    fn epoch_begins(&mut self, _: &Trainer) {}
    fn stepped(&mut self, _: &StepReport) {}
    fn evaluated(&mut self, _: Scores) {}
    fn epoch_over(&mut self, _: &mut Trainer, _: &EpochReport) {}
}
