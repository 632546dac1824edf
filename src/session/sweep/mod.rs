//! A sweep on the disk and its execution: a folder of runs with the plan of what to train.
//!
//! What remains to be trained follows from the plan and the runs, so a sweep that was killed is simply continued, and
//! several processes, also on several computers, can work on one: a run belongs to the process that has its lease.

mod folder;
mod runner;

pub use folder::{ListedSweep, SweepFolder};
pub use runner::{OpenDevice, SweepEnd, SweepEvent, SweepRequest, SweepRunner};

use super::run_dir::RunError;
use super::status::run_path;
use crate::domain::sweep::{Plan, SweepError};
use crate::domain::text::shell_word;
use std::io;
use std::path::PathBuf;

/// Why a sweep cannot be made or read. The messages say what to do.
#[derive(Debug, thiserror::Error)]
pub enum SweepFolderError {
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Plan(#[from] SweepError),
    #[error(
        "{} exists already. Choose another name; if it is a sweep, `cifar-tui sweep --resume {}` continues it.",
        .0.display(), shell_word(&run_path(.0).display().to_string())
    )]
    Exists(PathBuf),
    #[error("there is no sweep '{name}' in {}; --runs names another folder.", runs.display())]
    Absent { name: String, runs: PathBuf },
    #[error("cannot read the plan {}: {why}", path.display())]
    Read { path: PathBuf, why: String },
    #[error(
        "the plan {} has version {v}, and this cifar-tui reads version {}. Continue the sweep with the cifar-tui that began it.",
        path.display(), Plan::VERSION
    )]
    Version { path: PathBuf, v: u64 },
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}
