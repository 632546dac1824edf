//! The kernels against an f64 reference, plain Candle, finite differences, each other.

mod case;

use super::*;
use crate::domain::params::ParameterGroup;
use crate::domain::rng::{Rng, Stream};
use crate::hardware::threads::Threads;
use crate::layers::cpu::TrainingPass;
use candle_core::{DType, Device, Var};
use case::{Case, Drawn, Results, close};
use proptest::prelude::*;

fn seed_like(
    inputs: usize,
    outputs: usize,
    side: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
) -> Case {
    Case {
        images: 2,
        geometry: Geometry::new((side, side, inputs), outputs, kernel, stride, padding).unwrap(),
        after: ConvEpilogue {
            relu: true,
            pool: true,
            dropout: Some(Dropout {
                layer: 3,
                share: Some(0.5),
            }),
        },
        bias: true,
        density: 1.0,
        tile: None,
        seed: 11,
    }
}

#[test]
fn the_usual_shapes() {
    for mut case in [
        seed_like(3, 32, 12, 3, 1, 0),
        seed_like(32, 32, 12, 3, 1, 0),
        seed_like(32, 64, 9, 3, 1, 1),
        seed_like(64, 32, 8, 3, 2, 1),
        seed_like(16, 48, 7, 5, 1, 2),
        seed_like(64, 64, 6, 1, 1, 0),
        seed_like(32, 32, 9, 1, 2, 0),
        // Winograd's way: whole and cut tiles, whole and cut vectors.
        seed_like(16, 16, 8, 3, 1, 1),
        seed_like(33, 17, 7, 3, 1, 2),
        seed_like(70, 50, 5, 3, 1, 0),
        // On tiles of 4x4, whole and cut ones.
        seed_like(16, 16, 8, 3, 1, 1).on_tiles(Tile::Four),
        seed_like(33, 17, 5, 3, 1, 2).on_tiles(Tile::Four),
        seed_like(20, 35, 12, 3, 1, 0).on_tiles(Tile::Four),
    ] {
        case.check();
        case.after.dropout = None;
        case.check();
        case.after.pool = false;
        case.check();
        case.density = 0.1;
        case.check();
        case.after.relu = false;
        case.bias = false;
        case.check();
    }
}

