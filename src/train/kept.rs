//! Checkpoints that are kept along a run: one for the end of each epoch, thinned out as the run grows, in a folder of
//! their own.

use super::checkpoint::RunState;
use super::files::Folder;
use super::saver::LAST;
use crate::domain::keep::Keep;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// The folder of the kept checkpoints within the run's.
pub const KEPT: &str = "checkpoints";
const PREFIX: &str = "epoch-";
const SUFFIX: &str = ".safetensors";

/// The file of an epoch's checkpoint within the run's folder.
pub fn file_of(epoch: u32) -> String {
    format!("{KEPT}/{PREFIX}{epoch:04}{SUFFIX}")
}

/// The epochs whose checkpoints the run in `folder` keeps, in order.
pub fn epochs(folder: &Path) -> Vec<u32> {
    let Ok(files) = fs::read_dir(folder.join(KEPT)) else {
        return Vec::new();
    };
    let epoch = |name: &str| {
        let epoch = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
        epoch.parse().ok()
    };
    let names = files.flatten().map(|file| file.file_name());
    let mut epochs: Vec<u32> = names
        .filter_map(|name| name.to_str().and_then(epoch))
        .collect();
    epochs.sort_unstable();
    epochs
}

/// Keeps the last checkpoint, which has just been written, if it is that of the end of an epoch, and removes those that
/// `keep` does not keep.
///
/// # Errors
/// Returns an error if the file system does.
pub fn keep_last(folder: &Folder, run_state: &RunState, keep: Keep) -> io::Result<()> {
    let ended = run_state.is_closed() && run_state.step > 0;
    let epoch = run_state.epoch();
    if ended && keep.keeps(epoch, epoch) {
        folder.create_inner(KEPT)?;
        folder.keep_as(LAST, &file_of(epoch))?;
    }
    for old in epochs(folder.path()) {
        if !keep.keeps(old, epoch) {
            folder.remove(&file_of(old))?;
        }
    }
    Ok(())
}

/// Removes the checkpoints of the ends of epochs after `epoch`, but that of this state.
///
/// # Errors
/// Returns an error if the file system does.
pub fn remove_after(folder: &Folder, epoch: u32, run_state: &RunState) -> io::Result<()> {
    let own = run_state.ends_epoch().then(|| run_state.epoch());
    for old in epochs(folder.path()) {
        if old > epoch && Some(old) != own {
            folder.remove(&file_of(old))?;
        }
    }
    Ok(())
}

/// Removes the temporary files of interrupted saves.
///
/// # Errors
/// Returns an error if the file system does.
pub fn sweep(folder: &Folder) -> io::Result<()> {
    match folder.inner(KEPT).sweep() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        swept => swept,
    }
}
