//! Compares every backend with the reference in Candle over ten training steps, for every preset and every optimizer.
//! Before each step the reference takes the backend's state, since rounding errors can change a ReLU's choice, which
//! Adam turns into a step of full size. The average of the weights is off, begins, moves and ends on the way.

use super::host::HostDevice;
use super::{CLASSES, cpu, difference, left_out};
use cifar_tui::backend::candle::CandleDevice;
use cifar_tui::backend::{
    self, Backend, Device, ImageSet, Inspection, MemberId, NetworkSpec, Rule, Scaling,
    ScoringBatch, StepOutcome, StepPlan,
};
use cifar_tui::domain::arch::{ARCHS, Arch, Shape, resolve};
use cifar_tui::domain::layer_rates::LayerRates;
use cifar_tui::domain::params::{
    CropPadding, Flip, Hyperparameters, Optimizer, Precision, Schedule, Tta, Weights,
};
use cifar_tui::domain::rng::{Rng, Stream};
use cifar_tui::train::schedule;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;

const STEPS: u64 = 10;
const BATCH: usize = 12;
const IMAGES: usize = 40;
/// The `average_decay` of the steps.
const AVERAGE_DECAY: [f64; STEPS as usize] = [0.0, 0.9, 0.9, 0.5, 0.0, 0.99, 0.99, 0.99, 0.9, 0.9];
/// The largest difference that is allowed, as a share of a tensor's largest number.
const TOLERANCE: f32 = 1e-4;

/// The preset without `dirac`, behind which equal pixels tie in pooling windows: rounding would choose among them.
fn full(arch: &Arch) -> Arch {
    resolve(&arch.to_string().replace(" dirac", "")).unwrap()
}

/// The same with an eighth of its channels and units; the last dense layer has one unit a class.
fn small(arch: &Arch) -> Arch {
    let text = full(arch).to_string();
    let last_dense = text.rfind("dense").unwrap();
    let (mut words, mut at, mut is_size) = (Vec::new(), 0, false);
    for word in text.split(' ') {
        let digits = word.find(|c: char| !c.is_ascii_digit());
        let (number, rest) = word.split_at(digits.unwrap_or(word.len()));
        words.push(match number.parse::<usize>() {
            Ok(_) if is_size && at > last_dense => format!("{CLASSES}{rest}"),
            Ok(size) if is_size => format!("{}{rest}", (size / 8).max(3)),
            _ => word.to_owned(),
        });
        at += word.len() + 1;
        is_size = word.ends_with("conv") || word.ends_with("dense");
    }
    resolve(&words.join(" ")).unwrap()
}

fn hyperparameters(optimizer: Optimizer) -> Hyperparameters {
    Hyperparameters {
        optimizer,
        learning_rate: match optimizer {
            Optimizer::Sgd => 0.02,
            _ => 0.002,
        },
        schedule: Schedule::OneCycle,
        epochs: 1.0,
        dropout: 0.3,
        label_smoothing: 0.1,
        weight_decay: 0.01,
        clip_norm: 5.0,
        nesterov: true,
        flip: Flip::Alternate,
        crop_padding: CropPadding::Reflect,
        crop: 2,
        cutout: 4,
        seed: 3,
        ..Hyperparameters::default()
    }
}

fn images(shape: Shape) -> Rc<ImageSet> {
    let rng = Rng::new(4, Stream::Sample, 0);
    let [channels, side] = [shape.channels, shape.height].map(|v| v as usize);
    let bytes = (0..(IMAGES * channels * side * side) as u32).map(|i| (rng.word(i) >> 24) as u8);
    let labels = (0..IMAGES as u32).map(|i| (rng.word(i) % CLASSES as u32) as u16);
    Rc::new(ImageSet::new(channels, side, bytes.collect::<Vec<u8>>(), labels.collect()).unwrap())
}

/// A backend with one member, and its gradients after a step.
struct Side {
    backend: Box<dyn Backend>,
    member: MemberId,
}

impl Side {
    fn new(device: &dyn Device, spec: &NetworkSpec) -> Self {
        let mut backend = device.backend(spec, BATCH).unwrap();
        let member = backend.add(3).unwrap();
        Side { backend, member }
    }

    fn step(&mut self, images: &Rc<ImageSet>, plan: &StepPlan) -> StepOutcome {
        let work = [(self.member, vec![plan.clone()])];
        let outcomes = self.backend.train(images, &work, &AtomicBool::new(false));
        outcomes.unwrap().remove(0).remove(0)
    }

