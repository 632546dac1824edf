//! Tests of the log, the marks and the scores computed from a session's events.

use super::*;
use crate::domain::marks::{Marked, merged};
use crate::domain::report::{EpochReport, Health, ScoredWeights};

fn run(resumed_at: Option<u64>) -> Event {
    Event::Started(Box::new(RunInfo {
        name: "one".into(),
        folder: "runs/one".into(),
        data: DataInfo::default(),
        device: "CPU".into(),
        params: Hyperparameters::default(),
        architecture: "dense 10".into(),
        layers: Vec::new(),
        parameters: 1,
        multiply_adds: 1,
        train: 3200,
        validation: 800,
        test: 1000,
        steps_per_epoch: 100,
        split_seed: 4,
        origin: None,
        resumed_at,
        started: 0.0,
    }))
}

/// Ten steps of a tenth of a second each.
fn steps(last: u64) -> Event {
    Event::Steps(StepReport {
        first: last - 9,
        last,
        epoch: (last.div_ceil(100)) as u32,
        step_in_epoch: (last - 1) % 100 + 1,
        steps_per_epoch: 100,
        images: 320,
        loss: 1.0,
        loss_min: 1.0,
        loss_max: 1.0,
        correct: 160,
        grad_norm: 1.0,
        learning_rate: 1e-3,
        images_per_s: 320.0,
        elapsed: last as f64,
        eta: None,
    })
}

fn epoch(epoch: u32, test: Option<f64>) -> Event {
    Event::Epoch(EpochReport {
        epoch,
        step: 100 * u64::from(epoch),
        train_loss: 1.0,
        train_accuracy: 0.5,
        loss: 1.0,
        split: Split::Validation,
        accuracy: 0.5 + 0.01 * f64::from(epoch),
        test_accuracy: test,
        average: None,
        best: true,
        images_per_s: 320.0,
        elapsed: 100.0 * f64::from(epoch),
        position: f64::from(epoch),
        reached: None,
        tta: Default::default(),
    })
}

fn scored(split: Split, weights: ScoredWeights, step: u64, accuracy: f64) -> Event {
    Event::Evaluation(Evaluation {
        split,
        weights,
        tta: Default::default(),
        step,
        epoch: (step / 100) as u32,
        loss: 1.0,
        accuracy,
        confusion: Default::default(),
        images_per_s: 1.0,
    })
}

fn rate(step: u64, old: f64, new: f64) -> Event {
    Event::Applied {
        change: Change {
            key: "learning_rate".into(),
            old: Value::Float(old),
            new: Value::Float(new),
        },
        step,
        epoch: (step.div_ceil(100)) as u32,
    }
}

/// Steps, epochs and a change of the learning rate at step 51, up to step `last`.
fn past(last: u64) -> Vec<Event> {
    let mut events = Vec::new();
    for step in (10..=last).step_by(10) {
        events.push(steps(step));
        if step == 50 {
            events.push(rate(51, 0.002, 0.001));
        }
        if step % 100 == 0 {
            events.push(epoch((step / 100) as u32, None));
        }
    }
    events
}

fn session(events: &[Event]) -> SessionView {
    let mut session = SessionView::default();
    events.iter().for_each(|event| session.event(event));
    session
}

fn lines(session: &SessionView) -> Vec<(u64, String)> {
    let line = |e: &log::Entry| (e.step, e.text.clone());
    session.log.entries().iter().map(line).collect()
}

fn is_in_order(session: &SessionView) -> bool {
    let entries: Vec<_> = session.log.entries().iter().collect();
    entries
        .windows(2)
        .all(|w| w[0].elapsed <= w[1].elapsed && w[0].step <= w[1].step)
}

