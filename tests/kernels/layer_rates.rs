//! Tests of factors on the learning rates of layers in the GPU's backend: they may change from step to step, and outlast
//! another capacity.

use super::host::HostDevice;
use super::{Training, World, compare, cpu, left_out, same_outcomes, world};
use cifar_tui::backend::StepOutcome;
use cifar_tui::domain::params::Optimizer;
use std::sync::atomic::AtomicBool;

const TEXT: &str = "conv 6, norm, relu, residual(conv 6 same, silu), pool, dense 10";

/// Makes a step with each of these factors, all in one call of the backend.
fn train(world: &World, training: &mut Training, first: u64, rates: &[&str]) -> Vec<StepOutcome> {
    let mut plans = world.plans(first, &vec![8; rates.len()]);
    for (plan, rates) in plans.iter_mut().zip(rates) {
        plan.settings.params.layer_rates = rates.parse().unwrap();
    }
    let work = [(training.member, plans)];
    let outcomes = training
        .backend
        .train(&world.images, &work, &AtomicBool::new(false));
    outcomes.unwrap().remove(0)
}

#[test]
fn factors_that_change_within_a_submission_are_the_cpu_s() {
    if left_out() {
        return;
    }
    for optimizer in [Optimizer::Adamw, Optimizer::Muon] {
        let mut world = world(9, 4);
        (world.params.optimizer, world.params.weight_decay) = (optimizer, 0.1);
        let device = HostDevice::new(4, false).device();
        let mut ours = world.training(&device, TEXT, 8);
        let mut expected = world.training(&*cpu(), TEXT, 8);
        let mut first = 1;
        for rates in [
            &["conv1 0, dense1 0.5", "conv1 0, dense1 0.5", "residual1 0"][..],
            &["residual1 0"],
            &["none", "residual1 0, residual1.conv1 2"],
        ] {
            let a = train(&world, &mut ours, first, rates);
            let b = train(&world, &mut expected, first, rates);
            assert_eq!(a.len(), rates.len());
            let what = format!("{optimizer:?}, {rates:?}");
            same_outcomes(&what, &a, &b, 1e-4);
            compare(&what, &mut ours, &mut expected, 1e-3, 3e-4);
            first += rates.len() as u64;
            // The tables of another capacity have the factors too.
            ours.backend.resize(8 + first as usize).unwrap();
        }
    }
}
