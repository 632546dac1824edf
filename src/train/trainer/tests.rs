use super::*;
use crate::backend;
use crate::data::{Dataset, Images};
use crate::domain::engine::EngineChoice;
use crate::domain::params;
use crate::domain::report::DataInfo;
use crate::hardware::device::DeviceChoice;
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

/// Changes the learning rate half-way through an evaluation, and leaves another one.
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

/// Wants the first submissions of training steps abandoned.
struct Impatient {
    stop: Arc<AtomicBool>,
    times: u32,
    steps: u32,
}

impl TrainingHost for Impatient {
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
            epochs: 1,
            ..Hyperparameters::default()
        };
        let device = backend::open(DeviceChoice::Cpu, EngineChoice::Native, 1).unwrap();
        let stop = Arc::default();
        let mut host = Impatient {
            stop: Arc::clone(&stop),
            times,
            steps: 0,
        };
        let mut trainer = Trainer::new(params, small_data(), &*device, stop).unwrap();
        assert_eq!(trainer.run(&mut host).unwrap(), End::Finished);
        assert_eq!(host.steps, 3);
        trainer.checkpoint().unwrap().unwrap().tensors
    };
    assert!(run(0) == run(4));
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
    let scores = trainer.evaluate(&mut host, Split::Validation).unwrap();
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
    let scores = trainer.evaluate(&mut host, Split::Validation).unwrap();
    assert!(scores.is_none());
}
