//! The exponential moving average of a network's weights on the CPU.

use super::network::Network;
use super::optimizer::pieces;
use super::{NetworkState, Result, TensorData};
use crate::hardware::threads::{SharedSlice, Threads};
use crate::layers::slices;

/// The averages of the tensors of a network ([`Network::tensors`]), in their order.
#[derive(Clone)]
pub struct WeightAverage(Vec<Vec<f32>>);

impl WeightAverage {
    /// The average of a network's first step: a copy of its weights and running statistics.
    ///
    /// # Errors
    /// Returns an error if a tensor cannot be read.
    pub fn of(network: &Network) -> Result<Self> {
        let tensors = network.tensors().into_iter();
        let copies = tensors.map(|(_, tensor)| Ok(slices::read(tensor)?.to_vec()));
        Ok(WeightAverage(copies.collect::<Result<_>>()?))
    }

    /// The average in the state of such a network. None if it has none.
    ///
    /// # Errors
    /// Returns an error if tensors of the average are missing or have another shape.
    pub fn from_state(network: &Network, state: &NetworkState) -> Result<Option<Self>> {
        let found = state.average(&network.shapes())?;
        let copies = |tensors: Vec<&TensorData>| tensors.iter().map(|t| t.values.clone()).collect();
        Ok(found.map(|tensors| WeightAverage(copies(tensors))))
    }

    /// Adds the average to the state of its network.
    pub fn add_to(self, network: &Network, state: &mut NetworkState) {
        for ((name, shape), values) in network.shapes().into_iter().zip(self.0) {
            state.add_average(&name, TensorData { shape, values });
        }
    }

    /// Moves the average to `decay * average + (1 - decay) * weights`.
    ///
    /// # Errors
    /// Returns an error if a tensor cannot be read.
    pub fn update(&mut self, network: &Network, decay: f64, threads: &Threads) -> Result<()> {
        let share = (1.0 - decay) as f32;
        for (average, (_, tensor)) in self.0.iter_mut().zip(network.tensors()) {
            let weights = slices::read(tensor)?;
            let average = SharedSlice::new(average);
            pieces(weights.len(), threads, |at| {
                // SAFETY: pieces do not overlap.
                let average = unsafe { average.range(at.clone()) };
                // In this form equal weights keep the average exactly as it is.
                for (average, weight) in average.iter_mut().zip(&weights[at]) {
                    *average += share * (weight - *average);
                }
                true
            });
        }
        Ok(())
    }

    /// Exchanges the network's weights and running statistics with their averages.
    ///
    /// # Errors
    /// Returns an error if a tensor cannot be written.
    pub fn swap(&mut self, network: &Network) -> Result<()> {
        for (average, (_, tensor)) in self.0.iter_mut().zip(network.tensors()) {
            slices::write([tensor], |[weights]| weights.swap_with_slice(average))?;
        }
        Ok(())
    }

    /// The averages, in the order of the network's tensors.
    pub fn tensors(&self) -> &[Vec<f32>] {
        &self.0
    }

    /// The same, to be written.
    pub fn tensors_mut(&mut self) -> &mut [Vec<f32>] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{NetworkSpec, Scaling, rule};
    use crate::domain::arch::{Shape, resolve};
    use crate::domain::params::{Optimizer, Precision};

    fn network() -> Network {
        let spec = NetworkSpec {
            arch: resolve("norm, dense 3").unwrap(),
            input: Shape::new(3, 4, 4),
            classes: 3,
            scaling: Scaling::UNIT,
            optimizer: rule(Optimizer::Sgd),
            precision: Precision::F32,
        };
        Network::new(&spec, 1, 0).unwrap()
    }

    /// What tests/reference/average.py gives the weights and running statistics in a step.
    fn set(network: &Network, step: u32) {
        for (name, tensor) in network.tensors() {
            let suffix = name.split('.').next_back().unwrap().len() as f64;
            let value = |i: usize| ((i * i) as f64 + 0.7 * f64::from(step) + suffix).sin() as f32;
            slices::write([tensor], |[t]| {
                t.iter_mut().enumerate().for_each(|(i, t)| *t = value(i));
            })
            .unwrap();
        }
    }

    fn values(network: &Network, name: &str) -> Vec<f32> {
        let tensors = network.tensors();
        let (_, tensor) = tensors.iter().find(|(n, _)| n == name).unwrap();
        slices::read(tensor).unwrap().to_vec()
    }

    /// The values that tests/reference/average.py prints (PyTorch 2.15, AveragedModel with its buffers).
    #[rustfmt::skip]
    const EXPECTED: [(f64, [f32; 15]); 2] = [
        (
            0.9,
            [
                0.4548264, 0.6155317, -0.6298743, -0.5888692, -0.1240442, 0.21032,
                0.3139204, 0.6316101, -0.6207042, -0.2923863, 0.3139204, -0.2332989,
                -0.5888692, -0.1240442, 0.21032,
            ],
        ),
        (
            0.999,
            [
                0.4056061, 0.9841462, -0.9531444, -0.9954502, -0.5458463, 0.6578668,
                0.1354293, 0.9030656, -0.8349118, -0.75672, 0.1354293, 0.0051043,
                -0.9954502, -0.5458463, 0.6578668,
            ],
        ),
    ];

    #[test]
    fn the_average_is_that_of_pytorch_and_changes_places_with_the_weights() {
        let names = [
            "norm1.weight",
            "norm1.bias",
            "norm1.running_mean",
            "norm1.running_var",
            "dense1.bias",
        ];
        let all = |network: &Network| names.map(|name| values(network, name)).concat();
        for (decay, expected) in EXPECTED {
            for threads in [1, 3].map(Threads::new) {
                let network = network();
                set(&network, 1);
                let mut average = WeightAverage::of(&network).unwrap();
                for step in 2..=5 {
                    set(&network, step);
                    average.update(&network, decay, &threads).unwrap();
                }
                let last = all(&network);
                average.swap(&network).unwrap();
                for (ours, theirs) in all(&network).iter().zip(expected) {
                    assert!((ours - theirs).abs() < 1e-6, "{decay}: {ours} {theirs}");
                }
                average.swap(&network).unwrap();
                assert_eq!(all(&network), last);
                // Weights that do not change, such as fixed filters, equal their average exactly.
                let mut still = WeightAverage::of(&network).unwrap();
                for _ in 0..10 {
                    still.update(&network, decay, &threads).unwrap();
                }
                still.swap(&network).unwrap();
                assert_eq!(all(&network), last);
            }
        }
    }
}
