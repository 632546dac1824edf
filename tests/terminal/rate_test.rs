//! The test of learning rates by keys.

use super::LONG;
use super::pty::{Pty, Size};
use cifar_tui::train::checkpoint::Checkpoint;

#[test]
fn two_keys_test_learning_rates_and_set_the_suggestion_and_esc_ends_a_test() {
    // With such a rate the run itself learns nothing, so that the loss falls in a test at any time.
    let slow = [LONG, &["--lr", "1e-7", "--batch-size", "100"]].concat();
    let mut pty = Pty::start(Size::WIDE, &slow);
    pty.wait_for("training", |s| s.contains("● training"));
    pty.keys("T");
    pty.wait_for("the result", |s| {
        s.contains("learning rate test") && s.contains("a tenth of the rate")
    });
    pty.keys("\r");
    pty.wait_for("the change", |s| {
        s.contains("learning rate 1e-7 →") && !s.contains("learning rate test")
    });
    pty.keys(" ");
    pty.wait_for("a pause", |s| s.contains("paused"));
    pty.keys("T");
    pty.wait_for("a test", |s| s.contains("learning rate test"));
    pty.keys("\u{1b}");
    pty.wait_for("no test", |s| {
        !s.contains("learning rate test") && s.contains("paused")
    });
    pty.keys("q");
    pty.ends_with(0);
    let last = Checkpoint::read(&pty.path("runs/long/last.safetensors")).unwrap();
    let changes = last.run_state.changes;
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(changes[0].change.key, "learning_rate");
}
