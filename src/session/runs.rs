//! The runs folder: summaries of runs; renaming, annotating and deleting runs.

use super::lines::{Lines, MAX_LINE};
use super::protocol::{self, Event, MessageError};
use super::run_dir::lease::{Lease, Watch};
use super::run_dir::name::check_name;
use super::run_dir::{CONFIG, METRICS, NOTE, Owner, RunError};
use super::run_view::RunView;
use crate::domain::params::{HYPERPARAMS, Hyperparameters, Tta};
use crate::domain::report::{RunSummary, Split, State, THIS_COMPUTER, into_families};
use crate::files;
use crate::train::files::Folder;
use crate::train::kept::{self, KEPT};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

/// Maximum length of a note in bytes.
const MAX_NOTE: u64 = 4096;

/// The runs folder. Summaries are cached until the run's metrics change.
pub struct RunsFolder {
    folder: PathBuf,
    /// The owner that takes leases to change runs.
    owner: Owner,
    watch: Watch,
    known: HashMap<PathBuf, (SystemTime, u64, RunSummary)>,
}

impl RunsFolder {
    pub fn new(folder: &Path, owner: Owner) -> Self {
        RunsFolder {
            folder: folder.into(),
            owner,
            watch: Watch::default(),
            known: HashMap::new(),
        }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All runs, newest first; a run and its forks follow each other. Folders without metrics are skipped. Empty if the
    /// folder does not exist.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be read.
    pub fn list(&mut self) -> Result<Vec<RunSummary>, RunError> {
        let cannot = RunError::io("cannot read the runs folder", &self.folder);
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(cannot)?,
        };
        let mut runs: Vec<_> = entries
            .flatten()
            .filter_map(|entry| self.summary(&entry.path()))
            .collect();
        runs.sort_by(|a, b| b.started.total_cmp(&a.started).then(a.name.cmp(&b.name)));
        Ok(into_families(runs))
    }

    /// The summary of one run, without its place in the family tree. None if the folder is not a run or cannot be read.
    pub fn summary(&mut self, folder: &Path) -> Option<RunSummary> {
        let path = folder.join(METRICS);
        let metadata = fs::metadata(&path).ok()?;
        let changed = (metadata.modified().ok()?, metadata.len());
        let mut summary = match self.known.get(folder) {
            Some((time, length, summary)) if (*time, *length) == changed => summary.clone(),
            _ => {
                let summary = read(folder, &path)?;
                self.known
                    .insert(folder.to_owned(), (changed.0, changed.1, summary.clone()));
                summary
            }
        };
        summary.note = files::read_text(&folder.join(NOTE), MAX_NOTE)
            .map(|note| note.trim_end().to_owned())
            .unwrap_or_default();
        summary.kept = kept::epochs(folder).len() as u32;
        summary.bytes = disk_space(&[folder, &folder.join(KEPT)]);
        summary.open = match self.watch.look(folder, &self.owner.host, Instant::now()) {
            None => None,
            Some(session) if session.here => Some(THIS_COMPUTER.into()),
            Some(session) => Some(session.holder.host),
        };
        if summary.open.is_some() && summary.outcome == "interrupted" {
            summary.outcome = "running".into();
        }
        Some(summary)
    }

    /// Renames a run.
    ///
    /// # Errors
    /// Returns an error if the name is not a plain folder name or taken, the run is in use, or the file system refuses.
    pub fn rename(&mut self, name: &str, to: &str) -> Result<(), RunError> {
        let folder = self.run(name)?;
        check_name(to)?;
        let target = self.folder.join(to);
        if target.exists() {
            return Err(RunError::Exists(target));
        }
        let lease = self.take(&folder)?;
        fs::rename(&folder, &target).map_err(RunError::io("cannot rename", &folder))?;
        lease.moved_to(&target);
        self.known.remove(&folder);
        Ok(())
    }

    fn take(&mut self, folder: &Path) -> Result<Lease, RunError> {
        Lease::take(folder, &self.owner, &mut self.watch, Instant::now())
    }

