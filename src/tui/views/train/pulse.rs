//! The list of live values: throughput, gradient norm, learning rate, load, and the most confused pair of classes.

use super::panel::figure;
use crate::domain::history::Series;
use crate::domain::report::SystemLoad;
use crate::domain::text::compact;
use crate::tui::frame::images_per_s;
use crate::tui::session_view::SessionView;
use crate::tui::theme::Theme;
use crate::tui::widgets::sparkline::{growing, sparkline};
use crate::tui::widgets::{panel, text};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;

fn points(series: &Series) -> Vec<(f64, f64)> {
    series
        .buckets()
        .iter()
        .filter_map(|b| Some((b.x, b.mean()?)))
        .collect()
}

fn mebibytes(bytes: u64) -> String {
    match bytes >> 20 {
        n if n < 10_000 => format!("{n} MiB"),
        n => format!("{} GiB", n >> 10),
    }
}

/// A row of the list: label, curve and value. `broken` marks a value that is not finite.
struct PulseRow {
    label: &'static str,
    curve: String,
    value: String,
    broken: bool,
}

fn rows(session: &SessionView, width: usize) -> Vec<PulseRow> {
    let span = (0.0, growing(session.x(), session.params.epochs));
    let mut rows = Vec::new();
    let Some(steps) = &session.steps else {
        return rows;
    };
    let peak = session.throughput.max().unwrap_or(0.0);
    rows.push(PulseRow {
        label: "img/s",
        curve: sparkline(&points(&session.throughput), span, width, Some(0.0)),
        value: format!(
            "{:>9}  peak {}",
            images_per_s(steps.images_per_s),
            images_per_s(peak)
        ),
        broken: false,
    });
    let norm = steps.grad_norm;
    rows.push(PulseRow {
        label: "grad norm",
        curve: sparkline(&points(&session.grad_norm), span, width, None),
        value: format!("{:>9}", compact(norm, 2)),
        broken: !norm.is_finite(),
    });
    rows.push(PulseRow {
        label: "learn rate",
        curve: sparkline(&points(&session.learning_rate), span, width, Some(0.0)),
        value: format!("{:>9}", figure(steps.learning_rate)),
        broken: false,
    });
    rows
}

/// The known ones of the GPU's memory, temperature and power: `3.0/140 GiB 61°C 412W`. Short enough for a screen of 120
/// columns.
fn gpu_state(load: &SystemLoad) -> Option<String> {
    const GIBIBYTE: f64 = (1u64 << 30) as f64;
    let memory = load.gpu_memory.map(|(used, all)| {
        let (used, all) = (used as f64 / GIBIBYTE, all as f64 / GIBIBYTE);
        let decimals = usize::from(used < 10.0);
        format!("{used:.decimals$}/{all:.0} GiB")
    });
    let degrees = load.gpu_temperature.map(|d| format!("{d:.0}°C"));
    let watts = load.gpu_watts.map(|w| format!("{w:.0}W"));
    let known: Vec<String> = [memory, degrees, watts].into_iter().flatten().collect();
    (!known.is_empty()).then(|| known.join(" "))
}

/// The row of the load of the GPU that computes, or of the CPU.
fn load(session: &SessionView, width: usize) -> Option<PulseRow> {
    let load = &session.load;
    let percent = |share: f64| format!("{:>8.0}%", 100.0 * share);
    let (label, series, share, memory) = match (load.gpu, load.cpu) {
        (Some(gpu), _) => ("gpu", &session.gpu, gpu, gpu_state(load)),
        (None, Some(cpu)) => ("cpu", &session.cpu, cpu, load.memory.map(mebibytes)),
        (None, None) => return None,
    };
    let all = points(series);
    // Show the newest reports, one in each column.
    let last = all.last().map_or(0.0, |p| p.0);
    let span = (last - width as f64 + 0.5, last + 0.5);
    let curve = sparkline(&all, span, width, Some(0.0));
    Some(PulseRow {
        label,
        curve,
        value: match memory {
            Some(memory) => format!("{}  {memory}", percent(share)),
            None => percent(share),
        },
        broken: false,
    })
}

/// The most confused pair and its share: (`cat → dog`, `31% of all cat images`).
fn confused(session: &SessionView) -> Option<(String, String)> {
    let evaluation = session
        .evaluation(session.shown)
        .or_else(|| session.evaluation(session.params.scored_split()))?;
    let matrix = &evaluation.confusion;
    let &(truth, predicted, count) = matrix.most_confused(1).first()?;
    let share = 100.0 * f64::from(count) / f64::from(matrix.row_total(truth).max(1));
    let (a, b) = (session.class(truth), session.class(predicted));
    Some((
        format!("{a} → {b}"),
        format!("{share:.0}% of all {a} images"),
    ))
}

pub fn draw(session: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer) {
    if area.is_empty() {
        return;
    }
    let title = Line::styled("pulse", theme.strong());
    let inner = panel(buf, area, theme.frame(), &title, &Line::default());
    let left = inner.x + 1;
    // Leave more room for the values of a GPU.
    let beside = if session.load.gpu.is_some() { 46 } else { 38 };
    let width = usize::from(inner.width.saturating_sub(beside)).clamp(8, 40);
    let mut list = rows(session, width);
    list.extend(load(session, width));
    let mut y = inner.y;
    for row in &list {
        text(buf, inner, left, y, row.label, theme.dim());
        text(buf, inner, left + 11, y, &row.curve, theme.train());
        let style = if row.broken {
            theme.wrong()
        } else {
            theme.text()
        };
        let x = left + 11 + width as u16;
        text(buf, inner, x, y, &row.value, style);
        y += 1;
    }
    if list.is_empty() {
        text(
            buf,
            inner,
            left,
            y,
            "shown once training begins",
            theme.dim(),
        );
    }
    if let Some((pair, words)) = confused(session) {
        let x = text(buf, inner, left, y, pair, theme.wrong());
        text(buf, inner, x + 2, y, words, theme.dim());
    }
}

/// Draws as many of the values as fit in one line.
pub fn draw_line(session: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer) {
    let mut x = area.x + 1;
    let width = 8;
    let mut list = rows(session, width);
    list.extend(load(session, width));
    for row in list {
        let value = row.value.trim_start();
        let value = value.split("  ").next().unwrap_or_default();
        let needed = (row.label.len() + 2 + width + value.chars().count().max(6)) as u16;
        if x + needed > area.right() {
            break;
        }
        x = text(buf, area, x, area.y, format!("{} ", row.label), theme.dim());
        x = text(buf, area, x, area.y, &row.curve, theme.train());
        let style = if row.broken {
            theme.wrong()
        } else {
            theme.text()
        };
        x = text(buf, area, x, area.y, format!(" {value:<6}  "), style);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_tells_what_it_knows() {
        let mut load = SystemLoad {
            gpu: Some(0.97),
            ..SystemLoad::default()
        };
        assert_eq!(gpu_state(&load), None);
        load.gpu_memory = Some((3 << 30, 140 << 30));
        load.gpu_watts = Some(411.6);
        assert_eq!(gpu_state(&load).unwrap(), "3.0/140 GiB 412W");
        load.gpu_temperature = Some(61.0);
        load.gpu_memory = Some((113 << 30, 140 << 30));
        assert_eq!(gpu_state(&load).unwrap(), "113/140 GiB 61°C 412W");
    }
}
