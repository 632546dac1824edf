//! Steers one run of a sweep, through the socket of its session.

use crate::domain::report::State;
use crate::session::attach::{attach, find_one};
use crate::session::protocol::{Command, Event, Outcome};
use crate::session::run_dir::HostId;
use crate::session::status::Status;
use anyhow::Context;
use std::path::Path;

/// Sends the command that `choose` chooses by the state of the run `run` of the sweep in `folder`, and waits for the
/// answer.
///
/// # Errors
/// Returns an error if no session on this computer has the run, or the command is refused.
pub fn steer(
    folder: &Path,
    run: &str,
    choose: impl Fn(&State) -> Command,
) -> anyhow::Result<Command> {
    let found = find_one(folder, Some(run), &HostId::this())?;
    let client = attach(&found)?;
    let mut status = Status::default();
    // The first event is the snapshot.
    let first = client.events.recv().context("the session has ended")?;
    status.event(&first.event);
    let command = choose(&status.state);
    client.commands.send(command.clone())?;
    for message in &client.events {
        if let Event::Done(done) = message.event {
            return match done.outcome {
                Outcome::Refused(why) => Err(anyhow::anyhow!("{why}")),
                _ => Ok(command),
            };
        }
    }
    anyhow::bail!("the session of {run} has ended")
}
