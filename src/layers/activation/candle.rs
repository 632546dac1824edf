//! Smooth activations in Candle's operations.

use super::Function;
use candle_core::{Result, Tensor};

pub fn activate(function: Function, x: &Tensor) -> Result<Tensor> {
    match function {
        Function::Gelu => x.gelu_erf(),
        Function::Silu => x.silu(),
    }
}
