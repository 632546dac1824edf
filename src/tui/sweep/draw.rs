//! Draws the sweep's screen.

use super::app::{SortBy, SweepApp, SweepOverlay};
use super::keys::{SWEEP_KEYS, listing};
use crate::domain::params::{Value, param};
use crate::domain::report::Split;
use crate::domain::sweep::{Axis, SweepReport, TrialRow, accuracy_name, number};
use crate::domain::terminal::MIN_SIZE;
use crate::domain::text::{duration, percent};
use crate::tui::frame::too_small;
use crate::tui::widgets::plot::{self, PlotCurve, PlotDot};
use crate::tui::widgets::sparkline::sparkline;
use crate::tui::widgets::{fitted, line, list, panel, show_hidden, text, text_right, wrap};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Widget};

/// Columns of the sparklines.
const SPARK: usize = 12;

impl SweepApp {
    pub fn draw(&self, buf: &mut Buffer) {
        let size = self.size.intersection(buf.area);
        if size.width < MIN_SIZE.0 || size.height < MIN_SIZE.1 {
            return too_small(self.theme, size, buf);
        }
        let row = |y: u16| Rect::new(size.x, size.y + y, size.width, 1);
        self.header(row(0), buf);
        let body = Rect::new(size.x, size.y + 1, size.width, size.height - 3);
        let (table, curves, scatter) = parts(body, self.rows().len());
        self.table(table, buf);
        self.curves(curves, buf);
        self.scatter(scatter, buf);
        self.status(row(size.height - 2), buf);
        self.footer(row(size.height - 1), buf);
        self.draw_overlay(buf);
        show_hidden(buf);
        self.theme.fit(buf);
    }

    fn header(&self, area: Rect, buf: &mut Buffer) {
        let theme = self.theme;
        let Some(report) = &self.report else {
            text(
                buf,
                area,
                area.x + 1,
                area.y,
                "cifar-tui  reading the sweep",
                theme.accent(),
            );
            return;
        };
        let (trials, ended, training) = (report.rows.len(), report.ended(), report.training());
        let (mark, word, style) = match (training, ended == trials, self.trains) {
            (1.., ..) => ("●", format!("training {training}"), theme.best()),
            (0, true, _) => ("✓", "done".to_owned(), theme.best()),
            (0, false, true) => ("◌", "waiting".to_owned(), theme.dim()),
            (0, false, false) => ("■", "stopped".to_owned(), theme.accent()),
        };
        let mut spans = vec![
            Span::styled("cifar-tui  ", theme.accent()),
            Span::styled(fitted(&report.name, 24), theme.strong()),
            Span::styled(format!("  {mark} {word:<12}"), style),
            Span::styled(format!("  {ended}"), theme.text()),
            Span::styled(format!(" of {trials} ended"), theme.dim()),
        ];
        if area.width >= 100 {
            spans.push(Span::styled(
                format!("  {}", report.plan.strategy.word()),
                theme.dim(),
            ));
        }
        line(buf, area, area.x + 1, area.y, &Line::from(spans));
        let best = report
            .ranked()
            .first()
            .and_then(|row| Some((row.run.clone(), row.accuracy()?)));
        let mut right = Vec::new();
        if let Some(seconds) = report.seconds_left() {
            right.push(Span::styled("about ", theme.dim()));
            right.push(Span::styled(duration(seconds), theme.text()));
            right.push(Span::styled(" left  ", theme.dim()));
        }
        if let Some((run, accuracy)) = best.filter(|_| area.width >= 100) {
            right.push(Span::styled("best ", theme.dim()));
            right.push(Span::styled(percent(accuracy), theme.best()));
            right.push(Span::styled(format!(" {}", fitted(&run, 12)), theme.dim()));
        }
        let right = Line::from(right);
        let x = area.right().saturating_sub(right.width() as u16 + 1);
        line(buf, area, x, area.y, &right);
    }

