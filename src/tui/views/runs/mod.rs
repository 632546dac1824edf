//! The Runs screen: all runs of the runs folder with their outcomes and differences; the validation curves of the
//! marked runs; renaming, notes and deleting.

mod curves;
mod table;

use super::query::{Query, QueryKey};
use super::{Context, Screen, View};
use crate::domain::fork::ForkAt;
use crate::domain::report::RunSummary;
use crate::domain::text::{bytes, duration, grouped};
use crate::session::protocol::{Answer, Event, Question};
use crate::tui::actions::{Move, key_of, moved};
use crate::tui::session_view::{SessionView, Severity};
use crate::tui::theme::Theme;
use crate::tui::widgets::text_field::TextField;
use crate::tui::widgets::{list, panel, paragraph, text, wrap};
use crossterm::event::{KeyCode, KeyEvent, MouseButton, MouseEvent, MouseEventKind};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

/// Actions of the Runs screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunsAction {
    Choose(Move),
    Mark,
    Fork,
    Rename,
    Note,
    Delete,
    Back,
    Copy,
}

/// Maximum number of marked runs, each with its letter and colour.
const MAX_MARKED: usize = 6;
const LETTERS: [&str; MAX_MARKED] = ["a", "b", "c", "d", "e", "f"];

/// The purpose of the text field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edit {
    Rename,
    Note,
}

/// State of the Runs screen.
#[derive(Debug, Default)]
pub struct RunsView {
    /// Name of the chosen run, since its index changes when runs are added or deleted.
    chosen: Option<String>,
    /// Names of the marked runs, in the order of marking.
    marked: Vec<String>,
    editing: Option<(Edit, TextField)>,
    /// Old and new name of a rename, until the worker has answered.
    renaming: Option<(String, String)>,
    runs: Query,
    /// The answer to renaming, annotating or deleting.
    change: Query,
}

/// The rectangles of the parts.
struct RunsLayout {
    table: Rect,
    curves: Rect,
    /// Details of the chosen run.
    about: Rect,
}

impl RunsLayout {
    fn of(area: Rect, runs: usize) -> Self {
        // Frame and header; the curves get at least as much room as the table. Without runs, a message fills the
        // screen.
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
    /// Returns the reason if an action is unavailable now.
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
                // Any of these keys reads the folder again.
                Some(_) => Ok(()),
                None => Err("there is no run yet".into()),
            };
        };
        let here = session.run.as_ref().is_some_and(|r| r.name == run.name);
        match does {
            Rename | Note | Delete | Fork if session.ended => Err("the session is over".into()),
            Note if run.open.is_some() && !here => Err(format!("{} is in use", run.name)),
            Rename | Delete if here || run.open.is_some() => Err(format!("{} is in use", run.name)),
            Choose(_) | Mark | Fork | Rename | Note | Delete | Back | Copy => Ok(()),
        }
    }

    pub fn act(&mut self, does: RunsAction, ctx: &mut Context) {
        use RunsAction::*;
        if self.runs.failure().is_some() {
            // A request that failed before may succeed now.
            self.runs.invalidate();
        }
        let half = usize::from(RunsLayout::of(ctx.area, self.items().len()).table.height / 2);
        match does {
            Choose(step) => self.select(step.by(1, half)),
            Mark => self.mark(ctx),
            Back => self.marked.clear(),
            Fork => {
                if let Some(run) = self.current() {
                    let at = match run.best_epoch {
                        Some(_) => ForkAt::Best,
                        None => ForkAt::Last,
                    };
                    let name = run.name.clone();
                    ctx.fork(Some(name), at);
                    ctx.go(Screen::Train);
                }
            }
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
        // What a run's row depends on: its epochs and its state.
        let session = ctx.session;
        let at = format!("{} {}", session.epochs.len(), session.trainable().is_ok());
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

    /// Index of the chosen run.
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
                Severity::Warning,
                format!(
                    "{MAX_MARKED} runs are marked already; {} unmarks all",
                    key_of(RunsAction::Back)
                ),
            );
        } else {
            self.marked.push(name);
        }
    }

    /// The runs whose curves are drawn, each with the index of its letter: the marked ones, otherwise the chosen one.
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
        let kept = match run.kept {
            0 => String::new(),
            1 => ", 1 checkpoint kept".into(),
            many => format!(", {many} checkpoints kept"),
        };
        if let Some(from) = run.forked_from() {
            put(&format!("forked from {from}"), theme.text());
        }
        put(
            &format!(
                "{}, {} epochs, step {}, {}, {}{kept}",
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
        // Keep the end of a long text, where it is edited.
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
        // A run that has just begun, a fork too, is the one that the next key is likely to mean.
        if let Event::Started(run) = event
            && !run.name.is_empty()
        {
            self.chosen = Some(run.name.clone());
        }
        if self.change.take(event) {
            let renamed = self.renaming.take();
            if let Some(why) = self.change.failure() {
                ctx.say(Severity::Warning, why.to_owned());
            } else {
                self.runs.invalidate();
                // Keep the cursor and the marks on the renamed run.
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
            // If the chosen run was deleted, choose the next one.
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
                let first = list::first_row(self.at(), self.items().len(), lines);
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
