//! Attaches to a session on another computer as a [`SessionClient`]. A program such as ssh runs
//! `cifar-tui attach --pipe` there ([`pipe`]), and its standard input and output carry the protocol's lines.
//!
//! A broken connection is taken up again until the viewer leaves or the session is over. Commands are never kept for
//! later: while there is no connection, they are refused.

mod error;
pub mod pipe;
mod ssh;
#[cfg(test)]
mod tests;

pub use error::RemoteError;

use super::attach;
use super::client::{BlockingQueue, Commands, ReceivedCommand, SessionClient};
use super::protocol::{
    self, Command, Done, Event, EventMessage, MAX_EVENT_LINE, MessageError, Outcome,
};
use crate::domain::text::command_line;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use ssh::{Pipes, Process};
use std::collections::BTreeSet;
use std::io::{BufRead, ErrorKind, Read, Write};
use std::path::Path;
use std::process::ChildStdin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// A connection on which nothing has arrived for so long is broken: [`protocol::PIPE_HEARTBEAT`] four times.
const MAX_SILENCE: Duration = Duration::from_secs(20);
/// How long the first connection may be silent before the error output of ssh is shown, which may ask for something.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time limit of an attempt to connect again.
const ATTEMPT_TIME: Duration = Duration::from_secs(60);
/// The pause before the first attempt to connect again, and before each of many. It doubles in between.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long ssh may take to end after its output has.
const ENDING_TIME: Duration = Duration::from_secs(2);
/// Number of lines before the first message that are skipped: a shell's startup file may print some.
const MAX_FOREIGN_LINES: usize = 1000;

/// The command that connects, unless the user names another. It asks for no terminal there, whatever ssh's configuration
/// says.
const SSH: [&str; 2] = ["ssh", "-T"];

/// The session to attach to, and the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The program that connects, with its arguments. None: [`SSH`].
    pub ssh: Option<Vec<String>>,
    pub host: String,
    /// The run's name, or a folder from the home folder there; None: the newest session.
    pub run: Option<String>,
    /// The runs folder there; None: what the configuration there says.
    pub runs: Option<String>,
}

impl Destination {
    /// The program that connects, with its arguments.
    fn ssh(&self) -> Vec<&str> {
        match &self.ssh {
            Some(words) => words.iter().map(String::as_str).collect(),
            None => SSH.to_vec(),
        }
    }

    fn program(&self) -> &str {
        self.ssh().first().copied().unwrap_or_default()
    }

    /// The arguments of the program that connects. The last one is a command for the shell of the other computer.
    fn arguments(&self, run: Option<&str>) -> Vec<String> {
        let mut far = vec!["cifar-tui", "attach", "--pipe"];
        if let Some(runs) = &self.runs {
            far.extend(["--runs", runs]);
        }
        if let Some(run) = run {
            far.extend(["--", run]);
        }
        let far = command_line(&far);
        // Nothing after `--` can be an option, whatever the host is called.
        let last = ["--", &self.host, &far];
        let words = self.ssh().into_iter().skip(1).chain(last);
        words.map(str::to_owned).collect()
    }

    /// The command that attaches to the run named `run` of the session.
    pub fn attach_command(&self, run: &str) -> String {
        let run = self.path_of(run).unwrap_or_default();
        let place = match self.host.contains(':') {
            true => format!("[{}]:{run}", self.host),
            false => format!("{}:{run}", self.host),
        };
        let ssh = command_line(&self.ssh());
        let mut words = vec!["cifar-tui", "attach"];
        if self.ssh.is_some() {
            words.extend(["--ssh", &ssh]);
        }
        if let Some(runs) = &self.runs {
            words.extend(["--runs", runs]);
        }
        if place.starts_with('-') {
            words.push("--");
        }
        words.push(&place);
        command_line(&words)
    }

    /// The run named `name` of the session, which may be another run by now, as `run` names it. None if it has no name.
    fn path_of(&self, name: &str) -> Option<String> {
        let given = self.run.as_deref();
        if name.is_empty() {
            return given.map(str::to_owned);
        }
        let folder = given
            .filter(|run| run.contains('/'))
            .and_then(|run| Path::new(run).parent());
        Some(match folder {
            Some(folder) => folder.join(name).display().to_string(),
            None => name.into(),
        })
    }
}

/// The connection of a client. Dropping it ends the connection.
pub struct RemoteSession {
    shared: Arc<Shared>,
    /// Disconnects when dropped, which ends a pause.
    _viewer: Sender<()>,
}

impl RemoteSession {
    /// Why the connection could not be taken up again.
    pub fn error(&self) -> Option<RemoteError> {
        lock(&self.shared.error).take()
    }
}

impl Drop for RemoteSession {
    fn drop(&mut self) {
        self.shared.process.close();
    }
}

