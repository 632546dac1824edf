//! A run's folder: its name, its lock, config.toml, metrics.jsonl, the TensorBoard file, pictures, and where the
//! checkpoints go. PRODUCT's list of files is this room's contract with everything outside.

use super::lines::Lines;
use super::protocol::Event;
use super::tfevents::EventFile;
use crate::domain::params::{Hyperparameters, PARAMS, Value};
use crate::domain::report::StepReport;
use crate::train::files::{self, Appender, write_atomically};
use crate::train::saver::{LAST, PREVIOUS};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

pub(super) const METRICS: &str = "metrics.jsonl";
pub(super) const CONFIG: &str = "config.toml";
pub(super) const NOTE: &str = "note.txt";
const LOCK: &str = "lock";
/// What the front end's log is called.
pub const LOG: &str = "log.txt";

/// Lines of training steps in the metrics of one run, about: a long run's file stays small.
const STEP_LINES: u64 = 2000;

/// What can go wrong with a run's folder.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{what} {}: {source}. Check the path, that you may write there and that there is room, or choose another folder with --runs.", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the run in {} is in use by another process. Attach to it, wait for it, or start a new run.", .0.display())]
    Locked(PathBuf),
    #[error("'{name}' cannot be a run's name: {why}. Use letters, digits, '-', '_' and '.'.")]
    Name { name: String, why: &'static str },
    #[error(
        "there is a run called '{0}' already. Choose another name, or resume that one with --resume {0}."
    )]
    Exists(String),
    #[error("there is no run called '{0}' here.")]
    Absent(String),
}

impl RunError {
    pub(super) fn io(
        what: &'static str,
        path: &Path,
    ) -> impl FnOnce(io::Error) -> RunError + use<> {
        let path = path.to_owned();
        move |source| RunError::Io { what, path, source }
    }
}

/// An open run, locked against other processes for as long as it lives.
pub struct RunDir {
    pub name: String,
    pub folder: PathBuf,
    metrics: Appender,
    metrics_bytes: u64,
    events: EventFile,
    /// Steps that make one line.
    stride: u64,
    unwritten: Option<StepReport>,
    _lock: File,
}

impl RunDir {
    /// Makes a new run's folder. Without a name, one is made up from `preset` and the time.
    ///
    /// # Errors
    /// When the name is taken or is no plain folder name; those of the file system.
    pub fn create(
        runs: &Path,
        name: Option<&str>,
        params: &Hyperparameters,
    ) -> Result<Self, RunError> {
        fs::create_dir_all(runs).map_err(RunError::io("cannot make the runs folder", runs))?;
        let make = |name: &str| fs::create_dir(runs.join(name));
        let failed = |name: &str| RunError::io("cannot make the run's folder", &runs.join(name));
        let name = match name {
            Some(name) => {
                check_name(name)?;
                make(name).map_err(|error| match error.kind() {
                    io::ErrorKind::AlreadyExists => RunError::Exists(name.into()),
                    _ => failed(name)(error),
                })?;
                name.to_owned()
            }
            None => {
                let stem = made_up_name(params, local_time());
                let mut number = 1;
                loop {
                    let name = match number {
                        1 => stem.clone(),
                        n => format!("{stem}-{n}"),
                    };
                    match make(&name) {
                        Ok(()) => break name,
                        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                        Err(error) => return Err(failed(&name)(error)),
                    }
                }
            }
        };
        let folder = runs.join(&name);
        let lock = lock(&folder)?;
        write_config(&folder, params)?;
        Self::open(name, folder, lock, 0, 1, None)
    }

    /// Opens an existing run to go on after `step`, and cuts its metrics back to their first `metrics_bytes`. The steps
    /// that had not become a line there are `unwritten`. True when the metrics were as long as they should be.
    ///
    /// # Errors
    /// When another process has it; those of the file system.
    pub fn resume(
        folder: &Path,
        params: &Hyperparameters,
        step: u64,
        metrics_bytes: u64,
        unwritten: Option<StepReport>,
    ) -> Result<(Self, bool), RunError> {
        let name = folder
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        let lock = lock(folder)?;
        files::sweep(folder).map_err(RunError::io("cannot tidy", folder))?;
        write_config(folder, params)?;
        let path = folder.join(METRICS);
        let length = fs::metadata(&path).map_or(0, |m| m.len());
        let whole = length >= metrics_bytes;
        let keep = if whole {
            metrics_bytes
        } else {
            whole_lines(&path).map_err(RunError::io("cannot read", &path))?
        };
        let run = Self::open(name, folder.to_owned(), lock, keep, step + 1, unwritten)?;
        Ok((run, whole))
    }

