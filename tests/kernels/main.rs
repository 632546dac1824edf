//! The CUDA kernels, without a GPU: their arithmetic on the processor against the CPU's layers and optimizer, and that
//! they compile for the GPUs that are in use.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod host;
mod trainer;

use candle_core::{Device, Tensor};
use cifar_tui::commands::suite;
use cifar_tui::domain::arch::{self, Shape};
use cifar_tui::domain::augment::Placement;
use cifar_tui::domain::params::{Hyperparameters, Optimizer as Rule, Precision};
use cifar_tui::domain::report::StepSettings;
use cifar_tui::domain::rng::{Rng, Stream};
use cifar_tui::hardware::executor::{ExecutorError, Launch};
use cifar_tui::hardware::nvidia::nvrtc_search::SearchPath;
use cifar_tui::hardware::threads::Threads;
use cifar_tui::layers::{Param, slices};
use cifar_tui::net::engine::{Found, PlannedStep};
use cifar_tui::net::plan::{COMMON, Needs, Plan};
use cifar_tui::net::{Net, Scaling};
use cifar_tui::train::optim::Optimizer;
use host::Host;

const IMAGES: usize = 40;
const CLASSES: usize = 10;

/// Every kind of layer, in every way that it is fused.
const ARCHS: &[(&str, &str)] = &[
    (
        "the seed's kinds",
        "conv 8, relu, conv 12, relu, pool, drop, conv 8, relu, pool, drop, dense 20, relu, drop, dense 10",
    ),
    (
        "odd numbers",
        "conv 5 k5 s2, relu, drop 0.3, conv 7 same, conv 3, relu, dense 11, dense 10",
    ),
    (
        "norms",
        "conv 8 same, norm, relu, pool, residual(conv 8 same, norm, relu, conv 8 same, norm), relu, \
      residual(conv 12 s2 p1, norm, relu, conv 12 same, norm), relu, global-pool, drop, dense 10",
    ),
    (
        "sums",
        "conv 4 same, relu, residual(conv 4 same, relu), relu, residual(conv 8 same, relu, conv 8 same), relu, norm, dense 10",
    ),
    (
        "on their own",
        "norm, relu, pool 3 s2, drop 0.25, conv 6, relu, relu, pool 3, drop, dense 12, relu, dense 10",
    ),
];

struct World {
    pixels: Tensor,
    labels: Vec<u8>,
    side: usize,
    params: Hyperparameters,
    scaling: Scaling,
}

fn world(side: usize, seed: u64) -> World {
    let rng = Rng::new(seed, Stream::Sample, 0);
    let count = IMAGES * 3 * side * side;
    let bytes: Vec<u8> = (0..count as u32)
        .map(|i| (rng.word(i) >> 24) as u8)
        .collect();
    World {
        pixels: Tensor::from_vec(bytes, (IMAGES, 3, side, side), &Device::Cpu).unwrap(),
        labels: (0..IMAGES as u32)
            .map(|i| (rng.word(i) % 10) as u8)
            .collect(),
        side,
        params: Hyperparameters {
            seed,
            flip: true,
            crop: 2,
            cutout: 3,
            dropout: 0.4,
            label_smoothing: 0.1,
            weight_decay: 0.01,
            momentum: 0.9,
            nesterov: true,
            clip_norm: 1.0,
            optimizer: Rule::Sgd,
            learning_rate: 0.05,
            ..Hyperparameters::default()
        },
        scaling: Scaling::standard([0.49, 0.48, 0.45], [0.25, 0.24, 0.26]),
    }
}

impl World {
    fn net(&self, text: &str, capacity: usize) -> Net {
        let arch = arch::resolve(text).unwrap();
        let shape = Shape::new(3, self.side as u32, self.side as u32);
        Net::build(
            &arch,
            shape,
            CLASSES,
            capacity,
            self.params.seed,
            &Device::Cpu,
        )
        .unwrap()
    }

    fn settings(&self, step: u64) -> StepSettings {
        let p = &self.params;
        StepSettings::new(p, p.learning_rate, step)
    }

