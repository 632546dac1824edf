//! What a session begins with: a new run, a fork, or a run that it resumes. Finds what `--resume` names (a run's name, its
//! folder, or a checkpoint file), checks whether the other settings can take effect, and takes the run's lease before
//! reading its files.

use super::Settings;
use super::broadcaster::EventSender;
use super::fork::{self, ForkError, ForkPoint};
use super::protocol::Event;
use super::run_dir::lease::{Clock, Lease, STALE_AFTER};
use super::run_dir::name::folder_of;
use super::run_dir::{InUse, METRICS, Owner, RunError};
use super::status::run_arguments;
use super::worker::Inbox;
use crate::domain::arch;
use crate::domain::fork::ForkAt;
use crate::domain::params::{self, Applies, Hyperparameters};
use crate::domain::text::command_line;
use crate::train::checkpoint::{Checkpoint, CheckpointError, RunState};
use crate::train::saver::{LAST, whole_checkpoints};
use crossbeam_channel::RecvTimeoutError;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Why a run cannot be resumed as requested.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(
        "{} is of step {step}, and its run has continued to step {newest}: resuming from it would drop the later steps. `{resume}` resumes from the newest checkpoint; `{fork}` continues from this one in a new run.",
        file.display()
    )]
    Older {
        file: PathBuf,
        step: u64,
        newest: u64,
        resume: String,
        fork: String,
    },
    #[error(
        "{} cannot change in a resumed run: {}. Leave {} out, start a new run (without --resume), or continue in a new run with `{fork}`.",
        flags.join(" and "), values.join("; "), if flags.len() == 1 { "it" } else { "them" }
    )]
    Fixed {
        flags: Vec<String>,
        values: Vec<String>,
        fork: String,
    },
    #[error(transparent)]
    Fork(#[from] ForkError),
    #[error(
        "--epochs {asked}: the run has {done} epochs {} already. Give --epochs {done} or more, or leave it out.",
        if *under_way { "done or under way" } else { "done" }
    )]
    Epochs {
        asked: f64,
        done: f64,
        under_way: bool,
    },
}

impl ResumeError {
    /// Whether the request itself is impossible, so that nothing was tried.
    pub fn is_usage(&self) -> bool {
        match self {
            ResumeError::Older { .. } | ResumeError::Fixed { .. } | ResumeError::Epochs { .. } => {
                true
            }
            ResumeError::Fork(error) => !matches!(error, ForkError::Checkpoint(_)),
            ResumeError::Checkpoint(_) | ResumeError::Run(_) => false,
        }
    }
}

/// What a session begins with.
pub(super) enum StartPoint {
    New,
    Resume(Box<ResumePoint>),
    Fork(Box<ForkPoint>),
}

impl StartPoint {
    /// The path of the data of the run that is continued. None if there is no such run, or the path is unknown.
    pub fn data(&self) -> Option<PathBuf> {
        let checkpoint = match self {
            StartPoint::New => return None,
            StartPoint::Resume(point) => &point.checkpoint,
            StartPoint::Fork(point) => &point.checkpoint,
        };
        let data = &checkpoint.run_state.data_source;
        (!data.is_empty()).then(|| PathBuf::from(data))
    }
}

/// A checkpoint to resume from.
pub(super) struct ResumePoint {
    pub checkpoint: Checkpoint,
    /// The checkpoint's file and the run's folder, which contains it.
    pub path: PathBuf,
    pub folder: PathBuf,
    pub lease: Lease,
    /// A warning about a damaged newer checkpoint.
    pub warning: Option<String>,
}

/// What the settings ask a session to begin with.
enum Target {
    New,
    Fork(Box<ForkPoint>),
    /// The run in `folder`, from its checkpoint `file`; None means the newest.
    Resume {
        folder: PathBuf,
        file: Option<PathBuf>,
    },
}