    fn table(&self, area: Rect, buf: &mut Buffer) {
        let theme = self.theme;
        let rows = self.rows();
        let sorted = match self.sort {
            SortBy::Accuracy => "accuracy".to_owned(),
            SortBy::Trial => "trial".to_owned(),
            SortBy::Epochs => "epochs".to_owned(),
            SortBy::Axis(axis) => self
                .keys()
                .nth(axis)
                .map_or_else(String::new, |key| label(&key)),
        };
        let title = Line::from(vec![
            Span::styled("trials  ", theme.text()),
            Span::styled(rows.len().to_string(), theme.accent()),
        ]);
        let right = Line::from(Span::styled(format!("by {sorted}"), theme.dim()));
        let inner = panel(buf, area, theme.frame(), &title, &right);
        let Some(report) = &self.report else { return };
        let lines = usize::from(inner.height.saturating_sub(1)).max(1);
        let at = self.place();
        let first = list::first_row(at, rows.len(), lines);
        let columns = Columns::of(inner.width, report, &self.keys().collect::<Vec<_>>());
        columns.header(report, theme.dim(), inner, buf);
        let best = report
            .ranked()
            .first()
            .filter(|row| row.accuracy().is_some())
            .map(|row| row.trial);
        for (i, row) in rows.iter().enumerate().skip(first).take(lines) {
            let y = inner.y + 1 + (i - first) as u16;
            let style = list::row(i == at, theme, inner, y, buf);
            let state = match row.state() {
                _ if i == at => style,
                "diverged" | "failed" => theme.wrong(),
                "training" => theme.accent(),
                _ => theme.dim(),
            };
            let accuracy = if best == Some(row.trial) && i != at {
                theme.best()
            } else {
                style
            };
            let curve = if i == at { style } else { theme.validation() };
            columns.row(
                row,
                report,
                [style, state, curve, accuracy],
                (inner, y),
                buf,
            );
        }
    }

    fn curves(&self, area: Rect, buf: &mut Buffer) {
        let theme = self.theme;
        let title = match self
            .report
            .as_ref()
            .map(|report| report.plan.params.scored_split())
        {
            Some(Split::Test) => "test accuracy",
            _ => "validation accuracy",
        };
        let title = Line::from(Span::styled(title, theme.text()));
        let name = self.chosen().map(|row| row.run.clone());
        let right = Line::from(Span::styled(name.unwrap_or_default(), theme.accent()));
        let inner = panel(buf, area, theme.frame(), &title, &right);
        let curve = |row: &TrialRow, style: Style| PlotCurve {
            style,
            letter: "",
            points: row.curve(),
        };
        let chosen = self.chosen().map(|row| row.trial);
        let others = self
            .rows()
            .into_iter()
            .filter(|row| Some(row.trial) != chosen);
        let mut curves: Vec<PlotCurve> = others.map(|row| curve(row, theme.train_raw())).collect();
        curves.extend(self.chosen().map(|row| curve(row, theme.accent())));
        if curves.iter().all(|curve| curve.points.is_empty()) {
            text(
                buf,
                inner,
                inner.x + 1,
                inner.y,
                "Curves come with the first epoch.",
                theme.dim(),
            );
            return;
        }
        plot::curves(&curves, theme, inner, buf);
    }

    fn scatter(&self, area: Rect, buf: &mut Buffer) {
        let theme = self.theme;
        let Some(report) = &self.report else { return };
        let key = self.keys().nth(self.axis).unwrap_or_default();
        let title = Line::from(Span::styled(format!("by {}", label(&key)), theme.text()));
        let right = Line::from(Span::styled(
            format!("{} of {}", self.axis + 1, self.keys().count().max(1)),
            theme.dim(),
        ));
        let inner = panel(buf, area, theme.frame(), &title, &right);
        let rows: Vec<(&TrialRow, &Value)> = (report.rows.iter())
            .filter_map(|row| Some((row, self.value(row, self.axis)?)))
            .collect();
        let place = Places::of(&key, report, &rows);
        let chosen = self.chosen().map(|row| row.trial);
        let best = report.ranked().first().map(|row| row.trial);
        let dots = rows.iter().filter_map(|(row, value)| {
            Some(PlotDot {
                style: match row.trial {
                    trial if Some(trial) == chosen => theme.accent(),
                    trial if Some(trial) == best => theme.best(),
                    _ => theme.train(),
                },
                x: place.of_value(value),
                y: row.accuracy()?,
                chosen: Some(row.trial) == chosen,
            })
        });
        let dots: Vec<PlotDot> = dots.collect();
        if dots.is_empty() {
            text(
                buf,
                inner,
                inner.x + 1,
                inner.y,
                "Points come with the first epoch.",
                theme.dim(),
            );
            return;
        }
        plot::scatter(&dots, &place.labels, theme, inner, buf);
    }

    /// A note, or the values of the chosen trial.
    fn status(&self, area: Rect, buf: &mut Buffer) {
        let theme = self.theme;
        if let Some(note) = &self.note {
            let words = fitted(note, usize::from(area.width.saturating_sub(4)));
            text(buf, area, area.x + 1, area.y, "!", theme.validation());
            text(buf, area, area.x + 3, area.y, words, theme.validation());
            return;
        }
        let Some(row) = self.chosen() else { return };
        let mut words = crate::domain::sweep::describe(&row.start.values);
        if let Some((donor, epoch)) = &row.start.copy_of {
            words += &format!("  a copy of {donor} at the end of epoch {epoch}");
        }
        let x = text(
            buf,
            area,
            area.x + 1,
            area.y,
            format!("{}  ", row.run),
            theme.accent(),
        );
        text(buf, area, x, area.y, words, theme.text());
    }

