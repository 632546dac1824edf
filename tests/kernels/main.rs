//! Tests of the CUDA kernels without a GPU: compares their results on the CPU with those of the CPU's layers and
//! optimizer, and checks that they compile for the GPUs in use.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod added;
mod average;
mod host;
mod layer_rates;
mod members;
mod reference;
mod sweep;
mod together;
mod trainer;
mod variants;

use cifar_tui::backend::candle::CandleDevice;
use cifar_tui::backend::gpu::COMMON;
use cifar_tui::backend::gpu::schedule::KernelSchedule;
use cifar_tui::backend::{
    self, Backend, Device, ImageSet, Inspection, MemberId, NetworkSpec, NetworkState, Scaling,
    ScoringBatch, StepOutcome, StepPlan,
};
use cifar_tui::commands::suite;
use cifar_tui::domain::arch::{self, Shape};
use cifar_tui::domain::engine::EngineChoice;
use cifar_tui::domain::params::{
    CropPadding, Flip, Hyperparameters, LossReduction, Optimizer, Precision, Tta, Weights,
};
use cifar_tui::domain::rng::{Rng, Stream};
use cifar_tui::hardware::device::DeviceChoice;
use cifar_tui::hardware::executor::Launch;
use cifar_tui::hardware::nvidia::nvrtc_search::SearchPath;
use host::HostDevice;
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;

const IMAGES: usize = 40;
const CLASSES: usize = 10;

/// Every kind of layer, in every way in which it is fused.
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
    ("smooth", SMOOTH),
    ("options", OPTIONS),
    ("whiten", WHITEN),
    (
        "whiten and ReLU",
        "whiten, relu, pool, drop, conv 8 k2, relu, dense 10",
    ),
];

/// Smooth activations, and layers without a bias.
const SMOOTH: &str = "conv 7 k2 no-bias, gelu, conv 8 same, relu, gelu, pool, norm, silu, dense 12 no-bias, silu, \
      dense 10 no-bias, scale 0.25";

/// Norms with their options, alone, with what they take in and at the end of a block, and even kernels within a network.
const OPTIONS: &str = "conv 8 no-bias, pool, norm no-scale momentum 0.4 eps 1e-12, gelu, conv 9 k2, norm no-scale eps 1e-3, relu, pool, \
      residual(conv 9 same, norm no-scale momentum 0.9), relu, conv 6 k2 p1, relu, dense 10 no-bias, scale 0.5";

/// Fixed filters, and how the weights of airbench begin. Without pooling: behind `dirac` equal pixels would tie, and
/// rounding would choose among them.
const WHITEN: &str = "whiten, gelu, conv 26 same no-bias dirac, norm no-scale momentum 0.4 eps 1e-12, gelu, conv 6 k2 s2, silu, \
      dense 10 no-bias unit-variance, scale 0.25";

struct World {
    images: Rc<ImageSet>,
    params: Hyperparameters,
    precision: Precision,
}

fn world(side: usize, seed: u64) -> World {
    let rng = Rng::new(seed, Stream::Sample, 0);
    let count = IMAGES * 3 * side * side;
    let bytes = (0..count as u32).map(|i| (rng.word(i) >> 24) as u8);
    let labels = (0..IMAGES as u32).map(|i| (rng.word(i) % 10) as u16);
    World {
        images: Rc::new(
            ImageSet::new(3, side, bytes.collect::<Vec<u8>>(), labels.collect()).unwrap(),
        ),
        params: Hyperparameters {
            seed,
            flip: Flip::Alternate,
            crop_padding: CropPadding::Reflect,
            crop: 2,
            cutout: 3,
            dropout: 0.4,
            label_smoothing: 0.1,
            weight_decay: 0.01,
            momentum: 0.9,
            nesterov: true,
            clip_norm: 1.0,
            optimizer: Optimizer::Sgd,
            learning_rate: 0.05,
            ..Hyperparameters::default()
        },
        precision: Precision::F32,
    }
}

