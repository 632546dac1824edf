//! Layers on a GPU as kernel launches over one block of memory. Creating launches needs no GPU. Each layer's `gpu.rs`
//! creates its launches from the fused layer.
//!
//! The kernel that computes the gradient of the output of a convolution or dense layer also undoes the dropout, ReLU
//! and pooling with which that layer ends (`apply_upstream_mask` in kernels.cuh). The gradient is then 'prepared' for
//! the layer.

use crate::domain::params::NumberFormat;
use crate::hardware::executor::{Cost, Launch, Offset};
use crate::layers::conv::product::Product;
use crate::layers::conv::variant::Choices;
use std::collections::HashMap;
use std::fmt::Write;
use std::rc::Rc;

/// Appends the `#define` lines of a source's constants.
macro_rules! define {
    ($text:expr, $($name:ident = $value:expr),+ $(,)?) => {
        $(let _ = writeln!($text, "#define {} {}", stringify!($name), $value);)+
    };
}
pub(crate) use define;

const GRADIENTS: &str = include_str!("gradients.cu");

/// Offsets from this value on are relative to the sums of squares, which are placed after all of them have been
/// counted.
const SQUARES: usize = usize::MAX / 2;

/// A function that adds the launches of a layer's backward pass.
pub type BackwardLaunches = Box<dyn FnOnce(&mut LaunchBuilder)>;

/// The output of a layer, and its gradient.
#[derive(Clone)]
pub struct Activation {
    pub at: usize,
    /// Number of elements of one image.
    pub len: usize,
    /// Where the layer that computes the output reads its gradient. None if the gradient is not needed.
    pub grad: Option<usize>,
    /// Set if that layer expects a prepared gradient.
    pub upstream: Option<Rc<Upstream>>,
}

/// The dropout, ReLU and pooling with which a layer ends. The kernel that computes the gradient of its output undoes
/// them.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Number of elements of the prepared gradient of one image.
    pub grad_len: usize,
    /// The constants UPSTREAM_* of `apply_upstream_mask`.
    pub constants: String,
    /// For each element of the output, the position of the largest number in its pooling window.
    pub argmax: Offset,
}

/// Offsets of the memory that all layers share.
#[derive(Clone, Copy, Default)]
pub struct SharedOffsets {
    /// The settings of the current step.
    pub step: usize,
    /// All parameters, and their gradients: rows of one length.
    pub weights: usize,
    pub grads: usize,
    /// The buffers, and their values after the current step.
    pub buffers: usize,
    pub new_buffers: usize,
}

/// The limits and the number format for which launches are created.
#[derive(Clone)]
pub struct LaunchTarget {
    /// Maximum number of images in a batch.
    pub capacity: usize,
    pub multiprocessors: usize,
    pub format: NumberFormat,
    /// The variants of the products.
    pub choices: Rc<Choices>,
}

/// The kernels of a layer with one kernel for each direction. Both have a thread for each element that they write.
pub struct KernelPair {
    pub source: &'static str,
    pub constants: String,
    /// Reads the input and writes the output.
    pub forward: &'static str,
    /// Reads the output's gradient and writes the input's.
    pub backward: &'static str,
    pub backward_reads: BackwardReads,
    /// Floating-point operations of the two kernels for each element that they write.
    pub flop: [usize; 2],
}

/// The tensor that a backward kernel reads besides the gradient.
#[derive(Clone, Copy)]
pub enum BackwardReads {
    GradientOnly,
    Input,
    Output,
}

/// A launch of a network, and what it is for.
#[derive(Clone, Debug)]
pub struct ScheduledLaunch {
    pub launch: Launch,
    /// The name of its layer; `input`, `loss` and `optimizer` are parts of their own.
    pub layer: Rc<str>,
    pub cost: Cost,
    /// The product that it computes, whose variant can be chosen.
    pub product: Option<Rc<Product>>,
}

