//! Lists with one selected row.

use super::text;
use crate::tui::theme::Theme;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

/// Index of the first visible row of `count`, where `rows` fit: the selected row is visible, in the middle if possible.
pub fn first_row(selected: usize, count: usize, rows: usize) -> usize {
    selected
        .saturating_sub(rows / 2)
        .min(count.saturating_sub(rows))
}

/// Prepares row `y` of a list in `area`: fills it if it is selected. Returns the style of its text.
pub fn row(selected: bool, theme: Theme, area: Rect, y: u16, buf: &mut Buffer) -> Style {
    if !selected {
        return theme.text();
    }
    let style = theme.selected();
    text(buf, area, area.x, y, " ".repeat(area.width.into()), style);
    style
}
