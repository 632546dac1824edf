//! Batch normalisation (Ioffe, Szegedy: "Batch Normalization", ICML 2015) over each channel, and what usually follows
//! it: the sum with a residual block's shortcut, ReLU, 2x2 max-pooling; or a smooth activation. All of it is bound by
//! memory, so the forward pass reads its input twice, the backward pass reads input, output and gradient twice, and
//! nothing else.

use super::NormOp;
use super::pooled::{Largest, Size, Spread};
use super::rows::{Apply, Moments, Slope, SlopeInPlace, Slopes};
use crate::domain::arch::Node;
use crate::hardware::simd::Level;
use crate::hardware::threads::{SharedSlice, Threads};
use crate::layers::activation::Function;
use crate::layers::cpu::{CpuPlace, Layer, Parameter, Pass, hwc, images};
use crate::layers::gpu::{Activation, BackwardLaunches, LaunchBuilder};
use crate::layers::slices::{self, Aligned, read, scratch, write};
use candle_core::{Result, Tensor, bail};
use std::ops::Range;

/// At most this many partial sums: a number that does not depend on the threads, so that neither do the results.
const MAX_SHARDS: usize = 32;
/// Pixels that are summed in f32 before they are added in f64.
const ROWS: usize = 256;

/// The parameters and running statistics of a norm layer, each `[channels]`.
pub struct NormTensors {
    pub weight: Option<Parameter>,
    pub bias: Parameter,
    /// Written during training.
    pub running_mean: Tensor,
    pub running_var: Tensor,
}

/// What follows the normalisation within the layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NormEpilogue {
    pub relu: bool,
    /// 2x2 max-pooling; an odd last row or column is left out. After ReLU only, and without a shortcut.
    pub pool: bool,
    /// A smooth activation. Without ReLU and without a shortcut.
    pub smooth: Option<Function>,
}

