//! What a kind of layer is: a row of the table of kinds, and the trait that it implements.

use super::candle::CandlePass;
use super::cpu::{CpuPlace, Layer};
use super::input::Scaling;
use crate::domain::arch::{ArchError, Arguments, InferContext, Node};
use crate::domain::params::ParameterGroup;
use crate::domain::rng::Rng;
use candle_core::{Result, Tensor};
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// The argument of a convolution or dense layer without a bias.
pub const NO_BIAS: &str = "no-bias";

/// A row of the table of kinds.
#[derive(Clone, Copy)]
pub struct Kind {
    /// The word of the grammar that a layer of this kind begins with, in small letters.
    pub word: &'static str,
    /// The arguments as `--help` shows them, optional ones in brackets; empty if there are none.
    pub usage: &'static str,
    /// Reads what stands behind the word.
    pub parse: fn(&mut Arguments) -> std::result::Result<Arc<dyn LayerOp>, ArchError>,
}

/// A layer of an architecture: its kind and its arguments. `Display` writes it in the grammar, so that parsing the text
/// gives an equal layer.
pub trait LayerOp: Any + fmt::Debug + fmt::Display + Send + Sync {
    /// The layer's word in the grammar.
    fn word(&self) -> &'static str;

    /// Whether the layer has a name: its word and its number among the layers with this word. Layers with parameters,
    /// buffers or branches need a name.
    fn has_name(&self) -> bool {
        false
    }

    /// Whether a network may end with this layer, if its output has one number for each class.
    fn makes_logits(&self) -> bool {
        false
    }

    /// Infers from the input's shape the output's shape (initially the input's), parameters, buffers, multiply-adds and
    /// branches.
    ///
    /// # Errors
    /// Returns an error ([`InferContext::error`]) if the layer does not fit its input.
    fn infer(
        &self,
        _node: &mut Node,
        _context: &mut InferContext,
    ) -> std::result::Result<(), ArchError> {
        Ok(())
    }

    /// The parameters that it takes from the run's training images, by suffix; the others begin as their specs say.
    fn parameters_from(&self, _images: &SeenImages) -> Vec<(&'static str, Vec<f32>)> {
        Vec::new()
    }

    /// Makes the layer for the CPU. It may take in layers that follow ([`CpuPlace::absorb`]) and does then what they do.
    /// The GPU's launches are made from it ([`Layer::schedule`]).
    ///
    /// # Errors
    /// Returns an error if a variable has another shape, or the device runs out of memory.
    fn cpu(&self, place: &mut CpuPlace) -> Result<Box<dyn Layer>>;

    /// Applies the layer in Candle's operations, as the reference. `x` and the result are `[images, channels, height,
    /// width]`.
    ///
    /// # Errors
    /// Returns an error if an operation fails.
    fn candle(&self, node: &Node, x: &Tensor, pass: &mut CandlePass) -> Result<Tensor>;

    /// Whether the layer chooses where gradients go, like ReLU and max-pooling.
    fn makes_choices(&self) -> bool {
        false
    }

    /// The margin of each of the layer's choices for one image, whose shape is (channels, height, width).
    fn choice_gaps(&self, _image: &[f64], _shape: [usize; 3]) -> Vec<f64> {
        Vec::new()
    }
}

impl dyn LayerOp {
    /// The layer, if it is of this kind.
    pub fn downcast<T: LayerOp>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }
}

/// Images of a data set as a network sees them.
#[derive(Clone, Copy)]
pub struct SeenImages<'a> {
    /// `[images, channels, side, side]`.
    pub pixels: &'a [u8],
    pub side: usize,
    /// Which of them to look at.
    pub numbers: &'a [u32],
    pub scaling: &'a Scaling,
}

/// A tensor of weights.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterSpec {
    /// Its name within the layer: `weight`. A checkpoint has it as `LAYER.SUFFIX`.
    pub suffix: &'static str,
    pub shape: Vec<usize>,
    pub initial: Initialization,
    pub group: ParameterGroup,
    /// Whether the optimizer moves it. If not, its gradient is zero and the optimizer keeps no state for it.
    pub trained: bool,
}

impl ParameterSpec {
    /// A layer's weight, in this group.
    pub fn weight(group: ParameterGroup, shape: Vec<usize>, initial: Initialization) -> Self {
        ParameterSpec {
            suffix: "weight",
            shape,
            initial,
            group,
            trained: true,
        }
    }

    /// A bias: zeros at first.
    pub fn bias(len: usize) -> Self {
        ParameterSpec {
            suffix: "bias",
            shape: vec![len],
            initial: Initialization::Constant(0.0),
            group: ParameterGroup::Biases,
            trained: true,
        }
    }

