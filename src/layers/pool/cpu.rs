//! Max-pooling as a layer of its own, with any window and stride.

use crate::hardware::simd::{Kernel, Level, Simd};
use crate::hardware::threads::SharedSlice;
use crate::layers::cpu::{Layer, Pass, images};
use crate::layers::gpu::{Activation, BackwardLaunches, LaunchBuilder};
use crate::layers::slices::{self, read, write};
use candle_core::{Device, Result, Tensor, bail};

/// Max-pooling without padding. Of equal inputs the first is selected; NaN counts as larger than every number.
pub struct MaxPool {
    name: String,
    size: PoolSize,
    level: Level,
    output: Tensor,
    /// Index (row-major) in its window of the input that each output selected.
    taken: Vec<u16>,
}

/// The sizes of a max-pooling.
#[derive(Clone, Copy)]
pub(super) struct PoolSize {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub kernel: usize,
    pub stride: usize,
    pub out_height: usize,
    pub out_width: usize,
}

impl PoolSize {
    fn input_len(&self) -> usize {
        self.height * self.width * self.channels
    }

    pub(super) fn output_len(&self) -> usize {
        self.out_height * self.out_width * self.channels
    }

    /// Where in an image the window of an output begins.
    #[inline(always)]
    fn window(&self, row: usize, column: usize) -> usize {
        (row * self.stride * self.width + column * self.stride) * self.channels
    }

    /// Where pixel `place` of a window stands, from its beginning.
    #[inline(always)]
    fn place(&self, place: usize) -> usize {
        (place / self.kernel * self.width + place % self.kernel) * self.channels
    }
}

impl MaxPool {
    /// `input` is (height, width, channels); the output holds `capacity` images.
    ///
    /// # Errors
    /// Returns an error if the window does not fit, or the device runs out of memory.
    pub fn new(
        name: &str,
        input: (usize, usize, usize),
        kernel: usize,
        stride: usize,
        capacity: usize,
        device: &Device,
    ) -> Result<Self> {
        let (height, width, channels) = input;
        if kernel == 0 || stride == 0 || kernel > height.min(width) || kernel > 255 {
            bail!(
                "{name}: a window of {kernel} (stride {stride}) does not fit {height}x{width} pixels"
            );
        }
        let size = PoolSize {
            height,
            width,
            channels,
            kernel,
            stride,
            out_height: (height - kernel) / stride + 1,
            out_width: (width - kernel) / stride + 1,
        };
        Ok(MaxPool {
            name: name.to_owned(),
            size,
            level: Level::best(),
            output: slices::zeros(
                (capacity, size.out_height, size.out_width, channels),
                device,
            )?,
            taken: vec![0; capacity * size.output_len()],
        })
    }

    pub(super) fn size(&self) -> PoolSize {
        self.size
    }

    /// Computes with another SIMD level than the best one of this CPU.
    #[must_use]
    pub fn at_level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }
}

impl Layer for MaxPool {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, input: &Tensor, pass: &Pass) -> Result<()> {
        let (size, level) = (self.size, self.level);
        let (ins, outs) = (size.input_len(), size.output_len());
        let x = read(input)?;
        let x = images(&x, pass.images, ins)?;
        let taken = SharedSlice::new(&mut self.taken);
        write([&self.output], |[out]| {
            pass.threads
                .chunks(&mut out[..pass.images * outs], outs, |image, out| {
                    level.run(Largest {
                        size,
                        x: &x[image * ins..(image + 1) * ins],
                        out,
                        // SAFETY: each task writes a different image.
                        taken: unsafe { taken.range(image * outs..(image + 1) * outs) },
                    });
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
        let (size, level) = (self.size, self.level);
        let (ins, outs) = (size.input_len(), size.output_len());
        let grad = read(grad_output)?;
        let grad = images(&grad, pass.images, outs)?;
        let taken = &self.taken;
        write([grad_input], |[out]| {
            pass.threads
                .chunks(&mut out[..pass.images * ins], ins, |image, out| {
                    level.run(Spread {
                        size,
                        grad: &grad[image * outs..(image + 1) * outs],
                        taken: &taken[image * outs..(image + 1) * outs],
                        out,
                    });
                });
        })
    }
}

/// Forward, one image.
struct Largest<'a> {
    size: PoolSize,
    x: &'a [f32],
    out: &'a mut [f32],
    taken: &'a mut [u16],
}

impl Kernel for Largest<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let size = self.size;
        let channels = size.channels;
        for row in 0..size.out_height {
            for column in 0..size.out_width {
                let pixel = (row * size.out_width + column) * channels;
                let out = &mut self.out[pixel..pixel + channels];
                let taken = &mut self.taken[pixel..pixel + channels];
                let window = &self.x[size.window(row, column)..];
                out.copy_from_slice(&window[..channels]);
                taken.fill(0);
                for place in 1..size.kernel * size.kernel {
                    let x = &window[size.place(place)..][..channels];
                    for c in 0..channels {
                        let beats = x[c] > out[c] || (x[c].is_nan() && !out[c].is_nan());
                        out[c] = if beats { x[c] } else { out[c] };
                        taken[c] = if beats { place as u16 } else { taken[c] };
                    }
                }
            }
        }
    }
}

/// Backward, one image.
struct Spread<'a> {
    size: PoolSize,
    grad: &'a [f32],
    taken: &'a [u16],
    out: &'a mut [f32],
}

impl Kernel for Spread<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let size = self.size;
        let channels = size.channels;
        // Windows that tile the image write every pixel once; others leave gaps or overlap, so zero first.
        let tiling = size.kernel == size.stride
            && size.out_height * size.kernel == size.height
            && size.out_width * size.kernel == size.width;
        if !tiling {
            self.out.fill(0.0);
        }
        for row in 0..size.out_height {
            for column in 0..size.out_width {
                let pixel = (row * size.out_width + column) * channels;
                let grad = &self.grad[pixel..pixel + channels];
                let taken = &self.taken[pixel..pixel + channels];
                let window = &mut self.out[size.window(row, column)..];
                for place in 0..size.kernel * size.kernel {
                    let out = &mut window[size.place(place)..][..channels];
                    if tiling {
                        for c in 0..channels {
                            out[c] = if taken[c] == place as u16 {
                                grad[c]
                            } else {
                                0.0
                            };
                        }
                    } else {
                        for c in 0..channels {
                            out[c] += if taken[c] == place as u16 {
                                grad[c]
                            } else {
                                0.0
                            };
                        }
                    }
                }
            }
        }
    }
}
