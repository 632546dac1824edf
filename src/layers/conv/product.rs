//! A kernel of products as a problem of its own: the variants that fit it, a guess at the time that each takes, and its
//! launch in memory of its own, with which the variants are measured and compared.

use super::Geometry;
use super::gpu::{Gemm, Grid};
use super::variant::{KernelVariant, Loads, ProductPass, ProductShape, TERMS, VARIANTS};
use crate::domain::params::NumberFormat;
use crate::hardware::executor::Launch;
use crate::layers::gpu::{Activation, LaunchBuilder, Upstream};
use std::ops::Range;
use std::rc::Rc;

/// A product of a network: a convolution's or a dense layer's forward or backward kernel.
#[derive(Clone, Debug)]
pub struct Product {
    gemm: Gemm,
    pub pass: ProductPass,
    pub format: NumberFormat,
    /// Largest number of images.
    pub capacity: usize,
    pub input_wanted: bool,
    /// What the backward kernel must undo of the layer before.
    pub upstream: Option<Rc<Upstream>>,
}

/// A launch of a product in memory that belongs to it alone.
#[derive(Clone, Debug)]
pub struct ProductTrial {
    pub launch: Launch,
    /// Bytes of the memory.
    pub bytes: usize,
    /// The f32 that it reads, and those that it writes, as ranges of bytes. Everything else that it reads is zero.
    pub reads: Vec<Range<usize>>,
    pub writes: Vec<Range<usize>>,
}

impl Product {
    /// The source of its kernels.
    pub const SOURCE: &str = super::gpu::SOURCE;

    pub fn new(gemm: Gemm, pass: ProductPass, builder: &LaunchBuilder, input: &Activation) -> Self {
        Product {
            gemm,
            pass,
            format: builder.format(),
            capacity: builder.capacity(),
            input_wanted: input.grad.is_some(),
            upstream: input.upstream.clone(),
        }
    }

    pub fn shape(&self) -> ProductShape {
        self.gemm.shape(self.pass, self.input_wanted)
    }

    /// What a choice of a variant depends on: the constants of the kernel, and the batch.
    pub fn key(&self) -> String {
        let constants = self.gemm.shape_constants(self);
        let gradients = if self.input_wanted {
            ", the input's gradient"
        } else {
            ""
        };
        format!("{} images{gradients}\n{constants}", self.capacity)
    }

    /// The product in words, for logs.
    pub fn words(&self) -> String {
        let Geometry {
            height,
            width,
            inputs,
            outputs,
            kernel,
            ..
        } = self.gemm.geometry;
        format!(
            "{} of {} images of {height}x{width}x{inputs}, {kernel}x{kernel} to {outputs}",
            self.pass.entry(),
            self.capacity
        )
    }

    /// Its blocks, with the variant that is chosen for it.
    pub fn grid(&self, builder: &LaunchBuilder) -> Grid {
        let variant = builder.choices().of(&self.key(), &self.shape());
        self.gemm.grid(self, variant, builder.multiprocessors())
    }

