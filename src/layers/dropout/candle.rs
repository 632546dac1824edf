//! Inverted dropout with the mask of the other backends, whose numbers follow the order images, rows, columns, channels.

use super::{DropoutOp, Mask};
use crate::hardware::simd::Level;
use crate::layers::candle::CandlePass;
use candle_core::{Result, Tensor};

pub fn dropout(op: &DropoutOp, x: &Tensor, pass: &mut CandlePass) -> Result<Tensor> {
    let Some(training) = &mut pass.training else {
        return Ok(x.clone());
    };
    let layer = training.next_dropout();
    let train = training.pass;
    let share = op.share.map_or(train.dropout, |share| share as f32);
    let Some(mask) = Mask::new(train.seed, layer, train.step, share) else {
        return Ok(x.clone());
    };
    let (images, channels, height, width) = x.dims4()?;
    let mut factors = vec![0.0; x.elem_count()];
    mask.factors(Level::Portable, 0, &mut factors);
    let factors = Tensor::from_vec(factors, (images, height, width, channels), x.device())?;
    x * factors.permute((0, 3, 1, 2))?.to_dtype(x.dtype())?
}
