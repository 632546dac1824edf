//! Weights in the order in which the kernels read them.
//!
//! Packed weights are blocks of output channels, each as wide as a tile (two vectors; the last block one, when that is
//! enough), and in each block one line of weights for every number of the patch, in the order (row, column, input
//! channel). Lanes beyond the last channel are zero.

use super::geometry::Geometry;

/// f32 of packed weights for `channels` results from patches of `patch`.
pub fn packed_len(patch: usize, channels: usize, lanes: usize) -> usize {
    patch * channels.next_multiple_of(lanes)
}

/// Width of the block that begins at channel `first`.
pub fn block_width(first: usize, channels: usize, lanes: usize) -> usize {
    if channels - first > lanes {
        2 * lanes
    } else {
        lanes
    }
}

/// OIHW weights for the forward pass.
pub fn forward(g: &Geometry, weight: &[f32], lanes: usize, packed: &mut [f32]) {
    let (k, inputs) = (g.kernel, g.inputs);
    pack(g.outputs, g.patch(), lanes, packed, |o, line| {
        let (place, i) = (line / inputs, line % inputs);
        weight[(o * inputs + i) * k * k + place]
    });
}

/// OIHW weights for the input gradient, which is the convolution of the output's gradient with the kernel turned by
/// 180 degrees, outputs and inputs exchanged.
pub fn turned(g: &Geometry, weight: &[f32], lanes: usize, packed: &mut [f32]) {
    let (k, inputs, outputs) = (g.kernel, g.inputs, g.outputs);
    pack(inputs, k * k * outputs, lanes, packed, |i, line| {
        let (place, o) = (line / outputs, line % outputs);
        weight[(o * inputs + i) * k * k + (k * k - 1 - place)]
    });
}

fn pack(
    channels: usize,
    lines: usize,
    lanes: usize,
    packed: &mut [f32],
    weight: impl Fn(usize, usize) -> f32,
) {
    let mut rest = packed;
    let mut first = 0;
    while first < channels {
        let width = block_width(first, channels, lanes);
        let (block, after) = rest.split_at_mut(lines * width);
        for (line, out) in block.chunks_exact_mut(width).enumerate() {
            for (n, out) in out.iter_mut().enumerate() {
                *out = if first + n < channels {
                    weight(first + n, line)
                } else {
                    0.0
                };
            }
        }
        rest = after;
        first += width;
    }
}
