//! The mean of each channel over all pixels.

use crate::layers::cpu::{Layer, Pass, map_images};
use crate::layers::gpu::{Activation, BackwardLaunches, LaunchBuilder};
use crate::layers::slices;
use candle_core::{Device, Result, Tensor};

/// The mean of each channel over all pixels.
pub struct GlobalPool {
    name: String,
    pixels: usize,
    channels: usize,
    output: Tensor,
}

impl GlobalPool {
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
        Ok(GlobalPool {
            name: name.to_owned(),
            pixels: height * width,
            channels,
            output: slices::zeros((capacity, 1, 1, channels), device)?,
        })
    }
}

impl Layer for GlobalPool {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, input: &Tensor, pass: &Pass) -> Result<()> {
        let (pixels, channels) = (self.pixels, self.channels);
        let len = pixels * channels;
        let (from, to) = ((input, len), (&self.output, channels));
        map_images(pass, from, to, |_, x, out| {
            out.fill(0.0);
            for pixel in x.chunks_exact(channels) {
                for (out, x) in out.iter_mut().zip(pixel) {
                    *out += x;
                }
            }
            for out in out {
                *out /= pixels as f32;
            }
        })
    }

    fn schedule(
        &self,
        builder: &mut LaunchBuilder,
        input: &Activation,
    ) -> (Activation, BackwardLaunches) {
        super::gpu::schedule((self.pixels, self.channels), builder, input)
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
        let (pixels, channels) = (self.pixels, self.channels);
        let len = pixels * channels;
        let (from, to) = ((grad_output, channels), (grad_input, len));
        map_images(pass, from, to, |_, grad, out| {
            for pixel in out.chunks_exact_mut(channels) {
                for (out, grad) in pixel.iter_mut().zip(grad) {
                    *out = grad / pixels as f32;
                }
            }
        })
    }
}
