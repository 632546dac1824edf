//! Convolution, and what usually follows it, in one layer: bias, ReLU, 2x2 max-pooling, dropout.
//!
//! The kernels are direct convolutions on NHWC: under one row of the kernel, (column, channel) is one run of memory, so
//! nothing is unfolded. `tile.rs` has the inner loops; `forward.rs` and `backward.rs` what is around them; `sparse.rs` the
//! backward pass where most of the gradient is zero; `winograd.rs` another way with fewer multiplications; `pack.rs` the
//! order of the weights.

mod backward;
#[cfg(test)]
mod figures;
mod forward;
mod geometry;
mod pack;
mod sparse;
#[cfg(test)]
mod tests;
mod tile;
mod winograd;

pub use geometry::Geometry;

use super::dropout::Mask;
use super::slices::{self, Aligned, read, write};
use super::spec::LayerSpec;
use super::{Layer, Parameter, Pass};
use crate::hardware::simd::{Kernel, Level, Simd};
use crate::hardware::threads::{SharedSlice, Threads};
use backward::{Arriving, Backward};
use candle_core::{Result, Tensor, Var, bail};
use forward::Forward;
use sparse::SparseBackward;

/// What follows the convolution within the layer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ConvEpilogue {
    pub relu: bool,
    /// 2x2 max-pooling; an odd last row or column is left out. After ReLU only.
    pub pool: bool,
    /// After ReLU only.
    pub dropout: Option<Dropout>,
}

/// A dropout at the end of a fused layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Its number in the network, which names its random numbers.
    pub layer: u16,
    /// The dropout share that the architecture fixes; None uses the hyperparameter.
    pub share: Option<f32>,
}

/// Total f32 of partial sums if the layer has many weights.
const SHARDS_LEN: usize = 1 << 20;
/// Small images whose inputs and gradients together are this many f32 (a part of the second-level cache) are summed over
/// together.
const GROUP_LEN: usize = 1 << 15;
/// A batch of fewer images is cut into about this many tasks.
const TASKS: usize = 16;

/// What the dense kernels' time is to be multiplied by to outweigh the work of lists (measured on a Zen 5 core).
const LISTING_PAYS: f64 = 0.6;
/// The same where the dense way is Winograd's.
const LISTING_PAYS_WINOGRAD: f64 = 0.37;

/// Convolution (+ bias) (+ ReLU (+ 2x2 max-pooling) (+ dropout)).
pub struct Conv {
    name: String,
    geometry: Geometry,
    after: ConvEpilogue,
    level: Level,
    weight: Parameter,
    bias: Option<Parameter>,
    output: Tensor,
    /// Index in its 2x2 window of the result that each pooled output selected.
    taken: Vec<u8>,
    /// The factor of the elements that dropout kept, in the last forward pass.
    scale: f32,
    packed: Aligned,
    turned: Aligned,
    /// The bias, or zeros, padded to whole blocks.
    padded_bias: Aligned,
    zeros: Aligned,
    shards: Aligned,
}

impl Conv {
    /// `weight` is OIHW, `bias` one number an output; the outputs hold `capacity` images.
    ///
    /// # Errors
    /// Returns an error if the parameters' shapes are not those of the geometry, or the epilogue does not fit, or the
    /// device runs out of memory.
    pub fn new(
        name: &str,
        geometry: Geometry,
        after: ConvEpilogue,
        weight: Var,
        bias: Option<Var>,
        capacity: usize,
    ) -> Result<Self> {
        let g = geometry;
        let expected = [g.outputs, g.inputs, g.kernel, g.kernel];
        if weight.dims() != expected {
            bail!(
                "{name}.weight has the shape {:?}, expected {expected:?}",
                weight.dims()
            );
        }
        if let Some(bias) = &bias
            && bias.dims() != [g.outputs]
        {
            bail!(
                "{name}.bias has the shape {:?}, expected [{}]",
                bias.dims(),
                g.outputs
            );
        }
        if !after.relu && (after.pool || after.dropout.is_some()) {
            bail!("{name}: pooling and dropout are fused after ReLU only");
        }
        let (height, width) = if after.pool {
            (g.out_height / 2, g.out_width / 2)
        } else {
            (g.out_height, g.out_width)
        };
        if height * width == 0 {
            bail!(
                "{name}: nothing is left of {}x{} after pooling",
                g.out_height,
                g.out_width
            );
        }
        let device = &weight.device().clone();
        let output = slices::zeros((capacity, height, width, g.outputs), device)?;
        let param = |suffix: &str, var: Var, decay: bool| -> Result<Parameter> {
            Ok(Parameter {
                name: format!("{name}.{suffix}"),
                grad: slices::zeros(var.shape(), device)?,
                var,
                decay,
            })
        };
        Ok(Conv {
            name: name.to_owned(),
            geometry,
            after,
            level: Level::best(),
            taken: vec![0; if after.pool { output.elem_count() } else { 0 }],
            output,
            scale: 1.0,
            weight: param("weight", weight, true)?,
            bias: bias.map(|bias| param("bias", bias, false)).transpose()?,
            packed: Aligned::default(),
            turned: Aligned::default(),
            padded_bias: Aligned::default(),
            zeros: Aligned::default(),
            shards: Aligned::default(),
        })
    }

