//! The Confusion screen: what is taken for what, the figures of each class, and the very images behind a cell.

use super::image_grid::{self, ImageGrid};
use super::query::{Query, QueryKey, message, no_evaluation};
use super::{Context, View};
use crate::domain::confusion::Confusion;
use crate::domain::report::{Evaluation, Split};
use crate::domain::text::grouped;
use crate::session::protocol::{Command, Event, Question};
use crate::tui::actions::{Move, key_of};
use crate::tui::pictures::Request;
use crate::tui::session_view::{SessionView, split_name};
use crate::tui::theme::Theme;
use crate::tui::widgets::heatmap::{Cell, Heatmap, HeatmapLayout, MARK, Tone};
use crate::tui::widgets::{bars, fitted, panel, text, text_right};
use crossterm::event::{MouseButton, MouseEvent, MouseEventKind};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

/// How many cells are called the worst.
const WORST: usize = 5;
/// Most images of one cell that are asked for at a time.
const PAGE: u32 = 120;

/// What the Confusion screen does.
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
}

/// What the cells hold.
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
    /// Whether the cell's images have the whole screen.
    open: bool,
    /// First image shown while they do.
    offset: u32,
    images: Query,
}

/// Where the parts lie.
struct ConfusionLayout {
    matrix: Rect,
    /// The cell under the cursor, with images; empty when there is no room.
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
        // Frame, column labels and ten rows of the largest height that leaves five lines of figures.
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
    /// Why an action cannot be used now, if so.
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
            OtherSplit => Ok(()),
            Back if !self.open => Err("the matrix is on the screen".into()),
            Back => Ok(()),
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
                // Once the app has turned, it calls `shown`.
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
                            split_name(evaluation.split),
                            evaluation.epoch
                        ),
                        classes: ctx.session.classes().to_vec(),
                        confusion: evaluation.confusion.clone(),
                    };
                    ctx.picture(request);
                }
            }
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

    /// Asks for the images that the screen shows, if they are not there yet.
    fn refresh(&mut self, ctx: &mut Context) {
        let Some(key) = QueryKey::evaluation(ctx.session) else {
            return;
        };
        if !ctx.visible || shown(ctx.session).is_none() {
            return;
        }
        let question = Question::Cell {
            truth: self.cursor.0 as u8,
            predicted: self.cursor.1 as u8,
            offset: if self.open { self.offset } else { 0 },
            count: PAGE,
        };
        self.images.want(question, key, ctx);
    }

    fn move_to(&mut self, cursor: (usize, usize)) {
        if self.cursor != cursor {
            self.cursor = cursor;
            self.offset = 0;
            // Images of another cell under this one's name would be a lie.
            self.images.clear();
        }
    }

    /// The next or the previous of the worst cells.
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

    fn cells(
        &self,
        session: &SessionView,
        evaluation: &Evaluation,
        geometry: &HeatmapLayout,
    ) -> Vec<Cell> {
        let matrix = &evaluation.confusion;
        let before = session
            .evaluation_before(session.shown)
            .map(|e| &e.confusion);
        let n = matrix.classes;
        let pairs = || (0..n).flat_map(|t| (0..n).map(move |p| (t, p)));
        let worst: Vec<_> = matrix
            .most_confused(WORST)
            .iter()
            .map(|w| (w.0, w.1))
            .collect();
        let error = |(t, p)| if t == p { 0.0 } else { share(matrix, t, p) };
        // Errors have a scale of their own: beside the diagonal they would all be dark.
        let largest = pairs().map(error).fold(0.02, f64::max);
        let change = |(t, p): (usize, usize)| {
            before.map(|b| i64::from(matrix.count(t, p)) - i64::from(b.count(t, p)))
        };
        let moved = pairs()
            .filter_map(change)
            .map(i64::abs)
            .max()
            .unwrap_or(0)
            .max(1);
        pairs()
            .map(|(t, p)| {
                let count = matrix.count(t, p);
                let heat = match self.values {
                    Values::Change => {
                        let by = change((t, p)).unwrap_or(0);
                        let size = (by.abs() as f64 / moved as f64).sqrt() as f32;
                        match (by > 0) == (t == p) {
                            _ if by == 0 => Tone::Cold,
                            true => Tone::Good(size),
                            false => Tone::Bad(size),
                        }
                    }
                    _ if count == 0 => Tone::Cold,
                    _ if t == p => Tone::Good(share(matrix, t, p) as f32),
                    _ => Tone::Bad((error((t, p)) / largest).powf(0.8) as f32),
                };
                let figure = match self.values {
                    Values::Counts => u64::from(count).to_string(),
                    Values::Percent if geometry.cell.0 >= 6 => {
                        format!("{:.1}", 100.0 * share(matrix, t, p))
                    }
                    Values::Percent => format!("{:.0}", 100.0 * share(matrix, t, p)),
                    Values::Change => change((t, p)).map_or(String::new(), |by| format!("{by:+}")),
                };
                let nothing = match self.values {
                    Values::Change => change((t, p)) == Some(0),
                    _ => count == 0,
                };
                Cell {
                    text: if nothing { "·".into() } else { figure },
                    tone: heat,
                    marked: worst.contains(&(t, p)),
                }
            })
            .collect()
    }

    fn draw_matrix(
        &self,
        session: &SessionView,
        evaluation: &Evaluation,
        theme: Theme,
        area: Rect,
        buf: &mut Buffer,
    ) {
        let title = Line::from(vec![
            Span::styled(
                format!(
                    "{} {}  ",
                    split_name(evaluation.split),
                    grouped(evaluation.confusion.total().into())
                ),
                theme.text(),
            ),
            Span::styled(self.values.name(), theme.accent()),
        ]);
        let right = Line::from(vec![
            Span::styled(format!("step {}  ", grouped(evaluation.step)), theme.dim()),
            Span::styled(
                format!("{:.2}%", 100.0 * evaluation.accuracy),
                theme.validation(),
            ),
        ]);
        let inner = panel(buf, area, theme.frame(), &title, &right);
        if self.values == Values::Change && session.evaluation_before(session.shown).is_none() {
            let lines = [
                "There is no earlier evaluation to compare with.".to_owned(),
                format!("{} shows the counts.", key_of(ConfusionAction::Values)),
            ];
            return message(&lines, theme, inner, buf);
        }
        let Some((map, geometry)) = self.map(session, evaluation, theme, inner) else {
            let lines = [
                "The matrix needs more room.".to_owned(),
                sentence(session, evaluation, self.cursor),
            ];
            return message(&lines, theme, inner, buf);
        };
        map.draw(map_area(inner, &geometry), buf);
    }

    /// The heat map and where it lies in the panel.
    fn map<'a>(
        &self,
        session: &'a SessionView,
        evaluation: &Evaluation,
        theme: Theme,
        inner: Rect,
    ) -> Option<(Heatmap<'a>, HeatmapLayout)> {
        let geometry = geometry(session, inner)?;
        let map = Heatmap {
            labels: session.classes(),
            cells: self.cells(session, evaluation, &geometry),
            cursor: self.cursor,
            colors: theme.colors,
            accent: theme.accent(),
            dim: theme.dim(),
        };
        Some((map, geometry))
    }

    fn draw_cell(
        &self,
        session: &SessionView,
        evaluation: &Evaluation,
        theme: Theme,
        area: Rect,
        buf: &mut Buffer,
    ) {
        let (truth, predicted) = self.cursor;
        let title = Line::from(Span::styled(
            format!(
                "{} called {}",
                session.class(truth),
                session.class(predicted)
            ),
            theme.accent(),
        ));
        let inner = panel(buf, area, theme.frame(), &title, &Line::default());
        let (count, change) = cell_words(session, evaluation, self.cursor);
        text(buf, inner, inner.x, inner.y, count, theme.strong());
        let room = usize::from(inner.width);
        let change = if change.chars().count() > room {
            change.replace(" evaluation", "")
        } else {
            change
        };
        text(buf, inner, inner.x, inner.y + 1, change, theme.dim());
        let rest = Rect::new(
            inner.x,
            inner.y + 3,
            inner.width,
            inner.height.saturating_sub(3),
        );
        if rest.height < 3 {
            return;
        }
        match self.images.predictions() {
            Some((0, ..)) => message(&["No image in this cell.".into()], theme, rest, buf),
            Some((_, _, items)) => {
                let grid = side_grid(rest);
                for (i, item) in items.iter().take(grid.len()).enumerate() {
                    image_grid::draw(&item.picture, theme, grid.tile(i), buf);
                    let tile = grid.tile(i);
                    let words = format!("{} ", image_grid::confidence(item));
                    text(buf, tile, tile.x, tile.bottom() - 1, words, theme.dim());
                }
            }
            None => {
                if let Some(why) = self.images.failure() {
                    message(&["No images:".into(), why.to_owned()], theme, rest, buf);
                }
            }
        }
    }

    fn draw_classes(
        &self,
        session: &SessionView,
        matrix: &Confusion,
        theme: Theme,
        area: Rect,
        buf: &mut Buffer,
    ) {
        let title = Line::from(Span::styled("per class, in %", theme.text()));
        let inner = panel(buf, area, theme.frame(), &title, &Line::default());
        if inner.is_empty() {
            return;
        }
        let n = matrix.classes as u16;
        let header = u16::from(inner.height > n.div_ceil(2));
        let columns = n
            .div_ceil((inner.height - header).max(1))
            .min(inner.width / 24)
            .max(1);
        let lines = n.div_ceil(columns);
        let width = (inner.width + 1) / columns;
        for column in 0..columns {
            let x = inner.x + column * width;
            let room =
                Rect::new(x, inner.y, width.saturating_sub(2), inner.height).intersection(inner);
            // Name and three figures; what remains is bars.
            let name = 10.min(room.width.saturating_sub(12));
            let each = (room.width.saturating_sub(name) / 3).clamp(4, 26);
            let words = match each {
                0..12 => ["prec", "rec", "F1"],
                _ => ["precision", "recall", "F1"],
            };
            for (i, word) in words.into_iter().enumerate().take(3 * usize::from(header)) {
                let end = x + name + each * (i as u16 + 1);
                text_right(buf, room, end, inner.y, word, theme.dim());
            }
            for line in 0..lines {
                let class = usize::from(column * lines + line);
                if class >= matrix.classes {
                    break;
                }
                let y = inner.y + header + line;
                let chosen = class == self.cursor.0 || class == self.cursor.1;
                let style = if chosen { theme.accent() } else { theme.text() };
                text(
                    buf,
                    room,
                    x,
                    y,
                    fitted(&session.class(class), name.into()),
                    style,
                );
                let figures = [
                    matrix.precision(class),
                    matrix.recall(class),
                    matrix.f1(class),
                ];
                for (i, figure) in figures.into_iter().enumerate() {
                    let left = x + name + each * i as u16;
                    let words = match figure {
                        Some(v) if each >= 12 => format!("{:.1}", 100.0 * v),
                        Some(v) => format!("{:.0}", 100.0 * v),
                        None => "-".into(),
                    };
                    let bar = each.saturating_sub(if each >= 12 { 7 } else { 5 });
                    if bar >= 3 && y < room.bottom() && left + each <= room.right() {
                        let at = (left + 1, y);
                        bars::draw(
                            at,
                            bar,
                            figure.unwrap_or(0.0),
                            theme.train(),
                            theme.frame(),
                            buf,
                        );
                    }
                    text_right(buf, room, left + each, y, &words, theme.text());
                }
            }
        }
    }

    fn draw_pairs(
        &self,
        session: &SessionView,
        matrix: &Confusion,
        theme: Theme,
        area: Rect,
        buf: &mut Buffer,
    ) {
        let title = Line::from(Span::styled("most confused", theme.text()));
        let inner = panel(buf, area, theme.frame(), &title, &Line::default());
        let pairs = matrix.most_confused(usize::from(inner.height));
        if pairs.is_empty() {
            return message(&["Nothing is confused.".into()], theme, inner, buf);
        }
        for (i, (truth, predicted, count)) in pairs.into_iter().enumerate() {
            let y = inner.y + i as u16;
            let style = if (truth, predicted) == self.cursor {
                theme.selected()
            } else {
                theme.text()
            };
            let percent = format!("{:.1}%", 100.0 * share(matrix, truth, predicted));
            let figures = if inner.width >= 34 {
                format!("{:>6}{percent:>7}", grouped(u64::from(count)))
            } else {
                format!("{percent:>6}")
            };
            let mark = if i < WORST { MARK } else { " " };
            let room = usize::from(inner.width).saturating_sub(figures.len() + 1);
            let whole = format!(
                "{mark}{} → {}",
                session.class(truth),
                session.class(predicted)
            );
            let names = if whole.chars().count() <= room {
                whole
            } else {
                let each = room.saturating_sub(2) / 2;
                let (t, p) = (session.class(truth), session.class(predicted));
                format!("{mark}{}→{}", fitted(&t, each), fitted(&p, each))
            };
            text(
                buf,
                inner,
                inner.x,
                y,
                format!("{names:<room$} {figures}"),
                style,
            );
        }
    }

    /// The cell's images on the whole screen.
    fn draw_open(
        &self,
        session: &SessionView,
        evaluation: &Evaluation,
        theme: Theme,
        area: Rect,
        buf: &mut Buffer,
    ) {
        let grid = open_grid(area);
        let head = sentence(session, evaluation, self.cursor);
        text(buf, area, area.x + 1, area.y, head, theme.strong());
        let Some((total, offset, items)) = self.images.predictions() else {
            if let Some(why) = self.images.failure() {
                message(&["No images:".into(), why.to_owned()], theme, grid, buf);
            }
            return;
        };
        if total == 0 {
            return message(&["No image in this cell.".into()], theme, grid, buf);
        }
        let grid = ImageGrid::automatic(grid);
        let shown = items.len().min(grid.len());
        let place = format!(
            "{}-{} of {}",
            offset + 1,
            offset as usize + shown,
            grouped(total.into())
        );
        text_right(
            buf,
            area,
            area.right().saturating_sub(1),
            area.y,
            &place,
            theme.dim(),
        );
        for (i, item) in items.iter().take(shown).enumerate() {
            image_grid::prediction(item, session, theme, (false, false), grid.tile(i), buf);
        }
    }
}

