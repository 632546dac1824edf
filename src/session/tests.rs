//! Tests drive a session as a front end does, through its client alone, on a small generated data set.

mod command_files;
mod commands;
mod comparison;
mod fork;
mod from_files;
mod health;
mod layer_rates;
mod life_cycle;
#[cfg(target_os = "linux")]
mod memory;
mod past;
mod rate_test;
mod reset;
mod resume;
mod saving;
mod sweep;
mod training;

use super::client::SessionClient;
use super::protocol::{Answer, Command, CommandMessage, Event, Filter, Outcome, Question};
use super::run_dir::{LOG, read_metrics};
use super::{Settings, start_with};
use crate::data::{Dataset, Images};
use crate::domain::keep::Keep;
use crate::domain::params::{self, Applies, Flip, Hyperparameters, Optimizer, Value};
use crate::domain::report::{DataInfo, EpochReport, Evaluation, Split, State};
use crate::hardware::device::DeviceChoice;
use crate::train::checkpoint::Checkpoint;
use crate::train::saver::{BEST, LAST};
use std::cell::RefCell;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

const SIDE: usize = 8;
const TRAIN: usize = 120;

/// Noisy images of ten classes. The position of bright stripes shows the class.
fn dataset() -> Dataset {
    let images = |count: usize, salt: usize| {
        let labels: Vec<u8> = (0..count).map(|i| ((i * 7 + salt) % 10) as u8).collect();
        let plane = SIDE * SIDE;
        let pixels = labels
            .iter()
            .enumerate()
            .flat_map(|(i, &label)| {
                (0..3 * plane).map(move |p| {
                    let noise = (i * 131 + p * 37 + salt) * 2_654_435_761 % 90;
                    let bright = (p / 6) % 10 == usize::from(label);
                    (noise + if bright { 150 } else { 0 }) as u8
                })
            })
            .collect();
        Images {
            side: SIDE,
            pixels,
            labels,
        }
    };
    let (train, test) = (images(TRAIN, 1), images(40, 2));
    let info = DataInfo {
        name: "stripes".into(),
        source: "a test".into(),
        classes: (0..10).map(|c| format!("class {c}")).collect(),
        side: SIDE as u32,
        train: TRAIN as u32,
        test: 40,
        mean: vec![0.3; 3],
        std: vec![0.2; 3],
        ..DataInfo::default()
    };
    Dataset { info, train, test }
}

fn params() -> Hyperparameters {
    Hyperparameters {
        architecture: "conv 4, norm, relu, pool, drop, dense 10".into(),
        batch_size: 10,
        epochs: 3.0,
        flip: Flip::Random,
        crop: 1,
        ..Hyperparameters::default()
    }
}

fn settings(runs: &Path) -> Settings {
    Settings {
        params: params(),
        runs: Some(runs.into()),
        name: Some("one".into()),
        device: DeviceChoice::Cpu,
        threads: 1,
        ..Settings::default()
    }
}

/// The settings of a session that resumes the run of [`settings`].
fn resuming(runs: &Path) -> Settings {
    Settings {
        resume: Some("one".into()),
        name: None,
        ..settings(runs)
    }
}

/// A front end that keeps all events.
struct FrontEnd {
    client: SessionClient,
    thread: Option<JoinHandle<()>>,
    events: Vec<Event>,
    /// Ids of the commands sent.
    sent: RefCell<Vec<u64>>,
}

impl FrontEnd {
    fn start(settings: Settings) -> Self {
        let (client, thread) = start_with(settings, |_, _| Ok(dataset())).unwrap();
        FrontEnd {
            client,
            thread: Some(thread),
            events: Vec::new(),
            sent: RefCell::default(),
        }
    }

    /// Starts a session that is paused before its first step.
    fn paused(settings: Settings) -> Self {
        let mut front = FrontEnd::start(settings);
        front.until_state(State::Paused);
        front
    }

    /// Ends the session of the run `one` and resumes the run, paused.
    fn quit_and_resume(self, runs: &Path) -> Self {
        self.quit();
        FrontEnd::paused(Settings {
            paused: true,
            ..resuming(runs)
        })
    }

    /// Makes `count` steps, one at a time.
    fn make_steps(&mut self, count: u32) {
        for _ in 0..count {
            self.send(Command::Step);
            self.until(|e| {
                matches!(e, Event::State(s) if *s == State::Paused || s.is_over()).then_some(())
            });
        }
    }

    fn send(&self, command: Command) -> u64 {
        self.send_to(None, command)
    }

    /// Sends a command for the run with this name. Returns its id.
    fn send_to(&self, run: Option<&str>, command: Command) -> u64 {
        let id = self.client.commands.ids().next();
        let mut message = CommandMessage::new(id, command);
        message.run = run.map(str::to_owned);
        self.client.commands.send_message(message).unwrap();
        self.sent.borrow_mut().push(id);
        id
    }

    /// Waits for the outcome of a command.
    fn done(&mut self, id: u64) -> Outcome {
        let mut heard = self.events.clone().into_iter();
        let of = |event: &Event| match event {
            Event::Done(done) if done.id == id => Some(done.outcome.clone()),
            _ => None,
        };
        match heard.find_map(|event| of(&event)) {
            Some(outcome) => outcome,
            None => self.until(of),
        }
    }

    /// Sends a command that must be refused. Returns the reason.
    fn refused(&mut self, command: Command) -> String {
        let id = self.send(command);
        self.refusal(id)
    }

    /// Waits for the refusal of a command. Returns the reason.
    fn refusal(&mut self, id: u64) -> String {
        match self.done(id) {
            Outcome::Refused(why) => why,
            other => panic!("{other:?}"),
        }
    }