#[test]
fn single_steps_leave_one_line_and_a_pause_its_own() {
    let mut one = session(&[run(None), Event::State(State::Running), steps(10)]);
    one.event(&Event::State(State::Paused));
    for step in 11..=15 {
        one.event(&Event::State(State::Running));
        let Event::Steps(mut report) = steps(20) else {
            unreachable!()
        };
        (report.first, report.last) = (step, step);
        one.event(&Event::Steps(report));
        one.event(&Event::State(State::Paused));
    }
    assert_eq!(
        lines(&one),
        [(0, "run one begins".into()), (15, "paused".into())]
    );
    one.event(&Event::State(State::Running));
    one.event(&steps(30));
    one.event(&Event::State(State::Paused));
    let texts: Vec<_> = lines(&one).into_iter().map(|l| l.1).collect();
    assert_eq!(texts[1..], ["paused", "resumed", "paused"]);
}

#[test]
fn steps_that_arrive_after_a_pause_or_the_end_give_its_line_their_step() {
    for (state, text) in [
        (State::Paused, "paused"),
        (State::Stopped, "stopped"),
        (State::Done, "all epochs are done"),
    ] {
        let mut one = session(&[run(None), Event::State(State::Running), steps(10)]);
        one.event(&Event::State(state));
        one.event(&steps(17));
        let expected = [(0, "run one begins".into()), (17, text.into())];
        assert_eq!(lines(&one), expected);
        assert!(is_in_order(&one));
    }
}

#[test]
fn the_end_is_logged_at_the_step_of_the_epoch_before_it() {
    let mut one = session(&[run(None), Event::State(State::Running), steps(70)]);
    one.event(&epoch(1, None));
    one.event(&Event::State(State::Done));
    assert!(is_in_order(&one), "{:?}", lines(&one));
    assert_eq!(lines(&one).last().unwrap().0, 100);
}

#[test]
fn a_repeated_event_is_logged_once() {
    let nothing = Event::Notice {
        text: "there is no change to undo".into(),
    };
    let mut one = session(&[run(None), Event::State(State::Running), nothing.clone()]);
    one.event(&steps(10));
    one.event(&nothing);
    assert_eq!(lines(&one).len(), 2);
    assert_eq!(
        one.log.entries().back().unwrap().step,
        10,
        "at its newest time"
    );
}

#[test]
fn the_test_score_of_an_epoch_is_logged_once() {
    let one = session(&[
        run(None),
        Event::State(State::Running),
        steps(100),
        scored(Split::Test, ScoredWeights::Last, 100, 0.5),
        epoch(1, Some(0.5)),
    ]);
    let tests = lines(&one).iter().filter(|l| l.1.contains("test")).count();
    assert_eq!(tests, 1, "{:?}", lines(&one));
    // The evaluation gets its own line if the epoch's line does not contain the figure.
    let one = session(&[
        run(None),
        Event::State(State::Running),
        steps(100),
        scored(Split::Test, ScoredWeights::Last, 100, 0.5),
        epoch(1, None),
    ]);
    assert!(lines(&one).contains(&(100, "test images: 50.00%".into())));
}

#[test]
fn a_run_that_goes_back_has_each_line_once_and_times_that_never_fall() {
    let mut events = vec![run(None), Event::State(State::Running)];
    events.extend(past(250));
    events.push(Event::State(State::Diverged {
        step: 251,
        first: "the loss".into(),
    }));
    events.push(run(Some(201)));
    events.extend(past(200));
    events.push(Event::Notice {
        text: "went back".into(),
    });
    events.push(rate(201, 0.001, 0.0005));
    events.push(Event::State(State::Running));
    events.extend(
        past(230)
            .into_iter()
            .filter(|e| matches!(e, Event::Steps(s) if s.last > 200)),
    );
    let one = session(&events);
    assert!(is_in_order(&one), "{:#?}", one.log);
    let texts: Vec<_> = lines(&one).into_iter().map(|l| l.1).collect();
    assert_eq!(
        texts,
        [
            "run one begins",
            "learning rate 0.002 → 0.001",
            "epoch 1: val 51.00%, best",
            "epoch 2: val 52.00%, best",
            "went back",
            "learning rate 0.001 → 0.0005",
        ]
    );
    // A viewer that attaches later shows the same.
    let late = session(&[Event::Snapshot { events }]);
    assert_eq!(lines(&late), lines(&one));
}

