//! A line chart in braille dots: a dim raw curve, a smoothed one, points, marks on the x axis, a cursor. Each cell has
//! eight dots but one colour, so the most important curve determines the colour of its cells.

#[cfg(test)]
mod tests;

use super::{text, text_right};
use crate::domain::scale::cut_off;
use crate::domain::text::compact;
use crate::tui::theme::Theme;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

/// The curves of one of two networks that are compared, from where they part.
#[derive(Clone, Debug)]
pub struct Branch<'a> {
    /// The name at its end.
    pub name: &'a str,
    pub train: &'a [(f64, f64)],
    pub validation: &'a [(f64, f64)],
    pub style: Style,
}

/// The contents of a chart. All x have the same unit; values of y that are not finite are skipped.
#[derive(Clone, Debug, Default)]
pub struct Chart<'a> {
    /// The visible range of x.
    pub x: (f64, f64),
    /// x is a common logarithm; the labels show what it is the logarithm of.
    pub log_x: bool,
    pub log_y: bool,
    /// y is a share, shown in percent and limited to 0 to 100%.
    pub percent: bool,
    pub raw: &'a [(f64, f64)],
    pub train: &'a [(f64, f64)],
    pub validation: &'a [(f64, f64)],
    /// Branches of both curves, the most important one last; at most two.
    pub branches: &'a [Branch<'a>],
    /// The best of the validation points.
    pub best: Option<(f64, f64)>,
    /// Changes: position and a short label.
    pub marks: &'a [(f64, String)],
    /// The x at which the value was not finite.
    pub broken: &'a [f64],
    pub cursor: Option<f64>,
    /// The value to reach: a dotted line.
    pub target: Option<f64>,
}

/// Columns of the y labels, the axis included.
const GUTTER: u16 = 6;

/// Layers of the dots, lowest first.
const RAW: u8 = 1;
// The points show the validation curve, so the line between them is drawn below the others.
const VALIDATION: u8 = 2;
const TRAIN: u8 = 3;
/// Of the first branch; that of the next one follows.
const BRANCH: u8 = 4;

struct Canvas {
    width: usize,
    height: usize,
    /// (layer, dots) of each cell.
    cells: Vec<(u8, u8)>,
}

impl Canvas {
    fn new(width: u16, height: u16) -> Self {
        Canvas {
            width: usize::from(width),
            height: usize::from(height),
            cells: vec![(0, 0); usize::from(width) * usize::from(height)],
        }
    }

    /// Sets a dot; (0, 0) is the upper left one.
    fn dot(&mut self, x: i64, y: i64, layer: u8) {
        if x < 0 || y < 0 || x >= 2 * self.width as i64 || y >= 4 * self.height as i64 {
            return;
        }
        let (x, y) = (x as usize, y as usize);
        let cell = &mut self.cells[y / 4 * self.width + x / 2];
        if layer < cell.0 {
            return;
        }
        if layer > cell.0 {
            *cell = (layer, 0);
        }
        // Unicode numbers the dots down the left column, then down the right, then the lowest two.
        const BITS: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
        cell.1 |= BITS[y % 4][x % 2];
    }

    /// A straight line (Bresenham's).
    fn line(&mut self, from: (i64, i64), to: (i64, i64), layer: u8) {
        let (dx, dy) = ((to.0 - from.0).abs(), -(to.1 - from.1).abs());
        let (sx, sy) = ((to.0 - from.0).signum(), (to.1 - from.1).signum());
        let (mut x, mut y) = from;
        let mut error = dx + dy;
        loop {
            self.dot(x, y, layer);
            if (x, y) == to {
                return;
            }
            let twice = 2 * error;
            if twice >= dy {
                error += dy;
                x += sx;
            }
            if twice <= dx {
                error += dx;
                y += sy;
            }
        }
    }
}

/// A step of 1, 2 or 5 times a power of ten, so that about `n` of them cover `range`.
pub fn nice_step(range: f64, n: f64) -> f64 {
    let rough = (range / n.max(1.0)).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(rough.log10().floor());
    let factor = rough / power;
    power
        * match factor {
            f if f <= 1.0 => 1.0,
            f if f <= 2.0 => 2.0,
            f if f <= 5.0 => 5.0,
            _ => 10.0,
        }
}

