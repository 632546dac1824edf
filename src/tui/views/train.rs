//! The Train screen: the curves, the hyperparameter panel, the load, the log and the progress.

mod charts;
mod panel;
mod pulse;

use super::{Context, View};
use crate::domain::fork::ForkAt;
use crate::domain::report::State;
use crate::domain::sweep::Plan;
use crate::domain::text::{duration, grouped};
use crate::session::protocol::{Command, Event};
use crate::tui::actions::{Move, key_of};
use crate::tui::session_view::{SessionView, Severity};
use crate::tui::theme::Theme;
use crate::tui::widgets;
use charts::{ChartKind, Charts};
use crossterm::event::{KeyEvent, MouseButton, MouseEvent, MouseEventKind};
use panel::Panel;
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::text::Line;

/// Actions of the Train screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrainAction {
    /// Choose a hyperparameter.
    Choose(Move),
    Lower,
    Raise,
    LowerMuch,
    RaiseMuch,
    Type,
    TypeValue,
    Copy,
    Filter,
    Back,
    Zoom,
    FlipChart,
    Picture,
    LogScale,
    Smoother,
    Rougher,
    CursorLeft,
    CursorRight,
    CursorFarLeft,
    CursorFarRight,
    Closer,
    Wider,
    PanLeft,
    PanRight,
    Fork,
    Sweep,
    TestRates,
    LookBack,
    Compare,
    KeepChange,
    DropChange,
}

/// The part that fills the whole screen, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Zoomed {
    Loss,
    Accuracy,
    Panel,
    Log,
}

/// State of the Train screen.
#[derive(Default)]
pub struct TrainView {
    charts: Charts,
    panel: Panel,
    zoom: Option<Zoomed>,
    /// Number of lines by which the log is scrolled up.
    scroll: usize,
}

/// The rectangles of the parts; empty where there is no room.
#[derive(Clone, Copy, Debug, Default)]
struct TrainLayout {
    loss: Rect,
    accuracy: Rect,
    /// One chart for both loss and accuracy, switched by a key.
    either: Rect,
    panel: Rect,
    /// The panel as one line.
    panel_line: Rect,
    pulse: Rect,
    pulse_line: Rect,
    log: Rect,
}

impl TrainLayout {
    fn new(area: Rect, zoom: Option<Zoomed>) -> Self {
        let mut layout = TrainLayout::default();
        let mut rest = area;
        if let Some(zoom) = zoom {
            *match zoom {
                Zoomed::Loss => &mut layout.loss,
                Zoomed::Accuracy => &mut layout.accuracy,
                Zoomed::Panel => &mut layout.panel,
                Zoomed::Log => &mut layout.log,
            } = rest;
            return layout;
        }
        if area.width >= 104 && area.height >= 19 {
            // The panel needs 50 columns and gets at most 60; the curves get the rest.
            let width = (area.width * 45 / 100).clamp(50, 60);
            let right = Rect::new(rest.right() - width, rest.y, width, rest.height);
            rest.width -= width;
            let pulse = if right.height >= 20 { 7 } else { 0 };
            (layout.panel, layout.pulse) = split_bottom(right, pulse);
        } else {
            (rest, layout.pulse_line) = split_bottom(rest, u16::from(rest.height >= 12));
            (rest, layout.panel_line) = split_bottom(rest, u16::from(rest.height >= 6));
        }
        if rest.height >= 24 {
            (rest, layout.log) = split_bottom(rest, (rest.height / 5).clamp(5, 12));
            (layout.loss, layout.accuracy) = split_bottom(rest, rest.height / 2);
        } else {
            layout.either = rest;
        }
        layout
    }
}

/// Splits off the lowest `height` rows: (rest, lowest rows).
fn split_bottom(area: Rect, height: u16) -> (Rect, Rect) {
    let height = height.min(area.height);
    let above = Rect::new(area.x, area.y, area.width, area.height - height);
    (above, Rect::new(area.x, above.bottom(), area.width, height))
}

