//! The network's fused layers: forward and backward over Candle tensors allocated once, with our own kernels. Beside
//! each layer stands its reference in plain Candle, which its tests compare with. Layers know no data set, no optimizer
//! and no screen.
//!
//! Activations are f32, NHWC: `[capacity, height, width, channels]`; a dense layer's are `[capacity, 1, 1, features]`.
//! Parameters and their gradients have PyTorch's names and shapes (convolution OIHW, dense `[out, in]` with the inputs
//! in CHW order); kernels repack what they need.

pub mod conv;
pub mod dense;
pub mod dropout;
pub mod input;
pub mod loss;
pub mod norm;
pub mod pointwise;
pub mod pool;
pub mod residual;
pub mod sequential;
pub mod slices;
pub mod spec;
#[cfg(test)]
mod tests;

use crate::hardware::threads::Threads;
use candle_core::{Result, Tensor, Var, bail};
use spec::LayerSpec;
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

    /// What it computes.
    fn spec(&self) -> LayerSpec<'_>;

    fn params(&self) -> Vec<&Parameter> {
        Vec::new()
    }

    /// State that is saved but not trained (running statistics), by its name in the checkpoint.
    fn buffers(&self) -> Vec<(String, &Tensor)> {
        Vec::new()
    }
}

/// The first `count` images of `len` numbers.
fn images(all: &[f32], count: usize, len: usize) -> Result<&[f32]> {
    match all.get(..count * len) {
        Some(images) => Ok(images),
        None => bail!("{} numbers are not {count} images of {len}", all.len()),
    }
}
