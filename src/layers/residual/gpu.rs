//! The launches of a residual block.

use super::cpu::{Residual, ResidualSum};
use crate::hardware::executor::Cost;
use crate::layers::gpu::{Activation, BackwardLaunches, LaunchBuilder, define};
use crate::layers::norm;
use std::fmt::Write;

const SOURCE: &str = include_str!("residual.cu");

/// Adds the launches that compute the gradients of the sum's operands. The gradient of the sum itself is written to the
/// given offset.
type SumBackward = Box<dyn FnOnce(&mut LaunchBuilder, usize)>;

pub fn schedule(
    block: &Residual,
    builder: &mut LaunchBuilder,
    input: &Activation,
) -> (Activation, BackwardLaunches) {
    // The gradients of both branches are added before the previous layer reads them.
    let body_grad = builder.plain_grad(input);
    let skip_grad = input.grad.map(|_| builder.batch(input.len));
    let branch = |grad| Activation {
        grad,
        upstream: None,
        ..input.clone()
    };
    let (body_end, body_backward) = block.body().schedule(builder, branch(body_grad));
    let (skip_end, skip_backward) = block.shortcut().schedule(builder, branch(skip_grad));
    let is_identity = block.shortcut().is_empty();

    let (output, sum_backward): (_, SumBackward) = match block.tail() {
        ResidualSum::Norm { norm, .. } => {
            let (output, placed) = norm::gpu::forward(norm, builder, &body_end, Some(&skip_end));
            let y = output.clone();
            let backward = move |builder: &mut LaunchBuilder, sum_grad: usize| {
                placed.backward(builder, &body_end, &y, Some(sum_grad));
            };
            (output, Box::new(backward))
        }
        ResidualSum::Sum { relu, .. } => {
            let (relu, len) = (*relu, body_end.len);
            let output = builder.activation(len);
            let mut constants = String::new();
            define!(constants, LEN = len, RELU = u32::from(relu));
            let arguments = vec![
                builder.step(),
                Some(body_end.at),
                Some(skip_end.at),
                Some(output.at),
            ];
            let launch = builder.elementwise(SOURCE, &constants, "residual_add", len, arguments);
            let all = builder.capacity() * len;
            builder.add_forward(launch, Cost::of_f32(3 * all, all));
            let y = output.clone();
            let backward = move |builder: &mut LaunchBuilder, sum_grad: usize| {
                builder.mask(y.grad, y.at, relu, len, sum_grad);
                builder.hand_over(sum_grad, &body_end);
            };
            (output, Box::new(backward))
        }
    };

    let (input, len) = (input.clone(), output.len);
    let backward = move |builder: &mut LaunchBuilder| {
        // The gradient of the sum, before ReLU.
        let sum_grad = builder.batch(len);
        sum_backward(builder, sum_grad);
        body_backward(builder);
        if !is_identity {
            builder.hand_over(sum_grad, &skip_end);
            skip_backward(builder);
        }
        if let (Some(body), Some(skip)) = (body_grad, skip_grad) {
            let skip = if is_identity { sum_grad } else { skip };
            builder.add(skip, body, input.len);
            builder.deliver(body, &input);
        }
    };
    (output, Box::new(backward))
}
