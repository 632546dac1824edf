//! Messages on the status line.

use crate::tui::app::Toast;
use crate::tui::session_view::Severity;
use crate::tui::theme::Theme;
use crate::tui::widgets::{text, wrap};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::widgets::{Clear, Widget};

/// Maximum number of lines of a message.
const MESSAGE_LINES: usize = 3;

/// Draws a message on the status line. A long message also takes lines above it.
pub fn message(toast: &Toast, theme: Theme, status: Rect, buf: &mut Buffer) {
    let (mark, style) = match toast.severity {
        Severity::Plain => ("·", theme.text()),
        Severity::Good => ("✓", theme.best()),
        Severity::Warning => ("!", theme.validation()),
        Severity::Bad => ("✗", theme.wrong()),
    };
    let room = usize::from(status.width.saturating_sub(4));
    let mut lines = wrap(&toast.text, room.max(20));
    if lines.len() > MESSAGE_LINES {
        // Text that does not fit makes the last line too long, so that it is shortened with an ellipsis.
        let rest = lines.split_off(MESSAGE_LINES - 1).join(" ");
        lines.push(rest);
    }
    let height = lines.len() as u16;
    let area = Rect::new(
        status.x,
        (status.y + 1).saturating_sub(height),
        status.width,
        height,
    )
    .intersection(buf.area);
    Clear.render(area, buf);
    text(buf, area, area.x + 1, area.y, mark, style);
    for (y, words) in (area.top()..area.bottom()).zip(lines) {
        text(buf, area, area.x + 3, y, words, style);
    }
}
