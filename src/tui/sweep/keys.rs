//! The keys of the sweep's screen: dispatch, footer, help and `cifar-tui keys` come from this table.

use crate::domain::symbols::Symbols;
use crate::tui::actions::{Key, Move, ch, ctrl, key};
use crossterm::event::KeyCode;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SweepAction {
    Choose(Move),
    Open,
    Pause,
    Stop,
    Sort,
    Axis,
    Help,
    Redraw,
    Suspend,
    Detach,
    Quit,
}

/// A row of the table.
#[derive(Debug)]
pub struct SweepKey {
    pub does: SweepAction,
    pub keys: &'static [Key],
    /// A word for the footer; empty: not shown there.
    pub name: &'static str,
    pub help: &'static str,
}

const fn row(
    does: SweepAction,
    keys: &'static [Key],
    name: &'static str,
    help: &'static str,
) -> SweepKey {
    SweepKey {
        does,
        keys,
        name,
        help,
    }
}

#[rustfmt::skip]
pub static SWEEP_KEYS: &[SweepKey] = &[
    row(SweepAction::Open, &[key(KeyCode::Enter)], "open", "show this run on all screens and steer it; D or q comes back"),
    row(SweepAction::Choose(Move::Up), &[ch('k'), key(KeyCode::Up)], "", "the trial above"),
    row(SweepAction::Choose(Move::Down), &[ch('j'), key(KeyCode::Down)], "", "the trial below"),
    row(SweepAction::Choose(Move::Top), &[ch('g'), key(KeyCode::Home)], "", "the first trial"),
    row(SweepAction::Choose(Move::Bottom), &[ch('G'), key(KeyCode::End)], "", "the last trial"),
    row(SweepAction::Choose(Move::HalfUp), &[ctrl('u'), key(KeyCode::PageUp)], "", "half a page up"),
    row(SweepAction::Choose(Move::HalfDown), &[ctrl('d'), key(KeyCode::PageDown)], "", "half a page down"),
    row(SweepAction::Sort, &[ch('s')], "sort", "sort by accuracy, trial, epochs, or a hyperparameter"),
    row(SweepAction::Axis, &[ch('a')], "axis", "plot the accuracy against the next hyperparameter"),
    row(SweepAction::Pause, &[ch(' ')], "pause", "pause or resume this run"),
    row(SweepAction::Stop, &[ch('x')], "stop", "stop this run for good (asks first)"),
    row(SweepAction::Help, &[ch('?')], "help", "the keys of this screen"),
    row(SweepAction::Redraw, &[ctrl('l')], "", "redraw the whole screen"),
    row(SweepAction::Suspend, &[ctrl('z')], "", "back to the shell; `fg` returns"),
    row(SweepAction::Detach, &[ch('D')], "detach", "leave; training continues"),
    row(SweepAction::Quit, &[ch('q'), ctrl('c')], "quit", "stop training (asks first); `cifar-tui sweep --resume` goes on"),
];

impl SweepKey {
    pub fn keys_text(&self, symbols: Symbols) -> String {
        let keys = self.keys.iter().map(|key| key.name(symbols));
        keys.collect::<Vec<_>>().join(" ")
    }
}

/// Every key as aligned lines.
pub fn listing(symbols: Symbols) -> String {
    let lines = SWEEP_KEYS.iter();
    lines
        .map(|row| format!("  {:<12} {}\n", row.keys_text(symbols), row.help))
        .collect()
}
