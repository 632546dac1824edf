//! Divergence, collapse and the scores at the end of a run.

use super::*;
use crate::domain::report::ScoredWeights;

#[test]
fn going_back_takes_half_of_the_rate_that_did_well_and_a_checkpoint_from_before() {
    let runs = tempfile::tempdir().unwrap();
    let mut wanted = settings(runs.path());
    wanted.paused = true;
    wanted.params = Hyperparameters {
        optimizer: Optimizer::Sgd,
        architecture: "conv 4, relu, dense 16, relu, dense 10".into(),
        learning_rate: 0.01,
        epochs: 1000.0,
        ..wanted.params
    };
    let mut front = FrontEnd::paused(wanted);
    front.make_steps(14);
    // A mistyped value, which is saved before its effect shows.
    front.set("learning_rate", Value::Float(10.0));
    front.set("weight_decay", Value::Float(1.0));
    front.make_steps(1);
    front.send(Command::Checkpoint);
    front.until(|e| matches!(e, Event::Checkpoint(c) if c.step == 15).then_some(()));
    front.send(Command::Resume);
    let failed = front.until(|e| match e {
        Event::State(State::Diverged { step, .. }) => Some(*step),
        _ => None,
    });
    let best = front.events.iter().rev().find_map(|e| match e {
        Event::Epoch(e) if e.best => Some(e.step),
        _ => None,
    });
    assert_eq!(best, Some(10), "the test wants a best epoch from before");
    front.send(Command::GoBack);
    let resumed = front.until(|e| match e {
        Event::Started(info) => Some((info.resumed_at, info.params.learning_rate)),
        _ => None,
    });
    assert_eq!(
        resumed,
        (Some(11), 0.01),
        "the checkpoint of step 15 was made with 10"
    );
    let notice = front.notice();
    for part in [&failed.saturating_sub(1).to_string(), "step 10", "0.01"] {
        assert!(notice.contains(part), "{part} is missing in: {notice}");
    }
    assert_eq!(
        front.applied(),
        ("learning_rate".into(), Value::Float(0.005), 11)
    );
    front.until_state(State::Running);
    assert_eq!(front.epoch().epoch, 2);
    front.quit();
}

#[test]
fn a_collapse_is_told_and_the_run_goes_back_to_its_best_epoch() {
    let runs = tempfile::tempdir().unwrap();
    let mut wanted = settings(runs.path());
    wanted.paused = true;
    wanted.params = Hyperparameters {
        architecture: "conv 4, relu, dense 16, relu, dense 10".into(),
        learning_rate: 0.01,
        validation: 0.5,
        epochs: 1000.0,
        flip: crate::domain::params::Flip::Off,
        crop: 0,
        ..wanted.params
    };
    let mut front = FrontEnd::paused(wanted);
    front.make_steps(6 * 20);
    let best = front.events.iter().rev().find_map(|e| match e {
        Event::Epoch(e) if e.best => Some(e.clone()),
        _ => None,
    });
    let best = best.unwrap();
    assert!(best.accuracy > 0.8, "{best:?}");
    front.set("learning_rate", Value::Float(10.0));
    front.send(Command::Resume);
    let health = front.until(|e| match e {
        Event::Health(health) => Some(health.clone()),
        _ => None,
    });
    let collapse = health.collapse.unwrap();
    assert_eq!(collapse.best, Some(best.epoch), "{collapse:?}");
    assert!(health.epoch >= 21 && collapse.since > best.epoch);
    front.send(Command::GoBack);
    let resumed = front.until(|e| match e {
        Event::Started(info) => Some(info.resumed_at),
        _ => None,
    });
    assert_eq!(resumed, Some(best.step + 1));
    assert_eq!(
        front.applied(),
        ("learning_rate".into(), Value::Float(0.005), best.step + 1)
    );
    // The run learns again, and its health is good.
    let epoch = front.epoch();
    assert!(
        epoch.epoch == best.epoch + 1 && epoch.accuracy > 0.5,
        "{epoch:?}"
    );
    let why = front.refused(Command::GoBack);
    assert!(why.contains("nothing to go back from"), "{why}");
    front.quit();
    assert_metrics_are_seamless_from_the_start(&runs.path().join("one"));
}

