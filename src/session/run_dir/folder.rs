//! An open run: writes its metrics, its TensorBoard file and its pictures, and records which checkpoint is its last.
//! Every write needs the permit of the run's lease.

use super::lease::{Lease, Watch};
use super::name::{generated_name, local_time, make_folder};
use super::{LOG, Lost, METRICS, Owner, RunError, config, now};
use crate::domain::params::Hyperparameters;
use crate::domain::report::{Split, StepReport};
use crate::session::lines::Lines;
use crate::session::log::RunLog;
use crate::session::protocol::{self, Event, MessageError, resolved_past};
use crate::session::tfevents::EventFile;
use crate::train::files::{Appender, Folder};
use crate::train::kept::{self, KEPT};
use crate::train::saver;
use crossbeam_channel::Receiver;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::time::Instant;

/// Approximate number of lines of training steps in a run's metrics, which limits the size of a long run's file.
const STEP_LINES: u64 = 2000;

/// The part of another run's metrics that a fork begins with.
pub struct Past<'a> {
    /// The other run's folder.
    pub folder: &'a Path,
    /// The number of steps done, the length of the metrics in bytes, and the steps that were not written as a line then.
    pub step: u64,
    pub bytes: u64,
    pub unwritten: Option<StepReport>,
}

/// An open run. No other session can have it while this value lives.
pub struct RunDir {
    pub name: String,
    files: Folder,
    metrics: Appender,
    metrics_bytes: u64,
    events: EventFile,
    steps: StepLines,
    /// The events of the variant of a comparison, which are written if its change is kept.
    variant: Option<VariantEvents>,
    log: RunLog,
    /// Dropped last, so that the other fields can still write.
    lease: Lease,
}

/// Joins training steps to lines. Lines end at multiples of the stride and at the end of an epoch, so they do not depend
/// on time.
#[derive(Clone)]
struct StepLines {
    /// Number of steps per line.
    stride: u64,
    unwritten: Option<StepReport>,
}

impl StepLines {
    /// Adds a step. Returns the line that it completes.
    fn add(&mut self, report: &StepReport) -> Option<StepReport> {
        let line = match self.unwritten.take() {
            Some(mut line) => {
                line.extend(report);
                line
            }
            None => report.clone(),
        };
        let epoch_over = line.step_in_epoch == line.steps_per_epoch;
        if line.last.is_multiple_of(self.stride) || epoch_over {
            return Some(line);
        }
        self.unwritten = Some(line);
        None
    }
}

struct VariantEvents {
    events: Vec<Event>,
    steps: StepLines,
    first_step: u64,
}

impl RunDir {
    /// Creates the folder of a new run. Without a name, one is generated from `preset` and the time.
    ///
    /// # Errors
    /// Returns an error if the name is taken or is not a plain folder name, or a file operation fails.
    pub fn create(
        runs: &Path,
        name: Option<&str>,
        params: &Hyperparameters,
        owner: &Owner,
    ) -> Result<Self, RunError> {
        let (name, lease) = new_folder(runs, name, params, owner)?;
        let folder = runs.join(&name);
        Self::open(name, &folder, lease, params, 0, 1, None)
    }

    /// Creates the folder of a new run whose metrics begin with those of another run, up to `past`. Also returns false if
    /// the other run's metrics were shorter than that.
    ///
    /// # Errors
    /// Returns the errors of [`RunDir::create`], and an error if the other run's metrics cannot be read.
    pub fn fork(
        runs: &Path,
        name: Option<&str>,
        params: &Hyperparameters,
        owner: &Owner,
        past: Past,
    ) -> Result<(Self, bool), RunError> {
        let theirs = past.folder.join(METRICS);
        let read = || {
            let mut lines = Vec::new();
            let file = crate::files::open(&theirs)?;
            file.take(past.bytes).read_to_end(&mut lines)?;
            Ok(lines)
        };
        let mut lines = read().map_err(RunError::io("cannot read", &theirs))?;
        let whole = lines.len() as u64 == past.bytes;
        if !whole {
            let end = lines.iter().rposition(|byte| *byte == b'\n');
            lines.truncate(end.map_or(0, |end| end + 1));
        }
        let (name, lease) = new_folder(runs, name, params, owner)?;
        let folder = runs.join(&name);
        let files = Folder::with_permit(&folder, lease.permit());
        files
            .write(METRICS, &lines)
            .map_err(RunError::io("cannot write", &folder.join(METRICS)))?;
        let keep = lines.len() as u64;
        let next = past.step + 1;
        let run = Self::open(name, &folder, lease, params, keep, next, past.unwritten)?;
        Ok((run, whole))
    }

