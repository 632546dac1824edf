//! Runs that share a device are each what it is alone, whatever the others do.

use super::owner::WaitingTraining;
use super::*;
use crate::backend::{Scaling, rule};
use crate::domain::arch::{self, Shape};
use crate::domain::engine::EngineChoice;
use crate::domain::params::{Hyperparameters, Optimizer, Tta, Weights};
use crate::domain::rng::{Rng, Stream};
use crate::hardware::device::DeviceChoice;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const TEXT: &str = "conv 4 s2, norm, relu, drop, dense 10";
const SIDE: usize = 8;

/// The numbers of members of the calls of `train`, and the errors that calls on this many members return.
#[derive(Default)]
struct Log {
    calls: Vec<usize>,
    fails_with: Option<(usize, Error)>,
}

/// The CPU as a device that is shared, which takes all members at once.
struct Logged {
    inner: Rc<dyn Device>,
    log: Arc<Mutex<Log>>,
}

struct LoggedBackend {
    inner: Box<dyn Backend>,
    log: Arc<Mutex<Log>>,
}

impl Device for Logged {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn backend(&self, spec: &NetworkSpec, capacity: usize) -> Result<Box<dyn Backend>> {
        Ok(Box::new(LoggedBackend {
            inner: self.inner.backend(spec, capacity)?,
            log: Arc::clone(&self.log),
        }))
    }
}

impl Backend for LoggedBackend {
    fn max_steps(&self) -> usize {
        self.inner.max_steps()
    }
    fn members_at_once(&self) -> usize {
        self.inner.members_at_once()
    }
    fn add(&mut self, seed: u64) -> Result<MemberId> {
        self.inner.add(seed)
    }
    fn remove(&mut self, member: MemberId) {
        self.inner.remove(member);
    }
    fn capacity(&self) -> usize {
        self.inner.capacity()
    }
    fn resize(&mut self, capacity: usize) -> Result<()> {
        self.inner.resize(capacity)
    }
    fn train(
        &mut self,
        images: &Rc<ImageSet>,
        work: &[(MemberId, Vec<StepPlan>)],
        stop: &AtomicBool,
    ) -> Result<Vec<Vec<StepOutcome>>> {
        let mut log = self.log.lock().unwrap();
        log.calls.push(work.len());
        match &log.fails_with {
            Some((members, error)) if *members == work.len() => Err(error.clone()),
            _ => self.inner.train(images, work, stop),
        }
    }
    fn score(&mut self, member: MemberId, batch: ScoringBatch) -> Result<()> {
        self.inner.score(member, batch)
    }
    fn has_average(&mut self, member: MemberId) -> Result<bool> {
        self.inner.has_average(member)
    }
    fn inspect(&mut self, member: MemberId, inspection: &Inspection) -> Result<Inspected> {
        self.inner.inspect(member, inspection)
    }
    fn export(&mut self, member: MemberId) -> Result<NetworkState> {
        self.inner.export(member)
    }
    fn import(&mut self, member: MemberId, state: &NetworkState) -> Result<()> {
        self.inner.import(member, state)
    }
    fn measure(&mut self, _: bool) {}
    fn timings(&self) -> Vec<PartTime> {
        Vec::new()
    }
}

/// The CPU with four threads.
fn cpu() -> Rc<dyn Device> {
    backend_of_cpu(4)
}

fn backend_of_cpu(threads: usize) -> Rc<dyn Device> {
    crate::backend::open(DeviceChoice::Cpu, EngineChoice::Native, threads).unwrap()
}

fn shared() -> (SharedDevice, Arc<Mutex<Log>>) {
    let log = Arc::new(Mutex::new(Log::default()));
    let logged = Arc::clone(&log);
    let device = SharedDevice::open(move || {
        Ok(Rc::new(Logged {
            inner: cpu(),
            log: logged,
        }))
    });
    (device.unwrap().unwrap(), log)
}

