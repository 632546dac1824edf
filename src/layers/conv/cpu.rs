//! Convolution, and what usually follows it, in one layer: bias, ReLU, 2x2 max-pooling, dropout.

#[cfg(test)]
mod figures;
#[cfg(test)]
mod tests;

use super::algorithm::Algorithm;
use super::backward::{Arriving, Backward};
use super::forward::Forward;
use super::geometry::{self, Geometry};
use super::pooled::{self, PooledBackward};
use super::sparse::SparseBackward;
use super::total::Total;
use super::winograd::Tile;
use super::{pack, winograd};
use crate::hardware::simd::Level;
use crate::hardware::threads::SharedSlice;
use crate::layers::cpu::{Layer, Parameter, Pass, images as first_images};
use crate::layers::dropout::{Dropout, Mask};
use crate::layers::gpu::{Activation, BackwardLaunches, LaunchBuilder};
use crate::layers::slices::{self, Aligned, read, write};
use candle_core::{Result, Tensor, bail};
use std::cell::RefCell;

/// What follows the convolution within the layer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ConvEpilogue {
    pub relu: bool,
    /// 2x2 max-pooling; an odd last row or column is left out. After the ReLU, if there is one.
    pub pool: bool,
    /// After ReLU only.
    pub dropout: Option<Dropout>,
}

/// Total f32 of partial sums if the layer has many weights.
const SHARDS_LEN: usize = 1 << 20;
/// A batch of fewer images is cut into about this many tasks.
const TASKS: usize = 16;

/// What the dense kernels' time is to be multiplied by to outweigh the work of lists (measured on a Zen 5 core).
const LISTING_PAYS: f64 = 0.6;
/// The same where the dense way is Winograd's.
const LISTING_PAYS_WINOGRAD: f64 = 0.37;

/// Convolution (+ bias) (+ ReLU) (+ 2x2 max-pooling) (+ dropout after a ReLU).
pub struct Conv {
    name: String,
    geometry: Geometry,
    after: ConvEpilogue,
    level: Level,
    /// The size of Winograd's tiles, if it is not chosen by the batch.
    tile: Option<Tile>,
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
}

