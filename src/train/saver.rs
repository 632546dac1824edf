//! Saving checkpoints off the training thread, and files that are real all at once or not at all.

use super::checkpoint::Checkpoint;
use crate::domain::report::CheckpointReport;
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

/// The newest checkpoint of a run's folder, the one before it, and the one that validated best.
pub const LAST: &str = "last.safetensors";
pub const PREVIOUS: &str = "previous.safetensors";
pub const BEST: &str = "best.safetensors";

/// Writes a file so that a crash at any moment leaves the old one or the new one: write beside, sync the file, rename,
/// sync the folder.
///
/// # Errors
/// Those of the file system; the old file then still stands.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = beside(path);
    let written = (|| {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    if written.is_err() {
        // What was written in part is of no use; the error that is told is the one above.
        let _ = fs::remove_file(&beside);
    }
    written?;
    sync_folder(path)
}

/// Gives the file at `path` a second name, which replaces whatever had it, at once.
fn keep_as(path: &Path, name: &Path) -> io::Result<()> {
    let beside = beside(name);
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if fs::hard_link(path, &beside).is_err() {
        // Not every file system knows two names for one file.
        fs::copy(path, &beside)?;
    }
    fs::rename(&beside, name)
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// What is to be saved.
pub struct Job {
    pub checkpoint: Checkpoint,
    pub folder: PathBuf,
    /// Also keep it as the best.
    pub best: bool,
    /// Synced first: the metrics that the checkpoint counts on.
    pub metrics: Option<File>,
}

/// What became of it: the files written, or why not.
pub type Outcome = Result<Vec<CheckpointReport>, String>;

/// A thread that saves.
pub struct Saver {
    jobs: Option<Sender<Job>>,
    outcomes: Receiver<Outcome>,
    thread: Option<JoinHandle<()>>,
    under_way: usize,
}

impl Saver {
    /// # Errors
    /// When the system gives no thread.
    pub fn start() -> io::Result<Self> {
        let (jobs, todo) = unbounded::<Job>();
        let (tell, outcomes) = unbounded();
        let thread = std::thread::Builder::new()
            .name("saver".into())
            .spawn(move || {
                for job in todo {
                    if tell.send(save(job)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Saver {
            jobs: Some(jobs),
            outcomes,
            thread: Some(thread),
            under_way: 0,
        })
    }

    /// Whether a job is not done yet.
    pub fn is_busy(&self) -> bool {
        self.under_way > 0
    }

    /// Saves this when what came before is done.
    pub fn save(&mut self, job: Job) {
        if let Some(jobs) = &self.jobs
            && jobs.send(job).is_ok()
        {
            self.under_way += 1;
        }
    }

    /// What was finished since the last call.
    pub fn finished(&mut self) -> Vec<Outcome> {
        let outcomes: Vec<_> = self.outcomes.try_iter().collect();
        self.under_way -= outcomes.len();
        outcomes
    }

    /// Where outcomes arrive, for those who wait for several things; who takes one says so with [`Saver::took_one`].
    pub fn outcomes(&self) -> &Receiver<Outcome> {
        &self.outcomes
    }

    pub fn took_one(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// Waits until all is done.
    pub fn finish(&mut self) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        while self.under_way > 0 {
            self.under_way -= 1;
            let outcome = self.outcomes.recv();
            outcomes.push(outcome.unwrap_or_else(|_| Err("the thread that saves has died".into())));
        }
        outcomes
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was told as an outcome that never came.
            let _ = thread.join();
        }
    }
}

fn save(job: Job) -> Outcome {
    let in_folder = |e: io::Error| {
        format!(
            "the checkpoint of step {} could not be saved in {}: {e}. Make room there, or check that you may write; it is tried again at the next checkpoint.",
            job.checkpoint.progress.step,
            job.folder.display()
        )
    };
    let bytes = job.checkpoint.encode()?;
    if let Some(metrics) = &job.metrics {
        metrics.sync_data().map_err(in_folder)?;
    }
    let last = job.folder.join(LAST);
    if last.exists() {
        keep_as(&last, &job.folder.join(PREVIOUS)).map_err(in_folder)?;
    }
    let mut names = vec![(LAST, false)];
    if job.best {
        names.push((BEST, true));
    }
    let progress = &job.checkpoint.progress;
    let mut written = Vec::new();
    for (name, best) in names {
        let path = job.folder.join(name);
        write_atomically(&path, &bytes).map_err(in_folder)?;
        written.push(CheckpointReport {
            step: progress.step,
            epoch: progress.epochs + u32::from(progress.step_in_epoch > 0),
            path: path.display().to_string(),
            bytes: bytes.len() as u64,
            best,
        });
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::super::checkpoint::tests::example;
    use super::*;

    fn job(folder: &Path, step: u64, best: bool) -> Job {
        let mut checkpoint = example();
        checkpoint.progress.step = step;
        Job {
            checkpoint,
            folder: folder.into(),
            best,
            metrics: None,
        }
    }

    #[test]
    fn last_previous_and_best_follow_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let mut saver = Saver::start().unwrap();
        for (step, best) in [(1, true), (2, false), (3, false)] {
            saver.save(job(folder.path(), step, best));
        }
        assert!(saver.finish().iter().all(Result::is_ok));
        assert!(!saver.is_busy());
        let step = |name| {
            let read = Checkpoint::read(&folder.path().join(name)).unwrap();
            read.progress.step
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
    fn a_save_that_fails_is_told_and_leaves_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        let mut saver = Saver::start().unwrap();
        saver.save(job(&gone, 5, false));
        let outcomes = saver.finish();
        let why = outcomes[0].as_ref().unwrap_err();
        assert!(
            why.contains("step 5") && why.contains("gone") && why.contains("again"),
            "{why}"
        );
        // A folder where the file should be: the rename fails after the file was written beside.
        let last = folder.path().join(LAST);
        fs::create_dir(&last).unwrap();
        assert!(write_atomically(&last, b"x").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
