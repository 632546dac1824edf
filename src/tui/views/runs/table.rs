//! Draws the table of runs.

use super::super::query::message;
use super::curves::curve_style;
use super::{LETTERS, RunsView};
use crate::domain::report::RunSummary;
use crate::domain::text::duration;
use crate::tui::session_view::SessionView;
use crate::tui::theme::Theme;
use crate::tui::widgets::{fitted, list, panel, text, text_right};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

impl RunsView {
    pub(super) fn draw_table(
        &self,
        session: &SessionView,
        theme: Theme,
        area: Rect,
        buf: &mut Buffer,
    ) {
        let items = self.items();
        let title = Line::from(vec![
            Span::styled("runs  ", theme.text()),
            Span::styled(items.len().to_string(), theme.accent()),
        ]);
        let right = Line::from(Span::styled(self.folder().to_owned(), theme.dim()));
        let inner = panel(buf, area, theme.frame(), &title, &right);
        if items.is_empty() {
            let lines = match (self.runs.failure(), session.ended) {
                (Some(why), _) => vec!["The runs could not be read:".into(), why.to_owned()],
                (None, true) => vec!["The session is over.".into()],
                (None, false) if self.runs.is_waiting() => vec!["Reading the runs folder.".into()],
                (None, false) => vec![
                    "No run is here yet.".into(),
                    "Each run leaves a folder with its settings, figures and checkpoints.".into(),
                ],
            };
            return message(&lines, theme, inner, buf);
        }
        let columns = Columns::of(inner.width, items);
        columns.header(theme, inner, buf);
        let lines = usize::from(inner.height.saturating_sub(1)).max(1);
        let at = self.at();
        let first = list::first_row(at, items.len(), lines);
        for (i, run) in items.iter().enumerate().skip(first).take(lines) {
            let y = inner.y + 1 + (i - first) as u16;
            let chosen = i == at;
            let style = list::row(chosen, theme, inner, y, buf);
            if let Some(m) = self.marked.iter().position(|m| *m == run.name) {
                text(buf, inner, inner.x, y, LETTERS[m], curve_style(m, theme));
            }
            columns.row(run, chosen, style, theme, (inner, y), buf);
        }
    }
}

/// A column: its heading, its width or right edge, and its text for a run.
type Figure = (&'static str, u16, fn(&RunSummary) -> String);

/// The columns that fit.
struct Columns {
    name: u16,
    /// The visible columns with their right edges, relative to the table.
    figures: Vec<Figure>,
    outcome: u16,
    /// The longest outcome that fits.
    outcome_length: usize,
    differs: u16,
}

fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |v| format!("{:.2}%", 100.0 * v))
}

impl Columns {
    fn of(width: u16, runs: &[RunSummary]) -> Self {
        // Wide enough for `10000/10000` if a run has that many epochs.
        let digits = runs.iter().map(|r| r.params.epochs.to_string().len()).max();
        let epochs = (2 * digits.unwrap_or(0) as u16 + 3).max(8);
        /// From the most to the least important. The width of `epochs` depends on the runs.
        const FIGURES: [Figure; 8] = [
            ("best", 8, |r| percent(r.best_val_accuracy)),
            ("final", 8, |r| percent(r.final_val_accuracy)),
            ("epochs", 0, |r| {
                format!("{}/{}", r.epochs_done, r.params.epochs)
            }),
            ("test", 8, |r| percent(r.test_accuracy) + r.test_tta.mark()),
            ("time", 9, |r| duration(r.elapsed)),
            ("at", 4, |r| {
                r.best_epoch.map_or_else(String::new, |e| e.to_string())
            }),
            ("to target", 11, |r| {
                r.reached
                    .map_or_else(String::new, |reached| duration(reached.elapsed))
            }),
            ("best test", 11, |r| {
                r.best_test_accuracy
                    .map_or_else(String::new, |a| percent(Some(a)) + r.test_tta.mark())
            }),
        ];
        let longest = runs.iter().map(|r| r.status().chars().count() as u16 + 1);
        let narrow = if width < 100 { 12 } else { 16 };
        let outcome = longest.max().unwrap_or(0).clamp(narrow, 16);
        let name = (width / 4).clamp(10, 28);
        let mut used = 2 + name + outcome;
        let mut figures = Vec::new();
        let marks = runs.iter().map(|run| run.test_tta.mark().len() as u16);
        let mark = marks.max().unwrap_or(0);
        let has_target = runs.iter().any(|run| run.params.target > 0.0);
        for (word, columns, figure) in FIGURES {
            if word == "to target" && !has_target {
                continue;
            }
            let mark = match word {
                "test" | "best test" => mark,
                _ => 0,
            };
            let columns = if columns == 0 { epochs } else { columns + mark };
            if used + columns <= width {
                used += columns;
                figures.push((word, used, figure));
            }
        }
        Columns {
            name,
            figures,
            outcome: 2 + name,
            outcome_length: usize::from(outcome) - 1,
            differs: used + 2,
        }
    }

    fn header(&self, theme: Theme, area: Rect, buf: &mut Buffer) {
        text(buf, area, area.x + 2, area.y, "name", theme.dim());
        text(
            buf,
            area,
            area.x + self.outcome,
            area.y,
            "outcome",
            theme.dim(),
        );
        for (word, end, _) in &self.figures {
            text_right(buf, area, area.x + end, area.y, word, theme.dim());
        }
        if area.width > self.differs + 12 {
            text(
                buf,
                area,
                area.x + self.differs,
                area.y,
                "differs in",
                theme.dim(),
            );
        }
    }

    fn row(
        &self,
        run: &RunSummary,
        chosen: bool,
        style: Style,
        theme: Theme,
        (area, y): (Rect, u16),
        buf: &mut Buffer,
    ) {
        let room = usize::from(self.name.saturating_sub(1));
        // Deep branches leave at least half of the room to the name.
        let branch = run.branch();
        let skip = (branch.chars().count().saturating_sub(room / 2)) / 2 * 2;
        let name = branch.chars().skip(skip).collect::<String>() + &run.name;
        text(buf, area, area.x + 2, y, fitted(&name, room), style);
        let outcome = match run.outcome.as_str() {
            _ if chosen => style,
            "diverged" | "failed" => theme.wrong(),
            "running" => theme.accent(),
            _ => theme.dim(),
        };
        text(
            buf,
            area,
            area.x + self.outcome,
            y,
            fitted(&run.status(), self.outcome_length),
            outcome,
        );
        for (_, end, figure) in &self.figures {
            text_right(buf, area, area.x + end, y, &figure(run), style);
        }
        if area.width > self.differs + 12 {
            let differs = run
                .differs
                .iter()
                .map(|(key, value)| format!("{} {value}", key.replace('_', " ")))
                .collect::<Vec<_>>()
                .join(", ");
            let note = if run.note.is_empty() {
                differs
            } else if differs.is_empty() {
                run.note.clone()
            } else {
                format!("{}; {differs}", run.note)
            };
            text(
                buf,
                area,
                area.x + self.differs,
                y,
                note,
                if chosen { style } else { theme.dim() },
            );
        }
    }
}