    fn set(&self, key: &str, value: Value) {
        self.send(Command::Set {
            key: key.into(),
            value,
        });
    }

    /// Waits up to a minute for an event.
    fn next(&mut self) -> Event {
        let event = self
            .client
            .events
            .recv_timeout(Duration::from_secs(60))
            .unwrap()
            .event;
        self.events.push(event.clone());
        event
    }

    fn until<T>(&mut self, wanted: impl Fn(&Event) -> Option<T>) -> T {
        loop {
            let event = self.next();
            if let Some(found) = wanted(&event) {
                return found;
            }
            assert!(!matches!(event, Event::Ended { .. }), "{:#?}", self.events);
        }
    }

    fn until_state(&mut self, state: State) {
        self.until(|e| (*e == Event::State(state.clone())).then_some(()));
    }

    fn epoch(&mut self) -> EpochReport {
        self.until(|e| match e {
            Event::Epoch(epoch) => Some(epoch.clone()),
            _ => None,
        })
    }

    fn evaluation(&mut self, split: Split) -> Evaluation {
        self.until(|e| match e {
            Event::Evaluation(e) if e.split == split => Some(e.clone()),
            _ => None,
        })
    }

    fn applied(&mut self) -> (String, Value, u64) {
        self.until(|e| match e {
            Event::Applied { change, step, .. } => {
                Some((change.key.clone(), change.new.clone(), *step))
            }
            _ => None,
        })
    }

    fn ask(&mut self, question: Question) -> Answer {
        self.ask_about(None, question)
    }

    /// Asks a question about the end of an epoch.
    fn ask_about(&mut self, epoch: Option<u32>, question: Question) -> Answer {
        let id = self.send(Command::Ask { question, epoch });
        self.until(|e| match e {
            Event::Answer { id: i, answer } if *i == id => Some(answer.clone()),
            _ => None,
        })
    }

    fn failed(&mut self, question: Question) -> String {
        match self.ask(question) {
            Answer::Failed { why } => why,
            other => panic!("{other:?}"),
        }
    }

    fn samples(&mut self, filter: Filter) -> (u32, Vec<crate::domain::report::Prediction>) {
        let question = Question::Samples {
            filter,
            offset: 0,
            count: 1000,
        };
        match self.ask(question) {
            Answer::Predictions { total, items, .. } => (total, items),
            other => panic!("{other:?}"),
        }
    }

    /// Waits for the session's end. Returns its last state.
    fn until_ended(&mut self) -> State {
        loop {
            if let Event::Ended { state, .. } = self.next() {
                return state;
            }
        }
    }

    fn notice(&mut self) -> String {
        self.until(|e| match e {
            Event::Notice { text } => Some(text.clone()),
            _ => None,
        })
    }

    /// Ends the session. Returns its last state and all events.
    fn quit(mut self) -> (State, Vec<Event>) {
        // Sending fails if the session has ended already.
        let _ = self.client.commands.send(Command::Quit);
        let state = loop {
            if let Event::Ended { state, .. } = self.next() {
                break state;
            }
        };
        self.thread.take().unwrap().join().unwrap();
        assert!(
            self.client.events.recv().is_err(),
            "nothing follows the end"
        );
        let done = |id: u64| {
            let of = |event: &&Event| matches!(event, Event::Done(done) if done.id == id);
            self.events.iter().filter(of).count()
        };
        for id in self.sent.borrow().iter() {
            assert_eq!(done(*id), 1, "command {id} is answered once");
        }
        (state, self.events)
    }
}

fn step(runs: &Path, name: &str) -> u64 {
    let read = Checkpoint::read(&runs.join("one").join(name)).unwrap();
    read.run_state.step
}

/// The content of a checkpoint without times and paths.
fn content(path: &Path) -> Checkpoint {
    let mut checkpoint = Checkpoint::read(path).unwrap();
    let run_state = &mut checkpoint.run_state;
    (run_state.started, run_state.elapsed) = (0.0, 0.0);
    (run_state.metrics_bytes, run_state.unwritten) = (0, None);
    run_state.totals.seconds = 0.0;
    run_state.run.clear();
    checkpoint
}

/// The metrics without times and without the events at which sessions begin.
fn metrics(folder: &Path) -> Vec<Event> {
    let (mut events, _) = read_metrics(folder, u64::MAX).unwrap();
    events.retain(|e| !matches!(e, Event::Started(_)));
    for event in &mut events {
        match event {
            Event::Steps(s) => (s.images_per_s, s.elapsed, s.eta) = (0.0, 0.0, None),
            Event::Epoch(e) => (e.images_per_s, e.elapsed) = (0.0, 0.0),
            Event::Evaluation(e) => e.images_per_s = 0.0,
            _ => {}
        }
    }
    events
}

fn train_through(settings: Settings) -> Vec<Event> {
    let mut front = FrontEnd::start(settings);
    front.until_state(State::Done);
    front.quit().1
}

/// Asserts that the metrics contain every step up to `last` and every epoch once, in order.
fn assert_metrics_are_seamless(folder: &Path, last: u64) {
    assert_eq!(assert_metrics_are_seamless_from_the_start(folder), last);
}

/// Asserts that the metrics contain every step and every epoch once, in order. Returns the last step.
fn assert_metrics_are_seamless_from_the_start(folder: &Path) -> u64 {
    let (mut next, mut epoch) = (1, 1);
    for line in metrics(folder) {
        match line {
            Event::Steps(steps) => {
                assert_eq!(steps.first, next, "a gap or a duplicate");
                next = steps.last + 1;
            }
            Event::Epoch(report) => {
                assert_eq!(report.epoch, epoch);
                epoch += 1;
            }
            _ => {}
        }
    }
    next - 1
}
