//! A convolution in Candle's operations.

use super::ConvOp;
use crate::domain::arch::Node;
use crate::layers::candle::CandlePass;
use candle_core::{Result, Tensor};
use candle_nn::{Conv2d, Conv2dConfig, Module};

pub fn conv(op: &ConvOp, node: &Node, x: &Tensor, pass: &CandlePass) -> Result<Tensor> {
    let config = Conv2dConfig {
        stride: op.stride as usize,
        padding: op.padding as usize,
        ..Conv2dConfig::default()
    };
    let conv = Conv2d::new(pass.parameter(node, "weight")?, pass.bias(node)?, config);
    conv.forward(x)
}
