//! The frame around every screen: header, tabs, banner, status line and footer. The layout depends on the size alone,
//! and values keep their positions while they grow. This module knows no particular screen.

mod message;
mod past;

use super::actions::{Action, Do, ProgramAction, key_of, on_screen};
use super::app::App;
use super::session_view::SessionView;
use super::theme::Theme;
use super::views::train::TrainAction;
use super::views::{Screen, VIEWS, ViewAction};
use super::widgets::sparkline::{growing, sparkline};
use super::widgets::{fitted, line, show_hidden, text, text_right, wrap};
use crate::domain::params::NumberFormat;
use crate::domain::report::State;
use crate::domain::symbols::Symbols;
use crate::domain::terminal::MIN_SIZE;
use crate::domain::text::{compact, duration, grouped, percent as share};
use crate::session::status::RETRY_NOTE;
use crossterm::event::KeyCode;
use message::message;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

/// The rectangles of the parts of the screen.
#[derive(Clone, Copy, Debug)]
pub struct FrameLayout {
    pub header: Rect,
    pub tabs: Rect,
    /// Errors and warnings; mostly empty.
    pub banner: Rect,
    pub body: Rect,
    /// The status line of the open view, or a message while one is shown.
    pub status: Rect,
    pub footer: Rect,
}

impl FrameLayout {
    /// `banner` is the number of lines that [`banner`] returns.
    pub fn new(size: Rect, banner: usize) -> Self {
        let banner = banner as u16;
        let row = |y: u16, height: u16| {
            Rect::new(size.x, size.y + y, size.width, height).intersection(size)
        };
        let top = 2 + banner;
        FrameLayout {
            header: row(0, 1),
            tabs: row(1, 1),
            banner: row(2, banner),
            body: row(top, size.height.saturating_sub(top + 2)),
            status: row(size.height.saturating_sub(2), 1),
            footer: row(size.height.saturating_sub(1), 1),
        }
    }
}

/// The result of a click on the tab line.
pub enum Tab {
    Screen(Screen),
    Help,
}

/// Columns of each tab: (from, to, screen).
fn tabs(area: Rect) -> Vec<(u16, u16, Screen)> {
    let mut x = area.x;
    VIEWS
        .iter()
        .map(|view| {
            let width = view.title.len() as u16 + 4;
            let from = x;
            x += width;
            (from, x, view.screen)
        })
        .collect()
}

const HELP: &str = "? help ";

/// The tab at column `x`.
pub fn tab_at(area: Rect, x: u16) -> Option<Tab> {
    if x >= area.right().saturating_sub(HELP.len() as u16) {
        return Some(Tab::Help);
    }
    tabs(area)
        .into_iter()
        .find(|&(from, to, _)| (from..to).contains(&x))
        .map(|(_, _, screen)| Tab::Screen(screen))
}

/// Draws the whole screen.
pub fn draw(app: &App, buf: &mut Buffer) {
    let size = app.size().intersection(buf.area);
    if size.width < MIN_SIZE.0 || size.height < MIN_SIZE.1 {
        return too_small(app.theme, size, buf);
    }
    let layout = app.layout();
    for (y, words) in (layout.banner.y..).zip(app.banner()) {
        let style = match app.session.is_on_plateau() {
            true => app.theme.validation(),
            false => app.theme.wrong(),
        };
        text(buf, layout.banner, layout.banner.x + 1, y, words, style);
    }
    header(app, layout.header, buf);
    draw_tabs(app, layout.tabs, buf);
    let session = app.session_on(app.screen);
    app.view().draw(session, app.theme, layout.body, buf);
    if app.past().is_some() {
        past::dash_frames(layout.body, buf);
    }
    match (&app.toast, app.past()) {
        (Some(toast), _) => message(toast, app.theme, layout.status, buf),
        (None, Some(past)) => past::status(past, &app.session, app.theme, layout.status, buf),
        (None, None) => app
            .view()
            .status(&app.session, app.theme, layout.status, buf),
    }
    footer(app, layout.footer, buf);
    if let Some(overlay) = &app.overlay {
        overlay.draw(app, buf);
    }
    show_hidden(buf);
}

