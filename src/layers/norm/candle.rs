//! Batch normalisation in Candle's operations.

use super::NormOp;
use crate::domain::arch::Node;
use crate::layers::candle::CandlePass;
use candle_core::{Result, Tensor};

pub fn norm(op: &NormOp, node: &Node, x: &Tensor, pass: &mut CandlePass) -> Result<Tensor> {
    let (images, channels, height, width) = x.dims4()?;
    let column = |t: &Tensor| t.reshape((1, channels, 1, 1));
    let running_mean = pass.buffer(node, "running_mean")?;
    let running_var = pass.buffer(node, "running_var")?;
    let (mean, variance) = match &mut pass.training {
        None => (column(&running_mean)?, column(&running_var)?),
        Some(training) => {
            let mean = x.mean_keepdim((0, 2, 3))?;
            let centred = x.broadcast_sub(&mean)?;
            let variance = centred.sqr()?.mean_keepdim((0, 2, 3))?;
            let count = (images * height * width) as f64;
            // The running variance is the unbiased one.
            let unbiased = (variance.detach() * (count / (count - 1.0).max(1.0)))?;
            for (suffix, old, new) in [
                ("running_mean", running_mean, mean.detach()),
                ("running_var", running_var, unbiased),
            ] {
                let old = (old * (1.0 - op.momentum))?;
                let new = (old + (new.reshape(channels)? * op.momentum)?)?;
                training
                    .buffers
                    .insert(format!("{}.{suffix}", node.name), new);
            }
            (mean, variance)
        }
    };
    let unit = x
        .broadcast_sub(&mean)?
        .broadcast_div(&(variance + op.epsilon)?.sqrt()?)?;
    let scaled = match op.scale {
        true => unit.broadcast_mul(&column(&pass.parameter(node, "weight")?)?)?,
        false => unit,
    };
    scaled.broadcast_add(&column(&pass.parameter(node, "bias")?)?)
}
