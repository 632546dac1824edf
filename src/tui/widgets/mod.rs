//! What the screens are drawn with. Widgets know figures, styles and an area; no worker and no screen.

pub mod bars;
pub mod chart;
pub mod field;
pub mod half_block;
pub mod heatmap;
pub mod spark;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::Line;

/// Writes text at (x, y), cut with an ellipsis at the right edge of `area`; nothing outside of it. Returns the x after it.
pub fn text(
    buf: &mut Buffer,
    area: Rect,
    x: u16,
    y: u16,
    content: impl AsRef<str>,
    style: Style,
) -> u16 {
    let area = area.intersection(buf.area);
    if y < area.top() || y >= area.bottom() || x < area.left() || x >= area.right() {
        return x;
    }
    let room = usize::from(area.right() - x);
    let content = content.as_ref();
    let end = buf.set_stringn(x, y, content, room, style).0;
    if unicode_width::UnicodeWidthStr::width(content.trim_end()) > room {
        buf.set_stringn(area.right() - 1, y, "…", 1, style);
        return area.right();
    }
    end
}

/// Writes a line of spans at (x, y), cut like [`text`].
pub fn line(buf: &mut Buffer, area: Rect, x: u16, y: u16, content: &Line<'_>) -> u16 {
    let area = area.intersection(buf.area);
    if y < area.top() || y >= area.bottom() || x < area.left() || x >= area.right() {
        return x;
    }
    let room = area.right() - x;
    let end = buf.set_line(x, y, content, room).0;
    if content.width() > usize::from(room) {
        buf[(area.right() - 1, y)].set_symbol("…");
    }
    end
}

/// Writes text that ends before `right`.
pub fn text_right(buf: &mut Buffer, area: Rect, right: u16, y: u16, content: &str, style: Style) {
    let width = unicode_width::UnicodeWidthStr::width(content) as u16;
    let x = right.saturating_sub(width).max(area.left());
    text(buf, area, x, y, content, style);
}

/// A quiet frame with a title on its upper left and a line on its upper right; returns the area within.
pub fn panel(
    buf: &mut Buffer,
    area: Rect,
    frame: Style,
    title: &Line<'_>,
    right: &Line<'_>,
) -> Rect {
    use ratatui::widgets::{Block, BorderType, Widget};
    let area = area.intersection(buf.area);
    if area.width < 2 || area.height < 2 {
        return Rect::new(area.x, area.y, 0, 0);
    }
    let block = Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(frame);
    let inner = block.inner(area);
    block.render(area, buf);
    let top = Rect::new(area.x + 1, area.y, area.width - 2, 1);
    let width = title.width() as u16;
    if width > 0 && top.width > 3 {
        text(buf, top, top.x, top.y, " ", frame);
        // Words without a colour of their own would take the frame's.
        buf.set_style(
            Rect::new(top.x + 1, top.y, width, 1).intersection(top),
            Style::reset(),
        );
        let x = line(buf, top, top.x + 1, top.y, title);
        text(buf, top, x, top.y, " ", frame);
    }
    let right_width = right.width() as u16;
    if right_width > 0 && top.width > width + right_width + 6 {
        let x = top.right() - right_width - 2;
        text(buf, top, x, top.y, " ", frame);
        buf.set_style(
            Rect::new(x + 1, top.y, right_width, 1).intersection(top),
            Style::reset(),
        );
        let x = line(buf, top, x + 1, top.y, right);
        text(buf, top, x, top.y, " ", frame);
    }
    inner
}
