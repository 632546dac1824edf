//! The launches of a ReLU that is not fused into another layer.

use crate::layers::gpu::{
    Activation, BackwardLaunches, BackwardReads, KernelPair, LaunchBuilder, define,
};
use std::fmt::Write;

const SOURCE: &str = include_str!("relu.cu");

pub fn schedule(builder: &mut LaunchBuilder, input: &Activation) -> (Activation, BackwardLaunches) {
    let mut constants = String::new();
    define!(constants, LEN = input.len);
    let pair = KernelPair {
        source: SOURCE,
        constants,
        forward: "relu_forward",
        backward: "relu_backward",
        backward_reads: BackwardReads::Output,
        flop: [1, 1],
    };
    builder.kernel_pair(pair, input, input.len)
}
