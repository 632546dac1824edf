//! A square table of numbers on a colour scale: rows are true classes, columns predicted ones. It can be read without
//! colours: the diagonal is bold, the worst cells have a mark, the cell under the cursor is reversed, and every cell
//! contains its number.

use crate::tui::theme::Colors;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use unicode_width::UnicodeWidthStr;

/// The colour scale of a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Tone {
    /// An empty cell.
    #[default]
    Cold,
    /// Correct, or better than before: 0 to 1.
    Good(f32),
    /// Wrong, or worse than before: 0 to 1.
    Bad(f32),
}

/// One cell: its number, its colour, and whether it is one of the worst.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cell {
    pub text: String,
    pub tone: Tone,
    pub marked: bool,
}

/// The mark of the worst cells.
pub const MARK: &str = "▸";

/// A table to draw. `cells` are in row-major order, `labels.len()` squared of them.
#[derive(Debug)]
pub struct Heatmap<'a> {
    pub labels: &'a [String],
    pub cells: Vec<Cell>,
    /// (row, column).
    pub cursor: (usize, usize),
    pub colors: Colors,
    pub accent: Style,
    pub dim: Style,
}

/// The rectangles of a table's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeatmapLayout {
    /// The cells, without the labels.
    pub body: Rect,
    pub cell: (u16, u16),
    pub label: u16,
    n: usize,
}

impl HeatmapLayout {
    /// The largest table of `n` x `n` cells that fits into `area`, with labels of at most `longest` columns. None if
    /// not even cells and labels of three columns fit.
    pub fn of(area: Rect, n: usize, longest: u16) -> Option<Self> {
        let count = u16::try_from(n).ok().filter(|n| *n > 0)?;
        let (width, height) = (area.width, area.height.checked_sub(1)?);
        // Prefer wide cells, then whole names.
        let (label, _) = [
            (longest, 5),
            (5, 5),
            (longest, 4),
            (5, 4),
            (4, 4),
            (4, 3),
            (3, 3),
        ]
        .into_iter()
        .find(|(label, cell)| width > label + count * cell)?;
        let label = label.min(longest);
        let rows = (height / count).clamp(0, 4);
        let columns = ((width - label - 1) / count).clamp(3, (2 * rows + 5).min(11));
        (rows > 0).then_some(HeatmapLayout {
            body: Rect::new(
                area.x + label + 1,
                area.y + 1,
                columns * count,
                rows * count,
            ),
            cell: (columns, rows),
            label,
            n,
        })
    }

    /// Columns and rows that the table takes with its labels.
    pub fn size(&self) -> (u16, u16) {
        (self.body.width + self.label + 1, self.body.height + 1)
    }

    /// The cell at a position of the screen, as (row, column).
    pub fn at(&self, x: u16, y: u16) -> Option<(usize, usize)> {
        self.body.contains((x, y).into()).then(|| {
            (
                usize::from((y - self.body.y) / self.cell.1),
                usize::from((x - self.body.x) / self.cell.0),
            )
        })
    }

    fn cell_area(&self, row: usize, column: usize) -> Rect {
        Rect::new(
            self.body.x + column as u16 * self.cell.0,
            self.body.y + row as u16 * self.cell.1,
            self.cell.0,
            self.cell.1,
        )
    }
}

