//! A network's initial weights.

use super::TensorData;
use crate::domain::arch::Node;
use crate::domain::params::ParameterGroup;
use crate::domain::rng::{Rng, Stream};
use crate::layers::kind::SeenImages;

/// A tensor that a network begins with.
pub struct InitialTensor {
    /// As in the checkpoint: `conv1.weight`.
    pub name: String,
    pub data: TensorData,
    /// The group of a parameter; None of a buffer, such as running statistics.
    pub group: Option<ParameterGroup>,
    /// Whether the optimizer moves it.
    pub trained: bool,
}

/// Fresh parameters and buffers of all layers, in the network's order, as the layers say that they begin.
pub fn initial(nodes: &[Node], seed: u64) -> Vec<InitialTensor> {
    let mut initial = Initial {
        seed,
        number: 0,
        tensors: Vec::new(),
    };
    initial.add(nodes);
    initial.tensors
}

/// The parameters that the layers take from training images, by name.
pub fn from_images(nodes: &[Node], images: &SeenImages) -> Vec<(String, TensorData)> {
    let mut tensors = Vec::new();
    for node in nodes {
        for (suffix, values) in node.layer.op.parameters_from(images) {
            let spec = node.parameters.iter().find(|spec| spec.suffix == suffix);
            tensors.extend(spec.map(|spec| {
                let shape = spec.shape.clone();
                let name = format!("{}.{suffix}", node.name);
                (name, TensorData { shape, values })
            }));
        }
        for branch in &node.branches {
            tensors.extend(from_images(branch, images));
        }
    }
    tensors
}

struct Initial {
    seed: u64,
    /// Parameters so far: each has its own stream of random numbers.
    number: u16,
    tensors: Vec<InitialTensor>,
}

impl Initial {
    fn add(&mut self, nodes: &[Node]) {
        for node in nodes {
            for parameter in &node.parameters {
                let rng = Rng::new(self.seed, Stream::Init(self.number), 0);
                self.number += 1;
                self.tensors.push(InitialTensor {
                    name: format!("{}.{}", node.name, parameter.suffix),
                    data: TensorData {
                        values: parameter.initial.values(&parameter.shape, &rng),
                        shape: parameter.shape.clone(),
                    },
                    group: Some(parameter.group),
                    trained: parameter.trained,
                });
            }
            for buffer in &node.buffers {
                let count = buffer.shape.iter().product();
                self.tensors.push(InitialTensor {
                    name: format!("{}.{}", node.name, buffer.suffix),
                    data: TensorData {
                        shape: buffer.shape.clone(),
                        values: vec![buffer.initial; count],
                    },
                    group: None,
                    trained: false,
                });
            }
            for branch in &node.branches {
                self.add(branch);
            }
        }
    }
}
