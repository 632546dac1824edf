//! The table of layers: shapes, costs, and the health of the running network's layers.

use super::ModelView;
use super::editor::summary;
use super::rates::shown;
use crate::domain::arch::Summary;
use crate::domain::report::ModelReport;
use crate::domain::text::grouped;
use crate::tui::actions::moved;
use crate::tui::session_view::SessionView;
use crate::tui::theme::Theme;
use crate::tui::widgets::{fitted, list, panel, text, text_right};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

impl ModelView {
    /// The layers to list: those of the text if it is valid, otherwise those of the running network.
    pub(super) fn layers(&self, session: &SessionView) -> Vec<Summary> {
        summary(&self.text(session), session).unwrap_or_else(|_| {
            session
                .run
                .as_ref()
                .map_or_else(Vec::new, |r| r.layers.clone())
        })
    }

    /// Whether the layers listed are those of the running network.
    pub(super) fn runs(&self, session: &SessionView, layers: &[Summary]) -> bool {
        session.run.as_ref().is_some_and(|r| r.layers == layers)
    }

    pub(super) fn select(&mut self, by: i64, session: &SessionView) {
        self.selected = moved(self.selected, by, self.layers(session).len());
    }

    pub(super) fn draw_layers(
        &self,
        session: &SessionView,
        theme: Theme,
        area: Rect,
        buf: &mut Buffer,
    ) {
        let layers = self.layers(session);
        let runs = self.runs(session, &layers);
        let total: u64 = layers.iter().map(|l| l.parameters).sum();
        let work: u64 = layers.iter().map(|l| l.multiply_adds).sum();
        let title = Line::from(Span::styled(
            if runs { "layers" } else { "layers of the text" },
            theme.text(),
        ));
        let right = Line::from(Span::styled(
            format!("{} parameters  {}", grouped(total), flops(work)),
            theme.dim(),
        ));
        let inner = panel(buf, area, theme.frame(), &title, &right);
        if inner.height < 2 {
            return;
        }
        // Health is known for the running network only.
        let report = self.report().filter(|_| runs);
        let wide = inner.width >= 70;
        let foot = if wide || report.is_none() {
            0
        } else {
            2.min(inner.height / 4)
        };
        let figures = 30;
        let extra = if wide { 23 } else { 0 };
        // A wider table would separate values from their names.
        let name = inner.width.saturating_sub(figures + extra).min(48);
        let right_of = |column: u16| inner.x + name + column;
        let header = [("output", 12), ("params", 20), ("mult-adds", 30)];
        text(buf, inner, inner.x + 2, inner.y, "layer", theme.dim());
        for (word, end) in header {
            text_right(buf, inner, right_of(end), inner.y, word, theme.dim());
        }
        if wide {
            for (word, end) in [("weights", 38), ("gradient", 47), ("dead", 53)] {
                text_right(buf, inner, right_of(end), inner.y, word, theme.dim());
            }
        }
        let lines = usize::from(inner.height - 1 - foot).max(1);
        let selected = self.selected.min(layers.len().saturating_sub(1));
        let first = list::first_row(selected, layers.len(), lines);
        for (i, layer) in layers.iter().enumerate().skip(first).take(lines) {
            let y = inner.y + 1 + (i - first) as u16;
            let chosen = i == selected;
            let style = list::row(chosen, theme, inner, y, buf);
            let indent = 2 * layer.depth as usize;
            let words = format!(" {:indent$}{}", "", layer.text);
            let factor = match runs && !layer.name.is_empty() {
                true => shown(session.params.layer_rates.of_layer(&layer.name)),
                false => String::new(),
            };
            let taken = if factor.is_empty() {
                0
            } else {
                factor.len() + 1
            };
            let width = usize::from(name).saturating_sub(taken);
            text(buf, inner, inner.x, y, fitted(&words, width), style);
            let accent = if chosen { style } else { theme.accent() };
            text_right(buf, inner, right_of(0), y, &factor, accent);
            text_right(
                buf,
                inner,
                right_of(12),
                y,
                &layer.output.to_string(),
                style,
            );
            // Zero parameters or multiply-adds are left blank.
            if layer.parameters > 0 {
                text_right(
                    buf,
                    inner,
                    right_of(20),
                    y,
                    &grouped(layer.parameters),
                    style,
                );
            }
            if layer.multiply_adds > 0 {
                text_right(
                    buf,
                    inner,
                    right_of(30),
                    y,
                    &flops(layer.multiply_adds),
                    style,
                );
            }
            if wide && let Some(report) = report {
                let health = LayerHealth::of(report, layer);
                for (value, end) in [(health.weights, 38), (health.gradient, 47)] {
                    if let Some(value) = value {
                        text_right(buf, inner, right_of(end), y, &norm(value), style);
                    }
                }
                if let Some(dead) = health.dead {
                    let style = if dead > 0.5 && !chosen {
                        theme.wrong()
                    } else {
                        style
                    };
                    text_right(
                        buf,
                        inner,
                        right_of(53),
                        y,
                        &format!("{:.1}%", 100.0 * dead),
                        style,
                    );
                }
            }
        }
        if foot > 0
            && let (Some(report), Some(layer)) = (report, layers.get(selected))
        {
            let health = LayerHealth::of(report, layer);
            let y = inner.bottom() - 1;
            let weights = health.weights.map(|w| format!("|w| {}", norm(w)));
            let gradient = health.gradient.map(|g| format!("|grad| {}", norm(g)));
            let dead = health.dead.map(|d| format!("dead {:.1}%", 100.0 * d));
            let words = [weights, gradient, dead]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join("  ");
            let words = if words.is_empty() {
                "nothing to learn in this layer".into()
            } else {
                words
            };
            text(buf, inner, inner.x + 1, y, words, theme.dim());
        }
    }
}

