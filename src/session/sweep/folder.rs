//! The folder of a sweep: its plan and its runs.

use super::SweepFolderError;
use crate::domain::report::{EpochReport, RunSummary, THIS_COMPUTER};
use crate::domain::sweep::{
    JobStart, Plan, Progress, Strategy, SweepError, SweepReport, TrialEnd, TrialProgress, TrialRow,
    current_runs,
};
use crate::files;
use crate::session::run_dir::name::{dated, folder_of, local_time, make_folder};
use crate::session::run_dir::{Owner, RunError};
use crate::session::runs::RunsFolder;
use crate::train::checkpoint::Checkpoint;
use crate::train::files::Folder;
use crate::train::kept;
use crate::train::saver::{BEST, LAST, PREVIOUS};
use std::path::{Path, PathBuf};

/// The file of the plan.
const PLAN: &str = "sweep.json";
/// The folder of empty files that name the runs which the user has stopped.
const STOPPED: &str = "stopped";
/// Maximum size in bytes of a plan.
const MAX_PLAN: u64 = 4 << 20;

/// A sweep in a runs folder.
pub struct ListedSweep {
    pub name: String,
    /// What it has reached, or why it cannot be read.
    pub report: Result<SweepReport, SweepFolderError>,
}

/// A sweep's folder.
pub struct SweepFolder {
    pub plan: Plan,
    path: PathBuf,
    runs: RunsFolder,
}

impl SweepFolder {
    /// Makes the folder of a new sweep in the runs folder. Without a name, one is generated.
    ///
    /// # Errors
    /// Returns an error if the name is taken or is not a plain folder name, or the file system refuses.
    pub fn create(
        runs: &Path,
        name: Option<&str>,
        plan: Plan,
        owner: Owner,
    ) -> Result<Self, SweepFolderError> {
        let name =
            make_folder(runs, name, || dated("sweep", local_time())).map_err(
                |error| match error {
                    RunError::Exists(path) => SweepFolderError::Exists(path),
                    error => error.into(),
                },
            )?;
        let path = std::path::absolute(runs.join(&name)).unwrap_or_else(|_| runs.join(&name));
        let file = path.join(PLAN);
        let text = serde_json::to_string_pretty(&plan).map_err(|error| SweepFolderError::Read {
            path: file.clone(),
            why: error.to_string(),
        })?;
        Folder::from(&*path)
            .write(PLAN, text.as_bytes())
            .map_err(RunError::io("cannot write", &file))?;
        Ok(Self::of(plan, path, owner))
    }

    /// The sweep with this name in the runs folder, or in the folder with this path.
    ///
    /// # Errors
    /// Returns an error if there is no such sweep, or its plan cannot be read.
    pub fn open(runs: &Path, wanted: &Path, owner: Owner) -> Result<Self, SweepFolderError> {
        let folder = folder_of(runs, wanted);
        let Some(path) = folder.filter(|folder| folder.join(PLAN).is_file()) else {
            let (name, runs) = (wanted.display().to_string(), runs.into());
            return Err(SweepFolderError::Absent { name, runs });
        };
        let path = std::path::absolute(&path).unwrap_or(path);
        let plan = read_plan(&path.join(PLAN))?;
        Ok(Self::of(plan, path, owner))
    }

