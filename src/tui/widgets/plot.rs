//! Curves over common axes, and points over one hyperparameter. Values of y are shares, shown in percent.

use super::{text, text_right};
use crate::tui::theme::Theme;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style};
use ratatui::symbols::Marker;
use ratatui::widgets::Widget;
use ratatui::widgets::canvas::{Canvas, Line as Stroke};

/// A curve of a plot.
#[derive(Clone, Debug)]
pub struct PlotCurve {
    pub style: Style,
    /// Drawn at the curve's end; may be empty.
    pub letter: &'static str,
    /// (epochs, share from 0 to 1). Values that are not finite are skipped.
    pub points: Vec<(f64, f64)>,
}

/// A point of a scatter plot.
#[derive(Clone, Debug)]
pub struct PlotDot {
    pub style: Style,
    /// From 0, the left end, to 1.
    pub x: f64,
    /// A share from 0 to 1.
    pub y: f64,
    /// Drawn over all others, with another symbol.
    pub chosen: bool,
}

/// The plot's area within its axes, and the percentages at its lower and upper end, round to tens.
struct Axes {
    plot: Rect,
    low: f64,
    high: f64,
}

/// Draws the axes for these shares. None if there is no room for a plot.
fn axes(
    shares: impl Iterator<Item = f64>,
    theme: Theme,
    area: Rect,
    buf: &mut Buffer,
) -> Option<Axes> {
    if area.width < 14 || area.height < 4 {
        return None;
    }
    let shares = shares.filter(|y| y.is_finite()).map(|y| 100.0 * y);
    let (low, high) = shares.fold((100.0f64, 0.0f64), |(low, high), y| {
        (low.min(y), high.max(y))
    });
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
    Some(Axes { plot, low, high })
}

impl Axes {
    /// The row of a share.
    fn row(&self, y: f64) -> u16 {
        let down =
            f64::from(self.plot.height - 1) * (self.high - 100.0 * y) / (self.high - self.low);
        self.plot.y + down.round() as u16
    }
}

/// Draws curves over epochs; later ones over earlier ones.
pub fn curves(curves: &[PlotCurve], theme: Theme, area: Rect, buf: &mut Buffer) {
    let all = || curves.iter().flat_map(|curve| curve.points.iter().copied());
    let Some(axes) = axes(all().map(|p| p.1), theme, area, buf) else {
        return;
    };
    let plot = axes.plot;
    let last = all().map(|p| p.0).fold(1.0, f64::max);
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
            let x = x.saturating_sub(word.len() as u16 / 2);
            text(buf, area, x, plot.bottom() + 1, word, theme.dim());
        }
    }
    for curve in curves {
        let color = curve.style.fg.unwrap_or(Color::Reset);
        let points: Vec<(f64, f64)> = (curve.points.iter())
            .filter(|p| p.1.is_finite())
            .map(|p| (p.0, 100.0 * p.1))
            .collect();
        Canvas::default()
            .marker(Marker::Braille)
            .x_bounds([0.0, last])
            .y_bounds([axes.low, axes.high])
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
    for curve in curves.iter().filter(|curve| !curve.letter.is_empty()) {
        if let Some((x, y)) = curve.points.iter().rfind(|p| p.1.is_finite()) {
            let x = plot.x + x_of(*x).round() as u16 + 1;
            text(buf, area, x, axes.row(*y), curve.letter, curve.style);
        }
    }
}

/// Draws points over an axis whose labels stand at these places, from 0 (the left end) to 1.
pub fn scatter(
    dots: &[PlotDot],
    labels: &[(f64, String)],
    theme: Theme,
    area: Rect,
    buf: &mut Buffer,
) {
    let Some(axes) = axes(dots.iter().map(|dot| dot.y), theme, area, buf) else {
        return;
    };
    let plot = axes.plot;
    let column = |x: f64| plot.x + (f64::from(plot.width - 1) * x).round() as u16;
    let mut free = area.x;
    for (x, words) in labels {
        let width = words.chars().count() as u16;
        let at = column(*x)
            .saturating_sub(width / 2)
            .min(area.right().saturating_sub(width));
        if at >= free {
            text(buf, area, at, plot.bottom() + 1, words, theme.dim());
            free = at + width + 2;
        }
    }
    let (chosen, others): (Vec<&PlotDot>, Vec<&PlotDot>) = dots.iter().partition(|dot| dot.chosen);
    for dot in others
        .into_iter()
        .chain(chosen)
        .filter(|dot| dot.y.is_finite())
    {
        let symbol = if dot.chosen { "◆" } else { "•" };
        text(buf, plot, column(dot.x), axes.row(dot.y), symbol, dot.style);
    }
}
