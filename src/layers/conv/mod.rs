//! Convolution, and what usually follows it, in one layer: bias, ReLU, 2x2 max-pooling, dropout.
//!
//! The kernels are direct convolutions on NHWC: under one row of the kernel, (column, channel) is one run of memory, so
//! nothing is unfolded. `tile.rs` has the inner loops; `forward.rs` and `backward.rs` what is around them; `pack.rs` the
//! order of the weights.

mod backward;
#[cfg(test)]
mod figures;
mod forward;
mod geometry;
mod pack;
#[cfg(test)]
mod tests;
mod tile;

pub use geometry::Geometry;

use super::dropout::Mask;
use super::slices::{self, Aligned, read, write};
use super::{Layer, Param, Pass};
use crate::device::simd::{Kernel, Level, Simd};
use crate::device::threads::{Parts, Threads};
use backward::{Arriving, Backward};
use candle_core::{Result, Tensor, Var, bail};
use forward::Forward;

/// What follows the convolution within the layer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct After {
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
    /// The share that the architecture pins; None follows the live one.
    pub share: Option<f32>,
}

/// At most this many partial sums of a weight gradient, added up at the end: enough for all threads to find work, and a
/// number that does not depend on how many there are, so that neither do the results.
const MOST_SHARDS: usize = 32;
/// f32 of partial sums in all, where the weights are many.
const SHARDS_LEN: usize = 1 << 20;
/// A batch of fewer images is cut into about this many tasks.
const TASKS: usize = 32;

