//! Images with their predictions, and figures of a network's parameters and activations.

use super::Split;
use crate::domain::number;
use serde::{Deserialize, Serialize};

/// The pixels of one image: 8-bit RGB, row by row, `3 * side * side` bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picture {
    pub side: u32,
    pub rgb: Vec<u8>,
}

impl Picture {
    /// The picture of the bytes `[channels, side, side]`: of three channels in RGB, of one in grey.
    pub fn from_planes(side: u32, bytes: &[u8]) -> Self {
        let plane = (side * side) as usize;
        let (green, blue) = match bytes.len() > plane {
            true => (plane, 2 * plane),
            false => (0, 0),
        };
        let rgb = (0..plane).flat_map(|i| [bytes[i], bytes[green + i], bytes[blue + i]]);
        Picture {
            side,
            rgb: rgb.collect(),
        }
    }
}

/// One image and the network's prediction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    pub split: Split,
    /// The image's index in its split.
    pub index: u32,
    pub truth: u16,
    pub predicted: u16,
    /// Probability of each class in the evaluation at `step`.
    pub probabilities: Vec<f32>,
    pub step: u64,
    pub picture: Picture,
    /// The predictions at all evaluations so far, oldest first.
    pub past: Vec<PastPrediction>,
}

/// The prediction of one image at one evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PastPrediction {
    pub step: u64,
    pub predicted: u16,
    pub confidence: f32,
}

/// Health of one parameter tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParameterHealth {
    /// The name in the checkpoint: `conv1.weight`.
    pub name: String,
    pub shape: Vec<usize>,
    /// L2 norms of the weights and of their last gradient. A checkpoint has no gradient.
    #[serde(with = "number")]
    pub weight_norm: f64,
    #[serde(default, with = "number::optional")]
    pub grad_norm: Option<f64>,
}

/// Health of one layer's outputs over a sample of validation images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnitHealth {
    pub name: String,
    /// Share of its ReLU units that were zero for every image.
    pub dead: f64,
    /// Share of its outputs that were zero.
    pub zero: f64,
}

/// Feature maps of one image at one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Activations {
    pub name: String,
    pub height: u32,
    pub width: u32,
    /// One map a channel, each `height * width` bytes, scaled so that the layer's largest value is 255.
    pub maps: Vec<Vec<u8>>,
    /// The value that 255 represents.
    pub largest: f32,
}

/// Figures and pictures of the network's inside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelReport {
    pub step: u64,
    pub parameters: Vec<ParameterHealth>,
    pub units: Vec<UnitHealth>,
    /// First-layer filters as pictures, each scaled to its own range; empty unless the first layer is a convolution.
    pub filters: Vec<Picture>,
    /// Activations of the requested image.
    pub activations: Vec<Activations>,
}
