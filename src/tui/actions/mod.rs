//! The ACTIONS table: each action's keys, screen, names and the reasons why it may be unavailable. Dispatch, footer,
//! help, palette, `cifar-tui keys`, README's table and key names in messages are generated from it. To add a key, add a
//! row and, for a new action, a variant of [`ProgramAction`] or of the view's own actions; the compiler then points to
//! the code that has to handle it.

mod table;

pub use table::{ACTIONS, README_ACTIONS};

use super::session_view::SessionView;
use super::views::model::ModelAction;
use super::views::{Screen, VIEWS, ViewAction};
use crate::domain::symbols::Symbols;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::fmt;

/// An action of the program or of the open view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Do {
    Program(ProgramAction),
    View(ViewAction),
}

/// Actions of the program, independent of the open screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramAction {
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
}

impl Do {
    /// Whether the action changes the run or what the next one begins with.
    pub fn steers(self) -> bool {
        use ProgramAction::*;
        match self {
            Do::Program(does) => matches!(
                does,
                Pause | Step | Evaluate | Checkpoint | Restart | GoBack | Stop | Undo
            ),
            Do::View(ViewAction::Model(does)) => matches!(
                does,
                ModelAction::Edit
                    | ModelAction::Presets
                    | ModelAction::Recipe
                    | ModelAction::Freeze
                    | ModelAction::Slower
                    | ModelAction::Faster
                    | ModelAction::Reset
            ),
            Do::View(_) => false,
        }
    }
}

impl From<ProgramAction> for Do {
    fn from(action: ProgramAction) -> Self {
        Do::Program(action)
    }
}

impl From<ViewAction> for Do {
    fn from(action: ViewAction) -> Self {
        Do::View(action)
    }
}

/// A move of the cursor through lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    Up,
    Down,
    Top,
    Bottom,
    HalfUp,
    HalfDown,
}

impl Move {
    /// The number of items to move forward, where a line has `line` items and a page has `page`. Larger than any list
    /// for the ends.
    pub fn by(self, line: usize, page: usize) -> i64 {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX / 2);
        match self {
            Move::Up => -count(line),
            Move::Down => count(line),
            Move::Top => i64::MIN / 2,
            Move::Bottom => i64::MAX / 2,
            Move::HalfUp => -count(page),
            Move::HalfDown => count(page),
        }
    }
}

/// The index among `count` items after [`Move::by`], clamped to the list.
pub fn moved(place: usize, by: i64, count: usize) -> usize {
    let last = i64::try_from(count.saturating_sub(1)).unwrap_or(i64::MAX / 2);
    let place = i64::try_from(place).unwrap_or(i64::MAX / 2);
    usize::try_from((place + by).clamp(0, last)).unwrap_or(0)
}

/// A key press.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub code: KeyCode,
    pub ctrl: bool,
}

impl Key {
    /// The key of an event. The character already includes shift.
    pub fn of(event: &KeyEvent) -> Self {
        Key {
            code: event.code,
            ctrl: event.modifiers.contains(KeyModifiers::CONTROL),
        }
    }
}

impl Key {
    /// The key's name on a terminal with these symbols. In ASCII, arrows are written as words, since `^` and `v` are
    /// keys.
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

pub(in crate::tui) const fn ch(c: char) -> Key {
    key(KeyCode::Char(c))
}

pub(in crate::tui) const fn key(code: KeyCode) -> Key {
    Key { code, ctrl: false }
}

pub(in crate::tui) const fn ctrl(c: char) -> Key {
    Key {
        code: KeyCode::Char(c),
        ctrl: true,
    }
}

/// A row of the table.
pub struct Action {
    pub does: Do,
    pub keys: &'static [Key],
    /// The screen on which the keys work; None for all.
    pub screen: Option<Screen>,
    /// A word for the footer.
    pub name: &'static str,
    /// A few words for help, palette and the key table.
    pub help: &'static str,
    /// Order in the footer: when it gets narrow, larger numbers are dropped first; 0 is never shown there.
    pub rank: u8,
    /// Returns the reason if the action is unavailable now.
    pub enabled: fn(&SessionView) -> Result<(), String>,
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

