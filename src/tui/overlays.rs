//! Overlays over a screen: help, the command palette, questions. Their contents come from the ACTIONS table.

mod rate_test;

use super::actions::{self, Action, Do};
use super::app::{App, Effect};
use super::views::Screen;
use super::widgets::{line, panel, text, text_right, wrap};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use nucleo_matcher::pattern::{CaseMatching, Normalization, Pattern};
use nucleo_matcher::{Config, Matcher, Utf32Str};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Widget};

/// The open overlay.
#[derive(Debug)]
pub enum Overlay {
    Help {
        scroll: u16,
    },
    Palette {
        query: String,
        chosen: usize,
    },
    Confirm {
        question: String,
        yes: Box<Effect>,
    },
    /// The newest test of learning rates. Until it `has_begun`, the session knows only an earlier one, if any.
    RateTest {
        has_begun: bool,
    },
}

/// The result of a key in an overlay.
pub enum Choice {
    Stay,
    Close,
    Do(Effect),
    Perform(&'static Action),
    /// Make the suggestion of the test the learning rate.
    SetRate,
}

/// The actions whose name or help matches the query, best match first.
fn matching(query: &str, screen: Screen) -> Vec<&'static Action> {
    let all: Vec<_> = actions::offered(screen).collect();
    if query.trim().is_empty() {
        return all;
    }
    let mut matcher = Matcher::new(Config::DEFAULT);
    let pattern = Pattern::parse(query, CaseMatching::Ignore, Normalization::Smart);
    let mut scored: Vec<(u32, usize, &'static Action)> = all
        .into_iter()
        .enumerate()
        .filter_map(|(i, action)| {
            let mut buf = Vec::new();
            let whole = format!("{} {}", action.name, action.help);
            let score = pattern.score(Utf32Str::new(&whole, &mut buf), &mut matcher)?;
            // Matches in the name come before matches in the help.
            let named = pattern
                .score(Utf32Str::new(action.name, &mut buf), &mut matcher)
                .unwrap_or(0);
            Some((score + 2 * named, i, action))
        })
        .collect();
    scored.sort_by_key(|&(score, i, _)| (std::cmp::Reverse(score), i));
    scored.into_iter().map(|s| s.2).collect()
}

/// The answer that a key gives to a question. None if it is no answer.
pub fn confirmed(key: KeyCode) -> Option<bool> {
    match key {
        KeyCode::Char('y' | 'Y') | KeyCode::Enter => Some(true),
        KeyCode::Char('n' | 'N' | 'q') | KeyCode::Esc => Some(false),
        _ => None,
    }
}

impl Overlay {
    pub fn help() -> Self {
        Overlay::Help { scroll: 0 }
    }

    pub fn palette() -> Self {
        Overlay::Palette {
            query: String::new(),
            chosen: 0,
        }
    }

    /// The overlay's rectangle on a screen of this size.
    pub fn area(&self, screen: Rect) -> Rect {
        let (width, height) = match self {
            Overlay::Help { .. } => (78, screen.height.saturating_sub(4).min(44)),
            Overlay::Palette { .. } => (70, 18),
            Overlay::Confirm { question, .. } => {
                let width = 64.min(screen.width.saturating_sub(4));
                let lines = wrap(question, usize::from(width.saturating_sub(6))).len();
                (width, lines as u16 + 6)
            }
            Overlay::RateTest { .. } => (
                screen.width.saturating_sub(4).min(110),
                screen.height.saturating_sub(4).min(32),
            ),
        };
        let width = width.min(screen.width.saturating_sub(2));
        let height = height.min(screen.height.saturating_sub(2));
        Rect::new(
            screen.x + (screen.width - width) / 2,
            screen.y + (screen.height - height) / 2,
            width,
            height,
        )
    }

    /// Scrolls by `by` lines.
    pub fn scroll(&mut self, by: i32) {
        match self {
            Overlay::Help { scroll } => {
                *scroll = (i32::from(*scroll) + by).clamp(0, 500) as u16;
            }
            Overlay::Palette { chosen, .. } => {
                *chosen = (*chosen as i64 + i64::from(by)).max(0) as usize;
            }
            Overlay::Confirm { .. } | Overlay::RateTest { .. } => {}
        }
    }

