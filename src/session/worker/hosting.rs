//! The worker as the trainer's host.

use super::{Exit, Wakeup, Worker, split_index};
use crate::domain::comparison::ComparisonReport;
use crate::domain::report::{EpochReport, Evaluation, ScoredWeights, Split, State, StepReport};
use crate::session::protocol::Event;
use crate::train::checkpoint::Applied;
use crate::train::evaluate::Scores;
use crate::train::trainer::{Phase, Trainer, TrainingHost};
use crossbeam_channel::TryRecvError;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

/// Maximum number of commands handled between two steps, so that a viewer that sends commands without end does not stop
/// the training.
const MAX_COMMANDS: usize = 256;

impl TrainingHost for Worker<'_> {
    fn poll(&mut self, trainer: &mut Trainer, phase: Phase) -> ControlFlow<()> {
        #[cfg(test)]
        if let Some((step, which, with)) = self.settings.spoil
            && phase == Phase::Training
            && trainer.run_state().step == step
            && self.end_state.is_none()
            && trainer.run_state().changes.is_empty()
        {
            trainer.spoil(which, with);
        }
        self.do_periodic_work(trainer);
        if phase == Phase::Training
            && let Some(decision) = self.take_decision()
        {
            self.exit.get_or_insert(Exit::Decide(decision));
        }
        // Clear the flag before reading the commands: a command that arrives in the meantime sets it again.
        self.sender.interrupt().store(false, Ordering::SeqCst);
        let mut handled = 0;
        loop {
            if self.exit.is_some() {
                return ControlFlow::Break(());
            }
            let blocked = phase == Phase::Training && self.paused;
            let wakeup = if blocked {
                self.report_steps();
                self.report_state(State::Paused);
                self.retry_saving(trainer);
                Some(self.wait())
            } else {
                let queued = self.inbox.next_queued();
                match queued.map_or_else(|| self.sender.requests.try_recv(), Ok) {
                    Ok(request) => Some(Wakeup::Command(request)),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => Some(Wakeup::Disconnected),
                }
            };
            handled += 1;
            let idle = wakeup.is_none() || !blocked && handled >= MAX_COMMANDS;
            match wakeup {
                Some(Wakeup::Command(request)) => self.handle(request, trainer, phase),
                Some(Wakeup::Disconnected) => self.exit = Some(Exit::Quit),
                Some(Wakeup::Other) | None => {}
            }
            if self.exit.is_some() {
                return ControlFlow::Break(());
            }
            if phase == Phase::Training {
                self.score_requested(trainer)?;
                self.test_requested_rates(trainer)?;
            }
            if idle {
                break;
            }
        }
        match phase {
            Phase::Training => self.report_state(State::Running),
            // The state stays that of the training, which waits.
            Phase::TestingRates => {}
            Phase::Evaluating { split, done, total } => {
                let same =
                    matches!(self.reported_state, State::Evaluating { split: s, .. } if s == split);
                if !same || self.state_reported_at.elapsed() >= self.settings.report_interval {
                    self.report_steps();
                    self.report_state(State::Evaluating { split, done, total });
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn steps_to_submit(&self, fits: usize) -> usize {
        if self.pause_after_step { 1 } else { fits }
    }

    fn change_refused(&mut self, why: String) {
        self.warn(why);
        self.paused = true;
    }

    fn applied(&mut self, applied: &Applied) {
        // Report the steps before the change first.
        self.report_steps();
        self.health.changed();
        self.record(Event::Applied {
            change: applied.change.clone(),
            step: applied.step,
            epoch: applied.epoch,
        });
        self.variant_applied(applied);
    }

    fn epoch_begins(&mut self, trainer: &Trainer) {
        self.set_length(trainer);
    }

    fn stepped(&mut self, report: &StepReport) {
        match &mut self.steps {
            Some(steps) => steps.extend(report),
            None => self.steps = Some(report.clone()),
        }
        self.write(|run| run.step(report));
        if std::mem::take(&mut self.pause_after_step) {
            self.paused = true;
        }
    }

    fn evaluated(&mut self, scores: Scores) {
        self.report_steps();
        let event = Event::Evaluation(scores.evaluation.clone());
        if scores.evaluation.weights == ScoredWeights::Average {
            // The screens show the predictions of the last weights.
            if scores.split == Split::Test {
                self.average_scored = Some((scores.step, scores.evaluation.tta));
            }
            return self.record(event);
        }
        let unrecorded = self
            .unrecorded_split
            .take_if(|split| *split == scores.split);
        let results = &mut self.results[split_index(scores.split)];
        results.history.add(&scores);
        results.scores = Some(scores);
        match unrecorded {
            Some(_) => self.sender.event(event),
            None => self.record(event),
        }
    }

    fn epoch_over(&mut self, trainer: &mut Trainer, report: &EpochReport) {
        self.record(Event::Epoch(report.clone()));
        self.check_health(trainer, report);
        self.save(trainer, report.best);
        if (self.settings.until_epoch).is_some_and(|last| report.epoch >= last) {
            self.exit.get_or_insert(Exit::Stop);
        }
    }

    fn compared(&mut self, step: Option<&StepReport>, report: &ComparisonReport) {
        self.variant_stepped(step, report);
    }

    fn variant_evaluated(&mut self, evaluation: &Evaluation) {
        self.report_steps();
        self.variant_event(Event::Evaluation(evaluation.clone()));
    }

    fn variant_epoch_over(&mut self, report: &EpochReport) {
        self.variant_event(Event::Epoch(report.clone()));
    }

    fn comparison_refused(&mut self, report: ComparisonReport, why: String) {
        self.warn(format!("the comparison ended: {why}"));
        self.comparison_dropped(report);
    }
}
