//! The hyperparameter panel: for each row of HYPERPARAMS its value, pending changes and when a change applies.

mod draw;

use super::TrainAction;
use crate::domain::params::{HYPERPARAMS, HyperParam, Value};
use crate::domain::sweep::{Axis, SweepError};
use crate::domain::text::nearest;
use crate::tui::actions::{Move, key_of, moved};
use crate::tui::session_view::{SessionView, Severity};
use crate::tui::views::Context;
use crate::tui::widgets::text_field::TextField;
use crossterm::event::{KeyCode, KeyEvent};
use ratatui::layout::Rect;

/// The open text field.
#[derive(Debug)]
enum Editor {
    Value {
        field: TextField,
        /// Nothing has been typed yet: the first letter replaces the whole text.
        fresh: bool,
        error: Option<String>,
    },
    Filter(TextField),
}

/// State of the panel.
#[derive(Debug, Default)]
pub struct Panel {
    /// Index among the rows that pass the filter.
    chosen: usize,
    filter: String,
    editor: Option<Editor>,
    /// The values to try in a sweep, as typed, by hyperparameter.
    ranges: Vec<(&'static str, String)>,
    /// The next change is compared, not made.
    compares: bool,
}

/// Number of rows of a half page.
const HALF_PAGE: usize = 8;

impl Panel {
    fn rows(&self) -> Vec<&'static HyperParam> {
        let wanted = self.filter.to_lowercase();
        HYPERPARAMS
            .iter()
            .filter(|p| p.label.contains(&wanted) || p.key.contains(&wanted))
            .collect()
    }