/// A tick's value with as many decimals as its step needs. Where that takes more room than the labels have, a whole
/// multiple of a power of ten: `15e14`, `1e15`.
fn label(value: f64, step: f64, largest: f64) -> String {
    let power = (step * 1.0001).log10().floor();
    if largest >= 1e5 || power < -4.0 {
        let count = (value / 10f64.powf(power)).round();
        return match count % 10.0 {
            _ if count == 0.0 => "0".into(),
            0.0 => format!("{:.0}e{:.0}", count / 10.0, power + 1.0),
            _ => format!("{count:.0}e{power:.0}"),
        };
    }
    let decimals = (-step.log10().floor()).clamp(0.0, 4.0) as usize;
    // No -0.
    format!("{:.decimals$}", value + 0.0)
}

struct YAxis {
    low: f64,
    high: f64,
    /// The largest visible value, if it is above `high`.
    beyond: Option<f64>,
    ticks: Vec<(f64, String)>,
    log: bool,
}

impl YAxis {
    /// From 0 (the bottom) to 1.
    fn place(&self, y: f64) -> f64 {
        if self.log {
            (y.max(f64::MIN_POSITIVE).ln() - self.low.ln()) / (self.high.ln() - self.low.ln())
        } else {
            (y - self.low) / (self.high - self.low)
        }
    }
}

