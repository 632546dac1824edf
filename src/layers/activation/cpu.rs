//! A smooth activation on the CPU.

use super::Function;
use crate::hardware::simd::Level;
use crate::layers::cpu::{Layer, Pass, image_len, images, map_images};
use crate::layers::gpu::{Activation, BackwardLaunches, LaunchBuilder};
use crate::layers::slices;
use candle_core::{Device, Result, Tensor};

/// Applies a [`Function`] to every number.
pub struct Activate {
    name: String,
    function: Function,
    level: Level,
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
            level: Level::best(),
            output: slices::zeros((capacity, height, width, channels), device)?,
        })
    }
}

impl Activate {
    /// Computes with another SIMD level than the best one of this CPU.
    #[must_use]
    pub fn at_level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }
}

impl Layer for Activate {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, input: &Tensor, pass: &Pass) -> Result<()> {
        let len = image_len(&self.output);
        map_images(pass, (input, len), (&self.output, len), |_, x, out| {
            self.function.values(self.level, x, out);
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
            let x = &x[image * len..];
            self.function.gradients(self.level, x, grad, out);
        })
    }
}
