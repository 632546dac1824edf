//! Scores the images of a split.

use super::{Network, Phase, Trainer, TrainingHost};
use crate::backend::{MemberId, NetworkState, ScoringBatch};
use crate::domain::params::{Tta, Weights};
use crate::domain::report::Split;
use crate::hardware::stopwatch::Stopwatch;
use crate::train::Result;
use crate::train::evaluate::{Scores, Scoring};
use std::ops::ControlFlow;
use std::rc::Rc;

impl Trainer {
    /// Scores all images of a split, with these weights and in these views. Returns None if the host left before the end.
    ///
    /// # Errors
    /// Returns an error if the average is to be scored and there is none; if the device runs out of memory or a kernel
    /// launch fails.
    pub fn evaluate(
        &mut self,
        host: &mut impl TrainingHost,
        split: Split,
        weights: Weights,
        tta: Tta,
    ) -> Result<Option<Scores>> {
        self.score_network(host, Network::Run, split, (weights, tta))
    }

    /// [`Trainer::evaluate`] for either network.
    pub(super) fn score_network(
        &mut self,
        host: &mut impl TrainingHost,
        network: Network,
        split: Split,
        views: (Weights, Tta),
    ) -> Result<Option<Scores>> {
        let scored = (self.member_of(network), None);
        self.score(scored, split, views, &mut |trainer, phase| {
            host.poll(trainer, phase)
        })
    }

    /// The same with the last weights of `state`. The time that it takes does not count.
    ///
    /// # Errors
    /// Returns an error if the state is of another network; if the device runs out of memory or a kernel launch fails.
    pub fn evaluate_state(
        &mut self,
        state: &NetworkState,
        host: &mut impl TrainingHost,
        split: Split,
        tta: Tta,
    ) -> Result<Option<Scores>> {
        let elapsed = self.run_state.elapsed;
        let views = (Weights::Last, tta);
        let scored = (self.member, Some(state));
        let scores = self.score(scored, split, views, &mut |trainer, phase| {
            host.poll(trainer, phase)
        });
        self.run_state.elapsed = elapsed;
        scores
    }

    /// Scores all images of a split with a network, with the weights of `state` or its own. Calls `poll` before each
    /// chunk; returns None if it breaks.
    fn score(
        &mut self,
        (member, state): (MemberId, Option<&NetworkState>),
        split: Split,
        (weights, tta): (Weights, Tta),
        poll: &mut dyn FnMut(&mut Trainer, Phase) -> ControlFlow<()>,
    ) -> Result<Option<Scores>> {
        let data = Rc::clone(&self.training_data);
        let set = data.images(split);
        let images = self.images(split);
        let labels = images.iter().map(|&i| set.labels()[i as usize]).collect();
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
            if poll(self, phase).is_break() {
                return Ok(None);
            }
            let watch = Stopwatch::start();
            let at_once = self.backend.capacity() / tta.views().len();
            let end = (done + at_once).min(total as usize);
            let batch = ScoringBatch {
                images: set,
                numbers: &scoring.images[done..end],
                weights,
                tta,
                probabilities: &mut scoring.probabilities[done * classes..end * classes],
                losses: &mut scoring.losses[done..end],
            };
            match state {
                None => self.backend.score(member, batch)?,
                Some(state) => self.backend.score_state(member, state, batch)?,
            }
            // If the process was suspended, assume the usual time for this number of images.
            let usual = || scoring.seconds / done.max(1) as f64 * (end - done) as f64;
            let seconds = watch.seconds().unwrap_or_else(usual);
            scoring.seconds += seconds;
            self.run_state.elapsed += seconds;
            done = end;
        }
        let (step, epoch) = (self.run_state.step, self.epoch());
        Ok(Some(scoring.finish(
            split,
            (weights, tta),
            (step, epoch),
            classes,
        )))
    }

    /// Scores the images that are scored after each epoch, in the views in which they are. Calls `stops` before each
    /// chunk of them. Returns None if it returned true.
    ///
    /// # Errors
    /// Returns an error if the device runs out of memory or fails.
    pub fn score_epoch(&mut self, stops: impl Fn() -> bool) -> Result<Option<Scores>> {
        let views = (Weights::Last, self.run_state.params.tta_of_evaluations());
        let split = self.scored_split();
        let scored = (self.member, None);
        self.score(scored, split, views, &mut |_, _| match stops() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    }
}
