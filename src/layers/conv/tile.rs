//! The dense inner loops: tiles of results held in registers.

#![allow(
    clippy::needless_range_loop,
    reason = "constant index loops become registers; iterators over arrays of vectors less surely so"
)]

use super::pack::block_width;
use crate::hardware::simd::{Kernel, Simd};

/// Widest tile, in pixels (forward) or patch numbers (weight gradient).
const WIDEST: usize = 14;

/// Runs `$body` with the constant `$P` equal to `$p`, which is at most [`WIDEST`].
macro_rules! with_width {
    ($p:expr, $P:ident => $body:expr) => {
        with_width!(@ $p, $P => $body; 1 2 3 4 5 6 7 8 9 10 11 12 13 14)
    };
    (@ $p:expr, $P:ident => $body:expr; $($n:literal)+) => {
        match $p {
            $($n => {
                const $P: usize = $n;
                $body
            })+
            _ => unreachable!("tiles are 1 to 14 wide"),
        }
    };
}

/// Runs `$body` for `$i` in `0..$n`, `$n` a constant up to 14, written out: the indices are constants from the
/// start, so that arrays of vectors become registers.
macro_rules! unroll {
    ($i:ident in $n:ident $body:block) => {
        unroll!(@ $i $n $body 0 1 2 3 4 5 6 7 8 9 10 11 12 13)
    };
    (@ $i:ident $n:ident $body:block $($k:literal)+) => {
        $(if $k < $n {
            let $i: usize = $k;
            $body
        })+
    };
}

/// The same for one or two.
macro_rules! unroll_two {
    ($i:ident in $n:ident $body:block) => {
        unroll!(@ $i $n $body 0 1)
    };
}

/// The same for up to four.
macro_rules! unroll_four {
    ($i:ident in $n:ident $body:block) => {
        unroll!(@ $i $n $body 0 1 2 3)
    };
}

pub(super) use {unroll, unroll_two};

/// How many pixels a tile of `vectors` vectors may span.
const fn widest<S: Simd>(vectors: usize) -> usize {
    let fits = S::ACCUMULATORS / vectors;
    if fits < WIDEST { fits } else { WIDEST }
}

/// A view of pixels: f32 from one row to the next and from one pixel to the next.
#[derive(Clone, Copy)]
pub struct Pixels {
    pub at: *const f32,
    pub row: usize,
    pub step: usize,
}

impl Pixels {
    /// The view that begins `rows` rows and `columns` pixels further, and `numbers` f32 after that.
    ///
    /// # Safety
    /// Within the allocation.
    #[inline(always)]
    pub unsafe fn offset(self, rows: usize, columns: usize, numbers: usize) -> Self {
        Pixels {
            // SAFETY: the caller guarantees it.
            at: unsafe { self.at.add(rows * self.row + columns * self.step + numbers) },
            ..self
        }
    }
}

/// Rows of a convolution.
#[derive(Clone, Copy)]
pub struct Convolve<'a> {
    /// Packed weights ([`super::pack`]).
    pub weights: &'a [f32],
    /// Where sums begin, one number a channel, padded to whole blocks.
    pub bias: &'a [f32],
    /// Rows of the kernel, and f32 under each.
    pub kernel: usize,
    pub run: usize,
    pub channels: usize,
    pub relu: bool,
    /// Shows the kernel's first row at the first result; its step is from one result to the next, its row from one row
    /// of the kernel to the next.
    pub x: Pixels,
    /// f32 of `x` from one row of results to the next.
    pub x_next: usize,
    pub rows: usize,
    pub columns: usize,
    pub out: *mut f32,
    /// f32 from one result to the next, and from one row of results to the next.
    pub out_step: usize,
    pub out_next: usize,
}

impl Kernel for Convolve<'_> {
    type Output = ();

    /// # Safety
    /// That of `S`; `x` and `out` reach as far as the rows do, of which there is at least one.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut first = 0;
        let mut weights = self.weights.as_ptr();
        while first < self.channels {
            let width = block_width(first, self.channels, S::LANES);
            // SAFETY: the caller guarantees it; the block lies within the weights, the bias and the pixels.
            unsafe {
                let out = self.out.add(first);
                if width == S::LANES {
                    self.block::<S, 1>(weights, first, out);
                } else {
                    self.block::<S, 2>(weights, first, out);
                }
                weights = weights.add(width * self.kernel * self.run);
            }
            first += width;
        }
    }
}

