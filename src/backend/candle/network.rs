//! A network's forward pass in Candle operations whose gradients are right on every device. Activations are
//! `[images, channels, height, width]`.
//!
//! Candle 0.11's own ReLU has the gradient 1 at zero and its max-pooling a wrong one, so both are made of `where_cond`.

use super::super::Result;
use super::margins::Margins;
use crate::domain::arch::{Node, Op};
use crate::domain::report::StepSettings;
use crate::hardware::simd::Level;
use crate::layers::dropout::Mask;
use candle_core::{Tensor, Var};
use candle_nn::{Conv2d, Conv2dConfig, Linear, Module};
use std::collections::HashMap;

/// Added to the variance, and the share of a batch's statistics in the running ones: PyTorch's defaults.
const EPSILON: f64 = 1e-5;
const MOMENTUM: f64 = 0.1;

/// What a training pass has beyond a scoring pass.
pub struct TrainingForward<'a> {
    settings: &'a StepSettings,
    /// Dropout layers so far.
    dropouts: u16,
    /// The running statistics after this step.
    pub running: HashMap<String, Tensor>,
    /// Where the margins of the network's choices are measured.
    pub margins: Option<Margins>,
}

impl<'a> TrainingForward<'a> {
    pub fn new(settings: &'a StepSettings) -> Self {
        TrainingForward {
            settings,
            dropouts: 0,
            running: HashMap::new(),
            margins: None,
        }
    }
}

pub fn is_running_statistic(name: &str) -> bool {
    name.ends_with(".running_mean") || name.ends_with(".running_var")
}

/// The logits, `[images, classes]`, of an input.
pub fn forward(
    nodes: &[Node],
    input: &Tensor,
    parameters: &HashMap<String, Var>,
    running: &HashMap<String, Tensor>,
    training: Option<&mut TrainingForward>,
) -> Result<Tensor> {
    let mut pass = ForwardPass {
        parameters,
        running,
        training,
    };
    Ok(pass.sequential(nodes, input)?.flatten_from(1)?)
}

struct ForwardPass<'a, 'b, 'c> {
    parameters: &'a HashMap<String, Var>,
    running: &'a HashMap<String, Tensor>,
    training: Option<&'b mut TrainingForward<'c>>,
}

