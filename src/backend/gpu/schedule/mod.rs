//! A network's layers as lists of kernel launches over one block of memory: a training step, a scoring pass, and the
//! packing of the weights. Plain numbers: nothing here needs a GPU.
//!
//! A layer's gradient arrives already prepared: the kernel that computes the gradient of a convolution's or dense layer's
//! output also undoes the dropout, ReLU and pooling that the layer ends with (`arrive` in kernels.cuh).

/// Lines that make a source's constants.
macro_rules! define {
    ($text:expr, $($name:ident = $value:expr),+ $(,)?) => {
        $(let _ = writeln!($text, "#define {} {}", stringify!($name), $value);)+
    };
}

mod backward;
mod forward;

use super::records::{OutcomeRecord, ProgressRecord, StepRecord};
use crate::backend::cpu::network::Network;
use crate::backend::{NetworkSpec, Result};
use crate::domain::params::{Optimizer as Rule, Precision};
use crate::domain::rng::Stream;
use crate::hardware::executor::{Launch, Offset};
use crate::layers::Layer;
use crate::layers::conv::{Dropout, Geometry};
use crate::layers::dropout::Mask;
use crate::layers::norm::Norm;
use crate::layers::spec::LayerSpec;
use crate::optimizers;
use std::collections::HashMap;
use std::fmt::Write;
use std::rc::Rc;

const CONV: &str = include_str!("../../../layers/conv/conv.cu");
const NORM: &str = include_str!("../../../layers/norm/norm.cu");
const POOL: &str = include_str!("../../../layers/pool.cu");
const POINTWISE: &str = include_str!("../../../layers/pointwise.cu");
const INPUT: &str = include_str!("../../../layers/input.cu");
const LOSS: &str = include_str!("../../../layers/loss.cu");

/// Steps that are asked for at once, at most.
pub const MAX_STEPS: usize = 512;
/// Words of a `Piece` of update.cu.
const PIECE_WORDS: usize = 13;

/// A tile of a product and the terms that are added at a time, as in conv.cu.
const TILE: (usize, usize) = (64, 32);
const TERMS: usize = 32;
/// Blocks that share one sum, at most.
const MAX_SPLITS: usize = 32;
/// Offsets from here on are in the sums of squares, whose place is known when all of them are counted.
const SQUARES: usize = usize::MAX / 2;
/// Numbers that a block of the optimizer updates.
const PIECE: usize = 1024;
/// Blocks that sum a norm's statistics, at most.
const MAX_SHARDS: usize = 64;

/// A parameter or a running statistic: where it begins in its row, and how long it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub name: String,
    pub begin: usize,
    pub len: usize,
}

/// Where things stand, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryLayout {
    /// The step under way, the list of steps, how far they have come, and what they found.
    pub now: usize,
    pub steps: usize,
    pub state: usize,
    pub found: usize,
    /// All parameters, their gradients, and the optimizer's state slot by slot: rows of one length.
    pub weights: usize,
    pub grads: usize,
    pub optimizer: usize,
    /// The norms' running statistics, and what this step would make of them.
    pub running: usize,
    pub moved: usize,
    /// The optimizer's pieces.
    pub pieces: usize,
    /// Image numbers of the steps asked for.
    pub images: usize,
    /// The results of a scoring pass.
    pub probabilities: usize,
    pub losses: usize,
    /// The network's input.
    pub input: usize,
    /// What stands before this place outlives a change of the capacity.
    pub lasting: usize,
    /// Bytes in all.
    pub bytes: usize,
}

/// The launches of a network for batches of up to `capacity` images.
#[derive(Clone, Debug)]
pub struct KernelSchedule {
    pub capacity: usize,
    pub layout: MemoryLayout,
    pub params: Vec<Slot>,
    /// Numbers in a row of all parameters.
    row: usize,
    pub running: Vec<Slot>,
    /// What must be zero at the beginning: place and bytes.
    pub zeroed: Vec<(usize, usize)>,
    /// The optimizer's pieces, as its kernel reads them.
    pub pieces: Vec<u32>,
    pub training: Vec<Launch>,
    pub scoring: Vec<Launch>,
    pub packing: Vec<Launch>,
}

/// What a schedule is made for.
#[derive(Clone, Copy, Debug, PartialEq)]
struct ScheduleSpec {
    pub capacity: usize,
    pub side: usize,
    pub classes: usize,
    pub rule: Rule,
    pub precision: Precision,
    /// Blocks that are worth having at a time.
    pub blocks: usize,
}

