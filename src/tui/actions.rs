//! The ACTIONS table: every key, where it counts, what it is called and when it cannot be used. Dispatch, footer, help,
//! command palette and README's key table follow it. A key is added by adding a row (and, where it does something new, a
//! word in [`Do`]).

use super::told::Told;
use super::views::Screen;
use crate::domain::symbols::Symbols;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::fmt;

/// What an action does. The words of the first group are the app's own; those of the second are handed to the open view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Do {
    Pause,
    Step,
    Evaluate,
    Checkpoint,
    Restart,
    GoBack,
    Stop,
    Undo,
    Download,
    Show(Screen),
    NextScreen,
    PreviousScreen,
    Help,
    Palette,
    Mouse,
    Redraw,
    Suspend,
    Detach,
    Quit,

    Up,
    Down,
    Left,
    Right,
    CoarseLeft,
    CoarseRight,
    Top,
    Bottom,
    HalfUp,
    HalfDown,
    Enter,
    Back,
    Filter,
    Zoom,
    Copy,
    Picture,
    FlipChart,
    LogScale,
    Smoother,
    Rougher,
    CursorLeft,
    CursorRight,
    CursorFarLeft,
    CursorFarRight,
    Closer,
    Wider,
    PanLeft,
    PanRight,
    Values,
    OtherSplit,
    NextWorst,
    PreviousWorst,
    NextFilter,
    PreviousFilter,
    Class,
    Pin,
    Presets,
    NextImage,
    PreviousImage,
    Mark,
    Rename,
    Note,
    Delete,
    Fetch,
}

impl Do {
    /// Whether the app itself does it; otherwise the open view does.
    pub fn is_global(self) -> bool {
        use Do::*;
        matches!(
            self,
            Pause
                | Step
                | Evaluate
                | Checkpoint
                | Restart
                | GoBack
                | Stop
                | Undo
                | Download
                | Show(_)
                | NextScreen
                | PreviousScreen
                | Help
                | Palette
                | Mouse
                | Redraw
                | Suspend
                | Detach
                | Quit
        )
    }
}

/// A key press.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub code: KeyCode,
    pub ctrl: bool,
}

impl Key {
    /// The key of an event. Shift is in the character itself.
    pub fn of(event: &KeyEvent) -> Self {
        Key {
            code: event.code,
            ctrl: event.modifiers.contains(KeyModifiers::CONTROL),
        }
    }
}