fn images() -> ImageSet {
    let rng = Rng::new(3, Stream::Sample, 0);
    let bytes = (0..20 * 3 * SIDE * SIDE).map(|i| (rng.word(i as u32) >> 24) as u8);
    let labels = (0..20).map(|i| (rng.word(i) % 10) as u16);
    ImageSet::new(3, SIDE, bytes.collect::<Vec<u8>>(), labels.collect()).unwrap()
}

fn spec() -> NetworkSpec {
    NetworkSpec {
        arch: arch::resolve(TEXT).unwrap(),
        input: Shape::new(3, SIDE as u32, SIDE as u32),
        classes: 10,
        scaling: Scaling::standard(&[0.5; 3], &[0.2; 3]),
        optimizer: rule(Optimizer::Adam),
        precision: Precision::F32,
    }
}

/// Step `step` of the run with this seed.
fn plan(seed: u64, step: u64) -> StepPlan {
    let params = Hyperparameters {
        seed,
        optimizer: Optimizer::Adam,
        learning_rate: 0.01 * seed as f64,
        dropout: 0.3,
        average_decay: if seed == 2 { 0.9 } else { 0.0 },
        ..Hyperparameters::default()
    };
    let mut images = Rng::new(seed, Stream::Order, step).permutation(20);
    images.truncate(3 + seed as usize);
    StepPlan::new(&params, params.base_rates(), (step, 1), &images)
}

const STEPS: u64 = 12;
const CAPACITY: usize = 8;

/// A run of [`STEPS`] steps, some of them with another capacity, and what comes of it.
fn run(device: &dyn Device, images: ImageSet, seed: u64) -> (Vec<StepOutcome>, NetworkState) {
    let images = Rc::new(images);
    let mut backend = device.backend(&spec(), CAPACITY).unwrap();
    let member = backend.add(seed).unwrap();
    let stop = AtomicBool::new(false);
    let mut all = Vec::new();
    for step in 1..=STEPS {
        if seed == 3 && step == 5 {
            backend.resize(2 * CAPACITY).unwrap();
            backend.remove(MemberId(7));
        }
        if seed == 1 && step == 7 {
            let copy = backend.copy(member).unwrap();
            backend.remove(copy);
        }
        let work = [(member, vec![plan(seed, step)])];
        let outcomes = backend.train(&images, &work, &stop).unwrap();
        all.extend(outcomes.into_iter().flatten());
        if step % 4 == seed % 4 {
            let (mut probabilities, mut losses) = (vec![0.0; 20], vec![0.0; 2]);
            let batch = ScoringBatch {
                images: &images,
                numbers: &[4, 9],
                weights: Weights::Last,
                tta: Tta::None,
                probabilities: &mut probabilities,
                losses: &mut losses,
            };
            backend.score(member, batch).unwrap();
            assert!((probabilities.iter().sum::<f32>() - 2.0).abs() < 1e-4);
        }
    }
    assert_eq!(backend.has_average(member).unwrap(), seed == 2);
    (all, backend.export(member).unwrap())
}

#[test]
fn each_run_is_what_it_is_alone() {
    let images = images();
    let expected = [1, 2, 3, 4].map(|seed| run(&*cpu(), images.clone(), seed));
    let (device, log) = shared();
    let threads = [1, 2, 3, 4].map(|seed| {
        let (connection, images) = (device.connection(), images.clone());
        std::thread::spawn(move || run(&*connection.device(1), images, seed))
    });
    // A run that panics, and one that breaks off, leave the others alone.
    let (connection, own) = (device.connection(), images.clone());
    let panics = std::thread::spawn(move || {
        let mut backend = connection.device(1).backend(&spec(), CAPACITY).unwrap();
        let member = backend.add(9).unwrap();
        let work = [(member, vec![plan(9, 1)])];
        let stop = AtomicBool::new(false);
        let refused = backend.train(&Rc::new(own), &work, &stop).unwrap_err();
        assert!(refused.to_string().contains("from 1 to 8 images"));
        panic!("as the test asks");
    });
    for (thread, expected) in threads.into_iter().zip(expected) {
        assert!(thread.join().unwrap() == expected);
    }
    assert!(panics.join().is_err());
    drop(device);
    let calls = &log.lock().unwrap().calls;
    // Besides the refused training.
    assert!(calls.iter().sum::<usize>() > 4 * STEPS as usize);
}

