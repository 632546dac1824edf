//! The dense 3x3 convolution with stride 1 in fewer multiplications: Winograd's minimal filtering F(2x2, 3x3), after
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016).
//!
//! A tile of 2x2 results depends on 4x4 inputs. Input tiles and weights are transformed (by additions, and halves of
//! weights), which turns the convolution into sixteen products of matrices, one for each of the 4x4 places: tiles by
//! inputs times inputs by outputs. Each is a 1x1 convolution, and runs on the tiles of `tile.rs`. Transforming the
//! products back gives the results: 16 multiply-adds where the direct convolution has 36. The input gradient is such a
//! convolution too, and the weight gradient goes all the steps backwards.

mod sums;

pub use sums::{WeightSums, back, images_summed, sums_len};

use super::geometry::{Geometry, cut};
use super::pack;
use super::tile::{Convolve, Pixels};
use crate::hardware::simd::{Kernel, Simd, prefetch};
use crate::hardware::threads::{SharedSlice, Threads};
use crate::layers::slices::scratch;
use std::ops::Range;

/// Places of a transformed tile.
pub const PLACES: usize = 16;
/// Results of one tile, on a side.
pub const SIDE: usize = 2;
/// f32 in a cache line.
const LINE: usize = 16;
/// f32 in the widest vector.
const MAX_LANES: usize = 16;
/// f32 of transformed inputs and products that are worked on together: a part of the second-level cache.
const BLOCK_LEN: usize = 1 << 15;
/// Channels, of inputs and of outputs, from which the transforms are worth their time.
const CHANNELS: usize = 16;

/// Whether this is the faster way for a convolution of that geometry.
pub fn pays(g: &Geometry) -> bool {
    g.kernel == 3 && g.stride == 1 && g.inputs >= CHANNELS && g.outputs >= CHANNELS
}

/// The convolution that makes the input gradient: of the results' gradient, with the kernel turned.
pub fn turned(g: &Geometry) -> Geometry {
    Geometry {
        height: g.out_height,
        width: g.out_width,
        inputs: g.outputs,
        outputs: g.inputs,
        padding: g.kernel - 1 - g.padding,
        out_height: g.height,
        out_width: g.width,
        ..*g
    }
}

/// Tiles that are worked on together.
pub fn block(g: &Geometry) -> usize {
    (BLOCK_LEN / (PLACES * (g.inputs + g.outputs))).next_multiple_of(14)
}

/// f32 of transformed weights.
pub fn packed_len(g: &Geometry, lanes: usize) -> usize {
    PLACES * pack::packed_len(g.inputs, g.outputs, lanes)
}

/// Images whose tiles make a block.
pub fn images(g: &Geometry) -> usize {
    block(g) / (g.out_height.div_ceil(SIDE) * g.out_width.div_ceil(SIDE))
}

/// Transforms OIHW weights: for each place, packed weights of a 1x1 convolution.
pub fn pack(g: &Geometry, weight: &[f32], lanes: usize, threads: &Threads, packed: &mut [f32]) {
    transform(g.inputs, g.outputs, lanes, threads, packed, |o, i| {
        let at = 9 * (o * g.inputs + i);
        std::array::from_fn(|n| weight[at + n])
    });
}

/// The same for the input gradient, with [`turned`] geometry.
pub fn pack_turned(
    g: &Geometry,
    weight: &[f32],
    lanes: usize,
    threads: &Threads,
    packed: &mut [f32],
) {
    transform(g.outputs, g.inputs, lanes, threads, packed, |i, o| {
        let at = 9 * (o * g.inputs + i);
        std::array::from_fn(|n| weight[at + 8 - n])
    });
}

