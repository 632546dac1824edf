//! Layers on the CPU: the trait of a fused layer, and the fusion of a network's layers. Each layer's `cpu.rs` defines
//! which following layers it fuses.

use super::dropout::Dropout;
use super::gpu::{Activation, BackwardLaunches, LaunchBuilder};
use super::kind::LayerOp;
use super::sequential::Sequential;
use super::slices;
use crate::domain::arch::{Node, Shape};
use crate::domain::params::ParameterGroup;
use crate::domain::report::StepSettings;
use crate::hardware::threads::Threads;
use candle_core::{Device, Result, Tensor, Var, bail};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// A parameter: its value, and the gradient of the batch's mean loss from the last backward pass.
pub struct Parameter {
    /// The name in the checkpoint: `conv1.weight`.
    pub name: String,
    pub var: Var,
    pub grad: Tensor,
    pub group: ParameterGroup,
    /// Whether the optimizer moves it. If not, its gradient stays zero.
    pub trained: bool,
}

impl Parameter {
    /// A parameter that is trained, and a gradient of zeros.
    ///
    /// # Errors
    /// Returns an error if the device runs out of memory.
    pub fn new(name: String, var: Var, group: ParameterGroup) -> Result<Self> {
        Ok(Parameter {
            name,
            grad: slices::zeros(var.shape(), var.device())?,
            var,
            group,
            trained: true,
        })
    }

    /// Checks the shape.
    ///
    /// # Errors
    /// Returns an error if the shape is not `expected`.
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

/// The settings of a pass through the network.
pub struct Pass<'a> {
    /// Number of images in the batch, at most the layers' capacity. The other rows of the tensors are undefined.
    pub images: usize,
    pub threads: &'a Threads,
    /// None while scoring: no dropout, and the norms use their running statistics.
    pub train: Option<TrainingPass>,
    /// If set, the pass is abandoned: the remaining layers are not computed, and the results are undefined.
    pub stop: Option<&'a AtomicBool>,
}

impl<'a> Pass<'a> {
    /// A pass that scores so many images.
    pub fn scoring(images: usize, threads: &'a Threads) -> Self {
        Pass {
            images,
            threads,
            train: None,
            stop: None,
        }
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }
}

/// The additional settings of a training pass.
#[derive(Clone, Copy, Debug)]
pub struct TrainingPass {
    pub seed: u64,
    /// Number of the step, from 1.
    pub step: u64,
    /// The dropout hyperparameter, for layers whose share the architecture does not fix.
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

    /// Computes [`Layer::output`] from the input, and stores the values that the backward pass needs.
    ///
    /// # Errors
    /// Returns an error if the device runs out of memory.
    fn forward(&mut self, input: &Tensor, pass: &Pass) -> Result<()>;

    /// The output of the last forward pass.
    fn output(&self) -> &Tensor;

    /// The tensor of the output, if [`Layer::recompute`] can fill it again: such tensors may share memory.
    fn shareable_output(&mut self) -> Option<&mut Tensor> {
        None
    }

    /// Computes the output of the last forward pass again, from the same input. Does nothing in layers whose output is
    /// not shareable.
    ///
    /// # Errors
    /// Returns an error if the input holds fewer images.
    fn recompute(&self, _input: &Tensor, _pass: &Pass) -> Result<()> {
        Ok(())
    }

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

    /// Adds the launches of the forward pass on a GPU to the lists. Returns the place of the output, and a function
    /// that adds the launches of the backward pass.
    fn schedule(
        &self,
        builder: &mut LaunchBuilder,
        input: &Activation,
    ) -> (Activation, BackwardLaunches);

    fn params(&self) -> Vec<&Parameter> {
        Vec::new()
    }

    /// The tensors that are saved but not trained (running statistics), by their names in the checkpoint.
    fn buffers(&self) -> Vec<(String, &Tensor)> {
        Vec::new()
    }

    /// Whether the layer ends with a ReLU, optionally followed by pooling and dropout. A unit whose output is zero for
    /// every image has then stopped learning.
    fn rectifies(&self) -> bool {
        false
    }
}

/// Fuses a network's layers, for inputs with the shape of `input`. The variables of their parameters and buffers are
/// given by name.
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

/// The state that the layers of a network share while they are created.
struct CpuBuilder<'a> {
    variables: &'a HashMap<String, Var>,
    /// Number of dropout layers so far in the whole network.
    dropouts: u16,
    /// Number of layers so far without a name in the architecture.
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

/// The place of a layer in the network while it is created: its name, its input, and the layers that follow.
pub struct CpuPlace<'n, 'a> {
    /// Unique in the network. For a layer without a name, its word and a number.
    pub name: String,
    pub node: &'n Node,
    /// The output of the previous layer.
    pub input: &'a Tensor,
    /// The layers that are not fused into another layer so far.
    following: &'n [Node],
    builder: &'a mut CpuBuilder<'n>,
}

impl<'n, 'a> CpuPlace<'n, 'a> {
    /// Fuses the following layer if it is of this kind: the layer that is created then does its work too.
    pub fn absorb<T: LayerOp>(&mut self) -> Option<&'n T> {
        self.absorb_if(|_| true)
    }

    /// Like [`CpuPlace::absorb`], if the following layer also meets a condition.
    pub fn absorb_if<T: LayerOp>(&mut self, condition: impl Fn(&T) -> bool) -> Option<&'n T> {
        let (next, rest) = self.following.split_first()?;
        let op = next.layer.op.downcast::<T>().filter(|op| condition(op))?;
        self.following = rest;
        Some(op)
    }

    /// Number of images in the layer's tensors.
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

    /// The parameter with this suffix of the layer `node`: the layer that is created, or one that is fused into it.
    ///
    /// # Errors
    /// Returns an error if it is missing, or the device runs out of memory.
    pub fn parameter(&self, node: &Node, suffix: &str) -> Result<Parameter> {
        let name = format!("{}.{suffix}", node.name);
        let Some(spec) = node.parameters.iter().find(|spec| spec.suffix == suffix) else {
            bail!("{name} is no parameter");
        };
        let variable = self.variable(&name)?;
        Ok(Parameter {
            trained: spec.trained,
            ..Parameter::new(name, variable, spec.group)?
        })
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

    /// The buffer with this suffix of the layer `node`.
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

    /// The network's next dropout. `share` is None if the hyperparameter sets it.
    pub fn dropout(&mut self, share: Option<f64>) -> Dropout {
        let layer = self.builder.dropouts;
        self.builder.dropouts += 1;
        Dropout {
            layer,
            share: share.map(|share| share as f32),
        }
    }

    /// Fuses the layers of a branch with the same input.
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

/// The first `count` images, which have `len` numbers each.
///
/// # Errors
/// Returns an error if there are fewer numbers.
pub fn images(all: &[f32], count: usize, len: usize) -> Result<&[f32]> {
    match all.get(..count * len) {
        Some(images) => Ok(images),
        None => bail!("{} numbers are not {count} images of {len}", all.len()),
    }
}

/// Computes each image of the batch in `to` (`to_len` numbers) from the same image in `from` (`from_len` numbers):
/// calls `compute` with the image's index, its numbers in `from` and its slice of `to`, on the pass's threads.
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

/// Number of elements of one image of a batch.
pub fn image_len(batch: &Tensor) -> usize {
    batch.dims()[1..].iter().product()
}
