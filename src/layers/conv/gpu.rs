//! The launches of a convolution, and of what is computed as one: products of matrices.

use super::Geometry;
use super::cpu::Conv;
use crate::domain::params::Precision;
use crate::hardware::executor::{Cost, Launch, Offset};
use crate::layers::cpu::Layer;
use crate::layers::dropout::{self, Dropout};
use crate::layers::gpu::{Activation, BackwardLaunches, LaunchBuilder, Upstream, define};
use std::fmt::Write;
use std::rc::Rc;

const SOURCE: &str = include_str!("conv.cu");
/// A tile of a product and the terms that are added at a time, as in conv.cu.
const TILE: (usize, usize) = (64, 32);
const TERMS: usize = 32;
/// Blocks that share one sum, at most.
const MAX_SPLITS: usize = 32;

pub fn schedule(
    conv: &Conv,
    builder: &mut LaunchBuilder,
    input: &Activation,
) -> (Activation, BackwardLaunches) {
    let geometry = *conv.geometry();
    let after = conv.after();
    let gemm = Gemm {
        flat: (geometry.inputs, 1),
        geometry,
        relu: after.relu,
        pool: after.pool,
        dropout: after.dropout,
        bias: conv.has_bias(),
        trained: conv.trains_weight(),
    };
    gemm.schedule(conv.name(), builder, input)
}

/// A convolution, or a dense layer as one.
pub struct Gemm {
    pub geometry: Geometry,
    /// Channels and pixels of a dense layer's input; a convolution's inputs and 1.
    pub flat: (usize, usize),
    pub relu: bool,
    /// 2x2 max-pooling, after the ReLU if there is one.
    pub pool: bool,
    pub dropout: Option<Dropout>,
    pub bias: bool,
    /// Whether the weight has a gradient.
    pub trained: bool,
}

/// The blocks of the kernel `backward`.
struct BackwardGrid {
    /// Tiles of the weight gradient, and blocks that share each tile's sums.
    weight_tiles: usize,
    weight_splits: usize,
    /// The same of the input gradient; no splits where it is not wanted.
    input_tiles: usize,
    input_splits: usize,
}

impl Gemm {
    /// Height and width of the output.
    fn output_size(&self) -> (usize, usize) {
        let g = &self.geometry;
        match self.pool {
            true => (g.out_height / 2, g.out_width / 2),
            false => (g.out_height, g.out_width),
        }
    }

    /// The launches of the layer named `name`.
    pub fn schedule(
        self,
        name: &str,
        builder: &mut LaunchBuilder,
        input: &Activation,
    ) -> (Activation, BackwardLaunches) {
        let g = self.geometry;
        let capacity = builder.capacity();
        let (height, width) = self.output_size();
        let len = height * width * g.outputs;
        let result = g.out_height * g.out_width * g.outputs;
        let argmax = self.pool.then(|| builder.allocate(capacity * len));
        let output = Activation {
            at: builder.batch(len),
            len,
            // Beyond the last whole window it stays zero.
            grad: Some(builder.zeros(4 * capacity * result)),
            upstream: (self.relu || self.pool).then(|| Rc::new(self.upstream(argmax))),
        };
        let (packed, packed_back) = self.pack(name, builder, input.grad.is_some());
        let tiles = (
            (capacity * self.wanted()).div_ceil(TILE.0),
            g.outputs.div_ceil(TILE.1),
        );
        let rounds = g.patch().div_ceil(TERMS);
        let splits = builder.splits(tiles.0 * tiles.1, rounds, MAX_SPLITS);
        let grid = self.backward_grid(builder, input.grad.is_some());
        let constants = self.constants(builder, splits, &grid, input);
        let (parts, counters) = shared_sums(builder, tiles.0 * tiles.1, splits);
        let weight = builder.offset_of(name, "weight");
        let bias = self.bias.then(|| builder.offset_of(name, "bias"));
        let launch = Launch {
            source: SOURCE,
            constants: constants.as_str().into(),
            entry: "forward",
            grid: [tiles.0 as u32, tiles.1 as u32, splits as u32],
            block: 128,
            arguments: vec![
                builder.step(),
                Some(input.at),
                Some(packed),
                bias,
                Some(output.at),
                argmax,
                parts,
                counters,
            ],
            ..Launch::default()
        };
        builder.add_forward(launch, self.forward_cost(capacity));

        let (input, grad) = (input.clone(), output.grad);
        let backward = move |builder: &mut LaunchBuilder| {
            let (weight_parts, weight_counters) =
                shared_sums(builder, grid.weight_tiles, grid.weight_splits);
            let shared = shared_sums(builder, grid.input_tiles, grid.input_splits);
            let blocks =
                grid.weight_tiles * grid.weight_splits + grid.input_tiles * grid.input_splits;
            let squares = builder.squares(grid.weight_tiles);
            let launch = Launch {
                source: SOURCE,
                constants: constants.as_str().into(),
                entry: "backward",
                grid: [blocks as u32, 1, 1],
                block: 128,
                arguments: vec![
                    builder.step(),
                    Some(input.at),
                    grad,
                    packed_back,
                    Some(builder.grad_of(weight)),
                    bias.map(|bias| builder.grad_of(bias)),
                    Some(squares),
                    weight_parts,
                    weight_counters,
                    input.grad,
                    input.upstream.as_ref().and_then(|u| u.argmax),
                    shared.0,
                    shared.1,
                ],
                ..Launch::default()
            };
            builder.add_backward(launch, self.backward_cost(capacity, &input));
        };
        (output, Box::new(backward))
    }

