//! What the screens know of a comparison.

use super::{SessionView, Severity, describe};
use crate::domain::comparison::{ComparisonReport, DifferenceOf};
use crate::domain::params::Change;
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

impl ComparisonView {
    /// The difference in words: `with lr 0.0005: val +0.80 ±0.50 % after 2 epochs`.
    pub fn words(&self, of: DifferenceOf) -> String {
        let split = self.with.params.scored_split();
        self.report.words(&self.change, split, of)
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
                let known = report.words(change, split, DifferenceOf::Accuracy);
                self.note(severity, format!("{} {verb} ({known})", describe(change)));
            }
            _ => {}
        }
    }
}