    /// Computes with another SIMD level than the best one of this CPU.
    #[must_use]
    pub fn at_level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Rows, columns and channels of the layer's output.
    fn output_dims(&self) -> (usize, usize, usize) {
        let g = &self.geometry;
        if self.after.pool {
            (g.out_height / 2, g.out_width / 2, g.outputs)
        } else {
            (g.out_height, g.out_width, g.outputs)
        }
    }

    /// Zeros enough for every input and every output, padded to whole blocks.
    fn zeros_len(&self) -> usize {
        let g = &self.geometry;
        g.inputs
            .max(g.outputs)
            .next_multiple_of(2 * self.level.lanes())
    }

    fn mask(&self, pass: &Pass) -> Option<Mask> {
        let (train, dropout) = (pass.train?, self.after.dropout?);
        let share = dropout.share.unwrap_or(train.dropout);
        Mask::new(train.seed, dropout.layer, train.step, share)
    }
}

impl Layer for Conv {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, input: &Tensor, pass: &Pass) -> Result<()> {
        let g = self.geometry;
        let lanes = self.level.lanes();
        let mask = self.mask(pass);
        self.scale = mask.map_or(1.0, |mask| mask.scale());
        let winograd = winograd::pays(&g);
        let weight = read(&self.weight.var)?;
        if winograd {
            let packed = self.packed.reserve(winograd::packed_len(&g, lanes));
            winograd::pack(&g, &weight, lanes, pass.threads, packed);
        } else {
            let len = pack::packed_len(g.patch(), g.outputs, lanes);
            pack::forward(&g, &weight, lanes, self.packed.reserve(len));
        }
        self.zeros.reserve(self.zeros_len());
        let bias = self
            .padded_bias
            .reserve(g.outputs.next_multiple_of(2 * lanes));
        if let Some(param) = &self.bias {
            bias[..g.outputs].copy_from_slice(&read(&param.var)?);
        }
        let (height, width, channels) = self.output_dims();
        let line = width * channels;
        let x = read(input)?;
        let x = images(&x, pass.images, g.input_len())?;
        let (after, level) = (self.after, self.level);
        // Few images are cut into bands of rows, of which Winograd's tiles need pairs; many small ones come together.
        let pair = if winograd && !after.pool { 2 } else { 1 };
        let pairs = height.div_ceil(pair);
        let bands = TASKS.div_ceil(pass.images.max(1)).min(pairs);
        let group = match winograd {
            true => winograd::images(&g).clamp(1, pass.images.div_ceil(TASKS).max(1)),
            false => 1,
        };
        let (packed, bias, zeros, taken) = (
            &*self.packed,
            &*self.padded_bias,
            &*self.zeros,
            SharedSlice::new(&mut self.taken),
        );
        write([&self.output], |[out]| {
            let out = SharedSlice::new(out);
            pass.threads
                .run(pass.images.div_ceil(group) * bands, |task| {
                    let (image, band) = (task / bands * group, task % bands);
                    let images = group.min(pass.images - image);
                    let row = |band| (pair * geometry::cut(pairs, bands, band)).min(height);
                    let rows = row(band)..row(band + 1);
                    let first = (image * height + rows.start) * line;
                    let range = first..first + images * rows.len() * line;
                    level.run(Forward {
                        geometry: &g,
                        winograd,
                        images,
                        x: &x[image * g.input_len()..(image + images) * g.input_len()],
                        weights: packed,
                        bias,
                        zeros,
                        relu: after.relu,
                        pool: after.pool,
                        mask: mask.map(|mask| (mask, first)),
                        rows,
                        // SAFETY: each task writes different rows.
                        out: unsafe { out.range(range.clone()) },
                        taken: if after.pool {
                            // SAFETY: as above.
                            unsafe { taken.range(range) }
                        } else {
                            &mut []
                        },
                    });
                });
        })
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
        let g = self.geometry;
        let (after, level, scale) = (self.after, self.level, self.scale);
        let lanes = level.lanes();
        let (height, width, channels) = self.output_dims();
        let out_len = height * width * channels;
        let (x, grad, output) = (read(input)?, read(grad_output)?, read(&self.output)?);
        let x = images(&x, pass.images, g.input_len())?;
        let grad = images(&grad, pass.images, out_len)?;

