//! What the screens know of a comparison.

use super::{SessionView, Severity, describe};
use crate::domain::comparison::{ComparisonReport, Difference};
use crate::domain::params::{Change, param};
use crate::domain::report::Split;
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
    /// The difference in words: `with lr 0.0005: val +0.80 ±0.50 % after 2 epochs`.
    pub fn words(&self, of: DifferenceOf) -> String {
        let split = self.with.params.scored_split();
        words(&self.change, &self.report, split, of)
    }
}

fn words(change: &Change, report: &ComparisonReport, split: Split, of: DifferenceOf) -> String {
    let accuracy = || {
        let Difference { mean, error } = report.accuracy?;
        let epochs = match report.epochs {
            1 => "1 epoch".to_owned(),
            n => format!("{n} epochs"),
        };
        let (mean, error) = (100.0 * mean, 100.0 * error);
        let split = split.short();
        Some(format!("{split} {mean:+.2} ±{error:.2} % after {epochs}"))
    };
    let loss = || {
        let Difference { mean, error } = report.loss?;
        let steps = grouped(report.loss_steps);
        Some(format!("loss {mean:+.4} ±{error:.4} over {steps} steps"))
    };
    let known = match (&report.diverged, of) {
        (Some((step, _)), _) => Some(format!("diverged at step {}", grouped(*step))),
        (None, DifferenceOf::Accuracy) => accuracy().or_else(loss),
        (None, DifferenceOf::Loss) => loss(),
    };
    let known = known.unwrap_or_else(|| "no difference is known yet".into());
    let Change { key, new, .. } = change;
    match param(key) {
        Some(row) => format!("with {} {}: {known}", row.short, row.show(new)),
        None => format!("with {key} {new}: {known}"),
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
                self.comparison = None;
                let (severity, verb) = match kept {
                    true => (Severity::Good, "kept"),
                    false => (Severity::Plain, "dropped"),
                };
                let split = self.params.scored_split();
                let known = words(change, report, split, DifferenceOf::Accuracy);
                self.note(severity, format!("{} {verb} ({known})", describe(change)));
            }
            _ => {}
        }
    }
}