/// `weight` gives the 3x3 numbers between an output and an input.
fn transform(
    inputs: usize,
    outputs: usize,
    lanes: usize,
    threads: &Threads,
    packed: &mut [f32],
    weight: impl Fn(usize, usize) -> [f32; 9] + Sync,
) {
    let plane = pack::packed_len(inputs, outputs, lanes);
    let packed = SharedSlice::new(packed);
    threads.run(outputs.div_ceil(2 * lanes), |block| {
        let first = block * 2 * lanes;
        let width = pack::block_width(first, outputs, lanes);
        for input in 0..inputs {
            let line = first * inputs + input * width;
            let mut places = [[0.0; PLACES]; 2 * MAX_LANES];
            for (n, places) in places[..width.min(outputs - first)].iter_mut().enumerate() {
                *places = transformed(&weight(first + n, input));
            }
            for place in 0..PLACES {
                let begin = place * plane + line;
                // SAFETY: every task has blocks of its own.
                let out = unsafe { packed.range(begin..begin + width) };
                for (out, places) in out.iter_mut().zip(&places) {
                    *out = places[place];
                }
            }
        }
    });
}

/// G g G', where G = [1 0 0; 1/2 1/2 1/2; 1/2 -1/2 1/2; 0 0 1].
fn transformed(g: &[f32; 9]) -> [f32; PLACES] {
    let four = |a: f32, b: f32, c: f32| [a, 0.5 * ((a + c) + b), 0.5 * ((a + c) - b), c];
    let mut rows = [[0.0; 3]; 4];
    for x in 0..3 {
        for (row, v) in rows.iter_mut().zip(four(g[x], g[3 + x], g[6 + x])) {
            row[x] = v;
        }
    }
    let mut out = [0.0; PLACES];
    for (out, [a, b, c]) in out.chunks_exact_mut(4).zip(rows) {
        out.copy_from_slice(&four(a, b, c));
    }
    out
}

/// The convolution of some rows of some images.
pub struct Winograd<'a> {
    pub geometry: &'a Geometry,
    /// Whole images.
    pub images: usize,
    pub x: &'a [f32],
    /// Transformed weights.
    pub weights: &'a [f32],
    /// Where sums begin, one number a channel; padded to whole blocks.
    pub bias: &'a [f32],
    /// As many zeros as the wider of inputs and outputs has numbers, padded to whole blocks.
    pub zeros: &'a [f32],
    pub relu: bool,
    /// 2x2 max-pooling: a tile becomes one pixel. Which of the four it was, goes to this.
    pub taken: Option<&'a mut [u8]>,
    /// Rows of the results (pooled ones when it pools; else they begin at an even one).
    pub rows: Range<usize>,
    /// Those rows of each image.
    pub out: &'a mut [f32],
}

/// Where a tile stands: its image, and its row and column among the tiles.
#[derive(Clone, Copy)]
struct Place {
    image: usize,
    row: usize,
    column: usize,
}

/// The tiles of some rows of some images.
#[derive(Clone, Copy)]
struct Tiles {
    images: usize,
    /// The first row of tiles, how many rows, and how many columns.
    first: usize,
    rows: usize,
    columns: usize,
}

impl Tiles {
    fn count(&self) -> usize {
        self.images * self.rows * self.columns
    }

    #[inline(always)]
    fn at(&self, tile: usize) -> Place {
        Place {
            image: tile / self.columns / self.rows,
            row: self.first + tile / self.columns % self.rows,
            column: tile % self.columns,
        }
    }
}

/// The input of a convolution.
#[derive(Clone, Copy)]
struct Input<'a> {
    geometry: &'a Geometry,
    /// Whole images.
    x: &'a [f32],
    zeros: &'a [f32],
}