    fn footer(&self, area: Rect, buf: &mut Buffer) {
        let theme = self.theme;
        if self.overlay.is_some() {
            return;
        }
        let mut x = area.x + 1;
        for row in SWEEP_KEYS.iter().filter(|row| !row.name.is_empty()) {
            let key = row.keys[0].name(theme.symbols);
            let width = (key.chars().count() + row.name.len() + 3) as u16;
            if x + width > area.right() {
                continue;
            }
            x = text(buf, area, x, area.y, key, theme.accent());
            x = text(
                buf,
                area,
                x,
                area.y,
                format!(" {}  ", row.name),
                theme.text(),
            );
        }
    }

    fn draw_overlay(&self, buf: &mut Buffer) {
        let theme = self.theme;
        let (lines, answers) = match &self.overlay {
            None => return,
            Some(SweepOverlay::Help) => {
                let keys = listing(theme.symbols);
                (
                    keys.lines()
                        .map(|words| words.trim_start().to_owned())
                        .collect(),
                    "any key closes this",
                )
            }
            Some(SweepOverlay::Confirm(question, _)) => (wrap(question, 56), "y yes   n no"),
        };
        let widest = lines
            .iter()
            .map(|words| words.chars().count())
            .max()
            .unwrap_or(0);
        let width = (widest as u16 + 6).min(self.size.width - 2);
        let height = (lines.len() as u16 + 5).min(self.size.height - 2);
        let area = Rect::new(
            (self.size.width - width) / 2,
            (self.size.height - height) / 2,
            width,
            height,
        );
        Clear.render(area, buf);
        let inner = panel(
            buf,
            area,
            theme.accent(),
            &Line::default(),
            &Line::default(),
        );
        for (y, words) in (inner.y + 1..inner.bottom()).zip(&lines) {
            text(buf, inner, inner.x + 2, y, words, theme.text());
        }
        text(
            buf,
            inner,
            inner.x + 2,
            inner.bottom() - 1,
            answers,
            theme.dim(),
        );
    }
}

/// The rectangles of the table, the curves and the scatter plot.
fn parts(body: Rect, rows: usize) -> (Rect, Rect, Rect) {
    let cut = |x, y, width, height| Rect::new(body.x + x, body.y + y, width, height);
    if body.width >= 110 {
        let right = body.width * 2 / 5;
        let (left, half) = (body.width - right, body.height / 2);
        return (
            cut(0, 0, left, body.height),
            cut(left, 0, right, body.height - half),
            cut(left, body.height - half, right, half),
        );
    }
    // The plots take what a short table leaves, and at most half.
    let table = (rows as u16)
        .saturating_add(3)
        .clamp(body.height - body.height / 2, body.height - 9);
    let (half, plots) = (body.width / 2, body.height - table);
    (
        cut(0, 0, body.width, table),
        cut(0, table, half, plots),
        cut(half, table, body.width - half, plots),
    )
}

/// A hyperparameter's name in few letters.
fn label(key: &str) -> String {
    param(key).map_or_else(|| key.to_owned(), |row| row.label.to_owned())
}

/// The columns of the table. Figures and values are given by their right edges.
struct Columns {
    run: u16,
    state: u16,
    /// Where the curves begin, if there is room for them.
    spark: Option<u16>,
    figures: [u16; 3],
    /// Index, heading and right edge of each hyperparameter that fits.
    values: Vec<(usize, String, u16)>,
}

impl Columns {
    fn of(width: u16, report: &SweepReport, keys: &[String]) -> Self {
        let longest = |words: &mut dyn Iterator<Item = usize>| words.max().unwrap_or(0) as u16;
        let run = longest(&mut report.rows.iter().map(|row| row.run.chars().count())).clamp(3, 12);
        let value = |row: &TrialRow, i: usize| {
            row.start
                .values
                .get(i)
                .map_or(0, |(_, value)| value.to_string().chars().count())
        };
        let wanted = keys.iter().enumerate().map(|(i, key)| {
            let heading = short(key);
            let width = longest(&mut report.rows.iter().map(|row| value(row, i)));
            let width = width.max(heading.chars().count() as u16).min(16) + 2;
            (i, heading, width)
        });
        let wanted: Vec<_> = wanted.collect();
        let state = run + 2;
        let begin = state + 10;
        // What is tried matters more than the curves, which the chart shows too.
        let room: u16 = wanted.iter().map(|column| column.2).sum();
        let spark = (begin + SPARK as u16 + 27 + room <= width).then_some(begin);
        let after = begin + spark.map_or(0, |_| SPARK as u16 + 1);
        let figures = [after + 7, after + 17, after + 26];
        let mut right = figures[2];
        let values = wanted.into_iter().map_while(|(i, heading, wide)| {
            right += wide;
            (right <= width).then_some((i, heading, right))
        });
        Columns {
            run,
            state,
            spark,
            figures,
            values: values.collect(),
        }
    }