impl ForwardPass<'_, '_, '_> {
    fn sequential(&mut self, nodes: &[Node], input: &Tensor) -> Result<Tensor> {
        let mut x = input.clone();
        for node in nodes {
            x = self.layer(node, &x)?;
        }
        Ok(x)
    }

    fn parameter(&self, node: &Node, suffix: &str) -> Tensor {
        self.parameters[&format!("{}.{suffix}", node.name)]
            .as_tensor()
            .clone()
    }

    fn layer(&mut self, node: &Node, x: &Tensor) -> Result<Tensor> {
        if let Some(margins) = self.training.as_mut().and_then(|t| t.margins.as_mut()) {
            margins.add(&node.layer.op, x)?;
        }
        let bias = node.bias.then(|| self.parameter(node, "bias"));
        Ok(match node.layer.op {
            Op::Conv {
                stride, padding, ..
            } => {
                let config = Conv2dConfig {
                    stride: stride as usize,
                    padding: padding as usize,
                    ..Conv2dConfig::default()
                };
                Conv2d::new(self.parameter(node, "weight"), bias, config).forward(x)?
            }
            Op::Dense { .. } => {
                let y = Linear::new(self.parameter(node, "weight"), bias)
                    .forward(&x.flatten_from(1)?)?;
                y.unsqueeze(2)?.unsqueeze(3)?
            }
            Op::Norm => self.norm(node, x)?,
            Op::Relu => x.gt(0.0)?.where_cond(x, &x.zeros_like()?)?,
            Op::Pool { kernel, stride } => max_pool(x, kernel as usize, stride as usize)?,
            Op::GlobalPool => x.mean_keepdim((2, 3))?,
            Op::Drop { share } => self.dropout(x, share)?,
            Op::Residual { .. } => {
                let body = self.sequential(&node.body, x)?;
                (body + self.sequential(&node.shortcut, x)?)?
            }
        })
    }

    /// Batch normalisation (Ioffe, Szegedy: "Batch Normalization", ICML 2015).
    fn norm(&mut self, node: &Node, x: &Tensor) -> Result<Tensor> {
        let (images, channels, height, width) = x.dims4()?;
        let statistic = |suffix: &str| format!("{}.{suffix}", node.name);
        let column = |t: &Tensor| t.reshape((1, channels, 1, 1));
        let names = [statistic("running_mean"), statistic("running_var")];
        let (mean, variance) = match &mut self.training {
            None => (
                column(&self.running[&names[0]])?,
                column(&self.running[&names[1]])?,
            ),
            Some(training) => {
                let mean = x.mean_keepdim((0, 2, 3))?;
                let centred = x.broadcast_sub(&mean)?;
                let variance = centred.sqr()?.mean_keepdim((0, 2, 3))?;
                let count = (images * height * width) as f64;
                // The running variance is the unbiased one.
                let unbiased = (variance.detach() * (count / (count - 1.0).max(1.0)))?;
                for (name, new) in names.into_iter().zip([mean.detach(), unbiased]) {
                    let old = (&self.running[&name] * (1.0 - MOMENTUM))?;
                    let new = (old + (new.reshape(channels)? * MOMENTUM)?)?;
                    training.running.insert(name, new);
                }
                (mean, variance)
            }
        };
        let unit = x
            .broadcast_sub(&mean)?
            .broadcast_div(&(variance + EPSILON)?.sqrt()?)?;
        let weight = column(&self.parameter(node, "weight"))?;
        let bias = column(&self.parameter(node, "bias"))?;
        Ok(unit.broadcast_mul(&weight)?.broadcast_add(&bias)?)
    }

    /// Inverted dropout with the mask of the other backends, whose numbers follow the order images, rows, columns,
    /// channels.
    fn dropout(&mut self, x: &Tensor, pinned: Option<f64>) -> Result<Tensor> {
        let Some(training) = &mut self.training else {
            return Ok(x.clone());
        };
        let layer = training.dropouts;
        training.dropouts += 1;
        let settings = training.settings;
        let share = pinned.unwrap_or(settings.dropout) as f32;
        let Some(mask) = Mask::new(settings.seed, layer, settings.step, share) else {
            return Ok(x.clone());
        };
        let (images, channels, height, width) = x.dims4()?;
        let mut factors = vec![0.0; x.elem_count()];
        mask.factors(Level::Portable, 0, &mut factors);
        let factors = Tensor::from_vec(factors, (images, height, width, channels), x.device())?;
        Ok((x * factors.permute((0, 3, 1, 2))?.to_dtype(x.dtype())?)?)
    }
}

/// Max-pooling. The gradient goes to the first of equal numbers of a window.
fn max_pool(x: &Tensor, kernel: usize, stride: usize) -> Result<Tensor> {
    let (_, _, height, width) = x.dims4()?;
    let starts = |size: usize, offset: usize| {
        let count = (size - kernel) / stride + 1;
        let at: Vec<u32> = (0..count).map(|i| (i * stride + offset) as u32).collect();
        Tensor::from_vec(at, count, x.device())
    };
    let mut largest: Option<Tensor> = None;
    for place in 0..kernel * kernel {
        let rows = x.index_select(&starts(height, place / kernel)?, 2)?;
        let values = rows.index_select(&starts(width, place % kernel)?, 3)?;
        largest = Some(match largest {
            None => values,
            Some(largest) => values.gt(&largest)?.where_cond(&values, &largest)?,
        });
    }
    Ok(largest.unwrap_or_else(|| x.clone()))
}
