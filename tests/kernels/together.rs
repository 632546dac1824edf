//! Tests of members that train in the same launches: each is what it is alone, bit for bit.

use super::host::HostDevice;
use super::*;

const CAPACITY: usize = 12;

const SEED: &str =
    "conv 8, relu, conv 12, relu, pool, drop, conv 8, relu, dense 20, relu, drop, dense 10";

const RESIDUAL: &str = "conv 8 same, norm, relu, pool, residual(conv 8 same, norm, relu, conv 8 same, norm), relu, \
      residual(conv 12 s2 p1, norm, relu, conv 12 same, norm), relu, global-pool, dense 10";

/// Networks, optimizers and number formats whose kernels differ in how they divide their work.
fn kinds() -> Vec<(&'static str, Optimizer, Precision)> {
    vec![
        (SEED, Optimizer::Sgd, Precision::F32),
        (SEED, Optimizer::Adamw, Precision::Bf16),
        (RESIDUAL, Optimizer::Sgd, Precision::F32),
        (WHITEN, Optimizer::Muon, Precision::Tf32),
    ]
}

/// What one member does: its settings, and the batch sizes of its steps in each call of the backend.
#[derive(Clone)]
struct Part {
    params: Hyperparameters,
    calls: Vec<Vec<usize>>,
}

/// Three members that have nothing in common but what members must.
fn parts(world: &World) -> Vec<Part> {
    let part = |seed, calls: &[&[usize]]| Part {
        params: Hyperparameters {
            seed,
            ..world.params.clone()
        },
        calls: calls.iter().map(|sizes| sizes.to_vec()).collect(),
    };
    let mut parts = vec![
        part(1, &[&[12, 5], &[3], &[7, 7, 7]]),
        part(2, &[&[4, 12, 1], &[9, 9], &[]]),
        part(3, &[&[8], &[], &[2, 2]]),
    ];
    let [a, b, c] = &mut parts[..] else {
        unreachable!()
    };
    a.params.learning_rate *= 0.5;
    a.params.layer_rates = "conv1 0, dense1 0.5".parse().unwrap();
    b.params.average_decay = 0.9;
    b.params.dropout = 0.1;
    b.params.flip = Flip::Random;
    c.params.loss_reduction = LossReduction::Sum;
    c.params.clip_norm = 0.1;
    c.params.weight_decay = 0.0;
    parts
}

/// What has become of a member.
#[derive(Debug, PartialEq)]
struct Trained {
    outcomes: Vec<StepOutcome>,
    state: NetworkState,
    /// Probabilities and losses.
    scores: (Vec<f32>, Vec<f32>),
}

/// A backend whose members each do their part.
struct Group<'a> {
    world: &'a World,
    training: Training,
    members: Vec<(MemberId, Part, Vec<StepOutcome>)>,
}

impl<'a> Group<'a> {
    fn new(world: &'a World, device: &dyn Device, text: &str, parts: &[Part]) -> Self {
        let mut backend = device.backend(&world.spec(text), CAPACITY).unwrap();
        let member = |part: &Part| {
            let id = backend.add(part.params.seed).unwrap();
            (id, part.clone(), Vec::new())
        };
        let members: Vec<_> = parts.iter().map(member).collect();
        Group {
            world,
            training: Training {
                backend,
                member: members[0].0,
            },
            members,
        }
    }

    /// The steps of a member in a call.
    fn plans(&self, index: usize, call: usize) -> (MemberId, Vec<StepPlan>) {
        let (id, part, _) = &self.members[index];
        let before: usize = part.calls[..call].iter().map(Vec::len).sum();
        let world = World {
            images: Rc::clone(&self.world.images),
            params: part.params.clone(),
            precision: self.world.precision,
        };
        (*id, world.plans(1 + before as u64, &part.calls[call]))
    }

    /// Makes the steps of a call of these members, in this order.
    fn train(&mut self, call: usize, order: &[usize]) -> backend::Result<()> {
        let work: Vec<_> = order.iter().map(|i| self.plans(*i, call)).collect();
        let stop = AtomicBool::new(false);
        let images = &self.world.images;
        let outcomes = self.training.backend.train(images, &work, &stop)?;
        for (index, outcomes) in order.iter().zip(outcomes) {
            self.members[*index].2.extend(outcomes);
        }
        Ok(())
    }

