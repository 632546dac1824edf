//! Forks by keys.

use super::LONG;
use super::hangup::ATTACH;
use super::pty::{Pty, Size};
use cifar_tui::domain::params::Value;
use cifar_tui::train::checkpoint::Checkpoint;

#[test]
fn four_keys_fork_the_best_epoch_with_half_the_rate_and_a_viewer_follows() {
    let mut pty = Pty::start(Size::WIDE, LONG);
    pty.wait_for("an epoch", |s| s.contains("best") && s.contains("img/s"));
    let mut viewer = pty.beside(Size::WIDE, ATTACH);
    viewer.wait_for("the run", |s| s.contains("long") && s.contains("img/s"));
    pty.keys("5");
    pty.wait_for("the runs", |s| s.contains("outcome") && s.contains("long"));
    pty.keys("F");
    let forked = |s: &str| s.contains("paused") && s.contains("forked from long at the end of");
    pty.wait_for("the fork on the Train screen", |s| {
        forked(s) && s.contains("learning rate")
    });
    pty.keys("h");
    pty.wait_for("half the rate", |s| s.contains("0.0005"));
    pty.keys(" ");
    pty.wait_for("training", |s| !s.contains("paused"));
    viewer.wait_for("the fork", |s| {
        s.contains("custom-") && s.contains("0.0005") && !s.contains("paused")
    });
    viewer.keys("D");
    viewer.ends_with(0);
    pty.keys("q");
    pty.ends_with(0);
    let runs = std::fs::read_dir(pty.path("runs")).unwrap();
    let mut runs: Vec<_> = runs.map(|run| run.unwrap().path()).collect();
    runs.retain(|run| !run.ends_with("long"));
    let [fork] = &runs[..] else {
        panic!("{runs:?}");
    };
    let run_state = Checkpoint::read(&fork.join("last.safetensors"))
        .unwrap()
        .run_state;
    let origin = run_state.origin.unwrap();
    let halved = &run_state.changes[0];
    assert_eq!(origin.run, "long");
    assert_eq!(
        (halved.step, &halved.change.new),
        (origin.step + 1, &Value::Float(0.0005)),
        "from the first step on"
    );
}