#[derive(Default)]
struct Shared {
    process: Process,
    /// The input of the process, while there is a connection.
    input: Mutex<Option<ChildStdin>>,
    /// Ids of the commands that were sent and not answered. Questions do not count: they are asked again.
    unanswered: Mutex<BTreeSet<u64>>,
    error: Mutex<Option<RemoteError>>,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Attaches to a session on another computer. The client's first event is the snapshot. `say` shows the user a text of
/// ssh, which may ask for something on the terminal until this returns.
///
/// # Errors
/// Returns an error if the host cannot be reached, or has no such session or no cifar-tui that understands this one.
pub fn attach(
    to: Destination,
    say: &mut dyn FnMut(&str),
) -> Result<(SessionClient, RemoteSession), RemoteError> {
    let shared = Arc::new(Shared::default());
    let (pipes, snapshot) = connect(&shared, &to, to.run.as_deref(), Some(say))?;
    let (sender, requests) = unbounded();
    let (mut client, queue) = BlockingQueue::pair(Commands::new(sender, 1, Arc::default(), true));
    let (connection, changes) = unbounded();
    client.connection = changes;
    let queue = Arc::new(queue);
    let (viewer, left) = bounded(0);
    let mut reader = Reader {
        run: None,
        queue: Arc::clone(&queue),
        shared: Arc::clone(&shared),
        connection,
        left,
        to: to.clone(),
        is_warned: false,
        has_ended: false,
    };
    let start = |source| RemoteError::Start {
        program: to.program().into(),
        source,
    };
    std::thread::Builder::new()
        .name("from session".into())
        .spawn(move || reader.run(pipes, snapshot))
        .map_err(start)?;
    let of_writer = Arc::clone(&shared);
    // When the reader drops the queue, the client is told that the session is over.
    let queue = Arc::downgrade(&queue);
    let host = to.host.clone();
    std::thread::Builder::new()
        .name("to session".into())
        .spawn(move || {
            for request in requests {
                send(&of_writer, &queue, &request, &host);
            }
        })
        .map_err(start)?;
    let session = RemoteSession {
        shared,
        _viewer: viewer,
    };
    Ok((client, session))
}

/// Sends a command, or refuses it if there is no connection.
fn send(shared: &Shared, queue: &Weak<BlockingQueue>, request: &ReceivedCommand, host: &str) {
    let message = &request.message;
    let mut input = lock(&shared.input);
    let sent = match (input.as_mut(), protocol::line(message)) {
        (Some(input), Ok(line)) => {
            if !matches!(message.command, Command::Ask { .. }) {
                lock(&shared.unanswered).insert(message.id);
            }
            input.write_all(&line)
        }
        (None, _) => Err(ErrorKind::NotConnected.into()),
        (_, Err(error)) => Err(error.into()),
    };
    if let Err(error) = sent {
        tracing::warn!("a command was not sent to {host}: {error}");
        *input = None;
        drop(input);
        lock(&shared.unanswered).remove(&message.id);
        let id = message.id;
        let outcome = Outcome::Refused(format!("not connected to {host}: it was not sent"));
        if let Some(queue) = queue.upgrade() {
            queue.event(EventMessage::new(None, Event::Done(Done { id, outcome })));
        }
    }
}

/// Connects, and waits for the session's first message. With `say`, the program can ask the user.
///
/// # Errors
/// Returns an error that says why there is no connection.
fn connect(
    shared: &Shared,
    to: &Destination,
    run: Option<&str>,
    mut say: Option<&mut dyn FnMut(&str)>,
) -> Result<(Pipes, EventMessage), RemoteError> {
    let mut pipes = shared.process.start(to, run, say.is_some())?;
    pipes.lines.get_mut().limit = PATIENCE;
    let begin = Instant::now();
    let mut line = Vec::new();
    let mut foreign = 0;
    let failed = loop {
        let read = (&mut pipes.lines)
            .take(MAX_EVENT_LINE)
            .read_until(b'\n', &mut line);
        match (read, &mut say) {
            (Ok(1..), _) if line.ends_with(b"\n") => match protocol::read(&line) {
                Ok(EventMessage { event, .. }) if !event.is_snapshot() => {
                    break RemoteError::refused(to, event);
                }
                Ok(snapshot) => {
                    pipes.lines.get_mut().limit = MAX_SILENCE;
                    return Ok((pipes, snapshot));
                }
                Err(MessageError::Version { v, .. }) => {
                    break RemoteError::Version {
                        host: to.host.clone(),
                        v,
                    };
                }
                Err(_) if foreign < MAX_FOREIGN_LINES => {
                    foreign += 1;
                    line.clear();
                }
                Err(_) => break RemoteError::foreign(to, &line),
            },
            (Err(error), Some(say)) if error.kind() == ErrorKind::TimedOut => {
                if let Some(words) = pipes.said.unread() {
                    say(&words);
                }
            }
            (Err(error), None)
                if error.kind() == ErrorKind::TimedOut && begin.elapsed() < ATTEMPT_TIME => {}
            (Err(error), None) if error.kind() == ErrorKind::TimedOut => {
                break RemoteError::Silent {
                    host: to.host.clone(),
                    seconds: ATTEMPT_TIME.as_secs(),
                };
            }
            (Ok(_) | Err(_), _) => {
                let code = shared.process.end(ENDING_TIME);
                return Err(RemoteError::ended(to, run, code, &pipes.said.last_words()));
            }
        }
    };
    shared.process.end(Duration::ZERO);
    Err(failed)
}

/// Why reading from a connection has ended.
enum ReadEnd {
    /// The viewer has left, or the session is over.
    Over,
    Broken(String),
}

/// Reads the session's events, and connects again.
struct Reader {
    to: Destination,
    /// The session's run as the other computer finds it.
    run: Option<String>,
    queue: Arc<BlockingQueue>,
    shared: Arc<Shared>,
    connection: Sender<Option<String>>,
    /// Disconnected when the viewer has left.
    left: Receiver<()>,
    is_warned: bool,
    has_ended: bool,
}

impl Reader {
    fn run(&mut self, mut pipes: Pipes, mut snapshot: EventMessage) {
        loop {
            let Pipes { input, .. } = &mut pipes;
            *lock(&self.shared.input) = input.take();
            if !self.pass_on(snapshot) {
                return;
            }
            let why = match self.read(&mut pipes) {
                ReadEnd::Over => return,
                ReadEnd::Broken(why) => why,
            };
            self.disconnect();
            drop(pipes);
            match self.connect_again(why) {
                Some(again) => (pipes, snapshot) = again,
                None => return,
            }
        }
    }

