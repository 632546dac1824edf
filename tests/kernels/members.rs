//! A backend's members: copies, other capacities, steps that are not finite.

use super::*;

#[test]
fn a_step_that_is_not_finite_changes_nothing_and_neither_do_those_after_it() {
    if left_out() {
        return;
    }
    let text = "conv 4, norm, relu, dense 10";
    let mut world = world(8, 3);
    let device = HostDevice::new(4, false).device();
    let mut training = world.training(&device, text, 8);
    world.train(&mut training, 1, &[8]);
    let before = training.state();
    // With this far too high rate, the step after the first is not finite.
    world.params.learning_rate = 1e30;
    world.params.clip_norm = 0.0;
    let outcomes = world.train(&mut training, 2, &[8, 8, 8, 8]);
    let (last, rest) = outcomes.split_last().unwrap();
    assert!(
        (1..4).contains(&rest.len()) && rest.iter().all(|o| o.not_finite.is_none()),
        "{outcomes:?}"
    );
    let what = last.not_finite.as_deref().unwrap();
    assert!(what.starts_with("the "), "{what}");
    let after = training.state();
    let values = |state: &NetworkState| -> Vec<f32> {
        let all = state.tensors.values().flat_map(|t| &t.values);
        all.copied().collect()
    };
    assert!(values(&after).iter().all(|v| !v.is_nan()));
    assert_ne!(before, after);
    // With a weight that is not finite, no other weight changes.
    let mut broken = before.clone();
    broken.tensors.get_mut("conv1.weight").unwrap().values[0] = f32::NAN;
    training.backend.import(training.member, &broken).unwrap();
    let outcomes = world.train(&mut training, 2, &[8, 8]);
    let [outcome] = &outcomes[..] else {
        panic!("{outcomes:?}");
    };
    assert_eq!(
        outcome.not_finite.as_deref(),
        Some("the weights conv1.weight")
    );
    let mut now = training.state();
    let weight = &mut now.tensors.get_mut("conv1.weight").unwrap().values[0];
    assert!(weight.is_nan());
    *weight = before.tensors["conv1.weight"].values[0];
    assert!(now == before);
}

#[test]
fn another_capacity_keeps_all_and_one_too_large_leaves_all_as_it_was() {
    if left_out() {
        return;
    }
    let text = "conv 6, norm, relu, pool, dense 10";
    let world = world(10, 2);
    let training = || {
        let device = HostDevice::new(4, false).with_memory(8_000_000).device();
        let mut training = world.training(&device, text, 8);
        world.train(&mut training, 1, &[8, 8]);
        training
    };
    let (mut stays, mut moves) = (training(), training());
    let error = moves.backend.resize(100_000).unwrap_err();
    assert!(error.is_out_of_memory(), "{error}");
    assert!(error.to_string().contains("smaller batch"), "{error}");
    assert_eq!(moves.backend.capacity(), 8);
    moves.backend.resize(20).unwrap();
    assert_eq!(moves.backend.capacity(), 20);
    let a = world.train(&mut stays, 3, &[8, 8]);
    let b = world.train(&mut moves, 3, &[8, 8]);
    same_outcomes("capacity", &b, &a, 1e-5);
    compare("capacity", &mut moves, &mut stays, 1e-4, 1e-5);
}

#[test]
fn a_member_is_copied_on_the_device() {
    if left_out() {
        return;
    }
    let text = "conv 4, norm, relu, dense 10";
    let mut world = world(8, 2);
    world.params.optimizer = Optimizer::Adam;
    let host = Rc::new(HostDevice::new(4, false));
    let device = Rc::clone(&host).shared_device();
    let mut training = world.training(&device, text, 8);
    world.train(&mut training, 1, &[8, 8]);
    let copy = training.backend.copy(training.member).unwrap();
    let state = training.state();
    let numbers: usize = state.tensors.values().map(|t| t.values.len()).sum();
    assert!(host.copied() >= 4 * numbers, "{}", host.copied());
    assert!(training.backend.export(copy).unwrap() == state);
    // The copy trains like the original, and neither changes the other.
    let a = world.train(&mut training, 3, &[8]);
    assert!(training.backend.export(copy).unwrap() == state);
    let after = training.state();
    training.member = copy;
    assert_eq!(world.train(&mut training, 3, &[8]), a);
    assert!(training.state() == after);
}

#[test]
fn members_are_resized_together_or_not_at_all() {
    if left_out() {
        return;
    }
    let text = "conv 4, relu, dense 10";
    let world = world(8, 2);
    // The third allocation is the larger one of the first member, the fourth that of the second.
    let device = |failing: &[usize]| HostDevice::new(4, false).with_failing(failing).device();
    let pair = |device: &dyn Device| {
        let mut training = world.training(device, text, 8);
        world.train(&mut training, 1, &[8]);
        let copy = training.backend.copy(training.member).unwrap();
        (training, copy)
    };
    let (mut training, copy) = pair(&device(&[3]));
    let before = training.state();
    let error = training.backend.resize(20).unwrap_err();
    assert!(error.is_out_of_memory(), "{error}");
    assert_eq!(training.backend.capacity(), 8);
    assert!(training.state() == before);
    assert!(training.backend.export(copy).unwrap() == before);
    world.train(&mut training, 2, &[8]);
    assert!(training.state() != before);
    training.member = copy;
    world.train(&mut training, 2, &[8]);
    training.backend.resize(20).unwrap();
    world.train(&mut training, 3, &[20]);

    // The old memory of the second member cannot be allocated again either.
    let (mut training, _) = pair(&device(&[3, 4]));
    let error = training.backend.resize(20).unwrap_err();
    assert!(!error.is_out_of_memory(), "{error}");
    assert!(error.to_string().contains("resume from it"), "{error}");
}

#[test]
fn a_weight_that_overflows_ends_the_member_at_its_step() {
    let text = "conv 4, relu, dense 10";
    let mut world = world(8, 2);
    world.params.learning_rate = 10.0;
    world.params.nesterov = false;
    let mut devices = vec![cpu(), Rc::new(CandleDevice::reference()) as Rc<dyn Device>];
    if !left_out() {
        devices.push(Rc::new(HostDevice::new(4, false).device()));
    }
    for device in devices {
        let what = &device.info().words;
        let mut training = world.training(&*device, text, 8);
        let mut state = training.state();
        let momentum = "optimizer.momentum_buffer.conv1.bias";
        state.tensors.get_mut(momentum).unwrap().values[1] = 3e38;
        training.backend.import(training.member, &state).unwrap();
        let outcomes = world.train(&mut training, 1, &[8, 8, 8]);
        let [outcome] = &outcomes[..] else {
            panic!("{what}: {outcomes:?}");
        };
        assert!(outcome.loss.is_finite() && outcome.grad_norm.is_finite());
        let found = outcome.not_finite.as_deref();
        assert_eq!(found, Some("the weights conv1.bias"), "{what}");
    }
}