    fn trained(&mut self, index: usize) -> Trained {
        let (member, _, outcomes) = &self.members[index];
        self.training.member = *member;
        let numbers: Vec<u32> = (20..28).collect();
        Trained {
            outcomes: outcomes.clone(),
            state: self.training.state(),
            scores: self.training.score(&self.world.images, &numbers, Tta::None),
        }
    }
}

/// Each part done by a network alone, on a device of its own.
fn alone(world: &World, text: &str, multiprocessors: u32, parts: &[Part]) -> Vec<Trained> {
    let trained = parts.iter().map(|part| {
        let device = HostDevice::new(multiprocessors, false).device();
        let mut group = Group::new(world, &device, text, std::slice::from_ref(part));
        for call in 0..part.calls.len() {
            group.train(call, &[0]).unwrap();
        }
        group.trained(0)
    });
    trained.collect()
}

#[test]
fn members_in_the_same_launches_are_each_what_it_is_alone() {
    if left_out() {
        return;
    }
    for (text, optimizer, precision) in kinds() {
        let mut world = world(13, 8);
        (world.params.optimizer, world.precision) = (optimizer, precision);
        let parts = parts(&world);
        let expected = alone(&world, text, 20, &parts);
        for backwards in [false, true] {
            let host = Rc::new(HostDevice::new(20, backwards));
            let device = Rc::clone(&host).shared_device();
            let mut group = Group::new(&world, &device, text, &parts);
            host.take_runs();
            // All of them, in another order, and some of them.
            group.train(0, &[0, 1, 2]).unwrap();
            // Memory for averages comes first: it moves each member. Then they have two, three and one steps.
            let runs: Vec<_> = host.take_runs().into_iter().collect();
            assert_eq!(runs, [(1, 3 + 1), (2, 1), (3, 1)], "{text}");
            group.train(1, &[1, 0]).unwrap();
            group.train(2, &[2, 0]).unwrap();
            for (index, expected) in expected.iter().enumerate() {
                assert!(group.trained(index) == *expected, "{text}, member {index}");
            }
        }
    }
}

#[test]
fn a_member_that_diverges_stops_alone() {
    if left_out() {
        return;
    }
    let world = world(13, 8);
    let mut parts = parts(&world);
    parts[1].params.learning_rate = 1e30;
    parts[1].params.clip_norm = 0.0;
    parts[1].params.average_decay = 0.0;
    parts[1].calls = vec![vec![4, 12, 1, 9], vec![], vec![]];
    let expected = alone(&world, RESIDUAL, 20, &parts);
    let device = HostDevice::new(20, false).device();
    let mut group = Group::new(&world, &device, RESIDUAL, &parts);
    for call in 0..3 {
        group.train(call, &[0, 1, 2]).unwrap();
    }
    let last = group.members[1].2.last().unwrap();
    assert!(last.step < 4, "{last:?}");
    assert!(last.not_finite.as_ref().unwrap().starts_with("the "));
    for (index, expected) in expected.iter().enumerate() {
        // A number that is not finite equals none.
        let [found, expected] = [&group.trained(index), expected].map(|t| format!("{t:?}"));
        assert!(found == expected, "member {index}");
    }
}

#[test]
fn members_come_and_go_between_steps() {
    if left_out() {
        return;
    }
    let world = world(13, 8);
    let parts = parts(&world);
    let expected = alone(&world, RESIDUAL, 20, &parts);
    let host = Rc::new(HostDevice::new(20, false));
    let device = Rc::clone(&host).shared_device();
    let mut group = Group::new(&world, &device, RESIDUAL, &parts);
    let backend = &mut group.training.backend;
    let extra = backend.add(9).unwrap();
    group.train(0, &[1, 2]).unwrap();
    // A copy goes on for its original. The original's memory is free again.
    let original = group.members[1].0;
    let backend = &mut group.training.backend;
    group.members[1].0 = backend.copy(original).unwrap();
    let bytes = host.bytes();
    backend.remove(original);
    backend.remove(extra);
    assert_eq!(host.bytes(), bytes / 5 * 3);
    group.train(0, &[0]).unwrap();
    group.train(1, &[0, 1, 2]).unwrap();
    let stop = AtomicBool::new(false);
    let gone = [(original, Vec::new())];
    let images = &group.world.images;
    let error = group.training.backend.train(images, &gone, &stop);
    assert!(error.unwrap_err().to_string().contains("no network"));
    group.train(2, &[2, 0, 1]).unwrap();
    for (index, expected) in expected.iter().enumerate() {
        assert!(group.trained(index) == *expected, "member {index}");
    }
    let ids: Vec<MemberId> = group.members.iter().map(|(id, ..)| *id).collect();
    for id in ids {
        group.training.backend.remove(id);
    }
    assert_eq!(host.bytes(), 0);
}

