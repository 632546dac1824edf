//! The state of the session as the screens show it. Only events change it, so that every shown value has been
//! acknowledged by the worker. It uses no terminal.

mod comparison;
mod log;
mod past;
mod scores;
#[cfg(test)]
mod tests;

use super::actions::{ProgramAction, key_of};
use crate::domain::history::Series;
use crate::domain::params::{Applies, Hyperparameters, Tta, Value, param};
use crate::domain::recipes;
use crate::domain::report::{
    CheckpointReport, DataInfo, Evaluation, RunInfo, Split, State, StepReport, SystemLoad,
};
use crate::domain::text::{bytes, grouped};
use crate::session::protocol::{Change, Done, Event, Outcome};
use crate::session::run_view::RunView;
pub use comparison::ComparisonView;
use log::Log;
pub use log::Severity;
use std::collections::BTreeMap;
use std::ops::Deref;

/// Initial share of the past that smoothing keeps.
const SMOOTHING: f64 = 0.8;
/// Epochs of a run from which on its curves are smoothed by what is trained.
const LONG_RUN: f64 = 15.0;
/// Log lines that later events replace.
const PAUSED: &str = "paused";
const STOPPED: &str = "stopped";
const DONE: &str = "all epochs are done";
const RESUMED: &str = "resumed";
const TEST_IMAGES: &str = "test images: ";
const AVERAGE: &str = " (average ";
/// Initial bucket width of the series, in epochs. Buckets double as the series grow.
const WIDTH: f64 = 1.0 / 4096.0;

/// A point of a validation or test curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// In epochs.
    pub x: f64,
    pub step: u64,
    pub loss: f64,
    pub accuracy: f64,
    /// The views that were averaged.
    pub tta: Tta,
}

/// The state of the session.
#[derive(Clone, Debug)]
pub struct SessionView {
    /// The state of the run, computed from its events.
    view: RunView,
    /// The data set, once loaded.
    pub data: Option<DataInfo>,
    /// Changes that were accepted and take effect at the next epoch or run, by key.
    pub pending: BTreeMap<String, (Change, Applies)>,
    /// Changes that were sent and not acknowledged yet, by key.
    pub sent: BTreeMap<String, Value>,
    /// The x of these series is in epochs.
    pub train_loss: Series,
    pub train_accuracy: Series,
    pub throughput: Series,
    pub grad_norm: Series,
    pub learning_rate: Series,
    /// CPU load, 0 to 1; x counts the load reports.
    pub cpu: Series,
    /// GPU load, 0 to 1; x counts the load reports.
    pub gpu: Series,
    loads: u64,
    pub validation: Vec<Point>,
    /// Share of the past, from 0 to below 1, that the smoothed training curves keep on every screen.
    pub smoothing: f64,
    /// The newest evaluation and the one before it, of the validation and of the test images.
    pub evaluations: BTreeMap<&'static str, (Evaluation, Option<Evaluation>)>,
    /// The images that Confusion and Samples show.
    pub shown: Split,
    /// The epoch at whose end the session is shown; None: now.
    pub as_of: Option<u32>,
    pub checkpoint: Option<CheckpointReport>,
    /// The comparison that is under way.
    pub comparison: Option<Box<ComparisonView>>,
    /// Why the newest save failed. None if it succeeded.
    pub unsaved: Option<String>,
    pub log: Log,
    pub load: SystemLoad,
    /// Bytes done and total of a running download.
    pub download: Option<(u64, u64)>,
    /// Why there is no connection to the session, which is on another computer.
    pub disconnected: Option<String>,
    /// The session has ended: no event follows.
    pub ended: bool,
    /// Estimated end of the run in seconds since the Unix epoch.
    pub ends_at: Option<f64>,
    /// Seconds since the Unix epoch at the last message.
    pub now: f64,
    /// Converts a time to local hour and minute.
    pub local_time: fn(f64) -> (u32, u32),
}

impl Deref for SessionView {
    type Target = RunView;

    fn deref(&self) -> &RunView {
        &self.view
    }
}

