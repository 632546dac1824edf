//! The commands of the front ends.

use super::{Exit, Worker};
use crate::domain::params::{self, HyperParamError, Value};
use crate::domain::report::{Split, State};
use crate::session::download::Download;
use crate::session::protocol::{Answer, Command, Event, Question};
use crate::session::questions;
use crate::session::run_dir::RunError;
use crate::session::runs::RunsFolder;
use crate::train::trainer::{ChangeOutcome, Phase, Trainer, TrainingHost};
use std::ops::ControlFlow;

impl Worker<'_> {
    pub(super) fn handle(&mut self, command: Command, trainer: &mut Trainer, phase: Phase) {
        let evaluating = phase != Phase::Training;
        match command {
            Command::Quit => self.exit = Some(Exit::Quit),
            Command::SaveAndQuit => self.save_and_quit(trainer),
            Command::Restart => self.exit = Some(Exit::Restart),
            Command::GoBack => self.wants_back(trainer),
            Command::Stop => match self.over {
                None => self.exit = Some(Exit::Stop),
                Some(_) => self.notice("the run is over already"),
            },
            Command::Pause => match self.over {
                None => self.paused = true,
                Some(_) => self.notice("the run is over: there is nothing to pause"),
            },
            Command::Resume | Command::Step => match &self.over {
                Some(State::Diverged { .. }) => self.notice(
                    "the run has diverged: go back to a checkpoint with a lower learning rate, or lower the learning rate and restart",
                ),
                Some(_) if trainer.is_finished() => {
                    self.notice("all epochs are through: raise `epochs` to go on, or restart");
                }
                _ => {
                    self.paused = false;
                    self.one_step = command == Command::Step;
                    self.go_on = true;
                }
            },
            Command::Evaluate if evaluating => self.notice("an evaluation is under way already"),
            Command::Evaluate => {
                let split = trainer.scored_split();
                self.want_score(split);
                if split != Split::Test && self.shown == Split::Test {
                    self.want_score(Split::Test);
                }
            }
            Command::Checkpoint => match &self.run {
                Some(_) => self.save(trainer, false),
                None => self.notice("nothing is saved: this session has no runs folder"),
            },
            Command::Set { key, value } => self.set(trainer, &key, value),
            Command::Undo => match trainer.undo() {
                Ok(Some((row, outcome))) => self.report_change(row.key, outcome),
                Ok(None) => self.notice("there is no change to take back"),
                Err(error) => self.tell.event(Event::Refused { error }),
            },
            Command::Show { split } => self.show(trainer, split),
            Command::Ask { id, question } => {
                let answer = self.answer(trainer, question);
                self.tell.event(Event::Answer { id, answer });
            }
            Command::Download => self.fetch_data(),
        }
    }

    /// Begins to fetch CIFAR-10, unless that is under way.
    pub(super) fn fetch_data(&mut self) {
        if self.download.as_ref().is_some_and(|d| !d.is_over()) {
            self.notice("the data is being fetched already");
            return;
        }
        match Download::start(self.settings.download_to.clone(), self.tell.clone()) {
            Ok(download) => self.download = Some(download),
            Err(error) => self.warn(format!("the system gives no thread to fetch with: {error}")),
        }
    }

    pub(super) fn set(&mut self, trainer: &mut Trainer, key: &str, value: Value) {
        let outcome = params::find(key).and_then(|row| {
            Ok::<_, HyperParamError>((row.key, trainer.request_change(row, value)?))
        });
        match outcome {
            Ok((key, outcome)) => self.report_change(key, outcome),
            Err(error) => self.tell.event(Event::Refused { error }),
        }
    }

    pub(super) fn report_change(&mut self, key: &str, outcome: ChangeOutcome) {
        match outcome {
            ChangeOutcome::Applied(applied) => self.applied(&applied),
            ChangeOutcome::Waits(change, applies) => {
                self.tell.event(Event::Pending { change, applies })
            }
            ChangeOutcome::Withdrawn => self.tell.event(Event::Withdrawn { key: key.into() }),
            ChangeOutcome::Unchanged => {}
        }
    }

    pub(super) fn show(&mut self, trainer: &mut Trainer, split: Split) {
        if split == Split::Train {
            self.notice("Confusion and Samples show the validation or the test images");
            return;
        }
        if split == Split::Validation && trainer.scored_split() != split {
            self.notice("no images are held out for validation: the test images are shown");
            return;
        }
        self.shown = split;
        trainer.watch_test = split == Split::Test;
        let step = trainer.run_state().step;
        let [validation, test] = [0, 1].map(|i| self.known[i].scores.as_ref().map(|s| s.step));
        let missing = match split {
            Split::Test => test.is_none_or(|t| validation.is_some_and(|v| v > t)) && step > 0,
            _ => false,
        };
        if missing {
            self.want_score(Split::Test);
        }
    }

    pub(super) fn answer(&mut self, trainer: &mut Trainer, question: Question) -> Answer {
        let shown = usize::from(self.shown == Split::Test);
        let answer = match question {
            Question::Samples {
                filter,
                offset,
                count,
            } => self.known[shown].samples(&self.training_data, &filter, offset, count),
            Question::Cell {
                truth,
                predicted,
                offset,
                count,
            } => self.known[shown].cell(&self.training_data, (truth, predicted), offset, count),
            Question::Browse {
                split,
                class,
                offset,
                count,
            } => questions::browse(trainer, split, class, offset, count),
            Question::Augmented { index, count } => questions::augmented(trainer, index, count),
            Question::Model { activations_of } => {
                questions::model(trainer, self.shown, activations_of)
            }
            Question::Runs => return self.ask_runs(|_| Ok(())),
            Question::RenameRun { name, to } => {
                return self.ask_runs(|runs| runs.rename(&name, &to));
            }
            Question::NoteRun { name, note } => {
                let open = self.run.as_ref().map(|run| run.files().clone());
                return self.ask_runs(|runs| runs.note(&name, &note, open.as_ref()));
            }
            Question::DeleteRun { name } => return self.ask_runs(|runs| runs.delete(&name)),
        };
        answer.unwrap_or_else(|error| Answer::Failed {
            why: error.to_string(),
        })
    }

    /// Does something to the runs folder, then lists it.
    pub(super) fn ask_runs(
        &mut self,
        change: impl FnOnce(&mut RunsFolder) -> std::result::Result<(), RunError>,
    ) -> Answer {
        let Some(runs) = &mut self.runs else {
            return Answer::Failed {
                why: "this session has no runs folder".into(),
            };
        };
        match change(runs).and_then(|()| runs.list()) {
            Ok(items) => Answer::Runs {
                folder: runs.folder().display().to_string(),
                items,
            },
            Err(error) => Answer::Failed {
                why: error.to_string(),
            },
        }
    }

    pub(super) fn want_score(&mut self, split: Split) {
        if !self.to_score.contains(&split) {
            self.to_score.push(split);
        }
    }

    /// Scores what was asked for.
    pub(super) fn score_wanted(&mut self, trainer: &mut Trainer) -> ControlFlow<()> {
        while let Some(split) = self.to_score.first().copied() {
            self.to_score.remove(0);
            match trainer.evaluate(self, split) {
                Ok(Some(scores)) => self.evaluated(scores),
                Ok(None) => return ControlFlow::Break(()),
                Err(error) => {
                    self.error = Some(error.into());
                    self.exit = Some(Exit::Failed);
                    return ControlFlow::Break(());
                }
            }
        }
        ControlFlow::Continue(())
    }
}
