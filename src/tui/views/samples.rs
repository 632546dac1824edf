//! The Samples screen: held-out images, what the network takes them for and how sure it is; and one of them large, with
//! all its probabilities and what it was called after each evaluation.

use super::confusion::other_split;
use super::image_grid::{self, ImageGrid};
use super::query::{Query, QueryKey, message, no_evaluation};
use super::{Context, View};
use crate::domain::report::{Prediction, Split};
use crate::domain::text::grouped;
use crate::session::protocol::{Event, Filter, Question};
use crate::tui::actions::{Move, key_of, moved};
use crate::tui::session_view::{SessionView, Weight, split_name};
use crate::tui::theme::Theme;
use crate::tui::widgets::half_block::{self, Scale};
use crate::tui::widgets::{bars, fitted, line, text, text_right};
use crossterm::event::{MouseButton, MouseEvent, MouseEventKind};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use std::collections::BTreeMap;

/// What the Samples screen does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SamplesAction {
    Choose(Move),
    Left,
    Right,
    /// One image on the whole screen.
    Enlarge,
    Back,
    NextFilter,
    PreviousFilter,
    Class,
    Pin,
    OtherSplit,
    LargerImages,
    SmallerImages,
}

/// Which filter is chosen; the class and the pinned images stand beside it.
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
    class: u8,
    /// Pinned images of each split, in the order of pinning. They belong to a data set and a split of it.
    pinned: BTreeMap<&'static str, Vec<u32>>,
    /// Place of the selected image among those that pass the filter.
    selected: u32,
    /// Width of the pictures, when the user chose one.
    width: Option<u16>,
    /// The image that is shown large, and its split.
    open: Option<(Split, u32)>,
    /// The selection went to a page that is not there yet; the large image follows when it is.
    behind: bool,
    /// What the pinned images' numbers refer to.
    pinned_of: Option<Numbering>,
    page: Query,
    /// Asks for the open image alone: after an evaluation it may no longer be on the page.
    detail: Query,
}

/// What decides which image has which number in its split: source, seed, validation share.
type Numbering = (String, u64, f64);

