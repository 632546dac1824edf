//! The Confusion screen: the confusion matrix, the figures of each class, and the images of a cell.

mod draw;

use super::image_grid::ImageGrid;
use super::query::{Query, QueryKey, message, no_evaluation};
use super::{Context, View};
use crate::domain::confusion::Confusion;
use crate::domain::report::{Evaluation, Split};
use crate::session::protocol::{Command, Event, Question};
use crate::tui::actions::{Move, key_of};
use crate::tui::pictures::Request;
use crate::tui::session_view::SessionView;
use crate::tui::theme::Theme;
use crossterm::event::{MouseButton, MouseEvent, MouseEventKind};
use draw::{geometry, open_grid};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

/// Number of cells that are marked as the worst.
const WORST: usize = 5;
/// Maximum number of images of a cell that are requested at a time.
const PAGE: u32 = 120;

/// Actions of the Confusion screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfusionAction {
    /// Up and down the true classes; with a cell open, through its images.
    Choose(Move),
    Left,
    Right,
    NextWorst,
    PreviousWorst,
    OpenCell,
    Back,
    Values,
    OtherSplit,
    Copy,
    Picture,
    Fork,
}

/// The values in the cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Values {
    #[default]
    Counts,
    Percent,
    Change,
}

impl Values {
    fn next(self) -> Self {
        match self {
            Values::Counts => Values::Percent,
            Values::Percent => Values::Change,
            Values::Change => Values::Counts,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Values::Counts => "counts",
            Values::Percent => "% of row",
            Values::Change => "change",
        }
    }
}

/// State of the Confusion screen.
#[derive(Debug, Default)]
pub struct ConfusionView {
    /// (true, predicted).
    cursor: (usize, usize),
    values: Values,
    /// Whether the cell's images fill the screen.
    open: bool,
    /// First of these images that is shown.
    offset: u32,
    images: Query,
}

/// The rectangles of the parts.
struct ConfusionLayout {
    matrix: Rect,
    /// The images of the cell under the cursor; empty if there is no room.
    cell: Rect,
    classes: Rect,
    pairs: Rect,
}

impl ConfusionLayout {
    fn of(area: Rect) -> Self {
        let none = Rect::new(area.x, area.y, 0, 0);
        let side = if area.width < 76 {
            0
        } else {
            (area.width / 3).clamp(27, 70)
        };
        let left = area.width - side;
        // Frame, column labels and ten rows as high as possible while five lines of figures fit.
        let framed = |rows: u16| 10 * rows + 3;
        let rows = (1..=4).rev().find(|r| framed(*r) + 7 <= area.height);
        let top = match rows {
            Some(rows) => framed(rows),
            None => area.height,
        };
        let bottom = area.height - top;
        let below = |x, width| Rect::new(x, area.y + top, width, bottom);
        ConfusionLayout {
            matrix: Rect::new(area.x, area.y, left, top),
            cell: if side > 0 {
                Rect::new(area.x + left, area.y, side, top)
            } else {
                none
            },
            classes: if bottom > 2 {
                below(area.x, left)
            } else {
                none
            },
            pairs: if bottom > 2 && side > 0 {
                below(area.x + left, side)
            } else {
                none
            },
        }
    }
}

fn shown(session: &SessionView) -> Option<&Evaluation> {
    session
        .evaluation(session.shown)
        .filter(|e| e.confusion.classes > 0 && e.confusion.classes == session.classes().len())
}

impl ConfusionView {
    /// Returns the reason if an action is unavailable now.
    pub fn enabled(
        &self,
        does: ConfusionAction,
        session: &SessionView,
        _area: Rect,
    ) -> Result<(), String> {
        use ConfusionAction::*;
        let evaluation = shown(session);
        let nothing_confused =
            || evaluation.is_none_or(|e| e.confusion.most_confused(1).is_empty());
        match does {
            OtherSplit => can_switch_split(session),
            Back if !self.open => Err("the matrix is on the screen".into()),
            Back => Ok(()),
            Fork => session.is_past(),
            _ if evaluation.is_none() => Err("nothing has been scored yet".into()),
            Choose(Move::HalfUp | Move::HalfDown) if !self.open => Err(format!(
                "only through a cell's images; {} shows them",
                key_of(OpenCell)
            )),
            Values if self.open => Err(format!(
                "the matrix is not on the screen; {} returns to it",
                key_of(Back)
            )),
            NextWorst | PreviousWorst if nothing_confused() => Err("nothing is confused".into()),
            Picture if session.run.as_ref().is_none_or(|r| r.folder.is_empty()) => {
                Err("this run is not saved to a folder".into())
            }
            Choose(_) | Left | Right | NextWorst | PreviousWorst | OpenCell | Values | Copy
            | Picture => Ok(()),
        }
    }

