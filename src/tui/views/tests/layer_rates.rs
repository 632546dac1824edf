//! Layers that are frozen or learn at another rate, on the Model screen.

use super::*;
use crate::domain::layer_rates::KEY;
use crate::domain::params::{Change, Value};
use crate::domain::report::LayerReset;

fn set(text: &str) -> Command {
    Command::Set {
        key: KEY.into(),
        value: Value::Text(text.into()),
    }
}

/// The worker applies the last change that was sent.
fn apply(harness: &mut AppHarness) {
    let sent = std::mem::take(&mut harness.sent);
    let Some(Command::Set { key, value }) = sent.last() else {
        panic!("{sent:?}");
    };
    let old = harness.app.session.params.layer_rates.to_string();
    harness.event(Event::Applied {
        change: Change {
            key: key.clone(),
            old: Value::Text(old),
            new: value.clone(),
        },
        step: 2601,
        epoch: 3,
    });
}

#[test]
fn a_key_freezes_the_chosen_layer_and_lets_it_learn_again() {
    for (width, height) in [(80, 24), (120, 36)] {
        let mut harness = AppHarness::running(width, height, Screen::Model);
        harness.forget_sent();
        harness.key("f");
        assert_eq!(harness.sent, [set("conv1 0")]);
        // Nothing is shown as frozen before the worker says so.
        assert!(!harness.body().contains("frozen"), "{}", harness.body());
        apply(&mut harness);
        harness.line("frozen");
        insta::assert_snapshot!(format!("layer_rates_{width}x{height}"), harness.body());
        // The chart of Train marks it.
        let label = harness.app.session.marks.last().unwrap().label();
        assert_eq!(label, "layers none→conv1 0");
        harness.key("f");
        assert_eq!(harness.sent, [set("none")]);
        apply(&mut harness);
        assert!(!harness.body().contains("frozen"));
    }
}

#[test]
fn keys_change_the_factor_step_by_step_before_the_answers_arrive() {
    let mut harness = AppHarness::running(120, 36, Screen::Model);
    harness.forget_sent();
    harness.key("< <");
    assert_eq!(harness.sent, [set("conv1 0.5"), set("conv1 0.25")]);
    harness.key(">");
    assert_eq!(harness.sent.last(), Some(&set("conv1 0.5")));
    apply(&mut harness);
    harness.line("x0.5");
    // The last layer beside it.
    harness.key("G >");
    let last = harness.sent.last().unwrap().clone();
    assert_eq!(last, set("conv1 0.5, dense2 2"));
    apply(&mut harness);
    harness.line("x2");
}

#[test]
fn a_key_gives_the_chosen_layer_fresh_weights() {
    let mut harness = AppHarness::running(120, 36, Screen::Model);
    harness.forget_sent();
    harness.key("G r");
    let layer = "dense2".to_owned();
    assert_eq!(harness.sent, [Command::ResetLayer { layer }]);
    harness.event(Event::LayerReset(LayerReset {
        layer: "dense2".into(),
        taken_back: false,
        step: 2601,
        epoch: 3,
    }));
    harness.line("dense2 reset from step 2,601");
    let label = harness.app.session.marks.last().unwrap().label();
    assert_eq!(label, "dense2 reset");
}

#[test]
fn layers_without_weights_and_other_networks_are_refused() {
    let mut harness = AppHarness::running(120, 36, Screen::Model);
    harness.forget_sent();
    // The second line is a ReLU.
    harness.key("j f");
    harness.line("freeze: nothing to learn in this layer");
    harness.key("g a enter f");
    harness.line("freeze: the layers of the text are not those of the running network");
    assert!(
        harness
            .sent
            .iter()
            .all(|c| !matches!(c, Command::Set { key, .. } if key == KEY))
    );
    let mut harness = AppHarness::new(120, 36);
    harness.open(Screen::Model);
    harness.key("f");
    harness.line("freeze: no run has begun");
}