prop_compose! {
    fn cases()(
        images in 1usize..=9,
        height in 1usize..=40,
        width in 1usize..=40,
        inputs in 1usize..=70,
        outputs in 1usize..=70,
        kernel in prop::sample::select(vec![1usize, 2, 3, 4, 5]),
        stride in 1usize..=2,
        padding in 0usize..=4,
        after in prop::sample::select(vec![(false, false), (true, false), (true, true), (false, true)]),
        dropout in prop::sample::select(vec![None, Some(None), Some(Some(0.5f32))]),
        bias: bool,
        density in prop::sample::select(vec![0.0f32, 0.1, 0.5, 1.0]),
        tile in prop::sample::select(vec![None, Some(Tile::Four)]),
        seed in 0u64..1000,
    ) -> Option<Case> {
        // Keep the f64 reference affordable: large in some dimensions, not in all.
        let work = |s: usize| images * s * inputs * outputs * kernel * kernel;
        let most = 1_500_000 / work(1).max(1);
        let (height, width) = if height * width > most.max(1) {
            let side = (most as f64).sqrt() as usize;
            (height.min(side.max(1)), width.min(side.max(1)))
        } else {
            (height, width)
        };
        let geometry = Geometry::new((height, width, inputs), outputs, kernel, stride, padding).ok()?;
        let (relu, pool) = after;
        if pool && (geometry.out_height < 2 || geometry.out_width < 2) {
            return None;
        }
        let dropout = dropout.filter(|_| relu).map(|share| Dropout { layer: 3, share });
        Some(Case { images, geometry, after: ConvEpilogue { relu, pool, dropout }, bias, density, tile, seed })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_shape_agrees_with_the_reference(case in cases()) {
        if let Some(case) = case {
            case.check();
        }
    }
}

/// Candle's own convolution and its autograd (which are right where no pooling is involved).
#[test]
fn plain_candle_agrees() {
    for (stride, padding) in [(1, 0), (1, 1), (2, 1)] {
        let mut case = seed_like(5, 37, 11, 3, stride, padding);
        case.after = ConvEpilogue {
            relu: true,
            ..ConvEpilogue::default()
        };
        let n = case.numbers();
        let ours = case.run(&n, Level::best(), &Threads::new(2));
        let g = &case.geometry;
        let device = &Device::Cpu;
        let var = |t: Tensor| Var::from_tensor(&t).unwrap();
        let x = Tensor::from_slice(&n.x, (2, g.height, g.width, g.inputs), device).unwrap();
        let x = var(x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap());
        let weight = var(Tensor::from_slice(&n.weight, (37, 5, 3, 3), device).unwrap());
        let bias = var(Tensor::from_slice(&n.bias, (1, 37, 1, 1), device).unwrap());
        let out = x
            .conv2d(&weight, padding, stride, 1, 1)
            .unwrap()
            .broadcast_add(&bias)
            .unwrap()
            .relu()
            .unwrap()
            .permute((0, 2, 3, 1))
            .unwrap();
        let grad = Tensor::from_slice(&n.grad, out.dims(), device).unwrap();
        let grads = (&out * grad)
            .unwrap()
            .sum_all()
            .unwrap()
            .backward()
            .unwrap();
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        close("output", &ours.output, &flat(&out), 1e-5);
        close(
            "weight",
            &ours.grad_weight,
            &flat(grads.get(&weight).unwrap()),
            1e-4,
        );
        close(
            "bias",
            &ours.grad_bias,
            &flat(grads.get(&bias).unwrap()),
            1e-4,
        );
        let input = grads.get(&x).unwrap().permute((0, 2, 3, 1)).unwrap();
        close("input", &ours.grad_input, &flat(&input), 1e-4);
    }
}

/// The slope of sum(output * grad) along one random direction, by central differences of the kernels' own forward pass.
#[test]
fn finite_differences_agree() {
    let mut case = seed_like(4, 6, 7, 3, 1, 1);
    case.after = ConvEpilogue {
        dropout: None,
        ..case.after
    };
    let n = case.numbers();
    let level = Level::best();
    let threads = Threads::new(1);
    let results = case.run(&n, level, &threads);
    let same_choices = |other: &Results| {
        let open = |r: &Results| r.output.iter().map(|&v| v != 0.0).collect::<Vec<_>>();
        other.taken == results.taken && open(other) == open(&results)
    };
    // The slope where `change` moves one number by so much; None where a ReLU or a maximum switches on the way.
    let slope = |change: &dyn Fn(&mut Drawn, f32)| -> Option<f64> {
        let h = 2e-3f32;
        let loss = |by: f32| {
            let mut moved = case.numbers();
            change(&mut moved, by);
            let r = case.run(&moved, level, &threads);
            let terms = r.output.iter().zip(&n.grad);
            same_choices(&r).then(|| {
                terms
                    .map(|(&o, &g)| f64::from(o) * f64::from(g))
                    .sum::<f64>()
            })
        };
        Some((loss(h)? - loss(-h)?) / f64::from(2.0 * h))
    };
    let mut compared = 0;
    for at in (0..216).step_by(5) {
        let weight = slope(&|n: &mut Drawn, by| n.weight[at] += by);
        let input = slope(&|n: &mut Drawn, by| n.x[at] += by);
        for (slope, found) in [
            (weight, results.grad_weight[at]),
            (input, results.grad_input[at]),
        ] {
            let Some(slope) = slope else { continue };
            let difference = (slope - f64::from(found)).abs();
            assert!(
                difference < 0.002 * slope.abs().max(1.0),
                "{at}: {slope} {found}"
            );
            compared += 1;
        }
    }
    assert!(compared > 20, "only {compared} slopes without a switch");
}

#[test]
fn what_is_no_number_is_never_hidden() {
    for level in Level::available() {
        for after in [
            ConvEpilogue::default(),
            ConvEpilogue {
                relu: true,
                ..ConvEpilogue::default()
            },
            seed_like(1, 1, 4, 3, 1, 0).after,
        ] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut case = seed_like(3, 20, 8, 3, 1, 1);
                case.after = after;
                let threads = Threads::new(2);
                // In a weight: every output of its channel that it touches; the bias gradient is finite.
                let mut n = case.numbers();
                n.weight[5] = bad;
                let r = case.run(&n, level, &threads);
                let out: Vec<f32> = r.output.iter().copied().step_by(20).collect();
                let shown = if bad == f32::NEG_INFINITY && after.relu {
                    // -inf * negative is inf somewhere.
                    out.iter().any(|v| v.is_infinite())
                } else {
                    out.iter().any(|v| !v.is_finite())
                };
                assert!(shown, "{level:?} {after:?} {bad} in a weight");
                if bad.is_nan() && !after.pool {
                    let inner = (8 + 1) * 20; // Away from the padding every output sees the weight.
                    assert!(r.output[inner].is_nan());
                    assert!(r.grad_input.iter().any(|v| v.is_nan()));
                }
                if bad.is_nan() && after.pool {
                    // NaN also where dropout drops: NaN times zero.
                    assert!(out.iter().all(|v| v.is_nan()), "{level:?} {out:?}");
                }
                // In the arriving gradient.
                let mut n = case.numbers();
                let open = case
                    .run(&n, level, &threads)
                    .output
                    .iter()
                    .position(|&v| v != 0.0)
                    .unwrap();
                n.grad[open] = bad;
                let r = case.run_unchecked(&n, level, &threads);
                assert!(
                    r.grad_weight.iter().any(|v| !v.is_finite()),
                    "{level:?} {after:?}"
                );
                assert!(r.grad_bias.iter().any(|v| !v.is_finite()));
                assert!(r.grad_input.iter().any(|v| !v.is_finite()));
            }
        }
    }
}