    /// The variants that fit it. The first is the plain one.
    pub fn variants(&self) -> impl Iterator<Item = &'static KernelVariant> + use<> {
        let shape = self.shape();
        VARIANTS.iter().filter(move |variant| variant.fits(&shape))
    }

    /// Its launch as `builder` lays it out, which is new but for the place of the step's settings.
    pub fn trial(&self, mut builder: LaunchBuilder) -> ProductTrial {
        const NAME: &str = "trial";
        let b = &mut builder;
        let g = &self.gemm.geometry;
        let (weights, biases) = (g.patch() * g.outputs, g.outputs);
        let row = 4 * (weights + biases).next_multiple_of(4);
        b.shared.weights = b.allocate(row);
        b.shared.grads = b.allocate(row);
        let bias = b.shared.weights + 4 * weights;
        b.offsets.insert(format!("{NAME}.weight"), b.shared.weights);
        b.offsets.insert(format!("{NAME}.bias"), bias);
        let len = g.height * g.width * g.inputs;
        let upstream = self.upstream.as_deref().map(|upstream| {
            Rc::new(Upstream {
                argmax: upstream.argmax.map(|_| b.allocate(self.capacity * len)),
                ..upstream.clone()
            })
        });
        let grad_len = upstream.as_ref().map_or(len, |upstream| upstream.grad_len);
        let input = Activation {
            at: b.batch(len),
            len,
            grad: self.input_wanted.then(|| b.batch(grad_len)),
            upstream,
        };
        let (output, backward) = self.gemm.schedule(NAME, b, &input);
        backward(b);
        let squares = b.allocate(8 * b.square_count);
        let launches = b.training(Vec::new(), squares);
        let launch = launches
            .into_iter()
            .map(|scheduled| scheduled.launch)
            .find(|launch| launch.entry == self.pass.entry());
        let Some(launch) = launch else {
            unreachable!("every product has both passes")
        };
        let floats = |at: usize, count: usize| at..at + 4 * count;
        let batch = |at: usize, len: usize| floats(at, self.capacity * len);
        // The packed weights are the fourth argument of the backward kernel and the third of the forward one.
        let taps = g.kernel * g.kernel;
        let (wide_outputs, wide_inputs) = super::gpu::widths(g);
        let packed = |argument: usize, numbers: usize| {
            let at = launch.arguments[argument];
            at.map(|at| floats(at, taps * numbers))
        };
        let (reads, writes) = match self.pass {
            ProductPass::Forward => {
                let packed = packed(2, g.inputs * wide_outputs);
                let reads = [batch(input.at, len), floats(bias, biases)];
                let writes = vec![batch(output.at, output.len)];
                (reads.into_iter().chain(packed).collect(), writes)
            }
            ProductPass::Backward => {
                let packed = packed(3, g.outputs * wide_inputs);
                let result = g.out_height * g.out_width * g.outputs;
                let grad = output.grad.map(|at| batch(at, result));
                let reads = [batch(input.at, len)].into_iter().chain(grad).chain(packed);
                let mut writes = vec![floats(b.shared.grads, weights + biases)];
                writes.extend(input.grad.map(|at| batch(at, grad_len)));
                (reads.collect(), writes)
            }
        };
        ProductTrial {
            launch,
            bytes: b.bytes,
            reads,
            writes,
        }
    }

    /// A guess at the seconds of a launch, by which variants are tried in turn. It knows a GPU by its number of
    /// multiprocessors alone; the rest is of the size of an H100.
    pub fn guess(&self, variant: &'static KernelVariant, multiprocessors: usize) -> f64 {
        let g = &self.gemm.geometry;
        let shape = self.shape();
        let grid = self.gemm.grid(self, variant, multiprocessors);
        let resident = (SHARED_OF_MULTIPROCESSOR / (variant.shared_memory(&shape) + 1024))
            .min(2048 / variant.threads)
            .min(REGISTERS / (variant.threads * registers(variant)))
            .max(1);
        let at_once = (multiprocessors * resident) as f64;
        let of_terms = |blocks: usize, terms: usize, splits: usize, loads: Loads| {
            let slices = terms.div_ceil(TERMS).div_ceil(splits.max(1)) as f64;
            let own = self.cycles_of_slice(variant, loads);
            let beside = (blocks as f64 / multiprocessors as f64).clamp(1.0, resident as f64);
            let ahead = match loads {
                Loads::Registers => 1.0,
                _ => (variant.stages - 1) as f64,
            };
            let slice = (LATENCY / ahead + own).max(beside * own);
            // Parts are written and counted, and the last block of each group adds them, sixteen loads at a time. They are
            // in the L2 cache.
            let results = variant.tile.0 * variant.tile.1 / variant.threads;
            let adding_group = |parts: usize| 4.0 + (parts * results) as f64 / 64.0;
            let adding = match splits.div_ceil(32) {
                _ if splits < 2 => 0.0,
                1 => adding_group(splits),
                groups => adding_group(32) + adding_group(groups),
            };
            let staged = match (loads, variant.rectangle(&shape)) {
                (Loads::Rim, Some(rectangle)) => {
                    let bytes = 4 * rectangle.with_rim(&shape) * shape.depth();
                    beside * bytes as f64 / L2_BYTES
                }
                _ => 0.0,
            };
            let block = LATENCY + staged + slices * slice + LATENCY / 2.0 * adding;
            (blocks as f64 / at_once).max(1.0) * block
        };
        let mut cycles = 0.0;
        if grid.weight_tiles > 0 {
            let pixels = self.capacity * g.out_height * g.out_width;
            let loads = match variant.loads {
                Loads::Rim => Loads::Copies,
                other => other,
            };
            let blocks = grid.weight_tiles * grid.weight_splits;
            cycles += of_terms(blocks, pixels, grid.weight_splits, loads);
        }
        if grid.splits > 0 {
            let blocks = grid.tiles * grid.splits;
            let lines = of_terms(blocks, shape.terms(), grid.splits, variant.loads);
            // Both parts of the backward kernel run side by side, if there is room.
            cycles = match grid.weight_tiles * grid.weight_splits + blocks {
                all if all as f64 <= at_once => lines.max(cycles),
                _ => lines + cycles,
            };
        }
        START + cycles / CLOCK
    }

    /// Cycles of a multiprocessor for a slice of a block: issued instructions, or bytes from the L2 cache.
    fn cycles_of_slice(&self, variant: &KernelVariant, loads: Loads) -> f64 {
        let (lines, columns) = variant.tile;
        let warps = (variant.threads / 32) as f64;
        let results = lines * columns / variant.threads;
        let multiply = match self.format {
            // Multiply-adds, and reads of four numbers.
            NumberFormat::F32 => TERMS * results + TERMS / 4 * (results / 4 + 4),
            // Reads, conversions and products of 16 x 8 results, of 8 or 16 terms.
            NumberFormat::Tf32 => TERMS / 8 * (results / 16 * 12 + 16),
            NumberFormat::Bf16 => TERMS / 16 * (results / 16 * 16 + 24),
        };
        let of_line = match self.shape().depth() % 4 {
            0 => 25,
            _ => 100,
        };
        let fours = |numbers: usize| numbers * TERMS / 4 / variant.threads;
        let (copy, bytes) = match loads {
            Loads::Rim => (8 * fours(columns), columns),
            _ => (
                of_line * fours(lines) + 12 * fours(columns),
                lines + columns,
            ),
        };
        let issued = warps * (multiply + copy) as f64 / 4.0;
        issued.max((4 * TERMS * bytes) as f64 / L2_BYTES)
    }
}

/// Cycles a second, 1.7e9, divided by 1.5: by that the measured training steps of `seed` and `resnet` on one H200 are longer
/// than what is counted here.
const CLOCK: f64 = 1.7e9 / 1.5;
/// Seconds of a launch besides its blocks, as those steps have it.
const START: f64 = 6.25e-6;
/// Cycles until a slice has come from the L2 cache or from memory.
const LATENCY: f64 = 700.0;
/// Bytes that a multiprocessor gets from the L2 cache in a cycle, when all do.
const L2_BYTES: f64 = 24.0;
const SHARED_OF_MULTIPROCESSOR: usize = 227 * 1024;
const REGISTERS: usize = 65536;

/// Registers of a thread, about.
fn registers(variant: &KernelVariant) -> usize {
    64 + 2 * variant.tile.0 * variant.tile.1 / variant.threads
}