impl Convolve<'_> {
    /// One block of channels: as few tiles as possible, all of one size; the last begins earlier where it would overhang,
    /// and computes the same results again. Narrow rows share tiles.
    #[inline(always)]
    unsafe fn block<S: Simd, const V: usize>(
        &self,
        weights: *const f32,
        first: usize,
        out: *mut f32,
    ) {
        let widest = widest::<S>(V);
        let tiles = self.columns.div_ceil(widest);
        let width = self.columns.div_ceil(tiles);
        let high = (widest / width).clamp(1, 4);
        let bands = self.rows.div_ceil(high);
        let height = self.rows.div_ceil(bands);
        for band in 0..bands {
            let row = (band * height).min(self.rows - height);
            for tile in 0..tiles {
                let column = (tile * width).min(self.columns - width);
                // SAFETY: the caller guarantees it; the tile lies within the rows.
                unsafe {
                    let x = self.x.at.add(row * self.x_next + column * self.x.step);
                    let out = out.add(row * self.out_next + column * self.out_step);
                    with_width!(width, W => {
                        self.tile_of::<S, W, V>(height, x, weights, first, out);
                    });
                }
            }
        }
    }

    /// A tile of width `W`.
    #[inline(always)]
    unsafe fn tile_of<S: Simd, const W: usize, const V: usize>(
        &self,
        height: usize,
        x: *const f32,
        weights: *const f32,
        first: usize,
        out: *mut f32,
    ) {
        // SAFETY: the caller guarantees it.
        unsafe {
            match height {
                4 if 4 * W <= WIDEST && 4 * W * V <= S::ACCUMULATORS => {
                    self.tile::<S, W, 4, V>(x, weights, first, out);
                }
                3 if 3 * W <= WIDEST && 3 * W * V <= S::ACCUMULATORS => {
                    self.tile::<S, W, 3, V>(x, weights, first, out);
                }
                2 if 2 * W <= WIDEST && 2 * W * V <= S::ACCUMULATORS => {
                    self.tile::<S, W, 2, V>(x, weights, first, out);
                }
                1 if W * V <= S::ACCUMULATORS => self.tile::<S, W, 1, V>(x, weights, first, out),
                _ => unreachable!("tiles fit the registers"),
            }
        }
    }

    /// A tile of `W` x `H` results and `V` vectors of channels.
    #[inline(always)]
    unsafe fn tile<S: Simd, const W: usize, const H: usize, const V: usize>(
        &self,
        x: *const f32,
        weights: *const f32,
        first: usize,
        out: *mut f32,
    ) {
        // SAFETY: the caller guarantees it.
        unsafe {
            let mut sums = [[[S::zero(); V]; W]; H];
            unroll_two! { v in V {
                let bias = S::load(self.bias.as_ptr().add(first + v * S::LANES));
                unroll_four! { h in H {
                    unroll! { w in W {
                        sums[h][w][v] = bias;
                    }}
                }}
            }}
            let mut weights = weights;
            let mut line = x;
            for _ in 0..self.kernel {
                for n in 0..self.run {
                    let mut weight = [S::zero(); V];
                    unroll_two! { v in V {
                        weight[v] = S::load(weights.add(v * S::LANES));
                    }}
                    weights = weights.add(V * S::LANES);
                    unroll_four! { h in H {
                        unroll! { w in W {
                            let value = S::splat(*line.add(h * self.x_next + w * self.x.step + n));
                            unroll_two! { v in V {
                                sums[h][w][v] = value.mul_add(weight[v], sums[h][w][v]);
                            }}
                        }}
                    }}
                }
                line = line.add(self.x.row);
            }
            let last = (self.channels - first).min(V * S::LANES) - (V - 1) * S::LANES;
            unroll_four! { h in H {
                unroll! { w in W {
                    let out = out.add(h * self.out_next + w * self.out_step);
                    unroll_two! { v in V {
                        let mut sum = sums[h][w][v];
                        if self.relu {
                            sum = sum.relu();
                        }
                        if v + 1 < V || last == S::LANES {
                            sum.store(out.add(v * S::LANES));
                        } else {
                            sum.store_part(out.add(v * S::LANES), last);
                        }
                    }}
                }}
            }}
        }
    }
}

