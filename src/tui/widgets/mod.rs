//! Widgets for the screens. They know numbers, styles and an area, but no worker and no screen.

pub mod bars;
pub mod chart;
pub mod half_block;
pub mod heatmap;
pub mod list;
pub mod plot;
pub mod sparkline;
pub mod text_field;

use crate::domain::text::is_hidden;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::Line;
use unicode_width::UnicodeWidthStr;

/// Writes text at (x, y), shortened with an ellipsis at the right edge of `area`. Returns the x after it.
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
    if content.trim_end().width() > room {
        buf.set_stringn(area.right() - 1, y, "…", 1, style);
        return area.right();
    }
    end
}

/// A text in at most `width` columns, shortened with an ellipsis.
pub fn fitted(content: &str, width: usize) -> String {
    if content.width() <= width {
        return content.to_owned();
    }
    let mut text = heatmap::cut(content, width.saturating_sub(1));
    text.push_str(if width > 0 { "…" } else { "" });
    text
}

/// A text in lines of at most `width` columns, at least one line. Breaks at spaces where possible.
pub fn wrap(content: &str, width: usize) -> Vec<String> {
    let options =
        textwrap::Options::new(width.max(1)).word_splitter(textwrap::WordSplitter::NoHyphenation);
    textwrap::wrap(content, options)
        .into_iter()
        .map(std::borrow::Cow::into_owned)
        .collect()
}

/// The byte ranges of the lines of [`wrap`], for a text that is edited. Together they cover the whole text.
pub fn wrapped_ranges(content: &str, width: usize) -> Vec<std::ops::Range<usize>> {
    use textwrap::{WordSeparator, core::break_words, wrap_algorithms::wrap_first_fit};
    let width = width.max(1);
    let words = break_words(WordSeparator::AsciiSpace.find_words(content), width);
    let mut end = 0;
    wrap_first_fit(&words, &[width as f64])
        .into_iter()
        .map(|line| {
            let start = end;
            end += line
                .iter()
                .map(|word| word.len() + word.whitespace.len())
                .sum::<usize>();
            start..end
        })
        .collect()
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

/// Writes rows below each other. If there are too many, the last one ends in an ellipsis.
pub fn paragraph(buf: &mut Buffer, area: Rect, rows: &[(String, Style)]) {
    let shown = rows.iter().take(area.height.into());
    let cut = rows.len() > usize::from(area.height);
    for (y, (words, style)) in (area.top()..area.bottom()).zip(shown) {
        let words = match cut && y + 1 == area.bottom() {
            true => &format!(
                "{} …",
                fitted(words, usize::from(area.width.saturating_sub(2)))
            ),
            false => words,
        };
        text(buf, area, area.x, y, words, *style);
    }
}

/// Writes text that ends before `right`.
pub fn text_right(buf: &mut Buffer, area: Rect, right: u16, y: u16, content: &str, style: Style) {
    let width = content.width() as u16;
    let x = right.saturating_sub(width).max(area.left());
    text(buf, area, x, y, content, style);
}

/// Replaces the characters that hide others, in a finished frame. Names and notes come from files, and ratatui drops control
/// characters only.
pub fn show_hidden(buf: &mut Buffer) {
    for cell in &mut buf.content {
        if cell.symbol().contains(is_hidden) {
            cell.set_symbol("?");
        }
    }
}

/// Draws a frame with a title at the upper left and a line at the upper right. Returns the area within.
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
        // Text without a colour would take the frame's.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_cut_ends_in_an_ellipsis() {
        assert_eq!(fitted("abc", 3), "abc");
        assert_eq!(fitted("abcd", 3), "ab…");
        assert_eq!(fitted("猫猫猫", 4), "猫…");
        assert_eq!(fitted("abc", 0), "");
    }

    #[test]
    fn text_wraps_at_spaces_and_breaks_long_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefgh", 3), ["abc", "def", "gh"]);
        assert_eq!(wrap("run cifar-tui now", 12), ["run", "cifar-tui", "now"]);
        assert_eq!(wrap("", 3), [""]);
        assert_eq!(wrap("one", 0), ["o", "n", "e"]);
    }

    #[test]
    fn wrapped_ranges_cover_the_text() {
        let content = "conv 32, relu,  averyveryverylongword, pool ";
        for width in 1..50 {
            let lines = wrapped_ranges(content, width);
            assert_eq!(lines[0].start, 0);
            assert_eq!(lines[lines.len() - 1].end, content.len());
            assert!(lines.windows(2).all(|w| w[0].end == w[1].start));
            for line in &lines {
                assert!(content[line.clone()].trim_end().len() <= width, "{width}");
            }
        }
        assert_eq!(wrapped_ranges("", 5).len(), 1);
    }

    #[test]
    fn a_paragraph_that_is_too_long_says_so() {
        let area = Rect::new(0, 0, 8, 2);
        let mut buf = Buffer::empty(area);
        let rows = ["one", "two", "three"].map(|r| (r.to_owned(), Style::new()));
        paragraph(&mut buf, area, &rows);
        assert_eq!(buf[(0, 1)].symbol(), "t");
        assert_eq!(buf[(4, 1)].symbol(), "…");
    }
}
