//! The state of the sweep's screen, changed by reports and keys. It uses no terminal and no channel.

use super::Steering;
use super::keys::{SWEEP_KEYS, SweepAction};
use crate::domain::params::Value;
use crate::domain::sweep::{SweepReport, TrialRow, number};
use crate::domain::symbols::Symbols;
use crate::domain::terminal::Colors;
use crate::tui::actions::{Key, moved};
use crate::tui::overlays::confirmed;
use crate::tui::theme::Theme;
use crossterm::event::{KeyEvent, KeyEventKind};
use ratatui::layout::Rect;
use std::cmp::Ordering;

/// What a key leads to outside the app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SweepEffect {
    Open(String),
    Steer(String, Steering),
    Redraw,
    Suspend,
    Detach,
    Quit,
}

/// The order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SortBy {
    Accuracy,
    Trial,
    Epochs,
    /// The values of an axis.
    Axis(usize),
}

/// What is drawn over the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SweepOverlay {
    Help,
    Confirm(String, SweepEffect),
}

/// Everything the screen shows.
#[derive(Debug)]
pub struct SweepApp {
    pub theme: Theme,
    /// Whether this process trains runs of the sweep.
    pub trains: bool,
    /// Whether something has changed since the last frame.
    pub changed: bool,
    pub(super) size: Rect,
    pub(super) report: Option<SweepReport>,
    /// The index of the chosen trial. None: that of the first row.
    pub(super) chosen: Option<usize>,
    pub(super) sort: SortBy,
    /// The axis that accuracy is plotted against.
    pub(super) axis: usize,
    pub(super) overlay: Option<SweepOverlay>,
    /// Shown until the next key.
    pub(super) note: Option<String>,
}

impl SweepApp {
    /// `trains`: whether this process trains runs of the sweep.
    pub fn new(trains: bool) -> Self {
        SweepApp {
            theme: Theme {
                colors: Colors::None,
                symbols: Symbols::Ascii,
            },
            trains,
            changed: true,
            size: Rect::ZERO,
            report: None,
            chosen: None,
            sort: SortBy::Accuracy,
            axis: 0,
            overlay: None,
            note: None,
        }
    }

    pub fn report(&mut self, report: SweepReport) {
        if self.report.as_ref() != Some(&report) {
            self.report = Some(report);
            self.changed = true;
        }
    }

    pub fn note(&mut self, note: String) {
        self.note = Some(note);
        self.changed = true;
    }

    pub fn resize(&mut self, width: u16, height: u16) {
        self.size = Rect::new(0, 0, width, height);
        self.changed = true;
    }

    /// The rows in the order of the table.
    pub(super) fn rows(&self) -> Vec<&TrialRow> {
        let Some(report) = &self.report else {
            return Vec::new();
        };
        let mut rows = report.ranked();
        match self.sort {
            SortBy::Accuracy => {}
            SortBy::Trial => rows.sort_by_key(|row| row.trial),
            SortBy::Epochs => rows.sort_by_key(|row| std::cmp::Reverse(row.epochs_done())),
            SortBy::Axis(axis) => {
                rows.sort_by(|a, b| by_value(self.value(a, axis), self.value(b, axis)))
            }
        }
        rows
    }

