//! Draws the filters and the grid of images.

use super::super::image_grid;
use super::super::query::message;
use super::{Chosen, FILTERS, SamplesAction, SamplesView};
use crate::domain::text::grouped;
use crate::tui::actions::key_of;
use crate::tui::session_view::SessionView;
use crate::tui::theme::Theme;
use crate::tui::widgets::{text, text_right};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

impl SamplesView {
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

    /// The filters and their rectangles.
    pub(super) fn tabs(&self, session: &SessionView, area: Rect) -> Vec<(Chosen, Rect, String)> {
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

    pub(super) fn draw_head(
        &self,
        session: &SessionView,
        theme: Theme,
        area: Rect,
        buf: &mut Buffer,
    ) {
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
        let whole = format!("{}  step {}  {place}", session.shown.name(), grouped(step));
        let short = format!("{}  {place}", session.shown.name());
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

    pub(super) fn draw_grid(
        &self,
        session: &SessionView,
        theme: Theme,
        area: Rect,
        buf: &mut Buffer,
    ) {
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

    /// The message if no image passes the filter.
    fn nothing(&self, session: &SessionView) -> Vec<String> {
        match self.chosen {
            Chosen::Pinned => vec![
                "No image is pinned.".into(),
                format!(
                    "{} pins the chosen image; its prediction is then recorded at each evaluation.",
                    key_of(SamplesAction::Pin)
                ),
            ],
            Chosen::Class => vec![format!(
                "No {} image is a {}.",
                session.shown.name(),
                session.class(self.class.into())
            )],
            _ => vec![format!(
                "No {} image is classified wrongly.",
                session.shown.name()
            )],
        }
    }
}

/// The area below the filters.
pub(super) fn grid_area(area: Rect) -> Rect {
    let inset = 1.min(area.width / 4);
    Rect::new(
        area.x + inset,
        area.y + 1,
        area.width.saturating_sub(2 * inset),
        area.height.saturating_sub(1),
    )
    .intersection(area)
}