/// Batch normalisation (+ shortcut) (+ ReLU (+ 2x2 max-pooling)), or batch normalisation + smooth activation.
pub struct Norm {
    name: String,
    channels: usize,
    size: Size,
    op: NormOp,
    after: NormEpilogue,
    level: Level,
    weight: Option<Parameter>,
    bias: Parameter,
    running_mean: Tensor,
    running_var: Tensor,
    output: Tensor,
    /// Of the last training pass.
    mean: Vec<f32>,
    /// 1 / sqrt(variance + epsilon), of the last training pass.
    inverse: Vec<f32>,
    /// If it pools: the input that each output selected, and its index in the window.
    chosen: Aligned,
    place: Aligned,
    /// If a smooth activation follows: it was applied to input * scale + shift in the last pass.
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Norm {
    /// The norm of a node, over its variables.
    ///
    /// # Errors
    /// Returns an error if a variable is missing or has another shape, or the device runs out of memory.
    pub fn of(place: &CpuPlace, node: &Node, op: NormOp, after: NormEpilogue) -> Result<Self> {
        let tensors = NormTensors {
            weight: place.optional_parameter(node, "weight")?,
            bias: place.parameter(node, "bias")?,
            running_mean: place.buffer(node, "running_mean")?,
            running_var: place.buffer(node, "running_var")?,
        };
        let capacity = place.capacity();
        Norm::new(&node.name, hwc(node.input), op, after, tensors, capacity)
    }

    /// Height, width and channels of the input.
    pub fn input(&self) -> (usize, usize, usize) {
        (self.size.height, self.size.width, self.channels)
    }

    pub fn op(&self) -> NormOp {
        self.op
    }

    pub fn after(&self) -> NormEpilogue {
        self.after
    }

    /// `input` is (height, width, channels); the output holds `capacity` images.
    ///
    /// # Errors
    /// Returns an error if a parameter's shape is not `[channels]`, or the device runs out of memory.
    pub fn new(
        name: &str,
        input: (usize, usize, usize),
        op: NormOp,
        after: NormEpilogue,
        tensors: NormTensors,
        capacity: usize,
    ) -> Result<Self> {
        let (height, width, channels) = input;
        let NormTensors {
            weight,
            bias,
            running_mean,
            running_var,
        } = tensors;
        if let Some(weight) = &weight {
            weight.expect_shape(&[channels])?;
        }
        bias.expect_shape(&[channels])?;
        for (suffix, dims) in [
            ("running_mean", running_mean.dims()),
            ("running_var", running_var.dims()),
        ] {
            if dims != [channels] {
                bail!("{name}.{suffix} has the shape {dims:?}, expected [{channels}]");
            }
        }
        if after.pool && !(after.relu && height.min(width) > 1) {
            bail!("{name}: pooling is fused after ReLU only, for at least 2x2 pixels");
        }
        if after.smooth.is_some() && after.relu {
            bail!("{name}: a smooth activation is fused without ReLU only");
        }
        let (rows, columns) = if after.pool {
            (height / 2, width / 2)
        } else {
            (height, width)
        };
        Ok(Norm {
            name: name.to_owned(),
            channels,
            size: Size { height, width },
            op,
            after,
            level: Level::best(),
            output: slices::zeros((capacity, rows, columns, channels), bias.var.device())?,
            weight,
            bias,
            running_mean,
            running_var,
            mean: vec![0.0; channels],
            inverse: vec![1.0; channels],
            chosen: Aligned::default(),
            place: Aligned::default(),
            scale: Vec::new(),
            shift: Vec::new(),
        })
    }

    /// Computes with another SIMD level than the best one of this CPU.
    #[must_use]
    pub fn at_level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// Computes [`Layer::forward`] with `skip` (of the output's shape) added before ReLU.
    ///
    /// # Errors
    /// Returns an error if the device runs out of memory.
    pub fn forward_with(
        &mut self,
        input: &Tensor,
        skip: Option<&Tensor>,
        pass: &Pass,
    ) -> Result<()> {
        let channels = self.channels;
        let rows = pass.images * self.size.height * self.size.width;
        let len = rows * channels;
        let x = read(input)?;
        let x = images(&x, rows, channels)?;
        let (weight, bias) = (self.weights()?, read(&self.bias.var)?);
        let (momentum, epsilon) = (self.op.momentum, self.op.epsilon);
        let (mut scale, mut shift) = (vec![0.0; channels], vec![0.0; channels]);
        if pass.train.is_some() {
            let (mean, var) = self.statistics(x, rows, pass.threads);
            for c in 0..channels {
                self.mean[c] = mean[c] as f32;
                self.inverse[c] = (1.0 / (var[c] + epsilon).sqrt()) as f32;
            }
            // The running variance is that of the population (divided by rows - 1), as PyTorch has it.
            let unbiased = rows as f64 / (rows as f64 - 1.0).max(1.0);
            write([&self.running_mean, &self.running_var], |[means, vars]| {
                for c in 0..channels {
                    let follow = |old: f32, new: f64| {
                        ((1.0 - momentum) * f64::from(old) + momentum * new) as f32
                    };
                    means[c] = follow(means[c], mean[c]);
                    vars[c] = follow(vars[c], var[c] * unbiased);
                }
            })?;
            for c in 0..channels {
                scale[c] = weight[c] * self.inverse[c];
                shift[c] = bias[c] - self.mean[c] * scale[c];
            }
        } else {
            let (means, vars) = (read(&self.running_mean)?, read(&self.running_var)?);
            for c in 0..channels {
                scale[c] = weight[c] / (vars[c] + epsilon as f32).sqrt();
                shift[c] = bias[c] - means[c] * scale[c];
            }
        }
        let (level, size, relu) = (self.level, self.size, self.after.relu);
        if self.after.pool {
            if skip.is_some() {
                bail!("{}: a norm that pools adds no shortcut", self.name);
            }
            let (image, pooled) = (len / pass.images, size.pooled() * channels);
            let taken = pass.train.is_some().then(|| {
                let len = pass.images * pooled;
                let chosen = SharedSlice::new(self.chosen.reserve(len));
                (chosen, SharedSlice::new(self.place.reserve(len)))
            });
            return write([&self.output], |[out]| {
                let out = &mut out[..pass.images * pooled];
                pass.threads.chunks(out, pooled, |i, out| {
                    let range = i * pooled..(i + 1) * pooled;
                    level.run(Largest {
                        size,
                        x: &x[i * image..(i + 1) * image],
                        scale: &scale,
                        shift: &shift,
                        out,
                        // SAFETY: each task writes different images.
                        taken: taken.as_ref().map(|(chosen, place)| unsafe {
                            (chosen.range(range.clone()), place.range(range.clone()))
                        }),
                    });
                });
            });
        }
        if self.after.smooth.is_some() {
            if skip.is_some() {
                bail!(
                    "{}: a norm with a smooth activation adds no shortcut",
                    self.name
                );
            }
            (self.scale, self.shift) = (scale, shift);
            return self.recompute(input, pass);
        }
        let skip = skip.map(read).transpose()?;
        write([&self.output], |[out]| {
            let out = SharedSlice::new(&mut out[..len]);
            let shards = shards(rows);
            pass.threads.run(shards, |shard| {
                let range =
                    cut(rows, shards, shard) * channels..cut(rows, shards, shard + 1) * channels;
                level.run(Apply {
                    x: &x[range.clone()],
                    skip: skip.as_ref().map(|skip| &skip[range.clone()]),
                    scale: &scale,
                    shift: &shift,
                    relu,
                    // SAFETY: each shard writes different rows.
                    out: unsafe { out.range(range) },
                });
            });
        })
    }

    /// Computes [`Layer::backward`] and writes the gradient of `skip` to `grad_skip`.
    ///
    /// # Errors
    /// Returns an error if the device runs out of memory.
    pub fn backward_with(
        &mut self,
        input: &Tensor,
        grad_output: &Tensor,
        grad_input: Option<&Tensor>,
        grad_skip: Option<&Tensor>,
        pass: &Pass,
    ) -> Result<()> {
        let channels = self.channels;
        let rows = pass.images * self.size.height * self.size.width;
        let len = rows * channels;
        let (x, grad, output) = (read(input)?, read(grad_output)?, read(&self.output)?);
        let x = images(&x, rows, channels)?;
        // Only the results that pooling selected have a gradient.
        let (from, passing) = if self.after.pool {
            let passing = pass.images * self.size.pooled();
            (images(&self.chosen, passing, channels)?, passing)
        } else {
            (x, rows)
        };
        let grad = images(&grad, passing, channels)?;
        let output = self.after.relu.then(|| &output[..grad.len()]);
        let count = shards(passing);
        let mut sums = vec![0.0f64; count * 2 * channels];
        let all_sums = SharedSlice::new(&mut sums);
        let (level, mean) = (self.level, &self.mean);
        let smooth = self.after.smooth;
        let coefficients = (&self.scale[..], &self.shift[..]);
        let work = |masked: Option<&mut [f32]>| {
            let masked = masked.map(|all| SharedSlice::new(&mut all[..grad.len()]));
            pass.threads.run(count, |shard| {
                // SAFETY: each shard writes different sums and rows.
                let sums =
                    unsafe { all_sums.range(shard * 2 * channels..(shard + 1) * 2 * channels) };
                let mut part = vec![0.0f32; 2 * channels];
                let mut before_activation = scratch(smooth.map_or(0, |_| ROWS * channels));
                for range in blocks(passing, count, shard, channels) {
                    let grad = match smooth {
                        Some(function) => {
                            let out = &mut before_activation[..range.len()];
                            let (x, grad) = (&x[range.clone()], &grad[range.clone()]);
                            function.scaled_gradients(level, x, coefficients, grad, out);
                            &*out
                        }
                        None => &grad[range.clone()],
                    };
                    level.run(Slopes {
                        x: &from[range.clone()],
                        grad,
                        output: output.map(|output| &output[range.clone()]),
                        mean,
                        sums: &mut part,
                        // SAFETY: as above.
                        masked: masked.as_ref().map(|all| unsafe { all.range(range) }),
                    });
                    for (sum, part) in sums.iter_mut().zip(&*part) {
                        *sum += f64::from(*part);
                    }
                }
            });
        };
        match grad_skip {
            Some(tensor) => write([tensor], |[all]| work(Some(all)))?,
            None => work(None),
        }
        let mut totals = vec![0.0f64; 2 * channels];
        for shard in sums.chunks_exact(2 * channels) {
            for (total, sum) in totals.iter_mut().zip(shard) {
                *total += sum;
            }
        }
        let (grads, products) = totals.split_at(channels);
        let weight = self.weights()?;
        write([&self.bias.grad], |[bias]| {
            for c in 0..channels {
                bias[c] = grads[c] as f32;
            }
        })?;
        if let Some(weight) = &self.weight {
            write([&weight.grad], |[weight]| {
                for c in 0..channels {
                    weight[c] = (products[c] * f64::from(self.inverse[c])) as f32;
                }
            })?;
        }
        let Some(grad_input) = grad_input else {
            return Ok(());
        };
        // With u = (x - mean) * inverse and m rows:
        // dx = weight * inverse * (g - sum(g) / m - u * sum(g * u) / m) = a * g + b * x + c, channel by channel.
        let (mut a, mut b, mut c) = (
            vec![0.0; channels],
            vec![0.0; channels],
            vec![0.0; channels],
        );
        for i in 0..channels {
            let (inverse, m) = (f64::from(self.inverse[i]), rows as f64);
            let scale = f64::from(weight[i]) * inverse;
            let slope = -scale * inverse * inverse * products[i] / m;
            a[i] = scale as f32;
            b[i] = slope as f32;
            c[i] = (-scale * grads[i] / m - slope * f64::from(mean[i])) as f32;
        }
        if let (true, Some(output)) = (self.after.pool, output) {
            let (level, size, place) = (self.level, self.size, &*self.place);
            let (image, pooled) = (len / pass.images, size.pooled() * channels);
            return write([grad_input], |[out]| {
                pass.threads.chunks(&mut out[..len], image, |i, out| {
                    let range = i * pooled..(i + 1) * pooled;
                    level.run(Spread {
                        size,
                        x: &x[i * image..(i + 1) * image],
                        grad: &grad[range.clone()],
                        output: &output[range.clone()],
                        place: &place[range],
                        a: &a,
                        b: &b,
                        c: &c,
                        out,
                    });
                });
            });
        }
        // The first pass has applied the mask already.
        let masked = grad_skip.map(read).transpose()?;
        let (grad, output) = match &masked {
            Some(masked) => (&masked[..len], None),
            None => (grad, output),
        };
        write([grad_input], |[out]| {
            let out = SharedSlice::new(&mut out[..len]);
            pass.threads.run(count, |shard| {
                if let Some(function) = smooth {
                    for range in blocks(rows, count, shard, channels) {
                        // SAFETY: each shard writes different rows.
                        let out = unsafe { out.range(range.clone()) };
                        let (x, grad) = (&x[range.clone()], &grad[range]);
                        function.scaled_gradients(level, x, coefficients, grad, out);
                        level.run(SlopeInPlace {
                            x,
                            a: &a,
                            b: &b,
                            c: &c,
                            out,
                        });
                    }
                    return;
                }
                let range =
                    cut(rows, count, shard) * channels..cut(rows, count, shard + 1) * channels;
                level.run(Slope {
                    x: &x[range.clone()],
                    grad: &grad[range.clone()],
                    output: output.map(|output| &output[range.clone()]),
                    a: &a,
                    b: &b,
                    c: &c,
                    // SAFETY: each shard writes different rows.
                    out: unsafe { out.range(range) },
                });
            });
        })
    }

    /// The weight of each channel: ones where it has none.
    fn weights(&self) -> Result<Vec<f32>> {
        Ok(match &self.weight {
            Some(weight) => read(&weight.var)?.to_vec(),
            None => vec![1.0; self.channels],
        })
    }

    /// Mean and (biased) variance of each channel.
    fn statistics(&self, x: &[f32], rows: usize, threads: &Threads) -> (Vec<f64>, Vec<f64>) {
        let channels = self.channels;
        let count = shards(rows);
        let mut sums = vec![0.0f64; count * 2 * channels];
        let all_sums = SharedSlice::new(&mut sums);
        let level = self.level;
        // Sums of differences from the first pixel, which is about as far from the mean as any: no digits cancel.
        let origin = &x[..channels];
        threads.run(count, |shard| {
            // SAFETY: each shard writes different sums.
            let sums = unsafe { all_sums.range(shard * 2 * channels..(shard + 1) * 2 * channels) };
            let mut part = vec![0.0f32; 2 * channels];
            for range in blocks(rows, count, shard, channels) {
                level.run(Moments {
                    x: &x[range],
                    origin,
                    sums: &mut part,
                });
                for (sum, part) in sums.iter_mut().zip(&*part) {
                    *sum += f64::from(*part);
                }
            }
        });
        let mut totals = vec![0.0f64; 2 * channels];
        for shard in sums.chunks_exact(2 * channels) {
            for (total, sum) in totals.iter_mut().zip(shard) {
                *total += sum;
            }
        }
        let (sums, squares) = totals.split_at(channels);
        let m = rows as f64;
        (0..channels)
            .map(|c| {
                let shifted = sums[c] / m;
                // f64::max would drop NaN.
                let var = squares[c] / m - shifted * shifted;
                (
                    f64::from(origin[c]) + shifted,
                    if var < 0.0 { 0.0 } else { var },
                )
            })
            .unzip()
    }
}

impl Layer for Norm {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, input: &Tensor, pass: &Pass) -> Result<()> {
        self.forward_with(input, None, pass)
    }

