//! The sizes of a convolution and what follows from them.

use candle_core::{Result, bail};

/// The sizes of one convolution, in pixels and channels. Square kernels; the same stride and padding both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    pub height: usize,
    pub width: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
    /// Size of the convolution's result (before any pooling).
    pub out_height: usize,
    pub out_width: usize,
}

impl Geometry {
    /// `input` is (height, width, channels).
    ///
    /// # Errors
    /// When a size is zero, the padding is not smaller than the kernel, or the kernel does not fit.
    pub fn new(
        input: (usize, usize, usize),
        outputs: usize,
        kernel: usize,
        stride: usize,
        padding: usize,
    ) -> Result<Self> {
        let (height, width, inputs) = input;
        if [height, width, inputs, outputs, kernel, stride].contains(&0) {
            bail!(
                "a convolution of {input:?} to {outputs} with kernel {kernel}, stride {stride} has a size of zero"
            );
        }
        if padding >= kernel {
            bail!("a convolution's padding ({padding}) must be smaller than its kernel ({kernel})");
        }
        if height + 2 * padding < kernel || width + 2 * padding < kernel {
            bail!(
                "a kernel of {kernel} does not fit into {height}x{width} pixels padded by {padding}"
            );
        }
        Ok(Geometry {
            height,
            width,
            inputs,
            outputs,
            kernel,
            stride,
            padding,
            out_height: (height + 2 * padding - kernel) / stride + 1,
            out_width: (width + 2 * padding - kernel) / stride + 1,
        })
    }

    /// f32 in one input image.
    pub fn input_len(&self) -> usize {
        self.height * self.width * self.inputs
    }

    /// Neighbouring f32 of an image's row under one row of the kernel: NHWC makes (column, channel) one run.
    pub fn run(&self) -> usize {
        self.kernel * self.inputs
    }

    /// f32 of the image under the kernel at one place: the inputs of one output.
    pub fn patch(&self) -> usize {
        self.kernel * self.run()
    }

    /// Size of the input with its padding.
    pub fn padded(&self) -> (usize, usize) {
        (
            self.height + 2 * self.padding,
            self.width + 2 * self.padding,
        )
    }

    /// Multiply-adds of one image's forward pass.
    pub fn multiply_adds(&self) -> u64 {
        (self.out_height * self.out_width * self.outputs * self.patch()) as u64
    }
}

/// Splits `total` into `parts` runs whose lengths differ by at most one: where run `i` begins.
pub fn cut(total: usize, parts: usize, i: usize) -> usize {
    total * i / parts
}
