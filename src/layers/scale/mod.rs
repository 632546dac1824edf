//! `scale NUMBER`: multiplies every element by a constant, for example to make logits smaller.

pub mod cpu;
mod gpu;

use super::candle::CandlePass;
use super::cpu::{CpuPlace, Layer};
use super::kind::{Kind, LayerOp};
use crate::domain::arch::{ArchError, Arguments, Node};
use candle_core::{Result, Tensor};
use std::fmt;
use std::sync::Arc;

pub const KIND: Kind = Kind {
    word: "scale",
    usage: "FACTOR",
    parse,
};

/// Smallest and largest factor.
const FACTORS: (f64, f64) = (1e-6, 1e6);

#[derive(Debug)]
pub struct ScaleOp {
    factor: f64,
}

fn parse(arguments: &mut Arguments) -> std::result::Result<Arc<dyn LayerOp>, ArchError> {
    let factor = arguments.float("the factor", FACTORS.0..=FACTORS.1)?;
    Ok(Arc::new(ScaleOp { factor }))
}

impl fmt::Display for ScaleOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", KIND.word, self.factor)
    }
}

impl LayerOp for ScaleOp {
    fn word(&self) -> &'static str {
        KIND.word
    }

    fn makes_logits(&self) -> bool {
        true
    }

    fn cpu(&self, place: &mut CpuPlace) -> Result<Box<dyn Layer>> {
        let (shape, capacity) = (place.shape(), place.capacity());
        let factor = self.factor as f32;
        let layer = cpu::Multiply::new(&place.name, factor, shape, capacity, place.device())?;
        Ok(Box::new(layer))
    }

    fn candle(&self, _node: &Node, x: &Tensor, _pass: &mut CandlePass) -> Result<Tensor> {
        x * self.factor
    }
}
