//! Fully connected: dense + bias (+ ReLU) (+ dropout), with the inputs flattened in CHW order.
//!
//! The weights keep their layout, `[out, in]`; the inputs, which are far fewer numbers, are transposed from NHWC to
//! CHW. The forward pass then consists of dot products of rows, and both gradients are sums of rows.

#![allow(
    clippy::needless_range_loop,
    reason = "constant index loops become registers; iterators over arrays of vectors less surely so"
)]

use crate::hardware::simd::{Kernel, Level, Simd};
use crate::hardware::threads::{SharedSlice, Threads};
use crate::layers::cpu::{Layer, Parameter, Pass, images as first_images};
use crate::layers::dropout::Dropout;
use crate::layers::gpu::{Activation, BackwardLaunches, LaunchBuilder};
use crate::layers::slices::{self, Aligned, read, write};
use candle_core::{Result, Tensor, bail};

/// Width in vectors of a tile of a gradient, and number of rows of a tile of dot products.
const SIDE: usize = 4;
/// Number of columns of a gradient that a task computes: a whole number of tiles at every level.
const COLUMNS: usize = 64;
/// Number of outputs that a task of the forward pass computes.
const OUTPUTS: usize = 16;

/// Runs `$body` with the constant `$P` equal to the variable `$p`, which is from 1 to 7.
macro_rules! with_height {
    ($p:expr, $P:ident => $body:expr) => {
        with_height!(@ $p, $P => $body; 1 2 3 4 5 6 7)
    };
    (@ $p:expr, $P:ident => $body:expr; $($n:literal)+) => {
        match $p {
            $($n => {
                const $P: usize = $n;
                $body
            })+
            _ => unreachable!("tiles are 1 to 7 high"),
        }
    };
}

/// Maximum number of rows of a tile that is [`SIDE`] vectors wide.
const fn tallest<S: Simd>() -> usize {
    let fits = S::ACCUMULATORS / SIDE;
    if fits < 7 { fits } else { 7 }
}

/// Dense + bias (+ ReLU (+ dropout)).
pub struct Dense {
    name: String,
    /// Channels and pixels of the input; inputs = channels * pixels.
    channels: usize,
    pixels: usize,
    outputs: usize,
    relu: bool,
    dropout: Option<Dropout>,
    level: Level,
    weight: Parameter,
    bias: Option<Parameter>,
    output: Tensor,
    /// The factor of the elements that dropout kept in the last forward pass.
    scale: f32,
    /// The inputs in CHW order, and their gradients; unused when the input is one pixel.
    flat: Aligned,
    grad_flat: Aligned,
    /// Gradient with respect to the values before ReLU and dropout.
    grad: Aligned,
    /// Dropout's factors.
    factors: Aligned,
}

impl Dense {
    /// `input` is (height, width, channels); `weight` is `[out, in]`; the output holds `capacity` images.
    ///
    /// # Errors
    /// Returns an error if the parameters' shapes do not fit, or dropout without ReLU is asked for, or the device runs
    /// out of memory.
    pub fn new(
        name: &str,
        input: (usize, usize, usize),
        relu: bool,
        dropout: Option<Dropout>,
        weight: Parameter,
        bias: Option<Parameter>,
        capacity: usize,
    ) -> Result<Self> {
        let (height, width, channels) = input;
        let inputs = height * width * channels;
        let outputs = weight.var.dims()[0];
        weight.expect_shape(&[outputs, inputs])?;
        if let Some(bias) = &bias {
            bias.expect_shape(&[outputs])?;
        }
        if dropout.is_some() && !relu {
            bail!("{name}: dropout is fused after ReLU only");
        }
        Ok(Dense {
            name: name.to_owned(),
            channels,
            pixels: height * width,
            outputs,
            relu,
            dropout,
            level: Level::best(),
            output: slices::zeros((capacity, 1, 1, outputs), weight.var.device())?,
            weight,
            bias,
            scale: 1.0,
            flat: Aligned::default(),
            grad_flat: Aligned::default(),
            grad: Aligned::default(),
            factors: Aligned::default(),
        })
    }

