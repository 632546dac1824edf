//! Commands, changes of hyperparameters and questions.

use super::*;

#[test]
fn changes_are_acknowledged_with_their_first_step_and_taken_back() {
    let runs = tempfile::tempdir().unwrap();
    let mut front = FrontEnd::start(Settings {
        paused: true,
        // More epochs than can pass before the pause arrives.
        params: Hyperparameters {
            epochs: 10_000.0,
            ..params()
        },
        ..settings(runs.path())
    });
    front.until_state(State::Paused);
    front.send(Command::Step);
    front.until_state(State::Paused);
    front.set("learning_rate", Value::Float(5e-4));
    assert_eq!(
        front.applied(),
        ("learning_rate".into(), Value::Float(5e-4), 2)
    );
    front.set("batch_size", Value::Int(20));
    let waits = front.until(|e| match e {
        Event::Pending { change, applies } => Some((change.key.clone(), *applies)),
        _ => None,
    });
    assert_eq!(waits, ("batch_size".into(), Applies::NextEpoch));
    front.set("optimizer", Value::Text("sgd".into()));
    front.until(|e| {
        matches!(e, Event::Pending { applies, .. } if *applies == Applies::NextRun).then_some(())
    });
    front.set("dropout", Value::Float(2.0));
    front.until(|e| matches!(e, Event::Refused { error } if error.key == "dropout").then_some(()));
    front.send(Command::Undo);
    let withdrawn = front.until(|e| match e {
        Event::Withdrawn { key } => Some(key.clone()),
        _ => None,
    });
    assert_eq!(withdrawn, "optimizer");
    front.set("seed", Value::Int(9));
    front.send(Command::Resume);
    // The epoch has nine more steps with batches of ten; the next epoch has batches of twenty.
    assert_eq!(front.applied(), ("batch_size".into(), Value::Int(20), 11));
    assert_eq!(front.epoch().step, 15);
    front.send(Command::Pause);
    front.until_state(State::Paused);
    front.send(Command::Undo);
    front.send(Command::Undo);
    front.send(Command::Undo);
    let last = front.send(Command::Undo);
    // Undo withdraws the seed, the batch size (of the next epoch) and the learning rate; then there is no change left.
    let (key, value, at) = front.applied();
    let (key, value, at) = if key == "batch_size" {
        front.applied()
    } else {
        (key, value, at)
    };
    assert_eq!((key.as_str(), value), ("learning_rate", Value::Float(1e-3)));
    assert!(at > 15);
    assert!(front.refusal(last).contains("no change"));
    front.send(Command::Checkpoint);
    front.until(|e| matches!(e, Event::Checkpoint(c) if !c.best).then_some(()));
    front.quit();
    let checkpoint = Checkpoint::read(&runs.path().join("one").join(LAST)).unwrap();
    let changes: Vec<_> = checkpoint
        .run_state
        .changes
        .iter()
        .map(|c| c.change.key.as_str())
        .collect();
    assert_eq!(changes[..2], ["learning_rate", "batch_size"]);
    let told = metrics(&runs.path().join("one"));
    let told = told.iter().filter(|e| matches!(e, Event::Applied { .. }));
    assert_eq!(told.count(), changes.len());
}