    /// Opens an existing run, whose lease has been taken, to continue after `step`. Truncates its metrics to their
    /// first `metrics_bytes`; `unwritten` are the steps that were not written as a line then. Also returns false if the
    /// metrics were shorter than that.
    ///
    /// # Errors
    /// Returns an error if a file operation fails.
    pub fn resume(
        folder: &Path,
        lease: Lease,
        params: &Hyperparameters,
        step: u64,
        metrics_bytes: u64,
        unwritten: Option<StepReport>,
    ) -> Result<(Self, bool), RunError> {
        let name = folder
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        let path = folder.join(METRICS);
        let length = fs::metadata(&path).map_or(0, |m| m.len());
        let whole = length >= metrics_bytes;
        let keep = if whole {
            metrics_bytes
        } else {
            whole_lines(&path).map_err(RunError::io("cannot read", &path))?
        };
        let run = Self::open(name, folder, lease, params, keep, step + 1, unwritten)?;
        Ok((run, whole))
    }

    fn open(
        name: String,
        folder: &Path,
        lease: Lease,
        params: &Hyperparameters,
        keep: u64,
        next_step: u64,
        unwritten: Option<StepReport>,
    ) -> Result<Self, RunError> {
        let log = RunLog::open(folder).map_err(RunError::io("cannot write", &folder.join(LOG)))?;
        lease.log_to(&log);
        let files = Folder::with_permit(folder, lease.permit());
        files.sweep().map_err(RunError::io("cannot tidy", folder))?;
        kept::sweep(&files).map_err(RunError::io("cannot tidy", &folder.join(KEPT)))?;
        config::write(&files, params)?;
        let metrics = files
            .append_to(METRICS, keep)
            .map_err(RunError::io("cannot write", &folder.join(METRICS)))?;
        let events = EventFile::create(&files, now(), next_step)
            .map_err(RunError::io("cannot write an event file in", folder))?;
        Ok(RunDir {
            name,
            files,
            metrics,
            metrics_bytes: keep,
            events,
            steps: StepLines {
                stride: 1,
                unwritten,
            },
            variant: None,
            log,
            lease,
        })
    }

    pub fn folder(&self) -> &Path {
        self.files.path()
    }

    /// The id under which this session holds the run's lease.
    pub(in crate::session) fn owner_id(&self) -> &str {
        self.lease.owner_id()
    }

    /// The run's log.
    pub(in crate::session) fn log(&self) -> &RunLog {
        &self.log
    }

    /// The run's folder, for other code that writes files there.
    pub fn files(&self) -> &Folder {
        &self.files
    }

    /// The session that has the run, after this session has lost it.
    pub fn lost(&self) -> Option<&Lost> {
        self.lease.lost()
    }

    /// A channel that receives a token when this session loses the run.
    pub fn on_loss(&self) -> Receiver<()> {
        self.lease.on_loss()
    }

