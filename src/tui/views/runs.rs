//! The Runs screen: every run in the runs folder, how it ended and in what it differs; the validation curves of those
//! that are marked, over each other; renaming, notes and deleting.

use super::query::{Query, QueryKey, message};
use super::{Context, View};
use crate::domain::report::RunSummary;
use crate::domain::text::{bytes, duration, grouped};
use crate::session::protocol::{Answer, Event, Question};
use crate::tui::actions::{Move, key_of, moved};
use crate::tui::session_view::{SessionView, Weight};
use crate::tui::theme::Theme;
use crate::tui::widgets::text_field::TextField;
use crate::tui::widgets::{fitted, panel, paragraph, text, text_right, wrap};
use crossterm::event::{KeyCode, KeyEvent, MouseButton, MouseEvent, MouseEventKind};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::Widget;
use ratatui::widgets::canvas::{Canvas, Line as Stroke};

/// What the Runs screen does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunsAction {
    Choose(Move),
    Mark,
    Rename,
    Note,
    Delete,
    Back,
    Copy,
}

/// Most runs that are marked at a time: one letter and one colour each.
const MAX_MARKED: usize = 6;
const LETTERS: [&str; MAX_MARKED] = ["a", "b", "c", "d", "e", "f"];

/// What a text field is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edit {
    Rename,
    Note,
}

/// State of the Runs screen.
#[derive(Debug, Default)]
pub struct RunsView {
    /// The chosen run's name: its place changes when runs come and go.
    chosen: Option<String>,
    /// Names of the marked runs, in the order of marking.
    marked: Vec<String>,
    editing: Option<(Edit, TextField)>,
    /// Old and new name, until the worker says whether it is so.
    renaming: Option<(String, String)>,
    runs: Query,
    /// The answer to renaming, noting or deleting.
    change: Query,
}

/// Where the parts lie.
struct RunsLayout {
    table: Rect,
    curves: Rect,
    /// What is known of the chosen run.
    about: Rect,
}

impl RunsLayout {
    fn of(area: Rect, runs: usize) -> Self {
        // Frame and header; the curves get at least as much as the table. Words instead of a table get all.
        let wanted = u16::try_from(runs).unwrap_or(u16::MAX).saturating_add(3);
        let table = match runs {
            0 => area.height,
            _ => wanted.clamp(5, (area.height / 2).max(5)).min(area.height),
        };
        let rest = Rect::new(area.x, area.y + table, area.width, area.height - table);
        let side = if rest.width >= 76 {
            (rest.width / 3).clamp(30, 56)
        } else {
            0
        };
        RunsLayout {
            table: Rect::new(area.x, area.y, area.width, table),
            curves: Rect::new(rest.x, rest.y, rest.width - side, rest.height),
            about: Rect::new(rest.right() - side, rest.y, side, rest.height),
        }
    }
}

impl RunsView {
    /// Why an action cannot be used now, if so.
    pub fn enabled(
        &self,
        does: RunsAction,
        session: &SessionView,
        _area: Rect,
    ) -> Result<(), String> {
        use RunsAction::*;
        if does == Back && self.marked.is_empty() {
            return Err("no run is marked".into());
        }
        let Some(run) = self.current() else {
            return match self.runs.failure() {
                // Any key reads the folder again.
                Some(_) => Ok(()),
                None => Err("there is no run yet".into()),
            };
        };
        let here = session.run.as_ref().is_some_and(|r| r.name == run.name);
        match does {
            Rename | Note | Delete if session.ended => Err("the session is over".into()),
            Note if run.open.is_some() && !here => Err(format!("{} is in use", run.name)),
            Rename | Delete if here || run.open.is_some() => Err(format!("{} is in use", run.name)),
            Choose(_) | Mark | Rename | Note | Delete | Back | Copy => Ok(()),
        }
    }

