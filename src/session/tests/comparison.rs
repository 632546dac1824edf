//! Comparisons in a session: what viewers see, and what is recorded and saved.

use super::*;
use crate::domain::marks::Mark;
use crate::session::run_view::RunView;
use crate::train::kept;
use crate::train::saver::PREVIOUS;

const RATE: f64 = 2e-4;

/// A paused session that trains four epochs and keeps the checkpoints of all.
fn four_epochs(runs: &Path) -> Settings {
    let mut wanted = Settings {
        paused: true,
        keep: Keep::All,
        ..settings(runs)
    };
    wanted.params.epochs = 4.0;
    wanted
}

impl FrontEnd {
    fn compare(&mut self, key: &str, value: Value) -> Outcome {
        let key = key.into();
        let id = self.send(Command::Compare { key, value });
        self.done(id)
    }

    fn obeys(&mut self, command: Command) {
        let id = self.send(command);
        assert!(matches!(self.done(id), Outcome::AppliedAt(_)));
    }
}

fn rate() -> Value {
    Value::Float(RATE)
}

/// A finished run without a change.
fn unchanged(runs: &Path) {
    let mut front = FrontEnd::paused(four_epochs(runs));
    front.make_steps(40);
    front.quit();
}

/// A finished run: 13 steps, then the lower rate.
fn changed(runs: &Path) {
    let mut front = FrontEnd::paused(four_epochs(runs));
    front.make_steps(13);
    front.set("learning_rate", rate());
    front.make_steps(27);
    front.quit();
}

/// The metrics without what tells of comparisons.
fn training(folder: &Path) -> Vec<Event> {
    let mut events = metrics(folder);
    events.retain(|e| !matches!(e, Event::ComparisonOver { .. } | Event::State(_)));
    events
}

fn view(folder: &Path) -> RunView {
    let mut view = RunView::default();
    for line in std::fs::read_to_string(folder.join("metrics.jsonl"))
        .unwrap()
        .lines()
    {
        view.recorded(&crate::session::protocol::read_recorded(line.as_bytes()).unwrap());
    }
    view
}

fn outline(view: &RunView) -> (Vec<(u32, f64)>, Vec<Mark>, Option<u64>) {
    (
        view.epochs.iter().map(|e| (e.epoch, e.accuracy)).collect(),
        view.marks.clone(),
        view.best.map(|best| best.step),
    )
}

#[test]
fn a_change_that_is_kept_was_made_where_the_comparison_began() {
    let [compared, plain] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    changed(plain.path());
    let mut front = FrontEnd::paused(four_epochs(compared.path()));
    front.make_steps(13);
    assert_eq!(
        front.compare("learning_rate", rate()),
        Outcome::AppliedAt(14)
    );
    let refusals = [
        (
            front.refused(Command::Compare {
                key: "dropout".into(),
                value: Value::Float(0.1),
            }),
            "under way",
        ),
        (
            front.refused(Command::Set {
                key: "learning_rate".into(),
                value: Value::Float(0.5),
            }),
            "being compared",
        ),
    ];
    for (why, expected) in refusals {
        assert!(why.contains(expected), "{why}");
    }
    front.make_steps(19);
    front.obeys(Command::KeepChange);
    // A viewer that was there from the start receives what a late one does.
    let snapshot = front.events.iter().rev().find_map(|e| match e {
        Event::Snapshot { events } => Some(events.clone()),
        _ => None,
    });
    let snapshot = snapshot.unwrap();
    let late = snapshot
        .iter()
        .any(|e| matches!(e, Event::Variant { .. } | Event::ComparisonBegan { .. }));
    assert!(!late, "the past is settled");
    front.make_steps(8);
    assert!(front.refused(Command::KeepChange).contains("no comparison"));
    let (state, events) = front.quit();
    assert_eq!(state, State::Done);

    let [compared, plain] = [&compared, &plain].map(|runs| runs.path().join("one"));
    assert_eq!(training(&compared), training(&plain));
    assert_metrics_are_seamless(&compared, 40);
    for file in [LAST, BEST] {
        let [a, b] = [&compared, &plain].map(|folder| content(&folder.join(file)));
        assert!(a == b, "{file}");
    }
    assert_eq!(outline(&view(&compared)), outline(&view(&plain)));
    // The screen's view of the session is the same.
    let mut live = RunView::default();
    events.iter().for_each(|event| live.event(event));
    assert_eq!(outline(&live), outline(&view(&plain)));
    // Epochs 2 and 3 ended without the change. (Of saves that wait for another one, only the newest is made.)
    let epochs = kept::epochs(&compared);
    assert!(epochs == [1, 4] || epochs == [4], "{epochs:?}");
}

