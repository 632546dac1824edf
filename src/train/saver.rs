//! Saves checkpoints on a thread of its own, so that training does not wait for the disk.

use super::checkpoint::{Checkpoint, CheckpointError, RunState};
use super::files::Folder;
use super::kept;
use crate::domain::keep::Keep;
use crate::domain::report::CheckpointReport;
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// File names of the newest checkpoint of a run, the one before it, and the one with the best validation accuracy.
pub const LAST: &str = "last.safetensors";
pub const PREVIOUS: &str = "previous.safetensors";
pub const BEST: &str = "best.safetensors";

/// Advice that follows the reason why something could not be saved.
pub const SAVE_ADVICE: &str = "Make room there, or check that you may write.";

/// A checkpoint to save.
pub struct Job {
    pub checkpoint: Checkpoint,
    pub folder: Folder,
    pub best: NewBest,
    /// Which checkpoints of the ends of epochs are kept.
    pub keep: Keep,
    /// The metrics file, which is synced before the checkpoint is written, or the error of writing it.
    pub metrics: Option<io::Result<File>>,
}

/// The new best checkpoint, if there is one.
pub enum NewBest {
    None,
    /// The checkpoint of this job.
    This,
    /// The checkpoint of an earlier job that was merged into this one.
    Earlier(Box<Checkpoint>),
    /// An earlier checkpoint: of another run, in whose state this run begins, or of a variant that has become the run's
    /// network. It is written after the checkpoint of this job: alone in the folder, it would be resumed as this run.
    Inherited(Box<Checkpoint>),
}

impl Job {
    /// Merges a queued job with the `next` one of the same run: keeps the newest checkpoint and the newest best.
    fn followed_by(self, next: Job) -> Job {
        let best = match (next.best, self.best) {
            (NewBest::None, NewBest::This) => NewBest::Earlier(Box::new(self.checkpoint)),
            (NewBest::None, earlier) => earlier,
            (newer, _) => newer,
        };
        Job { best, ..next }
    }
}

/// Jobs that have not been started, at most one per run, so that memory stays bounded if saving is slower than the
/// epochs.
type JobQueue = Arc<Mutex<VecDeque<Job>>>;

/// Queues a job. Returns false if it was merged with a queued job.
fn enqueue(queued: &JobQueue, job: Job) -> bool {
    let mut queued = queued.lock().unwrap_or_else(PoisonError::into_inner);
    match queued.pop_back() {
        Some(newest) if newest.folder.path() == job.folder.path() => {
            queued.push_back(newest.followed_by(job));
            false
        }
        newest => {
            queued.extend(newest);
            queued.push_back(job);
            true
        }
    }
}

/// The result of a job: the files written, or the reason of the failure.
pub type SaveOutcome = Result<Vec<CheckpointReport>, String>;

/// The thread that saves checkpoints.
pub struct Saver {
    queued: JobQueue,
    /// Receives a token for each queued job.
    ready: Option<Sender<()>>,
    outcomes: Receiver<SaveOutcome>,
    thread: Option<JoinHandle<()>>,
    under_way: usize,
}

