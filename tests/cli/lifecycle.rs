//! Tests of outside influences on a run: signals, a terminal that disappears, suspension, a deleted folder; and of the
//! messages at its end.

use crate::support::{Place, Running, TINY};
use cifar_tui::train::checkpoint::Checkpoint;
use cifar_tui::train::saver::LAST;
use serde_json::Value;
use std::fs::File;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Longer than any step of a test takes on a busy computer.
const DEADLINE: Duration = Duration::from_secs(120);

/// Arguments of a run with epochs of some seconds, so that only the first checkpoint is written before the first epoch
/// ends.
const SLOW: &[&str] = &[
    "train",
    "--json",
    "--runs",
    "runs",
    "--device",
    "cpu",
    "--threads",
    "1",
    "--data",
    "sample",
    "--arch",
    "seed",
    "--epochs",
    "9999",
    "--name",
    "long",
];
const USER: [i32; 2] = [libc::SIGUSR1, libc::SIGUSR2];

/// Waits for a condition that is not in the output.
#[track_caller]
fn until(what: &str, is: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !is() {
        assert!(Instant::now() < end, "{what} did not come");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

fn slow(place: &Place, batch: &str, more: &[&str]) -> Running {
    place.start(&[SLOW, &["--batch", batch], more].concat())
}

/// Reads up to the next event with this name. Fails if an event `other` comes first.
#[track_caller]
fn next(running: &mut Running, name: &str, other: &str) -> Value {
    loop {
        let line = running.line();
        let event: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert_ne!(event["event"], other, "{line}");
        if event["event"] == name {
            return event;
        }
    }
}

fn saved_step(place: &Place) -> u64 {
    let read = Checkpoint::read(&place.path("runs/long").join(LAST));
    read.unwrap().run_state.step
}

#[test]
fn user_signals_write_a_checkpoint_and_the_run_goes_on() {
    for signal in USER {
        let place = Place::new();
        let mut running = slow(&place, "1", &[]);
        next(&mut running, "steps", "epoch");
        running.signal(signal);
        let step = loop {
            let event = next(&mut running, "checkpoint", "epoch");
            if event["step"] != 0 {
                break event["step"].as_u64().unwrap();
            }
        };
        assert!(saved_step(&place) >= step);
        let next = next(&mut running, "steps", "epoch");
        assert!(next["last"].as_u64().unwrap() > step);
        running.signal(libc::SIGTERM);
        assert_eq!(running.end(), Some(143));
    }
}

#[test]
fn user_signals_end_a_run_with_a_checkpoint_if_so_configured() {
    for (signal, state) in [
        (libc::SIGUSR1, "loading"),
        (libc::SIGUSR2, "loading"),
        (libc::SIGUSR1, "running"),
        (libc::SIGUSR1, "evaluating"),
    ] {
        let place = Place::new();
        // More validation images than training images.
        let share = if state == "evaluating" { "0.9" } else { "0.2" };
        let args = ["--on-usr1", "checkpoint-and-stop", "--validation", share];
        let mut running = slow(&place, "50", &args);
        running.wait_for(&match state {
            // The signal abandons the current step, so wait until one was made.
            "running" => "\"event\":\"steps\"".to_owned(),
            _ => format!("\"is\":\"{state}\""),
        });
        running.signal(signal);
        assert_eq!(running.end(), Some(128 + signal), "{state}");
        match state {
            // No run had started.
            "loading" => assert!(!place.path("runs/long").exists()),
            _ => assert!(saved_step(&place) > 0),
        }
    }
}

/// Number of epochs in the plain output.
fn epochs(log: &str) -> usize {
    log.lines()
        .filter(|line| line.starts_with("epoch "))
        .count()
}

#[test]
fn a_log_goes_on_after_a_hangup() {
    let place = Place::with_data();
    let args = [
        "train", "--runs", "runs", "--data", "data", "--arch", TINY, "--epochs", "9999", "--name",
        "long",
    ];
    let log = File::create(place.path("log")).unwrap();
    let running = place.start_with(&args, Stdio::from(log));
    until("an epoch", || epochs(&place.read("log")) > 0);
    running.signal(libc::SIGHUP);
    let before = epochs(&place.read("log"));
    until("more epochs", || epochs(&place.read("log")) > before + 1);
    running.signal(libc::SIGTERM);
    assert_eq!(running.end(), Some(143));
    let log = place.read("log");
    assert!(log.contains("stopping"), "{log}");
}

#[test]
fn a_stopped_run_prints_the_command_that_resumes_it() {
    let place = Place::with_data();
    let args = [
        "train", "--runs", "my runs", "--data", "data", "--arch", TINY, "--epochs", "9999",
        "--name", "long",
    ];
    let log = File::create(place.path("log")).unwrap();
    let running = place.start_with(&args, Stdio::from(log));
    until("an epoch", || epochs(&place.read("log")) > 0);
    running.signal(libc::SIGINT);
    assert_eq!(running.end(), Some(130));
    let log = place.read("log");
    let last = log.lines().last().unwrap();
    assert!(
        last.starts_with("run      long is saved up to step "),
        "{log}"
    );
    let command = last.split('`').nth(1).unwrap();
    assert_eq!(command, "cifar-tui train --resume 'my runs/long'");
    let mut again = place.start(&[
        "train",
        "--json",
        "--resume",
        "my runs/long",
        "--data",
        "data",
    ]);
    next(&mut again, "steps", "ended");
    again.signal(libc::SIGINT);
    assert_eq!(again.end(), Some(130));
}

#[test]
fn an_error_is_printed_once() {
    let place = Place::new();
    let done = place
        .run(&["train", "--runs", "runs", "--data", "absent"])
        .exits(1);
    assert_eq!(done.err.matches("absent").count(), 1, "{}", done.err);
    assert!(!done.out.contains("absent"), "{}", done.out);
}

#[test]
fn a_run_whose_folder_was_deleted_is_reported_as_not_saved() {
    let place = Place::new();
    let mut running = slow(&place, "50", &[]);
    next(&mut running, "steps", "epoch");
    std::fs::remove_dir_all(place.path("runs/long")).unwrap();
    running.signal(libc::SIGTERM);
    let (code, err) = running.end_with_errors();
    assert_eq!(code, Some(1), "{err}");
    assert!(
        err.contains("error: not everything is saved of a run that came to step ")
            && err.contains("runs/long"),
        "{err}"
    );
}

#[test]
fn time_suspended_does_not_count_as_training() {
    let place = Place::new();
    let begin = Instant::now();
    let mut running = slow(&place, "512", &[]);
    // Skip the first steps, before which the usual time of a step is unknown.
    (0..3).for_each(|_| drop(next(&mut running, "steps", "epoch")));
    running.signal(libc::SIGSTOP);
    running.wait_stopped();
    let stopped = Instant::now();
    // Wait for as long as the run has trained so far.
    while stopped.elapsed() < stopped - begin {
        place.run(&["data", "info", "--data", "sample"]).exits(0);
    }
    let pause = stopped.elapsed();
    running.signal(libc::SIGCONT);
    // The step during which the process was stopped, without those reported before.
    let last = (0..4)
        .map(|_| next(&mut running, "steps", "epoch"))
        .last()
        .unwrap();
    let running_time = begin.elapsed() - pause;
    let elapsed = last["elapsed"].as_f64().unwrap();
    assert!(
        elapsed <= running_time.as_secs_f64(),
        "{elapsed} of {running_time:?}, stopped for {pause:?}"
    );
    running.signal(libc::SIGTERM);
    assert_eq!(running.end(), Some(143));
}
