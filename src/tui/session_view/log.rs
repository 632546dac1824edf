//! The log of the Train screen. Within a run, times and steps never decrease, and nothing is reported twice.

use std::collections::VecDeque;

/// Maximum number of lines.
const MAX_LINES: usize = 1000;

/// How the line of an epoch begins.
pub const EPOCH: &str = "epoch ";

/// Epochs that end within this many seconds of training share a line.
const SECONDS_PER_EPOCH_LINE: f64 = 1.0;

/// Severity of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Plain,
    Good,
    Warning,
    Bad,
}

/// A line of the log.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Seconds of training at the event.
    pub elapsed: f64,
    pub step: u64,
    pub text: String,
    pub severity: Severity,
    /// Number of the run within the session.
    run: u32,
    /// Of a line that epochs may share: seconds of training until the end of the first one.
    shared_from: Option<f64>,
}

/// State while the past of a resumed run is replayed, right after its start.
#[derive(Clone, Copy, Debug)]
struct Replay {
    /// The first step after the checkpoint.
    next: u64,
    /// Whether the log already contains these events, since the run went back within this session.
    known: bool,
}

/// The newest lines, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Log {
    entries: VecDeque<Entry>,
    /// Number of the current run.
    run: u32,
    replay: Option<Replay>,
}

impl Log {
    pub fn entries(&self) -> &VecDeque<Entry> {
        &self.entries
    }

    /// Adds a line. If the newest line has the same text, only its time is updated.
    pub fn add(&mut self, elapsed: f64, step: u64, severity: Severity, text: String) {
        self.push(Entry {
            elapsed,
            step,
            text,
            severity,
            run: self.run,
            shared_from: None,
        });
    }

    fn push(&mut self, line: Entry) {
        let known = self.replay.is_some_and(|replay| replay.known);
        let same =
            |e: &Entry| e.run == line.run && e.step == line.step && e.text.starts_with(&line.text);
        if known && self.entries.iter().any(same) {
            return;
        }
        if let Some(last) = self.entries.back_mut().filter(|e| e.text == line.text) {
            (last.elapsed, last.step) = (line.elapsed, line.step);
            return;
        }
        if self.entries.len() == MAX_LINES {
            self.entries.pop_front();
        }
        self.entries.push_back(line);
    }

    /// Adds the line of an epoch that ended after `end` seconds of training; `elapsed` are those of the newest step. If the
    /// newest line is that of an epoch and began less than [`SECONDS_PER_EPOCH_LINE`] before, the new one replaces it, so
    /// that quick epochs do not scroll other lines away. A line that reports a best epoch is only replaced by another best.
    pub fn add_epoch(
        &mut self,
        (elapsed, end): (f64, f64),
        step: u64,
        severity: Severity,
        text: String,
    ) {
        let known = self.replay.is_some_and(|replay| replay.known);
        let run = self.run;
        let of_run = |e: &Entry| e.shared_from.filter(|_| e.run == run);
        let is_later = |e: &Entry| of_run(e).is_some() && e.step >= step;
        if known && self.entries.iter().any(is_later) {
            return;
        }
        let shared_from = self.entries.back().and_then(|last| {
            let is_replaced = severity == Severity::Good || last.severity == Severity::Plain;
            let from = of_run(last)?;
            (is_replaced && end - from < SECONDS_PER_EPOCH_LINE).then_some(from)
        });
        if shared_from.is_some() {
            self.entries.pop_back();
        }
        self.push(Entry {
            elapsed,
            step,
            text,
            severity,
            run,
            shared_from: shared_from.or(Some(end)),
        });
    }

    /// The step of the run's newest line; 0 without one.
    pub fn step(&self) -> u64 {
        let newest = self.entries.back().filter(|e| e.run == self.run);
        newest.map_or(0, |e| e.step)
    }

    /// The newest line, so that it can be extended.
    pub fn newest(&mut self) -> Option<&mut Entry> {
        self.entries.back_mut()
    }

    /// The newest line for which `is` returns true, so that it can be extended.
    pub fn find(&mut self, is: impl Fn(&Entry) -> bool) -> Option<&mut Entry> {
        self.entries.iter_mut().rev().find(|entry| is(entry))
    }

    /// Removes the newest line if `is` returns true for it.
    pub fn take_back(&mut self, is: impl FnOnce(&Entry) -> bool) {
        if self.entries.back().is_some_and(is) {
            self.entries.pop_back();
        }
    }

    /// Starts a run, or resumes it at step `resumed_at`. If it is the `same` run as before, it went back, and the lines
    /// after the checkpoint are removed.
    pub fn begin_run(&mut self, resumed_at: Option<u64>, same: bool) {
        self.replay = resumed_at.map(|next| Replay { next, known: same });
        match resumed_at {
            Some(next) if same => {
                let run = self.run;
                self.entries.retain(|e| e.run != run || e.step < next);
            }
            _ => self.run += 1,
        }
    }

    /// Ends the replay. Returns the first step after it, if the log does not contain it yet.
    pub fn end_replay(&mut self) -> Option<u64> {
        let replay = self.replay.take()?;
        (!replay.known).then_some(replay.next)
    }
}
