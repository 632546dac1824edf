//! Tests of the average of the weights in the GPU's backend: it is the CPU's, and its memory comes and goes.

use super::host::HostDevice;
use super::{Training, World, compare, cpu, left_out, same_outcomes, world};
use cifar_tui::backend::StepOutcome;
use cifar_tui::domain::params::Optimizer;
use std::sync::atomic::AtomicBool;

/// Fixed filters, running statistics, and filters that muon moves as matrices.
const TEXT: &str = "whiten, norm, gelu, conv 6 s2, norm, silu, dense 10";

/// Makes a step with each of these values of `average_decay`, all in one call of the backend.
fn train(world: &World, training: &mut Training, first: u64, decays: &[f64]) -> Vec<StepOutcome> {
    let mut plans = world.plans(first, &vec![8; decays.len()]);
    for (plan, decay) in plans.iter_mut().zip(decays) {
        plan.settings.params.average_decay = *decay;
    }
    let work = [(training.member, plans)];
    let stop = AtomicBool::new(false);
    let outcomes = training.backend.train(&world.images, &work, &stop);
    outcomes.unwrap().remove(0)
}

fn has_average(training: &mut Training) -> bool {
    training.backend.has_average(training.member).unwrap()
}

#[test]
fn an_average_that_begins_and_ends_within_a_submission_is_the_cpu_s() {
    if left_out() {
        return;
    }
    for optimizer in [Optimizer::Sgd, Optimizer::Muon] {
        let mut world = world(9, 4);
        world.params.optimizer = optimizer;
        let device = HostDevice::new(4, false).device();
        let mut ours = world.training(&device, TEXT, 8);
        let mut expected = world.training(&*cpu(), TEXT, 8);
        let mut first = 1;
        for decays in [
            &[0.0, 0.9, 0.9, 0.0, 0.5, 0.5][..],
            &[0.9, 0.0],
            &[0.0],
            &[0.99],
        ] {
            let a = train(&world, &mut ours, first, decays);
            let b = train(&world, &mut expected, first, decays);
            let what = format!("{optimizer:?}, {decays:?}");
            same_outcomes(&what, &a, &b, 1e-4);
            compare(&what, &mut ours, &mut expected, 1e-3, 3e-4);
            let on = decays.last().is_some_and(|decay| *decay > 0.0);
            assert_eq!(
                (has_average(&mut ours), has_average(&mut expected)),
                (on, on)
            );
            first += decays.len() as u64;
        }
    }
}

#[test]
fn an_average_is_copied_exported_and_kept_by_another_capacity() {
    if left_out() {
        return;
    }
    let world = world(9, 4);
    for device in [cpu(), std::rc::Rc::new(HostDevice::new(4, false).device())] {
        let mut training = world.training(&*device, TEXT, 8);
        train(&world, &mut training, 1, &[0.9, 0.9]);
        let state = training.state();
        let averages = state
            .tensors
            .keys()
            .filter(|name| name.starts_with("average."));
        assert_eq!(averages.count(), 12, "{:?}", state.tensors.keys());
        training.backend.resize(12).unwrap();
        assert!(training.state() == state);
        // A copy, and a member that had none before, go on alike.
        let original = training.member;
        let copy = training.backend.copy(original).unwrap();
        let other = training.backend.add(1).unwrap();
        training.backend.import(other, &state).unwrap();
        let after = [original, copy, other].map(|member| {
            training.member = member;
            assert!(training.state() == state);
            train(&world, &mut training, 3, &[0.9]);
            training.state()
        });
        assert!(after[0] == after[1] && after[0] == after[2] && after[0] != state);
        // A state with half an average is refused.
        let mut half = state.clone();
        half.tensors.remove("average.norm1.running_mean");
        let error = training
            .backend
            .import(other, &half)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("average.norm1.running_mean is missing"),
            "{error}"
        );
        assert!(training.state() == after[2]);
        // A state without an average takes it away.
        half.tensors.retain(|name, _| !name.starts_with("average."));
        training.backend.import(other, &half).unwrap();
        assert!(!has_average(&mut training) && training.state() == half);
    }
}

#[test]
fn an_average_for_which_there_is_no_memory_leaves_all_as_it_was() {
    if left_out() {
        return;
    }
    let mut world = world(9, 4);
    let device = HostDevice::new(4, false).with_failing(&[1]).device();
    let mut training = world.training(&device, TEXT, 8);
    world.train(&mut training, 1, &[8]);
    let before = training.state();
    world.params.average_decay = 0.9;
    let work = [(training.member, world.plans(2, &[8]))];
    let stop = AtomicBool::new(false);
    let error = training.backend.train(&world.images, &work, &stop);
    assert!(error.unwrap_err().is_out_of_memory());
    assert!(training.state() == before && !has_average(&mut training));
    world.train(&mut training, 2, &[8]);
    assert!(has_average(&mut training));
}