/// What a weight gradient is summed over.
#[derive(Clone, Copy)]
pub struct Sums {
    /// The input under the kernel's first place, from one result to the next.
    pub x: Pixels,
    /// The gradient of the results; readable for whole vectors.
    pub grad: Pixels,
    pub images: usize,
    /// f32 from one image to the next.
    pub x_image: usize,
    pub grad_image: usize,
    pub rows: usize,
    pub columns: usize,
    pub kernel: usize,
    pub run: usize,
    /// f32 from one row of the kernel to the next, in `x`.
    pub x_line: usize,
    pub channels: usize,
    /// Lines of `channels` (rounded up to whole vectors), one for every number of the patch: what to add to.
    pub out: *mut f32,
    /// Overwrite what stands there.
    pub fresh: bool,
}

impl Kernel for Sums {
    type Output = ();

    /// # Safety
    /// That of `S`; the views reach as far as the sums do, and `out` is kernel * run lines long.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let line = self.channels.next_multiple_of(S::LANES);
        let mut first = 0;
        while first < self.channels {
            let width = block_width(first, self.channels, S::LANES);
            for ky in 0..self.kernel {
                // SAFETY: the caller guarantees it; the block lies within the lines.
                unsafe {
                    let sums = Sums {
                        x: Pixels {
                            at: self.x.at.add(ky * self.x_line),
                            ..self.x
                        },
                        grad: self.grad.offset(0, 0, first),
                        out: self.out.add(ky * self.run * line + first),
                        ..self
                    };
                    if width == S::LANES {
                        gradient_run::<S, 1>(&sums, line);
                    } else {
                        gradient_run::<S, 2>(&sums, line);
                    }
                }
            }
            first += width;
        }
    }
}

/// The weight gradient of one row of the kernel, for one block of channels.
#[inline(always)]
unsafe fn gradient_run<S: Simd, const V: usize>(sums: &Sums, line: usize) {
    let tiles = sums.run.div_ceil(widest::<S>(V));
    let mut tile = 0;
    let mut begin = 0;
    while tile < tiles {
        tile += 1;
        let end = super::geometry::cut(sums.run, tiles, tile);
        // SAFETY: the caller guarantees it.
        unsafe {
            let x = sums.x.offset(0, 0, begin);
            let out = sums.out.add(begin * line);
            with_width!(end - begin, R => {
                if R * V <= S::ACCUMULATORS {
                    gradient_tile::<S, R, V>(sums, x, out, line);
                }
            });
        }
        begin = end;
    }
}

#[inline(always)]
unsafe fn gradient_tile<S: Simd, const R: usize, const V: usize>(
    sums: &Sums,
    x: Pixels,
    out: *mut f32,
    line: usize,
) {
    // SAFETY: the caller guarantees it.
    unsafe {
        let mut totals = [[S::zero(); V]; R];
        if !sums.fresh {
            unroll! { r in R {
                unroll_two! { v in V {
                    totals[r][v] = S::load(out.add(r * line + v * S::LANES));
                }}
            }}
        }
        for line in 0..sums.images * sums.rows {
            let (image, row) = (line / sums.rows, line % sums.rows);
            let mut x_at = x.at.add(image * sums.x_image + row * x.row);
            let mut grad_at = sums
                .grad
                .at
                .add(image * sums.grad_image + row * sums.grad.row);
            for _ in 0..sums.columns {
                let mut grad = [S::zero(); V];
                unroll_two! { v in V {
                    grad[v] = S::load(grad_at.add(v * S::LANES));
                }}
                unroll! { r in R {
                    let value = S::splat(*x_at.add(r));
                    unroll_two! { v in V {
                        totals[r][v] = value.mul_add(grad[v], totals[r][v]);
                    }}
                }}
                x_at = x_at.add(x.step);
                grad_at = grad_at.add(sums.grad.step);
            }
        }
        unroll! { r in R {
            unroll_two! { v in V {
                totals[r][v].store(out.add(r * line + v * S::LANES));
            }}
        }}
    }
}
