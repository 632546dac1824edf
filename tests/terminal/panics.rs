//! Tests of panics in either thread, and of output that bypasses the screen. The program itself has no option to panic,
//! so the test starts its own binary again in a pseudo-terminal: with the real screen and, by the role, a worker or a
//! screen that panics, or a library that prints.

use crate::pty::{Pty, Size};
use cifar_tui::domain::report::State;
use cifar_tui::session::client::channel;
use cifar_tui::session::protocol::Event;
use cifar_tui::tui;

/// The environment variable with the role of the started program: what panics or prints.
const ROLE: &str = "CIFAR_TUI_TEST_PANICS";

fn start(role: &str) -> Pty {
    Pty::command(
        Size::SMALL,
        &std::env::current_exe().unwrap(),
        &["--exact", "panics::the_program_that_panics", "--nocapture"],
        "xterm-256color",
        &[(ROLE, role)],
    )
}

#[test]
pub fn a_panic_of_the_worker_restores_the_terminal_and_is_printed() {
    let mut pty = start("worker");
    pty.ends_with(101);
    pty.wait_for("its words", |s| s.contains("the worker's words"));
}

/// The mouse moves during the panic.
#[test]
pub fn a_panic_of_the_screen_restores_the_terminal_and_is_printed() {
    let mut pty = start("screen");
    pty.move_the_mouse();
    pty.ends_with(101);
    pty.leaves_no_reports();
    pty.wait_for("its words", |s| s.contains("the screen's words"));
}

/// Output of libraries goes to the log; a program without a run has none, so it is dropped.
#[test]
fn stray_output_never_reaches_the_screen() {
    let mut pty = start("stray");
    pty.ends_with(0);
    pty.wait_for("the words after the screen", |s| s.contains("after it"));
    let written = String::from_utf8_lossy(pty.written()).into_owned();
    assert!(!written.contains("stray"), "{written}");
}

/// The program that the tests above start. Does nothing when run as a test.
#[test]
fn the_program_that_panics() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") => {
            let (client, sender) = channel();
            let worker = std::thread::spawn(move || {
                sender.event(Event::State(State::Running));
                panic!("the worker's words");
            });
            let options = tui::ScreenOptions::default();
            let outcome = tui::run(&client, &crossbeam_channel::never(), &options).unwrap();
            assert!(!outcome.status.ended && worker.join().is_err());
            panic!("the worker's words came through");
        }
        Ok("screen") => {
            let _panics = cifar_tui::panics::Held::begin();
            let screen = tui::terminal::TerminalScreen::enter(true).unwrap();
            screen.input().recv().unwrap();
            panic!("the screen's words");
        }
        Ok("stray") => {
            let mut screen = tui::terminal::TerminalScreen::enter(true).unwrap();
            println!("stray words of a library");
            eprintln!("its stray errors");
            screen.leave().unwrap();
            println!("after it");
        }
        _ => {}
    }
}
