//! The weight gradient: the steps of the convolution backwards.

use super::scheme::{Scheme, Tile, Transforms, across};
use super::{Input, LINE, Place, Tiles, line_step, tiles_of, tiles_of_image};
use crate::hardware::simd::{Kernel, Simd};
use crate::layers::conv::geometry::{Geometry, cut};
use crate::layers::conv::tile::{Pixels, Sums};
use crate::layers::slices::scratch;

/// f32 of transformed inputs and gradients that are summed over together: many, since sums that are too many for the
/// registers come and go with every block.
const SUMS_LEN: usize = 1 << 18;

/// The weight gradient of some images, as it is before [`back`]: for each place, lines of outputs for every input.
pub struct WeightSums<'a> {
    pub tile: Tile,
    pub geometry: &'a Geometry,
    pub images: usize,
    pub x: &'a [f32],
    /// Of the convolution's results.
    pub grad: &'a [f32],
    /// As many zeros as the wider of inputs and outputs has numbers, padded to whole blocks.
    pub zeros: &'a [f32],
    pub sums: &'a mut [f32],
    /// Overwrite `sums`.
    pub fresh: bool,
}

/// Images that are best summed over together.
pub fn images_summed(g: &Geometry, tile: Tile) -> usize {
    tiles_of(SUMS_LEN, g, tile) / tiles_of_image(g, tile)
}

/// f32 of a weight gradient's sums.
pub fn sums_len(g: &Geometry, tile: Tile, lanes: usize) -> usize {
    tile.places() * g.inputs * g.outputs.next_multiple_of(lanes)
}

impl Kernel for WeightSums<'_> {
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

impl WeightSums<'_> {
    #[inline(always)]
    unsafe fn run_on<S: Simd, const SIDE: usize, const REACH: usize>(self)
    where
        Transforms<SIDE, REACH>: Scheme<SIDE, REACH>,
    {
        let g = self.geometry;
        let places = REACH * REACH;
        let tiles = Tiles {
            images: self.images,
            first: 0,
            rows: g.out_height.div_ceil(SIDE),
            columns: g.out_width.div_ceil(SIDE),
        };
        let (from, to) = (
            line_step(g.inputs, S::LANES),
            line_step(g.outputs, S::LANES),
        );
        let channels = g.outputs.next_multiple_of(S::LANES);
        let wanted = tiles_of(SUMS_LEN, g, self.tile).max(14);
        let blocks = tiles.count().div_ceil(wanted);
        let most = tiles.count().div_ceil(blocks.max(1));
        let input = Input {
            geometry: g,
            x: self.x,
            zeros: self.zeros,
        };
        let (input_plane, grad_plane) = (most * from + LINE, most * to + LINE);
        let mut inputs = scratch(places * input_plane);
        let mut grads = scratch(places * grad_plane);
        let len = g.inputs * channels;
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
                for tile in begin..end {
                    let out = grads.as_mut_ptr().add((tile - begin) * to);
                    self.take_grad::<S, SIDE, REACH>(tiles.at(tile), out, grad_plane);
                }
                for place in 0..places {
                    S::call(Sums {
                        x: Pixels {
                            at: inputs.as_ptr().add(place * input_plane),
                            row: 0,
                            step: from,
                        },
                        grad: Pixels {
                            at: grads.as_ptr().add(place * grad_plane),
                            row: 0,
                            step: to,
                        },
                        images: 1,
                        x_image: 0,
                        grad_image: 0,
                        rows: 1,
                        columns: end - begin,
                        kernel: 1,
                        run: g.inputs,
                        x_line: 0,
                        channels,
                        out: self.sums[place * len..(place + 1) * len].as_mut_ptr(),
                        fresh: self.fresh && block == 0,
                    });
                }
            }
        }
    }

    /// A d A' of the gradient d of one tile's results.
    #[inline(always)]
    unsafe fn take_grad<S: Simd, const SIDE: usize, const REACH: usize>(
        &self,
        tile: Place,
        out: *mut f32,
        plane: usize,
    ) where
        Transforms<SIDE, REACH>: Scheme<SIDE, REACH>,
    {
        let g = self.geometry;
        let mut pixels = [[self.zeros.as_ptr(); SIDE]; SIDE];
        let image = &self.grad[tile.image * g.out_height * g.out_width * g.outputs..];
        for (dy, pixels) in pixels.iter_mut().enumerate() {
            for (dx, pixel) in pixels.iter_mut().enumerate() {
                let (y, x) = (tile.row * SIDE + dy, tile.column * SIDE + dx);
                if y < g.out_height && x < g.out_width {
                    *pixel = image[(y * g.out_width + x) * g.outputs..].as_ptr();
                }
            }
        }
        let mut first = 0;
        while first < g.outputs {
            let lanes = (g.outputs - first).min(S::LANES);
            // SAFETY: the caller guarantees it; every pixel has as many numbers as there are outputs.
            unsafe {
                let mut d = [[S::zero(); SIDE]; SIDE];
                for (d, pixels) in d.iter_mut().zip(pixels) {
                    for (d, pixel) in d.iter_mut().zip(pixels) {
                        *d = if lanes == S::LANES {
                            S::load(pixel.add(first))
                        } else {
                            S::load_part(pixel.add(first), lanes)
                        };
                    }
                }
                let mut columns = [[S::zero(); REACH]; SIDE];
                for (x, column) in columns.iter_mut().enumerate() {
                    *column = Transforms::<SIDE, REACH>::spread(across(&d, x));
                }
                let mut out = out.add(first);
                for y in 0..REACH {
                    for v in Transforms::<SIDE, REACH>::spread(across(&columns, y)) {
                        v.store(out);
                        out = out.add(plane);
                    }
                }
            }
            first += S::LANES;
        }
    }
}

/// From the sums for one input, a line of outputs for each place, to the 3x3 gradient, a line for each of its numbers,
/// which come first: G' s G.
pub fn back(tile: Tile, sums: &mut [f32], line: usize) {
    match tile {
        Tile::Two => back_from::<2, 4>(sums, line),
        Tile::Four => back_from::<4, 6>(sums, line),
    }
}

fn back_from<const SIDE: usize, const REACH: usize>(sums: &mut [f32], line: usize)
where
    Transforms<SIDE, REACH>: Scheme<SIDE, REACH>,
{
    for output in 0..line {
        let at = |y: usize, x: usize| (REACH * y + x) * line + output;
        let mut half = [[0.0; 3]; REACH];
        for (y, half) in half.iter_mut().enumerate() {
            *half = Transforms::<SIDE, REACH>::back(std::array::from_fn(|x| sums[at(y, x)]));
        }
        for x in 0..3 {
            let column = Transforms::<SIDE, REACH>::back(across(&half, x));
            for (y, v) in column.into_iter().enumerate() {
                sums[(3 * y + x) * line + output] = v;
            }
        }
    }
}
