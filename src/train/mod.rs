//! Training: the schedule, scoring, checkpoints, and the loop that ties them together. This room knows the backend and
//! the data; it knows no command, no event and no screen.

pub mod checkpoint;
pub mod evaluate;
pub mod files;
pub mod kept;
pub mod recovery;
pub mod saver;
pub mod schedule;
pub mod trainer;
pub mod training_data;

use crate::domain::arch::ArchError;
use crate::domain::params::HyperParamError;

/// Errors of training. The messages say what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the architecture does not fit: {0}")]
    Arch(#[from] ArchError),
    #[error(transparent)]
    Backend(#[from] crate::backend::Error),
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::CheckpointError),
    #[error(transparent)]
    Param(#[from] HyperParamError),
    #[error("{0}")]
    Question(String),
}

pub type Result<T> = std::result::Result<T, Error>;
