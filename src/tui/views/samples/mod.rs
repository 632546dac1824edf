//! The Samples screen: held-out images with their predictions and confidences; and one image large, with all its
//! probabilities and its predictions at each evaluation.

mod detail;
mod grid;

use super::confusion::{can_switch_split, other_split};
use super::image_grid::{self, ImageGrid};
use super::query::{Query, QueryKey, message, no_evaluation};
use super::{Context, View};
use crate::domain::report::{Prediction, Split};
use crate::session::protocol::{Event, Filter, Question};
use crate::tui::actions::{Move, key_of, moved};
use crate::tui::session_view::{SessionView, Severity};
use crate::tui::theme::Theme;
use crossterm::event::{MouseButton, MouseEvent, MouseEventKind};
use grid::grid_area;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use std::collections::BTreeMap;

/// Actions of the Samples screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SamplesAction {
    Choose(Move),
    Left,
    Right,
    /// Shows one image on the whole screen.
    Enlarge,
    Back,
    NextFilter,
    Class,
    Pin,
    OtherSplit,
    LargerImages,
    SmallerImages,
    Fork,
}

/// The chosen filter. The class and the pinned images are separate fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Chosen {
    #[default]
    All,
    Wrong,
    MostConfidentWrong,
    LeastSure,
    Class,
    Pinned,
}

const FILTERS: [Chosen; 6] = [
    Chosen::All,
    Chosen::Wrong,
    Chosen::MostConfidentWrong,
    Chosen::LeastSure,
    Chosen::Class,
    Chosen::Pinned,
];

/// State of the Samples screen.
#[derive(Debug, Default)]
pub struct SamplesView {
    chosen: Chosen,
    class: u16,
    /// Pinned images of each split in the order of pinning. They are valid for one data set and one way to split it.
    pinned: BTreeMap<&'static str, Vec<u32>>,
    /// Index of the selected image among those that pass the filter.
    selected: u32,
    /// Width of the images, if the user chose one.
    width: Option<u16>,
    /// The image that is shown large, and its split.
    open: Option<(Split, u32)>,
    /// The selected image is on a page that has not arrived yet; the large image follows when it does.
    behind: bool,
    /// The numbering that the pinned images refer to.
    pinned_of: Option<Numbering>,
    page: Query,
    /// The query for the open image alone: after an evaluation it may no longer be on the page.
    detail: Query,
}

/// What determines the numbers of images in a split: source, seed, validation share.
type Numbering = (String, u64, f64);

impl SamplesView {
    /// Returns the reason if an action is unavailable now.
    pub fn enabled(
        &self,
        does: SamplesAction,
        session: &SessionView,
        area: Rect,
    ) -> Result<(), String> {
        use SamplesAction::*;
        match does {
            OtherSplit => can_switch_split(session),
            Back if self.open.is_none() => Err("the grid is on the screen".into()),
            Back => Ok(()),
            Fork => session.is_past(),
            _ if session.evaluation(session.shown).is_none() => {
                Err("nothing has been scored yet".into())
            }
            NextFilter | Class => Ok(()),
            LargerImages | SmallerImages if self.open.is_some() => Err(format!(
                "one image is on the screen; {} returns to the grid",
                key_of(Back)
            )),
            LargerImages if self.other_width(true, area).is_none() => {
                Err("there is no room for larger images".into())
            }
            SmallerImages if self.other_width(false, area).is_none() => {
                Err("these are the smallest images".into())
            }
            LargerImages | SmallerImages => Ok(()),
            _ if self.page.predictions().is_none() => Err("the images are not here yet".into()),
            _ if self.open.is_none() && self.selected_item().is_none() => {
                Err("no image passes this filter".into())
            }
            Choose(_) | Left | Right | Enlarge | Pin => Ok(()),
        }
    }

