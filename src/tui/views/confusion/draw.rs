//! Draws the matrix, the cell under the cursor, the figures of each class and the images of an opened cell.

use super::super::image_grid::{self, ImageGrid};
use super::super::query::message;
use super::{ConfusionAction, ConfusionView, Values, WORST};
use crate::domain::confusion::Confusion;
use crate::domain::report::Evaluation;
use crate::domain::text::grouped;
use crate::tui::actions::key_of;
use crate::tui::session_view::SessionView;
use crate::tui::theme::Theme;
use crate::tui::widgets::heatmap::{Cell, Heatmap, HeatmapLayout, MARK, Tone};
use crate::tui::widgets::{bars, fitted, panel, text, text_right};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

impl ConfusionView {
    fn cells(
        &self,
        session: &SessionView,
        evaluation: &Evaluation,
        geometry: &HeatmapLayout,
    ) -> Vec<Cell> {
        let matrix = &evaluation.confusion;
        let before = session
            .evaluation_before(session.shown)
            .map(|e| &e.confusion);
        let n = matrix.classes;
        let pairs = || (0..n).flat_map(|t| (0..n).map(move |p| (t, p)));
        let worst: Vec<_> = matrix
            .most_confused(WORST)
            .iter()
            .map(|w| (w.0, w.1))
            .collect();
        let error = |(t, p)| if t == p { 0.0 } else { share(matrix, t, p) };
        // Errors have their own scale; on that of the diagonal they would all be dark.
        let largest = pairs().map(error).fold(0.02, f64::max);
        let change = |(t, p): (usize, usize)| {
            before.map(|b| i64::from(matrix.count(t, p)) - i64::from(b.count(t, p)))
        };
        let moved = pairs()
            .filter_map(change)
            .map(i64::abs)
            .max()
            .unwrap_or(0)
            .max(1);
        pairs()
            .map(|(t, p)| {
                let count = matrix.count(t, p);
                let heat = match self.values {
                    Values::Change => {
                        let by = change((t, p)).unwrap_or(0);
                        let size = (by.abs() as f64 / moved as f64).sqrt() as f32;
                        match (by > 0) == (t == p) {
                            _ if by == 0 => Tone::Cold,
                            true => Tone::Good(size),
                            false => Tone::Bad(size),
                        }
                    }
                    _ if count == 0 => Tone::Cold,
                    _ if t == p => Tone::Good(share(matrix, t, p) as f32),
                    _ => Tone::Bad((error((t, p)) / largest).powf(0.8) as f32),
                };
                let figure = match self.values {
                    Values::Counts => u64::from(count).to_string(),
                    Values::Percent if geometry.cell.0 >= 6 => {
                        format!("{:.1}", 100.0 * share(matrix, t, p))
                    }
                    Values::Percent => format!("{:.0}", 100.0 * share(matrix, t, p)),
                    Values::Change => change((t, p)).map_or(String::new(), |by| format!("{by:+}")),
                };
                let nothing = match self.values {
                    Values::Change => change((t, p)) == Some(0),
                    _ => count == 0,
                };
                Cell {
                    text: if nothing { "·".into() } else { figure },
                    tone: heat,
                    marked: worst.contains(&(t, p)),
                }
            })
            .collect()
    }