impl Chart<'_> {
    fn inside(&self, x: f64) -> bool {
        (self.x.0..=self.x.1).contains(&x)
    }

    /// Range of y with round ends, so that the axis does not move with every value.
    fn y_axis(&self, height: u16) -> YAxis {
        let seen = |points: &[(f64, f64)]| -> Vec<f64> {
            points
                .iter()
                .filter(|p| self.inside(p.0) && p.1.is_finite())
                .map(|p| p.1)
                .collect()
        };
        let mut raw = seen(self.raw);
        let curve = match raw.is_empty() {
            true => seen(self.train),
            false => raw.clone(),
        };
        raw.sort_by(f64::total_cmp);
        // A single extreme batch must not flatten the curve.
        let cut = raw.len() / 50;
        let mut values: Vec<f64> = raw[cut..raw.len() - cut].to_vec();
        values.extend(seen(self.train));
        values.extend(seen(self.validation));
        for branch in self.branches {
            values.extend(seen(branch.train));
            values.extend(seen(branch.validation));
        }
        values.extend(self.target);
        if self.log_y {
            values.retain(|v| *v > 0.0);
        }
        let low = values.iter().copied().reduce(f64::min);
        let high = values.iter().copied().reduce(f64::max);
        let cut = match self.log_y || self.percent {
            true => None,
            false => cut_off(&curve).filter(|cut| high.is_some_and(|high| high > *cut)),
        };
        let beyond = high.filter(|_| cut.is_some());
        let high = cut.or(high);
        let (low, high) = match (low, high) {
            (Some(low), Some(high)) => (low, high),
            _ if self.percent => (0.0, 1.0),
            _ => (0.0, 2.5),
        };
        let scale = if self.percent { 100.0 } else { 1.0 };
        if self.log_y && low > 0.0 {
            return log_axis(low, high);
        }
        // The label of a large value has room for two digits.
        let least = if high.abs() >= 1e5 { 0.2 } else { 0.02 };
        let range = (high - low).max(least * high.abs()).max(1e-6) * scale;
        let step = nice_step(range, (f64::from(height) / 3.0).clamp(2.0, 8.0));
        // The ends are rounder than the values and finer than the ticks.
        let end = nice_step(range, 20.0);
        let mut low = (low * scale / end).floor() * end;
        let mut high = (high * scale / end).ceil() * end;
        if self.percent {
            (low, high) = (low.max(0.0), high.min(100.0));
        }
        if high <= low {
            high = low + step;
        }
        let first = (low / step - 1e-6).ceil() as i64;
        let last = (high / step + 1e-6).floor() as i64;
        let ticks = (first..=last)
            .map(|i| step * i as f64)
            .map(|v| (v / scale, label(v, step, high.abs().max(low.abs()))))
            .collect();
        YAxis {
            low: low / scale,
            high: high / scale,
            beyond,
            ticks,
            log: false,
        }
    }

    /// Draws it over `area`.
    pub fn draw(&self, theme: Theme, area: Rect, buf: &mut Buffer) {
        let area = area.intersection(buf.area);
        if area.width < GUTTER + 4 || area.height < 4 || self.x.1 <= self.x.0 {
            return;
        }
        let plot = Rect::new(
            area.x + GUTTER,
            area.y,
            area.width - GUTTER,
            area.height - 2,
        );
        let axis = self.y_axis(plot.height);
        self.draw_axes(&axis, theme, area, plot, buf);
        self.draw_target(&axis, theme, plot, buf);
        let mut canvas = Canvas::new(plot.width, plot.height);
        self.curve(&axis, self.raw, RAW, &mut canvas);
        self.curve(&axis, self.train, TRAIN, &mut canvas);
        self.curve(&axis, self.validation, VALIDATION, &mut canvas);
        for (layer, branch) in (BRANCH..).zip(self.branches) {
            self.curve(&axis, branch.train, layer, &mut canvas);
            self.curve(&axis, branch.validation, layer, &mut canvas);
        }
        for (i, &(layer, dots)) in canvas.cells.iter().enumerate() {
            let style = match layer {
                RAW => theme.train_raw(),
                TRAIN => theme.train(),
                VALIDATION => theme.validation(),
                0 => continue,
                layer => match self.branches.get(usize::from(layer - BRANCH)) {
                    Some(branch) => branch.style,
                    None => continue,
                },
            };
            let x = plot.x + (i % canvas.width) as u16;
            let y = plot.y + (i / canvas.width) as u16;
            let glyph = char::from_u32(0x2800 + u32::from(dots)).unwrap_or(' ');
            buf[(x, y)].set_char(glyph).set_style(style);
        }
        let at = |p: (f64, f64)| self.cell(&axis, plot, p);
        for (x, y) in self.validation.iter().filter_map(|&p| at(p)) {
            buf[(x, y)].set_char('•').set_style(theme.validation());
        }
        for branch in self.branches {
            for (x, y) in branch.validation.iter().filter_map(|&p| at(p)) {
                buf[(x, y)].set_char('•').set_style(branch.style);
            }
        }
        if let Some((x, y)) = self.best.and_then(at) {
            buf[(x, y)].set_char('◆').set_style(theme.best());
        }
        self.draw_branch_names(&axis, plot, buf);
        self.draw_beyond(&axis, theme, plot, buf);
        self.draw_marks(theme, area, plot, buf);
    }

    /// The branches' names beside the ends of their training curves, the most important one where it fits best.
    fn draw_branch_names(&self, axis: &YAxis, plot: Rect, buf: &mut Buffer) {
        let mut taken = Vec::new();
        for branch in self.branches.iter().rev() {
            let visible = branch.train.iter().rev().filter(|p| self.inside(p.0));
            let end = visible.filter_map(|&p| self.cell(axis, plot, p)).next();
            let Some((x, y)) = end else { continue };
            let width = branch.name.chars().count() as u16;
            let x = (x + 2).min(plot.right().saturating_sub(width));
            let rows = [y, y + 1, y.saturating_sub(1)];
            let free =
                |row: &u16| (plot.top()..plot.bottom()).contains(row) && !taken.contains(row);
            if let Some(row) = rows.into_iter().find(free) {
                text(buf, plot, x, row, branch.name, branch.style);
                taken.push(row);
            }
        }
    }

    /// A dotted line at the target.
    fn draw_target(&self, axis: &YAxis, theme: Theme, plot: Rect, buf: &mut Buffer) {
        let Some(target) = self.target else { return };
        if let Some((_, y)) = self.cell(axis, plot, (self.x.0, target)) {
            for x in plot.left()..plot.right() {
                text(buf, plot, x, y, "┄", theme.best());
            }
        }
    }

    /// Marks where a curve leaves the plot at the top, with the largest value.
    fn draw_beyond(&self, axis: &YAxis, theme: Theme, plot: Rect, buf: &mut Buffer) {
        let Some(beyond) = axis.beyond else { return };
        let mut end = None;
        for (curve, style) in [
            (self.validation, theme.validation()),
            (self.raw, theme.train_raw()),
            (self.train, theme.train()),
        ] {
            let above = curve.iter().filter(|p| self.inside(p.0) && p.1 > axis.high);
            for (x, _) in above {
                let x = self.column(plot, *x);
                text(buf, plot, x, plot.y, "↑", style);
                end = end.max(Some(x));
            }
        }
        if let Some(x) = end {
            let words = format!("↑{}", compact(beyond, 3));
            // Beside the last arrow, on the side with room.
            if x + 2 + words.chars().count() as u16 <= plot.right() {
                text(buf, plot, x + 2, plot.y, &words, theme.strong());
            } else {
                text_right(buf, plot, plot.right(), plot.y + 1, &words, theme.strong());
            }
        }
    }

    /// The cell of a point within the plot.
    fn cell(&self, axis: &YAxis, plot: Rect, (x, y): (f64, f64)) -> Option<(u16, u16)> {
        let (column, row) = self.dot_of(axis, plot.width, plot.height, (x, y))?;
        let (x, y) = (column.div_euclid(2), row.div_euclid(4));
        let inside =
            (0..i64::from(plot.width)).contains(&x) && (0..i64::from(plot.height)).contains(&y);
        inside.then(|| (plot.x + x as u16, plot.y + y as u16))
    }

    fn dot_of(
        &self,
        axis: &YAxis,
        width: u16,
        height: u16,
        (x, y): (f64, f64),
    ) -> Option<(i64, i64)> {
        if !y.is_finite() || !x.is_finite() {
            return None;
        }
        let (wide, high) = (f64::from(2 * width - 1), f64::from(4 * height - 1));
        let column = (x - self.x.0) / (self.x.1 - self.x.0) * wide;
        // Clamp distant points, which keeps lines short.
        let row = ((1.0 - axis.place(y)) * high).clamp(-4.0 * high, 5.0 * high);
        Some((column.round() as i64, row.round() as i64))
    }

    fn curve(&self, axis: &YAxis, points: &[(f64, f64)], layer: u8, canvas: &mut Canvas) {
        let (width, height) = (canvas.width as u16, canvas.height as u16);
        let mut before: Option<(i64, i64)> = None;
        for (i, &point) in points.iter().enumerate() {
            // Include one point beyond each edge, so that lines lead out of the plot.
            let near = self.inside(point.0)
                || points.get(i + 1).is_some_and(|p| self.inside(p.0))
                || (i > 0 && self.inside(points[i - 1].0));
            let place = self.dot_of(axis, width, height, point).filter(|_| near);
            match (before, place) {
                (Some(from), Some(to)) if from.0 >= -4 * i64::from(width) => {
                    canvas.line(from, to, layer);
                }
                (_, Some((x, y))) => canvas.dot(x, y, layer),
                _ => {}
            }
            before = place;
        }
    }

    fn draw_axes(&self, axis: &YAxis, theme: Theme, area: Rect, plot: Rect, buf: &mut Buffer) {
        let dim = theme.dim();
        let line = theme.frame();
        let left = plot.x - 1;
        for y in plot.top()..plot.bottom() {
            text(buf, area, left, y, "│", line);
        }
        let high = f64::from(4 * plot.height - 1);
        for (value, label) in &axis.ticks {
            let row = ((1.0 - axis.place(*value)) * high).round() as i64;
            let y = row.div_euclid(4);
            if (0..i64::from(plot.height)).contains(&y) {
                let y = plot.y + y as u16;
                text(buf, area, left, y, "┤", line);
                text_right(buf, area, left, y, label, dim);
            }
        }
        let bottom = plot.bottom();
        text(buf, area, left, bottom, "└", line);
        for x in plot.left()..plot.right() {
            text(buf, area, x, bottom, "─", line);
        }
        let range = self.x.1 - self.x.0;
        let mut step = nice_step(range, f64::from(plot.width) / 10.0);
        if self.log_x {
            step = step.max(1.0);
        }
        let mut free = plot.x.saturating_sub(2);
        let first = (self.x.0 / step).ceil() as i64;
        let last = (self.x.1 / step).floor() as i64;
        for i in first..=last {
            let value = step * i as f64;
            let x = self.column(plot, value);
            text(buf, area, x, bottom, "┬", line);
            let words = match self.log_x {
                true => format!("1e{value:.0}"),
                false => label(value, step, self.x.1),
            };
            let width = words.len() as u16;
            let from = x.saturating_sub(width / 2).max(area.x);
            if from >= free && from + width <= area.right() {
                text(buf, area, from, bottom + 1, &words, dim);
                free = from + width + 1;
            }
        }
    }

    fn column(&self, plot: Rect, x: f64) -> u16 {
        let share = ((x - self.x.0) / (self.x.1 - self.x.0)).clamp(0.0, 1.0);
        plot.x + (share * f64::from(2 * plot.width - 1)).round() as u16 / 2
    }

    fn draw_marks(&self, theme: Theme, area: Rect, plot: Rect, buf: &mut Buffer) {
        // The ends of the labels in each row.
        let mut rows = [plot.x; 3];
        let mut place = |x: u16, words: &str, style: Style, buf: &mut Buffer| {
            let width = unicode_width::UnicodeWidthStr::width(words) as u16;
            let from = if x + 1 + width <= plot.right() {
                x + 1
            } else {
                x.saturating_sub(width)
            };
            for (i, end) in rows.iter_mut().enumerate() {
                if from >= *end && (i as u16) < plot.height {
                    text(buf, plot, from, plot.y + i as u16, words, style);
                    *end = from + width + 1;
                    return;
                }
            }
        };
        let vertical = |x: u16, glyph: &str, style: Style, buf: &mut Buffer| {
            for y in plot.top()..plot.bottom() {
                if buf[(x, y)].symbol() == " " {
                    text(buf, plot, x, y, glyph, style);
                }
            }
        };
        // Draw the labels last, so that no line crosses them.
        for &x in self.broken.iter().filter(|x| self.inside(**x)) {
            let x = self.column(plot, x);
            for y in plot.top()..plot.bottom() {
                text(buf, plot, x, y, "╳", theme.wrong());
            }
        }
        for (x, words) in self.marks.iter().filter(|m| self.inside(m.0)) {
            let x = self.column(plot, *x);
            vertical(x, "┊", theme.frame(), buf);
            text(buf, area, x, plot.bottom(), "▲", theme.accent());
            place(x, words, theme.accent(), buf);
        }
        if let Some(&x) = self.broken.iter().find(|x| self.inside(**x)) {
            place(self.column(plot, x), "NaN: diverged", theme.wrong(), buf);
        }
        if let Some(x) = self.cursor.filter(|x| self.inside(*x)) {
            let x = self.column(plot, x);
            vertical(x, "│", theme.accent(), buf);
            text(buf, area, x, plot.bottom(), "┷", theme.accent());
        }
    }
}

