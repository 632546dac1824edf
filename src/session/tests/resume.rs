//! Runs that are resumed.

use super::*;
use crate::train::kept;

#[test]
fn a_resumed_run_continues_bit_for_bit() {
    // These steps are at the ends of epochs and within epochs.
    continues_from(&[4, 10, 17, 20, 29]);
}

#[test]
#[ignore = "the long form: each of the 29 steps, with two optimizers"]
fn a_resumed_run_continues_bit_for_bit_from_every_step() {
    continues_from(&(1..30).collect::<Vec<_>>());
}

/// Quits and resumes a run after each of these steps. Its weights, optimizer state, random state and metrics must equal
/// those of a run that was not interrupted, with an average of the weights and without.
fn continues_from(interruptions: &[u64]) {
    for (optimizer, average_decay) in [(Optimizer::Adam, 0.9), (Optimizer::Sgd, 0.0)] {
        let whole = tempfile::tempdir().unwrap();
        let mut wanted = settings(whole.path());
        wanted.params.optimizer = optimizer;
        wanted.params.average_decay = average_decay;
        train_through(wanted.clone());
        let whole = whole.path().join("one");
        for &steps in interruptions {
            let runs = tempfile::tempdir().unwrap();
            let mut first = FrontEnd::start(Settings {
                runs: Some(runs.path().into()),
                paused: true,
                ..wanted.clone()
            });
            first.until_state(State::Paused);
            for _ in 0..steps {
                first.send(Command::Step);
                first.until_state(State::Paused);
            }
            first.quit();
            assert_eq!(step(runs.path(), LAST), steps);
            let mut rest = FrontEnd::start(resuming(runs.path()));
            let resumed_at = rest.until(|e| match e {
                Event::Started(info) => Some(info.resumed_at),
                _ => None,
            });
            assert_eq!(resumed_at, Some(steps + 1));
            rest.until_state(State::Done);
            rest.quit();
            let folder = runs.path().join("one");
            assert_eq!(content(&folder.join(LAST)), content(&whole.join(LAST)));
            assert_eq!(metrics(&folder), metrics(&whole), "after step {steps}");
        }
    }
}

#[test]
fn a_change_at_the_step_of_the_newest_checkpoint_is_not_lost() {
    for steps in [0, 10] {
        let runs = tempfile::tempdir().unwrap();
        let mut front = FrontEnd::start(Settings {
            paused: true,
            ..settings(runs.path())
        });
        front.until_state(State::Paused);
        for _ in 0..steps {
            front.send(Command::Step);
            front.until_state(State::Paused);
        }
        // The end of the epoch was saved.
        front.set("learning_rate", Value::Float(5e-4));
        front.applied();
        front.set("seed", Value::Int(9));
        front.quit();
        let saved = content(&runs.path().join("one").join(LAST)).run_state;
        assert_eq!((saved.step, saved.params.learning_rate), (steps, 5e-4));
        assert_eq!(saved.pending, [("seed".into(), Value::Int(9))]);
    }
}

#[test]
fn a_new_run_continues_from_the_end_of_an_epoch_that_was_kept() {
    let runs = tempfile::tempdir().unwrap();
    let one = runs.path().join("one");
    // Sessions wait for their saves only when they end. This one ends with epoch 2.
    let mut front = FrontEnd::start(Settings {
        paused: true,
        ..settings(runs.path())
    });
    front.until_state(State::Paused);
    front.make_steps(20);
    front.quit();
    assert_eq!(kept::epochs(&one).last(), Some(&2));
    let mut front = FrontEnd::start(resuming(runs.path()));
    front.until_state(State::Done);
    front.quit();
    let mut front = FrontEnd::start(Settings {
        resume: Some(one.join(kept::file_of(2))),
        name: Some("two".into()),
        ..settings(runs.path())
    });
    front.until_state(State::Done);
    front.quit();
    let two = runs.path().join("two");
    let [mut two_s, one_s] = [&two, &one].map(|run| content(&run.join(LAST)));
    two_s.run_state.origin = None;
    assert_eq!(two_s, one_s);
    // Of saves that wait for another one, only the newest is made.
    let kept = kept::epochs(&two);
    assert!(kept == [2, 3] || kept == [3], "{kept:?}");
}

#[test]
fn a_finished_run_that_is_resumed_has_its_scores_on_the_test_images_again() {
    let runs = tempfile::tempdir().unwrap();
    let mut wanted = settings(runs.path());
    wanted.params.average_decay = 0.9;
    train_through(wanted);
    let folder = runs.path().join("one");
    let whole = metrics(&folder);
    // The last checkpoint is older than these scores, as if the process was killed at the end of the run.
    let mut front = FrontEnd::start(resuming(runs.path()));
    front.until_state(State::Done);
    front.quit();
    assert_eq!(metrics(&folder), whole);
}

fn status(front: &mut FrontEnd) -> String {
    match front.ask(Question::Runs) {
        Answer::Runs { items, .. } => items[0].status(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn raising_the_epochs_of_a_finished_run_continues_it_live_and_when_it_is_resumed() {
    let runs = tempfile::tempdir().unwrap();
    let mut front = FrontEnd::start(settings(runs.path()));
    front.until_state(State::Done);
    assert_eq!(status(&mut front), "done, open");
    let why = front.refused(Command::Resume);
    assert!(why.contains("raise `epochs`"), "{why}");
    front.set("epochs", Value::Int(4));
    assert_eq!(front.applied(), ("epochs".into(), Value::Float(4.0), 31));
    assert_eq!(front.epoch().epoch, 4);
    front.until_state(State::Done);
    front.quit();
    assert_eq!(step(runs.path(), LAST), 40);

    let mut front = FrontEnd::start(Settings {
        params: Hyperparameters {
            epochs: 5.0,
            ..params()
        },
        overrides: vec!["epochs".into()],
        ..resuming(runs.path())
    });
    front.until(|e| matches!(e, Event::Epoch(epoch) if epoch.epoch == 5).then_some(()));
    front.until_state(State::Done);
    front.quit();
    assert_eq!(step(runs.path(), LAST), 50);
    assert_metrics_are_seamless(&runs.path().join("one"), 50);
}

#[test]
fn a_resumed_run_trains_on_the_data_it_began_with_unless_other_data_is_named() {
    use crate::data::SAMPLE;
    use crate::session::find_data;
    let folder = tempfile::tempdir().unwrap();
    let of = |named: Option<&Path>, recorded: Option<&Path>| {
        find_data(named, recorded).map(|found| found.path)
    };
    let sample = Path::new(SAMPLE);
    assert_eq!(of(Some(folder.path()), Some(sample)).unwrap(), sample);
    assert_eq!(
        of(Some(sample), Some(&folder.path().join("gone"))).unwrap(),
        sample
    );
    assert!(
        of(Some(sample), Some(folder.path())).is_err(),
        "it is there and holds nothing"
    );
    let runs = tempfile::tempdir().unwrap();
    train_through(settings(runs.path()));
    let again = resuming(runs.path());
    let (client, thread) = start_with(again, |recorded, _| {
        let expected = std::path::absolute(dataset().info.source).unwrap();
        assert_eq!(recorded, Some(&*expected));
        Ok(dataset())
    })
    .unwrap();
    let last = client
        .events
        .iter()
        .map(|message| message.event)
        .find(|e| matches!(e, Event::State(State::Done | State::Failed { .. })));
    assert_eq!(last, Some(Event::State(State::Done)));
    drop(client);
    thread.join().unwrap();
}