    pub(super) fn draw_matrix(
        &self,
        session: &SessionView,
        evaluation: &Evaluation,
        theme: Theme,
        area: Rect,
        buf: &mut Buffer,
    ) {
        let title = Line::from(vec![
            Span::styled(
                format!(
                    "{} {}  ",
                    evaluation.split.name(),
                    grouped(evaluation.confusion.total().into())
                ),
                theme.text(),
            ),
            Span::styled(self.values.name(), theme.accent()),
        ]);
        let right = Line::from(vec![
            Span::styled(format!("step {}  ", grouped(evaluation.step)), theme.dim()),
            Span::styled(
                format!(
                    "{:.2}%{}",
                    100.0 * evaluation.accuracy,
                    evaluation.tta.mark()
                ),
                theme.validation(),
            ),
        ]);
        let inner = panel(buf, area, theme.frame(), &title, &right);
        if self.values == Values::Change && session.evaluation_before(session.shown).is_none() {
            let why = match session.as_of {
                Some(_) => "Changes are shown of the newest evaluation only.",
                None => "There is no earlier evaluation to compare with.",
            };
            let lines = [
                why.to_owned(),
                format!("{} shows the counts.", key_of(ConfusionAction::Values)),
            ];
            return message(&lines, theme, inner, buf);
        }
        let Some((map, geometry)) = self.map(session, evaluation, theme, inner) else {
            let lines = [
                "The matrix needs more room.".to_owned(),
                sentence(session, evaluation, self.cursor),
            ];
            return message(&lines, theme, inner, buf);
        };
        map.draw(map_area(inner, &geometry), buf);
    }

