//! Runs that are forked from another one.

mod command;

use super::*;
use crate::domain::fork::ForkAt;
use crate::domain::params::HYPERPARAMS;
use crate::domain::report::RunSummary;
use crate::session::resume::check;
use crate::session::run_dir::{HostId, Owner};
use crate::session::runs::RunsFolder;
use crate::train::kept;

/// The settings of a session that forks a run into `two`.
fn forking(runs: &Path, wanted: &str, changes: &[(&str, &str)]) -> Settings {
    let mut forking = Settings {
        fork: Some(wanted.into()),
        name: Some("two".into()),
        // The fork must not take these for changes.
        params: Hyperparameters::default(),
        keep: Keep::All,
        ..settings(runs)
    };
    for (key, text) in changes {
        let row = params::find(key).unwrap();
        row.set(&mut forking.params, row.parse(text).unwrap())
            .unwrap();
        forking.overrides.push((*key).into());
    }
    forking
}

/// A run of four epochs, all of which are kept.
fn parent(runs: &Path) {
    let mut wanted = settings(runs);
    wanted.params.epochs = 4.0;
    wanted.keep = Keep::All;
    train_epoch_by_epoch(wanted);
}

/// Trains a run, and waits for the checkpoint of each epoch: those that are slower than the training are not all saved.
fn train_epoch_by_epoch(wanted: Settings) {
    let epochs = wanted.params.epochs as u32;
    let folder = wanted.runs.clone().unwrap().join("one");
    let mut front = FrontEnd::start(Settings {
        paused: true,
        ..wanted
    });
    front.until_state(State::Paused);
    for step in 1..=10 * epochs {
        front.send(Command::Step);
        match step == 10 * epochs {
            true => front.until_state(State::Done),
            false => front.until_state(State::Paused),
        }
        let saved =
            |e: &Event| matches!(e, Event::Checkpoint(c) if c.step == u64::from(step) && !c.best);
        if step % 10 == 0 && !front.events.iter().any(saved) {
            front.until(|e| saved(e).then_some(()));
        }
    }
    front.quit();
    assert_eq!(kept::epochs(&folder), (1..=epochs).collect::<Vec<_>>());
}

fn summary(runs: &Path, name: &str) -> RunSummary {
    let mut runs = RunsFolder::new(runs, Owner::new(HostId::this()));
    let mut all = runs.list().unwrap().into_iter();
    all.find(|run| run.name == name).unwrap()
}

/// The contents of all files of a folder, by name.
fn files(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        match path.is_dir() {
            true => files.extend(self::files(&path)),
            false => files.push((path.clone(), std::fs::read(&path).unwrap())),
        }
    }
    files.sort();
    files
}

#[test]
fn a_fork_without_changes_equals_its_parent_bit_for_bit() {
    let runs = tempfile::tempdir().unwrap();
    parent(runs.path());
    let (one, two) = (runs.path().join("one"), runs.path().join("two"));
    let before = files(&one);
    train_through(forking(runs.path(), "one@2", &[]));
    let [own, parents] = [&two, &one].map(|run| content(&run.join(LAST)));
    let origin = own.run_state.origin.clone().unwrap();
    assert_eq!(
        (origin.step, origin.epoch, origin.epoch_over),
        (20, 2, true)
    );
    assert_eq!((&*origin.run, origin.fresh.len()), ("one", 0));
    assert_eq!(origin.changes, []);
    let mut expected = parents;
    expected.run_state.origin = Some(origin);
    assert_eq!(own, expected);
    assert_eq!(metrics(&two), metrics(&one));
    assert_metrics_are_seamless(&two, 40);
    assert_eq!(files(&one), before, "the parent is only read");
    // The best epoch may be one of the parent's.
    let best = own.run_state.best.unwrap();
    let saved = Checkpoint::read(&two.join(BEST)).unwrap();
    assert_eq!(saved.run_state.step, best.step);
}

