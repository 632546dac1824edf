//! The backward pass where the gradient is dense: the input gradient is a convolution with the turned
//! kernel, the weight gradient tiles of sums over the pixels.

use super::forward::pad_rows;
use super::geometry::Geometry;
use super::tile::{Convolve, Pixels, Sums};
use super::winograd::{self, Tile, WeightSums, Winograd};
use crate::hardware::simd::{Kernel, Simd};
use crate::layers::slices::scratch;

/// f32 that a load of a whole vector may read beyond the last channel.
const SLACK: usize = 32;

/// The gradient that arrives at one image of the layer's output, and what it passed on the way back to the convolution.
#[derive(Clone, Copy)]
pub struct Arriving<'a> {
    pub grad: &'a [f32],
    /// The layer's output, which is zero exactly where ReLU or dropout blocked the value; None without ReLU.
    pub output: Option<&'a [f32]>,
    /// Index in the 2x2 window that max-pooling selected; None without pooling.
    pub taken: Option<&'a [u8]>,
    /// The factor of the elements that dropout kept.
    pub scale: f32,
}

/// The backward pass of some images, without pooling. Small ones should come together: what is summed over them then
/// stays in registers longer.
pub struct Backward<'a> {
    pub geometry: &'a Geometry,
    /// Use Winograd's algorithm on tiles of this size, with transformed weights; the sums are laid out as [`WeightSums`]
    /// does.
    pub winograd: Option<Tile>,
    pub images: usize,
    pub x: &'a [f32],
    pub arriving: Arriving<'a>,
    /// Turned weights, packed.
    pub weights: &'a [f32],
    /// Zeros, one for each input and each output, padded to whole blocks.
    pub zeros: &'a [f32],
    /// Lines of weight gradient, one for each number of the patch, and one of bias gradient, to add to.
    pub sums: &'a mut [f32],
    /// Overwrite `sums`.
    pub fresh: bool,
    /// Whether the bias gradient is asked for.
    pub bias: bool,
    pub grad_input: Option<&'a mut [f32]>,
}

