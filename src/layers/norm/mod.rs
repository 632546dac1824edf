//! `norm { "no-scale" | "momentum" NUMBER | "eps" NUMBER }`: batch normalisation over each channel (Ioffe, Szegedy: "Batch
//! Normalization", ICML 2015). The result is (x - mean) / sqrt(variance + eps) * weight + bias; with `no-scale` there is no
//! weight. It takes in the ReLU that follows and a 2x2 pool after that, or a smooth activation. At the end of a residual
//! block it also adds the shortcut.
//!
//! In training the mean and the variance are those of the batch. The running statistics, which scoring uses, become
//! (1 - momentum) times themselves plus momentum times the batch's, as in PyTorch; the running variance follows the
//! batch's variance with one less than the numbers as the divisor, also as in PyTorch.

mod candle;
pub mod cpu;
pub mod gpu;
mod pooled;
mod rows;

use super::activation::ActivationOp;
use super::candle::CandlePass;
use super::cpu::{CpuPlace, Layer};
use super::kind::{BufferSpec, Initialization, Kind, LayerOp, ParameterSpec};
use super::pool::PoolOp;
use super::relu::ReluOp;
use crate::domain::arch::{ArchError, Arguments, InferContext, Node};
use crate::domain::params::ParameterGroup;
use candle_core::{Result, Tensor};
use cpu::NormEpilogue;
use std::fmt;
use std::sync::Arc;

pub const KIND: Kind = Kind {
    word: "norm",
    usage: "[no-scale] [momentum X] [eps X]",
    parse,
};

const NO_SCALE: &str = "no-scale";
/// Smallest and largest momentum.
const MOMENTA: (f64, f64) = (0.001, 1.0);
/// Smallest and largest epsilon.
const EPSILONS: (f64, f64) = (1e-12, 1.0);

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormOp {
    /// Whether each channel has a weight.
    pub scale: bool,
    /// Share of a batch's statistics in the running statistics.
    pub momentum: f64,
    /// Added to the variance.
    pub epsilon: f64,
}

impl Default for NormOp {
    /// As PyTorch's `BatchNorm2d`.
    fn default() -> Self {
        NormOp {
            scale: true,
            momentum: 0.1,
            epsilon: 1e-5,
        }
    }
}

fn parse(arguments: &mut Arguments) -> std::result::Result<Arc<dyn LayerOp>, ArchError> {
    let (mut scale, mut momentum, mut epsilon) = (true, None, None);
    while let Some(word) = arguments.peek_word() {
        let at = arguments.here();
        let twice = match word.as_str() {
            NO_SCALE => !scale,
            "momentum" => momentum.is_some(),
            "eps" => epsilon.is_some(),
            _ => break,
        };
        if twice {
            return Err(arguments.error(at, format!("'{word}' is said twice")));
        }
        arguments.skip_word();
        match word.as_str() {
            NO_SCALE => scale = false,
            "eps" => epsilon = Some(arguments.float("eps", EPSILONS.0..=EPSILONS.1)?),
            _ => momentum = Some(arguments.float("the momentum", MOMENTA.0..=MOMENTA.1)?),
        }
    }
    let default = NormOp::default();
    Ok(Arc::new(NormOp {
        scale,
        momentum: momentum.unwrap_or(default.momentum),
        epsilon: epsilon.unwrap_or(default.epsilon),
    }))
}

impl fmt::Display for NormOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default = NormOp::default();
        f.write_str(KIND.word)?;
        if !self.scale {
            write!(f, " {NO_SCALE}")?;
        }
        if self.momentum != default.momentum {
            write!(f, " momentum {}", self.momentum)?;
        }
        if self.epsilon != default.epsilon {
            write!(f, " eps {:e}", self.epsilon)?;
        }
        Ok(())
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
        if self.scale {
            let ones = Initialization::Constant(1.0);
            let scale = ParameterSpec::weight(ParameterGroup::Biases, vec![channels], ones);
            node.parameters.push(scale);
        }
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
        let smooth = match relu {
            true => None,
            false => place.absorb::<ActivationOp>().map(ActivationOp::function),
        };
        let after = NormEpilogue { relu, pool, smooth };
        Ok(Box::new(cpu::Norm::of(place, place.node, *self, after)?))
    }

    fn candle(&self, node: &Node, x: &Tensor, pass: &mut CandlePass) -> Result<Tensor> {
        candle::norm(self, node, x, pass)
    }
}
