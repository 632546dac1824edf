//! The test of learning rates on the Train screen.

use super::*;
use crate::domain::params::{Change, Value};
use crate::domain::rate_test::{RateTest, RateTestEnd, RateTestReport};
use crate::session::protocol::{Done, Outcome};

const BEGIN: Command = Command::FindLr { steps: None };

/// A test of 100 steps after `points` of them: the loss falls up to a rate of about 0.02, then rises.
fn test(points: usize) -> RateTest {
    let mut test = RateTest::new(100);
    for i in 0..points {
        let x = test.next_rate().log10();
        let noise = ((i * 37) % 11) as f64 / 40.0;
        let fall = 1.2 / (1.0 + (-2.0 * (x + 3.2)).exp());
        let rise = (2.5 * (x + 0.8)).exp();
        test.add(2.3 - fall + rise + noise);
    }
    test
}

/// A report of the whole test so far, as if it were the only one.
fn report(points: usize) -> RateTestReport {
    test(points).report(2600, 0)
}

/// The Train screen with a test that has made `points` of its steps.
fn testing(width: u16, height: u16, points: usize) -> AppHarness {
    let mut harness = AppHarness::running(width, height, Screen::Train);
    harness.key("T");
    harness.event(Event::RateTest(report(0)));
    harness.event(Event::RateTest(report(points)));
    assert_eq!(std::mem::take(&mut harness.sent), [BEGIN]);
    harness
}

/// The number of points after which the loss has risen to four times its lowest value.
const ALL: usize = 92;

#[test]
fn goldens_of_a_test_of_rates() {
    let end = test(ALL).end;
    assert_eq!(end, Some(RateTestEnd::Rose));
    for (width, height) in [(60, 18), (80, 24), (120, 36), (200, 60)] {
        let size = format!("{width}x{height}");
        let harness = testing(width, height, ALL);
        insta::assert_snapshot!(format!("rate_test_{size}"), harness.text());
    }
    insta::assert_snapshot!("rate_test_running", testing(80, 24, 40).text());
}

#[test]
fn two_keys_and_the_suggestion_is_the_learning_rate() {
    let mut harness = testing(120, 36, ALL);
    let suggestion = test(ALL).suggestion().unwrap();
    harness.line(&format!(
        "sets {suggestion} (now 0.001): a tenth of the rate"
    ));
    harness.key("enter");
    let set = Command::Set {
        key: "learning_rate".into(),
        value: Value::Float(suggestion),
    };
    assert_eq!(harness.sent, [set]);
    assert!(harness.app.overlay.is_none());
    // It is pending until the worker says so.
    assert_eq!(harness.app.session.params.learning_rate, 0.001);
    assert!(harness.app.session.coming("learning_rate").is_some());
    harness.event(Event::Applied {
        change: Change {
            key: "learning_rate".into(),
            old: Value::Float(0.001),
            new: Value::Float(suggestion),
        },
        step: 2601,
        epoch: 3,
    });
    assert_eq!(harness.app.session.params.learning_rate, suggestion);
    // The same once more changes nothing.
    harness.forget_sent();
    harness.key("T");
    harness.event(Event::RateTest(report(0)));
    harness.event(Event::RateTest(report(ALL)));
    harness.key("enter");
    assert_eq!(harness.sent, [BEGIN]);
    harness.line(&format!("learning rate is {suggestion} already"));
}

#[test]
fn esc_ends_a_test_and_closes_it() {
    for key in ["esc", "q", "T"] {
        let mut harness = testing(80, 24, 40);
        harness.line("rate test");
        harness.line("40 of 100 steps");
        harness.key("enter");
        assert!(harness.app.overlay.is_some(), "not before its end");
        harness.key(key);
        assert_eq!(harness.sent, [Command::StopFindLr], "{key}");
        assert!(harness.app.overlay.is_none());
    }
    // After its end, esc only closes; so does a click beside it.
    let mut harness = testing(80, 24, ALL);
    harness.key("esc");
    assert_eq!(
        (harness.sent.len(), harness.app.overlay.is_none()),
        (0, true)
    );
    let mut harness = testing(80, 24, 40);
    harness.click(0, 0);
    assert_eq!(harness.sent, [Command::StopFindLr]);
    assert!(harness.app.overlay.is_none());
    // Before it begins, too.
    let mut harness = AppHarness::running(80, 24, Screen::Train);
    harness.key("T enter esc");
    assert_eq!(harness.sent, [BEGIN, Command::StopFindLr]);
    // One that another viewer began is shown, not begun again.
    let mut harness = AppHarness::running(80, 24, Screen::Train);
    harness.event(Event::RateTest(report(30)));
    assert!(harness.app.overlay.is_none());
    harness.key("T");
    harness.line("30 of 100 steps");
    assert_eq!(harness.sent, []);
}

#[test]
fn a_test_that_cannot_be_made_says_why() {
    let refused = |why: &str| {
        Event::Done(Done {
            id: 1,
            outcome: Outcome::Refused(why.into()),
        })
    };
    let mut harness = AppHarness::running(80, 24, Screen::Train);
    harness.key("T");
    harness.event(refused("a test of learning rates is running already"));
    assert!(harness.app.overlay.is_none());
    harness.line("a test of learning rates is running already");
    for (state, why) in [
        (State::Done, "the run is done"),
        (State::Stopped, "the run is stopped"),
        (
            State::Diverged {
                step: 9,
                first: "the loss".into(),
            },
            "the run has diverged; b goes back",
        ),
    ] {
        let mut harness = AppHarness::running(120, 36, Screen::Train);
        harness.event(Event::State(state));
        harness.key("T");
        harness.line(&format!("test rates: {why}"));
        assert_eq!(
            (harness.sent.len(), harness.app.overlay.is_none()),
            (0, true)
        );
    }
    let mut harness = AppHarness::new(120, 36);
    harness.key("T");
    harness.line("test rates: still loading");
    // No memory for the copy of the network; and no rate at which the loss falls.
    let mut failed = RateTest::new(100);
    failed.end = Some(RateTestEnd::Failed("the GPU has no memory left".into()));
    let mut flat = RateTest::new(100);
    (0..100).for_each(|_| flat.add(2.0 + flat.next_rate()));
    for (test, says) in [
        (failed, "the GPU has no memory left"),
        (flat, "no rate made the loss fall"),
    ] {
        let mut harness = testing(120, 36, 0);
        harness.event(Event::RateTest(test.report(2600, 0)));
        harness.line(says);
        harness.key("enter");
        assert_eq!(harness.sent, []);
    }
}

#[test]
fn the_overlay_closes_with_its_run_and_survives_a_snapshot() {
    let mut harness = testing(120, 36, 40);
    harness.event(Event::Started(Box::new(app_harness::run_info())));
    assert!(harness.app.overlay.is_none());
    let mut harness = testing(120, 36, 40);
    let events = vec![
        Event::Started(Box::new(app_harness::run_info())),
        Event::State(State::Running),
        Event::RateTest(report(60)),
    ];
    harness.event(Event::Snapshot { events });
    harness.line("60 of 100 steps");
    let events = vec![Event::Started(Box::new(app_harness::run_info()))];
    harness.event(Event::Snapshot { events });
    assert!(harness.app.overlay.is_none());
}
