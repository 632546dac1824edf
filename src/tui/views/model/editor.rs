//! The architecture as text: editing, errors, and presets.

use super::ModelView;
use crate::domain::arch::{self, ARCHS, ArchError, Shape, Summary, resolve};
use crate::domain::params::{Value, param};
use crate::domain::recipes;
use crate::tui::actions::{ProgramAction, key_of};
use crate::tui::session_view::{SessionView, Severity};
use crate::tui::theme::Theme;
use crate::tui::views::Context;
use crate::tui::widgets::text_field::TextField;
use crate::tui::widgets::{panel, text, text_right, wrapped_ranges};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

/// The layers of a text for the images of the session, or the text's error.
pub(super) fn summary(text: &str, session: &SessionView) -> Result<Vec<Summary>, ArchError> {
    let arch = resolve(text)?;
    match &session.data {
        Some(data) => arch.summary(data.shape(), data.classes.len()),
        // Nothing is loaded yet.
        None => arch.summary(Shape::CIFAR, arch::CIFAR_CLASSES),
    }
}

/// The architecture of the next run: a preset's name or a text.
fn wanted(session: &SessionView) -> String {
    session.wanted().architecture
}

/// The text of the preset with this name; other text unchanged.
fn written_out(name_or_text: &str) -> &str {
    ARCHS
        .iter()
        .find(|p| p.name.eq_ignore_ascii_case(name_or_text.trim()))
        .map_or(name_or_text, |p| p.text)
}

/// The preset with this text, if any.
fn preset(name_or_text: &str) -> Option<&'static str> {
    let arch = resolve(name_or_text).ok()?;
    ARCHS
        .iter()
        .find(|p| resolve(p.text).is_ok_and(|a| a == arch))
        .map(|p| p.name)
}

/// Asks for the recipe after the wanted one, for the next run.
pub(super) fn next_recipe(ctx: &mut Context) {
    let now = ctx.session.wanted().recipe;
    let at = recipes::NAMES.iter().position(|name| **name == *now);
    let next = at.map_or(0, |i| (i + 1) % recipes::NAMES.len());
    ctx.set(recipes::KEY, Value::Text(recipes::NAMES[next].to_owned()));
}

impl ModelView {
    /// The text that is shown: the draft, the pending or the running architecture.
    pub(super) fn text(&self, session: &SessionView) -> String {
        match &self.draft {
            Some(field) => field.text().to_owned(),
            None => written_out(&wanted(session)).to_owned(),
        }
    }

    pub(super) fn apply(&mut self, ctx: &mut Context) {
        let Some(field) = &self.draft else {
            return;
        };
        let text = field.text().trim().to_owned();
        let Some(row) = param("architecture") else {
            return;
        };
        if let Err(error) = summary(&text, ctx.session) {
            ctx.say(Severity::Warning, error.to_string());
            return;
        }
        // A preset is referred to by its name, however it was typed.
        let value = preset(&text).map_or(text, str::to_owned);
        match row.check(Value::Text(value)) {
            Ok(value) => {
                if row.get(&ctx.session.wanted()) != value {
                    ctx.set("architecture", value);
                }
                self.draft = None;
            }
            Err(error) => ctx.say(Severity::Warning, error.to_string()),
        }
    }

    pub(super) fn next_preset(&mut self, session: &SessionView) {
        let now = preset(&self.text(session));
        let at = ARCHS.iter().position(|p| Some(p.name) == now);
        let next = at.map_or(0, |i| (i + 1) % ARCHS.len());
        self.draft = Some(TextField::new(ARCHS[next].text));
    }

    pub(super) fn text_lines(&self, session: &SessionView, width: u16) -> u16 {
        let text = self.text(session);
        let error = u16::from(self.draft.is_some()) * 2;
        wrapped_ranges(&text, width.saturating_sub(4).into()).len() as u16 + error
    }