    fn row(&self) -> Option<&'static HyperParam> {
        let rows = self.rows();
        rows.get(self.chosen.min(rows.len().saturating_sub(1)))
            .copied()
    }

    /// The value from which the next change starts.
    fn value(row: &HyperParam, session: &SessionView) -> Value {
        session
            .coming(row.key)
            .cloned()
            .unwrap_or_else(|| row.get(&session.params))
    }

    pub fn editing(&self) -> bool {
        self.editor.is_some()
    }

    pub fn is_filtered(&self) -> bool {
        !self.filter.is_empty()
    }

    /// Clears the filter. Returns false if there was none.
    pub fn leave(&mut self) -> bool {
        !std::mem::take(&mut self.filter).is_empty()
    }

    /// Whether no hyperparameter passes the filter.
    pub fn is_empty(&self) -> bool {
        self.rows().is_empty()
    }

    pub fn choose(&mut self, step: Move) {
        self.chosen = moved(self.chosen, step.by(1, HALF_PAGE), self.rows().len());
    }

    /// The axes of the sweep that was typed, as `KEY=VALUES`.
    pub fn axes(&self) -> Vec<String> {
        let ranges = self.ranges.iter();
        ranges
            .map(|(key, values)| format!("{key}={values}"))
            .collect()
    }

    /// Forgets the ranges. Returns false if there were none.
    pub fn forget_ranges(&mut self) -> bool {
        !std::mem::take(&mut self.ranges).is_empty()
    }

    /// Opens a text field for the chosen value.
    pub fn edit(&mut self, session: &SessionView) {
        if let Some(row) = self.row() {
            let range = self.ranges.iter().find(|(key, _)| *key == row.key);
            let shown = match range {
                Some((_, values)) => values.clone(),
                None => row.show(&Self::value(row, session)),
            };
            self.editor = Some(Editor::Value {
                field: TextField::new(&shown),
                fresh: true,
                error: None,
            });
        }
    }

    /// Opens a text field for the filter.
    pub fn edit_filter(&mut self) {
        self.editor = Some(Editor::Filter(TextField::new(&self.filter)));
    }

    /// Copies the chosen hyperparameter as `key = value`.
    pub fn copy(&self, ctx: &mut Context) {
        if let Some(row) = self.row() {
            let value = match Self::value(row, ctx.session) {
                Value::Text(text) => format!("{text:?}"),
                Value::Bool(on) => on.to_string(),
                other => other.to_string(),
            };
            let text = format!("{} = {value}", row.key);
            ctx.copy(text.clone(), text);
        }
    }

    pub fn nudge(&mut self, up: bool, coarse: bool, ctx: &mut Context) {
        let Some(row) = self.row() else {
            return;
        };
        let value = Self::value(row, ctx.session);
        match row.nudged(&value, up, coarse) {
            None => ctx.say(
                Severity::Warning,
                format!("{}: {} types a value", row.label, key_of(TrainAction::Type)),
            ),
            Some(next) if next == value => ctx.say(
                Severity::Warning,
                format!("{} is at its limit: {}", row.label, row.range()),
            ),
            Some(next) => self.change(row, next, ctx),
        }
    }

    /// Requests a change, or compares training with and without it.
    fn change(&mut self, row: &HyperParam, value: Value, ctx: &mut Context) {
        if !std::mem::take(&mut self.compares) {
            return ctx.set(row.key, value);
        }
        match row.comparable() {
            Ok(()) => ctx.compare(row.key, value),
            Err(why) => ctx.say(Severity::Warning, why),
        }
    }

    /// Compares the next change, or that of the chosen row if it is pending.
    pub fn compare(&mut self, ctx: &mut Context) {
        self.compares = true;
        let pending = self
            .row()
            .and_then(|row| Some((row, ctx.session.pending.get(row.key)?.0.new.clone())));
        match pending {
            Some((row, value)) => self.change(row, value, ctx),
            None => ctx.say(
                Severity::Plain,
                format!(
                    "the next change is compared: training goes on with and without it; {} leaves",
                    key_of(TrainAction::Back)
                ),
            ),
        }
    }

    /// Whether the next change is compared.
    pub fn compares(&self) -> bool {
        self.compares
    }

    /// Makes the next change instead of comparing it. Returns false if it would have been made.
    pub fn forget_comparison(&mut self) -> bool {
        std::mem::take(&mut self.compares)
    }

    pub fn paste(&mut self, pasted: &str) {
        match &mut self.editor {
            Some(Editor::Value {
                field,
                fresh,
                error,
            }) => {
                if std::mem::take(fresh) {
                    *field = TextField::default();
                }
                *error = None;
                field.insert(pasted);
            }
            Some(Editor::Filter(field)) => {
                field.insert(pasted);
                self.filter = field.text().to_owned();
                self.chosen = 0;
            }
            None => {}
        }
    }

    pub fn typed(&mut self, key: KeyEvent, ctx: &mut Context) {
        let row = self.row();
        match (&mut self.editor, key.code) {
            (Some(Editor::Filter(_)), KeyCode::Enter) => self.editor = None,
            (Some(Editor::Filter(_)), KeyCode::Esc) => {
                self.editor = None;
                self.filter.clear();
            }
            (Some(Editor::Filter(field)), _) => {
                field.key(&key);
                self.filter = field.text().to_owned();
                self.chosen = 0;
            }
            (Some(Editor::Value { .. }), KeyCode::Esc) => self.editor = None,
            (Some(Editor::Value { field, error, .. }), KeyCode::Enter) => {
                let Some(row) = row else {
                    self.editor = None;
                    return;
                };
                let typed = field.text().trim();
                match (row.parse(typed), Axis::of(row, typed)) {
                    (Ok(value), _) => {
                        self.ranges.retain(|(key, _)| *key != row.key);
                        self.editor = None;
                        if value != Self::value(row, ctx.session) {
                            self.change(row, value, ctx);
                        }
                    }
                    (Err(_), Ok(_)) => {
                        let typed = typed.to_owned();
                        self.ranges.retain(|(key, _)| *key != row.key);
                        self.ranges.push((row.key, typed));
                        self.editor = None;
                    }
                    // Only who types a range or a list wants to know what is wrong with it.
                    (Err(_), Err(SweepError::Values { why, .. })) => *error = Some(why),
                    (Err(wrong), Err(_)) => *error = Some(wrong.why),
                }
            }
            (
                Some(Editor::Value {
                    field,
                    fresh,
                    error,
                }),
                code,
            ) => {
                if std::mem::take(fresh)
                    && matches!(
                        code,
                        KeyCode::Char(_) | KeyCode::Backspace | KeyCode::Delete
                    )
                {
                    *field = TextField::default();
                }
                field.key(&key);
                *error = None;
            }
            (None, _) => {}
        }
    }

    /// The message if no hyperparameter passes the filter, with a suggestion.
    fn no_match(&self) -> String {
        let names = HYPERPARAMS.iter().flat_map(|p| [p.label, p.key]);
        let meant = nearest(&self.filter, names, 3)
            .map_or_else(String::new, |name| format!("; did you mean '{name}'?"));
        format!("no hyperparameter named '{}'{meant}", self.filter)
    }

    /// First visible row of a list of `height` rows.
    fn first(&self, height: usize) -> usize {
        let n = self.rows().len();
        (self.chosen + 1 + height / 3)
            .saturating_sub(height)
            .min(n.saturating_sub(height))
    }

    /// The areas of the list and of the text below it.
    fn parts(area: Rect) -> (Rect, Rect) {
        let inner = Rect::new(
            area.x + 1,
            area.y + 1,
            area.width.saturating_sub(2),
            area.height.saturating_sub(2),
        );
        let words = if inner.height >= 10 {
            3
        } else {
            u16::from(inner.height >= 4)
        };
        super::split_bottom(inner, words)
    }

    /// Chooses the clicked row.
    pub fn click(&mut self, y: u16, area: Rect) {
        let (list, _) = Self::parts(area);
        if (list.top()..list.bottom()).contains(&y) && !self.editing() {
            let row = self.first(usize::from(list.height)) + usize::from(y - list.y);
            self.chosen = row.min(self.rows().len().saturating_sub(1));
        }
    }
}

fn differs(a: f64, b: f64) -> bool {
    (a - b).abs() > 1e-3 * b.abs()
}

/// A learning rate with three significant digits.
pub fn figure(v: f64) -> String {
    match v {
        0.0 => "0".into(),
        v if v.abs() < 1e-4 => format!("{v:.2e}"),
        v => {
            let decimals = (2 - v.abs().log10().floor() as i32).clamp(0, 8) as usize;
            format!("{v:.decimals$}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_three_figures() {
        assert_eq!(figure(0.000_5), "0.000500");
        assert_eq!(figure(0.1), "0.100");
        assert_eq!(figure(3.2e-6), "3.20e-6");
        assert_eq!(figure(0.0), "0");
    }
}
