//! The inner loops of the norm over rows of channels.

use crate::hardware::simd::{Kernel, Simd};

/// Runs `$body` over the channels in blocks of four vectors, then of one (`$count` of whose lanes are channels).
macro_rules! blocks {
    ($S:ident, $channels:expr, |$V:ident, $first:ident, $count:ident| $body:expr) => {{
        let mut $first = 0;
        while $first < $channels {
            let left = $channels - $first;
            if left >= 4 * $S::LANES {
                const $V: usize = 4;
                let $count = $S::LANES;
                $body;
                $first += 4 * $S::LANES;
            } else {
                const $V: usize = 1;
                let $count = left.min($S::LANES);
                $body;
                $first += $count;
            }
        }
    }};
}
pub(super) use blocks;

/// `V` vectors of which the last holds `count` numbers.
#[inline(always)]
pub(super) unsafe fn load<S: Simd, const V: usize>(from: *const f32, count: usize) -> [S; V] {
    // SAFETY: the caller guarantees it.
    unsafe {
        let mut vectors = [S::zero(); V];
        for (v, vector) in vectors.iter_mut().enumerate() {
            *vector = if V == 1 && count < S::LANES {
                S::load_part(from, count)
            } else {
                S::load(from.add(v * S::LANES))
            };
        }
        vectors
    }
}

#[inline(always)]
pub(super) unsafe fn store<S: Simd, const V: usize>(vectors: [S; V], to: *mut f32, count: usize) {
    // SAFETY: the caller guarantees it.
    unsafe {
        for (v, vector) in vectors.into_iter().enumerate() {
            if V == 1 && count < S::LANES {
                vector.store_part(to, count);
            } else {
                vector.store(to.add(v * S::LANES));
            }
        }
    }
}

/// Sums of differences from the origin, then of their squares.
pub(super) struct Moments<'a> {
    pub(super) x: &'a [f32],
    pub(super) origin: &'a [f32],
    pub(super) sums: &'a mut [f32],
}

impl Kernel for Moments<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let channels = self.origin.len();
        let rows = self.x.len() / channels;
        // SAFETY: the caller guarantees it; blocks lie within the channels.
        unsafe {
            blocks!(S, channels, |V, first, count| {
                let mut origin = load::<S, V>(self.origin.as_ptr().add(first), count);
                for v in &mut origin {
                    *v = v.mul(S::splat(-1.0));
                }
                let (mut sums, mut squares) = ([S::zero(); V], [S::zero(); V]);
                for row in 0..rows {
                    let x = load::<S, V>(self.x.as_ptr().add(row * channels + first), count);
                    for v in 0..V {
                        let d = x[v].add(origin[v]);
                        sums[v] = sums[v].add(d);
                        squares[v] = d.mul_add(d, squares[v]);
                    }
                }
                let to = self.sums.as_mut_ptr().add(first);
                store(sums, to, count);
                store(squares, to.add(channels), count);
            });
        }
    }
}

/// x * scale + shift (+ skip) (ReLU).
pub(super) struct Apply<'a> {
    pub(super) x: &'a [f32],
    pub(super) skip: Option<&'a [f32]>,
    pub(super) scale: &'a [f32],
    pub(super) shift: &'a [f32],
    pub(super) relu: bool,
    pub(super) out: &'a mut [f32],
}

impl Kernel for Apply<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let channels = self.scale.len();
        let rows = self.x.len() / channels;
        // SAFETY: the caller guarantees it; blocks lie within the channels.
        unsafe {
            blocks!(S, channels, |V, first, count| {
                let scale = load::<S, V>(self.scale.as_ptr().add(first), count);
                let shift = load::<S, V>(self.shift.as_ptr().add(first), count);
                for row in 0..rows {
                    let at = row * channels + first;
                    let mut y = load::<S, V>(self.x.as_ptr().add(at), count);
                    for v in 0..V {
                        y[v] = y[v].mul_add(scale[v], shift[v]);
                    }
                    if let Some(skip) = self.skip {
                        let skip = load::<S, V>(skip.as_ptr().add(at), count);
                        for v in 0..V {
                            y[v] = y[v].add(skip[v]);
                        }
                    }
                    if self.relu {
                        for y in &mut y {
                            *y = y.relu();
                        }
                    }
                    store(y, self.out.as_mut_ptr().add(at), count);
                }
            });
        }
    }
}

