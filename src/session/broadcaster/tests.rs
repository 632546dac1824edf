use super::super::protocol::MAX_UNREAD;
use super::super::protocol::{Answer, Command, CommandMessage, Question};
use super::*;
use crate::domain::params::{Applies, Change, Value};
use crate::domain::rate_test::{RateTest, RateTestReport};
use crate::domain::report::{EpochReport, Health, RunInfo, ScoredWeights, Split, StepReport};

fn steps(number: u64) -> Event {
    Event::Steps(StepReport {
        first: number,
        last: number,
        epoch: 1 + (number / 1000) as u32,
        step_in_epoch: number % 1000,
        steps_per_epoch: 1000,
        images: 32,
        loss: 1.0,
        loss_min: if number == 77_777 { 0.5 } else { 1.0 },
        loss_max: 1.0,
        correct: 16,
        grad_norm: 1.0,
        learning_rate: 1e-3,
        images_per_s: 100.0,
        elapsed: number as f64,
        eta: None,
    })
}

fn epoch(number: u32) -> Event {
    Event::Epoch(EpochReport {
        epoch: number,
        step: u64::from(number) * 1000,
        train_loss: 1.0,
        train_accuracy: 0.5,
        loss: 1.0,
        split: Split::Validation,
        accuracy: 0.5,
        test_accuracy: None,
        average: None,
        best: false,
        images_per_s: 1.0,
        elapsed: 1.0,
        position: f64::from(number),
        reached: None,
        tta: Default::default(),
    })
}

fn notice(text: &str) -> Event {
    Event::Notice { text: text.into() }
}

fn change(key: &str, new: f64) -> Change {
    Change {
        key: key.into(),
        old: Value::Float(1e-3),
        new: Value::Float(new),
    }
}

fn heard_by(viewer: &SessionClient) -> Vec<Event> {
    viewer.events.try_iter().map(|m| m.event).collect()
}

fn events(snapshot: Event) -> Vec<Event> {
    match snapshot {
        Event::Snapshot { events } => events,
        other => panic!("no snapshot: {other:?}"),
    }
}

#[test]
fn a_late_viewer_has_what_the_first_one_heard_and_then_the_same() {
    let (first, sender) = channel();
    let heard = [notice("a"), epoch(1), notice("b")];
    heard.iter().for_each(|event| sender.event(event.clone()));
    let late = sender.broadcaster().attach();
    assert_eq!(events(late.events.try_recv().unwrap().event), heard);
    sender.event(epoch(2));
    sender.event(steps(2001));
    sender.event(steps(2002));
    assert_eq!(heard_by(&first).last(), Some(&epoch(2)));
    assert_eq!(heard_by(&late), [epoch(2)]);
    for viewer in [&first, &late] {
        let report = viewer.take_steps().unwrap();
        assert_eq!((report.first, report.last), (2001, 2002));
    }
    drop(sender);
    assert!(late.events.recv().is_err() && first.events.recv().is_err());
}

#[test]
fn answers_go_to_the_viewer_that_asked_under_the_id_it_gave() {
    let (first, sender) = channel();
    let second = sender.broadcaster().attach();
    second.events.try_iter().count();
    for viewer in [&first, &second] {
        let question = Question::Runs;
        let ask = CommandMessage::new(
            7,
            Command::Ask {
                question,
                epoch: None,
            },
        );
        viewer.commands.send_message(ask).unwrap();
    }
    let answer = |why: &str| Answer::Failed { why: why.into() };
    let outcome = Outcome::AppliedAt(1);
    for (request, why) in sender.requests.try_iter().zip(["first", "second"]) {
        sender.answer(request.address(), answer(why));
        sender.done(request.address(), outcome.clone());
    }
    for (viewer, why) in [(&first, "first"), (&second, "second")] {
        let answer = Event::Answer {
            id: 7,
            answer: answer(why),
        };
        let outcome = outcome.clone();
        assert_eq!(
            heard_by(viewer),
            [answer, Event::Done(Done { id: 7, outcome })]
        );
    }
}

#[test]
fn a_viewer_that_fell_behind_still_gets_what_became_of_its_commands() {
    let (_first, sender) = channel();
    let slow = sender.broadcaster().attach();
    for _ in 0..100 {
        slow.commands.send(Command::Pause).unwrap();
    }
    let requests: Vec<_> = sender.requests.try_iter().collect();
    for request in &requests {
        sender.done(request.address(), Outcome::AppliedAt(1));
    }
    for _ in 0..3 * MAX_UNREAD {
        sender.event(notice("x"));
    }
    let done: Vec<u64> = heard_by(&slow)
        .iter()
        .filter_map(|event| match event {
            Event::Done(done) => Some(done.id),
            _ => None,
        })
        .collect();
    assert_eq!(done, (1..=100).collect::<Vec<_>>());
}

#[test]
fn events_name_their_run_and_the_last_one_is_the_last() {
    let (first, sender) = channel();
    let run = |name: &str| {
        Event::Started(Box::new(RunInfo {
            name: name.into(),
            ..RunInfo::default()
        }))
    };
    let ended = Event::Ended {
        params: Box::default(),
        state: State::Stopped,
    };
    let load = Event::Load(SystemLoad::default());
    for event in [epoch(1), run("one"), epoch(1), load, run(""), epoch(1)] {
        sender.event(event);
    }
    sender.event(ended.clone());
    sender.event(epoch(2));
    let heard: Vec<_> = first.events.try_iter().collect();
    let runs: Vec<_> = heard.iter().map(|m| m.run.as_deref()).collect();
    let one = Some("one");
    assert_eq!(runs, [None, one, one, None, None, None, None]);
    assert_eq!(heard.last().unwrap().event, ended);
}

