//! Forking a run: finds the saved state that `fork RUN@...` names, and checks whether the changes fit it. The parent's
//! folder is only read, so that another session may train the parent meanwhile.

use super::resume::{epochs_done, newest};
use super::run_dir::METRICS;
use super::run_dir::name::folder_of;
use super::status::run_path;
use crate::domain::arch;
use crate::domain::fork::{ForkAt, ForkOrigin};
use crate::domain::params::{self, Change, HYPERPARAMS, HyperParamError, Hyperparameters, Value};
use crate::domain::recipes;
use crate::domain::text::{command_line, plain};
use crate::train::checkpoint::{Checkpoint, CheckpointError, RunState};
use crate::train::kept::{self, KEPT};
use crate::train::saver::{BEST, LAST, PREVIOUS};
use std::path::{Path, PathBuf};

/// Why a run cannot be forked as requested.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    #[error(
        "there is no run '{}' in {}; `cifar-tui runs` lists them, --runs names another folder.",
        plain(run), runs.display()
    )]
    Absent { run: String, runs: PathBuf },
    #[error("{}.", plain(.0))]
    At(String),
    #[error(
        "{} has no checkpoint of {at}. The nearest is that of {nearest}: `{command}`.",
        folder.display()
    )]
    Missing {
        folder: PathBuf,
        at: ForkAt,
        nearest: ForkAt,
        command: String,
    },
    #[error(transparent)]
    Param(#[from] HyperParamError),
    #[error(
        "validation cannot change in a fork, as it would be scored on images that it has been trained on: it stays {has}, and {asked} was asked for. Add `validation={has}`, or start a new run."
    )]
    Split { has: String, asked: String },
    #[error(
        "epochs {asked}: {done} epochs are {} in that state. Give `epochs` {} {done}, or fork an earlier state.",
        if *under_way { "done or under way" } else { "done" },
        if *under_way { "of at least" } else { "of more than" }
    )]
    Epochs {
        asked: f64,
        done: f64,
        under_way: bool,
    },
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// A state to fork.
pub(super) struct ForkPoint {
    pub checkpoint: Checkpoint,
    /// The checkpoint's file.
    pub path: PathBuf,
    /// The parent's folder. None if the file lies outside of it.
    pub parent: Option<PathBuf>,
    /// A warning about a damaged newer checkpoint.
    pub warning: Option<String>,
}

impl ForkPoint {
    /// The state that `text` names: a run, or RUN@STATE. RUN is a run's name in `runs`, its folder, or a checkpoint file.
    /// An `@` within the name of a folder or a file belongs to the name.
    ///
    /// # Errors
    /// Returns an error if there is no such run, or it has no undamaged checkpoint of that state.
    pub fn named(text: &str, runs: &Path) -> Result<Self, ForkError> {
        if let Some(folder) = run_folder(text, runs) {
            return Self::of_run(folder, ForkAt::Last);
        }
        if Path::new(text).is_file() {
            return Self::of_file(Path::new(text));
        }
        let (run, at) = text.rsplit_once('@').unwrap_or((text, ""));
        let Some(folder) = run_folder(run, runs) else {
            let (run, runs) = (run.into(), runs.into());
            return Err(ForkError::Absent { run, runs });
        };
        Self::of_run(folder, at.parse().map_err(ForkError::At)?)
    }

    /// A state of the run in `folder`.
    ///
    /// # Errors
    /// Returns an error if it has no undamaged checkpoint of that state. It names the nearest state that has one.
    pub fn of_run(folder: PathBuf, at: ForkAt) -> Result<Self, ForkError> {
        let (checkpoint, path, warning) = match at {
            ForkAt::Last => newest(&folder)?,
            ForkAt::Best | ForkAt::Epoch(_) | ForkAt::Step(_) => {
                let path = saved(&folder, at)?;
                (Checkpoint::read(&path)?, path, None)
            }
        };
        Ok(ForkPoint {
            checkpoint,
            path,
            parent: Some(folder),
            warning,
        })
    }

    /// The state in a checkpoint file, which may be one that a run keeps.
    ///
    /// # Errors
    /// Returns an error if it cannot be read or is damaged.
    pub fn of_file(file: &Path) -> Result<Self, ForkError> {
        let path = std::path::absolute(file).unwrap_or_else(|_| file.into());
        let folder = match path.parent() {
            Some(folder) if folder.ends_with(KEPT) => folder.parent(),
            folder => folder,
        };
        let parent = folder.filter(|folder| is_run(folder));
        Ok(ForkPoint {
            checkpoint: Checkpoint::read(&path)?,
            parent: parent.map(Path::to_owned),
            path,
            warning: None,
        })
    }

    /// What a fork with these changes records of its parent. The trainer adds which weights it took over.
    pub fn origin(&self, changes: Vec<Change>) -> ForkOrigin {
        let run_state = &self.checkpoint.run_state;
        let name = self.parent.as_deref().and_then(Path::file_name);
        ForkOrigin {
            run: name.map_or_else(
                || run_state.run.clone(),
                |name| name.to_string_lossy().into_owned(),
            ),
            run_started: run_state.started,
            step: run_state.step,
            epoch: run_state.epoch(),
            epoch_over: run_state.ends_epoch(),
            changes,
            taken: 0,
            fresh: Vec::new(),
        }
    }

    /// The file of the parent's best checkpoint at that time, if it is another one and still there.
    pub fn best(&self) -> Option<PathBuf> {
        let run_state = &self.checkpoint.run_state;
        let best = run_state.best.filter(|best| best.step != run_state.step)?;
        let states = saved_states(self.parent.as_deref()?);
        let state = states.into_iter().find(|state| state.step == best.step);
        state.map(|state| state.path)
    }
}