    /// Pixels of the convolution's result that the output is made of: pooling leaves odd edges out.
    fn wanted(&self) -> usize {
        let (height, width) = self.output_size();
        height * width * if self.pool { 4 } else { 1 }
    }

    /// Numbers of the weight and the bias.
    fn parameters(&self) -> usize {
        (self.geometry.patch() + usize::from(self.bias)) * self.geometry.outputs
    }

    fn forward_cost(&self, capacity: usize) -> Cost {
        let g = &self.geometry;
        let (height, width) = self.output_size();
        let output = capacity * height * width * g.outputs;
        // A stride beyond the kernel leaves pixels out.
        let read = capacity * g.input_len().min(self.wanted() * g.patch());
        let taken = if self.pool { output } else { 0 };
        Cost {
            product_flop: 2 * (capacity * self.wanted() * g.outputs * g.patch()) as u64,
            ..Cost::of_f32(read + self.parameters() + output, 0).and_bytes(taken)
        }
    }

    fn backward_cost(&self, capacity: usize, input: &Activation) -> Cost {
        let g = &self.geometry;
        let result = capacity * g.out_height * g.out_width * g.outputs;
        let one = 2 * (result * g.patch()) as u64;
        let mut cost = Cost::of_f32(result, if self.bias { result } else { 0 });
        if self.trained {
            cost.product_flop += one;
            cost = cost.and_bytes(4 * (capacity * g.input_len() + self.parameters()));
        }
        if input.grad.is_some() {
            // The layer before has its gradient prepared: its output and where pooling took it from are read too.
            let upstream = input.upstream.as_deref();
            let written = upstream.map_or(input.len, |u| u.grad_len);
            let mut bytes = 4 * (capacity * written + g.patch() * g.outputs);
            if let Some(upstream) = upstream {
                bytes += upstream.argmax.map_or(0, |_| capacity * input.len);
                bytes += if self.trained {
                    0
                } else {
                    4 * capacity * input.len
                };
            }
            cost.product_flop += one;
            cost = cost.and_bytes(bytes);
        }
        cost
    }

    /// What the kernel that computes the output's gradient must undo.
    fn upstream(&self, argmax: Offset) -> Upstream {
        let g = &self.geometry;
        let (height, width) = self.output_size();
        let mut constants = String::new();
        define!(
            constants,
            UPSTREAM_H = height,
            UPSTREAM_W = width,
            UPSTREAM_C = g.outputs,
            UPSTREAM_OH = g.out_height,
            UPSTREAM_OW = g.out_width,
            UPSTREAM_POOL = u32::from(self.pool),
            UPSTREAM_RELU = u32::from(self.relu),
        );
        constants.push_str(&dropout::gpu::upstream_constants(self.dropout));
        Upstream {
            grad_len: g.out_height * g.out_width * g.outputs,
            constants,
            argmax,
        }
    }