#[test]
fn every_question_has_an_answer() {
    let runs = tempfile::tempdir().unwrap();
    let mut front = FrontEnd::start(settings(runs.path()));
    front.until_state(State::Done);
    let (total, all) = front.samples(Filter::All);
    assert_eq!((total, all.len()), (24, 24));
    assert!(all.iter().all(|p| p.past.len() == 3 && p.picture.side == 8));
    assert!(all.iter().all(|p| {
        let sum: f32 = p.probabilities.iter().sum();
        (sum - 1.0).abs() < 1e-4
    }));
    let (wrong_total, wrong) = front.samples(Filter::Wrong);
    let really: Vec<_> = all
        .iter()
        .filter(|p| p.truth != p.predicted)
        .cloned()
        .collect();
    assert_eq!((wrong_total as usize, wrong), (really.len(), really));
    let confidence =
        |p: &crate::domain::report::Prediction| p.probabilities[usize::from(p.predicted)];
    let (_, confident) = front.samples(Filter::MostConfidentWrong);
    assert!(
        confident
            .windows(2)
            .all(|w| confidence(&w[0]) >= confidence(&w[1]))
    );
    let gap = |p: &crate::domain::report::Prediction| {
        let mut sorted = p.probabilities.clone();
        sorted.sort_by(f32::total_cmp);
        sorted[9] - sorted[8]
    };
    let (_, unsure) = front.samples(Filter::LeastSure);
    assert!(unsure.windows(2).all(|w| gap(&w[0]) <= gap(&w[1])));
    let (_, of_class) = front.samples(Filter::Class { class: 3 });
    assert!(of_class.iter().all(|p| p.truth == 3));
    let indices = vec![5, 2, 999];
    let (_, pinned) = front.samples(Filter::Pinned { indices });
    assert_eq!(pinned.iter().map(|p| p.index).collect::<Vec<_>>(), [5, 2]);
    let some = all[0].clone();
    let cell = Question::Cell {
        truth: some.truth,
        predicted: some.predicted,
        offset: 0,
        count: 50,
    };
    match front.ask(cell) {
        Answer::Predictions { items, .. } => assert!(items.contains(&some)),
        other => panic!("{other:?}"),
    }
    let browse = Question::Browse {
        split: Split::Train,
        class: Some(1),
        offset: 1,
        count: 4,
    };
    match front.ask(browse) {
        Answer::Pictures { total, items, .. } => {
            assert!(items.len() == 4 && total > 5);
            assert!(items.iter().all(|(_, class, _)| *class == 1));
        }
        other => panic!("{other:?}"),
    }
    match front.ask(Question::Augmented { index: 3, count: 8 }) {
        Answer::Pictures { items, .. } => {
            assert_eq!(items.len(), 8);
            assert!(items.iter().any(|i| i.2 != items[0].2));
        }
        other => panic!("{other:?}"),
    }
    let no_image = front.failed(Question::Augmented {
        index: 10_000,
        count: 1,
    });
    assert!(no_image.contains("10000"), "{no_image}");
    match front.ask(Question::Model {
        activations_of: Some(2),
    }) {
        Answer::Model(report) => {
            assert_eq!(report.step, 30);
            assert_eq!(report.filters.len(), 4);
            assert!(!report.activations.is_empty() && !report.units.is_empty());
            assert!(report.parameters.iter().any(|p| p.grad_norm > Some(0.0)));
        }
        other => panic!("{other:?}"),
    }
    front.send(Command::Show { split: Split::Test });
    front.send(Command::Evaluate);
    let evaluation = front.evaluation(Split::Test);
    assert_eq!(evaluation.confusion.total(), 40);
    assert_eq!(front.samples(Filter::All).0, 40);
    let note = Question::NoteRun {
        name: "one".into(),
        note: "first".into(),
    };
    match front.ask(note) {
        Answer::Runs { items, .. } => {
            assert_eq!(
                (items[0].name.as_str(), items[0].note.as_str()),
                ("one", "first")
            );
            assert_eq!(items[0].epochs.len(), 3);
        }
        other => panic!("{other:?}"),
    }
    let delete = front.failed(Question::DeleteRun { name: "one".into() });
    assert!(delete.contains("in use"), "{delete}");
    front.quit();
}

#[test]
fn a_restart_begins_a_new_run_with_the_pending_changes() {
    let runs = tempfile::tempdir().unwrap();
    let mut wanted = settings(runs.path());
    wanted.params.epochs = 1000.0;
    let mut front = FrontEnd::start(wanted);
    front.until_state(State::Running);
    front.epoch();
    front.set("architecture", Value::Text("conv 6, relu, dense 10".into()));
    front.set("seed", Value::Int(5));
    front.set("epochs", Value::Int(3));
    front.send(Command::Restart);
    let info = front.until(|e| match e {
        Event::Started(info) if info.name != "one" => Some(info.clone()),
        _ => None,
    });
    assert_eq!((info.params.seed, info.layers.len()), (5, 3));
    front.until_state(State::Running);
    front.until_state(State::Done);
    // Unread steps of the old run do not appear as steps of the new one.
    let steps = front.client.take_steps().unwrap();
    assert_eq!(steps.images, 3 * u64::from(info.train));
    let question = Question::DeleteRun { name: "one".into() };
    assert!(matches!(front.ask(question), Answer::Runs { items, .. } if items.len() == 1));
    front.quit();
    assert!(!runs.path().join("one").exists());
}

