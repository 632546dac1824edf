//! The launches of a multiplication by a constant.

use crate::layers::gpu::{
    Activation, BackwardLaunches, BackwardReads, KernelPair, LaunchBuilder, define,
};
use std::fmt::Write;

const SOURCE: &str = include_str!("scale.cu");

pub fn schedule(
    factor: f32,
    builder: &mut LaunchBuilder,
    input: &Activation,
) -> (Activation, BackwardLaunches) {
    let mut constants = String::new();
    define!(
        constants,
        LEN = input.len,
        FACTOR = format_args!("{factor:e}f")
    );
    let pair = KernelPair {
        source: SOURCE,
        constants,
        forward: "scale",
        backward: "scale",
        backward_reads: BackwardReads::GradientOnly,
        flop: [1, 1],
    };
    builder.kernel_pair(pair, input, input.len)
}
