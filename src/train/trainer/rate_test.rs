//! The learning rate range test of a run, on a copy of its network.

use super::Trainer;
use crate::backend::{MemberId, StepPlan};
use crate::data::batches;
use crate::domain::params::Hyperparameters;
use crate::domain::rate_test::{RateTest, RateTestEnd};
use crate::train::Result;
use std::ops::ControlFlow;

impl Trainer {
    /// Tests learning rates from the present state: trains a copy of the network on the next batches, with a rate that
    /// grows from step to step in place of the hyperparameter and its schedule. Nothing of the run changes. `stepped` is
    /// called after each step and after one that was abandoned, which is then made again; `Break` ends the test.
    ///
    /// # Errors
    /// Returns an error if the device has no memory for the copy, or fails.
    pub fn test_rates(
        &mut self,
        steps: usize,
        stepped: &mut dyn FnMut(&mut Trainer, &RateTest) -> ControlFlow<()>,
    ) -> Result<RateTest> {
        let copy = self.backend.copy(self.member)?;
        let tested = self.test_rates_of(copy, RateTest::new(steps), stepped);
        self.backend.remove(copy);
        tested
    }

    fn test_rates_of(
        &mut self,
        member: MemberId,
        mut test: RateTest,
        stepped: &mut dyn FnMut(&mut Trainer, &RateTest) -> ControlFlow<()>,
    ) -> Result<RateTest> {
        while test.end.is_none() {
            let plan = self.plan_with_rate(test.next_rate(), test.points.len() as u64);
            let work = [(member, vec![plan])];
            let images = &self.training_data.train;
            let outcomes = self.backend.train(images, &work, &self.stop)?;
            if let Some(outcome) = outcomes.into_iter().flatten().next() {
                match outcome.not_finite {
                    Some(name) => test.end = Some(RateTestEnd::NotFinite(name)),
                    None => test.add(outcome.loss),
                }
            }
            if stepped(self, &test).is_break() && test.end.is_none() {
                test.end = Some(RateTestEnd::Stopped);
            }
        }
        Ok(test)
    }

    /// The step `ahead` steps after the present one, with this learning rate. After the last batch of the epoch, its
    /// first follows.
    fn plan_with_rate(&self, rate: f64, ahead: u64) -> StepPlan {
        let params = Hyperparameters {
            learning_rate: rate,
            average_decay: 0.0,
            ..self.run_state.params.clone()
        };
        let number = (self.run_state.step_in_epoch + ahead) % self.steps_per_epoch().max(1);
        let batch = batches::batch(&self.order, number, params.batch_size);
        let step = self.run_state.step + 1 + ahead;
        StepPlan::new(
            &params,
            params.base_rates(),
            (step, self.run_state.epochs + 1),
            batch,
        )
    }
}