    /// Writes a run's note; an empty note removes it. `open` is the folder of the run that this session has open.
    ///
    /// # Errors
    /// Returns an error if there is no such run, another session has it, or the file system refuses.
    pub fn note(&mut self, name: &str, note: &str, open: Option<&Folder>) -> Result<(), RunError> {
        let folder = self.run(name)?;
        let path = folder.join(NOTE);
        let lease;
        let real = |path: &Path| fs::canonicalize(path).ok();
        let files = match open.filter(|open| real(open.path()) == real(&folder)) {
            Some(open) => open.clone(),
            None => {
                lease = self.take(&folder)?;
                Folder::with_permit(&folder, lease.permit())
            }
        };
        let cut = (0..=note.len().min(MAX_NOTE as usize))
            .rev()
            .find(|&at| note.is_char_boundary(at))
            .unwrap_or(0);
        let written = if note.trim().is_empty() {
            files.remove(NOTE)
        } else {
            files.write(NOTE, &note.as_bytes()[..cut])
        };
        written.map_err(RunError::io("cannot write", &path))
    }

    /// Deletes a run with all its files.
    ///
    /// # Errors
    /// Returns an error if there is no such run, it is in use, or the file system refuses.
    pub fn delete(&mut self, name: &str) -> Result<(), RunError> {
        let folder = self.run(name)?;
        self.remove(&folder)
    }

    /// Deletes a folder with all its files.
    ///
    /// # Errors
    /// Returns an error if a session has it, or the file system refuses.
    pub(super) fn remove(&mut self, folder: &Path) -> Result<(), RunError> {
        let _lease = self.take(folder)?;
        fs::remove_dir_all(folder).map_err(RunError::io("cannot delete", folder))?;
        self.known.remove(folder);
        Ok(())
    }

    /// The folder of a run: a folder in the runs folder, not a link, that contains a run's files.
    pub(super) fn run(&self, name: &str) -> Result<PathBuf, RunError> {
        check_name(name)?;
        let folder = self.folder.join(name);
        let real = fs::symlink_metadata(&folder).is_ok_and(|m| m.is_dir());
        let is_run = [METRICS, CONFIG].iter().any(|f| folder.join(f).is_file());
        if real && is_run {
            Ok(folder)
        } else {
            Err(RunError::Absent(name.into()))
        }
    }
}

/// Summarises the metrics of the run in `folder`. None if the path has no file name.
fn read(folder: &Path, metrics: &Path) -> Option<RunSummary> {
    let name = folder.file_name()?.to_string_lossy().into_owned();
    let mut summary = RunSummary::unread(name, folder.display().to_string());
    match read_into(&mut summary, metrics) {
        Ok(0) => {}
        Ok(too_long) => {
            summary.problem = format!(
                "lines of its metrics passed over because they are longer than {} MiB: {too_long}",
                MAX_LINE >> 20
            );
        }
        Err(error) => {
            summary.outcome = "unreadable".into();
            summary.problem = format!("its metrics cannot be read: {error}");
        }
    }
    let defaults = Hyperparameters::default();
    summary.differs = HYPERPARAMS
        .iter()
        .filter(|row| row.get(&summary.params) != row.get(&defaults))
        .map(|row| (row.key.to_owned(), row.show(&row.get(&summary.params))))
        .collect();
    Some(summary)
}

/// Bytes of the files in these folders; a file with two names counts once.
fn disk_space(folders: &[&Path]) -> u64 {
    let files = folders
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok());
    let files = files.flat_map(|files| files.flatten().filter_map(|f| f.metadata().ok()));
    let mut seen = HashSet::new();
    files
        .filter(|file| file.is_file() && identity(file).is_none_or(|id| seen.insert(id)))
        .map(|file| file.len())
        .sum()
}

/// The device and inode of a file, which all its names share. None on systems without inodes.
fn identity(file: &fs::Metadata) -> Option<(u64, u64)> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        Some((file.dev(), file.ino()))
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        None
    }
}

