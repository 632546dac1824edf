//! What epochs, evaluations and the run's health add to the curves and the log.

use super::log::{EPOCH, Entry};
use super::{AVERAGE, Point, SessionView, Severity, TEST_IMAGES};
use crate::domain::report::{EpochReport, Evaluation, Health, ScoredWeights, Split};

impl SessionView {
    /// Adds the point and the line of a finished epoch.
    pub(super) fn epoch(&mut self, report: &EpochReport) {
        self.point(Point {
            x: report.position,
            step: report.step,
            loss: report.loss,
            accuracy: report.accuracy,
            tta: report.tta,
        });
        if report.test_accuracy.is_some() {
            // The epoch's line reports the test accuracy as well.
            self.log
                .take_back(|e| e.step == report.step && e.text.starts_with(TEST_IMAGES));
        }
        let test = report
            .test_accuracy
            .filter(|_| report.split != Split::Test)
            .map_or(String::new(), |t| format!(", test {:.2}%", 100.0 * t));
        let average = report.average.map_or(String::new(), |average| {
            format!(", average {:.2}%", 100.0 * average.accuracy)
        });
        let (severity, best) = if report.best {
            (Severity::Good, ", best")
        } else {
            (Severity::Plain, "")
        };
        let elapsed = self.elapsed();
        self.log.add_epoch(
            (elapsed, report.elapsed),
            report.step,
            severity,
            format!(
                "{EPOCH}{}: {} {:.2}%{test}{best}{average}",
                report.epoch,
                report.split.short(),
                100.0 * report.accuracy
            ),
        );
    }

    /// Stores an evaluation, with its point and its line.
    pub(super) fn evaluated(&mut self, evaluation: &Evaluation) {
        if evaluation.weights == ScoredWeights::Best {
            self.note(
                Severity::Plain,
                format!(
                    "test images with the best weights, of epoch {}: {:.2}%",
                    evaluation.epoch,
                    100.0 * evaluation.accuracy
                ),
            );
            return;
        }
        if evaluation.weights == ScoredWeights::Average {
            // The line of the last weights reports their average as well.
            let step = evaluation.step;
            let of_last = |e: &Entry| e.step == step && e.text.starts_with(TEST_IMAGES);
            if evaluation.split == Split::Test
                && let Some(line) = self.log.find(of_last)
                && !line.text.contains(AVERAGE)
            {
                let accuracy = 100.0 * evaluation.accuracy;
                line.text = format!("{}{AVERAGE}{accuracy:.2}%)", line.text);
            }
            return;
        }
        if evaluation.split == self.params.scored_split() {
            self.point(Point {
                x: self.x_of(evaluation.step),
                step: evaluation.step,
                loss: evaluation.loss,
                accuracy: evaluation.accuracy,
                tta: evaluation.tta,
            });
        }
        if evaluation.split == Split::Test {
            self.note_at(
                evaluation.step,
                Severity::Plain,
                format!("{TEST_IMAGES}{:.2}%", 100.0 * evaluation.accuracy),
            );
        }
        let name = evaluation.split.name();
        let before = self.evaluations.remove(name).map(|e| e.0);
        self.evaluations.insert(name, (evaluation.clone(), before));
    }

    /// Adds the line of a change of the health.
    pub(super) fn health_changed(&mut self, before: &Health, health: &Health) {
        let line = match (&before.collapse, &health.collapse) {
            (None, Some(collapse)) => Some((
                Severity::Bad,
                format!("collapse: {}", collapse.describe(self.classes())),
            )),
            (Some(_), None) => Some((Severity::Good, "no longer collapsed".into())),
            _ => match (&before.plateau, &health.plateau) {
                (None, Some(plateau)) => Some((Severity::Warning, plateau.describe())),
                (Some(_), None) if health.collapse.is_none() => {
                    Some((Severity::Good, "improves again".into()))
                }
                _ => None,
            },
        };
        if let Some((severity, text)) = line {
            self.note_at(health.step, severity, text);
        }
    }

    /// Adds a point. An epoch's end and its evaluation report the same one.
    fn point(&mut self, point: Point) {
        self.validation.retain(|p| p.step != point.step);
        let at = self.validation.partition_point(|p| p.step < point.step);
        self.validation.insert(at, point);
    }
}
