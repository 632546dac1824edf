//! Compares the CPU backend with PyTorch: for one batch without dropout, the loss, the gradient of every parameter and
//! the running statistics must agree with the values that `reference.py` in this folder wrote to `golden/`; and so must
//! the losses, the moves of the parameters and the running statistics of three steps of the airbench recipe, and the parts of
//! that recipe beside its steps.

#![allow(clippy::unwrap_used, reason = "all of this file is tests")]

use cifar_tui::backend::{
    self, Backend, ImageSet, Inspection, MemberId, NetworkSpec, NetworkState, Scaling,
    ScoringBatch, StepPlan, TensorData,
};
use cifar_tui::domain::arch::{ARCHS, Shape, resolve};
use cifar_tui::domain::augment::Placement;
use cifar_tui::domain::engine::EngineChoice;
use cifar_tui::domain::params::{Flip, Hyperparameters, Precision, Schedule, Tta, Weights};
use cifar_tui::domain::recipes;
use cifar_tui::domain::rng::{Rng, Stream};
use cifar_tui::hardware::device::DeviceChoice;
use cifar_tui::layers::kind::Initialization;
use cifar_tui::train::schedule;
use safetensors::SafeTensors;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;

/// Numbers in [-1, 1) that depend on the name, as in reference.py.
fn uniform(name: &str, count: usize) -> Vec<f64> {
    let key: u32 = name.bytes().map(u32::from).sum();
    (0..count)
        .map(|i| {
            let x = (i as f64 * 12.9898 + f64::from(key)).sin() * 43758.5453;
            2.0 * (x - x.floor()) - 1.0
        })
        .collect()
}

fn parameter(name: &str, shape: &[usize]) -> Vec<f32> {
    let value = |u: f64| {
        if name.ends_with("bias") {
            0.1 * u
        } else if shape.len() == 1 {
            1.0 + 0.2 * u
        } else {
            u * (3.0 / shape[1..].iter().product::<usize>() as f64).sqrt()
        }
    };
    let uniform = uniform(name, shape.iter().product());
    uniform.into_iter().map(|u| value(u) as f32).collect()
}

fn images(count: usize, side: usize) -> Rc<ImageSet> {
    let bytes = (0..(count * 3 * side * side) as u64)
        .map(|i| ((i / 5) % 97 * 2 + (((i * 2_654_435_761) % (1 << 32)) >> 27)) as u8);
    let labels = (0..count as u16).map(|i| i * 3 % 10);
    Rc::new(ImageSet::new(3, side, bytes.collect::<Vec<u8>>(), labels.collect()).unwrap())
}

/// The loss of each step, and the tensors.
fn golden(name: &str) -> (Vec<f64>, HashMap<String, Vec<f32>>) {
    let path = format!(
        "{}/tests/pytorch/golden/{name}.safetensors",
        env!("CARGO_MANIFEST_DIR")
    );
    let bytes = std::fs::read(&path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let losses = header.metadata().as_ref().unwrap()["loss"].split_whitespace();
    let losses = losses.map(|loss| loss.parse().unwrap()).collect();
    let tensors = SafeTensors::deserialize(&bytes)
        .unwrap()
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let (numbers, _) = view.data().as_chunks::<4>();
            let numbers = numbers.iter().map(|b| f32::from_le_bytes(*b)).collect();
            (name, numbers)
        })
        .collect();
    (losses, tensors)
}

/// The largest difference, divided by `largest`.
fn difference(ours: &[f32], theirs: &[f32], largest: f32) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    assert!(ours.iter().all(|v| v.is_finite()));
    let pairs = ours.iter().zip(theirs);
    pairs.fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs())) / largest
}

/// Selects the values that reference.py stores.
fn sample(values: Vec<f32>) -> Vec<f32> {
    match values.len() {
        n if n > 2048 => {
            let stride = n.div_ceil(2048) | 1;
            values.into_iter().step_by(stride).collect()
        }
        _ => values,
    }
}