impl Target {
    /// # Errors
    /// Returns an error if the run or the state to fork does not exist.
    fn of(settings: &Settings) -> Result<Self, ForkError> {
        let runs = settings.runs.as_deref();
        let folder = runs.unwrap_or(Path::new(""));
        if let Some(wanted) = &settings.fork {
            return Ok(Target::Fork(Box::new(ForkPoint::named(wanted, folder)?)));
        }
        let Some(wanted) = &settings.resume else {
            return Ok(Target::New);
        };
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.into());
        let (folder, file) = match folder_of(folder, wanted) {
            Some(folder) => (Some(absolute(&folder)), None),
            None => {
                let file = absolute(wanted);
                let run = file.parent().filter(|f| f.join(METRICS).is_file());
                (run.map(Path::to_owned), Some(file))
            }
        };
        // A file outside of a run's folder continues in a new run, and so does every run if nothing is saved.
        let point = match (folder, file) {
            (Some(folder), file) if runs.is_some() => return Ok(Target::Resume { folder, file }),
            (Some(folder), None) => ForkPoint::of_run(folder, ForkAt::Last)?,
            (_, file) => ForkPoint::of_file(&file.unwrap_or_default())?,
        };
        Ok(Target::Fork(Box::new(point)))
    }
}

/// Reads the checkpoint `file` of the run in `folder`, or its newest one. Also returns the checkpoint's file, and a
/// warning if a newer checkpoint is damaged.
fn read(
    folder: &Path,
    file: Option<&Path>,
) -> Result<(Checkpoint, PathBuf, Option<String>), ResumeError> {
    let Some(file) = file else {
        return Ok(newest(folder)?);
    };
    let checkpoint = Checkpoint::read(file)?;
    if let Ok((newest, ..)) = newest(folder) {
        not_older(&checkpoint, file, &newest, folder)?;
    }
    Ok((checkpoint, file.into(), None))
}

/// Reads the newest undamaged checkpoint of a run. Also returns its file, and a warning if the last checkpoint is
/// damaged.
pub(super) fn newest(run: &Path) -> Result<(Checkpoint, PathBuf, Option<String>), CheckpointError> {
    let last = run.join(LAST);
    // Normally the last checkpoint is undamaged, and no other need be read.
    if let Ok(checkpoint) = Checkpoint::read(&last) {
        return Ok((checkpoint, last, None));
    }
    let (mut found, damage) = whole_checkpoints(run)?;
    let (checkpoint, path) = found.swap_remove(0);
    let warning = damage.map(|error| format!("{error} Resuming from {} instead.", path.display()));
    Ok((checkpoint, path, warning))
}

/// Refuses to resume from an older checkpoint of a run, which would drop the later part of the run.
fn not_older(
    checkpoint: &Checkpoint,
    file: &Path,
    newest: &Checkpoint,
    run: &Path,
) -> Result<(), ResumeError> {
    let (step, newest) = (checkpoint.run_state.step, newest.run_state.step);
    if step >= newest {
        return Ok(());
    }
    let shown = |path: &Path| path.display().to_string();
    Err(ResumeError::Older {
        file: file.into(),
        step,
        newest,
        resume: command_line(&["cifar-tui", "--resume", &shown(run)]),
        fork: command_line(&["cifar-tui", "fork", &shown(file)]),
    })
}

/// Checks whether the settings given along with `--resume` can take effect. A hyperparameter that is fixed for a run
/// cannot change, unless it has the requested value already.
fn check_wanted(
    run_state: &RunState,
    folder: &Path,
    settings: &Settings,
) -> Result<(), ResumeError> {
    // Compare texts, since a preset's name and its text are the same architecture.
    let resolved = |params: &Hyperparameters| Hyperparameters {
        architecture: arch::resolve(&params.architecture)
            .map_or_else(|_| params.architecture.clone(), |a| a.to_string()),
        ..params.clone()
    };
    let (asked, run) = (
        resolved(&settings.params),
        Hyperparameters {
            architecture: run_state.architecture.clone(),
            ..run_state.params.clone()
        },
    );
    let (mut flags, mut values) = (Vec::new(), Vec::new());
    for row in settings
        .overrides
        .iter()
        .filter_map(|key| params::param(key))
    {
        if row.applies == Applies::NextRun && row.get(&asked) != row.get(&run) {
            flags.push(format!("--{}", row.flag()));
            values.push(format!(
                "its {} is {}",
                row.label,
                row.show(&row.get(&run_state.params))
            ));
        }
    }
    if !flags.is_empty() {
        let fork = format!("cifar-tui {}", run_arguments("fork", folder));
        return Err(ResumeError::Fixed {
            flags,
            values,
            fork,
        });
    }
    let (done, under_way) = epochs_done(run_state);
    let asks = settings.overrides.iter().any(|key| key == "epochs");
    match asks && settings.params.epochs < done {
        true => Err(ResumeError::Epochs {
            asked: settings.params.epochs,
            done,
            under_way,
        }),
        false => Ok(()),
    }
}

