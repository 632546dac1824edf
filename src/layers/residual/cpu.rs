//! A residual block (He et al., "Deep Residual Learning", CVPR 2016): the sum of its body's output and its input, with
//! an optional ReLU. If their shapes differ, the input passes through a shortcut. If the body ends with a norm, as is
//! usual, the sum and the ReLU are fused into the norm.

use crate::layers::cpu::{Layer, Parameter, Pass};
use crate::layers::gpu::{Activation, BackwardLaunches, LaunchBuilder};
use crate::layers::norm::cpu::Norm;
use crate::layers::sequential::Sequential;
use crate::layers::slices::{self, read, write};
use candle_core::{Result, Tensor, bail};

/// Body + shortcut (+ ReLU).
pub struct Residual {
    name: String,
    body: Sequential,
    tail: ResidualSum,
    /// The layers of the shortcut. If there are none, it is the identity.
    shortcut: Sequential,
    /// Gradient of the shortcut's output.
    grad_skip: Tensor,
    /// Gradient of the input through the shortcut's layers.
    grad_shortcut: Option<Tensor>,
}

/// The operation that adds body and shortcut.
pub enum ResidualSum {
    /// A norm, the body's last layer, adds the shortcut.
    Norm {
        norm: Box<Norm>,
        /// Gradient of the norm's input.
        grad: Tensor,
    },
    Sum {
        output: Tensor,
        relu: bool,
    },
}

impl ResidualSum {
    /// A norm, the body's last layer, that also adds the shortcut and applies the ReLU.
    ///
    /// # Errors
    /// Returns an error if the device runs out of memory.
    pub fn norm(norm: Norm) -> Result<Self> {
        let output = norm.output();
        let grad = slices::zeros(output.shape(), output.device())?;
        Ok(ResidualSum::Norm {
            norm: Box::new(norm),
            grad,
        })
    }

    /// A plain sum of tensors shaped like `body`, the output of the body's last layer.
    ///
    /// # Errors
    /// Returns an error if the device runs out of memory.
    pub fn sum(body: &Tensor, relu: bool) -> Result<Self> {
        Ok(ResidualSum::Sum {
            output: slices::zeros(body.shape(), body.device())?,
            relu,
        })
    }
}

impl Residual {
    /// A residual block whose input has the shape of `input`. The body may be empty if `tail` is a norm.
    ///
    /// # Errors
    /// Returns an error if neither body nor tail has a layer, the shortcut's output has another shape than the sum, or the
    /// device runs out of memory.
    pub fn new(
        name: &str,
        body: Sequential,
        tail: ResidualSum,
        shortcut: Sequential,
        input: &Tensor,
    ) -> Result<Self> {
        let output = match &tail {
            ResidualSum::Norm { norm, .. } => norm.output(),
            ResidualSum::Sum { output, .. } => output,
        };
        if body.is_empty() && matches!(tail, ResidualSum::Sum { .. }) {
            bail!("{name}: a residual block needs a layer");
        }
        let (added, device) = (shortcut.output(input).shape(), output.device());
        if added != output.shape() {
            bail!("{name}: {added:?} cannot be added to {:?}", output.shape());
        }
        let grad_shortcut = match shortcut.is_empty() {
            true => None,
            false => Some(slices::zeros(input.shape(), device)?),
        };
        Ok(Residual {
            name: name.to_owned(),
            grad_skip: slices::zeros(output.shape(), device)?,
            grad_shortcut,
            body,
            tail,
            shortcut,
        })
    }
}

impl Residual {
    pub(super) fn body(&self) -> &Sequential {
        &self.body
    }

    pub(super) fn tail(&self) -> &ResidualSum {
        &self.tail
    }

    pub(super) fn shortcut(&self) -> &Sequential {
        &self.shortcut
    }
}

