//! A comparison on the Train screen.

use super::*;
use crate::domain::comparison::{ComparisonReport, Difference};

fn change() -> Change {
    Change {
        key: "learning_rate".into(),
        old: Value::Float(0.001),
        new: Value::Float(0.0005),
    }
}

fn variant(event: Event) -> Event {
    let of = Box::new(event);
    Event::Variant { of }
}

fn began() -> Event {
    Event::ComparisonBegan {
        change: change(),
        step: 5001,
        epoch: 5,
    }
}

/// What is known of the difference after these epochs.
fn report(epochs: u32, diverged: bool) -> ComparisonReport {
    let difference = |mean, error| Some(Difference { mean, error });
    ComparisonReport {
        steps: 3100,
        loss: difference(-0.0613, 0.0041),
        loss_steps: 1600,
        accuracy: difference(0.0124, 0.0052).filter(|_| epochs > 0),
        epochs,
        diverged: diverged.then(|| (8101, "the loss".into())),
    }
}

/// A run that is compared with a lower learning rate from its fifth epoch on.
pub(super) fn compared() -> Vec<Event> {
    let mut events = story(5000);
    events.push(began());
    events.push(variant(Event::Applied {
        change: change(),
        step: 5001,
        epoch: 5,
    }));
    for step in (5050..=8100).step_by(50) {
        let own = steps(step);
        let gain = 0.07 * (1.0 - (-(step as f64 - 5000.0) / 600.0).exp());
        let with = StepReport {
            loss: own.loss - gain,
            correct: own.correct + (400.0 * gain) as u64,
            learning_rate: 0.0005,
            ..own.clone()
        };
        events.push(Event::Steps(own));
        events.push(variant(Event::Steps(with)));
        if step % PER_EPOCH == 0 {
            let epoch = epoch_events((step / PER_EPOCH) as u32);
            for event in &epoch[..2] {
                let mut of = event.clone();
                match &mut of {
                    Event::Epoch(e) => (e.loss, e.accuracy) = (e.loss - gain, e.accuracy + 0.012),
                    Event::Evaluation(e) => {
                        (e.loss, e.accuracy) = (e.loss - gain, e.accuracy + 0.012);
                    }
                    _ => {}
                }
                events.push(variant(of));
            }
            events.extend(epoch);
        }
    }
    events.push(Event::Compared(report(2, false)));
    events
}

fn comparing(width: u16, height: u16) -> App {
    let mut app = app(Colors::True, width, height, &compared());
    app.update(Msg::Tick(60_000.0));
    app.update(Msg::Tick(60_006.0));
    app
}

#[test]
fn goldens_of_a_comparison() {
    for (width, height) in [(80, 24), (120, 36), (160, 45), (200, 60)] {
        let name = format!("comparison_{width}x{height}");
        insta::assert_snapshot!(name, rows(&paint(&comparing(width, height))));
    }
    let mut app = comparing(120, 36);
    commands(&mut app, "zf");
    insta::assert_snapshot!("comparison_accuracy", rows(&paint(&app)));
}

#[test]
fn two_keys_compare_a_halved_rate() {
    let mut app = running();
    let rate = Value::Float(0.0005);
    let key = "learning_rate".into();
    assert_eq!(
        commands(&mut app, "Ah"),
        [Command::Compare { key, value: rate }]
    );
    // Only one change is compared.
    let next = commands(&mut app, "h");
    assert!(matches!(&next[..], [Command::Set { .. }]), "{next:?}");
    let mut app = running();
    let leaves = commands(&mut app, "A\u{1b}h");
    assert!(matches!(&leaves[..], [Command::Set { .. }]), "{leaves:?}");
}

#[test]
fn a_typed_or_pending_change_is_compared_too() {
    let mut app = running();
    let typed = commands(&mut app, "A\n0.02\n");
    let value = Value::Float(0.02);
    let key = "learning_rate".into();
    assert_eq!(typed, [Command::Compare { key, value }]);
    // A pending change of the chosen row needs no further key.
    let mut app = app_with_pending("warmup", Value::Float(0.0), Value::Float(2.0));
    commands(&mut app, "/warm\n");
    let value = Value::Float(2.0);
    let key = "warmup".into();
    assert_eq!(commands(&mut app, "A"), [Command::Compare { key, value }]);
    // What cannot be compared says why and changes nothing.
    let mut app = app_with_pending("batch_size", Value::Int(32), Value::Int(64));
    commands(&mut app, "/batch\n");
    assert_eq!(commands(&mut app, "A"), []);
    assert!(rows(&paint(&app)).contains("changes the batches"));
}

fn app_with_pending(key: &str, old: Value, new: Value) -> App {
    let mut app = running();
    let key = key.into();
    app.update(Msg::Event(Box::new(Event::Pending {
        change: Change { key, old, new },
        applies: Applies::NextEpoch,
    })));
    app
}

#[test]
fn enter_keeps_the_change_and_esc_drops_it() {
    assert_eq!(
        commands(&mut comparing(120, 36), "\n"),
        [Command::KeepChange]
    );
    assert_eq!(
        commands(&mut comparing(120, 36), "\u{1b}"),
        [Command::DropChange]
    );
    // Esc first leaves what covers the comparison.
    let mut app = comparing(120, 36);
    assert_eq!(commands(&mut app, "z\u{1b}"), []);
    assert_eq!(commands(&mut app, "[\u{1b}"), []);
    assert_eq!(commands(&mut app, "\u{1b}"), [Command::DropChange]);
    // A second comparison is refused with words.
    assert_eq!(commands(&mut app, "A"), []);
    assert!(rows(&paint(&app)).contains("a comparison is under way"));
}

#[test]
fn the_words_follow_what_is_known() {
    for (chart, report, words, verdict) in [
        (
            "zf",
            ComparisonReport::default(),
            "with lr 0.0005: no difference is known yet",
            None,
        ),
        (
            "z",
            report(0, false),
            "with lr 0.0005: loss -0.0613 ±0.0041 over 1,600 steps",
            Some("◆ better"),
        ),
        (
            "zf",
            report(1, false),
            "with lr 0.0005: val +1.24 ±0.52 % after 1 epoch",
            Some("◆ better"),
        ),
        (
            "zf",
            report(2, true),
            "with lr 0.0005: diverged at step 8,101",
            Some("worse"),
        ),
    ] {
        let mut app = comparing(120, 36);
        app.update(Msg::Event(Box::new(Event::Compared(report))));
        commands(&mut app, chart);
        let text = rows(&paint(&app));
        assert!(text.contains(words), "{words}\n{text}");
        for mark in ["◆ better", "  worse"] {
            let expected = verdict.is_some_and(|verdict| mark.trim() == verdict);
            assert_eq!(text.contains(mark), expected, "{mark}\n{text}");
        }
    }
}

#[test]
fn a_comparison_that_is_over_leaves_a_line() {
    for (kept, verb) in [(true, "kept"), (false, "dropped")] {
        let mut app = comparing(200, 60);
        let report = report(2, false);
        app.update(Msg::Event(Box::new(Event::ComparisonOver {
            change: change(),
            kept,
            report,
        })));
        assert!(app.session.comparison.is_none());
        let text = rows(&paint(&app));
        let words = format!("learning rate 0.001 → 0.0005 {verb} (with lr 0.0005: val +1.24");
        assert!(text.contains(&words), "{text}");
        assert!(!text.contains("keeps"), "{text}");
    }
}
