//! `relu`: max(x, 0). The derivative at zero is 0. It is fused into a convolution, dense layer, norm or residual block
//! before it.

mod candle;
pub mod cpu;
mod gpu;

use super::candle::CandlePass;
use super::cpu::{CpuPlace, Layer};
use super::kind::{Kind, LayerOp};
use crate::domain::arch::Node;
use candle_core::{Result, Tensor};
use std::fmt;
use std::sync::Arc;

pub const KIND: Kind = Kind {
    word: "relu",
    usage: "",
    parse: |_| Ok(Arc::new(ReluOp)),
};

#[derive(Debug)]
pub struct ReluOp;

impl fmt::Display for ReluOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(KIND.word)
    }
}

impl LayerOp for ReluOp {
    fn word(&self) -> &'static str {
        KIND.word
    }

    fn cpu(&self, place: &mut CpuPlace) -> Result<Box<dyn Layer>> {
        let (shape, capacity) = (place.shape(), place.capacity());
        let relu = cpu::Relu::new(&place.name, shape, capacity, place.device())?;
        Ok(Box::new(relu))
    }

    fn candle(&self, _node: &Node, x: &Tensor, _pass: &mut CandlePass) -> Result<Tensor> {
        candle::relu(x)
    }

    fn makes_choices(&self) -> bool {
        true
    }

    fn choice_gaps(&self, image: &[f64], _shape: [usize; 3]) -> Vec<f64> {
        image.iter().map(|v| v.abs()).collect()
    }
}
