//! Tests of `sweep` as a user runs it: output, signals, and processes that are killed.

use crate::support::{Done, Place, Running, TINY};
use serde_json::Value;
use std::collections::BTreeMap;

const COMMON: [&str; 12] = [
    "sweep",
    "--runs",
    "runs",
    "--data",
    "data",
    "--device",
    "cpu",
    "--threads",
    "2",
    "--epochs",
    "4",
    "--json",
];

fn arguments<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let network: &[&str] = match more.contains(&"--resume") {
        true => {
            return [
                &[
                    "sweep",
                    "--runs",
                    "runs",
                    "--device",
                    "cpu",
                    "--threads",
                    "2",
                    "--json",
                ],
                more,
            ]
            .concat();
        }
        false => &["--arch", TINY, "--batch", "16"],
    };
    [&COMMON, network, more].concat()
}

fn sweep(place: &Place, more: &[&str]) -> Done {
    place.run(&arguments(more))
}

fn begin(place: &Place, more: &[&str]) -> Running {
    place.start(&arguments(more))
}

/// What a sweep has reached at its end: the accuracies and the values of each run.
fn results(lines: &[Value]) -> BTreeMap<String, Value> {
    let results = lines.iter().filter(|line| line["event"] == "result");
    results
        .map(|line| (line["run"].as_str().unwrap().into(), line.clone()))
        .collect()
}

/// Asserts that each epoch of a run is in its metrics once, and every step.
fn assert_seamless(place: &Place, run: &str, epochs: u64) {
    let metrics = place.read(&format!("runs/{run}/metrics.jsonl"));
    let lines = crate::support::json(&metrics);
    let (mut epoch, mut step) = (0, 0);
    for line in lines {
        if line["event"] == "epoch" {
            epoch += 1;
            assert_eq!(line["epoch"], epoch, "{run}");
        }
        if line["event"] == "steps" {
            assert_eq!(line["first"], step + 1, "{run}: a gap or a duplicate");
            step = line["last"].as_u64().unwrap();
        }
    }
    assert_eq!(epoch, epochs, "{run}");
}

