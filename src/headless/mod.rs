//! The front end without a screen, for pipes, logs and scripts. It uses the same commands and events as the TUI and prints
//! them. It knows the protocol, not the session behind it.

mod printer;
#[cfg(test)]
mod tests;

use crate::domain::report::State;
use crate::domain::symbols::Symbols;
use crate::domain::text::plain;
use crate::session::client::SessionClient;
use crate::session::protocol::{Command, Event};
use crate::session::status::Status;
use crossbeam_channel::{Receiver, after, bounded, never, select};
use printer::Printer;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Progress bars under the lines, on a terminal.
    Bars(Symbols),
    /// Lines only.
    Lines,
    /// One event a line, as JSON.
    Json,
    /// No output: the terminal has disappeared or was given back. The session stays for attached viewers after its run
    /// has ended. If it is paused and nobody can attach, it ends like after a hangup.
    Silent,
}

/// An event outside the session. Its sender has already told the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// This signal ends the session.
    Stopping(i32),
    /// A checkpoint was asked for.
    Saving,
    /// The terminal has disappeared, possibly with the output, and the session continues.
    HungUp { output_gone: bool },
}

/// How the output ended.
#[derive(Clone, Debug, PartialEq)]
pub struct PrintOutcome {
    pub status: Status,
    /// The signal that ended the session, if any. Also the signal that stands for a closed pipe or terminal.
    pub signal: Option<i32>,
}

/// Why a paused session without a socket ends: no viewer can attach and resume it.
const PAUSED_UNREACHABLE: &str =
    "the run is paused, and nobody can attach to it, since the session has no socket: it ends";

/// Minimum time between two step reports, of which thousands may arrive per second.
const STEP_INTERVAL: Duration = Duration::from_millis(250);

