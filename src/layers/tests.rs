//! Compares the layers other than convolution with plain Candle in f64 and its autograd, over random shapes, at every
//! vector level and for several thread counts.

use super::KINDS;
use super::activation::Function;
use super::activation::cpu::Activate;
use super::cpu::{Layer, Parameter, Pass, TrainingPass};
use super::dense::cpu::Dense;
use super::dropout::cpu::Drop;
use super::dropout::{Dropout, Mask};
use super::global_pool::cpu::GlobalPool;
use super::norm::NormOp;
use super::norm::cpu::{Norm, NormEpilogue, NormTensors};
use super::pool::cpu::MaxPool;
use super::relu::cpu::Relu;
use super::scale::cpu::Multiply;
use super::slices::{read, write, zeros};
use crate::domain::params::ParameterGroup;
use crate::domain::rng::{Rng, Stream};
use crate::hardware::simd::Level;
use crate::hardware::threads::Threads;
use candle_core::{DType, Device, Tensor, Var};
use proptest::prelude::*;

const TRAIN: TrainingPass = TrainingPass {
    seed: 5,
    step: 3,
    dropout: 0.4,
};
const DROPOUT: Dropout = Dropout {
    layer: 2,
    share: None,
};

fn draw(stream: u16, count: usize) -> Vec<f32> {
    let rng = Rng::new(11, Stream::Init(stream), 0);
    (0..count as u32)
        .map(|i| 2.0 * rng.uniform(i) - 1.0)
        .collect()
}

fn var(stream: u16, shape: &[usize]) -> Var {
    let numbers = draw(stream, shape.iter().product());
    Var::from_vec(numbers, shape, &Device::Cpu).unwrap()
}

fn parameter(name: &str, var: Var) -> Parameter {
    Parameter::new(name.into(), var, ParameterGroup::Filters).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    let tensor = tensor.to_dtype(DType::F64).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn close(what: &str, ours: &[f64], theirs: &[f64], most: f64) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let largest = theirs.iter().fold(1e-3f64, |a, b| a.max(b.abs()));
    let pairs = ours.iter().zip(theirs);
    let off = pairs.fold(0.0f64, |worst, (a, b)| worst.max((a - b).abs())) / largest;
    assert!(off < most, "{what} is off by {off:e}");
}

/// Dropout's factors for the first `count` elements of a batch.
fn factors(shape: &[usize]) -> Tensor {
    let mask = Mask::new(TRAIN.seed, DROPOUT.layer, TRAIN.step, TRAIN.dropout).unwrap();
    let mut factors = vec![0.0; shape.iter().product()];
    mask.factors(Level::Portable, 0, &mut factors);
    let factors = Tensor::from_vec(factors, shape, &Device::Cpu).unwrap();
    factors.to_dtype(DType::F64).unwrap()
}

