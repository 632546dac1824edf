//! What a kind of layer is: a row of the table of kinds, and the trait that it implements.

use super::candle::CandlePass;
use super::cpu::{CpuPlace, Layer};
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
}

impl Initialization {
    /// The values of a parameter of this shape, with the random numbers of `rng`.
    pub fn values(self, shape: &[usize], rng: &Rng) -> Vec<f32> {
        let count: usize = shape.iter().product();
        match self {
            Initialization::Constant(value) => vec![value; count],
            Initialization::Glorot { fans } => {
                let limit = (6.0 / fans as f64).sqrt() as f32;
                (0..count as u32)
                    .map(|i| (2.0 * rng.uniform(i) - 1.0) * limit)
                    .collect()
            }
        }
    }
}
