//! The kinds of layers, one folder each:
//!
//! - `mod.rs`: its description ([`LayerOp`](kind::LayerOp)): its word and arguments in an architecture's text, its
//!   shapes, its parameters and their initial values, its cost;
//! - `cpu.rs`: the fused layer ([`Layer`](cpu::Layer)), forward and backward, with its kernels beside it;
//! - `gpu.rs` and `.cu`: its launches ([`Layer::schedule`](cpu::Layer::schedule)) and kernels on a GPU;
//! - `candle.rs`: the reference in Candle's operations, with which tests compare both.
//!
//! A new kind is a folder and its two lines here, the `pub mod` line and the row in [`KINDS`]. Layers know no data set, no
//! optimizer and no screen.
//!
//! Activations are f32, NHWC: `[capacity, height, width, channels]`; a dense layer's are `[capacity, 1, 1, features]`.
//! Parameters and their gradients have PyTorch's names and shapes (convolution OIHW, dense `[out, in]` with the inputs
//! in CHW order); kernels repack what they need.

pub mod candle;
pub mod cpu;
pub mod gpu;
pub mod input;
pub mod kind;
pub mod loss;
pub mod sequential;
pub mod slices;
#[cfg(test)]
mod tests;

pub mod activation;
pub mod conv;
pub mod dense;
pub mod dropout;
pub mod global_pool;
pub mod norm;
pub mod pool;
pub mod relu;
pub mod residual;
pub mod scale;
pub mod whiten;

use kind::Kind;

/// Every kind of layer.
pub static KINDS: &[Kind] = &[
    conv::KIND,
    norm::KIND,
    relu::KIND,
    activation::GELU,
    activation::SILU,
    pool::KIND,
    global_pool::KIND,
    dropout::KIND,
    dense::KIND,
    scale::KIND,
    residual::KIND,
    whiten::KIND,
];
