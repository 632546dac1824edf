//! The functions and their slopes, in f32 and without branches, so that loops over them become the instructions of the
//! level at which they run. Every level gives the same bits.

use crate::hardware::simd::{Kernel, Level, Simd};

/// A smooth activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    Gelu,
    Silu,
}

impl Function {
    /// Writes the function's values for `x`, to as many numbers.
    pub fn values(self, level: Level, x: &[f32], out: &mut [f32]) {
        level.run(Values {
            function: self,
            x,
            out,
        });
    }

    /// Puts the function's values in place of its arguments.
    pub fn apply(self, level: Level, numbers: &mut [f32]) {
        level.run(Apply {
            function: self,
            numbers,
        });
    }

    /// Writes the gradients of `x` from those of the function's values.
    pub fn gradients(self, level: Level, x: &[f32], grad: &[f32], out: &mut [f32]) {
        level.run(Gradients {
            function: self,
            x,
            grad,
            out,
        });
    }

    /// The same where the arguments are `x * scale + shift`, channel by channel, as a norm makes them: the gradients of
    /// these arguments.
    pub fn scaled_gradients(
        self,
        level: Level,
        x: &[f32],
        (scale, shift): (&[f32], &[f32]),
        grad: &[f32],
        out: &mut [f32],
    ) {
        level.run(ScaledGradients {
            function: self,
            x,
            scale,
            shift,
            grad,
            out,
        });
    }
}

struct Values<'a> {
    function: Function,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Values<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let pairs = self.out.iter_mut().zip(self.x);
        match self.function {
            Function::Gelu => pairs.for_each(|(out, &x)| *out = gelu(x)),
            Function::Silu => pairs.for_each(|(out, &x)| *out = silu(x)),
        }
    }
}

struct Apply<'a> {
    function: Function,
    numbers: &'a mut [f32],
}

impl Kernel for Apply<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let numbers = self.numbers.iter_mut();
        match self.function {
            Function::Gelu => numbers.for_each(|x| *x = gelu(*x)),
            Function::Silu => numbers.for_each(|x| *x = silu(*x)),
        }
    }
}

struct Gradients<'a> {
    function: Function,
    x: &'a [f32],
    grad: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Gradients<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let triples = self.out.iter_mut().zip(self.x).zip(self.grad);
        match self.function {
            Function::Gelu => triples.for_each(|((out, &x), &grad)| *out = grad * gelu_slope(x)),
            Function::Silu => triples.for_each(|((out, &x), &grad)| *out = grad * silu_slope(x)),
        }
    }
}

struct ScaledGradients<'a> {
    function: Function,
    x: &'a [f32],
    scale: &'a [f32],
    shift: &'a [f32],
    grad: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for ScaledGradients<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let channels = self.scale.len();
        let rows = self.out.chunks_exact_mut(channels);
        let inputs = self
            .x
            .chunks_exact(channels)
            .zip(self.grad.chunks_exact(channels));
        for (out, (x, grad)) in rows.zip(inputs) {
            let coefficients = self.scale.iter().zip(self.shift);
            let numbers = out.iter_mut().zip(x).zip(grad).zip(coefficients);
            match self.function {
                Function::Gelu => numbers.for_each(|(((out, &x), &grad), (scale, shift))| {
                    *out = grad * gelu_slope(x * scale + shift);
                }),
                Function::Silu => numbers.for_each(|(((out, &x), &grad), (scale, shift))| {
                    *out = grad * silu_slope(x * scale + shift);
                }),
            }
        }
    }
}

#[inline(always)]
fn gelu(x: f32) -> f32 {
    x * normal_share(x)
}

#[inline(always)]
fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

#[inline(always)]
fn gelu_slope(x: f32) -> f32 {
    const INV_SQRT_TAU: f32 = 0.398_942_3;
    normal_share(x) + x * INV_SQRT_TAU * exp(-0.5 * x * x)
}