    /// The images of step `step`: `count` of them.
    fn batch(&self, step: u64, count: usize) -> Vec<u32> {
        let mut all = Rng::new(9, Stream::Order, step).permutation(IMAGES);
        all.truncate(count);
        all
    }

    /// The steps of these sizes on the CPU.
    fn on_the_cpu(&self, net: &mut Net, optimizer: &mut Optimizer, sizes: &[usize]) -> Vec<Found> {
        let threads = Threads::new(1);
        let step = |(i, size): (usize, &usize)| {
            let number = i as u64 + 1;
            let side = self.side as u32;
            let placed: Vec<_> = self
                .batch(number, *size)
                .iter()
                .zip(0..)
                .map(|(image, place)| Placement::random(*image, place, number, side, &self.params))
                .collect();
            let settings = self.settings(number);
            let outcome = net
                .train_pass(
                    &self.pixels,
                    &self.labels,
                    &placed,
                    &self.scaling,
                    &settings,
                    &threads,
                )
                .unwrap();
            let moved = optimizer.step(&net.params(), &settings, &threads).unwrap();
            Found {
                step: number,
                loss: outcome.loss,
                grad_norm: moved.grad_norm,
                correct: outcome.correct,
                applied: moved.applied,
            }
        };
        sizes.iter().enumerate().map(step).collect()
    }

    /// The same on a machine, all at once.
    fn on_the_machine(&self, net: &mut Net, sizes: &[usize]) -> Vec<Found> {
        let mut optimizer = Optimizer::new(self.params.optimizer, &net.params()).unwrap();
        let mut images = Vec::new();
        let steps: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(i, &size)| {
                let settings = self.settings(i as u64 + 1);
                images.extend(self.batch(settings.step, size));
                let update = optimizer.plan(&settings);
                PlannedStep::new(settings, update, size, &self.params)
            })
            .collect();
        let found = net
            .train_steps(&self.pixels, &self.labels, &self.scaling, &images, &steps)
            .unwrap();
        net.pull().unwrap();
        found
    }
}

fn left_out() -> bool {
    let missing = host::compiler().is_none();
    if missing {
        eprintln!("left out: no C++ compiler (c++, or what CXX names)");
    }
    missing
}

/// The largest difference over the largest value.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().chain(b).all(|v| v.is_finite()), "{a:?} {b:?}");
    let largest = b.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    let apart = a
        .iter()
        .zip(b)
        .fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    apart / largest
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    slices::read(tensor).unwrap().to_vec()
}

fn compare(what: &str, a: &Net, b: &Net, gradients: f32, weights: f32) {
    let pair = |x: &Param, y: &Param| {
        assert_eq!(x.name, y.name);
        let apart = difference(&numbers(&x.grad), &numbers(&y.grad));
        assert!(
            apart < gradients,
            "{what}: the gradient of {} differs by {apart}",
            x.name
        );
        let apart = difference(&numbers(&x.var), &numbers(&y.var));
        assert!(apart < weights, "{what}: {} differs by {apart}", x.name);
    };
    a.params()
        .iter()
        .zip(b.params())
        .for_each(|(x, y)| pair(x, y));
    for ((name, x), (_, y)) in a.buffers().iter().zip(b.buffers()) {
        let apart = difference(&numbers(x), &numbers(y));
        assert!(apart < weights, "{what}: {name} differs by {apart}");
    }
}

fn same_findings(what: &str, a: &[Found], b: &[Found], tolerance: f64) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert_eq!((a.step, a.applied), (b.step, b.applied), "{what}");
        assert!(
            (a.loss - b.loss).abs() < tolerance * b.loss,
            "{what}: {a:?} {b:?}"
        );
        assert!(
            (a.grad_norm - b.grad_norm).abs() < tolerance * b.grad_norm,
            "{what}: {a:?} {b:?}"
        );
        assert_eq!(a.correct, b.correct, "{what}");
    }
}