#[test]
fn a_change_that_is_dropped_leaves_the_run_as_it_would_have_been() {
    let [compared, plain] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    unchanged(plain.path());
    let mut front = FrontEnd::paused(four_epochs(compared.path()));
    front.make_steps(13);
    front.compare("dropout", Value::Float(0.6));
    front.make_steps(19);
    front.obeys(Command::DropChange);
    front.make_steps(8);
    let (_, events) = front.quit();
    let variant =
        |e: &&Event| matches!(e, Event::Variant { of } if matches!(**of, Event::Epoch(_)));
    assert_eq!(events.iter().filter(variant).count(), 2);
    let over = events.iter().find_map(|e| match e {
        Event::ComparisonOver { kept, report, .. } => Some((*kept, report.steps)),
        _ => None,
    });
    assert_eq!(over, Some((false, 19)));
    let [compared, plain] = [&compared, &plain].map(|runs| runs.path().join("one"));
    assert_eq!(training(&compared), training(&plain));
    for file in [LAST, BEST] {
        assert!(
            content(&compared.join(file)) == content(&plain.join(file)),
            "{file}"
        );
    }
}

#[test]
fn a_session_that_ends_in_a_comparison_is_resumed_without_the_change() {
    let [compared, plain] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    unchanged(plain.path());
    let mut front = FrontEnd::paused(four_epochs(compared.path()));
    front.make_steps(13);
    front.compare("learning_rate", rate());
    front.make_steps(12);
    front.quit();
    train_through(resuming(compared.path()));
    let [compared, plain] = [&compared, &plain].map(|runs| runs.path().join("one"));
    assert_eq!(training(&compared), training(&plain));
    assert!(content(&compared.join(LAST)) == content(&plain.join(LAST)));
    assert_eq!(outline(&view(&compared)), outline(&view(&plain)));
}

#[test]
fn a_run_that_is_over_may_still_become_the_one_with_the_change() {
    let [compared, plain] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    changed(plain.path());
    let mut front = FrontEnd::paused(four_epochs(compared.path()));
    front.make_steps(13);
    front.compare("learning_rate", rate());
    front.make_steps(27);
    assert!(front.events.contains(&Event::State(State::Done)));
    front.obeys(Command::KeepChange);
    front.until_state(State::Done);
    front.quit();
    let [compared, plain] = [&compared, &plain].map(|runs| runs.path().join("one"));
    for file in [LAST, BEST] {
        assert!(
            content(&compared.join(file)) == content(&plain.join(file)),
            "{file}"
        );
    }
    let epochs = |folder: &Path| outline(&view(folder)).0;
    assert_eq!(epochs(&compared), epochs(&plain));
    let kept = kept::epochs(&compared);
    assert!(kept == [1, 4] || kept == [4], "{kept:?}");
}

#[test]
fn nothing_is_compared_without_a_run_to_train_or_with_what_needs_a_run_of_its_own() {
    let runs = tempfile::tempdir().unwrap();
    let mut front = FrontEnd::paused(four_epochs(runs.path()));
    let compare = |key: &str, value| Command::Compare {
        key: key.into(),
        value,
    };
    for (key, value, words) in [
        ("optimizer", Value::Text("sgd".into()), "fork"),
        ("architecture", Value::Text("dense 10".into()), "fork"),
        ("batch_size", Value::Int(20), "batches"),
        ("target", Value::Float(0.5), "nothing in the training"),
        ("learning_rate", Value::Float(-1.0), "0 to 10"),
        ("learning_rate", Value::Float(1e-3), "already"),
        ("lerning_rate", Value::Float(1e-3), "learning_rate"),
    ] {
        let why = front.refused(compare(key, value));
        assert!(why.contains(words), "{key}: {why}");
    }
    for decision in [Command::KeepChange, Command::DropChange] {
        assert!(front.refused(decision).contains("no comparison"));
    }
    front.send(Command::Stop);
    front.until_state(State::Stopped);
    let why = front.refused(compare("dropout", Value::Float(0.1)));
    assert!(why.contains("over"), "{why}");
    front.quit();
}