    /// Takes the warnings for the user about how the run was opened.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lease.warnings)
    }

    /// Size of metrics.jsonl in bytes, and the steps that are not written yet. A checkpoint records both.
    pub fn position(&self) -> (u64, Option<StepReport>) {
        (self.metrics_bytes, self.steps.unwritten.clone())
    }

    /// Flushes the metrics and returns their file. It must be synced before a checkpoint that records its size.
    ///
    /// # Errors
    /// Returns an error if a file operation fails.
    pub fn metrics_file(&mut self) -> io::Result<File> {
        self.metrics.flush()?;
        self.metrics.handle()
    }

    /// Sets the length of the run, which determines the number of steps per line.
    pub fn set_length(&mut self, steps: u64) {
        self.steps.stride = steps.div_ceil(STEP_LINES).max(1);
        if let Some(variant) = &mut self.variant {
            variant.steps.stride = self.steps.stride;
        }
    }

    /// Adds one training step.
    ///
    /// # Errors
    /// Returns an error if a file operation fails.
    pub fn step(&mut self, report: &StepReport) -> io::Result<()> {
        match self.steps.add(report) {
            Some(line) => self.add(&Event::Steps(line)),
            None => Ok(()),
        }
    }

    /// Begins to collect the events of a comparison's variant, whose first step is `first_step`.
    pub fn begin_variant(&mut self, first_step: u64) {
        self.variant = Some(VariantEvents {
            events: Vec::new(),
            steps: self.steps.clone(),
            first_step,
        });
    }

    /// Adds one training step of the variant.
    pub fn variant_step(&mut self, report: &StepReport) {
        if let Some(variant) = &mut self.variant {
            let line = variant.steps.add(report);
            variant.events.extend(line.map(Event::Steps));
        }
    }

    /// Adds another event of the variant.
    pub fn variant_event(&mut self, event: &Event) {
        if let Some(variant) = &mut self.variant {
            variant.events.push(event.clone());
        }
    }

    /// Ends the comparison with `over`, which says whether the change was kept. If it was, the variant's events become the
    /// run's. Returns the length of the metrics in bytes after the report of the epoch that ended with step `best`, if it
    /// is among them.
    ///
    /// # Errors
    /// Returns an error if a file operation fails.
    pub fn end_variant(&mut self, over: &Event, best: Option<u64>) -> io::Result<Option<u64>> {
        let variant = self.variant.take();
        let kept = matches!(over, Event::ComparisonOver { kept: true, .. });
        let mut written = self.line(over);
        let mut after_best = None;
        if let Some(variant) = variant.filter(|_| kept) {
            // All lines are queued, also if a file operation fails.
            for event in &variant.events {
                written = written.and(self.line(event));
                if matches!(event, Event::Epoch(e) if Some(e.step) == best) {
                    after_best = Some(self.metrics_bytes);
                }
            }
            self.steps = variant.steps;
            written?;
            self.events = EventFile::create(&self.files, now(), variant.first_step)?;
            for event in &variant.events {
                self.scalars(event)?;
            }
        } else {
            written?;
        }
        self.flush()?;
        Ok(after_best)
    }

    /// Adds an event that is not a training step.
    ///
    /// # Errors
    /// Returns an error if a file operation fails.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        self.add(event)?;
        self.flush()
    }

    fn add(&mut self, event: &Event) -> io::Result<()> {
        self.line(event)?;
        self.scalars(event)
    }

    /// Writes the figures of an event for TensorBoard.
    fn scalars(&mut self, event: &Event) -> io::Result<()> {
        let (step, scalars) = match event {
            Event::Steps(line) => {
                let images = line.images.max(1) as f64;
                let scalars = vec![
                    ("loss/train", line.loss),
                    ("accuracy/train", line.correct as f64 / images),
                    ("learning_rate", line.learning_rate),
                    ("grad_norm", line.grad_norm),
                    ("images_per_s", line.images_per_s),
                ];
                (line.last, scalars)
            }
            Event::Epoch(epoch) => {
                let mut scalars = match epoch.split {
                    Split::Test => vec![("loss/test", epoch.loss)],
                    _ => vec![
                        ("loss/validation", epoch.loss),
                        ("accuracy/validation", epoch.accuracy),
                    ],
                };
                scalars.extend(epoch.test_accuracy.map(|a| ("accuracy/test", a)));
                if let Some(average) = epoch.average {
                    scalars.extend([
                        ("loss/average", average.loss),
                        ("accuracy/average", average.accuracy),
                    ]);
                }
                (epoch.step, scalars)
            }
            _ => return Ok(()),
        };
        self.events.scalars(now(), step, &scalars)
    }

    /// Whether everything has been written.
    pub fn is_flushed(&self) -> bool {
        self.metrics.is_flushed()
    }

    /// Writes everything that is queued to the files.
    ///
    /// # Errors
    /// Returns an error if a file operation fails.
    pub fn flush(&mut self) -> io::Result<()> {
        self.metrics.flush()?;
        self.events.flush()
    }

    /// Writes a picture atomically.
    ///
    /// # Errors
    /// Returns an error if a file operation fails.
    pub fn picture(&self, name: &str, png: &[u8]) -> io::Result<()> {
        self.files.write(name, png)
    }

    fn line(&mut self, event: &Event) -> io::Result<()> {
        let line = protocol::recorded_line(event)?;
        // The line counts even if it is queued because the disk is full.
        self.metrics_bytes += line.len() as u64;
        self.metrics.add(&line)
    }

    /// Makes the checkpoint in `file`, from which the run is resumed, the run's last checkpoint; see [`saver::adopt`].
    ///
    /// # Errors
    /// Returns an error if a file operation fails.
    pub fn adopt(&self, file: &str, is_best: bool) -> Result<(), RunError> {
        saver::adopt(&self.files, file, is_best).map_err(RunError::io(
            "cannot write the checkpoints in",
            self.folder(),
        ))
    }

    /// Truncates the metrics to the state of a checkpoint: their first `bytes`, and the steps that were not written as
    /// a line then.
    ///
    /// # Errors
    /// Returns an error if a file operation fails.
    pub fn cut_back(
        &mut self,
        step: u64,
        bytes: u64,
        unwritten: Option<StepReport>,
    ) -> io::Result<()> {
        self.flush()?;
        self.metrics.cut(bytes)?;
        self.metrics_bytes = bytes;
        self.steps.unwritten = unwritten;
        self.variant = None;
        self.events = EventFile::create(&self.files, now(), step + 1)?;
        Ok(())
    }
}