#[test]
fn a_run_that_never_learns_names_its_dead_layers() {
    let runs = tempfile::tempdir().unwrap();
    let mut wanted = settings(runs.path());
    wanted.params = Hyperparameters {
        architecture: "conv 4, relu, dense 16, relu, dense 10".into(),
        learning_rate: 10.0,
        validation: 0.5,
        epochs: 40.0,
        ..wanted.params
    };
    let events = train_through(wanted);
    let told: Vec<_> = events
        .iter()
        .filter_map(|e| match e {
            Event::Health(health) => Some(health),
            _ => None,
        })
        .collect();
    let collapse = told[0].collapse.as_ref().unwrap();
    assert!(told[0].step >= 200, "not before it should have learned");
    assert_eq!(collapse.best, None);
    let words = collapse.describe(&[]);
    assert!(
        words.contains("every prediction is") && words.contains("is dead"),
        "{words}"
    );
    let kept = metrics(&runs.path().join("one"));
    assert!(kept.iter().any(|e| matches!(e, Event::Health(_))));
}

#[test]
fn a_run_that_learns_is_told_nothing() {
    let runs = tempfile::tempdir().unwrap();
    let mut wanted = settings(runs.path());
    wanted.params.epochs = 30.0;
    let events = train_through(wanted);
    assert!(!events.iter().any(|e| matches!(e, Event::Health(_))));
}

#[test]
fn the_end_scores_the_average_and_the_best_weights_beside_the_last() {
    let runs = tempfile::tempdir().unwrap();
    let mut wanted = settings(runs.path());
    wanted.params.learning_rate = 0.1;
    wanted.params.epochs = 6.0;
    wanted.params.average_decay = 0.9;
    let events = train_through(wanted);
    // Each epoch has scores of both.
    let epochs = events.iter().filter_map(|e| match e {
        Event::Epoch(e) => Some((e.step, e.average.unwrap())),
        _ => None,
    });
    let validation = events.iter().filter_map(|e| match e {
        Event::Evaluation(e) if e.split == Split::Validation => Some(e),
        _ => None,
    });
    let averages = validation.filter(|e| e.weights == ScoredWeights::Average);
    let averages = averages.map(|e| (e.step, e.loss, e.accuracy));
    let epochs = epochs.map(|(step, average)| (step, average.loss, average.accuracy));
    assert!(epochs.eq(averages));
    let test: Vec<_> = events
        .iter()
        .filter_map(|e| match e {
            Event::Evaluation(e) if e.split == Split::Test => Some(e.clone()),
            _ => None,
        })
        .collect();
    let [last, average, best] = &test[..] else {
        panic!("the test wants a best epoch that is not the last: {test:?}");
    };
    assert_eq!((last.weights, last.step), (ScoredWeights::Last, 60));
    assert_eq!(
        (average.weights, average.step),
        (ScoredWeights::Average, 60)
    );
    assert_ne!(average.loss, last.loss);
    let folder = runs.path().join("one");
    assert_eq!(
        (best.weights, best.step),
        (ScoredWeights::Best, step(runs.path(), BEST))
    );
    // A run that resumes the best checkpoint gets the same test score.
    let copy = runs.path().join(BEST);
    std::fs::copy(folder.join(BEST), &copy).unwrap();
    let mut alone = FrontEnd::start(Settings {
        resume: Some(copy),
        runs: None,
        name: None,
        paused: true,
        ..settings(runs.path())
    });
    alone.send(Command::Show { split: Split::Test });
    alone.send(Command::Evaluate);
    let again = alone.evaluation(Split::Test);
    assert_eq!((&again.confusion, again.loss), (&best.confusion, best.loss));
    alone.quit();
    // Screens still show the images as scored by the last weights; the summary has all scores.
    let owner = crate::session::run_dir::Owner::new(crate::session::run_dir::HostId::this());
    let summary = crate::session::runs::RunsFolder::new(runs.path(), owner)
        .summary(&folder)
        .unwrap();
    assert_eq!(summary.test_accuracy, Some(last.accuracy));
    assert_eq!(summary.average_test_accuracy, Some(average.accuracy));
    assert_eq!(summary.best_test_accuracy, Some(best.accuracy));
}

