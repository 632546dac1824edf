//! `global-pool`: the mean of each channel over all pixels.

pub mod cpu;
mod gpu;

use super::candle::CandlePass;
use super::cpu::{CpuPlace, Layer};
use super::kind::{Kind, LayerOp};
use crate::domain::arch::{ArchError, InferContext, Node, Shape};
use candle_core::{Result, Tensor};
use std::fmt;
use std::sync::Arc;

pub const KIND: Kind = Kind {
    word: "global-pool",
    usage: "",
    parse: |_| Ok(Arc::new(GlobalPoolOp)),
};

#[derive(Debug)]
pub struct GlobalPoolOp;

impl fmt::Display for GlobalPoolOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(KIND.word)
    }
}

impl LayerOp for GlobalPoolOp {
    fn word(&self) -> &'static str {
        KIND.word
    }

    fn infer(
        &self,
        node: &mut Node,
        _context: &mut InferContext,
    ) -> std::result::Result<(), ArchError> {
        node.output = Shape::new(node.input.channels, 1, 1);
        Ok(())
    }

    fn cpu(&self, place: &mut CpuPlace) -> Result<Box<dyn Layer>> {
        let (shape, capacity) = (place.shape(), place.capacity());
        let pool = cpu::GlobalPool::new(&place.name, shape, capacity, place.device())?;
        Ok(Box::new(pool))
    }

    fn candle(&self, _node: &Node, x: &Tensor, _pass: &mut CandlePass) -> Result<Tensor> {
        x.mean_keepdim((2, 3))
    }
}
