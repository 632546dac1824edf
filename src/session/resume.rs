//! Finding what `--resume` means (a run's name, its folder, or a checkpoint file), and taking the run's lease before
//! anything of it is read.

use super::Settings;
use super::hub::Tell;
use super::protocol::{Command, Event};
use super::run_dir::lease::{Clock, Lease, STALE};
use super::run_dir::name::folder_of;
use super::run_dir::{InUse, METRICS, Owner, RunError};
use crate::train::checkpoint::{Checkpoint, CheckpointError};
use crate::train::saver::{LAST, PREVIOUS};
use crossbeam_channel::RecvTimeoutError;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Why a run cannot go on as was asked.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Run(#[from] RunError),
}

/// A checkpoint to go on from.
pub(super) struct ResumePoint {
    pub checkpoint: Checkpoint,
    /// The checkpoint's file.
    pub path: PathBuf,
    /// The lease of the run that the checkpoint lies in, when the session saves there.
    pub lease: Option<Lease>,
    /// What was not as it should be.
    pub warning: Option<String>,
}

/// What `--resume` names.
enum Place {
    /// A run's folder.
    Run(PathBuf),
    /// A checkpoint file, and the folder of the run that it lies in, if it does.
    File(PathBuf, Option<PathBuf>),
}

impl Place {
    fn of(wanted: &Path, runs: Option<&Path>) -> Self {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.into());
        if let Some(run) = folder_of(runs.unwrap_or(Path::new("")), wanted) {
            return Place::Run(absolute(&run));
        }
        let file = absolute(wanted);
        let run = file.parent().filter(|f| f.join(METRICS).is_file());
        let run = run.map(Path::to_owned);
        Place::File(file, run)
    }

    fn run(&self) -> Option<&Path> {
        match self {
            Place::Run(run) => Some(run),
            Place::File(_, run) => run.as_deref(),
        }
    }

    /// Reads the checkpoint; gives its file too, and what was wrong with a newer one.
    fn read(&self) -> Result<(Checkpoint, PathBuf, Option<String>), ResumeError> {
        let file = match self {
            Place::Run(run) => return Ok(newest(run)?),
            Place::File(file, _) => file,
        };
        Ok((Checkpoint::read(file)?, file.clone(), None))
    }
}

/// The newest whole checkpoint of a run, its file, and what was wrong with a newer one.
pub(super) fn newest(run: &Path) -> Result<(Checkpoint, PathBuf, Option<String>), CheckpointError> {
    let (last, previous) = (run.join(LAST), run.join(PREVIOUS));
    match Checkpoint::read(&last) {
        Ok(checkpoint) => Ok((checkpoint, last, None)),
        Err(error) => match Checkpoint::read(&previous) {
            Ok(checkpoint) => {
                let warning = format!("{error} Going on from {} instead.", previous.display());
                Ok((checkpoint, previous, Some(warning)))
            }
            Err(_) => Err(error),
        },
    }
}

/// The worker's clock: while it waits for another session's lease it hears whether the front end goes. Other commands are
/// kept.
struct Patience<'a>(&'a Tell, &'a mut VecDeque<Command>);

impl Clock for Patience<'_> {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wait(&mut self, time: Duration) -> bool {
        match self.0.commands.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => true,
            Ok(Command::Quit) | Err(RecvTimeoutError::Disconnected) => false,
            Ok(other) => {
                self.1.push_back(other);
                true
            }
        }
    }
}

/// Takes the run's lease and then reads its checkpoint: before that, its session might write a newer one. None when the
/// front end goes while another session's lease is waited for; other commands that come meanwhile are put into `early`.
///
/// # Errors
/// When another session has the run, there is no whole checkpoint, or it cannot be read.
pub(super) fn begin(
    wanted: &Path,
    settings: &Settings,
    owner: &Owner,
    tell: &Tell,
    early: &mut VecDeque<Command>,
) -> Result<Option<ResumePoint>, ResumeError> {
    let place = Place::of(wanted, settings.runs.as_deref());
    let mut lease = None;
    if let (Some(folder), Some(_)) = (place.run(), &settings.runs) {
        let waits = |in_use: &InUse| {
            let text = format!("{in_use} Looking for up to {} s.", STALE.as_secs());
            tell.event(Event::Notice { text });
        };
        lease = Lease::wait_and_take(folder, owner, &mut Patience(tell, early), waits)?;
        if lease.is_none() {
            return Ok(None);
        }
    }
    let (checkpoint, path, warning) = place.read()?;
    Ok(Some(ResumePoint {
        checkpoint,
        path,
        lease,
        warning,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::checkpoint::tests::example;
    use std::fs;

    #[test]
    fn a_damaged_last_checkpoint_gives_way_to_the_one_before() {
        let runs = tempfile::tempdir().unwrap();
        let run = runs.path().join("a");
        fs::create_dir(&run).unwrap();
        let file = example().encode().unwrap();
        fs::write(run.join(PREVIOUS), &file).unwrap();
        fs::write(run.join(LAST), &file[..file.len() / 2]).unwrap();
        let place = Place::of(Path::new("a"), Some(runs.path()));
        assert_eq!(place.run(), Some(&*run));
        let (_, path, warning) = place.read().unwrap();
        assert_eq!(path, run.join(PREVIOUS));
        assert!(warning.unwrap().contains(LAST));
        fs::write(run.join(PREVIOUS), &file[1..]).unwrap();
        let error = Place::of(&run, None).read().err().unwrap().to_string();
        assert!(error.contains(LAST), "the newest is named: {error}");
        let absent = Place::of(Path::new("no such run"), Some(runs.path()));
        assert!(absent.read().is_err());
    }
}