/// Reads a run's metrics line by line. Parses only the last of the step reports, for the number of steps. Returns the
/// number of lines that were too long to be read.
fn read_into(summary: &mut RunSummary, metrics: &Path) -> io::Result<u64> {
    let mut lines = Lines::new(BufReader::new(files::open(metrics)?));
    let mut view = RunView::default();
    let mut last_steps = Vec::new();
    while let Some(line) = lines.next()? {
        if line.starts_with(br#"{"event":"steps""#) {
            last_steps.clear();
            last_steps.extend_from_slice(line);
            // The run had ended and trains again.
            if view.state != State::Running {
                view.state = State::Running;
            }
            continue;
        }
        match protocol::read_recorded(line) {
            Ok(event) => {
                view.recorded(&event);
            }
            Err(error @ MessageError::Version { .. }) => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            Err(MessageError::Content { .. }) => {}
        }
    }
    let last = view.epochs.last();
    if let Some(epoch) = last {
        summary.step = epoch.step;
        summary.elapsed = epoch.elapsed;
        summary.epochs_done = epoch.epoch;
        summary.final_val_accuracy = (epoch.split == Split::Validation).then_some(epoch.accuracy);
    }
    if let Ok(Event::Steps(steps)) = protocol::read_recorded(&last_steps)
        && steps.last > summary.step
    {
        summary.step = steps.last;
        summary.elapsed = steps.elapsed;
    }
    summary.outcome = match view.state {
        State::Done => "done",
        State::Stopped => "stopped",
        State::Diverged { .. } => "diverged",
        State::Failed { .. } => "failed",
        _ => "interrupted",
    }
    .into();
    summary.best_val_accuracy = view.best.map(|best| best.accuracy);
    summary.best_epoch = view.best.map(|best| best.epoch);
    summary.reached = view.reached();
    // Ignore scores of earlier weights.
    let last_step = last.map_or(0, |epoch| epoch.step);
    let test = view.test.filter(|test| test.step >= last_step);
    summary.test_accuracy = test.map(|test| test.accuracy);
    summary.test_tta = test.map_or(Tta::None, |test| test.tta);
    summary.average_test_accuracy = view.average(Split::Test).map(|test| test.accuracy);
    summary.best_test_accuracy = view.test_of_current_best().map(|best| best.accuracy);
    if let Some(run) = view.run {
        // A fork's metrics begin with those of its parent.
        summary.started = run.started;
        summary.origin = run.origin;
        summary.data = run.data.name;
    }
    summary.params = view.params;
    summary.epochs = view.epochs;
    Ok(lines.too_long)
}

#[cfg(test)]
mod tests {
    use super::super::run_dir::{HostId, RunDir};
    use super::*;
    use crate::domain::params::{Change, Value};
    use crate::domain::report::{EpochReport, Evaluation, ScoredWeights};

    fn epoch(number: u32, accuracy: f64, best: bool) -> Event {
        Event::Epoch(EpochReport {
            epoch: number,
            step: u64::from(number) * 10,
            train_loss: 1.0,
            train_accuracy: 0.5,
            loss: 1.0,
            split: Split::Validation,
            accuracy,
            test_accuracy: None,
            average: None,
            best,
            images_per_s: 1.0,
            elapsed: f64::from(number),
            position: f64::from(number),
            reached: None,
            tta: Default::default(),
        })
    }

    fn owner() -> Owner {
        Owner::new(HostId::this())
    }

    fn runs_with(name: &str, events: &[Event]) -> (tempfile::TempDir, RunsFolder) {
        let folder = tempfile::tempdir().unwrap();
        let mut run = RunDir::create(
            folder.path(),
            Some(name),
            &Hyperparameters::default(),
            &owner(),
        )
        .unwrap();
        events.iter().for_each(|e| run.event(e).unwrap());
        run.flush().unwrap();
        let runs = RunsFolder::new(folder.path(), owner());
        (folder, runs)
    }

    #[test]
    fn a_summary_says_what_the_metrics_say() {
        let change = Event::Applied {
            change: Change {
                key: "learning_rate".into(),
                old: Value::Float(1e-3),
                new: Value::Float(5e-4),
            },
            step: 3,
            epoch: 1,
        };
        let events = [
            change,
            epoch(1, 0.4, true),
            epoch(2, 0.6, true),
            epoch(3, 0.5, false),
            Event::State(State::Done),
        ];
        let (_folder, mut runs) = runs_with("a", &events);
        let list = runs.list().unwrap();
        let a = &list[0];
        assert_eq!((a.name.as_str(), a.outcome.as_str()), ("a", "done"));
        assert_eq!((a.epochs_done, a.step, a.epochs.len()), (3, 30, 3));
        assert_eq!((a.best_val_accuracy, a.best_epoch), (Some(0.6), Some(2)));
        assert_eq!(a.final_val_accuracy, Some(0.5));
        assert_eq!(a.differs, [("learning_rate".into(), "0.0005".into())]);
        assert_eq!(runs.list().unwrap(), list, "also when it is remembered");
    }

