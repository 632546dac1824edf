//! Tests of a terminal that disappears, blocks or is detached on purpose: training continues, and `attach` returns to
//! it.

use crate::LONG;
use crate::pty::{Pty, Size};
use std::time::{Duration, Instant};

/// The command that `D` prints.
pub const ATTACH: &[&str] = &["attach", "runs/long"];

fn training() -> Pty {
    let mut pty = Pty::start(Size::SMALL, LONG);
    pty.wait_for("an epoch", |s| s.contains("best"));
    pty
}

/// Number of steps in the run's metrics.
fn written(pty: &Pty) -> u64 {
    std::fs::metadata(pty.path("runs/long/metrics.jsonl")).map_or(0, |m| m.len())
}

#[track_caller]
fn trains_on(pty: &mut Pty) {
    let path = pty.path("runs/long/metrics.jsonl");
    let before = written(pty);
    pty.until("more training", || {
        std::fs::metadata(&path).unwrap().len() > before
    });
}

/// Asserts that the threads of the screen have ended.
#[cfg(target_os = "linux")]
#[track_caller]
fn has_no_screen(pty: &mut Pty) {
    for name in ["keys", "stray output"] {
        let there = pty.has_thread(name);
        pty.until("the screen's end", || !there());
    }
}

/// Attaches, asserts that the history is complete, and ends the session.
#[track_caller]
fn ends_by_attaching(pty: &mut Pty) {
    let mut other = pty.beside(Size::WIDE, ATTACH);
    other.wait_for("the history", |s| {
        s.contains("long") && s.contains("best") && s.contains("training")
    });
    other.keys(" ");
    other.wait_for("a pause", |s| s.contains("paused"));
    other.keys("q");
    other.wait_for("a question", |s| s.contains("for everyone?"));
    other.keys("y");
    other.ends_with(0);
    assert_eq!(pty.code(), 0);
    assert!(pty.path("runs/long/last.safetensors").is_file());
    assert!(pty.path("runs/long/lease").is_file(), "the run is free");
}

fn hangup(vanishes: bool) {
    let mut pty = training();
    match vanishes {
        true => pty.vanish(),
        false => pty.signal(libc::SIGHUP),
    }
    #[cfg(target_os = "linux")]
    has_no_screen(&mut pty);
    trains_on(&mut pty);
    ends_by_attaching(&mut pty);
}

#[test]
fn after_a_lost_terminal_the_run_trains_on_and_attach_returns_to_it() {
    hangup(true);
}

#[test]
fn a_hangup_signal_does_the_same() {
    hangup(false);
}

#[test]
pub fn to_stop_on_a_hangup_can_be_chosen() {
    for vanishes in [true, false] {
        let args = [LONG, &["--on-hangup", "checkpoint-and-stop"]].concat();
        let mut pty = Pty::start(Size::SMALL, &args);
        pty.wait_for("an epoch", |s| s.contains("best"));
        match vanishes {
            true => pty.vanish(),
            false => pty.signal(libc::SIGHUP),
        }
        assert_eq!(pty.code(), 129);
        assert!(pty.path("runs/long/last.safetensors").is_file());
    }
}

#[test]
fn a_key_detaches_and_several_screens_can_attach() {
    let mut pty = training();
    pty.keys("D");
    pty.wait_for("where it went", |s| s.contains("attach runs/long"));
    pty.modes_are_as_before();
    #[cfg(target_os = "linux")]
    has_no_screen(&mut pty);
    for _ in 0..2 {
        let mut other = pty.beside(Size::SMALL, ATTACH);
        other.wait_for("the history", |s| s.contains("best"));
        other.keys("D");
        other.ends_with(0);
    }
    trains_on(&mut pty);
    ends_by_attaching(&mut pty);
}

