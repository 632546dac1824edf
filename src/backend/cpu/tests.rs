//! Tests of whole networks: every preset learns, keeps its weights, and gives the same results on any number of
//! threads.

use super::*;
use crate::backend::{Scaling, filters, parameter_health, rule};
use crate::domain::arch::{ARCHS, Shape, resolve};
use crate::domain::params::{
    Hyperparameters, Optimizer as OptimizerKind, ParameterGroup, Precision, Tta, Weights,
};
use crate::domain::report::StepSettings;
use crate::domain::rng::{Rng, Stream};

const IMAGES: usize = 32;

/// Random images with these labels.
fn images(labels: Vec<u16>) -> ImageSet {
    let rng = Rng::new(9, Stream::Sample, 0);
    let bytes = (0..labels.len() as u32 * 3072).map(|i| rng.word(i) as u8);
    ImageSet::new(3, 32, bytes.collect::<Vec<u8>>(), labels).unwrap()
}

fn batch() -> ImageSet {
    images((0..IMAGES as u16).map(|i| i * 7 % 10).collect())
}

fn settings(step: u64, dropout: f64) -> StepSettings {
    let params = Hyperparameters {
        dropout,
        seed: 3,
        ..Hyperparameters::default()
    };
    StepSettings::new(&params, params.base_rates(), step, 1)
}

fn build(name: &str, capacity: usize) -> Network {
    let spec = NetworkSpec {
        arch: resolve(name).unwrap(),
        input: Shape::CIFAR,
        classes: 10,
        scaling: Scaling::UNIT,
        optimizer: rule(OptimizerKind::Sgd),
        precision: Precision::F32,
    };
    Network::new(&spec, capacity, 1).unwrap()
}

fn plain(count: usize) -> Vec<Placement> {
    (0..count as u32).map(Placement::plain).collect()
}

/// A plain implementation of Adam.
struct Adam(Vec<(Vec<f32>, Vec<f32>)>, i32);

impl Adam {
    fn step(&mut self, net: &Network, rate: f32) {
        self.1 += 1;
        let (a, b) = (1.0 - 0.9f32.powi(self.1), 1.0 - 0.999f32.powi(self.1));
        for (i, param) in net.params().into_iter().enumerate() {
            let count = param.var.elem_count();
            if self.0.len() == i {
                self.0.push((vec![0.0; count], vec![0.0; count]));
            }
            let (m, v) = &mut self.0[i];
            let grad = slices::read(&param.grad).unwrap();
            slices::write([&param.var], |[w]| {
                for j in 0..count {
                    m[j] = 0.9 * m[j] + 0.1 * grad[j];
                    v[j] = 0.999 * v[j] + 0.001 * grad[j] * grad[j];
                    w[j] -= rate * (m[j] / a) / ((v[j] / b).sqrt() + 1e-7);
                }
            })
            .unwrap();
        }
    }
}

/// A network's state; its optimizer has none of interest.
fn saved(net: &Network) -> NetworkState {
    let optimizer = CpuOptimizer::new(rule(OptimizerKind::Sgd), &net.trained_params()).unwrap();
    export(net, &optimizer).unwrap()
}

fn load(net: &Network, state: &NetworkState) -> Result<()> {
    let mut optimizer = CpuOptimizer::new(rule(OptimizerKind::Sgd), &net.trained_params())?;
    import(net, &mut optimizer, state)
}

/// The presets' texts. The largest network has fewer channels, and its logits are not divided by 256: Adam would take
/// thousands of steps to make them large enough.
fn presets() -> impl Iterator<Item = String> {
    let small = |text: &str| {
        let text = text.replace("conv 64 same no-bias", "conv 8 same no-bias");
        let text = text.replace("conv 256", "conv 16");
        text.replace("scale 0.00390625", "scale 0.25")
    };
    ARCHS.iter().map(move |preset| small(preset.text))
}

