//! A panic in either thread. The program has no switch that makes it panic, so this test plays both roles: run again in
//! a pseudo-terminal, it is a program with the real screen whose worker, or whose screen, panics.

use crate::pty::{Pty, Size};
use cifar_tui::domain::report::State;
use cifar_tui::session::link::link;
use cifar_tui::session::protocol::Event;
use cifar_tui::tui;

/// Which thread panics in the program that this test starts.
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
pub fn a_panic_of_the_worker_gives_the_terminal_back_and_is_told() {
    let mut pty = start("worker");
    pty.ends_with(101);
    pty.wait_for("its words", |s| s.contains("the worker's words"));
}

#[test]
pub fn a_panic_of_the_screen_gives_the_terminal_back_and_is_told() {
    let mut pty = start("screen");
    pty.ends_with(101);
    pty.wait_for("its words", |s| s.contains("the screen's words"));
}

/// Not a test of its own: does something only when the tests above start it.
#[test]
fn the_program_that_panics() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") => {
            let (link, tell) = link();
            let worker = std::thread::spawn(move || {
                tell.event(Event::State(State::Running));
                panic!("the worker's words");
            });
            let outcome = tui::run(&link, &tui::Options::default()).unwrap();
            assert!(!outcome.finished && worker.join().is_err());
            panic!("the worker's words came through");
        }
        Ok("screen") => {
            let _panics = tui::terminal::HeldPanics::begin();
            let _screen = tui::terminal::Screen::enter(true).unwrap();
            panic!("the screen's words");
        }
        _ => {}
    }
}