    pub fn act(&mut self, does: SamplesAction, ctx: &mut Context) {
        use SamplesAction::*;
        let grid = self.grid(ctx.area);
        let row = if self.open.is_some() { 1 } else { grid.columns };
        match does {
            OtherSplit => {
                self.open = None;
                self.selected = 0;
                self.page.clear();
                // The app calls `shown` after the switch.
                return other_split(ctx);
            }
            Choose(step) => self.step(step.by(row.into(), grid.len())),
            Left => self.step(-1),
            Right => self.step(1),
            Enlarge => self.follow_or_open(),
            Back => self.open = None,
            NextFilter => self.next_filter(),
            Class => {
                self.open = None;
                if self.chosen == Chosen::Class {
                    let classes = ctx.session.classes().len().max(1);
                    self.class = ((usize::from(self.class) + 1) % classes) as u16;
                }
                self.choose(Chosen::Class);
            }
            Pin => self.pin(ctx),
            LargerImages => self.width = self.other_width(true, ctx.area).or(self.width),
            SmallerImages => self.width = self.other_width(false, ctx.area).or(self.width),
            Fork => ctx.fork_past(),
        }
        self.refresh(ctx);
    }

    fn next_filter(&mut self) {
        self.open = None;
        let at = FILTERS.iter().position(|f| *f == self.chosen).unwrap_or(0);
        self.choose(FILTERS[(at + 1) % FILTERS.len()]);
    }

    fn filter(&self, session: &SessionView) -> Filter {
        match self.chosen {
            Chosen::All => Filter::All,
            Chosen::Wrong => Filter::Wrong,
            Chosen::MostConfidentWrong => Filter::MostConfidentWrong,
            Chosen::LeastSure => Filter::LeastSure,
            Chosen::Class => Filter::Class { class: self.class },
            Chosen::Pinned => Filter::Pinned {
                indices: self.pins(session.shown).to_vec(),
            },
        }
    }

    fn pins(&self, split: Split) -> &[u32] {
        self.pinned.get(split.name()).map_or(&[], Vec::as_slice)
    }

    fn grid(&self, area: Rect) -> ImageGrid {
        let grid = grid_area(area);
        match self.width {
            Some(width) => ImageGrid::of(grid, width),
            None => ImageGrid::automatic(grid),
        }
    }

    /// Index of the first image on the selected image's page.
    fn offset(&self, grid: &ImageGrid) -> u32 {
        let page = grid.len() as u32;
        self.selected / page * page
    }

    /// Requests the images to show, unless they are present.
    fn refresh(&mut self, ctx: &mut Context) {
        let Some(key) = QueryKey::evaluation(ctx.session) else {
            return;
        };
        if !ctx.visible {
            return;
        }
        if let Some((split, index)) = self.open
            && split == ctx.session.shown
        {
            let question = Question::Samples {
                filter: Filter::Pinned {
                    indices: vec![index],
                },
                offset: 0,
                count: 1,
            };
            self.detail.want(question, key.clone(), ctx);
        }
        let grid = self.grid(ctx.area);
        let question = Question::Samples {
            filter: self.filter(ctx.session),
            offset: self.offset(&grid),
            count: grid.len() as u32,
        };
        self.page.want(question, key, ctx);
    }

    /// Changes the filter and selects its first image.
    fn choose(&mut self, chosen: Chosen) {
        self.chosen = chosen;
        self.selected = 0;
        self.page.clear();
    }

    fn total(&self) -> u32 {
        self.page.predictions().map_or(0, |p| p.0)
    }

    fn selected_item(&self) -> Option<&Prediction> {
        let (_, offset, items) = self.page.predictions()?;
        items.get(self.selected.checked_sub(offset)? as usize)
    }

    fn step(&mut self, by: i64) {
        self.selected = moved(self.selected as usize, by, self.total() as usize) as u32;
        if self.open.is_some() {
            self.follow();
        }
    }

    /// Shows the selected image large, if it is on the page.
    fn follow(&mut self) {
        self.behind = self.selected_item().is_none();
        if let Some(item) = self.selected_item() {
            let open = (item.split, item.index);
            if self.open != Some(open) {
                self.open = Some(open);
                self.detail.clear();
            }
        }
    }