#[test]
fn every_preset_overfits_a_batch_and_comes_back_from_its_weights() {
    let images = Rc::new(batch());
    let threads = Threads::new(0);
    for text in presets() {
        let mut net = build(&text, IMAGES);
        let mut adam = Adam(Vec::new(), 0);
        let mut last = f64::INFINITY;
        let mut steps = 0;
        while last > 0.05 && steps < 400 {
            steps += 1;
            last = net
                .train_pass(
                    &images,
                    &plain(IMAGES),
                    &settings(steps, 0.0),
                    &threads,
                    None,
                )
                .unwrap()
                .loss;
            adam.step(&net, 2e-3);
        }
        assert!(last < 0.05, "{text}: loss {last} after {steps} steps");
        let numbers: Vec<u32> = (0..IMAGES as u32).collect();
        let score = |net: &mut Network| {
            let (mut p, mut l) = (vec![0.0; IMAGES * 10], vec![0.0; IMAGES]);
            let batch = ScoringBatch {
                images: &images,
                numbers: &numbers,
                weights: Weights::Last,
                tta: Tta::None,
                probabilities: &mut p,
                losses: &mut l,
            };
            net.score(batch, &threads).unwrap();
            (p, l)
        };
        let before = score(&mut net);
        let mut other = build(&text, IMAGES);
        load(&other, &saved(&net)).unwrap();
        assert_eq!(score(&mut other), before, "{text}");
        // A change of the capacity changes nothing else.
        other.set_capacity(IMAGES + 5).unwrap();
        assert_eq!(score(&mut other), before, "{text}");
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let images = batch();
    for text in presets() {
        let results: Vec<_> = [1, 2, 3]
            .map(|count| {
                let threads = Threads::new(count);
                let mut net = build(&text, 7);
                let outcome = net
                    .train_pass(&images, &plain(7), &settings(5, 0.5), &threads, None)
                    .unwrap();
                let grads: Vec<Vec<f32>> = net
                    .params()
                    .iter()
                    .map(|p| p.grad.flatten_all().unwrap().to_vec1().unwrap())
                    .collect();
                (outcome, grads)
            })
            .into();
        assert_eq!(results[0], results[1], "{text}");
        assert_eq!(results[0], results[2], "{text}");
    }
}

#[test]
fn weights_of_another_architecture_are_refused() {
    let net = build("seed", 1);
    let other = build("resnet", 1);
    let error = load(&other, &saved(&net)).unwrap_err().to_string();
    assert!(
        error.contains("norm1.weight is missing") && error.contains("more"),
        "{error}"
    );
    let mut weights = saved(&net);
    let wrong = TensorData {
        shape: vec![10, 64],
        values: vec![0.0; 640],
    };
    weights.tensors.insert("dense2.weight".into(), wrong);
    let error = load(&net, &weights).unwrap_err().to_string();
    assert!(
        error.contains("dense2.weight has the shape [10, 64] instead of [10, 128]"),
        "{error}"
    );
}

#[test]
fn what_is_not_finite_reaches_the_loss() {
    let images = batch();
    let threads = Threads::new(1);
    for text in presets() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut net = build(&text, 4);
            slices::write([&net.params()[0].var], |[w]| w[5] = bad).unwrap();
            let outcome = net
                .train_pass(&images, &plain(4), &settings(1, 0.0), &threads, None)
                .unwrap();
            assert!(!outcome.loss.is_finite(), "{text} {bad}");
        }
    }
}

#[test]
fn bad_batches_are_errors() {
    let images = batch();
    let threads = Threads::new(1);
    let mut net = build("tiny", 2);
    let mut pass = |images: &ImageSet, placements: &[Placement]| {
        net.train_pass(images, placements, &settings(1, 0.0), &threads, None)
            .map_err(|e| e.to_string())
    };
    assert!(pass(&images, &plain(2)).is_ok());
    assert!(pass(&images, &[]).unwrap_err().contains("1 to 2"));
    assert!(pass(&images, &plain(3)).unwrap_err().contains("not 3"));
    assert!(
        pass(&images, &[Placement::plain(99)])
            .unwrap_err()
            .contains("99")
    );
    assert!(
        pass(&self::images(vec![10; 32]), &plain(1))
            .unwrap_err()
            .contains("the label 10")
    );
}

