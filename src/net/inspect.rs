//! A look inside the network, for the Model screen.

use super::{Net, Result, Scaling};
use crate::domain::augment::Placement;
use crate::domain::report::{Activations, ParameterHealth, Picture, UnitHealth};
use crate::hardware::threads::Threads;
use crate::layers::{Pass, slices};
use candle_core::Tensor;

impl Net {
    /// Norms of all parameters and of their last gradients.
    ///
    /// # Errors
    /// Those of the device.
    pub fn parameter_health(&self) -> Result<Vec<ParameterHealth>> {
        self.params()
            .into_iter()
            .map(|param| {
                Ok(ParameterHealth {
                    name: param.name.clone(),
                    shape: param.var.dims().to_vec(),
                    weight_norm: norm(&numbers(&param.var)?),
                    grad_norm: norm(&numbers(&param.grad)?),
                })
            })
            .collect()
    }

    /// Whether every weight and every running statistic is a finite number.
    ///
    /// # Errors
    /// Those of the device.
    pub fn is_finite(&self) -> Result<bool> {
        for param in self.params() {
            if !all_finite(&param.var)? {
                return Ok(false);
            }
        }
        for (_, buffer) in self.buffers() {
            if !all_finite(buffer)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What was not finite first in the training pass just made over `images` images, with its layer: a weight, which
    /// spoils all after it; else a layer's output; else a gradient, sought from the last layer, as it is made.
    ///
    /// # Errors
    /// Those of the device.
    pub fn first_not_finite(&self, images: usize) -> Result<Option<String>> {
        let params = self.params();
        for param in &params {
            if !all_finite(&param.var)? {
                return Ok(Some(format!("the weights {}", param.name)));
            }
        }
        // Outputs that are on a machine are not looked at.
        let layers = match self.engine {
            Some(_) => &[],
            None => self.chain.layers(),
        };
        for layer in layers {
            let values = numbers(&layer.output().narrow(0, 0, images)?)?;
            if !slices::all_finite(&values) {
                return Ok(Some(format!("the output of {}", layer.name())));
            }
        }
        for param in params.iter().rev() {
            if !all_finite(&param.grad)? {
                return Ok(Some(format!("the gradient of {}", param.name)));
            }
        }
        Ok(None)
    }

    /// The first layer's filters as RGB pictures, each scaled to its own range; empty unless the first layer is a
    /// convolution of three channels.
    ///
    /// # Errors
    /// Those of the device.
    pub fn filters(&self) -> Result<Vec<Picture>> {
        let params = self.params();
        let Some(&[_, 3, side, _]) = params.first().map(|p| p.var.dims()) else {
            return Ok(Vec::new());
        };
        if self
            .nodes
            .first()
            .is_none_or(|n| format!("{}.weight", n.name) != params[0].name)
        {
            return Ok(Vec::new());
        }
        let weights = numbers(&params[0].var)?;
        let plane = side * side;
        Ok(weights
            .chunks_exact(3 * plane)
            .map(|filter| {
                let least = filter.iter().copied().fold(f32::INFINITY, f32::min);
                let most = filter.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let range = if most > least { most - least } else { 1.0 };
                let rgb = (0..plane)
                    .flat_map(|i| (0..3).map(move |c| c * plane + i))
                    .map(|i| ((filter[i] - least) / range * 255.0).round() as u8)
                    .collect();
                Picture {
                    side: side as u32,
                    rgb,
                }
            })
            .collect())
    }

    /// Every layer's output for one image of a split, as pictures.
    ///
    /// # Errors
    /// As [`Net::score`].
    pub fn activations(
        &mut self,
        pixels: &Tensor,
        image: u32,
        scaling: &Scaling,
        threads: &Threads,
    ) -> Result<Vec<Activations>> {
        let pass = Pass {
            images: 1,
            threads,
            train: None,
        };
        self.forward(pixels, &[Placement::plain(image)], scaling, &pass)?;
        self.chain
            .layers()
            .iter()
            .map(|layer| {
                let output = layer.output();
                let (_, height, width, channels) = output.dims4()?;
                let values = numbers(&output.narrow(0, 0, 1)?)?;
                let largest = values.iter().copied().fold(0.0, f32::max);
                let unit = if largest > 0.0 { 255.0 / largest } else { 0.0 };
                let map = |c: usize| {
                    let pixels = values.iter().skip(c).step_by(channels);
                    pixels.map(|v| (v * unit).round() as u8).collect()
                };
                Ok(Activations {
                    name: layer.name().to_owned(),
                    height: height as u32,
                    width: width as u32,
                    maps: (0..channels).map(map).collect(),
                    largest,
                })
            })
            .collect()
    }

    /// How many units of each layer with a ReLU are dead for these images of a split. A unit is a channel of a
    /// convolution, or an output of a dense layer: dead when it is zero at every pixel of every image.
    ///
    /// # Errors
    /// As [`Net::score`].
    pub fn unit_health(
        &mut self,
        pixels: &Tensor,
        placements: &[Placement],
        scaling: &Scaling,
        threads: &Threads,
    ) -> Result<Vec<UnitHealth>> {
        struct Tally {
            alive: Vec<bool>,
            zeros: usize,
            seen: usize,
        }
        let mut tallies: Vec<Option<Tally>> = self.rectifies.iter().map(|_| None).collect();
        for chunk in placements.chunks(self.capacity) {
            let pass = Pass {
                images: chunk.len(),
                threads,
                train: None,
            };
            self.forward(pixels, chunk, scaling, &pass)?;
            for ((layer, relu), tally) in self
                .chain
                .layers()
                .iter()
                .zip(&self.rectifies)
                .zip(&mut tallies)
            {
                if !relu {
                    continue;
                }
                let output = layer.output();
                let channels = output.dims4()?.3;
                let tally = tally.get_or_insert_with(|| Tally {
                    alive: vec![false; channels],
                    zeros: 0,
                    seen: 0,
                });
                for pixel in numbers(&output.narrow(0, 0, chunk.len())?)?.chunks_exact(channels) {
                    for (alive, value) in tally.alive.iter_mut().zip(pixel) {
                        *alive |= *value != 0.0;
                        tally.zeros += usize::from(*value == 0.0);
                    }
                    tally.seen += channels;
                }
            }
        }
        let layers = self.chain.layers().iter().zip(tallies);
        Ok(layers
            .filter_map(|(layer, tally)| {
                let tally = tally?;
                let dead = tally.alive.iter().filter(|alive| !**alive).count();
                Some(UnitHealth {
                    name: layer.name().to_owned(),
                    dead: dead as f64 / tally.alive.len() as f64,
                    zero: tally.zeros as f64 / tally.seen as f64,
                })
            })
            .collect())
    }
}

fn numbers(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_vec1::<f32>()?)
}

fn all_finite(tensor: &Tensor) -> Result<bool> {
    match tensor.device().is_cpu() {
        true => Ok(slices::all_finite(&slices::read(tensor)?)),
        false => Ok(slices::all_finite(&numbers(tensor)?)),
    }
}

/// The L2 norm.
fn norm(numbers: &[f32]) -> f64 {
    let squares = numbers.iter().map(|&v| f64::from(v) * f64::from(v));
    squares.sum::<f64>().sqrt()
}
