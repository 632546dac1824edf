//! A network's layers as lists of kernel launches over one block of memory: a training step, a scoring pass, and the
//! packing of the weights. Plain numbers: nothing here needs a GPU.
//!
//! A layer's gradient arrives already prepared: the kernel that computes the gradient of a convolution's or dense layer's
//! output also undoes the dropout, ReLU and pooling that the layer ends with (`arrive` in kernels.cuh).

use crate::device::machine::{Launch, Place};
use crate::domain::params::{Optimizer as Rule, Precision};
use crate::domain::rng::Stream;
use crate::layers::blueprint::{Blueprint, Tail};
use crate::layers::chain::Chain;
use crate::layers::conv::{Dropout, Geometry};
use crate::layers::dropout::Mask;
use crate::layers::norm::Norm;
use crate::layers::{Layer, Param};
use std::collections::HashMap;
use std::fmt::Write;
use std::rc::Rc;

/// What all kernels begin with.
pub const COMMON: &str = include_str!("../layers/kernels.cuh");
const CONV: &str = include_str!("../layers/conv/conv.cu");
const NORM: &str = include_str!("../layers/norm/norm.cu");
const POOL: &str = include_str!("../layers/pool.cu");
const POINTWISE: &str = include_str!("../layers/pointwise.cu");
const INPUT: &str = include_str!("../layers/input.cu");
const LOSS: &str = include_str!("../layers/loss.cu");
const OPTIM: &str = include_str!("optim.cu");

/// Steps that are asked for at once, at most.
pub const MOST_STEPS: usize = 512;
/// Bytes of the records that the kernels and the engine share; see kernels.cuh and optim.cu.
pub const STEP_BYTES: usize = 144;
pub const FOUND_BYTES: usize = 32;
pub const STATE_BYTES: usize = 24;
const PIECE_WORDS: usize = 13;

/// A tile of a product and the terms that are added at a time, as in conv.cu.
const TILE: (usize, usize) = (64, 32);
const TERMS: usize = 32;
/// Blocks that share one sum, at most.
const MOST_SPLITS: usize = 32;
/// Numbers that a block of the optimizer updates.
const PIECE: usize = 1024;
/// Blocks that sum a norm's statistics, at most.
const MOST_SHARDS: usize = 64;

/// A parameter or a running statistic: where it begins in its row, and how long it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub name: String,
    pub begin: usize,
    pub len: usize,
}

/// Where things stand, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The step under way, the list of steps, the state, and what the steps found.
    pub now: usize,
    pub steps: usize,
    pub state: usize,
    pub found: usize,
    /// All parameters, their gradients and moments, one after the other.
    pub weights: usize,
    pub grads: usize,
    pub first: usize,
    pub second: usize,
    /// The norms' running statistics, and what this step would make of them.
    pub running: usize,
    pub moved: usize,
    /// The optimizer's pieces.
    pub pieces: usize,
    /// Image numbers of the steps asked for.
    pub images: usize,
    /// Of a scoring pass.
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
pub struct Plan {
    pub capacity: usize,
    pub classes: usize,
    pub places: Places,
    pub params: Vec<Slot>,
    pub running: Vec<Slot>,
    /// What must be zero at the beginning: place and bytes.
    pub zeroed: Vec<(usize, usize)>,
    /// The optimizer's pieces, as its kernel reads them.
    pub pieces: Vec<u32>,
    pub training: Vec<Launch>,
    pub scoring: Vec<Launch>,
    pub packing: Vec<Launch>,
    /// Where each layer's output stands, and how long an image's is; blocks as one.
    pub outputs: Vec<(usize, usize)>,
}

/// What a plan is made for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Needs {
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
struct Flow {
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
    taken: Place,
}

/// A convolution, or a dense layer as one.
struct Product {
    geometry: Geometry,
    /// Channels and pixels of a dense layer's input; a convolution's inputs and 1.
    flat: (usize, usize),
    relu: bool,
    pool: bool,
    dropout: Option<Dropout>,
    bias: bool,
}

