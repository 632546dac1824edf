//! The reference implementation of layers in Candle's operations, with gradients by its autograd. Activations are
//! `[images, channels, height, width]`.
//!
//! Candle 0.11's own ReLU has the gradient 1 at zero and its max-pooling a wrong one, so both are made of `where_cond`.

use super::cpu::TrainingPass;
use super::kind::{LayerOp, ParameterSpec};
use crate::domain::arch::Node;
use candle_core::{DType, Result, Tensor, Var, bail};
use std::collections::HashMap;

/// One forward pass.
pub struct CandlePass<'a> {
    pub parameters: &'a HashMap<String, Var>,
    /// The layers' buffers, such as running statistics.
    pub buffers: &'a HashMap<String, Tensor>,
    /// None while scoring: no dropout, and the norms use their running statistics.
    pub training: Option<&'a mut CandleTraining>,
}

/// The additional state of a training pass.
pub struct CandleTraining {
    pub pass: TrainingPass,
    /// Number of dropout layers so far.
    dropouts: u16,
    /// The buffers after this step.
    pub buffers: HashMap<String, Tensor>,
    /// Collects the margins of the network's choices, if they are measured.
    pub margins: Option<Margins>,
}

impl CandleTraining {
    pub fn new(pass: TrainingPass) -> Self {
        CandleTraining {
            pass,
            dropouts: 0,
            buffers: HashMap::new(),
            margins: None,
        }
    }

    /// The number of the network's next dropout layer.
    pub fn next_dropout(&mut self) -> u16 {
        let number = self.dropouts;
        self.dropouts += 1;
        number
    }
}

impl CandlePass<'_> {
    /// Applies layers in order and returns the last output.
    ///
    /// # Errors
    /// Returns an error if a layer returns one.
    pub fn sequential(&mut self, nodes: &[Node], input: &Tensor) -> Result<Tensor> {
        let mut x = input.clone();
        for node in nodes {
            if let Some(margins) = self.training.as_mut().and_then(|t| t.margins.as_mut()) {
                margins.add(&*node.layer.op, &x)?;
            }
            x = node.layer.op.candle(node, &x, self)?;
        }
        Ok(x)
    }

    /// A layer's parameter of this suffix; without a gradient if it is not trained.
    ///
    /// # Errors
    /// Returns an error if it is missing.
    pub fn parameter(&self, node: &Node, suffix: &str) -> Result<Tensor> {
        let name = format!("{}.{suffix}", node.name);
        let Some(parameter) = self.parameters.get(&name) else {
            bail!("{name} is missing");
        };
        let trained = |p: &ParameterSpec| p.suffix == suffix && p.trained;
        Ok(match node.parameters.iter().any(trained) {
            true => parameter.as_tensor().clone(),
            false => parameter.as_detached_tensor(),
        })
    }

    /// The bias, when the layer has one.
    ///
    /// # Errors
    /// Returns an error if it is missing.
    pub fn bias(&self, node: &Node) -> Result<Option<Tensor>> {
        match node.has_parameter("bias") {
            true => Ok(Some(self.parameter(node, "bias")?)),
            false => Ok(None),
        }
    }

    /// A layer's buffer with this suffix, with its value before the pass.
    ///
    /// # Errors
    /// Returns an error if it is missing.
    pub fn buffer(&self, node: &Node, suffix: &str) -> Result<Tensor> {
        let name = format!("{}.{suffix}", node.name);
        match self.buffers.get(&name) {
            Some(buffer) => Ok(buffer.clone()),
            None => bail!("{name} is missing"),
        }
    }
}

/// The margins of a network's choices. The sign of a ReLU's input and the largest number of a pooling window decide
/// where gradients go. If a margin is as small as the rounding errors, two correct implementations that round
/// differently may choose differently and then have different gradients.
///
/// Contains for each image of a batch the smallest margin of its choices so far, divided by the largest absolute value
/// of the layer's input. Exact zeros and exact ties do not count: they come from zeros of earlier layers and are the
/// same in every implementation.
pub struct Margins(pub Vec<f64>);

impl Margins {
    pub fn new(images: usize) -> Self {
        Margins(vec![f64::INFINITY; images])
    }

    /// Adds the choices of a layer with the input `x`, `[images, channels, height, width]`.
    ///
    /// # Errors
    /// Returns an error if the device fails.
    pub fn add(&mut self, op: &dyn LayerOp, x: &Tensor) -> Result<()> {
        if !op.makes_choices() {
            return Ok(());
        }
        let (_, channels, height, width) = x.dims4()?;
        let images: Vec<Vec<f64>> = x.flatten_from(1)?.to_dtype(DType::F64)?.to_vec2()?;
        let largest = images.iter().flatten().fold(0.0f64, |m, v| m.max(v.abs()));
        for (margin, image) in self.0.iter_mut().zip(&images) {
            for gap in op.choice_gaps(image, [channels, height, width]) {
                if gap > 0.0 {
                    *margin = margin.min(gap / largest);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::pool::PoolOp;
    use crate::layers::relu::ReluOp;
    use candle_core::Device;

    #[test]
    fn the_smallest_gap_counts_and_exact_ties_do_not() {
        let image = |values: [f64; 4]| Tensor::new(&values, &Device::Cpu).unwrap();
        let x = Tensor::cat(
            &[image([4.0, -1.0, 0.0, 2.0]), image([0.0, 0.0, 3.0, 3.0])],
            0,
        );
        let x = x.unwrap().reshape((2, 1, 2, 2)).unwrap();
        let mut margins = Margins::new(2);
        margins.add(&ReluOp, &x).unwrap();
        assert_eq!(margins.0, [0.25, 0.75]);
        let mut margins = Margins::new(2);
        let pool = PoolOp {
            kernel: 2,
            stride: 2,
        };
        margins.add(&pool, &x).unwrap();
        assert_eq!(margins.0, [0.5, f64::INFINITY]);
    }
}