/// The epochs that a run has done in this state, and whether the last one of them is under way.
pub(super) fn epochs_done(run_state: &RunState) -> (f64, bool) {
    let under_way = !run_state.is_closed();
    let done = match (run_state.step_in_epoch, under_way) {
        (0, _) => run_state.epochs.into(),
        // A change of the number takes effect after the current epoch.
        (_, true) => f64::from(run_state.epochs) + 1.0,
        // The run ended within an epoch.
        (_, false) => run_state.params.epochs,
    };
    (done, under_way)
}

/// Checks before the session begins whether `--resume` or `fork` can do what the settings request.
///
/// # Errors
/// Returns an error if there is no undamaged checkpoint, or a requested setting cannot take effect.
pub fn check(settings: &Settings) -> Result<(), ResumeError> {
    match Target::of(settings)? {
        Target::New => {}
        Target::Fork(point) => {
            fork::changes(&point.checkpoint.run_state, &settings.changes())?;
        }
        Target::Resume { folder, file } => {
            let (checkpoint, ..) = read(&folder, file.as_deref())?;
            check_wanted(&checkpoint.run_state, &folder, settings)?;
        }
    }
    Ok(())
}

/// The worker's clock. Its wait for another session's lease ends early if the front end quits. Other commands are
/// queued.
struct InterruptibleClock<'a>(&'a EventSender, &'a mut Inbox);

impl Clock for InterruptibleClock<'_> {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wait(&mut self, time: Duration) -> bool {
        match self.0.requests.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => true,
            Err(RecvTimeoutError::Disconnected) => false,
            Ok(request) => !self.1.queue_unless_quit(request, self.0),
        }
    }
}

