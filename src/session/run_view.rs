//! The state of a run, computed from its events. The screen, plain output, the table of runs and the pictures of a run
//! use this one fold of the event stream.

use super::protocol::{Change, Event};
use crate::domain::marks::{Mark, Marked, merged};
use crate::domain::params::{Hyperparameters, Tta, param};
use crate::domain::rate_test::RateTestReport;
use crate::domain::report::{
    EpochReport, Evaluation, Health, RunInfo, ScoredWeights, Split, State, StepReport,
    TargetReached,
};
use serde::Serialize;
use std::collections::BTreeMap;

/// Maximum number of marks. Beyond it, consecutive changes are merged.
const MAX_MARKS: usize = 1000;

/// The best epoch so far, by validation accuracy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BestEpoch {
    pub epoch: u32,
    pub step: u64,
    pub accuracy: f64,
}

/// Test accuracy of the weights after a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TestScore {
    pub step: u64,
    pub accuracy: f64,
    pub tta: Tta,
}

/// The state of a run after some of its events.
#[derive(Clone, Debug)]
pub struct RunView {
    pub state: State,
    /// Whether the run is paused, also while its images are scored.
    pub paused: bool,
    /// None until a run has begun.
    pub run: Option<Box<RunInfo>>,
    /// The acknowledged hyperparameters.
    pub params: Hyperparameters,
    /// The newest report of training steps.
    pub steps: Option<StepReport>,
    pub epochs: Vec<EpochReport>,
    pub best: Option<BestEpoch>,
    /// Epoch with the lowest validation loss, and that loss.
    pub lowest_loss: Option<(u32, f64)>,
    /// Applied changes, ordered by x.
    pub marks: Vec<Mark>,
    /// Detected collapse or plateau.
    pub health: Health,
    /// The newest test accuracy, and the step whose weights were scored.
    pub test: Option<TestScore>,
    /// The newest evaluation of each split with the average of the weights, by the split's name.
    averages: BTreeMap<&'static str, Evaluation>,
    /// Evaluation of the test images with the best weights, made at the end if the best weights are not the last.
    pub test_of_best: Option<Evaluation>,
    /// The newest test of learning rates, with all its points.
    pub rate_test: Option<RateTestReport>,
    /// Anchors that convert steps to epochs: (step before the epoch, x there, steps per epoch).
    anchors: Vec<(u64, f64, u64)>,
    /// The state when the comparison that is under way began.
    before_comparison: Option<Box<RunView>>,
}

impl Default for RunView {
    fn default() -> Self {
        RunView {
            state: State::Loading {
                what: "data".into(),
                done: 0,
                total: 0,
            },
            paused: false,
            run: None,
            params: Hyperparameters::default(),
            steps: None,
            epochs: Vec::new(),
            best: None,
            lowest_loss: None,
            marks: Vec::new(),
            health: Health::default(),
            test: None,
            averages: BTreeMap::new(),
            test_of_best: None,
            rate_test: None,
            anchors: Vec::new(),
            before_comparison: None,
        }
    }
}

