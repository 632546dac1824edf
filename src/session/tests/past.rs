//! Questions about earlier epochs.

use super::*;
use crate::domain::report::ScoredWeights;
use crate::session::protocol::Question::{Evaluation as Scored, Model};
use crate::train::kept::file_of;
use crate::train::saver::PREVIOUS;
use std::fs;

/// A session that keeps the checkpoints of all epochs.
fn keeping(runs: &Path) -> Settings {
    Settings {
        keep: Keep::All,
        ..settings(runs)
    }
}

impl FrontEnd {
    fn evaluation_of(&mut self, epoch: u32) -> Evaluation {
        match self.ask_about(Some(epoch), Scored) {
            Answer::Evaluation { evaluation } => *evaluation,
            other => panic!("{other:?}"),
        }
    }

    /// Predictions for all images, and the network's report with the gradients left out.
    fn looks(&mut self, epoch: Option<u32>) -> [Answer; 3] {
        let all = Question::Samples {
            filter: Filter::All,
            offset: 0,
            count: 1000,
        };
        let cell = Question::Cell {
            truth: 3,
            predicted: 3,
            offset: 0,
            count: 1000,
        };
        let model = Model {
            activations_of: Some(2),
        };
        let mut looks = [all, cell, model].map(|question| self.ask_about(epoch, question));
        match &mut looks[2] {
            Answer::Model(report) => {
                for parameter in &mut report.parameters {
                    assert_eq!(parameter.grad_norm.is_some(), epoch.is_none());
                    parameter.grad_norm = None;
                }
            }
            other => panic!("{other:?}"),
        }
        looks
    }

    /// Trains an epoch and waits for its checkpoint: of saves that wait for another one, only the newest is made.
    fn kept_epoch(&mut self, steps: u32) {
        self.make_steps(steps);
        let step = self.epochs().last().unwrap().step;
        let saved = |e: &Event| matches!(e, Event::Checkpoint(c) if c.step == step && !c.best);
        if !self.events.iter().any(saved) {
            self.until(|e| saved(e).then_some(()));
        }
    }

    fn epochs(&self) -> Vec<EpochReport> {
        let epochs = self.events.iter().filter_map(|event| match event {
            Event::Epoch(epoch) => Some(epoch.clone()),
            _ => None,
        });
        epochs.collect()
    }

    /// Waits for the end of the run, which may have come already.
    fn until_done(&mut self) {
        if !self.events.contains(&Event::State(State::Done)) {
            self.until_state(State::Done);
        }
    }

    fn failed_about(&mut self, epoch: u32, question: Question) -> String {
        match self.ask_about(Some(epoch), question) {
            Answer::Failed { why } => why,
            other => panic!("{other:?}"),
        }
    }
}

/// An evaluation without its speed.
fn timeless(mut evaluation: Evaluation) -> Evaluation {
    evaluation.images_per_s = 0.0;
    evaluation
}

/// The evaluation of the last weights after a step.
fn scored_at(events: &[Event], step: u32) -> Evaluation {
    let found = events.iter().find_map(|event| match event {
        Event::Evaluation(e) if e.step == u64::from(step) && e.weights == ScoredWeights::Last => {
            Some(timeless(e.clone()))
        }
        _ => None,
    });
    found.unwrap()
}

/// What a run left behind: its last checkpoint, and the lines of its metrics but those of single steps.
fn result(runs: &Path) -> (Checkpoint, Vec<Event>) {
    let folder = runs.join("one");
    assert_metrics_are_seamless_from_the_start(&folder);
    let mut events = metrics(&folder);
    events.retain(|event| matches!(event, Event::Epoch(_) | Event::Evaluation(_)));
    (content(&folder.join(LAST)), events)
}