/// The lines of the banner: errors and warnings of the run, and what to do. Empty if there are none.
pub fn banner(session: &SessionView, size: Rect) -> Vec<String> {
    let back = key_of(ProgramAction::GoBack);
    let restart = key_of(ProgramAction::Restart);
    let disconnected = (session.disconnected.as_ref())
        .map(|why| format!("! No connection; this was known before it broke. {why}."));
    let state = match &session.state {
        State::Diverged { step, first } => Some(format!(
            "✗ At step {} {first} stopped being finite. {back}: back to a checkpoint from before, with a lower learning \
             rate; or lower it ({}) and {restart} starts anew",
            grouped(*step),
            key_of(TrainAction::Lower),
        )),
        State::Failed { why } => Some(format!("✗ {why}")),
        _ => None,
    };
    let unsaved = session
        .unsaved
        .as_ref()
        .map(|why| format!("! Not saved: {why} {RETRY_NOTE}"));
    let collapse = session.health.collapse.as_ref().map(|collapse| {
        let helps = match collapse.best {
            Some(epoch) => format!(
                "{back}: back to the best checkpoint, of epoch {epoch}, with a lower learning rate"
            ),
            None => format!("{restart} starts again: try {}", collapse.rate_to_try()),
        };
        format!(
            "✗ Collapsed, seen since epoch {}: {}. {helps}",
            collapse.since,
            collapse.describe(session.classes())
        )
    });
    let plateau = session
        .health
        .plateau
        .as_ref()
        .map(|plateau| format!("! {}", plateau.describe()));
    let width = usize::from(size.width.saturating_sub(2)).max(20);
    // The first warning matters most. The log shows those that do not fit beside it.
    let mut lines: Vec<String> = [disconnected, state.or(unsaved), collapse.or(plateau)]
        .into_iter()
        .flatten()
        .flat_map(|words| wrap(&words, width))
        .collect();
    lines.truncate(3);
    lines
}

/// What a terminal shows that is too small.
pub(super) fn too_small(theme: Theme, size: Rect, buf: &mut Buffer) {
    let rows = [
        format!("have {}x{}", size.width, size.height),
        format!("need {}x{}", MIN_SIZE.0, MIN_SIZE.1),
        "q quits".to_owned(),
    ];
    let top = size.y + size.height.saturating_sub(3) / 2;
    for (y, row) in (top..).zip(&rows) {
        let x = size.x + size.width.saturating_sub(row.len() as u16) / 2;
        text(buf, size, x, y, row, theme.text());
    }
}

/// Columns of the header that are reserved for the state, wide and narrow: `◆ evaluating 99%` and `◆ evaluating`.
const STATE_COLUMNS: (usize, usize) = (16, 12);

/// Symbol, word and style of the state.
fn state(session: &SessionView, theme: Theme, narrow: bool) -> (&'static str, String, Style) {
    let percent = |done: u64, total: u64| match total {
        0 => String::new(),
        _ => format!(" {:>2}%", (100 * done.min(total) / total).min(99)),
    };
    if let Some(test) = session.rate_test.as_ref().filter(|_| session.tests_rates()) {
        let share = match narrow {
            true => String::new(),
            false => percent(test.points.len() as u64, test.steps as u64),
        };
        return ("◆", format!("rate test{share}"), theme.validation());
    }
    match &session.state {
        State::Loading { what, done, total } => (
            "◌",
            format!("loading {what}{}", percent(*done, *total)),
            theme.dim(),
        ),
        State::Running => ("●", "training".into(), theme.best()),
        State::Paused => ("‖", "paused".into(), theme.accent()),
        State::Evaluating { .. } if narrow => ("◆", "evaluating".into(), theme.validation()),
        State::Evaluating { done, total, .. } => (
            "◆",
            format!("evaluating{}", percent(u64::from(*done), u64::from(*total))),
            theme.validation(),
        ),
        State::Done => ("✓", "done".into(), theme.best()),
        State::Stopped => ("■", "stopped".into(), theme.accent()),
        State::Diverged { .. } => ("✗", "diverged".into(), theme.wrong()),
        State::Failed { .. } => ("✗", "failed".into(), theme.wrong()),
    }
}

/// An item of the header. Items with a larger rank are dropped first.
struct HeaderItem {
    rank: u8,
    spans: Vec<Span<'static>>,
    /// The replacement when it is dropped: rank and spans.
    short: Option<(u8, Vec<Span<'static>>)>,
}

impl HeaderItem {
    fn new(rank: u8, spans: Vec<Span<'static>>) -> Self {
        HeaderItem {
            rank,
            spans,
            short: None,
        }
    }

