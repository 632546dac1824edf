//! Tests of the training loop on the GPU's backend: it trains as on the CPU, resumes bit for bit, and handles requests
//! between calls of the backend.

use super::host::HostDevice;
use super::left_out;
use cifar_tui::backend::{self, Device};
use cifar_tui::data::{Dataset, Images};
use cifar_tui::domain::comparison::ComparisonReport;
use cifar_tui::domain::engine::EngineChoice;
use cifar_tui::domain::params::{self, Hyperparameters, Optimizer as Rule, Value};
use cifar_tui::domain::report::{DataInfo, EpochReport, StepReport};
use cifar_tui::domain::rng::{Rng, Stream};
use cifar_tui::hardware::device::DeviceChoice;
use cifar_tui::train::checkpoint::Applied;
use cifar_tui::train::evaluate::Scores;
use cifar_tui::train::trainer::{ChangeOutcome, End, Phase, Trainer, TrainingHost};
use cifar_tui::train::training_data::TrainingData;
use std::ops::ControlFlow;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

const SIDE: usize = 8;

fn training_data() -> Rc<TrainingData> {
    let split = |count: usize, stream| {
        let rng = Rng::new(2, Stream::Sample, stream);
        let labels: Vec<u8> = (0..count)
            .map(|i| (rng.word(i as u32) % 10) as u8)
            .collect();
        let pixels = (0..count * 3 * SIDE * SIDE).map(|i| {
            // Each class is a little brighter than the previous one.
            let class = labels[i / (3 * SIDE * SIDE)];
            (rng.word(10_000 + i as u32) >> 25) as u8 + 12 * class
        });
        Images {
            side: SIDE,
            pixels: pixels.collect(),
            labels: labels.clone(),
        }
    };
    let info = DataInfo {
        name: "ten shades".into(),
        source: "a test".into(),
        format: "none".into(),
        is_sample: true,
        classes: (0..10).map(|class| format!("shade {class}")).collect(),
        side: SIDE as u32,
        train: 90,
        test: 20,
        train_counts: vec![9; 10],
        test_counts: vec![2; 10],
        mean: vec![0.4; 3],
        std: vec![0.2; 3],
        bytes: 0,
        load_seconds: None,
    };
    let (train, test) = (split(90, 0), split(20, 1));
    Rc::new(TrainingData::new(Dataset { info, train, test }).unwrap())
}

fn wanted() -> Hyperparameters {
    Hyperparameters {
        architecture: "conv 4, norm, relu, pool, drop, dense 10".into(),
        optimizer: Rule::Adam,
        learning_rate: 0.01,
        batch_size: 8,
        epochs: 2.0,
        flip: cifar_tui::domain::params::Flip::Random,
        crop: 1,
        average_decay: 0.9,
        seed: 5,
        ..Hyperparameters::default()
    }
}

fn processor() -> Rc<dyn Device> {
    Rc::new(HostDevice::new(4, false).device())
}

fn trainer(params: Hyperparameters, device: &dyn Device) -> Trainer {
    Trainer::new(params, training_data(), device, Arc::default()).unwrap()
}