/// A backend with one member.
struct Training {
    backend: Box<dyn Backend>,
    member: MemberId,
}

impl World {
    fn spec(&self, text: &str) -> NetworkSpec {
        let side = self.images.side() as u32;
        NetworkSpec {
            arch: arch::resolve(text).unwrap(),
            input: Shape::new(3, side, side),
            classes: CLASSES,
            scaling: Scaling::standard(&[0.49, 0.48, 0.45], &[0.25, 0.24, 0.26]),
            optimizer: backend::rule(self.params.optimizer),
            precision: self.precision,
        }
    }

    fn training(&self, device: &dyn Device, text: &str, capacity: usize) -> Training {
        let mut backend = device.backend(&self.spec(text), capacity).unwrap();
        let member = backend.add(self.params.seed).unwrap();
        Training { backend, member }
    }

    /// Plans steps with these batch sizes, numbered from `first`.
    fn plans(&self, first: u64, sizes: &[usize]) -> Vec<StepPlan> {
        let plan = |(step, count): (u64, &usize)| {
            let mut images = Rng::new(9, Stream::Order, step).permutation(IMAGES);
            images.truncate(*count);
            StepPlan::new(
                &self.params,
                self.params.base_rates(),
                (step, 1 + step as u32 / 2),
                &images,
            )
        };
        (first..).zip(sizes).map(plan).collect()
    }

    /// Makes steps with these batch sizes, numbered from `first`.
    fn train(&self, training: &mut Training, first: u64, sizes: &[usize]) -> Vec<StepOutcome> {
        let work = [(training.member, self.plans(first, sizes))];
        let stop = AtomicBool::new(false);
        let outcomes = training.backend.train(&self.images, &work, &stop);
        outcomes.unwrap().into_iter().flatten().collect()
    }
}

impl Training {
    fn state(&mut self) -> NetworkState {
        self.backend.export(self.member).unwrap()
    }

    fn gradients(&mut self) -> Vec<(String, Vec<f32>)> {
        let look = Inspection {
            gradients: true,
            ..Inspection::default()
        };
        let inspected = self.backend.inspect(self.member, &look).unwrap();
        let gradients = inspected.gradients.into_iter();
        gradients.map(|(name, data)| (name, data.values)).collect()
    }

    /// Probabilities and losses.
    fn score(&mut self, images: &Rc<ImageSet>, numbers: &[u32], tta: Tta) -> (Vec<f32>, Vec<f32>) {
        let mut probabilities = vec![f32::NAN; numbers.len() * CLASSES];
        let mut losses = vec![f32::NAN; numbers.len()];
        self.backend
            .score(
                self.member,
                ScoringBatch {
                    images,
                    numbers,
                    weights: Weights::Last,
                    tta,
                    probabilities: &mut probabilities,
                    losses: &mut losses,
                },
            )
            .unwrap();
        (probabilities, losses)
    }
}

fn cpu() -> Rc<dyn Device> {
    backend::open(DeviceChoice::Cpu, EngineChoice::Native, 1).unwrap()
}

/// Whether to skip the test because there is no C++ compiler for the kernels. In CI, a missing compiler is a failure.
fn left_out() -> bool {
    let missing = host::compiler().is_none();
    if missing {
        assert!(
            std::env::var_os("CI").is_none(),
            "no C++ compiler (c++, or the program in CXX)"
        );
        eprintln!("left out: no C++ compiler (c++, or the program in CXX)");
    }
    missing
}

/// The largest absolute difference divided by the largest absolute value of `b`.
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