    /// Room for the weight's copies in the orders of the two products, which the optimizer's kernel keeps up to date.
    fn pack(&self, name: &str, builder: &mut LaunchBuilder, back: bool) -> (usize, Offset) {
        let g = &self.geometry;
        let (wide_outputs, wide_inputs) = widths(g);
        let taps = g.kernel * g.kernel;
        let packed = builder.zeros(4 * taps * g.inputs * wide_outputs);
        let packed_back = back.then(|| builder.zeros(4 * taps * g.outputs * wide_inputs));
        let words = [
            g.inputs,
            g.outputs,
            taps,
            self.flat.0,
            self.flat.1,
            wide_outputs,
            wide_inputs,
            packed / 4,
            packed_back.unwrap_or(0) / 4,
        ];
        builder
            .packings
            .insert(format!("{name}.weight"), words.map(|v| v as u32));
        (packed, packed_back)
    }

    fn backward_grid(&self, builder: &LaunchBuilder, input_wanted: bool) -> BackwardGrid {
        let g = &self.geometry;
        let capacity = builder.capacity();
        let rows = g.patch() + usize::from(self.bias);
        let weight_tiles = rows.div_ceil(TILE.0) * g.outputs.div_ceil(TILE.1);
        let pixels = capacity * g.out_height * g.out_width;
        let input_tiles =
            (capacity * g.height * g.width).div_ceil(TILE.0) * g.inputs.div_ceil(TILE.1);
        let input_rounds = (g.kernel * g.kernel * g.outputs).div_ceil(TERMS);
        BackwardGrid {
            weight_tiles,
            weight_splits: builder.splits(weight_tiles, pixels.div_ceil(TERMS), MAX_SPLITS),
            input_tiles,
            input_splits: match input_wanted {
                true => builder.splits(input_tiles, input_rounds, MAX_SPLITS),
                false => 0,
            },
        }
    }

    /// The constants of both kernels, so that they are compiled together.
    fn constants(
        &self,
        builder: &LaunchBuilder,
        splits: usize,
        grid: &BackwardGrid,
        input: &Activation,
    ) -> String {
        let g = &self.geometry;
        let (wide_outputs, wide_inputs) = widths(g);
        let mut constants = String::new();
        define!(
            constants,
            H = g.height,
            W = g.width,
            I = g.inputs,
            O = g.outputs,
            KERNEL = g.kernel,
            STRIDE = g.stride,
            PAD = g.padding,
            OH = g.out_height,
            OW = g.out_width,
            RELU = u32::from(self.relu),
            POOL = u32::from(self.pool),
            BIAS = u32::from(self.bias),
            TRAINED = u32::from(self.trained),
            C = self.flat.0,
            P = self.flat.1,
            WIDE_O = wide_outputs,
            WIDE_I = wide_inputs,
            PRECISION = match builder.precision() {
                Precision::F32 => 0,
                Precision::Tf32 => 1,
                Precision::Bf16 => 2,
            },
            SPLITS = splits,
        );
        constants.push_str(&dropout::gpu::constants_of(self.dropout));
        define!(
            constants,
            INPUT_SPLITS = grid.input_splits,
            WEIGHT_SPLITS = grid.weight_splits,
            WEIGHT_BLOCKS = grid.weight_tiles * grid.weight_splits,
        );
        if let (Some(_), Some(upstream)) = (input.grad, &input.upstream) {
            constants.push_str(&upstream.constants);
        }
        constants
    }
}

/// Rows of the packed weights: outputs and inputs, as multiples of four.
fn widths(g: &Geometry) -> (usize, usize) {
    (g.outputs.next_multiple_of(4), g.inputs.next_multiple_of(4))
}

/// Room for the parts of sums that blocks share.
fn shared_sums(builder: &mut LaunchBuilder, tiles: usize, splits: usize) -> (Offset, Offset) {
    match splits {
        0 | 1 => (None, None),
        _ => (
            Some(builder.allocate(4 * tiles * splits * TILE.0 * TILE.1)),
            Some(builder.zeros(4 * tiles)),
        ),
    }
}
