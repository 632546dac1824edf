//! A network's layers as lists of kernel launches over a member's memory: a training step, a scoring pass, and the
//! packing of the weights. Plain numbers: nothing here needs a GPU. The layers make their own launches
//! ([`crate::layers::gpu`]); around them stand the input, the loss and the optimizer.

use super::optimizer::{OptimizerSchedule, PIECE, PIECE_WORDS};
use super::records::{OutcomeRecord, ProgressRecord, StepRecord};
use crate::backend::cpu::network::Network;
use crate::backend::{NetworkSpec, Result};
use crate::domain::arch::Shape;
use crate::domain::layer_rates::LayerRates;
use crate::hardware::executor::{Cost, Launch};
use crate::layers::conv::product::Product;
use crate::layers::conv::variant::Choices;
use crate::layers::gpu::{Activation, LaunchBuilder, LaunchTarget, SharedOffsets, define};
use std::collections::HashMap;
use std::fmt::Write;
use std::rc::Rc;

pub use crate::layers::gpu::ScheduledLaunch;

const INPUT: &str = include_str!("../../layers/input.cu");
const LOSS: &str = include_str!("../../layers/loss.cu");

/// Steps that are asked for at once, at most.
pub const MAX_STEPS: usize = 512;

/// A parameter or a running statistic: where it begins in its row, and how long it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub name: String,
    pub begin: usize,
    pub len: usize,
    /// Whether the optimizer moves it.
    pub trained: bool,
}

/// Where things stand, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryLayout {
    /// The current step, the list of steps, their progress, and their outcomes.
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
    /// The averages of a row of parameters and of the running statistics, if they are kept.
    pub average: Option<usize>,
    /// The optimizer's pieces, and its matrices of filters.
    pub pieces: usize,
    pub matrices: usize,
    /// Image numbers of the steps asked for.
    pub images: usize,
    /// The results of a scoring pass.
    pub probabilities: usize,
    pub losses: usize,
    /// The network's input.
    pub input: usize,
    /// A change of the capacity keeps the memory before this offset. The average is its end.
    pub lasting: usize,
    /// Total size.
    pub bytes: usize,
}

/// The launches of a network for batches of up to `capacity` images.
#[derive(Clone, Debug)]
pub struct KernelSchedule {
    pub capacity: usize,
    pub layout: MemoryLayout,
    pub params: Vec<Slot>,
    /// Number of elements in a row of all parameters.
    row: usize,
    pub running: Vec<Slot>,
    /// Number of elements in a row of all running statistics.
    running_row: usize,
    /// What must be zero at the beginning: place and bytes.
    pub zeroed: Vec<(usize, usize)>,
    /// The optimizer's pieces and matrices, as its kernels read them.
    pub pieces: Vec<u32>,
    pub matrices: Vec<u32>,
    pub training: Vec<ScheduledLaunch>,
    pub scoring: Vec<ScheduledLaunch>,
    pub packing: Vec<ScheduledLaunch>,
    /// Exchanges the weights and their average, if there is one.
    pub swapping: Option<Vec<ScheduledLaunch>>,
}

