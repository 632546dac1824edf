//! Comparisons by keys.

use super::LONG;
use super::hangup::ATTACH;
use super::pty::{Pty, Size};
use cifar_tui::domain::params::Value;
use cifar_tui::train::checkpoint::Checkpoint;

#[test]
fn two_keys_compare_a_halved_rate_and_a_third_keeps_it() {
    let mut pty = Pty::start(Size::WIDE, LONG);
    pty.wait_for("an epoch", |s| s.contains("best") && s.contains("img/s"));
    let mut viewer = pty.beside(Size::WIDE, ATTACH);
    viewer.wait_for("the run", |s| s.contains("long") && s.contains("img/s"));
    pty.keys("Ah");
    let compares = |s: &str| s.contains("with lr 0.0005: loss ") && s.contains("without");
    pty.wait_for("the difference", compares);
    viewer.wait_for("the difference", compares);
    pty.keys("\r");
    let kept = |s: &str| s.contains("learning rate 0.001 → 0.0005 kept");
    pty.wait_for("the change as the run's", kept);
    viewer.wait_for("the change as the run's", |s| {
        kept(s) && !s.contains("without") && s.contains("lr 0.001→0.0005")
    });
    // A change that is dropped is gone.
    pty.keys("Ah");
    pty.wait_for("another difference", |s| {
        s.contains("with lr 0.00025: loss ")
    });
    pty.keys("\u{1b}");
    pty.wait_for("the run alone", |s| s.contains("0.00025 dropped"));
    viewer.keys("D");
    viewer.ends_with(0);
    pty.keys("q");
    pty.ends_with(0);
    let last = pty.path("runs/long/last.safetensors");
    let run_state = Checkpoint::read(&last).unwrap().run_state;
    let [change] = &run_state.changes[..] else {
        panic!("{:?}", run_state.changes);
    };
    assert_eq!(change.change.new, Value::Float(0.0005));
    assert_eq!(run_state.params.learning_rate, 0.0005);
}