fn step_agrees(what: &str, text: &str, side: usize, multiprocessors: u32) {
    let world = world(side, 5);
    let sizes = [9, 16, 3];
    let (mut cpu, mut gpu) = (world.net(text, 16), world.net(text, 16));
    let mut optimizer = Optimizer::new(Rule::Sgd, &cpu.params()).unwrap();
    let host = Box::new(Host::new(multiprocessors, false));
    gpu.accelerate(host, Rule::Sgd, Precision::F32).unwrap();
    let found = world.on_the_machine(&mut gpu, &sizes);
    let expected = world.on_the_cpu(&mut cpu, &mut optimizer, &sizes);
    same_findings(what, &found, &expected, 1e-4);
    compare(what, &gpu, &cpu, 2e-4, 1e-4);

    // And what it says afterwards.
    let placed: Vec<_> = (0..14).map(|i| Placement::plain(i + 20)).collect();
    let threads = Threads::new(1);
    let score = |net: &mut Net| {
        let (mut p, mut l) = (vec![f32::NAN; 14 * CLASSES], vec![f32::NAN; 14]);
        net.score(
            &world.pixels,
            &world.labels,
            &placed,
            &world.scaling,
            &threads,
            &mut p,
            &mut l,
        )
        .unwrap();
        (p, l)
    };
    let (a, b) = (score(&mut gpu), score(&mut cpu));
    assert!(
        difference(&a.0, &b.0) < 1e-4 && difference(&a.1, &b.1) < 1e-4,
        "{what}"
    );
}

#[test]
fn every_kind_of_layer_trains_and_scores_as_on_the_cpu() {
    if left_out() {
        return;
    }
    for (what, text) in ARCHS {
        // Few blocks, each with whole sums; and many that share them.
        for multiprocessors in [1, 40] {
            step_agrees(
                &format!("{what}, {multiprocessors} wide"),
                text,
                14,
                multiprocessors,
            );
        }
    }
}

#[test]
fn every_optimizer_moves_as_on_the_cpu() {
    if left_out() {
        return;
    }
    let text = "conv 4 s2, relu, dense 10";
    for rule in [Rule::Sgd, Rule::Adam, Rule::Adamw] {
        for (clip_norm, momentum, nesterov) in
            [(0.0, 0.0, false), (0.5, 0.9, false), (0.0, 0.8, true)]
        {
            let mut world = world(8, 6);
            world.params = Hyperparameters {
                optimizer: rule,
                clip_norm,
                momentum,
                nesterov,
                learning_rate: 0.01,
                ..world.params
            };
            let sizes = [8; 6];
            let (mut cpu, mut gpu) = (world.net(text, 8), world.net(text, 8));
            let mut optimizer = Optimizer::new(rule, &cpu.params()).unwrap();
            gpu.accelerate(Box::new(Host::new(8, false)), rule, Precision::F32)
                .unwrap();
            let found = world.on_the_machine(&mut gpu, &sizes);
            let expected = world.on_the_cpu(&mut cpu, &mut optimizer, &sizes);
            let what = format!("{rule:?} {clip_norm} {momentum}");
            same_findings(&what, &found, &expected, 1e-4);
            compare(&what, &gpu, &cpu, 1e-3, 3e-4);
            let copy = Optimizer::new(rule, &gpu.params()).unwrap();
            copy.pull(&gpu).unwrap();
            for ((name, a), (_, b)) in copy.state().zip(optimizer.state()) {
                let apart = difference(&numbers(a), &numbers(b));
                assert!(apart < 1e-3, "{what}: {name} differs by {apart}");
            }
        }
    }
}

#[test]
fn coarser_numbers_are_as_coarse_as_they_should_be() {
    if left_out() {
        return;
    }
    // Without ReLU and pooling, so that no choice hangs on a last digit.
    let text = "conv 12 same, conv 20 s2, dense 10";
    for (precision, tolerance) in [(Precision::Tf32, 2e-3), (Precision::Bf16, 3e-2)] {
        let mut world = world(10, 7);
        world.params.dropout = 0.0;
        let (mut cpu, mut gpu) = (world.net(text, 16), world.net(text, 16));
        let mut optimizer = Optimizer::new(Rule::Sgd, &cpu.params()).unwrap();
        gpu.accelerate(Box::new(Host::new(8, false)), Rule::Sgd, precision)
            .unwrap();
        let found = world.on_the_machine(&mut gpu, &[16]);
        let expected = world.on_the_cpu(&mut cpu, &mut optimizer, &[16]);
        assert!((found[0].loss - expected[0].loss).abs() < f64::from(tolerance) * expected[0].loss);
        assert_ne!(found[0].loss, expected[0].loss);
        compare(&format!("{precision:?}"), &gpu, &cpu, tolerance, tolerance);
    }
}