/// Starts the program in an interactive `shell`, detaches with `D`, returns with `fg`, and stops it with ctrl-z.
fn detaches_from(shell: &str, args: &[&str]) {
    let prompt = |s: &str| s.trim_end().ends_with("ready>");
    let shell = std::path::Path::new(shell);
    let mut pty = Pty::command(
        Size::WIDE,
        shell,
        args,
        "xterm-256color",
        &[("PS1", "ready> ")],
    );
    pty.wait_for("a prompt", prompt);
    // The run ends by itself if this test fails.
    let words: Vec<String> = LONG
        .iter()
        .map(|word| format!("'{}'", word.replace("9999", "500")))
        .collect();
    let program = env!("CARGO_BIN_EXE_cifar-tui");
    pty.keys(&format!("{program} {}\r", words.join(" ")));
    pty.wait_for("an epoch", |s| s.contains("best"));
    pty.keys("D");
    pty.wait_for("the shell", |s| s.contains("attach runs/long") && prompt(s));
    trains_on(&mut pty);
    let mut other = pty.beside(Size::SMALL, ATTACH);
    other.wait_for("the history", |s| {
        s.contains("best") && s.contains("training")
    });
    other.keys("D");
    other.ends_with(0);
    pty.keys("clear; fg\r");
    trains_on(&mut pty);
    pty.keys("\u{1a}");
    pty.wait_for("the stop", |s| s.contains("Stopped") && prompt(s));
    pty.keys("clear; fg\r");
    trains_on(&mut pty);
    pty.keys("\u{3}");
    pty.wait_for("the prompt", prompt);
    pty.keys("echo code $?\r");
    pty.wait_for("the exit code", |s| s.contains("code 130"));
    pty.keys("exit\r");
    assert_eq!(pty.code(), 0);
    assert!(pty.path("runs/long/lease").is_file(), "the run is free");
}

#[test]
fn a_key_detaches_from_the_system_s_shell() {
    // On Debian this is dash, whose `kill` differs from bash's.
    detaches_from("/bin/sh", &["-i"]);
}

#[test]
fn a_key_detaches_from_bash() {
    detaches_from("/bin/bash", &["--norc", "--noprofile", "-i"]);
}

/// The states of a session in which its terminal disappears.
const STATES: [&str; 8] = [
    "loading",
    "running",
    "paused",
    "evaluating",
    "done",
    "stopped",
    "diverged",
    "failed",
];

/// Arguments of a run that diverges in its first steps.
pub const WILD: &[&str] = &[
    "--data",
    "sample",
    "--arch",
    "conv 8 s2, conv 8, conv 8, pool, dense 32, dense 10",
    "--optimizer",
    "sgd",
    "--lr",
    "10",
    "--momentum",
    "0.99",
    "--dropout",
    "0",
    "--name",
    "long",
    "--threads",
    "1",
];

/// A data set that is loaded quickly: binary batches of 400 images of noise each.
pub fn few_images() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut state = 1u32;
    let noise = (0..400 * 3073).map(|at| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        match at % 3073 {
            0 => (at / 3073 % 10) as u8,
            _ => (state >> 24) as u8,
        }
    });
    let batch: Vec<u8> = noise.collect();
    let names = (1..=5).map(|number| format!("data_batch_{number}.bin"));
    for name in names.chain(["test_batch.bin".into()]) {
        std::fs::write(folder.path().join(name), &batch).unwrap();
    }
    let classes = "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n";
    std::fs::write(folder.path().join("batches.meta.txt"), classes).unwrap();
    folder
}

/// Closes the terminal when the session is in `state`. With `attaches`, the session must continue, accept a viewer, and
/// end by a signal; otherwise it must end by itself. Uses the small data set `data`, except for states that it would
/// pass too quickly.
fn hangup_when(state: &str, attaches: bool, data: &tempfile::TempDir) {
    let args = match state {
        "done" => {
            let one = ["--epochs", "1", "--name", "long", "--threads", "1"];
            [&LONG[..4], &one].concat()
        }
        "evaluating" => [LONG, &["--validation", "0.9"]].concat(),
        "diverged" => WILD.to_vec(),
        "failed" => vec!["--data", "absent"],
        _ => LONG.to_vec(),
    };
    let few = data.path().to_str().unwrap();
    let args = args.into_iter().map(|arg| match (arg, state) {
        ("sample", "loading" | "evaluating") => arg,
        ("sample", _) => few,
        (arg, _) => arg,
    });
    let mut pty = Pty::start(Size::SMALL, &args.collect::<Vec<_>>());
    let ends_with = match state {
        "done" => Some(0),
        "stopped" => Some(0),
        "diverged" => Some(3),
        "failed" => Some(1),
        _ => None,
    };
    match state {
        "running" => pty.wait_for("an epoch", |s| s.contains("best")),
        "paused" => {
            pty.wait_for("an epoch", |s| s.contains("best"));
            pty.keys(" ");
            pty.wait_for("a pause", |s| s.contains("paused"));
        }
        "stopped" => {
            pty.wait_for("an epoch", |s| s.contains("best"));
            pty.keys("x");
            pty.wait_for("a question", |s| s.contains("Stop this run?"));
            pty.keys("y");
            pty.wait_for("the stop", |s| s.contains("■ stopped"));
        }
        "done" => pty.wait_for("the end", |s| s.contains("✓ done")),
        // The program may have closed its screen by then.
        "failed" => pty.wait_for("the failure", |s| s.contains("absent")),
        state => pty.wait_for("the state", |s| s.contains(state)),
    }
    match ends_with {
        Some(code) => {
            pty.vanish();
            assert_eq!(pty.code(), code, "{state}");
        }
        None => {
            pty.vanish();
            if attaches {
                // This file exists once the run has started and can be found.
                let first = pty.path("runs/long/last.safetensors");
                pty.until("the run", || first.exists());
                let mut other = pty.beside(Size::SMALL, ATTACH);
                let now = if state == "paused" { "paused" } else { "long" };
                other.wait_for("the session", |s| s.contains(now));
                other.keys("D");
                other.ends_with(0);
            }
            pty.signal(libc::SIGTERM);
            assert_eq!(pty.code(), 143, "{state}");
        }
    }
    let run = pty.path("runs/long");
    assert!(!run.exists() || run.join("lease").is_file(), "{state}");
}