#[test]
fn memory_that_is_short_at_any_moment_changes_nothing() {
    if left_out() {
        return;
    }
    let world = world(9, 4);
    let parts = parts(&world);
    let text = "conv 6, norm, relu, pool, dense 10";
    /// Calls again what failed because memory was short.
    fn again<T>(failures: &mut usize, mut call: impl FnMut() -> backend::Result<T>) -> T {
        loop {
            match call() {
                Ok(done) => return done,
                Err(error) => {
                    assert!(error.is_out_of_memory(), "{error}");
                    *failures += 1;
                }
            }
        }
    }
    let trained = |failing: &[usize]| {
        let host = Rc::new(HostDevice::new(4, false).with_failing(failing));
        let device = Rc::clone(&host).shared_device();
        let mut failures = 0;
        let mut backend = device.backend(&world.spec(text), CAPACITY).unwrap();
        let mut members = Vec::new();
        for part in &parts {
            let id = again(&mut failures, || backend.add(part.params.seed));
            members.push((id, part.clone(), Vec::new()));
        }
        let mut group = Group {
            world: &world,
            training: Training {
                backend,
                member: members[0].0,
            },
            members,
        };
        // The second member's average needs memory.
        again(&mut failures, || group.train(0, &[0, 1, 2]));
        let original = group.members[2].0;
        let backend = &mut group.training.backend;
        group.members[2].0 = again(&mut failures, || backend.copy(original));
        backend.remove(original);
        again(&mut failures, || backend.resize(2 * CAPACITY));
        again(&mut failures, || group.train(1, &[0, 1, 2]));
        let allocations = host.allocations();
        (
            [0, 1, 2].map(|index| group.trained(index)),
            failures,
            allocations,
        )
    };
    let (expected, failures, allocations) = trained(&[]);
    assert_eq!(failures, 0);
    for failing in 0..allocations {
        let (found, failures, _) = trained(&[failing]);
        assert_eq!(failures, 1, "allocation {failing}");
        assert!(found == expected, "allocation {failing}");
    }
}

#[test]
fn another_capacity_never_needs_the_memory_of_both() {
    if left_out() {
        return;
    }
    let world = world(13, 4);
    let parts = parts(&world);
    let host = Rc::new(HostDevice::new(4, false));
    let device = Rc::clone(&host).shared_device();
    let mut group = Group::new(&world, &device, SEED, &parts);
    let first = host.bytes();
    for capacity in [5 * CAPACITY, CAPACITY] {
        let before = host.bytes();
        host.take_peak();
        group.training.backend.resize(capacity).unwrap();
        assert!(host.take_peak() <= host.bytes().max(before));
    }
    assert_eq!(host.bytes(), first);
}

#[test]
fn too_many_members_and_one_named_twice_are_refused() {
    if left_out() {
        return;
    }
    let world = world(8, 3);
    let device = HostDevice::new(4, false).device();
    let mut training = world.training(&device, "dense 10", 4);
    let most = training.backend.members_at_once();
    let mut members = vec![training.member];
    members.extend((0..most as u64).map(|seed| training.backend.add(seed).unwrap()));
    let before = training.state();
    let mut train = |members: &[MemberId]| {
        let work = members.iter().map(|id| (*id, world.plans(1, &[2])));
        let work: Vec<_> = work.collect();
        let stop = AtomicBool::new(false);
        training.backend.train(&world.images, &work, &stop)
    };
    let error = train(&members).unwrap_err().to_string();
    assert!(error.contains(&format!("at most {most}")), "{error}");
    let error = train(&[members[0], members[1], members[0]]);
    assert!(error.unwrap_err().to_string().contains("named twice"));
    let outcomes = train(&members[1..]).unwrap();
    assert!(outcomes.len() == most && outcomes.iter().all(|steps| steps.len() == 1));
    assert!(training.state() == before);
}
