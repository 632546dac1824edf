//! A smooth activation on the CPU.

use super::Function;
use crate::layers::cpu::{Layer, Pass, image_len, images, map_images};
use crate::layers::gpu::{Activation, BackwardLaunches, LaunchBuilder};
use crate::layers::slices;
use candle_core::{Device, Result, Tensor};

/// Applies a [`Function`] to every number.
pub struct Activate {
    name: String,
    function: Function,
    output: Tensor,
}

impl Activate {
    /// `input` is (height, width, channels); the output holds `capacity` images.
    ///
    /// # Errors
    /// Returns an error if the device runs out of memory.
    pub fn new(
        name: &str,
        function: Function,
        (height, width, channels): (usize, usize, usize),
        capacity: usize,
        device: &Device,
    ) -> Result<Self> {
        Ok(Activate {
            name: name.to_owned(),
            function,
            output: slices::zeros((capacity, height, width, channels), device)?,
        })
    }
}

impl Layer for Activate {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, input: &Tensor, pass: &Pass) -> Result<()> {
        let len = image_len(&self.output);
        map_images(pass, (input, len), (&self.output, len), |_, x, out| {
            self.function.values(x, out);
        })
    }

    fn schedule(
        &self,
        builder: &mut LaunchBuilder,
        input: &Activation,
    ) -> (Activation, BackwardLaunches) {
        super::gpu::schedule(self.function, builder, input)
    }

    fn output(&self) -> &Tensor {
        &self.output
    }

    fn backward(
        &mut self,
        input: &Tensor,
        grad_output: &Tensor,
        grad_input: Option<&Tensor>,
        pass: &Pass,
    ) -> Result<()> {
        let Some(grad_input) = grad_input else {
            return Ok(());
        };
        let len = image_len(&self.output);
        let x = slices::read(input)?;
        let x = images(&x, pass.images, len)?;
        let (from, to) = ((grad_output, len), (grad_input, len));
        map_images(pass, from, to, |image, grad, out| {
            self.function.gradients(&x[image * len..], grad, out);
        })
    }
}
