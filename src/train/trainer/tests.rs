mod backends;
mod comparison;
mod look_back;

use super::*;
use crate::backend::{self, NetworkState};
use crate::data::{Dataset, Images};
use crate::domain::engine::EngineChoice;
use crate::domain::params::{self, Tta, Value, Weights};
use crate::domain::rate_test::{RateTest, RateTestEnd};
use crate::domain::report::DataInfo;
use crate::hardware::device::DeviceChoice;
use std::cell::Cell;
use std::sync::atomic::Ordering;

impl Trainer {
    /// Overwrites the first number of parameter number `which`.
    pub(crate) fn spoil(&mut self, which: usize, with: f32) {
        let look = Inspection {
            gradients: true,
            ..Inspection::default()
        };
        let parameters = self.inspect(&look).unwrap().gradients;
        let (name, _) = &parameters[which % parameters.len()];
        let mut state = self.state().unwrap();
        state.tensors.get_mut(name).unwrap().values[0] = with;
        self.backend.import(self.member, &state).unwrap();
    }
}

/// A host that changes the learning rate during an evaluation, and leaves another evaluation.
#[derive(Default)]
struct Meddler {
    chunks: Vec<u32>,
    outcomes: Vec<ChangeOutcome>,
    leave_at: Option<u32>,
}

