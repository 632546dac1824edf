//! Why a session on another computer cannot be attached to, in words.

use super::Destination;
use crate::domain::text::{command_line, plain};
use crate::exits::{NO_SESSION, TIMED_OUT, USAGE};
use crate::session::protocol::{self, Event, EventMessage};
use std::io;

/// The exit code of a shell that finds no such program, and the one of ssh for its own errors.
const NOT_FOUND: i32 = 127;
const SSH_FAILED: i32 = 255;
/// Words of ssh's errors that an attempt without questions to the user cannot get past.
const LASTING: [&str; 3] = [
    "Permission denied",
    "Host key verification failed",
    "Too many authentication failures",
];

/// Why a session on another computer cannot be attached to.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("cannot start '{program}': {source}. --ssh names another client.")]
    Start { program: String, source: io::Error },
    #[error(
        "no connection to {host}: {said}\n`{check}` must work first. --ssh COMMAND names another client or other options."
    )]
    Ssh {
        host: String,
        said: String,
        check: String,
    },
    #[error(
        "{host} has no cifar-tui in the PATH of commands over ssh ({said}). Install it there, or link to it from a folder of that PATH, which `{show}` prints."
    )]
    NoProgram {
        host: String,
        said: String,
        show: String,
    },
    #[error(
        "the cifar-tui on {host} is older and has no `attach --pipe`. Install this version there, or use `{instead}`, which draws over there."
    )]
    Older { host: String, instead: String },
    #[error(
        "the session on {host} speaks {} of the protocol, and this cifar-tui {}. Use the version of cifar-tui that started the session.",
        protocol::version(*v), protocol::version(Some(protocol::VERSION))
    )]
    Version { host: String, v: Option<u64> },
    /// The words and the exit code of `attach --pipe`.
    #[error("on {host}: {said}")]
    Session {
        host: String,
        said: String,
        code: u8,
    },
    #[error("the session on {host} takes no viewer: {why}")]
    Refused { host: String, why: String },
    #[error(
        "{host} answers with other lines than those of a session, such as '{line}'; does a startup file of its shell print them?"
    )]
    Foreign { host: String, line: String },
    #[error("{host} has not answered within {seconds} s")]
    Silent { host: String, seconds: u64 },
    #[error("no connection to {host}: '{program}' has ended{how}. {said}")]
    Ended {
        host: String,
        program: String,
        how: String,
        said: String,
    },
}

impl RemoteError {
    /// The error of a program that ended with exit code `code` (None: by a signal) and these last words, before the
    /// session's first message.
    pub(super) fn ended(
        to: &Destination,
        run: Option<&str>,
        code: Option<i32>,
        said: &str,
    ) -> Self {
        let host = to.host.clone();
        let said = said.to_owned();
        let over_there = |command: &str, options: &[&str]| {
            let ssh = match &to.ssh {
                Some(_) => to.ssh(),
                None => vec![to.program()],
            };
            let words = [&ssh, options, &["--", &host, command]].concat();
            command_line(&words)
        };
        // Of the output, the part that `attach --pipe` wrote.
        let error = said.rfind("error: ").map(|at| said[at + 7..].to_owned());
        match (code, error) {
            (Some(SSH_FAILED), _) => RemoteError::Ssh {
                check: over_there("true", &[]),
                said: match said.is_empty() {
                    true => format!("{} gives no reason", to.program()),
                    false => said,
                },
                host,
            },
            (Some(NOT_FOUND), _) => RemoteError::NoProgram {
                show: over_there("echo $PATH", &[]),
                said,
                host,
            },
            (Some(code), Some(error)) if code == i32::from(USAGE) && error.contains("'--pipe'") => {
                let run: Vec<&str> = run.into_iter().collect();
                let attach = command_line(&[&["cifar-tui", "attach"][..], &run].concat());
                RemoteError::Older {
                    instead: over_there(&attach, &["-t"]),
                    host,
                }
            }
            (Some(code), Some(said)) => RemoteError::Session {
                host,
                said,
                code: match u8::try_from(code) {
                    Ok(TIMED_OUT) => TIMED_OUT,
                    _ => NO_SESSION,
                },
            },
            (code, None) => RemoteError::Ended {
                program: to.program().into(),
                how: match code {
                    Some(code) => format!(" with exit code {code}"),
                    None => " by a signal".into(),
                },
                said,
                host,
            },
            (None, Some(said)) => RemoteError::Ended {
                program: to.program().into(),
                how: " by a signal".into(),
                said,
                host,
            },
        }
    }

    /// The error of a session whose first message is this one.
    pub(super) fn refused(to: &Destination, event: Event) -> Self {
        let why = match event {
            // The session says why it takes no viewer.
            Event::Warning { text } => text,
            other => return RemoteError::foreign(to, &first_line(&other)),
        };
        RemoteError::Refused {
            host: to.host.clone(),
            why,
        }
    }

    /// The error of a host that writes this line instead of a message.
    pub(super) fn foreign(to: &Destination, line: &[u8]) -> Self {
        let line = String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
        RemoteError::Foreign {
            host: to.host.clone(),
            line: plain(line.trim_end()).into_owned(),
        }
    }

    /// Whether further attempts would end with the same error.
    pub(super) fn is_lasting(&self) -> bool {
        match self {
            RemoteError::Ssh { said, .. } => LASTING.iter().any(|words| said.contains(words)),
            RemoteError::Session { code, .. } => *code == NO_SESSION,
            RemoteError::Refused { .. }
            | RemoteError::Silent { .. }
            | RemoteError::Ended { .. } => false,
            RemoteError::Start { .. }
            | RemoteError::NoProgram { .. }
            | RemoteError::Older { .. }
            | RemoteError::Version { .. }
            | RemoteError::Foreign { .. } => true,
        }
    }

    /// The cause as one line, for a screen that says already that there is no connection.
    pub(super) fn reason(&self) -> String {
        let words = match self {
            RemoteError::Ssh { said, .. } => said.clone(),
            other => other.to_string(),
        };
        words.lines().last().unwrap_or_default().to_owned()
    }

    /// The exit code of this program.
    pub fn exit_code(&self) -> u8 {
        match self {
            RemoteError::Session { code, .. } => *code,
            _ => NO_SESSION,
        }
    }
}

fn first_line(event: &Event) -> Vec<u8> {
    protocol::line(&EventMessage::new(None, event.clone())).unwrap_or_default()
}
