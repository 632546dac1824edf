//! The dense 3x3 convolution with stride 1 in fewer multiplications: Winograd's minimal filtering F(2x2, 3x3) and
//! F(4x4, 3x3), after Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016).
//!
//! A tile of 2x2 results depends on 4x4 inputs. Input tiles and weights are transformed (by additions, and halves of
//! weights), which turns the convolution into sixteen products of matrices, one for each of the 4x4 places: tiles by
//! inputs times inputs by outputs. Each is a 1x1 convolution, and runs on the tiles of `tile.rs`. Transforming the
//! products back gives the results: 16 multiply-adds where the direct convolution has 36. The input gradient is such a
//! convolution too, and the weight gradient goes all the steps backwards.
//!
//! A tile of 4x4 results depends on 6x6 inputs: 36 multiply-adds where the direct convolution has 144. Its transforms
//! multiply by up to 8, and lose almost three more bits than those of 2x2: at 64, 128 and 256 channels, the root mean square
//! of the results' errors is 1.8e-6, 2.6e-6 and 3.5e-6 of that of the results (2x2: 2.7e-7, 3.6e-7 and 5.0e-7), and for the
//! weight gradient 0.9e-6 (2x2: 1.5e-7); a test prints these figures. These tiles are used in large batches of many
//! channels, where they are faster ([`tile`]): in the airbench recipe, not in the seed recipe.

#![allow(
    clippy::needless_range_loop,
    reason = "constant index loops become registers; iterators over arrays of vectors less surely so"
)]

mod scheme;
mod sums;
mod weights;

pub use scheme::Tile;
pub use sums::{WeightSums, back, images_summed, sums_len};
pub use weights::{pack, pack_turned, packed_len};

use super::geometry::{Geometry, cut};
use super::pack;
use super::tile::{Convolve, Pixels};
use crate::hardware::simd::{Kernel, Simd, prefetch};
use crate::layers::slices::scratch;
use scheme::{Scheme, Transforms, across};
use std::ops::Range;

/// f32 in a cache line.
const LINE: usize = 16;
/// f32 of transformed inputs and products that are worked on together: a part of the second-level cache.
const BLOCK_LEN: usize = 1 << 15;
/// Every block reads all transformed weights, and every block of sums reads and writes all of them. Where these are so
/// many that they come from memory, a block has at least this part of their number.
const PART_OF_WEIGHTS: usize = 2;
/// Channels, of inputs and of outputs, from which the transforms of the two sizes of tiles are worth their time.
const CHANNELS: usize = 16;
const CHANNELS_OF_FOUR: usize = 64;
/// Tiles of 4x4 in a batch from which transforming 36 instead of 16 matrices of weights is worth its time.
const TILES_OF_FOUR: usize = 1024;

/// The size of tiles that is fastest for so many images of that geometry; None where the direct convolution is.
pub fn tile(g: &Geometry, images: usize) -> Option<Tile> {
    let channels = g.inputs.min(g.outputs);
    if g.kernel != 3 || g.stride != 1 || channels < CHANNELS {
        return None;
    }
    let products = |tile: Tile| tiles_of_image(g, tile) * tile.places();
    let pays = channels >= CHANNELS_OF_FOUR
        && images * tiles_of_image(g, Tile::Four) >= TILES_OF_FOUR
        && products(Tile::Four) < products(Tile::Two);
    match pays {
        true => Some(Tile::Four),
        false => Some(Tile::Two),
    }
}

