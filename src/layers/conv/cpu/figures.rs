//! Times of the kernels on one thread, for those who change them: `cargo test --lib conv::cpu::figures -- --ignored --nocapture`.

use super::*;
use crate::domain::params::ParameterGroup;
use crate::domain::rng::{Rng, Stream};
use crate::hardware::peak;
use crate::hardware::threads::Threads;
use crate::layers::cpu::TrainingPass;
use candle_core::{Device, Var};

/// This thread's processor time, in microseconds: other processes do not count.
fn now() -> f64 {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `t` is a timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut t) };
    t.tv_sec as f64 * 1e6 + t.tv_nsec as f64 / 1e3
}

fn parameter(tensor: Tensor) -> Parameter {
    let var = Var::from_tensor(&tensor).unwrap();
    Parameter::new("conv.weight".into(), var, ParameterGroup::Filters).unwrap()
}

/// The least of some runs of `f`, in microseconds.
fn least(mut f: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    let end = now() + 60e3;
    while now() < end {
        let begin = now();
        f();
        best = best.min(now() - begin);
    }
    best
}

fn uniform(stream: u16, count: usize) -> Vec<f32> {
    let rng = Rng::new(1, Stream::Init(stream), 0);
    (0..count)
        .map(|i| rng.uniform(i as u32) * 2.0 - 1.0)
        .collect()
}

fn tensor(values: &[f32], dims: (usize, usize, usize, usize)) -> Tensor {
    let t = slices::zeros(dims, &Device::Cpu).unwrap();
    write([&t], |[t]| t.copy_from_slice(values)).unwrap();
    t
}

#[test]
#[ignore = "measures; run it alone"]
fn microseconds_an_image() {
    const IMAGES: usize = 64;
    let threads = Threads::new(1);
    let only = std::env::var(crate::hardware::simd::LEVEL_VARIABLE).is_ok();
    for level in Level::available() {
        if only && level != Level::best() {
            continue;
        }
        let peak = peak::flops(level, &threads) / 1e9;
        println!("{}: peak {peak:.0} GFLOP/s", level.name());
        let drop = |share| {
            Some(Dropout {
                layer: 1,
                share: Some(share),
            })
        };
        let plain = ConvEpilogue::default();
        let relu = ConvEpilogue {
            relu: true,
            ..plain
        };
        let pool = ConvEpilogue { pool: true, ..relu };
        let pooled = ConvEpilogue {
            pool: true,
            ..plain
        };
        let seed = ConvEpilogue {
            dropout: drop(0.5),
            ..pool
        };
        for (what, side, inputs, outputs, kernel, stride, padding, after) in [
            ("conv1", 32, 3, 32, 3, 1, 0, relu),
            ("conv2", 30, 32, 32, 3, 1, 0, seed),
            ("conv3", 14, 32, 32, 3, 1, 0, seed),
            ("conv2, no dropout", 30, 32, 32, 3, 1, 0, pool),
            ("conv2, relu", 30, 32, 32, 3, 1, 0, relu),
            ("3x3 32-32 norm", 32, 32, 32, 3, 1, 1, plain),
            ("3x3 64-64 norm", 16, 64, 64, 3, 1, 1, plain),
            ("3x3 128-128 norm", 8, 128, 128, 3, 1, 1, plain),
            ("3x3 128-128 4x4", 4, 128, 128, 3, 1, 1, plain),
            ("3x3 64-128 /2", 16, 64, 128, 3, 2, 1, plain),
            ("1x1 64-128 /2", 16, 64, 128, 1, 2, 0, plain),
            ("3x3 3-64 norm", 32, 3, 64, 3, 1, 1, plain),
            ("5x5 20-50", 20, 20, 50, 5, 1, 0, relu),
            ("3x3 24-64 31", 31, 24, 64, 3, 1, 1, plain),
            ("3x3 64-64 15", 15, 64, 64, 3, 1, 1, plain),
            ("3x3 64-256 15", 15, 64, 256, 3, 1, 1, plain),
            ("3x3 256-256 7", 7, 256, 256, 3, 1, 1, plain),
            ("3x3 256-256 3", 3, 256, 256, 3, 1, 1, plain),
            ("3x3 24-64 31 pool", 31, 24, 64, 3, 1, 1, pooled),
            ("3x3 64-256 15 pool", 15, 64, 256, 3, 1, 1, pooled),
            ("3x3 256-256 7 pool", 7, 256, 256, 3, 1, 1, pooled),
        ] {
            let g = Geometry::new((side, side, inputs), outputs, kernel, stride, padding).unwrap();
            let weight: Vec<f32> = uniform(1, outputs * g.patch())
                .iter()
                .map(|v| v * 0.1)
                .collect();
            let weight = Tensor::from_vec(weight, (outputs, inputs, kernel, kernel), &Device::Cpu);
            let bias = Tensor::from_vec(uniform(2, outputs), outputs, &Device::Cpu).unwrap();
            let mut layer = Conv::new(
                what,
                g,
                after,
                parameter(weight.unwrap()),
                Some(parameter(bias)),
                IMAGES,
            )
            .unwrap()
            .at_level(level);
            let dims = (IMAGES, side, side, inputs);
            let x = tensor(&uniform(3, IMAGES * g.input_len()), dims);
            let grad_input = tensor(&vec![0.0; IMAGES * g.input_len()], dims);
            let (h, w, c) = layer.output_dims();
            let grad = tensor(&uniform(4, IMAGES * h * w * c), (IMAGES, h, w, c));
            let train = TrainingPass {
                seed: 1,
                step: 1,
                dropout: 0.5,
            };
            let pass = Pass {
                stop: None,
                images: IMAGES,
                threads: &threads,
                train: Some(train),
            };
            let forward = least(|| layer.forward(&x, &pass).unwrap());
            let weights = least(|| layer.backward(&x, &grad, None, &pass).unwrap());
            let both = least(|| layer.backward(&x, &grad, Some(&grad_input), &pass).unwrap());
            let rate = |us: f64, times: u64| {
                let flop = (2 * times * g.multiply_adds() * IMAGES as u64) as f64;
                100.0 * flop / (us * 1e3) / peak
            };
            let each = |us: f64| us / IMAGES as f64;
            println!(
                "  {what:18} forward {:7.1} us ({:3.0}%)  weights {:7.1} us ({:3.0}%)  both {:7.1} us ({:3.0}%)",
                each(forward),
                rate(forward, 1),
                each(weights),
                rate(weights, 1),
                each(both),
                rate(both, 2),
            );
        }
    }
}
