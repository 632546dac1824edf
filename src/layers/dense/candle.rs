//! A dense layer in Candle's operations.

use crate::domain::arch::Node;
use crate::layers::candle::CandlePass;
use candle_core::{Result, Tensor};
use candle_nn::{Linear, Module};

pub fn dense(node: &Node, x: &Tensor, pass: &CandlePass) -> Result<Tensor> {
    let linear = Linear::new(pass.parameter(node, "weight")?, pass.bias(node)?);
    let y = linear.forward(&x.flatten_from(1)?)?;
    y.unsqueeze(2)?.unsqueeze(3)
}
