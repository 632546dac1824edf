//! Tests of the program in a pseudo-terminal: the drawn screens, the keys, and that the terminal is restored however
//! the program ends.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod clipboard;
mod comparison;
mod exits;
mod fork;
mod hangup;
mod mouse;
mod panics;
mod pty;
mod rate_test;
mod remote;
mod storm;
mod sweep;

use pty::{Pty, Size};

const CODE_OF: [(i32, u32); 2] = [(libc::SIGTERM, 143), (libc::SIGINT, 130)];

/// Trains a tiny network for longer than any test takes.
const LONG: &[&str] = &[
    "--data",
    "sample",
    "--arch",
    "conv 4 s4, relu, dense 10",
    "--epochs",
    "9999",
    "--name",
    "long",
    "--threads",
    "1",
];

#[test]
fn it_trains_shows_every_screen_and_q_restores_the_terminal() {
    let mut pty = Pty::start(Size::WIDE, LONG);
    pty.wait_for("training", |s| {
        s.contains("long") && s.contains("sample set") && s.contains("img/s") && s.contains("best")
    });
    for (key, word) in [
        ("2", "most confused"),
        ("3", "c class"),
        ("4", "mult-adds"),
        ("5", "outcome"),
        ("6", "drawn by the program"),
    ] {
        pty.keys(key);
        pty.wait_for(word, |s| s.contains(word));
    }
    pty.keys("1");
    pty.wait_for("the Train screen", |s| s.contains("learning rate"));
    pty.keys("?");
    pty.wait_for("help", |s| s.contains("help: Train"));
    pty.keys("\u{1b}");
    pty.wait_for("no help", |s| !s.contains("help: Train"));
    pty.keys(":pause");
    pty.wait_for("the palette", |s| s.contains(": pause"));
    pty.keys("\u{1b}");
    pty.wait_for("no palette", |s| !s.contains(": pause"));
    pty.keys(" ");
    pty.wait_for("a pause", |s| s.contains("paused"));
    pty.keys(" ");
    pty.wait_for("training again", |s| !s.contains("paused"));
    pty.keys("q");
    pty.ends_with(0);
    assert!(pty.path("runs/long/last.safetensors").is_file());
}

#[test]
fn ctrl_c_saves_and_quits_and_a_second_one_changes_nothing() {
    let mut pty = Pty::start(Size::SMALL, LONG);
    pty.wait_for("an epoch", |s| s.contains("best"));
    pty.keys("\u{3}\u{3}\u{3}");
    pty.ends_with(0);
    assert!(pty.path("runs/long/last.safetensors").is_file());
}

#[test]
fn signals_write_a_checkpoint_restore_the_terminal_and_set_the_exit_code() {
    for (signal, code) in CODE_OF {
        let mut pty = Pty::start(Size::SMALL, LONG);
        pty.wait_for("an epoch", |s| s.contains("best"));
        pty.signal(signal);
        pty.ends_with(code);
        assert!(pty.path("runs/long/last.safetensors").is_file(), "{signal}");
    }
}

#[test]
fn an_error_restores_the_terminal_and_is_printed() {
    let mut pty = Pty::start(Size::SMALL, &["--data", "absent"]);
    pty.wait_for("the error", |s| s.contains("absent"));
    pty.keys("q");
    pty.ends_with(1);
    pty.wait_for("the error in the shell", |s| s.contains("absent"));
}

#[test]
fn a_terminal_that_is_too_small_says_so_and_q_works() {
    let mut pty = Pty::start(
        Size {
            width: 40,
            height: 10,
        },
        LONG,
    );
    pty.wait_for("the sizes", |s| {
        s.contains("have 40x10") && s.contains("need 60x18")
    });
    pty.keys("q");
    pty.ends_with(0);
}

#[test]
fn a_terminal_that_reports_no_size_is_drawn_at_80x24_until_it_does() {
    let mut pty = Pty::start(
        Size {
            width: 0,
            height: 0,
        },
        LONG,
    );
    pty.wait_for("training", |s| s.contains("img/s") && s.contains("best"));
    pty.resize(Size {
        width: 40,
        height: 10,
    });
    pty.wait_for("the size", |s| s.contains("have 40x10"));
    pty.keys("q");
    pty.ends_with(0);
}

#[test]
fn a_terminal_that_reports_a_huge_size_needs_bounded_memory() {
    let mut pty = Pty::start(
        Size {
            width: u16::MAX,
            height: u16::MAX,
        },
        LONG,
    );
    pty.wait_for("training", |s| s.contains("training"));
    #[cfg(target_os = "linux")]
    {
        let peak = pty.peak_memory();
        // Training this network takes 55 MiB, and 91 MiB with the largest screen.
        assert!(peak < 256 << 20, "{peak} bytes");
    }
    pty.keys("q");
    pty.ends_with(0);
}