fn is_parameter(name: &str) -> bool {
    !name.starts_with("optimizer.") && !name.contains("running")
}

/// A network with the weights of reference.py, and its state.
fn network(
    text: &str,
    params: &Hyperparameters,
    scaling: Scaling,
    of: (usize, u32),
) -> (Box<dyn Backend>, MemberId, NetworkState) {
    network_on(EngineChoice::Native, text, params, scaling, of)
}

fn network_on(
    engine: EngineChoice,
    text: &str,
    params: &Hyperparameters,
    scaling: Scaling,
    (batch, side): (usize, u32),
) -> (Box<dyn Backend>, MemberId, NetworkState) {
    let spec = NetworkSpec {
        arch: resolve(text).unwrap(),
        input: Shape::new(3, side, side),
        classes: 10,
        scaling,
        optimizer: backend::rule(params.optimizer),
        precision: Precision::F32,
    };
    let device = backend::open(DeviceChoice::Cpu, engine, 0).unwrap();
    let mut backend = device.backend(&spec, batch).unwrap();
    let member = backend.add(0).unwrap();
    let mut state = backend.export(member).unwrap();
    for (name, TensorData { shape, values }) in &mut state.tensors {
        if is_parameter(name) {
            *values = parameter(name, shape);
        }
    }
    backend.import(member, &state).unwrap();
    (backend, member, state)
}

/// Makes one step, and compares its loss with PyTorch's.
fn step(
    (backend, member): (&mut dyn Backend, MemberId),
    images: &Rc<ImageSet>,
    plan: StepPlan,
    loss: f64,
) {
    let work = [(member, vec![plan])];
    let stop = AtomicBool::new(false);
    let outcome = &backend.train(images, &work, &stop).unwrap()[0][0];
    assert_eq!(outcome.not_finite, None);
    assert!(
        (outcome.loss - loss).abs() / loss < 1e-5,
        "step {}: loss {} instead of {loss}",
        outcome.step,
        outcome.loss
    );
}

/// Compares one tensor for each parameter, `what` in the golden file, and the running statistics with PyTorch's.
fn tensors_agree(
    name: &str,
    what: &str,
    ours: Vec<(String, Vec<f32>)>,
    state: &NetworkState,
    theirs: &HashMap<String, Vec<f32>>,
) {
    let mut left: HashMap<_, _> = theirs.iter().collect();
    let mut worst = 0.0f32;
    for (param, ours) in ours {
        let (tensor, largest) = (format!("{param}.{what}"), format!("{param}.largest"));
        let off = difference(&sample(ours), &theirs[&tensor], theirs[&largest][0]);
        assert!(off < 1e-4, "{name}: {tensor} is off by {off}");
        worst = worst.max(off);
        left.remove(&tensor);
        left.remove(&largest);
    }
    let buffers = state.tensors.iter().filter(|(n, _)| n.contains("running"));
    for (buffer, ours) in buffers {
        let theirs = &theirs[buffer];
        let largest = theirs.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        let off = difference(&ours.values, theirs, largest);
        assert!(off < 1e-4, "{name}: {buffer} is off by {off}");
        left.remove(buffer);
    }
    assert!(
        left.is_empty(),
        "{name}: only PyTorch has {:?}",
        left.keys()
    );
    eprintln!("{name}: {what} within {worst:.1e} of PyTorch's");
}

fn agrees(name: &str, text: &str, batch: usize, side: u32, smoothing: f64) {
    let (losses, theirs) = golden(name);
    // A learning rate of zero leaves the weights unchanged.
    let params = Hyperparameters {
        learning_rate: 0.0,
        dropout: 0.0,
        label_smoothing: smoothing,
        ..Hyperparameters::default()
    };
    let (mut backend, member, _) = network(text, &params, Scaling::UNIT, (batch, side));
    let numbers: Vec<u32> = (0..batch as u32).collect();
    let plan = StepPlan::new(&params, params.base_rates(), (1, 1), &numbers);
    let images = images(batch, side as usize);
    step((&mut *backend, member), &images, plan, losses[0]);
    let look = Inspection {
        gradients: true,
        ..Inspection::default()
    };
    let gradients = backend.inspect(member, &look).unwrap().gradients;
    let gradients = gradients
        .into_iter()
        .map(|(name, data)| (name, data.values));
    let state = backend.export(member).unwrap();
    tensors_agree(name, "grad", gradients.collect(), &state, &theirs);
}