/// Steps and epochs of this many seconds each; only the best one is the best.
fn quick_epochs(seconds: f64, last: u32, best: u32) -> Vec<Event> {
    let of_epoch = |number| {
        let end = seconds * f64::from(number);
        let Event::Epoch(mut report) = epoch(number, None) else {
            unreachable!();
        };
        (report.elapsed, report.best) = (end, number == best);
        let Event::Steps(mut steps) = steps(report.step) else {
            unreachable!();
        };
        steps.elapsed = end;
        [Event::Steps(steps), Event::Epoch(report)]
    };
    (1..=last).flat_map(of_epoch).collect()
}

#[test]
fn quick_epochs_share_a_line_and_leave_the_others_readable() {
    let mut events = vec![run(None), Event::State(State::Running)];
    events.extend(quick_epochs(0.01, 40, 20));
    let asked = Event::Notice {
        text: "asked for".into(),
    };
    events.insert(2 + 2 * 25, asked);
    let one = session(&events);
    let texts: Vec<_> = lines(&one).into_iter().map(|l| l.1).collect();
    let expected = [
        "run one begins",
        "epoch 20: val 70.00%, best",
        "epoch 25: val 75.00%",
        "asked for",
        "epoch 40: val 90.00%",
    ];
    assert_eq!(texts, expected);
    // A run that goes back replays its epochs, of which some have no line.
    events.push(run(Some(3001)));
    events.extend(quick_epochs(0.01, 30, 20));
    let one = session(&events);
    let texts: Vec<_> = lines(&one).into_iter().map(|l| l.1).collect();
    assert_eq!(texts[..4], expected[..4]);
    assert_eq!(texts[4..], ["epoch 30: val 80.00%"]);
    assert!(is_in_order(&one), "{:#?}", one.log);
    // A line a second, and epochs of a second have one each.
    for (seconds, expected) in [(0.375, vec![3, 6, 8]), (1.0, (1..=8).collect())] {
        let mut events = vec![run(None), Event::State(State::Running)];
        events.extend(quick_epochs(seconds, 8, 0));
        let steps = lines(&session(&events)).into_iter().map(|line| line.0);
        let epochs: Vec<u64> = steps.skip(1).map(|step| step / 100).collect();
        assert_eq!(epochs, expected, "{seconds}");
    }
}

#[test]
fn the_curves_of_a_long_run_follow_it() {
    for epochs in [15.0, 9999.0] {
        let Event::Started(mut begin) = run(None) else {
            unreachable!();
        };
        begin.params.epochs = epochs;
        let mut one = session(&[Event::Started(begin), Event::State(State::Running)]);
        for last in (10..=1500).step_by(10) {
            let Event::Steps(mut report) = steps(last) else {
                unreachable!();
            };
            // From 2 down to 1 in the first ten epochs.
            report.loss = (2.0 - last as f64 / 1000.0).max(1.0);
            one.event(&Event::Steps(report));
        }
        let smooth = one.smoothed(&one.train_loss);
        let shown = one.newest(&one.train_loss, &smooth).unwrap();
        assert!((shown - 1.0).abs() < 1e-3, "{epochs}: {shown}");
    }
}

#[test]
fn a_resumed_run_says_so_after_its_past() {
    let mut events = vec![run(Some(201))];
    events.extend(past(200));
    events.push(Event::State(State::Running));
    let one = session(&events);
    assert!(is_in_order(&one), "{:#?}", one.log);
    let last = lines(&one).pop();
    assert_eq!(last, Some((201, "resumed at step 201".into())));
}

