//! One convolution on drawn numbers: by the kernels, and by an f64 reference.

use super::*;

/// One layer and one batch, drawn from a seed.
#[derive(Clone, Debug)]
pub struct Case {
    pub images: usize,
    pub geometry: Geometry,
    pub after: ConvEpilogue,
    pub bias: bool,
    /// Share of the arriving gradient that is not zero.
    pub density: f32,
    pub seed: u64,
    /// The size of Winograd's tiles, if not chosen by the batch.
    pub tile: Option<Tile>,
}

pub struct Drawn {
    pub x: Vec<f32>,
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
    pub grad: Vec<f32>,
}

pub struct Results {
    pub output: Vec<f32>,
    pub taken: Vec<u8>,
    pub grad_weight: Vec<f32>,
    pub grad_bias: Vec<f32>,
    pub grad_input: Vec<f32>,
}

const STEP: u64 = 7;

pub fn draw(seed: u64, stream: u16, count: usize) -> Vec<f32> {
    let rng = Rng::new(seed, Stream::Init(stream), 0);
    (0..count)
        .map(|i| rng.uniform(i as u32) * 2.0 - 1.0)
        .collect()
}

impl Case {
    pub fn numbers(&self) -> Drawn {
        let g = &self.geometry;
        let out = self.out_len();
        let keep = draw(self.seed, 5, self.images * out);
        Drawn {
            x: draw(self.seed, 1, self.images * g.input_len()),
            weight: draw(self.seed, 2, g.outputs * g.patch()),
            bias: if self.bias {
                draw(self.seed, 3, g.outputs)
            } else {
                vec![0.0; g.outputs]
            },
            grad: draw(self.seed, 4, self.images * out)
                .into_iter()
                .zip(keep)
                .map(|(v, keep)| {
                    if keep * 0.5 + 0.5 < self.density {
                        v
                    } else {
                        0.0
                    }
                })
                .collect(),
        }
    }

    pub fn out_dims(&self) -> (usize, usize) {
        let g = &self.geometry;
        if self.after.pool {
            (g.out_height / 2, g.out_width / 2)
        } else {
            (g.out_height, g.out_width)
        }
    }

    pub fn out_len(&self) -> usize {
        let (height, width) = self.out_dims();
        height * width * self.geometry.outputs
    }

    pub fn train(&self) -> TrainingPass {
        TrainingPass {
            seed: self.seed,
            step: STEP,
            dropout: 0.25,
        }
    }

    pub fn layer(&self, numbers: &Drawn, level: Level) -> Conv {
        let g = self.geometry;
        let dims = (g.outputs, g.inputs, g.kernel, g.kernel);
        let parameter = |t: candle_core::Result<Tensor>| {
            let var = Var::from_tensor(&t.unwrap()).unwrap();
            Parameter::new("conv.weight".into(), var, ParameterGroup::Filters).unwrap()
        };
        let weight = parameter(Tensor::from_slice(&numbers.weight, dims, &Device::Cpu));
        let bias = self
            .bias
            .then(|| parameter(Tensor::from_slice(&numbers.bias, g.outputs, &Device::Cpu)));
        let layer = Conv::new("conv", g, self.after, weight, bias, self.images)
            .unwrap()
            .at_level(level);
        match self.tile {
            Some(tile) => layer.on_tiles(tile),
            None => layer,
        }
    }

    pub fn on_tiles(mut self, tile: Tile) -> Self {
        self.tile = Some(tile);
        self
    }

    pub fn run(&self, numbers: &Drawn, level: Level, threads: &Threads) -> Results {
        self.run_and(numbers, level, threads, true)
    }

    pub fn run_unchecked(&self, numbers: &Drawn, level: Level, threads: &Threads) -> Results {
        self.run_and(numbers, level, threads, false)
    }

    pub fn run_and(
        &self,
        numbers: &Drawn,
        level: Level,
        threads: &Threads,
        first_layer: bool,
    ) -> Results {
        let g = self.geometry;
        let mut layer = self.layer(numbers, level);
        let tensor = |values: &[f32], dims| {
            let t = slices::zeros(dims, &Device::Cpu).unwrap();
            write([&t], |[t]| t.copy_from_slice(values)).unwrap();
            t
        };
        let x = tensor(&numbers.x, (self.images, g.height, g.width, g.inputs));
        let (height, width) = self.out_dims();
        let grad = tensor(&numbers.grad, (self.images, height, width, g.outputs));
        let pass = Pass {
            stop: None,
            images: self.images,
            threads,
            train: Some(self.train()),
        };
        layer.forward(&x, &pass).unwrap();
        // What stood in the gradients is overwritten.
        let grad_input = (x.ones_like().unwrap() * 7.0).unwrap();
        for param in layer.params() {
            write([&param.grad], |[all]| all.fill(9.0)).unwrap();
        }
        layer.backward(&x, &grad, Some(&grad_input), &pass).unwrap();
        let with_input = read(&layer.weight.grad).unwrap().to_vec();
        let results = Results {
            output: read(layer.output()).unwrap().to_vec(),
            taken: layer.taken.clone(),
            grad_bias: layer
                .bias
                .as_ref()
                .map_or(vec![], |b| read(&b.grad).unwrap().to_vec()),
            grad_weight: with_input,
            grad_input: read(&grad_input).unwrap().to_vec(),
        };
        if first_layer && results.grad_weight.iter().all(|v| v.is_finite()) {
            // Without an input gradient the weight gradient is the same, up to rounding.
            layer.backward(&x, &grad, None, &pass).unwrap();
            let alone = read(&layer.weight.grad).unwrap().to_vec();
            close("weight gradient alone", &alone, &results.grad_weight, 1e-4);
        }
        results
    }