/// What the session begins with. To resume a run, takes the run's lease, then reads its checkpoint. (Without the lease,
/// another session might write a newer checkpoint in the meantime.) Returns None if the front end quits during the wait
/// for another session's lease. Other commands that arrive during the wait are queued in `inbox`.
///
/// # Errors
/// Returns an error if another session has the run, there is no undamaged checkpoint, or a requested setting cannot
/// take effect.
pub(super) fn begin(
    settings: &Settings,
    owner: &Owner,
    sender: &EventSender,
    inbox: &mut Inbox,
) -> Result<Option<StartPoint>, ResumeError> {
    let (folder, file) = match Target::of(settings)? {
        Target::New => return Ok(Some(StartPoint::New)),
        Target::Fork(point) => return Ok(Some(StartPoint::Fork(point))),
        Target::Resume { folder, file } => (folder, file),
    };
    let on_wait = |in_use: &InUse| {
        let text = format!("{in_use} Looking for up to {} s.", STALE_AFTER.as_secs());
        sender.event(Event::Notice { text });
    };
    let clock = &mut InterruptibleClock(sender, inbox);
    let Some(lease) = Lease::wait_and_take(&folder, owner, clock, on_wait)? else {
        return Ok(None);
    };
    let (checkpoint, path, warning) = read(&folder, file.as_deref())?;
    check_wanted(&checkpoint.run_state, &folder, settings)?;
    Ok(Some(StartPoint::Resume(Box::new(ResumePoint {
        checkpoint,
        path,
        folder,
        lease,
        warning,
    }))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::checkpoint::tests::example;
    use crate::train::saver::{BEST, PREVIOUS};
    use std::fs;

    fn written(path: &Path, step: u64) {
        let mut checkpoint = example();
        checkpoint.run_state.step = step;
        checkpoint.run_state.params.architecture = "seed".into();
        checkpoint.run_state.architecture = arch::resolve("seed").unwrap().to_string();
        fs::write(path, checkpoint.encode().unwrap()).unwrap();
    }

    /// The folder of an empty run, as the runs folder.
    fn run_folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(METRICS), "").unwrap();
        folder
    }

    fn asking(run: &Path, given: &[(&str, &str)]) -> Settings {
        let mut settings = Settings {
            resume: Some(run.into()),
            runs: Some("no runs".into()),
            ..Settings::default()
        };
        for (key, value) in given {
            let row = params::param(key).unwrap();
            row.set(&mut settings.params, row.parse(value).unwrap())
                .unwrap();
            settings.overrides.push((*key).into());
        }
        settings
    }

    #[test]
    fn a_damaged_last_checkpoint_gives_way_to_the_one_before() {
        let run = run_folder();
        let run = run.path();
        let file = example().encode().unwrap();
        fs::write(run.join(PREVIOUS), &file).unwrap();
        fs::write(run.join(LAST), &file[..file.len() / 2]).unwrap();
        let (_, path, warning) = newest(run).unwrap();
        assert_eq!(path, run.join(PREVIOUS));
        assert!(warning.unwrap().contains(LAST));
        fs::write(run.join(PREVIOUS), &file[1..]).unwrap();
        let error = check(&asking(run, &[])).unwrap_err().to_string();
        assert!(error.contains(LAST), "the newest is named: {error}");
        assert!(check(&asking(Path::new("no such run"), &[])).is_err());
    }

    #[test]
    fn an_older_checkpoint_of_a_run_is_refused_unless_it_stands_alone() {
        let run = run_folder();
        let run = run.path();
        written(&run.join(LAST), 30);
        written(&run.join(BEST), 20);
        let of = |file: &str| check(&asking(&run.join(file), &[]));
        let error = of(BEST).unwrap_err();
        assert!(error.is_usage());
        let text = error.to_string();
        for part in [
            "step 20",
            "step 30",
            "cifar-tui --resume",
            "cifar-tui fork",
            BEST,
        ] {
            assert!(text.contains(part), "'{part}' is not in: {text}");
        }
        of(LAST).unwrap();
        // The best checkpoint is the newest.
        written(&run.join(BEST), 30);
        of(BEST).unwrap();
        // No newer checkpoint can be read.
        written(&run.join(BEST), 20);
        fs::write(run.join(LAST), "damaged").unwrap();
        of(BEST).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let alone = elsewhere.path().join(BEST);
        written(&alone, 20);
        check(&asking(&alone, &[])).unwrap();
        // The new run that continues from it may differ in every hyperparameter.
        check(&asking(&alone, &[("optimizer", "sgd")])).unwrap();
    }

    #[test]
    fn every_hyperparameter_that_is_fixed_for_a_run_is_refused_and_every_other_is_not() {
        let folder = run_folder();
        let file = folder.path().join(LAST);
        written(&file, 9);
        for row in params::HYPERPARAMS {
            let other = row
                .nudged(&row.get(&Hyperparameters::default()), true, false)
                .map_or("dense 10".to_owned(), |value| value.to_string());
            let outcome = check(&asking(&file, &[(row.key, &other)]));
            if row.applies == Applies::NextRun {
                let error = outcome.unwrap_err();
                let flag = format!("--{}", row.flag());
                assert!(
                    error.is_usage() && error.to_string().contains(&flag),
                    "{error}"
                );
            } else {
                outcome.unwrap_or_else(|e| panic!("{}: {e}", row.key));
            }
            let same = row.get(&Hyperparameters::default()).to_string();
            check(&asking(&file, &[(row.key, &same)])).unwrap();
        }
        let text = arch::resolve("seed").unwrap().to_string();
        check(&asking(&file, &[("architecture", &text)])).unwrap();
        let both = [
            ("seed", "9"),
            ("optimizer", "sgd"),
            ("learning_rate", "0.1"),
        ];
        let error = check(&asking(&file, &both)).unwrap_err().to_string();
        assert!(error.contains("--seed and --optimizer cannot"), "{error}");
        assert!(
            error.contains("its seed is 4; its optimizer is adam"),
            "{error}"
        );
        assert!(error.contains("cifar-tui fork "), "{error}");
    }

    #[test]
    fn fewer_epochs_than_are_done_are_refused() {
        let folder = run_folder();
        let file = folder.path().join(LAST);
        // One epoch is done, and the second has begun.
        written(&file, 9);
        let of = |epochs: &str| check(&asking(&file, &[("epochs", epochs)]));
        let error = of("1").unwrap_err();
        assert!(error.is_usage());
        assert!(
            error
                .to_string()
                .starts_with("--epochs 1: the run has 2 epochs"),
            "{error}"
        );
        of("2").unwrap();
    }
}
