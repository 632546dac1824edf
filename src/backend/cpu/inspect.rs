//! Inspects a network: activations, dead units, gradients, and the first value that is not finite.

use super::network::Network;
use super::{Inspected, Inspection, Result, gradients};
use crate::domain::report::{Activations, UnitHealth};
use crate::hardware::threads::Threads;
use crate::layers::cpu::Pass;
use crate::layers::slices;
use candle_core::Tensor;

impl Network {
    /// Answers an inspection.
    ///
    /// # Errors
    /// Returns an error if an image does not exist or does not fit the network.
    pub fn inspect(&mut self, inspection: &Inspection, threads: &Threads) -> Result<Inspected> {
        let mut inspected = Inspected::default();
        if let Some((images, number)) = &inspection.activations {
            self.forward_plain(images, &[*number], threads)?;
            inspected.activations = self.activations(threads)?;
        }
        if let Some((images, numbers)) = &inspection.units {
            let mut units: Vec<_> = self.layers.layers().iter().map(|_| None).collect();
            for numbers in numbers.chunks(self.capacity()) {
                self.forward_plain(images, numbers, threads)?;
                self.count_units(numbers.len(), &mut units)?;
            }
            let layers = self.layers.layers().iter().zip(units);
            inspected.units = layers
                .filter_map(|(layer, units)| Some(units?.health(layer.name())))
                .collect();
        }
        if inspection.gradients {
            inspected.gradients = gradients(self)?;
        }
        Ok(inspected)
    }

    /// Names the first tensor that was not finite in the last training pass, which had `images` images: a weight,
    /// otherwise the output of a layer, otherwise a gradient. Gradients are searched from the last layer to the first,
    /// the order in which they are computed.
    pub(in crate::backend) fn first_not_finite(
        &self,
        images: usize,
        threads: &Threads,
    ) -> Result<Option<String>> {
        if let Some(weight) = self.first_weight_not_finite()? {
            return Ok(Some(weight));
        }
        let pass = Pass::scoring(images, threads);
        for (i, layer) in self.layers.layers().iter().enumerate() {
            self.layers.recompute(i, &self.input, &pass)?;
            let values = numbers(layer.output(), images)?;
            if !slices::all_finite(&values) {
                return Ok(Some(format!("the output of {}", layer.name())));
            }
        }
        self.first_gradient_not_finite()
    }

    pub(in crate::backend) fn first_weight_not_finite(&self) -> Result<Option<String>> {
        for param in self.params() {
            if !slices::all_finite(&slices::read(&param.var)?) {
                return Ok(Some(format!("the weights {}", param.name)));
            }
        }
        Ok(None)
    }

    /// Names the first gradient that is not finite, from the last layer to the first.
    pub(in crate::backend) fn first_gradient_not_finite(&self) -> Result<Option<String>> {
        for param in self.params().iter().rev() {
            if !slices::all_finite(&slices::read(&param.grad)?) {
                return Ok(Some(format!("the gradient of {}", param.name)));
            }
        }
        Ok(None)
    }

    /// Every layer's output for the only image of the last pass, as pictures.
    fn activations(&self, threads: &Threads) -> Result<Vec<Activations>> {
        let pass = Pass::scoring(1, threads);
        let layers = self.layers.layers().iter().enumerate();
        layers
            .map(|(i, layer)| {
                self.layers.recompute(i, &self.input, &pass)?;
                let output = layer.output();
                let (_, height, width, channels) = output.dims4()?;
                let values = numbers(output, 1)?;
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

    /// Adds the zeros in the last pass's outputs to the counts of each layer that ends with a ReLU.
    fn count_units(&self, images: usize, units: &mut [Option<UnitCounts>]) -> Result<()> {
        let layers = self.layers.layers().iter();
        for (layer, units) in layers.zip(units) {
            if !layer.rectifies() {
                continue;
            }
            let output = layer.output();
            let channels = output.dims4()?.3;
            let units = units.get_or_insert_with(|| UnitCounts {
                alive: vec![false; channels],
                zeros: 0,
                seen: 0,
            });
            for pixel in numbers(output, images)?.chunks_exact(channels) {
                for (alive, value) in units.alive.iter_mut().zip(pixel) {
                    *alive |= *value != 0.0;
                    units.zeros += usize::from(*value == 0.0);
                }
                units.seen += channels;
            }
        }
        Ok(())
    }
}

/// Counts of one layer's outputs. A unit is a channel of a convolution, or an output of a dense layer.
struct UnitCounts {
    /// Whether each unit was not zero for some pixel of some image.
    alive: Vec<bool>,
    zeros: usize,
    seen: usize,
}

impl UnitCounts {
    fn health(&self, layer: &str) -> UnitHealth {
        let dead = self.alive.iter().filter(|alive| !**alive).count();
        UnitHealth {
            name: layer.to_owned(),
            dead: dead as f64 / self.alive.len() as f64,
            zero: self.zeros as f64 / self.seen as f64,
        }
    }
}

/// The outputs of the first `images` images.
fn numbers(output: &Tensor, images: usize) -> Result<Vec<f32>> {
    let all = slices::read(output)?;
    let len = output.elem_count() / output.dims()[0].max(1);
    Ok(all[..images * len].to_vec())
}
