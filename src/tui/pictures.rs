//! Saves what the screen shows as a PNG beside the run's files, or in the current folder if the run is not saved
//! or is on another computer. Each
//! picture gets a new file; existing files are never replaced.

use crate::domain::confusion::Confusion;
use crate::domain::marks::Mark;
use crate::domain::report::EpochReport;
use crate::plot::{Curve, Curves, confusion, curves};
use anyhow::Context as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Maximum number of pictures of one kind in a folder.
const MAX_PICTURES: u32 = 10_000;

/// The contents of a PNG file.
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
    /// Sets the folder; an empty one is the current one.
    pub fn set_folder(&mut self, to: String) {
        match self {
            Request::Curves { folder, .. } | Request::Matrix { folder, .. } => *folder = to,
        }
    }

    /// Draws the picture and writes it to a new file. Returns the path.
    ///
    /// # Errors
    /// Returns an error if it cannot be drawn, or the file cannot be created or written; names the folder or the file.
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
                    Curve::Loss => "screen-loss",
                    Curve::Accuracy => "screen-accuracy",
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
                "screen-confusion",
                confusion(matrix, classes, title)?,
            ),
        };
        let (path, mut file) = new_file(Path::new(folder), name)?;
        file.write_all(&png)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path.display().to_string())
    }
}

/// Creates `NAME.png` in `folder`, or `NAME-2.png`, `NAME-3.png`, ... where those before exist.
fn new_file(folder: &Path, name: &str) -> anyhow::Result<(PathBuf, File)> {
    for number in 1..=MAX_PICTURES {
        let path = folder.join(match number {
            1 => format!("{name}.png"),
            n => format!("{name}-{n}.png"),
        });
        match File::create_new(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot create {}", path.display()));
            }
        }
    }
    anyhow::bail!(
        "{} already holds {MAX_PICTURES} pictures named {name}; delete some",
        folder.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_never_replaces_an_earlier_one() {
        let folder = tempfile::tempdir().unwrap();
        let request = |counts: [u32; 4]| {
            let mut matrix = Confusion::new(2);
            matrix.counts = counts.to_vec();
            Request::Matrix {
                folder: folder.path().display().to_string(),
                title: "matrix".into(),
                classes: vec!["cat".into(), "dog".into()],
                confusion: matrix,
            }
        };
        let first = request([9, 1, 2, 8]).write().unwrap();
        let bytes = std::fs::read(&first).unwrap();
        let second = request([1, 9, 8, 2]).write().unwrap();
        assert!(first.ends_with("screen-confusion.png"), "{first}");
        assert!(second.ends_with("screen-confusion-2.png"), "{second}");
        assert_eq!(std::fs::read(&first).unwrap(), bytes);
        assert_ne!(std::fs::read(&second).unwrap(), bytes);
    }
}
