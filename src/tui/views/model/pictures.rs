//! Draws the activations of an image and the filters of the first layer.

use super::{ModelAction, ModelView};
use crate::domain::arch::Summary;
use crate::domain::report::{Activations, ModelReport, Picture, State};
use crate::domain::text::{compact, grouped};
use crate::tui::actions::{Move, ProgramAction, key_of};
use crate::tui::session_view::SessionView;
use crate::tui::theme::Theme;
use crate::tui::views::query::message;
use crate::tui::widgets::half_block::{self, Scale};
use crate::tui::widgets::{fitted, panel, text};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

impl ModelView {
    pub(super) fn draw_activations(
        &self,
        session: &SessionView,
        theme: Theme,
        area: Rect,
        buf: &mut Buffer,
    ) {
        if area.is_empty() {
            return;
        }
        let layers = self.layers(session);
        let item = self.picture.predictions().and_then(|p| p.2.first());
        let found = self
            .report()
            .filter(|_| self.runs(session, &layers))
            .and_then(|r| activations_at(r, &layers, self.selected));
        let title = Line::from(vec![
            Span::styled("activations  ", theme.text()),
            Span::styled(
                found.map_or("", |a| a.name.as_str()).to_owned(),
                theme.accent(),
            ),
        ]);
        let of = match item {
            Some(item) => format!("{}, {}", self.image, session.class(item.truth.into())),
            None => format!("{} {}", session.shown.name(), self.image),
        };
        let inner = panel(
            buf,
            area,
            theme.frame(),
            &title,
            &Line::from(Span::styled(of, theme.dim())),
        );
        let Some(found) = found else {
            return message(&self.no_activations(session, &layers), theme, inner, buf);
        };
        // Draw the image before its maps, if that leaves them most of the room.
        let width = 16.min(inner.width / 3 / 2 * 2);
        let mut maps = inner;
        let aside = width >= 8;
        let note = |row: u16, words: &str, buf: &mut Buffer| {
            if aside {
                let y = inner.y + width / 2 + row;
                text(
                    buf,
                    inner,
                    inner.x,
                    y,
                    fitted(words, width.into()),
                    theme.dim(),
                );
            }
        };
        if aside {
            if let Some(item) = item {
                let image = Rect::new(inner.x, inner.y, width, width / 2);
                half_block::draw(&item.picture, Scale::Smooth, theme, image, buf);
            }
            maps.x += width + 1;
            maps.width -= width + 1;
        }
        note(
            0,
            &format!("white {}", compact(f64::from(found.largest), 2)),
            buf,
        );
        if found.height == 1 && found.width == 1 {
            // A vector: one square with all units.
            let units: Vec<u8> = found
                .maps
                .iter()
                .filter_map(|m| m.first().copied())
                .collect();
            let side = (units.len() as f64).sqrt().ceil() as u32;
            let mut levels = units;
            levels.resize((side * side) as usize, 0);
            let (w, h) = half_block::fit(maps.width.min(side as u16 * 2), maps.height);
            let place = Rect::new(maps.x, maps.y, w, h);
            half_block::draw(&grey(side, &levels), Scale::Pixels, theme, place, buf);
            return;
        }
        let pictures: Vec<Picture> = found
            .maps
            .iter()
            .filter(|_| found.height == found.width)
            .map(|map| grey(found.height, map))
            .collect();
        let side = found.height as u16;
        let grid = MapGrid::of(pictures.len(), side, Scale::Smooth, side.min(16), maps);
        grid.draw(&pictures, Scale::Smooth, theme, maps, buf);
        let words = format!("{} maps", count_words(grid.fits, pictures.len()));
        note(1, &words, buf);
    }

    pub(super) fn no_activations(&self, session: &SessionView, layers: &[Summary]) -> Vec<String> {
        if let Some(why) = self.report.failure() {
            return vec![
                "The network could not be looked into:".into(),
                why.to_owned(),
            ];
        }
        if session.run.is_none() {
            return match &session.state {
                State::Failed { why } => vec!["No network runs.".into(), why.clone()],
                _ => vec!["The network is looked into once the run begins.".into()],
            };
        }
        if !self.runs(session, layers) {
            return vec![
                "This network does not run yet.".into(),
                format!(
                    "When applied, it is pending; {} starts the next run.",
                    key_of(ProgramAction::Restart)
                ),
            ];
        }
        match self.report() {
            Some(_) => vec![
                "This layer keeps no activations of its own.".into(),
                format!(
                    "{} and {} choose another.",
                    key_of(ModelAction::Choose(Move::Up)),
                    key_of(ModelAction::Choose(Move::Down))
                ),
            ],
            None => vec!["Looking into the network.".into()],
        }
    }