/// Runs the layer forward and backward on `images` random images in tensors of a larger capacity. Compares the output
/// and all gradients with those of `reference(input, parameters)`, in f64 and NHWC.
fn check<L: Layer>(
    make: impl Fn(usize, Level) -> L,
    input: (usize, usize, usize),
    images: usize,
    reference: impl Fn(&Tensor, &[Tensor]) -> Tensor,
) {
    let (height, width, channels) = input;
    let capacity = images + 2;
    let x = zeros((capacity, height, width, channels), &Device::Cpu).unwrap();
    write([&x], |[x]| x.copy_from_slice(&draw(1, x.len()))).unwrap();
    for level in Level::available() {
        let mut first: Option<Vec<Vec<f64>>> = None;
        for count in [1, 3] {
            let threads = Threads::new(count);
            let mut layer = make(capacity, level);
            let pass = Pass {
                stop: None,
                images,
                threads: &threads,
                train: Some(TRAIN),
            };
            layer.forward(&x, &pass).unwrap();
            let grad = zeros(layer.output().shape(), &Device::Cpu).unwrap();
            let thin = draw(3, grad.elem_count());
            write([&grad], |[g]| {
                for (g, (v, thin)) in g.iter_mut().zip(draw(2, thin.len()).into_iter().zip(thin)) {
                    *g = if thin > 0.0 { v } else { 0.0 };
                }
            })
            .unwrap();
            let grad_input = (x.ones_like().unwrap() * 7.0).unwrap();
            for param in layer.params() {
                write([&param.grad], |[all]| all.fill(9.0)).unwrap();
            }
            layer.backward(&x, &grad, Some(&grad_input), &pass).unwrap();

            let part = |t: &Tensor| t.narrow(0, 0, images).unwrap();
            let mut ours = vec![numbers(&part(layer.output())), numbers(&part(&grad_input))];
            ours.extend(layer.params().iter().map(|p| numbers(&p.grad)));
            if let Some(first) = &first {
                assert!(first == &ours, "{level:?}: {count} threads give other bits");
                continue;
            }
            let wide = |t: &Tensor| {
                let t = t.to_dtype(DType::F64).unwrap();
                Var::from_tensor(&t.contiguous().unwrap()).unwrap()
            };
            let x64 = wide(&part(&x));
            let params: Vec<_> = layer.params().iter().map(|p| wide(&p.var)).collect();
            let tensors: Vec<_> = params.iter().map(|p| p.as_tensor().clone()).collect();
            let output = reference(&x64, &tensors);
            let weighted = (&output * part(&grad).to_dtype(DType::F64).unwrap()).unwrap();
            let grads = weighted.sum_all().unwrap().backward().unwrap();
            close("output", &ours[0], &numbers(&output), 1e-5);
            close(
                "input gradient",
                &ours[1],
                &numbers(grads.get(&x64).unwrap()),
                1e-4,
            );
            for ((param, var), ours) in layer.params().iter().zip(&params).zip(&ours[2..]) {
                close(&param.name, ours, &numbers(grads.get(var).unwrap()), 1e-4);
            }
            // Without an input gradient, the parameters' gradients are the same.
            layer.backward(&x, &grad, None, &pass).unwrap();
            let again: Vec<_> = layer.params().iter().map(|p| numbers(&p.grad)).collect();
            assert_eq!(again, ours[2..]);
            first = Some(ours);
        }
    }
}

fn norm(
    channels: usize,
    pixels: (usize, usize),
    op: NormOp,
    after: NormEpilogue,
    capacity: usize,
) -> Norm {
    let tensor = |t: Var| t.as_tensor().clone();
    let tensors = NormTensors {
        weight: op
            .scale
            .then(|| parameter("norm1.weight", var(6, &[channels]))),
        bias: parameter("norm1.bias", var(7, &[channels])),
        running_mean: tensor(var(8, &[channels])),
        running_var: (tensor(var(9, &[channels])) + 2.0).unwrap(),
    };
    Norm::new(
        "norm1",
        (pixels.0, pixels.1, channels),
        op,
        after,
        tensors,
        capacity,
    )
    .unwrap()
}

/// Batch normalisation by its formula; the statistics are those of all pixels.
fn normalised(x: &Tensor, weight: Option<&Tensor>, bias: &Tensor, epsilon: f64) -> Tensor {
    let mean = x.mean_keepdim((0, 1, 2)).unwrap();
    let centred = x.broadcast_sub(&mean).unwrap();
    let var = centred.sqr().unwrap().mean_keepdim((0, 1, 2)).unwrap();
    let deviation = (var + epsilon).unwrap().sqrt().unwrap();
    let unit = centred.broadcast_div(&deviation).unwrap();
    let scaled = weight.map_or_else(|| unit.clone(), |w| unit.broadcast_mul(w).unwrap());
    scaled.broadcast_add(bias).unwrap()
}

