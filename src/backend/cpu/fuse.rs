//! From an architecture's layers to fused ones: each convolution, dense layer, norm and residual block takes in what
//! follows it, as far as its kernels can.

use super::Result;
use super::variables::Variables;
use crate::domain::arch::{Node, Op, Shape};
use crate::layers::Layer;
use crate::layers::conv::{Conv, ConvEpilogue, Dropout, Geometry};
use crate::layers::dense::Dense;
use crate::layers::norm::{self, Norm, Parameters};
use crate::layers::pointwise::{Drop, Relu};
use crate::layers::pool::{GlobalPool, MaxPool};
use crate::layers::residual::{Residual, ResidualSum};
use crate::layers::sequential::Sequential;
use candle_core::Tensor;

/// The fused layers, for inputs like `input`; and for each, whether it ends in a ReLU (with or without pooling and
/// dropout after it).
pub fn fuse(
    nodes: &[Node],
    variables: &Variables,
    input: &Tensor,
) -> Result<(Sequential, Vec<bool>)> {
    let mut fusing = Fusing {
        variables,
        drops: 0,
        unnamed: 0,
    };
    fusing.sequential(nodes, input)
}

struct Fusing<'a> {
    variables: &'a Variables,
    /// Dropout layers so far, over the whole network.
    drops: u16,
    /// Layers so far that have no name in the architecture.
    unnamed: usize,
}

/// The layers of a sequence that are still to be fused.
struct Rest<'a>(&'a [Node]);

impl Rest<'_> {
    /// Takes the next layer in, when it is one of those.
    fn accept<T>(&mut self, is: impl Fn(&Op) -> Option<T>) -> Option<T> {
        let found = self.0.first().and_then(|node| is(&node.layer.op))?;
        self.0 = &self.0[1..];
        Some(found)
    }

    fn relu(&mut self) -> bool {
        self.accept(|op| matches!(op, Op::Relu).then_some(()))
            .is_some()
    }

    fn pool_by_two(&mut self) -> bool {
        let by_two = |op: &Op| match op {
            Op::Pool {
                kernel: 2,
                stride: 2,
            } => Some(()),
            _ => None,
        };
        self.accept(by_two).is_some()
    }

    fn dropout(&mut self) -> Option<Option<f64>> {
        self.accept(|op| match op {
            Op::Drop { share } => Some(*share),
            _ => None,
        })
    }
}

