//! The queued commands, and the command that the worker is carrying out.

use crate::domain::report::State;
use crate::session::client::{Address, EventSender, ReceivedCommand};
use crate::session::protocol::{Command, Outcome};
use std::collections::VecDeque;

/// Commands of a session. Each is answered once: by [`Inbox::answer`], by [`Inbox::open`] of the next command, or at
/// the end of the session.
#[derive(Default)]
pub(crate) struct Inbox {
    /// Commands that arrived before there was a run.
    queued: VecDeque<ReceivedCommand>,
    /// Address of the command that is being carried out.
    open: Option<Address>,
}

impl Inbox {
    /// Handles a command that arrives before there is a run. Returns true if it ends the session; queues every other
    /// command.
    pub fn queue_unless_quit(&mut self, request: ReceivedCommand, sender: &EventSender) -> bool {
        let message = &request.message;
        let quits = matches!(message.command, Command::Quit | Command::SaveAndQuit);
        if quits && message.run.is_none() {
            self.open(&request, sender);
            self.answer(Outcome::AppliedAt(0), sender);
            return true;
        }
        self.queued.push_back(request);
        false
    }

    /// Takes the next queued command.
    pub fn next_queued(&mut self) -> Option<ReceivedCommand> {
        self.queued.pop_front()
    }

    /// Records that a command is being carried out.
    pub fn open(&mut self, request: &ReceivedCommand, sender: &EventSender) {
        self.answer(
            Outcome::Refused("another command replaced it".into()),
            sender,
        );
        self.open = Some(request.address());
    }

    /// Answers the command that is being carried out, if there is one.
    pub fn answer(&mut self, outcome: Outcome, sender: &EventSender) {
        if let Some(address) = self.open.take() {
            if let Outcome::Refused(why) = &outcome {
                tracing::info!("a command was refused: {why}");
            }
            sender.done(address, outcome);
        }
    }

    /// Answers all remaining commands at the session's end, which it reached in the state `state`: `quit` is applied,
    /// every other command is refused.
    pub fn close(&mut self, state: &State, sender: &EventSender) {
        let refused = || {
            let why = match state {
                State::Failed { why } => format!("the session has failed: {why}"),
                _ => "the session has ended; `cifar-tui --resume` resumes its run".into(),
            };
            Outcome::Refused(why)
        };
        self.answer(refused(), sender);
        for request in self.queued.drain(..).chain(sender.requests.try_iter()) {
            let outcome = match request.message.command {
                Command::Quit => Outcome::AppliedAt(0),
                _ => refused(),
            };
            sender.done(request.address(), outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::client::channel;
    use crate::session::protocol::Event;

    #[test]
    fn a_quit_that_comes_after_a_failure_is_fulfilled_and_other_commands_are_refused() {
        let (client, sender) = channel();
        client.commands.send(Command::Pause).unwrap();
        client.commands.send(Command::Quit).unwrap();
        let why = "the disk is full".to_owned();
        Inbox::default().close(&State::Failed { why }, &sender);
        drop(sender);
        let outcomes: Vec<Outcome> = client
            .events
            .iter()
            .filter_map(|message| match message.event {
                Event::Done(done) => Some(done.outcome),
                _ => None,
            })
            .collect();
        assert_eq!(
            outcomes,
            [
                Outcome::Refused("the session has failed: the disk is full".into()),
                Outcome::AppliedAt(0)
            ]
        );
    }
}
