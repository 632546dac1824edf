//! The end of an epoch: its scores and its report.

use super::{Network, Trainer, TrainingHost};
use crate::domain::params::{Tta, Weights};
use crate::domain::report::{AverageScores, EpochReport, Evaluation, Split};
use crate::train::Result;
use crate::train::checkpoint::{Best, RunState};
use crate::train::evaluate::Scores;
use std::ops::ControlFlow;

/// The scores of a network on a split.
pub struct SplitScores {
    pub last: Evaluation,
    /// With the average of the weights, if there is one.
    pub average: Option<Evaluation>,
    /// Whether the last weights predict each image correctly.
    pub(super) correct: Vec<bool>,
}

/// The scores at the end of an epoch.
pub(super) struct ScoredEpoch {
    /// Those of the images that are scored after each epoch.
    pub scored: SplitScores,
    /// Those of the test images, if `test_each_epoch` asks for them.
    test: Option<SplitScores>,
}

impl Trainer {
    /// Scores the validation images (and the test images if asked for, or if there are no others), then counts the epoch
    /// and reports it; with a comparison, for both networks. The last weights decide whether it is the best one and
    /// whether it reached the target.
    pub(super) fn close_epoch(&mut self, host: &mut impl TrainingHost) -> Result<ControlFlow<()>> {
        let before = self.run_state.elapsed;
        let Some(scores) = self.score_epoch_end(host, Network::Run)? else {
            return Ok(ControlFlow::Break(()));
        };
        let of_variant = match self.variant_member() {
            Some(_) => match self.score_epoch_end(host, Network::Variant)? {
                None => return Ok(ControlFlow::Break(())),
                scores => scores,
            },
            None => None,
        };
        self.evaluation_seconds = self.run_state.elapsed - before;
        if let Some(of_variant) = of_variant {
            self.close_variant_epoch(host, &scores, &of_variant)?;
        }
        let steps_per_epoch = self.steps_per_epoch();
        let report = end_epoch(&mut self.run_state, &scores, steps_per_epoch);
        if self.at_epoch_start() {
            self.shuffle();
        }
        let stops = report.reached.is_some() && self.run_state.params.stop_at_target;
        if stops && !self.is_finished() {
            self.end_here(host)?;
        }
        host.epoch_over(self, &report);
        Ok(ControlFlow::Continue(()))
    }

    /// Scores what is scored after each epoch. Returns None if the host left before the end.
    fn score_epoch_end(
        &mut self,
        host: &mut impl TrainingHost,
        network: Network,
    ) -> Result<Option<ScoredEpoch>> {
        let split = self.scored_split();
        let tta = self.run_state.params.tta_of_evaluations();
        let Some(scored) = self.score_split(host, network, split, tta)? else {
            return Ok(None);
        };
        let mut test = None;
        let wanted = self.run_state.params.test_each_epoch;
        let watched = self.watch_test && network == Network::Run;
        if split != Split::Test && (wanted || watched) {
            match self.score_split(host, network, Split::Test, tta)? {
                None => return Ok(None),
                scores => test = scores.filter(|_| wanted),
            }
        }
        Ok(Some(ScoredEpoch { scored, test }))
    }

    /// Scores all images of a split with the last weights and, if there is one, with their average, and gives the scores
    /// to the host. Returns None if the host left before the end.
    ///
    /// # Errors
    /// Returns an error if the device runs out of memory or a kernel launch fails.
    pub fn evaluate_all(
        &mut self,
        host: &mut impl TrainingHost,
        split: Split,
        tta: Tta,
    ) -> Result<Option<SplitScores>> {
        self.score_split(host, Network::Run, split, tta)
    }

    /// [`Trainer::evaluate_all`] for either network.
    fn score_split(
        &mut self,
        host: &mut impl TrainingHost,
        network: Network,
        split: Split,
        tta: Tta,
    ) -> Result<Option<SplitScores>> {
        let Some(scores) = self.score_network(host, network, split, (Weights::Last, tta))? else {
            return Ok(None);
        };
        let correct = scores.correct().collect();
        let last = give(host, network, scores);
        let mut average = None;
        if self.has_average_of(network)? {
            let views = (Weights::Average, tta);
            let Some(scores) = self.score_network(host, network, split, views)? else {
                return Ok(None);
            };
            average = Some(give(host, network, scores));
        }
        Ok(Some(SplitScores {
            last,
            average,
            correct,
        }))
    }
}

/// Gives the scores of a network to the host. Returns their evaluation.
fn give(host: &mut impl TrainingHost, network: Network, scores: Scores) -> Evaluation {
    let evaluation = scores.evaluation.clone();
    match network {
        Network::Run => host.evaluated(scores),
        Network::Variant => host.variant_evaluated(&evaluation),
    }
    evaluation
}

/// Counts an epoch that has been scored, and returns its report.
pub(super) fn end_epoch(
    run_state: &mut RunState,
    scores: &ScoredEpoch,
    steps_per_epoch: u64,
) -> EpochReport {
    let SplitScores { last, average, .. } = &scores.scored;
    // Without validation images, the scored images are the test images.
    let test = match last.split {
        Split::Test => Some(&scores.scored),
        _ => scores.test.as_ref(),
    };
    let average = average.as_ref().map(|e| AverageScores {
        loss: e.loss,
        accuracy: e.accuracy,
        test_accuracy: test.and_then(|test| Some(test.average.as_ref()?.accuracy)),
    });
    let part = run_state.step_in_epoch as f64 / steps_per_epoch.max(1) as f64;
    let position = f64::from(run_state.epochs) + part;
    let epoch = run_state.epochs + 1;
    // The best checkpoint is never chosen by the test images: their accuracy would then be biased.
    let best = last.split == Split::Validation
        && run_state.best.is_none_or(|b| last.accuracy > b.accuracy);
    if best {
        run_state.best = Some(Best {
            accuracy: last.accuracy,
            epoch,
            step: run_state.step,
        });
    }
    let target = run_state.params.target;
    let totals = std::mem::take(&mut run_state.totals);
    let images = totals.images.max(1) as f64;
    let report = EpochReport {
        epoch,
        step: run_state.step,
        train_loss: totals.loss / images,
        train_accuracy: totals.correct as f64 / images,
        split: last.split,
        tta: last.tta,
        loss: last.loss,
        accuracy: last.accuracy,
        test_accuracy: test.map(|test| test.last.accuracy),
        average,
        best,
        images_per_s: images / totals.seconds.max(1e-9),
        elapsed: run_state.elapsed,
        position,
        reached: (target > 0.0 && last.accuracy >= target).then_some(target),
    };
    // A run that ends within an epoch keeps its position, and continues there if it gets more epochs.
    if run_state.step_in_epoch >= steps_per_epoch {
        run_state.epochs = epoch;
        run_state.step_in_epoch = 0;
        run_state.images_in_epoch = 0;
    }
    report
}