/// A number that is none reaches every result whose tile depends on it, and no other.
#[test]
fn what_is_no_number_goes_winograd_s_way_to_the_end() {
    for level in Level::available() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut case = seed_like(16, 20, 8, 3, 1, 1);
            case.after = ConvEpilogue::default();
            assert_eq!(winograd::tile(&case.geometry, case.images), Some(Tile::Two));
            let threads = Threads::new(2);
            let mut n = case.numbers();
            let pixel = |x: usize, y: usize, channels: usize| (y * 8 + x) * channels;
            n.x[pixel(3, 3, 16) + 5] = bad;
            let r = case.run_unchecked(&n, level, &threads);
            for (y, x) in (0..8).flat_map(|y| (0..8).map(move |x| (y, x))) {
                let sees = (2..=4).contains(&y) && (2..=4).contains(&x);
                let tile_sees = (2..=5).contains(&y) && (2..=5).contains(&x);
                for o in 0..20 {
                    let finite = r.output[pixel(x, y, 20) + o].is_finite();
                    assert!(!(sees && finite), "{level:?}: hidden at {y}, {x}");
                    assert!(tile_sees || finite, "{level:?}: spread to {y}, {x}");
                }
            }
            let mut n = case.numbers();
            n.weight[5] = bad;
            let r = case.run_unchecked(&n, level, &threads);
            assert!(r.output.iter().step_by(20).all(|v| !v.is_finite()));
            assert!(r.grad_input.iter().step_by(16).all(|v| !v.is_finite()));
            let mut n = case.numbers();
            n.grad[pixel(3, 3, 20)] = bad;
            let r = case.run_unchecked(&n, level, &threads);
            assert!(!r.grad_input[pixel(4, 2, 16)].is_finite());
            assert!(r.grad_weight.iter().any(|v| !v.is_finite()));
            assert!(r.grad_weight[16 * 9..].iter().all(|v| v.is_finite()));
        }
    }
}

