//! Sweeps of small runs.

use super::*;
use crate::domain::sweep::{JobStart, Plan, Strategy, TrialEnd, current_runs};
use crate::session::run_dir::{HostId, Owner};
use crate::session::sweep::{
    SweepEnd, SweepEvent, SweepFolder, SweepFolderError, SweepRequest, SweepRunner,
};
use crossbeam_channel::{Receiver, bounded, never};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

fn owner() -> Owner {
    Owner::new(HostId::this())
}

fn begin(runs: &Path, axes: &[&str], strategy: Strategy, epochs: f64) -> SweepFolder {
    let params = Hyperparameters { epochs, ..params() };
    let axes: Vec<String> = axes.iter().map(|axis| (*axis).into()).collect();
    let plan = Plan::new(&axes, Some(strategy), None, &params).unwrap();
    SweepFolder::create(runs, Some("sweep"), plan, owner()).unwrap()
}

/// Carries out a sweep, until it ends or is asked to stop.
fn train(
    folder: &mut SweepFolder,
    parallel: usize,
    requests: &Receiver<SweepRequest>,
    report: &mut dyn FnMut(&SweepEvent),
) -> SweepEnd {
    let settings = Settings {
        device: DeviceChoice::Cpu,
        threads: 1,
        ..Settings::default()
    };
    let mut runner = SweepRunner::new(folder, settings, parallel, true);
    runner.data = Arc::new(Mutex::new(Some(dataset())));
    runner.run(requests, report).unwrap()
}

fn done() -> SweepEnd {
    SweepEnd::Done { failed: Vec::new() }
}

/// Trains the run of a job alone. Returns its last checkpoint and its metrics.
fn alone(plan: &Plan, start: &JobStart) -> (Checkpoint, Vec<Event>) {
    let runs = tempfile::tempdir().unwrap();
    train_through(Settings {
        params: plan.params_of(&start.values),
        ..settings(runs.path())
    });
    let folder = runs.path().join("one");
    (content(&folder.join(LAST)), metrics(&folder))
}

#[test]
fn every_run_of_a_grid_equals_the_same_run_alone() {
    let runs = tempfile::tempdir().unwrap();
    let axes = ["lr=1e-3..1e-2 log 2", "seed=1,2", "batch_size=10,30"];
    let mut folder = begin(runs.path(), &axes, Strategy::Grid, 2.0);
    let mut began = Vec::new();
    let mut report = |event: &SweepEvent| {
        if let SweepEvent::Began(job) = event {
            began.push(job.clone());
        }
    };
    assert_eq!(train(&mut folder, 3, &never(), &mut report), done());
    assert_eq!(began.len(), 8);
    for job in &began {
        let run = folder.path().join(&job.run);
        let (checkpoint, lines) = alone(&folder.plan, &job.start);
        assert_eq!(content(&run.join(LAST)), checkpoint, "{job:?}");
        assert_eq!(metrics(&run), lines, "{job:?}");
    }
    // Nothing is left to do.
    let again = train(&mut folder, 3, &never(), &mut |event| panic!("{event:?}"));
    assert_eq!(again, done());
}

/// Stops a sweep after every second epoch and continues it, with another number of runs at a time.
fn train_with_interruptions(folder: &mut SweepFolder) -> usize {
    let mut interruptions = 0;
    loop {
        let (stop, stopped) = bounded(1);
        let mut epochs = 0;
        let mut report = |event: &SweepEvent| {
            epochs += usize::from(matches!(event, SweepEvent::Epoch { .. }));
            if epochs == 2 {
                let _ = stop.try_send(SweepRequest::Stop);
            }
        };
        let end = train(folder, 1 + interruptions % 3, &stopped, &mut report);
        match end {
            SweepEnd::Stopped => interruptions += 1,
            SweepEnd::Done { failed } => {
                assert_eq!(failed, []);
                return interruptions;
            }
        }
    }
}

/// The last checkpoints of a sweep's runs, without what depends on when they were saved.
fn results(folder: &mut SweepFolder) -> BTreeMap<String, (u64, Checkpoint)> {
    let progress = folder.progress().unwrap();
    let run = |name: &String| {
        let path = folder.path().join(name);
        let steps = assert_metrics_are_seamless_from_the_start(&path);
        let mut checkpoint = content(&path.join(LAST));
        if let Some(origin) = &mut checkpoint.run_state.origin {
            origin.run_started = 0.0;
        }
        (name.clone(), (steps, checkpoint))
    };
    progress.keys().map(run).collect()
}

#[test]
fn an_interrupted_sweep_reaches_the_same_and_trains_nothing_twice() {
    for (strategy, axis) in [
        (Strategy::Grid, "lr=1e-3..1e-2 log 4"),
        (Strategy::Population, "lr=1e-3..1e-2 log 4"),
    ] {
        let [calm, stormy] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let mut calm = begin(calm.path(), &[axis], strategy, 5.0);
        assert_eq!(train(&mut calm, 2, &never(), &mut |_| ()), done());
        let mut stormy = begin(stormy.path(), &[axis], strategy, 5.0);
        assert!(train_with_interruptions(&mut stormy) > 3, "{strategy:?}");
        let (stormy, calm) = (results(&mut stormy), results(&mut calm));
        assert_eq!(
            stormy.keys().collect::<Vec<_>>(),
            calm.keys().collect::<Vec<_>>()
        );
        for (run, result) in &stormy {
            assert!(result == &calm[run], "{strategy:?}: {run}");
        }
    }
}