/// Allocates a network's memory and collects its launches.
pub struct LaunchBuilder {
    target: LaunchTarget,
    pub shared: SharedOffsets,
    /// Number of bytes allocated so far.
    pub bytes: usize,
    /// Ranges that must be zero at the beginning: offset and bytes.
    pub zeroed: Vec<(usize, usize)>,
    /// Offsets of the parameters and buffers by name.
    pub offsets: HashMap<String, usize>,
    /// For each packed weight, the words of its pieces after the first four, as the optimizer's kernel reads them.
    pub packings: HashMap<String, [u32; 9]>,
    /// Number of sums of squares of gradients so far.
    pub square_count: usize,
    /// The layer whose launches are being added.
    layer: Rc<str>,
    forward: Vec<ScheduledLaunch>,
    scoring: Vec<ScheduledLaunch>,
    backward: Vec<ScheduledLaunch>,
}

impl LaunchBuilder {
    pub fn new(target: LaunchTarget) -> Self {
        LaunchBuilder {
            target,
            shared: SharedOffsets::default(),
            bytes: 0,
            zeroed: Vec::new(),
            offsets: HashMap::new(),
            packings: HashMap::new(),
            square_count: 0,
            layer: Rc::default(),
            forward: Vec::new(),
            scoring: Vec::new(),
            backward: Vec::new(),
        }
    }

    pub fn capacity(&self) -> usize {
        self.target.capacity
    }

    pub fn format(&self) -> NumberFormat {
        self.target.format
    }

    pub fn multiprocessors(&self) -> usize {
        self.target.multiprocessors
    }

    pub fn choices(&self) -> &Choices {
        &self.target.choices
    }

    /// The layer named `layer` adds its launches.
    pub fn within<T>(&mut self, layer: &str, add: impl FnOnce(&mut Self) -> T) -> T {
        let outer = std::mem::replace(&mut self.layer, layer.into());
        let added = add(self);
        self.layer = outer;
        added
    }

    /// A launch of the current layer.
    pub fn scheduled(&self, launch: Launch, cost: Cost) -> ScheduledLaunch {
        ScheduledLaunch {
            launch,
            layer: Rc::clone(&self.layer),
            cost,
            product: None,
        }
    }

    /// The settings of the current step: the first argument of most kernels.
    pub fn step(&self) -> Offset {
        Some(self.shared.step)
    }

    /// Allocates `bytes` at a multiple of 256. Returns the offset.
    pub fn allocate(&mut self, bytes: usize) -> usize {
        let at = self.bytes;
        self.bytes = (at + bytes.max(4)).next_multiple_of(256);
        at
    }

    /// Like [`LaunchBuilder::allocate`], with memory that is zero at the beginning.
    pub fn zeros(&mut self, bytes: usize) -> usize {
        let at = self.allocate(bytes);
        self.zeroed.push((at, bytes.max(4)));
        at
    }

    /// Allocates `len` f32 for each image of a batch.
    pub fn batch(&mut self, len: usize) -> usize {
        self.allocate(4 * self.target.capacity * len)
    }

    /// Allocates a layer's output, `len` elements for each image, and its gradient.
    pub fn activation(&mut self, len: usize) -> Activation {
        Activation {
            at: self.batch(len),
            len,
            grad: Some(self.batch(len)),
            upstream: None,
        }
    }

    /// The offset of a layer's parameter or buffer.
    pub fn offset_of(&self, layer: &str, suffix: &str) -> usize {
        let name = format!("{layer}.{suffix}");
        match self.offsets.get(&name) {
            Some(offset) => *offset,
            None => unreachable!("{name} is neither a parameter nor a buffer of the network"),
        }
    }

    /// The offset of the gradient of the parameter at `weight`.
    pub fn grad_of(&self, weight: usize) -> usize {
        weight - self.shared.weights + self.shared.grads
    }

    /// The offset of the value after the current step of the buffer at `buffer`.
    pub fn new_value_of(&self, buffer: usize) -> usize {
        buffer - self.shared.buffers + self.shared.new_buffers
    }