impl SamplesView {
    /// Why an action cannot be used now, if so.
    pub fn enabled(
        &self,
        does: SamplesAction,
        session: &SessionView,
        area: Rect,
    ) -> Result<(), String> {
        use SamplesAction::*;
        match does {
            OtherSplit => Ok(()),
            Back if self.open.is_none() => Err("the grid is on the screen".into()),
            Back => Ok(()),
            _ if session.evaluation(session.shown).is_none() => {
                Err("nothing has been scored yet".into())
            }
            NextFilter | PreviousFilter | Class => Ok(()),
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
                // Once the app has turned, it calls `shown`.
                return other_split(ctx);
            }
            Choose(step) => self.step(step.by(row.into(), grid.len())),
            Left => self.step(-1),
            Right => self.step(1),
            Enlarge => self.follow_or_open(),
            Back => self.open = None,
            NextFilter => self.turn_filter(1),
            PreviousFilter => self.turn_filter(FILTERS.len() - 1),
            Class => {
                self.open = None;
                if self.chosen == Chosen::Class {
                    let classes = ctx.session.classes().len().max(1);
                    self.class = ((usize::from(self.class) + 1) % classes) as u8;
                }
                self.choose(Chosen::Class);
            }
            Pin => self.pin(ctx),
            LargerImages => self.width = self.other_width(true, ctx.area).or(self.width),
            SmallerImages => self.width = self.other_width(false, ctx.area).or(self.width),
        }
        self.refresh(ctx);
    }

    fn turn_filter(&mut self, by: usize) {
        self.open = None;
        let at = FILTERS.iter().position(|f| *f == self.chosen).unwrap_or(0);
        self.choose(FILTERS[(at + by) % FILTERS.len()]);
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
        self.pinned
            .get(split_name(split))
            .map_or(&[], Vec::as_slice)
    }

    fn grid(&self, area: Rect) -> ImageGrid {
        let grid = grid_area(area);
        match self.width {
            Some(width) => ImageGrid::of(grid, width),
            None => ImageGrid::automatic(grid),
        }
    }

    /// First image of the page that the selected one is on.
    fn offset(&self, grid: &ImageGrid) -> u32 {
        let page = grid.len() as u32;
        self.selected / page * page
    }

    /// Asks for what the screen shows, if it is not there yet.
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

    /// Another filter: from its first image.
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

    /// The large image follows the selection while it is on the page.
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
        let pins = self.pinned.entry(split_name(split)).or_default();
        if let Some(at) = pins.iter().position(|p| *p == index) {
            pins.remove(at);
            let last = pins.len().saturating_sub(1) as u32;
            if self.chosen == Chosen::Pinned {
                self.selected = self.selected.min(last);
            }
            ctx.say(
                Weight::Plain,
                format!("{} image {index} is no longer pinned", split_name(split)),
            );
        } else {
            pins.push(index);
            ctx.say(
                Weight::Plain,
                format!(
                    "{} image {index} is pinned; {} turns to the pinned images",
                    split_name(split),
                    key_of(SamplesAction::NextFilter)
                ),
            );
        }
    }

    /// The next width at which pictures have another size in this area.
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

    fn filter_name(&self, chosen: Chosen, session: &SessionView, narrow: bool) -> String {
        match chosen {
            Chosen::MostConfidentWrong if narrow => "sure wrong".into(),
            Chosen::LeastSure if narrow => "unsure".into(),
            Chosen::All => "all".into(),
            Chosen::Wrong => "wrong".into(),
            Chosen::MostConfidentWrong => "most confident wrong".into(),
            Chosen::LeastSure => "least sure".into(),
            Chosen::Class => session.class(usize::from(self.class)),
            Chosen::Pinned => format!("pinned {}", self.pins(session.shown).len()),
        }
    }

    /// The filters, each with where it lies.
    fn tabs(&self, session: &SessionView, area: Rect) -> Vec<(Chosen, Rect, String)> {
        let mut x = area.x + 1;
        FILTERS
            .into_iter()
            .map(|chosen| {
                let name = format!(" {} ", self.filter_name(chosen, session, area.width < 100));
                let width = name.chars().count() as u16;
                let place = Rect::new(x, area.y, width, 1).intersection(area);
                x = x.saturating_add(width + u16::from(area.width >= 100));
                (chosen, place, name)
            })
            .collect()
    }

    fn draw_head(&self, session: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer) {
        let tabs = self.tabs(session, area);
        for (chosen, place, name) in &tabs {
            let style = if *chosen == self.chosen {
                theme.selected()
            } else {
                theme.dim()
            };
            text(buf, *place, place.x, place.y, name, style);
        }
        let end = tabs.last().map_or(area.x, |t| t.1.right());
        let place = match self.page.predictions() {
            Some((total, offset, items)) if total > 0 => format!(
                "{}-{} of {}",
                grouped(u64::from(offset) + 1),
                grouped(u64::from(offset) + items.len() as u64),
                grouped(total.into())
            ),
            _ => String::new(),
        };
        let step = session.evaluation(session.shown).map_or(0, |e| e.step);
        let whole = format!(
            "{}  step {}  {place}",
            split_name(session.shown),
            grouped(step)
        );
        let short = format!("{}  {place}", split_name(session.shown));
        let room = usize::from(area.right().saturating_sub(end + 2));
        if let Some(words) = [whole, short, place]
            .into_iter()
            .find(|w| w.chars().count() <= room)
        {
            text_right(
                buf,
                area,
                area.right().saturating_sub(1),
                area.y,
                &words,
                theme.dim(),
            );
        }
    }

    fn draw_grid(&self, session: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer) {
        self.draw_head(session, theme, area, buf);
        let grid = grid_area(area);
        let Some((total, offset, items)) = self.page.predictions() else {
            if let Some(why) = self.page.failure() {
                message(
                    &["The images could not be had:".into(), why.to_owned()],
                    theme,
                    grid,
                    buf,
                );
            }
            return;
        };
        if total == 0 {
            return message(&self.nothing(session), theme, grid, buf);
        }
        let grid = self.grid(area);
        let pins = self.pins(session.shown);
        for (i, item) in items.iter().take(grid.len()).enumerate() {
            let chosen = u64::from(offset) + i as u64 == u64::from(self.selected);
            let pinned = pins.contains(&item.index);
            image_grid::prediction(item, session, theme, (chosen, pinned), grid.tile(i), buf);
        }
    }

    /// Why no image passes the filter.
    fn nothing(&self, session: &SessionView) -> Vec<String> {
        match self.chosen {
            Chosen::Pinned => vec![
                "No image is pinned.".into(),
                format!(
                    "{} pins the chosen one; what the network says of it is kept after each evaluation.",
                    key_of(SamplesAction::Pin)
                ),
            ],
            Chosen::Class => vec![format!(
                "No {} image is a {}.",
                split_name(session.shown),
                session.class(self.class.into())
            )],
            _ => vec![format!(
                "No {} image is called wrongly.",
                split_name(session.shown)
            )],
        }
    }

    /// The open image, from the newest answer that has it.
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

    fn draw_detail(&self, session: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer) {
        let Some(item) = self.open_item() else {
            let why = self.detail.failure().unwrap_or("Asking for this image.");
            return message(&[why.to_owned()], theme, area, buf);
        };
        let right = item.truth == item.predicted;
        let pinned = self.pins(item.split).contains(&item.index);
        let mark = if right {
            ("✓", theme.best())
        } else {
            ("✗", theme.wrong())
        };
        let verdict = if right {
            format!(" {}", session.class(item.truth.into()))
        } else {
            format!(
                " {} → {}",
                session.class(item.truth.into()),
                session.class(item.predicted.into())
            )
        };
        let head = Line::from(vec![
            Span::styled(format!(" {}", mark.0), mark.1),
            Span::styled(
                format!("{verdict} {}", image_grid::confidence(item)),
                mark.1,
            ),
            Span::styled(if pinned { "  ◆ pinned" } else { "" }, theme.accent()),
        ]);
        line(buf, area, area.x, area.y, &head);
        let place = format!(
            "{} image {}  step {}",
            split_name(item.split),
            grouped(item.index.into()),
            grouped(item.step)
        );
        if usize::from(area.width) > head.width() + place.chars().count() + 3 {
            text_right(
                buf,
                area,
                area.right().saturating_sub(1),
                area.y,
                &place,
                theme.dim(),
            );
        }
        let body = grid_area(area);
        // Twice the size if it fits and leaves room for the bars beside it.
        let (width, height) = half_block::fit(body.width.saturating_sub(34).min(64), body.height);
        let image = Rect::new(body.x, body.y, width, height);
        half_block::draw(&item.picture, Scale::Smooth, theme, image, buf);
        let side = Rect::new(
            image.right() + 2,
            body.y,
            body.right().saturating_sub(image.right() + 2),
            body.height,
        )
        .intersection(area);
        draw_probabilities(item, session, theme, side, buf);
        let used = item.probabilities.len() as u16 + 1;
        // The opinions stand under the bars, or under the picture where that leaves more lines.
        let past = Rect::new(
            side.x,
            side.y + used.min(side.height),
            side.width,
            side.height.saturating_sub(used),
        );
        draw_past(item, session, theme, past, buf);
    }
}