    /// The value of a trial on an axis.
    pub(super) fn value<'a>(&self, row: &'a TrialRow, axis: usize) -> Option<&'a Value> {
        let key = self.keys().nth(axis)?;
        row.start
            .values
            .iter()
            .find(|(own, _)| *own == key)
            .map(|(_, value)| value)
    }

    /// The hyperparameters that vary.
    pub(super) fn keys(&self) -> impl Iterator<Item = String> {
        let trials = self
            .report
            .iter()
            .flat_map(|report| report.plan.trials.first());
        trials.flat_map(|trial| trial.values.iter().map(|(key, _)| key.clone()))
    }

    pub(super) fn chosen(&self) -> Option<&TrialRow> {
        let mut rows = self.rows().into_iter();
        match self.chosen {
            Some(trial) => rows.find(|row| row.trial == trial),
            None => rows.next(),
        }
    }

    /// The place of the chosen trial in the table.
    pub(super) fn place(&self) -> usize {
        let chosen = |row: &&TrialRow| Some(row.trial) == self.chosen;
        self.rows().iter().position(chosen).unwrap_or(0)
    }

    /// Handles a key. Returns what it leads to.
    pub fn key(&mut self, event: &KeyEvent) -> Option<SweepEffect> {
        if event.kind == KeyEventKind::Release {
            return None;
        }
        self.changed = true;
        self.note = None;
        match self.overlay.take() {
            // Any key closes the help.
            Some(SweepOverlay::Help) => return None,
            Some(SweepOverlay::Confirm(question, effect)) => {
                return match confirmed(event.code) {
                    Some(true) => Some(effect),
                    Some(false) => None,
                    None => {
                        self.overlay = Some(SweepOverlay::Confirm(question, effect));
                        None
                    }
                };
            }
            None => {}
        }
        let key = Key::of(event);
        let row = SWEEP_KEYS.iter().find(|row| row.keys.contains(&key))?;
        self.act(row.does)
    }

    fn act(&mut self, does: SweepAction) -> Option<SweepEffect> {
        let rows = self.rows();
        let place = self.place();
        match does {
            SweepAction::Choose(how) => {
                let page = usize::from(self.size.height / 4).max(1);
                let next = rows.get(moved(place, how.by(1, page), rows.len()))?;
                self.chosen = Some(next.trial);
            }
            SweepAction::Open => return self.running().map(SweepEffect::Open),
            SweepAction::Pause => {
                return self
                    .running()
                    .map(|run| SweepEffect::Steer(run, Steering::Pause));
            }
            SweepAction::Stop => {
                let run = self.running()?;
                let question = format!("Stop {run} for good? The sweep goes on without it.");
                let stop = SweepEffect::Steer(run, Steering::Stop);
                self.overlay = Some(SweepOverlay::Confirm(question, stop));
            }
            SweepAction::Sort => {
                self.sort = match self.sort {
                    SortBy::Accuracy => SortBy::Trial,
                    SortBy::Trial => SortBy::Epochs,
                    SortBy::Epochs => SortBy::Axis(0),
                    SortBy::Axis(axis) if axis + 1 < self.keys().count() => SortBy::Axis(axis + 1),
                    SortBy::Axis(_) => SortBy::Accuracy,
                };
            }
            SweepAction::Axis => self.axis = (self.axis + 1) % self.keys().count().max(1),
            SweepAction::Help => self.overlay = Some(SweepOverlay::Help),
            SweepAction::Redraw => return Some(SweepEffect::Redraw),
            SweepAction::Suspend => return Some(SweepEffect::Suspend),
            SweepAction::Detach => return Some(SweepEffect::Detach),
            SweepAction::Quit if !self.trains => return Some(SweepEffect::Quit),
            SweepAction::Quit => {
                let question =
                    "Stop training? Everything is saved, and `cifar-tui sweep --resume` goes on.";
                self.overlay = Some(SweepOverlay::Confirm(question.into(), SweepEffect::Quit));
            }
        }
        None
    }

    /// The chosen run if a session trains it. Otherwise says why nothing can be done with it.
    fn running(&mut self) -> Option<String> {
        let row = self.chosen()?;
        if row.progress.busy {
            return Some(row.run.clone());
        }
        let words = match (&row.summary, row.progress.end) {
            (None, _) => format!("{} has not begun yet", row.run),
            (Some(_), None) => format!("{} is not being trained now", row.run),
            (Some(run), Some(end)) => format!(
                "{} is {}; `cifar-tui --resume {}` opens it, once you have left",
                row.run,
                end.word(),
                run.folder
            ),
        };
        self.note = Some(words);
        None
    }
}

/// Numbers in ascending order, then words.
fn by_value(a: Option<&Value>, b: Option<&Value>) -> Ordering {
    match (a.and_then(number), b.and_then(number)) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        _ => a.map(ToString::to_string).cmp(&b.map(ToString::to_string)),
    }
}