thread_local! {
    /// Partial sums of the gradients of the layer whose backward pass this thread runs.
    static SHARDS: RefCell<Aligned> = RefCell::new(Aligned::default());
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
        weight: Parameter,
        bias: Option<Parameter>,
        capacity: usize,
    ) -> Result<Self> {
        let g = geometry;
        let expected = [g.outputs, g.inputs, g.kernel, g.kernel];
        weight.expect_shape(&expected)?;
        if let Some(bias) = &bias {
            bias.expect_shape(&[g.outputs])?;
        }
        if !after.relu && after.dropout.is_some() {
            bail!("{name}: dropout is fused after ReLU only");
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
        let output = slices::zeros((capacity, height, width, g.outputs), weight.var.device())?;
        Ok(Conv {
            name: name.to_owned(),
            geometry,
            after,
            level: Level::best(),
            tile: None,
            taken: vec![0; if after.pool { output.elem_count() } else { 0 }],
            output,
            scale: 1.0,
            weight,
            bias,
            packed: Aligned::default(),
            turned: Aligned::default(),
            padded_bias: Aligned::default(),
            zeros: Aligned::default(),
        })
    }

    /// Computes with another SIMD level than the best one of this CPU.
    #[must_use]
    pub fn at_level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// Uses tiles of this size wherever it uses Winograd's algorithm.
    #[cfg(test)]
    #[must_use]
    fn on_tiles(mut self, tile: Tile) -> Self {
        self.tile = Some(tile);
        self
    }

    /// The size of Winograd's tiles for a batch of so many images; None for the direct convolution.
    fn winograd(&self, images: usize) -> Option<Tile> {
        winograd::tile(&self.geometry, images).map(|tile| self.tile.unwrap_or(tile))
    }

    /// The algorithm of the backward pass for a gradient like this of a batch of so many images.
    fn algorithm(&self, images: usize, grad: &[f32], output: &[f32]) -> Algorithm {
        let (g, after) = (&self.geometry, self.after);
        let winograd = self.winograd(images);
        let sparse = || worth_listing(g, self.level.lanes(), winograd.is_some(), grad, output);
        match winograd {
            _ if after.pool && !after.relu && pooled::fits(g) => Algorithm::Pooled,
            _ if after.pool || after.relu && sparse() => Algorithm::Sparse,
            Some(tile) => Algorithm::Winograd(tile),
            None => Algorithm::Direct,
        }
    }

    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    pub fn after(&self) -> ConvEpilogue {
        self.after
    }

    pub fn has_bias(&self) -> bool {
        self.bias.is_some()
    }

    /// Whether the weight has a gradient.
    pub fn trains_weight(&self) -> bool {
        self.weight.trained
    }

    /// Convolves one image as the last forward pass did, of so many images, without what follows. `out` is
    /// `[out_height, out_width, outputs]`.
    pub fn recompute(&self, images: usize, x: &[f32], out: &mut [f32]) {
        let g = &self.geometry;
        self.level.run(Forward {
            geometry: g,
            winograd: self.winograd(images),
            images: 1,
            x,
            weights: &self.packed,
            bias: &self.padded_bias,
            zeros: &self.zeros,
            relu: false,
            pool: false,
            mask: None,
            rows: 0..g.out_height,
            out,
            taken: &mut [],
        });
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
        self.after.dropout?.mask(pass)
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
        let winograd = self.winograd(pass.images);
        let weight = read(&self.weight.var)?;
        if let Some(tile) = winograd {
            let packed = self.packed.reserve(winograd::packed_len(&g, tile, lanes));
            winograd::pack(&g, tile, &weight, lanes, pass.threads, packed);
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
        let x = first_images(&x, pass.images, g.input_len())?;
        let (after, level) = (self.after, self.level);
        // Few images are cut into bands of rows, of which each row of tiles needs all; many small ones come together.
        let rows_of_tile = winograd.map_or(1, |tile| match after.pool {
            true => tile.side() / 2,
            false => tile.side(),
        });
        let rows_of_tiles = height.div_ceil(rows_of_tile);
        let bands = TASKS.div_ceil(pass.images.max(1)).min(rows_of_tiles);
        let group = match winograd {
            Some(tile) => winograd::images(&g, tile).clamp(1, pass.images.div_ceil(TASKS).max(1)),
            None => 1,
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
                    let row = |band| {
                        (rows_of_tile * geometry::cut(rows_of_tiles, bands, band)).min(height)
                    };
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
        let x = first_images(&x, pass.images, g.input_len())?;
        let grad = first_images(&grad, pass.images, out_len)?;

        let algorithm = self.algorithm(pass.images, grad, &output);
        if grad_input.is_some() {
            let weight = read(&self.weight.var)?;
            algorithm.pack(&g, &weight, lanes, pass.threads, &mut self.turned);
        }
        self.zeros.reserve(self.zeros_len());
        let weights_len = algorithm.sums_len(&g, lanes);
        let shard_len = weights_len + g.outputs.next_multiple_of(lanes);
        let shards = shards(pass.images, shard_len);
        // After an error the next layer allocates them anew.
        let mut parts = SHARDS.take();
        parts.reserve(shards * shard_len);
        let group = algorithm.images(&g, lanes);
        let (turned, zeros, taken) = (&*self.turned, &*self.zeros, &*self.taken);
        let bias = self.bias.is_some();
        let sums = SharedSlice::new(&mut parts);
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
                    let (sums, fresh) = (&mut *sums, first == begin);
                    match algorithm {
                        Algorithm::Sparse => level.run(SparseBackward {
                            geometry: &g,
                            x,
                            next,
                            arriving,
                            weights: turned,
                            sums,
                            fresh,
                            grad_input,
                        }),
                        Algorithm::Pooled => level.run(PooledBackward {
                            geometry: &g,
                            x,
                            grad: arriving.grad,
                            taken: arriving.taken.unwrap_or_default(),
                            weights: turned,
                            sums,
                            fresh,
                            grad_input,
                        }),
                        Algorithm::Direct | Algorithm::Winograd(_) => level.run(Backward {
                            geometry: &g,
                            winograd: algorithm.tile(),
                            images: last - first,
                            x,
                            arriving,
                            weights: turned,
                            zeros,
                            sums,
                            fresh,
                            bias,
                            grad_input,
                        }),
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
            sums: &parts[..shards * shard_len],
            shards,
            algorithm,
            lanes,
        };
        if self.weight.trained {
            write([&self.weight.grad], |[weight]| {
                total.weights(level, pass.threads, weight);
            })?;
        }
        if let Some(bias) = &self.bias {
            write([&bias.grad], |[bias]| total.bias(weights_len, bias))?;
        }
        SHARDS.set(parts);
        Ok(())
    }

    fn schedule(
        &self,
        builder: &mut LaunchBuilder,
        input: &Activation,
    ) -> (Activation, BackwardLaunches) {
        super::gpu::schedule(self, builder, input)
    }

    fn rectifies(&self) -> bool {
        self.after.relu
    }

    fn params(&self) -> Vec<&Parameter> {
        std::iter::once(&self.weight).chain(&self.bias).collect()
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