/// Numbers that flow from one layer to the next.
#[derive(Clone)]
struct Activation {
    at: usize,
    /// Of one image.
    len: usize,
    /// Where the layer that made them expects their gradient; None where nobody wants it.
    grad: Option<usize>,
    /// Some when it expects the gradient of its convolution's result instead.
    before: Option<Rc<Before>>,
}

/// What a convolution or dense layer ends with, for the gradient's way back.
struct Before {
    /// Height, width and channels of the output.
    output: (usize, usize, usize),
    /// Height and width of the convolution's result.
    result: (usize, usize),
    pool: bool,
    dropout: Option<Dropout>,
    taken: Offset,
}

/// A convolution, or a dense layer as one.
struct Gemm {
    geometry: Geometry,
    /// Channels and pixels of a dense layer's input; a convolution's inputs and 1.
    flat: (usize, usize),
    relu: bool,
    pool: bool,
    dropout: Option<Dropout>,
    bias: bool,
}

/// A layer, and where its things stand.
enum PlacedLayer {
    Gemm {
        product: Gemm,
        weight: usize,
        bias: Option<usize>,
        packed_back: Offset,
        constants: String,
    },
    Norm(PlacedNorm),
    MaxPool {
        constants: String,
        taken: usize,
    },
    GlobalPool {
        constants: String,
    },
    Relu {
        constants: String,
    },
    Drop {
        constants: String,
    },
    Residual(Box<PlacedResidual>),
}

struct PlacedNorm {
    constants: String,
    shards: usize,
    weight: usize,
    bias: usize,
    taken: Offset,
    kept: usize,
    parts: usize,
    counter: usize,
    pixels: usize,
}

struct PlacedResidual {
    body: Vec<ScheduledLayer>,
    tail: Option<PlacedNorm>,
    relu: bool,
    shortcut: Vec<ScheduledLayer>,
    /// The body's and the shortcut's results.
    ends: [Activation; 2],
    /// Where the block's input gets its gradients from body and shortcut.
    grads: [Option<usize>; 2],
}

/// A layer between what flows in and out.
struct ScheduledLayer {
    placed: PlacedLayer,
    input: Activation,
    output: Activation,
}

/// Lays a network out.
struct Builder {
    spec: ScheduleSpec,
    layout: MemoryLayout,
    params: HashMap<String, usize>,
    running: HashMap<String, usize>,
    zeroed: Vec<(usize, usize)>,
    /// For each weight, the words of its pieces after the first four.
    packings: HashMap<String, [u32; 9]>,
    /// Sums of squares of the gradients so far.
    squares: usize,
    forward: Vec<Launch>,
    scoring: Vec<Launch>,
    backward: Vec<Launch>,
}