#[test]
fn a_fork_begins_in_the_state_that_is_named() {
    let runs = tempfile::tempdir().unwrap();
    parent(runs.path());
    let best = content(&runs.path().join("one").join(BEST)).run_state;
    let kept = runs.path().join("one").join(kept::file_of(1));
    let by_folder = format!("{}@3", runs.path().join("one").display());
    for (wanted, step) in [
        ("one@1", 10),
        ("one@step:30", 30),
        ("one@best", best.step),
        (kept.to_str().unwrap(), 10),
        (&*by_folder, 30),
    ] {
        let mut front = FrontEnd::start(Settings {
            paused: true,
            name: None,
            ..forking(runs.path(), wanted, &[("epochs", "9")])
        });
        let origin = front.until(|e| match e {
            Event::Started(info) => Some((info.resumed_at, info.origin.clone().unwrap())),
            _ => None,
        });
        assert_eq!(origin.0, None);
        assert_eq!((&*origin.1.run, origin.1.step), ("one", step), "{wanted}");
        front.until_state(State::Paused);
        front.quit();
    }
    // The last checkpoint is that of the end, where nothing is left to train.
    let why = check(&forking(runs.path(), "one", &[])).unwrap_err();
    assert!(why.is_usage());
    assert!(why.to_string().contains("`epochs` of more than 4"), "{why}");
    check(&forking(runs.path(), "one", &[("epochs", "5")])).unwrap();
}

#[test]
fn a_state_that_was_not_saved_is_refused_and_the_nearest_is_named() {
    let runs = tempfile::tempdir().unwrap();
    parent(runs.path());
    let folder = runs.path().join("one");
    for file in [&*kept::file_of(2), BEST] {
        std::fs::remove_file(folder.join(file)).unwrap();
    }
    let why = |wanted: &str| {
        let error = check(&forking(runs.path(), wanted, &[])).unwrap_err();
        assert!(error.is_usage(), "{error}");
        error.to_string()
    };
    for (wanted, nearest) in [
        ("one@2", "one@1`"),
        ("one@99", "one@4`"),
        ("one@step:26", "one@3`"),
    ] {
        let why = why(wanted);
        assert!(
            why.contains("cifar-tui fork ") && why.contains(nearest),
            "{why}"
        );
    }
    // An `@` in the name of a folder belongs to the name.
    let odd = runs.path().join("a@3");
    std::fs::rename(&folder, &odd).unwrap();
    check(&forking(runs.path(), "a@3@1", &[])).unwrap();
    let error = why("a@3");
    assert!(
        error.contains("4 epochs are done"),
        "it is the last: {error}"
    );
    for (wanted, words) in [
        ("one@1", "there is no run 'one'"),
        ("", "there is no run ''"),
        ("@1", "there is no run ''"),
        ("@", "there is no run ''"),
        ("a@3@", "'' is not a state"),
        ("a@3@5x", "'5x' is not a state"),
        ("a@3@step:", "'step:' is not a state"),
        ("a@3@step:99999999999999999999", "is not a state"),
        ("a@3@99999999999", "is not a state"),
        ("a@3@18446744073709551615", "is not a state"),
        ("a@3@4294967295", "a@3@4`"),
        ("a@3@step:18446744073709551615", "a@3@4`"),
        ("\u{1b}[31m@1", "\\u{1b}[31m"),
        ("..", "there is no run"),
        ("a\0b", "there is no run"),
    ] {
        let why = why(wanted);
        assert!(why.contains(words), "{wanted}: {why}");
    }
}

#[test]
fn a_fork_may_differ_in_everything_but_the_split() {
    let runs = tempfile::tempdir().unwrap();
    parent(runs.path());
    for row in HYPERPARAMS {
        let other = match row.key {
            "architecture" => "conv 6, relu, dense 10".to_owned(),
            "epochs" => "9".into(),
            "layer_rates" => "conv1 0".into(),
            // The recipes come with other shares of validation images.
            "recipe" => continue,
            _ => {
                let value = row.get(&params());
                row.nudged(&value, true, false).unwrap().to_string()
            }
        };
        let checked = check(&forking(runs.path(), "one@2", &[(row.key, &other)]));
        match row.key {
            "validation" => {
                let error = checked.unwrap_err();
                assert!(error.is_usage());
                let why = error.to_string();
                assert!(why.contains("stays 0.2") && why.contains("0.25"), "{why}");
            }
            _ => checked.unwrap_or_else(|e| panic!("{}: {e}", row.key)),
        }
    }
    let recipe = |changes: &[(&str, &str)]| check(&forking(runs.path(), "one@2", changes));
    recipe(&[("recipe", "resnet")]).unwrap();
    assert!(recipe(&[("recipe", "airbench")]).is_err());
    recipe(&[("recipe", "airbench"), ("validation", "0.2")]).unwrap();
}