        let winograd = winograd::pays(&g);
        let sparse = after.pool || after.relu && worth_listing(&g, lanes, winograd, grad, &output);
        if grad_input.is_some() {
            let weight = read(&self.weight.var)?;
            if sparse {
                let len = g.outputs * sparse::channel_len(&g, lanes);
                sparse::pack(&g, &weight, lanes, self.turned.reserve(len));
            } else if winograd {
                let len = winograd::packed_len(&winograd::turned(&g), lanes);
                let packed = self.turned.reserve(len);
                winograd::pack_turned(&g, &weight, lanes, pass.threads, packed);
            } else {
                let len = pack::packed_len(g.kernel * g.kernel * g.outputs, g.inputs, lanes);
                pack::turned(&g, &weight, lanes, self.turned.reserve(len));
            }
        }
        self.zeros.reserve(self.zeros_len());
        let line = g.outputs.next_multiple_of(lanes);
        let weights_len = if sparse {
            g.outputs * sparse::channel_len(&g, lanes)
        } else if winograd {
            winograd::sums_len(&g, lanes)
        } else {
            g.patch() * line
        };
        let shard_len = weights_len + line;
        let shards = shards(pass.images, shard_len);
        self.shards.reserve(shards * shard_len);

        // Lists are made image by image.
        let group = if sparse {
            1
        } else if winograd {
            winograd::images_summed(&g).max(1)
        } else {
            (GROUP_LEN / (g.input_len() + out_len)).max(1)
        };
        let (turned, zeros, taken) = (&*self.turned, &*self.zeros, &*self.taken);
        let bias = self.bias.is_some();
        let sums = SharedSlice::new(&mut self.shards);
        let work = |grad_input: Option<&mut [f32]>| {
            let grad_input = grad_input.map(SharedSlice::new);
            pass.threads.run(shards, |shard| {
                // SAFETY: each task writes a different shard.
                let sums = unsafe { sums.range(shard * shard_len..(shard + 1) * shard_len) };
                let begin = geometry::cut(pass.images, shards, shard);
                let end = geometry::cut(pass.images, shards, shard + 1);
                for first in (begin..end).step_by(group) {
                    let last = (first + group).min(end);
                    let outs = first * out_len..last * out_len;
                    let ins = first * g.input_len()..last * g.input_len();
                    let following = ins.end..ins.end + g.input_len();
                    let next = x.get(following).filter(|_| last < end).unwrap_or(&[]);
                    let x = &x[ins.clone()];
                    let arriving = Arriving {
                        grad: &grad[outs.clone()],
                        output: after.relu.then(|| &output[outs.clone()]),
                        taken: after.pool.then(|| &taken[outs]),
                        scale,
                    };
                    // SAFETY: each task writes different images.
                    let grad_input = grad_input.as_ref().map(|all| unsafe { all.range(ins) });
                    if sparse {
                        level.run(SparseBackward {
                            geometry: &g,
                            x,
                            next,
                            arriving,
                            weights: turned,
                            sums: &mut *sums,
                            fresh: first == begin,
                            grad_input,
                        });
                    } else {
                        level.run(Backward {
                            geometry: &g,
                            winograd,
                            images: last - first,
                            x,
                            arriving,
                            weights: turned,
                            zeros,
                            sums: &mut *sums,
                            fresh: first == begin,
                            bias,
                            grad_input,
                        });
                    }
                }
            });
        };
        match grad_input {
            Some(tensor) => write([tensor], |[all]| work(Some(all)))?,
            None => work(None),
        }
        let total = Total {
            geometry: &g,
            sums: &self.shards[..shards * shard_len],
            shards,
            sparse,
            winograd,
            lanes,
        };
        let weight_grad = &self.weight.grad;
        match &self.bias {
            Some(bias) => write([weight_grad, &bias.grad], |[weight, bias]| {
                total.weights(level, pass.threads, weight);
                total.bias(weights_len, bias);
            }),
            None => write([weight_grad], |[weight]| {
                total.weights(level, pass.threads, weight);
            }),
        }
    }

    fn spec(&self) -> LayerSpec<'_> {
        LayerSpec::Conv {
            geometry: self.geometry,
            after: self.after,
            bias: self.bias.is_some(),
        }
    }

    fn params(&self) -> Vec<&Parameter> {
        std::iter::once(&self.weight).chain(&self.bias).collect()
    }
}