impl TrainView {
    /// Returns the reason if an action is unavailable now.
    pub fn enabled(
        &self,
        does: TrainAction,
        session: &SessionView,
        area: Rect,
    ) -> Result<(), String> {
        use TrainAction::*;
        match does {
            Choose(_) | Copy if self.panel.is_empty() => Err(format!(
                "no hyperparameter passes the filter; {} clears it",
                key_of(Back)
            )),
            Type if self.charts.has_cursor() => can_look_back(session),
            LookBack if !self.charts.has_cursor() => Err(format!(
                "no epoch is chosen; {} shows the cursor of the curves",
                key_of(CursorFarLeft)
            )),
            LookBack => can_look_back(session),
            Compare => can_compare(session),
            KeepChange | DropChange => match session.comparison {
                _ if session.ended => Err("the session is over".into()),
                Some(_) => Ok(()),
                None => Err(format!(
                    "there is no comparison; {} and a change begin one",
                    key_of(Compare)
                )),
            },
            Type if session.comparison.is_some() && !session.ended => Ok(()),
            Lower | Raise | LowerMuch | RaiseMuch | Type | TypeValue => {
                if session.ended {
                    Err("the session is over".into())
                } else if session.run.is_none() {
                    Err("no run has begun".into())
                } else if self.panel.is_empty() {
                    Err("no hyperparameter passes the filter".into())
                } else {
                    Ok(())
                }
            }
            Back if !self.can_leave() && session.comparison.is_none() => {
                Err("there is nothing to leave".into())
            }
            FlipChart => match self.zoom {
                Some(Zoomed::Panel | Zoomed::Log) => Err("no chart is on the screen".into()),
                None if TrainLayout::new(area, None).either.is_empty() => {
                    Err("both charts are on the screen".into())
                }
                _ => Ok(()),
            },
            Picture if session.epochs.is_empty() => Err("no epoch is done yet".into()),
            CursorLeft | CursorRight | CursorFarLeft | CursorFarRight
                if session.train_loss.is_empty() =>
            {
                Err("there is no curve to read yet".into())
            }
            PanLeft | PanRight | Wider if !self.charts.is_zoomed() => Err(format!(
                "the whole run is on the screen; {} zooms in",
                key_of(Closer)
            )),
            Choose(_) | Copy | Filter | Back | Zoom | Picture | LogScale | Smoother | Rougher
            | CursorLeft | CursorRight | CursorFarLeft | CursorFarRight | Closer | Wider
            | PanLeft | PanRight | Fork | TestRates => Ok(()),
            Sweep if self.panel.axes().is_empty() => Err(format!(
                "no hyperparameter has a range; {} types one, such as 1e-4..1e-2 log, or a list",
                key_of(Type)
            )),
            Sweep => Ok(()),
        }
    }

    pub fn act(&mut self, does: TrainAction, ctx: &mut Context) {
        use TrainAction::*;
        match does {
            Choose(step) => self.panel.choose(step),
            Lower => self.panel.nudge(false, false, ctx),
            Raise => self.panel.nudge(true, false, ctx),
            LowerMuch => self.panel.nudge(false, true, ctx),
            RaiseMuch => self.panel.nudge(true, true, ctx),
            Type | LookBack => match self.charts.cursor_epoch() {
                Some(epoch) => ctx.look_back(epoch),
                None if self.decides(ctx.session) => ctx.send(Command::KeepChange),
                None => self.panel.edit(ctx.session),
            },
            Compare => self.panel.compare(ctx),
            KeepChange => ctx.send(Command::KeepChange),
            DropChange => ctx.send(Command::DropChange),
            TypeValue => self.panel.edit(ctx.session),
            Copy => self.panel.copy(ctx),
            Filter => self.panel.edit_filter(),
            Back => {
                let left = self.panel.leave()
                    || self.panel.forget_comparison()
                    || self.charts.leave()
                    || self.zoom.take().is_some()
                    || self.panel.forget_ranges()
                    || std::mem::take(&mut self.scroll) > 0;
                if !left && self.decides(ctx.session) {
                    ctx.send(Command::DropChange);
                }
            }
            Zoom => {
                self.zoom = match self.zoom {
                    None if self.charts.front == ChartKind::Accuracy => Some(Zoomed::Accuracy),
                    None => Some(Zoomed::Loss),
                    Some(Zoomed::Loss) => Some(Zoomed::Accuracy),
                    Some(Zoomed::Accuracy) => Some(Zoomed::Panel),
                    Some(Zoomed::Panel) => Some(Zoomed::Log),
                    Some(Zoomed::Log) => None,
                };
            }
            FlipChart => {
                self.charts.front = self.charts.front.other();
                self.zoom = match self.zoom {
                    Some(Zoomed::Loss) => Some(Zoomed::Accuracy),
                    Some(Zoomed::Accuracy) => Some(Zoomed::Loss),
                    other => other,
                };
            }
            Picture => {
                let what = self.charted(ctx);
                if let Some(request) = self.charts.picture(what, ctx.session) {
                    ctx.save(request);
                }
            }
            LogScale => self.charts.turn_log_scale(ctx),
            Smoother => self.charts.smooth(true, ctx),
            Rougher => self.charts.smooth(false, ctx),
            CursorLeft => self.charts.move_cursor(-0.01, ctx.session),
            CursorRight => self.charts.move_cursor(0.01, ctx.session),
            CursorFarLeft => self.charts.move_cursor_an_epoch(false, ctx.session),
            CursorFarRight => self.charts.move_cursor_an_epoch(true, ctx.session),
            Closer => self.charts.zoom_in(ctx),
            Wider => self.charts.zoom_out(ctx.session),
            PanLeft => self.charts.pan(-0.25, ctx.session),
            PanRight => self.charts.pan(0.25, ctx.session),
            Fork => {
                let at = match self.charts.cursor_epoch() {
                    Some(epoch) => ForkAt::Epoch(epoch),
                    None => ForkAt::Last,
                };
                ctx.fork(None, at);
            }
            TestRates => ctx.test_rates(),
            Sweep => match Plan::new(&self.panel.axes(), None, None, &ctx.session.wanted()) {
                Ok(plan) => ctx.sweep(plan),
                Err(error) => ctx.say(Severity::Warning, error.to_string()),
            },
        }
    }

