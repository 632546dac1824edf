//! Finding what `--resume` means: a run's name, its folder, or a checkpoint file.

use super::run_dir::METRICS;
use crate::train::checkpoint::{Checkpoint, CheckpointError};
use crate::train::saver::{LAST, PREVIOUS};
use std::path::{Path, PathBuf};

/// A checkpoint to go on from.
pub(super) struct Found {
    pub checkpoint: Checkpoint,
    pub path: PathBuf,
    /// The run's folder, when the checkpoint lies in one.
    pub run: Option<PathBuf>,
    /// What was not as it should be.
    pub warning: Option<String>,
}

/// Reads the newest checkpoint of a run (by name in `runs`, or by folder), or the checkpoint file that was named. When
/// a run's last checkpoint is damaged, the one before it is taken.
///
/// # Errors
/// When there is none, or none that is whole.
pub(super) fn find(wanted: &Path, runs: Option<&Path>) -> Result<Found, CheckpointError> {
    let path = match runs.map(|runs| runs.join(wanted)) {
        Some(run) if !wanted.exists() && run.is_dir() => run,
        _ => wanted.to_owned(),
    };
    if !path.is_dir() {
        let checkpoint = Checkpoint::read(&path)?;
        let folder = path.parent().filter(|f| f.join(METRICS).is_file());
        return Ok(Found {
            run: folder.map(Path::to_owned),
            checkpoint,
            path,
            warning: None,
        });
    }
    let (last, previous) = (path.join(LAST), path.join(PREVIOUS));
    let (checkpoint, file, warning) = match Checkpoint::read(&last) {
        Ok(checkpoint) => (checkpoint, last, None),
        Err(error) => match Checkpoint::read(&previous) {
            Ok(checkpoint) => {
                let warning = format!("{error} Going on from {} instead.", previous.display());
                (checkpoint, previous, Some(warning))
            }
            Err(_) => return Err(error),
        },
    };
    Ok(Found {
        checkpoint,
        path: file,
        run: Some(path),
        warning,
    })
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
        let found = find(Path::new("a"), Some(runs.path())).unwrap();
        assert_eq!(found.path, run.join(PREVIOUS));
        assert!(found.warning.unwrap().contains(LAST));
        assert_eq!(found.run, Some(run.clone()));
        fs::write(run.join(PREVIOUS), &file[1..]).unwrap();
        let error = find(&run, None).err().unwrap().to_string();
        assert!(error.contains(LAST), "the newest is named: {error}");
        assert!(find(Path::new("no such run"), Some(runs.path())).is_err());
    }
}