impl Default for SessionView {
    fn default() -> Self {
        SessionView {
            view: RunView::default(),
            data: None,
            pending: BTreeMap::new(),
            sent: BTreeMap::new(),
            train_loss: Series::new(WIDTH),
            train_accuracy: Series::new(WIDTH),
            throughput: Series::new(WIDTH),
            grad_norm: Series::new(WIDTH),
            learning_rate: Series::new(WIDTH),
            cpu: Series::new(1.0),
            gpu: Series::new(1.0),
            loads: 0,
            validation: Vec::new(),
            smoothing: SMOOTHING,
            evaluations: BTreeMap::new(),
            shown: Split::Validation,
            as_of: None,
            checkpoint: None,
            comparison: None,
            unsaved: None,
            log: Log::default(),
            load: SystemLoad::default(),
            download: None,
            disconnected: None,
            ended: false,
            ends_at: None,
            now: 0.0,
            local_time: |t| ((t / 3600.0) as u32 % 24, (t / 60.0) as u32 % 60),
        }
    }
}

impl SessionView {
    /// Whether the worker is computing now.
    pub fn is_computing(&self) -> bool {
        use State::{Evaluating, Loading, Running};
        let trains = matches!(self.state, Running | Evaluating { .. } | Loading { .. });
        !self.ended && (trains || self.tests_rates())
    }

    /// Whether there is a run that can still be trained.
    ///
    /// # Errors
    /// Returns the reason if there is none.
    pub fn trainable(&self) -> Result<(), String> {
        if self.ended {
            return Err("the session is over".into());
        }
        match &self.state {
            State::Loading { .. } => Err("still loading".into()),
            State::Done => Err(format!(
                "the run is done: more epochs continue it, {} starts a new one",
                key_of(ProgramAction::Restart)
            )),
            State::Stopped => Err(format!(
                "the run is stopped; {} starts a new one",
                key_of(ProgramAction::Restart)
            )),
            State::Failed { .. } => Err("the run has failed".into()),
            _ if self.run.is_none() => Err("no run has begun".into()),
            State::Running | State::Paused | State::Evaluating { .. } | State::Diverged { .. } => {
                Ok(())
            }
        }
    }

    /// Names of the classes; empty before the data is loaded.
    pub fn classes(&self) -> &[String] {
        self.data.as_ref().map_or(&[], |d| &d.classes)
    }

    /// A class's name, or its number.
    pub fn class(&self, class: usize) -> String {
        self.classes()
            .get(class)
            .cloned()
            .unwrap_or_else(|| class.to_string())
    }

    /// The newest evaluation of a split.
    pub fn evaluation(&self, split: Split) -> Option<&Evaluation> {
        self.evaluations.get(split.name()).map(|e| &e.0)
    }

    /// The evaluation of a split before the newest.
    pub fn evaluation_before(&self, split: Split) -> Option<&Evaluation> {
        self.evaluations.get(split.name())?.1.as_ref()
    }

    /// Epochs done, as a fraction.
    pub fn x(&self) -> f64 {
        self.x_of(self.step())
    }

    /// The unit of x for smoothing: a 300th of the run; of a long run, of what is trained, so that its curves do not lag
    /// behind by many epochs.
    fn smoothing_unit(&self) -> f64 {
        let trained = self.x().max(LONG_RUN);
        self.params.epochs.min(trained) / 300.0
    }

    /// A training curve as every screen shows it: smoothed points (x, value).
    pub fn smoothed(&self, series: &Series) -> Vec<(f64, f64)> {
        series.smoothed(self.smoothing, self.smoothing_unit())
    }

    /// The newest value of a training curve: that of the newest step if it is NaN or infinite, else the last value of
    /// `smooth`.
    pub fn newest(&self, series: &Series, smooth: &[(f64, f64)]) -> Option<f64> {
        let broken = series.last().filter(|v| !v.is_finite());
        broken.or(smooth.last().map(|p| p.1))
    }

    /// Whether a plateau is the most severe finding in the banner.
    pub fn is_on_plateau(&self) -> bool {
        let failed = matches!(self.state, State::Diverged { .. } | State::Failed { .. });
        self.health.plateau.is_some() && self.unsaved.is_none() && !failed
    }

    /// Adds a line to the log.
    pub fn note(&mut self, severity: Severity, text: impl Into<String>) {
        let step = self.step().max(self.log.step());
        self.note_at(step, severity, text);
    }

    fn note_at(&mut self, step: u64, severity: Severity, text: impl Into<String>) {
        self.log.add(self.elapsed(), step, severity, text.into());
    }

    /// Seconds of training until the newest step; 0 before the first one.
    pub fn elapsed(&self) -> f64 {
        self.steps.as_ref().map_or(0.0, |s| s.elapsed)
    }