#[test]
fn commands_are_taken_up_while_images_are_scored() {
    let runs = tempfile::tempdir().unwrap();
    let mut front = FrontEnd::start(Settings {
        paused: true,
        ..settings(runs.path())
    });
    front.until_state(State::Paused);
    // Usually the last two commands arrive while the first is carried out. If not, the outcome is the same.
    front.send(Command::Evaluate);
    front.send(Command::Evaluate);
    front.set("learning_rate", Value::Float(2e-3));
    assert_eq!(front.applied().2, 1);
    front.send(Command::Stop);
    front.until_state(State::Stopped);
    let scored = front
        .events
        .iter()
        .any(|e| matches!(e, Event::Evaluation(e) if e.split == Split::Validation && e.step == 0));
    assert!(scored);
    assert_eq!(front.quit().0, State::Stopped);
}

#[test]
fn each_command_is_answered_once_with_its_step_or_the_reason_against_it() {
    let runs = tempfile::tempdir().unwrap();
    let mut front = FrontEnd::start(Settings {
        paused: true,
        ..settings(runs.path())
    });
    let set = |key: &str, value| Command::Set {
        key: key.into(),
        value,
    };
    let ask = Command::Ask {
        question: Question::Runs,
        epoch: None,
    };
    for (command, outcome) in [
        (Command::Pause, Outcome::AppliedAt(1)),
        (ask, Outcome::AppliedAt(1)),
        (
            set("learning_rate", Value::Float(0.5)),
            Outcome::AppliedAt(1),
        ),
        (
            set("seed", Value::Int(5)),
            Outcome::PendingUntil(Applies::NextRun),
        ),
        (Command::Step, Outcome::AppliedAt(1)),
        (
            set("batch_size", Value::Int(20)),
            Outcome::PendingUntil(Applies::NextEpoch),
        ),
        (
            set("learning_rate", Value::Float(0.25)),
            Outcome::AppliedAt(2),
        ),
    ] {
        let steps = command == Command::Step;
        let id = front.send(command);
        assert_eq!(front.done(id), outcome);
        if steps {
            front.until_state(State::Running);
            front.until_state(State::Paused);
        }
    }
    let unknown = set("lerning_rate", Value::Float(1.0));
    let why = front.refused(unknown);
    assert!(why.contains("did you mean 'learning_rate'"), "{why}");
    let split = Split::Train;
    for (command, words) in [
        (set("epochs", Value::Int(0)), "epochs"),
        (Command::Show { split }, "validation or the test"),
        (Command::GoBack, "nothing to go back from"),
    ] {
        let why = front.refused(command);
        assert!(why.contains(words), "{why}");
    }
    // A command can name the shown run.
    let id = front.send_to(Some("one"), Command::Pause);
    assert_eq!(front.done(id), Outcome::AppliedAt(2));
    for command in [Command::Resume, Command::Quit] {
        let id = front.send_to(Some("two"), command);
        let why = front.refusal(id);
        assert!(why.contains("no run 'two': its run is 'one'"), "{why}");
    }
    let id = front.send(Command::Restart);
    assert_eq!(front.done(id), Outcome::AppliedAt(1));
    front.send(Command::Stop);
    front.until_state(State::Stopped);
    let why = front.refused(Command::Stop);
    assert!(why.contains("over already"), "{why}");
    let quit = front.send(Command::SaveAndQuit);
    let late = front.send(Command::Pause);
    assert!(matches!(front.done(quit), Outcome::AppliedAt(_)));
    let why = front.refusal(late);
    assert!(why.contains("has ended"), "{why}");
    assert_eq!(front.quit().0, State::Stopped);
}