    pub fn act(&mut self, does: ConfusionAction, ctx: &mut Context) {
        use ConfusionAction::*;
        let last = ctx.session.classes().len().saturating_sub(1);
        let (truth, predicted) = self.cursor;
        match does {
            OtherSplit => {
                self.images.clear();
                // The app calls `shown` after the switch.
                return other_split(ctx);
            }
            Values => self.values = self.values.next(),
            OpenCell => self.open = !self.open,
            Back => {
                self.open = false;
                self.offset = 0;
            }
            Copy => {
                if let Some(evaluation) = shown(ctx.session) {
                    let table = as_text(ctx.session, &evaluation.confusion);
                    ctx.copy("the matrix, tabs between its columns", table);
                }
            }
            Picture => {
                if let (Some(evaluation), Some(run)) = (shown(ctx.session), &ctx.session.run) {
                    let request = Request::Matrix {
                        folder: run.folder.clone(),
                        title: format!(
                            "{}: {} images, epoch {}",
                            run.name,
                            evaluation.split.name(),
                            evaluation.epoch
                        ),
                        classes: ctx.session.classes().to_vec(),
                        confusion: evaluation.confusion.clone(),
                    };
                    ctx.picture(request);
                }
            }
            Fork => ctx.fork_past(),
            NextWorst => self.worst(true, ctx.session),
            PreviousWorst => self.worst(false, ctx.session),
            Choose(Move::HalfDown | Move::Down) if self.open => self.page(true, ctx),
            Choose(Move::HalfUp | Move::Up) if self.open => self.page(false, ctx),
            Choose(Move::Up) => self.move_to((truth.saturating_sub(1), predicted)),
            Choose(Move::Down) => self.move_to(((truth + 1).min(last), predicted)),
            Choose(Move::Top) => self.move_to((0, 0)),
            Choose(Move::Bottom) => self.move_to((last, last)),
            // Disabled while the matrix is shown.
            Choose(Move::HalfUp | Move::HalfDown) => {}
            Left => self.move_to((truth, predicted.saturating_sub(1))),
            Right => self.move_to((truth, (predicted + 1).min(last))),
        }
        self.refresh(ctx);
    }

    /// Requests the images to show, unless they are present.
    fn refresh(&mut self, ctx: &mut Context) {
        let Some(key) = QueryKey::evaluation(ctx.session) else {
            return;
        };
        if !ctx.visible || shown(ctx.session).is_none() {
            return;
        }
        let question = Question::Cell {
            truth: self.cursor.0 as u16,
            predicted: self.cursor.1 as u16,
            offset: if self.open { self.offset } else { 0 },
            count: PAGE,
        };
        self.images.want(question, key, ctx);
    }

    fn move_to(&mut self, cursor: (usize, usize)) {
        if self.cursor != cursor {
            self.cursor = cursor;
            self.offset = 0;
            // Drop the images of the previous cell.
            self.images.clear();
        }
    }

    /// Moves to the next or previous of the worst cells.
    fn worst(&mut self, forward: bool, session: &SessionView) {
        let Some(evaluation) = shown(session) else {
            return;
        };
        let worst = evaluation.confusion.most_confused(WORST);
        let here = worst.iter().position(|w| (w.0, w.1) == self.cursor);
        let n = worst.len();
        let next = match here {
            Some(i) if forward => (i + 1) % n,
            Some(i) => (i + n - 1) % n,
            None => 0,
        };
        if let Some(&(truth, predicted, _)) = worst.get(next) {
            self.move_to((truth, predicted));
        }
    }