/// Tiles of one image's results.
fn tiles_of_image(g: &Geometry, tile: Tile) -> usize {
    g.out_height.div_ceil(tile.side()) * g.out_width.div_ceil(tile.side())
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
pub fn block(g: &Geometry, tile: Tile) -> usize {
    tiles_of(BLOCK_LEN, g, tile).max(1).next_multiple_of(14)
}

/// Tiles whose numbers, in inputs and outputs, are `len` f32, or the part of the weights that is worth reading them.
fn tiles_of(len: usize, g: &Geometry, tile: Tile) -> usize {
    let weights = g.inputs * g.outputs / PART_OF_WEIGHTS;
    len.max(tile.places() * weights) / (tile.places() * (g.inputs + g.outputs))
}

/// Images whose tiles make a block.
pub fn images(g: &Geometry, tile: Tile) -> usize {
    block(g, tile) / tiles_of_image(g, tile)
}

/// f32 from one tile's channels to the next: lines a power of two apart would stand in each other's way in the cache.
fn line_step(channels: usize, lanes: usize) -> usize {
    let line = channels.next_multiple_of(lanes);
    match line.is_multiple_of(8 * LINE) {
        true => line + LINE,
        false => line,
    }
}

/// The convolution of some rows of some images.
pub struct Winograd<'a> {
    pub tile: Tile,
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
    /// 2x2 max-pooling: which of the four results each pixel is, goes to this.
    pub taken: Option<&'a mut [u8]>,
    /// Rows of the results, or of the pooled pixels when it pools. They begin where a tile does.
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
    /// Transforms the tiles of this range of `tiles`, one after the other.
    #[inline(always)]
    unsafe fn take_all<S: Simd, const SIDE: usize, const REACH: usize>(
        &self,
        tiles: &Tiles,
        range: Range<usize>,
        out: *mut f32,
        plane: usize,
    ) where
        Transforms<SIDE, REACH>: Scheme<SIDE, REACH>,
    {
        let step = line_step(self.geometry.inputs, S::LANES);
        let mut tile = range.start;
        while tile < range.end {
            let place = tiles.at(tile);
            let count = (tiles.columns - place.column).min(range.end - tile);
            // SAFETY: the caller guarantees it.
            unsafe {
                let out = out.add((tile - range.start) * step);
                self.take::<S, SIDE, REACH>(place, count, out, plane);
            }
            tile += count;
        }
    }

    /// B' d B of the inputs d of some tiles of a row, into planes that begin `plane` apart.
    #[inline(always)]
    unsafe fn take<S: Simd, const SIDE: usize, const REACH: usize>(
        &self,
        tile: Place,
        count: usize,
        out: *mut f32,
        plane: usize,
    ) where
        Transforms<SIDE, REACH>: Scheme<SIDE, REACH>,
    {
        let g = self.geometry;
        let step = line_step(g.inputs, S::LANES);
        let image = &self.x[tile.image * g.input_len()..];
        // The processor does not foresee the next row of tiles.
        let (line, from) = (g.width * g.inputs, tile.column * SIDE * g.inputs);
        for y in REACH..REACH + SIDE {
            let at = (tile.row * SIDE + y) * line + from;
            if let Some(next) =
                image.get(at..at + (count * SIDE * g.inputs).min(line.saturating_sub(from)))
            {
                prefetch(next);
            }
        }
        // Rows outside of the image are zeros, as are columns.
        let mut rows = [(self.zeros.as_ptr(), 0); REACH];
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
                let mut columns = [[S::zero(); REACH]; REACH];
                // Neighbouring tiles share two columns.
                for (x, column) in columns[SIDE..].iter_mut().enumerate() {
                    let x = begin.wrapping_add(x);
                    *column = input_column::<S, SIDE, REACH>(&rows, x, g.width, first, lanes);
                }
                for n in 0..count {
                    let x = begin.wrapping_add(SIDE * n + REACH - SIDE);
                    columns.copy_within(SIDE.., 0);
                    for (i, column) in columns[REACH - SIDE..].iter_mut().enumerate() {
                        let x = x.wrapping_add(i);
                        *column = input_column::<S, SIDE, REACH>(&rows, x, g.width, first, lanes);
                    }
                    let mut out = out.add(n * step + first);
                    for y in 0..REACH {
                        for v in Transforms::<SIDE, REACH>::input(across(&columns, y)) {
                            v.store(out);
                            out = out.add(plane);
                        }
                    }
                }
            }
            first += S::LANES;
        }
    }
}

impl Kernel for Winograd<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller guarantees it.
        unsafe {
            match self.tile {
                Tile::Two => self.run_on::<S, 2, 4>(),
                Tile::Four => self.run_on::<S, 4, 6>(),
            }
        }
    }
}