/// An owner with three runs, each with a member and a training.
fn owner() -> (DeviceOwner, Vec<TrainRequest>, Arc<Mutex<Log>>) {
    let log = Arc::new(Mutex::new(Log::default()));
    let mut owner = DeviceOwner::new(Rc::new(Logged {
        inner: cpu(),
        log: Arc::clone(&log),
    }));
    let images = images();
    let trainings = (1..=3).map(|seed| {
        let run = RunId(seed);
        owner.join(run, &spec(), CAPACITY).unwrap();
        let member = owner.add(run, |backend| backend.add(seed)).unwrap();
        TrainRequest {
            run,
            images: images.clone(),
            work: vec![(member, vec![plan(seed, 1)])],
            answer: bounded(1).0,
        }
    });
    let trainings = trainings.collect();
    (owner, trainings, log)
}

fn waiting(requests: Vec<TrainRequest>) -> Vec<WaitingTraining> {
    let since = Instant::now();
    let waiting = |request| WaitingTraining { request, since };
    requests.into_iter().map(waiting).collect()
}

fn answers(requests: &mut [TrainRequest]) -> Vec<Receiver<Result<Trained>>> {
    let answer = |request: &mut TrainRequest| {
        let (answer, answered) = bounded(1);
        request.answer = answer;
        answered
    };
    requests.iter_mut().map(answer).collect()
}

#[test]
fn trainings_that_wait_are_one_call() {
    let (mut owner, mut requests, log) = owner();
    let answers = answers(&mut requests);
    let mut waiting = waiting(requests);
    owner.train_oldest(&mut waiting);
    assert!(waiting.is_empty());
    for (answer, seed) in answers.iter().zip(1..) {
        let outcomes = answer.try_recv().unwrap().unwrap().outcomes;
        let [steps] = &outcomes[..] else {
            panic!("{outcomes:?}");
        };
        let mut backend = cpu().backend(&spec(), CAPACITY).unwrap();
        let member = backend.add(seed).unwrap();
        let work = [(member, vec![plan(seed, 1)])];
        let stop = AtomicBool::new(false);
        let expected = backend.train(&Rc::new(images()), &work, &stop).unwrap();
        assert_eq!(*steps, expected[0]);
    }
    assert_eq!(log.lock().unwrap().calls, [3]);
}

#[test]
fn a_run_with_few_steps_learns_the_pace_of_one() {
    let (mut owner, mut requests, log) = owner();
    requests[1].work[0]
        .1
        .extend((2..=9).map(|step| plan(2, step)));
    let answers = answers(&mut requests);
    let begin = Instant::now();
    owner.train_oldest(&mut waiting(requests));
    let longest = begin.elapsed().as_secs_f64() / 9.0;
    let trained = answers
        .iter()
        .map(|answer| answer.try_recv().unwrap().unwrap());
    let trained: Vec<Trained> = trained.collect();
    assert_eq!(
        [1, 9, 1],
        [0, 1, 2].map(|i: usize| trained[i].outcomes[0].len())
    );
    let pace = trained[0].seconds_per_step;
    assert!(0.0 < pace && pace <= longest, "{pace} of {longest}");
    assert!(
        trained
            .iter()
            .all(|trained| trained.seconds_per_step == pace)
    );
    assert_eq!(log.lock().unwrap().calls, [3]);
}

#[test]
fn other_images_and_another_capacity_are_calls_of_their_own() {
    let (mut owner, mut requests, log) = owner();
    requests[1].images = images();
    owner.resize(RunId(3), 2 * CAPACITY).unwrap();
    let mut waiting = waiting(requests);
    for left in (0..3).rev() {
        owner.train_oldest(&mut waiting);
        assert_eq!(waiting.len(), left);
    }
    assert_eq!(log.lock().unwrap().calls, [1, 1, 1]);
}