    pub fn act(&mut self, does: RunsAction, ctx: &mut Context) {
        use RunsAction::*;
        if self.runs.failure().is_some() {
            // What failed may work by now.
            self.runs.invalidate();
        }
        let half = usize::from(RunsLayout::of(ctx.area, self.items().len()).table.height / 2);
        match does {
            Choose(step) => self.select(step.by(1, half)),
            Mark => self.mark(ctx),
            Back => self.marked.clear(),
            Rename => {
                let name = self.current().map(|r| r.name.clone());
                self.editing = name.map(|n| (Edit::Rename, TextField::new(&n)));
            }
            Note => {
                let note = self.current().map(|r| r.note.clone());
                self.editing = note.map(|n| (Edit::Note, TextField::new(&n)));
            }
            Delete => {
                if let Some(run) = self.current() {
                    let (name, size) = (run.name.clone(), bytes(run.bytes));
                    let (id, yes) = ctx.asking(Question::DeleteRun { name: name.clone() });
                    self.change.expect(id);
                    ctx.confirm(
                        format!("Delete run {name} with its checkpoints ({size})? This cannot be undone."),
                        yes,
                    );
                }
            }
            Copy => {
                if let Some(run) = self.current() {
                    let command = run.resume_command();
                    ctx.copy(command.clone(), command);
                }
            }
        }
        self.refresh(ctx);
    }

    fn refresh(&mut self, ctx: &mut Context) {
        if !ctx.visible || ctx.session.ended {
            return;
        }
        // What changes a run's row: its epochs and how it stands.
        let session = ctx.session;
        let at = format!("{} {}", session.epochs.len(), session.training().is_ok());
        let key = QueryKey::and(session, &at);
        self.runs.want(Question::Runs, key, ctx);
    }

    fn items(&self) -> &[RunSummary] {
        match self.runs.answer() {
            Some(Answer::Runs { items, .. }) => items,
            _ => &[],
        }
    }

    fn folder(&self) -> &str {
        match self.runs.answer() {
            Some(Answer::Runs { folder, .. }) => folder,
            _ => "",
        }
    }

    /// Place of the chosen run.
    fn at(&self) -> usize {
        let chosen = self.chosen.as_deref();
        self.items()
            .iter()
            .position(|r| Some(r.name.as_str()) == chosen)
            .unwrap_or(0)
    }

    fn current(&self) -> Option<&RunSummary> {
        self.items().get(self.at())
    }

    fn select(&mut self, by: i64) {
        let to = moved(self.at(), by, self.items().len());
        self.chosen = self.items().get(to).map(|r| r.name.clone());
    }

    fn mark(&mut self, ctx: &mut Context) {
        let Some(name) = self.current().map(|r| r.name.clone()) else {
            return;
        };
        if let Some(i) = self.marked.iter().position(|m| *m == name) {
            self.marked.remove(i);
        } else if self.marked.len() == MAX_MARKED {
            ctx.say(
                Weight::Warning,
                format!(
                    "{MAX_MARKED} runs are marked already; {} unmarks all",
                    key_of(RunsAction::Back)
                ),
            );
        } else {
            self.marked.push(name);
        }
    }

    /// The runs whose curves are drawn, each with its letter's number: the marked ones, or else the chosen one.
    fn drawn(&self) -> Vec<(usize, &RunSummary)> {
        let find = |name: &String| self.items().iter().find(|r| r.name == *name);
        let marked: Vec<_> = self
            .marked
            .iter()
            .enumerate()
            .filter_map(|(i, name)| find(name).map(|r| (i, r)))
            .collect();
        if marked.is_empty() {
            self.current().map(|r| (0, r)).into_iter().collect()
        } else {
            marked
        }
    }

