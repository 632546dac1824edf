//! The engine against PyTorch: for one batch without dropout, the loss, the gradient of every parameter and the running
//! statistics agree with the values that `reference.py`, beside this file, has written to `golden/`.

#![allow(clippy::unwrap_used, reason = "all of this file is tests")]

use candle_core::{DType, Device, Tensor};
use cifar_tui::domain::arch::{Shape, resolve};
use cifar_tui::domain::augment::Placement;
use cifar_tui::domain::params::Optimizer;
use cifar_tui::domain::report::StepSettings;
use cifar_tui::hardware::threads::Threads;
use cifar_tui::net::{Net, Scaling};
use safetensors::SafeTensors;
use std::collections::HashMap;

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

fn parameter(name: &str, shape: &[usize]) -> Tensor {
    let u = uniform(name, shape.iter().product());
    let values: Vec<f32> = u
        .into_iter()
        .map(|u| {
            if name.ends_with("bias") {
                0.1 * u
            } else if shape.len() == 1 {
                1.0 + 0.2 * u
            } else {
                u * (3.0 / shape[1..].iter().product::<usize>() as f64).sqrt()
            }
        })
        .map(|v| v as f32)
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn images(count: usize, side: usize) -> Tensor {
    let bytes: Vec<u8> = (0..(count * 3 * side * side) as u64)
        .map(|i| ((i / 5) % 97 * 2 + (((i * 2_654_435_761) % (1 << 32)) >> 27)) as u8)
        .collect();
    Tensor::from_vec(bytes, (count, 3, side, side), &Device::Cpu).unwrap()
}

fn golden(name: &str) -> (f64, HashMap<String, Vec<f32>>) {
    let path = format!(
        "{}/tests/engine/golden/{name}.safetensors",
        env!("CARGO_MANIFEST_DIR")
    );
    let bytes = std::fs::read(&path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let loss = header.metadata().as_ref().unwrap()["loss"].parse().unwrap();
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
    (loss, tensors)
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest difference over `largest`.
fn difference(ours: &[f32], theirs: &[f32], largest: f32) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let pairs = ours.iter().zip(theirs);
    pairs.fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs())) / largest
}

/// As reference.py samples.
fn sample(values: Vec<f32>) -> Vec<f32> {
    match values.len() {
        n if n > 2048 => {
            let stride = n.div_ceil(2048) | 1;
            values.into_iter().step_by(stride).collect()
        }
        _ => values,
    }
}

fn agrees(name: &str, text: &str, batch: usize, side: u32, smoothing: f64) {
    let (loss, theirs) = golden(name);
    let mut left: HashMap<_, _> = theirs.iter().collect();
    let shape = Shape::new(3, side, side);
    let arch = resolve(text).unwrap();
    let mut net = Net::build(&arch, shape, 10, batch, 0, &Device::Cpu).unwrap();
    let mut weights: HashMap<String, Tensor> = net
        .params()
        .iter()
        .map(|p| (p.name.clone(), parameter(&p.name, p.var.dims())))
        .collect();
    for (name, tensor) in net.buffers() {
        weights.insert(name, tensor.copy().unwrap());
    }
    net.load(&weights).unwrap();
    let labels: Vec<u8> = (0..batch).map(|i| (i * 3 % 10) as u8).collect();
    let placements: Vec<_> = (0..batch as u32).map(Placement::plain).collect();
    let settings = StepSettings {
        optimizer: Optimizer::Adam,
        learning_rate: 0.0,
        weight_decay: 0.0,
        momentum: 0.0,
        nesterov: false,
        beta1: 0.9,
        beta2: 0.999,
        clip_norm: 0.0,
        dropout: 0.0,
        label_smoothing: smoothing,
        seed: 0,
        step: 1,
    };
    let outcome = net
        .train_pass(
            &images(batch, side as usize),
            &labels,
            &placements,
            &Scaling::UNIT,
            &settings,
            &Threads::new(0),
        )
        .unwrap();
    assert!(
        (outcome.loss - loss).abs() / loss < 1e-5,
        "{name}: loss {} instead of {loss}",
        outcome.loss
    );
    let mut worst = 0.0f32;
    for param in net.params() {
        let grad_name = format!("{}.grad", param.name);
        let largest_name = format!("{}.largest", param.name);
        let ours = sample(numbers(&param.grad));
        assert_eq!(param.grad.dtype(), DType::F32);
        let off = difference(&ours, &theirs[&grad_name], theirs[&largest_name][0]);
        assert!(
            off < 1e-4,
            "{name}: the gradient of {} is off by {off}",
            param.name
        );
        worst = worst.max(off);
        left.remove(&grad_name);
        left.remove(&largest_name);
    }
    for (buffer, ours) in net.buffers() {
        let theirs = &theirs[&buffer];
        let largest = theirs.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        let off = difference(&numbers(ours), theirs, largest);
        assert!(off < 1e-4, "{name}: {buffer} is off by {off}");
        left.remove(&buffer);
    }
    assert!(
        left.is_empty(),
        "{name}: only PyTorch has {:?}",
        left.keys()
    );
    eprintln!("{name}: gradients within {worst:.1e} of PyTorch's");
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