/// A layer, and where its things stand.
enum Laid<'a> {
    Product {
        product: Product,
        weight: usize,
        bias: Option<usize>,
        packed_back: Place,
        constants: String,
    },
    Norm {
        norm: LaidNorm,
        skip: bool,
    },
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
    Residual(Box<Block<'a>>),
}

struct LaidNorm {
    constants: String,
    shards: usize,
    weight: usize,
    bias: usize,
    taken: Place,
    kept: usize,
    parts: usize,
    counter: usize,
    pixels: usize,
}

struct Block<'a> {
    body: Vec<Step<'a>>,
    tail: Option<LaidNorm>,
    relu: bool,
    shortcut: Vec<Step<'a>>,
    /// The body's and the shortcut's results.
    ends: [Flow; 2],
    /// Where the block's input gets its gradients from body and shortcut.
    grads: [Option<usize>; 2],
}

/// A layer between what flows in and out.
struct Step<'a> {
    laid: Laid<'a>,
    input: Flow,
    output: Flow,
    _layer: &'a dyn Layer,
}

/// Lays a network out.
struct Builder {
    needs: Needs,
    places: Places,
    params: HashMap<String, usize>,
    running: HashMap<String, usize>,
    zeroed: Vec<(usize, usize)>,
    /// Of each weight: the words of its pieces after the first four.
    packings: HashMap<String, [u32; 9]>,
    squares: usize,
    squares_used: usize,
    forward: Vec<Launch>,
    scoring: Vec<Launch>,
    backward: Vec<Launch>,
}

macro_rules! define {
    ($text:expr, $($name:ident = $value:expr),+ $(,)?) => {
        $(let _ = writeln!($text, "#define {} {}", stringify!($name), $value);)+
    };
}

impl Plan {
    /// `params` and `buffers` are the network's, `chain` its layers.
    pub fn new(
        needs: Needs,
        chain: &Chain,
        params: &[&Param],
        buffers: &[(String, &candle_core::Tensor)],
    ) -> Plan {
        // How many sums of squares there are is known after the first time.
        let first = Self::lay(needs, chain, params, buffers, 0);
        Self::lay(needs, chain, params, buffers, first.1).0
    }

    /// A network's.
    pub fn of(needs: Needs, net: &super::Net) -> Plan {
        let parts = net.parts();
        Plan::new(needs, parts.chain, &parts.params, &parts.buffers)
    }

    fn lay(
        needs: Needs,
        chain: &Chain,
        params: &[&Param],
        buffers: &[(String, &candle_core::Tensor)],
        squares: usize,
    ) -> (Plan, usize) {
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
            needs,
            places: Places::default(),
            params: HashMap::new(),
            running: HashMap::new(),
            zeroed: Vec::new(),
            packings: HashMap::new(),
            squares: 0,
            squares_used: 0,
            forward: Vec::new(),
            scoring: Vec::new(),
            backward: Vec::new(),
        };
        // What lasts comes first.
        b.places.weights = b.zeros(4 * weights_len);
        b.places.first = b.zeros(4 * weights_len);
        b.places.second = match needs.rule {
            Rule::Sgd => b.places.first,
            Rule::Adam | Rule::Adamw => b.zeros(4 * weights_len),
        };
        b.places.running = b.zeros(4 * running_len);
        b.places.lasting = b.places.bytes;
        b.places.moved = b.zeros(4 * running_len);
        b.places.grads = b.zeros(4 * weights_len);
        b.places.state = b.zeros(STATE_BYTES);
        b.places.now = b.room(STEP_BYTES);
        b.places.steps = b.room(STEP_BYTES * MOST_STEPS);
        b.places.found = b.room(FOUND_BYTES * MOST_STEPS);
        b.places.pieces = b.room(4 * PIECE_WORDS * piece_count);
        b.squares = b.room(8 * squares);
        let of = |slots: &[Slot], base: usize| {
            slots
                .iter()
                .map(|s| (s.name.clone(), base + 4 * s.begin))
                .collect()
        };
        b.params = of(&param_slots, b.places.weights);
        b.running = of(&running_slots, b.places.running);

