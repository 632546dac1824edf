//! The Model screen: the architecture as text that is checked while it is edited, its layers and their costs, and the
//! state of the running network: first-layer filters, activations of an image, norms, dead units.

mod editor;
mod layers;
mod pictures;
mod rates;

use super::query::{Query, QueryKey};
use super::{Context, View};
use crate::domain::report::ModelReport;
use crate::session::protocol::{Answer, Event, Filter, Question};
use crate::tui::actions::{Move, key_of};
use crate::tui::session_view::SessionView;
use crate::tui::theme::Theme;
use crate::tui::widgets::list;
use crate::tui::widgets::text_field::TextField;
use crossterm::event::{KeyCode, KeyEvent, MouseButton, MouseEvent, MouseEventKind};
use editor::next_recipe;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use rates::next_factor;

/// Actions of the Model screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelAction {
    Edit,
    Presets,
    Recipe,
    Back,
    /// Choose a layer.
    Choose(Move),
    /// Switches between activations and filters.
    OtherPictures,
    NextImage,
    PreviousImage,
    /// Freezes the chosen layer, or no longer.
    Freeze,
    /// Halve or double the factor on the chosen layer's learning rate.
    Slower,
    Faster,
    /// Gives the chosen layer fresh weights.
    Reset,
    Fork,
}

/// Seconds of training between two reports while the screen is open; each costs a forward pass.
const REFRESH_SECONDS: f64 = 5.0;

/// State of the Model screen.
#[derive(Debug, Default)]
pub struct ModelView {
    /// The text being edited.
    draft: Option<TextField>,
    /// Chosen layer.
    selected: usize,
    /// The image whose activations are shown: its index in the shown split.
    image: u32,
    /// Show the filters instead of the activations, if there is no room for both.
    filters: bool,
    report: Query,
    /// The image itself.
    picture: Query,
}

/// The rectangles of the parts.
struct ModelLayout {
    text: Rect,
    layers: Rect,
    activations: Rect,
    filters: Rect,
}

impl ModelLayout {
    fn of(area: Rect, lines: u16, filters: bool) -> Self {
        let none = Rect::new(area.x, area.y, 0, 0);
        let top = (lines + 2).min((area.height / 2).max(4)).min(area.height);
        let rest = Rect::new(area.x, area.y + top, area.width, area.height - top);
        let side = if rest.width >= 76 {
            (rest.width * 2 / 5).clamp(32, 90)
        } else {
            0
        };
        let layers = Rect::new(rest.x, rest.y, rest.width - side, rest.height);
        let right = Rect::new(rest.x + rest.width - side, rest.y, side, rest.height);
        let (activations, below) = if right.height >= 24 {
            let share = right.height * 3 / 5;
            (
                Rect::new(right.x, right.y, right.width, share),
                Rect::new(right.x, right.y + share, right.width, right.height - share),
            )
        } else if filters {
            (none, right)
        } else {
            (right, none)
        };
        ModelLayout {
            text: Rect::new(area.x, area.y, area.width, top),
            layers,
            activations,
            filters: below,
        }
    }
}

impl ModelView {
    /// Returns the reason if an action is unavailable now.
    pub fn enabled(
        &self,
        does: ModelAction,
        session: &SessionView,
        area: Rect,
    ) -> Result<(), String> {
        use ModelAction::*;
        let layout = self.layout(session, area);
        let (activations, filters) = (!layout.activations.is_empty(), !layout.filters.is_empty());
        match does {
            Edit | Presets | Recipe if session.ended => Err("the session is over".into()),
            Back => Err("nothing was typed".into()),
            Fork => session.is_past(),
            Freeze | Slower | Faster | Reset => self.chosen_to_train(session).map(drop),
            OtherPictures | NextImage | PreviousImage if !activations && !filters => {
                Err("there is no room for pictures beside the layers".into())
            }
            OtherPictures if activations && filters => {
                Err("activations and filters are both on the screen".into())
            }
            NextImage | PreviousImage if images(session) == 0 => Err("no run has begun".into()),
            NextImage | PreviousImage if !activations => Err(format!(
                "the activations are not on the screen; {} turns to them",
                key_of(OtherPictures)
            )),
            Edit | Presets | Recipe | Choose(_) | OtherPictures | NextImage | PreviousImage => {
                Ok(())
            }
        }
    }

