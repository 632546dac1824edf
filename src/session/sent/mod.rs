//! Follows a command that was sent until its effect is complete. `send` and the answers to command files need this.

mod snapshot;
#[cfg(test)]
mod tests;

pub use snapshot::SnapshotView;

use super::protocol::{Answer, Command, Event, Outcome, Until};
use super::status::Status;
use crate::domain::params::{Applies, Value, param};
use crate::domain::rate_test::{RateTestEnd, RateTestReport};
use crate::domain::report::{CheckpointReport, Evaluation, ScoredWeights, State};
use serde::Serialize;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NoAnswer {
    #[error(
        "the session of {run} has not answered within {seconds} s; the command may still take effect. `cifar-tui send {run} ask status` shows what it does."
    )]
    TimedOut { run: String, seconds: f64 },
    #[error(
        "the session of {run} has not read the command within {seconds} s: it is withdrawn, and has no effect. A session reads the files in its run's inbox every second; is its computer reachable?"
    )]
    Withdrawn { run: String, seconds: f64 },
    #[error("the session of {run} ended before it answered; its run's log.txt may say why")]
    Ended { run: String },
}

/// What a command led to, besides its outcome.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommandEffect {
    Answer(Answer),
    Evaluation(Evaluation),
    Checkpoint(CheckpointReport),
    RateTest(RateTestReport),
}

/// The answer to a command, as it is printed.
#[derive(Serialize)]
pub struct SentAnswer<'a> {
    run: &'a str,
    #[serde(flatten)]
    command: &'a Command,
    #[serde(flatten)]
    outcome: &'a Outcome,
    #[serde(flatten)]
    effect: Option<&'a CommandEffect>,
}

/// A command that was sent.
pub struct Sent {
    pub id: u64,
    command: Command,
    until: Until,
    /// Whether its answer has arrived.
    is_answered: bool,
    /// Whether its effect is complete, or it will have none.
    pub is_complete: bool,
    pub outcome: Outcome,
    /// The key and the value of its change. Until the answer to `undo`, those of the newest pending change.
    change: Option<(String, Value)>,
    effect: Option<CommandEffect>,
}

impl Sent {
    /// Command number `id`, whose effect is complete at `until`.
    pub fn new(id: u64, command: Command, until: Until) -> Self {
        let change = match &command {
            Command::Set { key, value } => Some((key.clone(), value.clone())),
            _ => None,
        };
        Sent {
            id,
            change,
            command,
            until,
            is_answered: false,
            is_complete: false,
            outcome: Outcome::AppliedAt(0),
            effect: None,
        }
    }

    /// The answer as it is printed.
    pub fn answer<'a>(&'a self, run: &'a str) -> SentAnswer<'a> {
        SentAnswer {
            run,
            command: &self.command,
            outcome: &self.outcome,
            effect: self.effect.as_ref(),
        }
    }

    /// Whether the end of the session is its effect, and all that is missing.
    pub fn ends_with_the_session(&self) -> bool {
        self.is_answered && self.until == Until::SessionOver
    }

    /// Processes an event, after which the session's status is `status`.
    pub fn event(&mut self, event: &Event, status: &Status) {
        match event {
            _ if self.is_complete => {}
            Event::Snapshot { events } if self.is_answered => self.catch_up(events, status),
            _ if self.is_answered => self.follow(event),
            Event::Pending { change, .. } if self.command == Command::Undo => {
                self.change = Some((change.key.clone(), change.new.clone()));
            }
            Event::Answer { id, answer } if *id == self.id => {
                self.effect = Some(CommandEffect::Answer(answer.clone()));
            }
            Event::Done(done) if done.id == self.id => {
                self.is_answered = true;
                self.outcome = done.outcome.clone();
                if let Some(CommandEffect::Answer(Answer::Failed { why })) = &self.effect {
                    self.outcome = Outcome::Refused(why.clone());
                    self.effect = None;
                }
                self.is_complete = match (&self.outcome, self.until) {
                    (Outcome::Refused(_), _) | (_, Until::Answered) => true,
                    (Outcome::AppliedAt(_), Until::Applied) => true,
                    (_, Until::Paused) => {
                        self.command == Command::Pause && status.state == State::Paused
                    }
                    (_, Until::RunOver) => status.state.is_over(),
                    _ => false,
                };
            }
            _ => {}
        }
    }