impl Saver {
    /// # Errors
    /// Returns an error if the thread cannot be created.
    pub fn start() -> io::Result<Self> {
        let (ready, tokens) = unbounded::<()>();
        let (sender, outcomes) = unbounded();
        let queued = JobQueue::default();
        let jobs = Arc::clone(&queued);
        let thread = std::thread::Builder::new()
            .name("saver".into())
            .spawn(move || {
                let mut pending = None;
                for () in tokens {
                    let mut jobs = jobs.lock().unwrap_or_else(PoisonError::into_inner);
                    let job = jobs.pop_front();
                    drop(jobs);
                    let Some(job) = job else { continue };
                    if sender.send(save(job, &mut pending)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Saver {
            queued,
            ready: Some(ready),
            outcomes,
            thread: Some(thread),
            under_way: 0,
        })
    }

    /// Whether a job has not been completed.
    pub fn is_busy(&self) -> bool {
        self.under_way > 0
    }

    /// Queues a job. A queued job of the same run is merged into it.
    pub fn save(&mut self, job: Job) {
        if enqueue(&self.queued, job)
            && let Some(ready) = &self.ready
            && ready.send(()).is_ok()
        {
            self.under_way += 1;
        }
    }

    /// The results of the jobs completed since the last call.
    pub fn finished(&mut self) -> Vec<SaveOutcome> {
        let outcomes: Vec<_> = self.outcomes.try_iter().collect();
        self.under_way -= outcomes.len();
        outcomes
    }

    /// The channel of the results, for use in a `select!`. Call [`Saver::count_received`] for each result received from
    /// it.
    pub fn outcomes(&self) -> &Receiver<SaveOutcome> {
        &self.outcomes
    }

    /// Records that one result was received from [`Saver::outcomes`].
    pub fn count_received(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// Waits until all jobs are completed. Returns their results.
    pub fn finish(&mut self) -> Vec<SaveOutcome> {
        let mut outcomes = Vec::new();
        while self.under_way > 0 {
            self.under_way -= 1;
            let outcome = self.outcomes.recv();
            outcomes.push(
                outcome
                    .unwrap_or_else(|_| Err("the thread that saves checkpoints panicked".into())),
            );
        }
        outcomes
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        self.ready = None;
        if let Some(thread) = self.thread.take() {
            // If the thread panicked, `finish` has reported it as a missing outcome.
            let _ = thread.join();
        }
    }
}

/// The best checkpoint of a run while it is not yet written to `best`. If that fails, it is tried again at each save of
/// the run, until there is a better one.
struct PendingBest {
    folder: Folder,
    report: CheckpointReport,
    bytes: Vec<u8>,
}

/// Saves a job. At any moment `last` or `previous` is complete, and the best weights that `last` refers to are in
/// `best` or in `last` itself. In the latter case, after the process was killed before it wrote `best`, [`adopt`]
/// copies them.
fn save(job: Job, pending: &mut Option<PendingBest>) -> SaveOutcome {
    let Job {
        checkpoint,
        folder,
        best,
        keep,
        mut metrics,
    } = job;
    let mut written = Vec::new();
    let is_best = matches!(best, NewBest::This);
    match best {
        NewBest::None | NewBest::This => {}
        NewBest::Earlier(best) => {
            written = write(&best, &folder, true, keep, metrics.take(), pending)?;
        }
        NewBest::Inherited(best) => {
            let bytes = best.encode()?;
            *pending = Some(PendingBest {
                report: report(&best.run_state, &folder, BEST, bytes.len()),
                folder: folder.clone(),
                bytes,
            });
        }
    }
    written.extend(write(
        &checkpoint,
        &folder,
        is_best,
        keep,
        metrics,
        pending,
    )?);
    Ok(written)
}

fn report(run_state: &RunState, folder: &Folder, name: &str, bytes: usize) -> CheckpointReport {
    CheckpointReport {
        step: run_state.step,
        epoch: run_state.epoch(),
        path: folder.join(name).display().to_string(),
        bytes: bytes as u64,
        best: name == BEST,
    }
}

/// Writes a checkpoint as `last`, and keeps it if it ends an epoch. Also writes `best` if this checkpoint is the best or
/// another best one is pending.
fn write(
    checkpoint: &Checkpoint,
    folder: &Folder,
    is_best: bool,
    keep: Keep,
    metrics: Option<io::Result<File>>,
    pending: &mut Option<PendingBest>,
) -> SaveOutcome {
    let run_state = &checkpoint.run_state;
    let in_folder = |e: io::Error| {
        format!(
            "the checkpoint of step {} could not be saved in {}: {e}. {SAVE_ADVICE}",
            run_state.step,
            folder.path().display()
        )
    };
    let bytes = checkpoint.encode()?;
    let report = |name: &str| report(run_state, folder, name, bytes.len());
    if is_best {
        *pending = Some(PendingBest {
            folder: folder.clone(),
            report: report(BEST),
            bytes: bytes.clone(),
        });
    } else if pending
        .as_ref()
        .is_some_and(|o| o.folder.path() != folder.path())
    {
        *pending = None;
    }
    if let Some(metrics) = metrics {
        metrics.and_then(|m| m.sync_data()).map_err(in_folder)?;
    }
    if folder.join(LAST).exists() {
        folder.keep_as(LAST, PREVIOUS).map_err(in_folder)?;
    }
    folder.write(LAST, &bytes).map_err(in_folder)?;
    let mut written = vec![report(LAST)];
    if let Some(best) = pending {
        folder.write(BEST, &best.bytes).map_err(in_folder)?;
        written.push(best.report.clone());
        *pending = None;
    }
    kept::keep_last(folder, run_state, keep).map_err(in_folder)?;
    Ok(written)
}

/// Checkpoints of a run with their files, newest first, and why its last one is not among them, if so.
pub type WholeCheckpoints = (Vec<(Checkpoint, PathBuf)>, Option<CheckpointError>);

/// The checkpoints of the run in `folder` that can be read, at least one, each step once.
///
/// # Errors
/// Returns the error of the last checkpoint if none can be read.
pub fn whole_checkpoints(folder: &Path) -> Result<WholeCheckpoints, CheckpointError> {
    let [last, previous, best] = [LAST, PREVIOUS, BEST].map(|name| {
        let path = folder.join(name);
        Checkpoint::read(&path).map(|checkpoint| (checkpoint, path))
    });
    let (last, damage) = match last {
        Ok(last) => (Some(last), None),
        Err(error) => (None, Some(error)),
    };
    let mut found: Vec<_> = last.into_iter().chain(previous).chain(best).collect();
    // The sort is stable, so that of equal steps the last checkpoint comes first.
    found.sort_by_key(|(checkpoint, _)| std::cmp::Reverse(checkpoint.run_state.step));
    found.dedup_by_key(|(checkpoint, _)| checkpoint.run_state.step);
    match damage {
        Some(error) if found.is_empty() => Err(error),
        damage => Ok((found, damage)),
    }
}

/// Makes `file`, the checkpoint that a run resumes from, its `last` one, so that a newer or damaged checkpoint never
/// becomes `previous`. If it `is_best`, it becomes `best` too, since the process that saved it may have been killed
/// before it wrote `best`.
///
/// # Errors
/// Returns an error if a file operation fails.
pub fn adopt(folder: &Folder, file: &str, is_best: bool) -> io::Result<()> {
    if file != LAST {
        if file != PREVIOUS {
            folder.keep_as(file, PREVIOUS)?;
        }
        folder.keep_as(file, LAST)?;
    }
    match is_best {
        true => folder.keep_as(LAST, BEST),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests;
