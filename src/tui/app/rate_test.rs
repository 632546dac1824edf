//! The test of learning rates: its overlay opens with the test, and closing it ends the test.

use super::{App, Effect, Severity};
use crate::domain::params::{Value, param};
use crate::session::protocol::{Command, Done, Event, Outcome};
use crate::tui::overlays::Overlay;

impl App {
    /// Begins a test and shows it, or shows the one that is running.
    pub(super) fn test_rates(&mut self, effects: &mut Vec<Effect>) {
        let has_begun = self.session.tests_rates();
        self.overlay = Some(Overlay::RateTest { has_begun });
        if !has_begun {
            effects.push(Effect::Send(Command::FindLr { steps: None }));
        }
    }

    /// Closes the overlay, and ends the test that it shows.
    pub(super) fn close_overlay(&mut self, effects: &mut Vec<Effect>) {
        let overlay = self.overlay.take();
        if let Some(Overlay::RateTest { has_begun }) = overlay
            && (!has_begun || self.session.tests_rates())
        {
            effects.push(Effect::Send(Command::StopFindLr));
        }
    }

    /// Makes the suggestion of the shown test the learning rate.
    pub(super) fn set_tested_rate(&mut self, effects: &mut Vec<Effect>) {
        let has_begun = matches!(self.overlay, Some(Overlay::RateTest { has_begun: true }));
        let test = self.session.rate_test.as_ref().filter(|_| has_begun);
        let Some(test) = test.filter(|test| test.end.is_some()) else {
            return self.say(Severity::Plain, "the test is not over yet".into());
        };
        let row = param("learning_rate");
        let (Some(rate), Some(row)) = (test.suggestion, row) else {
            return self.say(Severity::Warning, "the test suggests no rate".into());
        };
        let value = Value::Float(rate);
        if row.get(&self.session.wanted()) == value {
            self.say(Severity::Plain, format!("{} is {rate} already", row.label));
        } else {
            effects.push(Effect::Set {
                key: row.key.into(),
                value,
            });
        }
        self.overlay = None;
    }

    /// Follows the test that the overlay shows. Closes the overlay if the test is refused, or its run is gone.
    pub(super) fn rate_test_event(&mut self, event: &Event) {
        let Some(Overlay::RateTest { has_begun }) = &mut self.overlay else {
            return;
        };
        match event {
            Event::RateTest(_) => *has_begun = true,
            Event::Done(Done {
                outcome: Outcome::Refused(_),
                ..
            }) if !*has_begun => self.overlay = None,
            Event::Snapshot { .. } if *has_begun && self.session.rate_test.is_none() => {
                self.overlay = None;
            }
            Event::Started(_) | Event::Ended { .. } => self.overlay = None,
            _ => {}
        }
    }
}