/// Max-pooling of NHWC by Candle's maximum.
fn largest(x: &Tensor, kernel: usize, stride: usize) -> Tensor {
    let (_, height, width, _) = x.dims4().unwrap();
    let starts = |size: usize, offset: usize| {
        let out = (size - kernel) / stride + 1;
        let at: Vec<u32> = (0..out).map(|i| (i * stride + offset) as u32).collect();
        Tensor::from_vec(at, out, &Device::Cpu).unwrap()
    };
    (0..kernel * kernel)
        .map(|place| {
            let rows = x.index_select(&starts(height, place / kernel), 1).unwrap();
            rows.index_select(&starts(width, place % kernel), 2)
                .unwrap()
        })
        .reduce(|a, b| a.maximum(&b).unwrap())
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn dense(
        input in (1..5usize, 1..5usize, 1..71usize),
        outputs in 1..71usize,
        images in 1..24usize,
        (relu, drop, bias) in any::<(bool, bool, bool)>(),
    ) {
        let (height, width, channels) = input;
        let inputs = height * width * channels;
        let drop = relu && drop;
        check(
            |capacity, level| {
                let weight = parameter("dense1.weight", var(4, &[outputs, inputs]));
                let bias = bias.then(|| parameter("dense1.bias", var(5, &[outputs])));
                let dropout = drop.then_some(DROPOUT);
                Dense::new("dense1", input, relu, dropout, weight, bias, capacity).unwrap().at_level(level)
            },
            input,
            images,
            |x, params| {
                let chw = x.permute((0, 3, 1, 2)).unwrap().reshape((images, inputs)).unwrap();
                let mut y = chw.matmul(&params[0].t().unwrap()).unwrap();
                if bias {
                    y = y.broadcast_add(&params[1]).unwrap();
                }
                if relu {
                    y = y.relu().unwrap();
                }
                let y = y.reshape((images, 1, 1, outputs)).unwrap();
                if drop { (&y * factors(y.dims())).unwrap() } else { y }
            },
        );
    }

    #[test]
    fn batch_norm(
        pixels in (1..9usize, 1..9usize),
        channels in 1..71usize,
        images in 1..9usize,
        (relu, pool, scale) in any::<(bool, bool, bool)>(),
        smooth in proptest::sample::select(vec![None, Some(Function::Gelu), Some(Function::Silu)]),
        epsilon in proptest::sample::select(vec![1e-5, 1e-12, 0.3]),
    ) {
        let op = NormOp { scale, momentum: 0.1, epsilon };
        let (relu, pool) = if pixels.0.min(pixels.1) > 1 { (relu || pool, pool) } else { (relu, false) };
        let smooth = smooth.filter(|_| !relu);
        // Of two numbers, one is always one deviation above the other: nothing is left to differentiate.
        prop_assume!(images * pixels.0 * pixels.1 > 3);
        check(
            |capacity, level| norm(channels, pixels, op, NormEpilogue { relu, pool, smooth }, capacity).at_level(level),
            (pixels.0, pixels.1, channels),
            images,
            |x, params| {
                let y = normalised(x, scale.then(|| &params[0]), &params[usize::from(scale)], epsilon);
                let y = if relu { y.relu().unwrap() } else { y };
                let y = match smooth {
                    Some(Function::Gelu) => y.gelu_erf().unwrap(),
                    Some(Function::Silu) => y.silu().unwrap(),
                    None => y,
                };
                if pool { largest(&y, 2, 2) } else { y }
            },
        );
    }

    #[test]
    fn max_pool(
        input in (1..14usize, 1..14usize, 1..40usize),
        (kernel, stride) in (1..5usize, 1..5usize),
        images in 1..5usize,
    ) {
        prop_assume!(kernel <= input.0.min(input.1));
        check(
            |capacity, level| {
                MaxPool::new("pool1", input, kernel, stride, capacity, &Device::Cpu).unwrap().at_level(level)
            },
            input,
            images,
            |x, _| largest(x, kernel, stride),
        );
    }

    #[test]
    fn the_rest(input in (1..9usize, 1..9usize, 1..40usize), images in 1..5usize) {
        let device = &Device::Cpu;
        check(
            |capacity, _| GlobalPool::new("pool1", input, capacity, device).unwrap(),
            input,
            images,
            |x, _| x.mean_keepdim((1, 2)).unwrap(),
        );
        check(
            |capacity, _| Relu::new("relu1", input, capacity, device).unwrap(),
            input,
            images,
            |x, _| x.relu().unwrap(),
        );
        check(
            |capacity, level| Activate::new("gelu1", Function::Gelu, input, capacity, device).unwrap().at_level(level),
            input,
            images,
            |x, _| x.gelu_erf().unwrap(),
        );
        check(
            |capacity, level| Activate::new("silu1", Function::Silu, input, capacity, device).unwrap().at_level(level),
            input,
            images,
            |x, _| x.silu().unwrap(),
        );
        check(
            |capacity, _| Multiply::new("scale1", 0.37, input, capacity, device).unwrap(),
            input,
            images,
            |x, _| (x * 0.37).unwrap(),
        );
        check(
            |capacity, _| Drop::new("drop1", input, DROPOUT, capacity, device).unwrap(),
            input,
            images,
            |x, _| (x * factors(x.dims())).unwrap(),
        );
    }
}