    fn open(
        name: String,
        folder: PathBuf,
        lock: File,
        keep: u64,
        next_step: u64,
        unwritten: Option<StepReport>,
    ) -> Result<Self, RunError> {
        super::log::open(&folder).map_err(RunError::io("cannot write the log in", &folder))?;
        let path = folder.join(METRICS);
        let metrics = (|| {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)?;
            let mut metrics = Appender::new(file, path.clone());
            metrics.cut(keep)?;
            Ok(metrics)
        })()
        .map_err(RunError::io("cannot write", &path))?;
        let events = EventFile::create(&folder, now(), next_step)
            .map_err(RunError::io("cannot write an event file in", &folder))?;
        Ok(RunDir {
            name,
            folder,
            metrics,
            metrics_bytes: keep,
            events,
            stride: 1,
            unwritten,
            _lock: lock,
        })
    }

    /// Bytes of metrics.jsonl so far, and the steps that wait for their line: what a checkpoint must remember.
    pub fn position(&self) -> (u64, Option<StepReport>) {
        (self.metrics_bytes, self.unwritten.clone())
    }

    /// The metrics file, to be synced before a checkpoint counts on it; all lines so far are handed to the system.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn metrics_file(&mut self) -> io::Result<File> {
        self.metrics.flush()?;
        self.metrics.handle()
    }

    /// How long the run is, which decides how many steps share a line.
    pub fn set_length(&mut self, steps: u64) {
        self.stride = steps.div_ceil(STEP_LINES).max(1);
    }

    /// Adds one training step. Lines end at multiples of the stride, so they do not depend on time.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn step(&mut self, report: &StepReport) -> io::Result<()> {
        let waiting = match self.unwritten.take() {
            Some(mut waiting) => {
                waiting.extend(report);
                waiting
            }
            None => report.clone(),
        };
        let epoch_over = waiting.step_in_epoch == waiting.steps_per_epoch;
        if !waiting.last.is_multiple_of(self.stride) && !epoch_over {
            self.unwritten = Some(waiting);
            return Ok(());
        }
        let images = waiting.images.max(1) as f64;
        let scalars = [
            ("loss/train", waiting.loss),
            ("accuracy/train", waiting.correct as f64 / images),
            ("learning_rate", waiting.learning_rate),
            ("grad_norm", waiting.grad_norm),
            ("images_per_s", waiting.images_per_s),
        ];
        let last = waiting.last;
        self.line(&Event::Steps(waiting))?;
        self.events.scalars(now(), last, &scalars)
    }

    /// Adds an event that is not a training step.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        match event {
            Event::Epoch(epoch) => {
                let mut scalars = vec![
                    ("loss/validation", epoch.val_loss),
                    ("accuracy/validation", epoch.val_accuracy),
                ];
                scalars.extend(epoch.test_accuracy.map(|a| ("accuracy/test", a)));
                self.line(event)?;
                self.events.scalars(now(), epoch.step, &scalars)?;
                self.flush()
            }
            _ => {
                self.line(event)?;
                self.flush()
            }
        }
    }

    /// Whether nothing waits to be written.
    pub fn is_flushed(&self) -> bool {
        self.metrics.is_flushed()
    }

    /// Hands everything written to the system.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn flush(&mut self) -> io::Result<()> {
        self.metrics.flush()?;
        self.events.flush()
    }

    /// Writes a picture, all at once.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn picture(&self, name: &str, png: &[u8]) -> io::Result<()> {
        write_atomically(&self.folder.join(name), png)
    }

    fn line(&mut self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        // It counts even when it has to wait for room.
        self.metrics_bytes += line.len() as u64;
        self.metrics.add(&line)
    }

    /// Makes the checkpoint in `file`, from which the run goes on, its last and its previous one: what is newer is void
    /// now, and a damaged one must not take the place of the one before.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn adopt(&self, file: &Path) -> Result<(), RunError> {
        let [last, previous] = [LAST, PREVIOUS].map(|name| self.folder.join(name));
        if file == last {
            return Ok(());
        }
        (|| {
            if file != previous {
                files::keep_as(file, &previous)?;
            }
            files::keep_as(file, &last)
        })()
        .map_err(RunError::io("cannot write", &last))
    }

    /// Cuts the metrics back to a checkpoint: their first `bytes`, and the steps that had not become a line.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn cut_back(
        &mut self,
        step: u64,
        bytes: u64,
        unwritten: Option<StepReport>,
    ) -> io::Result<()> {
        self.flush()?;
        self.metrics.cut(bytes)?;
        self.metrics_bytes = bytes;
        self.unwritten = unwritten;
        self.events = EventFile::create(&self.folder, now(), step + 1)?;
        Ok(())
    }
}

