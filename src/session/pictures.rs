//! The PNG files of a run: its curves and its confusion matrix.

use super::protocol::Event;
use super::run_dir::{RunDir, read_metrics};
use super::run_view::RunView;
use crate::domain::report::{Evaluation, Split};
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
    let mut view = RunView::default();
    let mut steps = Vec::new();
    for event in events {
        view.recorded(&event);
        if let Event::Steps(report) = event {
            steps.push(report);
        }
    }
    let curves = Curves {
        title: &run.name,
        epochs: &view.epochs,
        steps: &steps,
        marks: &view.marks,
    };
    for (name, curve) in [("accuracy.png", Curve::Accuracy), ("loss.png", Curve::Loss)] {
        let png = plot::curves(curve, &curves).map_err(|e| failed(name, &e))?;
        run.picture(name, &png).map_err(|e| failed(name, &e))?;
    }
    if let Some(evaluation) = evaluation {
        let beside = view
            .test_of_current_best()
            .filter(|best| evaluation.split == Split::Test && best.step != evaluation.step);
        let beside = beside.map_or(String::new(), |best| {
            format!(" (best weights {:.2}%)", 100.0 * best.accuracy)
        });
        let title = format!(
            "{}: {:?} images, {:.2}%{}{beside}",
            run.name,
            evaluation.split,
            100.0 * evaluation.accuracy,
            evaluation.tta.describe()
        );
        let name = "confusion.png";
        let png = plot::confusion(&evaluation.confusion, classes, &title)
            .map_err(|e| failed(name, &e))?;
        run.picture(name, &png).map_err(|e| failed(name, &e))?;
    }
    Ok(())
}