        let classes = needs.classes;
        let capacity = needs.capacity;
        b.places.probabilities = b.room(4 * capacity * classes);
        b.places.losses = b.room(4 * capacity);
        b.places.images = b.room(4 * capacity * MOST_STEPS);
        let pixels = needs.side * needs.side;
        b.places.input = b.room(4 * capacity * 3 * pixels);
        let mut constants = String::new();
        define!(constants, SIDE = needs.side);
        let gather = b.elementwise(
            INPUT,
            &constants,
            "gather",
            pixels,
            vec![Some(b.places.now), Some(b.places.input)],
        );
        b.forward.push(gather.clone());
        b.scoring.push(gather);
        let input = Flow {
            at: b.places.input,
            len: 3 * pixels,
            grad: None,
            before: None,
        };
        let steps = b.chain(chain, input.clone());
        let outputs = steps
            .iter()
            .map(|step| (step.output.at, step.output.len))
            .collect();
        let logits = steps.last().map_or(input, |step| step.output.clone());
        b.loss(&logits);
        b.chain_backward(&steps);

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
            RULE = u32::from(needs.rule != Rule::Sgd),
            SQUARES = b.squares_used,
            RUNNING = running_len,
            STEPS = MOST_STEPS,
        );
        let counter = b.zeros(4);
        let p = &b.places;
        let launch = |entry, arguments: Vec<usize>| Launch {
            source: OPTIM,
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
                p.now, p.steps, p.state, p.found, p.pieces, p.weights, p.grads, p.first, p.second,
                b.squares, 0, p.running, p.moved, counter,
            ],
        );
        let mut training = b.forward;
        training.extend(b.backward);
        training.push(update);
        let plan = Plan {
            capacity,
            classes,
            places: b.places,
            params: param_slots,
            running: running_slots,
            zeroed: b.zeroed,
            pieces,
            training,
            scoring: b.scoring,
            packing,
            outputs,
        };
        (plan, b.squares_used)
    }
}

impl Builder {
    /// Room for so many bytes, at a multiple of 256.
    fn room(&mut self, bytes: usize) -> usize {
        let at = self.places.bytes;
        self.places.bytes = (at + bytes.max(4)).next_multiple_of(256);
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
        self.room(4 * self.needs.capacity * len)
    }

    fn elementwise(
        &self,
        source: &'static str,
        constants: &str,
        entry: &'static str,
        len: usize,
        arguments: Vec<Place>,
    ) -> Launch {
        Launch {
            source,
            constants: constants.into(),
            entry,
            grid: [(self.needs.capacity * len).div_ceil(256) as u32, 1, 1],
            block: 256,
            arguments,
        }
    }

    /// Where a parameter's gradient stands.
    fn grad_of(&self, weight: usize) -> usize {
        weight - self.places.weights + self.places.grads
    }

    fn param(&self, layer: &str, suffix: &str) -> usize {
        self.params
            .get(&format!("{layer}.{suffix}"))
            .copied()
            .unwrap_or_default()
    }