/// What `bench --suite` measures on a GPU.
#[test]
fn the_suite_sees_how_coarse_a_format_is() {
    if left_out() {
        return;
    }
    let apart = |text: &str, precision| {
        let machine = Box::new(Host::new(8, false));
        suite::difference(machine, text, precision, &Threads::new(1)).unwrap()
    };
    let text = "conv 4 s4, conv 6 same, dense 10";
    assert!(apart("conv 4 s4, relu, pool, drop, dense 10", Precision::F32) < 1e-4);
    assert!((1e-4..2e-3).contains(&apart(text, Precision::Tf32)));
    assert!((1e-3..3e-2).contains(&apart(text, Precision::Bf16)));
}

#[test]
fn the_order_of_threads_and_blocks_does_not_matter() {
    if left_out() {
        return;
    }
    for (what, text) in ARCHS {
        let world = world(13, 8);
        let nets = [false, true].map(|backwards| {
            let mut net = world.net(text, 12);
            net.accelerate(
                Box::new(Host::new(20, backwards)),
                Rule::Sgd,
                Precision::F32,
            )
            .unwrap();
            let found = world.on_the_machine(&mut net, &[12, 5]);
            (net, found)
        });
        let [(a, found_a), (b, found_b)] = &nets;
        assert_eq!(found_a, found_b, "{what}");
        for (x, y) in a.params().iter().zip(b.params()) {
            assert_eq!(numbers(&x.var), numbers(&y.var), "{what}: {}", x.name);
            assert_eq!(numbers(&x.grad), numbers(&y.grad), "{what}: {}", x.name);
        }
    }
}

#[test]
fn a_step_that_is_not_finite_changes_nothing_and_neither_do_those_after_it() {
    if left_out() {
        return;
    }
    let text = "conv 4, norm, relu, dense 10";
    let mut world = world(8, 3);
    let mut net = world.net(text, 8);
    net.accelerate(Box::new(Host::new(4, false)), Rule::Sgd, Precision::F32)
        .unwrap();
    world.on_the_machine(&mut net, &[8]);
    let before: Vec<_> = net.params().iter().map(|p| numbers(&p.var)).collect();
    let running: Vec<_> = net.buffers().iter().map(|(_, b)| numbers(b)).collect();
    // Far too high a rate: the step after it is not finite.
    world.params.learning_rate = 1e30;
    world.params.clip_norm = 0.0;
    let found = world.on_the_machine(&mut net, &[8, 8, 8, 8]);
    let applied: Vec<_> = found.iter().map(|f| f.applied).collect();
    let first = applied.iter().position(|a| !a).unwrap();
    assert!(
        (1..4).contains(&first) && applied[first..].iter().all(|a| !a),
        "{found:?}"
    );
    let after: Vec<_> = net.params().iter().map(|p| numbers(&p.var)).collect();
    assert!(after.iter().flatten().all(|v| !v.is_nan()));
    assert_ne!(before, after);
    // And from good weights on with the rate that breaks them, nothing moves at all.
    let weights = |rows: &[Vec<f32>]| {
        let names = net.params();
        let named = names.iter().map(|p| p.name.clone()).zip(rows);
        let mut all: std::collections::HashMap<_, _> = named
            .zip(names.iter())
            .map(|((name, row), p)| {
                (
                    name,
                    Tensor::from_slice(row, p.var.dims(), &Device::Cpu).unwrap(),
                )
            })
            .collect();
        for ((name, b), row) in net.buffers().iter().zip(&running) {
            all.insert(
                name.clone(),
                Tensor::from_slice(row, b.dims(), &Device::Cpu).unwrap(),
            );
        }
        all
    };
    let mut broken = before.clone();
    broken[0][0] = f32::NAN;
    net.load(&weights(&broken)).unwrap();
    let found = world.on_the_machine(&mut net, &[8, 8]);
    assert!(found.iter().all(|f| !f.applied), "{found:?}");
    let moved: Vec<_> = net.params()[1..].iter().map(|p| numbers(&p.var)).collect();
    assert_eq!(moved, before[1..]);
    let now: Vec<_> = net.buffers().iter().map(|(_, b)| numbers(b)).collect();
    assert_eq!(now, running);
}

