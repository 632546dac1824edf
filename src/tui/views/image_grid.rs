//! A grid of images with a caption under each: the rectangle of each image, the image at a position, and drawing.

use crate::domain::report::{Picture, Prediction};
use crate::tui::session_view::SessionView;
use crate::tui::theme::{Colors, Theme};
use crate::tui::widgets::half_block::{self, Scale};
use crate::tui::widgets::{fitted, text};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use unicode_width::UnicodeWidthStr;

/// Widths of an image in cells, from large to small. The height is half the width; 32 is one cell per pixel.
pub const WIDTHS: [u16; 6] = [64, 48, 32, 24, 16, 12];
/// Number of images that must fit at the automatic width.
const AUTOMATIC_COUNT: usize = 6;

/// The grid within an area of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageGrid {
    pub area: Rect,
    /// Width of a picture.
    pub width: u16,
    pub columns: u16,
    pub rows: u16,
}

impl ImageGrid {
    /// As many images of `width` as fit. At least one: it is made smaller if the area requires it.
    pub fn of(area: Rect, width: u16) -> Self {
        let (fit, _) = half_block::fit(area.width, area.height.saturating_sub(1));
        let width = width.min(fit).max(2);
        let height = width / 2 + 1;
        // Images have one blank column and row between them, but none after the last.
        ImageGrid {
            area,
            width,
            columns: ((area.width + 1) / (width + 1)).max(1),
            rows: ((area.height + 1) / (height + 1)).max(1),
        }
    }

    /// The grid with the largest images, up to one cell per pixel, of which at least [`AUTOMATIC_COUNT`] fit.
    pub fn automatic(area: Rect) -> Self {
        WIDTHS
            .iter()
            .filter(|w| **w <= 32)
            .map(|w| ImageGrid::of(area, *w))
            .find(|t| t.len() >= AUTOMATIC_COUNT)
            .unwrap_or_else(|| ImageGrid::of(area, WIDTHS[WIDTHS.len() - 1]))
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        usize::from(self.columns) * usize::from(self.rows)
    }

    /// Rectangle of image `i` and its caption.
    pub fn tile(&self, i: usize) -> Rect {
        let (column, row) = (
            (i % usize::from(self.columns)) as u16,
            (i / usize::from(self.columns)) as u16,
        );
        // Spare columns go between the images, so that the grid fills its area.
        let spare = self.area.width.saturating_sub(self.columns * self.width);
        let gap = (spare / self.columns.max(1)).clamp(1, 4);
        let height = self.width / 2 + 1;
        Rect::new(
            self.area.x + column * (self.width + gap),
            self.area.y + row * (height + 1),
            self.width,
            height,
        )
    }

    /// Index of the image at a position of the screen.
    pub fn at(&self, x: u16, y: u16) -> Option<usize> {
        (0..self.len()).find(|i| self.tile(*i).contains((x, y).into()))
    }
}

/// Draws an image. The bottom row of `tile` is left to the caption.
pub fn draw(picture: &Picture, theme: Theme, tile: Rect, buf: &mut Buffer) {
    let image = Rect::new(tile.x, tile.y, tile.width, tile.height.saturating_sub(1));
    half_block::draw(picture, Scale::Smooth, theme, image, buf);
}

/// Draws an image, a caption with the prediction (`✗ cat → dog 0.83`), and a mark if it is pinned.
pub fn prediction(
    item: &Prediction,
    session: &SessionView,
    theme: Theme,
    (chosen, pinned): (bool, bool),
    tile: Rect,
    buf: &mut Buffer,
) {
    draw(&item.picture, theme, tile, buf);
    let right = item.truth == item.predicted;
    let style = match (chosen, right) {
        (true, _) => theme.selected(),
        (false, true) => theme.dim(),
        (false, false) => theme.wrong(),
    };
    let y = tile.bottom().saturating_sub(1);
    let content = caption(item, session, usize::from(tile.width));
    text(buf, tile, tile.x, y, content, style);
    if pinned && tile.width > 4 && tile.height > 1 {
        text(buf, tile, tile.right() - 3, tile.y, " ◆ ", pin_style(theme));
    }
}

/// Style of the pin mark, which is drawn over the image.
fn pin_style(theme: Theme) -> Style {
    match theme.colors {
        Colors::True | Colors::Ansi256 => theme.accent().bg(theme.colors.rgb([16, 18, 24])),
        _ => theme.selected(),
    }
}

/// The caption, exactly `width` columns wide: the mark, the class names (shortened to fit), the confidence at the right.
pub fn caption(item: &Prediction, session: &SessionView, width: usize) -> String {
    let right = item.truth == item.predicted;
    let mark = if right { "✓" } else { "✗" };
    let confidence = confidence(item);
    if width < 12 {
        return fitted(&format!("{mark} {confidence}"), width);
    }
    let room = width - 2;
    let truth = session.class(usize::from(item.truth));
    let predicted = session.class(usize::from(item.predicted));
    let figure = confidence.width() + 1;
    let names = if right {
        fitted(&truth, room - figure)
    } else {
        let whole = format!("{truth} → {predicted}");
        if whole.width() + figure <= room {
            whole
        } else if room >= figure + 9 {
            let each = (room - figure - 1) / 2;
            format!("{}→{}", fitted(&truth, each), fitted(&predicted, each))
        } else {
            // Too narrow for both names and the confidence: the names matter more.
            let each = (room - 1) / 2;
            let names = format!("{}→{}", fitted(&truth, each), fitted(&predicted, each));
            return format!("{mark} {names:<room$}");
        }
    };
    let pad = room - figure + 1;
    format!("{mark} {names:<pad$}{confidence}")
}

/// The probability of the predicted class, as `0.83`.
pub fn confidence(item: &Prediction) -> String {
    match item.probabilities.get(usize::from(item.predicted)) {
        Some(p) => format!("{p:.2}"),
        None => "?".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_stay_in_the_area_and_do_not_overlap() {
        for width in [20, 78, 118, 198] {
            for height in [4, 18, 30, 54] {
                let area = Rect::new(1, 2, width, height);
                for grid in WIDTHS
                    .map(|w| ImageGrid::of(area, w))
                    .into_iter()
                    .chain([ImageGrid::automatic(area)])
                {
                    let all: Vec<Rect> = (0..grid.len()).map(|i| grid.tile(i)).collect();
                    for (i, a) in all.iter().enumerate() {
                        assert_eq!(a.intersection(area), *a, "{grid:?}");
                        assert!(all[..i].iter().all(|b| !a.intersects(*b)), "{grid:?}");
                        assert_eq!(grid.at(a.x, a.y), Some(i));
                    }
                }
            }
        }
    }

    #[test]
    fn enough_images_fit_at_usual_terminal_sizes() {
        assert_eq!(ImageGrid::automatic(Rect::new(0, 0, 78, 19)).width, 16);
        assert_eq!(ImageGrid::automatic(Rect::new(0, 0, 118, 31)).width, 24);
        assert_eq!(ImageGrid::automatic(Rect::new(0, 0, 198, 55)).width, 32);
    }
}
