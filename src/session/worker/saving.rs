//! Checkpoints, metrics and plots: when they are written, and what happens when that fails.

use super::{Exit, RETRY_INTERVAL, Worker};
use crate::domain::report::State;
use crate::session::pictures;
use crate::session::protocol::Event;
use crate::session::run_dir::RunDir;
use crate::train::saver::{Job, LAST, NewBest, SaveOutcome, WHAT_TO_DO};
use crate::train::trainer::Trainer;
use std::time::Instant;

impl Worker<'_> {
    /// Draws the run's curves and its newest matrix into its folder.
    pub(super) fn write_pictures(&mut self) {
        let Some(run) = &mut self.run else {
            return;
        };
        let evaluation = [1, 0]
            .into_iter()
            .find_map(|i| self.known[i].scores.as_ref());
        let evaluation = evaluation.map(|scores| &scores.evaluation);
        let written = pictures::write(run, &self.training_data.info.classes, evaluation);
        self.pictures_failed = written.err().map(|why| format!("{why}. {WHAT_TO_DO}"));
        self.tell_unsaved();
    }

    /// Saves anew what could not be saved some time ago.
    pub(super) fn try_again(&mut self, trainer: &mut Trainer) {
        if self.unsaved.is_none() || self.saved_at.elapsed() < RETRY_INTERVAL {
            return;
        }
        self.write_files();
        match self.save_failed.is_some() && !self.saver.is_busy() && !self.has_diverged() {
            true => self.save(trainer, false),
            false => self.saved_at = Instant::now(),
        }
    }

    pub(super) fn save_unsaved(&mut self, trainer: &mut Trainer) {
        let step = trainer.run_state().step;
        // Somebody may have deleted the run's folder.
        let deleted = |run: &RunDir| !self.saver.is_busy() && !run.folder().join(LAST).is_file();
        let deleted = self.run.as_ref().is_some_and(deleted);
        if step > 0 && (self.saved_step != Some(step) || deleted) {
            self.save(trainer, false);
        }
    }

    /// The weights just before a divergence are seldom any good: the last checkpoint stays.
    pub(super) fn has_diverged(&self) -> bool {
        matches!(self.over, Some(State::Diverged { .. }))
    }

    /// Saves what is not saved yet, and waits for it.
    pub(super) fn save_everything(&mut self, trainer: &mut Trainer) {
        if !self.has_diverged() {
            self.save_unsaved(trainer);
        }
        self.write_files();
        self.tell_saved(true);
    }

    /// Writes what waits for its file beside the checkpoints.
    pub(super) fn write_files(&mut self) {
        self.write(RunDir::flush);
        if self.pictures_failed.is_some() {
            self.write_pictures();
        }
    }

    /// Saves everything, then ends the session.
    ///
    /// # Errors
    /// Returns the reason if something would be lost; every viewer is told it.
    pub(super) fn save_and_quit(
        &mut self,
        trainer: &mut Trainer,
    ) -> std::result::Result<(), String> {
        self.save_everything(trainer);
        match self.unsaved.clone() {
            None => {
                self.exit = Some(Exit::Quit);
                Ok(())
            }
            Some(why) => {
                self.tell.event(Event::Unsaved {
                    why: Some(why.clone()),
                });
                Err(why)
            }
        }
    }

    /// Hands a copy of everything to the thread that saves.
    pub(super) fn save(&mut self, trainer: &mut Trainer, best: bool) {
        let Some(run) = &mut self.run else {
            return;
        };
        self.saved_at = Instant::now();
        trainer.set_metrics(run.position());
        let metrics = run.metrics_file();
        let folder = run.files().clone();
        match trainer.checkpoint() {
            Ok(Some(checkpoint)) => {
                self.saved_step = Some(checkpoint.run_state.step);
                self.saver.save(Job {
                    checkpoint,
                    folder,
                    best: if best { NewBest::This } else { NewBest::None },
                    metrics: Some(metrics),
                });
            }
            Ok(None) => self.warn("no checkpoint was made: a weight is not finite".into()),
            Err(error) => self.warn(format!("no checkpoint was made: {error}")),
        }
    }

    /// Tells what was saved; waits for what is under way if asked to.
    pub(super) fn tell_saved(&mut self, wait: bool) {
        let outcomes = if wait {
            self.saver.finish()
        } else {
            self.saver.finished()
        };
        for outcome in outcomes {
            self.saved(outcome);
        }
    }

    pub(super) fn saved(&mut self, outcome: SaveOutcome) {
        match outcome {
            Ok(reports) => {
                for report in reports {
                    self.tell.event(Event::Checkpoint(report));
                }
                if self.save_failed.take().is_some() {
                    // There is room again, for all of it.
                    self.write_files();
                }
            }
            Err(why) => {
                self.saved_step = None;
                self.save_failed = Some(why);
            }
        }
        self.tell_unsaved();
    }

    /// Tells when saving begins to fail, fails for another reason, or goes well again.
    pub(super) fn tell_unsaved(&mut self) {
        let first = |why: &str| why.split_once(": ").map(|(_, why)| why.to_owned());
        let why = [
            &self.save_failed,
            &self.metrics_failed,
            &self.pictures_failed,
        ]
        .into_iter()
        .find_map(Option::as_ref);
        // The step in the message changes with each attempt; the reason is what counts.
        let same = match (&self.unsaved, why) {
            (Some(old), Some(new)) => first(old) == first(new),
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.unsaved = why.cloned();
            match &self.unsaved {
                Some(why) => tracing::warn!("{why}"),
                None => tracing::info!("everything is saved again"),
            }
            let why = self.unsaved.clone();
            self.tell.event(Event::Unsaved { why });
        }
    }

    /// A disk that is full must not end the training: it is told, and what could not be written waits for room.
    pub(super) fn write(&mut self, write: impl FnOnce(&mut RunDir) -> std::io::Result<()>) {
        let Some(run) = &mut self.run else {
            return;
        };
        match write(run) {
            Ok(()) if run.is_flushed() => self.metrics_failed = None,
            Ok(()) => {}
            Err(error) => {
                self.metrics_failed = Some(format!(
                    "the metrics in {} could not be written: {error}. {WHAT_TO_DO}",
                    run.folder().display()
                ));
            }
        }
        self.tell_unsaved();
    }
}
