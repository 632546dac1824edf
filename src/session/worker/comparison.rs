//! Comparisons: a change is trained beside the run, then kept or dropped.

use super::commands::at_next_step;
use super::{Exit, Worker, health};
use crate::domain::comparison::ComparisonReport;
use crate::domain::params::{self, Value};
use crate::domain::report::StepReport;
use crate::session::protocol::{Change, Event, Outcome};
use crate::train::checkpoint::{Applied, Best, Checkpoint};
use crate::train::kept;
use crate::train::saver::{BEST, NewBest};
use crate::train::trainer::{Phase, Trainer};

/// A comparison that is under way.
pub(super) struct Comparison {
    change: Change,
    /// The last epoch that had ended before it.
    epoch: u32,
    /// What was decided during an evaluation: it is carried out after that.
    decision: Option<Decision>,
    /// What is known of the difference, if it was not reported yet.
    report: Option<ComparisonReport>,
    /// The variant's steps that were not reported yet.
    steps: Option<StepReport>,
}

/// Whether the change of a comparison is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Keep,
    Drop,
}

impl Worker<'_> {
    /// Begins a comparison.
    ///
    /// # Errors
    /// Returns the reason if it cannot begin.
    pub(super) fn compare(
        &mut self,
        trainer: &mut Trainer,
        key: &str,
        value: Value,
    ) -> std::result::Result<Outcome, String> {
        if self.end_state.is_some() {
            return Err("the run is over: there is nothing to compare".into());
        }
        let row = params::find(key).map_err(|error| error.to_string())?;
        let pending = &trainer.run_state().pending;
        let was_pending = pending.iter().any(|(key, _)| key == row.key);
        self.report_steps();
        let applied = trainer
            .compare(row, value, |best| self.best_checkpoint(best))
            .map_err(|error| error.to_string())?;
        let Applied {
            change,
            step,
            epoch,
        } = applied.clone();
        self.comparison = Some(Comparison {
            change: change.clone(),
            epoch: trainer.run_state().epochs,
            decision: None,
            report: None,
            steps: None,
        });
        self.write(|run| {
            run.begin_variant(step);
            Ok(())
        });
        let key = change.key.clone();
        self.record(Event::ComparisonBegan {
            change,
            step,
            epoch,
        });
        if was_pending {
            self.sender.event(Event::Withdrawn { key });
        }
        self.variant_applied(&applied);
        Ok(Outcome::AppliedAt(step))
    }

    /// The checkpoint of the run's best epoch, from its file. None if nothing is saved.
    fn best_checkpoint(
        &mut self,
        best: Best,
    ) -> std::result::Result<Option<Box<Checkpoint>>, String> {
        self.report_saved(true);
        let Some(run) = &self.run else {
            return Ok(None);
        };
        let path = run.folder().join(BEST);
        let found = Checkpoint::read(&path).map_err(|error| error.to_string())?;
        match found.run_state.step == best.step {
            true => Ok(Some(Box::new(found))),
            false => Err(format!("{} is not of step {}", path.display(), best.step)),
        }
    }

    /// Handles the command to end the comparison. The training loop must end before its network is replaced.
    ///
    /// # Errors
    /// Returns the reason if there is no comparison, or its change cannot be kept.
    pub(super) fn request_decision(
        &mut self,
        trainer: &mut Trainer,
        decision: Decision,
        phase: Phase,
    ) -> std::result::Result<Option<Outcome>, String> {
        let Some(comparison) = &mut self.comparison else {
            return Err("there is no comparison".into());
        };
        match decision {
            Decision::Keep => trainer.can_keep_variant()?,
            Decision::Drop if self.end_state.is_some() => {
                self.drop_change(trainer);
                return Ok(Some(at_next_step(trainer)));
            }
            Decision::Drop => {}
        }
        if phase != Phase::Training {
            comparison.decision = Some(decision);
            return Ok(Some(at_next_step(trainer)));
        }
        self.exit = Some(Exit::Decide(decision));
        Ok(None)
    }

    /// Ends the comparison as it was decided.
    ///
    /// # Errors
    /// Returns the reason if the change cannot be kept. The comparison goes on.
    pub(super) fn decide(
        &mut self,
        trainer: &mut Trainer,
        decision: Decision,
    ) -> std::result::Result<(), String> {
        match decision {
            Decision::Keep => self.keep_change(trainer),
            Decision::Drop => {
                self.drop_change(trainer);
                Ok(())
            }
        }
    }

    fn keep_change(&mut self, trainer: &mut Trainer) -> std::result::Result<(), String> {
        self.report_steps();
        let Some(kept) = trainer.keep_variant()? else {
            return Ok(());
        };
        let Some(comparison) = self.comparison.take() else {
            return Ok(());
        };
        let over = Event::ComparisonOver {
            change: comparison.change,
            kept: true,
            report: kept.report,
        };
        let mut best = kept.best;
        let best_step = best.as_ref().map(|best| best.run_state.step);
        self.write(|run| {
            if let (Some(after), Some(best)) = (run.end_variant(&over, best_step)?, &mut best) {
                (best.run_state.metrics_bytes, best.run_state.unwritten) = (after, None);
            }
            Ok(())
        });
        // Every viewer receives the past with the change.
        self.sender.event(over);
        self.health = health::restore_monitor(&self.past_of_run());
        self.results = Default::default();
        self.earlier.clear();
        (self.best_scored, self.average_scored) = (None, None);
        let split = trainer.scored_split();
        let ends_epoch = trainer.run_state().step_in_epoch >= trainer.steps_of_epoch();
        // At the end of an epoch the training loop scores it.
        if trainer.run_state().is_closed() || !ends_epoch {
            self.splits_to_score = vec![split];
            self.unrecorded_split = Some(split);
            if self.shown != split {
                self.request_score(self.shown);
            }
        }
        self.saved_step = None;
        self.save_with(trainer, best.map_or(NewBest::None, NewBest::Inherited));
        self.report_saved(true);
        // The checkpoint before it is that of the network that is gone: replace it too.
        if self.saved_step.is_some() {
            self.save(trainer, false);
            self.report_saved(true);
        }
        self.remove_kept_after(trainer, comparison.epoch);
        if self.end_state.take().is_some() {
            self.train_again = true;
        }
        Ok(())
    }

    /// The events of the run so far: from its metrics, or, if nothing is saved, from the session's history.
    fn past_of_run(&self) -> Vec<Event> {
        if let Some(run) = &self.run
            && let Ok(past) = self.read_past(run.folder(), u64::MAX)
        {
            return past;
        }
        let mut history = self.sender.history();
        let begin = history.iter().rposition(|e| matches!(e, Event::Started(_)));
        history.drain(..begin.unwrap_or(0));
        history
    }

    /// What was decided during an evaluation, once that is over.
    pub(super) fn take_decision(&mut self) -> Option<Decision> {
        self.comparison.as_mut()?.decision.take()
    }

    /// Removes the checkpoints of the ends of epochs after `epoch`, in which the run did not have the change, once the
    /// present state is saved.
    fn remove_kept_after(&mut self, trainer: &Trainer, epoch: u32) {
        let Some(run) = self.run.as_ref().filter(|_| self.saved_step.is_some()) else {
            return;
        };
        let removed = kept::remove_after(run.files(), epoch, trainer.run_state());
        if let Err(error) = removed {
            let folder = run.folder().display().to_string();
            self.warn(format!(
                "checkpoints in {folder} from without the change could not be removed: {error}. Remove those after epoch {epoch} by hand."
            ));
        }
    }

    /// Ends the comparison, if there is one, without its change.
    pub(super) fn drop_change(&mut self, trainer: &mut Trainer) {
        if self.comparison.is_none() {
            return;
        }
        self.report_steps();
        if let Some(report) = trainer.drop_variant() {
            self.comparison_dropped(report);
        }
    }

    pub(super) fn comparison_dropped(&mut self, report: ComparisonReport) {
        let Some(comparison) = self.comparison.take() else {
            return;
        };
        let over = Event::ComparisonOver {
            change: comparison.change,
            kept: false,
            report,
        };
        self.write(|run| run.end_variant(&over, None).map(|_| ()));
        self.sender.event(over);
    }

    /// Reports a change that took effect in the variant, if there is one.
    pub(super) fn variant_applied(&mut self, applied: &Applied) {
        self.variant_event(Event::Applied {
            change: applied.change.clone(),
            step: applied.step,
            epoch: applied.epoch,
        });
    }

    pub(super) fn variant_event(&mut self, event: Event) {
        if self.comparison.is_none() {
            return;
        }
        self.write(|run| {
            run.variant_event(&event);
            Ok(())
        });
        let of = Box::new(event);
        self.sender.event(Event::Variant { of });
    }

    pub(super) fn variant_stepped(&mut self, step: Option<&StepReport>, report: &ComparisonReport) {
        let Some(comparison) = &mut self.comparison else {
            return;
        };
        comparison.report = Some(report.clone());
        let Some(step) = step else {
            // An epoch was scored, or the variant diverged.
            self.report_steps();
            return;
        };
        match &mut comparison.steps {
            Some(steps) => steps.extend(step),
            None => comparison.steps = Some(step.clone()),
        }
        self.write(|run| {
            run.variant_step(step);
            Ok(())
        });
    }

    /// Sends the variant's steps since the last report, and what is known of the difference.
    pub(super) fn report_comparison(&mut self) {
        let Some(comparison) = &mut self.comparison else {
            return;
        };
        let steps = comparison.steps.take();
        let report = comparison.report.take();
        if let Some(steps) = steps {
            let of = Box::new(Event::Steps(steps));
            self.sender.event(Event::Variant { of });
        }
        if let Some(report) = report {
            self.sender.event(Event::Compared(report));
        }
    }

    /// After the training loop has ended: drops the comparison if this exit ends or replaces the run.
    pub(super) fn leave_comparison(&mut self, trainer: &mut Trainer) {
        let goes_on = matches!(self.exit, None | Some(Exit::Decide(_)) | Some(Exit::Failed));
        if !goes_on && self.comparison.is_some() {
            self.drop_change(trainer);
        }
    }
}