#[test]
fn looking_back_shows_what_was_then_and_changes_nothing() {
    for validation in [0.2, 0.0] {
        let (plain, watched) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let with = |runs: &Path| {
            let mut settings = keeping(runs);
            settings.params.validation = validation;
            // The average of the weights is scored beside them.
            settings.params.average_decay = 0.9;
            settings
        };
        let split = with(plain.path()).params.scored_split();
        train_through(with(plain.path()));
        let per_epoch = step(plain.path(), LAST) as u32 / 3;

        let mut front = FrontEnd::start(Settings {
            paused: true,
            ..with(watched.path())
        });
        front.until_state(State::Paused);
        front.kept_epoch(per_epoch);
        let first = scored_at(&front.events, per_epoch);
        let then = front.looks(None);
        front.make_steps(per_epoch / 2);
        // While it is paused.
        assert_eq!(timeless(front.evaluation_of(1)), first);
        assert_eq!(
            first.confusion.total(),
            if validation > 0.0 { 24 } else { 40 }
        );
        assert_eq!(front.looks(Some(1)), then);
        assert_ne!(front.looks(None), then);
        front.kept_epoch(per_epoch - per_epoch / 2);
        // While it trains, and after it has ended.
        front.send(Command::Resume);
        assert_eq!(front.looks(Some(1)), then);
        front.until_done();
        let second = scored_at(&front.events, 2 * per_epoch);
        for epoch in [2, 1, 2, 3, 1] {
            let past = timeless(front.evaluation_of(epoch));
            assert_eq!((past.epoch, past.split), (epoch, split));
            assert_eq!(past.step, u64::from(epoch * per_epoch));
        }
        assert_eq!(timeless(front.evaluation_of(2)), second);
        let (state, events) = front.quit();
        assert_eq!(state, State::Done);
        // No viewer hears of what another one looks at.
        let scored = |e: &&Event| matches!(e, Event::Evaluation(e) if e.split == split);
        // Three epochs, each with the last weights and their average.
        assert_eq!(events.iter().filter(scored).count(), 6);
        let (plain, watched) = (result(plain.path()), result(watched.path()));
        assert_eq!(watched, plain);
    }
}

#[test]
fn a_resumed_run_looks_back_too() {
    let runs = tempfile::tempdir().unwrap();
    let mut front = FrontEnd::start(Settings {
        paused: true,
        ..keeping(runs.path())
    });
    front.until_state(State::Paused);
    front.kept_epoch(10);
    let (_, events) = front.quit();
    let mut front = FrontEnd::start(resuming(runs.path()));
    front.until_state(State::Done);
    let first = scored_at(&events, 10);
    assert_eq!(timeless(front.evaluation_of(1)), first);
    front.quit();
}

#[test]
fn an_epoch_that_is_not_kept_is_answered_with_the_nearest_one() {
    let runs = tempfile::tempdir().unwrap();
    let folder = runs.path().join("one");
    let mut front = FrontEnd::start(Settings {
        paused: true,
        ..keeping(runs.path())
    });
    front.until_state(State::Paused);
    let why = front.failed_about(1, Scored);
    assert!(why.contains("kept yet"), "{why}");
    front.kept_epoch(10);
    front.kept_epoch(10);
    front.send(Command::Resume);
    front.until_state(State::Done);
    front.evaluation_of(3);
    for file in [BEST, PREVIOUS, &file_of(2), &file_of(3)] {
        fs::remove_file(folder.join(file)).unwrap();
    }
    for (epoch, nearest) in [(2, 1), (9, 3)] {
        let why = front.failed_about(epoch, Scored);
        let words = format!("of epoch {epoch} is kept. The nearest is that of epoch {nearest}.");
        assert!(why.contains(&words), "{why}");
    }
    // What is shown stays while its file is gone.
    front.evaluation_of(3);
    let first = folder.join(file_of(1));
    let mut bytes = fs::read(&first).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&first, bytes).unwrap();
    let why = front.failed_about(1, Scored);
    assert!(why.contains("epoch-0001.safetensors"), "{why}");
    let why = front.failed_about(3, Question::Runs);
    assert!(why.contains("can be asked about an epoch"), "{why}");
    front.evaluation_of(3);
    assert_eq!(front.quit().0, State::Done);
}

#[test]
fn without_a_folder_there_is_no_past() {
    let runs = tempfile::tempdir().unwrap();
    let mut front = FrontEnd::start(Settings {
        runs: None,
        name: None,
        ..settings(runs.path())
    });
    front.until_state(State::Done);
    let why = front.failed_about(1, Scored);
    assert!(why.contains("no runs folder"), "{why}");
    front.quit();
}
