//! Draws the validation curves of the marked runs.

use super::super::query::message;
use super::{LETTERS, MAX_MARKED, RunsView};
use crate::domain::report::Split;
use crate::tui::session_view::SessionView;
use crate::tui::theme::Theme;
use crate::tui::widgets::{fitted, panel, text, text_right};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::Widget;
use ratatui::widgets::canvas::{Canvas, Line as Stroke};

impl RunsView {
    pub(super) fn draw_curves(
        &self,
        session: &SessionView,
        theme: Theme,
        area: Rect,
        buf: &mut Buffer,
    ) {
        if area.is_empty() {
            return;
        }
        let drawn = self.drawn();
        let all = |split| {
            let mut runs = drawn.iter();
            runs.all(|(_, run)| run.params.scored_split() == split)
        };
        let scored = match (all(Split::Validation), all(Split::Test)) {
            (true, _) => "validation accuracy",
            (_, true) => "test accuracy",
            _ => "validation or test accuracy",
        };
        let title = Line::from(Span::styled(scored, theme.text()));
        let mut names: Vec<Span> = Vec::new();
        for (i, run) in &drawn {
            if !names.is_empty() {
                names.push(Span::raw("  "));
            }
            let words = if self.marked.is_empty() {
                run.name.clone()
            } else {
                format!("{} {}", LETTERS[*i], fitted(&run.name, 14))
            };
            names.push(Span::styled(words, curve_style(*i, theme)));
        }
        let inner = panel(buf, area, theme.frame(), &title, &Line::from(names));
        let _ = session;
        let points: Vec<(usize, Vec<(f64, f64)>)> = drawn
            .iter()
            .map(|(i, run)| {
                let line = run
                    .epochs
                    .iter()
                    .filter(|e| e.accuracy.is_finite())
                    .map(|e| (e.position, 100.0 * e.accuracy))
                    .collect();
                (*i, line)
            })
            .collect();
        if points.iter().all(|p| p.1.is_empty()) {
            let lines = match drawn.len() {
                0 => vec!["Curves come with the first run.".into()],
                1 => vec!["This run has not finished an epoch: no curve yet.".into()],
                _ => vec!["These runs have not finished an epoch: no curves yet.".into()],
            };
            return message(&lines, theme, inner, buf);
        }
        draw_plot(&points, !self.marked.is_empty(), theme, inner, buf);
    }
}

/// The colour of a marked run. Without colours, its letter identifies it.
pub(super) fn curve_style(i: usize, theme: Theme) -> Style {
    const INKS: [([u8; 3], Color); MAX_MARKED] = [
        ([229, 181, 103], Color::Yellow),
        ([97, 175, 239], Color::Cyan),
        ([136, 200, 110], Color::Green),
        ([240, 101, 101], Color::LightRed),
        ([187, 154, 247], Color::Magenta),
        ([86, 212, 200], Color::LightBlue),
    ];
    use crate::tui::theme::Colors;
    let (rgb, sixteen) = INKS[i % MAX_MARKED];
    match theme.colors {
        Colors::None => Style::new().add_modifier(Modifier::BOLD),
        Colors::Ansi16 => Style::new().fg(sixteen),
        colors => Style::new().fg(colors.rgb(rgb)),
    }
}

/// Draws curves over common axes, each with its letter at its end.
fn draw_plot(
    lines: &[(usize, Vec<(f64, f64)>)],
    letters: bool,
    theme: Theme,
    area: Rect,
    buf: &mut Buffer,
) {
    if area.width < 14 || area.height < 4 {
        return;
    }
    let all = || lines.iter().flat_map(|l| l.1.iter().copied());
    let last = all().map(|p| p.0).fold(1.0, f64::max);
    let (low, high) = all().fold((100.0f64, 0.0f64), |(l, h), p| (l.min(p.1), h.max(p.1)));
    // Round the range to tens, so that the middle is an integer.
    let low = ((low / 10.0).floor() * 10.0).clamp(0.0, 90.0);
    let high = ((high / 10.0).ceil() * 10.0).clamp(low + 10.0, 100.0);
    let plot = Rect::new(area.x + 6, area.y, area.width - 8, area.height - 2);
    for (share, value) in [(0.0, high), (0.5, (low + high) / 2.0), (1.0, low)] {
        let y = plot.y + (share * f64::from(plot.height - 1)).round() as u16;
        text_right(
            buf,
            area,
            plot.x - 1,
            y,
            &format!("{value:.0}%┤"),
            theme.dim(),
        );
    }
    let rule: String = "─".repeat(plot.width.into());
    text(
        buf,
        area,
        plot.x - 2,
        plot.bottom(),
        format!("└─{rule}"),
        theme.dim(),
    );
    for y in plot.top()..plot.bottom() {
        if buf[(plot.x - 2, y)].symbol() == " " {
            text(buf, area, plot.x - 2, y, "│", theme.dim());
        }
    }
    // Label the first and last epoch and those between, if they do not overlap.
    let epochs = last as u32;
    let step = (1..)
        .map(|s| s * if epochs > 50 { 10 } else { 1 })
        .find(|s| {
            let ticks = epochs / s;
            ticks * 6 <= u32::from(plot.width)
        });
    let x_of = |x: f64| f64::from(plot.width - 1) * x / last;
    if let Some(step) = step {
        for epoch in (0..=epochs).step_by(step as usize) {
            let word = epoch.to_string();
            let x = plot.x + x_of(f64::from(epoch)).round() as u16;
            text(
                buf,
                area,
                x.saturating_sub(word.len() as u16 / 2),
                plot.bottom() + 1,
                word,
                theme.dim(),
            );
        }
    }
    for (i, points) in lines {
        let style = curve_style(*i, theme);
        let color = style.fg.unwrap_or(Color::Reset);
        Canvas::default()
            .marker(Marker::Braille)
            .x_bounds([0.0, last])
            .y_bounds([low, high])
            .paint(|canvas| {
                for pair in points.windows(2) {
                    canvas.draw(&Stroke::new(
                        pair[0].0, pair[0].1, pair[1].0, pair[1].1, color,
                    ));
                }
                if let [only] = points.as_slice() {
                    canvas.draw(&Stroke::new(only.0, only.1, only.0, only.1, color));
                }
            })
            .render(plot, buf);
    }
    if letters {
        for (i, points) in lines {
            if let Some((x, y)) = points.last() {
                let down = f64::from(plot.height - 1) * (high - y) / (high - low);
                let at = (
                    plot.x + x_of(*x).round() as u16 + 1,
                    plot.y + down.round() as u16,
                );
                text(buf, area, at.0, at.1, LETTERS[*i], curve_style(*i, theme));
            }
        }
    }
}