fn is_run(folder: &Path) -> bool {
    folder.join(METRICS).is_file()
}

/// The absolute path of the folder of a run's name or folder.
fn run_folder(wanted: &str, runs: &Path) -> Option<PathBuf> {
    let folder = folder_of(runs, Path::new(wanted)).filter(|folder| is_run(folder))?;
    Some(std::path::absolute(&folder).unwrap_or(folder))
}

/// A checkpoint of a run.
#[derive(Clone, Debug)]
struct SavedState {
    path: PathBuf,
    step: u64,
    epoch: u32,
    ends_epoch: bool,
    /// The steps of this checkpoint's best weights so far.
    best: Option<u64>,
}

impl SavedState {
    fn at(&self) -> ForkAt {
        match self.ends_epoch {
            true => ForkAt::Epoch(self.epoch),
            false => ForkAt::Step(self.step),
        }
    }
}

/// The checkpoints of a run, each step once, in the order of steps. Skips those that cannot be read.
fn saved_states(folder: &Path) -> Vec<SavedState> {
    let names = [LAST, PREVIOUS, BEST].map(str::to_owned).into_iter();
    let kept = kept::epochs(folder).into_iter().map(kept::file_of);
    let mut states: Vec<_> = names
        .chain(kept)
        .filter_map(|name| {
            let path = folder.join(name);
            let state = Checkpoint::read_state(&path).ok()?;
            Some(SavedState {
                path,
                step: state.step,
                epoch: state.epoch(),
                ends_epoch: state.ends_epoch(),
                best: state.best.map(|best| best.step),
            })
        })
        .collect();
    states.sort_by_key(|state| state.step);
    states.dedup_by_key(|state| state.step);
    states
}

/// The file of the checkpoint of a state.
fn saved(folder: &Path, at: ForkAt) -> Result<PathBuf, ForkError> {
    let states = saved_states(folder);
    // In a run that ended within an epoch and got more, two states end an epoch of the same number.
    let newest_first = || states.iter().rev();
    let best = states.iter().filter_map(|state| state.best).max();
    let found = match at {
        ForkAt::Last => states.last(),
        ForkAt::Best => newest_first().find(|state| Some(state.step) == best),
        ForkAt::Epoch(epoch) => {
            newest_first().find(|state| state.ends_epoch && state.epoch == epoch)
        }
        ForkAt::Step(step) => newest_first().find(|state| state.step == step),
    };
    if let Some(state) = found {
        return Ok(state.path.clone());
    }
    let by_step = |step: u64| states.iter().min_by_key(move |s| s.step.abs_diff(step));
    let nearest = match at {
        ForkAt::Last => None,
        ForkAt::Best => by_step(best.unwrap_or(u64::MAX)),
        ForkAt::Step(step) => by_step(step),
        ForkAt::Epoch(epoch) => {
            let ends = states.iter().filter(|state| state.ends_epoch);
            ends.min_by_key(|state| state.epoch.abs_diff(epoch))
                .or(states.last())
        }
    };
    let nearest = match nearest {
        Some(state) => state.at(),
        // No checkpoint can be read: report why the last one cannot.
        None => newest(folder).map(|_| ForkAt::Last)?,
    };
    let run = format!("{}{}", run_path(folder).display(), nearest.suffix());
    Err(ForkError::Missing {
        folder: folder.into(),
        at,
        nearest,
        command: command_line(&["cifar-tui", "fork", &run]),
    })
}

/// The changes of the hyperparameters of a fork from this state, if `wanted` are its values by key. A recipe changes all
/// of its hyperparameters for which `wanted` has no value.
///
/// # Errors
/// Returns an error if a value is not allowed, would divide the images in another way, or leaves nothing to train.
pub(super) fn changes(
    run_state: &RunState,
    wanted: &[(String, Value)],
) -> Result<Vec<Change>, ForkError> {
    let mut checked = Vec::new();
    for (key, value) in wanted {
        let row = params::find(key)?;
        checked.push((row.key, row.check(value.clone())?));
    }
    let before = &run_state.params;
    let after = recipes::changed(before, |key| {
        let (_, value) = checked.iter().rev().find(|(own, _)| *own == key)?;
        // The recipe that the run has already changes nothing.
        let same = key == recipes::KEY && *value == Value::Text(before.recipe.clone());
        (!same).then(|| value.clone())
    });
    let mut changes = Vec::new();
    for row in HYPERPARAMS {
        let (old, new) = (row.get(before), row.get(&after));
        // A preset's name and its text are the same architecture.
        let same = match (row.key, &new) {
            _ if old == new => true,
            ("architecture", Value::Text(text)) => arch::resolve(text)
                .is_ok_and(|resolved| resolved.to_string() == run_state.architecture),
            _ => false,
        };
        if !same {
            let key = row.key.into();
            changes.push(Change { key, old, new });
        }
    }
    check(run_state, &after)?;
    Ok(changes)
}

/// Checks whether a fork from this state can have these hyperparameters.
fn check(run_state: &RunState, after: &Hyperparameters) -> Result<(), ForkError> {
    let before = &run_state.params;
    if after.validation != before.validation {
        let shown = |share: f64| Value::Float(share).to_string();
        return Err(ForkError::Split {
            has: shown(before.validation),
            asked: shown(after.validation),
        });
    }
    let (done, under_way) = epochs_done(run_state);
    let asked = after.epochs;
    match asked > done || under_way && asked == done {
        true => Ok(()),
        false => Err(ForkError::Epochs {
            asked,
            done,
            under_way,
        }),
    }
}