/// Convolution (+ bias) (+ ReLU (+ 2x2 max-pooling) (+ dropout)).
pub struct Conv {
    name: String,
    geometry: Geometry,
    after: After,
    level: Level,
    weight: Param,
    bias: Option<Param>,
    output: Tensor,
    /// Which of the four each pooled output took.
    taken: Vec<u8>,
    /// What dropout multiplied the kept by, in the last forward pass.
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
    /// When the parameters' shapes are not those of the geometry, or what follows cannot; those of the device.
    pub fn new(
        name: &str,
        geometry: Geometry,
        after: After,
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
        let param = |suffix: &str, var: Var, decay: bool| -> Result<Param> {
            Ok(Param {
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

    /// With the instructions of another level than the machine's best.
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
        let packed = self
            .packed
            .reserve(pack::packed_len(g.patch(), g.outputs, lanes));
        pack::forward(&g, &read(&self.weight.var)?, lanes, packed);
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
        // Few images are cut into bands of rows.
        let bands = TASKS.div_ceil(pass.images.max(1)).min(height);
        let (packed, bias, taken) = (
            &*self.packed,
            &*self.padded_bias,
            Parts::new(&mut self.taken),
        );
        let (after, level) = (self.after, self.level);
        write([&self.output], |[out]| {
            let out = Parts::new(out);
            pass.threads.run(pass.images * bands, |task| {
                let (image, band) = (task / bands, task % bands);
                let rows =
                    geometry::cut(height, bands, band)..geometry::cut(height, bands, band + 1);
                let first = (image * height + rows.start) * line;
                let range = first..first + rows.len() * line;
                level.run(Forward {
                    geometry: &g,
                    x: &x[image * g.input_len()..(image + 1) * g.input_len()],
                    weights: packed,
                    bias,
                    relu: after.relu,
                    pool: after.pool,
                    mask: mask.map(|mask| (mask, first)),
                    rows,
                    // SAFETY: every task has rows of its own.
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
        let lanes = self.level.lanes();
        if grad_input.is_some() {
            let len = pack::packed_len(g.kernel * g.kernel * g.outputs, g.inputs, lanes);
            let turned = self.turned.reserve(len);
            pack::turned(&g, &read(&self.weight.var)?, lanes, turned);
        }
        self.zeros.reserve(g.inputs.next_multiple_of(2 * lanes));
        let line = g.outputs.next_multiple_of(lanes);
        let shard_len = (g.patch() + 1) * line;
        let shards = pass
            .images
            .min((SHARDS_LEN / shard_len).clamp(4, MOST_SHARDS));
        self.shards.reserve(shards * shard_len);

        let (height, width, channels) = self.output_dims();
        let out_len = height * width * channels;
        let (x, grad, output) = (read(input)?, read(grad_output)?, read(&self.output)?);
        let x = images(&x, pass.images, g.input_len())?;
        let grad = images(&grad, pass.images, out_len)?;
        let (after, level, scale) = (self.after, self.level, self.scale);
        let (turned, zeros, taken) = (&*self.turned, &*self.zeros, &*self.taken);
        let sums = Parts::new(&mut self.shards);
        let work = |grad_input: Option<&mut [f32]>| {
            let grad_input = grad_input.map(Parts::new);
            pass.threads.run(shards, |shard| {
                // SAFETY: every task has a shard of its own.
                let sums = unsafe { sums.range(shard * shard_len..(shard + 1) * shard_len) };
                let begin = geometry::cut(pass.images, shards, shard);
                let end = geometry::cut(pass.images, shards, shard + 1);
                for image in begin..end {
                    let outs = image * out_len..(image + 1) * out_len;
                    let ins = image * g.input_len()..(image + 1) * g.input_len();
                    level.run(Backward {
                        geometry: &g,
                        x: &x[ins.clone()],
                        arriving: Arriving {
                            grad: &grad[outs.clone()],
                            output: after.relu.then(|| &output[outs.clone()]),
                            taken: after.pool.then(|| &taken[outs]),
                            scale,
                        },
                        weights: turned,
                        zeros,
                        sums: &mut *sums,
                        fresh: image == begin,
                        // SAFETY: every image belongs to one task.
                        grad_input: grad_input.as_ref().map(|all| unsafe { all.range(ins) }),
                    });
                }
            });
        };
        match grad_input {
            Some(tensor) => write([tensor], |[all]| work(Some(all)))?,
            None => work(None),
        }
        let sums = &mut self.shards[..shards * shard_len];
        let weight_grad = &self.weight.grad;
        match &self.bias {
            Some(bias) => write([weight_grad, &bias.grad], |[weight, bias]| {
                add_up(&g, level, pass.threads, sums, shards, weight, Some(bias));
            }),
            None => write([weight_grad], |[weight]| {
                add_up(&g, level, pass.threads, sums, shards, weight, None);
            }),
        }
    }

    fn params(&self) -> Vec<&Param> {
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

/// Adds the shards up, always in the same order, and writes the gradients in the parameters' order (OIHW).
fn add_up(
    g: &Geometry,
    level: Level,
    threads: &Threads,
    sums: &[f32],
    shards: usize,
    weight: &mut [f32],
    bias: Option<&mut [f32]>,
) {
    let line = g.outputs.next_multiple_of(level.lanes());
    let shard_len = (g.patch() + 1) * line;
    let places = g.kernel * g.kernel;
    if shards == 0 {
        weight.fill(0.0);
        if let Some(bias) = bias {
            bias.fill(0.0);
        }
        return;
    }
    let total = |number: usize, out: &mut [f32]| {
        level.run(Total {
            sums: &sums[number * line..],
            shard_len,
            shards,
            out,
        });
    };
    // Each task writes every `places`-th number of some input channels: no two write the same.
    let weight = Parts::new(weight);
    threads.run(g.inputs, |input| {
        let mut out = slices::scratch(line);
        for place in 0..places {
            total(place * g.inputs + input, &mut out);
            for (o, &sum) in out[..g.outputs].iter().enumerate() {
                let at = (o * g.inputs + input) * places + place;
                // SAFETY: the index names this output, input and place alone.
                unsafe { weight.range(at..at + 1)[0] = sum };
            }
        }
    });
    if let Some(bias) = bias {
        let mut out = slices::scratch(line);
        total(g.patch(), &mut out);
        bias.copy_from_slice(&out[..g.outputs]);
    }
}

/// The sum of one line over all shards.
struct Total<'a> {
    /// From the line in the first shard on.
    sums: &'a [f32],
    shard_len: usize,
    shards: usize,
    out: &'a mut [f32],
}

impl Kernel for Total<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (first, _) = self.sums.split_at(self.out.len());
        self.out.copy_from_slice(first);
        for shard in 1..self.shards {
            let begin = shard * self.shard_len;
            let part = &self.sums[begin..begin + self.out.len()];
            for (out, part) in self.out.iter_mut().zip(part) {
                *out += part;
            }
        }
    }
}
