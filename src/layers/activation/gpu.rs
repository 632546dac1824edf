//! A smooth activation's launches.

use super::Function;
use crate::layers::gpu::{Activation, BackwardLaunches, LaunchBuilder, define};
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
    let output = builder.activation(input.len);
    let arguments = vec![builder.step(), Some(input.at), Some(output.at)];
    let launch = builder.elementwise(SOURCE, &constants, "activate", input.len, arguments);
    builder.add_forward(launch);
    let (input, grad) = (input.clone(), output.grad);
    let backward = move |builder: &mut LaunchBuilder| {
        builder.input_grad(&input, |b, to| {
            let arguments = vec![b.step(), grad, Some(input.at), Some(to)];
            b.elementwise(
                SOURCE,
                &constants,
                "activate_backward",
                input.len,
                arguments,
            )
        });
    };
    (output, Box::new(backward))
}
