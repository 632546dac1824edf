//! The loss and accuracy charts: their contents, the visible range of x, and the cursor that reads values.

use super::TrainAction;
use crate::domain::comparison::DifferenceOf;
use crate::domain::history::Series;
use crate::domain::marks::merged;
use crate::domain::report::{Evaluation, Split, State};
use crate::domain::text::{compact, grouped, percent};
use crate::plot::Curve;
use crate::tui::actions::key_of;
use crate::tui::pictures::Request;
use crate::tui::session_view::{ComparisonView, SessionView, Severity};
use crate::tui::theme::Theme;
use crate::tui::views::Context;
use crate::tui::widgets::chart::{Branch, Chart};
use crate::tui::widgets::sparkline::growing;
use crate::tui::widgets::{panel, text, text_right};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

/// The two charts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChartKind {
    #[default]
    Loss,
    Accuracy,
}

impl ChartKind {
    pub fn other(self) -> Self {
        match self {
            ChartKind::Loss => ChartKind::Accuracy,
            ChartKind::Accuracy => ChartKind::Loss,
        }
    }

    fn series(self, session: &SessionView) -> &Series {
        match self {
            ChartKind::Loss => &session.train_loss,
            ChartKind::Accuracy => &session.train_accuracy,
        }
    }

    /// Its value in an evaluation.
    fn of(self, evaluation: &Evaluation) -> f64 {
        match self {
            ChartKind::Loss => evaluation.loss,
            ChartKind::Accuracy => evaluation.accuracy,
        }
    }

    /// The points of the validation curve.
    fn validation(self, session: &SessionView) -> Vec<(f64, f64)> {
        let points = session.validation.iter();
        match self {
            ChartKind::Loss => points.map(|p| (p.x, p.loss)).collect(),
            ChartKind::Accuracy => points.map(|p| (p.x, p.accuracy)).collect(),
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            ChartKind::Loss => compact(value, 3),
            ChartKind::Accuracy => percent(value),
        }
    }
}

/// The choices of smoothing, from none to strong.
const SMOOTHINGS: [f64; 5] = [0.0, 0.5, 0.8, 0.9, 0.97];

/// Approximate number of columns of a mark's label.
const LABEL_COLUMNS: f64 = 16.0;

/// State of the charts.
#[derive(Debug)]
pub struct Charts {
    /// The chart that is shown if there is room for only one.
    pub front: ChartKind,
    log_y: bool,
    /// The visible range of x; None shows the whole run.
    window: Option<(f64, f64)>,
    cursor: Option<f64>,
}

impl Default for Charts {
    fn default() -> Self {
        Charts {
            front: ChartKind::Loss,
            log_y: false,
            window: None,
            cursor: None,
        }
    }
}

/// Fewest epochs of a comparison that are shown.
const MIN_COMPARED_EPOCHS: f64 = 0.1;

/// The range of x of the whole run, or of a comparison, as far as it is shown while the run grows.
fn whole(session: &SessionView) -> (f64, f64) {
    let epochs = session.params.epochs;
    let done = session.x();
    if let Some(comparison) = &session.comparison {
        // Show where the curves part, as far back as half of what follows.
        let from = comparison.x;
        let span = growing(done - from, epochs - from).max(MIN_COMPARED_EPOCHS);
        return ((from - span / 2.0).max(0.0), from + span);
    }
    // With less than an epoch, the axis would change all the time.
    (0.0, growing(done, epochs).max(1.0f64.min(epochs)))
}

/// The value of a curve at x: that of its last point up to x.
fn at(points: &[(f64, f64)], x: f64) -> Option<f64> {
    let n = points.partition_point(|p| p.0 <= x + 1e-9);
    points.get(n.max(1) - 1).map(|p| p.1)
}

impl Charts {
    /// Resets positions, which belong to the previous run.
    pub fn restart(&mut self) {
        self.window = None;
        self.cursor = None;
    }

    /// Leaves the cursor, or else the zoom. Returns false if there is neither.
    pub fn leave(&mut self) -> bool {
        self.cursor.take().is_some() || self.window.take().is_some()
    }

    pub fn has_cursor(&self) -> bool {
        self.cursor.is_some()
    }

    /// The epoch whose end is nearest to the cursor, if the cursor is shown.
    pub fn cursor_epoch(&self) -> Option<u32> {
        self.cursor.map(|x| x.round().max(0.0) as u32)
    }

    /// Whether only a part of the x axis is shown.
    pub fn is_zoomed(&self) -> bool {
        self.window.is_some()
    }

    fn shown(&self, session: &SessionView) -> (f64, f64) {
        self.window.unwrap_or_else(|| whole(session))
    }

    pub fn turn_log_scale(&mut self, ctx: &mut Context) {
        self.log_y = !self.log_y;
        let word = if self.log_y { "logarithmic" } else { "linear" };
        ctx.say(Severity::Plain, format!("loss axis: {word}"));
    }

