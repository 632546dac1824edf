//! Checks the run's health at the end of each epoch, and reports changes.

use super::{Exit, Worker, split_index};
use crate::domain::health::{EpochScores, HealthMonitor};
use crate::domain::report::{EpochReport, Evaluation, ScoredWeights};
use crate::session::protocol::Event;
use crate::session::questions;
use crate::train::trainer::Trainer;

/// Restores the health monitor from the past events of a run.
pub(super) fn restore_monitor(past: &[Event]) -> HealthMonitor {
    let mut monitor = HealthMonitor::default();
    let mut newest: [Option<&Evaluation>; 2] = [None; 2];
    for event in past {
        match event {
            Event::Evaluation(e) if e.weights == ScoredWeights::Last => {
                newest[split_index(e.split)] = Some(e)
            }
            Event::Epoch(report) => {
                let evaluation = newest[split_index(report.split)];
                if let Some(evaluation) = evaluation.filter(|e| e.step == report.step) {
                    monitor.remember(EpochScores::new(report, &evaluation.confusion));
                }
            }
            Event::Applied { .. } | Event::LayerReset(_) => monitor.changed(),
            Event::Health(health) => monitor.restore(health.clone()),
            _ => {}
        }
    }
    monitor
}

impl Worker<'_> {
    /// Adds the scores of a finished epoch to the health monitor, and reports the run's health if it has changed.
    pub(super) fn check_health(&mut self, trainer: &mut Trainer, report: &EpochReport) {
        let scores = self.results[split_index(report.split)].scores.as_ref();
        let Some(scores) = scores.filter(|s| s.step == report.step) else {
            return;
        };
        let mut scores = EpochScores::new(report, &scores.evaluation.confusion);
        match questions::dead_layers(trainer) {
            Ok(layers) => scores.set_dead_layers(layers),
            Err(error) => {
                self.error = Some(error.into());
                self.exit = Some(Exit::Failed);
                return;
            }
        }
        if let Some(health) = self.health.add(scores, &trainer.run_state().params) {
            let event = Event::Health(health.clone());
            self.record(event);
        }
    }
}