#[test]
fn a_session_with_nothing_left_to_do_ends_and_any_other_can_be_attached_to() {
    let data = few_images();
    for state in STATES {
        hangup_when(state, true, &data);
    }
}

#[test]
fn a_session_whose_run_is_over_ends_when_detached() {
    let args = [
        &LONG[..4],
        &["--epochs", "1", "--name", "long", "--threads", "1"],
    ]
    .concat();
    let mut pty = Pty::start(Size::SMALL, &args);
    pty.wait_for("the end", |s| s.contains("✓ done"));
    pty.keys("D");
    pty.ends_with(0);
    pty.wait_for("where it lies", |s| {
        s.contains("long is done; its files are in")
    });
}

#[test]
fn a_user_signal_writes_a_checkpoint_or_ends_a_paused_session() {
    for (signal, args) in [
        (libc::SIGUSR2, &["--on-usr1", "checkpoint-and-stop"][..]),
        (libc::SIGUSR1, &[]),
    ] {
        let mut pty = Pty::start(Size::SMALL, &[LONG, args].concat());
        pty.wait_for("an epoch", |s| s.contains("best"));
        pty.keys(" ");
        pty.wait_for("a pause", |s| s.contains("paused"));
        let last = pty.path("runs/long/last.safetensors");
        let number = || std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&last).unwrap());
        let before = number();
        pty.signal(signal);
        if args.is_empty() {
            pty.until("a checkpoint", || number() != before);
            pty.signal(libc::SIGTERM);
            pty.ends_with(143);
        } else {
            pty.ends_with(u32::try_from(128 + signal).unwrap());
        }
    }
}

#[test]
fn training_without_a_screen_can_be_attached_to() {
    let args: Vec<&str> = ["train"].iter().chain(LONG).copied().collect();
    let mut pty = Pty::start(Size::WIDE, &args);
    pty.wait_for("an epoch", |s| s.contains("1/9999"));
    pty.signal(libc::SIGHUP);
    trains_on(&mut pty);
    ends_by_attaching(&mut pty);
}

#[test]
fn attach_without_a_session_is_an_error() {
    let mut pty = Pty::start(Size::SMALL, &["attach", "--runs", "runs"]);
    pty.wait_for("why", |s| s.contains("no session is running"));
    assert_eq!(pty.code(), 5);
}

#[test]
fn a_blocked_terminal_delays_nothing_and_shows_the_newest_state_afterwards() {
    frozen(Duration::ZERO);
}

/// Trains for at least this long while the terminal's output is not read.
fn frozen(least: Duration) {
    let mut pty = training();
    let reading = pty.reading();
    let held = reading.lock().unwrap();
    let begin = Instant::now();
    // Each key draws a whole screen, more than fits into the terminal's buffer.
    for _ in 0..40 {
        pty.keys("\u{c}");
    }
    trains_on(&mut pty);
    while begin.elapsed() < least {
        trains_on(&mut pty);
    }
    pty.keys(" ");
    drop(held);
    pty.wait_for("the newest", |s| s.contains("paused"));
    pty.keys("q");
    pty.ends_with(0);
}

#[test]
#[ignore = "the long form: 500 hangups over every state, and a minute without a reader"]
fn five_hundred_hangups_and_a_minute_without_a_reader() {
    let data = few_images();
    for i in 0..500 {
        hangup_when(STATES[i % STATES.len()], false, &data);
    }
    frozen(Duration::from_secs(60));
}