/// The grid of the opened cell.
fn open_grid(area: Rect) -> Rect {
    Rect::new(
        area.x + 1,
        area.y + 2,
        area.width.saturating_sub(2),
        area.height.saturating_sub(2),
    )
    .intersection(area)
}

/// Six images if they fit at a size at which one sees something, else fewer.
fn side_grid(area: Rect) -> ImageGrid {
    image_grid::WIDTHS
        .iter()
        .filter(|w| **w <= 32)
        .map(|w| ImageGrid::of(area, *w))
        .find(|t| t.len() >= 6)
        .unwrap_or_else(|| ImageGrid::of(area, 12))
}

fn geometry(session: &SessionView, inner: Rect) -> Option<HeatmapLayout> {
    let longest = session.classes().iter().map(|c| c.chars().count()).max()?;
    let geometry = HeatmapLayout::of(inner, session.classes().len(), longest as u16)?;
    HeatmapLayout::of(
        map_area(inner, &geometry),
        session.classes().len(),
        longest as u16,
    )
}

/// The map stands in the middle of its panel.
fn map_area(inner: Rect, geometry: &HeatmapLayout) -> Rect {
    let spare = inner.width.saturating_sub(geometry.size().0);
    Rect::new(
        inner.x + spare / 2,
        inner.y,
        inner.width - spare / 2,
        inner.height,
    )
}