impl Heatmap<'_> {
    /// The layout in `area`.
    pub fn geometry(&self, area: Rect) -> Option<HeatmapLayout> {
        let longest = self.labels.iter().map(|l| l.width() as u16).max()?;
        HeatmapLayout::of(area, self.labels.len(), longest)
    }

    /// Draws the table, if it fits.
    pub fn draw(&self, area: Rect, buf: &mut Buffer) {
        let Some(geometry) = self.geometry(area) else {
            return;
        };
        if self.cells.len() != geometry.n * geometry.n || !buf.area.contains(area.as_position()) {
            return;
        }
        self.draw_labels(&geometry, buf);
        for row in 0..geometry.n {
            for column in 0..geometry.n {
                self.draw_cell(&geometry, row, column, buf);
            }
        }
    }

    fn draw_labels(&self, geometry: &HeatmapLayout, buf: &mut Buffer) {
        let style = |chosen| if chosen { self.accent } else { self.dim };
        for (i, name) in self.labels.iter().enumerate() {
            let row = geometry.cell_area(i, 0);
            let name_width = usize::from(geometry.label);
            // Abbreviate names without an ellipsis, which would take a third of the room.
            let short = cut(name, name_width);
            buf.set_string(
                row.x - geometry.label - 1,
                row.y + (row.height - 1) / 2,
                format!("{short:>name_width$}"),
                style(i == self.cursor.0),
            );
            let column = geometry.cell_area(0, i);
            let room = usize::from(column.width) - 1;
            let short = cut(name, room);
            let text = if room >= 6 {
                format!(" {short:^room$}")
            } else {
                format!(" {short:>room$}")
            };
            buf.set_string(
                column.x,
                geometry.body.y - 1,
                text,
                style(i == self.cursor.1),
            );
        }
    }

    fn draw_cell(&self, geometry: &HeatmapLayout, row: usize, column: usize, buf: &mut Buffer) {
        let area = geometry.cell_area(row, column);
        let cell = &self.cells[row * geometry.n + column];
        let mut style = self.heat(cell.tone);
        if row == column {
            style = style.add_modifier(Modifier::BOLD);
        }
        if cell.marked {
            style = style.add_modifier(Modifier::BOLD);
        }
        if (row, column) == self.cursor {
            style = match self.colors {
                Colors::None | Colors::Ansi16 => style.add_modifier(Modifier::REVERSED),
                colors => style
                    .bg(colors.rgb([236, 240, 244]))
                    .fg(colors.rgb([16, 20, 26])),
            };
        }
        buf.set_style(area, style);
        let width = usize::from(area.width);
        let text_row = area.y + (area.height - 1) / 2;
        // Numbers are right-aligned; wide cells leave one column, very wide ones two.
        let right = if width >= 8 {
            2
        } else if width >= 5 {
            1
        } else {
            0
        };
        let text = super::fitted(&cell.text, width);
        let figure = width.saturating_sub(right + text.width());
        buf.set_string(area.x + figure as u16, text_row, &text, style);
        if cell.marked && figure > 0 {
            let at = area.x + if width >= 8 { 1 } else { 0 };
            buf.set_string(at, text_row, MARK, style);
        }
    }

    fn heat(&self, tone: Tone) -> Style {
        /// Background of cold cells, and the hot ends of the two scales.
        const COLD: [u8; 3] = [22, 26, 32];
        const GOOD: [u8; 3] = [34, 128, 122];
        const BAD: [u8; 3] = [204, 92, 42];
        let share = match tone {
            Tone::Cold => 0.0,
            Tone::Good(v) | Tone::Bad(v) => v.clamp(0.0, 1.0),
        };
        match self.colors {
            Colors::True | Colors::Ansi256 => {
                let hot = if matches!(tone, Tone::Bad(_)) {
                    BAD
                } else {
                    GOOD
                };
                let mix: [u8; 3] = std::array::from_fn(|i| {
                    let (cold, hot) = (f32::from(COLD[i]), f32::from(hot[i]));
                    (cold + (hot - cold) * share) as u8
                });
                let ink = (120.0 + 126.0 * (share * 2.5).min(1.0)) as u8;
                Style::new()
                    .bg(self.colors.rgb(mix))
                    .fg(self.colors.rgb([ink; 3]))
            }
            Colors::Ansi16 => match tone {
                Tone::Good(_) if share > 0.5 => Style::new().bg(Color::Cyan).fg(Color::Black),
                Tone::Good(_) if share > 0.1 => Style::new().fg(Color::Cyan),
                Tone::Bad(_) if share > 0.7 => Style::new().bg(Color::Red).fg(Color::White),
                Tone::Bad(_) if share > 0.35 => Style::new().fg(Color::LightRed),
                Tone::Bad(_) if share > 0.1 => Style::new().fg(Color::Yellow),
                _ => Style::new().fg(Color::DarkGray),
            },
            Colors::None => {
                if share < 0.1 {
                    Style::new().add_modifier(Modifier::DIM)
                } else {
                    Style::new()
                }
            }
        }
    }
}

/// The first `width` columns of a text.
pub fn cut(text: &str, width: usize) -> String {
    let mut taken = 0;
    text.chars()
        .take_while(|c| {
            taken += unicode_width::UnicodeWidthChar::width(*c).unwrap_or(0);
            taken <= width
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        [
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ]
        .map(String::from)
        .into()
    }

    fn table(labels: &[String]) -> Heatmap<'_> {
        let cells = (0..100)
            .map(|i| Cell {
                text: if i % 11 == 0 { 1000 } else { i }.to_string(),
                tone: if i % 11 == 0 {
                    Tone::Good(1.0)
                } else {
                    Tone::Bad(i as f32 / 100.0)
                },
                marked: i == 35,
            })
            .collect();
        Heatmap {
            labels,
            cells,
            cursor: (3, 5),
            colors: Colors::None,
            accent: Style::new(),
            dim: Style::new(),
        }
    }

    #[test]
    fn cells_are_never_below_three_columns() {
        for width in 0..200 {
            for height in 0..60 {
                let area = Rect::new(2, 3, width, height);
                let Some(g) = HeatmapLayout::of(area, 10, 10) else {
                    assert!(width < 34 || height < 11, "{width}x{height}");
                    continue;
                };
                assert!(g.cell.0 >= 3 && g.cell.1 >= 1);
                assert!(
                    g.size().0 <= width && g.size().1 <= height,
                    "{width}x{height} {g:?}"
                );
            }
        }
    }

    #[test]
    fn a_click_finds_its_cell() {
        let g = HeatmapLayout::of(Rect::new(0, 0, 80, 40), 10, 10).unwrap();
        let area = g.cell_area(3, 5);
        assert_eq!(g.at(area.x, area.y), Some((3, 5)));
        assert_eq!(g.at(area.right() - 1, area.bottom() - 1), Some((3, 5)));
        assert_eq!(g.at(0, 0), None);
    }

    #[test]
    fn the_worst_cells_are_marked_and_read_without_colour() {
        let labels = names();
        let area = Rect::new(0, 0, 56, 11);
        let mut buf = Buffer::empty(area);
        table(&labels).draw(area, &mut buf);
        let line: String = (0..56).map(|x| buf[(x, 4)].symbol()).collect();
        assert_eq!(
            line,
            "  cat   30   31   32 1000   34 ▸ 35   36   37   38   39 "
        );
        let cursor = &buf[(34, 4)];
        assert!(cursor.modifier.contains(Modifier::REVERSED), "{cursor:?}");
    }

    #[test]
    fn draws_at_every_size() {
        let labels = names();
        for width in (0..120).step_by(7) {
            for height in 0..45 {
                let area = Rect::new(0, 0, width, height);
                table(&labels).draw(area, &mut Buffer::empty(area));
            }
        }
    }
}