    /// The heat map and its rectangle in the panel.
    fn map<'a>(
        &self,
        session: &'a SessionView,
        evaluation: &Evaluation,
        theme: Theme,
        inner: Rect,
    ) -> Option<(Heatmap<'a>, HeatmapLayout)> {
        let geometry = geometry(session, inner)?;
        let map = Heatmap {
            labels: session.classes(),
            cells: self.cells(session, evaluation, &geometry),
            cursor: self.cursor,
            colors: theme.colors,
            accent: theme.accent(),
            dim: theme.dim(),
        };
        Some((map, geometry))
    }

    pub(super) fn draw_cell(
        &self,
        session: &SessionView,
        evaluation: &Evaluation,
        theme: Theme,
        area: Rect,
        buf: &mut Buffer,
    ) {
        let (truth, predicted) = self.cursor;
        let title = Line::from(Span::styled(
            format!(
                "{} called {}",
                session.class(truth),
                session.class(predicted)
            ),
            theme.accent(),
        ));
        let inner = panel(buf, area, theme.frame(), &title, &Line::default());
        let (count, change) = cell_words(session, evaluation, self.cursor);
        text(buf, inner, inner.x, inner.y, count, theme.strong());
        let room = usize::from(inner.width);
        let change = if change.chars().count() > room {
            change.replace(" evaluation", "")
        } else {
            change
        };
        text(buf, inner, inner.x, inner.y + 1, change, theme.dim());
        let rest = Rect::new(
            inner.x,
            inner.y + 3,
            inner.width,
            inner.height.saturating_sub(3),
        );
        if rest.height < 3 {
            return;
        }
        match self.images.predictions() {
            Some((0, ..)) => message(&["No image in this cell.".into()], theme, rest, buf),
            Some((_, _, items)) => {
                let grid = side_grid(rest);
                for (i, item) in items.iter().take(grid.len()).enumerate() {
                    image_grid::draw(&item.picture, theme, grid.tile(i), buf);
                    let tile = grid.tile(i);
                    let words = format!("{} ", image_grid::confidence(item));
                    text(buf, tile, tile.x, tile.bottom() - 1, words, theme.dim());
                }
            }
            None => {
                if let Some(why) = self.images.failure() {
                    message(&["No images:".into(), why.to_owned()], theme, rest, buf);
                }
            }
        }
    }

    pub(super) fn draw_classes(
        &self,
        session: &SessionView,
        matrix: &Confusion,
        theme: Theme,
        area: Rect,
        buf: &mut Buffer,
    ) {
        let title = Line::from(Span::styled("per class, in %", theme.text()));
        let inner = panel(buf, area, theme.frame(), &title, &Line::default());
        if inner.is_empty() {
            return;
        }
        let n = matrix.classes as u16;
        let header = u16::from(inner.height > n.div_ceil(2));
        let columns = n
            .div_ceil((inner.height - header).max(1))
            .min(inner.width / 24)
            .max(1);
        let lines = n.div_ceil(columns);
        let width = (inner.width + 1) / columns;
        for column in 0..columns {
            let x = inner.x + column * width;
            let room =
                Rect::new(x, inner.y, width.saturating_sub(2), inner.height).intersection(inner);
            // The name and three numbers; the rest is for bars.
            let name = 10.min(room.width.saturating_sub(12));
            let each = (room.width.saturating_sub(name) / 3).clamp(4, 26);
            let words = match each {
                0..12 => ["prec", "rec", "F1"],
                _ => ["precision", "recall", "F1"],
            };
            for (i, word) in words.into_iter().enumerate().take(3 * usize::from(header)) {
                let end = x + name + each * (i as u16 + 1);
                text_right(buf, room, end, inner.y, word, theme.dim());
            }
            for line in 0..lines {
                let class = usize::from(column * lines + line);
                if class >= matrix.classes {
                    break;
                }
                let y = inner.y + header + line;
                let chosen = class == self.cursor.0 || class == self.cursor.1;
                let style = if chosen { theme.accent() } else { theme.text() };
                text(
                    buf,
                    room,
                    x,
                    y,
                    fitted(&session.class(class), name.into()),
                    style,
                );
                let figures = [
                    matrix.precision(class),
                    matrix.recall(class),
                    matrix.f1(class),
                ];
                for (i, figure) in figures.into_iter().enumerate() {
                    let left = x + name + each * i as u16;
                    let words = match figure {
                        Some(v) if each >= 12 => format!("{:.1}", 100.0 * v),
                        Some(v) => format!("{:.0}", 100.0 * v),
                        None => "-".into(),
                    };
                    let bar = each.saturating_sub(if each >= 12 { 7 } else { 5 });
                    if bar >= 3 && y < room.bottom() && left + each <= room.right() {
                        let at = (left + 1, y);
                        bars::draw(
                            at,
                            bar,
                            figure.unwrap_or(0.0),
                            theme.train(),
                            theme.frame(),
                            buf,
                        );
                    }
                    text_right(buf, room, left + each, y, &words, theme.text());
                }
            }
        }
    }

    pub(super) fn draw_pairs(
        &self,
        session: &SessionView,
        matrix: &Confusion,
        theme: Theme,
        area: Rect,
        buf: &mut Buffer,
    ) {
        let title = Line::from(Span::styled("most confused", theme.text()));
        let inner = panel(buf, area, theme.frame(), &title, &Line::default());
        let pairs = matrix.most_confused(usize::from(inner.height));
        if pairs.is_empty() {
            return message(&["Nothing is confused.".into()], theme, inner, buf);
        }
        for (i, (truth, predicted, count)) in pairs.into_iter().enumerate() {
            let y = inner.y + i as u16;
            let style = if (truth, predicted) == self.cursor {
                theme.selected()
            } else {
                theme.text()
            };
            let percent = format!("{:.1}%", 100.0 * share(matrix, truth, predicted));
            let figures = if inner.width >= 34 {
                format!("{:>6}{percent:>7}", grouped(u64::from(count)))
            } else {
                format!("{percent:>6}")
            };
            let mark = if i < WORST { MARK } else { " " };
            let room = usize::from(inner.width).saturating_sub(figures.len() + 1);
            let whole = format!(
                "{mark}{} → {}",
                session.class(truth),
                session.class(predicted)
            );
            let names = if whole.chars().count() <= room {
                whole
            } else {
                let each = room.saturating_sub(2) / 2;
                let (t, p) = (session.class(truth), session.class(predicted));
                format!("{mark}{}→{}", fitted(&t, each), fitted(&p, each))
            };
            text(
                buf,
                inner,
                inner.x,
                y,
                format!("{names:<room$} {figures}"),
                style,
            );
        }
    }

    /// Draws the images of the opened cell on the whole screen.
    pub(super) fn draw_open(
        &self,
        session: &SessionView,
        evaluation: &Evaluation,
        theme: Theme,
        area: Rect,
        buf: &mut Buffer,
    ) {
        let grid = open_grid(area);
        let head = sentence(session, evaluation, self.cursor);
        text(buf, area, area.x + 1, area.y, head, theme.strong());
        let Some((total, offset, items)) = self.images.predictions() else {
            if let Some(why) = self.images.failure() {
                message(&["No images:".into(), why.to_owned()], theme, grid, buf);
            }
            return;
        };
        if total == 0 {
            return message(&["No image in this cell.".into()], theme, grid, buf);
        }
        let grid = ImageGrid::automatic(grid);
        let shown = items.len().min(grid.len());
        let place = format!(
            "{}-{} of {}",
            offset + 1,
            offset as usize + shown,
            grouped(total.into())
        );
        text_right(
            buf,
            area,
            area.right().saturating_sub(1),
            area.y,
            &place,
            theme.dim(),
        );
        for (i, item) in items.iter().take(shown).enumerate() {
            image_grid::prediction(item, session, theme, (false, false), grid.tile(i), buf);
        }
    }
}

