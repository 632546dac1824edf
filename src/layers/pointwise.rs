//! ReLU and dropout as layers of their own, where they cannot be fused into the layer before.

use super::conv::Dropout;
use super::dropout::Mask;
use super::slices::{self, read, write};
use super::spec::LayerSpec;
use super::{Layer, Pass};
use crate::hardware::simd::Level;
use candle_core::{Device, Result, Tensor};

/// max(x, 0); NaN stays NaN. Its slope at zero is 0.
pub struct Relu {
    name: String,
    output: Tensor,
}

impl Relu {
    /// `input` is (height, width, channels); the output holds `capacity` images.
    ///
    /// # Errors
    /// Returns an error if the device runs out of memory.
    pub fn new(
        name: &str,
        input: (usize, usize, usize),
        capacity: usize,
        device: &Device,
    ) -> Result<Self> {
        let (height, width, channels) = input;
        Ok(Relu {
            name: name.to_owned(),
            output: slices::zeros((capacity, height, width, channels), device)?,
        })
    }
}

/// Numbers in one image of a batch.
fn image_len(batch: &Tensor) -> usize {
    batch.dims()[1..].iter().product()
}

impl Layer for Relu {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, input: &Tensor, pass: &Pass) -> Result<()> {
        let len = image_len(&self.output);
        let x = read(input)?;
        let x = super::images(&x, pass.images, len)?;
        write([&self.output], |[out]| {
            pass.threads
                .chunks(&mut out[..pass.images * len], len, |image, out| {
                    for (out, &x) in out.iter_mut().zip(&x[image * len..]) {
                        *out = if x < 0.0 { 0.0 } else { x };
                    }
                });
        })
    }

    fn spec(&self) -> LayerSpec<'_> {
        LayerSpec::Relu
    }

    fn output(&self) -> &Tensor {
        &self.output
    }

    fn backward(
        &mut self,
        _input: &Tensor,
        grad_output: &Tensor,
        grad_input: Option<&Tensor>,
        pass: &Pass,
    ) -> Result<()> {
        let Some(grad_input) = grad_input else {
            return Ok(());
        };
        let len = image_len(&self.output);
        let (grad, output) = (read(grad_output)?, read(&self.output)?);
        let grad = super::images(&grad, pass.images, len)?;
        write([grad_input], |[out]| {
            pass.threads
                .chunks(&mut out[..pass.images * len], len, |image, out| {
                    let first = image * len;
                    for ((out, grad), y) in out.iter_mut().zip(&grad[first..]).zip(&output[first..])
                    {
                        *out = if *y == 0.0 { 0.0 } else { *grad };
                    }
                });
        })
    }
}

/// Dropout; while scoring, the identity.
pub struct Drop {
    name: String,
    dropout: Dropout,
    level: Level,
    output: Tensor,
}

impl Drop {
    /// `input` is (height, width, channels); the output holds `capacity` images.
    ///
    /// # Errors
    /// Returns an error if the device runs out of memory.
    pub fn new(
        name: &str,
        input: (usize, usize, usize),
        dropout: Dropout,
        capacity: usize,
        device: &Device,
    ) -> Result<Self> {
        let (height, width, channels) = input;
        Ok(Drop {
            name: name.to_owned(),
            dropout,
            level: Level::best(),
            output: slices::zeros((capacity, height, width, channels), device)?,
        })
    }

    /// The same in both directions: a product with the mask.
    fn multiply(&self, from: &Tensor, to: &Tensor, pass: &Pass) -> Result<()> {
        let len = image_len(&self.output);
        let level = self.level;
        let mask = pass.train.and_then(|train| {
            let share = self.dropout.share.unwrap_or(train.dropout);
            Mask::new(train.seed, self.dropout.layer, train.step, share)
        });
        let from = read(from)?;
        let from = super::images(&from, pass.images, len)?;
        write([to], |[to]| {
            pass.threads
                .chunks(&mut to[..pass.images * len], len, |image, to| {
                    let from = &from[image * len..(image + 1) * len];
                    match mask {
                        None => to.copy_from_slice(from),
                        Some(mask) => {
                            mask.factors(level, image * len, to);
                            for (to, from) in to.iter_mut().zip(from) {
                                *to *= from;
                            }
                        }
                    }
                });
        })
    }
}

impl Layer for Drop {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, input: &Tensor, pass: &Pass) -> Result<()> {
        self.multiply(input, &self.output, pass)
    }

    fn spec(&self) -> LayerSpec<'_> {
        LayerSpec::Drop(self.dropout)
    }

    fn output(&self) -> &Tensor {
        &self.output
    }

    fn backward(
        &mut self,
        _input: &Tensor,
        grad_output: &Tensor,
        grad_input: Option<&Tensor>,
        pass: &Pass,
    ) -> Result<()> {
        match grad_input {
            Some(grad_input) => self.multiply(grad_output, grad_input, pass),
            None => Ok(()),
        }
    }
}