#[test]
fn halving_trains_the_best_third_further() {
    let runs = tempfile::tempdir().unwrap();
    let mut folder = begin(
        runs.path(),
        &["lr=1e-5..1e-2 log 6"],
        Strategy::Halving,
        3.0,
    );
    assert!(train_with_interruptions(&mut folder) > 1);
    let rows = folder.report().unwrap().rows;
    let epochs: Vec<u32> = rows.iter().map(|row| row.progress.epochs()).collect();
    let first =
        |row: &crate::domain::sweep::TrialRow| row.summary.as_ref().unwrap().epochs[0].accuracy;
    assert!(
        (2..=3).contains(&epochs.iter().filter(|epochs| **epochs == 3).count()),
        "{epochs:?}"
    );
    assert!(
        epochs.iter().all(|epochs| [1, 3].contains(epochs)),
        "{epochs:?}"
    );
    let best = rows
        .iter()
        .max_by(|a, b| first(a).total_cmp(&first(b)))
        .unwrap();
    let full = rows
        .iter()
        .filter(|row| row.progress.end == Some(TrialEnd::Done));
    assert!(full.clone().any(|row| first(row) == first(best)));
    // A run that is trained to its end is that of the whole recipe.
    for row in full {
        let (checkpoint, _) = alone(&folder.plan, &row.start);
        assert_eq!(
            content(&folder.path().join(&row.run).join(LAST)),
            checkpoint
        );
    }
}

#[test]
fn a_population_copies_its_best_and_every_copy_is_on_the_record() {
    let runs = tempfile::tempdir().unwrap();
    let mut folder = begin(
        runs.path(),
        &["lr=1e-6..1e-2 log 4", "seed=3"],
        Strategy::Population,
        4.0,
    );
    let mut copies = Vec::new();
    let mut report = |event: &SweepEvent| match event {
        SweepEvent::Began(job) if job.start.copy_of.is_some() => copies.push(job.clone()),
        SweepEvent::Ended { why, .. } => assert_eq!(why, ""),
        _ => {}
    };
    assert_eq!(train(&mut folder, 2, &never(), &mut report), done());
    assert!(!copies.is_empty());
    let progress = folder.progress().unwrap();
    for job in &copies {
        let (donor, epoch) = job.start.copy_of.as_ref().unwrap();
        let state = content(&folder.path().join(&job.run).join(LAST)).run_state;
        let origin = state.origin.unwrap();
        assert_eq!(
            (&origin.run, origin.epoch, origin.epoch_over),
            (donor, *epoch, true)
        );
        let expected = folder.plan.params_of(&job.start.values);
        assert_eq!(state.params.learning_rate, expected.learning_rate);
        assert_eq!(
            progress[&job.run].accuracies[..*epoch as usize],
            progress[donor].accuracies[..*epoch as usize]
        );
    }
    for (run, _) in current_runs(&folder.plan, &progress).unwrap() {
        assert_eq!(
            (progress[&run].end, progress[&run].epochs()),
            (Some(TrialEnd::Done), 4)
        );
    }
}

#[test]
fn a_run_that_cannot_be_trained_does_not_stop_the_others() {
    let runs = tempfile::tempdir().unwrap();
    let mut folder = begin(
        runs.path(),
        &["architecture=conv 4, relu, dense 10; conv 4 k9, relu, pool 9, dense 10; dense 10"],
        Strategy::Grid,
        1.0,
    );
    let SweepEnd::Done { failed } = train(&mut folder, 2, &never(), &mut |_| ()) else {
        panic!("it was not stopped");
    };
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].0, "02", "{failed:?}");
    let progress = folder.progress().unwrap();
    assert_eq!(progress["01"].end, Some(TrialEnd::Done));
    assert_eq!(progress["03"].end, Some(TrialEnd::Done));
}

#[test]
fn a_run_that_was_killed_before_its_first_checkpoint_begins_again() {
    let runs = tempfile::tempdir().unwrap();
    let mut folder = begin(runs.path(), &["seed=1,2"], Strategy::Grid, 1.0);
    std::fs::create_dir(folder.path().join("01")).unwrap();
    std::fs::create_dir(folder.path().join("02")).unwrap();
    std::fs::write(folder.path().join("02/metrics.jsonl"), "{\"event\":").unwrap();
    assert_eq!(train(&mut folder, 2, &never(), &mut |_| ()), done());
    let epochs = folder
        .progress()
        .unwrap()
        .into_values()
        .map(|run| run.epochs());
    assert_eq!(epochs.collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn a_plan_is_read_again_and_a_wrong_one_is_refused_with_words() {
    let runs = tempfile::tempdir().unwrap();
    let folder = begin(runs.path(), &["lr=1e-4..1e-2 log"], Strategy::Grid, 1.0);
    let read = SweepFolder::open(runs.path(), Path::new("sweep"), owner()).unwrap();
    assert_eq!((&read.plan, read.path()), (&folder.plan, folder.path()));
    let again = SweepFolder::create(runs.path(), Some("sweep"), folder.plan.clone(), owner());
    let error = again.err().unwrap().to_string();
    assert!(error.contains("sweep --resume"), "{error}");
    let file = folder.path().join("sweep.json");
    let text = std::fs::read_to_string(&file).unwrap();
    for (old, new, part) in [
        ("\"v\": 1", "\"v\": 2", "version 2"),
        ("\"01\"", "\"../01\"", "cannot be a run's name"),
        ("0.0001", "\"x\"", "not allowed"),
        ("\"grid\"", "\"best\"", "best"),
        ("{", "[", "cannot read the plan"),
    ] {
        std::fs::write(&file, text.replacen(old, new, 1)).unwrap();
        let error = SweepFolder::open(runs.path(), Path::new("sweep"), owner())
            .err()
            .unwrap();
        let words = error.to_string();
        assert!(words.contains(part), "{words}");
    }
    let absent = SweepFolder::open(runs.path(), Path::new("other"), owner())
        .err()
        .unwrap();
    assert!(matches!(absent, SweepFolderError::Absent { .. }));
}