/// The first `count` images of `len` numbers.
fn images(all: &[f32], count: usize, len: usize) -> Result<&[f32]> {
    match all.get(..count * len) {
        Some(images) => Ok(images),
        None => bail!("{} numbers are not {count} images of {len}", all.len()),
    }
}

/// How many partial sums of a weight gradient there are, to be added up at the end: enough for all threads to find work,
/// few enough that most hold several images, and a number that does not depend on how many threads there are, so that
/// neither do the results.
fn shards(images: usize, shard_len: usize) -> usize {
    let wanted = (images / 4).clamp(16, 32);
    let most = (SHARDS_LEN / shard_len).max(8);
    images.min(wanted).min(most)
}

/// Whether so little of the gradient is left behind ReLU (and dropout) that listing it pays, for convolutions without
/// pooling (with it, it always does). Judged by the first images.
fn worth_listing(g: &Geometry, lanes: usize, winograd: bool, grad: &[f32], output: &[f32]) -> bool {
    let len = grad.len().min(8192);
    let open = grad[..len]
        .iter()
        .zip(output)
        .filter(|&(&g, &o)| g != 0.0 && o != 0.0)
        .count();
    // What vectors waste on channels beyond the last differs: one goes along the inputs, the other along the outputs.
    let listed = open * g.outputs * g.inputs.next_multiple_of(lanes);
    let dense = len * g.inputs * g.outputs.next_multiple_of(lanes);
    let pays = if winograd {
        LISTING_PAYS_WINOGRAD
    } else {
        LISTING_PAYS
    };
    listed as f64 <= pays * dense as f64
}

/// The shards of the gradients, to be added up, always in the same order.
struct Total<'a> {
    geometry: &'a Geometry,
    sums: &'a [f32],
    shards: usize,
    sparse: bool,
    winograd: bool,
    lanes: usize,
}

impl Total<'_> {
    /// Writes the weight gradient in the parameter's order (OIHW).
    fn weights(&self, level: Level, threads: &Threads, weight: &mut [f32]) {
        let g = self.geometry;
        let places = g.kernel * g.kernel;
        if self.shards == 0 {
            weight.fill(0.0);
            return;
        }
        let shard_len = self.sums.len() / self.shards;
        let total = |begin: usize, len: usize, out: &mut [f32]| {
            level.run(AddUp {
                parts: self.sums[begin..]
                    .chunks(shard_len)
                    .map(|part| &part[..len.min(part.len())]),
                out: &mut out[..len],
            });
        };
        if self.sparse {
            let line = g.inputs.next_multiple_of(self.lanes);
            threads.chunks(weight, g.inputs * places, |output, weight| {
                let mut sums = slices::scratch(places * line);
                total(output * places * line, places * line, &mut sums);
                for (input, weight) in weight.chunks_exact_mut(places).enumerate() {
                    for (place, weight) in weight.iter_mut().enumerate() {
                        *weight = sums[place * line + input];
                    }
                }
            });
        } else {
            // A task for each input channel: it writes that channel's numbers of every output.
            let line = g.outputs.next_multiple_of(self.lanes);
            let weight = SharedSlice::new(weight);
            let summed = if self.winograd {
                winograd::PLACES
            } else {
                places
            };
            threads.run(g.inputs, |input| {
                let mut sums = slices::scratch(summed * line);
                for (place, sums) in sums.chunks_exact_mut(line).enumerate() {
                    total((place * g.inputs + input) * line, line, sums);
                }
                if self.winograd {
                    winograd::back(&mut sums, line);
                }
                for output in 0..g.outputs {
                    let begin = (output * g.inputs + input) * places;
                    // SAFETY: no other task has this input.
                    let weight = unsafe { weight.range(begin..begin + places) };
                    for (place, weight) in weight.iter_mut().enumerate() {
                        *weight = sums[place * line + output];
                    }
                }
            });
        }
    }

    /// Writes the bias gradient, which stands behind `begin` f32 in each shard.
    fn bias(&self, begin: usize, bias: &mut [f32]) {
        bias.fill(0.0);
        for part in self.sums.chunks(self.sums.len() / self.shards.max(1)) {
            for (bias, part) in bias.iter_mut().zip(&part[begin..]) {
                *bias += part;
            }
        }
    }
}

/// The sum of the parts, the first first.
struct AddUp<'a, P: Iterator<Item = &'a [f32]>> {
    parts: P,
    out: &'a mut [f32],
}

impl<'a, P: Iterator<Item = &'a [f32]>> Kernel for AddUp<'a, P> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        if let Some(first) = self.parts.next() {
            self.out.copy_from_slice(first);
        }
        for part in self.parts {
            for (out, part) in self.out.iter_mut().zip(part) {
                *out += part;
            }
        }
    }
}
