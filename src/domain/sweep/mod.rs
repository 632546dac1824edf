//! Sweeps: many trials of one recipe with different hyperparameters. This room says which trials there are and which one
//! to train next; it trains nothing.

mod axis;
mod next;
mod plan;
mod ranking;
mod report;
#[cfg(test)]
mod tests;

pub use axis::{Axis, AxisValues, Range, number};
pub use next::{JobStart, Next, Progress, TrialJob, current_runs, next_job};
pub use plan::{MAX_TRIALS, Plan, Strategy, Trial, TrialEnd, TrialProgress, describe};
pub use ranking::{Repeats, repeats};
pub use report::{SweepReport, TrialRow, accuracy_name};

use super::params::HyperParamError;

/// Why a sweep cannot be planned. The messages say what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SweepError {
    #[error("'{0}' is not KEY=VALUES, such as learning_rate=1e-4..1e-2 or dropout=0.3,0.5")]
    Syntax(String),
    #[error(transparent)]
    HyperParam(#[from] HyperParamError),
    #[error("{key}: {why}")]
    Values { key: String, why: String },
    #[error(
        "a sweep needs hyperparameters to vary, such as learning_rate=1e-4..1e-2 or seed=1..4, as arguments or in [sweep] of config.toml"
    )]
    NoAxes,
    #[error("{key} is given twice")]
    Twice { key: String },
    #[error(
        "the sweep has {count} trials, and at most {MAX_TRIALS} are possible; give fewer values, or draw some of them with --trials"
    )]
    TooMany { count: usize },
    #[error(
        "--trials has no effect on a grid, which has a trial for every combination; use --strategy random"
    )]
    TrialsOfGrid,
    #[error("--strategy {strategy} needs --trials, the number of trials to draw")]
    NoTrials { strategy: &'static str },
    #[error("{key} cannot vary with --strategy {strategy}: {why}")]
    Fixed {
        key: String,
        strategy: &'static str,
        why: &'static str,
    },
}