#[test]
fn another_capacity_keeps_all_and_one_too_large_leaves_all_as_it_was() {
    if left_out() {
        return;
    }
    let text = "conv 6, norm, relu, pool, dense 10";
    let world = world(10, 2);
    let mut stays = world.net(text, 8);
    let mut moves = world.net(text, 8);
    for net in [&mut stays, &mut moves] {
        let host = Host::new(4, false).with_memory(8_000_000);
        net.accelerate(Box::new(host), Rule::Sgd, Precision::F32)
            .unwrap();
        world.on_the_machine(net, &[8, 8]);
    }
    let error = moves.set_capacity(100_000).unwrap_err();
    match &error {
        cifar_tui::net::Error::Executor(ExecutorError::Memory { needed, free, .. }) => {
            assert!(needed > free);
        }
        other => panic!("{other}"),
    }
    assert!(error.to_string().contains("smaller batch"), "{error}");
    assert_eq!(moves.capacity(), 8);
    moves.set_capacity(20).unwrap();
    assert_eq!(moves.capacity(), 20);
    let a = world.on_the_machine(&mut stays, &[8, 8]);
    let b = world.on_the_machine(&mut moves, &[8, 8]);
    same_findings("capacity", &b, &a, 1e-5);
    compare("capacity", &moves, &stays, 1e-4, 1e-5);
}

/// Launches that use every kernel, and every number format.
fn all_launches() -> Vec<Vec<Launch>> {
    const ALL: &str = "conv 8 same, relu, pool, drop, residual(conv 8 same, norm), relu, residual(conv 8 s2 p1), norm, relu, \
                       pool 2 s1, relu, drop 0.2, global-pool, dense 12, relu, drop, dense 10";
    const PRODUCTS: &str = "conv 8, relu, pool, dense 10";
    let world = world(14, 1);
    let uses = [
        (ALL, Precision::F32, Rule::Sgd),
        (PRODUCTS, Precision::Tf32, Rule::Adamw),
        (PRODUCTS, Precision::Bf16, Rule::Adamw),
    ];
    let lists = uses.map(|(text, precision, rule)| {
        let needs = Needs {
            capacity: 16,
            side: world.side,
            classes: CLASSES,
            rule,
            precision,
            blocks: 40,
        };
        let plan = Plan::of(needs, &world.net(text, 16));
        [plan.training, plan.scoring, plan.packing]
    });
    lists.into_iter().flatten().collect()
}

/// Compute capabilities of the GPUs in use: 89 is 8.9.
const ARCHITECTURES: [u32; 5] = [80, 86, 89, 90, 100];

#[test]
fn every_kernel_compiles_for_the_gpus_in_use() {
    let Some(nvrtc) = SearchPath::of_process().newest(u32::MAX) else {
        eprintln!("left out: NVRTC was not found (pip install nvidia-cuda-nvrtc-cu12)");
        return;
    };
    eprintln!("NVRTC {nvrtc}");
    let (text, _) = host::one_source(COMMON, &all_launches(), "");
    std::thread::scope(|scope| {
        for architecture in ARCHITECTURES {
            let (nvrtc, text) = (&nvrtc, &text);
            scope.spawn(move || {
                if !nvrtc.supports(architecture) {
                    eprintln!("left out: this NVRTC does not know sm_{architecture}");
                    return;
                }
                let code = nvrtc.compile(text, architecture);
                let code = code.unwrap_or_else(|log| panic!("sm_{architecture}: {log}"));
                assert!(code.starts_with(b"\x7fELF"), "sm_{architecture}");
            });
        }
    });
}