/// A host that records what the trainer reports.
struct Notes {
    steps: Vec<StepReport>,
    scores: Vec<Scores>,
    applied: Vec<Applied>,
    refused: Vec<String>,
    /// Changes to request, and the numbers of steps after which to request them.
    requests: Vec<(u64, &'static str, Value)>,
    leave_at: Option<u64>,
    /// Number of steps in one call of the backend.
    ahead: usize,
    calls: usize,
}

impl Default for Notes {
    fn default() -> Self {
        Notes {
            steps: Vec::new(),
            scores: Vec::new(),
            applied: Vec::new(),
            refused: Vec::new(),
            requests: Vec::new(),
            leave_at: None,
            ahead: 3,
            calls: 0,
        }
    }
}

impl TrainingHost for Notes {
    fn poll(&mut self, trainer: &mut Trainer, phase: Phase) -> ControlFlow<()> {
        let step = trainer.run_state().step;
        self.calls += usize::from(phase == Phase::Training);
        if let Some(at) = self.requests.iter().position(|(when, ..)| *when <= step) {
            let (_, key, value) = self.requests.remove(at);
            if let ChangeOutcome::Applied(applied) = trainer
                .request_change(params::param(key).unwrap(), value)
                .unwrap()
            {
                self.applied.push(applied);
            }
        }
        match self.leave_at {
            Some(at) if step >= at => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }

    fn steps_to_submit(&self, _: usize) -> usize {
        self.ahead
    }

    fn change_refused(&mut self, why: String) {
        self.refused.push(why);
    }

    fn applied(&mut self, applied: &Applied) {
        self.applied.push(applied.clone());
    }

    fn epoch_begins(&mut self, _: &Trainer) {}

    fn stepped(&mut self, report: &StepReport) {
        self.steps.push(report.clone());
    }

    fn evaluated(&mut self, scores: Scores) {
        self.scores.push(scores);
    }

    fn epoch_over(&mut self, _: &mut Trainer, _: &EpochReport) {}
}

fn close(what: &str, a: f64, b: f64) {
    assert!((a - b).abs() < 1e-3 * b.abs().max(0.1), "{what}: {a} {b}");
}

#[test]
fn a_run_is_the_one_on_the_cpu() {
    if left_out() {
        return;
    }
    let (mut ours, mut expected) = (Notes::default(), Notes::default());
    let end = trainer(wanted(), &*processor()).run(&mut ours).unwrap();
    assert_eq!(end, End::Finished);
    let cpu = backend::open(DeviceChoice::Cpu, EngineChoice::Native, 1).unwrap();
    trainer(wanted(), &*cpu).run(&mut expected).unwrap();
    assert_eq!(ours.steps.len(), expected.steps.len());
    for (a, b) in ours.steps.iter().zip(&expected.steps) {
        assert_eq!(
            (a.first, a.last, a.epoch, a.step_in_epoch, a.images),
            (b.first, b.last, b.epoch, b.step_in_epoch, b.images)
        );
        assert_eq!(a.learning_rate, b.learning_rate);
        close("loss", a.loss, b.loss);
        close("gradient norm", a.grad_norm, b.grad_norm);
    }
    assert_eq!(ours.scores.len(), expected.scores.len());
    for (a, b) in ours.scores.iter().zip(&expected.scores) {
        assert_eq!(a.step, b.step);
        close("validation loss", a.evaluation.loss, b.evaluation.loss);
    }
    assert_eq!(
        (ours.calls, expected.calls),
        (2 * 3, 2 * 9),
        "three steps a call"
    );
}

#[test]
fn a_run_left_anywhere_and_resumed_is_the_unbroken_one_bit_for_bit() {
    if left_out() {
        return;
    }
    let mut whole = trainer(wanted(), &*processor());
    whole.run(&mut Notes::default()).unwrap();
    let whole = whole.checkpoint().unwrap().unwrap();
    for leave_at in [1, 4, 9, 13] {
        let mut first = trainer(wanted(), &*processor());
        let mut notes = Notes {
            leave_at: Some(leave_at),
            ahead: 1,
            ..Notes::default()
        };
        assert_eq!(first.run(&mut notes).unwrap(), End::Left);
        let saved = first.checkpoint().unwrap().unwrap();
        let device = processor();
        let path = Path::new("x");
        let mut second =
            Trainer::resume(saved, path, training_data(), &*device, Arc::default()).unwrap();
        second.run(&mut Notes::default()).unwrap();
        let second = second.checkpoint().unwrap().unwrap();
        assert_eq!(second.tensors, whole.tensors, "left at {leave_at}");
        assert_eq!(second.run_state.step, whole.run_state.step);
        assert_eq!(second.run_state.optimizer, whole.run_state.optimizer);
    }
}

#[test]
fn a_change_holds_from_the_step_it_was_acknowledged_with() {
    if left_out() {
        return;
    }
    let mut notes = Notes {
        requests: vec![(4, "learning_rate", Value::Float(0.002))],
        ..Notes::default()
    };
    trainer(wanted(), &*processor()).run(&mut notes).unwrap();
    let from = notes.applied[0].step;
    assert!(from > 4);
    for step in &notes.steps {
        let expected = if step.last < from { 0.01 } else { 0.002 };
        assert_eq!(step.learning_rate, expected, "step {}", step.last);
    }
}

#[test]
fn a_batch_for_which_there_is_no_memory_is_refused_and_the_run_goes_on() {
    if left_out() {
        return;
    }
    let device = HostDevice::new(4, false).with_memory(2_000_000).device();
    let mut notes = Notes {
        requests: vec![(2, "batch_size", Value::Int(4096))],
        ..Notes::default()
    };
    let mut trainer = trainer(wanted(), &device);
    assert_eq!(trainer.run(&mut notes).unwrap(), End::Finished);
    assert!(
        notes.refused[0].contains("smaller batch"),
        "{notes:?}",
        notes = notes.refused
    );
    assert_eq!(trainer.run_state().params.batch_size, 8);
    let keys: Vec<_> = notes.applied.iter().map(|a| &a.change.new).collect();
    assert_eq!(keys, [&Value::Int(4096), &Value::Int(8)]);
    let last = notes.steps.last().unwrap();
    assert_eq!((last.epoch, last.steps_per_epoch), (2, last.step_in_epoch));
    assert!(last.loss.is_finite());
}

#[test]
fn an_average_for_which_there_is_no_memory_is_refused_and_the_run_goes_on() {
    if left_out() {
        return;
    }
    let params = Hyperparameters {
        average_decay: 0.0,
        ..wanted()
    };
    let device = HostDevice::new(4, false).with_failing(&[1]).device();
    let mut notes = Notes {
        requests: vec![(2, "average_decay", Value::Float(0.9))],
        ..Notes::default()
    };
    let mut trainer = trainer(params, &device);
    assert_eq!(trainer.run(&mut notes).unwrap(), End::Finished);
    assert!(notes.refused[0].contains("memory"), "{:?}", notes.refused);
    let values: Vec<_> = notes.applied.iter().map(|a| &a.change.new).collect();
    assert_eq!(values, [&Value::Float(0.9), &Value::Float(0.0)]);
    assert!(!trainer.has_average().unwrap());
}

#[test]
fn a_run_that_diverges_ends_at_the_step_that_did() {
    if left_out() {
        return;
    }
    let params = Hyperparameters {
        optimizer: Rule::Sgd,
        learning_rate: 10.0,
        momentum: 0.99,
        architecture: "conv 4, conv 4, dense 10, dense 10".into(),
        epochs: 40.0,
        ..wanted()
    };
    let mut notes = Notes::default();
    let mut trainer = trainer(params, &*processor());
    let End::Diverged { step, first } = trainer.run(&mut notes).unwrap() else {
        panic!("it learned");
    };
    assert_eq!(step, trainer.run_state().step + 1);
    assert_eq!(notes.steps.last().unwrap().last, step - 1);
    assert!(
        first.contains("gradient") || first.contains("loss"),
        "{first}"
    );
}

#[test]
fn looking_back_changes_nothing_of_the_run() {
    if left_out() {
        return;
    }
    let device = processor();
    let left_at = |step| {
        let mut trainer = trainer(wanted(), &*device);
        let leave_at = Some(step);
        let mut notes = Notes {
            leave_at,
            ..Notes::default()
        };
        assert_eq!(trainer.run(&mut notes).unwrap(), End::Left);
        trainer
    };
    let [mut past, mut plain, mut looking] = [3, 6, 6].map(left_at);
    let checkpoint = past.checkpoint().unwrap().unwrap();
    let expected = past.score_epoch(|| false).unwrap().unwrap();
    let scores = looking
        .look_back(&checkpoint, Path::new("a test"), |past| {
            past.score_epoch(|| false)
        })
        .unwrap()
        .unwrap();
    assert_eq!(
        (scores.step, scores.probabilities),
        (3, expected.probabilities)
    );
    let mut notes = [Notes::default(), Notes::default()];
    looking.run(&mut notes[0]).unwrap();
    plain.run(&mut notes[1]).unwrap();
    let losses = |notes: &Notes| notes.steps.iter().map(|s| s.loss).collect::<Vec<_>>();
    assert_eq!(losses(&notes[0]), losses(&notes[1]));
    assert!(looking.state().unwrap() == plain.state().unwrap());
}

/// A host that compares a learning rate from the fourth submission on, and keeps it after the eighth.
#[derive(Default)]
struct Comparing {
    polls: usize,
    began: Option<u64>,
    variant_losses: Vec<f64>,
}

const COMPARED_RATE: f64 = 0.002;

impl TrainingHost for Comparing {
    fn poll(&mut self, trainer: &mut Trainer, phase: Phase) -> ControlFlow<()> {
        if phase == Phase::Training {
            self.polls += 1;
            let row = params::param("learning_rate").unwrap();
            match self.polls {
                3 => {
                    let value = Value::Float(COMPARED_RATE);
                    let applied = trainer.compare(row, value, |_| Ok(None)).unwrap();
                    self.began = Some(applied.step);
                }
                5 => drop(trainer.keep_variant().unwrap().unwrap()),
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }

    fn steps_to_submit(&self, _: usize) -> usize {
        3
    }

    fn change_refused(&mut self, why: String) {
        panic!("{why}");
    }

    fn applied(&mut self, _: &Applied) {}

    fn epoch_begins(&mut self, _: &Trainer) {}

    fn stepped(&mut self, _: &StepReport) {}

    fn evaluated(&mut self, _: Scores) {}

    fn epoch_over(&mut self, _: &mut Trainer, _: &EpochReport) {}

    fn compared(&mut self, step: Option<&StepReport>, _: &ComparisonReport) {
        self.variant_losses.extend(step.map(|step| step.loss));
    }
}

#[test]
fn a_comparison_trains_both_networks_in_the_same_launches() {
    if left_out() {
        return;
    }
    let host = Rc::new(HostDevice::new(4, false));
    let mut compared = trainer(wanted(), &Rc::clone(&host).shared_device());
    let mut notes = Comparing::default();
    assert_eq!(compared.run(&mut notes).unwrap(), End::Finished);
    // Two submissions of three steps were made with both.
    assert_eq!(host.take_runs()[&2], 6);
    assert_eq!(notes.variant_losses.len(), 6);
    // It is the run in which the change was made at that step.
    let before = notes.began.unwrap() - 1;
    let mut expected = trainer(wanted(), &*processor());
    let mut changes = Notes {
        requests: vec![(before, "learning_rate", Value::Float(COMPARED_RATE))],
        ..Notes::default()
    };
    expected.run(&mut changes).unwrap();
    assert_eq!(changes.applied[0].step, before + 1);
    let losses = changes.steps.iter().filter(|step| step.last > before);
    let losses: Vec<f64> = losses.map(|step| step.loss).take(6).collect();
    assert_eq!(notes.variant_losses, losses);
    assert!(compared.state().unwrap() == expected.state().unwrap());
}

#[test]
fn a_variant_for_which_there_is_no_memory_leaves_the_run_as_it_is() {
    if left_out() {
        return;
    }
    struct Comparing(Vec<String>, bool);
    impl TrainingHost for Comparing {
        fn poll(&mut self, trainer: &mut Trainer, phase: Phase) -> ControlFlow<()> {
            if phase == Phase::Training && !std::mem::replace(&mut self.1, true) {
                let row = params::param("average_decay").unwrap();
                let compared = trainer.compare(row, Value::Float(0.9), |_| Ok(None));
                compared.unwrap();
            }
            ControlFlow::Continue(())
        }
        fn change_refused(&mut self, why: String) {
            panic!("{why}");
        }
        fn applied(&mut self, _: &Applied) {}
        fn epoch_begins(&mut self, _: &Trainer) {}
        fn stepped(&mut self, _: &StepReport) {}
        fn evaluated(&mut self, _: Scores) {}
        fn epoch_over(&mut self, _: &mut Trainer, _: &EpochReport) {}
        fn comparison_refused(&mut self, _: ComparisonReport, why: String) {
            self.0.push(why);
        }
    }
    let params = Hyperparameters {
        average_decay: 0.0,
        ..wanted()
    };
    // Two allocations are the networks'; the average of the variant would be the third, twice: with the run and alone.
    let device = HostDevice::new(4, false).with_failing(&[2, 4]).device();
    let mut compared = trainer(params.clone(), &device);
    let mut host = Comparing(Vec::new(), false);
    assert_eq!(compared.run(&mut host).unwrap(), End::Finished);
    assert!(
        host.0.len() == 1 && host.0[0].contains("memory"),
        "{:?}",
        host.0
    );
    let mut expected = trainer(params, &*processor());
    expected.run(&mut Notes::default()).unwrap();
    assert!(compared.state().unwrap() == expected.state().unwrap());
}