    fn probabilities(&mut self, images: &Rc<ImageSet>, weights: Weights) -> Vec<f32> {
        let mut probabilities = vec![f32::NAN; BATCH * CLASSES];
        let batch = ScoringBatch {
            images,
            numbers: &(0..BATCH as u32).collect::<Vec<_>>(),
            weights,
            tta: Tta::None,
            probabilities: &mut probabilities,
            losses: &mut [f32::NAN; BATCH],
        };
        self.backend.score(self.member, batch).unwrap();
        probabilities
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
}

/// Compares ten training steps on `device`, on images of the shape `input`, with the reference.
pub fn agrees(what: &str, device: &dyn Device, arch: Arch, input: Shape, rule: &'static Rule) {
    let optimizer = rule.word;
    let mut params = hyperparameters(optimizer);
    let spec = NetworkSpec {
        arch,
        input,
        classes: CLASSES,
        scaling: Scaling::standard(&[0.49, 0.48, 0.45], &[0.25, 0.24, 0.26]),
        optimizer: rule,
        precision: Precision::F32,
    };
    let images = images(input);
    let trained = spec.nodes().unwrap();
    let trained = trained
        .iter()
        .filter(|node| node.parameters.iter().any(|p| p.trained));
    let names: Vec<&str> = trained.map(|node| &*node.name).collect();
    let (front, back) = (names[0].to_owned(), names[names.len() - 1].to_owned());
    let mut ours = Side::new(device, &spec);
    let mut reference = Side::new(&CandleDevice::reference(), &spec);
    for step in 1..=STEPS {
        let what = format!("{what}, {optimizer:?}, step {step}");
        let state = ours.backend.export(ours.member).unwrap();
        reference.backend.import(reference.member, &state).unwrap();
        params.average_decay = AVERAGE_DECAY[step as usize - 1];
        // In some steps the first layer is frozen and the last one slower.
        params.layer_rates = match step {
            4..=6 => LayerRates::default().with(&front, 0.0).with(&back, 0.5),
            _ => LayerRates::default(),
        };
        let share = (step - 1) as f64 / STEPS as f64;
        let rates = schedule::rates(&params, share, step as f64 / STEPS as f64);
        let plan = |seed: u64| {
            let mut numbers = Rng::new(seed, Stream::Order, step).permutation(IMAGES);
            numbers.truncate(BATCH - (step % 3) as usize);
            StepPlan::new(&params, rates, (step, 1 + step as u32 / 2), &numbers)
        };
        let margin = |plan: &StepPlan| {
            let margins = CandleDevice::reference().margins(&spec, Some(&state), &images, plan);
            margins.unwrap().into_iter().fold(f64::INFINITY, f64::min)
        };
        // Of some batches the one whose choices are the clearest, so that rounding does not decide; the first where all
        // have ties, as zeros behind ReLU do.
        let mut plans = (9..15).map(plan).map(|plan| (margin(&plan), plan));
        let first = plans.next().unwrap();
        let (_, plan) = plans.fold(first, |a, b| if b.0 > a.0 { b } else { a });
        let (a, b) = (ours.step(&images, &plan), reference.step(&images, &plan));
        assert_eq!((a.step, &a.not_finite), (step, &None), "{what}");
        assert_eq!(b.not_finite, None, "{what}");
        let tolerance = f64::from(TOLERANCE);
        assert!(
            (a.loss - b.loss).abs() < tolerance * b.loss,
            "{what}: {a:?} {b:?}"
        );
        assert!(
            (a.grad_norm - b.grad_norm).abs() < tolerance * b.grad_norm,
            "{what}: {a:?} {b:?}"
        );
        assert_eq!(a.correct, b.correct, "{what}");
        let gradients: HashMap<_, _> = ours.gradients().into_iter().collect();
        for (name, y) in reference.gradients() {
            let apart = difference(&gradients[&name], &y);
            assert!(
                apart < TOLERANCE,
                "{what}: the gradient of {name} differs by {apart}"
            );
        }
        let a = ours.backend.export(ours.member).unwrap();
        let b = reference.backend.export(reference.member).unwrap();
        let frozen = |name: &str| {
            // `conv1.weight`, or `optimizer.SLOT.conv1.weight`.
            let parameter = match name.strip_prefix("optimizer.") {
                Some(of) => of.split_once('.').map_or(of, |(_, parameter)| parameter),
                None => name,
            };
            params.layer_rates.of_parameter(parameter) == 0.0 && !parameter.contains("running")
        };
        for (name, tensor) in state.tensors.iter().filter(|(name, _)| frozen(name)) {
            assert!(a.tensors[name] == *tensor, "{what}: {name} has moved");
        }
        assert_eq!(a.scalars, b.scalars, "{what}");
        assert!(a.tensors.keys().eq(b.tensors.keys()), "{what}");
        for ((name, x), y) in a.tensors.iter().zip(b.tensors.values()) {
            let mut x = x.values.clone();
            if let Some(gradient) = gradients
                .get(name.trim_start_matches("average."))
                .filter(|_| matches!(optimizer, Optimizer::Adam | Optimizer::Adamw))
            {
                forgive_undecided(
                    &mut x,
                    &y.values,
                    gradient,
                    2.0 * plan.settings.learning_rate as f32,
                );
            }
            let apart = difference(&x, &y.values);
            assert!(apart < TOLERANCE, "{what}: {name} differs by {apart}");
        }
        for side in [&mut ours, &mut reference] {
            let has_average = side.backend.has_average(side.member).unwrap();
            assert_eq!(has_average, params.average_decay > 0.0, "{what}");
        }
    }
    let state = ours.backend.export(ours.member).unwrap();
    reference.backend.import(reference.member, &state).unwrap();
    let last = ours.probabilities(&images, Weights::Last);
    let average = ours.probabilities(&images, Weights::Average);
    assert!(difference(&average, &last) > TOLERANCE, "{what}");
    let expected = reference.probabilities(&images, Weights::Average);
    let apart = difference(&average, &expected);
    assert!(
        apart < TOLERANCE,
        "{what}: the average scores {apart} apart"
    );
    assert_eq!(ours.probabilities(&images, Weights::Last), last, "{what}");
}

/// Adam divides by the absolute value of the gradient: where it is almost zero, its rounding error determines the
/// direction of a step of full size. Sets such weights to `theirs` if they differ by less than `most`.
fn forgive_undecided(weights: &mut [f32], theirs: &[f32], gradient: &[f32], most: f32) {
    let largest = gradient.iter().fold(0.0f32, |m, g| m.max(g.abs()));
    for ((w, theirs), g) in weights.iter_mut().zip(theirs).zip(gradient) {
        if g.abs() < 1e-3 * largest && (*w - theirs).abs() < most {
            *w = *theirs;
        }
    }
}

/// On images of `side` pixels a side, or of 32 where these are too small for the preset.
fn all_agree(what: &str, device: &dyn Device, side: u32, size: impl Fn(&Arch) -> Arch) {
    for preset in ARCHS {
        let arch = size(&resolve(preset.name).unwrap());
        let small = Shape::new(3, side, side);
        let input = match arch.infer_shapes(small, CLASSES) {
            Ok(_) => small,
            Err(_) => Shape::CIFAR,
        };
        for optimizer in Optimizer::ALL {
            let what = format!("{what}, {}", preset.name);
            agrees(
                &what,
                device,
                arch.clone(),
                input,
                backend::rule(*optimizer),
            );
        }
    }
}

#[test]
fn the_cpu_trains_every_preset_under_every_optimizer_as_the_reference_does() {
    all_agree("cpu", &*cpu(), 16, small);
}

#[test]
fn the_gpu_s_kernels_train_every_preset_under_every_optimizer_as_the_reference_does() {
    if left_out() {
        return;
    }
    all_agree("gpu", &HostDevice::new(6, false).device(), 16, small);
}

/// Compares the CPU and the GPU's kernels with the reference, on images of this many channels.
fn both_agree(text: &str, channels: u32) {
    let input = Shape::new(channels, 12, 12);
    let rule = || backend::rule(Optimizer::Adamw);
    agrees("cpu", &*cpu(), resolve(text).unwrap(), input, rule());
    if !left_out() {
        let device = HostDevice::new(6, false).device();
        agrees("gpu", &device, resolve(text).unwrap(), input, rule());
    }
}

/// Kinds of layers that no preset has.
#[test]
fn smooth_activations_train_as_in_the_reference() {
    both_agree(super::SMOOTH, 3);
}

#[test]
fn norms_with_options_and_even_kernels_train_as_in_the_reference() {
    both_agree(super::OPTIONS, 3);
}

#[test]
fn fixed_filters_stay_and_their_bias_trains_as_in_the_reference() {
    both_agree(super::WHITEN, 3);
}

/// Whatever layer comes first.
#[test]
fn networks_for_grey_images_train_as_the_reference_does() {
    for text in [
        "conv 8, relu, pool, drop, conv 9 same, gelu, dense 10",
        "conv 7 k2, norm, relu, pool, dense 10",
        "norm, relu, pool 3 s2, dense 12, silu, dense 10",
        "dense 12, silu, dense 10",
    ] {
        both_agree(text, 1);
    }
}

#[test]
#[ignore = "takes minutes: the presets in full"]
fn full_presets_train_as_the_reference_does() {
    all_agree("cpu", &*cpu(), 32, full);
    if !left_out() {
        all_agree("gpu", &HostDevice::new(6, false).device(), 32, full);
    }
}