#[inline(always)]
fn silu_slope(x: f32) -> f32 {
    let share = sigmoid(x);
    share * (1.0 + x * (1.0 - share))
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The share of the standard normal distribution below `x`.
#[inline(always)]
fn normal_share(x: f32) -> f32 {
    0.5 + 0.5 * erf(x * std::f32::consts::FRAC_1_SQRT_2)
}

/// The error function to 5e-7: an odd rational function on -4..4, beyond which it is 1 in f32. The coefficients are those
/// of Eigen's float implementation.
#[inline(always)]
fn erf(x: f32) -> f32 {
    const ODD: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_5e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const EVEN: [f32; 5] = [
        -1.456_607_2e-5,
        -2.133_740_6e-4,
        -1.682_827e-3,
        -7.373_329e-3,
        -1.426_473_9e-2,
    ];
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let horner = |sum: f32, c: &f32| sum * square + c;
    x * ODD.iter().fold(0.0, horner) / EVEN.iter().fold(0.0, horner)
}

/// e to the power of `x` to three units in the last place, with `x` held to -87..88: 2 to the power of the nearest whole
/// number times a polynomial of the rest (Cephes' expf).
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting it rounds to a whole number, which is then in the sum's low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let sum = x * std::f32::consts::LOG2_E + ROUND;
    let whole = sum - ROUND;
    let rest = x - whole * LN_2_HIGH - whole * LN_2_LOW;
    let polynomial = [
        1.987_569_1e-4,
        1.398_2e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        0.166_666_66,
        0.5,
        1.0,
        1.0,
    ]
    .iter()
    .fold(0.0, |value: f32, c| value * rest + c);
    let exponent = sum.to_bits().wrapping_sub(ROUND.to_bits());
    polynomial * f32::from_bits(exponent.wrapping_add(127) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Tensor};

    const LEVEL: Level = Level::Portable;

    /// x, then value and slope of GELU and of SiLU, from their definitions in float64 (Python's math.erf and math.exp).
    #[rustfmt::skip]
    const EXACT: [(f64, [f64; 2], [f64; 2]); 7] = [
        (-6.0, [-5.919_525_9e-9, -3.546_870_9e-8], [-0.014_835_738_9, -0.012_326_432_6]),
        (-2.5, [-0.015_524_163_3, -0.037_611_085_9], [-0.189_645_450_1, -0.099_401_111_3]),
        (-0.5, [-0.154_268_769_4, 0.132_504_875_3], [-0.188_770_334_4, 0.260_038_812_7]),
        (0.0, [0.0, 0.5], [0.0, 0.5]),
        (0.75, [0.580_029_485_7, 0.999_225_721_7], [0.509_384_024_4, 0.842_599_944_5]),
        (3.0, [2.995_950_305_9, 1.011_945_647_2], [2.857_722_380_5, 1.088_104_106_0]),
        (12.0, [12.0, 1.0], [11.999_926_269_9, 1.000_067_585_5]),
    ];

    #[test]
    fn values_and_slopes_are_exact() {
        for (x, gelu, silu) in EXACT {
            for (function, [value, slope]) in [(Function::Gelu, gelu), (Function::Silu, silu)] {
                let (mut ours, mut grad) = ([0.0], [0.0]);
                function.values(LEVEL, &[x as f32], &mut ours);
                function.gradients(LEVEL, &[x as f32], &[2.0], &mut grad);
                let (ours, grad) = (f64::from(ours[0]), f64::from(grad[0]) / 2.0);
                let most = 3e-6 * x.abs().max(1.0);
                assert!((ours - value).abs() < most, "{function:?}({x}): {ours}");
                assert!((grad - slope).abs() < most, "{function:?}'({x}): {grad}");
            }
        }
    }

    /// The largest error of GELU over its whole range, against Candle's in f64: 2.4e-7 of the larger of 1 and |x|.
    #[test]
    fn gelu_is_exact_to_a_millionth_everywhere() {
        let x: Vec<f32> = (-80_000..80_000).map(|i| i as f32 * 1.25e-4).collect();
        let wide = Tensor::new(x.as_slice(), &Device::Cpu).unwrap();
        let exact = wide.to_dtype(DType::F64).unwrap().gelu_erf().unwrap();
        let exact: Vec<f64> = exact.to_vec1().unwrap();
        let mut ours = vec![0.0; x.len()];
        Function::Gelu.values(LEVEL, &x, &mut ours);
        let errors = ours.iter().zip(&x).zip(exact).map(|((ours, x), exact)| {
            (f64::from(*ours) - exact).abs() / f64::from(x.abs().max(1.0))
        });
        let worst = errors.fold(0.0, f64::max);
        assert!(worst < 1e-6, "{worst:e}");
    }

    #[test]
    fn every_level_and_every_form_gives_the_same_bits() {
        let x: Vec<f32> = (0..333).map(|i| (i as f32 - 150.0) * 0.043).collect();
        let grad: Vec<f32> = (0..333).map(|i| (i as f32 * 0.7).sin()).collect();
        let (scale, shift) = ([0.5, -2.0, 1.25], [0.1, 0.0, -3.0]);
        let scaled: Vec<f32> = (0..333)
            .map(|i| x[i] * scale[i % 3] + shift[i % 3])
            .collect();
        for function in [Function::Gelu, Function::Silu] {
            let mut expected = [vec![0.0; 333], vec![0.0; 333], vec![0.0; 333]];
            function.values(LEVEL, &x, &mut expected[0]);
            function.gradients(LEVEL, &x, &grad, &mut expected[1]);
            function.gradients(LEVEL, &scaled, &grad, &mut expected[2]);
            for level in Level::available() {
                let mut ours = [x.clone(), vec![0.0; 333], vec![0.0; 333]];
                function.apply(level, &mut ours[0]);
                function.gradients(level, &x, &grad, &mut ours[1]);
                function.scaled_gradients(level, &x, (&scale, &shift), &grad, &mut ours[2]);
                assert!(ours == expected, "{function:?} at {level:?}");
                function.values(level, &x, &mut ours[1]);
                assert!(ours[1] == expected[0], "{function:?} at {level:?}");
            }
        }
    }

    #[test]
    fn exp_holds_its_precision_over_its_whole_range() {
        let places = (-8_700..8_800).map(|i| i as f32 * 0.01 + 0.003);
        for x in places.filter(|x| *x < 88.0) {
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) / exact - 1.0).abs();
            assert!(error < 4e-7, "exp({x}) is off by {error:e}");
        }
    }

    #[test]
    fn what_is_not_a_number_stays_so_and_infinity_is_held() {
        for function in [Function::Gelu, Function::Silu] {
            let mut out = [0.0; 3];
            function.values(LEVEL, &[f32::NAN, f32::INFINITY, f32::MIN], &mut out);
            assert!(out[0].is_nan() && out[1] == f32::INFINITY, "{out:?}");
            let x = [f32::NAN, 1e30, -1e30];
            function.gradients(LEVEL, &x, &[1.0; 3], &mut out);
            assert!(out[0].is_nan(), "{out:?}");
        }
    }
}
