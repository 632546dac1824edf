//! The launches of a multiplication by a constant.

use crate::layers::gpu::{Activation, BackwardLaunches, LaunchBuilder, define};
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
    let output = builder.activation(input.len);
    let arguments = vec![builder.step(), Some(input.at), Some(output.at)];
    let launch = builder.elementwise(SOURCE, &constants, "scale", input.len, arguments);
    builder.add_forward(launch);
    let (input, grad) = (input.clone(), output.grad);
    let backward = move |builder: &mut LaunchBuilder| {
        builder.input_grad(&input, |b, to| {
            let arguments = vec![b.step(), grad, Some(to)];
            b.elementwise(SOURCE, &constants, "scale", input.len, arguments)
        });
    };
    (output, Box::new(backward))
}