    /// Allocates sums of squares of a parameter's gradient, one for each of `count` blocks.
    pub fn squares(&mut self, count: usize) -> usize {
        let at = SQUARES + 8 * self.square_count;
        self.square_count += count;
        at
    }

    /// A launch with a thread for each of the `len` elements of each image, in blocks of 256.
    pub fn elementwise(
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
            grid: [(self.target.capacity * len).div_ceil(256) as u32, 1, 1],
            block: 256,
            arguments,
            ..Launch::default()
        }
    }

    /// Adds the launches of a layer with one kernel for each direction. The output has `output_len` elements for each
    /// image.
    pub fn kernel_pair(
        &mut self,
        pair: KernelPair,
        input: &Activation,
        output_len: usize,
    ) -> (Activation, BackwardLaunches) {
        let output = self.activation(output_len);
        let arguments = vec![self.step(), Some(input.at), Some(output.at)];
        let constants = &pair.constants;
        let launch = self.elementwise(pair.source, constants, pair.forward, output_len, arguments);
        let capacity = self.capacity();
        let cost = move |read: usize, written: usize, flop: usize| {
            Cost::of_f32(capacity * (read + written), capacity * written * flop)
        };
        let [forward_flop, backward_flop] = pair.flop;
        self.add_forward(launch, cost(input.len, output_len, forward_flop));
        let (input, grad) = (input.clone(), output.grad);
        let also_read = match pair.backward_reads {
            BackwardReads::GradientOnly => None,
            BackwardReads::Input => Some((input.at, input.len)),
            BackwardReads::Output => Some((output.at, output_len)),
        };
        let read = output_len + also_read.map_or(0, |(_, len)| len);
        let cost = cost(read, input.len, backward_flop);
        let backward = move |builder: &mut LaunchBuilder| {
            builder.input_grad(&input, cost, |b, to| {
                let mut arguments = vec![b.step(), grad];
                arguments.extend(also_read.map(|(at, _)| Some(at)));
                arguments.push(Some(to));
                b.elementwise(
                    pair.source,
                    &pair.constants,
                    pair.backward,
                    input.len,
                    arguments,
                )
            });
        };
        (output, Box::new(backward))
    }

    /// Adds a launch of the forward pass of training and scoring.
    pub fn add_forward(&mut self, launch: Launch, cost: Cost) {
        self.add_scoring(launch.clone(), cost);
        self.add_training(launch, cost);
    }

    /// Adds a launch of the forward pass of training alone.
    pub fn add_training(&mut self, launch: Launch, cost: Cost) {
        self.forward.push(self.scheduled(launch, cost));
    }

    /// Adds a launch of scoring alone.
    pub fn add_scoring(&mut self, launch: Launch, cost: Cost) {
        self.scoring.push(self.scheduled(launch, cost));
    }

    /// Adds a launch of the backward pass.
    pub fn add_backward(&mut self, launch: Launch, cost: Cost) {
        self.backward.push(self.scheduled(launch, cost));
    }

    /// Like [`LaunchBuilder::add_forward`], for a product.
    pub fn add_forward_product(&mut self, launch: Launch, cost: Cost, product: Product) {
        let scheduled = ScheduledLaunch {
            product: Some(Rc::new(product)),
            ..self.scheduled(launch, cost)
        };
        self.scoring.push(scheduled.clone());
        self.forward.push(scheduled);
    }

    /// Like [`LaunchBuilder::add_backward`], for a product.
    pub fn add_backward_product(&mut self, launch: Launch, cost: Cost, product: Product) {
        self.backward.push(ScheduledLaunch {
            product: Some(Rc::new(product)),
            ..self.scheduled(launch, cost)
        });
    }

    /// The offset at which a kernel that does not prepare gradients writes the gradient of its input.
    /// [`LaunchBuilder::deliver`] must follow.
    pub fn plain_grad(&mut self, input: &Activation) -> Option<usize> {
        match &input.upstream {
            None => input.grad,
            Some(_) => input.grad.map(|_| self.batch(input.len)),
        }
    }

    /// If the layer that computes `input` expects a prepared gradient, adds the launch that prepares the one at `from`.
    pub fn deliver(&mut self, from: usize, input: &Activation) {
        if let (Some(upstream), Some(grad)) = (input.upstream.as_deref(), input.grad) {
            let mut constants = String::new();
            define!(constants, LEN = input.len, RELU = 1);
            constants.push_str(&upstream.constants);
            let arguments = vec![
                self.step(),
                Some(from),
                Some(input.at),
                upstream.argmax,
                Some(grad),
            ];
            let entry = "apply_upstream";
            let launch = self.elementwise(GRADIENTS, &constants, entry, input.len, arguments);
            let capacity = self.capacity();
            let numbers = capacity * (2 * input.len + upstream.grad_len);
            let taken = upstream.argmax.map_or(0, |_| capacity * input.len);
            let cost = Cost::of_f32(numbers, capacity * input.len).and_bytes(taken);
            self.add_backward(launch, cost);
        }
    }

    /// Adds the backward launch of a layer whose kernel does not prepare gradients, if the gradient of its input is
    /// needed. The second argument of `launch` is the offset at which to write it.
    pub fn input_grad(
        &mut self,
        input: &Activation,
        cost: Cost,
        launch: impl Fn(&Self, usize) -> Launch,
    ) {
        if let Some(to) = self.plain_grad(input) {
            let launch = launch(self, to);
            self.add_backward(launch, cost);
            self.deliver(to, input);
        }
    }

    /// Adds a launch that copies a gradient of `len` elements for each image. With `relu`, it is zero where the output
    /// at `output` is zero.
    pub fn mask(&mut self, from: Offset, output: usize, relu: bool, len: usize, to: usize) {
        let mut constants = String::new();
        define!(constants, LEN = len, RELU = u32::from(relu));
        let arguments = vec![self.step(), from, Some(output), Some(to)];
        let launch = self.elementwise(GRADIENTS, &constants, "mask", len, arguments);
        let all = self.capacity() * len;
        let read = if relu { 2 } else { 1 };
        self.add_backward(launch, Cost::of_f32((read + 1) * all, 0));
    }

    /// Adds a launch that adds a gradient of `len` elements for each image to another.
    pub fn add(&mut self, from: usize, to: usize, len: usize) {
        let mut constants = String::new();
        define!(constants, LEN = len, RELU = 0);
        let arguments = vec![self.step(), Some(from), Some(to)];
        let launch = self.elementwise(GRADIENTS, &constants, "add", len, arguments);
        let all = self.capacity() * len;
        self.add_backward(launch, Cost::of_f32(3 * all, all));
    }

    /// Passes a finished gradient to the layer that computes `end`.
    pub fn hand_over(&mut self, from: usize, end: &Activation) {
        match (&end.upstream, end.grad) {
            (Some(_), _) => self.deliver(from, end),
            (None, Some(grad)) => self.mask(Some(from), end.at, false, end.len, grad),
            (None, None) => {}
        }
    }

    /// The launches of a training step, of which the optimizer's `updates` are the last. The sums of squares are at
    /// `squares`.
    pub fn training(
        &mut self,
        mut updates: Vec<ScheduledLaunch>,
        squares: usize,
    ) -> Vec<ScheduledLaunch> {
        let mut training = std::mem::take(&mut self.forward);
        training.append(&mut self.backward);
        training.append(&mut updates);
        let arguments = training.iter_mut().flat_map(|l| &mut l.launch.arguments);
        for offset in arguments.flatten() {
            if *offset >= SQUARES {
                *offset = *offset - SQUARES + squares;
            }
        }
        training
    }

    /// The launches of a scoring pass.
    pub fn scoring(&mut self) -> Vec<ScheduledLaunch> {
        std::mem::take(&mut self.scoring)
    }
}
