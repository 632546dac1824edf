//! Horizontal bars with a resolution of an eighth of a column.

use ratatui::buffer::Buffer;
use ratatui::style::Style;

const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// `width` columns, filled from the left to `share` (0 to 1; empty if it is not finite); the rest is blank.
pub fn bar(share: f64, width: u16) -> String {
    let share = if share.is_finite() {
        share.clamp(0.0, 1.0)
    } else {
        0.0
    };
    let width = usize::from(width);
    let eighths = (share * width as f64 * 8.0).round() as usize;
    let part = EIGHTHS[eighths % 8];
    let filled = eighths / 8;
    let blank = width - filled - usize::from(!part.is_empty());
    format!("{}{part}{}", "█".repeat(filled), " ".repeat(blank))
}

/// Draws a bar on a faint track, so that an empty bar is visible.
pub fn draw(
    (x, y): (u16, u16),
    width: u16,
    share: f64,
    style: Style,
    track: Style,
    buf: &mut Buffer,
) {
    let width = width.min(buf.area.right().saturating_sub(x));
    if width == 0 || y >= buf.area.bottom() || y < buf.area.top() {
        return;
    }
    for (i, symbol) in bar(share, width).chars().enumerate() {
        let cell = &mut buf[(x + i as u16, y)];
        if symbol == ' ' {
            cell.set_symbol("·").set_style(track);
        } else {
            cell.set_char(symbol).set_style(style);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::layout::Rect;

    #[test]
    fn bars_end_on_an_eighth() {
        assert_eq!(bar(0.0, 4), "    ");
        assert_eq!(bar(0.5, 4), "██  ");
        assert_eq!(bar(1.0, 4), "████");
        assert_eq!(bar(7.0, 4), "████");
        assert_eq!(bar(5.0 / 32.0, 4), "▋   ");
        assert_eq!(bar(f64::NAN, 2), "  ");
        for width in 0..30 {
            for i in 0..=100 {
                let text = bar(f64::from(i) / 100.0, width);
                assert_eq!(text.chars().count(), usize::from(width));
            }
        }
    }

    #[test]
    fn drawing_stops_at_the_edge() {
        let mut buf = Buffer::empty(Rect::new(0, 0, 5, 1));
        draw((3, 0), 9, 1.0, Style::new(), Style::new(), &mut buf);
        draw((9, 0), 9, 1.0, Style::new(), Style::new(), &mut buf);
        draw((0, 9), 9, 1.0, Style::new(), Style::new(), &mut buf);
        let line: String = (0..5).map(|x| buf[(x, 0)].symbol().to_owned()).collect();
        assert_eq!(line, "   ██");
    }
}