impl KernelSchedule {
    /// The schedule of a network, whose shapes alone matter, for a device that runs `blocks` blocks at a time.
    pub(super) fn new(network: &Network, capacity: usize, blocks: usize) -> KernelSchedule {
        let (params, buffers) = (network.params(), network.buffers());
        let spec = ScheduleSpec {
            capacity,
            side: network.spec.input.height as usize,
            classes: network.spec.classes,
            rule: network.spec.optimizer,
            precision: network.spec.precision,
            blocks,
        };
        let slots = |named: Vec<(String, usize)>| {
            let mut begin = 0;
            let slots: Vec<Slot> = named
                .into_iter()
                .map(|(name, len)| {
                    let slot = Slot { name, begin, len };
                    begin += len.next_multiple_of(4);
                    slot
                })
                .collect();
            (slots, begin)
        };
        let named = params.iter().map(|p| (p.name.clone(), p.var.elem_count()));
        let (param_slots, weights_len) = slots(named.collect());
        let named = buffers.iter().map(|(n, t)| (n.clone(), t.elem_count()));
        let (running_slots, running_len) = slots(named.collect());
        let piece_count: usize = param_slots.iter().map(|s| s.len.div_ceil(PIECE)).sum();

        let mut b = Builder {
            spec,
            layout: MemoryLayout::default(),
            params: HashMap::new(),
            running: HashMap::new(),
            zeroed: Vec::new(),
            packings: HashMap::new(),
            squares: 0,
            forward: Vec::new(),
            scoring: Vec::new(),
            backward: Vec::new(),
        };
        // What lasts comes first.
        b.layout.weights = b.zeros(4 * weights_len);
        let rule = optimizers::rule(spec.rule);
        b.layout.optimizer = b.zeros(4 * weights_len * rule.slots.len());
        b.layout.running = b.zeros(4 * running_len);
        b.layout.lasting = b.layout.bytes;
        b.layout.moved = b.zeros(4 * running_len);
        b.layout.grads = b.zeros(4 * weights_len);
        b.layout.state = b.zeros(size_of::<ProgressRecord>());
        b.layout.now = b.room(size_of::<StepRecord>());
        b.layout.steps = b.room(size_of::<StepRecord>() * MAX_STEPS);
        b.layout.found = b.room(size_of::<OutcomeRecord>() * MAX_STEPS);
        b.layout.pieces = b.room(4 * PIECE_WORDS * piece_count);
        let of = |slots: &[Slot], base: usize| {
            slots
                .iter()
                .map(|s| (s.name.clone(), base + 4 * s.begin))
                .collect()
        };
        b.params = of(&param_slots, b.layout.weights);
        b.running = of(&running_slots, b.layout.running);

        let classes = spec.classes;
        let capacity = spec.capacity;
        b.layout.probabilities = b.room(4 * capacity * classes);
        b.layout.losses = b.room(4 * capacity);
        b.layout.images = b.room(4 * capacity * MAX_STEPS);
        let pixels = spec.side * spec.side;
        b.layout.input = b.room(4 * capacity * 3 * pixels);
        let mut constants = String::new();
        define!(constants, SIDE = spec.side);
        let gather = b.elementwise(
            INPUT,
            &constants,
            "gather",
            pixels,
            vec![Some(b.layout.now), Some(b.layout.input)],
        );
        b.forward.push(gather.clone());
        b.scoring.push(gather);
        let input = Activation {
            at: b.layout.input,
            len: 3 * pixels,
            grad: None,
            before: None,
        };
        let layers = b.sequential(&network.layers, input.clone());
        let logits = layers.last().map_or(input, |layer| layer.output.clone());
        b.loss(&logits);
        b.sequential_backward(&layers);

        let mut pieces = Vec::new();
        for (slot, param) in param_slots.iter().zip(params) {
            let packing = b.packings.get(&slot.name).copied().unwrap_or_default();
            for begin in (0..slot.len).step_by(PIECE) {
                let end = (begin + PIECE).min(slot.len);
                pieces.extend([slot.begin + begin, slot.begin + end, slot.begin].map(|v| v as u32));
                pieces.push(u32::from(param.decay));
                pieces.extend(packing);
            }
        }
        let mut constants = String::new();
        define!(
            constants,
            ROW = weights_len,
            SQUARES = b.squares,
            RUNNING = running_len,
            STEPS = MAX_STEPS,
        );
        let counter = b.zeros(4);
        let squares = b.room(8 * b.squares);
        let p = &b.layout;
        let launch = |entry, arguments: Vec<usize>| Launch {
            source: rule.cuda,
            constants: constants.as_str().into(),
            entry,
            grid: [piece_count as u32, 1, 1],
            block: 256,
            arguments: arguments.into_iter().map(Some).collect(),
        };
        // The packed weights are counted from the beginning of the memory.
        let packing = vec![launch("pack", vec![p.pieces, p.weights, 0])];
        let update = launch(
            "update",
            vec![
                p.now,
                p.steps,
                p.state,
                p.found,
                p.pieces,
                p.weights,
                p.grads,
                p.optimizer,
                SQUARES,
                0,
                p.running,
                p.moved,
                counter,
            ],
        );
        let mut training = b.forward;
        training.extend(b.backward);
        training.push(update);
        for offset in training.iter_mut().flat_map(|l| &mut l.arguments).flatten() {
            if *offset >= SQUARES {
                *offset = *offset - SQUARES + squares;
            }
        }
        KernelSchedule {
            capacity,
            layout: b.layout,
            params: param_slots,
            row: weights_len,
            running: running_slots,
            zeroed: b.zeroed,
            pieces,
            training,
            scoring: b.scoring,
            packing,
        }
    }

    /// The schedule of an architecture, for a device that runs `blocks` blocks at a time.
    ///
    /// # Errors
    /// Returns an error if the architecture does not fit.
    pub fn of(spec: &NetworkSpec, capacity: usize, blocks: usize) -> Result<KernelSchedule> {
        Ok(Self::new(&Network::new(spec, 1, 0)?, capacity, blocks))
    }

    /// Offset of the state of the optimizer's slot number `slot`.
    pub fn state_row(&self, slot: usize) -> usize {
        self.layout.optimizer + 4 * self.row * slot
    }
}

impl Builder {
    /// Room for so many bytes, at a multiple of 256.
    fn room(&mut self, bytes: usize) -> usize {
        let at = self.layout.bytes;
        self.layout.bytes = (at + bytes.max(4)).next_multiple_of(256);
        at
    }