    fn draw_table(&self, session: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer) {
        let items = self.items();
        let title = Line::from(vec![
            Span::styled("runs  ", theme.text()),
            Span::styled(items.len().to_string(), theme.accent()),
        ]);
        let right = Line::from(Span::styled(self.folder().to_owned(), theme.dim()));
        let inner = panel(buf, area, theme.frame(), &title, &right);
        if items.is_empty() {
            let lines = match (self.runs.failure(), session.ended) {
                (Some(why), _) => vec!["The runs could not be read:".into(), why.to_owned()],
                (None, true) => vec!["The session is over.".into()],
                (None, false) if self.runs.is_waiting() => vec!["Reading the runs folder.".into()],
                (None, false) => vec![
                    "No run is here yet.".into(),
                    "Each run leaves a folder with its settings, figures and checkpoints.".into(),
                ],
            };
            return message(&lines, theme, inner, buf);
        }
        let columns = Columns::of(inner.width, items);
        columns.header(theme, inner, buf);
        let lines = usize::from(inner.height.saturating_sub(1)).max(1);
        let at = self.at();
        let first = at
            .saturating_sub(lines / 2)
            .min(items.len().saturating_sub(lines));
        for (i, run) in items.iter().enumerate().skip(first).take(lines) {
            let y = inner.y + 1 + (i - first) as u16;
            let chosen = i == at;
            let style = if chosen {
                theme.selected()
            } else {
                theme.text()
            };
            if chosen {
                text(
                    buf,
                    inner,
                    inner.x,
                    y,
                    " ".repeat(inner.width.into()),
                    style,
                );
            }
            if let Some(m) = self.marked.iter().position(|m| *m == run.name) {
                text(buf, inner, inner.x, y, LETTERS[m], curve_style(m, theme));
            }
            columns.row(run, chosen, theme, (inner, y), buf);
        }
    }

    fn draw_curves(&self, session: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer) {
        if area.is_empty() {
            return;
        }
        let drawn = self.drawn();
        let title = Line::from(Span::styled("validation accuracy", theme.text()));
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
                    .filter(|e| e.val_accuracy.is_finite())
                    .map(|e| (f64::from(e.epoch), 100.0 * e.val_accuracy))
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

    fn draw_about(&self, theme: Theme, area: Rect, buf: &mut Buffer) {
        if area.is_empty() {
            return;
        }
        let Some(run) = self.current() else {
            panel(buf, area, theme.frame(), &Line::default(), &Line::default());
            return;
        };
        let title = Line::from(Span::styled(run.name.clone(), theme.accent()));
        let inner = panel(buf, area, theme.frame(), &title, &Line::default());
        let width = usize::from(inner.width);
        let mut rows = Vec::new();
        let mut put = |words: &str, style: Style| {
            let lines = wrap(words, width);
            rows.extend(lines.into_iter().map(|line| (line, style)));
        };
        if !run.note.is_empty() {
            put(&run.note, theme.validation());
        }
        put(
            &format!(
                "{}, {} epochs, step {}, {}, {}",
                run.data,
                run.epochs_done,
                grouped(run.step),
                duration(run.elapsed),
                bytes(run.bytes)
            ),
            theme.dim(),
        );
        if run.differs.is_empty() {
            put("as the seed recipe", theme.text());
        }
        for (key, value) in &run.differs {
            put(&format!("{} {value}", key.replace('_', " ")), theme.text());
        }
        paragraph(buf, inner, &rows);
    }

    fn draw_field(&self, theme: Theme, area: Rect, buf: &mut Buffer) {
        let Some((edit, field)) = &self.editing else {
            return;
        };
        let y = area.bottom().saturating_sub(1);
        let line = Rect::new(area.x, y, area.width, 1).intersection(area);
        let word = match edit {
            Edit::Rename => " new name ",
            Edit::Note => " note ",
        };
        text(
            buf,
            line,
            line.x,
            y,
            " ".repeat(line.width.into()),
            Style::reset(),
        );
        let x = text(buf, line, line.x, y, word, theme.selected()) + 1;
        let room = usize::from(line.right().saturating_sub(x + 1));
        // The end of a long text is what is typed.
        let before = field.text()[..field.cursor()].chars().count();
        let skip = before.saturating_sub(room.saturating_sub(1));
        let shown: String = field.text().chars().skip(skip).take(room).collect();
        text(buf, line, x, y, shown, theme.text());
        let at = (x + (before - skip) as u16, y);
        if line.contains(at.into()) {
            buf[at].set_style(Style::new().add_modifier(Modifier::REVERSED));
        }
    }
}

/// A column of figures: its heading, its width or right edge, and what stands in it.
type Figure = (&'static str, u16, fn(&RunSummary) -> String);

/// The table's columns: which of them fit.
struct Columns {
    name: u16,
    /// Right edges, from the table's left, of those that are shown.
    figures: Vec<Figure>,
    outcome: u16,
    /// The longest outcome that fits.
    outcome_length: usize,
    differs: u16,
}

fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |v| format!("{:.2}%", 100.0 * v))
}