/// Interval at which a session whose run is over checks for viewers.
const VIEWER_POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Prints the events of a session that belongs to another process, from its snapshot on, until it ends or `gone` says
/// that nobody reads the output. The session does not wait for this viewer. Returns the session's status; it has not
/// ended if the connection was lost.
///
/// # Errors
/// Returns an error if the output cannot be written.
pub fn watch(
    client: &SessionClient,
    style: Style,
    gone: &Receiver<()>,
    out: &mut impl Write,
) -> io::Result<Status> {
    let mut printer = Printer::new(style);
    let mut status = Status::default();
    // Sending fails if the session has ended already. A session of an older version refuses it, which has no other
    // effect.
    let _ = client.commands.send(Command::Watch);
    let no_steps = never();
    let mut steps_closed = false;
    while !status.ended {
        let steps_ready = match steps_closed {
            true => &no_steps,
            false => &client.steps_ready,
        };
        select! {
            recv(client.events) -> message => {
                let Ok(message) = message else { break };
                // The answer to this viewer's own command.
                if matches!(message.event, Event::Done(_)) {
                    continue;
                }
                // Steps that wait behind a snapshot were made after it.
                if !message.event.is_snapshot() {
                    printer.steps(client, &mut status, out)?;
                }
                status.event(&message.event);
                printer.message(&message, out)?;
                if let Event::Unsaved { why } = &message.event {
                    printer.warn(why.as_deref());
                }
            }
            recv(steps_ready) -> token => match token {
                // The events that wait may begin with a snapshot.
                Ok(()) if !client.events.is_empty() => {}
                Ok(()) => printer.steps(client, &mut status, out)?,
                Err(_) => steps_closed = true,
            },
            recv(gone) -> _ => return Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
    printer.finish();
    Ok(status)
}

/// A channel that receives a token when the reader of standard output has closed it.
///
/// # Errors
/// Returns an error if the system cannot start a thread.
pub fn on_closed_output() -> io::Result<Receiver<()>> {
    let (closed, gone) = bounded(1);
    std::thread::Builder::new()
        .name("output".into())
        .spawn(move || {
            let mut fds = libc::pollfd {
                fd: libc::STDOUT_FILENO,
                events: 0,
                revents: 0,
            };
            // SAFETY: `fds` is one valid pollfd during the call.
            while unsafe { libc::poll(&raw mut fds, 1, -1) } < 0 {}
            // Without a receiver, nobody waits for it.
            let _ = closed.send(());
        })?;
    Ok(gone)
}

/// Prints the events of a session with status `status` until it ends. Asks the session to quit when its run has ended,
/// or when the reader of the output has closed it. Calls `hangup` when the output's terminal has disappeared; it
/// returns whether the session continues without output.
pub fn run(
    client: &SessionClient,
    style: Style,
    status: Status,
    notices: &Receiver<Notice>,
    hangup: &mut dyn FnMut() -> bool,
    out: &mut impl Write,
) -> PrintOutcome {
    let mut printer = Printer::new(style);
    let mut outcome = PrintOutcome {
        status,
        signal: None,
    };
    let mut quitting = false;
    let mut gives_up = false;
    // Without a terminal, the session stays for attached viewers after its run has ended.
    let mut stays = style == Style::Silent;
    // Some until the next step report may be printed.
    let mut rest: Option<Receiver<Instant>> = None;
    let mut steps_closed = false;
    let (no_steps, idle, nothing) = (never(), never(), never());
    let mut notices = notices;
    loop {
        let over = outcome.status.state.is_over();
        let nothing_to_do = over && (!stays || client.is_alone());
        let paused_unreachable = outcome.status.state == State::Paused && client.is_unreachable();
        if !quitting && (nothing_to_do || paused_unreachable) {
            quitting = true;
            if paused_unreachable {
                gives_up = true;
                tracing::warn!("{PAUSED_UNREACHABLE}");
            }
            // Sending fails if the session has ended already.
            let _ = client.commands.send(Command::Quit);
        }
        let steps_ready = match rest.is_some() || steps_closed {
            true => &no_steps,
            false => &client.steps_ready,
        };
        let look = match over && !quitting {
            true => after(VIEWER_POLL_INTERVAL),
            false => never(),
        };
        let mut written = Ok(());
        select! {
            recv(client.events) -> message => {
                let Ok(message) = message else { break };
                let event = &message.event;
                // Print steps made before the event first.
                written = printer.steps(client, &mut outcome.status, out);
                outcome.status.event(event);
                // Step reports among the other events are the past of a resumed run, which metrics.jsonl contains.
                if !matches!(event, Event::Steps(_)) {
                    written = written.and_then(|()| printer.message(&message, out));
                }
                if let Event::Unsaved { why } = event {
                    printer.warn(why.as_deref());
                }
                if outcome.status.ended {
                    break;
                }
            }
            recv(steps_ready) -> token => match token {
                Ok(()) => {
                    written = printer.steps(client, &mut outcome.status, out);
                    rest = Some(after(STEP_INTERVAL));
                }
                Err(_) => steps_closed = true,
            },
            recv(rest.as_ref().unwrap_or(&idle)) -> _ => rest = None,
            recv(look) -> _ => {}
            recv(notices) -> notice => match notice {
                Ok(Notice::Stopping(signal)) => {
                    if outcome.signal.is_none() {
                        outcome.signal = Some(signal);
                        // There is nothing to write before a run has begun.
                        let words = match outcome.status.run.is_empty() {
                            true => "stopping",
                            false => "stopping: writing a checkpoint",
                        };
                        written = printer.line(out, words);
                    }
                }
                Ok(Notice::Saving) => written = printer.line(out, "writing a checkpoint"),
                Ok(Notice::HungUp { output_gone }) => {
                    stays = true;
                    if output_gone {
                        printer = Printer::Silent;
                    }
                }
                Err(_) => notices = &nothing,
            }
        }
        if let Err(error) = written {
            printer.finish();
            printer = Printer::Silent;
            let terminal_gone = error.raw_os_error() == Some(libc::EIO);
            let (goes_on, signal) = match terminal_gone {
                true => (hangup(), libc::SIGHUP),
                // A reader that disappeared with the terminal must not end a session that survived the terminal.
                false => (stays, libc::SIGPIPE),
            };
            stays = goes_on;
            if !goes_on {
                outcome.signal.get_or_insert(signal);
                quitting = true;
                // Sending fails if the session has ended.
                let _ = client.commands.send(Command::Quit);
            }
        }
    }
    if !outcome.status.ended {
        outcome.status.state = State::Failed {
            why: "the training thread ended unexpectedly; see the run's log.txt".into(),
        };
    }
    printer.finish();
    if gives_up && outcome.signal.is_none() {
        // After a hangup, the session has no front end and ends like that. Otherwise it is an error.
        match stays {
            true => outcome.signal = Some(libc::SIGHUP),
            false => {
                outcome.status.state = State::Failed {
                    why: PAUSED_UNREACHABLE.into(),
                }
            }
        }
    }
    if !outcome.status.is_complete()
        && let Some(words) = outcome.status.resume_hint("cifar-tui train")
    {
        // The session is over; a closed output can be ignored.
        let _ = printer.line(out, &format!("run      {}", plain(&words)));
    }
    outcome
}
