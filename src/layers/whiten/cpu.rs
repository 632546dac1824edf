//! Whitening on the CPU: a convolution, and the smooth activation that follows it.
//!
//! The activation's gradient needs the convolution's results, which would take as much memory as the activation's. They
//! are computed again instead: twelve multiply-adds each.

use crate::hardware::simd::Level;
use crate::hardware::threads::SharedSlice;
use crate::layers::activation::{self, Function};
use crate::layers::conv::cpu::Conv;
use crate::layers::cpu::{Layer, Parameter, Pass, image_len, images};
use crate::layers::gpu::{Activation, BackwardLaunches, LaunchBuilder};
use crate::layers::slices::{read, scratch, write};
use candle_core::{Result, Tensor, bail};

/// Convolution with fixed filters + bias + smooth activation. As the first layer it has no input gradient.
pub struct Whiten {
    conv: Conv,
    function: Function,
}

impl Whiten {
    /// `conv` takes in nothing itself.
    pub fn new(conv: Conv, function: Function) -> Self {
        Whiten { conv, function }
    }
}

impl Layer for Whiten {
    fn name(&self) -> &str {
        self.conv.name()
    }

    fn forward(&mut self, input: &Tensor, pass: &Pass) -> Result<()> {
        self.conv.forward(input, pass)?;
        let (output, function) = (self.conv.output(), self.function);
        let len = image_len(output);
        write([output], |[out]| {
            pass.threads
                .chunks(&mut out[..pass.images * len], len, |_, out| {
                    function.apply(Level::best(), out);
                });
        })
    }

    fn output(&self) -> &Tensor {
        self.conv.output()
    }

    fn backward(
        &mut self,
        input: &Tensor,
        grad_output: &Tensor,
        grad_input: Option<&Tensor>,
        pass: &Pass,
    ) -> Result<()> {
        if grad_input.is_some() {
            bail!("{}: the first layer has no input gradient", self.name());
        }
        let (len, input_len) = (image_len(self.output()), image_len(input));
        let channels = self.output().dims4()?.3;
        let (x, grad) = (read(input)?, read(grad_output)?);
        let x = images(&x, pass.images, input_len)?;
        let grad = images(&grad, pass.images, len)?;
        let mut sums = vec![0.0f64; pass.images * channels];
        let (conv, function) = (&self.conv, self.function);
        let all = SharedSlice::new(&mut sums);
        pass.threads.run(pass.images, |image| {
            let (mut results, mut grads) = (scratch(len), scratch(len));
            let x = &x[image * input_len..][..input_len];
            conv.recompute(pass.images, x, &mut results);
            let grad = &grad[image * len..][..len];
            function.gradients(Level::best(), &results, grad, &mut grads);
            // SAFETY: each image has sums of its own.
            let sums = unsafe { all.range(image * channels..(image + 1) * channels) };
            let mut parts = vec![0.0f32; channels];
            for row in grads.chunks_exact(channels) {
                for (part, grad) in parts.iter_mut().zip(row) {
                    *part += grad;
                }
            }
            for (sum, part) in sums.iter_mut().zip(parts) {
                *sum = part.into();
            }
        });
        for bias in self.conv.params().into_iter().filter(|p| p.trained) {
            write([&bias.grad], |[bias]| {
                for (channel, bias) in bias.iter_mut().enumerate() {
                    let images = sums.iter().skip(channel).step_by(channels);
                    *bias = images.sum::<f64>() as f32;
                }
            })?;
        }
        Ok(())
    }

    fn schedule(
        &self,
        builder: &mut LaunchBuilder,
        input: &Activation,
    ) -> (Activation, BackwardLaunches) {
        let conv = self.conv.schedule(builder, input);
        activation::gpu::follow(self.function, builder, conv)
    }

    fn params(&self) -> Vec<&Parameter> {
        self.conv.params()
    }
}
