//! The PNG files of a run: its curves and its confusion matrix.

use super::protocol::Event;
use super::run_dir::{RunDir, read_metrics};
use crate::domain::marks::Mark;
use crate::domain::report::{Evaluation, ScoredWeights, Split};
use crate::plot::{self, Curve, Curves};

/// Writes accuracy.png, loss.png and, with an evaluation, confusion.png into the run's folder.
///
/// # Errors
/// Returns an error that names the picture that could not be drawn or written, and the reason.
pub(super) fn write(
    run: &mut RunDir,
    classes: &[String],
    evaluation: Option<&Evaluation>,
) -> Result<(), String> {
    let folder = run.folder().display().to_string();
    let failed = |name: &str, why: &dyn std::fmt::Display| {
        format!("{name} could not be written to {folder}: {why}")
    };
    run.flush().map_err(|e| failed("metrics.jsonl", &e))?;
    let (events, _) =
        read_metrics(run.folder(), u64::MAX).map_err(|e| failed("accuracy.png", &e))?;
    let (mut epochs, mut steps, mut marks) = (Vec::new(), Vec::new(), Vec::new());
    let mut of_best: Option<Evaluation> = None;
    let mut length = 1;
    for event in events {
        match event {
            Event::Started(info) => length = info.steps_per_epoch.max(1),
            Event::Epoch(epoch) => epochs.push(epoch),
            Event::Steps(step) => {
                length = step.steps_per_epoch.max(1);
                steps.push(step);
            }
            Event::Applied {
                change,
                step,
                epoch,
            } => {
                // The steps of the epochs before are only known to be as many as those of this one when the batch size
                // stayed; the place within the epoch follows from the last report.
                let before = epochs.last().map_or(0, |e| e.step);
                let within = step.saturating_sub(before + 1) as f64 / length as f64;
                marks.push(Mark {
                    x: f64::from(epoch.saturating_sub(1)) + within.min(1.0),
                    change,
                });
            }
            Event::Evaluation(e) if e.split == Split::Test && e.weights == ScoredWeights::Best => {
                of_best = Some(e);
            }
            _ => {}
        }
    }
    let curves = Curves {
        title: &run.name,
        epochs: &epochs,
        steps: &steps,
        marks: &marks,
    };
    for (name, curve) in [("accuracy.png", Curve::Accuracy), ("loss.png", Curve::Loss)] {
        let png = plot::curves(curve, &curves).map_err(|e| failed(name, &e))?;
        run.picture(name, &png).map_err(|e| failed(name, &e))?;
    }
    if let Some(evaluation) = evaluation {
        let beside = of_best.filter(|best| {
            let best_step = epochs.iter().rev().find(|e| e.best).map(|e| e.step);
            evaluation.split == Split::Test
                && Some(best.step) == best_step
                && best.step != evaluation.step
        });
        let beside = beside.map_or(String::new(), |best| {
            format!(" (best weights {:.2}%)", 100.0 * best.accuracy)
        });
        let title = format!(
            "{}: {:?} images, {:.2}%{beside}",
            run.name,
            evaluation.split,
            100.0 * evaluation.accuracy
        );
        let name = "confusion.png";
        let png = plot::confusion(&evaluation.confusion, classes, &title)
            .map_err(|e| failed(name, &e))?;
        run.picture(name, &png).map_err(|e| failed(name, &e))?;
    }
    Ok(())
}
