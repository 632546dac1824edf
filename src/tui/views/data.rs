//! The Data screen: the data set and its origin, the class counts, the images, and augmented variants of one.

use super::image_grid::{self, ImageGrid};
use super::query::{Query, QueryKey, message};
use super::{Context, View};
use crate::domain::params::{Flip, Hyperparameters};
use crate::domain::report::{DataInfo, Split, State};
use crate::domain::text::{bytes, grouped};
use crate::session::protocol::{Event, Question};
use crate::tui::actions::{Move, ProgramAction, key_of, moved};
use crate::tui::session_view::SessionView;
use crate::tui::theme::Theme;
use crate::tui::widgets::{bars, fitted, line, panel, text, text_right};
use crossterm::event::{MouseButton, MouseEvent, MouseEventKind};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

/// Actions of the Data screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataAction {
    Choose(Move),
    Left,
    Right,
    Class,
    OtherSplit,
    Augment,
    Back,
}

/// Number of augmented variants in the preview.
const VARIANTS: u32 = 24;
/// Columns of the panel on the left.
const SIDE: u16 = 38;

/// State of the Data screen.
#[derive(Debug)]
pub struct DataView {
    split: Split,
    class: Option<u16>,
    /// Index of the chosen image among those shown.
    selected: u32,
    /// Whether the grid shows the chosen image augmented.
    augmented: bool,
    browse: Query,
    variants: Query,
}

impl Default for DataView {
    fn default() -> Self {
        DataView {
            split: Split::Train,
            class: None,
            selected: 0,
            augmented: false,
            browse: Query::default(),
            variants: Query::default(),
        }
    }
}

/// The rectangles of the parts.
struct DataLayout {
    /// A line about the download; empty without one.
    notice: Rect,
    info: Rect,
    grid: Rect,
    /// The preview of augmentation; empty if there is no room.
    preview: Rect,
}

impl DataLayout {
    fn of(area: Rect, notice: bool) -> Self {
        let used = u16::from(notice).min(area.height);
        let below = Rect::new(area.x, area.y + used, area.width, area.height - used);
        let side = if below.width >= 70 { SIDE } else { 0 };
        let info = Rect::new(below.x, below.y, side, below.height);
        let rest = Rect::new(below.x + side, below.y, below.width - side, below.height);
        let strip = if rest.height >= 28 {
            (rest.height / 3).min(19)
        } else {
            0
        };
        DataLayout {
            notice: Rect::new(area.x, area.y, area.width, used),
            info,
            grid: Rect::new(rest.x, rest.y, rest.width, rest.height - strip),
            preview: Rect::new(rest.x, rest.bottom() - strip, rest.width, strip),
        }
    }
}

fn inside(area: Rect) -> Rect {
    Rect::new(
        area.x + 1,
        area.y + 1,
        area.width.saturating_sub(2),
        area.height.saturating_sub(2),
    )
}