/// Maximum number of ticks of a logarithmic axis.
const MAX_LOG_TICKS: usize = 10;

fn log_axis(low: f64, high: f64) -> YAxis {
    let high = if high > low { high } else { low * 1.1 };
    // 1, 2 and 5 of each decade. The ends are such values as well, so that the axis seldom moves.
    let rungs: Vec<f64> = (low.log10().floor() as i32..=high.log10().floor() as i32 + 1)
        .flat_map(|e| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(e)))
        .filter(|rung| rung.is_finite() && *rung > 0.0)
        .collect();
    let from = rungs.iter().rposition(|r| *r <= low).unwrap_or(0);
    let to = rungs.iter().position(|r| *r >= high);
    let to = to
        .unwrap_or(rungs.len() - 1)
        .max(from + 1)
        .min(rungs.len() - 1);
    // With many decades, label only some of them.
    let every = match to - from {
        n if n < MAX_LOG_TICKS => 1,
        n => 3 * n.div_ceil(3 * MAX_LOG_TICKS),
    };
    let ticks = (from..=to)
        .filter(|i| i.is_multiple_of(every))
        .map(|i| (rungs[i], log_label(rungs[i])))
        .collect();
    YAxis {
        low: rungs[from],
        high: rungs[to].max(rungs[from] * 1.5),
        beyond: None,
        ticks,
        log: true,
    }
}

fn log_label(value: f64) -> String {
    match value {
        v if (1e-4..1e5).contains(&v) => {
            let decimals = (-v.log10().floor()).clamp(0.0, 4.0) as usize;
            format!("{v:.decimals$}")
        }
        v => format!("{v:.0e}"),
    }
}