#[test]
fn a_viewer_that_stops_reading_is_bounded_and_has_the_newest_afterwards() {
    let (first, sender) = channel();
    let slow = sender.broadcaster().attach();
    for number in 0..5 * MAX_UNREAD as u32 {
        sender.event(epoch(number % 9000));
        sender.event(steps(u64::from(number)));
        first.events.try_iter().count();
        assert!(slow.events.len() <= MAX_UNREAD);
    }
    sender.event(notice("newest"));
    let heard = heard_by(&slow);
    assert!(matches!(heard[0], Event::Snapshot { .. }));
    assert_eq!(heard.last(), Some(&notice("newest")));
}

#[test]
fn only_the_first_viewer_ends_the_session_by_going() {
    let (first, sender) = channel();
    let second = sender.broadcaster().attach();
    assert!(!first.is_alone());
    drop(second);
    assert!(first.is_alone());
    assert_eq!(sender.requests.try_iter().count(), 0);
    drop(first);
    assert_eq!(
        sender
            .requests
            .try_iter()
            .map(|request| request.message.command)
            .collect::<Vec<_>>(),
        [Command::Quit]
    );
}

#[test]
fn history_is_bounded_and_loses_no_step_no_extreme_and_nothing_in_force() {
    let mut history = EventHistory::default();
    let pending = Event::Pending {
        change: change("batch_size", 64.0),
        applies: Applies::NextEpoch,
    };
    history.add(&pending);
    for number in 1..=200_000 {
        history.add(&steps(number));
        if number % 10 == 0 {
            history.add(&notice("x"));
        }
        if number % 1000 == 0 {
            history.add(&epoch((number / 1000) as u32));
        }
    }
    let events = events(history.snapshot());
    assert!(events.len() <= STEPS + LINES + 200 + 1, "{}", events.len());
    assert!(events.contains(&pending));
    let mut next = 1;
    let mut lowest = f64::INFINITY;
    for event in &events {
        if let Event::Steps(report) = event {
            assert_eq!(report.first, next, "no gap and no overlap");
            next = report.last + 1;
            lowest = lowest.min(report.loss_min);
        }
    }
    assert_eq!((next, lowest), (200_001, 0.5));
    let epochs = events.iter().filter(|e| matches!(e, Event::Epoch(_)));
    assert_eq!(epochs.count(), 200);
}

#[test]
fn progress_replaces_progress() {
    let mut history = EventHistory::default();
    for done in 0..10_000 {
        history.add(&Event::State(State::Loading {
            what: "images".into(),
            done,
            total: 10_000,
        }));
    }
    history.add(&Event::State(State::Running));
    let events = events(history.snapshot());
    assert_eq!(events.len(), 2);
    assert!(matches!(
        events[0],
        Event::State(State::Loading { done: 9999, .. })
    ));
}

#[test]
fn what_is_wrong_now_outlives_any_number_of_lines() {
    let health = Event::Health(Health {
        epoch: 3,
        ..Health::default()
    });
    let unsaved = Event::Unsaved {
        why: Some("no room".into()),
    };
    let mut history = EventHistory::default();
    history.add(&health);
    history.add(&unsaved);
    for n in 0..3 * LINES {
        history.add(&Event::Notice {
            text: n.to_string(),
        });
    }
    let kept = events(history.snapshot());
    assert!(kept.contains(&health) && kept.contains(&unsaved));
}

#[test]
fn the_newest_two_matrices_of_each_split_are_kept() {
    let scored = |split, step| {
        Event::Evaluation(Evaluation {
            split,
            weights: ScoredWeights::Last,
            tta: Default::default(),
            step,
            epoch: 1,
            loss: 1.0,
            accuracy: 0.5,
            confusion: Confusion::new(10),
            images_per_s: 1.0,
        })
    };
    let mut history = EventHistory::default();
    history.add(&scored(Split::Test, 1));
    for step in 1..=4 {
        history.add(&scored(Split::Validation, step));
        history.add(&epoch(step as u32));
    }
    let kept = events(history.snapshot())
        .into_iter()
        .filter_map(|e| match e {
            Event::Evaluation(e) => Some((e.split, e.step, e.confusion.classes)),
            _ => None,
        });
    let wanted = [
        (Split::Test, 1, 10),
        (Split::Validation, 1, 0),
        (Split::Validation, 2, 0),
        (Split::Validation, 3, 10),
        (Split::Validation, 4, 10),
    ];
    assert_eq!(kept.collect::<Vec<_>>(), wanted);
}

#[test]
fn a_late_viewer_learns_the_newest_test_of_rates_as_one_event() {
    let (client, sender) = channel();
    let mut test = RateTest::new(50);
    sender.event(Event::Started(Box::default()));
    sender.event(Event::RateTest(RateTest::new(80).report(3, 0)));
    sender.event(Event::RateTest(test.report(7, 0)));
    for number in 0..30 {
        test.add(1.0);
        sender.event(Event::RateTest(test.report(7, number)));
    }
    let tests = |viewer: &SessionClient| -> Vec<RateTestReport> {
        let events = heard_by(viewer).into_iter().flat_map(|event| match event {
            Event::Snapshot { events } => events,
            event => vec![event],
        });
        let reports = events.filter_map(|event| match event {
            Event::RateTest(report) => Some(report),
            _ => None,
        });
        reports.collect()
    };
    let late = sender.broadcaster().attach();
    assert_eq!(tests(&late), [test.report(7, 0)]);
    assert_eq!(tests(&client).len(), 32);
    // It belongs to the run.
    sender.event(Event::Started(Box::default()));
    assert_eq!(tests(&sender.broadcaster().attach()), []);
}
