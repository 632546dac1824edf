//! Steers one run of a sweep, through the socket of its session or, on another computer, through files.

use crate::domain::report::State;
use crate::session::attach::{attach, find_one};
use crate::session::command_files::{CommandFileSender, FileRequest, FiledCommand};
use crate::session::protocol::{Command, CommandMessage, Event, Outcome};
use crate::session::run_dir::HostId;
use crate::session::status::Status;
use anyhow::Context;
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

/// Time limit for an answer from another computer.
const FILE_TIMEOUT: Duration = Duration::from_secs(60);

/// Sends the command that `choose` chooses by the state of the run `run` of the sweep in `folder`, and waits for the
/// answer.
///
/// # Errors
/// Returns an error if no session can be reached that has the run, or the command is refused.
pub fn steer(
    folder: &Path,
    run: &str,
    choose: impl Fn(&State) -> Command,
) -> anyhow::Result<Command> {
    let host = HostId::this();
    let found = match find_one(folder, Some(run), &host) {
        Ok(found) => found,
        Err(error) => {
            let session = error.unreachable();
            return match session.and_then(|session| CommandFileSender::to(session, &host)) {
                Some(files) => steer_through(files, choose),
                None => Err(error.into()),
            };
        }
    };
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

/// Steers a run of another computer.
///
/// # Errors
/// Returns an error if there is no answer in time, or the command is refused.
fn steer_through(
    mut files: CommandFileSender,
    choose: impl Fn(&State) -> Command,
) -> anyhow::Result<Command> {
    let mut ask = |request| {
        let limit = (Instant::now() + FILE_TIMEOUT, FILE_TIMEOUT);
        let key = files
            .send(&request)
            .context("cannot write a command into its folder")?;
        let answer = files.wait(&key, Some(limit))?;
        match answer.get("refused").and_then(Value::as_str) {
            Some(why) => Err(anyhow::anyhow!("{why}")),
            None => Ok(answer),
        }
    };
    let status = ask(FileRequest::Status)?;
    let state = serde_json::from_value(status["state"].clone())?;
    let command = choose(&state);
    ask(FileRequest::Command(FiledCommand {
        message: CommandMessage::new(1, command.clone()),
        wait: false,
    }))?;
    Ok(command)
}
