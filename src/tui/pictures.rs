//! Pictures that a key saves: what the screen asks for. Writing them is the loop's affair, on a thread of its own.

use crate::domain::confusion::Confusion;
use crate::domain::report::EpochReport;

/// What to draw into a PNG file.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Loss or accuracy over the epochs.
    Curves {
        folder: String,
        name: &'static str,
        epochs: Vec<EpochReport>,
    },
    /// A confusion matrix.
    Matrix {
        folder: String,
        classes: Vec<String>,
        confusion: Confusion,
    },
}