/// The locale and TERM choose the symbols, and no byte outside the chosen set is written.
#[test]
fn terminals_without_utf8_get_ascii() {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_cifar-tui"));
    for (term, variables) in [
        ("vt100", &[("LANG", "C.UTF-8")][..]),
        ("linux", &[("LANG", "C.UTF-8"), ("LC_ALL", "C")]),
        ("screen", &[]),
    ] {
        let mut pty = Pty::command(Size::WIDE, program, LONG, term, variables);
        pty.wait_for("training", |s| s.contains("best") && s.contains("img/s"));
        for (key, word) in [
            ("2", "most confused"),
            ("3", "c class"),
            ("4", "mult-adds"),
            ("5", "outcome"),
            ("6", "drawn by the program"),
            ("?", "help: Data"),
        ] {
            pty.keys(key);
            pty.wait_for(word, |s| s.contains(word));
        }
        pty.keys("\u{1b}");
        pty.wait_for("no help", |s| !s.contains("help: Data"));
        pty.keys("q");
        pty.ends_with(0);
        assert!(pty.written().is_ascii(), "{term}");
    }
}

#[test]
fn the_symbols_can_be_chosen() {
    let bars: Vec<&str> = ["train", "--symbols", "ascii"]
        .iter()
        .chain(LONG)
        .copied()
        .collect();
    let mut pty = Pty::start(Size::WIDE, &bars);
    pty.wait_for("bars", |s| s.contains("img/s") && s.contains("#"));
    pty.keys("\u{3}");
    assert_eq!(pty.code(), 130);
    assert!(pty.written().is_ascii());

    let blocks = [&["--symbols", "block"], LONG].concat();
    let mut pty = Pty::start(Size::WIDE, &blocks);
    pty.wait_for("an epoch", |s| s.contains("best"));
    pty.wait_for("no braille", |s| {
        s.contains('█') && !s.contains(|c| ('\u{2800}'..='\u{28ff}').contains(&c))
    });
    pty.keys("q");
    pty.ends_with(0);
}

#[test]
fn a_dumb_terminal_gets_a_hint_and_no_escape_codes() {
    let mut pty = Pty::start_as(Size::SMALL, &[], "dumb");
    assert_eq!(pty.code(), 2);
    pty.wait_for("the hint", |s| s.contains("cifar-tui train"));
    assert!(!pty.written().contains(&0x1b));
}

#[test]
fn training_without_a_screen_shows_bars_on_a_terminal() {
    let args: Vec<&str> = ["train"].iter().chain(LONG).copied().collect();
    let mut pty = Pty::start(Size::WIDE, &args);
    pty.wait_for("bars", |s| s.contains("img/s") && s.contains('█'));
    pty.keys("\u{3}");
    assert_eq!(pty.code(), 130);
    pty.modes_are_as_before();
}

#[test]
#[cfg(target_os = "linux")]
fn suspending_restores_the_terminal_and_continuing_sets_it_up_again() {
    let mut pty = Pty::start(Size::SMALL, LONG);
    pty.wait_for("an epoch", |s| s.contains("best"));
    for key in [None, Some("\u{1a}")] {
        match key {
            Some(key) => pty.keys(key),
            None => pty.signal(libc::SIGTSTP),
        }
        pty.until("the stop", pty.stopped());
        pty.modes_are_as_before();
        pty.wait_for("the shell's screen", |s| !s.contains("best"));
        pty.signal(libc::SIGCONT);
        pty.wait_for("the screen again", |s| {
            s.contains("best") && s.contains("training")
        });
    }
    pty.keys("q");
    pty.ends_with(0);
}

/// Repeats the tests of this file 20 times; run it with `--ignored`.
#[test]
#[ignore = "the long form: every way out 20 times"]
fn every_exit_twenty_times() {
    for _ in 0..20 {
        ctrl_c_saves_and_quits_and_a_second_one_changes_nothing();
        signals_write_a_checkpoint_restore_the_terminal_and_set_the_exit_code();
        an_error_restores_the_terminal_and_is_printed();
        #[cfg(target_os = "linux")]
        suspending_restores_the_terminal_and_continuing_sets_it_up_again();
        panics::a_panic_of_the_worker_restores_the_terminal_and_is_printed();
        panics::a_panic_of_the_screen_restores_the_terminal_and_is_printed();
        hangup::to_stop_on_a_hangup_can_be_chosen();
    }
}