    /// The same, zero at the beginning.
    fn zeros(&mut self, bytes: usize) -> usize {
        let at = self.room(bytes);
        self.zeroed.push((at, bytes.max(4)));
        at
    }

    /// f32 for so many numbers of each image of a batch.
    fn batch(&mut self, len: usize) -> usize {
        self.room(4 * self.spec.capacity * len)
    }

    fn elementwise(
        &self,
        source: &'static str,
        constants: &str,
        entry: &'static str,
        len: usize,
        arguments: Vec<Offset>,
    ) -> Launch {
        Launch {
            source,
            constants: constants.into(),
            entry,
            grid: [(self.spec.capacity * len).div_ceil(256) as u32, 1, 1],
            block: 256,
            arguments,
        }
    }

    /// Where a parameter's gradient stands.
    fn grad_of(&self, weight: usize) -> usize {
        weight - self.layout.weights + self.layout.grads
    }

    fn param(&self, layer: &str, suffix: &str) -> usize {
        self.params
            .get(&format!("{layer}.{suffix}"))
            .copied()
            .unwrap_or_default()
    }

    /// A plain flow of so many numbers an image.
    fn flow(&mut self, len: usize) -> Activation {
        Activation {
            at: self.batch(len),
            len,
            grad: Some(self.batch(len)),
            before: None,
        }
    }

    /// In training and in scoring.
    fn both(&mut self, launch: Launch) {
        self.scoring.push(launch.clone());
        self.forward.push(launch);
    }

    fn input_tiles(&self, g: &Geometry) -> usize {
        (self.spec.capacity * g.height * g.width).div_ceil(TILE.0) * g.inputs.div_ceil(TILE.1)
    }

    /// Blocks that share one sum, so that there are enough of them and each has a few terms.
    fn splits(&self, tiles: usize, rounds: usize) -> usize {
        (self.spec.blocks / tiles.max(1)).clamp(1, rounds.div_ceil(2).clamp(1, MAX_SPLITS))
    }

    /// Room for the parts of shared sums.
    fn shared(&mut self, tiles: usize, splits: usize) -> (Offset, Offset) {
        match splits {
            0 | 1 => (None, None),
            _ => (
                Some(self.room(4 * tiles * splits * TILE.0 * TILE.1)),
                Some(self.zeros(4 * tiles)),
            ),
        }
    }

    /// A sum of squares for each of so many blocks.
    fn squares(&mut self, count: usize) -> usize {
        let at = SQUARES + 8 * self.squares;
        self.squares += count;
        at
    }
}

fn norm_parts(norm: &Norm) -> (&str, (usize, usize, usize), bool) {
    match norm.spec() {
        LayerSpec::Norm { input, after } => (norm.name(), input, after.relu),
        _ => (norm.name(), (0, 0, 0), false), // A norm's spec is a norm's.
    }
}

fn pointwise(len: usize, relu: bool, dropout: Option<Dropout>) -> String {
    let mut constants = String::new();
    define!(constants, LEN = len, RELU = u32::from(relu));
    constants + &dropout_constants(dropout)
}

fn dropout_constants(dropout: Option<Dropout>) -> String {
    let mut constants = String::new();
    let stream = dropout.map_or(0, |d| Stream::Dropout(d.layer).word());
    let pinned = dropout.and_then(|d| d.share);
    let (threshold, scale) = Mask::numbers(pinned.unwrap_or(0.0));
    define!(
        constants,
        DROP = format!("{stream}u"),
        DROP_LIVE = u32::from(pinned.is_none()),
        DROP_THRESHOLD = format!("{threshold}u"),
        DROP_SCALE = format!("{scale:?}f"),
    );
    constants
}

fn before_constants(before: Option<&Before>) -> String {
    let mut constants = String::new();
    if let Some(before) = before {
        let pinned = before.dropout.and_then(|d| d.share);
        let (_, scale) = Mask::numbers(pinned.unwrap_or(0.0));
        define!(
            constants,
            BEFORE_H = before.output.0,
            BEFORE_W = before.output.1,
            BEFORE_C = before.output.2,
            BEFORE_OH = before.result.0,
            BEFORE_OW = before.result.1,
            BEFORE_POOL = u32::from(before.pool),
            BEFORE_DROP = match before.dropout {
                None => 0,
                Some(Dropout { share: None, .. }) => 1,
                Some(_) => 2,
            },
            BEFORE_SCALE = format!("{scale:?}f"),
        );
    }
    constants
}