    fn header(&self, report: &SweepReport, style: Style, area: Rect, buf: &mut Buffer) {
        let at = |x: u16| area.x + x;
        text(buf, area, at(1), area.y, "run", style);
        text(buf, area, at(self.state), area.y, "state", style);
        let best = accuracy_name(&report.plan.params);
        for (words, x) in ["epochs", best, "test"].into_iter().zip(self.figures) {
            text_right(buf, area, at(x), area.y, words, style);
        }
        for (_, words, x) in &self.values {
            text_right(buf, area, at(*x), area.y, words, style);
        }
    }

    /// `styles`: of the text, the state, the curve and the accuracy.
    fn row(
        &self,
        row: &TrialRow,
        report: &SweepReport,
        styles: [Style; 4],
        (area, y): (Rect, u16),
        buf: &mut Buffer,
    ) {
        let [style, state, curve, accuracy] = styles;
        let at = |x: u16| area.x + x;
        text(
            buf,
            area,
            at(1),
            y,
            fitted(&row.run, self.run.into()),
            style,
        );
        text(buf, area, at(self.state), y, row.state(), state);
        if let Some(x) = self.spark {
            let points = row.curve();
            let words = sparkline(&points, (0.0, report.plan.params.epochs), SPARK, None);
            text(buf, area, at(x), y, words, curve);
        }
        let share = |share: Option<f64>| share.map_or_else(|| "-".into(), percent);
        let test = row.summary.as_ref().and_then(|run| run.test_accuracy);
        let epochs = format!("{}/{}", row.epochs_done(), report.plan.params.epochs);
        text_right(buf, area, at(self.figures[0]), y, &epochs, style);
        text_right(
            buf,
            area,
            at(self.figures[1]),
            y,
            &share(row.accuracy()),
            accuracy,
        );
        text_right(buf, area, at(self.figures[2]), y, &share(test), style);
        for (i, _, x) in &self.values {
            let value = row
                .start
                .values
                .get(*i)
                .map_or_else(String::new, |(_, value)| value.to_string());
            text_right(buf, area, at(*x), y, &fitted(&value, 16), style);
        }
    }
}

/// A hyperparameter's name in as few letters as charts have.
fn short(key: &str) -> String {
    match param(key) {
        Some(row) if !row.short.is_empty() => row.short.into(),
        Some(row) => row.label.into(),
        None => key.into(),
    }
}

/// Where the values of a hyperparameter stand on an axis from 0 to 1.
struct Places {
    /// The smallest and the largest number; their logarithms on a logarithmic axis.
    range: (f64, f64),
    log: bool,
    /// The values that are no numbers.
    words: Vec<String>,
    labels: Vec<(f64, String)>,
}

impl Places {
    fn of(key: &str, report: &SweepReport, rows: &[(&TrialRow, &Value)]) -> Self {
        let axis = (report.plan.axes.iter())
            .filter_map(|text| Axis::parse(text).ok())
            .find(|axis| axis.row.key == key);
        let log = axis.is_some_and(|axis| axis.is_log());
        let mut values: Vec<&Value> = rows.iter().map(|(_, value)| *value).collect();
        let numbers = values.iter().filter_map(|value| number(value));
        let range = numbers.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), n| {
            let n = if log { n.ln() } else { n };
            (low.min(n), high.max(n))
        });
        let mut words: Vec<String> = Vec::new();
        for value in values.iter().filter(|value| number(value).is_none()) {
            let word = value.to_string();
            if !words.contains(&word) {
                words.push(word);
            }
        }
        let mut places = Places {
            range,
            log,
            words,
            labels: Vec::new(),
        };
        values.sort_by(|a, b| places.of_value(a).total_cmp(&places.of_value(b)));
        values.dedup();
        // The ends come first, since labels that would overlap are left out.
        let mut labels: Vec<(f64, String)> = (values.iter())
            .map(|value| (places.of_value(value), fitted(&value.to_string(), 12)))
            .collect();
        if labels.len() > 5 {
            let last = labels.pop();
            labels.truncate(1);
            labels.extend(last);
        }
        places.labels = labels;
        places
    }

    fn of_value(&self, value: &Value) -> f64 {
        let share = |at: f64, (low, high): (f64, f64)| match high > low {
            true => (at - low) / (high - low),
            false => 0.5,
        };
        match number(value) {
            Some(number) if self.log => share(number.ln(), self.range),
            Some(number) => share(number, self.range),
            None => {
                let word = value.to_string();
                let at = self.words.iter().position(|own| *own == word);
                let last = self.words.len().saturating_sub(1) as f64;
                share(at.unwrap_or(0) as f64, (0.0, last))
            }
        }
    }
}