    fn pin(&mut self, ctx: &mut Context) {
        let item = match self.open {
            Some(open) => Some(open),
            None => self.selected_item().map(|item| (item.split, item.index)),
        };
        let Some((split, index)) = item else {
            return;
        };
        let pins = self.pinned.entry(split.name()).or_default();
        if let Some(at) = pins.iter().position(|p| *p == index) {
            pins.remove(at);
            let last = pins.len().saturating_sub(1) as u32;
            if self.chosen == Chosen::Pinned {
                self.selected = self.selected.min(last);
            }
            ctx.say(
                Severity::Plain,
                format!("{} image {index} is no longer pinned", split.name()),
            );
        } else {
            pins.push(index);
            ctx.say(
                Severity::Plain,
                format!(
                    "{} image {index} is pinned; {} turns to the pinned images",
                    split.name(),
                    key_of(SamplesAction::NextFilter)
                ),
            );
        }
    }

    /// The next width at which the images have a different size in this area.
    fn other_width(&self, larger: bool, area: Rect) -> Option<u16> {
        let now = self.grid(area).width;
        let width = |w: &&u16| ImageGrid::of(grid_area(area), **w).width;
        if larger {
            image_grid::WIDTHS.iter().rev().find(|w| width(w) > now)
        } else {
            image_grid::WIDTHS.iter().find(|w| width(w) < now)
        }
        .copied()
    }

    /// The open image, from the newest answer that contains it.
    fn open_item(&self) -> Option<&Prediction> {
        let (split, index) = self.open?;
        let held = |query: &'_ Query| -> Option<usize> {
            let (_, _, items) = query.predictions()?;
            items
                .iter()
                .position(|p| p.split == split && p.index == index)
        };
        [&self.detail, &self.page].into_iter().find_map(|query| {
            let at = held(query)?;
            query.predictions().and_then(|(_, _, items)| items.get(at))
        })
    }

    fn follow_or_open(&mut self) {
        if self.open.is_some() {
            self.open = None;
        } else {
            self.follow();
        }
    }
}

impl View for SamplesView {
    fn draw(&self, session: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer) {
        let area = area.intersection(buf.area);
        if area.is_empty() {
            return;
        }
        if session.evaluation(session.shown).is_none() {
            return message(&no_evaluation(session), theme, area, buf);
        }
        match self.open {
            Some(_) => self.draw_detail(session, theme, area, buf),
            None => self.draw_grid(session, theme, area, buf),
        }
    }

    fn shown(&mut self, ctx: &mut Context) {
        self.refresh(ctx);
    }

    fn event(&mut self, event: &Event, ctx: &mut Context) {
        if let Event::Started(run) = event {
            self.page.clear();
            self.detail.clear();
            self.open = None;
            let numbering = (
                run.data.source.clone(),
                run.split_seed,
                run.params.validation,
            );
            if self.pinned_of.as_ref() != Some(&numbering) {
                self.pinned.clear();
                self.pinned_of = Some(numbering);
            }
        }
        if self.page.take(event) {
            let last = self.total().saturating_sub(1);
            self.selected = self.selected.min(last);
            if self.open.is_some() && self.behind {
                self.follow();
            }
        }
        self.detail.take(event);
        self.refresh(ctx);
    }

    fn mouse(&mut self, mouse: MouseEvent, ctx: &mut Context) {
        match mouse.kind {
            MouseEventKind::ScrollDown => self.act(SamplesAction::Choose(Move::HalfDown), ctx),
            MouseEventKind::ScrollUp => self.act(SamplesAction::Choose(Move::HalfUp), ctx),
            MouseEventKind::Down(MouseButton::Left) => {
                if self.open.is_some() {
                    return self.act(SamplesAction::Back, ctx);
                }
                let here = (mouse.column, mouse.row).into();
                let tab = self
                    .tabs(ctx.session, ctx.area)
                    .into_iter()
                    .find(|t| t.1.contains(here));
                if let Some((chosen, ..)) = tab {
                    self.choose(chosen);
                } else {
                    let grid = self.grid(ctx.area);
                    if let Some(i) = grid.at(mouse.column, mouse.row) {
                        let place = self.offset(&grid) + i as u32;
                        if place == self.selected {
                            self.follow_or_open();
                        } else if place < self.total() {
                            self.selected = place;
                        }
                    }
                }
                self.refresh(ctx);
            }
            _ => {}
        }
    }
}