impl KernelSchedule {
    /// The schedule of a network for a device with so many multiprocessors. Only the network's shapes matter. With
    /// `averages`, training steps move an average of the weights too.
    pub(super) fn new(
        network: &Network,
        capacity: usize,
        multiprocessors: u32,
        averages: bool,
        choices: &Rc<Choices>,
    ) -> KernelSchedule {
        let spec = &network.spec;
        let (params, buffers) = (network.params(), network.buffers());
        let named = params
            .iter()
            .map(|p| (p.name.clone(), p.var.elem_count(), p.trained));
        let (param_slots, weights_len) = slots(named.collect());
        let named = buffers
            .iter()
            .map(|(n, t)| (n.clone(), t.elem_count(), false));
        let (running_slots, running_len) = slots(named.collect());

        let mut b = LaunchBuilder::new(LaunchTarget {
            capacity,
            multiprocessors: multiprocessors as usize,
            format: spec.precision.on_gpu(),
            choices: Rc::clone(choices),
        });
        let rule = spec.optimizer;
        // The memory that a change of the capacity keeps comes first.
        let mut layout = MemoryLayout {
            weights: b.zeros(4 * weights_len),
            optimizer: b.zeros(4 * weights_len * rule.slots.len()),
            running: b.zeros(4 * running_len),
            average: averages.then(|| b.zeros(4 * (weights_len + running_len))),
            lasting: b.bytes,
            moved: b.zeros(4 * running_len),
            grads: b.zeros(4 * weights_len),
            state: b.zeros(size_of::<ProgressRecord>()),
            now: b.allocate(size_of::<StepRecord>()),
            steps: b.allocate(size_of::<StepRecord>() * MAX_STEPS),
            found: b.allocate(size_of::<OutcomeRecord>() * MAX_STEPS),
            ..MemoryLayout::default()
        };
        b.shared = SharedOffsets {
            step: layout.now,
            weights: layout.weights,
            grads: layout.grads,
            buffers: layout.running,
            new_buffers: layout.moved,
        };
        b.offsets = offsets(&param_slots, layout.weights);
        b.offsets.extend(offsets(&running_slots, layout.running));

        layout.probabilities = b.allocate(4 * capacity * spec.classes);
        layout.losses = b.allocate(4 * capacity);
        layout.images = b.allocate(4 * capacity * MAX_STEPS);
        let input = b.within("input", |b| gather(b, &mut layout, spec.input));
        let (logits, backward) = network.layers.schedule(&mut b, input);
        b.within("loss", |b| loss(b, &layout, spec.classes, &logits));
        backward(&mut b);

        let slots = (&param_slots[..], weights_len);
        let optimizer = b.within("optimizer", |b| {
            OptimizerSchedule::new(b, network, slots, &mut layout, running_len)
        });
        let training = b.training(optimizer.training, optimizer.squares);
        layout.bytes = b.bytes;
        KernelSchedule {
            capacity,
            layout,
            params: param_slots,
            row: weights_len,
            running: running_slots,
            running_row: running_len,
            zeroed: std::mem::take(&mut b.zeroed),
            pieces: optimizer.pieces,
            matrices: optimizer.matrices,
            training,
            scoring: b.scoring(),
            swapping: optimizer
                .swapping
                .map(|swap| vec![swap, optimizer.packing.clone()]),
            packing: vec![optimizer.packing],
        }
    }

    /// The schedule of an architecture with the plain variants, for a device with so many multiprocessors.
    ///
    /// # Errors
    /// Returns an error if the architecture does not fit.
    pub fn of(
        spec: &NetworkSpec,
        capacity: usize,
        multiprocessors: u32,
        averages: bool,
    ) -> Result<KernelSchedule> {
        let choices = Rc::default();
        Self::with_choices(spec, capacity, multiprocessors, averages, &choices)
    }

    /// The schedule of an architecture with these variants.
    ///
    /// # Errors
    /// Returns an error if the architecture does not fit.
    pub fn with_choices(
        spec: &NetworkSpec,
        capacity: usize,
        multiprocessors: u32,
        averages: bool,
        choices: &Rc<Choices>,
    ) -> Result<KernelSchedule> {
        let network = Network::new(spec, 1, 0)?;
        Ok(Self::new(
            &network,
            capacity,
            multiprocessors,
            averages,
            choices,
        ))
    }

    /// The products of its launches, each once.
    pub fn products(&self) -> Vec<Rc<Product>> {
        let launches = self.training.iter().chain(&self.scoring);
        let mut products: Vec<Rc<Product>> = Vec::new();
        for product in launches.filter_map(|launch| launch.product.as_ref()) {
            if products.iter().all(|known| known.key() != product.key()) {
                products.push(Rc::clone(product));
            }
        }
        products
    }

    /// The parameters that the optimizer moves, and so has state for.
    pub fn trained(&self) -> impl Iterator<Item = &Slot> {
        self.params.iter().filter(|slot| slot.trained)
    }

    /// The optimizer's pieces with these factors on their learning rates.
    pub fn pieces_at(&self, rates: &LayerRates) -> Vec<u32> {
        let mut pieces = self.pieces.clone();
        // The pieces of the trained parameters come first, in their order.
        let factors = self.trained().flat_map(|slot| {
            let factor = rates.of_parameter(&slot.name) as f32;
            std::iter::repeat_n(factor, slot.len.div_ceil(PIECE))
        });
        for (piece, factor) in pieces.chunks_exact_mut(PIECE_WORDS).zip(factors) {
            piece[PIECE_WORDS - 1] = factor.to_bits();
        }
        pieces
    }