    fn or(mut self, rank: u8, spans: Vec<Span<'static>>) -> Self {
        self.short = Some((rank, spans));
        self
    }

    fn width(&self) -> u16 {
        self.spans.iter().map(Span::width).sum::<usize>() as u16
    }
}

fn header(app: &App, area: Rect, buf: &mut Buffer) {
    let (session, theme) = (&app.session, app.theme);
    let narrow = area.width < 100;
    let (mark, word, style) = state(session, theme, narrow);
    let word = if app.quitting { "saving" } else { &word };
    let dim = |words: String| Span::styled(words, theme.dim());
    let plain = |words: String| Span::styled(words, theme.text());
    let mut left = vec![HeaderItem::new(
        9,
        vec![Span::styled("cifar-tui", theme.accent())],
    )];
    if let Some(run) = &session.run {
        let name = match run.name.as_str() {
            "" => "not saved",
            name => name,
        };
        let name = fitted(name, (area.width / 6).max(12).into());
        left.push(HeaderItem::new(3, vec![Span::styled(name, theme.strong())]));
    }
    let columns = if narrow {
        STATE_COLUMNS.1
    } else {
        STATE_COLUMNS.0
    };
    let state = match app.past() {
        Some(past) => Span::styled(
            past::words(past),
            theme.accent().add_modifier(Modifier::BOLD),
        ),
        None => Span::styled(format!("{:<columns$}", format!("{mark} {word}")), style),
    };
    left.push(HeaderItem::new(0, vec![state]));
    let mut middle = Vec::new();
    if let Some(data) = &session.data {
        let (train, held) = session
            .run
            .as_ref()
            .map_or((data.train, data.test), |r| (r.train, r.validation));
        let style = if data.is_sample {
            theme.validation()
        } else {
            theme.text()
        };
        let name = Span::styled(fitted(&data.name, 20), style);
        let sizes = format!(
            " {}/{}",
            grouped(u64::from(train)),
            grouped(u64::from(held))
        );
        middle.push(HeaderItem::new(6, vec![name.clone(), dim(sizes)]).or(2, vec![name]));
    }
    if let Some(run) = &session.run {
        // Shorten `CPU 2 threads AVX-512 (GPU: no NVRTC)` so that the kind of device, the number format and the reason why
        // the GPU is not used remain longest.
        let kind = run.device.split(' ').next().unwrap_or_default();
        let reason = run.device.find('(').map_or("", |at| &run.device[at..]);
        let mut formats = NumberFormat::WORDS.iter().copied();
        let format = formats
            .find(|word| run.device.ends_with(word))
            .unwrap_or("");
        let mut parts = vec![kind, format, reason];
        parts.retain(|part| !part.is_empty());
        let short = parts.join(" ");
        middle.push(HeaderItem::new(10, vec![dim(run.device.clone())]).or(2, vec![dim(short)]));
    }
    let mut right = Vec::new();
    if let Some(run) = &session.run {
        // Values that are unknown keep their positions.
        let steps = session.steps.as_ref();
        let per_epoch = steps.map_or(run.steps_per_epoch, |s| s.steps_per_epoch);
        let epochs = session.params.epochs;
        let wide = epochs.to_string().len();
        let total = session.params.total_steps(per_epoch);
        let step_width = grouped(total.max(session.step())).len();
        let epoch = format!("{:>wide$}/{epochs}", steps.map_or(0, |s| s.epoch));
        let step = format!("{:>step_width$}", grouped(session.step()));
        let rate = steps.map_or(String::new(), |s| images_per_s(s.images_per_s));
        let elapsed = steps.map_or(0.0, |s| s.elapsed);
        let label = if app.past().is_some() {
            "now epoch "
        } else {
            "epoch "
        };
        right.push(HeaderItem::new(1, vec![dim(label.into()), plain(epoch)]));
        right.push(HeaderItem::new(8, vec![dim("step ".into()), plain(step)]));
        right.push(HeaderItem::new(
            4,
            vec![plain(format!("{rate:>7}")), dim(" img/s".into())],
        ));
        right.push(HeaderItem::new(7, vec![plain(short_duration(elapsed))]));
        if let Some(reached) = session.reached() {
            let target = dim(format!("{} in ", share(session.params.target)));
            let time = plain(duration(reached.elapsed));
            let step = dim(format!(", step {}", grouped(reached.step)));
            let long = vec![target.clone(), time.clone(), step];
            right.push(HeaderItem::new(8, long).or(6, vec![target, time]));
        }
        let eta = steps.and_then(|s| s.eta);
        let eta = match eta.filter(|_| session.is_computing()) {
            Some(eta) => vec![dim("ETA ".into()), plain(short_duration(eta))],
            None => vec![plain(" ".repeat("ETA ".len() + DURATION_COLUMNS))],
        };
        right.push(HeaderItem::new(5, eta));
    }
    // Each item takes two more columns as space; those of the last item become the margins of the line.
    let room = area.width;
    let mut groups = [left, middle, right];
    let width = |pieces: &[HeaderItem]| pieces.iter().map(|p| p.width() + 2).sum::<u16>();
    while groups.iter().map(|g| width(g)).sum::<u16>() > room {
        let all = groups.iter().flatten();
        let Some(worst) = all.map(|p| p.rank).max().filter(|rank| *rank > 0) else {
            break;
        };
        for group in &mut groups {
            let pieces = std::mem::take(group).into_iter();
            *group = pieces
                .filter_map(|piece| match piece.short {
                    _ if piece.rank < worst => Some(piece),
                    Some((rank, spans)) => Some(HeaderItem::new(rank, spans)),
                    None => None,
                })
                .collect();
        }
    }
    let [l, m, r] = [0, 1, 2].map(|i| width(&groups[i]));
    let gap = room.saturating_sub(l + m + r);
    let starts = [1, 1 + l + gap / 2, 1 + l + gap + m];
    for (start, pieces) in starts.into_iter().zip(&groups) {
        let mut x = area.x + start;
        for piece in pieces {
            x = line(buf, area, x, area.y, &Line::from(piece.spans.clone())) + 2;
        }
    }
}

/// Images per second with three significant digits, in at most seven columns.
pub fn images_per_s(rate: f64) -> String {
    match rounded(rate) {
        n @ 0..1_000_000 => grouped(n),
        n => format!("{:.2} M", n as f64 / 1e6),
    }
}

fn rounded(rate: f64) -> u64 {
    if !rate.is_finite() || rate <= 0.0 {
        return 0;
    }
    let unit = 10f64.powf(rate.log10().floor() - 2.0).max(1.0);
    ((rate / unit).round() * unit) as u64
}

/// Columns of [`short_duration`].
const DURATION_COLUMNS: usize = 6;

/// Seconds as ` 12:03`, `1h 02m` or `3d 04h`, with the same width up to 99 days.
fn short_duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0) as u64;
    let words = match minutes {
        0..60 => duration(seconds),
        60..600 => format!("{}h {:02}m", minutes / 60, minutes % 60),
        600..1440 => format!("{}h{:02}m", minutes / 60, minutes % 60),
        1440..14_400 => format!("{}d {:02}h", minutes / 1440, minutes / 60 % 24),
        _ => format!("{}d{:02}h", minutes / 1440, minutes / 60 % 24),
    };
    format!("{words:>DURATION_COLUMNS$}")
}

