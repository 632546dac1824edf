//! The backends that a trainer makes and holds, and what it asks of them.

use super::*;
use crate::backend::{Device, DeviceInfo, ImageSet, PartTime, ScoringBatch};

/// Counts the backends that live at once, and refuses to make one when asked to.
struct CountingDevice {
    inner: Rc<dyn Device>,
    counts: Rc<Counts>,
}

#[derive(Default)]
struct Counts {
    live: Cell<usize>,
    most: Cell<usize>,
    made: Cell<usize>,
    /// Number of the next backends that are refused.
    refuses: Cell<usize>,
    /// What the backends return.
    seconds_per_step: Cell<Option<f64>>,
}

impl CountingDevice {
    fn new() -> Self {
        CountingDevice {
            inner: backend::open(DeviceChoice::Cpu, EngineChoice::Native, 1).unwrap(),
            counts: Rc::default(),
        }
    }
}

impl Device for CountingDevice {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }
    fn backend(&self, spec: &NetworkSpec, capacity: usize) -> backend::Result<Box<dyn Backend>> {
        let counts = &self.counts;
        if counts.refuses.get() > 0 {
            counts.refuses.set(counts.refuses.get() - 1);
            return Err(backend::Error::Batch("no memory is left".into()));
        }
        let inner = self.inner.backend(spec, capacity)?;
        counts.made.set(counts.made.get() + 1);
        counts.live.set(counts.live.get() + 1);
        counts.most.set(counts.most.get().max(counts.live.get()));
        let counts = Rc::clone(counts);
        Ok(Box::new(CountedBackend { inner, counts }))
    }
}

struct CountedBackend {
    inner: Box<dyn Backend>,
    counts: Rc<Counts>,
}

impl Drop for CountedBackend {
    fn drop(&mut self) {
        self.counts.live.set(self.counts.live.get() - 1);
    }
}

impl Backend for CountedBackend {
    fn max_steps(&self) -> usize {
        self.inner.max_steps()
    }
    fn seconds_per_step(&self) -> Option<f64> {
        self.counts.seconds_per_step.get()
    }
    fn members_at_once(&self) -> usize {
        self.inner.members_at_once()
    }
    fn add(&mut self, seed: u64) -> backend::Result<MemberId> {
        self.inner.add(seed)
    }
    fn remove(&mut self, member: MemberId) {
        self.inner.remove(member);
    }
    fn capacity(&self) -> usize {
        self.inner.capacity()
    }
    fn resize(&mut self, capacity: usize) -> backend::Result<()> {
        self.inner.resize(capacity)
    }
    fn train(
        &mut self,
        images: &Rc<ImageSet>,
        work: &[(MemberId, Vec<StepPlan>)],
        stop: &AtomicBool,
    ) -> backend::Result<Vec<Vec<StepOutcome>>> {
        self.inner.train(images, work, stop)
    }
    fn score(&mut self, member: MemberId, batch: ScoringBatch) -> backend::Result<()> {
        self.inner.score(member, batch)
    }
    fn has_average(&mut self, member: MemberId) -> backend::Result<bool> {
        self.inner.has_average(member)
    }
    fn inspect(&mut self, member: MemberId, inspection: &Inspection) -> backend::Result<Inspected> {
        self.inner.inspect(member, inspection)
    }
    fn export(&mut self, member: MemberId) -> backend::Result<NetworkState> {
        self.inner.export(member)
    }
    fn import(&mut self, member: MemberId, state: &NetworkState) -> backend::Result<()> {
        self.inner.import(member, state)
    }
    fn measure(&mut self, on: bool) {
        self.inner.measure(on);
    }
    fn timings(&self) -> Vec<PartTime> {
        self.inner.timings()
    }
}

/// A run of two epochs on a device, trained to its end.
fn trained(device: &dyn Device) -> Trainer {
    trained_and_fitted(device).0
}

/// The same, and how many steps fitted in the last submission.
fn trained_and_fitted(device: &dyn Device) -> (Trainer, usize) {
    let params = Hyperparameters {
        architecture: "conv 4, norm, relu, dense 10".into(),
        epochs: 2.0,
        ..Hyperparameters::default()
    };
    let mut trainer = Trainer::new(params, small_data(), device, Arc::default()).unwrap();
    let mut host = Impatient {
        stop: Arc::default(),
        times: 0,
        steps: 0,
        fitted: Cell::default(),
    };
    assert_eq!(trainer.run(&mut host).unwrap(), End::Finished);
    (trainer, host.fitted.get())
}

#[test]
fn as_many_steps_are_submitted_as_fit_by_the_backend_s_seconds_per_step() {
    let device = CountingDevice::new();
    // Far from the time that these steps take.
    device
        .counts
        .seconds_per_step
        .set(Some(SECONDS_PER_SUBMISSION / 12_345.5));
    assert_eq!(trained_and_fitted(&device).1, 12_345);
}

#[test]
fn a_run_that_goes_back_keeps_its_one_network() {
    let device = CountingDevice::new();
    let path = std::path::Path::new("a checkpoint");
    let mut trainer = trained(&device);
    let end = trainer.checkpoint().unwrap().unwrap();
    let params = trainer.run_state().params.clone();
    let mut start = Trainer::new(params, small_data(), &CountingDevice::new(), Arc::default());
    let start = start.as_mut().unwrap().checkpoint().unwrap().unwrap();
    // As after a divergence.
    trainer.spoil(0, f32::NAN);
    let before = trainer.exchange(start.clone(), path).unwrap();
    assert!(before.tensors.values().any(|t| t.values[0].is_nan()));
    assert!(trainer.checkpoint().unwrap().unwrap() == start);
    trainer.exchange(before, path).unwrap();
    assert!(
        trainer.checkpoint().unwrap().is_none(),
        "the weight is NaN again"
    );
    trainer.exchange(end.clone(), path).unwrap();
    let mut foreign = start;
    foreign.run_state.architecture = "dense 10".into();
    let error = trainer.exchange(foreign, path).err().unwrap().to_string();
    assert!(error.contains("another network"), "{error}");
    let mut damaged = end.clone();
    damaged.tensors.clear();
    assert!(trainer.exchange(damaged, path).is_err());
    assert!(
        trainer.checkpoint().unwrap().unwrap() == end,
        "nothing has changed"
    );
    assert_eq!(device.counts.made.get(), 1);
}

#[test]
fn a_suspended_run_holds_no_network_and_is_rebuilt_as_it_was() {
    let device = CountingDevice::new();
    let mut trainer = trained(&device);
    let row = params::param("learning_rate").unwrap();
    trainer.request_change(row, Value::Float(0.5)).unwrap();
    let before = trainer.checkpoint().unwrap().unwrap();
    let suspended = trainer.suspend().ok().unwrap();
    assert_eq!(device.counts.live.get(), 0);
    device.counts.refuses.set(1);
    let params = before.run_state.params.clone();
    assert!(Trainer::new(params, small_data(), &device, Arc::default()).is_err());
    let mut rebuilt = suspended.rebuild(&device).unwrap();
    assert!(rebuilt.checkpoint().unwrap().unwrap() == before);
    assert!(
        rebuilt.undo_change().unwrap().is_some(),
        "the request can be taken back"
    );
    assert_eq!((device.counts.made.get(), device.counts.most.get()), (2, 1));
}
