//! Looking back: Confusion, Samples and Model show an earlier epoch, while the session goes on.

use super::{App, Effect, Severity};
use crate::session::protocol::{Answer, Event, Question};
use crate::tui::session_view::SessionView;
use crate::tui::views::Screen;

/// The message when the screens show the session as it is again.
pub(super) const NOW: &str = "back to now";

/// Whether an earlier epoch is shown.
#[derive(Debug, Default)]
pub(super) enum LookBack {
    #[default]
    None,
    /// The epoch's evaluation was asked for with this id.
    Asked(u64),
    /// The session as it was at the end of the epoch.
    Shown(Box<SessionView>),
}

impl LookBack {
    /// What a screen shows: the session as it was, or `now`.
    pub fn session_on<'a>(&'a self, screen: Screen, now: &'a SessionView) -> &'a SessionView {
        match self {
            LookBack::Shown(past) if shows_past(screen) => past,
            _ => now,
        }
    }
}

/// Whether a screen can show the past.
fn shows_past(screen: Screen) -> bool {
    matches!(screen, Screen::Confusion | Screen::Samples | Screen::Model)
}

impl App {
    /// The session as it was, while an earlier epoch is shown.
    pub fn past(&self) -> Option<&SessionView> {
        match &self.look_back {
            LookBack::Shown(past) => Some(past),
            LookBack::None | LookBack::Asked(_) => None,
        }
    }

    /// Whether the cursor of Train's curves is shown.
    pub fn reads_curves(&self) -> bool {
        self.views.reads_curves()
    }

    /// What a screen shows: the session as it was, or as it is.
    pub fn session_on(&self, screen: Screen) -> &SessionView {
        self.look_back.session_on(screen, &self.session)
    }

    /// Asks for the end of an epoch, which is shown when the answer arrives.
    pub(super) fn look_back(&mut self, epoch: u32) -> Effect {
        let id = self.ids.next();
        self.look_back = LookBack::Asked(id);
        self.say(Severity::Plain, format!("looking back at epoch {epoch}"));
        Effect::Ask {
            id,
            question: Question::Evaluation,
            epoch: Some(epoch),
        }
    }

    /// Shows the epoch that was asked for, or says why it cannot be shown. A run that begins, and the session's end, end
    /// the past.
    pub(super) fn look_back_event(&mut self, event: &Event, effects: &mut Vec<Effect>) {
        match (&self.look_back, event) {
            (LookBack::Asked(asked), Event::Answer { id, answer }) if asked == id => {
                self.look_back = LookBack::None;
                self.toast = None;
                match answer {
                    Answer::Evaluation { evaluation } => {
                        let past = self.session.as_of((**evaluation).clone());
                        self.look_back = LookBack::Shown(Box::new(past));
                        effects.push(Effect::Go(Screen::Confusion));
                    }
                    Answer::Failed { why } => self.say(Severity::Warning, why.clone()),
                    _ => {}
                }
            }
            (
                LookBack::Asked(_) | LookBack::Shown(_),
                Event::Started(_) | Event::Snapshot { .. } | Event::Ended { .. },
            ) => self.return_to_now(NOW, effects),
            _ => {}
        }
    }

    /// Another screen opens. The past ends if that screen cannot show it.
    pub(super) fn goes_to(&mut self, screen: Screen) {
        match &self.look_back {
            LookBack::Shown(_) if !shows_past(screen) => {
                self.look_back = LookBack::None;
                self.say(Severity::Plain, NOW.into());
            }
            LookBack::Asked(_) => self.look_back = LookBack::None,
            _ => {}
        }
    }

    /// Shows the session as it is on the open screen, with a message.
    pub(super) fn return_to_now(&mut self, message: &str, effects: &mut Vec<Effect>) {
        self.look_back = LookBack::None;
        self.say(Severity::Plain, message.into());
        self.with_view(self.screen, effects, |view, ctx| view.shown(ctx));
    }
}
