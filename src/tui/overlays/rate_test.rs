//! The overlay of a test of learning rates: the losses over the rates, and the suggestion.

use crate::domain::params::Value;
use crate::domain::rate_test::{RATES, RateTestEnd, RateTestReport};
use crate::domain::text::grouped;
use crate::tui::app::App;
use crate::tui::theme::Theme;
use crate::tui::widgets::chart::Chart;
use crate::tui::widgets::{panel, paragraph};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::Line;

/// Rows below the chart.
const ROWS: u16 = 2;

/// Draws the newest test; before it `has_begun`, that it is waited for.
pub fn draw(app: &App, has_begun: bool, area: Rect, buf: &mut Buffer) {
    let (session, theme) = (&app.session, app.theme);
    let test = session.rate_test.as_ref().filter(|_| has_begun);
    let from = match test {
        Some(test) => format!("learning rate test, from step {}", grouped(test.step)),
        None => "learning rate test".into(),
    };
    let ends = match test {
        Some(test) if test.end.is_some() => "esc closes",
        _ => "esc stops it",
    };
    let title = Line::styled(from, theme.strong());
    let right = Line::styled(ends, theme.dim());
    let inner = panel(buf, area, theme.accent(), &title, &right);
    let Some(test) = test else {
        let words = "the test begins when the images are scored or the step is done";
        return paragraph(buf, inner, &[(words.into(), theme.dim())]);
    };
    let chart = Rect::new(
        inner.x + 1,
        inner.y,
        inner.width.saturating_sub(2),
        inner.height.saturating_sub(ROWS),
    );
    draw_losses(test, theme, chart, buf);
    let below = Rect::new(chart.x, chart.bottom(), chart.width, ROWS).intersection(inner);
    let rate = session.params.learning_rate;
    paragraph(buf, below, &[state(test, theme), advice(test, rate, theme)]);
}

fn draw_losses(test: &RateTestReport, theme: Theme, area: Rect, buf: &mut Buffer) {
    let x = |rate: f64| rate.log10();
    let points = test.points.iter();
    let losses: Vec<(f64, f64)> = points.clone().map(|p| (x(p.rate), p.loss)).collect();
    let means: Vec<(f64, f64)> = points.map(|p| (x(p.rate), p.smoothed)).collect();
    // A suggestion before the end is only a tenth of the last rate, as long as the loss falls.
    let suggestion = test.suggestion.filter(|_| test.end.is_some());
    let marks: Vec<(f64, String)> = suggestion
        .map(|rate| (x(rate), Value::Float(rate).to_string()))
        .into_iter()
        .collect();
    let chart = Chart {
        x: (x(RATES.0), x(RATES.1)),
        log_x: true,
        log_y: true,
        raw: &losses,
        train: &means,
        marks: &marks,
        ..Chart::default()
    };
    chart.draw(theme, area, buf);
}

/// How far the test is, or why it has ended.
fn state(test: &RateTestReport, theme: Theme) -> (String, Style) {
    let last = test.last_rate();
    let steps = format!("{} of {} steps", test.points.len(), test.steps);
    let words = match &test.end {
        None => format!("{steps}, at a rate of {last:.1e}; training waits"),
        Some(RateTestEnd::AllRates) => format!("{steps}: all rates were tried"),
        Some(RateTestEnd::Stopped) => format!("stopped after {steps}, at a rate of {last:.1e}"),
        Some(end) => format!("ended {}", end.describe(last).unwrap_or_default()),
    };
    let style = match test.end {
        Some(RateTestEnd::Failed(_)) => theme.wrong(),
        _ => theme.dim(),
    };
    (words, style)
}

/// What to do with the result. `rate` is the present learning rate.
fn advice(test: &RateTestReport, rate: f64, theme: Theme) -> (String, Style) {
    match (&test.end, test.suggestion) {
        (None, _) => (String::new(), theme.dim()),
        (Some(_), Some(suggestion)) => (
            format!(
                "{} sets {} (now {}): a tenth of the rate with the lowest loss",
                theme.symbols.enter(),
                Value::Float(suggestion),
                Value::Float(rate)
            ),
            theme.strong(),
        ),
        (Some(_), None) => (
            "no rate made the loss fall clearly; a larger batch makes it less noisy".into(),
            theme.text(),
        ),
    }
}
