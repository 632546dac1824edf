//! Tests of `attach --pipe` and of `attach HOST:RUN` without a terminal.

use crate::support::{Place, json, session};
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

#[test]
fn a_pipe_carries_commands_and_events_and_ends_with_its_input() {
    let place = Place::with_data();
    let mut running = session(&place, "one", &[]);
    let mut command = place.command(&["attach", "--pipe", "--runs", "runs", "--", "one"]);
    let mut pipe = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(pipe.stdout.take().unwrap()).lines();
    let first = json(&lines.next().unwrap().unwrap()).remove(0);
    assert_eq!(
        (&first["v"], &first["event"]),
        (&1.into(), &"snapshot".into())
    );
    let mut input = pipe.stdin.take().unwrap();
    input
        .write_all(b"{\"v\":1,\"id\":7,\"command\":\"pause\"}\n")
        .unwrap();
    let done = lines
        .by_ref()
        .find(|line| line.as_ref().unwrap().contains("\"event\":\"done\""));
    let done = json(&done.unwrap().unwrap()).remove(0);
    assert!(done["id"] == 7 && done["applied_at"].is_u64(), "{done}");
    running.wait_for("\"paused\"");
    // The session writes an event a second, also while it is paused; the pipe ends all the same.
    drop(input);
    assert_eq!(pipe.wait().unwrap().code(), Some(0));
    running.signal(libc::SIGTERM);
    assert_eq!(running.end(), Some(143));
}

#[test]
fn a_pipe_to_nothing_and_a_screen_without_a_terminal_are_errors() {
    let place = Place::new();
    place
        .run(&["attach", "--pipe", "--runs", "runs"])
        .exits(5)
        .says(&["no session is running in"]);
    place
        .run(&["attach", "--ssh", "touch", "gpu-3:one"])
        .exits(2)
        .says(&["needs a terminal"]);
    let hostile = "-oProxyCommand=touch x:one";
    place
        .run(&["attach", hostile])
        .exits(2)
        .says(&["unexpected argument"]);
    place
        .run(&["attach", "--", hostile])
        .exits(2)
        .says(&["needs a terminal"]);
    assert!(!place.path("x").exists() && !place.path("--").exists());
}