/// Compares gradients, weights, running statistics and the optimizer's state.
fn compare(what: &str, a: &mut Training, b: &mut Training, gradients: f32, weights: f32) {
    assert_eq!(a.gradients().len(), b.gradients().len(), "{what}");
    for ((name, x), (other, y)) in a.gradients().iter().zip(b.gradients()) {
        assert_eq!(*name, other);
        let apart = difference(x, &y);
        assert!(
            apart < gradients,
            "{what}: the gradient of {name} differs by {apart}"
        );
    }
    let (a, b) = (a.state(), b.state());
    assert!(a.tensors.keys().eq(b.tensors.keys()), "{what}");
    for ((name, x), y) in a.tensors.iter().zip(b.tensors.values()) {
        let apart = difference(&x.values, &y.values);
        let most = if name.starts_with("optimizer.") {
            gradients
        } else {
            weights
        };
        assert!(apart < most, "{what}: {name} differs by {apart}");
    }
    assert_eq!(a.scalars, b.scalars, "{what}");
}

fn same_outcomes(what: &str, a: &[StepOutcome], b: &[StepOutcome], tolerance: f64) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert_eq!((a.step, &a.not_finite), (b.step, &b.not_finite), "{what}");
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
    let mut expected = world.training(&*cpu(), text, 16);
    let device = HostDevice::new(multiprocessors, false).device();
    let mut ours = world.training(&device, text, 16);
    let outcomes = world.train(&mut ours, 1, &sizes);
    same_outcomes(
        what,
        &outcomes,
        &world.train(&mut expected, 1, &sizes),
        1e-4,
    );
    compare(what, &mut ours, &mut expected, 2e-4, 1e-4);
    // And what they say of images afterwards.
    for tta in Tta::ALL {
        let count = (14 / tta.views().len()) as u32;
        let numbers: Vec<u32> = (20..20 + count).collect();
        let a = ours.score(&world.images, &numbers, *tta);
        let b = expected.score(&world.images, &numbers, *tta);
        assert!(
            difference(&a.0, &b.0) < 1e-4 && difference(&a.1, &b.1) < 1e-4,
            "{what}, {tta:?}"
        );
    }
}