    /// The sweeps in the runs folder, by name.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be read. A folder that does not exist has no sweeps.
    pub fn list(runs: &Path, owner: &Owner) -> Result<Vec<ListedSweep>, RunError> {
        let entries = match std::fs::read_dir(runs) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(RunError::io("cannot read", runs))?,
        };
        let folders = entries.flatten().map(|entry| entry.path());
        let mut folders: Vec<_> = folders.filter(|path| path.join(PLAN).is_file()).collect();
        folders.sort();
        let report = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default();
            let sweep = Self::open(runs, path, owner.clone());
            ListedSweep {
                name: name.to_string_lossy().into_owned(),
                report: sweep.and_then(|mut sweep| sweep.report()),
            }
        };
        Ok(folders.iter().map(report).collect())
    }

    fn of(plan: Plan, path: PathBuf, owner: Owner) -> Self {
        let runs = RunsFolder::new(&path, owner);
        SweepFolder { plan, path, runs }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The sweep's name.
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// What the runs have reached. A run that has not ended counts up to its last checkpoint, from which it would be
    /// resumed.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be read.
    pub fn progress(&mut self) -> Result<Progress, SweepFolderError> {
        let runs = self.runs.list()?;
        Ok(self.progress_of(&runs))
    }

    fn progress_of(&self, runs: &[RunSummary]) -> Progress {
        let reached = runs.iter().map(|run| (run.name.clone(), self.reached(run)));
        reached.collect()
    }

    fn reached(&self, run: &RunSummary) -> TrialProgress {
        let end = match run.outcome.as_str() {
            "done" => Some(TrialEnd::Done),
            "diverged" => Some(TrialEnd::Diverged),
            "unreadable" => Some(TrialEnd::Failed),
            _ if self.path.join(STOPPED).join(&run.name).exists() => Some(TrialEnd::Stopped),
            _ => None,
        };
        let mut accuracies = accuracies(&run.epochs);
        if end.is_none() {
            accuracies.truncate(self.saved_epochs(&run.name) as usize);
        }
        let busy = run.open.is_some();
        TrialProgress {
            accuracies,
            end,
            busy,
        }
    }

    /// Whether a process on another computer has one of the runs, or had it and has died less than a minute ago.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be read.
    pub(super) fn is_open_elsewhere(&mut self) -> Result<bool, SweepFolderError> {
        let runs = self.runs.list()?;
        let elsewhere = |run: &RunSummary| run.open.as_ref().is_some_and(|at| at != THIS_COMPUTER);
        Ok(runs.iter().any(elsewhere))
    }

    /// The epochs that a run can be continued from, or copied at, with what is on the disk.
    fn saved_epochs(&self, run: &str) -> u32 {
        let folder = self.path.join(run);
        match self.plan.strategy {
            Strategy::Population => kept::epochs(&folder).last().copied().unwrap_or_default(),
            _ => Checkpoint::read_state(&folder.join(LAST)).map_or(0, |state| {
                match state.is_closed() {
                    true => state.epoch(),
                    false => state.epochs,
                }
            }),
        }
    }

    /// What the sweep has reached.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be read.
    pub fn report(&mut self) -> Result<SweepReport, SweepFolderError> {
        let runs = self.runs.list()?;
        let progress = self.progress_of(&runs);
        let current = current_runs(&self.plan, &progress)?.into_iter().enumerate();
        let row = |(trial, (run, start)): (usize, (String, JobStart))| TrialRow {
            trial,
            progress: progress.get(&run).cloned().unwrap_or_default(),
            summary: runs.iter().find(|summary| summary.name == run).cloned(),
            run,
            start,
        };
        Ok(SweepReport {
            name: self.name(),
            plan: self.plan.clone(),
            rows: current.map(row).collect(),
        })
    }

    /// Records that the user has stopped a run: it is not trained further.
    ///
    /// # Errors
    /// Returns an error if the file system refuses.
    pub(super) fn record_stopped(&self, run: &str) -> Result<(), SweepFolderError> {
        let folder = Folder::from(&*self.path);
        folder
            .create_inner(STOPPED)
            .and_then(|()| folder.inner(STOPPED).write(run, b""))
            .map_err(RunError::io(
                "cannot write",
                &self.path.join(STOPPED).join(run),
            ))?;
        Ok(())
    }

    /// Whether the run has begun and can be resumed.
    pub(super) fn has_checkpoint(&self, run: &str) -> bool {
        let folder = self.path.join(run);
        [LAST, PREVIOUS, BEST]
            .iter()
            .any(|file| folder.join(file).is_file())
    }

    /// Deletes the folder of a run that was killed before its first checkpoint, if there is one.
    ///
    /// # Errors
    /// Returns an error if a session has it, or the file system refuses.
    pub(super) fn remove_unbegun(&mut self, run: &str) -> Result<(), SweepFolderError> {
        let folder = self.path.join(run);
        match folder.is_dir() {
            true => Ok(self.runs.remove(&folder)?),
            false => Ok(()),
        }
    }
}

/// The accuracy after each epoch, in the order of epochs. A run that went back has an epoch twice: the later one counts.
fn accuracies(epochs: &[EpochReport]) -> Vec<f64> {
    let mut accuracies = Vec::new();
    for report in epochs {
        accuracies.truncate((report.epoch as usize).saturating_sub(1));
        accuracies.push(report.accuracy);
    }
    accuracies
}

fn read_plan(path: &Path) -> Result<Plan, SweepFolderError> {
    let wrong = |why: String| SweepFolderError::Read {
        path: path.into(),
        why,
    };
    let text = files::read_text(path, MAX_PLAN).map_err(|error| wrong(error.to_string()))?;
    let value: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let v = value
        .get("v")
        .and_then(serde_json::Value::as_u64)
        .unwrap_or_default();
    if v != u64::from(Plan::VERSION) {
        let path = path.into();
        return Err(SweepFolderError::Version { path, v });
    }
    let plan: Plan = serde_json::from_value(value).map_err(|error| wrong(error.to_string()))?;
    check(&plan).map_err(|error| wrong(error.to_string()))?;
    Ok(plan)
}

/// Checks what a plan that was edited by hand may have wrong: names of runs and values.
fn check(plan: &Plan) -> Result<(), SweepFolderError> {
    plan.parsed_axes()?;
    for trial in &plan.trials {
        crate::session::run_dir::name::check_name(&trial.name)?;
        for (key, value) in &trial.values {
            let row = crate::domain::params::find(key).map_err(SweepError::from)?;
            row.check(value.clone()).map_err(SweepError::from)?;
        }
    }
    Ok(())
}