    #[test]
    fn how_a_run_stands_is_how_it_ended_and_whether_a_session_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut runs = RunsFolder::new(folder.path(), owner());
        let mut run = RunDir::create(
            folder.path(),
            Some("a"),
            &Hyperparameters::default(),
            &owner(),
        )
        .unwrap();
        let mut status = |event: &Event, run: &mut RunDir| {
            run.event(event).unwrap();
            runs.list().unwrap()[0].status()
        };
        assert_eq!(status(&epoch(1, 0.4, true), &mut run), "running");
        assert_eq!(status(&Event::State(State::Done), &mut run), "done, open");
        let steps = r#"{"event":"steps","first":1,"last":2,"epoch":2,"step_in_epoch":2,"steps_per_epoch":9,"images":2,
            "loss":1,"loss_min":1,"loss_max":1,"correct":1,"grad_norm":1,"learning_rate":1,"images_per_s":1,"elapsed":1,
            "eta":null}"#;
        let steps = serde_json::from_str(steps).unwrap();
        assert_eq!(status(&steps, &mut run), "running", "it trains again");
        drop(run);
        assert_eq!(runs.list().unwrap()[0].status(), "interrupted");
    }

    #[test]
    fn a_test_score_counts_while_the_run_has_not_left_its_weights_behind() {
        let test = |weights, step, accuracy| {
            Event::Evaluation(Evaluation {
                split: Split::Test,
                weights,
                tta: Default::default(),
                step,
                epoch: 1,
                loss: 1.0,
                accuracy,
                confusion: Default::default(),
                images_per_s: 1.0,
            })
        };
        let mut events = vec![
            epoch(1, 0.6, true),
            epoch(2, 0.5, false),
            test(ScoredWeights::Last, 20, 0.45),
            test(ScoredWeights::Best, 10, 0.55),
        ];
        let (_folder, mut runs) = runs_with("a", &events);
        let done = &runs.list().unwrap()[0];
        assert_eq!(done.test_accuracy, Some(0.45));
        assert_eq!(done.best_test_accuracy, Some(0.55));
        // After more epochs the last weights have changed; the best stay the same until an epoch is better.
        events.push(epoch(3, 0.5, false));
        let (_folder, mut runs) = runs_with("a", &events);
        let more = &runs.list().unwrap()[0];
        assert_eq!(
            (more.test_accuracy, more.best_test_accuracy),
            (None, Some(0.55))
        );
        events.push(epoch(4, 0.7, true));
        let (_folder, mut runs) = runs_with("a", &events);
        assert_eq!(runs.list().unwrap()[0].best_test_accuracy, None);
    }

    #[test]
    fn runs_are_renamed_noted_and_deleted_but_not_those_in_use() {
        let (folder, mut runs) = runs_with("a", &[epoch(1, 0.4, true)]);
        let (in_use, name) = (folder.path().join("b"), "b");
        let open = RunDir::create(
            folder.path(),
            Some(name),
            &Hyperparameters::default(),
            &owner(),
        )
        .unwrap();
        assert!(in_use.is_dir());
        for refused in [
            runs.rename("b", "c"),
            runs.delete("b"),
            runs.note("b", "another's", None),
        ] {
            assert!(matches!(refused.unwrap_err(), RunError::InUse(_)));
        }
        runs.note("b", "mine", Some(open.files())).unwrap();
        runs.note("a", "a note\n", None).unwrap();
        runs.rename("a", "new").unwrap();
        let list = runs.list().unwrap();
        let new = list.iter().find(|r| r.name == "new").unwrap();
        assert_eq!(new.note, "a note");
        assert!(matches!(
            runs.rename("new", "b").unwrap_err(),
            RunError::Exists(_)
        ));
        for bad in ["..", "new/../b", ""] {
            assert!(runs.delete(bad).is_err() && runs.rename("new", bad).is_err());
        }
        assert!(matches!(runs.delete("a").unwrap_err(), RunError::Absent(_)));
        runs.delete("new").unwrap();
        drop(open);
        assert!(!folder.path().join("new").exists());
    }

    #[test]
    fn metrics_and_messages_are_the_fuzz_targets_seeds() {
        use super::super::protocol::{Command, CommandMessage, EventMessage, Filter, Question};
        use crate::domain::mutate::is_seed;
        let events = [epoch(1, 0.4, true), Event::State(State::Done)];
        let (folder, _) = runs_with("a", &events);
        is_seed(
            "metrics",
            "run",
            &fs::read(folder.path().join("a").join(METRICS)).unwrap(),
        );
        let filter = Filter::Class { class: 3 };
        let question = Question::Samples {
            filter,
            offset: 1,
            count: 2,
        };
        let command = CommandMessage::new(
            1,
            Command::Ask {
                question,
                epoch: None,
            },
        );
        is_seed("protocol", "command", &protocol::line(&command).unwrap());
        let snapshot = Event::Snapshot {
            events: events.into(),
        };
        let snapshot = EventMessage::new(None, snapshot);
        is_seed("protocol", "event", &protocol::line(&snapshot).unwrap());
    }

    #[test]
    fn mutated_metrics_never_panic_and_stay_a_run() {
        use crate::domain::mutate::mutated;
        let events = [
            epoch(1, 0.4, true),
            epoch(2, 0.5, true),
            Event::State(State::Done),
        ];
        let (folder, mut runs) = runs_with("a", &events);
        let path = folder.path().join("a").join(METRICS);
        let whole = fs::read(&path).unwrap();
        let mut lost = 0;
        for number in 0..300 {
            fs::write(&path, mutated(&whole, number)).unwrap();
            // Clear the cache: its key is the file's time and length, which two mutations may share.
            runs.known.clear();
            let list = runs.list().unwrap();
            assert_eq!(list.len(), 1);
            lost += usize::from(list[0].epochs.len() < 2);
        }
        assert!(lost > 30, "{lost} mutations cost an epoch");
    }

    #[test]
    fn a_run_whose_metrics_cannot_be_read_says_why() {
        let (folder, mut runs) = runs_with("long", &[epoch(1, 0.4, true)]);
        let path = folder.path().join("long").join(METRICS);
        let mut metrics = fs::read(&path).unwrap();
        let mut next = serde_json::to_vec(&epoch(2, 0.5, true)).unwrap();
        next.push(b'\n');
        let line = [vec![b' '; 3 << 20], b"\n".into(), next].concat();
        metrics.extend(line);
        fs::write(&path, metrics).unwrap();
        fs::create_dir(folder.path().join("fifo")).unwrap();
        crate::files::tests::make_fifo(&folder.path().join("fifo").join(METRICS));
        crate::files::tests::make_fifo(&folder.path().join("fifo").join(NOTE));
        let list = runs.list().unwrap();
        let of = |name: &str| list.iter().find(|run| run.name == name).unwrap();
        let (long, fifo) = (of("long"), of("fifo"));
        assert_eq!(long.epochs.len(), 2, "the lines around it are read");
        assert!(
            long.problem.ends_with("longer than 1 MiB: 1"),
            "{}",
            long.problem
        );
        assert_eq!(fifo.outcome, "unreadable");
        assert!(fifo.problem.contains("FIFO"), "{}", fifo.problem);
    }

    #[test]
    fn a_folder_that_is_no_run_is_left_alone() {
        let (folder, mut runs) = runs_with("a", &[]);
        fs::create_dir(folder.path().join("photos")).unwrap();
        fs::write(folder.path().join("photos/cat.jpg"), "cat").unwrap();
        assert_eq!(runs.list().unwrap().len(), 1);
        assert!(runs.delete("photos").is_err());
        assert!(folder.path().join("photos/cat.jpg").exists());
        assert!(
            RunsFolder::new(&folder.path().join("gone"), owner())
                .list()
                .unwrap()
                .is_empty()
        );
    }
}