#[test]
fn the_best_weights_score_stands_beside_the_result() {
    let one = session(&[
        run(None),
        steps(100),
        scored(Split::Test, ScoredWeights::Last, 200, 0.6),
        scored(Split::Test, ScoredWeights::Best, 100, 0.65),
    ]);
    assert_eq!(one.evaluation(Split::Test).unwrap().accuracy, 0.6);
    assert_eq!(one.evaluation_before(Split::Test), None);
    assert_eq!(one.test_of_best.as_ref().unwrap().accuracy, 0.65);
    let line = "test images with the best weights, of epoch 1: 65.00%";
    assert_eq!(one.log.entries().back().unwrap().text, line);
}

#[test]
fn the_average_s_score_stands_beside_that_of_the_last_weights() {
    let both = |step, last, average| {
        [
            scored(Split::Test, ScoredWeights::Last, step, last),
            scored(Split::Test, ScoredWeights::Average, step, average),
        ]
    };
    let mut events = vec![run(None), steps(100)];
    events.extend(both(100, 0.5, 0.55));
    events.push(epoch(1, None));
    events.extend(both(200, 0.6, 0.65));
    let mut one = session(&events);
    let expected = [
        "test images: 50.00% (average 55.00%)",
        "test images: 60.00% (average 65.00%)",
    ];
    let texts = |one: &SessionView| -> Vec<String> {
        let lines = lines(one).into_iter().map(|line| line.1);
        lines.filter(|line| line.contains("test")).collect()
    };
    assert_eq!(texts(&one), expected);
    // The screens that show single images show those of the last weights.
    assert_eq!(one.evaluation(Split::Test).unwrap().accuracy, 0.6);
    assert_eq!(one.test.unwrap().accuracy, 0.6);
    assert_eq!(one.average(Split::Test).unwrap().accuracy, 0.65);
    // An average that has ended is not shown beside newer weights.
    one.event(&epoch(3, None));
    assert_eq!(one.average(Split::Test), None);
}

#[test]
fn more_changes_than_are_kept_leave_the_newest() {
    let mut one = session(&[run(None), steps(10)]);
    for i in 0..3000u32 {
        let x = f64::from(i) * 1e-3;
        one.event(&rate(11, x, x + 1e-3));
    }
    let marks = merged(&one.marks, 0.0);
    assert_eq!(marks.len(), 1);
    let Marked::Change(change) = &marks[0].of else {
        panic!("{marks:?}");
    };
    assert_eq!(change.new, Value::Float(2.999 + 1e-3));
}

#[test]
fn a_collapse_and_a_plateau_are_logged_when_they_begin_and_end() {
    use crate::domain::report::{Collapse, Plateau, Symptom};
    let health = |epoch: u32, images: Option<u32>, plateau: bool| {
        Event::Health(Health {
            step: 100 * u64::from(epoch),
            epoch,
            collapse: images.map(|images| Collapse {
                since: 3,
                signs: vec![Symptom::OneClass {
                    class: 4,
                    images,
                    of: 800,
                }],
                best: Some(2),
            }),
            plateau: plateau.then_some(Plateau {
                from: 6,
                to: 10,
                overfits: false,
            }),
        })
    };
    let mut one = session(&[run(None), steps(300)]);
    for event in [
        health(3, Some(799), false),
        health(4, Some(800), false),
        health(5, None, false),
        health(10, None, true),
        health(12, None, false),
        health(20, None, true),
        health(21, Some(800), false),
    ] {
        one.event(&event);
    }
    let lines = lines(&one);
    let begins = |i: usize, step: u64, text: &str| {
        assert!(
            lines[i].0 == step && lines[i].1.starts_with(text),
            "{lines:#?}"
        );
    };
    assert_eq!(lines.len(), 7, "{lines:#?}");
    begins(1, 300, "collapse: 799 of 800 predictions are class 4");
    begins(2, 500, "no longer collapsed");
    begins(
        3,
        1000,
        "plateau: accuracy and loss were no better in epochs 6 to 10",
    );
    begins(4, 1200, "improves again");
    begins(5, 2000, "plateau");
    begins(6, 2100, "collapse: every");
    assert!(one.health.collapse.is_some());
    one.event(&run(None));
    assert_eq!(one.health, Health::default(), "another run");
}
