//! Max-pooling's launches, where it is a layer of its own.

use super::cpu::MaxPool;
use crate::hardware::executor::Cost;
use crate::layers::gpu::{Activation, BackwardLaunches, LaunchBuilder, define};
use std::fmt::Write;

const SOURCE: &str = include_str!("pool.cu");

pub fn schedule(
    pool: &MaxPool,
    builder: &mut LaunchBuilder,
    input: &Activation,
) -> (Activation, BackwardLaunches) {
    let size = pool.size();
    let mut constants = String::new();
    define!(
        constants,
        H = size.height,
        W = size.width,
        C = size.channels,
        KERNEL = size.kernel,
        STRIDE = size.stride,
        OH = size.out_height,
        OW = size.out_width,
    );
    let output = builder.activation(size.output_len());
    let argmax = builder.allocate(2 * builder.capacity() * output.len);
    let arguments = vec![
        builder.step(),
        Some(input.at),
        Some(output.at),
        Some(argmax),
    ];
    let launch = builder.elementwise(SOURCE, &constants, "largest", output.len, arguments);
    let capacity = builder.capacity();
    // Each output compares the numbers of its window.
    let compared = output.len * size.kernel * size.kernel;
    let numbers = capacity * (input.len + output.len);
    let taken = 2 * capacity * output.len;
    let cost = Cost::of_f32(numbers, capacity * compared).and_bytes(taken);
    builder.add_forward(launch, cost);
    let (input, grad) = (input.clone(), output.grad);
    let cost = Cost::of_f32(numbers, capacity * output.len).and_bytes(taken);
    let backward = move |builder: &mut LaunchBuilder| {
        builder.input_grad(&input, cost, |b, to| {
            let arguments = vec![b.step(), grad, Some(argmax), Some(to)];
            b.elementwise(SOURCE, &constants, "spread", input.len, arguments)
        });
    };
    (output, Box::new(backward))
}