impl Input<'_> {
    /// Transforms the tiles that stand from `first` to `end` (`at` in `tiles`), one after the other.
    #[inline(always)]
    unsafe fn take_all<S: Simd>(
        &self,
        tiles: &Tiles,
        range: Range<usize>,
        out: *mut f32,
        plane: usize,
    ) {
        let step = self.geometry.inputs.next_multiple_of(S::LANES);
        let mut tile = range.start;
        while tile < range.end {
            let place = tiles.at(tile);
            let count = (tiles.columns - place.column).min(range.end - tile);
            // SAFETY: the caller guarantees it.
            unsafe {
                let out = out.add((tile - range.start) * step);
                self.take::<S>(place, count, out, plane);
            }
            tile += count;
        }
    }

    /// B' d B of the 4x4 inputs d of some tiles of a row, where B' = [1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 1 0 -1], into planes
    /// that begin `plane` apart.
    #[inline(always)]
    unsafe fn take<S: Simd>(&self, tile: Place, count: usize, out: *mut f32, plane: usize) {
        let g = self.geometry;
        let step = g.inputs.next_multiple_of(S::LANES);
        let image = &self.x[tile.image * g.input_len()..];
        // The processor does not foresee the next row of tiles.
        let (line, from) = (g.width * g.inputs, tile.column * SIDE * g.inputs);
        for y in [4, 5] {
            let at = (tile.row * SIDE + y) * line + from;
            if let Some(next) =
                image.get(at..at + (count * SIDE * g.inputs).min(line.saturating_sub(from)))
            {
                prefetch(next);
            }
        }
        // Rows outside of the image are zeros, as are columns.
        let mut rows = [(self.zeros.as_ptr(), 0); 4];
        for (dy, row) in rows.iter_mut().enumerate() {
            let y = (tile.row * SIDE + dy).wrapping_sub(g.padding);
            if y < g.height {
                *row = (image[y * line..].as_ptr(), g.inputs);
            }
        }
        let begin = (tile.column * SIDE).wrapping_sub(g.padding);
        let mut first = 0;
        while first < g.inputs {
            let lanes = (g.inputs - first).min(S::LANES);
            // SAFETY: the caller guarantees it; every pixel has as many numbers as there are inputs.
            unsafe {
                let mut a = column::<S>(&rows, begin, g.width, first, lanes);
                let mut b = column::<S>(&rows, begin.wrapping_add(1), g.width, first, lanes);
                for n in 0..count {
                    let x = begin.wrapping_add(SIDE * n);
                    let c = column::<S>(&rows, x.wrapping_add(2), g.width, first, lanes);
                    let d = column::<S>(&rows, x.wrapping_add(3), g.width, first, lanes);
                    let mut out = out.add(n * step + first);
                    for y in 0..4 {
                        for v in [
                            minus(a[y], c[y]),
                            b[y].add(c[y]),
                            minus(c[y], b[y]),
                            minus(b[y], d[y]),
                        ] {
                            v.store(out);
                            out = out.add(plane);
                        }
                    }
                    (a, b) = (c, d);
                }
            }
            first += S::LANES;
        }
    }
}

impl Kernel for Winograd<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let g = self.geometry;
        let tiles = self.tiles();
        let blocks = tiles.count().div_ceil(block(g));
        let most = tiles.count().div_ceil(blocks.max(1));
        let input = Input {
            geometry: g,
            x: self.x,
            zeros: self.zeros,
        };
        let (from, to) = (
            g.inputs.next_multiple_of(S::LANES),
            g.outputs.next_multiple_of(S::LANES),
        );
        // Places a power of two apart would stand in each other's way in the cache.
        let (input_plane, product_plane) = (most * from + LINE, most * to + LINE);
        let mut inputs = scratch(PLACES * input_plane);
        let mut products = scratch(PLACES * product_plane);
        let plane = pack::packed_len(g.inputs, g.outputs, S::LANES);
        for block in 0..blocks {
            let begin = cut(tiles.count(), blocks, block);
            let end = cut(tiles.count(), blocks, block + 1);
            // SAFETY: the caller guarantees it; a block has at most as many tiles as the scratch holds.
            unsafe {
                input.take_all::<S>(&tiles, begin..end, inputs.as_mut_ptr(), input_plane);
                for place in 0..PLACES {
                    S::call(Convolve {
                        weights: &self.weights[place * plane..(place + 1) * plane],
                        bias: self.zeros,
                        kernel: 1,
                        run: g.inputs,
                        channels: to,
                        relu: false,
                        x: Pixels {
                            at: inputs.as_ptr().add(place * input_plane),
                            row: 0,
                            step: from,
                        },
                        x_next: 0,
                        rows: 1,
                        columns: end - begin,
                        out: products.as_mut_ptr().add(place * product_plane),
                        out_step: to,
                        out_next: 0,
                    });
                }
                for tile in begin..end {
                    let from = products.as_ptr().add((tile - begin) * to);
                    self.give::<S>(tiles.at(tile), from, product_plane);
                }
            }
        }
    }
}