/// The airbench preset with 8 and 16 channels instead of 64 and 256.
fn small_airbench() -> String {
    let mut presets = ARCHS.iter();
    let preset = presets.find(|preset| preset.name == "airbench").unwrap();
    let small = preset.text.replace("conv 64", "conv 8");
    small.replace("conv 256", "conv 16")
}

#[test]
fn the_seed_model_agrees_with_pytorch() {
    agrees("seed", "seed", 8, 32, 0.0);
}

#[test]
fn odd_sizes_kernels_strides_and_padding_agree_with_pytorch() {
    agrees(
        "odd",
        "conv 8 k5, relu, pool, conv 12, relu, pool 3 s2, conv 10 s2 same, relu, dense 10",
        5,
        31,
        0.1,
    );
}

#[test]
fn the_residual_preset_agrees_with_pytorch() {
    agrees("resnet", "resnet", 6, 32, 0.1);
}

#[test]
fn a_small_copy_of_the_airbench_preset_agrees_with_pytorch() {
    agrees("airbench", &small_airbench(), 8, 32, 0.2);
}

#[test]
fn smooth_activations_and_even_kernels_agree_with_pytorch() {
    agrees(
        "smooth",
        "conv 8 k2, silu, conv 12 k4 s2, gelu, conv 10 same no-bias, pool, norm, silu, dense 16, silu, dense 10",
        6,
        21,
        0.1,
    );
}

#[test]
fn shortcuts_and_norms_of_all_kinds_agree_with_pytorch() {
    agrees(
        "shortcuts",
        "conv 8 same, norm, relu, residual(conv 20 s2 same, norm, relu, conv 20 same), relu, \
         residual(conv 20 same, relu), residual(conv 24 k1, norm), relu, pool 3 s2, global-pool, \
         dense 20, norm, relu, dense 10",
        7,
        19,
        0.0,
    );
}

/// Steps at the beginning of the recipe's run, after one and a half epochs and after three, when the whitening layer's bias
/// has stopped learning. Nothing is mirrored or moved, since PyTorch's random numbers are others.
#[test]
fn three_steps_of_the_airbench_recipe_agree_with_pytorch() {
    const BATCH: usize = 8;
    let (losses, theirs) = golden("steps");
    assert_eq!(losses.len(), 3);
    let mut params = Hyperparameters::default();
    recipes::find("airbench").unwrap().apply(&mut params);
    (params.flip, params.crop) = (Flip::Off, 0);
    // The logits are divided by the number of features, of which the small copy has 16.
    let text = small_airbench().replace("scale 0.00390625", "scale 0.0625");
    let scaling = Scaling::standard(&[0.49, 0.48, 0.45], &[0.25, 0.24, 0.26]);
    let (mut backend, member, before) = network(&text, &params, scaling, (BATCH, 32));
    let images = images(3 * BATCH, 32);
    for (i, loss) in losses.into_iter().enumerate() {
        let epochs = 1.5 * i as f64;
        let rates = schedule::rates(&params, epochs, epochs + 1.5);
        let at = (i as u64 + 1, epochs as u32 + 1);
        let numbers: Vec<u32> = (0..BATCH).map(|n| (i * BATCH + n) as u32).collect();
        let plan = StepPlan::new(&params, rates, at, &numbers);
        step((&mut *backend, member), &images, plan, loss);
    }
    let after = backend.export(member).unwrap();
    let weights = after.tensors.iter().filter(|(name, _)| is_parameter(name));
    let moves = weights.map(|(name, after)| {
        let pairs = after.values.iter().zip(&before.tensors[name].values);
        (
            name.clone(),
            pairs.map(|(after, before)| after - before).collect(),
        )
    });
    tensors_agree("steps", "moved", moves.collect(), &after, &theirs);
}