fn draw_tabs(app: &App, area: Rect, buf: &mut Buffer) {
    let theme = app.theme;
    for (i, (x, _, screen)) in tabs(area).into_iter().enumerate() {
        let open = screen == app.screen;
        let style = if open { theme.selected() } else { theme.dim() };
        let number = if open { style } else { theme.accent() };
        let end = text(buf, area, x, area.y, format!(" {}", i + 1), number);
        text(
            buf,
            area,
            end,
            area.y,
            format!(" {} ", screen.title()),
            style,
        );
    }
    let x = area.right().saturating_sub(HELP.len() as u16);
    let end = text(buf, area, x, area.y, &HELP[..1], theme.accent());
    text(buf, area, end, area.y, &HELP[1..], theme.dim());
    let sample = app.session.data.as_ref().is_some_and(|d| d.is_sample);
    let hint = match app.session.download {
        Some((done, total)) if total > 0 => format!("downloading {:>3}%", 100 * done / total),
        Some(_) => "downloading".into(),
        None if sample => "real images: cifar-tui data download, or : download".into(),
        None => return,
    };
    let after = tabs(area).last().map_or(area.x, |t| t.1);
    if x > after + hint.len() as u16 + 3 {
        text_right(buf, area, x - 2, area.y, &hint, theme.dim());
    }
}

