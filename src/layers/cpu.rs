//! Layers on the CPU's threads: what a fused layer is, and how a network's layers are made into fused ones. A layer that
//! takes in those that follow says so in its own `cpu.rs`.

use super::dropout::Dropout;
use super::gpu::{Activation, BackwardLaunches, LaunchBuilder};
use super::kind::LayerOp;
use super::sequential::Sequential;
use super::slices;
use crate::domain::arch::{Node, Shape};
use crate::domain::report::StepSettings;
use crate::hardware::threads::Threads;
use candle_core::{Device, Result, Tensor, Var, bail};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// One parameter: its value, and the gradient of the last backward pass (of the mean loss over the batch).
pub struct Parameter {
    /// As in the checkpoint: `conv1.weight`.
    pub name: String,
    pub var: Var,
    pub grad: Tensor,
    /// Whether weight decay acts on it (weights, but not biases and norms).
    pub decay: bool,
}

impl Parameter {
    /// A parameter, and a gradient of zeros.
    ///
    /// # Errors
    /// Returns an error if the device runs out of memory.
    pub fn new(name: String, var: Var, decay: bool) -> Result<Self> {
        Ok(Parameter {
            name,
            grad: slices::zeros(var.shape(), var.device())?,
            var,
            decay,
        })
    }

    /// Checks the shape.
    ///
    /// # Errors
    /// Returns an error if it is another one.
    pub fn expect_shape(&self, expected: &[usize]) -> Result<()> {
        if self.var.dims() == expected {
            return Ok(());
        }
        bail!(
            "{} has the shape {:?}, expected {expected:?}",
            self.name,
            self.var.dims()
        )
    }
}

/// How a pass through the network runs.
pub struct Pass<'a> {
    /// Images in the batch, at most the layers' capacity; further rows of the tensors are undefined.
    pub images: usize,
    pub threads: &'a Threads,
    /// None while scoring: no dropout, and the norms use their running statistics.
    pub train: Option<TrainingPass>,
    /// Abandons the pass when set: the remaining layers are not computed, and the results are undefined.
    pub stop: Option<&'a AtomicBool>,
}

impl Pass<'_> {
    pub fn is_stopped(&self) -> bool {
        self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }
}

/// What the training pass needs beyond its input.
#[derive(Clone, Copy, Debug)]
pub struct TrainingPass {
    pub seed: u64,
    /// The number of this step, from 1.
    pub step: u64,
    /// The live dropout share, for layers that do not pin their own.
    pub dropout: f32,
}

impl TrainingPass {
    pub fn of(settings: &StepSettings) -> Self {
        TrainingPass {
            seed: settings.seed,
            step: settings.step,
            dropout: settings.dropout as f32,
        }
    }
}

/// A fused layer.
pub trait Layer: Send {
    /// Unique in the network; the prefix of its parameters' names.
    fn name(&self) -> &str;

    /// Computes [`Layer::output`] from the input and keeps what the backward pass needs.
    ///
    /// # Errors
    /// Returns an error if the device runs out of memory.
    fn forward(&mut self, input: &Tensor, pass: &Pass) -> Result<()>;

    /// The output of the last forward pass.
    fn output(&self) -> &Tensor;

    /// Computes the parameters' gradients and, if `grad_input` is given, the input's gradient from the output's
    /// gradient. Overwrites these tensors. Must follow a training forward pass on the same input.
    ///
    /// # Errors
    /// Returns an error if the device runs out of memory.
    fn backward(
        &mut self,
        input: &Tensor,
        grad_output: &Tensor,
        grad_input: Option<&Tensor>,
        pass: &Pass,
    ) -> Result<()>;

    /// Adds the launches of the forward pass on a GPU to the lists. Returns where the output is, and what adds those of the
    /// backward pass.
    fn schedule(
        &self,
        builder: &mut LaunchBuilder,
        input: &Activation,
    ) -> (Activation, BackwardLaunches);

    fn params(&self) -> Vec<&Parameter> {
        Vec::new()
    }

    /// State that is saved but not trained (running statistics), by its name in the checkpoint.
    fn buffers(&self) -> Vec<(String, &Tensor)> {
        Vec::new()
    }

    /// Whether it ends with a ReLU (with or without pooling and dropout after it), so that a unit whose output is zero for
    /// every image has stopped learning.
    fn rectifies(&self) -> bool {
        false
    }
}

/// Makes a network's layers into fused ones for inputs like `input`, over the variables of their parameters and buffers
/// by name.
///
/// # Errors
/// Returns an error if a variable is missing or has another shape, or the device runs out of memory.
pub fn fuse(
    nodes: &[Node],
    variables: &HashMap<String, Var>,
    input: &Tensor,
) -> Result<Sequential> {
    let mut builder = CpuBuilder {
        variables,
        dropouts: 0,
        unnamed: 0,
    };
    builder.sequential(nodes, input)
}

/// What the layers of a network have in common while they are made.
struct CpuBuilder<'a> {
    variables: &'a HashMap<String, Var>,
    /// Dropout layers so far, over the whole network.
    dropouts: u16,
    /// Layers so far that have no name in the architecture.
    unnamed: usize,
}

