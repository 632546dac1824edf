//! Whole runs, and what they leave in their folders.

use super::*;

#[test]
fn a_run_learns_and_writes_all_its_files() {
    let runs = tempfile::tempdir().unwrap();
    let mut wanted = settings(runs.path());
    wanted.params.test_each_epoch = true;
    let events = train_through(wanted);
    let epochs: Vec<_> = events
        .iter()
        .filter_map(|e| match e {
            Event::Epoch(e) => Some(e),
            _ => None,
        })
        .collect();
    assert_eq!(epochs.len(), 3);
    assert!(epochs[2].train_loss < epochs[0].train_loss);
    assert!(epochs.iter().all(|e| e.test_accuracy.is_some()));
    assert!(matches!(events[0], Event::State(State::Loading { .. })));
    let saved = events.iter().rev().find_map(|e| match e {
        Event::Checkpoint(report) => Some(report.step),
        _ => None,
    });
    assert_eq!(saved, Some(epochs[2].step));
    let folder = runs.path().join("one");
    for file in [
        "config.toml",
        "metrics.jsonl",
        LAST,
        BEST,
        "accuracy.png",
        "loss.png",
        "confusion.png",
    ] {
        assert!(folder.join(file).is_file(), "{file}");
    }
    assert_eq!(step(runs.path(), LAST), 30);
    let lines = metrics(&folder);
    assert_eq!(lines.last(), Some(&Event::State(State::Done)));
    // The metrics contain every step once.
    let mut next = 1;
    for line in &lines {
        if let Event::Steps(steps) = line {
            assert_eq!(steps.first, next);
            next = steps.last + 1;
        }
    }
    assert_eq!(next, 31);
}

#[test]
fn the_same_seed_gives_the_same_metrics_for_one_thread_and_two() {
    let [a, b] = [1, 2].map(|threads| {
        let runs = tempfile::tempdir().unwrap();
        let wanted = Settings {
            threads,
            ..settings(runs.path())
        };
        train_through(wanted);
        let folder = runs.path().join("one");
        (metrics(&folder), content(&folder.join(LAST)))
    });
    assert_eq!(a, b);
}