    /// Passes an event on to the viewer. Returns whether the viewer is still there.
    fn pass_on(&mut self, message: EventMessage) -> bool {
        match &message.event {
            Event::Done(done) => {
                lock(&self.shared.unanswered).remove(&done.id);
            }
            Event::Started(run) => self.run = self.to.path_of(&run.name),
            Event::Snapshot { events } => {
                let started = events.iter().rev().find_map(|event| match event {
                    Event::Started(run) => Some(run),
                    _ => None,
                });
                if let Some(run) = started {
                    self.run = self.to.path_of(&run.name);
                }
            }
            Event::Ended { .. } => self.has_ended = true,
            _ => {}
        }
        self.queue.event(message)
    }

    fn read(&mut self, pipes: &mut Pipes) -> ReadEnd {
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut pipes.lines)
                .take(MAX_EVENT_LINE)
                .read_until(b'\n', &mut line);
            match read {
                // An empty line says that the connection holds.
                Ok(1) if line == b"\n" => continue,
                Ok(1..) if line.ends_with(b"\n") => {}
                _ if self.has_ended => return ReadEnd::Over,
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    self.shared.process.end(Duration::ZERO);
                    let (host, seconds) = (&self.to.host, MAX_SILENCE.as_secs());
                    return ReadEnd::Broken(format!(
                        "nothing has come from {host} for {seconds} s"
                    ));
                }
                Ok(_) | Err(_) => {
                    self.shared.process.end(ENDING_TIME);
                    let said = pipes.said.last_words();
                    return ReadEnd::Broken(match said.lines().last() {
                        Some(last) => last.to_owned(),
                        None => format!("{} has ended", self.to.program()),
                    });
                }
            }
            if let Some(message) = attach::message(&line, &mut self.is_warned)
                && !self.pass_on(message)
            {
                return ReadEnd::Over;
            }
        }
    }

    /// Refuses commands from now on. Says which of those before may have had no effect.
    fn disconnect(&mut self) {
        *lock(&self.shared.input) = None;
        let unanswered = std::mem::take(&mut *lock(&self.shared.unanswered)).len();
        if unanswered > 0 {
            let commands = match unanswered {
                1 => "a command was".into(),
                n => format!("{n} commands were"),
            };
            let text = format!(
                "{commands} not answered before the connection broke, and may or may not have taken effect"
            );
            self.queue
                .event(EventMessage::new(None, Event::Warning { text }));
        }
    }

    /// Tries to connect until it succeeds. None if the viewer has left, or the error will stay.
    fn connect_again(&mut self, mut why: String) -> Option<(Pipes, EventMessage)> {
        let mut pause = FIRST_PAUSE;
        loop {
            let seconds = pause.as_secs();
            self.say(format!("{why}. The next attempt is in {seconds} s"));
            if self.left.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return None;
            }
            self.say(format!("{why}. Connecting again"));
            let run = self.run.as_deref().or(self.to.run.as_deref());
            match connect(&self.shared, &self.to, run, None) {
                Ok(connected) => {
                    let _ = self.connection.send(None);
                    return Some(connected);
                }
                Err(error) if error.is_lasting() => {
                    *lock(&self.shared.error) = Some(error);
                    return None;
                }
                Err(error) => why = error.reason(),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Shows that there is no connection.
    fn say(&self, words: String) {
        // Sending fails if the viewer has left.
        let _ = self.connection.send(Some(words));
    }
}
