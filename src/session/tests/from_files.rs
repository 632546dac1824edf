//! Sessions on another computer that are watched and steered through the files of their runs.

use super::command_files::far;
use super::*;
use crate::session::attach::{AttachError, attach_here_or_through_files};
use crate::session::run_dir::HostId;
use crate::session::run_view::RunView;
use std::fs;
use std::io::Write;

/// A front end on this computer, of a session on another one.
struct FarFrontEnd {
    client: SessionClient,
    view: RunView,
}

impl FarFrontEnd {
    fn attach(runs: &Path) -> Result<Self, AttachError> {
        let client = attach_here_or_through_files(runs, "one", &HostId::this())?;
        let view = RunView::default();
        Ok(FarFrontEnd { client, view })
    }

    fn next(&mut self) -> Event {
        let event = crossbeam_channel::select! {
            recv(self.client.events) -> message => message.unwrap().event,
            recv(self.client.steps_ready) -> _ => match self.client.take_steps() {
                Some(steps) => Event::Steps(steps),
                None => return self.next(),
            },
            default(Duration::from_secs(60)) => panic!("nothing happens: {:?}", self.view),
        };
        self.view.event(&event);
        event
    }

    /// Sends a command. Returns its answer, if it is a question, and its outcome.
    fn asks(&mut self, command: Command) -> (Option<Answer>, Outcome) {
        let id = self.client.commands.ids().next();
        let message = CommandMessage::new(id, command);
        self.client.commands.send_message(message).unwrap();
        let mut answer = None;
        loop {
            match self.next() {
                Event::Answer { id: of, answer: a } if of == id => answer = Some(a),
                Event::Done(done) if done.id == id => return (answer, done.outcome),
                _ => {}
            }
        }
    }

    fn until(&mut self, is_wanted: impl Fn(&RunView) -> bool) {
        while !is_wanted(&self.view) {
            self.next();
        }
    }
}

#[test]
fn a_run_of_another_computer_is_watched_and_steered_through_its_files() {
    let runs = tempfile::tempdir().unwrap();
    let mut session = FrontEnd::paused(far(runs.path()));
    session.make_steps(3);
    let mut front = FarFrontEnd::attach(runs.path()).unwrap();
    assert!(matches!(front.next(), Event::Snapshot { .. }));
    assert_eq!(front.view.run.as_ref().unwrap().name, "one");
    front.until(|view| view.state == State::Paused);
    let rate = |value| Command::Set {
        key: "learning_rate".into(),
        value: Value::Float(value),
    };
    assert_eq!(front.asks(rate(2e-3)).1, Outcome::AppliedAt(4));
    front.until(|view| view.params.learning_rate == 2e-3 && view.marks.len() == 1);
    let (_, refused) = front.asks(rate(-1.0));
    assert!(matches!(refused, Outcome::Refused(why) if why.contains("learning_rate")));
    assert_eq!(front.asks(Command::Watch).1, Outcome::AppliedAt(0));
    assert_eq!(front.asks(Command::Resume).1, Outcome::AppliedAt(4));
    front.until(|view| view.epochs.len() > 1);
    let question = Question::Evaluation;
    let ask = |question| Command::Ask {
        question,
        epoch: None,
    };
    let (answer, _) = front.asks(ask(question));
    let Some(Answer::Evaluation { evaluation }) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(evaluation.split, Split::Validation);
    let name = "two".to_owned();
    let (answer, _) = front.asks(ask(Question::DeleteRun { name }));
    assert!(matches!(answer, Some(Answer::Failed { .. })), "{answer:?}");
    front.asks(Command::Pause);
    front.until(|view| view.state == State::Paused);
    session.quit();
    let params = loop {
        if let Event::Ended { params, state } = front.next() {
            assert_eq!(state, State::Stopped);
            break params;
        }
    };
    assert_eq!(params.learning_rate, 2e-3);
    assert!(front.client.events.recv().is_err());
    let error = FarFrontEnd::attach(runs.path()).err().unwrap();
    assert!(matches!(error, AttachError::NotRunning(_)), "{error}");
}