/// Share of the images of `truth` that are called `predicted`; 0 without images.
fn share(matrix: &Confusion, truth: usize, predicted: usize) -> f64 {
    f64::from(matrix.count(truth, predicted)) / f64::from(matrix.row_total(truth).max(1))
}

/// `147 of 1,000 (14.7%)` and `+2.1 since last evaluation`.
fn cell_words(
    session: &SessionView,
    evaluation: &Evaluation,
    (truth, predicted): (usize, usize),
) -> (String, String) {
    let matrix = &evaluation.confusion;
    let now = 100.0 * share(matrix, truth, predicted);
    let count = format!(
        "{} of {} ({now:.1}%)",
        grouped(matrix.count(truth, predicted).into()),
        grouped(matrix.row_total(truth).into())
    );
    let change = match session.evaluation_before(session.shown) {
        Some(before) if before.confusion.classes == matrix.classes => {
            let by = now - 100.0 * share(&before.confusion, truth, predicted);
            // -0.04 would be written -0.0.
            let by = if by.abs() < 0.05 { 0.0 } else { by };
            format!("{by:+.1} since last evaluation")
        }
        _ => "first evaluation".into(),
    };
    (count, change)
}

/// `cat called dog: 147 of 1,000 (14.7%), +2.1 since last evaluation`.
fn sentence(session: &SessionView, evaluation: &Evaluation, cursor: (usize, usize)) -> String {
    let (count, change) = cell_words(session, evaluation, cursor);
    format!(
        "{} called {}: {count}, {change}",
        session.class(cursor.0),
        session.class(cursor.1)
    )
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

/// What is within a panel's frame.
fn inside(area: Rect) -> Rect {
    Rect::new(
        area.x + 1,
        area.y + 1,
        area.width.saturating_sub(2),
        area.height.saturating_sub(2),
    )
}

/// Turns from the validation to the test images and back.
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
