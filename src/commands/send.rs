//! `send`: sends commands to a running session and prints the answer to each as a line of JSON.

use super::json as write_json;
use crate::cli::Sending;
use crate::config::Config;
use crate::domain::text::plain;
use crate::session::attach;
use crate::session::client::SessionClient;
use crate::session::command_files::{CommandFileSender, FileRequest, FiledCommand};
use crate::session::protocol::{CommandMessage, Event, Outcome, TypedRequest, Until};
use crate::session::run_dir::HostId;
use crate::session::sent::{NoAnswer, Sent, SnapshotView};
use crate::session::status::Status;
use anyhow::Context;
use crossbeam_channel::RecvTimeoutError;
use std::io::Write;
use std::time::{Duration, Instant};

/// Sends the commands and prints the answers, through the session's socket or, if this computer cannot reach it, through
/// files in the run's folder. Returns whether all commands were accepted and, with `wait`, have taken
/// effect.
///
/// # Errors
/// Returns an error if no session can be reached ([`attach::AttachError`]), or it does not answer ([`NoAnswer`]).
pub fn run(sending: &Sending, config: &Config, out: &mut impl Write) -> anyhow::Result<bool> {
    let deadline = sending.timeout.map(|timeout| Instant::now() + timeout);
    let named = sending.run.as_deref();
    let host = HostId::this();
    let session = match attach::find_one(&config.runs, named, &host) {
        Ok(session) => session,
        Err(error) => {
            let session = error.unreachable().filter(|_| named.is_some());
            return match session.and_then(|session| CommandFileSender::to(session, &host)) {
                Some(files) => through_files(sending, files, out),
                None => Err(error.into()),
            };
        }
    };
    let client = match sending.timeout {
        Some(limit) => attach::attach_within(&session, limit)?,
        None => attach::attach(&session)?,
    };
    let mut events = Events {
        client: &client,
        run: &session.name,
        deadline,
        timeout: sending.timeout.unwrap_or_default(),
    };
    let snapshot = events.next()?;
    let (commands, until) = match &sending.request {
        TypedRequest::Status => {
            write_json(&SnapshotView::of(&snapshot).answer(), out)?;
            return Ok(true);
        }
        TypedRequest::Send { commands, until } => (commands, *until),
    };
    let until = if sending.wait { until } else { Until::Answered };
    let mut status = Status::default();
    status.event(&snapshot);
    let mut open = Vec::new();
    for command in commands {
        let message = CommandMessage {
            run: named.map(|_| session.name.clone()),
            ..CommandMessage::new(client.commands.ids().next(), command.clone())
        };
        open.push(Sent::new(message.id, command.clone(), until));
        if client.commands.send_message(message).is_err() {
            return Err(events.ended().into());
        }
    }
    let mut taken = true;
    for at in 0..open.len() {
        while !open[at].is_complete {
            let event = match events.next() {
                Err(NoAnswer::Ended { .. }) if open[at].ends_with_the_session() => break,
                event => event?,
            };
            status.event(&event);
            open.iter_mut().for_each(|sent| sent.event(&event, &status));
        }
        taken &= !matches!(open[at].outcome, Outcome::Refused(_));
        write_json(&open[at].answer(&session.name), out)?;
        out.flush()?;
    }
    Ok(taken)
}

/// Sends the commands as files.
///
/// # Errors
/// Returns an error if a file cannot be written, or there is no answer.
fn through_files(
    sending: &Sending,
    mut files: CommandFileSender,
    out: &mut impl Write,
) -> anyhow::Result<bool> {
    let limit = (sending.timeout).map(|timeout| (Instant::now() + timeout, timeout));
    let requests = match &sending.request {
        TypedRequest::Status => vec![FileRequest::Status],
        TypedRequest::Send { commands, .. } => (1..)
            .zip(commands)
            .map(|(id, command)| {
                FileRequest::Command(FiledCommand {
                    message: CommandMessage {
                        run: Some(files.run()),
                        ..CommandMessage::new(id, command.clone())
                    },
                    wait: sending.wait,
                })
            })
            .collect(),
    };
    let sent = requests.iter().map(|request| files.send(request));
    let keys: Vec<String> = (sent.collect::<Result<_, _>>())
        .with_context(|| format!("cannot write a command into the folder of {}", files.run()))?;
    let mut taken = true;
    for key in keys {
        let answer = files.wait(&key, limit)?;
        taken &= answer.get("refused").is_none();
        write_json(&answer, out)?;
        out.flush()?;
    }
    Ok(taken)
}

/// The session's events.
struct Events<'a> {
    client: &'a SessionClient,
    run: &'a str,
    deadline: Option<Instant>,
    timeout: Duration,
}

impl Events<'_> {
    /// Waits for the next event. Reports of steps are not among them.
    fn next(&mut self) -> Result<Event, NoAnswer> {
        let next = match self.deadline {
            Some(deadline) => self.client.events.recv_deadline(deadline),
            None => (self.client.events.recv()).map_err(|_| RecvTimeoutError::Disconnected),
        };
        match next {
            Ok(message) => Ok(message.event),
            Err(RecvTimeoutError::Disconnected) => Err(self.ended()),
            Err(RecvTimeoutError::Timeout) => Err(NoAnswer::TimedOut {
                run: plain(self.run).into_owned(),
                seconds: self.timeout.as_secs_f64(),
            }),
        }
    }

    fn ended(&self) -> NoAnswer {
        NoAnswer::Ended {
            run: plain(self.run).into_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
