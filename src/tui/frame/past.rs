//! The frame around an earlier epoch, which nobody can mistake for now.

use crate::domain::text::{compact, grouped, percent};
use crate::tui::actions::key_of;
use crate::tui::session_view::SessionView;
use crate::tui::theme::Theme;
use crate::tui::views::confusion::ConfusionAction;
use crate::tui::widgets::line;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

/// What the header says in place of the state: `epoch 3 of 15, as it was`.
pub fn words(past: &SessionView) -> String {
    let epoch = past.as_of.unwrap_or_default();
    format!("epoch {epoch} of {}, as it was", past.params.epochs)
}

/// The keys that lead on, for the footer: rank, whether it is available, key and name.
pub fn keys() -> [(u8, bool, String, &'static str); 2] {
    [
        (1, true, key_of(ConfusionAction::Back), "back to now"),
        (2, true, key_of(ConfusionAction::Fork), "fork here"),
    ]
}

/// Dashes the lines of the frames within an area.
pub fn dash_frames(area: Rect, buf: &mut Buffer) {
    for position in area.intersection(buf.area).positions() {
        let cell = &mut buf[position];
        match cell.symbol() {
            "─" => cell.set_symbol("┄"),
            "│" => cell.set_symbol("┊"),
            _ => continue,
        };
    }
}

/// The status line: the scores of then and of now.
pub fn status(past: &SessionView, now: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer) {
    let Some(then) = past.evaluation(past.shown) else {
        return;
    };
    let split = then.split.short();
    let mut spans = vec![
        Span::styled(
            format!("epoch {}, step {}: ", then.epoch, grouped(then.step)),
            theme.accent(),
        ),
        Span::styled(format!("{split} "), theme.dim()),
        Span::styled(percent(then.accuracy), theme.validation()),
        Span::styled(then.tta.mark(), theme.dim()),
        Span::styled("  loss ", theme.dim()),
        Span::styled(compact(then.loss, 3), theme.validation()),
    ];
    if let Some(newest) = now.evaluation(then.split) {
        spans.push(Span::styled("   now ", theme.dim()));
        spans.push(Span::styled(percent(newest.accuracy), theme.text()));
        spans.push(Span::styled(newest.tta.mark(), theme.dim()));
        spans.push(Span::styled("  loss ", theme.dim()));
        spans.push(Span::styled(compact(newest.loss, 3), theme.text()));
    }
    line(buf, area, area.x + 1, area.y, &Line::from(spans));
}
