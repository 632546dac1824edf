//! A multiplication by a constant on the CPU.

use crate::layers::cpu::{Layer, Pass, image_len, map_images};
use crate::layers::gpu::{Activation, BackwardLaunches, LaunchBuilder};
use crate::layers::slices;
use candle_core::{Device, Result, Tensor};

/// Multiplies every number by a factor.
pub struct Multiply {
    name: String,
    factor: f32,
    output: Tensor,
}

impl Multiply {
    /// `input` is (height, width, channels); the output holds `capacity` images.
    ///
    /// # Errors
    /// Returns an error if the device runs out of memory.
    pub fn new(
        name: &str,
        factor: f32,
        (height, width, channels): (usize, usize, usize),
        capacity: usize,
        device: &Device,
    ) -> Result<Self> {
        Ok(Multiply {
            name: name.to_owned(),
            factor,
            output: slices::zeros((capacity, height, width, channels), device)?,
        })
    }

    /// Writes the first images of `from` times the factor to `to`.
    fn scaled(&self, from: &Tensor, to: &Tensor, pass: &Pass) -> Result<()> {
        let len = image_len(&self.output);
        map_images(pass, (from, len), (to, len), |_, from, to| {
            for (to, x) in to.iter_mut().zip(from) {
                *to = x * self.factor;
            }
        })
    }
}

impl Layer for Multiply {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, input: &Tensor, pass: &Pass) -> Result<()> {
        self.scaled(input, &self.output, pass)
    }

    fn schedule(
        &self,
        builder: &mut LaunchBuilder,
        input: &Activation,
    ) -> (Activation, BackwardLaunches) {
        super::gpu::schedule(self.factor, builder, input)
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
            Some(grad_input) => self.scaled(grad_output, grad_input, pass),
            None => Ok(()),
        }
    }
}