    /// Uses this SIMD level instead of the best one of this CPU.
    #[must_use]
    pub fn at_level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    fn inputs(&self) -> usize {
        self.channels * self.pixels
    }

    /// Channels and pixels of the input.
    pub fn input(&self) -> (usize, usize) {
        (self.channels, self.pixels)
    }

    pub fn outputs(&self) -> usize {
        self.outputs
    }

    pub fn dropout(&self) -> Option<Dropout> {
        self.dropout
    }

    pub fn has_bias(&self) -> bool {
        self.bias.is_some()
    }
}

impl Layer for Dense {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, input: &Tensor, pass: &Pass) -> Result<()> {
        let (inputs, outputs, images) = (self.inputs(), self.outputs, pass.images);
        let mask = self.dropout.and_then(|dropout| dropout.mask(pass));
        self.scale = mask.map_or(1.0, |mask| mask.scale());
        let x = read(input)?;
        let x = first_images(&x, images, inputs)?;
        let (channels, pixels) = (self.channels, self.pixels);
        let x = if pixels == 1 {
            x
        } else {
            let flat = self.flat.reserve(images * inputs);
            pass.threads.chunks(flat, inputs, |image, to| {
                let from = &x[image * inputs..(image + 1) * inputs];
                transpose(from, pixels, channels, to);
            });
            &*flat
        };
        let (weight, level, relu) = (read(&self.weight.var)?, self.level, self.relu);
        let bias = self.bias.as_ref().map(|b| read(&b.var)).transpose()?;
        write([&self.output], |[out]| {
            let out = &mut out[..images * outputs];
            let parts = SharedSlice::new(out);
            pass.threads.run(outputs.div_ceil(OUTPUTS), |task| {
                let first = task * OUTPUTS;
                level.run(Dots {
                    x,
                    weight: &weight,
                    bias: bias.as_deref(),
                    relu,
                    images,
                    inputs,
                    outputs,
                    first,
                    end: (first + OUTPUTS).min(outputs),
                    out: &parts,
                });
            });
            if let Some(mask) = mask {
                let factors = self.factors.reserve(out.len());
                mask.factors(level, 0, factors);
                for (out, factor) in out.iter_mut().zip(&*factors) {
                    *out *= factor;
                }
            }
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
        let (inputs, outputs, images) = (self.inputs(), self.outputs, pass.images);
        let (channels, pixels, level) = (self.channels, self.pixels, self.level);
        let arriving = read(grad_output)?;
        let arriving = first_images(&arriving, images, outputs)?;
        let grad = self.grad.reserve(images * outputs);
        if self.relu {
            let output = read(&self.output)?;
            for ((to, from), output) in grad.iter_mut().zip(arriving).zip(&*output) {
                *to = if *output == 0.0 {
                    0.0
                } else {
                    from * self.scale
                };
            }
        } else {
            grad.copy_from_slice(arriving);
        }
        let grad = &*grad;
        if let Some(bias) = &self.bias {
            write([&bias.grad], |[sums]| {
                sums.fill(0.0);
                for line in grad.chunks_exact(outputs) {
                    for (sum, grad) in sums.iter_mut().zip(line) {
                        *sum += grad;
                    }
                }
            })?;
        }
        let x = read(input)?;
        let x = if pixels == 1 {
            first_images(&x, images, inputs)?
        } else {
            // The forward pass has written the transposed inputs.
            first_images(&self.flat, images, inputs)?
        };
        // d weight[o][i] = sum over images of grad[image][o] * x[image][i].
        write([&self.weight.grad], |[out]| {
            sum_rows(
                level,
                pass.threads,
                grad,
                (1, outputs),
                x,
                images,
                out,
                outputs,
                inputs,
            );
        })?;
        let Some(grad_input) = grad_input else {
            return Ok(());
        };
        // d x[image][i] = sum over outputs of grad[image][o] * weight[o][i].
        let weight = read(&self.weight.var)?;
        let grad_flat = if pixels == 1 {
            &mut *self.grad_flat
        } else {
            self.grad_flat.reserve(images * inputs)
        };
        let sum = |out: &mut [f32]| {
            sum_rows(
                level,
                pass.threads,
                grad,
                (outputs, 1),
                &weight,
                outputs,
                out,
                images,
                inputs,
            );
        };
        write([grad_input], |[out]| {
            let out = &mut out[..images * inputs];
            if pixels == 1 {
                sum(out);
            } else {
                sum(grad_flat);
                pass.threads.chunks(out, inputs, |image, to| {
                    let from = &grad_flat[image * inputs..(image + 1) * inputs];
                    transpose(from, channels, pixels, to);
                });
            }
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
        self.relu
    }

    fn params(&self) -> Vec<&Parameter> {
        std::iter::once(&self.weight).chain(&self.bias).collect()
    }
}

/// Transposes a `rows` x `columns` matrix.
fn transpose(from: &[f32], rows: usize, columns: usize, to: &mut [f32]) {
    for (r, line) in from.chunks_exact(columns).enumerate() {
        for (to, from) in to[r..].iter_mut().step_by(rows).zip(line) {
            *to = *from;
        }
    }
}

/// The sum of a vector's lanes, pairwise, in the same order at every call.
#[inline(always)]
unsafe fn total<S: Simd>(vector: S) -> f32 {
    let mut lanes = [0.0f32; 16];
    // SAFETY: guaranteed by the caller; no vector is wider than `lanes`.
    unsafe { vector.store(lanes.as_mut_ptr()) }
    let mut half = 8;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Outputs `first..end` of all images: dot products of the weights' rows with the images.
struct Dots<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    relu: bool,
    images: usize,
    inputs: usize,
    outputs: usize,
    first: usize,
    end: usize,
    out: &'a SharedSlice<'a, f32>,
}

impl Kernel for Dots<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let tiles = self.images.div_ceil(tallest::<S>());
        let mut o = self.first;
        while o < self.end {
            let wide = o + SIDE <= self.end;
            for tile in 0..tiles {
                let begin = self.images * tile / tiles;
                let height = self.images * (tile + 1) / tiles - begin;
                // SAFETY: the caller guarantees it; images and outputs are in range.
                unsafe {
                    with_height!(height, P => {
                        if P * SIDE <= S::ACCUMULATORS {
                            if wide {
                                self.tile::<S, P, SIDE>(begin, o);
                            } else {
                                self.tile::<S, P, 1>(begin, o);
                            }
                        }
                    });
                }
            }
            o += if wide { SIDE } else { 1 };
        }
    }
}

impl Dots<'_> {
    #[inline(always)]
    unsafe fn tile<S: Simd, const P: usize, const R: usize>(&self, image: usize, o: usize) {
        let inputs = self.inputs;
        // SAFETY: the caller guarantees it.
        unsafe {
            let x = self.x.as_ptr().add(image * inputs);
            let w = self.weight.as_ptr().add(o * inputs);
            let mut sums = [[S::zero(); R]; P];
            let mut i = 0;
            while i + S::LANES <= inputs {
                let mut rows = [S::zero(); R];
                for r in 0..R {
                    rows[r] = S::load(w.add(r * inputs + i));
                }
                for p in 0..P {
                    let value = S::load(x.add(p * inputs + i));
                    for r in 0..R {
                        sums[p][r] = value.mul_add(rows[r], sums[p][r]);
                    }
                }
                i += S::LANES;
            }
            if i < inputs {
                let count = inputs - i;
                let mut rows = [S::zero(); R];
                for r in 0..R {
                    rows[r] = S::load_part(w.add(r * inputs + i), count);
                }
                for p in 0..P {
                    let value = S::load_part(x.add(p * inputs + i), count);
                    for r in 0..R {
                        sums[p][r] = value.mul_add(rows[r], sums[p][r]);
                    }
                }
            }
            for p in 0..P {
                let at = (image + p) * self.outputs + o;
                // Tasks write different outputs.
                let out = self.out.range(at..at + R);
                for r in 0..R {
                    let sum = total(sums[p][r]) + self.bias.map_or(0.0, |bias| bias[o + r]);
                    out[r] = if self.relu && sum < 0.0 { 0.0 } else { sum };
                }
            }
        }
    }
}

