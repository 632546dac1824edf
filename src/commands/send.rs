//! `send`: sends commands to a running session and prints the answer to each as a line of JSON.

use super::json as write_json;
use crate::cli::Sending;
use crate::config::Config;
use crate::domain::params::{Applies, Hyperparameters, Value, param};
use crate::domain::rate_test::{RateTestEnd, RateTestReport};
use crate::domain::report::{
    CheckpointReport, EpochReport, Evaluation, ScoredWeights, State, StepReport,
};
use crate::domain::text::plain;
use crate::session::attach;
use crate::session::client::SessionClient;
use crate::session::protocol::{
    Answer, Change, Command, CommandMessage, Event, Outcome, TypedRequest, Until,
};
use crate::session::run_dir::HostId;
use crate::session::run_view::{BestEpoch, RunView};
use crate::session::status::Status;
use crossbeam_channel::RecvTimeoutError;
use serde::Serialize;
use std::io::Write;
use std::time::{Duration, Instant};

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NoAnswer {
    #[error(
        "the session of {run} has not answered within {seconds} s; the command may still take effect. `cifar-tui send {run} ask status` shows what it does."
    )]
    TimedOut { run: String, seconds: f64 },
    #[error("the session of {run} ended before it answered; its run's log.txt may say why")]
    Ended { run: String },
}

/// Sends the commands and prints the answers. Returns whether all commands were accepted and, with `wait`, have taken
/// effect.
///
/// # Errors
/// Returns an error if no session can be reached ([`attach::AttachError`]), or it does not answer ([`NoAnswer`]).
pub fn run(sending: &Sending, config: &Config, out: &mut impl Write) -> anyhow::Result<bool> {
    let deadline = sending.timeout.map(|timeout| Instant::now() + timeout);
    let named = sending.run.as_deref();
    let session = attach::find_one(&config.runs, named, &HostId::this())?;
    let client = match sending.timeout {
        Some(limit) => attach::attach_within(&session, limit)?,
        None => attach::attach(&session)?,
    };
    let mut events = Events {
        client: &client,
        run: &session.name,
        deadline,
        timeout: sending.timeout.unwrap_or_default(),
    };
    let snapshot = events.next()?;
    let (commands, until) = match &sending.request {
        TypedRequest::Status => {
            write_json(&SnapshotView::of(&snapshot).answer(), out)?;
            return Ok(true);
        }
        TypedRequest::Send { commands, until } => (commands, *until),
    };
    let until = if sending.wait { until } else { Until::Answered };
    let mut status = Status::default();
    status.event(&snapshot);
    let mut open = Vec::new();
    for command in commands {
        let message = CommandMessage {
            run: named.map(|_| session.name.clone()),
            ..CommandMessage::new(client.commands.ids().next(), command.clone())
        };
        open.push(Sent::new(message.id, command.clone(), until));
        if client.commands.send_message(message).is_err() {
            return Err(events.ended().into());
        }
    }
    let mut taken = true;
    for at in 0..open.len() {
        while !open[at].is_complete {
            let event = match events.next() {
                Err(NoAnswer::Ended { .. }) if open[at].ends_with_the_session() => break,
                event => event?,
            };
            status.event(&event);
            open.iter_mut().for_each(|sent| sent.event(&event, &status));
        }
        taken &= !matches!(open[at].outcome, Outcome::Refused(_));
        write_json(&open[at].answer(&session.name), out)?;
        out.flush()?;
    }
    Ok(taken)
}

/// The session's events.
struct Events<'a> {
    client: &'a SessionClient,
    run: &'a str,
    deadline: Option<Instant>,
    timeout: Duration,
}

impl Events<'_> {
    /// Waits for the next event. Reports of steps are not among them.
    fn next(&mut self) -> Result<Event, NoAnswer> {
        let next = match self.deadline {
            Some(deadline) => self.client.events.recv_deadline(deadline),
            None => (self.client.events.recv()).map_err(|_| RecvTimeoutError::Disconnected),
        };
        match next {
            Ok(message) => Ok(message.event),
            Err(RecvTimeoutError::Disconnected) => Err(self.ended()),
            Err(RecvTimeoutError::Timeout) => Err(NoAnswer::TimedOut {
                run: plain(self.run).into_owned(),
                seconds: self.timeout.as_secs_f64(),
            }),
        }
    }

    fn ended(&self) -> NoAnswer {
        NoAnswer::Ended {
            run: plain(self.run).into_owned(),
        }
    }
}

/// What a command led to, besides its outcome.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Effect {
    Answer(Answer),
    Evaluation(Evaluation),
    Checkpoint(CheckpointReport),
    RateTest(RateTestReport),
}

