//! The norm's launches.

use super::cpu::Norm;
use crate::hardware::executor::{Cost, Launch, Offset};
use crate::layers::activation;
use crate::layers::cpu::Layer;
use crate::layers::gpu::{Activation, BackwardLaunches, LaunchBuilder, define};
use std::fmt::Write;

const SOURCE: &str = include_str!("norm.cu");
/// Blocks that sum a norm's statistics, at most.
const MAX_SHARDS: usize = 64;

/// A norm's place in memory.
pub struct PlacedNorm {
    constants: String,
    shards: usize,
    weight: Offset,
    bias: usize,
    argmax: Offset,
    /// What the layer keeps, channel by channel.
    kept: usize,
    /// Partial sums, and how many blocks have written theirs.
    parts: usize,
    counter: usize,
    /// Numbers of an image of the input, and of those that the output is made of: pooling leaves odd edges out.
    len: usize,
    read: usize,
    has_relu: bool,
}

pub fn schedule(
    norm: &Norm,
    builder: &mut LaunchBuilder,
    input: &Activation,
) -> (Activation, BackwardLaunches) {
    let (normalised, placed) = forward(norm, builder, input, None);
    let (input, y) = (input.clone(), normalised.clone());
    let backward = move |builder: &mut LaunchBuilder| {
        placed.backward(builder, &input, &y, None);
    };
    match norm.after().smooth {
        Some(function) => {
            activation::gpu::follow(function, builder, (normalised, Box::new(backward)))
        }
        None => (normalised, Box::new(backward)),
    }
}

/// Adds the launches of the forward pass. `skip` is added before the ReLU.
pub fn forward(
    norm: &Norm,
    builder: &mut LaunchBuilder,
    input: &Activation,
    skip: Option<&Activation>,
) -> (Activation, PlacedNorm) {
    let (h, w, c) = norm.input();
    let op = norm.op();
    let after = norm.after();
    let output = builder.activation(match after.pool {
        true => (h / 2) * (w / 2) * c,
        false => h * w * c,
    });
    let capacity = builder.capacity();
    let shards = (capacity * h * w).div_ceil(64).clamp(1, MAX_SHARDS);
    let mut constants = String::new();
    define!(
        constants,
        H = h,
        W = w,
        C = c,
        RELU = u32::from(after.relu),
        POOL = u32::from(after.pool),
        SKIP = u32::from(skip.is_some()),
        SHARDS = shards,
        SCALE = u32::from(op.scale),
        MOMENTUM = format_args!("{:e}", op.momentum),
        EPSILON = format_args!("{:e}", op.epsilon),
    );
    let name = norm.name();
    let placed = PlacedNorm {
        shards,
        weight: op.scale.then(|| builder.offset_of(name, "weight")),
        bias: builder.offset_of(name, "bias"),
        argmax: after.pool.then(|| builder.allocate(capacity * output.len)),
        kept: builder.allocate(4 * 7 * c),
        parts: builder.allocate(8 * 2 * shards * c),
        counter: builder.zeros(4),
        len: h * w * c,
        read: match after.pool {
            true => 4 * output.len,
            false => output.len,
        },
        has_relu: after.relu,
        constants,
    };
    let mean = builder.offset_of(name, "running_mean");
    let var = builder.offset_of(name, "running_var");
    let moments = Launch {
        source: SOURCE,
        constants: placed.constants.as_str().into(),
        entry: "moments",
        grid: [shards as u32, 1, 1],
        block: 256,
        arguments: vec![
            builder.step(),
            Some(input.at),
            placed.weight,
            Some(placed.bias),
            Some(mean),
            Some(var),
            Some(builder.new_value_of(mean)),
            Some(builder.new_value_of(var)),
            Some(placed.kept),
            Some(placed.parts),
            Some(placed.counter),
        ],
        ..Launch::default()
    };
    let from_running_statistics = Launch {
        entry: "eval_coefficients",
        grid: [1; 3],
        arguments: vec![
            placed.weight,
            Some(placed.bias),
            Some(mean),
            Some(var),
            Some(placed.kept),
        ],
        ..moments.clone()
    };
    let arguments = vec![
        builder.step(),
        Some(input.at),
        Some(placed.kept),
        skip.map(|skip| skip.at),
        Some(output.at),
        placed.argmax,
    ];
    let apply = builder.elementwise(SOURCE, &placed.constants, "apply", output.len, arguments);
    // A difference, a sum, and a multiply-add.
    let all = capacity * placed.len;
    builder.add_training(moments, Cost::of_f32(all + 11 * c, 4 * all));
    builder.add_scoring(from_running_statistics, Cost::of_f32(6 * c, 5 * c));
    let read = capacity * placed.read;
    let written = capacity * output.len;
    let skipped = skip.map_or(0, |_| written);
    let cost = Cost::of_f32(read + skipped + written, 2 * read + skipped);
    builder.add_forward(apply, cost.and_bytes(placed.taken(written)));
    (output, placed)
}

impl PlacedNorm {
    /// Bytes of the positions that pooling took of so many outputs.
    fn taken(&self, outputs: usize) -> usize {
        self.argmax.map_or(0, |_| outputs)
    }

    /// Adds the launches of the backward pass, which write the gradient before the ReLU to `masked`, if it is given.
    pub fn backward(
        &self,
        builder: &mut LaunchBuilder,
        input: &Activation,
        output: &Activation,
        masked: Offset,
    ) {
        let to = builder.plain_grad(input);
        let squares = builder.squares(1);
        let reduce = Launch {
            source: SOURCE,
            constants: self.constants.as_str().into(),
            entry: "backward_reduce",
            grid: [self.shards as u32, 1, 1],
            block: 256,
            arguments: vec![
                builder.step(),
                Some(input.at),
                output.grad,
                Some(output.at),
                self.argmax,
                self.weight,
                masked,
                self.weight.map(|weight| builder.grad_of(weight)),
                Some(builder.grad_of(self.bias)),
                Some(squares),
                Some(self.kept),
                Some(self.parts),
                Some(self.counter),
            ],
            ..Launch::default()
        };
        let capacity = builder.capacity();
        let (all, outputs) = (capacity * self.len, capacity * output.len);
        let masks = if self.has_relu { outputs } else { 0 };
        let wanted = masked.map_or(0, |_| outputs);
        // With pooling, only the inputs that it took have a gradient: as many as there are outputs.
        let cost = Cost::of_f32(2 * outputs + masks + wanted, 4 * outputs);
        builder.add_backward(reduce, cost.and_bytes(self.taken(outputs)));
        if let Some(to) = to {
            let arguments = vec![
                builder.step(),
                Some(input.at),
                masked.or(output.grad),
                Some(output.at),
                self.argmax,
                Some(self.kept),
                Some(to),
            ];
            let apply = builder.elementwise(
                SOURCE,
                &self.constants,
                "backward_apply",
                self.len,
                arguments,
            );
            // With a shortcut the gradient is masked already.
            let masks = if masked.is_none() { masks } else { 0 };
            let cost = Cost::of_f32(2 * all + outputs + masks, 4 * all);
            builder.add_backward(apply, cost.and_bytes(self.taken(outputs)));
            builder.deliver(to, input);
        }
    }
}