    fn chain<'a>(&mut self, chain: &'a Chain, mut input: Flow) -> Vec<Step<'a>> {
        let mut steps = Vec::new();
        for layer in chain.layers() {
            let (laid, output) = self.layer(layer.as_ref(), &input);
            let before = std::mem::replace(&mut input, output.clone());
            steps.push(Step {
                laid,
                input: before,
                output,
                _layer: layer.as_ref(),
            });
        }
        steps
    }

    /// A plain flow of so many numbers an image.
    fn flow(&mut self, len: usize) -> Flow {
        Flow {
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

    fn layer<'a>(&mut self, layer: &'a dyn Layer, input: &Flow) -> (Laid<'a>, Flow) {
        let now = Some(self.places.now);
        let name = layer.name();
        match layer.blueprint() {
            Blueprint::Conv {
                geometry,
                after,
                bias,
            } => {
                let product = Product {
                    flat: (geometry.inputs, 1),
                    geometry,
                    relu: after.relu,
                    pool: after.pool,
                    dropout: after.dropout,
                    bias,
                };
                self.product(name, product, input)
            }
            Blueprint::Dense {
                channels,
                pixels,
                outputs,
                relu,
                dropout,
                bias,
            } => {
                let geometry = Geometry {
                    height: 1,
                    width: 1,
                    inputs: channels * pixels,
                    outputs,
                    kernel: 1,
                    stride: 1,
                    padding: 0,
                    out_height: 1,
                    out_width: 1,
                };
                let product = Product {
                    geometry,
                    flat: (channels, pixels),
                    relu,
                    pool: false,
                    dropout,
                    bias,
                };
                self.product(name, product, input)
            }
            Blueprint::Norm {
                input: shape,
                after,
            } => {
                let pooled = (shape.0 / 2) * (shape.1 / 2) * shape.2;
                let len = if after.pool { pooled } else { input.len };
                let output = self.flow(len);
                let norm = self.norm(name, shape, after.relu, after.pool, input, None, &output);
                (Laid::Norm { norm, skip: false }, output)
            }
            Blueprint::MaxPool {
                input: (h, w, c),
                kernel,
                stride,
            } => {
                let (oh, ow) = ((h - kernel) / stride + 1, (w - kernel) / stride + 1);
                let mut constants = String::new();
                define!(
                    constants,
                    H = h,
                    W = w,
                    C = c,
                    KERNEL = kernel,
                    STRIDE = stride,
                    OH = oh,
                    OW = ow
                );
                let output = self.flow(oh * ow * c);
                let taken = self.room(2 * self.needs.capacity * output.len);
                let arguments = vec![now, Some(input.at), Some(output.at), Some(taken)];
                let launch = self.elementwise(POOL, &constants, "largest", output.len, arguments);
                self.both(launch);
                (Laid::MaxPool { constants, taken }, output)
            }
            Blueprint::GlobalPool { pixels, channels } => {
                let mut constants = String::new();
                define!(
                    constants,
                    H = pixels,
                    W = 1,
                    C = channels,
                    KERNEL = 1,
                    STRIDE = 1,
                    OH = 1,
                    OW = 1
                );
                let output = self.flow(channels);
                let arguments = vec![now, Some(input.at), Some(output.at)];
                let launch = self.elementwise(POOL, &constants, "mean", channels, arguments);
                self.both(launch);
                (Laid::GlobalPool { constants }, output)
            }
            Blueprint::Relu => {
                let constants = pointwise(input.len, true, None);
                let output = self.flow(input.len);
                let arguments = vec![now, Some(input.at), Some(output.at)];
                let launch =
                    self.elementwise(POINTWISE, &constants, "rectify", input.len, arguments);
                self.both(launch);
                (Laid::Relu { constants }, output)
            }
            Blueprint::Drop(dropout) => {
                let constants = pointwise(input.len, false, Some(dropout));
                let output = self.flow(input.len);
                let arguments = vec![now, Some(input.at), Some(output.at)];
                let launch = self.elementwise(POINTWISE, &constants, "drop", input.len, arguments);
                self.both(launch);
                (Laid::Drop { constants }, output)
            }
            Blueprint::Residual {
                body,
                tail,
                shortcut,
            } => self.residual(body, tail, shortcut, input),
        }
    }

    fn product<'a>(&mut self, name: &str, product: Product, input: &Flow) -> (Laid<'a>, Flow) {
        let g = product.geometry;
        let capacity = self.needs.capacity;
        let (height, width) = match product.pool {
            true => (g.out_height / 2, g.out_width / 2),
            false => (g.out_height, g.out_width),
        };
        let len = height * width * g.outputs;
        let result = g.out_height * g.out_width * g.outputs;
        let taken = product.pool.then(|| self.room(capacity * len));
        let output = Flow {
            at: self.batch(len),
            len,
            // Beyond the last whole window it stays zero.
            grad: Some(self.zeros(4 * capacity * result)),
            before: product.relu.then(|| {
                Rc::new(Before {
                    output: (height, width, g.outputs),
                    result: (g.out_height, g.out_width),
                    pool: product.pool,
                    dropout: product.dropout,
                    taken,
                })
            }),
        };
        let (wide_outputs, wide_inputs) =
            (g.outputs.next_multiple_of(4), g.inputs.next_multiple_of(4));
        let places = g.kernel * g.kernel;
        let packed = self.zeros(4 * places * g.inputs * wide_outputs);
        let packed_back = input
            .grad
            .map(|_| self.zeros(4 * places * g.outputs * wide_inputs));
        self.packings.insert(
            format!("{name}.weight"),
            [
                g.inputs,
                g.outputs,
                places,
                product.flat.0,
                product.flat.1,
                wide_outputs,
                wide_inputs,
                packed / 4,
                packed_back.unwrap_or(0) / 4,
            ]
            .map(|v| v as u32),
        );
        let wanted = match product.pool {
            true => height * width * 4,
            false => height * width,
        };
        let tiles = (
            (capacity * wanted).div_ceil(TILE.0),
            g.outputs.div_ceil(TILE.1),
        );
        let splits = self.splits(tiles.0 * tiles.1, g.patch().div_ceil(TERMS));
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
            RELU = u32::from(product.relu),
            POOL = u32::from(product.pool),
            BIAS = u32::from(product.bias),
            C = product.flat.0,
            P = product.flat.1,
            WIDE_O = wide_outputs,
            WIDE_I = wide_inputs,
            PRECISION = match self.needs.precision {
                Precision::F32 => 0,
                Precision::Tf32 => 1,
                Precision::Bf16 => 2,
            },
            SPLITS = splits,
        );
        constants.push_str(&dropout_constants(product.dropout));
        let (parts, counters) = self.shared(tiles.0 * tiles.1, splits);
        let weight = self.param(name, "weight");
        let bias = product.bias.then(|| self.param(name, "bias"));

        // The backward constants complete the forward ones, so that both kernels are compiled together.
        let rows = g.patch() + usize::from(product.bias);
        let weight_tiles = rows.div_ceil(TILE.0) * g.outputs.div_ceil(TILE.1);
        let pixels = capacity * g.out_height * g.out_width;
        let weight_splits = self.splits(weight_tiles, pixels.div_ceil(TERMS));
        let input_tiles = self.input_tiles(&g);
        let input_splits = match input.grad {
            None => 0,
            Some(_) => self.splits(input_tiles, (places * g.outputs).div_ceil(TERMS)),
        };
        define!(
            constants,
            INPUT_SPLITS = input_splits,
            WEIGHT_SPLITS = weight_splits,
            WEIGHT_BLOCKS = weight_tiles * weight_splits,
        );
        if input.grad.is_some() {
            constants.push_str(&before_constants(input.before.as_deref()));
        }
        let launch = Launch {
            source: CONV,
            constants: constants.as_str().into(),
            entry: "forward",
            grid: [tiles.0 as u32, tiles.1 as u32, splits as u32],
            block: 128,
            arguments: vec![
                Some(self.places.now),
                Some(input.at),
                Some(packed),
                bias,
                Some(output.at),
                taken,
                parts,
                counters,
            ],
        };
        self.both(launch);
        let laid = Laid::Product {
            product,
            weight,
            bias,
            packed_back,
            constants,
        };
        (laid, output)
    }

    fn input_tiles(&self, g: &Geometry) -> usize {
        (self.needs.capacity * g.height * g.width).div_ceil(TILE.0) * g.inputs.div_ceil(TILE.1)
    }

    /// Blocks that share one sum, so that there are enough of them and each has a few terms.
    fn splits(&self, tiles: usize, rounds: usize) -> usize {
        (self.needs.blocks / tiles.max(1)).clamp(1, rounds.div_ceil(2).clamp(1, MOST_SPLITS))
    }

    /// Room for the parts of shared sums.
    fn shared(&mut self, tiles: usize, splits: usize) -> (Place, Place) {
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
        let at = self.squares + 8 * self.squares_used;
        self.squares_used += count;
        at
    }

    #[allow(clippy::too_many_arguments, reason = "what a norm is between")]
    fn norm(
        &mut self,
        name: &str,
        (h, w, c): (usize, usize, usize),
        relu: bool,
        pool: bool,
        input: &Flow,
        skip: Option<&Flow>,
        output: &Flow,
    ) -> LaidNorm {
        let capacity = self.needs.capacity;
        let shards = (capacity * h * w).div_ceil(64).clamp(1, MOST_SHARDS);
        let mut constants = String::new();
        define!(
            constants,
            H = h,
            W = w,
            C = c,
            RELU = u32::from(relu),
            POOL = u32::from(pool),
            SKIP = u32::from(skip.is_some()),
            SHARDS = shards,
        );
        let norm = LaidNorm {
            shards,
            weight: self.param(name, "weight"),
            bias: self.param(name, "bias"),
            taken: pool.then(|| self.room(capacity * output.len)),
            kept: self.room(4 * 7 * c),
            parts: self.room(8 * 2 * shards * c),
            counter: self.zeros(4),
            pixels: h * w * c,
            constants,
        };
        let running = |suffix: &str| {
            self.running
                .get(&format!("{name}.{suffix}"))
                .copied()
                .unwrap_or_default()
        };
        let (mean, var) = (running("running_mean"), running("running_var"));
        let moved = |at: usize| at - self.places.running + self.places.moved;
        let moments = Launch {
            source: NORM,
            constants: norm.constants.as_str().into(),
            entry: "moments",
            grid: [shards as u32, 1, 1],
            block: 256,
            arguments: [
                self.places.now,
                input.at,
                norm.weight,
                norm.bias,
                mean,
                var,
                moved(mean),
                moved(var),
                norm.kept,
                norm.parts,
                norm.counter,
            ]
            .map(Some)
            .to_vec(),
        };
        let settle = Launch {
            entry: "settle",
            grid: [1; 3],
            arguments: [norm.weight, norm.bias, mean, var, norm.kept]
                .map(Some)
                .to_vec(),
            ..moments.clone()
        };
        let arguments = vec![
            Some(self.places.now),
            Some(input.at),
            Some(norm.kept),
            skip.map(|skip| skip.at),
            Some(output.at),
            norm.taken,
        ];
        let apply = self.elementwise(NORM, &norm.constants, "apply", output.len, arguments);
        self.forward.push(moments);
        self.scoring.push(settle);
        self.both(apply);
        norm
    }

    fn residual<'a>(
        &mut self,
        body: &'a Chain,
        tail: Tail<'a>,
        shortcut: &'a Chain,
        input: &Flow,
    ) -> (Laid<'a>, Flow) {
        // The branches' gradients are added before the layer before sees them.
        let body_grad = self.plain(input);
        let skip_grad = input.grad.map(|_| self.batch(input.len));
        let branch = |grad| Flow {
            grad,
            before: None,
            ..input.clone()
        };
        let (body_input, skip_input) = (branch(body_grad), branch(skip_grad));
        let body = self.chain(body, body_input.clone());
        let shortcut = self.chain(shortcut, skip_input.clone());
        let end = |steps: &[Step], input: Flow| steps.last().map_or(input, |s| s.output.clone());
        let ends = [end(&body, body_input), end(&shortcut, skip_input)];
        let (output, tail, relu) = match tail {
            Tail::Norm(norm) => {
                let (name, shape, relu) = norm_parts(norm);
                let output = self.flow(ends[0].len);
                let laid = self.norm(name, shape, relu, false, &ends[0], Some(&ends[1]), &output);
                (output, Some(laid), relu)
            }
            Tail::Sum { relu } => {
                let output = self.flow(ends[0].len);
                let constants = pointwise(output.len, relu, None);
                let arguments = vec![
                    Some(self.places.now),
                    Some(ends[0].at),
                    Some(ends[1].at),
                    Some(output.at),
                ];
                let launch = self.elementwise(POINTWISE, &constants, "sum", output.len, arguments);
                self.both(launch);
                (output, None, relu)
            }
        };
        let block = Block {
            body,
            tail,
            relu,
            shortcut,
            ends,
            grads: [body_grad, skip_grad],
        };
        (Laid::Residual(Box::new(block)), output)
    }

    fn loss(&mut self, logits: &Flow) {
        let mut constants = String::new();
        define!(constants, CLASSES = self.needs.classes);
        let blocks = self.needs.capacity.div_ceil(128);
        let (parts, counter) = (self.room(16 * blocks), self.zeros(4));
        let p = &self.places;
        let train = Launch {
            source: LOSS,
            constants: constants.as_str().into(),
            entry: "train",
            grid: [blocks as u32, 1, 1],
            block: 128,
            arguments: vec![
                Some(p.now),
                Some(p.state),
                Some(logits.at),
                logits.grad,
                Some(parts),
                Some(counter),
            ],
        };
        let score = Launch {
            entry: "score",
            arguments: [p.now, logits.at, p.probabilities, p.losses]
                .map(Some)
                .to_vec(),
            ..train.clone()
        };
        self.forward.push(train);
        self.scoring.push(score);
    }

    fn chain_backward(&mut self, steps: &[Step]) {
        for step in steps.iter().rev() {
            self.step_backward(step);
        }
    }

    /// Where a kernel that knows nothing of the layer before writes the gradient of its input.
    fn plain(&mut self, input: &Flow) -> Option<usize> {
        match &input.before {
            None => input.grad,
            Some(_) => input.grad.map(|_| self.batch(input.len)),
        }
    }

    /// After it has: what is left to do for the layer before.
    fn deliver(&mut self, from: usize, input: &Flow) {
        if let (Some(before), Some(grad)) = (input.before.as_deref(), input.grad) {
            let mut constants = pointwise(input.len, true, None);
            constants.push_str(&before_constants(Some(before)));
            let arguments = vec![
                Some(self.places.now),
                Some(from),
                Some(input.at),
                before.taken,
                Some(grad),
            ];
            let launch = self.elementwise(POINTWISE, &constants, "arriving", input.len, arguments);
            self.backward.push(launch);
        }
    }

    fn step_backward(&mut self, step: &Step) {
        let (input, output) = (&step.input, &step.output);
        let now = Some(self.places.now);
        match &step.laid {
            Laid::Product {
                product,
                weight,
                bias,
                packed_back,
                constants,
            } => {
                let g = product.geometry;
                let rows = g.patch() + usize::from(product.bias);
                let weight_tiles = rows.div_ceil(TILE.0) * g.outputs.div_ceil(TILE.1);
                let pixels = self.needs.capacity * g.out_height * g.out_width;
                let weight_splits = self.splits(weight_tiles, pixels.div_ceil(TERMS));
                let (weight_parts, weight_counters) = self.shared(weight_tiles, weight_splits);
                let tiles = self.input_tiles(&g);
                let (mut blocks, mut shared) = (weight_tiles * weight_splits, (None, None));
                if input.grad.is_some() {
                    let places = g.kernel * g.kernel;
                    let splits = self.splits(tiles, (places * g.outputs).div_ceil(TERMS));
                    shared = self.shared(tiles, splits);
                    blocks += tiles * splits;
                }
                let squares = self.squares(weight_tiles);
                let launch = Launch {
                    source: CONV,
                    constants: constants.as_str().into(),
                    entry: "backward",
                    grid: [blocks as u32, 1, 1],
                    block: 128,
                    arguments: vec![
                        now,
                        Some(input.at),
                        output.grad,
                        *packed_back,
                        Some(self.grad_of(*weight)),
                        bias.map(|bias| self.grad_of(bias)),
                        Some(squares),
                        weight_parts,
                        weight_counters,
                        input.grad,
                        input.before.as_ref().and_then(|before| before.taken),
                        shared.0,
                        shared.1,
                    ],
                };
                self.backward.push(launch);
            }
            Laid::Norm { norm, skip } => {
                debug_assert!(!skip);
                let to = self.plain(input);
                self.norm_backward(norm, input, output, None, to);
                if let Some(to) = to {
                    self.deliver(to, input);
                }
            }
            Laid::MaxPool { constants, taken } => {
                self.through(input, |b, to| {
                    let arguments = vec![now, output.grad, Some(*taken), Some(to)];
                    b.elementwise(POOL, constants, "spread", input.len, arguments)
                });
            }
            Laid::GlobalPool { constants } => {
                self.through(input, |b, to| {
                    let arguments = vec![now, output.grad, Some(to)];
                    b.elementwise(POOL, constants, "spread_mean", input.len, arguments)
                });
            }
            Laid::Relu { constants } => {
                self.through(input, |b, to| {
                    let arguments = vec![now, output.grad, Some(output.at), Some(to)];
                    b.elementwise(POINTWISE, constants, "mask", input.len, arguments)
                });
            }
            Laid::Drop { constants } => {
                self.through(input, |b, to| {
                    let arguments = vec![now, output.grad, Some(to)];
                    b.elementwise(POINTWISE, constants, "drop", input.len, arguments)
                });
            }
            Laid::Residual(block) => self.block_backward(block, input, output),
        }
    }

    /// A layer without parameters.
    fn through(&mut self, input: &Flow, launch: impl Fn(&Self, usize) -> Launch) {
        if let Some(to) = self.plain(input) {
            let launch = launch(self, to);
            self.backward.push(launch);
            self.deliver(to, input);
        }
    }

    fn norm_backward(
        &mut self,
        norm: &LaidNorm,
        input: &Flow,
        output: &Flow,
        masked: Option<usize>,
        to: Option<usize>,
    ) {
        let squares = self.squares(1);
        let now = Some(self.places.now);
        let slopes = Launch {
            source: NORM,
            constants: norm.constants.as_str().into(),
            entry: "slopes",
            grid: [norm.shards as u32, 1, 1],
            block: 256,
            arguments: vec![
                now,
                Some(input.at),
                output.grad,
                Some(output.at),
                norm.taken,
                Some(norm.weight),
                masked,
                Some(self.grad_of(norm.weight)),
                Some(self.grad_of(norm.bias)),
                Some(squares),
                Some(norm.kept),
                Some(norm.parts),
                Some(norm.counter),
            ],
        };
        self.backward.push(slopes);
        if let Some(to) = to {
            let arguments = vec![
                now,
                Some(input.at),
                masked.or(output.grad),
                Some(output.at),
                norm.taken,
                Some(norm.kept),
                Some(to),
            ];
            let slope = self.elementwise(NORM, &norm.constants, "slope", norm.pixels, arguments);
            self.backward.push(slope);
        }
    }

    fn block_backward(&mut self, block: &Block, input: &Flow, output: &Flow) {
        let now = Some(self.places.now);
        let masked = self.batch(output.len);
        let [body_end, skip_end] = &block.ends;
        if let Some(norm) = &block.tail {
            let to = self.plain(body_end);
            self.norm_backward(norm, body_end, output, Some(masked), to);
            if let Some(to) = to {
                self.deliver(to, body_end);
            }
        } else {
            let constants = pointwise(output.len, block.relu, None);
            let arguments = vec![now, output.grad, Some(output.at), Some(masked)];
            let mask = self.elementwise(POINTWISE, &constants, "mask", output.len, arguments);
            self.backward.push(mask);
            self.hand(masked, body_end);
        }
        self.chain_backward(&block.body);
        if !block.shortcut.is_empty() {
            self.hand(masked, skip_end);
            self.chain_backward(&block.shortcut);
        }
        let [Some(body), Some(skip)] = block.grads else {
            return;
        };
        let skip = if block.shortcut.is_empty() {
            masked
        } else {
            skip
        };
        let constants = pointwise(input.len, false, None);
        let add = self.elementwise(
            POINTWISE,
            &constants,
            "add",
            input.len,
            vec![now, Some(skip), Some(body)],
        );
        self.backward.push(add);
        self.deliver(body, input);
    }

    /// Gives a gradient that is ready to the layer that ends a branch.
    fn hand(&mut self, from: usize, end: &Flow) {
        match (&end.before, end.grad) {
            (Some(_), _) => self.deliver(from, end),
            (None, Some(grad)) => {
                let constants = pointwise(end.len, false, None);
                let arguments = vec![Some(self.places.now), Some(from), Some(end.at), Some(grad)];
                let copy = self.elementwise(POINTWISE, &constants, "mask", end.len, arguments);
                self.backward.push(copy);
            }
            (None, None) => {}
        }
    }
}

fn norm_parts(norm: &Norm) -> (&str, (usize, usize, usize), bool) {
    match norm.blueprint() {
        Blueprint::Norm { input, after } => (norm.name(), input, after.relu),
        _ => (norm.name(), (0, 0, 0), false), // A norm's blueprint is a norm's.
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