/// Ten bars, aligned, the true class marked.
fn draw_probabilities(
    item: &Prediction,
    session: &SessionView,
    theme: Theme,
    area: Rect,
    buf: &mut Buffer,
) {
    let name = 10u16;
    let bar = area.width.saturating_sub(name + 9).min(50);
    for (class, p) in item.probabilities.iter().enumerate() {
        let y = area.y + class as u16;
        if y >= area.bottom() {
            break;
        }
        let truth = class == usize::from(item.truth);
        let called = class == usize::from(item.predicted);
        let style = match (truth, called) {
            (true, _) => theme.best(),
            (false, true) => theme.wrong(),
            _ => theme.dim(),
        };
        let mark = match (truth, called) {
            (true, true) => "✓",
            (true, false) => "▸",
            (false, true) => "✗",
            _ => " ",
        };
        text(buf, area, area.x, y, mark, style);
        text(
            buf,
            area,
            area.x + 2,
            y,
            fitted(&session.class(class), name.into()),
            style,
        );
        let at = area.x + 2 + name + 1;
        if bar > 2 && at < area.right() {
            bars::draw((at, y), bar, f64::from(*p), style, theme.frame(), buf);
        }
        text(buf, area, at + bar + 1, y, format!("{p:.3}"), style);
    }
}

/// What it was called after each evaluation, newest last; in columns when there are many.
fn draw_past(item: &Prediction, session: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer) {
    const WIDTH: u16 = 27;
    if area.height < 2 || area.width < 12 || item.past.is_empty() {
        return;
    }
    text(
        buf,
        area,
        area.x,
        area.y,
        "called, after each evaluation",
        theme.dim(),
    );
    let lines = area.height - 1;
    let columns = (area.width / WIDTH).max(1);
    let fits = usize::from(lines) * usize::from(columns);
    let skipped = item.past.len().saturating_sub(fits);
    for (i, opinion) in item.past[skipped..].iter().enumerate() {
        let x = area.x + (i as u16 / lines) * WIDTH;
        let y = area.y + 1 + i as u16 % lines;
        let right = opinion.predicted == item.truth;
        let (mark, style) = if right {
            ("✓", theme.best())
        } else {
            ("✗", theme.wrong())
        };
        let step = format!("{:>8}", grouped(opinion.step));
        let after = text(buf, area, x, y, step, theme.dim());
        let name = fitted(&session.class(opinion.predicted.into()), 10);
        text(
            buf,
            area,
            after + 1,
            y,
            format!("{mark} {name:<10} {:.2}", opinion.confidence),
            style,
        );
    }
    if skipped > 0 {
        let words = format!("{skipped} earlier");
        text_right(buf, area, area.right(), area.y, &words, theme.dim());
    }
}

/// Under the line of filters.
fn grid_area(area: Rect) -> Rect {
    let inset = 1.min(area.width / 4);
    Rect::new(
        area.x + inset,
        area.y + 1,
        area.width.saturating_sub(2 * inset),
        area.height.saturating_sub(1),
    )
    .intersection(area)
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
                run.params.seed,
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

impl SamplesView {
    fn follow_or_open(&mut self) {
        if self.open.is_some() {
            self.open = None;
        } else {
            self.follow();
        }
    }
}
