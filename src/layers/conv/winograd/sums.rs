//! The weight gradient: the steps of the convolution backwards.

use super::{Input, LINE, PLACES, Place, SIDE, Tiles, minus};
use crate::hardware::simd::{Kernel, Simd};
use crate::layers::conv::geometry::{Geometry, cut};
use crate::layers::conv::tile::{Pixels, Sums};
use crate::layers::slices::scratch;

/// f32 of transformed inputs and gradients that are summed over together: many, since sums that are too many for the
/// registers come and go with every block.
const SUMS_LEN: usize = 1 << 18;

/// The weight gradient of some images, as it is before [`back`]: for each place, lines of outputs for every input.
pub struct WeightSums<'a> {
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
pub fn images_summed(g: &Geometry) -> usize {
    SUMS_LEN / (PLACES * (g.inputs + g.outputs)) / tiles_of(g).count()
}

/// The tiles of one image.
fn tiles_of(g: &Geometry) -> Tiles {
    Tiles {
        images: 1,
        first: 0,
        rows: g.out_height.div_ceil(SIDE),
        columns: g.out_width.div_ceil(SIDE),
    }
}

/// f32 of a weight gradient's sums.
pub fn sums_len(g: &Geometry, lanes: usize) -> usize {
    PLACES * g.inputs * g.outputs.next_multiple_of(lanes)
}

impl Kernel for WeightSums<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let g = self.geometry;
        let tiles = Tiles {
            images: self.images,
            ..tiles_of(g)
        };
        let (from, to) = (
            g.inputs.next_multiple_of(S::LANES),
            g.outputs.next_multiple_of(S::LANES),
        );
        let wanted = (SUMS_LEN / (PLACES * (from + to))).max(14);
        let blocks = tiles.count().div_ceil(wanted);
        let most = tiles.count().div_ceil(blocks.max(1));
        let input = Input {
            geometry: g,
            x: self.x,
            zeros: self.zeros,
        };
        let (input_plane, grad_plane) = (most * from + LINE, most * to + LINE);
        let mut inputs = scratch(PLACES * input_plane);
        let mut grads = scratch(PLACES * grad_plane);
        let len = g.inputs * to;
        for block in 0..blocks {
            let begin = cut(tiles.count(), blocks, block);
            let end = cut(tiles.count(), blocks, block + 1);
            // SAFETY: the caller guarantees it; a block has at most as many tiles as the scratch holds.
            unsafe {
                input.take_all::<S>(&tiles, begin..end, inputs.as_mut_ptr(), input_plane);
                for tile in begin..end {
                    let out = grads.as_mut_ptr().add((tile - begin) * to);
                    self.take_grad::<S>(tiles.at(tile), out, grad_plane);
                }
                for place in 0..PLACES {
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
                        channels: to,
                        out: self.sums[place * len..(place + 1) * len].as_mut_ptr(),
                        fresh: self.fresh && block == 0,
                    });
                }
            }
        }
    }
}

impl WeightSums<'_> {
    /// A d A' of the gradient d of one tile's 2x2 results.
    #[inline(always)]
    unsafe fn take_grad<S: Simd>(&self, tile: Place, out: *mut f32, plane: usize) {
        let g = self.geometry;
        let mut pixels = [[self.zeros.as_ptr(); 2]; 2];
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
                let mut d = [[S::zero(); 2]; 2];
                for (d, pixels) in d.iter_mut().zip(pixels) {
                    for (d, pixel) in d.iter_mut().zip(pixels) {
                        *d = if lanes == S::LANES {
                            S::load(pixel.add(first))
                        } else {
                            S::load_part(pixel.add(first), lanes)
                        };
                    }
                }
                let [[a, b], [c, d]] = d;
                let (left, right) = (spread(a, c), spread(b, d));
                let mut out = out.add(first);
                for (a, b) in left.into_iter().zip(right) {
                    for v in spread(a, b) {
                        v.store(out);
                        out = out.add(plane);
                    }
                }
            }
            first += S::LANES;
        }
    }
}

/// A d for two numbers.
#[inline(always)]
unsafe fn spread<S: Simd>(a: S, b: S) -> [S; 4] {
    // SAFETY: the caller guarantees it.
    unsafe { [a, a.add(b), minus(a, b), minus(S::zero(), b)] }
}

/// From the sums for one input, a line of outputs for each place, to the 3x3 gradient, a line for each of its numbers,
/// which come first: G' s G.
pub fn back(sums: &mut [f32], line: usize) {
    let three = |[a, b, c, d]: [f32; 4]| [a + 0.5 * (b + c), 0.5 * (b - c), d + 0.5 * (b + c)];
    for output in 0..line {
        let at = |y: usize, x: usize| (4 * y + x) * line + output;
        let mut half = [[0.0; 3]; 4];
        for (y, half) in half.iter_mut().enumerate() {
            *half = three(std::array::from_fn(|x| sums[at(y, x)]));
        }
        for x in 0..3 {
            let column = three(std::array::from_fn(|y| half[y][x]));
            for (y, v) in column.into_iter().enumerate() {
                sums[(3 * y + x) * line + output] = v;
            }
        }
    }
}