/// The events of a run's metrics, in order, up to `bytes`, and how many lines were too long to be read; lines that are no
/// event are left out.
///
/// # Errors
/// Those of the file system; when the metrics are no regular file.
pub fn read_metrics(folder: &Path, bytes: u64) -> io::Result<(Vec<Event>, u64)> {
    let file = crate::files::open(&folder.join(METRICS))?.take(bytes);
    let mut lines = Lines::new(BufReader::new(file));
    let mut events = Vec::new();
    while let Some(line) = lines.next()? {
        events.extend(serde_json::from_slice::<Event>(line).ok());
    }
    Ok((events, lines.too_long))
}

/// Takes the run's lock: it is the operating system's, so it goes when the process goes, however it ends.
pub(super) fn lock(folder: &Path) -> Result<File, RunError> {
    let path = folder.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(RunError::io("cannot open the lock", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(RunError::Locked(folder.into())),
        Err(TryLockError::Error(source)) => Err(RunError::Io {
            what: "cannot lock",
            path,
            source,
        }),
    }
}

/// Whether some process has the run. A run that cannot be asked counts as not in use.
pub(super) fn is_locked(folder: &Path) -> bool {
    File::open(folder.join(LOCK))
        .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// A name must be a plain folder name, so that no path leads out of the runs folder.
pub(super) fn check_name(name: &str) -> Result<(), RunError> {
    let wrong = |why| {
        Err(RunError::Name {
            name: name.into(),
            why,
        })
    };
    if name.is_empty() {
        return wrong("it is empty");
    }
    if name.len() > 100 {
        return wrong("it is longer than 100 bytes");
    }
    if name.starts_with(['.', '-']) {
        return wrong("it begins with '.' or '-'");
    }
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.chars().all(plain) {
        return wrong("it holds another character than a letter, a digit, '-', '_' or '.'");
    }
    Ok(())
}

/// config.toml as the program reads it: every hyperparameter with its help.
fn write_config(folder: &Path, params: &Hyperparameters) -> Result<(), RunError> {
    let mut text = String::from("# The hyperparameters at the run's start.\n");
    for row in PARAMS {
        let value: toml_edit::Value = match row.get(params) {
            Value::Bool(v) => v.into(),
            Value::Int(v) => i64::try_from(v).unwrap_or(i64::MAX).into(),
            Value::Float(v) => v.into(),
            Value::Text(v) => v.into(),
        };
        text += &format!("\n# {}\n{} = {value}\n", row.help, row.key);
    }
    let path = folder.join(CONFIG);
    write_atomically(&path, text.as_bytes()).map_err(RunError::io("cannot write", &path))
}

/// The length of the file up to its last line break.
fn whole_lines(path: &Path) -> io::Result<u64> {
    let mut length = 0;
    let mut seen = 0;
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        file => {
            for byte in BufReader::new(file?).bytes() {
                seen += 1;
                if byte? == b'\n' {
                    length = seen;
                }
            }
        }
    }
    Ok(length)
}

/// Seconds since the Unix epoch.
pub(super) fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64())
}

/// Month, day, hour, minute.
type Time = [u32; 4];

#[cfg(unix)]
fn local_time() -> Time {
    let seconds = now() as libc::time_t;
    // SAFETY: both pointers are to values on this stack; `tm` is plain numbers and a pointer that may be null.
    let tm = unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        libc::localtime_r(&seconds, &mut tm);
        tm
    };
    [tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min].map(|n| n.unsigned_abs())
}

/// Elsewhere than on Unix the name only has to be unique: day and minute since the Unix epoch.
#[cfg(not(unix))]
fn local_time() -> Time {
    let minutes = now() as u64 / 60;
    let days = (minutes / 1440) as u32;
    [
        days / 100,
        days % 100,
        (minutes / 60 % 24) as u32,
        (minutes % 60) as u32,
    ]
}