#[test]
fn another_optimizer_begins_with_the_weights_and_a_fresh_state() {
    let runs = tempfile::tempdir().unwrap();
    parent(runs.path());
    let changes = [("optimizer", "sgd"), ("learning_rate", "0.02")];
    let mut front = FrontEnd::start(Settings {
        paused: true,
        ..forking(runs.path(), "one@2", &changes)
    });
    front.until_state(State::Paused);
    front.quit();
    let two = runs.path().join("two");
    let begun = content(&two.join(LAST));
    let kept = content(&runs.path().join("one").join(kept::file_of(2)));
    let weights = |checkpoint: &Checkpoint| {
        let mut tensors = checkpoint.tensors.clone();
        tensors.retain(|name, _| !name.starts_with("optimizer."));
        tensors
    };
    assert_eq!(weights(&begun), weights(&kept));
    let slots: Vec<_> = begun
        .tensors
        .iter()
        .filter(|t| t.0.starts_with("optimizer."))
        .collect();
    assert!(!slots.is_empty());
    for (name, slot) in slots {
        assert!(name.starts_with("optimizer.momentum_buffer."), "{name}");
        assert!(slot.values.iter().all(|v| *v == 0.0));
    }
    // Both changes take effect with the first step, and the run goes on to its end.
    let mut front = FrontEnd::start(Settings {
        resume: Some("two".into()),
        name: None,
        ..settings(runs.path())
    });
    front.until_state(State::Done);
    front.quit();
    let end = content(&two.join(LAST)).run_state;
    let applied: Vec<_> = end
        .changes
        .iter()
        .map(|a| (&*a.change.key, a.step))
        .collect();
    assert_eq!(applied, [("optimizer", 21), ("learning_rate", 21)]);
    let recorded = metrics(&two).into_iter().filter_map(|e| match e {
        Event::Applied { change, step, .. } => Some((change.key, step)),
        _ => None,
    });
    let expected = applied.iter().map(|(key, step)| ((*key).to_owned(), *step));
    assert_eq!(recorded.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    assert_metrics_are_seamless(&two, 40);
    let summary = summary(runs.path(), "two");
    let origin = summary.origin.as_ref().unwrap();
    assert_eq!(origin.changes.len(), 2);
    assert_eq!(summary.params.optimizer, Optimizer::Sgd);
    assert_eq!((summary.parent.as_deref(), summary.depth), (Some("one"), 1));
}

#[test]
fn weights_that_fit_another_architecture_are_taken_over_and_the_rest_is_named() {
    let runs = tempfile::tempdir().unwrap();
    parent(runs.path());
    let wider = "conv 4, norm, relu, pool, drop, dense 12, relu, dense 10";
    let mut front = FrontEnd::start(Settings {
        paused: true,
        ..forking(runs.path(), "one@3", &[("architecture", wider)])
    });
    let notice = front.notice();
    assert!(
        notice.contains("5 of 9 weight tensors") && notice.contains("dense1.bias"),
        "{notice}"
    );
    front.until_state(State::Paused);
    front.quit();
    let two = runs.path().join("two");
    let begun = content(&two.join(LAST));
    let kept = content(&runs.path().join("one").join(kept::file_of(3)));
    let origin = begun.run_state.origin.as_ref().unwrap();
    let fresh = [
        "dense1.bias",
        "dense1.weight",
        "dense2.bias",
        "dense2.weight",
    ];
    assert_eq!(
        (origin.taken, &*origin.fresh),
        (5, &fresh.map(str::to_owned)[..])
    );
    for (name, tensor) in &begun.tensors {
        match name.strip_prefix("optimizer.") {
            Some(_) => assert!(tensor.values.iter().all(|v| *v == 0.0), "{name}"),
            None if fresh.contains(&&**name) => assert_ne!(Some(tensor), kept.tensors.get(name)),
            None => assert_eq!(Some(tensor), kept.tensors.get(name), "{name}"),
        }
    }
    assert_eq!(
        begun.run_state.best, None,
        "its best weights are of another network"
    );
    let mut front = FrontEnd::start(Settings {
        resume: Some("two".into()),
        name: None,
        ..settings(runs.path())
    });
    front.until_state(State::Done);
    front.quit();
    assert_metrics_are_seamless(&two, 40);
}

#[test]
fn another_seed_keeps_the_split() {
    let runs = tempfile::tempdir().unwrap();
    parent(runs.path());
    train_through(forking(runs.path(), "one@2", &[("seed", "77")]));
    let [one, two] = ["one", "two"].map(|run| content(&runs.path().join(run).join(LAST)));
    assert_eq!(
        (two.run_state.params.seed, two.run_state.split_seed),
        (77, 4)
    );
    assert_ne!(
        one.tensors, two.tensors,
        "the order of the images is another one"
    );
    // The same images are scored: without a step in between, the scores are the same.
    let images = |checkpoint: &Checkpoint, name: &str| {
        let mut front = FrontEnd::start(Settings {
            fork: Some(name.into()),
            resume: None,
            name: None,
            paused: true,
            overrides: vec!["epochs".into()],
            params: Hyperparameters {
                epochs: 9.0,
                ..params()
            },
            ..settings(runs.path())
        });
        front.until_state(State::Paused);
        front.send(Command::Evaluate);
        front.evaluation(Split::Validation);
        let (total, items) = front.samples(Filter::All);
        front.quit();
        assert_eq!(checkpoint.run_state.step, 40);
        (
            total,
            items.into_iter().map(|item| item.index).collect::<Vec<_>>(),
        )
    };
    assert_eq!(images(&one, "one"), images(&two, "two"));
    // A run of that seed has another split.
    let other = tempfile::tempdir().unwrap();
    let mut wanted = settings(other.path());
    wanted.params.seed = 77;
    train_through(wanted);
    let other = content(&other.path().join("one").join(LAST)).run_state;
    assert_eq!(other.split_seed, 77);
}

#[test]
fn a_run_that_another_session_trains_is_forked_and_not_disturbed() {
    let runs = tempfile::tempdir().unwrap();
    let mut wanted = settings(runs.path());
    wanted.params.epochs = 4.0;
    let mut first = FrontEnd::start(Settings {
        paused: true,
        ..wanted
    });
    first.until_state(State::Paused);
    for _ in 0..15 {
        first.send(Command::Step);
        first.until_state(State::Paused);
    }
    first.send(Command::Checkpoint);
    first.until(|e| matches!(e, Event::Checkpoint(c) if c.step == 15).then_some(()));
    train_through(forking(runs.path(), "one", &[]));
    first.send(Command::Resume);
    first.until_state(State::Done);
    first.quit();
    let [one, two] = ["one", "two"].map(|name| runs.path().join(name));
    assert_eq!(metrics(&two), metrics(&one));
    assert_eq!(
        content(&two.join(LAST)).tensors,
        content(&one.join(LAST)).tensors
    );
}

#[test]
fn a_fork_that_is_resumed_stays_a_fork_and_outlives_its_parent() {
    let runs = tempfile::tempdir().unwrap();
    parent(runs.path());
    let two = runs.path().join("two");
    // The session ends before the first step.
    let mut front = FrontEnd::start(Settings {
        paused: true,
        ..forking(runs.path(), "one@2", &[("dropout", "0.3")])
    });
    front.until_state(State::Paused);
    front.quit();
    let origin = content(&two.join(LAST)).run_state.origin;
    let mut front = FrontEnd::start(Settings {
        resume: Some("two".into()),
        name: None,
        ..settings(runs.path())
    });
    let started = front.until(|e| match e {
        Event::Started(info) => Some((info.resumed_at, info.origin.clone())),
        _ => None,
    });
    assert_eq!(started, (Some(21), origin));
    front.until_state(State::Done);
    front.quit();
    assert_metrics_are_seamless(&two, 40);
    // A fork of a fork.
    train_through(Settings {
        name: Some("three".into()),
        ..forking(runs.path(), "two@2", &[])
    });
    let three = summary(runs.path(), "three");
    assert_eq!((three.parent.as_deref(), three.depth), (Some("two"), 2));
    let mut folder = RunsFolder::new(runs.path(), Owner::new(HostId::this()));
    folder.rename("one", "first").unwrap();
    let named = summary(runs.path(), "two").forked_from().unwrap();
    assert!(named.ends_with(", now called first"), "{named}");
    folder.delete("first").unwrap();
    let gone = summary(runs.path(), "two");
    assert_eq!((gone.parent.as_ref(), gone.depth), (None, 0));
    let named = gone.forked_from().unwrap();
    assert!(named.ends_with("a run that is gone"), "{named}");
    assert_metrics_are_seamless(&two, 40);
}
