//! Draws one image large, with its probabilities and its earlier predictions.

use super::super::image_grid;
use super::super::query::message;
use super::SamplesView;
use super::grid::grid_area;
use crate::domain::report::Prediction;
use crate::domain::text::grouped;
use crate::tui::session_view::SessionView;
use crate::tui::theme::Theme;
use crate::tui::widgets::half_block::{self, Scale};
use crate::tui::widgets::{bars, fitted, line, text, text_right};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

impl SamplesView {
    pub(super) fn draw_detail(
        &self,
        session: &SessionView,
        theme: Theme,
        area: Rect,
        buf: &mut Buffer,
    ) {
        let Some(item) = self.open_item() else {
            let why = self.detail.failure().unwrap_or("Asking for this image.");
            return message(&[why.to_owned()], theme, area, buf);
        };
        let right = item.truth == item.predicted;
        let pinned = self.pins(item.split).contains(&item.index);
        let mark = if right {
            ("✓", theme.best())
        } else {
            ("✗", theme.wrong())
        };
        let verdict = if right {
            format!(" {}", session.class(item.truth.into()))
        } else {
            format!(
                " {} → {}",
                session.class(item.truth.into()),
                session.class(item.predicted.into())
            )
        };
        let head = Line::from(vec![
            Span::styled(format!(" {}", mark.0), mark.1),
            Span::styled(
                format!("{verdict} {}", image_grid::confidence(item)),
                mark.1,
            ),
            Span::styled(if pinned { "  ◆ pinned" } else { "" }, theme.accent()),
        ]);
        line(buf, area, area.x, area.y, &head);
        let place = format!(
            "{} image {}  step {}",
            item.split.name(),
            grouped(item.index.into()),
            grouped(item.step)
        );
        if usize::from(area.width) > head.width() + place.chars().count() + 3 {
            text_right(
                buf,
                area,
                area.right().saturating_sub(1),
                area.y,
                &place,
                theme.dim(),
            );
        }
        let body = grid_area(area);
        // Twice the size if that fits and leaves room for the bars.
        let (width, height) = half_block::fit(body.width.saturating_sub(34).min(64), body.height);
        let image = Rect::new(body.x, body.y, width, height);
        half_block::draw(&item.picture, Scale::Smooth, theme, image, buf);
        let side = Rect::new(
            image.right() + 2,
            body.y,
            body.right().saturating_sub(image.right() + 2),
            body.height,
        )
        .intersection(area);
        draw_probabilities(item, session, theme, side, buf);
        let used = item.probabilities.len() as u16 + 1;
        // Draw the history under the bars, or under the image if that gives more lines.
        let past = Rect::new(
            side.x,
            side.y + used.min(side.height),
            side.width,
            side.height.saturating_sub(used),
        );
        draw_past(item, session, theme, past, buf);
    }
}

/// One bar per class, with the true class marked.
fn draw_probabilities(
    item: &Prediction,
    session: &SessionView,
    theme: Theme,
    area: Rect,
    buf: &mut Buffer,
) {
    let name = 10u16;
    let bar = area.width.saturating_sub(name + 9).min(50);
    for (class, p) in item.probabilities.iter().enumerate() {
        let y = area.y + class as u16;
        if y >= area.bottom() {
            break;
        }
        let truth = class == usize::from(item.truth);
        let called = class == usize::from(item.predicted);
        let style = match (truth, called) {
            (true, _) => theme.best(),
            (false, true) => theme.wrong(),
            _ => theme.dim(),
        };
        let mark = match (truth, called) {
            (true, true) => "✓",
            (true, false) => "▸",
            (false, true) => "✗",
            _ => " ",
        };
        text(buf, area, area.x, y, mark, style);
        text(
            buf,
            area,
            area.x + 2,
            y,
            fitted(&session.class(class), name.into()),
            style,
        );
        let at = area.x + 2 + name + 1;
        if bar > 2 && at < area.right() {
            bars::draw((at, y), bar, f64::from(*p), style, theme.frame(), buf);
        }
        text(buf, area, at + bar + 1, y, format!("{p:.3}"), style);
    }
}

/// Draws the prediction at each evaluation, newest last, in several columns if necessary.
fn draw_past(item: &Prediction, session: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer) {
    const WIDTH: u16 = 27;
    if area.height < 2 || area.width < 12 || item.past.is_empty() {
        return;
    }
    text(
        buf,
        area,
        area.x,
        area.y,
        "predicted at each evaluation",
        theme.dim(),
    );
    let lines = area.height - 1;
    let columns = (area.width / WIDTH).max(1);
    let fits = usize::from(lines) * usize::from(columns);
    let skipped = item.past.len().saturating_sub(fits);
    for (i, opinion) in item.past[skipped..].iter().enumerate() {
        let x = area.x + (i as u16 / lines) * WIDTH;
        let y = area.y + 1 + i as u16 % lines;
        let right = opinion.predicted == item.truth;
        let (mark, style) = if right {
            ("✓", theme.best())
        } else {
            ("✗", theme.wrong())
        };
        let step = format!("{:>8}", grouped(opinion.step));
        let after = text(buf, area, x, y, step, theme.dim());
        let name = fitted(&session.class(opinion.predicted.into()), 10);
        text(
            buf,
            area,
            after + 1,
            y,
            format!("{mark} {name:<10} {:.2}", opinion.confidence),
            style,
        );
    }
    if skipped > 0 {
        let words = format!("{skipped} earlier");
        text_right(buf, area, area.right(), area.y, &words, theme.dim());
    }
}