impl Winograd<'_> {
    #[inline(always)]
    unsafe fn run_on<S: Simd, const SIDE: usize, const REACH: usize>(mut self)
    where
        Transforms<SIDE, REACH>: Scheme<SIDE, REACH>,
    {
        let g = self.geometry;
        let tiles = self.tiles();
        let places = REACH * REACH;
        let blocks = tiles.count().div_ceil(block(g, self.tile));
        let most = tiles.count().div_ceil(blocks.max(1));
        let input = Input {
            geometry: g,
            x: self.x,
            zeros: self.zeros,
        };
        let (from, to) = (
            line_step(g.inputs, S::LANES),
            line_step(g.outputs, S::LANES),
        );
        let channels = g.outputs.next_multiple_of(S::LANES);
        // Places a power of two apart would stand in each other's way in the cache.
        let (input_plane, product_plane) = (most * from + LINE, most * to + LINE);
        let mut inputs = scratch(places * input_plane);
        let mut products = scratch(places * product_plane);
        let plane = pack::packed_len(g.inputs, g.outputs, S::LANES);
        for block in 0..blocks {
            let begin = cut(tiles.count(), blocks, block);
            let end = cut(tiles.count(), blocks, block + 1);
            // SAFETY: the caller guarantees it; a block has at most as many tiles as the scratch holds.
            unsafe {
                input.take_all::<S, SIDE, REACH>(
                    &tiles,
                    begin..end,
                    inputs.as_mut_ptr(),
                    input_plane,
                );
                for place in 0..places {
                    S::call(Convolve {
                        weights: &self.weights[place * plane..(place + 1) * plane],
                        bias: self.zeros,
                        kernel: 1,
                        run: g.inputs,
                        channels,
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
                    self.give::<S, SIDE, REACH>(tiles.at(tile), from, product_plane);
                }
            }
        }
    }
}

/// B' d for column `x` of some rows, each with f32 from one pixel to the next.
#[inline(always)]
unsafe fn input_column<S: Simd, const SIDE: usize, const REACH: usize>(
    rows: &[(*const f32, usize); REACH],
    x: usize,
    width: usize,
    first: usize,
    lanes: usize,
) -> [S; REACH]
where
    Transforms<SIDE, REACH>: Scheme<SIDE, REACH>,
{
    // SAFETY: the caller guarantees it.
    unsafe {
        let mut d = [S::zero(); REACH];
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
        Transforms::<SIDE, REACH>::input(d)
    }
}

impl Winograd<'_> {
    /// When it pools, an odd last row or column is left out.
    #[inline(always)]
    fn tiles(&self) -> Tiles {
        let width = self.geometry.out_width;
        // Pixels of the output that a tile makes, on a side.
        let (pixels, width) = match self.taken {
            Some(_) => (self.tile.side() / 2, width / 2),
            None => (self.tile.side(), width),
        };
        let (first, rows, columns) = (
            self.rows.start / pixels,
            self.rows.len().div_ceil(pixels),
            width.div_ceil(pixels),
        );
        Tiles {
            images: self.images,
            first,
            rows,
            columns,
        }
    }

    /// A' m A of the products m of one tile, with what follows the convolution.
    #[inline(always)]
    unsafe fn give<S: Simd, const SIDE: usize, const REACH: usize>(
        &mut self,
        tile: Place,
        from: *const f32,
        plane: usize,
    ) where
        Transforms<SIDE, REACH>: Scheme<SIDE, REACH>,
    {
        let g = self.geometry;
        let mut first = 0;
        while first < g.outputs {
            let lanes = (g.outputs - first).min(S::LANES);
            // SAFETY: the caller guarantees it; every plane has as many numbers for each tile as there are outputs.
            unsafe {
                let bias = S::load(self.bias.as_ptr().add(first));
                let mut columns = [[S::zero(); SIDE]; REACH];
                for (x, column) in columns.iter_mut().enumerate() {
                    let mut m = [S::zero(); REACH];
                    for (y, m) in m.iter_mut().enumerate() {
                        *m = S::load(from.add((REACH * y + x) * plane + first));
                    }
                    *column = Transforms::<SIDE, REACH>::output(m);
                }
                let mut results = [[S::zero(); SIDE]; SIDE];
                for (y, results) in results.iter_mut().enumerate() {
                    *results = Transforms::<SIDE, REACH>::output(across(&columns, y));
                    for result in results {
                        *result = result.add(bias);
                    }
                }
                match self.taken {
                    Some(_) => self.pool(tile, &results, first, lanes),
                    None => self.store(tile, &results, first, lanes),
                }
            }
            first += S::LANES;
        }
    }

    /// Stores the results of some channels.
    #[inline(always)]
    unsafe fn store<S: Simd, const SIDE: usize>(
        &mut self,
        tile: Place,
        results: &[[S; SIDE]; SIDE],
        first: usize,
        lanes: usize,
    ) {
        let g = self.geometry;
        let high = (self.rows.end - tile.row * SIDE).min(SIDE);
        let wide = (g.out_width - tile.column * SIDE).min(SIDE);
        let row = tile.image * self.rows.len() + tile.row * SIDE - self.rows.start;
        for (dy, results) in results.iter().enumerate().take(high) {
            for (dx, &result) in results.iter().enumerate().take(wide) {
                let column = tile.column * SIDE + dx;
                let at = ((row + dy) * g.out_width + column) * g.outputs + first;
                // SAFETY: the caller guarantees it; the result is one of the rows that `out` holds.
                unsafe {
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

    /// Stores the largest of each 2x2 results of some channels, and which one it is. Of equal ones it is the first; NaN is
    /// larger than any number.
    #[inline(always)]
    unsafe fn pool<S: Simd, const SIDE: usize>(
        &mut self,
        tile: Place,
        results: &[[S; SIDE]; SIDE],
        first: usize,
        lanes: usize,
    ) {
        let g = self.geometry;
        let Some(taken) = &mut self.taken else {
            return;
        };
        let (pixels, width) = (SIDE / 2, g.out_width / 2);
        let high = (self.rows.end - tile.row * pixels).min(pixels);
        let wide = (width - tile.column * pixels).min(pixels);
        let row = tile.image * self.rows.len() + tile.row * pixels - self.rows.start;
        for dy in 0..high {
            for dx in 0..wide {
                let at = ((row + dy) * width + tile.column * pixels + dx) * g.outputs + first;
                let [upper, lower] = [results[2 * dy], results[2 * dy + 1]];
                // SAFETY: the caller guarantees it; the pixel is one of the rows that `out` and `taken` hold.
                unsafe {
                    let mut best = upper[2 * dx];
                    let mut number = S::zero();
                    let others = [upper[2 * dx + 1], lower[2 * dx], lower[2 * dx + 1]];
                    let mut n = 1.0;
                    for other in others {
                        let beats = other.beats(best);
                        best = other.select(beats, best);
                        number = S::splat(n).select(beats, number);
                        n += 1.0;
                    }
                    let best = if self.relu { best.relu() } else { best };
                    best.store_part(self.out.as_mut_ptr().add(at), lanes);
                    number.store_bytes(taken.as_mut_ptr().add(at), lanes);
                }
            }
        }
    }
}