impl Columns {
    fn of(width: u16, runs: &[RunSummary]) -> Self {
        // As wide as `10000/10000` where a run has so many epochs.
        let digits = runs.iter().map(|r| r.params.epochs.to_string().len()).max();
        let epochs = (2 * digits.unwrap_or(0) as u16 + 3).max(8);
        /// From the most to the least needed; the width of `epochs` depends on the runs.
        const FIGURES: [Figure; 7] = [
            ("best", 8, |r| percent(r.best_val_accuracy)),
            ("final", 8, |r| percent(r.final_val_accuracy)),
            ("epochs", 0, |r| {
                format!("{}/{}", r.epochs_done, r.params.epochs)
            }),
            ("test", 8, |r| percent(r.test_accuracy)),
            ("time", 9, |r| duration(r.elapsed)),
            ("at", 4, |r| {
                r.best_epoch.map_or_else(String::new, |e| e.to_string())
            }),
            ("best test", 11, |r| {
                r.best_test_accuracy
                    .map_or_else(String::new, |a| percent(Some(a)))
            }),
        ];
        // `diverged, open` is cut where there is little room.
        let outcome = if width < 100 { 12 } else { 16 };
        let name = (width / 4).clamp(10, 28);
        let mut used = 2 + name + outcome;
        let mut figures = Vec::new();
        for (word, columns, figure) in FIGURES {
            let columns = if columns == 0 { epochs } else { columns };
            if used + columns <= width {
                used += columns;
                figures.push((word, used, figure));
            }
        }
        Columns {
            name,
            figures,
            outcome: 2 + name,
            outcome_length: usize::from(outcome) - 1,
            differs: used + 2,
        }
    }

    fn header(&self, theme: Theme, area: Rect, buf: &mut Buffer) {
        text(buf, area, area.x + 2, area.y, "name", theme.dim());
        text(
            buf,
            area,
            area.x + self.outcome,
            area.y,
            "outcome",
            theme.dim(),
        );
        for (word, end, _) in &self.figures {
            text_right(buf, area, area.x + end, area.y, word, theme.dim());
        }
        if area.width > self.differs + 12 {
            text(
                buf,
                area,
                area.x + self.differs,
                area.y,
                "differs in",
                theme.dim(),
            );
        }
    }

    fn row(
        &self,
        run: &RunSummary,
        chosen: bool,
        theme: Theme,
        (area, y): (Rect, u16),
        buf: &mut Buffer,
    ) {
        let style = if chosen {
            theme.selected()
        } else {
            theme.text()
        };
        let name = fitted(&run.name, usize::from(self.name.saturating_sub(1)));
        text(buf, area, area.x + 2, y, name, style);
        let outcome = match run.outcome.as_str() {
            _ if chosen => style,
            "diverged" | "failed" => theme.wrong(),
            "running" => theme.accent(),
            _ => theme.dim(),
        };
        text(
            buf,
            area,
            area.x + self.outcome,
            y,
            fitted(&run.standing(), self.outcome_length),
            outcome,
        );
        for (_, end, figure) in &self.figures {
            text_right(buf, area, area.x + end, y, &figure(run), style);
        }
        if area.width > self.differs + 12 {
            let differs = run
                .differs
                .iter()
                .map(|(key, value)| format!("{} {value}", key.replace('_', " ")))
                .collect::<Vec<_>>()
                .join(", ");
            let note = if run.note.is_empty() {
                differs
            } else if differs.is_empty() {
                run.note.clone()
            } else {
                format!("{}; {differs}", run.note)
            };
            text(
                buf,
                area,
                area.x + self.differs,
                y,
                note,
                if chosen { style } else { theme.dim() },
            );
        }
    }
}