    /// Processes an event. Views handle `Event::Answer` themselves.
    pub fn event(&mut self, event: &Event) {
        self.end_replay(event);
        let before = (self.view.state.clone(), self.view.health.clone());
        if !matches!(event, Event::Started(_) | Event::Snapshot { .. }) {
            self.view.event(event);
        }
        match event {
            Event::State(_) => self.state_changed(&before.0),
            Event::Data(data) => {
                self.note(
                    Severity::Plain,
                    format!(
                        "{}: {} + {} images{}",
                        data.name,
                        grouped(u64::from(data.train)),
                        grouped(u64::from(data.test)),
                        data.load_time(" in ")
                    ),
                );
                self.data = Some(data.clone());
            }
            Event::Started(run) => self.started(run, event),
            Event::Steps(report) => self.steps(report),
            Event::Pending { change, applies } => {
                self.sent.remove(&change.key);
                self.note(
                    Severity::Plain,
                    format!("{} at the {applies}", describe(change)),
                );
                self.pending
                    .insert(change.key.clone(), (change.clone(), *applies));
            }
            Event::Withdrawn { key } => {
                self.sent.remove(key);
                self.pending.remove(key);
                let label = param(key).map_or(key.as_str(), |p| p.label);
                self.note(Severity::Plain, format!("{label}: change withdrawn"));
            }
            Event::Applied {
                change,
                step,
                epoch: _,
            } => self.applied(change, *step),
            Event::LayerReset(reset) => {
                self.note_at(reset.step.saturating_sub(1), Severity::Plain, reset.words())
            }
            Event::Refused { error } => {
                self.sent.remove(&error.key);
                self.note(Severity::Warning, error.to_string());
            }
            Event::ComparisonBegan { .. }
            | Event::Compared(_)
            | Event::Variant { .. }
            | Event::ComparisonOver { .. } => self.comparison_event(event),
            Event::Epoch(report) => self.epoch(report),
            Event::Evaluation(evaluation) => self.evaluated(evaluation),
            Event::Health(health) => self.health_changed(&before.1, health),
            Event::RateTest(report) => {
                let result = report.result().into_iter();
                result.for_each(|result| self.note(Severity::Plain, result));
            }
            Event::Checkpoint(report) => {
                let words = format!("saved ({})", bytes(report.bytes));
                match self.log.newest().filter(|e| e.step == report.step) {
                    // An epoch and its checkpoints share one line.
                    Some(last) if last.text.contains("saved (") => {}
                    Some(last) if last.text.starts_with(log::EPOCH) => {
                        last.text = format!("{}, {words}", last.text);
                    }
                    _ => self.note_at(report.step, Severity::Plain, format!("checkpoint {words}")),
                }
                self.checkpoint = Some(report.clone());
            }
            Event::Notice { text } => self.note(Severity::Plain, text.clone()),
            Event::Warning { text } => self.note(Severity::Warning, text.clone()),
            Event::Unsaved { why } => {
                match why {
                    // The worker repeats the event when a viewer requests to quit.
                    _ if *why == self.unsaved => {}
                    Some(why) => self.note(Severity::Warning, why.clone()),
                    None => self.note(Severity::Good, "everything is saved again"),
                }
                self.unsaved = why.clone();
            }
            Event::Load(load) => {
                self.loads += 1;
                let x = self.loads as f64;
                load.cpu.into_iter().for_each(|cpu| self.cpu.add(x, cpu));
                load.gpu.into_iter().for_each(|gpu| self.gpu.add(x, gpu));
                self.load = load.clone();
            }
            Event::Download {
                done,
                total,
                finished,
                error,
            } => {
                self.download = (!finished).then_some((*done, *total));
                match error {
                    Some(error) => self.note(Severity::Warning, format!("download: {error}")),
                    None if *finished => self.note(Severity::Good, "download complete"),
                    None => {}
                }
            }
            Event::Answer { .. } => {}
            Event::Done(done) => {
                if let Some(why) = self.refusal(done) {
                    self.note(Severity::Warning, why.to_owned());
                }
            }
            Event::Snapshot { events } => {
                *self = self.fresh();
                events.iter().for_each(|event| self.event(event));
            }
            Event::Ended { .. } => self.ended = true,
        }
    }

