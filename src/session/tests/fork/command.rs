//! Forks that a session makes.

use super::*;
use crate::session::protocol::ForkRequest;

fn fork(of: Option<&str>, at: ForkAt, name: &str) -> Command {
    Command::Fork(ForkRequest {
        of: of.map(str::to_owned),
        at,
        changes: Vec::new(),
        name: Some(name.into()),
        paused: true,
    })
}

/// A session whose run is paused after this many steps.
fn paused_after(steps: u32, settings: Settings) -> FrontEnd {
    let mut front = FrontEnd::start(Settings {
        paused: true,
        ..settings
    });
    front.until_state(State::Paused);
    front.make_steps(steps);
    front
}

#[test]
fn a_session_forks_its_run_here_with_the_pending_changes() {
    let runs = tempfile::tempdir().unwrap();
    let mut front = paused_after(15, settings(runs.path()));
    front.set("optimizer", Value::Text("sgd".into()));
    front.set("batch_size", Value::Int(20));
    let id = front.send(Command::Fork(ForkRequest {
        changes: vec![("learning_rate".into(), Value::Float(0.02))],
        name: Some("two".into()),
        paused: true,
        ..ForkRequest::default()
    }));
    assert_eq!(front.done(id), Outcome::AppliedAt(16));
    front.until_state(State::Paused);
    front.send(Command::Resume);
    front.until_state(State::Done);
    let (_, events) = front.quit();
    let mut started = events.iter().filter_map(|e| match e {
        Event::Started(info) => Some((&*info.name, info.origin.as_ref().map(|o| o.step))),
        _ => None,
    });
    assert_eq!(started.next(), Some(("one", None)));
    assert_eq!(started.next(), Some(("two", Some(15))));
    assert_eq!(step(runs.path(), LAST), 15, "the parent was saved first");
    assert_eq!(summary(runs.path(), "one").outcome, "stopped");
    let two = content(&runs.path().join("two").join(LAST)).run_state;
    let applied: Vec<_> = two
        .changes
        .iter()
        .map(|a| (&*a.change.key, a.step))
        .collect();
    // The batch size changes with the next epoch.
    let expected = [("optimizer", 16), ("learning_rate", 16), ("batch_size", 21)];
    assert_eq!(applied, expected);
    assert_eq!((two.step, two.pending.len()), (25, 0));
    assert_metrics_are_seamless(&runs.path().join("two"), 25);
}

#[test]
fn a_session_forks_an_epoch_of_its_run_or_another_run() {
    let runs = tempfile::tempdir().unwrap();
    parent(runs.path());
    let mut front = paused_after(
        12,
        Settings {
            name: Some("other".into()),
            keep: Keep::All,
            ..settings(runs.path())
        },
    );
    let origin = |front: &mut FrontEnd, command: Command| {
        front.send(command);
        front.until(|e| match e {
            Event::Started(info) => Some(info.origin.clone().map(|o| (o.run, o.step))),
            _ => None,
        })
    };
    let of_own = origin(&mut front, fork(None, ForkAt::Epoch(1), "a"));
    assert_eq!(of_own, Some(("other".into(), 10)));
    let of_one = origin(&mut front, fork(Some("one"), ForkAt::Step(30), "b"));
    assert_eq!(of_one, Some(("one".into(), 30)));
    front.until_state(State::Paused);
    front.send(Command::Resume);
    front.until_state(State::Done);
    front.quit();
    let [b, one] = ["b", "one"].map(|name| runs.path().join(name));
    assert_eq!(metrics(&b), metrics(&one));
}

#[test]
fn a_fork_that_cannot_be_is_refused_and_the_run_goes_on_as_if_nothing_had_been_asked() {
    let runs = tempfile::tempdir().unwrap();
    let whole = tempfile::tempdir().unwrap();
    train_through(settings(whole.path()));
    let mut front = paused_after(13, settings(runs.path()));
    for (command, words) in [
        (
            fork(None, ForkAt::Epoch(9), "two"),
            "The nearest is that of the end of epoch 1",
        ),
        (
            fork(Some("gone"), ForkAt::Last, "two"),
            "no run called 'gone'",
        ),
        (
            fork(Some("../one"), ForkAt::Last, "two"),
            "cannot be a run's name",
        ),
        // This is found out after the network was freed.
        (
            fork(None, ForkAt::Last, "one"),
            "could not be forked: there is a run in",
        ),
    ] {
        let why = front.refused(command);
        assert!(why.contains(words), "{why}");
    }
    front.set("validation", Value::Float(0.5));
    let why = front.refused(fork(None, ForkAt::Last, "two"));
    assert!(why.contains("it stays 0.2"), "{why}");
    let why = front.refused(Command::Fork(ForkRequest {
        changes: vec![("lerning_rate".into(), Value::Bool(true))],
        ..ForkRequest::default()
    }));
    assert!(why.contains("did you mean 'learning_rate'"), "{why}");
    front.send(Command::Undo);
    front.send(Command::Resume);
    front.until_state(State::Done);
    front.quit();
    let [one, whole] = [&runs, &whole].map(|runs| runs.path().join("one"));
    assert_eq!(metrics(&one), metrics(&whole));
    assert_eq!(content(&one.join(LAST)), content(&whole.join(LAST)));
    assert_eq!(std::fs::read_dir(runs.path()).unwrap().count(), 1);
    let mut unsaved = paused_after(
        1,
        Settings {
            runs: None,
            name: None,
            ..settings(runs.path())
        },
    );
    let why = unsaved.refused(fork(None, ForkAt::Last, "two"));
    assert!(why.contains("nothing is saved"), "{why}");
    unsaved.quit();
}
