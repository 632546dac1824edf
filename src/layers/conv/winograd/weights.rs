//! The transformed weights: for each place of a tile, those of a 1x1 convolution.

use super::scheme::{Scheme, Tile, Transforms};
use super::turned;
use crate::hardware::threads::{SharedSlice, Threads};
use crate::layers::conv::geometry::Geometry;
use crate::layers::conv::pack;

/// f32 in the widest vector.
const MAX_LANES: usize = 16;

/// f32 of transformed weights.
pub fn packed_len(g: &Geometry, tile: Tile, lanes: usize) -> usize {
    tile.places() * pack::packed_len(g.inputs, g.outputs, lanes)
}

/// Transforms OIHW weights: for each place, packed weights of a 1x1 convolution.
pub fn pack(
    g: &Geometry,
    tile: Tile,
    weight: &[f32],
    lanes: usize,
    threads: &Threads,
    packed: &mut [f32],
) {
    transform(g, tile, lanes, threads, packed, |o, i| {
        let at = 9 * (o * g.inputs + i);
        std::array::from_fn(|n| weight[at + n])
    });
}

/// The same for the input gradient, with [`turned`] geometry.
pub fn pack_turned(
    g: &Geometry,
    tile: Tile,
    weight: &[f32],
    lanes: usize,
    threads: &Threads,
    packed: &mut [f32],
) {
    transform(&turned(g), tile, lanes, threads, packed, |i, o| {
        let at = 9 * (o * g.inputs + i);
        std::array::from_fn(|n| weight[at + 8 - n])
    });
}

/// `weight` gives the 3x3 numbers between an output and an input.
fn transform(
    g: &Geometry,
    tile: Tile,
    lanes: usize,
    threads: &Threads,
    packed: &mut [f32],
    weight: impl Fn(usize, usize) -> [f32; 9] + Sync,
) {
    let (inputs, outputs) = (g.inputs, g.outputs);
    match tile {
        Tile::Two => transform_on::<2, 4>(inputs, outputs, lanes, threads, packed, weight),
        Tile::Four => transform_on::<4, 6>(inputs, outputs, lanes, threads, packed, weight),
    }
}

fn transform_on<const SIDE: usize, const REACH: usize>(
    inputs: usize,
    outputs: usize,
    lanes: usize,
    threads: &Threads,
    packed: &mut [f32],
    weight: impl Fn(usize, usize) -> [f32; 9] + Sync,
) where
    Transforms<SIDE, REACH>: Scheme<SIDE, REACH>,
{
    let plane = pack::packed_len(inputs, outputs, lanes);
    let packed = SharedSlice::new(packed);
    threads.run(outputs.div_ceil(2 * lanes), |block| {
        let first = block * 2 * lanes;
        let width = pack::block_width(first, outputs, lanes);
        for input in 0..inputs {
            let line = first * inputs + input * width;
            let mut places = [[[0.0; REACH]; REACH]; 2 * MAX_LANES];
            for (n, places) in places[..width.min(outputs - first)].iter_mut().enumerate() {
                *places = transformed::<SIDE, REACH>(&weight(first + n, input));
            }
            for place in 0..REACH * REACH {
                let begin = place * plane + line;
                // SAFETY: every task has blocks of its own.
                let out = unsafe { packed.range(begin..begin + width) };
                for (out, places) in out.iter_mut().zip(&places) {
                    *out = places[place / REACH][place % REACH];
                }
            }
        }
    });
}

/// G g G'.
fn transformed<const SIDE: usize, const REACH: usize>(g: &[f32; 9]) -> [[f32; REACH]; REACH]
where
    Transforms<SIDE, REACH>: Scheme<SIDE, REACH>,
{
    let mut rows = [[0.0; 3]; REACH];
    for x in 0..3 {
        let column = Transforms::<SIDE, REACH>::weights([g[x], g[3 + x], g[6 + x]]);
        for (row, v) in rows.iter_mut().zip(column) {
            row[x] = v;
        }
    }
    let mut places = [[0.0; REACH]; REACH];
    for (places, row) in places.iter_mut().zip(rows) {
        *places = Transforms::<SIDE, REACH>::weights(row);
    }
    places
}
