//! Handles the commands of the front ends.

use super::comparison::Decision;
use super::{Exit, Worker, split_index};
use crate::domain::params::{self, HyperParamError, Value, Weights};
use crate::domain::report::{Split, State};
use crate::session::client::ReceivedCommand;
use crate::session::download::Download;
use crate::session::protocol::{Answer, Command, CommandMessage, Event, Outcome, Question};
use crate::session::questions;
use crate::session::run_dir::RunError;
use crate::session::runs::RunsFolder;
use crate::train::trainer::{ChangeOutcome, Phase, Trainer, TrainingHost};
use std::ops::ControlFlow;

/// The outcome of a command, or the reason why it is refused. None if the outcome is known later.
pub(super) type Handled = std::result::Result<Option<Outcome>, String>;

impl Worker<'_> {
    /// Carries out a command and sends the outcome to its sender. If the command takes effect only after the training
    /// loop has ended, the outcome is sent later.
    pub(super) fn handle(&mut self, request: ReceivedCommand, trainer: &mut Trainer, phase: Phase) {
        self.inbox.open(&request, self.sender);
        let CommandMessage { run, command, .. } = &request.message;
        let handled = self
            .check_run(run.as_deref())
            .and_then(|()| self.carry_out(command.clone(), &request, trainer, phase));
        match handled {
            Ok(Some(outcome)) => self.inbox.answer(outcome, self.sender),
            Ok(None) => {}
            Err(why) => self.inbox.answer(Outcome::Refused(why), self.sender),
        }
    }

    /// Sends the outcome of the current command to its sender, after the command has taken effect or failed.
    pub(super) fn answer(&mut self, result: std::result::Result<(), String>, trainer: &Trainer) {
        let outcome = match result {
            Ok(()) => at_next_step(trainer),
            Err(why) => Outcome::Refused(why),
        };
        self.inbox.answer(outcome, self.sender);
    }

    /// Refuses a command for a run that this session does not have.
    fn check_run(&self, wanted: Option<&str>) -> std::result::Result<(), String> {
        let name = self.run.as_ref().map(|run| &*run.name);
        match wanted {
            Some(wanted) if name != Some(wanted) => {
                let has = match name {
                    Some(name) => format!("its run is '{name}'"),
                    None => "its run has no name, as nothing is saved".into(),
                };
                Err(format!(
                    "this session has no run '{wanted}': {has}. Without `run`, a command is for the shown run."
                ))
            }
            _ => Ok(()),
        }
    }

    fn carry_out(
        &mut self,
        command: Command,
        request: &ReceivedCommand,
        trainer: &mut Trainer,
        phase: Phase,
    ) -> Handled {
        let evaluating = matches!(phase, Phase::Evaluating { .. });
        if command.interrupts() && !matches!(command, Command::FindLr { .. } | Command::StopFindLr)
        {
            self.stop_rate_test(trainer);
        }
        match command {
            Command::Quit => self.exit = Some(Exit::Quit),
            Command::SaveAndQuit => self.save_and_quit(trainer)?,
            Command::Restart => {
                self.exit = Some(Exit::Restart);
                return Ok(None);
            }
            Command::Fork(request) => return self.request_fork(trainer, request),
            Command::GoBack => return self.request_go_back(trainer),
            Command::Stop => match self.end_state {
                None => self.exit = Some(Exit::Stop),
                Some(_) => return Err("the run is over already".into()),
            },
            Command::Pause => match self.end_state {
                None => self.paused = true,
                Some(_) => return Err("the run is over: there is nothing to pause".into()),
            },
            Command::Resume | Command::Step => match &self.end_state {
                Some(State::Diverged { .. }) => return Err(
                    "the run has diverged: go back to a checkpoint with a lower learning rate, or lower the learning rate and restart".into(),
                ),
                Some(_) if trainer.is_finished() => {
                    return Err("all epochs are done: raise `epochs` to continue, or restart".into());
                }
                _ => {
                    self.paused = false;
                    self.pause_after_step = command == Command::Step;
                    self.train_again = true;
                }
            },
            Command::Evaluate if evaluating => {
                return Err("an evaluation is running already".into());
            }
            Command::Evaluate => {
                let split = trainer.scored_split();
                self.request_score(split);
                if split != Split::Test && self.shown == Split::Test {
                    self.request_score(Split::Test);
                }
            }
            Command::Checkpoint => self.save_now(trainer)?,
            Command::Set { key, value } => return self.set(trainer, &key, value).map(Some),
            Command::ResetLayer { layer } => return self.request_reset(trainer, &layer),
            Command::Undo if self.take_back_reset(trainer)? => return Ok(None),
            Command::Undo => match trainer.undo_change() {
                Ok(Some((row, outcome))) => {
                    return Ok(Some(self.report_change(trainer, row.key, outcome)));
                }
                Ok(None) => return Err("there is no change to undo".into()),
                Err(error) => return Err(self.refuse(error)),
            },
            Command::Compare { key, value } => {
                return self.compare(trainer, &key, value).map(Some);
            }
            Command::KeepChange => return self.request_decision(trainer, Decision::Keep, phase),
            Command::DropChange => return self.request_decision(trainer, Decision::Drop, phase),
            Command::FindLr { steps } => self.request_rate_test(steps)?,
            Command::StopFindLr => match self.rate_test {
                Some(_) => self.stop_rate_test(trainer),
                None => return Err("no test of learning rates is running".into()),
            },
            Command::Show { split } => self.show(trainer, split)?,
            Command::Ask { question, epoch } => {
                let answer = match epoch {
                    None => self.answer_to(trainer, question),
                    Some(epoch) => self
                        .answer_about(trainer, epoch, question)
                        .unwrap_or_else(|why| Answer::Failed { why }),
                };
                self.sender.answer(request.address(), answer);
            }
            Command::Download => self.download_data()?,
            // The viewer's connection has handled it.
            Command::Watch => {}
        }
        Ok(Some(at_next_step(trainer)))
    }

    /// Starts a download of CIFAR-10, unless one is running.
    fn download_data(&mut self) -> std::result::Result<(), String> {
        if self.download.as_ref().is_some_and(|d| !d.is_over()) {
            return Err("the data set is being downloaded already".into());
        }
        let download = Download::start(self.settings.download_to.clone(), self.sender.clone())
            .map_err(|error| format!("cannot start the thread that downloads: {error}"))?;
        self.download = Some(download);
        Ok(())
    }

    /// Changes a hyperparameter.
    ///
    /// # Errors
    /// Returns the reason if the value is not allowed. Every viewer receives it too.
    pub(super) fn set(
        &mut self,
        trainer: &mut Trainer,
        key: &str,
        value: Value,
    ) -> std::result::Result<Outcome, String> {
        let change = params::find(key).and_then(|row| {
            Ok::<_, HyperParamError>((row.key, trainer.request_change(row, value)?))
        });
        match change {
            Ok((key, change)) => Ok(self.report_change(trainer, key, change)),
            Err(error) => Err(self.refuse(error)),
        }
    }

    fn refuse(&self, error: HyperParamError) -> String {
        let why = error.to_string();
        self.sender.event(Event::Refused { error });
        why
    }

    fn report_change(&mut self, trainer: &Trainer, key: &str, change: ChangeOutcome) -> Outcome {
        if change != ChangeOutcome::Unchanged {
            // The newest checkpoint lacks the change, even if it is of this step.
            self.saved_step = None;
        }
        match change {
            ChangeOutcome::Applied(applied) => {
                self.applied(&applied);
                return Outcome::AppliedAt(applied.step);
            }
            ChangeOutcome::Pending(change, applies) => {
                self.sender.event(Event::Pending { change, applies });
                return Outcome::PendingUntil(applies);
            }
            ChangeOutcome::Withdrawn => self.sender.event(Event::Withdrawn { key: key.into() }),
            ChangeOutcome::Unchanged => {
                let pending = &trainer.run_state().pending;
                if let Some(row) = params::param(key)
                    && pending.iter().any(|(pending, _)| pending == key)
                {
                    return Outcome::PendingUntil(row.applies);
                }
            }
        }
        at_next_step(trainer)
    }

    fn show(&mut self, trainer: &mut Trainer, split: Split) -> std::result::Result<(), String> {
        if split == Split::Train {
            return Err("Confusion and Samples show the validation or the test images".into());
        }
        if split == Split::Validation && trainer.scored_split() != split {
            return Err("no images are held out for validation: the test images are shown".into());
        }
        self.shown = split;
        trainer.watch_test = split == Split::Test;
        let step = trainer.run_state().step;
        let [validation, test] = [0, 1].map(|i| self.results[i].scores.as_ref().map(|s| s.step));
        let missing = match split {
            Split::Test => test.is_none_or(|t| validation.is_some_and(|v| v > t)) && step > 0,
            _ => false,
        };
        if missing {
            self.request_score(Split::Test);
        }
        Ok(())
    }

    fn answer_to(&mut self, trainer: &mut Trainer, question: Question) -> Answer {
        let shown = split_index(self.shown);
        let answer = match question {
            Question::Evaluation => self.results[shown].evaluation(),
            Question::Samples {
                filter,
                offset,
                count,
            } => self.results[shown].samples(&self.training_data, &filter, offset, count),
            Question::Cell {
                truth,
                predicted,
                offset,
                count,
            } => self.results[shown].cell(&self.training_data, (truth, predicted), offset, count),
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

    /// Changes the runs folder, then answers with the list of all runs.
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

    pub(super) fn request_score(&mut self, split: Split) {
        if !self.splits_to_score.contains(&split) {
            self.splits_to_score.push(split);
        }
    }

    /// Scores the splits in `splits_to_score`. Breaks if the evaluation was interrupted or failed.
    pub(super) fn score_requested(&mut self, trainer: &mut Trainer) -> ControlFlow<()> {
        while let Some(split) = self.splits_to_score.first().copied() {
            self.splits_to_score.remove(0);
            let tta = trainer.run_state().params.tta_of_evaluations();
            let scored = match self.unrecorded_split == Some(split) {
                // The record of the run has the scores of the average, which no screen shows in detail.
                true => trainer
                    .evaluate(self, split, Weights::Last, tta)
                    .map(|scores| scores.map(|scores| self.evaluated(scores))),
                false => trainer
                    .evaluate_all(self, split, tta)
                    .map(|scores| scores.map(|_| ())),
            };
            match scored {
                Ok(Some(())) => {}
                Ok(None) => {
                    // After a reset it begins again, with the weights that are there then.
                    if let Some(Exit::ResetLayer(_) | Exit::TakeBackReset) = &self.exit {
                        self.splits_to_score.insert(0, split);
                    }
                    return ControlFlow::Break(());
                }
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

/// The outcome of a command that has taken effect.
pub(super) fn at_next_step(trainer: &Trainer) -> Outcome {
    Outcome::AppliedAt(trainer.run_state().step + 1)
}
