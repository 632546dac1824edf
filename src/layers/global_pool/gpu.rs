//! The launches of global pooling.

use crate::layers::gpu::{
    Activation, BackwardLaunches, BackwardReads, KernelPair, LaunchBuilder, define,
};
use std::fmt::Write;

const SOURCE: &str = include_str!("global_pool.cu");

pub fn schedule(
    (pixels, channels): (usize, usize),
    builder: &mut LaunchBuilder,
    input: &Activation,
) -> (Activation, BackwardLaunches) {
    let mut constants = String::new();
    define!(constants, PIXELS = pixels, C = channels);
    let pair = KernelPair {
        source: SOURCE,
        constants,
        forward: "global_pool_forward",
        backward: "global_pool_backward",
        backward_reads: BackwardReads::GradientOnly,
        flop: [pixels + 1, 1],
    };
    builder.kernel_pair(pair, input, channels)
}
