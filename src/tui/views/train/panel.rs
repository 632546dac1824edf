//! The hyperparameter panel: for each row of HYPERPARAMS its value, pending changes and when a change applies.

use super::TrainAction;
use crate::domain::params::{Applies, HYPERPARAMS, HyperParam, Value};
use crate::domain::sweep::{Axis, SweepError};
use crate::domain::text::nearest;
use crate::tui::actions::{Move, key_of, moved};
use crate::tui::session_view::{SessionView, Severity};
use crate::tui::theme::Theme;
use crate::tui::views::Context;
use crate::tui::widgets::text_field::TextField;
use crate::tui::widgets::{fitted, line, panel, paragraph, text, text_right, wrap};
use crossterm::event::{KeyCode, KeyEvent};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthStr;

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

    pub fn draw(&self, session: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer) {
        if area.is_empty() {
            return;
        }
        let title = Line::styled("hyperparameters", theme.strong());
        let right = match &self.editor {
            Some(Editor::Filter(field)) => {
                let mut spans = vec![Span::styled("/", theme.accent())];
                spans.extend(field_spans(field, theme.strong(), false));
                Line::from(spans)
            }
            _ if !self.filter.is_empty() => Line::styled(
                format!("/{}  {} clears", self.filter, key_of(TrainAction::Back)),
                theme.accent(),
            ),
            _ if self.compares => Line::styled("comparing the next change", theme.accent()),
            _ if session.comparison.is_some() => Line::styled(
                format!(
                    "{} keeps it, {} drops it",
                    theme.symbols.enter(),
                    key_of(TrainAction::Back)
                ),
                theme.accent(),
            ),
            _ => Line::default(),
        };
        panel(buf, area, theme.frame(), &title, &right);
        let (list, words) = Self::parts(area);
        let rows = self.rows();
        let from = self.first(usize::from(list.height));
        for (i, (y, row)) in (list.top()..list.bottom()).zip(&rows[from..]).enumerate() {
            let place = Rect::new(list.x, y, list.width, 1);
            self.draw_row(row, from + i == self.chosen, session, theme, place, buf);
        }
        let more = rows.len().saturating_sub(from + usize::from(list.height));
        let hidden = match (from, more) {
            (0, 0) => String::new(),
            (0, more) => format!(" {more} more ↓ "),
            (above, 0) => format!(" {above} more ↑ "),
            (above, more) => format!(" {above} ↑ {more} ↓ "),
        };
        let x = area.right().saturating_sub(2);
        text_right(buf, area, x, area.bottom() - 1, &hidden, theme.dim());
        self.draw_words(session, theme, words, buf);
    }

    fn draw_row(
        &self,
        row: &HyperParam,
        here: bool,
        session: &SessionView,
        theme: Theme,
        area: Rect,
        buf: &mut Buffer,
    ) {
        let idle = !row.applies_to(session.params.optimizer);
        let mark = if here { "▸ " } else { "  " };
        let x = text(buf, area, area.x, area.y, mark, theme.accent());
        let label = match (here, idle) {
            (true, _) => theme.strong(),
            (false, true) => theme.frame(),
            (false, false) => theme.text(),
        };
        text(buf, area, x, area.y, row.label, label);
        let x = area.x + 19;
        if let Some(Editor::Value { field, fresh, .. }) = self.editor.as_ref().filter(|_| here) {
            let content = Line::from(field_spans(field, theme.selected(), *fresh));
            // Show the end of a long text, where the cursor usually is.
            let room = area.right().saturating_sub(x);
            draw_end(&content, Rect::new(x, area.y, room, 1), buf);
            return;
        }
        let value = row.get(&session.params);
        let shown = match row.unit {
            "" => row.show(&value),
            unit => match row.show(&value).as_str() {
                "off" => "off".into(),
                number => format!("{number} {unit}"),
            },
        };
        let style = match (idle, here) {
            (true, _) => theme.frame(),
            (false, true) => theme.strong(),
            (false, false) => theme.text(),
        };
        let is_later = row.applies != Applies::Now;
        let effective = session.steps.as_ref().map(|s| s.learning_rate);
        let rate = effective.filter(|rate| {
            row.key == "learning_rate" && differs(*rate, session.params.learning_rate)
        });
        let range = self.ranges.iter().find(|(key, _)| *key == row.key);
        // The text beside the value, its style, and whether it is right-aligned.
        let (words, words_style, right) = match (session.coming(row.key), rate) {
            _ if range.is_some() => {
                let values = range.map_or("", |(_, values)| values);
                let sweep = key_of(TrainAction::Sweep);
                (
                    format!("→ {values}  {sweep} sweeps"),
                    theme.pending(),
                    false,
                )
            }
            (Some(coming), _) => {
                let when = match session.pending.get(row.key) {
                    Some((_, at)) => at.to_string(),
                    None if is_later => row.applies.to_string(),
                    None => "next step".into(),
                };
                let words = format!("→ {} at {when}", row.show(coming));
                (words, theme.pending(), false)
            }
            (None, Some(rate)) => (format!("now {}", figure(rate)), theme.dim(), false),
            (None, None) if here || is_later => (row.applies.to_string(), theme.frame(), true),
            (None, None) => (String::new(), style, true),
        };
        // A long value is shortened, but not below the columns before the text's usual position.
        let room = usize::from(area.right().saturating_sub(x));
        let gap = if words.is_empty() { 0 } else { 3 };
        let value_room = room.saturating_sub(words.width() + gap).max(10);
        let end = text(buf, area, x, area.y, fitted(&shown, value_room), style);
        if right {
            text_right(buf, area, area.right() - 1, area.y, &words, words_style);
        } else {
            // At the usual position, or further left if it would not fit there.
            let last = area.right().saturating_sub(words.width() as u16);
            let x = (area.x + 30).min(last).max(end + 1);
            text(buf, area, x, area.y, words, words_style);
        }
    }

    /// Help and allowed values of the chosen row, or the error of the typed text.
    fn draw_words(&self, session: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer) {
        let Some(row) = self.row() else {
            text(buf, area, area.x + 2, area.y, self.no_match(), theme.dim());
            return;
        };
        let width = usize::from(area.width.saturating_sub(3)).max(1);
        let mut rows: Vec<(String, Style)> = Vec::new();
        if let Some(Editor::Value { error, .. }) = &self.editor {
            match error {
                Some(why) => rows.extend(wrap(why, width).into_iter().map(|l| (l, theme.wrong()))),
                None => {
                    let words = match row.key {
                        "architecture" => "a preset's name, or layers".to_owned(),
                        "layer_rates" => "layers and factors: conv1 0, dense2 0.5".to_owned(),
                        _ => row.range(),
                    };
                    rows.extend(
                        wrap(&words, width)
                            .into_iter()
                            .map(|l| (l, theme.validation())),
                    );
                    let enter = theme.symbols.enter();
                    rows.push((
                        format!("{enter} sets it, esc leaves it; a range or a list is for a sweep"),
                        theme.dim(),
                    ));
                }
            }
        } else {
            let idle = if row.applies_to(session.params.optimizer) {
                ""
            } else {
                " Idle with this optimizer."
            };
            let words = format!("{}{idle}", row.help);
            rows.extend(wrap(&words, width).into_iter().map(|l| (l, theme.dim())));
            rows.push((format!("allowed: {}", row.range()), theme.dim()));
        }
        let area = Rect::new(
            area.x + 2,
            area.y,
            area.width.saturating_sub(2),
            area.height,
        );
        paragraph(buf, area, &rows);
    }

    /// The panel as one line that scrolls: the chosen row and those after it.
    pub fn draw_line(&self, session: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer) {
        if area.is_empty() {
            return;
        }
        if let Some(Editor::Filter(field)) = &self.editor {
            let mut spans = vec![Span::styled(" filter /", theme.accent())];
            spans.extend(field_spans(field, theme.strong(), false));
            line(buf, area, area.x, area.y, &Line::from(spans));
            return;
        }
        let rows = self.rows();
        let Some(row) = self.row() else {
            text(buf, area, area.x + 1, area.y, self.no_match(), theme.dim());
            return;
        };
        if let Some(Editor::Value {
            field,
            fresh,
            error,
        }) = &self.editor
        {
            let x = text(buf, area, area.x + 1, area.y, "▸ ", theme.accent());
            let x = text(
                buf,
                area,
                x,
                area.y,
                format!("{} ", row.label),
                theme.strong(),
            );
            let (words, style) = match error {
                Some(why) => (why.clone(), theme.wrong()),
                None => (row.range(), theme.validation()),
            };
            let content = Line::from(field_spans(field, theme.selected(), *fresh));
            let width = (content.width() as u16).min(area.right().saturating_sub(x) / 2);
            draw_end(&content, Rect::new(x, area.y, width, 1), buf);
            text(buf, area, x + width + 2, area.y, words, style);
            return;
        }
        let mut x = area.x + 1;
        let chosen = self.chosen.min(rows.len() - 1);
        let place = format!("{}/{}", chosen + 1, rows.len());
        text_right(buf, area, area.right(), area.y, &place, theme.dim());
        let area = Rect::new(
            area.x,
            area.y,
            area.width.saturating_sub(place.len() as u16 + 2),
            1,
        );
        // The chosen row stays at the left; the rows after it scroll.
        for (i, row) in rows[chosen..].iter().enumerate() {
            if x + 4 >= area.right() {
                break;
            }
            let here = i == 0;
            let (mark, label) = match here {
                true => ("▸ ", theme.strong()),
                false => ("  ", theme.dim()),
            };
            x = text(buf, area, x, area.y, mark, theme.accent());
            x = text(buf, area, x, area.y, format!("{} ", row.label), label);
            let value = row.get(&session.params);
            let style = if here { theme.strong() } else { theme.text() };
            x = text(buf, area, x, area.y, row.show(&value), style);
            if let Some(coming) = session.coming(row.key) {
                let when = match session.pending.get(row.key) {
                    Some((_, at)) => format!(" at {at}"),
                    None => String::new(),
                };
                let words = format!(" → {}{when}", row.show(coming));
                x = text(buf, area, x, area.y, words, theme.pending());
            } else if here && row.applies != Applies::Now {
                x = text(
                    buf,
                    area,
                    x,
                    area.y,
                    format!(" ({})", row.applies),
                    theme.dim(),
                );
            }
            x = text(buf, area, x, area.y, " ", theme.text());
        }
    }
}

/// The text of a field with its cursor. All of it is marked while the first letter would replace it.
fn field_spans(field: &TextField, style: Style, marked: bool) -> Vec<Span<'static>> {
    let (before, after) = field.text().split_at(field.cursor());
    let mut rest = after.chars();
    let under = rest.next().unwrap_or(' ');
    let text_style = if marked {
        style.add_modifier(Modifier::UNDERLINED)
    } else {
        style
    };
    vec![
        Span::styled(before.to_owned(), text_style),
        Span::styled(under.to_string(), style.add_modifier(Modifier::REVERSED)),
        Span::styled(rest.as_str().to_owned(), text_style),
    ]
}

/// Draws a line over `area`, cut off at its left if it is too long.
fn draw_end(content: &Line<'_>, area: Rect, buf: &mut Buffer) {
    let cut = content.width().saturating_sub(usize::from(area.width));
    if cut == 0 {
        line(buf, area, area.x, area.y, content);
        return;
    }
    let mut left = cut;
    let mut x = area.x;
    for span in &content.spans {
        let letters: String = span.content.chars().skip(left).collect();
        left = left.saturating_sub(span.content.chars().count());
        x = text(buf, area, x, area.y, letters, span.style);
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
