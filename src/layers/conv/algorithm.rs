//! The algorithms of the backward pass: how each wants the weights, how it lays out its sums, and how many images it
//! takes at a time.

use super::geometry::Geometry;
use super::layout::Layout;
use super::winograd::{self, Tile};
use super::{pack, pooled};
use crate::hardware::threads::Threads;
use crate::layers::slices::Aligned;

/// Small images whose inputs and gradients together are this many f32 (a part of the second-level cache) are summed over
/// together.
const GROUP_LEN: usize = 1 << 15;

/// An algorithm of the backward pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Algorithm {
    /// `backward.rs`: the gradient is dense.
    Direct,
    /// `winograd`: dense, in fewer multiplications, on tiles of this size.
    Winograd(Tile),
    /// `sparse.rs`: ReLU, dropout or pooling left little of the gradient.
    Sparse,
    /// `pooled.rs`: pooling alone left a quarter of the gradient.
    Pooled,
}

impl Algorithm {
    /// Winograd's tiles, if these are the dense kernels with them.
    pub fn tile(self) -> Option<Tile> {
        match self {
            Algorithm::Winograd(tile) => Some(tile),
            _ => None,
        }
    }

    /// Packs OIHW weights for the input gradient.
    pub fn pack(
        self,
        g: &Geometry,
        weight: &[f32],
        lanes: usize,
        threads: &Threads,
        packed: &mut Aligned,
    ) {
        match self {
            Algorithm::Direct => {
                let len = pack::packed_len(g.kernel * g.kernel * g.outputs, g.inputs, lanes);
                pack::turned(g, weight, lanes, packed.reserve(len));
            }
            Algorithm::Winograd(tile) => {
                let len = winograd::packed_len(&winograd::turned(g), tile, lanes);
                winograd::pack_turned(g, tile, weight, lanes, threads, packed.reserve(len));
            }
            Algorithm::Sparse => Layout::whole(g, lanes).pack(g, weight, packed),
            Algorithm::Pooled => Layout::vectors(g, lanes).pack(g, weight, packed),
        }
    }

    /// f32 of the sums of the weight gradient.
    pub fn sums_len(self, g: &Geometry, lanes: usize) -> usize {
        match self {
            Algorithm::Direct => g.patch() * g.outputs.next_multiple_of(lanes),
            Algorithm::Winograd(tile) => winograd::sums_len(g, tile, lanes),
            Algorithm::Sparse => Layout::whole(g, lanes).weights_len(g),
            Algorithm::Pooled => Layout::vectors(g, lanes).weights_len(g),
        }
    }

    /// Images that are best worked on together.
    pub fn images(self, g: &Geometry, lanes: usize) -> usize {
        match self {
            Algorithm::Direct => {
                let outputs = g.out_height * g.out_width * g.outputs;
                (GROUP_LEN / (g.input_len() + outputs)).max(1)
            }
            Algorithm::Winograd(tile) => winograd::images_summed(g, tile).max(1),
            // Lists are made image by image.
            Algorithm::Sparse => 1,
            Algorithm::Pooled => pooled::images(g, lanes),
        }
    }
}
