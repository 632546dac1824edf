//! The worker: the thread on which a session's device, network and data live.

use super::Settings;
use super::link::Tell;
use super::protocol::{Command, Event};
use crate::domain::report::State;

/// The session from its first event to `Ended`.
pub(super) fn run(settings: Settings, tell: Tell) {
    tell.event(Event::State(State::Loading {
        what: "data".into(),
        done: 0,
        total: 0,
    }));
    // A dropped link counts as a wish to quit.
    while !matches!(tell.commands.recv(), Ok(Command::Quit) | Err(_)) {}
    tell.event(Event::Ended {
        params: Box::new(settings.params),
        state: State::Stopped,
    });
}
