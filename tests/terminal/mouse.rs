//! Tests with a moving mouse while the terminal is restored: no mouse report may reach the shell.

use crate::LONG;
use crate::pty::{Pty, Size};

fn training() -> Pty {
    let mut pty = Pty::start(Size::SMALL, LONG);
    pty.wait_for("an epoch", |s| s.contains("best"));
    pty.move_the_mouse();
    pty
}

#[test]
fn quitting_leaves_no_mouse_report_for_the_shell() {
    let mut pty = training();
    pty.keys("q");
    pty.ends_with(0);
    pty.leaves_no_reports();
}

#[test]
fn detaching_leaves_no_mouse_report_for_the_shell() {
    let mut pty = training();
    pty.keys("D");
    pty.wait_for("where it went", |s| s.contains("attach runs/long"));
    pty.modes_are_as_before();
    pty.leaves_no_reports();
}

#[test]
#[cfg(target_os = "linux")]
fn suspending_leaves_no_mouse_report_for_the_shell() {
    let mut pty = training();
    pty.keys("\u{1a}");
    pty.until("the stop", pty.stopped());
    pty.modes_are_as_before();
    pty.leaves_no_reports();
}
