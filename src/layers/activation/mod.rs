//! `gelu` and `silu`: smooth activations. `whiten` and norms take them in.
//!
//! - `gelu`: x times the standard normal distribution's share below x (Hendrycks, Gimpel: "Gaussian Error Linear Units",
//!   2016), exact as PyTorch's default, not by its tanh approximation.
//! - `silu`: x times the sigmoid of x (Elfwing, Uchibe, Doya: "Sigmoid-Weighted Linear Units", 2017).

mod candle;
pub mod cpu;
mod functions;
pub mod gpu;

pub use functions::Function;

use super::candle::CandlePass;
use super::cpu::{CpuPlace, Layer};
use super::kind::{Kind, LayerOp};
use crate::domain::arch::Node;
use candle_core::{Result, Tensor};
use std::fmt;
use std::sync::Arc;

pub const GELU: Kind = Kind {
    word: "gelu",
    usage: "",
    parse: |_| Ok(Arc::new(ActivationOp(Function::Gelu))),
};

pub const SILU: Kind = Kind {
    word: "silu",
    usage: "",
    parse: |_| Ok(Arc::new(ActivationOp(Function::Silu))),
};

#[derive(Debug)]
pub struct ActivationOp(Function);

impl ActivationOp {
    pub fn function(&self) -> Function {
        self.0
    }
}

impl fmt::Display for ActivationOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl LayerOp for ActivationOp {
    fn word(&self) -> &'static str {
        match self.0 {
            Function::Gelu => GELU.word,
            Function::Silu => SILU.word,
        }
    }

    fn cpu(&self, place: &mut CpuPlace) -> Result<Box<dyn Layer>> {
        let (shape, capacity) = (place.shape(), place.capacity());
        let layer = cpu::Activate::new(&place.name, self.0, shape, capacity, place.device())?;
        Ok(Box::new(layer))
    }

    fn candle(&self, _node: &Node, x: &Tensor, _pass: &mut CandlePass) -> Result<Tensor> {
        candle::activate(self.0, x)
    }
}