#[test]
fn a_pending_change_that_is_compared_is_no_longer_pending() {
    let runs = tempfile::tempdir().unwrap();
    let mut front = FrontEnd::paused(four_epochs(runs.path()));
    front.make_steps(3);
    let cosine = || Value::Text("cosine".into());
    front.set("schedule", cosine());
    front.until(|e| matches!(e, Event::Pending { .. }).then_some(()));
    assert_eq!(front.compare("schedule", cosine()), Outcome::AppliedAt(4));
    let withdrawn = |e: &Event| matches!(e, Event::Withdrawn { key } if key == "schedule");
    if !front.events.iter().any(withdrawn) {
        front.until(|e| withdrawn(e).then_some(()));
    }
    // The next epoch begins without it.
    front.make_steps(12);
    front.obeys(Command::DropChange);
    front.make_steps(3);
    front.quit();
    let last = Checkpoint::read(&runs.path().join("one").join(LAST)).unwrap();
    assert!(last.run_state.changes.is_empty() && last.run_state.pending.is_empty());
}

#[test]
fn after_keeping_every_checkpoint_is_of_the_network_with_the_change() {
    let runs = tempfile::tempdir().unwrap();
    let mut front = FrontEnd::paused(four_epochs(runs.path()));
    front.make_steps(13);
    front.compare("learning_rate", rate());
    front.make_steps(12);
    front.obeys(Command::KeepChange);
    front.quit();
    let folder = runs.path().join("one");
    for file in [LAST, PREVIOUS] {
        let found = Checkpoint::read(&folder.join(file)).unwrap().run_state;
        assert_eq!(
            (found.step, found.params.learning_rate),
            (25, RATE),
            "{file}"
        );
    }
    let best = Checkpoint::read(&folder.join(BEST)).unwrap().run_state;
    let last = Checkpoint::read(&folder.join(LAST)).unwrap().run_state;
    assert_eq!(best.best, last.best);
    assert_eq!(best.step, last.best.unwrap().step);
}

/// Sends a command while an epoch's end is being scored, and returns the metrics of the finished run.
fn decided_while_scoring(runs: &Path, decision: Command) -> Vec<Event> {
    let mut wanted = four_epochs(runs);
    wanted.params.test_each_epoch = true;
    wanted.report_interval = Duration::ZERO;
    let mut front = FrontEnd::paused(wanted);
    front.make_steps(13);
    front.compare("learning_rate", rate());
    front.make_steps(6);
    front.send(Command::Resume);
    front.until(|e| matches!(e, Event::State(State::Evaluating { .. })).then_some(()));
    front.obeys(decision);
    // The run may have ended while the answer was waited for.
    if !front.events.contains(&Event::State(State::Done)) {
        front.until_state(State::Done);
    }
    front.quit();
    let mut events = training(&runs.join("one"));
    // A keep at the last moment may come after the run's end, which is then scored again.
    events.retain(|e| !matches!(e, Event::Evaluation(e) if e.step == 40));
    events
}

#[test]
fn a_decision_waits_for_the_end_of_an_evaluation() {
    let plain = |changes: bool| {
        let runs = tempfile::tempdir().unwrap();
        let mut wanted = four_epochs(runs.path());
        wanted.params.test_each_epoch = true;
        let mut front = FrontEnd::paused(wanted);
        front.make_steps(13);
        if changes {
            front.set("learning_rate", rate());
        }
        front.make_steps(27);
        front.quit();
        let mut events = training(&runs.path().join("one"));
        events.retain(|e| !matches!(e, Event::Evaluation(e) if e.step == 40));
        events
    };
    for (decision, changes) in [(Command::KeepChange, true), (Command::DropChange, false)] {
        let runs = tempfile::tempdir().unwrap();
        assert_eq!(decided_while_scoring(runs.path(), decision), plain(changes));
    }
}

#[test]
fn a_comparison_ends_with_its_run() {
    let runs = tempfile::tempdir().unwrap();
    let mut front = FrontEnd::paused(four_epochs(runs.path()));
    front.make_steps(13);
    front.compare("dropout", Value::Float(0.1));
    front.send(Command::Restart);
    let dropped = |e: &Event| matches!(e, Event::ComparisonOver { kept: false, .. });
    front.until(|e| dropped(e).then_some(()));
    front.until(|e| matches!(e, Event::Started(_)).then_some(()));
    assert!(front.refused(Command::KeepChange).contains("no comparison"));
    // The new run may be over already.
    if let Outcome::Refused(why) = front.compare("dropout", Value::Float(0.1)) {
        assert!(why.contains("the run is over"), "{why}");
    }
    front.quit();
}