#[test]
fn pending_changes_are_asked_and_what_cannot_be_followed_is_refused() {
    let runs = tempfile::tempdir().unwrap();
    let mut session = FrontEnd::paused(far(runs.path()));
    session.make_steps(3);
    let mut front = FarFrontEnd::attach(runs.path()).unwrap();
    let (key, value) = ("batch_size".to_owned(), Value::Int(5));
    let (_, outcome) = front.asks(Command::Set { key, value });
    assert_eq!(outcome, Outcome::PendingUntil(Applies::NextEpoch));
    while !matches!(front.next(), Event::Pending { change, .. } if change.new == Value::Int(5)) {}
    front.asks(Command::Undo);
    while !matches!(front.next(), Event::Withdrawn { key } if key == "batch_size") {}
    let (key, value) = ("dropout".to_owned(), Value::Float(0.1));
    for command in [
        Command::Compare { key, value },
        Command::FindLr { steps: None },
    ] {
        let (_, outcome) = front.asks(command);
        let Outcome::Refused(why) = outcome else {
            panic!("{outcome:?}");
        };
        assert!(why.contains("cifar-tui attach HOST:RUN"), "{why}");
    }
    session.quit();
}

#[test]
fn commands_that_were_sent_before_leaving_still_arrive() {
    let runs = tempfile::tempdir().unwrap();
    let session = FrontEnd::paused(far(runs.path()));
    let front = FarFrontEnd::attach(runs.path()).unwrap();
    let value = |at: u32| Value::Float(0.1 * f64::from(at));
    for at in 1..=4 {
        let (key, value) = ("dropout".to_owned(), value(at));
        let question = Question::Runs;
        let ask = Command::Ask {
            question,
            epoch: None,
        };
        front.client.commands.send(ask).unwrap();
        let set = Command::Set { key, value };
        front.client.commands.send(set).unwrap();
    }
    drop(front);
    let mut session = session;
    while session.applied().1 != value(4) {}
    session.quit();
}

#[test]
fn a_record_that_is_cut_back_or_begins_anew_is_told_whole() {
    let runs = tempfile::tempdir().unwrap();
    let mut settings = far(runs.path());
    // Each step is a line.
    settings.params.epochs = 3.0;
    let mut session = FrontEnd::paused(settings);
    session.make_steps(8);
    let mut front = FarFrontEnd::attach(runs.path()).unwrap();
    front.next();
    front.until(|view| view.steps.as_ref().is_some_and(|steps| steps.last == 8));
    // As after a return to an earlier checkpoint: the file is shorter, and goes on from there.
    let metrics = runs.path().join("one/metrics.jsonl");
    let text = fs::read_to_string(&metrics).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let is_late = |line: &&str| line.contains("\"last\":8");
    let late = lines.iter().position(is_late).unwrap();
    fs::write(&metrics, lines[..late].concat()).unwrap();
    while !matches!(front.next(), Event::Snapshot { .. }) {}
    assert!(front.view.steps.as_ref().is_none_or(|steps| steps.last < 8));
    // Half a line, and then the rest of it.
    let mut file = fs::OpenOptions::new().append(true).open(&metrics).unwrap();
    let (half, rest) = lines[late].split_at(40);
    file.write_all(half.as_bytes()).unwrap();
    file.write_all(rest.as_bytes()).unwrap();
    front.until(|view| view.steps.as_ref().is_some_and(|steps| steps.last == 8));
    drop(front);
    session.quit();
}

#[test]
fn a_record_of_another_version_or_without_a_beginning_is_refused() {
    let runs = tempfile::tempdir().unwrap();
    let mut session = FrontEnd::paused(far(runs.path()));
    session.make_steps(1);
    let metrics = runs.path().join("one/metrics.jsonl");
    let whole = fs::read_to_string(&metrics).unwrap();
    for (text, part) in [
        (whole.replace("\"v\":1", "\"v\":2"), "version 2"),
        (String::new(), "no beginning"),
    ] {
        fs::write(&metrics, text).unwrap();
        let error = FarFrontEnd::attach(runs.path()).err().unwrap().to_string();
        assert!(error.contains(part), "{error}");
    }
    session.quit();
}
