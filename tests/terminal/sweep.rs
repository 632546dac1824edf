//! The screen of a sweep.

use super::pty::{Pty, Size};

const SWEEP: &[&str] = &[
    "sweep",
    "seed=1..3",
    "--name",
    "many",
    "--runs",
    "runs",
    "--data",
    "sample",
    "--device",
    "cpu",
    "--threads",
    "2",
    "--arch",
    "conv 4 s4, relu, pool, dense 10",
    "--epochs",
    "9999",
];

#[test]
fn a_run_is_opened_steered_and_left_and_the_sweep_goes_on() {
    let mut pty = Pty::start(Size::WIDE, SWEEP);
    pty.wait_for("epochs", |s| s.contains("training 2") && s.contains("best"));
    pty.keys("s\r");
    pty.wait_for("the run's screen", |s| {
        s.contains("1 Train") && s.contains("01") && s.contains("img/s")
    });
    pty.keys("h");
    pty.wait_for("a change", |s| s.contains("0.0005"));
    pty.keys("D");
    pty.wait_for("the sweep", |s| {
        s.contains("of 3 ended") && s.contains("by trial")
    });
    pty.keys("x");
    pty.wait_for("a question", |s| s.contains("Stop 01 for good?"));
    pty.keys("y");
    pty.wait_for("the next run", |s| {
        s.contains("1 of 3 ended") && s.contains("training 2")
    });
    pty.keys("qy");
    pty.wait_for("how to go on", |s| s.contains("sweep --resume runs/many"));
    pty.ends_with(0);
    for run in ["01", "02", "03"] {
        assert!(
            pty.path(&format!("runs/many/{run}/last.safetensors"))
                .exists(),
            "{run}"
        );
    }
}

/// With the screen and without it.
#[test]
fn a_terminal_that_vanishes_does_not_end_the_sweep() {
    for (more, shown) in [
        (&[][..], "training 2"),
        (&["--headless"], "02       epoch 1"),
    ] {
        let mut pty = Pty::start(Size::WIDE, &[SWEEP, more].concat());
        pty.wait_for("epochs", |s| s.contains(shown));
        let metrics = pty.path("runs/many/01/metrics.jsonl");
        pty.vanish();
        let epochs = || {
            let text = std::fs::read_to_string(&metrics).unwrap_or_default();
            text.matches("\"epoch\"").count()
        };
        let before = epochs();
        pty.until("more epochs", || epochs() > before + 2);
        pty.signal(libc::SIGTERM);
        assert_eq!(pty.code(), 143);
    }
}

/// The text and three keys sweep three rates from the panel.
#[test]
fn a_range_in_the_panel_and_three_keys_begin_a_sweep() {
    let mut pty = Pty::start(Size::WIDE, super::LONG);
    pty.wait_for("an epoch", |s| s.contains("best") && s.contains("img/s"));
    pty.keys("\r");
    pty.keys("1e-4..1e-2 log");
    pty.keys("\r");
    pty.wait_for("the range", |s| s.contains("1e-4..1e-2 log"));
    pty.keys("S");
    pty.wait_for("the sweep", |s| {
        s.contains("of 3 ended") && s.contains("training") && s.contains("0.0001")
    });
    pty.keys("qy");
    pty.wait_for("how to go on", |s| s.contains("sweep --resume"));
    pty.ends_with(0);
    assert!(
        pty.path("runs/long/last.safetensors").exists(),
        "the run is saved"
    );
}
