//! A network's initial weights.

use super::TensorData;
use crate::domain::arch::{Node, Op};
use crate::domain::rng::{Rng, Stream};

/// Fresh weights and running statistics of all layers by name, in the network's order: weights Glorot uniform (Glorot,
/// Bengio: "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010: between plus and
/// minus sqrt(6 / (fan in + fan out)), where the fans of a convolution count its kernel's taps, as in Keras), biases
/// zero, norms one.
pub fn initial(nodes: &[Node], seed: u64) -> Vec<(String, TensorData)> {
    let mut weights = Initial {
        seed,
        number: 0,
        tensors: Vec::new(),
    };
    weights.add(nodes);
    weights.tensors
}

struct Initial {
    seed: u64,
    /// Parameters so far: each has its own stream of random numbers.
    number: u16,
    tensors: Vec<(String, TensorData)>,
}

impl Initial {
    fn add(&mut self, nodes: &[Node]) {
        for node in nodes {
            let name = &node.name;
            let inputs = node.input.channels as usize;
            match node.layer.op {
                Op::Conv { out, kernel, .. } => {
                    let (out, kernel) = (out as usize, kernel as usize);
                    let fans = (inputs + out) * kernel * kernel;
                    self.glorot(name, vec![out, inputs, kernel, kernel], fans);
                }
                Op::Dense { out } => {
                    let (out, inputs) = (out as usize, node.input.len() as usize);
                    self.glorot(name, vec![out, inputs], inputs + out);
                }
                Op::Norm => {
                    self.number += 2;
                    self.constant(name, "weight", inputs, 1.0);
                    self.constant(name, "bias", inputs, 0.0);
                    self.constant(name, "running_mean", inputs, 0.0);
                    self.constant(name, "running_var", inputs, 1.0);
                }
                Op::Relu
                | Op::Pool { .. }
                | Op::GlobalPool
                | Op::Drop { .. }
                | Op::Residual { .. } => {}
            }
            if node.bias {
                self.number += 1;
                self.constant(name, "bias", node.output.channels as usize, 0.0);
            }
            self.add(&node.body);
            self.add(&node.shortcut);
        }
    }

    fn constant(&mut self, layer: &str, suffix: &str, count: usize, value: f32) {
        let tensor = TensorData {
            shape: vec![count],
            values: vec![value; count],
        };
        self.tensors.push((format!("{layer}.{suffix}"), tensor));
    }

    fn glorot(&mut self, layer: &str, shape: Vec<usize>, fans: usize) {
        let rng = Rng::new(self.seed, Stream::Init(self.number), 0);
        self.number += 1;
        let limit = (6.0 / fans as f64).sqrt() as f32;
        let count: usize = shape.iter().product();
        let values = (0..count as u32)
            .map(|i| (2.0 * rng.uniform(i) - 1.0) * limit)
            .collect();
        self.tensors
            .push((format!("{layer}.weight"), TensorData { shape, values }));
    }
}