#[test]
fn norms_add_the_shortcut_and_keep_running_statistics() {
    let (images, height, width, channels) = (5, 3, 4, 37);
    let threads = Threads::new(2);
    let shape = (images, height, width, channels);
    let tensor = |stream| {
        let t = zeros(shape, &Device::Cpu).unwrap();
        write([&t], |[t]| t.copy_from_slice(&draw(stream, t.len()))).unwrap();
        t
    };
    let (x, skip, grad) = (tensor(1), tensor(2), tensor(3));
    let (grad_input, grad_skip) = (tensor(4), tensor(5));
    let op = NormOp {
        momentum: 0.4,
        ..NormOp::default()
    };
    let mut layer = norm(
        channels,
        (height, width),
        op,
        NormEpilogue {
            relu: true,
            ..NormEpilogue::default()
        },
        images,
    );
    let buffers =
        |layer: &Norm| -> Vec<_> { layer.buffers().iter().map(|b| numbers(b.1)).collect() };
    let before = buffers(&layer);
    let mut pass = Pass {
        stop: None,
        images,
        threads: &threads,
        train: Some(TRAIN),
    };
    layer.forward_with(&x, Some(&skip), &pass).unwrap();
    layer
        .backward_with(&x, &grad, Some(&grad_input), Some(&grad_skip), &pass)
        .unwrap();

    let wide = |t: &Tensor| Var::from_tensor(&t.to_dtype(DType::F64).unwrap()).unwrap();
    let (x64, skip64) = (wide(&x), wide(&skip));
    let params: Vec<_> = layer.params().iter().map(|p| wide(&p.var)).collect();
    let sum = (normalised(&x64, Some(&params[0]), &params[1], 1e-5) + skip64.as_tensor()).unwrap();
    let output = sum.relu().unwrap();
    let weighted = (&output * grad.to_dtype(DType::F64).unwrap()).unwrap();
    let grads = weighted.sum_all().unwrap().backward().unwrap();
    let theirs = |var: &Var| numbers(grads.get(var).unwrap());
    close("output", &numbers(layer.output()), &numbers(&output), 1e-5);
    close("input gradient", &numbers(&grad_input), &theirs(&x64), 1e-4);
    close(
        "skip gradient",
        &numbers(&grad_skip),
        &theirs(&skip64),
        1e-4,
    );
    for (param, var) in layer.params().iter().zip(&params) {
        close(&param.name, &numbers(&param.grad), &theirs(var), 1e-4);
    }

    // 0.6 of the old and 0.4 of the new; the new variance is divided by one less than the pixels.
    let mean = x64.mean_keepdim((0, 1, 2)).unwrap();
    let squares = x64.broadcast_sub(&mean).unwrap().sqr().unwrap();
    let count = (images * height * width) as f64;
    let var = (squares.sum((0, 1, 2)).unwrap() / (count - 1.0)).unwrap();
    for ((old, new), now) in before
        .iter()
        .zip([numbers(&mean), numbers(&var)])
        .zip(buffers(&layer))
    {
        let expected: Vec<_> = old
            .iter()
            .zip(new)
            .map(|(old, new)| 0.6 * old + 0.4 * new)
            .collect();
        close("running statistics", &now, &expected, 1e-5);
    }

    // Scoring uses the running statistics and does not change them.
    pass.train = None;
    let [means, vars] = [0, 1].map(|i| buffers(&layer)[i].clone());
    layer.forward(&x, &pass).unwrap();
    let (weight, bias) = (
        numbers(&layer.params()[0].var),
        numbers(&layer.params()[1].var),
    );
    let expected: Vec<_> = numbers(&x)
        .iter()
        .enumerate()
        .map(|(i, x)| {
            let c = i % channels;
            ((x - means[c]) / (vars[c] + 1e-5).sqrt() * weight[c] + bias[c]).max(0.0)
        })
        .collect();
    close("scored", &numbers(layer.output()), &expected, 1e-5);
    assert_eq!([means, vars].as_slice(), buffers(&layer));
}

