//! The launches of global pooling.

use crate::layers::gpu::{Activation, BackwardLaunches, LaunchBuilder, define};
use std::fmt::Write;

const SOURCE: &str = include_str!("global_pool.cu");

pub fn schedule(
    (pixels, channels): (usize, usize),
    builder: &mut LaunchBuilder,
    input: &Activation,
) -> (Activation, BackwardLaunches) {
    let mut constants = String::new();
    define!(constants, PIXELS = pixels, C = channels);
    let output = builder.activation(channels);
    let arguments = vec![builder.step(), Some(input.at), Some(output.at)];
    let launch = builder.elementwise(SOURCE, &constants, "mean", channels, arguments);
    builder.add_forward(launch);
    let (input, grad) = (input.clone(), output.grad);
    let backward = move |builder: &mut LaunchBuilder| {
        builder.input_grad(&input, |b, to| {
            let arguments = vec![b.step(), grad, Some(to)];
            b.elementwise(SOURCE, &constants, "spread_mean", input.len, arguments)
        });
    };
    (output, Box::new(backward))
}