/// Figures of a layer's parameters and units.
#[derive(Default)]
struct LayerHealth {
    /// Norm of the weights.
    weights: Option<f64>,
    /// Norm of their last gradient, if it is known.
    gradient: Option<f64>,
    dead: Option<f64>,
}

impl LayerHealth {
    fn of(report: &ModelReport, layer: &Summary) -> Self {
        if layer.name.is_empty() {
            return LayerHealth::default();
        }
        // Only the layer's own parameters: `conv1.weight`, but not `residual1.conv1.weight` for `residual1`.
        let own = |name: &str| {
            name.strip_prefix(layer.name.as_str())
                .and_then(|rest| rest.strip_prefix('.'))
                .is_some_and(|rest| !rest.contains('.'))
        };
        let (mut weights, mut gradient, mut any) = (0.0, Some(0.0), false);
        for p in report.parameters.iter().filter(|p| own(&p.name)) {
            weights += p.weight_norm * p.weight_norm;
            gradient = gradient.zip(p.grad_norm).map(|(sum, g)| sum + g * g);
            any = true;
        }
        LayerHealth {
            weights: any.then(|| weights.sqrt()),
            gradient: gradient.filter(|_| any).map(f64::sqrt),
            dead: report
                .units
                .iter()
                .find(|u| u.name == layer.name)
                .map(|u| u.dead),
        }
    }
}

/// Multiply-adds: `864`, `55.3 k`, `9.48 M`.
fn flops(n: u64) -> String {
    let v = n as f64;
    match v {
        v if v < 1e3 => n.to_string(),
        v if v < 1e6 => format!("{:.1} k", v / 1e3),
        v if v < 1e9 => format!("{:.2} M", v / 1e6),
        v => format!("{:.2} G", v / 1e9),
    }
}

/// A norm in at most eight columns.
fn norm(v: f64) -> String {
    match v.abs() {
        a if !v.is_finite() => format!("{a}"),
        0.0 => "0".into(),
        a if a < 1e-3 => format!("{v:.1e}"),
        a if a < 100.0 => format!("{v:.3}"),
        a if a < 1e5 => format!("{v:.1}"),
        _ => format!("{v:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_few_columns() {
        assert_eq!(flops(864), "864");
        assert_eq!(flops(9_479_000), "9.48 M");
        assert_eq!(norm(0.0), "0");
        assert_eq!(norm(1.5e-5), "1.5e-5");
        assert_eq!(norm(3.21), "3.210");
        assert_eq!(norm(4.06e23), "4.1e23");
        assert_eq!(norm(f64::NAN), "NaN");
    }
}
