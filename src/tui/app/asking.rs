//! Actions that may ask for confirmation: to end a run or the session, or to go back.

use super::{App, Effect, UNSAVED};
use crate::session::protocol::Command;
use crate::tui::actions::{ProgramAction, key_of};
use crate::tui::overlays::Overlay;
use crate::tui::session_view::{Severity, describe};

impl App {
    pub(super) fn restart(&mut self, effects: &mut Vec<Effect>) {
        let yes = Effect::Send(Command::Restart);
        if self.session.unsaved.is_some() {
            let question = format!("{UNSAVED} Start a new run all the same?");
            effects.push(Effect::Confirm(question, Box::new(yes)));
            return;
        }
        if self.session.trainable().is_err() {
            effects.push(yes);
            return;
        }
        let pending: Vec<String> = self
            .session
            .pending
            .values()
            .map(|(change, _)| describe(change))
            .collect();
        let with = match pending.len() {
            0 => "with the same settings".to_owned(),
            _ => format!("with {}", pending.join(", ")),
        };
        effects.push(Effect::Confirm(
            format!("End this run here and start a new one {with}?"),
            Box::new(yes),
        ));
    }

    /// Asks before going back after a collapse, which loses whole epochs. A divergence loses a few steps only.
    pub(super) fn go_back(&self, effects: &mut Vec<Effect>) {
        let yes = Effect::Send(Command::GoBack);
        let collapse = self.session.health.collapse.as_ref();
        effects.push(match collapse.and_then(|c| c.best) {
            Some(epoch) => Effect::Confirm(
                format!(
                    "Go back to epoch {epoch} with a lower learning rate? What came after it is cut from this run."
                ),
                Box::new(yes),
            ),
            None => yes,
        });
    }

    pub(super) fn quit(&mut self, effects: &mut Vec<Effect>) {
        self.sweep = None;
        let unsaved = self.session.run.as_ref().is_some_and(|r| r.name.is_empty())
            && self.session.step() > 0
            && !self.session.ended;
        let asked = match &self.overlay {
            Some(Overlay::Confirm { yes, .. })
                if matches!(**yes, Effect::Quit | Effect::Send(Command::Quit)) =>
            {
                Some((**yes).clone())
            }
            _ => None,
        };
        if self.session.ended {
            effects.push(Effect::Leave);
        } else if self.session.disconnected.is_some() {
            let words = format!("not connected; {} leaves", key_of(ProgramAction::Detach));
            self.say(Severity::Warning, words);
        } else if self.quitting {
            self.say(Severity::Plain, "saving; it ends by itself".into());
        } else if let Some(yes) = asked {
            self.overlay = None;
            effects.push(yes);
        } else if self.attached {
            effects.push(Effect::Confirm(
                format!(
                    "Save and end this session, for everyone? ({} leaves and lets it train)",
                    key_of(ProgramAction::Detach)
                ),
                Box::new(Effect::Quit),
            ));
        } else if unsaved {
            effects.push(Effect::Confirm(
                "This run is not saved anywhere. Quit and lose it?".into(),
                Box::new(Effect::Quit),
            ));
        } else {
            effects.push(Effect::Quit);
        }
    }
}