    pub(super) fn draw_filters(
        &self,
        session: &SessionView,
        theme: Theme,
        area: Rect,
        buf: &mut Buffer,
    ) {
        if area.is_empty() {
            return;
        }
        let filters = self.report().map_or(&[][..], |r| &r.filters);
        let side = filters.first().map_or(1, |f| f.side as u16);
        // The area within the frame.
        let within = Rect::new(
            area.x + 1,
            area.y + 1,
            area.width.saturating_sub(2),
            area.height.saturating_sub(2),
        );
        let grid = MapGrid::of(filters.len(), side, Scale::Pixels, 4 * side, within);
        let size = match filters.len() {
            0 => String::new(),
            n => format!("{side}x{side}, {}", count_words(grid.fits, n)),
        };
        let right = self
            .report()
            .map_or(String::new(), |r| format!("step {}", grouped(r.step)));
        let title = Line::from(vec![
            Span::styled("first-layer filters  ", theme.text()),
            Span::styled(size, theme.accent()),
        ]);
        let inner = panel(
            buf,
            area,
            theme.frame(),
            &title,
            &Line::from(Span::styled(right, theme.dim())),
        );
        if filters.is_empty() {
            let lines = match (self.report(), self.report.failure()) {
                (Some(_), _) => {
                    vec![
                        "The first layer is not a convolution: there are no filters to draw."
                            .into(),
                    ]
                }
                (None, Some(why)) => vec![
                    "The network could not be looked into:".into(),
                    why.to_owned(),
                ],
                (None, None) if session.run.is_some() => vec!["Looking into the network.".into()],
                (None, None) => vec!["They are drawn once the run begins.".into()],
            };
            return message(&lines, theme, inner, buf);
        }
        grid.draw(filters, Scale::Pixels, theme, inner, buf);
    }
}

/// The activations of a layer, or of the nearest one above that keeps some (a layer and its ReLU are one).
fn activations_at<'a>(
    report: &'a ModelReport,
    layers: &[Summary],
    selected: usize,
) -> Option<&'a Activations> {
    let selected = selected.min(layers.len().checked_sub(1)?);
    layers[..=selected]
        .iter()
        .rev()
        .filter(|l| !l.name.is_empty())
        .find_map(|l| report.activations.iter().find(|a| a.name == l.name))
        .or(report.activations.first())
}

/// One brightness per pixel, as an image.
fn grey(side: u32, levels: &[u8]) -> Picture {
    Picture {
        side,
        rgb: levels.iter().flat_map(|v| [*v; 3]).collect(),
    }
}

/// Small images in a grid, as large as all of them fit, at most `largest` columns each.
struct MapGrid {
    width: u16,
    across: u16,
    /// Number of images that fit.
    fits: usize,
}

impl MapGrid {
    fn of(count: usize, side: u16, scale: Scale, largest: u16, area: Rect) -> Self {
        let grid = |width: u16| {
            let across = (area.width + 1) / (width + 1);
            let down = (area.height + 1) / (width / 2 + 1);
            MapGrid {
                width,
                across,
                fits: usize::from(across) * usize::from(down),
            }
        };
        // A whole number of cells per pixel keeps pixels square.
        let whole = |width: &u16| scale == Scale::Smooth || width.is_multiple_of(side.max(1));
        let smallest = match scale {
            Scale::Pixels if side.is_multiple_of(2) => side,
            Scale::Pixels => 2 * side,
            Scale::Smooth => 6,
        };
        (4..=largest.max(4))
            .rev()
            .filter(|w| w.is_multiple_of(2))
            .filter(whole)
            .map(grid)
            .find(|g| g.fits >= count)
            .unwrap_or_else(|| grid(smallest.max(2)))
    }

    fn draw(&self, pictures: &[Picture], scale: Scale, theme: Theme, area: Rect, buf: &mut Buffer) {
        if self.across == 0 {
            return;
        }
        for (i, picture) in pictures.iter().take(self.fits).enumerate() {
            let place = Rect::new(
                area.x + (i as u16 % self.across) * (self.width + 1),
                area.y + (i as u16 / self.across) * (self.width / 2 + 1),
                self.width,
                self.width / 2,
            );
            half_block::draw(picture, scale, theme, place, buf);
        }
    }
}

/// `32`, or `12 of 32` when there is no room for all.
fn count_words(fits: usize, count: usize) -> String {
    if fits < count {
        format!("{fits} of {count}")
    } else {
        count.to_string()
    }
}
