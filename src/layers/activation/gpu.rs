//! A smooth activation's launches.

use super::Function;
use crate::layers::gpu::{
    Activation, BackwardLaunches, BackwardReads, KernelPair, LaunchBuilder, define,
};
use std::fmt::Write;

const SOURCE: &str = include_str!("activation.cu");

pub fn schedule(
    function: Function,
    builder: &mut LaunchBuilder,
    input: &Activation,
) -> (Activation, BackwardLaunches) {
    let mut constants = String::new();
    define!(
        constants,
        LEN = input.len,
        SILU = u32::from(function == Function::Silu)
    );
    let pair = KernelPair {
        source: SOURCE,
        constants,
        forward: "activate",
        backward: "activate_backward",
        backward_reads: BackwardReads::Input,
        // The slope of SiLU takes 7, that of GELU 9.
        flop: [3, 9],
    };
    builder.kernel_pair(pair, input, input.len)
}

/// The launches of an activation that is fused into another layer: after that layer's, which are given.
pub fn follow(
    function: Function,
    builder: &mut LaunchBuilder,
    (input, before): (Activation, BackwardLaunches),
) -> (Activation, BackwardLaunches) {
    let (output, backward) = schedule(function, builder, &input);
    let both = move |builder: &mut LaunchBuilder| {
        backward(builder);
        before(builder);
    };
    (output, Box::new(both))
}
