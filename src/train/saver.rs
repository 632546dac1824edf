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
    /// The best checkpoint of another run, in whose state this run begins. It is written after the checkpoint of this job:
    /// alone in the folder, it would be resumed as this run.
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
mod tests {
    use super::super::checkpoint::tests::example;
    use super::super::checkpoint::{Best, EpochTotals};
    use super::super::files::FileOp;
    use super::super::files::faults::{Fault, inject};
    use super::*;
    use std::fs;

    fn job(folder: &Path, step: u64, best: bool) -> Job {
        let mut checkpoint = example();
        checkpoint.run_state.step = step;
        // The checkpoint of step 1 was the best so far.
        checkpoint.run_state.best = Some(Best {
            accuracy: 0.5,
            epoch: 1,
            step: if best { step } else { 1 },
        });
        Job {
            checkpoint,
            folder: folder.into(),
            best: if best { NewBest::This } else { NewBest::None },
            keep: Keep::Last,
            metrics: None,
        }
    }

    #[test]
    fn last_previous_and_best_follow_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let mut saver = Saver::start().unwrap();
        for (step, best) in [(1, true), (2, false), (3, false)] {
            saver.save(job(folder.path(), step, best));
            assert!(saver.finish().iter().all(Result::is_ok));
        }
        assert!(!saver.is_busy());
        let step = |name| {
            let read = Checkpoint::read(&folder.path().join(name)).unwrap();
            read.run_state.step
        };
        assert_eq!((step(LAST), step(PREVIOUS), step(BEST)), (3, 2, 1));
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|f| f.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, [BEST, LAST, PREVIOUS], "nothing is left behind");
    }

    #[test]
    fn only_the_newest_and_the_newest_best_of_queued_jobs_are_saved() {
        let folder = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let queued = JobQueue::default();
        let jobs = [(1, true), (2, false), (3, true), (4, false), (5, false)];
        let added = jobs.map(|(step, best)| enqueue(&queued, job(folder.path(), step, best)));
        assert_eq!(added, [true, false, false, false, false]);
        // A job never replaces the job of another run.
        assert!(enqueue(&queued, job(other.path(), 1, false)));
        let mut pending = None;
        let queued = queued.lock().unwrap().drain(..).collect::<Vec<_>>();
        assert_eq!(queued.len(), 2);
        let reports: Vec<_> = queued
            .into_iter()
            .flat_map(|job| save(job, &mut pending).unwrap())
            .map(|report| (report.step, report.best))
            .collect();
        assert_eq!(reports, [(3, false), (3, true), (5, false), (1, false)]);
        assert_eq!(steps(folder.path()), [Some(5), Some(3), Some(3)]);
        assert_eq!(steps(other.path()), [Some(1), None, None]);
    }

    #[test]
    fn a_failed_save_is_reported_and_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        let mut saver = Saver::start().unwrap();
        saver.save(job(&gone, 5, false));
        let outcomes = saver.finish();
        let why = outcomes[0].as_ref().unwrap_err();
        assert!(
            why.contains("step 5") && why.contains("gone") && why.contains("room"),
            "{why}"
        );
        // A folder with the file's name makes the rename fail after the temporary file was written.
        let last = folder.path().join(LAST);
        fs::create_dir(&last).unwrap();
        assert!(Folder::from(folder.path()).write(LAST, b"x").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    /// The steps of the run's three checkpoints; None for one that cannot be read.
    fn steps(folder: &Path) -> [Option<u64>; 3] {
        [LAST, PREVIOUS, BEST].map(|name| {
            let read = Checkpoint::read(&folder.join(name));
            read.ok().map(|c| c.run_state.step)
        })
    }

    /// Saves steps 1 (the best) and 2, then step 3 with a fault. Returns the folder, the result and the file operations
    /// of step 3.
    fn faulty(fault: Option<Fault>) -> (tempfile::TempDir, SaveOutcome, Vec<FileOp>) {
        let folder = tempfile::tempdir().unwrap();
        for (step, best) in [(1, true), (2, false)] {
            save(job(folder.path(), step, best), &mut None).unwrap();
        }
        let injected = inject(folder.path(), fault);
        let outcome = save(job(folder.path(), 3, true), &mut None);
        let done = injected.done();
        drop(injected);
        (folder, outcome, done)
    }

    #[test]
    fn each_operation_of_a_save_may_fail_and_the_next_save_goes_well() {
        let (_, outcome, operations) = faulty(None);
        assert!(outcome.is_ok() && operations.len() > 8, "{operations:?}");
        for (at, operation) in operations.iter().enumerate() {
            let mut faults = vec![
                Fault::Error {
                    at,
                    code: libc::EIO,
                },
                Fault::Error {
                    at,
                    code: libc::ENOSPC,
                },
            ];
            if *operation == FileOp::Write {
                faults.push(Fault::Short { at });
            }
            for fault in faults {
                let (folder, outcome, _) = faulty(Some(fault));
                // Without hard links the file is copied, which is not a failure.
                assert_eq!(outcome.is_ok(), *operation == FileOp::Link, "{fault:?}");
                let [last, previous, best] = steps(folder.path());
                assert!(matches!(last, Some(2 | 3)), "{fault:?}: {last:?}");
                assert!(matches!(previous, Some(1 | 2)), "{fault:?}: {previous:?}");
                assert!(matches!(best, Some(1 | 3)), "{fault:?}: {best:?}");
                save(job(folder.path(), 4, false), &mut None).unwrap();
                assert_eq!(steps(folder.path())[0], Some(4), "{fault:?}");
                Folder::from(folder.path()).sweep().unwrap();
                assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "{fault:?}");
            }
        }
    }

    /// Asserts that a run resumed from the last readable checkpoint has the best weights that it refers to.
    #[track_caller]
    fn has_its_best(folder: &Path, fault: Fault) {
        let last = Checkpoint::read(&folder.join(LAST)).unwrap().run_state;
        adopt(&folder.into(), LAST, last.is_best()).unwrap();
        assert_eq!(steps(folder)[2], last.best.map(|b| b.step), "{fault:?}");
    }

    #[test]
    fn a_crash_before_or_after_each_operation_leaves_the_old_or_the_new_one() {
        let (.., operations) = faulty(None);
        for at in 0..operations.len() {
            for fault in [Fault::CrashBefore { at }, Fault::CrashAfter { at }] {
                let (folder, outcome, _) = faulty(Some(fault));
                assert!(outcome.is_err(), "{fault:?}");
                let [last, previous, best] = steps(folder.path());
                assert!(matches!(last, Some(2 | 3)), "{fault:?}: {last:?}");
                assert!(matches!(previous, Some(1 | 2)), "{fault:?}: {previous:?}");
                assert!(matches!(best, Some(1 | 3)), "{fault:?}: {best:?}");
                Folder::from(folder.path()).sweep().unwrap();
                has_its_best(folder.path(), fault);
                assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "{fault:?}");
                save(job(folder.path(), 4, true), &mut None).unwrap();
                assert_eq!(steps(folder.path())[0], Some(4), "{fault:?}");
                assert_eq!(steps(folder.path())[2], Some(4), "{fault:?}");
                assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "{fault:?}");
            }
        }
    }

    /// The end of an epoch of ten steps.
    fn end_of_epoch(folder: &Path, epoch: u32, keep: Keep) -> Job {
        let mut job = job(folder, 10 * u64::from(epoch), false);
        let run_state = &mut job.checkpoint.run_state;
        (run_state.epochs, run_state.step_in_epoch) = (epoch, 0);
        run_state.totals = EpochTotals::default();
        Job { keep, ..job }
    }

    #[test]
    fn ends_of_epochs_are_kept_and_thinned() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let save = |job| save(job, &mut None).unwrap();
        for epoch in 1..=60 {
            save(end_of_epoch(path, epoch, Keep::Thin));
        }
        let expected: Vec<u32> = (1..=60).filter(|e| Keep::Thin.keeps(*e, 60)).collect();
        assert_eq!(kept::epochs(path), expected);
        for epoch in expected {
            let checkpoint = Checkpoint::read(&path.join(kept::file_of(epoch))).unwrap();
            assert_eq!(checkpoint.run_state.epochs, epoch);
        }
        // The run went back to epoch 50, and is within the one after it.
        let mut within = end_of_epoch(path, 50, Keep::Thin);
        within.checkpoint.run_state.step_in_epoch = 3;
        within.checkpoint.run_state.totals.images = 30;
        save(within);
        assert!(kept::epochs(path).iter().all(|epoch| *epoch <= 51));
        assert!(!path.join(kept::file_of(51)).exists());
        save(end_of_epoch(path, 51, Keep::Last));
        assert!(kept::epochs(path).is_empty());
    }

    #[test]
    fn what_fails_while_an_epoch_is_kept_is_reported_and_the_next_save_goes_well() {
        let prepared = || {
            let folder = tempfile::tempdir().unwrap();
            for epoch in 1..=9 {
                save(end_of_epoch(folder.path(), epoch, Keep::All), &mut None).unwrap();
            }
            folder
        };
        let faulty = |fault| {
            let folder = prepared();
            let injected = inject(folder.path(), fault);
            let outcome = save(end_of_epoch(folder.path(), 10, Keep::Last), &mut None);
            let kept = end_of_epoch(folder.path(), 11, Keep::All);
            let outcome = outcome.and(save(kept, &mut None));
            let done = injected.done();
            drop(injected);
            (folder, outcome, done)
        };
        let (_, outcome, operations) = faulty(None);
        assert!(outcome.is_ok() && operations.contains(&FileOp::Remove));
        for at in 0..operations.len() {
            for fault in [
                Fault::Error {
                    at,
                    code: libc::ENOSPC,
                },
                Fault::CrashBefore { at },
                Fault::CrashAfter { at },
            ] {
                let (folder, ..) = faulty(Some(fault));
                let path = folder.path();
                let last = Checkpoint::read(&path.join(LAST))
                    .or_else(|_| Checkpoint::read(&path.join(PREVIOUS)));
                assert!(last.is_ok(), "{fault:?}");
                for epoch in kept::epochs(path) {
                    let kept = Checkpoint::read(&path.join(kept::file_of(epoch)));
                    assert_eq!(kept.unwrap().run_state.epochs, epoch, "{fault:?}");
                }
                Folder::from(path).sweep().unwrap();
                kept::sweep(&path.into()).unwrap();
                save(end_of_epoch(path, 12, Keep::Thin), &mut None).unwrap();
                assert_eq!(kept::epochs(path).last(), Some(&12), "{fault:?}");
                let files = fs::read_dir(path.join(kept::KEPT)).unwrap().count();
                assert_eq!(
                    files,
                    kept::epochs(path).len(),
                    "{fault:?}: nothing is left behind"
                );
            }
        }
    }

    #[test]
    fn a_best_checkpoint_that_found_no_room_is_written_when_there_is_some() {
        let folder = tempfile::tempdir().unwrap();
        let mut pending = None;
        save(job(folder.path(), 1, true), &mut pending).unwrap();
        let full = inject(folder.path(), Some(Fault::Full));
        assert!(save(job(folder.path(), 2, true), &mut pending).is_err());
        assert!(save(job(folder.path(), 3, false), &mut pending).is_err());
        drop(full);
        assert_eq!(steps(folder.path()), [Some(1), None, Some(1)]);
        let written = save(job(folder.path(), 4, false), &mut pending).unwrap();
        assert_eq!(written.len(), 2);
        assert_eq!(steps(folder.path()), [Some(4), Some(1), Some(2)]);
        assert!(pending.is_none());
    }
}