#[test]
fn memory_that_is_short_for_one_run_is_short_for_no_other() {
    let (mut owner, mut requests, log) = owner();
    let short = Error::Executor(ExecutorError::Memory {
        device: "a test".into(),
        needed: 2,
        free: 1,
    });
    log.lock().unwrap().fails_with = Some((3, short));
    let answers = answers(&mut requests);
    owner.train_oldest(&mut waiting(requests));
    assert!(
        answers
            .iter()
            .all(|answer| answer.try_recv().unwrap().is_ok())
    );
    assert_eq!(log.lock().unwrap().calls, [3, 1, 1, 1]);
    // After any other error, some steps may have been made.
    let (mut owner, mut requests, log) = self::owner();
    log.lock().unwrap().fails_with = Some((3, Error::Compute("it broke".into())));
    let answers = self::answers(&mut requests);
    owner.train_oldest(&mut waiting(requests));
    for answer in answers {
        let error = answer.try_recv().unwrap().err().unwrap();
        assert!(error.to_string().contains("it broke"), "{error}");
    }
    assert_eq!(log.lock().unwrap().calls, [3]);
}

#[test]
fn a_training_waits_only_for_runs_that_train_and_not_long() {
    let (mut owner, requests, _) = owner();
    let images = requests[0].images.clone();
    let again = |seed: u64| TrainRequest {
        run: RunId(seed),
        images: images.clone(),
        work: vec![(MemberId(0), vec![plan(seed, 2)])],
        answer: bounded(1).0,
    };
    let mut all = waiting(requests);
    // Nobody has trained yet.
    assert_eq!(owner.wait_until(&all), Some(all[0].since));
    owner.train_oldest(&mut all);
    assert_eq!(owner.wait_until(&all), None);
    // The first waits for the two others.
    owner.accept(Request::Train(again(1)), &mut all);
    let until = owner.wait_until(&all).unwrap();
    assert!(until > all[0].since && until <= all[0].since + Duration::from_millis(17));
    // The second does something else, and the third comes.
    owner.accept(Request::Call(RunId(2), Box::new(|_| {})), &mut all);
    assert_eq!(owner.wait_until(&all), Some(until));
    owner.accept(Request::Train(again(3)), &mut all);
    assert_eq!(owner.wait_until(&all), Some(all[0].since));
    owner.train_oldest(&mut all);
    assert!(all.is_empty());
    // The third is late: nobody waits for it again.
    owner.accept(Request::Train(again(1)), &mut all);
    assert!(owner.wait_until(&all).unwrap() > all[0].since);
    owner.train_oldest(&mut all);
    owner.accept(Request::Train(again(1)), &mut all);
    assert_eq!(owner.wait_until(&all), Some(all[0].since));
    owner.train_oldest(&mut all);
    // A run that has left is not waited for.
    owner.accept(Request::Train(again(3)), &mut all);
    assert!(owner.wait_until(&all).unwrap() > all[0].since);
    owner.leave(RunId(1));
    assert_eq!(owner.wait_until(&all), Some(all[0].since));
}

#[test]
fn a_device_that_is_not_shared_or_cannot_be_opened_is_left_to_the_runs() {
    assert!(SharedDevice::open(|| Ok(cpu())).unwrap().is_none());
    let refused = || crate::backend::open(DeviceChoice::Metal(0), EngineChoice::Native, 1);
    assert!(SharedDevice::open(refused).unwrap().is_none());
}

#[test]
fn runs_of_a_device_that_has_ended_say_so() {
    let (device, _) = shared();
    let connection = device.connection();
    let run = connection.clone().device(1);
    let mut backend = run.backend(&spec(), CAPACITY).unwrap();
    let panicked = connection.call(RunId(u64::MAX), |_| -> Result<()> { panic!("as asked") });
    assert!(panicked.unwrap_err().to_string().contains("has ended"));
    let error = backend.add(1).unwrap_err().to_string();
    assert!(error.contains("last checkpoint is intact"), "{error}");
}