    /// Why a command of this viewer was refused, unless that is known of the session anyway.
    pub fn refusal<'a>(&self, done: &'a Done) -> Option<&'a str> {
        match &done.outcome {
            Outcome::Refused(why) if self.unsaved.as_ref() != Some(why) => Some(why),
            _ => None,
        }
    }

    /// An empty view that keeps the viewer's own settings.
    fn fresh(&self) -> SessionView {
        SessionView {
            shown: self.shown,
            smoothing: self.smoothing,
            now: self.now,
            local_time: self.local_time,
            ..SessionView::default()
        }
    }

    /// The replay of a resumed run's past ends with the first event of another kind.
    fn end_replay(&mut self, event: &Event) {
        if event.is_of_training() {
            return;
        }
        if let Some(next) = self.log.end_replay() {
            let forked = self.view.run.as_ref().and_then(|run| run.fork_words());
            let text = forked.unwrap_or_else(|| format!("resumed at step {}", grouped(next)));
            self.note_at(next, Severity::Plain, text);
        }
    }

    fn state_changed(&mut self, before: &State) {
        let state = self.view.state.clone();
        if state == *before {
            return;
        }
        match &state {
            State::Done => self.note(Severity::Good, DONE),
            State::Stopped => self.note(Severity::Plain, STOPPED),
            State::Diverged { step, first } => self.note_at(
                *step,
                Severity::Bad,
                format!("diverged: {first} is not finite"),
            ),
            State::Failed { why } => self.note(Severity::Bad, format!("failed: {why}")),
            State::Paused if self.run.is_some() => {
                // A single step gets no lines.
                let step = self.step();
                self.log
                    .take_back(|e| e.text == RESUMED && step <= e.step + 1);
                self.note(Severity::Plain, PAUSED);
            }
            State::Running if *before == State::Paused => self.note(Severity::Plain, RESUMED),
            _ => {}
        }
    }

    fn started(&mut self, run: &RunInfo, event: &Event) {
        let fresh = SessionView {
            loads: self.loads,
            unsaved: self.unsaved.clone(),
            ..self.fresh()
        };
        let before = std::mem::replace(self, fresh);
        let same = !run.name.is_empty() && before.run.as_ref().is_some_and(|r| r.name == run.name);
        self.view = before.view;
        self.view.event(event);
        self.data = Some(run.data.clone());
        self.log = before.log;
        (self.cpu, self.gpu, self.load) = (before.cpu, before.gpu, before.load);
        self.log.begin_run(run.continues_at(), same);
        if run.continues_at().is_none() && !run.name.is_empty() {
            self.note(Severity::Plain, format!("run {} begins", run.name));
        }
    }

    fn steps(&mut self, report: &StepReport) {
        // Reports that waited in the slot of merged steps arrive after the state that followed these steps.
        let over = match self.state {
            State::Paused => Some(PAUSED),
            State::Stopped => Some(STOPPED),
            State::Done => Some(DONE),
            _ => None,
        };
        if let Some(line) = self.log.newest().filter(|line| over == Some(&line.text)) {
            (line.elapsed, line.step) = (report.elapsed, report.last);
        }
        let x = self.x_of(report.last);
        let images = report.images.max(1) as f64;
        self.train_loss
            .push(x, report.loss, report.loss_min, report.loss_max, images);
        let accuracy = report.correct as f64 / images;
        self.train_accuracy
            .push(x, accuracy, accuracy, accuracy, images);
        self.throughput.add(x, report.images_per_s);
        self.grad_norm.add(x, report.grad_norm);
        self.learning_rate.add(x, report.learning_rate);
        // Keep an estimate that changes by less than a minute.
        let ends = report.eta.map(|eta| self.now + eta);
        self.ends_at = match (self.ends_at, ends) {
            (Some(old), Some(new)) if (old - new).abs() < 45.0 => Some(old),
            (_, new) => new,
        };
    }

    fn applied(&mut self, change: &Change, step: u64) {
        self.sent.remove(&change.key);
        self.pending.remove(&change.key);
        self.note_at(step, Severity::Plain, describe(change));
    }

    /// The value of a hyperparameter that has been sent or is pending.
    pub fn coming(&self, key: &str) -> Option<&Value> {
        self.sent
            .get(key)
            .or_else(|| self.pending.get(key).map(|p| &p.0.new))
    }

    /// The hyperparameters that the next run would begin with, after all sent and pending changes.
    pub fn wanted(&self) -> Hyperparameters {
        recipes::changed(&self.params, |key| self.coming(key).cloned())
    }
}

/// A change in words: `learning rate 0.001 → 0.0005`.
pub fn describe(change: &Change) -> String {
    match param(&change.key) {
        Some(row) => format!(
            "{} {} → {}",
            row.label,
            row.show(&change.old),
            row.show(&change.new)
        ),
        None => format!("{} {} → {}", change.key, change.old, change.new),
    }
}