/// Sums of the gradient, then of its products with (x - mean).
pub(super) struct Slopes<'a> {
    pub(super) x: &'a [f32],
    pub(super) grad: &'a [f32],
    /// After ReLU: where it is zero, so is the gradient.
    pub(super) output: Option<&'a [f32]>,
    pub(super) mean: &'a [f32],
    pub(super) sums: &'a mut [f32],
    /// Where the gradient before ReLU is to be written.
    pub(super) masked: Option<&'a mut [f32]>,
}

impl Kernel for Slopes<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let channels = self.mean.len();
        let rows = self.x.len() / channels;
        // SAFETY: the caller guarantees it; blocks lie within the channels.
        unsafe {
            blocks!(S, channels, |V, first, count| {
                let mut mean = load::<S, V>(self.mean.as_ptr().add(first), count);
                for v in &mut mean {
                    *v = v.mul(S::splat(-1.0));
                }
                let (mut sums, mut products) = ([S::zero(); V], [S::zero(); V]);
                for row in 0..rows {
                    let at = row * channels + first;
                    let x = load::<S, V>(self.x.as_ptr().add(at), count);
                    let grad = masked::<S, V>(self.grad, self.output, at, count);
                    for v in 0..V {
                        sums[v] = sums[v].add(grad[v]);
                        products[v] = x[v].add(mean[v]).mul_add(grad[v], products[v]);
                    }
                    if let Some(to) = &mut self.masked {
                        store(grad, to.as_mut_ptr().add(at), count);
                    }
                }
                let to = self.sums.as_mut_ptr().add(first);
                store(sums, to, count);
                store(products, to.add(channels), count);
            });
        }
    }
}

/// The gradient at `at`, zero where the output is.
#[inline(always)]
pub(super) unsafe fn masked<S: Simd, const V: usize>(
    grad: &[f32],
    output: Option<&[f32]>,
    at: usize,
    count: usize,
) -> [S; V] {
    // SAFETY: the caller guarantees it.
    unsafe {
        let mut grad = load::<S, V>(grad.as_ptr().add(at), count);
        if let Some(output) = output {
            let output = load::<S, V>(output.as_ptr().add(at), count);
            for v in 0..V {
                grad[v] = grad[v].select(output[v].nonzero(), S::zero());
            }
        }
        grad
    }
}

/// a * gradient + b * x + c.
pub(super) struct Slope<'a> {
    pub(super) x: &'a [f32],
    pub(super) grad: &'a [f32],
    pub(super) output: Option<&'a [f32]>,
    pub(super) a: &'a [f32],
    pub(super) b: &'a [f32],
    pub(super) c: &'a [f32],
    pub(super) out: &'a mut [f32],
}

impl Kernel for Slope<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let channels = self.a.len();
        let rows = self.x.len() / channels;
        // SAFETY: the caller guarantees it; blocks lie within the channels.
        unsafe {
            blocks!(S, channels, |V, first, count| {
                let a = load::<S, V>(self.a.as_ptr().add(first), count);
                let b = load::<S, V>(self.b.as_ptr().add(first), count);
                let c = load::<S, V>(self.c.as_ptr().add(first), count);
                for row in 0..rows {
                    let at = row * channels + first;
                    let x = load::<S, V>(self.x.as_ptr().add(at), count);
                    let mut grad = masked::<S, V>(self.grad, self.output, at, count);
                    for v in 0..V {
                        grad[v] = grad[v].mul_add(a[v], x[v].mul_add(b[v], c[v]));
                    }
                    store(grad, self.out.as_mut_ptr().add(at), count);
                }
            });
        }
    }
}

/// The same where the gradient stands in `out`.
pub(super) struct SlopeInPlace<'a> {
    pub(super) x: &'a [f32],
    pub(super) a: &'a [f32],
    pub(super) b: &'a [f32],
    pub(super) c: &'a [f32],
    pub(super) out: &'a mut [f32],
}

impl Kernel for SlopeInPlace<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let channels = self.a.len();
        let rows = self.out.chunks_exact_mut(channels);
        for (out, x) in rows.zip(self.x.chunks_exact(channels)) {
            let coefficients = self.a.iter().zip(self.b).zip(self.c);
            for ((out, x), ((a, b), c)) in out.iter_mut().zip(x).zip(coefficients) {
                *out = *out * a + (x * b + c);
            }
        }
    }
}
