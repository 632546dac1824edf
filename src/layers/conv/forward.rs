//! The forward pass of one or several images: convolution, bias, ReLU, max-pooling, dropout.

use super::geometry::Geometry;
use super::tile::{Convolve, Pixels};
use super::winograd::{Tile, Winograd};
use crate::hardware::simd::{Kernel, Simd};
use crate::layers::dropout::Mask;
use crate::layers::slices::scratch;
use std::ops::Range;

/// Dropout's factors that are made at a time.
const FACTORS: usize = 512;

/// Rows of one image's output or, with Winograd's algorithm only, the whole outputs of several images.
pub struct Forward<'a> {
    pub geometry: &'a Geometry,
    /// Use Winograd's algorithm on tiles of this size, with transformed weights.
    pub winograd: Option<Tile>,
    pub images: usize,
    pub x: &'a [f32],
    pub weights: &'a [f32],
    pub bias: &'a [f32],
    /// For [`Winograd`].
    pub zeros: &'a [f32],
    pub relu: bool,
    pub pool: bool,
    /// The mask, and the number of the first element of `out` in it.
    pub mask: Option<(Mask, usize)>,
    /// Rows of the output (pooled ones when it pools).
    pub rows: Range<usize>,
    /// The output rows to write.
    pub out: &'a mut [f32],
    /// If it pools: index (row-major) in the 2x2 window of the selected result, for these rows.
    pub taken: &'a mut [u8],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        // SAFETY: the caller guarantees it.
        unsafe {
            if let Some(tile) = self.winograd {
                S::call(Winograd {
                    tile,
                    geometry: self.geometry,
                    images: self.images,
                    x: self.x,
                    weights: self.weights,
                    bias: self.bias,
                    zeros: self.zeros,
                    relu: self.relu,
                    taken: self.pool.then_some(&mut *self.taken),
                    rows: self.rows.clone(),
                    out: &mut *self.out,
                });
            } else {
                self.direct::<S>();
            }
            self.drop_out::<S>();
        }
    }
}

impl Forward<'_> {
    #[inline(always)]
    unsafe fn direct<S: Simd>(&mut self) {
        let g = self.geometry;
        let conv_rows = if self.pool {
            2 * self.rows.start..2 * self.rows.end
        } else {
            self.rows.clone()
        };
        if conv_rows.is_empty() {
            return;
        }
        let top = conv_rows.start * g.stride;
        let bottom = (conv_rows.end - 1) * g.stride + g.kernel;
        let (_, width) = g.padded();
        let padded = (g.padding > 0).then(|| {
            let mut padded = scratch((bottom - top) * width * g.inputs);
            pad_rows(g, self.x, top..bottom, &mut padded);
            padded
        });
        let x = Pixels {
            at: match &padded {
                Some(padded) => padded.as_ptr(),
                None => self.x[top * width * g.inputs..].as_ptr(),
            },
            row: width * g.inputs,
            step: g.stride * g.inputs,
        };
        // SAFETY: the caller guarantees it; the geometry keeps the kernel within the (padded) rows.
        unsafe { self.rows_of::<S>(x) }
    }

    /// `x` shows the first row's input.
    #[inline(always)]
    unsafe fn rows_of<S: Simd>(&mut self, x: Pixels) {
        let g = self.geometry;
        let columns = if self.pool {
            g.out_width / 2
        } else {
            g.out_width
        };
        let line = columns * g.outputs;
        let rows = self.out.len() / line;
        // SAFETY: the caller guarantees it; every row of `out` is `line` long, the two scratch rows are as long as they
        // are said.
        unsafe {
            let convolve = Convolve {
                weights: self.weights,
                bias: self.bias,
                kernel: g.kernel,
                run: g.run(),
                channels: g.outputs,
                relu: self.relu && !self.pool,
                x,
                x_next: g.stride * x.row,
                rows,
                columns,
                out: self.out.as_mut_ptr(),
                out_step: g.outputs,
                out_next: line,
            };
            if self.pool {
                let step = g.outputs.next_multiple_of(S::LANES);
                let half = 2 * columns * step;
                let mut two = scratch(2 * half);
                for (i, out) in self.out.chunks_exact_mut(line).enumerate() {
                    S::call(Convolve {
                        x: x.offset(2 * i * g.stride, 0, 0),
                        rows: 2,
                        columns: 2 * columns,
                        out: two.as_mut_ptr(),
                        out_step: step,
                        out_next: half,
                        ..convolve
                    });
                    let (upper, lower) = two.split_at(half);
                    let taken = &mut self.taken[i * line..(i + 1) * line];
                    pool_row::<S>(upper, lower, step, g.outputs, self.relu, out, taken);
                }
            } else {
                S::call(convolve);
            }
        }
    }

    #[inline(always)]
    unsafe fn drop_out<S: Simd>(&mut self) {
        let Some((mask, first)) = self.mask else {
            return;
        };
        let mut factors = scratch(FACTORS);
        for (i, out) in self.out.chunks_mut(FACTORS).enumerate() {
            let factors = &mut factors[..out.len()];
            // SAFETY: the caller guarantees it.
            unsafe { mask.factors_in::<S>(first + i * FACTORS, factors) };
            // Multiplied rather than selected, so that NaN stays NaN.
            for (out, factor) in out.iter_mut().zip(factors) {
                *out *= *factor;
            }
        }
    }
}

/// One row of pooled pixels from two rows of results. Of equal results the first is selected; NaN is selected before
/// any number.
#[inline(always)]
unsafe fn pool_row<S: Simd>(
    upper: &[f32],
    lower: &[f32],
    step: usize,
    channels: usize,
    relu: bool,
    out: &mut [f32],
    taken: &mut [u8],
) {
    let pixels = out
        .chunks_exact_mut(channels)
        .zip(taken.chunks_exact_mut(channels));
    for (p, (out, taken)) in pixels.enumerate() {
        let mut first = 0;
        while first < channels {
            let count = (channels - first).min(S::LANES);
            // SAFETY: the caller guarantees it; both rows hold two pixels of `step` for each pooled one.
            unsafe {
                let (a, b) = (2 * p * step + first, (2 * p + 1) * step + first);
                let mut best = S::load(upper.as_ptr().add(a));
                let mut number = S::zero();
                let others = [
                    upper.as_ptr().add(b),
                    lower.as_ptr().add(a),
                    lower.as_ptr().add(b),
                ];
                let mut n = 1.0;
                for other in others {
                    let other = S::load(other);
                    let beats = other.beats(best);
                    best = other.select(beats, best);
                    number = S::splat(n).select(beats, number);
                    n += 1.0;
                }
                let best = if relu { best.relu() } else { best };
                best.store_part(out.as_mut_ptr().add(first), count);
                number.store_bytes(taken.as_mut_ptr().add(first), count);
            }
            first += count;
        }
    }
}

/// Rows `rows` of the padded image.
pub fn pad_rows(g: &Geometry, x: &[f32], rows: Range<usize>, padded: &mut [f32]) {
    let (_, width) = g.padded();
    let (line, edge) = (g.width * g.inputs, g.padding * g.inputs);
    for (row, out) in rows.zip(padded.chunks_exact_mut(width * g.inputs)) {
        match row.checked_sub(g.padding) {
            Some(y) if y < g.height => {
                out[..edge].fill(0.0);
                out[edge..edge + line].copy_from_slice(&x[y * line..(y + 1) * line]);
                out[edge + line..].fill(0.0);
            }
            _ => out.fill(0.0),
        }
    }
}