#[test]
fn every_kind_of_layer_trains_and_scores_as_on_the_cpu() {
    if left_out() {
        return;
    }
    for (what, text) in ARCHS {
        // One multiprocessor: each block computes whole sums. 40: blocks share sums.
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
    for optimizer in Optimizer::ALL {
        for (clip_norm, momentum, nesterov) in
            [(0.0, 0.0, false), (0.5, 0.9, false), (0.0, 0.8, true)]
        {
            let mut world = world(8, 6);
            world.params = Hyperparameters {
                optimizer: *optimizer,
                clip_norm,
                momentum,
                nesterov,
                learning_rate: 0.01,
                ..world.params
            };
            let sizes = [8; 6];
            let mut expected = world.training(&*cpu(), text, 8);
            let device = HostDevice::new(8, false).device();
            let mut ours = world.training(&device, text, 8);
            let what = format!("{optimizer:?} {clip_norm} {momentum}");
            let outcomes = world.train(&mut ours, 1, &sizes);
            same_outcomes(
                &what,
                &outcomes,
                &world.train(&mut expected, 1, &sizes),
                1e-4,
            );
            compare(&what, &mut ours, &mut expected, 1e-3, 3e-4);
        }
    }
}

#[test]
fn the_gradient_of_the_sum_is_that_of_the_mean_times_the_batch_size() {
    // Full and partial batches. One step of each network, since the first one changes the weights.
    for count in [16, 11] {
        let agrees = |what: &str, device: &dyn Device| {
            let mut world = world(14, 5);
            let [(mean, mut mean_gradients), (sum, sum_gradients)] =
                [LossReduction::Mean, LossReduction::Sum].map(|reduction| {
                    world.params.loss_reduction = reduction;
                    let mut training = world.training(device, ARCHS[0].1, 16);
                    let outcome = world.train(&mut training, 1, &[count]).remove(0);
                    (outcome, training.gradients())
                });
            let factor = count as f64;
            assert_eq!(sum.loss, mean.loss, "{what}");
            assert_eq!(sum.correct, mean.correct, "{what}");
            let apart = sum.grad_norm / (factor * mean.grad_norm) - 1.0;
            assert!(apart.abs() < 1e-5, "{what}: the norm differs by {apart}");
            for ((name, mean), (_, sum)) in mean_gradients.iter_mut().zip(&sum_gradients) {
                mean.iter_mut().for_each(|g| *g *= count as f32);
                let apart = difference(sum, mean);
                assert!(apart < 1e-5, "{what}: {name} differs by {apart}");
            }
        };
        agrees("cpu", &*cpu());
        agrees("candle", &CandleDevice::reference());
        if !left_out() {
            agrees("gpu", &HostDevice::new(8, false).device());
        }
    }
}

#[test]
fn coarser_numbers_are_as_coarse_as_they_should_be() {
    if left_out() {
        return;
    }
    // Use no ReLU and no pooling, so that rounding errors cannot change a choice.
    let text = "conv 12 same, conv 20 s2, dense 10";
    for (precision, tolerance) in [(Precision::Tf32, 2e-3), (Precision::Bf16, 3e-2)] {
        let mut world = world(10, 7);
        world.params.dropout = 0.0;
        world.precision = precision;
        let mut expected = world.training(&*cpu(), text, 16);
        let device = HostDevice::new(8, false).device();
        let mut ours = world.training(&device, text, 16);
        let outcome = &world.train(&mut ours, 1, &[16])[0];
        let theirs = &world.train(&mut expected, 1, &[16])[0];
        assert!((outcome.loss - theirs.loss).abs() < f64::from(tolerance) * theirs.loss);
        assert_ne!(outcome.loss, theirs.loss);
        let what = format!("{precision:?}");
        compare(&what, &mut ours, &mut expected, tolerance, tolerance);
    }
}

/// Checks what `bench --suite` measures on a GPU.
#[test]
fn the_suite_sees_how_coarse_a_format_is() {
    if left_out() {
        return;
    }
    let apart = |text: &str, precision| {
        let device = HostDevice::new(8, false).device();
        suite::difference(&device, text, precision).unwrap()
    };
    let text = "conv 4 s4, conv 6 same, dense 10";
    assert!((1e-4..2e-3).contains(&apart(text, Precision::Tf32)));
    assert!((1e-3..3e-2).contains(&apart(text, Precision::Bf16)));
    for text in suite::ALL_LAYERS {
        let apart = apart(text, Precision::F32);
        assert!(apart < 1e-4, "{text}: {apart:e}");
    }
}

#[test]
fn the_order_of_threads_and_blocks_does_not_matter() {
    if left_out() {
        return;
    }
    for (what, text) in ARCHS {
        let world = world(13, 8);
        let mut runs = [false, true].map(|backwards| {
            let device = HostDevice::new(20, backwards).device();
            let mut training = world.training(&device, text, 12);
            let outcomes = world.train(&mut training, 1, &[12, 5]);
            (training, outcomes)
        });
        let [(a, outcomes_a), (b, outcomes_b)] = &mut runs;
        assert_eq!(outcomes_a, outcomes_b, "{what}");
        assert!(a.state() == b.state(), "{what}");
        assert!(a.gradients() == b.gradients(), "{what}");
    }
}

#[test]
fn each_launch_is_measured_alone() {
    if left_out() {
        return;
    }
    let mut world = world(8, 3);
    world.params.optimizer = Optimizer::Muon;
    world.params.average_decay = 0.9;
    let spec = world.spec("conv 4 s4, norm, dense 10");
    let step = &world.plans(1, &[4])[0];
    let device = HostDevice::new(20, false).device();
    let times = device.time_launches(&spec, &world.images, step).unwrap();
    let times = times.unwrap();
    assert_eq!(times.multiprocessors, 20);
    let schedule = KernelSchedule::of(&spec, 4, 20, true).unwrap();
    for (timed, expected) in [
        (times.training, schedule.training),
        (times.scoring, schedule.scoring),
    ] {
        assert_eq!(timed.len(), expected.len());
        for ((launch, seconds), expected) in timed.iter().zip(expected) {
            assert_eq!(launch.launch, expected.launch);
            assert!(*seconds > 0.0, "{}", launch.launch.entry);
        }
    }
    assert!(
        cpu()
            .time_launches(&spec, &world.images, step)
            .unwrap()
            .is_none()
    );
}

/// Launches that use every kernel in every number format, and every optimizer's with and without averages.
fn all_launches() -> Vec<Vec<Launch>> {
    const ALL: &str = "conv 8 same, relu, pool, drop, residual(conv 8 same, norm), relu, residual(conv 8 s2 p1), norm, relu, \
                       pool 2 s1, relu, drop 0.2, global-pool, gelu, dense 12, relu, drop, silu, dense 10, scale 2";
    const PRODUCTS: &str = "whiten, gelu, conv 8 k2 no-bias, relu, pool, norm no-scale momentum 0.4 eps 1e-12, dense 10";
    const MOVED: &str = "whiten, conv 4 s4 no-bias, norm no-scale, dense 10";
    let networks = [
        (ALL, Precision::F32),
        (PRODUCTS, Precision::F32),
        (PRODUCTS, Precision::Tf32),
        (PRODUCTS, Precision::Bf16),
    ];
    let networks = networks.map(|(text, precision)| (text, precision, Optimizer::Sgd, false));
    let moved = |optimizer: &Optimizer| {
        [false, true].map(|averages| (MOVED, Precision::F32, *optimizer, averages))
    };
    let uses = networks
        .into_iter()
        .chain(Optimizer::ALL.iter().flat_map(moved));
    let mut world = world(14, 1);
    let lists = uses.map(|(text, precision, optimizer, averages)| {
        (world.precision, world.params.optimizer) = (precision, optimizer);
        let schedule = KernelSchedule::of(&world.spec(text), 16, 20, averages).unwrap();
        let swapping = schedule.swapping.unwrap_or_default();
        [
            schedule.training,
            schedule.scoring,
            schedule.packing,
            swapping,
        ]
        .map(|list| list.into_iter().map(|scheduled| scheduled.launch).collect())
    });
    lists.flatten().chain([variants::one_of_each()]).collect()
}

/// The kernels in the sources, from their names on.
fn kernels_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let kernels = entries.flat_map(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return kernels_in(&path);
        }
        if path.extension().is_none_or(|extension| extension != "cu") {
            return Vec::new();
        }
        let text = std::fs::read_to_string(path).unwrap();
        let kernels = text.split("__global__ void __launch_bounds__").skip(1);
        let from_name = |kernel: &str| kernel.split_once(')').unwrap().1.trim().to_owned();
        kernels.map(from_name).collect()
    });
    kernels.collect()
}