#[test]
fn scoring_drops_nothing() {
    let threads = Threads::new(1);
    let x = zeros((2, 1, 1, 50), &Device::Cpu).unwrap();
    write([&x], |[x]| x.fill(1.0)).unwrap();
    let pass = Pass {
        stop: None,
        images: 2,
        threads: &threads,
        train: None,
    };
    let mut drop = Drop::new("drop1", (1, 1, 50), DROPOUT, 2, &Device::Cpu).unwrap();
    drop.forward(&x, &pass).unwrap();
    assert_eq!(&*read(drop.output()).unwrap(), &*read(&x).unwrap());
    let weight = Var::ones((3, 50), DType::F32, &Device::Cpu).unwrap();
    let weight = parameter("dense1.weight", weight);
    let mut dense = Dense::new("dense1", (1, 1, 50), true, Some(DROPOUT), weight, None, 2).unwrap();
    dense.forward(&x, &pass).unwrap();
    assert_eq!(&*read(dense.output()).unwrap(), [50.0; 6]);
}

#[test]
fn every_kind_has_a_word_of_its_own_that_the_grammar_reads() {
    for (i, kind) in KINDS.iter().enumerate() {
        let is_letter = |b: u8| b.is_ascii_lowercase() || b == b'-';
        assert!(kind.word.bytes().all(is_letter), "{}", kind.word);
        // `x` is preceded by the number of repeats.
        assert_ne!(kind.word, "x");
        assert!(KINDS[..i].iter().all(|other| other.word != kind.word));
    }
}

#[test]
fn a_pool_takes_the_first_of_equals_and_any_nan() {
    let threads = Threads::new(1);
    let pass = Pass {
        stop: None,
        images: 1,
        threads: &threads,
        train: Some(TRAIN),
    };
    let mut pool = MaxPool::new("pool1", (2, 2, 2), 2, 2, 1, &Device::Cpu).unwrap();
    // Channel 0 has four equal values, channel 1 a NaN.
    let x = Tensor::new(
        &[1.0f32, 5.0, 1.0, 7.0, 1.0, f32::NAN, 1.0, 6.0],
        &Device::Cpu,
    )
    .unwrap();
    let x = x.reshape((1, 2, 2, 2)).unwrap();
    pool.forward(&x, &pass).unwrap();
    let output = read(pool.output()).unwrap().to_vec();
    assert!(output[0] == 1.0 && output[1].is_nan());
    let grad = Tensor::new(&[3.0f32, 4.0], &Device::Cpu)
        .unwrap()
        .reshape((1, 1, 1, 2))
        .unwrap();
    let grad_input = x.zeros_like().unwrap();
    pool.backward(&x, &grad, Some(&grad_input), &pass).unwrap();
    let expected = [3.0, 0.0, 0.0, 0.0, 0.0, 4.0, 0.0, 0.0];
    assert_eq!(&*read(&grad_input).unwrap(), expected);
}
