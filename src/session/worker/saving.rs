//! Writes checkpoints, metrics and pictures, and handles failures.

use super::{Exit, RETRY_INTERVAL, Worker};
use crate::domain::report::State;
use crate::session::pictures;
use crate::session::protocol::Event;
use crate::session::run_dir::RunDir;
use crate::train::saver::{Job, LAST, NewBest, SAVE_ADVICE, SaveOutcome};
use crate::train::trainer::Trainer;
use std::time::Instant;

impl Worker<'_> {
    /// Writes pictures of the run's curves and newest confusion matrix to its folder.
    pub(super) fn write_pictures(&mut self) {
        let Some(run) = &mut self.run else {
            return;
        };
        let evaluation = [1, 0]
            .into_iter()
            .find_map(|i| self.results[i].scores.as_ref());
        let evaluation = evaluation.map(|scores| &scores.evaluation);
        let written = pictures::write(run, &self.training_data.info.classes, evaluation);
        self.pictures_failed = written.err().map(|why| format!("{why}. {SAVE_ADVICE}"));
        self.report_unsaved();
    }

    /// Tries again to save what could not be saved, every [`RETRY_INTERVAL`].
    pub(super) fn retry_saving(&mut self, trainer: &mut Trainer) {
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
        // The user may have deleted the run's folder.
        let deleted = |run: &RunDir| !self.saver.is_busy() && !run.folder().join(LAST).is_file();
        let deleted = self.run.as_ref().is_some_and(deleted);
        if self.saved_step != Some(step) || deleted {
            self.save(trainer, false);
        }
    }

    /// Whether the run has diverged. Its last checkpoint is then not replaced, since the weights right before a
    /// divergence are seldom good.
    pub(super) fn has_diverged(&self) -> bool {
        matches!(self.end_state, Some(State::Diverged { .. }))
    }

    /// Saves everything that is not saved yet, and waits until it is done.
    pub(super) fn save_everything(&mut self, trainer: &mut Trainer) {
        if !self.has_diverged() {
            self.save_unsaved(trainer);
        }
        self.write_files();
        self.report_saved(true);
    }

    /// Writes the queued metrics, and the pictures if writing them failed before.
    pub(super) fn write_files(&mut self) {
        self.write(RunDir::flush);
        if self.pictures_failed.is_some() {
            self.write_pictures();
        }
    }

    /// Saves everything, then ends the session.
    ///
    /// # Errors
    /// Returns the reason if something could not be saved. Every viewer receives it too.
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
                self.sender.event(Event::Unsaved {
                    why: Some(why.clone()),
                });
                Err(why)
            }
        }
    }

    /// Makes a checkpoint and queues it for the saving thread.
    ///
    /// # Errors
    /// Returns the reason if nothing is saved, or no checkpoint can be made.
    pub(super) fn save_now(&mut self, trainer: &mut Trainer) -> std::result::Result<(), String> {
        if self.run.is_none() {
            return Err("nothing is saved: this session has no runs folder".into());
        }
        self.save(trainer, false);
        match self.saved_step == Some(trainer.run_state().step) {
            true => Ok(()),
            false => Err("no checkpoint was made; a warning says why".into()),
        }
    }

    /// Copies the training state and queues it for the saving thread.
    pub(super) fn save(&mut self, trainer: &mut Trainer, best: bool) {
        self.save_with(trainer, if best { NewBest::This } else { NewBest::None });
    }

    /// The same with a best checkpoint.
    pub(super) fn save_with(&mut self, trainer: &mut Trainer, best: NewBest) {
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
                    best,
                    keep: self.settings.keep,
                    metrics: Some(metrics),
                });
            }
            Ok(None) => self.warn("no checkpoint was made: a weight is not finite".into()),
            Err(error) => self.warn(format!("no checkpoint was made: {error}")),
        }
    }

    /// Reports finished saves. With `wait`, first waits until all saves have finished.
    pub(super) fn report_saved(&mut self, wait: bool) {
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
                    self.sender.event(Event::Checkpoint(report));
                }
                if self.save_failed.take().is_some() {
                    // The disk has room again: write the other files too.
                    self.write_files();
                }
            }
            Err(why) => {
                self.saved_step = None;
                self.save_failed = Some(why);
            }
        }
        self.report_unsaved();
    }

    /// Reports when saving begins to fail, fails for another reason, or works again.
    pub(super) fn report_unsaved(&mut self) {
        let first = |why: &str| why.split_once(": ").map(|(_, why)| why.to_owned());
        let why = [
            &self.save_failed,
            &self.metrics_failed,
            &self.pictures_failed,
        ]
        .into_iter()
        .find_map(Option::as_ref);
        // Compare only the reasons, since the step in the message changes with each attempt.
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
            self.sender.event(Event::Unsaved { why });
        }
    }

    /// Writes to the run's files. An error, such as a full disk, is reported and does not end the training; the data
    /// stay queued.
    pub(super) fn write(&mut self, write: impl FnOnce(&mut RunDir) -> std::io::Result<()>) {
        let Some(run) = &mut self.run else {
            return;
        };
        match write(run) {
            Ok(()) if run.is_flushed() => self.metrics_failed = None,
            Ok(()) => {}
            Err(error) => {
                self.metrics_failed = Some(format!(
                    "the metrics in {} could not be written: {error}. {SAVE_ADVICE}",
                    run.folder().display()
                ));
            }
        }
        self.report_unsaved();
    }
}
