//! Draws the panel: its rows, the text below them, and the line that stands for it where there is no room.

use super::super::TrainAction;
use super::{Editor, Panel, differs, figure};
use crate::domain::params::{Applies, HyperParam};
use crate::tui::actions::key_of;
use crate::tui::session_view::SessionView;
use crate::tui::theme::Theme;
use crate::tui::widgets::text_field::TextField;
use crate::tui::widgets::{fitted, line, panel, paragraph, text, text_right, wrap};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthStr;

impl Panel {
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