#[test]
fn a_divergence_is_caught_at_its_step_and_best_stays() {
    let runs = tempfile::tempdir().unwrap();
    let mut wanted = settings(runs.path());
    wanted.params = Hyperparameters {
        optimizer: Optimizer::Sgd,
        architecture: "conv 4, relu, dense 16, relu, dense 10".into(),
        ..wanted.params
    };
    let mut front = FrontEnd::start(wanted);
    front.epoch();
    front.set("learning_rate", Value::Float(10.0));
    front.set("weight_decay", Value::Float(1.0));
    let (step, settled) = loop {
        // The run may end before it diverges; the changes then apply to more epochs.
        match front.next() {
            Event::State(State::Diverged { step, .. }) => break (step, true),
            Event::State(State::Done) => {
                front.set("epochs", Value::Int(200));
                front.send(Command::Resume);
            }
            Event::Ended { .. } => break (0, false),
            _ => {}
        }
    };
    assert!(settled && step > 10);
    let why = front.refused(Command::Resume);
    assert!(why.contains("learning rate"), "{why}");
    let (state, _) = front.quit();
    assert!(matches!(state, State::Diverged { step: s, .. } if s == step));
    let folder = runs.path().join("one");
    for name in [LAST, BEST] {
        let checkpoint = Checkpoint::read(&folder.join(name)).unwrap();
        assert!(checkpoint.run_state.step < step);
        let all = checkpoint.tensors.values().flat_map(|t| &t.values);
        assert!(all.into_iter().all(|v| v.is_finite()), "{name}");
    }
}

#[test]
fn a_value_that_is_not_finite_pauses_within_a_step_and_the_run_can_go_back() {
    // Sets a weight of each layer to NaN or infinity at several steps; a ReLU hides the last one.
    for (at, which, with) in [
        (1, 0, f32::NAN),
        (4, 1, f32::INFINITY),
        (10, 2, f32::NAN),
        (13, 3, f32::NEG_INFINITY),
        (20, 0, f32::NAN),
        (29, 1, f32::NAN),
    ] {
        diverges_and_goes_back(at, which, with);
    }
}

#[test]
#[ignore = "the long form: 20 random steps"]
fn values_that_are_not_finite_at_twenty_random_steps() {
    use crate::domain::rng::{Rng, Stream};
    let rng = Rng::new(20, Stream::Sample, 0);
    for i in 0..20 {
        let at = u64::from(rng.word(3 * i) % 30);
        let which = rng.word(3 * i + 1) as usize % 4;
        let with = [f32::NAN, f32::INFINITY][rng.word(3 * i + 2) as usize % 2];
        diverges_and_goes_back(at, which, with);
    }
}

fn diverges_and_goes_back(at: u64, which: usize, with: f32) {
    let runs = tempfile::tempdir().unwrap();
    let mut wanted = settings(runs.path());
    wanted.params.architecture = "conv 4, relu, dense 10".into();
    wanted.spoil = Some((at, which, with));
    let mut front = FrontEnd::start(wanted);
    let (step_of, first) = front.until(|e| match e {
        Event::State(State::Diverged { step, first }) => Some((*step, first.clone())),
        _ => None,
    });
    assert_eq!(step_of, at + 1, "caught within one step");
    let layers = ["conv1.weight", "conv1.bias", "dense1.weight", "dense1.bias"];
    assert_eq!(first, format!("the weights {}", layers[which]));
    let folder = runs.path().join("one");
    // The command to save does not save these weights.
    front.send(Command::Checkpoint);
    front.until(|e| match e {
        Event::Warning { text } => text.contains("not finite").then_some(()),
        _ => None,
    });
    let best = folder.join(BEST).exists().then(|| step(runs.path(), BEST));
    assert_eq!(best.is_some(), at >= 10);
    for name in [LAST, BEST] {
        if let Ok(checkpoint) = Checkpoint::read(&folder.join(name)) {
            assert!(checkpoint.run_state.step <= at);
            let mut all = checkpoint.tensors.values().flat_map(|t| &t.values);
            assert!(all.all(|v| v.is_finite()), "{name}");
        }
    }
    let last = step(runs.path(), LAST);
    front.send(Command::GoBack);
    let resumed = front.until(|e| match e {
        Event::Started(info) => Some(info.resumed_at),
        _ => None,
    });
    assert_eq!(resumed, Some(last + 1));
    assert_eq!(
        front.applied(),
        ("learning_rate".into(), Value::Float(5e-4), last + 1)
    );
    front.until_state(State::Done);
    front.quit();
    assert_eq!(step(runs.path(), LAST), 30);
    assert_metrics_are_seamless(&folder, 30);
    let lines = metrics(&folder);
    let applied = lines.iter().filter(|e| matches!(e, Event::Applied { .. }));
    assert_eq!(applied.count(), 1);
}

#[test]
fn go_back_is_refused_for_a_run_that_has_not_diverged() {
    let runs = tempfile::tempdir().unwrap();
    let mut front = FrontEnd::start(Settings {
        paused: true,
        ..settings(runs.path())
    });
    front.until_state(State::Paused);
    let why = front.refused(Command::GoBack);
    assert!(why.contains("nothing to go back from"), "{why}");
    front.quit();
}