/// `out[r][i] = sum over k of factor(r, k) * lines[k][i]`, for `rows` x `columns` results and `count` lines, always
/// summed in the order of k. The factor is `factors[r * step.0 + k * step.1]`.
#[allow(clippy::too_many_arguments, reason = "the sizes of a matrix product")]
fn sum_rows(
    level: Level,
    threads: &Threads,
    factors: &[f32],
    step: (usize, usize),
    lines: &[f32],
    count: usize,
    out: &mut [f32],
    rows: usize,
    columns: usize,
) {
    let parts = SharedSlice::new(out);
    threads.run(columns.div_ceil(COLUMNS), |task| {
        let first = task * COLUMNS;
        level.run(SumRows {
            factors,
            step,
            lines,
            count,
            rows,
            columns,
            first,
            end: (first + COLUMNS).min(columns),
            out: &parts,
        });
    });
}

/// Columns `first..end` of a sum of rows.
struct SumRows<'a> {
    factors: &'a [f32],
    step: (usize, usize),
    lines: &'a [f32],
    count: usize,
    rows: usize,
    columns: usize,
    first: usize,
    end: usize,
    out: &'a SharedSlice<'a, f32>,
}

impl Kernel for SumRows<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let tiles = self.rows.div_ceil(tallest::<S>());
        let mut i = self.first;
        while i < self.end {
            let left = self.end - i;
            let wide = left >= SIDE * S::LANES;
            for tile in 0..tiles {
                let begin = self.rows * tile / tiles;
                let height = self.rows * (tile + 1) / tiles - begin;
                // SAFETY: the caller guarantees it; rows and columns are in range.
                unsafe {
                    with_height!(height, P => {
                        if P * SIDE <= S::ACCUMULATORS {
                            if wide {
                                self.tile::<S, P, SIDE>(begin, i, S::LANES);
                            } else {
                                self.tile::<S, P, 1>(begin, i, left.min(S::LANES));
                            }
                        }
                    });
                }
            }
            i += if wide {
                SIDE * S::LANES
            } else {
                left.min(S::LANES)
            };
        }
    }
}