    /// Changes the smoothing on every screen.
    pub fn smooth(&mut self, more: bool, ctx: &mut Context) {
        let now = ctx.session.smoothing;
        let next = match more {
            true => SMOOTHINGS.into_iter().find(|s| *s > now),
            false => SMOOTHINGS.into_iter().rev().find(|s| *s < now),
        };
        let next = next.unwrap_or(now);
        let text = match next {
            0.0 => "smoothing: off".to_owned(),
            s => format!("smoothing: {s}"),
        };
        ctx.smooth(next);
        ctx.say(Severity::Plain, text);
    }

    /// Moves the cursor by a share of the visible range.
    pub fn move_cursor(&mut self, share: f64, session: &SessionView) {
        let (from, to) = self.shown(session);
        self.set_cursor(
            self.cursor.unwrap_or(session.x()) + share * (to - from),
            session,
        );
    }

    /// Moves the cursor to the end of the next or previous epoch.
    pub fn move_cursor_an_epoch(&mut self, forward: bool, session: &SessionView) {
        let x = self.cursor.unwrap_or(session.x());
        let to = match forward {
            true => (x + 1e-6).floor() + 1.0,
            false => (x - 1e-6).floor(),
        };
        self.set_cursor(to, session);
    }

    fn set_cursor(&mut self, x: f64, session: &SessionView) {
        let x = x.clamp(0.0, session.x().max(0.0));
        self.cursor = Some(x);
        // Keep the cursor in the visible range.
        if let Some((from, to)) = self.window
            && !(from..=to).contains(&x)
        {
            let half = (to - from) / 2.0;
            self.set_window(x - half, x + half, session);
        }
    }

    /// Shows half as much of the x axis.
    pub fn zoom_in(&mut self, ctx: &mut Context) {
        let (from, to) = self.shown(ctx.session);
        // A hundredth of an epoch is a few steps; zooming in further shows nothing.
        if (to - from) * 0.5 < 0.01 {
            ctx.say(Severity::Warning, "the x axis is as close as it gets");
        } else {
            self.zoom(0.5, ctx.session);
        }
    }

    /// Shows twice as much of the x axis.
    pub fn zoom_out(&mut self, session: &SessionView) {
        self.zoom(2.0, session);
    }

    fn zoom(&mut self, by: f64, session: &SessionView) {
        let (from, to) = self.shown(session);
        let around = self.cursor.unwrap_or(session.x()).clamp(from, to);
        let range = (to - from) * by;
        if range >= session.params.epochs {
            self.window = None;
            return;
        }
        let share = (around - from) / (to - from);
        self.set_window(
            around - share * range,
            around + (1.0 - share) * range,
            session,
        );
    }

    /// Moves the visible range by a share of itself.
    pub fn pan(&mut self, share: f64, session: &SessionView) {
        if let Some((from, to)) = self.window {
            let by = share * (to - from);
            self.set_window(from + by, to + by, session);
        }
    }

    fn set_window(&mut self, from: f64, to: f64, session: &SessionView) {
        let range = to - from;
        let end = session.params.epochs.max(range);
        let from = from.clamp(0.0, end - range);
        self.window = Some((from, from + range));
    }

    /// Moves the cursor to the mouse.
    pub fn point(&mut self, column: u16, area: Rect, session: &SessionView) {
        let (from, to) = self.shown(session);
        // The frame and the axis labels.
        let (left, width) = (area.x + 7, area.width.saturating_sub(9).max(1));
        let share = f64::from(column.saturating_sub(left)) / f64::from(width);
        self.cursor = Some((from + share * (to - from)).clamp(0.0, session.x().max(0.0)));
    }

    /// The picture that the save key writes.
    pub fn picture(&self, what: ChartKind, session: &SessionView) -> Option<Request> {
        let run = session.run.as_ref()?;
        Some(Request::Curves {
            folder: run.folder.clone(),
            curve: match what {
                ChartKind::Loss => Curve::Loss,
                ChartKind::Accuracy => Curve::Accuracy,
            },
            title: format!("{} on {}", run.name, run.data.name),
            epochs: session.epochs.clone(),
            marks: session.marks.clone(),
        })
    }

