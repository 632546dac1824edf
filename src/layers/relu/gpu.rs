//! ReLU's launches, where it is a layer of its own.

use crate::layers::gpu::{Activation, BackwardLaunches, LaunchBuilder, define};
use std::fmt::Write;

const SOURCE: &str = include_str!("relu.cu");

pub fn schedule(builder: &mut LaunchBuilder, input: &Activation) -> (Activation, BackwardLaunches) {
    let mut constants = String::new();
    define!(constants, LEN = input.len);
    let output = builder.activation(input.len);
    let arguments = vec![builder.step(), Some(input.at), Some(output.at)];
    let launch = builder.elementwise(SOURCE, &constants, "rectify", input.len, arguments);
    builder.add_forward(launch);
    let (input, y) = (input.clone(), output.clone());
    let backward = move |builder: &mut LaunchBuilder| {
        builder.input_grad(&input, |b, to| {
            let arguments = vec![b.step(), y.grad, Some(y.at), Some(to)];
            b.elementwise(SOURCE, &constants, "rectify_backward", input.len, arguments)
        });
    };
    (output, Box::new(backward))
}