impl Layer for Residual {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, input: &Tensor, pass: &Pass) -> Result<()> {
        self.body.forward(input, pass)?;
        self.shortcut.forward(input, pass)?;
        let body = self.body.output(input);
        let skip = self.shortcut.output(input);
        match &mut self.tail {
            ResidualSum::Norm { norm, .. } => norm.forward_with(body, Some(skip), pass),
            ResidualSum::Sum { output, relu } => {
                let len = output.elem_count() / output.dims()[0];
                let (body, skip) = (read(body)?, read(skip)?);
                write([output], |[out]| {
                    pass.threads
                        .chunks(&mut out[..pass.images * len], len, |image, out| {
                            let first = image * len;
                            for ((out, a), b) in
                                out.iter_mut().zip(&body[first..]).zip(&skip[first..])
                            {
                                let sum = a + b;
                                *out = if *relu && sum < 0.0 { 0.0 } else { sum };
                            }
                        });
                })
            }
        }
    }

    fn output(&self) -> &Tensor {
        match &self.tail {
            ResidualSum::Norm { norm, .. } => norm.output(),
            ResidualSum::Sum { output, .. } => output,
        }
    }

    fn backward(
        &mut self,
        input: &Tensor,
        grad_output: &Tensor,
        grad_input: Option<&Tensor>,
        pass: &Pass,
    ) -> Result<()> {
        let body_input = self.body.output(input);
        match &mut self.tail {
            ResidualSum::Norm { norm, grad } => {
                let skip = Some(&self.grad_skip);
                if self.body.is_empty() {
                    norm.backward_with(body_input, grad_output, grad_input, skip, pass)?;
                } else {
                    norm.backward_with(body_input, grad_output, Some(grad), skip, pass)?;
                    self.body.backward(input, grad, grad_input, pass)?;
                }
            }
            ResidualSum::Sum { output, relu } => {
                let len = output.elem_count() / output.dims()[0];
                let (grad, output) = (read(grad_output)?, read(output)?);
                write([&self.grad_skip], |[out]| {
                    pass.threads
                        .chunks(&mut out[..pass.images * len], len, |image, out| {
                            let first = image * len;
                            for ((out, grad), y) in
                                out.iter_mut().zip(&grad[first..]).zip(&output[first..])
                            {
                                *out = if *relu && *y == 0.0 { 0.0 } else { *grad };
                            }
                        });
                })?;
                self.body
                    .backward(input, &self.grad_skip, grad_input, pass)?;
            }
        }
        let shortcut = match &self.grad_shortcut {
            Some(grad) => {
                let wanted = grad_input.map(|_| grad);
                self.shortcut
                    .backward(input, &self.grad_skip, wanted, pass)?;
                grad
            }
            None => &self.grad_skip,
        };
        let Some(grad_input) = grad_input else {
            return Ok(());
        };
        let len = grad_input.elem_count() / grad_input.dims()[0];
        let through = read(shortcut)?;
        write([grad_input], |[out]| {
            pass.threads
                .chunks(&mut out[..pass.images * len], len, |image, out| {
                    for (out, add) in out.iter_mut().zip(&through[image * len..]) {
                        *out += add;
                    }
                });
        })
    }

    fn schedule(
        &self,
        builder: &mut LaunchBuilder,
        input: &Activation,
    ) -> (Activation, BackwardLaunches) {
        super::gpu::schedule(self, builder, input)
    }

    fn rectifies(&self) -> bool {
        match &self.tail {
            ResidualSum::Norm { norm, .. } => norm.rectifies(),
            ResidualSum::Sum { relu, .. } => *relu,
        }
    }

    fn params(&self) -> Vec<&Parameter> {
        let mut params = self.body.params();
        if let ResidualSum::Norm { norm, .. } = &self.tail {
            params.extend(norm.params());
        }
        params.extend(self.shortcut.params());
        params
    }

    fn buffers(&self) -> Vec<(String, &Tensor)> {
        let mut buffers = self.body.buffers();
        if let ResidualSum::Norm { norm, .. } = &self.tail {
            buffers.extend(norm.buffers());
        }
        buffers.extend(self.shortcut.buffers());
        buffers
    }
}