    /// Offsets of the averages of the parameters and of the running statistics, if they are kept.
    pub fn averages(&self) -> impl Iterator<Item = usize> {
        let rows = self.layout.average.map(|at| {
            let running = at + 4 * self.row;
            [(at, &self.params), (running, &self.running)]
        });
        let slots = rows.into_iter().flatten();
        slots.flat_map(|(at, slots)| slots.iter().map(move |s| at + 4 * s.begin))
    }

    /// What an average begins as a copy of, if one is kept: offsets from and to, and bytes.
    pub fn average_copies(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let MemoryLayout {
            weights, running, ..
        } = self.layout;
        let (row, running_row) = (4 * self.row, 4 * self.running_row);
        let copies = self
            .layout
            .average
            .map(|at| [(weights, at, row), (running, at + row, running_row)]);
        copies.into_iter().flatten()
    }

    /// Offset of the state of the optimizer's slot number `slot`.
    pub fn state_row(&self, slot: usize) -> usize {
        self.layout.optimizer + 4 * self.row * slot
    }
}

/// Tensors of these names and lengths one after the other, and the length of their row. The optimizer moves those with
/// `true`.
fn slots(named: Vec<(String, usize, bool)>) -> (Vec<Slot>, usize) {
    let mut begin = 0;
    let slots = named
        .into_iter()
        .map(|(name, len, trained)| {
            let slot = Slot {
                name,
                begin,
                len,
                trained,
            };
            begin += len.next_multiple_of(4);
            slot
        })
        .collect();
    (slots, begin)
}

/// The offsets of the tensors of a row that begins at `row`, by name.
fn offsets(slots: &[Slot], row: usize) -> HashMap<String, usize> {
    let offset = |slot: &Slot| (slot.name.clone(), row + 4 * slot.begin);
    slots.iter().map(offset).collect()
}

/// Adds the launch that computes the network's input from images of this shape.
fn gather(b: &mut LaunchBuilder, layout: &mut MemoryLayout, image: Shape) -> Activation {
    let [channels, side] = [image.channels, image.height].map(|v| v as usize);
    let pixels = side * side;
    layout.input = b.batch(channels * pixels);
    let mut constants = String::new();
    define!(constants, SIDE = side, CHANNELS = channels);
    let arguments = vec![b.step(), Some(layout.input)];
    let launch = b.elementwise(INPUT, &constants, "gather", pixels, arguments);
    // From bytes to f32, by a multiply-add.
    let all = b.capacity() * channels * pixels;
    b.add_forward(launch, Cost::of_f32(all, 2 * all).and_bytes(all));
    Activation {
        at: layout.input,
        len: channels * pixels,
        grad: None,
        upstream: None,
    }
}

/// Adds the launches that compute the loss and its gradient in training, and the probabilities and losses in scoring.
fn loss(b: &mut LaunchBuilder, layout: &MemoryLayout, classes: usize, logits: &Activation) {
    let mut constants = String::new();
    define!(constants, CLASSES = classes);
    let blocks = b.capacity().div_ceil(128);
    let (parts, counter) = (b.allocate(16 * blocks), b.zeros(4));
    let train = Launch {
        source: LOSS,
        constants: constants.as_str().into(),
        entry: "train",
        grid: [blocks as u32, 1, 1],
        block: 128,
        arguments: vec![
            Some(layout.now),
            Some(layout.state),
            Some(logits.at),
            logits.grad,
            Some(parts),
            Some(counter),
        ],
        ..Launch::default()
    };
    let score = Launch {
        entry: "score",
        arguments: [layout.now, logits.at, layout.probabilities, layout.losses]
            .map(Some)
            .to_vec(),
        ..train.clone()
    };
    // The label is two bytes, at an index of four. Each class takes a maximum, a difference, an exponential, two sums
    // and a quotient; its gradient a further three.
    let all = b.capacity() * classes;
    let labels = 6 * b.capacity();
    b.add_training(train, Cost::of_f32(2 * all, 9 * all).and_bytes(labels));
    let losses = b.capacity();
    let cost = Cost::of_f32(2 * all + losses, 6 * all);
    b.add_scoring(score, cost.and_bytes(labels));
}