    /// Whether a key decides on the change of a comparison.
    fn decides(&self, session: &SessionView) -> bool {
        session.comparison.is_some() && !session.ended && !self.panel.compares()
    }

    /// Whether the cursor of the curves is shown.
    pub fn has_cursor(&self) -> bool {
        self.charts.has_cursor()
    }

    /// Whether esc would leave something on this screen.
    fn can_leave(&self) -> bool {
        self.panel.is_filtered()
            || self.panel.compares()
            || self.charts.has_cursor()
            || self.charts.is_zoomed()
            || self.zoom.is_some()
            || self.scroll > 0
            || !self.panel.axes().is_empty()
    }

    fn charted(&self, ctx: &Context) -> ChartKind {
        match self.zoom {
            Some(Zoomed::Loss) => ChartKind::Loss,
            Some(Zoomed::Accuracy) => ChartKind::Accuracy,
            _ if TrainLayout::new(ctx.area, None).either.is_empty() => ChartKind::Loss,
            _ => self.charts.front,
        }
    }
}

impl View for TrainView {
    fn draw(&self, session: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer) {
        let layout = TrainLayout::new(area, self.zoom);
        self.charts
            .draw(ChartKind::Loss, session, theme, layout.loss, buf);
        self.charts
            .draw(ChartKind::Accuracy, session, theme, layout.accuracy, buf);
        self.charts
            .draw(self.charts.front, session, theme, layout.either, buf);
        self.panel.draw(session, theme, layout.panel, buf);
        self.panel.draw_line(session, theme, layout.panel_line, buf);
        pulse::draw(session, theme, layout.pulse, buf);
        pulse::draw_line(session, theme, layout.pulse_line, buf);
        draw_log(session, theme, self.scroll, layout.log, buf);
    }

    fn status(&self, session: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer) {
        draw_progress(session, theme, area, buf);
    }

    fn event(&mut self, event: &Event, ctx: &mut Context) {
        if let Event::Started(run) = event {
            self.charts.restart();
            self.scroll = 0;
            if let Some(words) = run.fork_words() {
                ctx.say(Severity::Plain, words);
            }
        }
    }

    fn mouse(&mut self, mouse: MouseEvent, ctx: &mut Context) {
        let layout = TrainLayout::new(ctx.area, self.zoom);
        let at = Position::new(mouse.column, mouse.row);
        let wheel = match mouse.kind {
            MouseEventKind::ScrollUp => -1,
            MouseEventKind::ScrollDown => 1,
            _ => 0,
        };
        let pressed = matches!(
            mouse.kind,
            MouseEventKind::Down(MouseButton::Left) | MouseEventKind::Drag(MouseButton::Left)
        );
        for chart in [layout.loss, layout.accuracy, layout.either] {
            if chart.contains(at) && pressed {
                self.charts.point(mouse.column, chart, ctx.session);
            } else if chart.contains(at) && wheel != 0 {
                match wheel {
                    -1 => self.charts.zoom_in(ctx),
                    _ => self.charts.zoom_out(ctx.session),
                }
            }
        }
        if layout.panel.contains(at) || layout.panel_line.contains(at) {
            if wheel != 0 {
                self.panel
                    .choose(if wheel < 0 { Move::Up } else { Move::Down });
            } else if mouse.kind == MouseEventKind::Down(MouseButton::Left)
                && layout.panel.contains(at)
            {
                self.panel.click(mouse.row, layout.panel);
            }
        }
        if layout.log.contains(at) {
            let max_scroll = ctx.session.log.entries().len().saturating_sub(1);
            self.scroll = match wheel {
                -1 => (self.scroll + 3).min(max_scroll),
                1 => self.scroll.saturating_sub(3),
                _ => self.scroll,
            };
        }
    }

    fn editing(&self) -> bool {
        self.panel.editing()
    }

