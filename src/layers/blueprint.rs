//! What a layer computes, in plain numbers, for those who compute it elsewhere (the CUDA engine).

use super::chain::Chain;
use super::conv::{self, Dropout, Geometry};
use super::norm::{self, Norm};

/// A layer's arithmetic. Its parameters are those of `Layer::params`, in their order.
pub enum Blueprint<'a> {
    Conv {
        geometry: Geometry,
        after: conv::After,
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
        after: norm::After,
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
        body: &'a Chain,
        tail: Tail<'a>,
        shortcut: &'a Chain,
    },
}

/// What adds a residual block's two branches.
pub enum Tail<'a> {
    Norm(&'a Norm),
    Sum { relu: bool },
}