/// Where the gradient of the convolution's results stands in a wider field: at `border` from the edges and `spread`
/// apart, zeros elsewhere.
#[derive(Clone, Copy)]
struct Field {
    height: usize,
    width: usize,
    border: usize,
    spread: usize,
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let g = self.geometry;
        let field = if self.grad_input.is_some() && self.winograd.is_none() {
            Field {
                height: g.height + g.kernel - 1,
                width: g.width + g.kernel - 1,
                border: g.kernel - 1 - g.padding,
                spread: g.stride,
            }
        } else {
            Field {
                height: g.out_height,
                width: g.out_width,
                border: 0,
                spread: 1,
            }
        };
        let line = g.outputs.next_multiple_of(S::LANES);
        let weights_len = match self.winograd {
            Some(tile) => winograd::sums_len(g, tile, S::LANES),
            None => g.patch() * line,
        };
        let (weight_sums, bias_sums) = self.sums.split_at_mut(weights_len);
        let bias_sums = &mut bias_sums[..g.outputs];
        if self.fresh {
            bias_sums.fill(0.0);
        }
        let out_len = g.out_height * g.out_width * g.outputs;
        let field_len = field.height * field.width * g.outputs;
        // A gradient that needs no expansion and has padding behind its last vector is read in place.
        let as_it_is = field_len == out_len
            && self.arriving.output.is_none()
            && !self.bias
            && g.outputs.is_multiple_of(S::LANES);
        let changed = if as_it_is {
            None
        } else {
            let mut grads = scratch(self.images * field_len + SLACK);
            for (image, field_grad) in grads
                .chunks_exact_mut(field_len)
                .enumerate()
                .take(self.images)
            {
                let outs = image * out_len..(image + 1) * out_len;
                let arriving = Arriving {
                    grad: &self.arriving.grad[outs.clone()],
                    output: self.arriving.output.map(|output| &output[outs]),
                    ..self.arriving
                };
                // SAFETY: the caller guarantees it.
                unsafe { spread::<S>(g, field, &arriving, field_grad, bias_sums) };
            }
            Some(grads)
        };
        let grads = changed.as_deref().unwrap_or(self.arriving.grad);
        let grad = Pixels {
            at: grads.as_ptr(),
            row: field.width * g.outputs,
            step: g.outputs,
        };
        if let Some(tile) = self.winograd {
            let grads = &grads[..self.images * out_len];
            // SAFETY: the caller guarantees it.
            unsafe {
                S::call(WeightSums {
                    tile,
                    geometry: g,
                    images: self.images,
                    x: self.x,
                    grad: grads,
                    zeros: self.zeros,
                    sums: weight_sums,
                    fresh: self.fresh,
                });
                if let Some(out) = self.grad_input {
                    S::call(Winograd {
                        tile,
                        geometry: &winograd::turned(g),
                        images: self.images,
                        x: grads,
                        weights: self.weights,
                        bias: self.zeros,
                        zeros: self.zeros,
                        relu: false,
                        taken: None,
                        rows: 0..g.height,
                        out,
                    });
                }
            }
            return;
        }
        let (height, width) = g.padded();
        let x_image = height * width * g.inputs;
        let padded = (g.padding > 0).then(|| {
            let mut padded = scratch(self.images * x_image);
            let images = self.x.chunks_exact(g.input_len());
            for (x, padded) in images.zip(padded.chunks_exact_mut(x_image)) {
                pad_rows(g, x, 0..height, padded);
            }
            padded
        });
        let x = padded
            .as_ref()
            .map_or(self.x.as_ptr(), |padded| padded.as_ptr());
        // SAFETY: the caller guarantees it; the views below stay within the fields and the (padded) images.
        unsafe {
            S::call(Sums {
                x: Pixels {
                    at: x,
                    row: g.stride * width * g.inputs,
                    step: g.stride * g.inputs,
                },
                grad: Pixels {
                    at: grad.offset(field.border, field.border, 0).at,
                    row: field.spread * grad.row,
                    step: field.spread * grad.step,
                },
                images: self.images,
                x_image,
                grad_image: field_len,
                rows: g.out_height,
                columns: g.out_width,
                kernel: g.kernel,
                run: g.run(),
                x_line: width * g.inputs,
                channels: g.outputs,
                out: weight_sums.as_mut_ptr(),
                fresh: self.fresh,
            });
            let Some(out) = self.grad_input else {
                return;
            };
            for (image, out) in out.chunks_exact_mut(g.input_len()).enumerate() {
                S::call(Convolve {
                    weights: self.weights,
                    bias: self.zeros,
                    kernel: g.kernel,
                    run: g.kernel * g.outputs,
                    channels: g.inputs,
                    relu: false,
                    x: grad.offset(0, 0, image * field_len),
                    x_next: grad.row,
                    rows: g.height,
                    columns: g.width,
                    out: out.as_mut_ptr(),
                    out_step: g.inputs,
                    out_next: g.width * g.inputs,
                });
            }
        }
    }
}

/// Writes the gradient of the convolution's results into its field, and adds it to the bias gradient.
///
/// # Safety
/// That of `S`.
#[inline(always)]
unsafe fn spread<S: Simd>(
    g: &Geometry,
    field: Field,
    arriving: &Arriving,
    out: &mut [f32],
    bias: &mut [f32],
) {
    let channels = g.outputs;
    if field.border != 0 || field.spread != 1 {
        out.fill(0.0);
    }
    let (row, step) = (
        field.spread * field.width * channels,
        field.spread * channels,
    );
    let begin = (field.border * field.width + field.border) * channels;
    let mut first = 0;
    while first < channels {
        let lanes = (channels - first).min(S::LANES);
        // SAFETY: the caller guarantees it; vectors are loaded and stored only as far as the channels reach.
        unsafe {
            let scale = S::splat(arriving.scale);
            let mut sum = S::load_part(bias.as_ptr().add(first), lanes);
            let mut from = first;
            for y in 0..g.out_height {
                let mut out = out.as_mut_ptr().add(begin + y * row + first);
                for _ in 0..g.out_width {
                    let mut value = S::load_part(arriving.grad.as_ptr().add(from), lanes);
                    if let Some(output) = arriving.output {
                        let output = S::load_part(output.as_ptr().add(from), lanes);
                        value = value.mul(scale).select(output.nonzero(), S::zero());
                    }
                    value.store_part(out, lanes);
                    sum = sum.add(value);
                    out = out.add(step);
                    from += channels;
                }
            }
            sum.store_part(bias.as_mut_ptr().add(first), lanes);
        }
        first += lanes;
    }
}