/// B' d for column `x` of four rows, each with f32 from one pixel to the next.
#[inline(always)]
unsafe fn column<S: Simd>(
    rows: &[(*const f32, usize); 4],
    x: usize,
    width: usize,
    first: usize,
    lanes: usize,
) -> [S; 4] {
    // SAFETY: the caller guarantees it.
    unsafe {
        let mut d = [S::zero(); 4];
        if x < width {
            for (d, (row, step)) in d.iter_mut().zip(rows) {
                let from = row.add(x * step + first);
                *d = if lanes == S::LANES {
                    S::load(from)
                } else {
                    S::load_part(from, lanes)
                };
            }
        }
        let [a, b, c, d] = d;
        [minus(a, c), b.add(c), minus(c, b), minus(b, d)]
    }
}

/// a - b.
#[inline(always)]
unsafe fn minus<S: Simd>(a: S, b: S) -> S {
    // SAFETY: the caller guarantees it.
    unsafe { b.mul_add(S::splat(-1.0), a) }
}

impl Winograd<'_> {
    /// When it pools, an odd last column is left out.
    #[inline(always)]
    fn tiles(&self) -> Tiles {
        let width = self.geometry.out_width;
        let (first, rows, columns) = match self.taken {
            Some(_) => (self.rows.start, self.rows.len(), width / SIDE),
            None => (
                self.rows.start / SIDE,
                self.rows.len().div_ceil(SIDE),
                width.div_ceil(SIDE),
            ),
        };
        Tiles {
            images: self.images,
            first,
            rows,
            columns,
        }
    }

    /// A' m A of the products m of one tile, where A' = [1 1 1 0; 0 1 -1 -1], with what follows the convolution.
    #[inline(always)]
    unsafe fn give<S: Simd>(&mut self, tile: Place, from: *const f32, plane: usize) {
        let g = self.geometry;
        let lines = self.rows.len();
        let mut first = 0;
        while first < g.outputs {
            let lanes = (g.outputs - first).min(S::LANES);
            // SAFETY: the caller guarantees it; every plane has as many numbers for each tile as there are outputs.
            unsafe {
                let bias = S::load(self.bias.as_ptr().add(first));
                let [mut upper, mut lower] = [[S::zero(); 4]; 2];
                for (x, (upper, lower)) in upper.iter_mut().zip(&mut lower).enumerate() {
                    let [a, b, c, d] =
                        std::array::from_fn(|y| S::load(from.add((4 * y + x) * plane + first)));
                    *upper = a.add(b).add(c);
                    *lower = minus(minus(b, c), d);
                }
                let results = [upper, lower].map(|[a, b, c, d]| {
                    [a.add(b).add(c).add(bias), minus(minus(b, c), d).add(bias)]
                });
                if let Some(taken) = &mut self.taken {
                    let columns = g.out_width / SIDE;
                    let row = tile.image * lines + tile.row - self.rows.start;
                    let at = (row * columns + tile.column) * g.outputs + first;
                    let mut best = results[0][0];
                    let mut number = S::zero();
                    for (n, other) in [
                        (1.0, results[0][1]),
                        (2.0, results[1][0]),
                        (3.0, results[1][1]),
                    ] {
                        let beats = other.beats(best);
                        best = other.select(beats, best);
                        number = S::splat(n).select(beats, number);
                    }
                    let best = if self.relu { best.relu() } else { best };
                    best.store_part(self.out.as_mut_ptr().add(at), lanes);
                    number.store_bytes(taken.as_mut_ptr().add(at), lanes);
                } else {
                    let high = (self.rows.end - tile.row * SIDE).min(SIDE);
                    let wide = (g.out_width - tile.column * SIDE).min(SIDE);
                    let row = tile.image * lines + tile.row * SIDE - self.rows.start;
                    for (dy, results) in results.iter().enumerate().take(high) {
                        for (dx, &result) in results.iter().enumerate().take(wide) {
                            let column = tile.column * SIDE + dx;
                            let at = ((row + dy) * g.out_width + column) * g.outputs + first;
                            let result = if self.relu { result.relu() } else { result };
                            let out = self.out.as_mut_ptr().add(at);
                            if lanes == S::LANES {
                                result.store(out);
                            } else {
                                result.store_part(out, lanes);
                            }
                        }
                    }
                }
            }
            first += S::LANES;
        }
    }
}