    fn typed(&mut self, key: KeyEvent, ctx: &mut Context) {
        self.panel.typed(key, ctx);
    }

    fn paste(&mut self, text: &str, _ctx: &mut Context) {
        self.panel.paste(text);
    }
}

/// Whether a comparison can begin.
fn can_compare(session: &SessionView) -> Result<(), String> {
    session.trainable()?;
    if let State::Diverged { .. } = session.state {
        return Err("the run has diverged".into());
    }
    match session.comparison {
        Some(_) => Err(format!(
            "a comparison is under way: {} keeps its change, {} drops it",
            key_of(TrainAction::Type),
            key_of(TrainAction::Back)
        )),
        None => Ok(()),
    }
}

/// Whether there may be checkpoints of earlier epochs.
fn can_look_back(session: &SessionView) -> Result<(), String> {
    match &session.run {
        _ if session.ended => Err("the session is over".into()),
        Some(run) if run.name.is_empty() => Err("this run is not saved to a folder".into()),
        Some(_) => Ok(()),
        None => Err("no run has begun".into()),
    }
}

fn draw_log(session: &SessionView, theme: Theme, scroll: usize, area: Rect, buf: &mut Buffer) {
    if area.is_empty() {
        return;
    }
    let title = Line::styled("what just happened", theme.strong());
    let above = match scroll {
        0 => Line::default(),
        n => Line::styled(format!("{n} newer ↓"), theme.dim()),
    };
    let inner = widgets::panel(buf, area, theme.frame(), &title, &above);
    let rows = usize::from(inner.height);
    let end = session
        .log
        .entries()
        .len()
        .saturating_sub(scroll)
        .max(rows.min(session.log.entries().len()));
    let from = end.saturating_sub(rows);
    let width = grouped(session.step().max(100_000)).len();
    for (y, entry) in
        (inner.top()..inner.bottom()).zip(session.log.entries().iter().skip(from).take(end - from))
    {
        let when = format!("{:>6}", duration(entry.elapsed));
        let x = widgets::text(buf, inner, inner.x, y, when, theme.dim());
        let step = format!("  {:>width$}  ", grouped(entry.step));
        let x = widgets::text(buf, inner, x, y, step, theme.dim());
        let (mark, style) = match entry.severity {
            Severity::Plain => ("", theme.text()),
            Severity::Good => ("", theme.best()),
            Severity::Warning => ("! ", theme.validation()),
            Severity::Bad => ("✗ ", theme.wrong()),
        };
        let x = widgets::text(buf, inner, x, y, mark, style);
        widgets::text(buf, inner, x, y, &entry.text, style);
    }
}

/// Draws a bar of eighth blocks on a faint track.
fn bar(buf: &mut Buffer, area: Rect, share: f64, theme: Theme) {
    const EIGHTHS: [&str; 8] = [" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let share = if share.is_finite() {
        share.clamp(0.0, 1.0)
    } else {
        0.0
    };
    let filled = (share * f64::from(area.width) * 8.0).round() as u16;
    for i in 0..area.width {
        let (glyph, style) = match filled.saturating_sub(8 * i) {
            0 => ("·", theme.frame()),
            n @ 1..8 => (EIGHTHS[usize::from(n)], theme.accent()),
            _ => ("█", theme.accent()),
        };
        widgets::text(buf, area, area.x + i, area.y, glyph, style);
    }
}

fn draw_progress(session: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer) {
    let (epoch, run) = match &session.steps {
        Some(steps) => (
            steps.step_in_epoch as f64 / steps.steps_per_epoch.max(1) as f64,
            session.x() / session.params.epochs,
        ),
        None => (0.0, 0.0),
    };
    let ends = match session.ends_at.filter(|_| session.is_computing()) {
        Some(at) => {
            let (hour, minute) = (session.local_time)(at);
            format!("ends about {hour:02}:{minute:02}")
        }
        None => String::new(),
    };
    // The text at the end keeps its room while it is empty.
    let fixed = 1 + 6 + 6 + 2 + 4 + 6 + 18;
    let width = area.width.saturating_sub(fixed) / 2;
    let mut x = area.x + 1;
    for (label, share, gap) in [("epoch ", epoch, 2), ("run ", run, 2)] {
        x = widgets::text(buf, area, x, area.y, label, theme.dim());
        bar(
            buf,
            Rect::new(x, area.y, width, 1).intersection(area),
            share,
            theme,
        );
        x += width;
        let percent = format!("{:>5.0}%", (100.0 * share).clamp(0.0, 100.0).floor());
        x = widgets::text(buf, area, x, area.y, percent, theme.text()) + gap;
    }
    widgets::text(buf, area, x, area.y, ends, theme.dim());
}