    pub fn draw(
        &self,
        what: ChartKind,
        session: &SessionView,
        theme: Theme,
        area: Rect,
        buf: &mut Buffer,
    ) {
        if area.is_empty() {
            return;
        }
        let series = what.series(session);
        let smooth = session.smoothed(series);
        let raw: Vec<(f64, f64)> = match session.smoothing {
            0.0 => Vec::new(),
            _ => series
                .buckets()
                .iter()
                .filter_map(|b| Some((b.x, b.mean()?)))
                .collect(),
        };
        let validation = what.validation(session);
        let best = match what {
            ChartKind::Loss => session.lowest_loss,
            ChartKind::Accuracy => session.best.map(|b| (b.epoch, b.accuracy)),
        };
        let mut title = vec![Span::styled(
            match what {
                ChartKind::Loss => "loss",
                ChartKind::Accuracy => "accuracy",
            },
            theme.strong(),
        )];
        if self.log_y && what == ChartKind::Loss {
            title.push(Span::styled(" log", theme.dim()));
        }
        if self.window.is_some() {
            title.push(Span::styled(" zoomed", theme.dim()));
        }
        let mut figures = self.figures(what, session, theme, &smooth, &validation, best);
        // The frame, and the spaces around both texts.
        let room = usize::from(area.width).saturating_sub(9);
        let width = |spans: &[Span]| spans.iter().map(Span::width).sum::<usize>();
        let wide = |figures: &[Vec<Span>]| figures.iter().map(|f| width(f)).sum::<usize>();
        while width(&title) + wide(&figures) > room && figures.pop().is_some() {}
        let mut inner = panel(
            buf,
            area,
            theme.frame(),
            &Line::from(title),
            &Line::from(figures.concat()),
        );
        let comparison = session.comparison.as_deref();
        if let Some(comparison) = comparison.filter(|_| inner.height > 6) {
            draw_comparison(what, comparison, theme, inner, buf);
            (inner.y, inner.height) = (inner.y + 1, inner.height - 1);
        }
        let parting = comparison.map(|comparison| comparison.x);
        // The raw curve would hide how the two networks differ.
        let (raw, _) = parted(raw, parting);
        let (smooth, without) = parted(smooth, parting);
        let (validation, without_validation) = parted(validation, parting);
        let with = comparison.map(|comparison| {
            let with = &comparison.with;
            let train = with.smoothed(what.series(with));
            let validation = what.validation(with);
            let [train, validation] = [train, validation].map(|all| parted(all, parting).1);
            (train, validation)
        });
        let mut branches = Vec::new();
        if let Some((train, validation)) = &with {
            branches.push(Branch {
                name: "without",
                train: &without,
                validation: &without_validation,
                style: theme.dim(),
            });
            branches.push(Branch {
                name: "with",
                train,
                validation,
                style: theme.accent(),
            });
        }
        // The change that is compared is one of the changes with it.
        let changes = comparison.map_or(&session.marks, |comparison| &comparison.with.marks);
        let x = self.shown(session);
        // Marks of one hyperparameter that are closer than a label is wide are merged.
        let gap = (x.1 - x.0) * LABEL_COLUMNS / f64::from(inner.width.max(1));
        let marks: Vec<(f64, String)> = merged(changes, gap)
            .iter()
            .map(|m| (m.x, m.label()))
            .collect();
        let broken: Vec<f64> = series
            .buckets()
            .iter()
            .filter(|b| b.broken)
            .map(|b| b.x)
            .collect();
        Chart {
            log_x: false,
            x,
            log_y: self.log_y && what == ChartKind::Loss,
            percent: what == ChartKind::Accuracy,
            raw: &raw,
            train: &smooth,
            validation: &validation,
            branches: &branches,
            best: best.map(|(epoch, value)| (f64::from(epoch), value)),
            marks: &marks,
            broken: &broken,
            cursor: self.cursor,
            target: target(what, session),
        }
        .draw(theme, inner, buf);
        if series.is_empty() && validation.is_empty() && inner.height > 4 && inner.width > 40 {
            let words = match session.run {
                Some(_) => "the curve begins with the first steps",
                None => "waiting for the data",
            };
            let x = inner.x + (inner.width.saturating_sub(words.len() as u16)) / 2;
            text(
                buf,
                inner,
                x,
                inner.y + inner.height / 2 - 1,
                words,
                theme.dim(),
            );
        }
    }