impl Fusing<'_> {
    fn sequential(&mut self, nodes: &[Node], input: &Tensor) -> Result<(Sequential, Vec<bool>)> {
        let mut layers: Vec<Box<dyn Layer>> = Vec::new();
        let mut rectifies = Vec::new();
        let mut rest = Rest(nodes);
        while let Some((node, after)) = rest.0.split_first() {
            rest.0 = after;
            let before = layers.last().map_or(input, |layer| layer.output());
            let (layer, relu) = self.layer(node, &mut rest, before)?;
            layers.push(layer);
            rectifies.push(relu);
        }
        Ok((Sequential::new(layers, input.device())?, rectifies))
    }

    fn dropout(&mut self, share: Option<f64>) -> Dropout {
        let layer = self.drops;
        self.drops += 1;
        Dropout {
            layer,
            share: share.map(|share| share as f32),
        }
    }

    fn layer(
        &mut self,
        node: &Node,
        rest: &mut Rest,
        input: &Tensor,
    ) -> Result<(Box<dyn Layer>, bool)> {
        let capacity = input.dims()[0];
        let device = input.device();
        let shape = hwc(node.input);
        let name = node.name.as_str();
        self.unnamed += usize::from(name.is_empty());
        let unnamed = |word: &str| format!("{word}{}", self.unnamed);
        Ok(match node.layer.op {
            Op::Conv {
                out,
                kernel,
                stride,
                padding,
            } => {
                let sizes = [out, kernel, stride, padding].map(|v| v as usize);
                let [out, kernel, stride, padding] = sizes;
                let geometry = Geometry::new(shape, out, kernel, stride, padding)?;
                let relu = rest.relu();
                let pool = relu && rest.pool_by_two();
                let share = if relu { rest.dropout() } else { None };
                let after = ConvEpilogue {
                    relu,
                    pool,
                    dropout: share.map(|share| self.dropout(share)),
                };
                let (weight, bias) = self.weight_and_bias(node)?;
                let conv = Conv::new(name, geometry, after, weight, bias, capacity)?;
                (Box::new(conv), relu)
            }
            Op::Dense { .. } => {
                let relu = rest.relu();
                let share = if relu { rest.dropout() } else { None };
                let dropout = share.map(|share| self.dropout(share));
                let (weight, bias) = self.weight_and_bias(node)?;
                let dense = Dense::new(name, shape, relu, dropout, weight, bias, capacity)?;
                (Box::new(dense), relu)
            }
            Op::Norm => {
                let relu = rest.relu();
                let pool = relu && rest.pool_by_two();
                let after = norm::NormEpilogue { relu, pool };
                (Box::new(self.norm(node, after, capacity)?), relu)
            }
            Op::Residual { .. } => {
                let relu = rest.relu();
                let block = self.residual(node, relu, input, capacity)?;
                (Box::new(block), relu)
            }
            Op::Relu => {
                let relu = Relu::new(&unnamed("relu"), shape, capacity, device)?;
                (Box::new(relu), true)
            }
            Op::Pool { kernel, stride } => {
                let (kernel, stride) = (kernel as usize, stride as usize);
                let name = unnamed("pool");
                let pool = MaxPool::new(&name, shape, kernel, stride, capacity, device)?;
                (Box::new(pool), false)
            }
            Op::GlobalPool => {
                let pool = GlobalPool::new(&unnamed("global-pool"), shape, capacity, device)?;
                (Box::new(pool), false)
            }
            Op::Drop { share } => {
                let name = unnamed("drop");
                let dropout = self.dropout(share);
                let drop = Drop::new(&name, shape, dropout, capacity, device)?;
                (Box::new(drop), false)
            }
        })
    }

    fn weight_and_bias(&self, node: &Node) -> Result<(candle_core::Var, Option<candle_core::Var>)> {
        let weight = self.variables.get(&format!("{}.weight", node.name))?;
        let bias = match node.bias {
            true => Some(self.variables.get(&format!("{}.bias", node.name))?),
            false => None,
        };
        Ok((weight, bias))
    }

    fn norm(&self, node: &Node, after: norm::NormEpilogue, capacity: usize) -> Result<Norm> {
        let get = |suffix: &str| self.variables.get(&format!("{}.{suffix}", node.name));
        let parameters = Parameters {
            weight: get("weight")?,
            bias: get("bias")?,
            running_mean: get("running_mean")?.as_tensor().clone(),
            running_var: get("running_var")?.as_tensor().clone(),
        };
        Ok(Norm::new(
            &node.name,
            hwc(node.input),
            after,
            parameters,
            capacity,
        )?)
    }

    fn residual(
        &mut self,
        node: &Node,
        relu: bool,
        input: &Tensor,
        capacity: usize,
    ) -> Result<Residual> {
        let (body, tail) = match node.body.split_last() {
            Some((last, before)) if last.layer.op == Op::Norm => {
                let (body, _) = self.sequential(before, input)?;
                let after = norm::NormEpilogue { relu, pool: false };
                (body, ResidualSum::norm(self.norm(last, after, capacity)?)?)
            }
            _ => {
                let (body, _) = self.sequential(&node.body, input)?;
                let tail = ResidualSum::sum(body.output(input), relu)?;
                (body, tail)
            }
        };
        let (shortcut, _) = self.sequential(&node.shortcut, input)?;
        Ok(Residual::new(&node.name, body, tail, shortcut, input)?)
    }
}

/// Height, width and channels.
fn hwc(shape: Shape) -> (usize, usize, usize) {
    let [h, w, c] = [shape.height, shape.width, shape.channels].map(|v| v as usize);
    (h, w, c)
}