    pub fn paste(&mut self, content: &str) {
        if let Overlay::Palette { query, chosen } = self {
            *query += content;
            *chosen = 0;
        }
    }

    pub fn key(&mut self, key: &KeyEvent, size: Rect, screen: Screen) -> Choice {
        let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
        let half = i32::from(self.area(size).height / 2).max(1);
        match self {
            Overlay::Help { .. } => match (key.code, ctrl) {
                (KeyCode::Esc | KeyCode::Char('q' | '?') | KeyCode::Enter, false) => {
                    return Choice::Close;
                }
                (KeyCode::Char('j') | KeyCode::Down, _) => self.scroll(1),
                (KeyCode::Char('k') | KeyCode::Up, _) => self.scroll(-1),
                (KeyCode::Char('d'), true) | (KeyCode::PageDown | KeyCode::Char(' '), _) => {
                    self.scroll(half);
                }
                (KeyCode::Char('u'), true) | (KeyCode::PageUp, _) => self.scroll(-half),
                (KeyCode::Char('g') | KeyCode::Home, _) => self.scroll(-1000),
                (KeyCode::Char('G') | KeyCode::End, _) => self.scroll(1000),
                _ => {}
            },
            Overlay::Palette { query, chosen } => {
                let found = matching(query, screen);
                *chosen = (*chosen).min(found.len().saturating_sub(1));
                match (key.code, ctrl) {
                    (KeyCode::Esc, _) => return Choice::Close,
                    (KeyCode::Enter, _) => {
                        return match found.get(*chosen) {
                            Some(action) => Choice::Perform(action),
                            None => Choice::Stay,
                        };
                    }
                    (KeyCode::Up | KeyCode::BackTab, _) | (KeyCode::Char('p' | 'k'), true) => {
                        *chosen = chosen.saturating_sub(1);
                    }
                    (KeyCode::Down | KeyCode::Tab, _) | (KeyCode::Char('n' | 'j'), true) => {
                        *chosen = (*chosen + 1).min(found.len().saturating_sub(1));
                    }
                    (KeyCode::Backspace, _) => {
                        if query.pop().is_none() {
                            return Choice::Close;
                        }
                        *chosen = 0;
                    }
                    (KeyCode::Char('u'), true) => {
                        query.clear();
                        *chosen = 0;
                    }
                    (KeyCode::Char(c), false) => {
                        query.push(c);
                        *chosen = 0;
                    }
                    _ => {}
                }
            }
            Overlay::Confirm { yes, .. } => match confirmed(key.code) {
                Some(true) => return Choice::Do((**yes).clone()),
                Some(false) => return Choice::Close,
                None => {}
            },
            Overlay::RateTest { .. } => match key.code {
                KeyCode::Esc | KeyCode::Char('q' | 'T') => return Choice::Close,
                KeyCode::Enter => return Choice::SetRate,
                _ => {}
            },
        }
        Choice::Stay
    }