/// The grid of the opened cell.
pub(super) fn open_grid(area: Rect) -> Rect {
    Rect::new(
        area.x + 1,
        area.y + 2,
        area.width.saturating_sub(2),
        area.height.saturating_sub(2),
    )
    .intersection(area)
}

/// Six images if they fit at a recognisable size, otherwise fewer.
fn side_grid(area: Rect) -> ImageGrid {
    image_grid::WIDTHS
        .iter()
        .filter(|w| **w <= 32)
        .map(|w| ImageGrid::of(area, *w))
        .find(|t| t.len() >= 6)
        .unwrap_or_else(|| ImageGrid::of(area, 12))
}

pub(super) fn geometry(session: &SessionView, inner: Rect) -> Option<HeatmapLayout> {
    let longest = session.classes().iter().map(|c| c.chars().count()).max()?;
    let geometry = HeatmapLayout::of(inner, session.classes().len(), longest as u16)?;
    HeatmapLayout::of(
        map_area(inner, &geometry),
        session.classes().len(),
        longest as u16,
    )
}

/// Centres the map in its panel.
fn map_area(inner: Rect, geometry: &HeatmapLayout) -> Rect {
    let spare = inner.width.saturating_sub(geometry.size().0);
    Rect::new(
        inner.x + spare / 2,
        inner.y,
        inner.width - spare / 2,
        inner.height,
    )
}

/// Share of the images of `truth` that were predicted as `predicted`; 0 without images.
fn share(matrix: &Confusion, truth: usize, predicted: usize) -> f64 {
    f64::from(matrix.count(truth, predicted)) / f64::from(matrix.row_total(truth).max(1))
}

/// `147 of 1,000 (14.7%)` and `+2.1 since last evaluation`.
fn cell_words(
    session: &SessionView,
    evaluation: &Evaluation,
    (truth, predicted): (usize, usize),
) -> (String, String) {
    let matrix = &evaluation.confusion;
    let now = 100.0 * share(matrix, truth, predicted);
    let count = format!(
        "{} of {} ({now:.1}%)",
        grouped(matrix.count(truth, predicted).into()),
        grouped(matrix.row_total(truth).into())
    );
    let change = match session.evaluation_before(session.shown) {
        Some(before) if before.confusion.classes == matrix.classes => {
            let by = now - 100.0 * share(&before.confusion, truth, predicted);
            // Avoids -0.0 for values such as -0.04.
            let by = if by.abs() < 0.05 { 0.0 } else { by };
            format!("{by:+.1} since last evaluation")
        }
        _ => match session.as_of {
            Some(epoch) => format!("at the end of epoch {epoch}"),
            None => "first evaluation".into(),
        },
    };
    (count, change)
}

/// `cat called dog: 147 of 1,000 (14.7%), +2.1 since last evaluation`.
fn sentence(session: &SessionView, evaluation: &Evaluation, cursor: (usize, usize)) -> String {
    let (count, change) = cell_words(session, evaluation, cursor);
    format!(
        "{} called {}: {count}, {change}",
        session.class(cursor.0),
        session.class(cursor.1)
    )
}
