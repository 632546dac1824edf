//! A terminal that goes away, stands still or is given back on purpose: training goes on, and `attach` returns to it.

use crate::LONG;
use crate::pty::{Pty, Size};
use std::time::{Duration, Instant};

const ATTACH: &[&str] = &["attach", "--runs", "runs", "long"];

fn training() -> Pty {
    let mut pty = Pty::start(Size::SMALL, LONG);
    pty.wait_for("an epoch", |s| s.contains("best"));
    pty
}

/// Steps of the run that have been written down.
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

/// The screen's threads have gone with it.
#[cfg(target_os = "linux")]
#[track_caller]
fn has_no_screen(pty: &mut Pty) {
    for name in ["keys", "stray output"] {
        let there = pty.has_thread(name);
        pty.until("the screen's end", || !there());
    }
}

/// Attaches, finds what was there from the beginning, and ends the session for everyone.
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
fn a_terminal_that_goes_away_leaves_the_run_training_and_attach_returns_to_it() {
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
fn a_key_detaches_and_attached_screens_come_and_go() {
    let mut pty = training();
    pty.keys("D");
    pty.wait_for("where it went", |s| s.contains("attach long"));
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
fn nothing_to_attach_to_is_said() {
    let mut pty = Pty::start(Size::SMALL, &["attach", "--runs", "runs"]);
    pty.wait_for("why", |s| s.contains("no session is running"));
    assert_eq!(pty.code(), 1);
}

#[test]
fn a_terminal_that_stands_still_delays_nothing_and_shows_the_newest_afterwards() {
    frozen(Duration::ZERO);
}

/// Trains for at least this long while nobody reads.
fn frozen(least: Duration) {
    let mut pty = training();
    let reading = pty.reading();
    let held = reading.lock().unwrap();
    let begin = Instant::now();
    // Each draws a whole screen, more than a terminal takes unread.
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
#[ignore = "the long form: 50 hangups, and a minute without a reader"]
fn fifty_hangups_and_a_minute_without_a_reader() {
    for i in 0..50 {
        hangup(i % 2 == 0);
    }
    frozen(Duration::from_secs(60));
}