    pub fn draw(&self, app: &App, buf: &mut Buffer) {
        let area = self.area(buf.area).intersection(buf.area);
        if area.width < 6 || area.height < 3 {
            return;
        }
        Clear.render(area, buf);
        let theme = app.theme;
        match self {
            Overlay::Help { scroll } => draw_help(app, *scroll, area, buf),
            Overlay::Palette { query, chosen } => draw_palette(app, query, *chosen, area, buf),
            Overlay::RateTest { has_begun } => rate_test::draw(app, *has_begun, area, buf),
            Overlay::Confirm { question, .. } => {
                let inner = panel(
                    buf,
                    area,
                    theme.accent(),
                    &Line::default(),
                    &Line::default(),
                );
                let lines = wrap(question, usize::from(inner.width.saturating_sub(4)));
                for (i, content) in lines.iter().enumerate() {
                    let y = inner.y + 1 + i as u16;
                    text(buf, inner, inner.x + 2, y, content, theme.strong());
                }
                let answer = Line::from(vec![
                    Span::styled("y", theme.accent()),
                    Span::raw(" yes   "),
                    Span::styled("n", theme.accent()),
                    Span::raw(" no"),
                ]);
                let y = inner.bottom().saturating_sub(2).max(inner.y);
                line(buf, inner, inner.x + 2, y, &answer);
            }
        }
    }
}

fn draw_help(app: &App, scroll: u16, area: Rect, buf: &mut Buffer) {
    let theme = app.theme;
    let title = Line::styled(format!("help: {}", app.screen.title()), theme.strong());
    let right = Line::styled("esc closes", theme.dim());
    let inner = panel(buf, area, theme.accent(), &title, &right);
    let mut rows: Vec<Line> = Vec::new();
    for content in wrap(
        app.screen.row().help,
        usize::from(inner.width.saturating_sub(4)),
    ) {
        rows.push(Line::raw(content));
    }
    let mut global = false;
    rows.push(Line::default());
    for action in actions::on_screen(app.screen) {
        if matches!(action.does, Do::Program(_)) && !global {
            global = true;
            rows.push(Line::default());
            rows.push(Line::styled("on every screen", theme.dim()));
        }
        if action.keys.is_empty() {
            continue;
        }
        let mut spans = vec![
            Span::styled(
                format!("{:>13}", action.keys_text(theme.symbols)),
                theme.accent(),
            ),
            Span::raw("  "),
        ];
        match app.enabled(action) {
            Ok(()) => spans.push(Span::raw(action.help)),
            Err(why) => {
                spans.push(Span::styled(action.help, theme.dim()));
                spans.push(Span::styled(format!("  ({why})"), theme.dim()));
            }
        }
        rows.push(Line::from(spans));
    }
    let max_scroll = rows.len().saturating_sub(usize::from(inner.height));
    let from = usize::from(scroll).min(max_scroll);
    for (y, row) in (inner.top()..inner.bottom()).zip(&rows[from..]) {
        line(buf, inner, inner.x + 2, y, row);
    }
    if max_scroll > 0 {
        let note = match max_scroll - from {
            0 => " end ".to_owned(),
            more => format!(" {more} more ↓ "),
        };
        text_right(
            buf,
            area,
            area.right() - 2,
            area.bottom() - 1,
            &note,
            theme.dim(),
        );
    }
}

fn draw_palette(app: &App, query: &str, chosen: usize, area: Rect, buf: &mut Buffer) {
    let theme = app.theme;
    let title = Line::styled("palette", theme.strong());
    let hint = format!("{} does it, esc closes", theme.symbols.enter());
    let right = Line::styled(hint, theme.dim());
    let inner = panel(buf, area, theme.accent(), &title, &right);
    let field = Line::from(vec![
        Span::styled(": ", theme.accent()),
        Span::styled(query.to_owned(), theme.strong()),
        Span::styled(
            " ",
            theme
                .text()
                .add_modifier(ratatui::style::Modifier::REVERSED),
        ),
    ]);
    line(buf, inner, inner.x + 1, inner.y, &field);
    let list = Rect::new(
        inner.x,
        inner.y + 1,
        inner.width,
        inner.height.saturating_sub(1),
    );
    let found = matching(query, app.screen);
    if found.is_empty() {
        text(
            buf,
            list,
            list.x + 3,
            list.y,
            format!("no action matches '{query}'"),
            theme.dim(),
        );
    }
    let chosen = chosen.min(found.len().saturating_sub(1));
    let height = usize::from(list.height).max(1);
    let from = (chosen + 1).saturating_sub(height);
    for (i, (y, action)) in (list.top()..list.bottom()).zip(&found[from..]).enumerate() {
        let enabled = app.enabled(action);
        let here = from + i == chosen;
        let style = match (&enabled, here) {
            (_, true) => theme.selected(),
            (Ok(()), false) => theme.text(),
            (Err(_), false) => theme.dim(),
        };
        let row = Rect::new(list.x, y, list.width, 1);
        if here {
            buf.set_style(row, style);
        }
        let mark = if here { "▸" } else { " " };
        text(buf, row, row.x + 1, y, mark, style);
        let x = text(
            buf,
            row,
            row.x + 3,
            y,
            format!("{:<11} ", action.name),
            style,
        );
        let quiet = if here { style } else { theme.dim() };
        let why = match enabled {
            Ok(()) => action.help.to_owned(),
            Err(why) => why,
        };
        text(buf, row, x, y, why, quiet);
        text_right(
            buf,
            row,
            row.right() - 1,
            y,
            &format!(" {}", action.keys_text(theme.symbols)),
            style,
        );
    }
}