impl TrainingHost for Meddler {
    fn poll(&mut self, trainer: &mut Trainer, phase: Phase) -> ControlFlow<()> {
        if let Phase::Evaluating { done, .. } = phase {
            self.chunks.push(done);
            if self.leave_at == Some(done) {
                return ControlFlow::Break(());
            }
            if done == 32 {
                let row = params::param("learning_rate").unwrap();
                self.outcomes
                    .push(trainer.request_change(row, Value::Float(0.25)).unwrap());
            }
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
}

/// A host that abandons the first submissions of training steps.
struct Impatient {
    stop: Arc<AtomicBool>,
    times: u32,
    steps: u32,
    /// How many steps fitted in the last submission.
    fitted: Cell<usize>,
}

impl TrainingHost for Impatient {
    fn steps_to_submit(&self, fits: usize) -> usize {
        self.fitted.set(fits);
        fits
    }

    fn poll(&mut self, _: &mut Trainer, _: Phase) -> ControlFlow<()> {
        self.stop.store(self.times > 0, Ordering::Relaxed);
        self.times = self.times.saturating_sub(1);
        ControlFlow::Continue(())
    }
    fn change_refused(&mut self, why: String) {
        panic!("{why}");
    }
    fn applied(&mut self, _: &Applied) {}
    fn epoch_begins(&mut self, _: &Trainer) {}
    fn stepped(&mut self, _: &StepReport) {
        self.steps += 1;
    }
    fn evaluated(&mut self, _: Scores) {}
    fn epoch_over(&mut self, _: &mut Trainer, _: &EpochReport) {}
}

fn small_data() -> Rc<TrainingData> {
    let images = |n: usize| Images {
        side: 8,
        pixels: (0..n * 192).map(|i| (i * 37 % 251) as u8).collect(),
        labels: (0..n).map(|i| (i % 10) as u8).collect(),
    };
    let info = DataInfo {
        classes: (0..10).map(|c| c.to_string()).collect(),
        side: 8,
        train: 120,
        test: 20,
        mean: vec![0.4; 3],
        std: vec![0.2; 3],
        ..DataInfo::default()
    };
    let (train, test) = (images(120), images(20));
    Rc::new(TrainingData::new(Dataset { info, train, test }).unwrap())
}

#[test]
fn a_step_that_is_abandoned_leaves_no_trace() {
    let run = |times| {
        let params = Hyperparameters {
            architecture: "conv 4, norm, relu, drop, dense 10".into(),
            epochs: 1.0,
            average_decay: 0.9,
            ..Hyperparameters::default()
        };
        let device = backend::open(DeviceChoice::Cpu, EngineChoice::Native, 1).unwrap();
        let stop = Arc::default();
        let mut host = Impatient {
            stop: Arc::clone(&stop),
            times,
            steps: 0,
            fitted: Cell::default(),
        };
        let mut trainer = Trainer::new(params, small_data(), &*device, stop).unwrap();
        assert_eq!(trainer.run(&mut host).unwrap(), End::Finished);
        assert_eq!(host.steps, 3);
        trainer.checkpoint().unwrap().unwrap().tensors
    };
    assert!(run(0) == run(4));
}

#[test]
fn whitening_filters_come_from_the_training_images_and_later_from_the_checkpoint() {
    let params = Hyperparameters {
        architecture: "whiten, gelu, dense 10".into(),
        validation: 0.5,
        ..Hyperparameters::default()
    };
    let (data, device) = (
        small_data(),
        backend::open(DeviceChoice::Cpu, EngineChoice::Native, 1).unwrap(),
    );
    let new = || Trainer::new(params.clone(), Rc::clone(&data), &*device, Arc::default());
    let filters = |state: NetworkState| state.tensors["whiten1.weight"].values.clone();
    let mut trainer = new().unwrap();
    let ours = filters(trainer.state().unwrap());
    let from = |numbers: &[u32]| {
        let mut backend = device.backend(&trainer.spec, 32).unwrap();
        let member = backend.add(7).unwrap();
        let (spec, images) = (&trainer.spec, &data.train);
        backend::take_from_images(&mut *backend, member, spec, images, numbers).unwrap();
        filters(backend.export(member).unwrap())
    };
    assert_eq!(ours, from(&trainer.division.train));
    assert!(ours != from(&trainer.division.validation));
    // Not trained, and back from the checkpoint.
    let mut host = Impatient {
        stop: Arc::clone(&trainer.stop),
        times: 0,
        steps: 0,
        fitted: Cell::default(),
    };
    assert_eq!(trainer.run(&mut host).unwrap(), End::Finished);
    assert_eq!(filters(trainer.state().unwrap()), ours);
    let mut checkpoint = trainer.checkpoint().unwrap().unwrap();
    checkpoint.tensors.get_mut("whiten1.weight").unwrap().values[5] = 42.0;
    let path = std::path::Path::new("a test");
    let resumed = Trainer::resume(checkpoint, path, Rc::clone(&data), &*device, Arc::default());
    assert_eq!(filters(resumed.unwrap().state().unwrap())[5], 42.0);
}

#[test]
fn a_change_is_taken_up_in_the_middle_of_an_evaluation() {
    let params = Hyperparameters {
        architecture: "conv 4, relu, dense 10".into(),
        validation: 0.8,
        ..Hyperparameters::default()
    };
    let device = backend::open(DeviceChoice::Cpu, EngineChoice::Native, 1).unwrap();
    let mut trainer = Trainer::new(params, small_data(), &*device, Arc::default()).unwrap();

    let mut host = Meddler::default();
    let scores = trainer
        .evaluate(&mut host, Split::Validation, Weights::Last, Tta::None)
        .unwrap();
    assert_eq!(scores.unwrap().labels.len(), 96);
    assert_eq!(host.chunks, [0, 32, 64]);
    match &host.outcomes[..] {
        [ChangeOutcome::Applied(applied)] => assert_eq!((applied.step, applied.epoch), (1, 1)),
        other => panic!("{other:?}"),
    }
    assert_eq!(trainer.run_state().params.learning_rate, 0.25);

    let mut host = Meddler {
        leave_at: Some(64),
        ..Meddler::default()
    };
    let scores = trainer
        .evaluate(&mut host, Split::Validation, Weights::Last, Tta::None)
        .unwrap();
    assert!(scores.is_none());
}

/// A host that records the reports.
#[derive(Default)]
struct Recorder {
    epochs: Vec<(u32, u64)>,
    reports: Vec<EpochReport>,
    steps: Vec<u64>,
    losses: Vec<f64>,
    images: u64,
    /// Number of steps after which to leave.
    leave_after: Option<usize>,
}

impl TrainingHost for Recorder {
    fn poll(&mut self, _: &mut Trainer, _: Phase) -> ControlFlow<()> {
        match self.leave_after == Some(self.steps.len()) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
    fn change_refused(&mut self, why: String) {
        panic!("{why}");
    }
    fn applied(&mut self, _: &Applied) {}
    fn epoch_begins(&mut self, _: &Trainer) {}
    fn stepped(&mut self, report: &StepReport) {
        self.steps.push(report.last);
        self.losses.push(report.loss);
        self.images += report.images;
    }
    fn evaluated(&mut self, _: Scores) {}
    fn epoch_over(&mut self, _: &mut Trainer, report: &EpochReport) {
        self.epochs.push((report.epoch, report.step));
        self.reports.push(report.clone());
    }
}

/// 96 training images in batches of 10: ten steps an epoch, the last of 6 images.
fn short_run(epochs: f64, drop_last: bool) -> Trainer {
    let params = Hyperparameters {
        architecture: "conv 4, norm, relu, drop, dense 10".into(),
        batch_size: 10,
        epochs,
        drop_last,
        ..Hyperparameters::default()
    };
    let device = backend::open(DeviceChoice::Cpu, EngineChoice::Native, 1).unwrap();
    Trainer::new(params, small_data(), &*device, Arc::default()).unwrap()
}

#[test]
fn a_run_may_end_within_an_epoch_and_goes_on_from_there() {
    let (mut whole, mut host) = (short_run(4.0, false), Recorder::default());
    whole.run(&mut host).unwrap();
    assert_eq!(host.epochs, [(1, 10), (2, 20), (3, 30), (4, 40)]);

    let (mut part, mut host) = (short_run(2.45, false), Recorder::default());
    assert_eq!(part.run(&mut host).unwrap(), End::Finished);
    assert_eq!(host.epochs, [(1, 10), (2, 20), (3, 25)]);
    assert!(part.is_finished() && part.epoch() == 3);
    // The epoch is not reported a second time.
    assert_eq!(part.run(&mut host).unwrap(), End::Finished);
    assert_eq!(host.epochs.len(), 3);

    // A change of the batch size is pending until the next epoch; a change of the epochs is not.
    let row = |key| params::param(key).unwrap();
    let outcome = part.request_change(row("batch_size"), Value::Int(20));
    assert!(matches!(outcome.unwrap(), ChangeOutcome::Pending(..)));
    part.undo_change().unwrap();
    let more = part.request_change(row("epochs"), Value::Float(4.0));
    assert!(matches!(more.unwrap(), ChangeOutcome::Applied(_)));
    assert_eq!(part.run(&mut host).unwrap(), End::Finished);
    assert_eq!(host.epochs[3..], [(3, 30), (4, 40)]);
    assert_eq!(host.steps, (1..=40).collect::<Vec<_>>());
    let tensors = |trainer: &mut Trainer| trainer.checkpoint().unwrap().unwrap().tensors;
    assert!(tensors(&mut part) == tensors(&mut whole));
}

#[test]
fn a_run_may_end_at_the_first_epoch_that_reaches_the_target() {
    let run = |target, stop_at_target| {
        let mut trainer = short_run(5.0, false);
        trainer.run_state.params.target = target;
        trainer.run_state.params.stop_at_target = stop_at_target;
        let mut host = Recorder::default();
        assert_eq!(trainer.run(&mut host).unwrap(), End::Finished);
        (host.reports, trainer)
    };
    let (reports, _) = run(0.0, true);
    assert_eq!(reports.len(), 5);
    assert!(reports.iter().all(|report| report.reached.is_none()));
    // A target equal to the accuracy of the best epoch is reached in that epoch, not before.
    let best = reports.iter().rfind(|report| report.best).unwrap();
    let (again, trainer) = run(best.accuracy, true);
    assert_eq!(again.len(), best.epoch as usize);
    let last = again.last().unwrap();
    assert_eq!(last.reached, Some(best.accuracy));
    assert!(
        again[..again.len() - 1]
            .iter()
            .all(|report| report.reached.is_none())
    );
    assert_eq!(trainer.run_state().params.epochs, f64::from(best.epoch));
    assert_eq!(run(best.accuracy, false).0.len(), 5);
}

#[test]
fn an_epoch_may_leave_its_smaller_last_batch_out() {
    for (drop_last, steps, images) in [(false, 20, 192), (true, 18, 180)] {
        let (mut trainer, mut host) = (short_run(2.0, drop_last), Recorder::default());
        trainer.run(&mut host).unwrap();
        assert_eq!((host.steps.len(), host.images), (steps, images));
        assert_eq!(trainer.total_steps(), steps as u64);
    }
}

#[test]
fn without_validation_all_images_train_and_the_test_images_are_scored() {
    let params = Hyperparameters {
        architecture: "conv 4, relu, dense 10".into(),
        epochs: 2.0,
        validation: 0.0,
        ..Hyperparameters::default()
    };
    let device = backend::open(DeviceChoice::Cpu, EngineChoice::Native, 1).unwrap();
    let mut trainer = Trainer::new(params, small_data(), &*device, Arc::default()).unwrap();
    let mut host = Recorder::default();
    assert_eq!(trainer.run(&mut host).unwrap(), End::Finished);
    assert_eq!(host.images, 240);
    assert!(host.reports.iter().all(|report| report.split == Split::Test
        && report.test_accuracy == Some(report.accuracy)
        && !report.best));
    let scores = trainer
        .evaluate(&mut host, Split::Test, Weights::Last, Tta::None)
        .unwrap()
        .unwrap();
    assert_eq!(scores.evaluation.accuracy, host.reports[1].accuracy);
    assert_eq!(trainer.run_state().best, None);
}

#[test]
fn the_next_run_takes_a_pending_recipe_and_all_other_pending_changes() {
    let mut trainer = short_run(1.0, false);
    let seed = trainer.run_state().params.seed;
    let mut request = |key, value| {
        let row = params::param(key).unwrap();
        assert!(matches!(
            trainer.request_change(row, value).unwrap(),
            ChangeOutcome::Pending(..)
        ));
    };
    request("recipe", Value::Text("resnet".into()));
    request("precision", Value::Text("bf16".into()));
    request("validation", Value::Float(0.5));
    let wanted = trainer.wanted_params();
    assert_eq!((wanted.recipe.as_str(), wanted.seed), ("resnet", seed));
    assert_eq!(
        (wanted.architecture.as_str(), wanted.batch_size),
        ("resnet", 128)
    );
    assert_eq!((wanted.precision.word(), wanted.validation), ("bf16", 0.5));
    assert_eq!(trainer.run_state().params.batch_size, 10);
}

#[test]
fn the_channels_of_the_network_are_those_of_the_statistics() {
    let spec = |mean: &[f32], std: &[f32]| {
        let params = Hyperparameters {
            standardize: true,
            ..Hyperparameters::default()
        };
        let spec = spec_for(&params, 28, 10, (mean, std));
        spec.map(|spec| (spec.input, spec.scaling.shift))
    };
    let grey = spec(&[0.5], &[0.25]).unwrap();
    assert_eq!(grey, (Shape::new(1, 28, 28), [-2.0, 0.0, 0.0]));
    let three = spec(&[0.5; 3], &[0.25; 3]).unwrap();
    assert_eq!(three, (Shape::new(3, 28, 28), [-2.0; 3]));
    assert!(spec(&[], &[]).is_err());
    assert!(spec(&[0.5; 3], &[0.25]).is_err());
}

#[test]
fn a_test_of_rates_changes_nothing_of_the_run() {
    let mut runs = [short_run(2.0, false), short_run(2.0, false)];
    for run in &mut runs {
        let mut host = Recorder {
            leave_after: Some(13),
            ..Recorder::default()
        };
        assert_eq!(run.run(&mut host).unwrap(), End::Left);
    }
    let [mut tested, mut plain] = runs;
    let before = tested.run_state().clone();
    // Longer than the rest of the epoch, and than an epoch.
    let mut calls = 0;
    let test = tested
        .test_rates(25, &mut |_, _| {
            calls += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!((test.points.len(), calls), (25, 25));
    assert!(*tested.run_state() == before);

    let mut hosts = [Recorder::default(), Recorder::default()];
    tested.run(&mut hosts[0]).unwrap();
    plain.run(&mut hosts[1]).unwrap();
    assert_eq!(hosts[0].losses, hosts[1].losses);
    assert!(tested.state().unwrap() == plain.state().unwrap());
    // The first loss is that of the run's next step, since a rate acts only on the losses after its step.
    assert_eq!(test.points[0].loss, hosts[1].losses[0]);
    assert_ne!(test.points[1].loss, hosts[1].losses[1]);

    let stop = &mut |_: &mut Trainer, _: &RateTest| ControlFlow::Break(());
    let stopped = tested.test_rates(25, stop).unwrap();
    assert_eq!(stopped.points.len(), 1);
    assert_eq!(stopped.end, Some(RateTestEnd::Stopped));
}
