//! Tests learning rates on a copy of the network, while the run waits.

use super::{Exit, Worker};
use crate::domain::rate_test::{RateTest, RateTestEnd, STEPS, check_steps};
use crate::domain::report::State;
use crate::session::protocol::Event;
use crate::train::Error;
use crate::train::trainer::{Phase, Trainer, TrainingHost};
use std::ops::ControlFlow;
use std::time::Instant;

/// A test of learning rates that was asked for.
pub(super) struct RequestedRateTest {
    /// Number of steps that it has at most.
    steps: usize,
    /// Whether it has begun. One that is asked for during an evaluation begins after it.
    is_running: bool,
    /// Whether a command has ended it.
    is_stopped: bool,
}

impl Worker<'_> {
    /// Asks for a test, which begins before the next training step.
    ///
    /// # Errors
    /// Returns the reason if the run does not train, a comparison or a test is under way, or `steps` is not allowed.
    pub(super) fn request_rate_test(&mut self, steps: Option<usize>) -> Result<(), String> {
        match &self.end_state {
            Some(State::Diverged { .. }) => {
                return Err(
                    "the run has diverged: go back to an earlier checkpoint first, and test learning rates there"
                        .into(),
                );
            }
            Some(_) => {
                return Err(
                    "the run is over; `cifar-tui find-lr RUN` tests learning rates from its last state"
                        .into(),
                );
            }
            None => {}
        }
        if self.comparison.is_some() {
            return Err("a comparison is under way: keep or drop its change first".into());
        }
        if self.rate_test.is_some() {
            return Err("a test of learning rates is running already".into());
        }
        self.rate_test = Some(RequestedRateTest {
            steps: check_steps(steps.unwrap_or(STEPS))?,
            is_running: false,
            is_stopped: false,
        });
        Ok(())
    }

    /// Ends the test that is running or was asked for, if there is one.
    pub(super) fn stop_rate_test(&mut self, trainer: &Trainer) {
        match &mut self.rate_test {
            Some(requested) if requested.is_running => requested.is_stopped = true,
            Some(requested) => {
                let mut test = RateTest::new(requested.steps);
                test.end = Some(RateTestEnd::Stopped);
                self.report_rate_test(&test, trainer, 0);
                self.rate_test = None;
            }
            None => {}
        }
    }

    /// Makes the requested test, if there is one. Commands are carried out between its steps; [`Worker::stop_rate_test`]
    /// ends it. Breaks if the training loop is to end.
    pub(super) fn test_requested_rates(&mut self, trainer: &mut Trainer) -> ControlFlow<()> {
        let Some(requested) = &mut self.rate_test else {
            return ControlFlow::Continue(());
        };
        requested.is_running = true;
        let steps = requested.steps;
        self.report_steps();
        self.report_rate_test(&RateTest::new(steps), trainer, 0);
        let (mut sent, mut sent_at) = (0, Instant::now());
        let tested = trainer.test_rates(steps, &mut |trainer, test| {
            if sent_at.elapsed() >= self.settings.report_interval && test.end.is_none() {
                self.report_rate_test(test, trainer, sent);
                (sent, sent_at) = (test.points.len(), Instant::now());
            }
            self.poll(trainer, Phase::TestingRates)?;
            match &self.rate_test {
                Some(requested) if !requested.is_stopped => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        });
        self.rate_test = None;
        let test = match tested {
            Ok(test) => test,
            // There is no memory for the copy of the network.
            Err(Error::Backend(error)) if error.is_out_of_memory() => RateTest {
                end: Some(RateTestEnd::Failed(error.to_string())),
                ..RateTest::new(steps)
            },
            Err(error) => {
                self.error = Some(error.into());
                self.exit = Some(Exit::Failed);
                return ControlFlow::Break(());
            }
        };
        self.report_rate_test(&test, trainer, sent);
        match self.exit {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        }
    }

    /// Sends the points of a test from index `first` on.
    fn report_rate_test(&self, test: &RateTest, trainer: &Trainer, first: usize) {
        let report = test.report(trainer.run_state().step, first);
        if let Some(result) = report.result() {
            tracing::info!("{result}");
        }
        self.sender.event(Event::RateTest(report));
    }
}
