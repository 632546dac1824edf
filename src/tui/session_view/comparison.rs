//! What the screens know of a comparison.

use super::{SessionView, Severity, describe};
use crate::domain::comparison::{ComparisonReport, Difference};
use crate::domain::params::{Change, param};
use crate::domain::text::grouped;
use crate::session::protocol::Event;

/// A comparison that is under way.
#[derive(Clone, Debug)]
pub struct ComparisonView {
    pub change: Change,
    /// Where it began, in epochs.
    pub x: f64,
    /// The session with the change.
    pub with: SessionView,
    pub report: ComparisonReport,
}

/// What a difference is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DifferenceOf {
    Loss,
    Accuracy,
}

impl ComparisonView {
    /// The difference in words: `with lr 0.0005: val +0.80 ±0.50 after 2 epochs`.
    pub fn words(&self, of: DifferenceOf) -> String {
        let known = match (&self.report.diverged, of) {
            (Some((step, _)), _) => Some(format!("diverged at step {}", grouped(*step))),
            (None, DifferenceOf::Accuracy) => self.accuracy_words().or_else(|| self.loss_words()),
            (None, DifferenceOf::Loss) => self.loss_words(),
        };
        let known = known.unwrap_or_else(|| "no difference is known yet".into());
        format!("with {}: {known}", self.changed())
    }

    /// The hyperparameter with its other value: `lr 0.0005`.
    fn changed(&self) -> String {
        let Change { key, new, .. } = &self.change;
        match param(key) {
            Some(row) => format!("{} {}", row.short, row.show(new)),
            None => format!("{key} {new}"),
        }
    }

    fn accuracy_words(&self) -> Option<String> {
        let Difference { mean, error } = self.report.accuracy?;
        let split = self.with.params.scored_split().short();
        let epochs = match self.report.epochs {
            1 => "1 epoch".to_owned(),
            n => format!("{n} epochs"),
        };
        let (mean, error) = (100.0 * mean, 100.0 * error);
        Some(format!("{split} {mean:+.2} ±{error:.2} % after {epochs}"))
    }

    fn loss_words(&self) -> Option<String> {
        let Difference { mean, error } = self.report.loss?;
        let steps = grouped(self.report.loss_steps);
        Some(format!(
            "loss {mean:+.4} ±{error:.4} over the last {steps} steps"
        ))
    }
}

impl SessionView {
    /// Processes an event of a comparison.
    pub(super) fn comparison_event(&mut self, event: &Event) {
        match event {
            Event::ComparisonBegan { change, step, .. } => {
                self.sent.remove(&change.key);
                self.comparison = None;
                self.comparison = Some(Box::new(ComparisonView {
                    change: change.clone(),
                    x: self.x_of(step.saturating_sub(1)),
                    with: self.clone(),
                    report: ComparisonReport::default(),
                }));
                self.note_at(
                    *step,
                    Severity::Plain,
                    format!("with and without {}", describe(change)),
                );
            }
            Event::Compared(report) => {
                if let Some(comparison) = &mut self.comparison {
                    comparison.report = report.clone();
                }
            }
            Event::Variant { of } => {
                if let Some(comparison) = &mut self.comparison {
                    comparison.with.now = self.now;
                    comparison.with.event(of);
                }
            }
            Event::ComparisonOver {
                change,
                kept,
                report,
            } => {
                let comparison = self.comparison.take();
                let (severity, verb) = match kept {
                    true => (Severity::Good, "kept"),
                    false => (Severity::Plain, "dropped"),
                };
                let known = comparison.map(|comparison| {
                    let comparison = ComparisonView {
                        report: report.clone(),
                        ..*comparison
                    };
                    comparison.words(DifferenceOf::Accuracy)
                });
                let known = known.map_or(String::new(), |words| format!(" ({words})"));
                self.note(severity, format!("{} {verb}{known}", describe(change)));
            }
            _ => {}
        }
    }
}