/// The colour of a marked run; without colour, its letter tells.
fn curve_style(i: usize, theme: Theme) -> Style {
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

/// Lines over common axes, each with its letter at its end.
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
    // Whole tens around the curves: the middle is whole as well.
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
    // Epochs at the ends and between, if they do not touch.
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

impl View for RunsView {
    fn draw(&self, session: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer) {
        let area = area.intersection(buf.area);
        if area.is_empty() {
            return;
        }
        let layout = RunsLayout::of(area, self.items().len());
        self.draw_table(session, theme, layout.table, buf);
        if !self.items().is_empty() {
            self.draw_curves(session, theme, layout.curves, buf);
            self.draw_about(theme, layout.about, buf);
        }
        self.draw_field(theme, area, buf);
    }

    fn shown(&mut self, ctx: &mut Context) {
        self.runs.invalidate();
        self.refresh(ctx);
    }

    fn event(&mut self, event: &Event, ctx: &mut Context) {
        if self.change.take(event) {
            let renamed = self.renaming.take();
            if let Some(why) = self.change.failure() {
                ctx.say(Weight::Warning, why.to_owned());
            } else {
                self.runs.invalidate();
                // The cursor and the marks stay with the run.
                if let Some((from, to)) = renamed {
                    let names = self.marked.iter_mut().chain(self.chosen.as_mut());
                    names
                        .filter(|n| **n == from)
                        .for_each(|n| n.clone_from(&to));
                }
            }
        }
        let at = self.at();
        if self.runs.take(event) && self.runs.failure().is_none() {
            let names: Vec<String> = self.items().iter().map(|r| r.name.clone()).collect();
            self.marked.retain(|m| names.contains(m));
            // Of a run that has gone the next one takes the place.
            if self.chosen.as_ref().is_some_and(|c| !names.contains(c)) {
                self.chosen = names.get(at.min(names.len().saturating_sub(1))).cloned();
            }
        }
        self.refresh(ctx);
    }

    fn mouse(&mut self, mouse: MouseEvent, ctx: &mut Context) {
        let layout = RunsLayout::of(ctx.area, self.items().len());
        match mouse.kind {
            MouseEventKind::ScrollDown => self.select(1),
            MouseEventKind::ScrollUp => self.select(-1),
            MouseEventKind::Down(MouseButton::Left)
                if layout.table.contains((mouse.column, mouse.row).into()) =>
            {
                let lines = usize::from(layout.table.height.saturating_sub(3)).max(1);
                let first = self
                    .at()
                    .saturating_sub(lines / 2)
                    .min(self.items().len().saturating_sub(lines));
                let line = usize::from(mouse.row.saturating_sub(layout.table.y + 2));
                if let Some(run) = self.items().get(first + line) {
                    let name = run.name.clone();
                    if self.chosen.as_ref() == Some(&name) {
                        self.mark(ctx);
                    }
                    self.chosen = Some(name);
                }
            }
            _ => {}
        }
    }

    fn editing(&self) -> bool {
        self.editing.is_some()
    }

    fn typed(&mut self, key: KeyEvent, ctx: &mut Context) {
        let Some((edit, field)) = &mut self.editing else {
            return;
        };
        match key.code {
            KeyCode::Esc => self.editing = None,
            KeyCode::Enter => {
                let (edit, value) = (*edit, field.text().trim().to_owned());
                self.editing = None;
                let Some(name) = self.current().map(|r| r.name.clone()) else {
                    return;
                };
                let question = match edit {
                    Edit::Rename if value == name || value.is_empty() => return,
                    Edit::Rename => {
                        self.renaming = Some((name.clone(), value.clone()));
                        Question::RenameRun { name, to: value }
                    }
                    Edit::Note => Question::NoteRun { name, note: value },
                };
                let id = ctx.ask(question);
                self.change.expect(id);
            }
            _ => {
                field.key(&key);
            }
        }
    }

    fn paste(&mut self, text: &str, _ctx: &mut Context) {
        if let Some((_, field)) = &mut self.editing {
            field.insert(text);
        }
    }
}