/// `seed-1123-0412`: the preset (or `custom`), the day and the time.
fn made_up_name(params: &Hyperparameters, [month, day, hour, minute]: Time) -> String {
    let stem = params.architecture.to_ascii_lowercase();
    let stem = if check_name(&stem).is_ok() && stem.len() <= 20 {
        stem
    } else {
        "custom".into()
    };
    format!("{stem}-{month:02}{day:02}-{hour:02}{minute:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(step: u64) -> StepReport {
        StepReport {
            first: step,
            last: step,
            epoch: 1,
            step_in_epoch: step,
            steps_per_epoch: 5000,
            images: 32,
            loss: 1.0 / step as f64,
            loss_min: 1.0 / step as f64,
            loss_max: 1.0 / step as f64,
            correct: 3,
            grad_norm: 1.0,
            learning_rate: 0.001,
            images_per_s: 100.0,
            elapsed: step as f64,
            eta: None,
        }
    }

    fn ranges(folder: &Path) -> Vec<(u64, u64)> {
        let (events, _) = read_metrics(folder, u64::MAX).unwrap();
        let range = |event| match event {
            Event::Steps(s) => Some((s.first, s.last)),
            _ => None,
        };
        events.into_iter().filter_map(range).collect()
    }

    #[test]
    fn names_are_made_up_unique_and_plain() {
        let runs = tempfile::tempdir().unwrap();
        let params = Hyperparameters::default();
        assert_eq!(made_up_name(&params, [11, 23, 4, 12]), "seed-1123-0412");
        let custom = Hyperparameters {
            architecture: "dense 10".into(),
            ..params.clone()
        };
        assert_eq!(made_up_name(&custom, [1, 2, 3, 4]), "custom-0102-0304");
        let a = RunDir::create(runs.path(), None, &params).unwrap();
        let b = RunDir::create(runs.path(), None, &params).unwrap();
        assert_ne!(a.name, b.name);
        for bad in [
            "",
            "..",
            ".x",
            "a/b",
            "a\\b",
            "-r",
            "a\nb",
            &"x".repeat(101),
        ] {
            let error = RunDir::create(runs.path(), Some(bad), &params)
                .err()
                .unwrap();
            assert!(matches!(error, RunError::Name { .. }), "{bad}: {error}");
        }
        let error = RunDir::create(runs.path(), Some(&a.name), &params);
        assert!(matches!(error.err().unwrap(), RunError::Exists(_)));
    }

    #[test]
    fn a_run_is_one_process_s() {
        let runs = tempfile::tempdir().unwrap();
        let params = Hyperparameters::default();
        let run = RunDir::create(runs.path(), Some("one"), &params).unwrap();
        let folder = run.folder.clone();
        assert!(is_locked(&folder));
        let second = RunDir::resume(&folder, &params, 0, 0, None);
        assert!(matches!(second.err().unwrap(), RunError::Locked(_)));
        drop(run);
        assert!(!is_locked(&folder));
        assert!(RunDir::resume(&folder, &params, 0, 0, None).is_ok());
    }

    #[test]
    fn metrics_are_thinned_and_cut_back_without_gap_or_duplicate() {
        let runs = tempfile::tempdir().unwrap();
        let params = Hyperparameters::default();
        let mut run = RunDir::create(runs.path(), Some("one"), &params).unwrap();
        run.set_length(3 * STEP_LINES);
        let folder = run.folder.clone();
        for step in 1..=10 {
            run.step(&report(step)).unwrap();
        }
        let (bytes, unwritten) = run.position();
        assert_eq!(unwritten.as_ref().unwrap().last, 10);
        for step in 11..=20 {
            run.step(&report(step)).unwrap();
        }
        run.flush().unwrap();
        let unbroken = ranges(&folder);
        assert_eq!(unbroken[..4], [(1, 3), (4, 6), (7, 9), (10, 12)]);
        drop(run);
        let (mut run, whole) = RunDir::resume(&folder, &params, 10, bytes, unwritten).unwrap();
        assert!(whole);
        run.set_length(3 * STEP_LINES);
        for step in 11..=20 {
            run.step(&report(step)).unwrap();
        }
        run.flush().unwrap();
        assert_eq!(ranges(&folder), unbroken);
        drop(run);
        // A file that lost its end in a crash is kept up to its last whole line.
        let path = folder.join(METRICS);
        let text = fs::read(&path).unwrap();
        fs::write(&path, &text[..text.len() - 5]).unwrap();
        let (run, whole) = RunDir::resume(&folder, &params, 20, text.len() as u64, None).unwrap();
        assert!(!whole);
        drop(run);
        assert_eq!(ranges(&folder), unbroken[..unbroken.len() - 1]);
    }

    #[test]
    fn the_config_holds_every_hyperparameter() {
        let runs = tempfile::tempdir().unwrap();
        let params = Hyperparameters {
            architecture: "conv 8, relu, dense 10".into(),
            weight_decay: 1e-7,
            ..Hyperparameters::default()
        };
        let run = RunDir::create(runs.path(), None, &params).unwrap();
        let text = fs::read_to_string(run.folder.join(CONFIG)).unwrap();
        let table: toml_edit::DocumentMut = text.parse().unwrap();
        for row in PARAMS {
            let item = table[row.key].as_value().unwrap();
            let text = match item {
                toml_edit::Value::String(s) => s.value().clone(),
                other => other.to_string().trim().to_owned(),
            };
            assert_eq!(row.parse(&text).unwrap(), row.get(&params), "{}", row.key);
        }
    }
}
