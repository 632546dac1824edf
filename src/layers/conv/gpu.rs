//! The launches of a convolution, and of what is computed as one: products of matrices.

use super::Geometry;
use super::cpu::Conv;
use super::product::Product;
use super::variant::{KernelVariant, ProductPass, ProductShape, TERMS};
use crate::domain::params::NumberFormat;
use crate::hardware::executor::{Cost, Launch, Offset};
use crate::layers::cpu::Layer;
use crate::layers::dropout::{self, Dropout};
use crate::layers::gpu::{Activation, BackwardLaunches, LaunchBuilder, Upstream, define};
use std::fmt::Write;
use std::rc::Rc;

pub const SOURCE: &str = concat!(include_str!("product.cuh"), include_str!("conv.cu"));

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
#[derive(Clone, Copy, Debug)]
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

/// The blocks of a kernel.
pub struct Grid {
    pub variant: &'static KernelVariant,
    /// Tiles of the weight gradient, and blocks that share each tile's sums. None in the forward pass.
    pub weight_tiles: usize,
    pub weight_splits: usize,
    /// The same of the output, or of the input gradient; no splits where it is not wanted.
    pub tiles: usize,
    pub splits: usize,
}

impl Grid {
    pub fn blocks(&self) -> usize {
        self.weight_tiles * self.weight_splits + self.tiles * self.splits
    }
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
        let product = Product::new(self, ProductPass::Forward, builder, input);
        let grid = product.grid(builder);
        let constants = self.constants(&product, &grid);
        let (parts, counters) = shared_sums(builder, grid.variant, grid.tiles, grid.splits);
        let weight = builder.offset_of(name, "weight");
        let bias = self.bias.then(|| builder.offset_of(name, "bias"));
        let launch = Launch {
            source: SOURCE,
            constants: constants.into(),
            entry: "forward",
            grid: [grid.blocks() as u32, 1, 1],
            block: grid.variant.threads as u32,
            shared_memory: grid.variant.shared_memory(&product.shape()) as u32,
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
        builder.add_forward_product(launch, self.forward_cost(capacity), product);

        let (input, grad) = (input.clone(), output.grad);
        let backward = move |builder: &mut LaunchBuilder| {
            let product = Product::new(self, ProductPass::Backward, builder, &input);
            let grid = product.grid(builder);
            let (weight_parts, weight_counters) =
                shared_sums(builder, grid.variant, grid.weight_tiles, grid.weight_splits);
            let shared = shared_sums(builder, grid.variant, grid.tiles, grid.splits);
            let squares = builder.squares(grid.weight_tiles);
            let launch = Launch {
                source: SOURCE,
                constants: self.constants(&product, &grid).into(),
                entry: "backward",
                grid: [grid.blocks() as u32, 1, 1],
                block: grid.variant.threads as u32,
                shared_memory: grid.variant.shared_memory(&product.shape()) as u32,
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
            let cost = self.backward_cost(capacity, &input);
            builder.add_backward_product(launch, cost, product);
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

    /// What decides which variants fit a pass.
    pub fn shape(&self, pass: ProductPass, input_wanted: bool) -> ProductShape {
        ProductShape {
            geometry: self.geometry,
            pass,
            pool: self.pool,
            input_wanted,
        }
    }

    /// The blocks of a product with a variant.
    pub fn grid(
        &self,
        product: &Product,
        variant: &'static KernelVariant,
        multiprocessors: usize,
    ) -> Grid {
        let g = &self.geometry;
        let capacity = product.capacity;
        let shape = product.shape();
        let columns = |channels: usize| channels.div_ceil(variant.tile.1);
        let splits = |tiles: usize, terms: usize| {
            let target = multiprocessors * variant.blocks;
            let most = terms.div_ceil(TERMS).div_ceil(2);
            (target / tiles.max(1)).clamp(1, most.clamp(1, variant.max_splits))
        };
        let (weight_tiles, channels) = match shape.pass {
            ProductPass::Forward => (0, g.outputs),
            ProductPass::Backward => {
                let rows = g.patch() + usize::from(self.bias);
                (rows.div_ceil(variant.tile.0) * columns(g.outputs), g.inputs)
            }
        };
        let tiles = variant.line_tiles(&shape, capacity) * columns(channels);
        Grid {
            variant,
            weight_tiles,
            weight_splits: splits(weight_tiles, capacity * g.out_height * g.out_width),
            tiles,
            splits: match shape.pass == ProductPass::Forward || shape.input_wanted {
                true => splits(tiles, shape.terms()),
                false => 0,
            },
        }
    }

    /// The constants of a product's kernel that no variant changes.
    pub fn shape_constants(&self, product: &Product) -> String {
        let g = &self.geometry;
        let (wide_outputs, wide_inputs) = widths(g);
        let mut constants = String::new();
        define!(
            constants,
            FORWARD = u32::from(product.pass == ProductPass::Forward),
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
            PRECISION = match product.format {
                NumberFormat::F32 => 0,
                NumberFormat::Tf32 => 1,
                NumberFormat::Bf16 => 2,
            },
        );
        constants.push_str(&dropout::gpu::constants_of(self.dropout));
        if let (ProductPass::Backward, true, Some(upstream)) =
            (product.pass, product.input_wanted, &product.upstream)
        {
            constants.push_str(&upstream.constants);
        }
        constants
    }

    fn constants(&self, product: &Product, grid: &Grid) -> String {
        let mut constants = self.shape_constants(product);
        for (name, value) in grid.variant.constants(&product.shape()) {
            let _ = writeln!(constants, "#define {name} {value}");
        }
        match product.pass {
            ProductPass::Forward => {
                define!(constants, SPLITS = grid.splits);
            }
            ProductPass::Backward => {
                define!(
                    constants,
                    INPUT_SPLITS = grid.splits,
                    WEIGHT_SPLITS = grid.weight_splits,
                    WEIGHT_BLOCKS = grid.weight_tiles * grid.weight_splits,
                );
            }
        }
        constants
    }
}

/// Rows of the packed weights: outputs and inputs, as multiples of four.
pub fn widths(g: &Geometry) -> (usize, usize) {
    (g.outputs.next_multiple_of(4), g.inputs.next_multiple_of(4))
}

/// Room for the parts of sums that blocks share, and the counters of those that are done: of each tile, and above 32
/// splits of each group of 32 too.
fn shared_sums(
    builder: &mut LaunchBuilder,
    variant: &KernelVariant,
    tiles: usize,
    splits: usize,
) -> (Offset, Offset) {
    let (lines, columns) = variant.tile;
    let counters = match splits.div_ceil(32) {
        1 => 1,
        groups => groups + 1,
    };
    match splits {
        0 | 1 => (None, None),
        _ => (
            Some(builder.allocate(4 * tiles * splits * lines * columns)),
            Some(builder.zeros(4 * tiles * counters)),
        ),
    }
}