    pub fn act(&mut self, does: ModelAction, ctx: &mut Context) {
        use ModelAction::*;
        let half = usize::from(ctx.area.height / 2);
        match does {
            Edit => self.draft = Some(TextField::new(&self.text(ctx.session))),
            Presets => self.next_preset(ctx.session),
            Recipe => next_recipe(ctx),
            // While a text is edited, `typed` handles this key.
            Back => {}
            Choose(step) => self.select(step.by(1, half), ctx.session),
            OtherPictures => self.filters = !self.filters,
            NextImage => self.image = (self.image + 1) % images(ctx.session).max(1),
            PreviousImage => {
                let n = images(ctx.session).max(1);
                self.image = (self.image % n + n - 1) % n;
            }
            Freeze => self.set_rate(ctx, |factor| if factor == 0.0 { 1.0 } else { 0.0 }),
            Slower => self.set_rate(ctx, |factor| next_factor(factor, false)),
            Faster => self.set_rate(ctx, |factor| next_factor(factor, true)),
            Reset => self.reset(ctx),
            Fork => ctx.fork_past(),
        }
        self.refresh(ctx);
    }

    fn refresh(&mut self, ctx: &mut Context) {
        if !ctx.visible || ctx.session.run.is_none() {
            return;
        }
        let images = images(ctx.session);
        self.image = self.image.min(images.saturating_sub(1));
        let question = Question::Model {
            activations_of: (images > 0).then_some(self.image),
        };
        let at = format!("{:.0}", (ctx.session.elapsed() / REFRESH_SECONDS).floor());
        // Do not ask again before the answer has arrived.
        if !self.report.is_waiting() || self.report.is_about_other(&question, ctx.session) {
            self.report
                .want(question, QueryKey::and(ctx.session, &at), ctx);
        }
        if let Some(key) = QueryKey::evaluation(ctx.session) {
            let filter = Filter::Pinned {
                indices: vec![self.image],
            };
            let question = Question::Samples {
                filter,
                offset: 0,
                count: 1,
            };
            self.picture.want(question, key, ctx);
        }
    }

    fn report(&self) -> Option<&ModelReport> {
        match self.report.answer() {
            Some(Answer::Model(report)) => Some(report),
            _ => None,
        }
    }

    fn layout(&self, session: &SessionView, area: Rect) -> ModelLayout {
        ModelLayout::of(area, self.text_lines(session, area.width), self.filters)
    }
}

/// Number of images in the shown split.
fn images(session: &SessionView) -> u32 {
    use crate::domain::report::Split;
    session.run.as_ref().map_or(0, |r| match session.shown {
        Split::Train => r.train,
        Split::Validation => r.validation,
        Split::Test => r.test,
    })
}

impl View for ModelView {
    fn draw(&self, session: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer) {
        let area = area.intersection(buf.area);
        if area.is_empty() {
            return;
        }
        let layout = self.layout(session, area);
        self.draw_text(session, theme, layout.text, buf);
        self.draw_layers(session, theme, layout.layers, buf);
        self.draw_activations(session, theme, layout.activations, buf);
        self.draw_filters(session, theme, layout.filters, buf);
    }

    fn shown(&mut self, ctx: &mut Context) {
        self.refresh(ctx);
    }

    fn event(&mut self, event: &Event, ctx: &mut Context) {
        if matches!(event, Event::Started(_)) {
            self.report.clear();
            self.picture.clear();
        }
        if matches!(event, Event::LayerReset(_)) {
            self.report.invalidate();
        }
        let _ = self.report.take(event) || self.picture.take(event);
        self.refresh(ctx);
    }

    fn mouse(&mut self, mouse: MouseEvent, ctx: &mut Context) {
        let layout = self.layout(ctx.session, ctx.area);
        let here = (mouse.column, mouse.row).into();
        match mouse.kind {
            MouseEventKind::ScrollDown => self.select(1, ctx.session),
            MouseEventKind::ScrollUp => self.select(-1, ctx.session),
            MouseEventKind::Down(MouseButton::Left)
                if layout.text.contains(here) && self.draft.is_none() =>
            {
                if ctx.session.ended || ctx.session.as_of.is_some() {
                    return;
                }
                self.draft = Some(TextField::new(&self.text(ctx.session)));
            }
            MouseEventKind::Down(MouseButton::Left) if layout.layers.contains(here) => {
                let line = usize::from(mouse.row.saturating_sub(layout.layers.y + 2));
                let count = self.layers(ctx.session).len();
                let lines = usize::from(layout.layers.height.saturating_sub(3)).max(1);
                let selected = self.selected.min(count.saturating_sub(1));
                let first = list::first_row(selected, count, lines);
                self.selected = (first + line).min(count.saturating_sub(1));
            }
            _ => {}
        }
        self.refresh(ctx);
    }

    fn editing(&self) -> bool {
        self.draft.is_some()
    }

    fn typed(&mut self, key: KeyEvent, ctx: &mut Context) {
        use crossterm::event::KeyModifiers;
        let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Esc => self.draft = None,
            KeyCode::Enter => self.apply(ctx),
            KeyCode::Char('n') if ctrl => self.next_preset(ctx.session),
            _ => {
                if let Some(field) = &mut self.draft {
                    field.key(&key);
                }
            }
        }
    }

    fn paste(&mut self, text: &str, _ctx: &mut Context) {
        if let Some(field) = &mut self.draft {
            field.insert(text);
        }
    }
}