/// Creates the folder of a new run and takes its lease. Also returns the run's name: without one, it is generated.
fn new_folder(
    runs: &Path,
    name: Option<&str>,
    params: &Hyperparameters,
    owner: &Owner,
) -> Result<(String, Lease), RunError> {
    let name = make_folder(runs, name, || generated_name(params, local_time()))?;
    let lease = Lease::take(
        &runs.join(&name),
        owner,
        &mut Watch::default(),
        Instant::now(),
    )?;
    Ok((name, lease))
}

/// Reads the events in the first `bytes` of a run's metrics, in order. Also returns the number of lines that were too
/// long to be read. Skips lines that are not events, and resolves comparisons.
///
/// # Errors
/// Returns an error if a file operation fails, the metrics are not a regular file, or a session of another version of
/// the protocol wrote them.
pub fn read_metrics(folder: &Path, bytes: u64) -> io::Result<(Vec<Event>, u64)> {
    let file = crate::files::open(&folder.join(METRICS))?.take(bytes);
    let (events, too_long) = read_lines(file)?;
    Ok((resolved_past(events), too_long))
}

/// Reads recorded events as [`read_metrics`] does, but leaves comparisons as they are.
pub(in crate::session) fn read_lines(source: impl Read) -> io::Result<(Vec<Event>, u64)> {
    let mut lines = Lines::new(BufReader::new(source));
    let mut events = Vec::new();
    while let Some(line) = lines.next()? {
        match protocol::read_recorded(line) {
            Ok(event) => events.push(event),
            Err(error @ MessageError::Version { .. }) => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            // A newer session may record events that this program does not know.
            Err(MessageError::Content { .. }) => {}
        }
    }
    Ok((events, lines.too_long))
}

/// The length of the file up to its last line break.
fn whole_lines(path: &Path) -> io::Result<u64> {
    let mut length = 0;
    let mut seen = 0;
    match crate::files::open(path) {
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

#[cfg(test)]
mod tests {
    use super::super::HostId;
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
    fn metrics_are_thinned_and_cut_back_without_gap_or_duplicate() {
        let runs = tempfile::tempdir().unwrap();
        let params = Hyperparameters::default();
        let owner = Owner::new(HostId::this());
        let mut run = RunDir::create(runs.path(), Some("one"), &params, &owner).unwrap();
        run.set_length(3 * STEP_LINES);
        let folder = run.folder().to_owned();
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
        let again = |step, bytes, unwritten| {
            let mut watch = Watch::default();
            let lease = Lease::take(&folder, &owner, &mut watch, Instant::now()).unwrap();
            RunDir::resume(&folder, lease, &params, step, bytes, unwritten).unwrap()
        };
        let (mut run, whole) = again(10, bytes, unwritten);
        assert!(whole);
        run.set_length(3 * STEP_LINES);
        for step in 11..=20 {
            run.step(&report(step)).unwrap();
        }
        run.flush().unwrap();
        assert_eq!(ranges(&folder), unbroken);
        drop(run);
        // A file that lost its end in a crash is kept up to its last complete line.
        let path = folder.join(METRICS);
        let text = fs::read(&path).unwrap();
        fs::write(&path, &text[..text.len() - 5]).unwrap();
        let (run, whole) = again(20, text.len() as u64, None);
        assert!(!whole);
        drop(run);
        assert_eq!(ranges(&folder), unbroken[..unbroken.len() - 1]);
    }
}