impl<'n> CpuBuilder<'n> {
    fn sequential(&mut self, nodes: &'n [Node], input: &Tensor) -> Result<Sequential> {
        let mut layers: Vec<Box<dyn Layer>> = Vec::new();
        let mut rest = nodes;
        while let Some((node, following)) = rest.split_first() {
            let mut name = node.name.clone();
            if name.is_empty() {
                self.unnamed += 1;
                name = format!("{}{}", node.layer.op.word(), self.unnamed);
            }
            let mut place = CpuPlace {
                name,
                node,
                input: layers.last().map_or(input, |layer| layer.output()),
                following,
                builder: self,
            };
            let layer = node.layer.op.cpu(&mut place)?;
            rest = place.following;
            layers.push(layer);
        }
        Sequential::new(layers, input.device())
    }
}

/// Where a layer is made for the CPU: its node, its input, and the layers that follow.
pub struct CpuPlace<'n, 'a> {
    /// Unique in the network; for a layer without a name its word and a number.
    pub name: String,
    pub node: &'n Node,
    /// The output of the layer before.
    pub input: &'a Tensor,
    /// What no layer has taken in so far.
    following: &'n [Node],
    builder: &'a mut CpuBuilder<'n>,
}

impl<'n, 'a> CpuPlace<'n, 'a> {
    /// Takes in the layer that follows, when it is of this kind: the layer being made then does what it does.
    pub fn absorb<T: LayerOp>(&mut self) -> Option<&'n T> {
        self.absorb_if(|_| true)
    }

    /// The same, when it also meets a condition.
    pub fn absorb_if<T: LayerOp>(&mut self, condition: impl Fn(&T) -> bool) -> Option<&'n T> {
        let (next, rest) = self.following.split_first()?;
        let op = next.layer.op.downcast::<T>().filter(|op| condition(op))?;
        self.following = rest;
        Some(op)
    }

    /// The number of images that the layer's tensors hold.
    pub fn capacity(&self) -> usize {
        self.input.dims()[0]
    }

    pub fn device(&self) -> &'a Device {
        self.input.device()
    }

    /// Height, width and channels of the input.
    pub fn shape(&self) -> (usize, usize, usize) {
        hwc(self.node.input)
    }

    /// The parameter of this suffix of the layer `node`: the one being made, or one that it takes in.
    ///
    /// # Errors
    /// Returns an error if it is missing, or the device runs out of memory.
    pub fn parameter(&self, node: &Node, suffix: &str) -> Result<Parameter> {
        let name = format!("{}.{suffix}", node.name);
        match node.parameters.iter().find(|spec| spec.suffix == suffix) {
            Some(spec) => Parameter::new(name.clone(), self.variable(&name)?, spec.decays),
            None => bail!("{name} is no parameter"),
        }
    }

    /// The same where the layer has such a parameter.
    ///
    /// # Errors
    /// Returns an error if its variable is missing, or the device runs out of memory.
    pub fn optional_parameter(&self, node: &Node, suffix: &str) -> Result<Option<Parameter>> {
        match node.has_parameter(suffix) {
            true => Ok(Some(self.parameter(node, suffix)?)),
            false => Ok(None),
        }
    }

    /// The buffer of this suffix of the layer `node`.
    ///
    /// # Errors
    /// Returns an error if it is missing.
    pub fn buffer(&self, node: &Node, suffix: &str) -> Result<Tensor> {
        let variable = self.variable(&format!("{}.{suffix}", node.name))?;
        Ok(variable.as_tensor().clone())
    }

    fn variable(&self, name: &str) -> Result<Var> {
        match self.builder.variables.get(name) {
            Some(variable) => Ok(variable.clone()),
            None => bail!("{name} is missing"),
        }
    }

    /// The network's next dropout, whose share the architecture may fix.
    pub fn dropout(&mut self, share: Option<f64>) -> Dropout {
        let layer = self.builder.dropouts;
        self.builder.dropouts += 1;
        Dropout {
            layer,
            share: share.map(|share| share as f32),
        }
    }

    /// The fused layers of a branch with the same input.
    ///
    /// # Errors
    /// Returns the errors of [`fuse`].
    pub fn branch(&mut self, nodes: &'n [Node]) -> Result<Sequential> {
        self.builder.sequential(nodes, self.input)
    }
}

/// Height, width and channels.
pub fn hwc(shape: Shape) -> (usize, usize, usize) {
    let [h, w, c] = [shape.height, shape.width, shape.channels].map(|v| v as usize);
    (h, w, c)
}

/// The first `count` images of `len` numbers.
///
/// # Errors
/// Returns an error if there are fewer numbers.
pub fn images(all: &[f32], count: usize, len: usize) -> Result<&[f32]> {
    match all.get(..count * len) {
        Some(images) => Ok(images),
        None => bail!("{} numbers are not {count} images of {len}", all.len()),
    }
}

/// Computes the first images of `to`, of `to_len` numbers each, from those of `from`, of `from_len` numbers each: calls
/// `compute` with each image's number, its numbers in `from` and its place in `to`, on the pass's threads.
///
/// # Errors
/// Returns an error if `from` holds fewer images.
pub fn map_images(
    pass: &Pass,
    (from, from_len): (&Tensor, usize),
    (to, to_len): (&Tensor, usize),
    compute: impl Fn(usize, &[f32], &mut [f32]) + Sync,
) -> Result<()> {
    let from = slices::read(from)?;
    let from = images(&from, pass.images, from_len)?;
    slices::write([to], |[to]| {
        pass.threads
            .chunks(&mut to[..pass.images * to_len], to_len, |image, to| {
                compute(image, &from[image * from_len..(image + 1) * from_len], to);
            });
    })
}

/// Numbers in one image of a batch.
pub fn image_len(batch: &Tensor) -> usize {
    batch.dims()[1..].iter().product()
}
