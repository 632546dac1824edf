//! Pictures that a key saves: what the screen shows, as PNG beside the run's files (or here, when the run is not saved).

use crate::domain::confusion::Confusion;
use crate::domain::marks::Mark;
use crate::domain::report::EpochReport;
use crate::plot::{Curve, Curves, confusion, curves};
use anyhow::Context as _;
use std::path::Path;

/// What to draw into a PNG file.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Loss or accuracy over the epochs.
    Curves {
        /// The run's folder; empty for the current one.
        folder: String,
        curve: Curve,
        title: String,
        epochs: Vec<EpochReport>,
        marks: Vec<Mark>,
    },
    /// A confusion matrix.
    Matrix {
        /// The run's folder; empty for the current one.
        folder: String,
        title: String,
        classes: Vec<String>,
        confusion: Confusion,
    },
}

impl Request {
    /// Draws and writes it. Returns the path.
    ///
    /// # Errors
    /// When it cannot be drawn or written; names the file.
    pub fn write(&self) -> anyhow::Result<String> {
        let (folder, name, png) = match self {
            Request::Curves {
                folder,
                curve,
                title,
                epochs,
                marks,
            } => {
                let what = Curves {
                    title,
                    epochs,
                    steps: &[],
                    marks,
                };
                let name = match curve {
                    Curve::Loss => "screen-loss.png",
                    Curve::Accuracy => "screen-accuracy.png",
                };
                (folder, name, curves(*curve, &what)?)
            }
            Request::Matrix {
                folder,
                title,
                classes,
                confusion: matrix,
            } => (
                folder,
                "screen-confusion.png",
                confusion(matrix, classes, title)?,
            ),
        };
        let path = Path::new(folder).join(name);
        std::fs::write(&path, png).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path.display().to_string())
    }
}