fn all_kernels() -> Vec<String> {
    kernels_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

#[test]
fn the_launches_that_are_compiled_use_every_kernel() {
    let launches = all_launches().into_iter().flatten();
    let used: BTreeSet<String> = launches.map(|launch| launch.entry.to_owned()).collect();
    let kernels = all_kernels();
    let names = kernels
        .iter()
        .map(|kernel| kernel.split_once('(').unwrap().0);
    assert_eq!(used, names.map(str::to_owned).collect());
}

#[test]
fn every_kernel_first_moves_all_its_pointers_to_its_member() {
    for kernel in all_kernels() {
        let (name, rest) = kernel.split_once("(const u64 *members, ").expect(&kernel);
        let (parameters, body) = rest.split_once(") {").unwrap();
        let (statement, _) = body.split_once(");").unwrap();
        let moved = statement.trim().strip_prefix("move_to_member(members, ");
        let (_, moved) = moved.expect(name).split_once(',').unwrap();
        let moved: Vec<&str> = moved.split(',').map(str::trim).collect();
        let pointers = parameters
            .split(',')
            .map(|p| p.rsplit_once('*').expect(name).1);
        assert_eq!(moved, pointers.collect::<Vec<_>>(), "{name}");
    }
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
    let (text, _) = host::one_source(COMMON, &all_launches(), false);
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
