//! What a sweep has reached, as its screen and its final table show it.

use super::plan::{Plan, TrialEnd, TrialProgress};
use super::{JobStart, Strategy};
use crate::domain::params::Hyperparameters;
use crate::domain::report::{RunSummary, Split};

/// A trial and the run that it has now.
#[derive(Clone, Debug, PartialEq)]
pub struct TrialRow {
    /// Index of the trial.
    pub trial: usize,
    pub run: String,
    pub start: JobStart,
    pub progress: TrialProgress,
    /// None if the run has not begun.
    pub summary: Option<RunSummary>,
}

impl TrialRow {
    /// The accuracy by which trials are compared: the best of the validation images, or the last of the test images if
    /// none are held out.
    pub fn accuracy(&self) -> Option<f64> {
        let summary = self.summary.as_ref()?;
        let last = || summary.epochs.last().map(|epoch| epoch.accuracy);
        summary.best_val_accuracy.or_else(last)
    }

    /// The accuracy after each epoch, as (epochs done, accuracy).
    pub fn curve(&self) -> Vec<(f64, f64)> {
        let epochs = self.summary.iter().flat_map(|run| &run.epochs);
        epochs
            .map(|epoch| (epoch.position, epoch.accuracy))
            .collect()
    }

    pub fn epochs_done(&self) -> u32 {
        self.summary.as_ref().map_or(0, |run| run.epochs_done)
    }

    /// Its state in one word.
    pub fn state(&self) -> &'static str {
        match (self.progress.end, &self.summary) {
            (Some(end), _) => end.word(),
            (None, None) => "waiting",
            (None, Some(_)) if self.progress.busy => "training",
            (None, Some(_)) => "halted",
        }
    }
}

impl TrialEnd {
    pub const fn word(self) -> &'static str {
        match self {
            TrialEnd::Done => "done",
            TrialEnd::Diverged => "diverged",
            TrialEnd::Stopped => "stopped",
            TrialEnd::Failed => "failed",
        }
    }
}

/// The name of [`TrialRow::accuracy`] for trials with these hyperparameters.
pub fn accuracy_name(params: &Hyperparameters) -> &'static str {
    match params.scored_split() {
        Split::Test => "last test",
        _ => "best val",
    }
}

/// A sweep at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct SweepReport {
    pub name: String,
    pub plan: Plan,
    pub rows: Vec<TrialRow>,
}

impl SweepReport {
    /// Number of trials that are being trained.
    pub fn training(&self) -> usize {
        self.rows.iter().filter(|row| row.progress.busy).count()
    }

    /// Number of trials that have ended.
    pub fn ended(&self) -> usize {
        self.rows
            .iter()
            .filter(|row| row.progress.end.is_some())
            .count()
    }

    /// The rows in descending order of their accuracy; those without one follow in the order of trials.
    pub fn ranked(&self) -> Vec<&TrialRow> {
        let mut rows: Vec<&TrialRow> = self.rows.iter().collect();
        let accuracy = |row: &TrialRow| row.accuracy().unwrap_or(f64::NEG_INFINITY);
        rows.sort_by(|a, b| {
            accuracy(b)
                .total_cmp(&accuracy(a))
                .then(a.trial.cmp(&b.trial))
        });
        rows
    }

    /// An estimate of the seconds left, if every trial trains to its end: from the mean time of an epoch so far. None
    /// with halving, which ends most trials early, and before the first epoch.
    pub fn seconds_left(&self) -> Option<f64> {
        if self.plan.strategy == Strategy::Halving || self.training() == 0 {
            return None;
        }
        let runs = || self.rows.iter().filter_map(|row| row.summary.as_ref());
        let done: u32 = runs().map(|run| run.epochs_done).sum();
        let seconds: f64 = runs()
            .filter(|run| run.epochs_done > 0)
            .map(|run| run.elapsed)
            .sum();
        let live = self.rows.iter().filter(|row| row.progress.end.is_none());
        let left: f64 = live
            .map(|row| (self.plan.params.epochs - f64::from(row.epochs_done())).max(0.0))
            .sum();
        (done > 0).then(|| seconds / f64::from(done) * left / self.training() as f64)
    }
}
