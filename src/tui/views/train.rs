//! The Train screen.

use super::{Context, View};
use crate::tui::actions::Do;
use crate::tui::theme::Theme;
use crate::tui::told::Told;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

/// State of the Train screen.
#[derive(Default)]
pub struct Train {}

impl View for Train {
    fn draw(&self, _told: &Told, _theme: Theme, _area: Rect, _buf: &mut Buffer) {}

    fn act(&mut self, _does: Do, _ctx: &mut Context) {}
}
