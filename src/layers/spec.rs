//! What a layer computes, in plain numbers, for those who compute it elsewhere (the CUDA engine).

use super::conv::{self, Dropout, Geometry};
use super::norm::{self, Norm};
use super::sequential::Sequential;

/// A layer's arithmetic. Its parameters are those of `Layer::params`, in their order.
pub enum LayerSpec<'a> {
    Conv {
        geometry: Geometry,
        after: conv::ConvEpilogue,
        bias: bool,
    },
    /// The inputs are `pixels` pixels of `channels` channels, the weights in CHW order.
    Dense {
        channels: usize,
        pixels: usize,
        outputs: usize,
        relu: bool,
        dropout: Option<Dropout>,
        bias: bool,
    },
    /// `input` is (height, width, channels).
    Norm {
        input: (usize, usize, usize),
        after: norm::NormEpilogue,
    },
    /// `input` is (height, width, channels).
    MaxPool {
        input: (usize, usize, usize),
        kernel: usize,
        stride: usize,
    },
    GlobalPool {
        pixels: usize,
        channels: usize,
    },
    Relu,
    Drop(Dropout),
    Residual {
        body: &'a Sequential,
        tail: ResidualEnd<'a>,
        shortcut: &'a Sequential,
    },
}

/// What adds a residual block's two branches.
pub enum ResidualEnd<'a> {
    Norm(&'a Norm),
    Sum { relu: bool },
}
