//! 'What just happened': the lines of the log. Times and steps never fall within a run, and what happened stands once.

use std::collections::VecDeque;

/// Lines that the log keeps.
const MAX_LINES: usize = 1000;

/// How much a line of the log weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    Plain,
    Good,
    Warning,
    Bad,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Seconds of training when it happened.
    pub elapsed: f64,
    pub step: u64,
    pub text: String,
    pub weight: Weight,
    /// Number of the run within the session.
    run: u32,
}

/// Events of a run's past, which are told when it goes on from a checkpoint, right after its start.
#[derive(Clone, Copy, Debug)]
struct Replay {
    /// The first step after the checkpoint.
    next: u64,
    /// The log holds their lines: the run went back within this session.
    known: bool,
}

/// The newest lines, oldest first.
#[derive(Debug, Default)]
pub struct Log {
    entries: VecDeque<Entry>,
    /// Number of the run under way.
    run: u32,
    replay: Option<Replay>,
}

impl Log {
    pub fn entries(&self) -> &VecDeque<Entry> {
        &self.entries
    }

    /// Adds a line. The newest line said again gets the new time instead.
    pub fn add(&mut self, elapsed: f64, step: u64, weight: Weight, text: String) {
        let known = self.replay.is_some_and(|replay| replay.known);
        let same = |e: &Entry| e.run == self.run && e.step == step && e.text.starts_with(&text);
        if known && self.entries.iter().any(same) {
            return;
        }
        if let Some(last) = self.entries.back_mut().filter(|e| e.text == text) {
            (last.elapsed, last.step) = (elapsed, step);
            return;
        }
        if self.entries.len() == MAX_LINES {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry {
            elapsed,
            step,
            text,
            weight,
            run: self.run,
        });
    }

    /// The newest line, to add to it.
    pub fn newest(&mut self) -> Option<&mut Entry> {
        self.entries.back_mut()
    }

    /// Takes the newest line away if `is` holds for it.
    pub fn take_back(&mut self, is: impl FnOnce(&Entry) -> bool) {
        if self.entries.back().is_some_and(is) {
            self.entries.pop_back();
        }
    }

    /// A run begins, or goes on at step `resumed_at`. Where it is the `same` run as before, it went back: what came
    /// after the checkpoint is void.
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

    /// The run's past has been told. The step at which it goes on, where the log does not say so yet.
    pub fn end_replay(&mut self) -> Option<u64> {
        let replay = self.replay.take()?;
        (!replay.known).then_some(replay.next)
    }
}