/// Loss and accuracy in one line, for screens that do not show the curves.
pub fn curves(session: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer) {
    let half = area.width / 2;
    let parts = [
        ("loss", &session.train_loss, false),
        ("accuracy", &session.train_accuracy, true),
    ];
    for (i, (label, series, percent)) in parts.into_iter().enumerate() {
        let part = Rect::new(area.x + half * i as u16, area.y, half, 1).intersection(area);
        let show = |v: f64| match percent {
            true => share(v),
            false => compact(v, 3),
        };
        let x = text(
            buf,
            part,
            part.x + 1,
            part.y,
            format!("{label} "),
            theme.dim(),
        );
        let smooth = session.smoothed(series);
        let train = session.newest(series, &smooth);
        let newest = session.validation.last();
        let val = newest.map(|p| if percent { p.accuracy } else { p.loss });
        let mark = newest.map_or("", |point| point.tta.mark());
        let value = |v: Option<f64>| v.map_or("–".to_owned(), show);
        let figures = Line::from(vec![
            Span::styled(" train ", theme.dim()),
            Span::styled(format!("{:>5}", value(train)), theme.train()),
            Span::styled(
                format!("  {} ", session.params.scored_split().short()),
                theme.dim(),
            ),
            Span::styled(format!("{:>5}", value(val)), theme.validation()),
            Span::styled(mark, theme.dim()),
        ]);
        let width = part
            .right()
            .saturating_sub(x + figures.width() as u16 + 2)
            .min(48);
        let glyphs = sparkline(
            &smooth,
            (0.0, growing(session.x(), session.params.epochs)),
            usize::from(width),
            None,
        );
        text(buf, part, x, part.y, glyphs, theme.train());
        line(buf, part, x + width, part.y, &figures);
    }
}

/// The key that the footer shows for an action.
fn footer_key(action: &Action, symbols: Symbols) -> String {
    let arrow = action.keys.iter().find(|k| {
        matches!(
            k.code,
            KeyCode::Left | KeyCode::Right | KeyCode::Up | KeyCode::Down
        )
    });
    arrow
        .or(action.keys.first())
        .map_or(String::new(), |key| key.name(symbols))
}

fn footer(app: &App, area: Rect, buf: &mut Buffer) {
    let theme = app.theme;
    let mut items: Vec<(u8, bool, String, &str)> = Vec::new();
    if app.past().is_some() {
        items.extend(past::keys());
    }
    let works = |does: Do| app.past().is_none() || !does.steers();
    for action in
        on_screen(app.screen).filter(|a| a.rank > 0 && !a.keys.is_empty() && works(a.does))
    {
        let name = match action.does {
            Do::View(ViewAction::Train(TrainAction::Type)) if app.reads_curves() => "look back",
            Do::Program(ProgramAction::Pause) if app.session.paused => "resume",
            // Padded to the width of `resume`, which replaces it.
            Do::Program(ProgramAction::Pause) => "pause ",
            _ => action.name,
        };
        let ready = app.enabled(action).is_ok();
        match items.last_mut() {
            // The actions for left and right share a word.
            Some(last) if last.3 == name => {
                last.2 += match theme.symbols {
                    Symbols::Ascii => "/",
                    _ => "",
                };
                last.2 += &footer_key(action, theme.symbols);
            }
            _ => items.push((action.rank, ready, footer_key(action, theme.symbols), name)),
        }
    }
    if app.overlay.is_some() {
        // A text field has the focus and shows its own keys.
        items.clear();
    } else if app.view().editing() {
        items = vec![
            (1, true, theme.symbols.enter().into(), "apply"),
            (1, true, "esc".into(), "cancel"),
        ];
    }
    let width = |items: &[(u8, bool, String, &str)]| -> usize {
        items
            .iter()
            .map(|i| i.2.chars().count() + i.3.chars().count() + 3)
            .sum()
    };
    while width(&items) > usize::from(area.width.saturating_sub(1)) {
        let Some(worst) = items.iter().map(|i| i.0).max() else {
            break;
        };
        items.retain(|i| i.0 != worst);
    }
    let mut x = area.x + 1;
    for (_, ready, keys, name) in &items {
        let (key_style, name_style) = if *ready {
            (theme.accent(), theme.text())
        } else {
            (theme.dim(), theme.dim())
        };
        x = text(buf, area, x, area.y, keys, key_style);
        x = text(buf, area, x, area.y, format!(" {name}  "), name_style);
    }
}