/// The pixels of an image, `[3, side, side]` in [0, 1], as a placement shows them.
fn placed(image: &ImageSet, placement: Placement, side: u32) -> Vec<f32> {
    let plane = (side * side) as usize;
    let mut seen = Vec::new();
    for channel in image.pixels().chunks_exact(plane).take(3) {
        for at in 0..side * side {
            let (row, column) = placement.source(at / side, at % side, side).unwrap();
            seen.push(f32::from(channel[(row * side + column) as usize]) / 255.0);
        }
    }
    seen
}

#[test]
fn translations_dirac_weights_and_the_linear_schedule_agree_with_pytorch() {
    let (_, theirs) = golden("parts");
    let image = images(1, 8);
    for flip in [false, true] {
        let name = if flip {
            "translated.True"
        } else {
            "translated.False"
        };
        let shifts = (-2..=2).flat_map(|dy| (-2..=2).map(move |dx| (dy, dx)));
        let ours: Vec<f32> = shifts
            .flat_map(|(dy, dx)| {
                let placement = Placement {
                    flip,
                    dx,
                    dy,
                    reflect: true,
                    ..Placement::plain(0)
                };
                placed(&image, placement, 8)
            })
            .collect();
        assert!(difference(&ours, &theirs[name], 1.0) < 1e-6, "{name}");
    }
    for shape in [[8, 3, 3, 3], [4, 4, 2, 2], [6, 5, 1, 1]] {
        let rng = Rng::new(1, Stream::Init(0), 0);
        let ours = Initialization::Dirac.values(&shape, &rng);
        let theirs = &theirs[&format!("dirac.{}", shape[0])];
        assert_eq!(ours[..theirs.len()], theirs[..], "{shape:?}");
    }
    let params = Hyperparameters {
        learning_rate: 0.24,
        epochs: 5.0,
        schedule: Schedule::Linear,
        ..Hyperparameters::default()
    };
    let rate = |step| schedule::rates(&params, f64::from(step) / 10.0, f64::from(step + 1) / 10.0);
    let ours: Vec<f32> = (0..50).map(|i| rate(i)[0].effective as f32).collect();
    assert!(difference(&ours, &theirs["linear"], 0.24) < 1e-6);
}

#[test]
fn test_time_augmentation_agrees_with_pytorch() {
    const IMAGES: usize = 6;
    let (_, theirs) = golden("parts");
    let text = small_airbench().replace("scale 0.00390625", "scale 0.0625");
    let images = images(IMAGES, 32);
    let numbers: Vec<u32> = (0..IMAGES as u32).collect();
    for engine in [EngineChoice::Native, EngineChoice::Candle] {
        let params = Hyperparameters::default();
        // In all their views, six times as many.
        let of = (6 * IMAGES, 32);
        let (mut backend, member, mut state) =
            network_on(engine, &text, &params, Scaling::UNIT, of);
        for (name, TensorData { shape, values }) in &mut state.tensors {
            if name.ends_with("running_mean") {
                *values = parameter(name, shape).iter().map(|v| 0.1 * v).collect();
            } else if name.ends_with("running_var") {
                *values = parameter(name, shape);
            }
        }
        backend.import(member, &state).unwrap();
        for tta in [Tta::None, Tta::Mirror, Tta::MirrorTranslate] {
            let (mut probabilities, mut losses) = (vec![0.0; 10 * IMAGES], vec![0.0; IMAGES]);
            let batch = ScoringBatch {
                images: &images,
                numbers: &numbers,
                weights: Weights::Last,
                tta,
                probabilities: &mut probabilities,
                losses: &mut losses,
            };
            backend.score(member, batch).unwrap();
            let theirs = &theirs[&format!("tta.{}", tta.word())];
            let off = difference(&probabilities, theirs, 1.0);
            assert!(off < 1e-5, "{engine:?}, {}: off by {off}", tta.word());
        }
    }
}
