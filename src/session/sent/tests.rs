use super::*;
use crate::domain::report::RunInfo;
use crate::session::protocol::{Change, Done};

fn set(value: u64) -> Command {
    Command::Set {
        key: "batch_size".into(),
        value: Value::Int(value),
    }
}

fn change(new: u64) -> Change {
    Change {
        key: "batch_size".into(),
        old: Value::Int(32),
        new: Value::Int(new),
    }
}

fn pending(new: u64) -> Event {
    Event::Pending {
        change: change(new),
        applies: Applies::NextEpoch,
    }
}

fn applied(new: u64, step: u64) -> Event {
    Event::Applied {
        change: change(new),
        step,
        epoch: 2,
    }
}

fn done(outcome: Outcome) -> Event {
    Event::Done(Done { id: 1, outcome })
}

/// The outcome of a command after these events. None if its effect is not complete.
fn outcome(command: Command, until: Until, events: &[Event]) -> Option<Outcome> {
    let mut sent = Sent::new(1, command, until);
    let mut status = Status::default();
    for event in events {
        status.event(event);
        sent.event(event, &status);
    }
    sent.is_complete.then_some(sent.outcome)
}

fn refused(outcome: Option<Outcome>) -> String {
    match outcome {
        Some(Outcome::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pending_change_is_complete_when_it_is_applied_and_refused_when_it_cannot_be() {
    let waits = || vec![pending(64), done(Outcome::PendingUntil(Applies::NextEpoch))];
    let after = |event: Event| {
        let mut events = waits();
        events.push(event);
        outcome(set(64), Until::Applied, &events)
    };
    assert_eq!(outcome(set(64), Until::Applied, &waits()), None);
    let at_once = outcome(set(64), Until::Answered, &waits());
    assert_eq!(at_once, Some(Outcome::PendingUntil(Applies::NextEpoch)));
    assert_eq!(after(applied(64, 41)), Some(Outcome::AppliedAt(41)));
    let started = |batch_size| {
        let mut run = RunInfo::default();
        run.params.batch_size = batch_size;
        Event::Started(Box::new(run))
    };
    assert_eq!(after(started(64)), Some(Outcome::AppliedAt(1)));
    let withdrawn = Event::Withdrawn {
        key: "batch_size".into(),
    };
    for (event, words) in [
        (applied(16, 41), "changed to 16 instead"),
        (pending(16), "changed to 16 instead"),
        (started(32), "changed to 32 instead"),
        (withdrawn, "taken back"),
        (Event::State(State::Done), "the run ended"),
    ] {
        let why = refused(after(event));
        assert!(why.contains(words), "{why}");
    }
    // Other keys and step reports say nothing.
    assert_eq!(after(Event::State(State::Paused)), None);
}

#[test]
fn undo_waits_for_the_change_that_it_made_pending() {
    let events = [
        pending(16),
        pending(64),
        done(Outcome::PendingUntil(Applies::NextEpoch)),
        applied(64, 41),
    ];
    let outcome = outcome(Command::Undo, Until::Applied, &events);
    assert_eq!(outcome, Some(Outcome::AppliedAt(41)));
}

#[test]
fn a_snapshot_instead_of_events_completes_a_command_too() {
    let snapshot = |events: &[Event]| Event::Snapshot {
        events: events.to_vec(),
    };
    let waits = [pending(64), done(Outcome::PendingUntil(Applies::NextEpoch))];
    let missed = |events: &[Event]| {
        let events = [&waits[..], &[snapshot(events)]].concat();
        outcome(set(64), Until::Applied, &events)
    };
    // An earlier change to the same value does not count.
    let earlier = [applied(64, 11), applied(32, 21)];
    let still = [&earlier[..], &[pending(64)]].concat();
    assert_eq!(missed(&still), None);
    let over = [&still[..], &[Event::State(State::Stopped)]].concat();
    assert!(refused(missed(&over)).contains("the run ended"));
    let now = [&still[..], &[applied(64, 41)]].concat();
    assert_eq!(missed(&now), Some(Outcome::AppliedAt(41)));

    let checkpoint = |step| {
        Event::Checkpoint(CheckpointReport {
            step,
            epoch: 1,
            path: String::new(),
            bytes: 1,
            best: false,
        })
    };
    let saved = |event: Event| {
        let events = [done(Outcome::AppliedAt(41)), event];
        outcome(Command::Checkpoint, Until::Saved, &events)
    };
    let old = Event::Unsaved {
        why: Some("the disk was full".into()),
    };
    assert_eq!(saved(snapshot(&[old.clone(), checkpoint(39)])), None);
    let all = snapshot(&[old.clone(), checkpoint(39), checkpoint(40)]);
    assert_eq!(saved(all), Some(Outcome::AppliedAt(41)));
    assert_eq!(refused(saved(old)), "the disk was full");
}

#[test]
fn a_step_waits_for_the_pause_after_it_and_a_pause_only_for_one() {
    let paused = Event::State(State::Paused);
    let now = || done(Outcome::AppliedAt(41));
    let events = [paused.clone(), now()];
    let paused_before = outcome(Command::Pause, Until::Paused, &events);
    assert_eq!(paused_before, Some(Outcome::AppliedAt(41)));
    assert_eq!(outcome(Command::Step, Until::Paused, &events), None);
    let events = [paused.clone(), now(), Event::State(State::Running), paused];
    let stepped = outcome(Command::Step, Until::Paused, &events);
    assert_eq!(stepped, Some(Outcome::AppliedAt(41)));
}

#[test]
fn a_status_names_what_is_pending() {
    let other = |key: &str| Change {
        key: key.into(),
        old: Value::Int(0),
        new: Value::Int(1),
    };
    let events = vec![
        Event::Started(Box::default()),
        pending(16),
        pending(64),
        Event::Pending {
            change: other("crop"),
            applies: Applies::NextRun,
        },
        Event::Withdrawn { key: "crop".into() },
    ];
    let view = SnapshotView::of(&Event::Snapshot { events });
    let answer = serde_json::to_value(view.answer()).unwrap();
    assert_eq!(answer["pending"].as_array().unwrap().len(), 1);
    assert_eq!(answer["pending"][0]["new"], 64);
    assert_eq!(answer["pending"][0]["waits_for"], "next-epoch");
    assert_eq!(answer["params"]["batch_size"], 32);
}

#[test]
fn a_test_of_rates_is_complete_at_its_end_and_refused_if_it_is_stopped() {
    use crate::domain::rate_test::{RateTest, RateTestEnd};
    let mut test = RateTest::new(20);
    let command = || Command::FindLr { steps: None };
    let at = |test: &RateTest, first| Event::RateTest(test.report(6, first));
    let mut events = vec![done(Outcome::AppliedAt(7)), at(&test, 0)];
    while test.end.is_none() {
        test.add(1.0);
        events.push(at(&test, test.points.len() - 1));
    }
    let complete = |events: &[Event]| outcome(command(), Until::Tested, events);
    assert_eq!(complete(&events[..events.len() - 1]), None);
    assert_eq!(complete(&events), Some(Outcome::AppliedAt(7)));
    let mut sent = Sent::new(1, command(), Until::Tested);
    let status = Status::default();
    events.iter().for_each(|event| sent.event(event, &status));
    match &sent.effect {
        Some(CommandEffect::RateTest(whole)) => assert_eq!(*whole, test.report(6, 0)),
        _ => panic!("no effect"),
    }
    for (end, says) in [
        (RateTestEnd::Stopped, "the test was stopped"),
        (RateTestEnd::Failed("no memory".into()), "no memory"),
    ] {
        test.end = Some(end);
        let last = [done(Outcome::AppliedAt(7)), at(&test, 0)];
        assert!(refused(complete(&last)).contains(says));
    }
}
