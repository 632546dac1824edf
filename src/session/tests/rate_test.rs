//! Tests of learning rates while a run is live.

use super::*;
use crate::domain::rate_test::{MAX_STEPS, RateTestEnd, RateTestReport, STEPS};

fn find_lr(steps: usize) -> Command {
    Command::FindLr { steps: Some(steps) }
}

/// The report of an event.
fn report(event: &Event) -> Option<RateTestReport> {
    match event {
        Event::RateTest(report) => Some(report.clone()),
        _ => None,
    }
}

impl FrontEnd {
    /// Waits for the end of the test that was sent last. Returns it with all its points.
    fn rate_test(&mut self) -> RateTestReport {
        self.until(|e| report(e).filter(|report| report.end.is_some()));
        let mut whole = RateTestReport::default();
        for part in self.events.iter().filter_map(report) {
            whole.extend(&part);
        }
        whole
    }
}

fn paused(runs: &Path) -> Settings {
    let mut settings = settings(runs);
    settings.paused = true;
    settings.params.average_decay = 0.9;
    settings
}

#[test]
fn a_run_trains_after_a_test_of_rates_as_it_would_have_without() {
    let (plain, tested) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut front = FrontEnd::paused(paused(plain.path()));
    front.make_steps(13);
    front.send(Command::Resume);
    front.until_state(State::Done);
    front.quit();

    let mut front = FrontEnd::paused(paused(tested.path()));
    front.make_steps(13);
    let id = front.send(Command::FindLr { steps: None });
    assert_eq!(front.done(id), Outcome::AppliedAt(14));
    let test = front.rate_test();
    assert_eq!((test.step, test.steps), (13, STEPS));
    assert!(test.points.len() > 30, "{test:?}");
    assert!(test.points.is_sorted_by_key(|point| point.rate));
    // The run is paused as before, and the test is longer than what is left of it.
    front.make_steps(1);
    front.send(find_lr(40));
    front.rate_test();
    front.send(Command::Resume);
    front.until_state(State::Done);
    front.quit();

    let (plain, tested) = (plain.path().join("one"), tested.path().join("one"));
    for name in [LAST, BEST] {
        assert!(
            content(&tested.join(name)) == content(&plain.join(name)),
            "{name}"
        );
    }
    assert_eq!(metrics(&tested), metrics(&plain));
}

#[test]
fn commands_that_steer_end_a_test_and_questions_do_not() {
    let runs = tempfile::tempdir().unwrap();
    let mut settings = settings(runs.path());
    settings.params.epochs = 100_000.0;
    let mut front = FrontEnd::start(settings);
    front.until_state(State::Running);
    let begin = |front: &mut FrontEnd| {
        front.send(find_lr(MAX_STEPS));
        front.until(|e| report(e).filter(|report| report.first == 0));
    };
    begin(&mut front);
    assert!(matches!(front.ask(Question::Runs), Answer::Runs { .. }));
    let model = Question::Model {
        activations_of: None,
    };
    assert!(matches!(front.ask(model), Answer::Model(_)));
    let why = front.refused(find_lr(40));
    assert!(why.contains("running already"), "{why}");
    let id = front.send(Command::StopFindLr);
    assert!(matches!(front.done(id), Outcome::AppliedAt(_)));
    let test = front.rate_test();
    assert_eq!(test.end, Some(RateTestEnd::Stopped));

    begin(&mut front);
    let half = front.send(Command::Set {
        key: "learning_rate".into(),
        value: Value::Float(5e-4),
    });
    let first = test.step + 1;
    assert!(matches!(front.done(half), Outcome::AppliedAt(step) if step >= first));
    assert_eq!(front.rate_test().end, Some(RateTestEnd::Stopped));

    begin(&mut front);
    front.send(Command::Pause);
    assert_eq!(front.rate_test().end, Some(RateTestEnd::Stopped));
    front.until_state(State::Paused);

    front.send(Command::Compare {
        key: "learning_rate".into(),
        value: Value::Float(1e-4),
    });
    let why = front.refused(find_lr(40));
    assert!(why.contains("a comparison is under way"), "{why}");
    front.send(Command::DropChange);

    begin(&mut front);
    front.send(Command::Stop);
    assert_eq!(front.rate_test().end, Some(RateTestEnd::Stopped));
    front.until_state(State::Stopped);
    let why = front.refused(find_lr(40));
    assert!(why.contains("the run is over"), "{why}");
    let why = front.refused(Command::StopFindLr);
    assert!(
        why.contains("no test of learning rates is running"),
        "{why}"
    );

    front.send(Command::Resume);
    begin(&mut front);
    let (state, events) = front.quit();
    assert_eq!(state, State::Stopped);
    let last = events.iter().rev().find_map(report).unwrap();
    assert_eq!(last.end, Some(RateTestEnd::Stopped));
    assert_metrics_are_seamless_from_the_start(&runs.path().join("one"));
}

#[test]
fn a_diverged_run_and_too_few_steps_are_refused() {
    let runs = tempfile::tempdir().unwrap();
    let mut front = FrontEnd::paused(paused(runs.path()));
    for (steps, says) in [
        (5, "20 to 10,000 steps, not 5"),
        (0, "not 0"),
        (10_001, "not 10001"),
    ] {
        let why = front.refused(find_lr(steps));
        assert!(why.contains(says), "{why}");
    }
    // A refused command leaves nothing behind.
    let why = front.refused(Command::StopFindLr);
    assert!(
        why.contains("no test of learning rates is running"),
        "{why}"
    );
    front.quit();

    let runs = tempfile::tempdir().unwrap();
    let mut settings = settings(runs.path());
    settings.spoil = Some((5, 0, f32::NAN));
    let mut front = FrontEnd::start(settings);
    front.until(|e| matches!(e, Event::State(State::Diverged { .. })).then_some(()));
    let why = front.refused(find_lr(40));
    assert!(why.contains("the run has diverged"), "{why}");
    front.quit();
}