    pub(super) fn draw_text(
        &self,
        session: &SessionView,
        theme: Theme,
        area: Rect,
        buf: &mut Buffer,
    ) {
        let content = self.text(session);
        let error = summary(&content, session).err();
        let name = preset(&content).unwrap_or("your own");
        let of_recipe = session.coming(recipes::KEY).is_some();
        let recipe = match of_recipe {
            true => theme.pending(),
            false => theme.dim(),
        };
        let mut title = vec![
            Span::styled("architecture  ", theme.text()),
            Span::styled(name, theme.accent()),
        ];
        // While a text is edited, its keys need the room.
        if self.draft.is_none() {
            title.push(Span::styled("   recipe  ", theme.text()));
            title.push(Span::styled(session.wanted().recipe, recipe));
        }
        let title = Line::from(title);
        let pending = of_recipe || session.coming("architecture").is_some();
        let right = match (&self.draft, pending) {
            (Some(_), _) => Span::styled(
                format!(
                    "{} next run   ctrl-n preset   esc forget",
                    theme.symbols.enter()
                ),
                theme.pending(),
            ),
            (None, true) => Span::styled(
                format!(
                    "pending: {} starts the next run",
                    key_of(ProgramAction::Restart)
                ),
                theme.pending(),
            ),
            (None, false) if session.run.is_none() => Span::styled("the next run's", theme.dim()),
            (None, false) => Span::styled("as it runs", theme.dim()),
        };
        let frame = if self.draft.is_some() {
            theme.accent()
        } else {
            theme.frame()
        };
        let inner = panel(buf, area, frame, &title, &Line::from(right));
        if inner.is_empty() {
            return;
        }
        let lines = wrapped_ranges(&content, inner.width.saturating_sub(2).into());
        let cursor = self.draft.as_ref().map(TextField::cursor);
        let wrong = error.as_ref().filter(|_| self.draft.is_some());
        let mut y = inner.y;
        // Keep the line with the cursor visible.
        let room = usize::from(
            inner
                .height
                .saturating_sub(2 * u16::from(self.draft.is_some())),
        )
        .max(1);
        let line_of = |at: usize| lines.iter().position(|l| at <= l.end).unwrap_or(0);
        let first = cursor.map_or(0, |c| (line_of(c) + 1).saturating_sub(room));
        let error_line = wrong.map(|e| line_of(e.at.start));
        for (i, range) in lines.iter().enumerate().skip(first).take(room) {
            let line_text = &content[range.clone()];
            text(buf, inner, inner.x + 1, y, line_text, theme.text());
            if let Some(at) = cursor
                && range.contains(&at) | (at == range.end && i == line_of(at))
            {
                let x = inner.x + 1 + columns(&content[range.start..at]);
                let inner = inner.intersection(buf.area);
                if inner.contains((x, y).into()) {
                    buf[(x, y)]
                        .set_style(Style::new().add_modifier(ratatui::style::Modifier::REVERSED));
                }
            }
            y += 1;
            if error_line == Some(i)
                && let Some(e) = wrong
            {
                let start = e.at.start.clamp(range.start, range.end);
                let end = e.at.end.clamp(start, range.end);
                let x = inner.x + 1 + columns(&content[range.start..start]);
                let carets = usize::from(columns(&content[start..end])).max(1);
                text(buf, inner, x, y, "^".repeat(carets), theme.wrong());
                y += 1;
            }
        }
        if self.draft.is_some() {
            let y = inner.bottom() - 1;
            text(
                buf,
                inner,
                inner.x,
                y,
                " ".repeat(inner.width.into()),
                Style::new(),
            );
            match wrong {
                Some(e) => text(buf, inner, inner.x + 1, y, e.to_string(), theme.wrong()),
                None => {
                    let about = ARCHS
                        .iter()
                        .find(|p| p.name == name)
                        .map_or("It fits.", |p| p.about);
                    text(
                        buf,
                        inner,
                        inner.x + 1,
                        y,
                        format!("✓ {about}"),
                        theme.best(),
                    )
                }
            };
        } else if lines.len() > room {
            text_right(
                buf,
                inner,
                inner.right(),
                inner.bottom() - 1,
                " …",
                theme.dim(),
            );
        }
    }
}

fn columns(content: &str) -> u16 {
    unicode_width::UnicodeWidthStr::width(content) as u16
}