    /// Number of its numbers.
    pub fn len(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A tensor that is saved and that the forward pass itself moves, as running statistics are.
#[derive(Clone, Debug, PartialEq)]
pub struct BufferSpec {
    /// Its name within the layer.
    pub suffix: &'static str,
    pub shape: Vec<usize>,
    /// The initial value of all elements.
    pub initial: f32,
}

/// The initial values of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initialization {
    Constant(f32),
    /// Uniform between plus and minus sqrt(6 / fans), where fans is fan in + fan out (Glorot, Bengio: "Understanding the
    /// difficulty of training deep feedforward neural networks", AISTATS 2010). The fans of a convolution count its
    /// kernel's taps, as in Keras.
    Glorot {
        fans: usize,
    },
    /// Of a convolution's weight: filter `i` lets input channel `i` through (1 at its kernel's centre, 0 elsewhere), as
    /// PyTorch's `dirac_`. Where there are more filters than inputs, the others are uniform between plus and minus
    /// 1 / sqrt(fan in), as PyTorch's convolutions begin.
    Dirac,
    /// Uniform numbers around zero with the standard deviation 1 (of these numbers, with one less than their count as the
    /// divisor).
    UnitVariance,
    /// The rows of the identity matrix, then their negatives; a row is what one output takes from its inputs.
    PlusMinusIdentity,
}

impl Initialization {
    /// The values of a parameter of this shape, with the random numbers of `rng`.
    pub fn values(self, shape: &[usize], rng: &Rng) -> Vec<f32> {
        let count: usize = shape.iter().product();
        let row = shape.get(1..).map_or(1, |row| row.iter().product());
        let uniform = |limit: f64| -> Vec<f32> {
            let limit = limit as f32;
            (0..count as u32)
                .map(|i| (2.0 * rng.uniform(i) - 1.0) * limit)
                .collect()
        };
        match self {
            Initialization::Constant(value) => vec![value; count],
            Initialization::Glorot { fans } => uniform((6.0 / fans as f64).sqrt()),
            Initialization::Dirac => {
                let mut values = uniform((1.0 / row as f64).sqrt());
                let [inputs, height, width] = [1, 2, 3].map(|i| shape.get(i).copied().unwrap_or(1));
                let centre = height / 2 * width + width / 2;
                for (channel, filter) in values.chunks_exact_mut(row).take(inputs).enumerate() {
                    filter.fill(0.0);
                    filter[channel * height * width + centre] = 1.0;
                }
                values
            }
            Initialization::UnitVariance => {
                let mut values = uniform(1.0);
                let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / count as f64;
                let squares = values.iter().map(|&v| (f64::from(v) - mean).powi(2));
                let variance = squares.sum::<f64>() / (count as f64 - 1.0).max(1.0);
                if variance > 0.0 {
                    let factor = 1.0 / variance.sqrt();
                    for value in &mut values {
                        *value = (f64::from(*value) * factor) as f32;
                    }
                }
                values
            }
            Initialization::PlusMinusIdentity => (0..count)
                .map(|i| match (i / row, i % row) {
                    (output, input) if output == input => 1.0,
                    (output, input) if output == row + input => -1.0,
                    _ => 0.0,
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::rng::Stream;

    fn values(initial: Initialization, shape: &[usize]) -> Vec<f32> {
        initial.values(shape, &Rng::new(3, Stream::Init(1), 0))
    }

    #[test]
    fn dirac_lets_each_channel_through_and_leaves_the_other_filters_as_pytorch_s() {
        let filters = values(Initialization::Dirac, &[5, 3, 3, 3]);
        for (o, filter) in filters.chunks_exact(27).enumerate().take(3) {
            let expected: Vec<f32> = (0..27).map(|i| f32::from(i == o * 9 + 4)).collect();
            assert_eq!(filter, expected);
        }
        let limit = (1.0f32 / 27.0).sqrt();
        let others = &filters[3 * 27..];
        let largest = others.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        assert!(
            largest <= limit && largest > 0.9 * limit,
            "{largest} {limit}"
        );
        // Fewer filters than channels, and an even kernel: dirac_ takes the pixel after the middle.
        let filters = values(Initialization::Dirac, &[2, 3, 2, 2]);
        let ones: Vec<_> = (0..filters.len()).filter(|i| filters[*i] != 0.0).collect();
        assert_eq!((ones, filters[3]), (vec![3, 12 + 4 + 3], 1.0));
    }

    #[test]
    fn unit_variance_is_exact() {
        let weights = values(Initialization::UnitVariance, &[10, 256]);
        let mean = weights.iter().map(|&v| f64::from(v)).sum::<f64>() / 2560.0;
        let squares = weights.iter().map(|&v| (f64::from(v) - mean).powi(2));
        let variance = squares.sum::<f64>() / 2559.0;
        assert!((variance - 1.0).abs() < 1e-6, "{variance}");
        let largest = weights.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        assert!((1.65..1.85).contains(&largest), "{largest}");
        assert!(values(Initialization::UnitVariance, &[1, 1])[0].is_finite());
    }
}
