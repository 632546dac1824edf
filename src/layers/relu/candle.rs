//! ReLU in Candle's operations.

use candle_core::{Result, Tensor};

pub fn relu(x: &Tensor) -> Result<Tensor> {
    x.gt(0.0)?.where_cond(x, &x.zeros_like()?)
}