    fn output(&self) -> &Tensor {
        &self.output
    }

    fn shareable_output(&mut self) -> Option<&mut Tensor> {
        self.after.smooth.is_some().then_some(&mut self.output)
    }

    fn recompute(&self, input: &Tensor, pass: &Pass) -> Result<()> {
        let Some(function) = self.after.smooth else {
            return Ok(());
        };
        let (channels, level) = (self.channels, self.level);
        let rows = pass.images * self.size.height * self.size.width;
        let x = read(input)?;
        let x = images(&x, rows, channels)?;
        write([&self.output], |[out]| {
            let out = SharedSlice::new(&mut out[..x.len()]);
            let shards = shards(rows);
            pass.threads.run(shards, |shard| {
                for range in blocks(rows, shards, shard, channels) {
                    // SAFETY: each shard writes different rows.
                    let out = unsafe { out.range(range.clone()) };
                    level.run(Apply {
                        x: &x[range],
                        skip: None,
                        scale: &self.scale,
                        shift: &self.shift,
                        relu: false,
                        out: &mut *out,
                    });
                    function.apply(level, out);
                }
            });
        })
    }

    fn backward(
        &mut self,
        input: &Tensor,
        grad_output: &Tensor,
        grad_input: Option<&Tensor>,
        pass: &Pass,
    ) -> Result<()> {
        self.backward_with(input, grad_output, grad_input, None, pass)
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
        self.weight.iter().chain([&self.bias]).collect()
    }

    fn buffers(&self) -> Vec<(String, &Tensor)> {
        vec![
            (format!("{}.running_mean", self.name), &self.running_mean),
            (format!("{}.running_var", self.name), &self.running_var),
        ]
    }
}

/// Number of shards for `rows` rows.
fn shards(rows: usize) -> usize {
    rows.div_ceil(64).clamp(1, MAX_SHARDS)
}

/// The numbers of run `i` of `parts` of `rows` rows, in blocks of [`ROWS`] rows.
fn blocks(
    rows: usize,
    parts: usize,
    i: usize,
    channels: usize,
) -> impl Iterator<Item = Range<usize>> {
    let end = cut(rows, parts, i + 1);
    let begins = (cut(rows, parts, i)..end).step_by(ROWS);
    begins.map(move |row| row * channels..(row + ROWS).min(end) * channels)
}

/// Where run `i` of `parts` of `total` begins.
fn cut(total: usize, parts: usize, i: usize) -> usize {
    total * i / parts
}