    /// Processes the snapshot that a client receives instead of events that it has not read in time.
    fn catch_up(&mut self, events: &[Event], status: &Status) {
        let is_mine = |event: &Event| match (event, &self.change) {
            (Event::Pending { change, .. }, Some((key, value))) => {
                (&change.key, &change.new) == (key, value)
            }
            _ => false,
        };
        // Earlier changes of the same hyperparameter do not count.
        let begin = match self.until {
            Until::Applied => (events.iter().rposition(is_mine)).map_or(events.len(), |at| at + 1),
            _ => 0,
        };
        let is_past = |event: &Event| matches!(event, Event::State(_) | Event::Unsaved { .. });
        let now = Event::State(status.state.clone());
        let events = events[begin..].iter().filter(|event| !is_past(event));
        for event in events.chain([&now]) {
            if !self.is_complete {
                self.follow(event);
            }
        }
    }

    fn complete(&mut self, outcome: Option<Outcome>) {
        self.is_complete = true;
        if let Some(outcome) = outcome {
            self.outcome = outcome;
        }
    }

    /// It will have no effect.
    pub fn refuse(&mut self, why: impl Into<String>) {
        self.complete(Some(Outcome::Refused(why.into())));
    }

    /// Processes an event between the answer and the complete effect.
    fn follow(&mut self, event: &Event) {
        let over = match event {
            Event::State(state) => state.is_over(),
            // A new run begins.
            Event::Started(_) => self.until != Until::Applied,
            _ => false,
        };
        let ended = matches!(event, Event::Ended { .. });
        match self.until {
            Until::Answered => self.complete(None),
            Until::Applied => self.follow_change(event),
            Until::Scored => {
                if let Event::Evaluation(evaluation) = event
                    && evaluation.weights == ScoredWeights::Last
                    && self.contains(evaluation.step)
                {
                    self.effect = Some(CommandEffect::Evaluation(evaluation.clone()));
                    self.complete(None);
                }
            }
            Until::Tested => self.follow_rate_test(event),
            Until::Saved => match event {
                Event::Checkpoint(report) if !report.best && self.contains(report.step) => {
                    self.effect = Some(CommandEffect::Checkpoint(report.clone()));
                    self.complete(None);
                }
                Event::Unsaved { why: Some(why) } => self.refuse(why),
                _ => {}
            },
            Until::Paused if *event == Event::State(State::Paused) => self.complete(None),
            Until::RunOver | Until::SessionOver if ended => self.complete(None),
            Until::RunOver if over => self.complete(None),
            Until::Paused | Until::RunOver | Until::SessionOver => {}
        }
        let outlives_the_run = self.until == Until::SessionOver
            || self.outcome == Outcome::PendingUntil(Applies::NextRun);
        if !self.is_complete && (ended || over && !outlives_the_run) {
            self.refuse("the run ended before the command had taken effect");
        }
    }

    /// Collects the points of the test until it is over.
    fn follow_rate_test(&mut self, event: &Event) {
        let Event::RateTest(report) = event else {
            return;
        };
        match &mut self.effect {
            Some(CommandEffect::RateTest(test)) => test.extend(report),
            _ => self.effect = Some(CommandEffect::RateTest(report.clone())),
        }
        match &report.end {
            None => {}
            Some(RateTestEnd::Stopped) => self.refuse("the test was stopped before its end"),
            Some(RateTestEnd::Failed(why)) => self.refuse(why),
            Some(_) => self.complete(None),
        }
    }

    /// Whether weights after `step` contain all steps before the answer.
    fn contains(&self, step: u64) -> bool {
        matches!(self.outcome, Outcome::AppliedAt(first) if step + 1 >= first)
    }

    /// Processes an event while a change is pending.
    fn follow_change(&mut self, event: &Event) {
        let Some((key, value)) = self.change.clone() else {
            return self.complete(None);
        };
        let replaced = |value: &Value| format!("{key} was changed to {value} instead");
        match event {
            Event::Applied { change, step, .. } if change.key == key => match change.new == value {
                true => self.complete(Some(Outcome::AppliedAt(*step))),
                false => self.refuse(replaced(&change.new)),
            },
            Event::Pending { change, .. } if change.key == key && change.new != value => {
                self.refuse(replaced(&change.new));
            }
            Event::Withdrawn { key: withdrawn } if *withdrawn == key => {
                self.refuse("the change was taken back before it took effect");
            }
            // A new run begins with the changes that were pending.
            Event::Started(run) => match param(&key).map(|row| row.get(&run.params)) {
                Some(new) if new != value => self.refuse(replaced(&new)),
                _ => self.complete(Some(Outcome::AppliedAt(run.resumed_at.unwrap_or(1)))),
            },
            _ => {}
        }
    }
}
