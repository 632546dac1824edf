//! Dropout that is not fused into another layer.

use super::Dropout;
use crate::hardware::simd::Level;
use crate::layers::cpu::{Layer, Pass, image_len, map_images};
use crate::layers::gpu::{Activation, BackwardLaunches, LaunchBuilder};
use crate::layers::slices;
use candle_core::{Device, Result, Tensor};

/// Dropout. In scoring it is the identity.
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

    /// Multiplies by the mask, in the forward and in the backward pass.
    fn multiply(&self, from: &Tensor, to: &Tensor, pass: &Pass) -> Result<()> {
        let len = image_len(&self.output);
        let level = self.level;
        let mask = self.dropout.mask(pass);
        map_images(pass, (from, len), (to, len), |image, from, to| match mask {
            None => to.copy_from_slice(from),
            Some(mask) => {
                mask.factors(level, image * len, to);
                for (to, from) in to.iter_mut().zip(from) {
                    *to *= from;
                }
            }
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

    fn schedule(
        &self,
        builder: &mut LaunchBuilder,
        input: &Activation,
    ) -> (Activation, BackwardLaunches) {
        super::gpu::schedule(self.dropout, builder, input)
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