impl Key {
    /// Its name on a terminal that shows these symbols. Words stand for arrows in ASCII, where `^` and `v` are keys.
    pub fn name(self, symbols: Symbols) -> String {
        let word = match self.code {
            KeyCode::Enter => symbols.enter(),
            KeyCode::Up => "up",
            KeyCode::Down => "down",
            KeyCode::Left => "left",
            KeyCode::Right => "right",
            _ => return self.to_string(),
        };
        if symbols == Symbols::Ascii || self.code == KeyCode::Enter {
            word.into()
        } else {
            self.to_string()
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ctrl {
            f.write_str("ctrl-")?;
        }
        match self.code {
            KeyCode::Char(' ') => f.write_str("space"),
            KeyCode::Char(c) => write!(f, "{c}"),
            KeyCode::Up => f.write_str("↑"),
            KeyCode::Down => f.write_str("↓"),
            KeyCode::Left => f.write_str("←"),
            KeyCode::Right => f.write_str("→"),
            KeyCode::Enter => f.write_str("⏎"),
            KeyCode::Esc => f.write_str("esc"),
            KeyCode::Tab => f.write_str("tab"),
            KeyCode::BackTab => f.write_str("shift-tab"),
            KeyCode::PageUp => f.write_str("pgup"),
            KeyCode::PageDown => f.write_str("pgdn"),
            KeyCode::Home => f.write_str("home"),
            KeyCode::End => f.write_str("end"),
            other => write!(f, "{other:?}"),
        }
    }
}

const fn ch(c: char) -> Key {
    key(KeyCode::Char(c))
}

const fn key(code: KeyCode) -> Key {
    Key { code, ctrl: false }
}

const fn ctrl(c: char) -> Key {
    Key {
        code: KeyCode::Char(c),
        ctrl: true,
    }
}

/// Where a key counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// On every screen.
    All,
    /// On these.
    On(&'static [Screen]),
}

impl Scope {
    pub fn counts_on(self, screen: Screen) -> bool {
        match self {
            Scope::All => true,
            Scope::On(screens) => screens.contains(&screen),
        }
    }
}

/// A row of the table.
pub struct Action {
    pub does: Do,
    pub keys: &'static [Key],
    pub scope: Scope,
    /// A word for the footer.
    pub name: &'static str,
    /// A few words for help, palette and README.
    pub help: &'static str,
    /// Place in the footer: the smallest stay when it gets narrow; 0 is not shown there.
    pub rank: u8,
    /// Why it cannot be used now.
    pub enabled: fn(&Told) -> Result<(), String>,
}

impl Action {
    /// Its keys as text: `k ↑`.
    pub fn keys_text(&self, symbols: Symbols) -> String {
        self.keys
            .iter()
            .map(|key| key.name(symbols))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

fn always(_: &Told) -> Result<(), String> {
    Ok(())
}

fn alive(told: &Told) -> Result<(), String> {
    if told.ended {
        Err("the session is over".into())
    } else {
        Ok(())
    }
}

fn pausable(told: &Told) -> Result<(), String> {
    told.training()
}

fn paused(told: &Told) -> Result<(), String> {
    use crate::domain::report::State;
    told.training()?;
    match told.state {
        State::Paused => Ok(()),
        State::Diverged { .. } => Err("the run has diverged; b goes back, R restarts it".into()),
        _ => Err("only while paused; space pauses".into()),
    }
}

fn can_go_back(told: &Told) -> Result<(), String> {
    use crate::domain::report::State;
    alive(told)?;
    match told.state {
        State::Diverged { .. } => Ok(()),
        _ => match &told.health.collapse {
            Some(collapse) if collapse.best.is_some() => Ok(()),
            Some(_) => Err("no epoch of the run was better".into()),
            None => Err("the run has neither diverged nor collapsed".into()),
        },
    }
}

fn saved(told: &Told) -> Result<(), String> {
    if told.run.as_ref().is_some_and(|r| r.name.is_empty()) {
        return Err("this run is not saved to a folder".into());
    }
    told.training()
}

fn detachable(told: &Told) -> Result<(), String> {
    alive(told)?;
    match &told.run {
        Some(run) if run.name.is_empty() => {
            Err("this run has no folder by which `attach` would find it".into())
        }
        Some(_) => Ok(()),
        None => Err("no run has begun".into()),
    }
}

fn begun(told: &Told) -> Result<(), String> {
    alive(told)?;
    if told.run.is_none() {
        return Err("no run has begun".into());
    }
    Ok(())
}

fn downloadable(told: &Told) -> Result<(), String> {
    alive(told)?;
    if told.download.is_some() {
        return Err("a download is under way".into());
    }
    match &told.data {
        Some(data) if !data.is_sample => Err(format!("{} is loaded already", data.name)),
        _ => Ok(()),
    }
}

const fn all(
    does: Do,
    keys: &'static [Key],
    rank: u8,
    name: &'static str,
    help: &'static str,
) -> Action {
    Action {
        does,
        keys,
        scope: Scope::All,
        name,
        help,
        rank,
        enabled: always,
    }
}

const fn on(
    screens: &'static [Screen],
    does: Do,
    keys: &'static [Key],
    rank: u8,
    name: &'static str,
    help: &'static str,
) -> Action {
    Action {
        does,
        keys,
        scope: Scope::On(screens),
        name,
        help,
        rank,
        enabled: always,
    }
}

const fn when(mut action: Action, enabled: fn(&Told) -> Result<(), String>) -> Action {
    action.enabled = enabled;
    action
}

const TRAIN: &[Screen] = &[Screen::Train];
const CONFUSION: &[Screen] = &[Screen::Confusion];
const SAMPLES: &[Screen] = &[Screen::Samples];
const MODEL: &[Screen] = &[Screen::Model];
const RUNS: &[Screen] = &[Screen::Runs];
const DATA: &[Screen] = &[Screen::Data];

const UP: &[Key] = &[ch('k'), key(KeyCode::Up)];
const DOWN: &[Key] = &[ch('j'), key(KeyCode::Down)];
const LEFT: &[Key] = &[ch('h'), key(KeyCode::Left)];
const RIGHT: &[Key] = &[ch('l'), key(KeyCode::Right)];
const TOP: &[Key] = &[ch('g'), key(KeyCode::Home)];
const BOTTOM: &[Key] = &[ch('G'), key(KeyCode::End)];
const HALF_UP: &[Key] = &[ctrl('u'), key(KeyCode::PageUp)];
const HALF_DOWN: &[Key] = &[ctrl('d'), key(KeyCode::PageDown)];
const ENTER: &[Key] = &[key(KeyCode::Enter)];
const ESC: &[Key] = &[key(KeyCode::Esc)];

/// Every action. Keys that count on one screen stand before those that count on all: help lists them in this order.
#[rustfmt::skip]
pub static ACTIONS: &[Action] = &[
    // Train
    on(TRAIN, Do::Up, UP, 0, "choose", "the hyperparameter above"),
    on(TRAIN, Do::Down, DOWN, 0, "choose", "the hyperparameter below"),
    on(TRAIN, Do::Left, LEFT, 2, "nudge", "lower the chosen hyperparameter"),
    on(TRAIN, Do::Right, RIGHT, 2, "nudge", "raise the chosen hyperparameter"),
    on(TRAIN, Do::CoarseLeft, &[ch('H')], 0, "nudge more", "lower it by a large step"),
    on(TRAIN, Do::CoarseRight, &[ch('L')], 0, "nudge more", "raise it by a large step"),
    on(TRAIN, Do::Enter, ENTER, 3, "type", "type a value for the chosen hyperparameter"),
    on(TRAIN, Do::Back, ESC, 0, "back", "leave the editor, the cursor, the zoom or the filter"),
    on(TRAIN, Do::Top, TOP, 0, "first", "the first hyperparameter"),
    on(TRAIN, Do::Bottom, BOTTOM, 0, "last", "the last hyperparameter"),
    on(TRAIN, Do::HalfUp, HALF_UP, 0, "page up", "half a panel up"),
    on(TRAIN, Do::HalfDown, HALF_DOWN, 0, "page down", "half a panel down"),
    on(TRAIN, Do::Filter, &[ch('/')], 0, "filter", "show only hyperparameters that match"),
    on(TRAIN, Do::FlipChart, &[ch('f')], 0, "flip", "the other chart: loss or accuracy"),
    on(TRAIN, Do::Zoom, &[ch('z')], 0, "zoom", "one panel over the whole screen: loss, accuracy, log"),
    on(TRAIN, Do::LogScale, &[ch('o')], 0, "log y", "logarithmic loss axis"),
    on(TRAIN, Do::Smoother, &[ch(')')], 0, "smoother", "smooth the training curves more"),
    on(TRAIN, Do::Rougher, &[ch('(')], 0, "rougher", "smooth the training curves less"),
    on(TRAIN, Do::CursorLeft, &[ch('[')], 0, "read", "read the curves: cursor to the left"),
    on(TRAIN, Do::CursorRight, &[ch(']')], 0, "read", "read the curves: cursor to the right"),
    on(TRAIN, Do::CursorFarLeft, &[ch('{')], 0, "read", "cursor to the epoch before"),
    on(TRAIN, Do::CursorFarRight, &[ch('}')], 0, "read", "cursor to the epoch after"),
    on(TRAIN, Do::Closer, &[ch('+'), ch('=')], 0, "closer", "zoom into the x axis, around the cursor"),
    on(TRAIN, Do::Wider, &[ch('-')], 0, "wider", "zoom out of the x axis"),
    on(TRAIN, Do::PanLeft, &[ch('<')], 0, "pan", "move the zoomed x axis to the left"),
    on(TRAIN, Do::PanRight, &[ch('>')], 0, "pan", "move the zoomed x axis to the right"),
    on(TRAIN, Do::Copy, &[ch('y')], 0, "copy", "copy the chosen hyperparameter as `key = value`"),
    on(TRAIN, Do::Picture, &[ch('s')], 0, "save", "save the chart as a PNG picture in the run's folder"),
    // Confusion
    on(CONFUSION, Do::Up, UP, 0, "move", "the row above; the images before, when a cell is open"),
    on(CONFUSION, Do::Down, DOWN, 0, "move", "the row below; the images after, when a cell is open"),
    on(CONFUSION, Do::Left, LEFT, 0, "move", "the column to the left"),
    on(CONFUSION, Do::Right, RIGHT, 0, "move", "the column to the right"),
    on(CONFUSION, Do::Top, TOP, 0, "first", "the first cell"),
    on(CONFUSION, Do::Bottom, BOTTOM, 0, "last", "the last cell"),
    on(CONFUSION, Do::NextWorst, &[ch('m'), ch(']')], 2, "most confused", "the next of the most confused pairs"),
    on(CONFUSION, Do::PreviousWorst, &[ch('M'), ch('[')], 0, "most confused", "the previous of the most confused pairs"),
    on(CONFUSION, Do::Enter, ENTER, 2, "images", "the cell's images on the whole screen"),
    on(CONFUSION, Do::Back, ESC, 0, "back", "back to the matrix"),
    on(CONFUSION, Do::Values, &[ch('v')], 3, "values", "counts, % of the row, or the change since the last evaluation"),
    on(CONFUSION, Do::OtherSplit, &[ch('t')], 3, "split", "turn between the validation and the test images"),
    on(CONFUSION, Do::HalfUp, HALF_UP, 0, "page up", "the page of images before"),
    on(CONFUSION, Do::HalfDown, HALF_DOWN, 0, "page down", "the page of images after"),
    on(CONFUSION, Do::Copy, &[ch('y')], 0, "copy", "copy the matrix, tabs between its columns"),
    on(CONFUSION, Do::Picture, &[ch('s')], 0, "save", "save the matrix as a PNG picture in the run's folder"),
    // Samples
    on(SAMPLES, Do::Up, UP, 0, "choose", "the image above"),
    on(SAMPLES, Do::Down, DOWN, 0, "choose", "the image below"),
    on(SAMPLES, Do::Left, LEFT, 0, "choose", "the image before"),
    on(SAMPLES, Do::Right, RIGHT, 0, "choose", "the image after"),
    on(SAMPLES, Do::Top, TOP, 0, "first", "the first image"),
    on(SAMPLES, Do::Bottom, BOTTOM, 0, "last", "the last image"),
    on(SAMPLES, Do::HalfUp, HALF_UP, 0, "page up", "the page before"),
    on(SAMPLES, Do::HalfDown, HALF_DOWN, 0, "page down", "the page after"),
    on(SAMPLES, Do::Enter, ENTER, 2, "look", "one image large, its probabilities, and what it was called before"),
    on(SAMPLES, Do::Back, ESC, 0, "back", "back to the grid"),
    on(SAMPLES, Do::NextFilter, &[ch('f')], 2, "filter", "all, wrong, most confident wrong, least sure, one class, pinned"),
    on(SAMPLES, Do::PreviousFilter, &[ch('F')], 0, "filter", "the filter before"),
    on(SAMPLES, Do::Class, &[ch('c')], 3, "class", "the images of one class; again: of the next"),
    on(SAMPLES, Do::Pin, &[ch('p')], 3, "pin", "keep an eye on this image, or no longer"),
    on(SAMPLES, Do::OtherSplit, &[ch('t')], 3, "split", "turn between the validation and the test images"),
    on(SAMPLES, Do::Closer, &[ch('+'), ch('=')], 0, "larger", "larger images"),
    on(SAMPLES, Do::Wider, &[ch('-')], 0, "smaller", "smaller images"),
    // Model
    on(MODEL, Do::Enter, &[key(KeyCode::Enter), ch('i')], 2, "edit", "edit the architecture; enter applies it to the next run"),
    on(MODEL, Do::Presets, &[ch('a')], 3, "presets", "the next architecture that comes with the program"),
    on(MODEL, Do::Back, ESC, 0, "back", "forget what was typed"),
    on(MODEL, Do::Up, UP, 0, "choose", "the layer above"),
    on(MODEL, Do::Down, DOWN, 0, "choose", "the layer below"),
    on(MODEL, Do::Top, TOP, 0, "first", "the first layer"),
    on(MODEL, Do::Bottom, BOTTOM, 0, "last", "the last layer"),
    on(MODEL, Do::HalfUp, HALF_UP, 0, "page up", "half a page up"),
    on(MODEL, Do::HalfDown, HALF_DOWN, 0, "page down", "half a page down"),
    on(MODEL, Do::Values, &[ch('v')], 3, "filters", "turn between activations and first-layer filters"),
    on(MODEL, Do::NextImage, &[ch(']'), ch('l'), key(KeyCode::Right)], 3, "image", "activations of the next image"),
    on(MODEL, Do::PreviousImage, &[ch('['), ch('h'), key(KeyCode::Left)], 0, "image", "activations of the previous image"),
    // Runs
    on(RUNS, Do::Up, UP, 0, "choose", "the run above"),
    on(RUNS, Do::Down, DOWN, 0, "choose", "the run below"),
    on(RUNS, Do::Top, TOP, 0, "first", "the first run"),
    on(RUNS, Do::Bottom, BOTTOM, 0, "last", "the last run"),
    on(RUNS, Do::HalfUp, HALF_UP, 0, "page up", "half a page up"),
    on(RUNS, Do::HalfDown, HALF_DOWN, 0, "page down", "half a page down"),
    on(RUNS, Do::Mark, &[ch('m'), key(KeyCode::Enter)], 2, "mark", "lay this run's curve over the others, or no longer"),
    on(RUNS, Do::Rename, &[ch('r')], 3, "rename", "give the run another name"),
    on(RUNS, Do::Note, &[ch('o')], 3, "note", "write a note about the run"),
    on(RUNS, Do::Delete, &[ch('d'), key(KeyCode::Delete)], 3, "delete", "delete the run's folder (asks first)"),
    on(RUNS, Do::Back, ESC, 0, "back", "unmark all"),
    on(RUNS, Do::Copy, &[ch('y')], 0, "copy", "copy the command that resumes the run"),
    // Data
    on(DATA, Do::Up, UP, 0, "choose", "the image above"),
    on(DATA, Do::Down, DOWN, 0, "choose", "the image below"),
    on(DATA, Do::Left, LEFT, 0, "choose", "the image before"),
    on(DATA, Do::Right, RIGHT, 0, "choose", "the image after"),
    on(DATA, Do::Top, TOP, 0, "first", "the first image"),
    on(DATA, Do::Bottom, BOTTOM, 0, "last", "the last image"),
    on(DATA, Do::HalfUp, HALF_UP, 0, "page up", "the page before"),
    on(DATA, Do::HalfDown, HALF_DOWN, 0, "page down", "the page after"),
    on(DATA, Do::Class, &[ch('c')], 2, "class", "the images of one class; again: of the next"),
    on(DATA, Do::OtherSplit, &[ch('t')], 2, "split", "turn between the training, validation and test images"),
    on(DATA, Do::Enter, ENTER, 3, "augment", "show the chosen training image as augmentation shows it"),
    on(DATA, Do::Back, ESC, 0, "back", "back to the grid"),
    when(on(DATA, Do::Fetch, &[ch('d')], 3, "download", "fetch the real CIFAR-10 into the data folder"), downloadable),
    // All screens
    when(all(Do::Pause, &[ch(' ')], 1, "pause", "pause or resume"), pausable),
    when(all(Do::Step, &[ch('n')], 0, "step", "one training step while paused"), paused),
    when(all(Do::Undo, &[ch('u')], 4, "undo", "take back the last change"), alive),
    when(all(Do::Evaluate, &[ch('e')], 5, "evaluate", "score the validation images now"), pausable),
    when(all(Do::Checkpoint, &[ch('w')], 6, "checkpoint", "write a checkpoint now"), saved),
    when(all(Do::Restart, &[ch('R')], 7, "restart", "start a new run with the pending changes"), begun),
    when(all(Do::GoBack, &[ch('b')], 0, "go back", "after a divergence or a collapse: to an earlier checkpoint, with a lower learning rate"), can_go_back),
    when(all(Do::Stop, &[ch('x')], 8, "stop", "end this run (asks first)"), pausable),
    when(all(Do::Download, &[], 0, "download", "fetch the real CIFAR-10 into the data folder"), downloadable),
    all(Do::Show(Screen::Train), &[ch('1')], 0, "Train", "the Train screen"),
    all(Do::Show(Screen::Confusion), &[ch('2')], 0, "Confusion", "the Confusion screen"),
    all(Do::Show(Screen::Samples), &[ch('3')], 0, "Samples", "the Samples screen"),
    all(Do::Show(Screen::Model), &[ch('4')], 0, "Model", "the Model screen"),
    all(Do::Show(Screen::Runs), &[ch('5')], 0, "Runs", "the Runs screen"),
    all(Do::Show(Screen::Data), &[ch('6')], 0, "Data", "the Data screen"),
    all(Do::NextScreen, &[key(KeyCode::Tab)], 0, "next", "the next screen"),
    all(Do::PreviousScreen, &[key(KeyCode::BackTab)], 0, "previous", "the previous screen"),
    all(Do::Palette, &[ch(':')], 9, "palette", "every action by name"),
    all(Do::Help, &[ch('?')], 10, "help", "the keys of this screen"),
    all(Do::Mouse, &[], 0, "mouse", "turn the mouse on or off (off: the terminal selects text)"),
    all(Do::Redraw, &[ctrl('l')], 0, "redraw", "draw the whole screen anew"),
    all(Do::Suspend, &[ctrl('z')], 0, "suspend", "back to the shell; `fg` returns"),
    when(all(Do::Detach, &[ch('D')], 0, "detach", "leave; training goes on, and `cifar-tui attach` returns"), detachable),
    all(Do::Quit, &[ch('q'), ctrl('c')], 1, "quit", "save and quit"),
];

/// The action of a key on a screen.
pub fn find(key: Key, screen: Screen) -> Option<&'static Action> {
    ACTIONS
        .iter()
        .find(|a| a.scope.counts_on(screen) && a.keys.contains(&key))
}

/// Those that count on a screen, its own first.
pub fn on_screen(screen: Screen) -> impl Iterator<Item = &'static Action> {
    ACTIONS.iter().filter(move |a| a.scope.counts_on(screen))
}

/// README's key table, in Markdown.
pub fn markdown() -> String {
    let mut text = String::from("| where | keys | does |\n|---|---|---|\n");
    for action in ACTIONS.iter().filter(|a| !a.keys.is_empty()) {
        let place = match action.scope {
            Scope::All => "everywhere".to_owned(),
            Scope::On(screens) => screens
                .iter()
                .map(|s| s.title())
                .collect::<Vec<_>>()
                .join(", "),
        };
        let keys = action
            .keys
            .iter()
            .map(|k| format!("`{k}`"))
            .collect::<Vec<_>>()
            .join(" ");
        text += &format!("| {place} | {keys} | {} |\n", action.help);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::views::VIEWS;

    #[test]
    fn every_key_is_unique_in_its_scope() {
        for view in VIEWS {
            let mut seen: Vec<Key> = Vec::new();
            for action in on_screen(view.screen) {
                for key in action.keys {
                    assert!(
                        !seen.contains(key),
                        "{key} twice on {}",
                        view.screen.title()
                    );
                    seen.push(*key);
                }
            }
        }
    }

    #[test]
    fn every_action_is_explained() {
        for action in ACTIONS {
            assert!(!action.name.is_empty() && !action.help.is_empty());
            assert!(
                action.does.is_global() == (action.scope == Scope::All),
                "{:?}: the app's own actions count everywhere, a view's on its screens",
                action.does
            );
        }
    }

    #[test]
    fn every_screen_has_its_key() {
        for view in VIEWS {
            let n = ACTIONS
                .iter()
                .filter(|a| a.does == Do::Show(view.screen))
                .count();
            assert_eq!(n, 1, "{}", view.screen.title());
        }
    }
}