#[test]
fn the_initial_weights_are_keras_s() {
    let net = build("seed", 1);
    for (name, limit) in [
        ("conv1", (6.0f32 / (35.0 * 9.0)).sqrt()),
        ("dense1", (6.0f32 / 1280.0).sqrt()),
    ] {
        let params = net.params();
        let find = |suffix: &str| {
            let name = format!("{name}.{suffix}");
            let param = params.iter().find(|p| p.name == name).unwrap();
            param.var.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let weights = find("weight");
        let largest = weights.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        assert!(
            largest <= limit && largest > 0.97 * limit,
            "{name}: {largest} {limit}"
        );
        let mean = weights.iter().sum::<f32>() / weights.len() as f32;
        assert!(mean.abs() < 0.1 * limit, "{name}: {mean}");
        assert!(find("bias").iter().all(|&b| b == 0.0));
    }
    let names: Vec<_> = net
        .params()
        .iter()
        .map(|p| (p.name.clone(), p.group))
        .collect();
    assert_eq!(names[0], ("conv1.weight".into(), ParameterGroup::Filters));
    assert_eq!(names[9], ("dense2.bias".into(), ParameterGroup::Biases));
}

#[test]
fn a_look_inside() {
    let images = batch();
    let threads = Threads::new(2);
    let mut net = build("seed", 8);
    net.measure(true);
    net.train_pass(&images, &plain(8), &settings(1, 0.5), &threads, None)
        .unwrap();
    let names: Vec<_> = net.timings().into_iter().map(|t| t.name).collect();
    assert_eq!(
        names,
        [
            "input", "conv1", "conv2", "conv3", "dense1", "dense2", "loss"
        ]
    );
    assert!(
        net.timings()[1..6]
            .iter()
            .all(|t| t.forward > 0.0 && t.backward > 0.0)
    );
    let state = saved(&net);
    assert_eq!(filters(&net.spec, &state).len(), 32);
    let dense = build("dense 10", 1);
    assert!(filters(&dense.spec, &saved(&dense)).is_empty());
    let images = Rc::new(images);
    let look = Inspection {
        activations: Some((Rc::clone(&images), 3)),
        gradients: true,
        ..Inspection::default()
    };
    let inspected = net.inspect(&look, &threads).unwrap();
    let health = parameter_health(&state, &inspected.gradients);
    assert_eq!(
        (health.len(), health[0].name.as_str()),
        (10, "conv1.weight")
    );
    assert!(health.iter().all(|h| h.grad_norm > Some(0.0)), "{health:?}");
    let maps = inspected.activations;
    assert_eq!(
        (maps[1].name.as_str(), maps[1].height, maps[1].maps.len()),
        ("conv2", 14, 32)
    );
    assert!(maps[0].maps.iter().flatten().any(|&v| v == 255));
    // A channel whose bias is far below zero is dead; one whose bias is far above zero is not.
    slices::write([&net.params()[1].var], |[bias]| {
        bias.fill(100.0);
        bias[..8].fill(-100.0);
    })
    .unwrap();
    let look = Inspection {
        units: Some((images, (0..20).collect())),
        ..Inspection::default()
    };
    let units = net.inspect(&look, &threads).unwrap().units;
    let names: Vec<_> = units.iter().map(|u| u.name.as_str()).collect();
    assert_eq!(names, ["conv1", "conv2", "conv3", "dense1"]);
    assert_eq!((units[0].dead, units[0].zero), (0.25, 0.25));
}

/// Norms with smooth activations share the memory of their outputs; each layer's own is what an inspection shows.
#[test]
fn shared_outputs_are_inspected_one_by_one() {
    let look = Inspection {
        activations: Some((Rc::new(batch()), 3)),
        ..Inspection::default()
    };
    let block = "conv 8 same, norm, gelu";
    let activations = |blocks: usize| {
        let mut net = build(
            &format!("{}, dense 10", [block].repeat(blocks).join(", ")),
            4,
        );
        net.inspect(&look, &Threads::new(2)).unwrap().activations
    };
    // One norm shares with nobody. The first layers of both networks have the same weights.
    let (alone, shared) = (activations(1), activations(3));
    assert_eq!(alone[1].name, "norm1");
    assert_eq!(shared[..2], alone[..2]);
    assert_ne!(shared[1].maps, shared[3].maps);
}

/// CPU seconds of the calling thread. On a busy computer, wall-clock time includes other processes.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// `cargo test --release --lib backend::cpu::tests::figures -- --ignored --nocapture`: microseconds an image on one thread.
/// `CIFAR_TUI_BENCH` names the architecture, dropout share and batch size: `resnet 0.5 128`.
#[test]
#[ignore = "prints figures; tests nothing"]
fn figures() {
    let asked = std::env::var("CIFAR_TUI_BENCH").unwrap_or_default();
    let mut words = asked.split_whitespace();
    let name = words.next().unwrap_or("seed");
    let dropout: f64 = words.next().map_or(0.5, |w| w.parse().unwrap());
    let size: usize = words.next().map_or(32, |w| w.parse().unwrap());
    let images = batch();
    let placements: Vec<_> = (0..size as u32).map(|i| Placement::plain(i % 32)).collect();
    let threads = Threads::new(1);
    let mut net = build(name, size);
    let mut adam = Adam(Vec::new(), 0);
    let pass = |net: &mut Network, step| {
        net.train_pass(
            &images,
            &placements,
            &settings(step, dropout),
            &threads,
            None,
        )
        .unwrap();
    };
    for step in 1..20 {
        pass(&mut net, step);
        adam.step(&net, 1e-3);
    }
    net.measure(true);
    let layers = net.spec.arch.summary(net.spec.input, 10).unwrap();
    let multiply_adds: u64 = layers.iter().map(|layer| layer.multiply_adds).sum();
    let steps = (1 << 12) / size as u64 * 4_000_000 / multiply_adds.max(1_000_000) + 3;
    let begin = (Instant::now(), cpu_seconds());
    for step in 100..100 + steps {
        pass(&mut net, step);
    }
    let (wall, cpu) = (begin.0.elapsed().as_secs_f64(), cpu_seconds() - begin.1);
    // Layers are timed by the wall clock: convert their times to CPU time.
    let unit = 1e6 / (steps as f64 * size as f64) * cpu / wall;
    for t in net.timings() {
        eprintln!(
            "{:>14} {:8.2} {:8.2}",
            t.name,
            t.forward * unit,
            t.backward * unit
        );
    }
    let images = steps as f64 * size as f64;
    eprintln!(
        "{name}, batch {size}, dropout {dropout}: {:.1} us an image, {:.0} images/s a core, {:.0} GFLOP/s dense",
        cpu / images * 1e6,
        images / cpu,
        images / cpu * multiply_adds as f64 * 6e-9,
    );
}

/// Compares the slope of the loss along a random direction as computed from the gradients and from two losses.
#[test]
fn gradients_are_the_slopes_of_the_loss() {
    let images = batch();
    let threads = Threads::new(0);
    for text in [
        "seed",
        "resnet",
        "conv 6 k5 s2 p1, relu, pool 3 s2, residual(conv 9 k1, relu), norm, drop, global-pool, dense 10",
        "pool 5 s3, norm, residual(norm), drop 0.2, relu, dense 20, drop 0.1, dense 10",
    ] {
        let mut net = build(text, 6);
        let loss = |net: &mut Network| {
            net.train_pass(&images, &plain(6), &settings(1, 0.3), &threads, None)
                .unwrap()
                .loss
        };
        loss(&mut net);
        let mut slope = 0.0;
        let mut directions = Vec::new();
        for (i, param) in net.params().into_iter().enumerate() {
            let rng = Rng::new(2, Stream::Init(i as u16), 1);
            let grad = slices::read(&param.grad).unwrap();
            // Choose a direction close to the gradient, so that the slope is well above the rounding errors of the
            // loss.
            let direction: Vec<f32> = grad
                .iter()
                .enumerate()
                .map(|(j, g)| g * (0.5 + rng.uniform(j as u32)))
                .collect();
            slope += grad
                .iter()
                .zip(&direction)
                .map(|(g, d)| f64::from(g * d))
                .sum::<f64>();
            directions.push(direction);
        }
        let size = 1e-3 / slope;
        let mut moved = |by: f64| {
            for (param, direction) in net.params().into_iter().zip(&directions) {
                slices::write([&param.var], |[w]| {
                    for (w, d) in w.iter_mut().zip(direction) {
                        *w += (f64::from(*d) * by) as f32;
                    }
                })
                .unwrap();
            }
            loss(&mut net)
        };
        let (above, below) = (moved(size), moved(-2.0 * size));
        let measured = (above - below) / (2.0 * size);
        assert!(
            (measured / slope - 1.0).abs() < 0.02,
            "{text}: {measured} instead of {slope}"
        );
    }
}

/// The seed and the step fix the dropout masks, so the loss is a function of the weights alone. Along each parameter's
/// gradient, it must change as the gradient predicts. This checks the whole step of the seed network as it is trained,
/// sparse gradients behind pooling and dropout included.
#[test]
fn the_seed_network_s_gradient_with_dropout_agrees_with_finite_differences() {
    let threads = Threads::new(1);
    let mut net = build("seed", IMAGES);
    let images = batch();
    let loss = |net: &mut Network| {
        net.train_pass(&images, &plain(IMAGES), &settings(3, 0.5), &threads, None)
            .unwrap()
            .loss
    };
    loss(&mut net);
    let gradients: Vec<Vec<f32>> = net
        .params()
        .iter()
        .map(|p| slices::read(&p.grad).unwrap().to_vec())
        .collect();
    for (i, gradient) in gradients.iter().enumerate() {
        let norm = gradient
            .iter()
            .map(|&g| f64::from(g).powi(2))
            .sum::<f64>()
            .sqrt();
        let moved = |net: &mut Network, by: f64| {
            slices::write([net.params()[i].var.as_tensor()], |[w]| {
                w.iter_mut()
                    .zip(gradient)
                    .for_each(|(w, g)| *w += (by / norm) as f32 * g);
            })
            .unwrap();
            loss(net)
        };
        // The step is small enough that few ReLUs and pooling windows change their choices, and large enough for the
        // precision of f32.
        let step = 2e-3;
        let up = moved(&mut net, step);
        let down = moved(&mut net, -2.0 * step);
        moved(&mut net, step);
        let slope = (up - down) / (2.0 * step);
        let name = net.params()[i].name.clone();
        assert!(
            (slope - norm).abs() < 0.02 * norm + 1e-4,
            "{name}: the loss rises by {slope}, the gradient says {norm}"
        );
    }
}

/// A backend with `count` members of different seeds.
fn members(threads: usize, count: u64) -> (Box<dyn Backend>, Vec<MemberId>) {
    let device = CpuDevice::new(DeviceInfo {
        words: "a test".into(),
        threads: Rc::new(Threads::new(threads)),
        gpu_index: None,
        unused_gpu: None,
    });
    let spec = build("conv 4 s2, norm, relu, drop, dense 10", 1).spec;
    let mut backend = device.backend(&spec, IMAGES).unwrap();
    let members = (1..=count).map(|seed| backend.add(seed).unwrap());
    let members = members.collect();
    (backend, members)
}

/// Three steps with hyperparameters that depend on `which`.
fn plans(which: u32) -> Vec<StepPlan> {
    let params = Hyperparameters {
        optimizer: OptimizerKind::Sgd,
        learning_rate: 0.01 * f64::from(which + 1),
        dropout: 0.1 * f64::from(which),
        seed: which.into(),
        ..Hyperparameters::default()
    };
    let plan = |step: u64| {
        let images: Vec<u32> = (0..8 + which).map(|i| (i * 5 + step as u32) % 32).collect();
        StepPlan::new(&params, params.base_rates(), (step, 1), &images)
    };
    (1..=3).map(plan).collect()
}

#[test]
fn members_that_train_at_once_are_those_that_train_alone() {
    let images = Rc::new(batch());
    let stop = AtomicBool::new(false);
    let (mut together, all) = members(3, 3);
    let work: Vec<_> = all.iter().map(|id| (*id, plans(id.0))).collect();
    let outcomes = together.train(&images, &work, &stop).unwrap();
    let (mut alone, _) = members(2, 3);
    for (work, outcomes) in work.iter().zip(&outcomes) {
        let id = work.0;
        let own = alone.train(&images, std::slice::from_ref(work), &stop);
        assert_eq!(own.unwrap(), std::slice::from_ref(outcomes));
        assert!(together.export(id).unwrap() == alone.export(id).unwrap());
    }
    // A copy trains like its original, and neither changes when another member is removed.
    let copy = together.copy(all[1]).unwrap();
    together.remove(all[0]);
    let work = [all[1], copy].map(|id| (id, plans(1)));
    let outcomes = together.train(&images, &work, &stop).unwrap();
    assert_eq!(outcomes[0], outcomes[1]);
    assert!(together.export(all[1]).unwrap() == together.export(copy).unwrap());
}

#[test]
fn a_member_that_diverges_stops_alone_and_wrong_members_are_errors() {
    let images = Rc::new(batch());
    let stop = AtomicBool::new(false);
    let (mut backend, all) = members(2, 3);
    let mut state = backend.export(all[0]).unwrap();
    state.tensors.get_mut("dense1.bias").unwrap().values[3] = f32::NAN;
    backend.import(all[0], &state).unwrap();
    let work = [(all[0], plans(0)), (all[1], plans(1))];
    let outcomes = backend.train(&images, &work, &stop).unwrap();
    let faults = |member: usize| -> Vec<_> {
        let outcomes = outcomes[member].iter();
        outcomes.map(|o| o.not_finite.as_deref()).collect()
    };
    assert_eq!(faults(0), [Some("the weights dense1.bias")]);
    assert_eq!(faults(1), [None; 3]);

    let mut refusal = |ids: &[MemberId]| {
        let work: Vec<_> = ids.iter().map(|id| (*id, plans(0))).collect();
        let result = backend.train(&images, &work, &stop);
        result.unwrap_err().to_string()
    };
    assert!(refusal(&all).contains("at most 2 networks train at once, not 3"));
    assert!(refusal(&[all[1], all[1]]).contains("number 1 is named twice"));
    assert!(refusal(&[MemberId(9)]).contains("no network number 9"));
}
