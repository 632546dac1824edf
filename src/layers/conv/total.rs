//! Adds the partial sums of a convolution's gradients.

use super::algorithm::Algorithm;
use super::geometry::Geometry;
use super::layout::Layout;
use super::winograd::{self, Tile};
use crate::hardware::simd::{Kernel, Level, Simd};
use crate::hardware::threads::{SharedSlice, Threads};
use crate::layers::slices;

/// The shards of the gradients, to be added up, always in the same order.
pub(super) struct Total<'a> {
    pub(super) geometry: &'a Geometry,
    pub(super) sums: &'a [f32],
    pub(super) shards: usize,
    pub(super) algorithm: Algorithm,
    pub(super) lanes: usize,
}

impl Total<'_> {
    /// Writes the weight gradient in the parameter's order (OIHW).
    pub(super) fn weights(&self, level: Level, threads: &Threads, weight: &mut [f32]) {
        let g = self.geometry;
        let places = g.kernel * g.kernel;
        if self.shards == 0 {
            weight.fill(0.0);
            return;
        }
        let shard_len = self.sums.len() / self.shards;
        let total = |begin: usize, len: usize, out: &mut [f32]| {
            level.run(AddUp {
                parts: self.sums[begin..]
                    .chunks(shard_len)
                    .map(|part| &part[..len.min(part.len())]),
                out: &mut out[..len],
            });
        };
        let lanes = self.lanes;
        // Each output channel's sums stand together, part by part.
        let by_output = |layout: Layout, weight: &mut [f32]| {
            threads.chunks(weight, g.inputs * places, |output, weight| {
                let mut sums = slices::scratch(layout.channel_len(g));
                let parts = weight.chunks_mut(layout.width() * places);
                for (part, weight) in parts.enumerate() {
                    let begin = layout.weights_begin(g, part, output);
                    total(begin, layout.channel_len(g), &mut sums);
                    layout.unpack(g, &sums, weight);
                }
            });
        };
        match self.algorithm {
            Algorithm::Sparse => by_output(Layout::whole(g, lanes), weight),
            Algorithm::Pooled => by_output(Layout::vectors(g, lanes), weight),
            Algorithm::Direct | Algorithm::Winograd(_) => {
                // A task for each input channel: it writes that channel's numbers of every output.
                let line = g.outputs.next_multiple_of(self.lanes);
                let weight = SharedSlice::new(weight);
                let summed = self.algorithm.tile().map_or(places, Tile::places);
                threads.run(g.inputs, |input| {
                    let mut sums = slices::scratch(summed * line);
                    for (place, sums) in sums.chunks_exact_mut(line).enumerate() {
                        total((place * g.inputs + input) * line, line, sums);
                    }
                    if let Some(tile) = self.algorithm.tile() {
                        winograd::back(tile, &mut sums, line);
                    }
                    for output in 0..g.outputs {
                        let begin = (output * g.inputs + input) * places;
                        // SAFETY: no other task has this input.
                        let weight = unsafe { weight.range(begin..begin + places) };
                        for (place, weight) in weight.iter_mut().enumerate() {
                            *weight = sums[place * line + output];
                        }
                    }
                });
            }
        }
    }

    /// Writes the bias gradient, which stands behind `begin` f32 in each shard.
    pub(super) fn bias(&self, begin: usize, bias: &mut [f32]) {
        bias.fill(0.0);
        for part in self.sums.chunks(self.sums.len() / self.shards.max(1)) {
            for (bias, part) in bias.iter_mut().zip(&part[begin..]) {
                *bias += part;
            }
        }
    }
}

/// The sum of the parts, the first first.
struct AddUp<'a, P: Iterator<Item = &'a [f32]>> {
    parts: P,
    out: &'a mut [f32],
}

impl<'a, P: Iterator<Item = &'a [f32]>> Kernel for AddUp<'a, P> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        if let Some(first) = self.parts.next() {
            self.out.copy_from_slice(first);
        }
        for part in self.parts {
            for (out, part) in self.out.iter_mut().zip(part) {
                *out += part;
            }
        }
    }
}
