//! ReLU that is not fused into another layer.

use crate::layers::cpu::{Layer, Pass, image_len, map_images};
use crate::layers::gpu::{Activation, BackwardLaunches, LaunchBuilder};
use crate::layers::slices;
use candle_core::{Device, Result, Tensor};

/// max(x, 0); NaN stays NaN. The derivative at zero is 0.
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

impl Layer for Relu {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, input: &Tensor, pass: &Pass) -> Result<()> {
        let len = image_len(&self.output);
        map_images(pass, (input, len), (&self.output, len), |_, x, out| {
            for (out, &x) in out.iter_mut().zip(x) {
                *out = if x < 0.0 { 0.0 } else { x };
            }
        })
    }

    fn schedule(
        &self,
        builder: &mut LaunchBuilder,
        input: &Activation,
    ) -> (Activation, BackwardLaunches) {
        super::gpu::schedule(builder, input)
    }

    fn rectifies(&self) -> bool {
        true
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
        let output = slices::read(&self.output)?;
        let (from, to) = ((grad_output, len), (grad_input, len));
        map_images(pass, from, to, |image, grad, out| {
            for ((out, grad), y) in out.iter_mut().zip(grad).zip(&output[image * len..]) {
                *out = if *y == 0.0 { 0.0 } else { *grad };
            }
        })
    }
}