    /// The same in f64, one number after the other; `choices` are the kernels' own, so that ties and values around zero
    /// that fall differently in f32 do not count.
    pub fn reference(
        &self,
        n: &Drawn,
        choices: &Results,
    ) -> (Vec<f64>, Vec<f64>, Vec<f64>, Vec<f64>) {
        let g = &self.geometry;
        let (height, width) = self.out_dims();
        let share = self
            .after
            .dropout
            .map(|d| d.share.unwrap_or(0.25))
            .unwrap_or(0.0);
        let rng = Rng::new(self.seed, Stream::Dropout(3), STEP);
        let mut output = vec![];
        let mut grad_weight = vec![0.0f64; n.weight.len()];
        let mut grad_bias = vec![0.0f64; g.outputs];
        let mut grad_input = vec![0.0f64; n.x.len()];
        let inside = |y: usize, x: usize, ky: usize, kx: usize| {
            let iy = (y * g.stride + ky)
                .checked_sub(g.padding)
                .filter(|&v| v < g.height)?;
            let ix = (x * g.stride + kx)
                .checked_sub(g.padding)
                .filter(|&v| v < g.width)?;
            Some((iy, ix))
        };
        for image in 0..self.images {
            let result = |y: usize, x: usize, o: usize| {
                let mut sum = f64::from(n.bias[o]);
                for ky in 0..g.kernel {
                    for kx in 0..g.kernel {
                        let Some((iy, ix)) = inside(y, x, ky, kx) else {
                            continue;
                        };
                        for i in 0..g.inputs {
                            let at = ((image * g.height + iy) * g.width + ix) * g.inputs + i;
                            let w = ((o * g.inputs + i) * g.kernel + ky) * g.kernel + kx;
                            sum += f64::from(n.x[at]) * f64::from(n.weight[w]);
                        }
                    }
                }
                sum
            };
            for y in 0..height {
                for x in 0..width {
                    for (o, grad_bias) in grad_bias.iter_mut().enumerate() {
                        let at = output.len();
                        let mut value;
                        let mut place = (y, x);
                        if self.after.pool {
                            value = f64::NEG_INFINITY;
                            for (k, (dy, dx)) in
                                [(0, 0), (0, 1), (1, 0), (1, 1)].into_iter().enumerate()
                            {
                                let candidate = result(2 * y + dy, 2 * x + dx, o);
                                value = value.max(candidate);
                                if choices.taken[at] as usize == k {
                                    place = (2 * y + dy, 2 * x + dx);
                                }
                            }
                        } else {
                            value = result(y, x, o);
                        }
                        if self.after.relu {
                            value = value.max(0.0);
                        }
                        let kept = if share == 0.0 {
                            1.0
                        } else if rng.uniform(at as u32) < share {
                            0.0
                        } else {
                            f64::from(1.0 / (1.0 - share))
                        };
                        let passes = !self.after.relu || choices.output[at] != 0.0;
                        output.push(value * kept);
                        if !passes {
                            continue;
                        }
                        let grad = f64::from(n.grad[at]) * kept;
                        *grad_bias += grad;
                        for ky in 0..g.kernel {
                            for kx in 0..g.kernel {
                                let Some((iy, ix)) = inside(place.0, place.1, ky, kx) else {
                                    continue;
                                };
                                for i in 0..g.inputs {
                                    let at =
                                        ((image * g.height + iy) * g.width + ix) * g.inputs + i;
                                    let w = ((o * g.inputs + i) * g.kernel + ky) * g.kernel + kx;
                                    grad_weight[w] += grad * f64::from(n.x[at]);
                                    grad_input[at] += grad * f64::from(n.weight[w]);
                                }
                            }
                        }
                    }
                }
            }
        }
        (output, grad_weight, grad_bias, grad_input)
    }

    pub fn check(&self) {
        let numbers = self.numbers();
        for level in Level::available() {
            let one = self.run(&numbers, level, &Threads::new(1));
            let (output, weight, bias, input) = self.reference(&numbers, &one);
            let label = |what: &str| format!("{what} at {} of {self:?}", level.name());
            close(&label("output"), &one.output, &output, 1e-5);
            close(&label("weight gradient"), &one.grad_weight, &weight, 1e-4);
            close(&label("input gradient"), &one.grad_input, &input, 1e-4);
            if self.bias {
                close(&label("bias gradient"), &one.grad_bias, &bias, 1e-4);
            }
            for count in [2, 3] {
                let more = self.run(&numbers, level, &Threads::new(count));
                assert!(more.output == one.output, "{}", label("threads: output"));
                assert!(more.taken == one.taken, "{}", label("threads: choices"));
                assert!(
                    more.grad_weight == one.grad_weight,
                    "{}",
                    label("threads: weight")
                );
                assert!(
                    more.grad_bias == one.grad_bias,
                    "{}",
                    label("threads: bias")
                );
                assert!(
                    more.grad_input == one.grad_input,
                    "{}",
                    label("threads: input")
                );
            }
        }
    }
}

/// Largest difference over largest absolute value.
pub fn close<T: Into<f64> + Copy>(what: &str, found: &[f32], expected: &[T], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let expected = expected.iter().map(|&v| v.into());
    let scale = expected.clone().fold(0.0f64, |m, v| m.max(v.abs()));
    for (i, (&f, e)) in found.iter().zip(expected).enumerate() {
        let difference = (f64::from(f) - e).abs();
        assert!(
            difference <= tolerance * scale.max(1e-30),
            "{what}: number {i} is {f}, expected {e}, largest {scale}"
        );
    }
}