#[test]
fn the_first_of_equals_is_taken() {
    for level in Level::available() {
        let case = seed_like(1, 5, 4, 1, 1, 0);
        let mut n = case.numbers();
        n.x.fill(1.0);
        n.weight.fill(1.0);
        n.x[1] = 2.0; // The second and third of the first four are equal and largest.
        n.x[4] = 2.0;
        let r = case.run(&n, level, &Threads::new(1));
        assert!(r.taken[..5].iter().all(|&k| k == 1));
        assert!(r.taken[5..10].iter().all(|&k| k == 0));
    }
}

#[test]
fn scoring_drops_nothing() {
    let case = seed_like(3, 8, 6, 3, 1, 0);
    let n = case.numbers();
    let mut layer = case.layer(&n, Level::best());
    let x = Tensor::from_slice(&n.x, (2, 6, 6, 3), &Device::Cpu).unwrap();
    let threads = Threads::new(2);
    let pass = Pass {
        stop: None,
        images: 2,
        threads: &threads,
        train: None,
    };
    layer.forward(&x, &pass).unwrap();
    let mut plain = case.clone();
    plain.after.dropout = None;
    let expected = plain.run(&n, Level::best(), &threads);
    assert_eq!(*read(layer.output()).unwrap(), expected.output);
}

#[test]
fn wrong_shapes_are_refused() {
    assert!(Geometry::new((4, 4, 3), 8, 5, 1, 0).is_err());
    assert!(Geometry::new((4, 4, 3), 8, 3, 1, 3).is_err());
    assert!(Geometry::new((4, 4, 0), 8, 3, 1, 0).is_err());
    let g = Geometry::new((4, 4, 3), 8, 3, 1, 0).unwrap();
    let parameter = |dims: &[usize]| {
        let var = Var::zeros(dims, DType::F32, &Device::Cpu).unwrap();
        Parameter::new("c.weight".into(), var, ParameterGroup::Filters).unwrap()
    };
    assert!(
        Conv::new(
            "c",
            g,
            ConvEpilogue::default(),
            parameter(&[8, 3, 3, 2]),
            None,
            1
        )
        .is_err()
    );
    assert!(
        Conv::new(
            "c",
            g,
            ConvEpilogue::default(),
            parameter(&[8, 3, 3, 3]),
            Some(parameter(&[3])),
            1
        )
        .is_err()
    );
    let dropout_alone = ConvEpilogue {
        dropout: Some(Dropout {
            layer: 0,
            share: None,
        }),
        ..ConvEpilogue::default()
    };
    assert!(Conv::new("c", g, dropout_alone, parameter(&[8, 3, 3, 3]), None, 1).is_err());
}

/// Root mean square of the differences, as a part of that of the expected numbers.
fn relative_error(found: &[f32], expected: &[f64]) -> f64 {
    let square = |v: f64| v * v;
    let error: f64 = (found.iter().zip(expected))
        .map(|(&f, &e)| square(f64::from(f) - e))
        .sum();
    (error / expected.iter().map(|&e| square(e)).sum::<f64>()).sqrt()
}

/// The error that F(4x4, 3x3) adds, at the channels of the layers that are computed with it. The figures in winograd/mod.rs
/// are those that this test prints.
#[test]
fn tiles_of_four_lose_almost_three_bits() {
    for channels in [64, 128, 256] {
        let case = Case {
            images: 1,
            after: ConvEpilogue::default(),
            ..seed_like(channels, channels, 8, 3, 1, 1)
        };
        let numbers = case.numbers();
        let mut errors = Vec::new();
        for tile in [Tile::Two, Tile::Four] {
            let case = case.clone().on_tiles(tile);
            let found = case.run(&numbers, Level::best(), &Threads::new(2));
            let (output, weight, _, input) = case.reference(&numbers, &found);
            errors.push([
                relative_error(&found.output, &output),
                relative_error(&found.grad_input, &input),
                relative_error(&found.grad_weight, &weight),
            ]);
        }
        println!("{channels} channels: {errors:?}");
        for (two, four) in errors[0].iter().zip(&errors[1]) {
            assert!(*four < 5e-6 && four / two < 10.0, "{channels}: {errors:?}");
        }
    }
}