    /// Whether its keys work on a screen.
    pub fn works_on(&self, screen: Screen) -> bool {
        self.screen.is_none_or(|own| own == screen)
    }
}

/// The action of a key on a screen.
pub fn find(key: Key, screen: Screen) -> Option<&'static Action> {
    on_screen(screen).find(|a| a.keys.contains(&key))
}

/// The actions whose keys work on a screen, the screen's own first.
pub fn on_screen(screen: Screen) -> impl Iterator<Item = &'static Action> {
    ACTIONS.iter().filter(move |a| a.works_on(screen))
}

/// The actions that the palette offers on a screen: those of the open view and of the program.
pub fn offered(screen: Screen) -> impl Iterator<Item = &'static Action> {
    ACTIONS.iter().filter(move |a| match a.does {
        Do::Program(_) => true,
        Do::View(does) => does.screen() == screen,
    })
}

/// The first key of an action in words, for sentences that name it.
pub fn key_of(does: impl Into<Do>) -> String {
    let does = does.into();
    ACTIONS
        .iter()
        .find(|a| a.does == does)
        .and_then(|a| a.keys.first())
        .map_or_else(|| format!("{does:?}"), |key| key.name(Symbols::Ascii))
}

/// Every key, by screen, as aligned lines of a terminal that shows these symbols.
pub fn listing(symbols: Symbols) -> String {
    let places = VIEWS
        .iter()
        .map(|view| (view.title, Some(view.screen)))
        .chain([("everywhere", None)]);
    let mut text = String::new();
    for (place, screen) in places {
        text += &format!("{}{place}\n", if text.is_empty() { "" } else { "\n" });
        for action in ACTIONS.iter().filter(|a| a.screen == screen) {
            if !action.keys.is_empty() {
                text += &format!("  {:<12} {}\n", action.keys_text(symbols), action.help);
            }
        }
    }
    text += "\nthe screen of `cifar-tui sweep`\n";
    text += &super::sweep::listing(symbols);
    text
}

/// README's table of the most important keys, in Markdown.
pub fn markdown() -> String {
    let mut text = String::from("| where | keys | does |\n|---|---|---|\n");
    let rows = README_ACTIONS
        .iter()
        .flat_map(|first| ACTIONS.iter().filter(move |a| a.does == *first));
    for action in rows {
        let place = action.screen.map_or("everywhere", Screen::title);
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
    use crate::tui::views::train::TrainAction;

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
        }
    }

    #[test]
    fn every_screen_has_its_key() {
        for view in VIEWS {
            let n = ACTIONS
                .iter()
                .filter(|a| a.does == ProgramAction::Show(view.screen).into())
                .count();
            assert_eq!(n, 1, "{}", view.screen.title());
        }
    }

    #[test]
    fn every_key_is_listed_and_twenty_are_enough_to_start_with() {
        let (listing, markdown) = (listing(Symbols::Braille), markdown());
        for action in ACTIONS.iter().filter(|a| !a.keys.is_empty()) {
            let keys = action.keys_text(Symbols::Braille);
            let line = format!("  {keys:<12} {}\n", action.help);
            assert!(listing.contains(&line), "{line}");
        }
        assert_eq!(README_ACTIONS.len(), 20);
        assert_eq!(markdown.lines().count(), 2 + README_ACTIONS.len());
    }

    #[test]
    fn every_action_that_a_sentence_names_has_a_key() {
        for action in ACTIONS {
            if !action.keys.is_empty() {
                assert_eq!(key_of(action.does), action.keys[0].name(Symbols::Ascii));
            }
        }
        assert_eq!(key_of(ProgramAction::Restart), "R");
        assert_eq!(key_of(ProgramAction::Pause), "space");
        assert_eq!(
            key_of(Do::View(ViewAction::Train(TrainAction::Type))),
            "enter"
        );
    }
}