#[test]
fn a_sweep_prints_what_happens_and_ranks_its_runs() {
    let place = Place::with_data();
    let args = [
        "sweep",
        "lr=1e-3,1e-2",
        "seed=1..2",
        "--runs",
        "runs",
        "--data",
        "data",
        "--device",
        "cpu",
        "--arch",
        TINY,
        "--epochs",
        "2",
        "--name",
        "rates",
        "--parallel",
        "2",
    ];
    let out = place.run(&args).exits(0).out;
    for part in [
        "sweep    rates in ",
        ": 4 trials, grid, 2 at a time\n",
        "01       lr 0.001, seed 1\n",
        "04       epoch 2  val ",
        "04       done\n",
        "\nrun  outcome      epochs  best val     test  values\n",
        "\nbest val  standard error  seeds  values\n",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    // Its runs are runs like any other.
    let show = place
        .run(&["runs", "show", "03", "--runs", "runs/rates"])
        .exits(0)
        .out;
    assert!(show.contains("* learning_rate    0.01\n"), "{show}");
    let again = sweep(&place, &["--resume", "rates"]).exits(0);
    assert_eq!(results(&again.json()).len(), 4);
    assert_eq!(
        again.json().len(),
        5,
        "nothing is trained again: {}",
        again.out
    );
    sweep(&place, &["seed=1,2", "--name", "rates"])
        .exits(1)
        .says(&["exists already", "sweep --resume runs/rates"]);
}

#[test]
fn wrong_sweeps_are_refused_before_anything_is_made() {
    let place = Place::with_data();
    for (args, code, part) in [
        (&["dropuot=0.1"][..], 1, "did you mean 'dropout'"),
        (&[], 1, "needs hyperparameters to vary"),
        (
            &["seed=1..4", "--strategy", "grid", "--trials", "2"],
            1,
            "no effect on a grid",
        ),
        (
            &["seed=1..4", "--strategy", "halving", "--validation", "0"],
            1,
            "chosen by the test images",
        ),
        (
            &["seed=1..4", "--data", "nowhere"],
            2,
            "cannot be used multiple times",
        ),
        (&["--resume", "other"], 1, "there is no sweep 'other'"),
        (&["--resume", "other", "--lr", "1"], 2, "no effect"),
        (&["--resume", "other", "seed=1"], 2, "cannot be used with"),
    ] {
        sweep(&place, args).exits(code).says(&[part]);
    }
    assert!(
        !place.path("runs").exists()
            || std::fs::read_dir(place.path("runs"))
                .unwrap()
                .next()
                .is_none()
    );
}

/// A sweep that is killed again and again reaches what an undisturbed one does.
#[test]
fn a_sweep_that_is_killed_goes_on_and_trains_nothing_twice() {
    let place = Place::with_data();
    let axes = ["lr=1e-3..1e-1 log 4", "--parallel", "2"];
    let calm = sweep(&place, &[&axes[..], &["--name", "calm"]].concat()).exits(0);
    let mut kills = 0;
    let mut running = begin(&place, &[&axes[..], &["--name", "stormy"]].concat());
    // Each process is killed after other lines of its output: at the beginning of a run, after an epoch, at an end.
    for lines in [2, 3, 4, 2, 5, 3, 4, 3] {
        let mut ended = false;
        for _ in 0..lines {
            ended = running.line().contains("\"event\":\"result\"");
            if ended {
                break;
            }
        }
        if ended {
            break;
        }
        running.signal(libc::SIGKILL);
        running.end();
        kills += 1;
        running = begin(&place, &["--resume", "stormy"]);
    }
    assert!(kills >= 4, "{kills}");
    let lines = crate::support::json(&running.rest());
    assert_eq!(running.end(), Some(0));
    let stormy = results(&lines);
    // The run that reached its result before the rest was read is missing at most.
    assert!(stormy.len() >= 3);
    let calm = results(&calm.json());
    for (run, result) in &stormy {
        assert_eq!(result, &calm[run]);
    }
    for run in calm.keys() {
        assert_seamless(&place, &format!("stormy/{run}"), 4);
    }
}

#[test]
fn a_signal_ends_a_sweep_with_everything_saved() {
    let place = Place::with_data();
    let mut running = begin(&place, &["seed=1..4", "--name", "one"]);
    running.wait_for("\"event\":\"epoch\"");
    running.signal(libc::SIGTERM);
    assert_eq!(running.end(), Some(143));
    let rest = sweep(&place, &["--resume", "one"]).exits(0);
    assert_eq!(results(&rest.json()).len(), 4);
    for run in ["01", "02", "03", "04"] {
        assert_seamless(&place, &format!("one/{run}"), 4);
    }
}

/// Two processes work on one sweep.
#[test]
fn two_processes_share_a_sweep() {
    let place = Place::with_data();
    let mut first = begin(&place, &["seed=1..6", "--name", "both", "--parallel", "1"]);
    first.wait_for("\"event\":\"began\"");
    let second = sweep(&place, &["--resume", "both", "--parallel", "1"]).exits(0);
    assert_eq!(first.end(), Some(0));
    let results = results(&second.json());
    assert_eq!(results.len(), 6);
    for (run, result) in results {
        assert_eq!(result["end"], "done", "{run}");
        assert_seamless(&place, &format!("both/{run}"), 4);
    }
}

#[test]
fn a_run_that_the_user_stops_is_left_as_it_is() {
    let place = Place::with_data();
    let args = [
        "sweep",
        "seed=1,2",
        "--name",
        "one",
        "--runs",
        "runs",
        "--data",
        "data",
        "--device",
        "cpu",
        "--arch",
        TINY,
        "--epochs",
        "9999",
        "--parallel",
        "1",
        "--json",
    ];
    let mut running = place.start(&args);
    for run in ["01", "02"] {
        running.wait_for("\"event\":\"epoch\"");
        place
            .run(&["send", "--runs", "runs/one", run, "stop"])
            .exits(0);
        running.wait_for("\"end\":\"stopped\"");
    }
    assert_eq!(running.end(), Some(0));
    let again = sweep(&place, &["--resume", "one"]).exits(0);
    assert_eq!(again.json().len(), 3, "{}", again.out);
}
