//! `norm`: batch normalisation over each channel (Ioffe, Szegedy: "Batch Normalization", ICML 2015). It takes in the ReLU
//! that follows and a 2x2 pool after that. At the end of a residual block it also adds the shortcut.

mod candle;
pub mod cpu;
pub mod gpu;
mod pooled;
mod rows;

use super::candle::CandlePass;
use super::cpu::{CpuPlace, Layer};
use super::kind::{BufferSpec, Initialization, Kind, LayerOp, ParameterSpec};
use super::pool::PoolOp;
use super::relu::ReluOp;
use crate::domain::arch::{ArchError, InferContext, Node};
use crate::domain::params::ParameterGroup;
use candle_core::{Result, Tensor};
use cpu::NormEpilogue;
use std::fmt;
use std::sync::Arc;

pub const KIND: Kind = Kind {
    word: "norm",
    parse: |_| Ok(Arc::new(NormOp)),
};

/// Added to the variance (PyTorch's default).
pub const EPSILON: f64 = 1e-5;
/// Weight of a batch's statistics in the running statistics (PyTorch's `momentum` default).
pub const MOMENTUM: f64 = 0.1;

#[derive(Debug)]
pub struct NormOp;

impl fmt::Display for NormOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(KIND.word)
    }
}

impl LayerOp for NormOp {
    fn word(&self) -> &'static str {
        KIND.word
    }

    fn has_name(&self) -> bool {
        true
    }

    fn infer(
        &self,
        node: &mut Node,
        _context: &mut InferContext,
    ) -> std::result::Result<(), ArchError> {
        let channels = node.input.channels as usize;
        let ones = Initialization::Constant(1.0);
        let scale = ParameterSpec::weight(ParameterGroup::Biases, vec![channels], ones);
        node.parameters.push(scale);
        node.parameters.push(ParameterSpec::bias(channels));
        let buffer = |suffix, initial| BufferSpec {
            suffix,
            shape: vec![channels],
            initial,
        };
        node.buffers = vec![buffer("running_mean", 0.0), buffer("running_var", 1.0)];
        Ok(())
    }

    fn cpu(&self, place: &mut CpuPlace) -> Result<Box<dyn Layer>> {
        let relu = place.absorb::<ReluOp>().is_some();
        let pool = relu && place.absorb_if(PoolOp::is_two_by_two).is_some();
        let after = NormEpilogue { relu, pool };
        Ok(Box::new(cpu::Norm::of(place, place.node, after)?))
    }

    fn candle(&self, node: &Node, x: &Tensor, pass: &mut CandlePass) -> Result<Tensor> {
        candle::norm(node, x, pass)
    }
}