    /// The mark of the newest score, or that at the cursor, if it is an average over views.
    fn tta_mark(&self, session: &SessionView) -> &'static str {
        let x = self.cursor.unwrap_or(f64::INFINITY);
        let mut points = session.validation.iter().rev();
        let point = points.find(|point| point.x <= x + 1e-9);
        point.map_or("", |point| point.tta.mark())
    }

    /// The line at the upper right: the newest values, or those at the cursor, each with its name. The least important
    /// is last.
    fn figures(
        &self,
        what: ChartKind,
        session: &SessionView,
        theme: Theme,
        smooth: &[(f64, f64)],
        validation: &[(f64, f64)],
        best: Option<(u32, f64)>,
    ) -> Vec<Vec<Span<'static>>> {
        let mut figures = Vec::new();
        let (train, val) = match self.cursor {
            Some(x) => {
                let per_epoch = session.steps.as_ref().map_or(0, |s| s.steps_per_epoch);
                let step = grouped((x * per_epoch as f64).round() as u64);
                figures.push(vec![Span::styled(
                    format!("epoch {x:.2} step {step}  "),
                    theme.accent(),
                )]);
                (
                    at(smooth, x),
                    at(validation, x).filter(|_| validation[0].0 <= x + 1e-9),
                )
            }
            None => {
                let train = session.newest(what.series(session), smooth);
                (train, validation.last().map(|p| p.1))
            }
        };
        if let Some(train) = train {
            let style = if train.is_finite() {
                theme.train()
            } else {
                theme.wrong()
            };
            figures.push(vec![
                Span::styled("train ", theme.dim()),
                Span::styled(format!("{:>5}", what.show(train)), style),
            ]);
        }
        if let Some(val) = val {
            figures.push(vec![
                Span::styled(
                    format!("  {} ", session.params.scored_split().short()),
                    theme.dim(),
                ),
                Span::styled(format!("{:>5}", what.show(val)), theme.validation()),
                Span::styled(self.tta_mark(session), theme.dim()),
            ]);
        }
        if self.cursor.is_none() {
            figures.extend(average(what, session, theme));
            figures.extend(test_scores(what, session, theme));
        }
        if let (Some((epoch, value)), None) = (best, self.cursor) {
            figures.push(vec![
                Span::styled("  ◆ best ", theme.dim()),
                Span::styled(what.show(value), theme.best()),
                Span::styled(format!(" @{epoch}"), theme.dim()),
            ]);
        }
        figures
    }
}

/// The points of a curve up to `x` and from there on. The point before `x` begins the second part too.
type Parted = (Vec<(f64, f64)>, Vec<(f64, f64)>);

fn parted(mut points: Vec<(f64, f64)>, x: Option<f64>) -> Parted {
    let Some(x) = x else {
        return (points, Vec::new());
    };
    let n = points.partition_point(|p| p.0 <= x + 1e-9);
    let after = points[n.saturating_sub(1)..].to_vec();
    points.truncate(n);
    (points, after)
}

/// The line that says how a comparison stands.
fn draw_comparison(
    what: ChartKind,
    comparison: &ComparisonView,
    theme: Theme,
    area: Rect,
    buf: &mut Buffer,
) {
    let by = match what {
        ChartKind::Loss => DifferenceOf::Loss,
        ChartKind::Accuracy => DifferenceOf::Accuracy,
    };
    let words = comparison.words(by);
    let x = text(buf, area, area.x + 1, area.y, words, theme.accent());
    let x = match comparison.report.is_better(&comparison.change, by) {
        Some(true) => text(buf, area, x, area.y, "  ◆ better", theme.best()),
        Some(false) => text(buf, area, x, area.y, "  worse", theme.wrong()),
        None => x,
    };
    let keys = format!(
        "{} keeps, {} drops",
        theme.symbols.enter(),
        key_of(TrainAction::Back)
    );
    if x + 2 + keys.chars().count() as u16 <= area.right() {
        text_right(buf, area, area.right() - 1, area.y, &keys, theme.dim());
    }
}

/// The accuracy to reach, where it is drawn.
fn target(what: ChartKind, session: &SessionView) -> Option<f64> {
    let target = session.params.target;
    (what == ChartKind::Accuracy && target > 0.0).then_some(target)
}

/// The score of the average of the weights, behind that of the last weights.
fn average(what: ChartKind, session: &SessionView, theme: Theme) -> Option<Vec<Span<'static>>> {
    let average = session.average(session.params.scored_split())?;
    if session.validation.last()?.step != average.step {
        return None;
    }
    // Short, so that the test score beside it fits at 120 columns.
    let text = format!(" (avg {})", what.show(what.of(average)));
    Some(vec![Span::styled(text, theme.dim())])
}

/// The test accuracy of a finished run, and those of its average and its best weights.
fn test_scores(what: ChartKind, session: &SessionView, theme: Theme) -> Vec<Vec<Span<'static>>> {
    let Some(last) = session.evaluation(Split::Test) else {
        return Vec::new();
    };
    if session.state != State::Done || last.step != session.step() {
        return Vec::new();
    }
    let mut figures = vec![vec![
        Span::styled("  test ", theme.dim()),
        Span::styled(what.show(what.of(last)), theme.strong()),
        Span::styled(last.tta.mark(), theme.dim()),
    ]];
    let average = session.average(Split::Test).filter(|e| e.step == last.step);
    let others = [
        ("avg", average),
        ("best weights", session.test_of_best.as_ref()),
    ];
    let others = others
        .into_iter()
        .filter_map(|(name, e)| Some(format!("{name} {}", what.show(what.of(e?)))));
    let others = others.collect::<Vec<_>>().join(", ");
    if !others.is_empty() {
        figures.push(vec![Span::styled(format!(" ({others})"), theme.dim())]);
    }
    figures
}