impl SumRows<'_> {
    /// `lanes` of the last vector are columns.
    #[inline(always)]
    unsafe fn tile<S: Simd, const P: usize, const V: usize>(
        &self,
        row: usize,
        column: usize,
        lanes: usize,
    ) {
        let (across, down) = self.step;
        // SAFETY: the caller guarantees it.
        unsafe {
            let mut sums = [[S::zero(); V]; P];
            let mut line = self.lines.as_ptr().add(column);
            let mut factor = self.factors.as_ptr().add(row * across);
            for _ in 0..self.count {
                let mut values = [S::zero(); V];
                for v in 0..V {
                    values[v] = if V == 1 && lanes < S::LANES {
                        S::load_part(line, lanes)
                    } else {
                        S::load(line.add(v * S::LANES))
                    };
                }
                for p in 0..P {
                    let factor = S::splat(*factor.add(p * across));
                    for v in 0..V {
                        sums[p][v] = factor.mul_add(values[v], sums[p][v]);
                    }
                }
                line = line.wrapping_add(self.columns);
                factor = factor.wrapping_add(down);
            }
            for p in 0..P {
                let at = (row + p) * self.columns + column;
                // Tasks write different columns.
                let out = self.out.range(at..at + (V - 1) * S::LANES + lanes);
                for v in 0..V {
                    if V == 1 {
                        sums[p][v].store_part(out.as_mut_ptr(), lanes);
                    } else {
                        sums[p][v].store(out.as_mut_ptr().add(v * S::LANES));
                    }
                }
            }
        }
    }
}