    fn page(&mut self, forward: bool, ctx: &Context) {
        let page = ImageGrid::automatic(open_grid(ctx.area)).len() as u32;
        let total = self.images.predictions().map_or(0, |p| p.0);
        if forward && self.offset + page < total {
            self.offset += page;
        } else if !forward {
            self.offset = self.offset.saturating_sub(page);
        }
    }
}

impl View for ConfusionView {
    fn draw(&self, session: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer) {
        let area = area.intersection(buf.area);
        let Some(evaluation) = shown(session) else {
            return message(&no_evaluation(session), theme, area, buf);
        };
        if self.open {
            return self.draw_open(session, evaluation, theme, area, buf);
        }
        let layout = ConfusionLayout::of(area);
        self.draw_matrix(session, evaluation, theme, layout.matrix, buf);
        self.draw_cell(session, evaluation, theme, layout.cell, buf);
        self.draw_classes(session, &evaluation.confusion, theme, layout.classes, buf);
        self.draw_pairs(session, &evaluation.confusion, theme, layout.pairs, buf);
    }

    fn shown(&mut self, ctx: &mut Context) {
        self.refresh(ctx);
    }

    fn event(&mut self, event: &Event, ctx: &mut Context) {
        if matches!(event, Event::Started(_)) {
            self.images.clear();
            self.open = false;
        }
        if !self.images.take(event) {
            self.refresh(ctx);
        }
    }

    fn mouse(&mut self, mouse: MouseEvent, ctx: &mut Context) {
        match mouse.kind {
            MouseEventKind::ScrollDown if self.open => {
                self.act(ConfusionAction::Choose(Move::HalfDown), ctx)
            }
            MouseEventKind::ScrollUp if self.open => {
                self.act(ConfusionAction::Choose(Move::HalfUp), ctx)
            }
            MouseEventKind::Down(MouseButton::Left) if !self.open => {
                let Some(evaluation) = shown(ctx.session) else {
                    return;
                };
                let layout = ConfusionLayout::of(ctx.area);
                let inner = inside(layout.matrix);
                let cell = geometry(ctx.session, inner).and_then(|g| g.at(mouse.column, mouse.row));
                let pairs = inside(layout.pairs);
                let here = (mouse.column, mouse.row).into();
                if let Some(cell) = cell {
                    self.move_to(cell);
                } else if pairs.contains(here) {
                    let line = usize::from(mouse.row - pairs.y);
                    let pair = evaluation.confusion.most_confused(line + 1);
                    if let Some(&(truth, predicted, _)) = pair.get(line) {
                        self.move_to((truth, predicted));
                    }
                } else if layout.cell.contains(here) {
                    self.open = true;
                }
                self.refresh(ctx);
            }
            _ => {}
        }
    }
}

/// The area within a panel's frame.
fn inside(area: Rect) -> Rect {
    Rect::new(
        area.x + 1,
        area.y + 1,
        area.width.saturating_sub(2),
        area.height.saturating_sub(2),
    )
}

/// Why the other split cannot be shown, if it cannot.
pub fn can_switch_split(session: &SessionView) -> Result<(), String> {
    match session.params.scored_split() {
        Split::Test => Err("no images are held out for validation".into()),
        split if session.as_of.is_some() => Err(format!(
            "only the {} images are scored with the weights of an earlier epoch",
            split.name()
        )),
        _ => Ok(()),
    }
}

/// Switches between the validation and the test images.
pub fn other_split(ctx: &mut Context) {
    let split = match ctx.session.shown {
        Split::Test => Split::Validation,
        _ => Split::Test,
    };
    ctx.send(Command::Show { split });
}

/// The matrix with tabs between its columns, for a spreadsheet.
fn as_text(session: &SessionView, matrix: &Confusion) -> String {
    let names: Vec<String> = (0..matrix.classes).map(|c| session.class(c)).collect();
    let mut table = format!("true\\predicted\t{}\n", names.join("\t"));
    for (truth, name) in names.iter().enumerate() {
        let counts: Vec<String> = (0..matrix.classes)
            .map(|p| matrix.count(truth, p).to_string())
            .collect();
        table += &format!("{name}\t{}\n", counts.join("\t"));
    }
    table
}