/// `flip, crop 4`; None when augmentation is off.
fn augmentation(params: &Hyperparameters) -> Option<String> {
    let parts: Vec<String> = [
        (params.flip != Flip::Off).then(|| format!("flip {}", params.flip.word())),
        (params.crop > 0).then(|| format!("crop {}", params.crop)),
        (params.cutout > 0).then(|| format!("cutout {}", params.cutout)),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn has_notice(session: &SessionView) -> bool {
    session.download.is_some() || session.data.as_ref().is_some_and(|d| d.is_sample)
}

impl DataView {
    /// Returns the reason if an action is unavailable now.
    pub fn enabled(
        &self,
        does: DataAction,
        session: &SessionView,
        _area: Rect,
    ) -> Result<(), String> {
        use DataAction::*;
        match does {
            Back if !self.augmented => Err("the grid is on the screen".into()),
            Back => Ok(()),
            _ if session.run.is_none() => Err("no images yet".into()),
            Augment if self.split != Split::Train => Err(format!(
                "only training images are augmented; {} turns to them",
                key_of(OtherSplit)
            )),
            Choose(_) | Left | Right if self.browse.pictures().is_none_or(|p| p.0 == 0) => {
                Err("there are no images to choose from".into())
            }
            Choose(_) | Left | Right | Class | OtherSplit | Augment => Ok(()),
        }
    }

    pub fn act(&mut self, does: DataAction, ctx: &mut Context) {
        use DataAction::*;
        let grid = Self::grid(DataLayout::of(ctx.area, has_notice(ctx.session)).grid);
        match does {
            Choose(step) => self.step(step.by(grid.columns.into(), grid.len())),
            Left => self.step(-1),
            Right => self.step(1),
            Class => {
                let classes = ctx.session.classes().len() as u16;
                self.class = match self.class {
                    None => Some(0),
                    Some(c) => Some(c + 1).filter(|c| *c < classes),
                };
                self.restart();
            }
            OtherSplit => {
                self.split = match self.split {
                    Split::Train => Split::Validation,
                    Split::Validation => Split::Test,
                    Split::Test => Split::Train,
                };
                self.restart();
            }
            Augment => self.augmented = !self.augmented,
            Back => self.augmented = false,
        }
        self.refresh(ctx);
    }

    fn grid(area: Rect) -> ImageGrid {
        ImageGrid::automatic(inside(area))
    }

    fn refresh(&mut self, ctx: &mut Context) {
        if !ctx.visible || ctx.session.run.is_none() {
            return;
        }
        let layout = DataLayout::of(ctx.area, has_notice(ctx.session));
        let grid = Self::grid(layout.grid);
        let page = grid.len() as u32;
        let question = Question::Browse {
            split: self.split,
            class: self.class,
            offset: self.selected / page * page,
            count: page,
        };
        self.browse
            .want(question, QueryKey::and(ctx.session, "data"), ctx);
        let Some(how) = augmentation(&ctx.session.params) else {
            self.variants.clear();
            return;
        };
        let wanted = self.augmented || !layout.preview.is_empty();
        if let Some(index) = self
            .chosen()
            .filter(|_| wanted && self.split == Split::Train)
        {
            let question = Question::Augmented {
                index,
                count: VARIANTS,
            };
            self.variants
                .want(question, QueryKey::and(ctx.session, &how), ctx);
        }
    }

    /// The chosen image's number in its split.
    fn chosen(&self) -> Option<u32> {
        let (_, offset, items) = self.browse.pictures()?;
        let at = self.selected.checked_sub(offset)? as usize;
        items.get(at).map(|i| i.0)
    }

    fn restart(&mut self) {
        self.selected = 0;
        self.augmented = false;
        self.browse.clear();
        self.variants.clear();
    }

    fn step(&mut self, by: i64) {
        let total = self.browse.pictures().map_or(0, |p| p.0);
        self.selected = moved(self.selected as usize, by, total as usize) as u32;
    }

    fn draw_info(
        &self,
        session: &SessionView,
        data: &DataInfo,
        theme: Theme,
        area: Rect,
        buf: &mut Buffer,
    ) {
        let title = Line::from(Span::styled(data.name.clone(), theme.accent()));
        let inner = panel(buf, area, theme.frame(), &title, &Line::default());
        let sizes = session.run.as_ref().map_or_else(
            || {
                format!(
                    "{} + {}",
                    grouped(data.train.into()),
                    grouped(data.test.into())
                )
            },
            |r| {
                format!(
                    "{} / {} / {}",
                    grouped(r.train.into()),
                    grouped(r.validation.into()),
                    grouped(r.test.into())
                )
            },
        );
        let channels = |values: &[f32]| {
            values
                .iter()
                .map(|v| format!("{v:.3}"))
                .collect::<Vec<_>>()
                .join("  ")
        };
        // Keep the end of a path, which says more than its beginning.
        let room = usize::from(inner.width.saturating_sub(8));
        let source = if data.source.chars().count() > room {
            let skip = data.source.chars().count() + 1 - room.max(1);
            format!("…{}", data.source.chars().skip(skip).collect::<String>())
        } else {
            data.source.clone()
        };
        let rows = [
            ("from", source),
            ("format", data.format.clone()),
            ("images", sizes),
            ("size", bytes(data.bytes) + &data.load_time(" in ")),
            ("mean", channels(&data.mean)),
            ("dev", channels(&data.std)),
        ];
        for (i, (label, value)) in rows.iter().enumerate() {
            let y = inner.y + i as u16;
            text(buf, inner, inner.x, y, label, theme.dim());
            text(buf, inner, inner.x + 8, y, value, theme.text());
        }
        let head = inner.y + rows.len() as u16 + u16::from(inner.height >= 18);
        let max_count = data
            .train_counts
            .iter()
            .chain([&1])
            .max()
            .map_or(1.0, |m| f64::from(*m));
        text(buf, inner, inner.x, head, "class", theme.dim());
        text_right(
            buf,
            inner,
            inner.right().saturating_sub(7),
            head,
            "train",
            theme.dim(),
        );
        text_right(buf, inner, inner.right(), head, "test", theme.dim());
        for (class, name) in data.classes.iter().enumerate() {
            let y = head + 1 + class as u16;
            if y >= inner.bottom() {
                break;
            }
            let of = |counts: &[u32]| counts.get(class).copied().unwrap_or(0);
            let (train, test) = (of(&data.train_counts), of(&data.test_counts));
            let style = if self.class == Some(class as u16) {
                theme.accent()
            } else {
                theme.text()
            };
            text(buf, inner, inner.x, y, fitted(name, 10), style);
            let width = inner.width.saturating_sub(26);
            if width > 2 {
                let share = f64::from(train) / max_count;
                bars::draw(
                    (inner.x + 11, y),
                    width,
                    share,
                    theme.train(),
                    theme.frame(),
                    buf,
                );
            }
            let figures = |n: u32| grouped(n.into());
            text_right(
                buf,
                inner,
                inner.right().saturating_sub(7),
                y,
                &figures(train),
                theme.text(),
            );
            text_right(buf, inner, inner.right(), y, &figures(test), theme.text());
        }
    }

    fn draw_grid(&self, session: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer) {
        let place = match self.browse.pictures() {
            Some((total, offset, items)) if total > 0 => format!(
                "{}-{} of {}",
                grouped(u64::from(offset) + 1),
                grouped(u64::from(offset) + items.len() as u64),
                grouped(total.into())
            ),
            _ => String::new(),
        };
        let class = self
            .class
            .map_or("all classes".into(), |c| session.class(c.into()));
        let title = Line::from(vec![
            Span::styled(format!("{} images  ", self.split.name()), theme.text()),
            Span::styled(class, theme.accent()),
        ]);
        let right = Line::from(Span::styled(place, theme.dim()));
        let inner = panel(buf, area, theme.frame(), &title, &right);
        match self.browse.pictures() {
            Some((0, ..)) => message(&["There are none.".into()], theme, inner, buf),
            Some((_, offset, items)) => {
                let grid = Self::grid(area);
                for (i, (index, class, picture)) in items.iter().take(grid.len()).enumerate() {
                    let tile = grid.tile(i);
                    image_grid::draw(picture, theme, tile, buf);
                    let chosen = offset + i as u32 == self.selected;
                    let style = if chosen {
                        theme.selected()
                    } else {
                        theme.dim()
                    };
                    let width = usize::from(tile.width);
                    let number = grouped(u64::from(*index));
                    let room = width.saturating_sub(number.len() + 1);
                    let words = format!(
                        "{:<room$} {number}",
                        fitted(&session.class((*class).into()), room)
                    );
                    text(
                        buf,
                        tile,
                        tile.x,
                        tile.bottom() - 1,
                        fitted(&words, width),
                        style,
                    );
                }
            }
            None => {
                if let Some(why) = self.browse.failure() {
                    message(
                        &["The images could not be had:".into(), why.to_owned()],
                        theme,
                        inner,
                        buf,
                    );
                } else if session.run.is_none() {
                    message(
                        &["The images come when the run begins.".into()],
                        theme,
                        inner,
                        buf,
                    );
                }
            }
        }
    }

    fn draw_augmented(&self, session: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer) {
        let how = augmentation(&session.params);
        let title = Line::from(vec![
            Span::styled("augmentation  ", theme.text()),
            Span::styled(how.clone().unwrap_or_else(|| "off".into()), theme.accent()),
        ]);
        let number = self.chosen().map_or(String::new(), |i| {
            format!("training image {}", grouped(i.into()))
        });
        let right = Line::from(Span::styled(number, theme.dim()));
        let inner = panel(buf, area, theme.frame(), &title, &right);
        if how.is_none() {
            let lines = [
                "Augmentation is off: every epoch shows the images as they are.".to_owned(),
                "flip, crop and cutout are on the Train screen; this shows what they do."
                    .to_owned(),
            ];
            return message(&lines, theme, inner, buf);
        }
        if self.split != Split::Train {
            let lines = [format!(
                "Only training images are augmented: {} turns to them.",
                key_of(DataAction::OtherSplit)
            )];
            return message(&lines, theme, inner, buf);
        }
        match self.variants.pictures() {
            Some((_, _, items)) => {
                let grid = preview_grid(inner);
                for (i, (_, _, picture)) in items.iter().take(grid.len()).enumerate() {
                    image_grid::draw(picture, theme, grid.tile(i), buf);
                }
            }
            None => {
                if let Some(why) = self.variants.failure() {
                    message(&["No preview:".into(), why.to_owned()], theme, inner, buf);
                }
            }
        }
    }

    fn draw_notice(
        session: &SessionView,
        data: Option<&DataInfo>,
        theme: Theme,
        area: Rect,
        buf: &mut Buffer,
    ) {
        if let Some((done, total)) = session.download {
            let share = done as f64 / total.max(1) as f64;
            let x = text(
                buf,
                area,
                area.x + 1,
                area.y,
                "downloading CIFAR-10 ",
                theme.text(),
            );
            let width = 30.min(area.right().saturating_sub(x));
            bars::draw(
                (x, area.y),
                width,
                share,
                theme.accent(),
                theme.frame(),
                buf,
            );
            let words = format!(
                " {:>3.0}%  {} of {}",
                100.0 * share,
                bytes(done),
                bytes(total)
            );
            text(buf, area, x + width, area.y, words, theme.text());
        } else if data.is_some_and(|d| d.is_sample) {
            let words = Line::from(vec![
                Span::styled(" These are drawn, not photographed. ", theme.dim()),
                Span::styled(key_of(ProgramAction::Download), theme.accent()),
                Span::styled(
                    " fetches the real CIFAR-10 (170 MB); or --data FOLDER",
                    theme.dim(),
                ),
            ]);
            line(buf, area, area.x, area.y, &words);
        }
    }
}

/// At most half as high as the panel, so that several fit.
fn preview_grid(inner: Rect) -> ImageGrid {
    image_grid::WIDTHS
        .iter()
        .filter(|w| **w <= 32)
        .map(|w| ImageGrid::of(inner, *w))
        .find(|t| t.len() >= 4)
        .unwrap_or_else(|| ImageGrid::of(inner, 12))
}

impl View for DataView {
    fn draw(&self, session: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer) {
        let area = area.intersection(buf.area);
        if area.is_empty() {
            return;
        }
        let layout = DataLayout::of(area, has_notice(session));
        Self::draw_notice(session, session.data.as_ref(), theme, layout.notice, buf);
        let Some(data) = &session.data else {
            let lines = match &session.state {
                State::Loading { what, done, total } if *total > 0 => vec![
                    format!("Loading {what}: {}%.", 100 * done / (*total).max(1)),
                    "This screen then shows the data set and its source.".into(),
                ],
                State::Loading { what, .. } => vec![
                    format!("Loading {what}."),
                    "This screen then shows the data set and its source.".into(),
                ],
                State::Failed { why } => vec!["No data was loaded.".into(), why.clone()],
                _ => vec!["No data was loaded.".into()],
            };
            let rest = Rect::new(
                area.x,
                area.y + layout.notice.height,
                area.width,
                area.height - layout.notice.height,
            );
            return message(&lines, theme, rest, buf);
        };
        self.draw_info(session, data, theme, layout.info, buf);
        if self.augmented {
            self.draw_augmented(session, theme, layout.grid, buf);
        } else {
            self.draw_grid(session, theme, layout.grid, buf);
        }
        if !self.augmented {
            self.draw_augmented(session, theme, layout.preview, buf);
        } else if !layout.preview.is_empty() {
            self.draw_grid(session, theme, layout.preview, buf);
        }
    }

    fn shown(&mut self, ctx: &mut Context) {
        self.refresh(ctx);
    }

    fn event(&mut self, event: &Event, ctx: &mut Context) {
        if matches!(event, Event::Started(_)) {
            self.restart();
        }
        let _ = self.browse.take(event) || self.variants.take(event);
        self.refresh(ctx);
    }

    fn mouse(&mut self, mouse: MouseEvent, ctx: &mut Context) {
        match mouse.kind {
            MouseEventKind::ScrollDown => self.act(DataAction::Choose(Move::HalfDown), ctx),
            MouseEventKind::ScrollUp => self.act(DataAction::Choose(Move::HalfUp), ctx),
            MouseEventKind::Down(MouseButton::Left) if !self.augmented => {
                let grid = Self::grid(DataLayout::of(ctx.area, has_notice(ctx.session)).grid);
                let Some((total, offset, _)) = self.browse.pictures() else {
                    return;
                };
                if let Some(i) = grid.at(mouse.column, mouse.row) {
                    self.selected = (offset + i as u32).min(total.saturating_sub(1));
                }
                self.refresh(ctx);
            }
            _ => {}
        }
    }
}