/// The answer to a command, as it is printed.
#[derive(Serialize)]
struct SentAnswer<'a> {
    run: &'a str,
    #[serde(flatten)]
    command: &'a Command,
    #[serde(flatten)]
    outcome: &'a Outcome,
    #[serde(flatten)]
    effect: Option<&'a Effect>,
}

/// A command that was sent.
struct Sent {
    id: u64,
    command: Command,
    until: Until,
    /// Whether its answer has arrived, and then its effect is complete.
    is_answered: bool,
    is_complete: bool,
    outcome: Outcome,
    /// The key and the value of its change. Until the answer to `undo`, those of the newest pending change.
    change: Option<(String, Value)>,
    effect: Option<Effect>,
}

impl Sent {
    fn new(id: u64, command: Command, until: Until) -> Self {
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

    fn answer<'a>(&'a self, run: &'a str) -> SentAnswer<'a> {
        SentAnswer {
            run,
            command: &self.command,
            outcome: &self.outcome,
            effect: self.effect.as_ref(),
        }
    }

    fn ends_with_the_session(&self) -> bool {
        self.is_answered && self.until == Until::SessionOver
    }

    /// Processes an event, after which the session's status is `status`.
    fn event(&mut self, event: &Event, status: &Status) {
        match event {
            _ if self.is_complete => {}
            Event::Snapshot { events } if self.is_answered => self.catch_up(events, status),
            _ if self.is_answered => self.follow(event),
            Event::Pending { change, .. } if self.command == Command::Undo => {
                self.change = Some((change.key.clone(), change.new.clone()));
            }
            Event::Answer { id, answer } if *id == self.id => {
                self.effect = Some(Effect::Answer(answer.clone()));
            }
            Event::Done(done) if done.id == self.id => {
                self.is_answered = true;
                self.outcome = done.outcome.clone();
                if let Some(Effect::Answer(Answer::Failed { why })) = &self.effect {
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

    fn refuse(&mut self, why: impl Into<String>) {
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
                    self.effect = Some(Effect::Evaluation(evaluation.clone()));
                    self.complete(None);
                }
            }
            Until::Tested => self.follow_rate_test(event),
            Until::Saved => match event {
                Event::Checkpoint(report) if !report.best && self.contains(report.step) => {
                    self.effect = Some(Effect::Checkpoint(report.clone()));
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
            Some(Effect::RateTest(test)) => test.extend(report),
            _ => self.effect = Some(Effect::RateTest(report.clone())),
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

/// What a snapshot says of a session.
#[derive(Default)]
struct SnapshotView {
    status: Status,
    view: RunView,
    pending: Vec<(Change, Applies)>,
}

impl SnapshotView {
    fn of(snapshot: &Event) -> Self {
        let mut known = SnapshotView::default();
        known.status.event(snapshot);
        known.view.event(snapshot);
        let Event::Snapshot { events } = snapshot else {
            return known;
        };
        for event in events {
            match event {
                Event::Pending { change, applies } => {
                    known.pending.retain(|(old, _)| old.key != change.key);
                    known.pending.push((change.clone(), *applies));
                }
                Event::Withdrawn { key } => known.pending.retain(|(old, _)| old.key != *key),
                Event::Applied { change, .. } => {
                    known.pending.retain(|(old, _)| old.key != change.key);
                }
                Event::Started(_) => known.pending.clear(),
                _ => {}
            }
        }
        known
    }

    fn answer(&self) -> StatusAnswer<'_> {
        StatusAnswer {
            run: &self.status.run,
            folder: &self.status.folder,
            state: &self.status.state,
            step: self.status.step,
            saved_step: self.status.saved_step,
            unsaved: self.status.unsaved.as_deref(),
            steps: self.view.steps.as_ref(),
            epoch: self.view.epochs.last(),
            best: self.view.best,
            pending: (self.pending.iter())
                .map(|(change, applies)| PendingAnswer {
                    change,
                    waits_for: *applies,
                })
                .collect(),
            params: self.view.run.is_some().then_some(&self.view.params),
        }
    }
}

/// The answer to `ask status`, as it is printed.
#[derive(Serialize)]
struct StatusAnswer<'a> {
    run: &'a str,
    folder: &'a str,
    state: &'a State,
    /// The newest step, and that of the newest checkpoint on the disk.
    step: u64,
    saved_step: Option<u64>,
    unsaved: Option<&'a str>,
    /// The newest report of steps, and of an epoch.
    steps: Option<&'a StepReport>,
    epoch: Option<&'a EpochReport>,
    best: Option<BestEpoch>,
    pending: Vec<PendingAnswer<'a>>,
    /// Null until a run has begun.
    params: Option<&'a Hyperparameters>,
}

#[derive(Serialize)]
struct PendingAnswer<'a> {
    #[serde(flatten)]
    change: &'a Change,
    waits_for: Applies,
}

#[cfg(test)]
mod tests;
