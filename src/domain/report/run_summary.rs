//! The summary of a run in the runs folder.

use super::EpochReport;
use crate::domain::fork::ForkOrigin;
use crate::domain::params::{Hyperparameters, Tta};
use crate::domain::text::command_line;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// When a run reached its target.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetReached {
    pub epoch: u32,
    pub step: u64,
    /// Seconds of training until then.
    pub elapsed: f64,
}

/// Summary of a run in the runs folder, read from its files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    pub name: String,
    pub folder: String,
    pub note: String,
    /// Seconds since the Unix epoch.
    pub started: f64,
    /// The outcome: `done`, `stopped`, `diverged` or `failed`. If the run has not ended: `running` while a session has
    /// it open, otherwise `interrupted`. `unreadable` if its metrics cannot be read.
    pub outcome: String,
    /// The host whose session has the run open: [`THIS_COMPUTER`] or another host's name. None if no session has it.
    pub open: Option<String>,
    /// The error of reading its metrics; empty if there was none.
    #[serde(default)]
    pub problem: String,
    pub data: String,
    /// Where it was forked from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<ForkOrigin>,
    /// Name of the run that it was forked from, if that is still in the runs folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Number of its ancestors in the runs folder.
    #[serde(default)]
    pub depth: u32,
    pub params: Hyperparameters,
    pub epochs_done: u32,
    pub step: u64,
    pub best_val_accuracy: Option<f64>,
    pub best_epoch: Option<u32>,
    /// The first epoch that reached the target.
    #[serde(default)]
    pub reached: Option<TargetReached>,
    pub final_val_accuracy: Option<f64>,
    /// Test accuracy of the last weights.
    pub test_accuracy: Option<f64>,
    /// Test accuracy of their average, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average_test_accuracy: Option<f64>,
    /// Test accuracy of the best weights, scored at the end if they are not the last.
    pub best_test_accuracy: Option<f64>,
    /// The views that the test images were scored in.
    #[serde(default, skip_serializing_if = "Tta::is_none")]
    pub test_tta: Tta,
    pub elapsed: f64,
    /// Size of its files.
    pub bytes: u64,
    /// Number of kept checkpoints of ends of epochs.
    #[serde(default)]
    pub kept: u32,
    /// Hyperparameters that differ from the seed recipe, as (key, value).
    pub differs: Vec<(String, String)>,
    /// The run's epochs.
    pub epochs: Vec<EpochReport>,
}

/// The value of [`RunSummary::open`] for a session on this computer.
pub const THIS_COMPUTER: &str = "here";

impl RunSummary {
    /// The run in `folder` before anything of it was read.
    pub fn unread(name: String, folder: String) -> Self {
        RunSummary {
            name,
            folder,
            note: String::new(),
            started: 0.0,
            outcome: "interrupted".into(),
            open: None,
            problem: String::new(),
            data: String::new(),
            origin: None,
            parent: None,
            depth: 0,
            params: Hyperparameters::default(),
            epochs_done: 0,
            step: 0,
            best_val_accuracy: None,
            best_epoch: None,
            reached: None,
            final_val_accuracy: None,
            test_accuracy: None,
            average_test_accuracy: None,
            best_test_accuracy: None,
            test_tta: Tta::None,
            elapsed: 0.0,
            bytes: 0,
            kept: 0,
            differs: Vec::new(),
            epochs: Vec::new(),
        }
    }

    /// The command that resumes the run, from any folder.
    pub fn resume_command(&self) -> String {
        let runs = Path::new(&self.folder).parent();
        let runs = runs.map_or(String::new(), |runs| runs.display().to_string());
        // A name that begins with a dash would be parsed as a flag.
        let resume = match self.name.starts_with('-') {
            true => vec![format!("--resume={}", self.name)],
            false => vec!["--resume".into(), self.name.clone()],
        };
        let words = ["cifar-tui"]
            .into_iter()
            .chain(resume.iter().map(String::as_str));
        command_line(&words.chain(["--runs", &runs]).collect::<Vec<_>>())
    }

    /// Where the run was forked from: `one at the end of epoch 5, step 6,250`, and whether that run is gone. None if it is
    /// not a fork.
    pub fn forked_from(&self) -> Option<String> {
        let origin = self.origin.as_ref()?;
        let from = origin.describe();
        Some(match &self.parent {
            None => format!("{from}, a run that is gone"),
            Some(name) if *name != origin.run => format!("{from}, now called {name}"),
            Some(_) => from,
        })
    }

    /// The indentation and symbol before its name in the family tree: `  └ ` for a child of a child.
    pub fn branch(&self) -> String {
        // Deeper generations would leave no room for the names.
        match self.depth.min(8) as usize {
            0 => String::new(),
            depth => format!("{}└ ", "  ".repeat(depth - 1)),
        }
    }

    /// The state of the run in words: `running`, `done`, `done, open`, `running on gpu-7`.
    pub fn status(&self) -> String {
        let Some(place) = &self.open else {
            return self.outcome.clone();
        };
        let open = match self.outcome.as_str() {
            "running" => "",
            _ => ", open",
        };
        let place = match place.as_str() {
            THIS_COMPUTER => String::new(),
            host => format!(" on {host}"),
        };
        format!("{}{open}{place}", self.outcome)
    }
}