impl RunView {
    /// Processes an event of a session. A start of a run drops what is known of the previous one.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::State(state) => {
                let scoring = matches!(state, State::Evaluating { .. });
                self.paused = *state == State::Paused || scoring && self.paused;
                self.state = state.clone();
            }
            Event::Started(run) => {
                *self = RunView {
                    state: self.state.clone(),
                    anchors: vec![(0, 0.0, run.steps_per_epoch)],
                    ..RunView::default()
                };
                self.begin(run);
            }
            Event::Steps(report) => self.step_report(report),
            Event::Applied { change, step, .. } => self.applied(change, *step),
            Event::LayerReset(reset) => self.mark(reset.step, Marked::Reset(reset.clone())),
            Event::ComparisonBegan { .. } => {
                self.before_comparison = None;
                self.before_comparison = Some(Box::new(self.clone()));
            }
            Event::ComparisonOver { kept, .. } => self.comparison_over(*kept),
            Event::Epoch(report) => self.epoch(report),
            Event::Evaluation(evaluation) => self.evaluation(evaluation),
            Event::Health(health) => self.health = health.clone(),
            Event::RateTest(report) => self.rate_test.get_or_insert_default().extend(report),
            Event::Snapshot { events } => {
                *self = RunView::default();
                events.iter().for_each(|event| self.event(event));
            }
            Event::Ended { params, state } => {
                self.params = (**params).clone();
                self.state = state.clone();
            }
            _ => {}
        }
    }

    /// Processes an event of a run's metrics. There, a start after the first continues the same run.
    pub fn recorded(&mut self, event: &Event) {
        match event {
            Event::Started(run) if self.run.is_some() => {
                // A new session has no comparison of an earlier one.
                self.before_comparison = None;
                self.begin(run);
                self.state = State::Running;
            }
            Event::Started(_) => {
                self.event(event);
                self.state = State::Running;
            }
            // The run had ended and trains again.
            Event::Steps(_) => {
                self.event(event);
                self.state = State::Running;
            }
            _ => self.event(event),
        }
    }

    fn begin(&mut self, run: &RunInfo) {
        self.params = run.params.clone();
        self.run = Some(Box::new(run.clone()));
    }

    /// If the change of a comparison was kept, the events of the network with the change follow, from where the
    /// comparison began.
    fn comparison_over(&mut self, kept: bool) {
        let before = self.before_comparison.take();
        if let Some(before) = before.filter(|_| kept) {
            *self = RunView {
                state: self.state.clone(),
                paused: self.paused,
                ..*before
            };
        }
    }

    fn step_report(&mut self, report: &StepReport) {
        let begin = report.last.saturating_sub(report.step_in_epoch);
        let at = f64::from(report.epoch.max(1) - 1);
        let anchor = (begin, at, report.steps_per_epoch);
        if self.anchors.last() != Some(&anchor) {
            self.anchors.retain(|a| a.0 < begin);
            self.anchors.push(anchor);
        }
        self.steps = Some(report.clone());
    }

    fn applied(&mut self, change: &Change, step: u64) {
        if let Some(row) = param(&change.key)
            && row.set(&mut self.params, change.new.clone()).is_err()
        {
            // The worker has checked the value. Only a value that another version of the program wrote can be refused
            // here.
            return;
        }
        self.mark(step, Marked::Change(change.clone()));
    }

    fn mark(&mut self, step: u64, of: Marked) {
        let x = self.x_of(step.saturating_sub(1));
        self.marks.push(Mark { x, of });
        if self.marks.len() > MAX_MARKS {
            self.marks = merged(&self.marks, 0.0);
        }
        if self.marks.len() > MAX_MARKS {
            self.marks.remove(0);
        }
    }

    fn epoch(&mut self, report: &EpochReport) {
        self.epochs.retain(|e| e.epoch != report.epoch);
        self.epochs.push(report.clone());
        if report.best {
            self.best = Some(BestEpoch {
                epoch: report.epoch,
                step: report.step,
                accuracy: report.accuracy,
            });
        }
        if report.split == Split::Validation
            && report.loss.is_finite()
            && self.lowest_loss.is_none_or(|(_, l)| report.loss < l)
        {
            self.lowest_loss = Some((report.epoch, report.loss));
        }
        if let Some(accuracy) = report.test_accuracy {
            self.test = Some(TestScore {
                step: report.step,
                accuracy,
                tta: report.tta,
            });
        }
    }

    fn evaluation(&mut self, evaluation: &Evaluation) {
        match (evaluation.split, evaluation.weights) {
            (split, ScoredWeights::Average) => {
                self.averages.insert(split.name(), evaluation.clone());
            }
            (_, ScoredWeights::Best) => self.test_of_best = Some(evaluation.clone()),
            (Split::Test, ScoredWeights::Last) => {
                self.test = Some(TestScore {
                    step: evaluation.step,
                    accuracy: evaluation.accuracy,
                    tta: evaluation.tta,
                });
            }
            _ => {}
        }
    }

    /// The first epoch that reached the current target, if one did.
    pub fn reached(&self) -> Option<TargetReached> {
        let target = self.params.target;
        let mut epochs = self.epochs.iter();
        let first = epochs.find(|epoch| target > 0.0 && epoch.accuracy >= target)?;
        Some(TargetReached {
            epoch: first.epoch,
            step: first.step,
            elapsed: first.elapsed,
        })
    }

    /// The evaluation of a split with the average of the weights, unless it is older than the last epoch.
    pub fn average(&self, split: Split) -> Option<&Evaluation> {
        let last = self.epochs.last().map_or(0, |epoch| epoch.step);
        let newest = self.averages.get(split.name());
        newest.filter(|evaluation| evaluation.step >= last)
    }

    /// Whether learning rates are being tested; training waits meanwhile.
    pub fn tests_rates(&self) -> bool {
        self.rate_test
            .as_ref()
            .is_some_and(|test| test.end.is_none())
    }

    /// The number of steps done.
    pub fn step(&self) -> u64 {
        self.steps.as_ref().map_or(0, |s| s.last)
    }

    /// The x coordinate of a step: the number of epochs done, with fractions.
    pub fn x_of(&self, step: u64) -> f64 {
        let anchor = self
            .anchors
            .iter()
            .rev()
            .find(|a| a.0 <= step)
            .or(self.anchors.first());
        let Some(&(from, x, per_epoch)) = anchor else {
            return 0.0;
        };
        x + (step as f64 - from as f64) / per_epoch.max(1) as f64
    }

    /// The test evaluation of the best weights, if they are those of the current best epoch and not the last weights.
    pub fn test_of_current_best(&self) -> Option<&Evaluation> {
        let last = self.epochs.last().map_or(0, |e| e.step);
        self.test_of_best.as_ref().filter(|scored| {
            self.best.is_some_and(|best| best.step == scored.step) && scored.step < last
        })
    }
}
