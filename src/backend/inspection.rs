//! Inspections of a network: requests, results, and what can be computed from a state alone.

use super::{ImageSet, NetworkSpec, NetworkState, TensorData};
use crate::domain::report::{Activations, ParameterHealth, Picture, UnitHealth};
use std::rc::Rc;

/// A request for values of a network.
#[derive(Clone, Debug, Default)]
pub struct Inspection {
    /// Every layer's output for one image.
    pub activations: Option<(Rc<ImageSet>, u32)>,
    /// Count the units of each layer with a ReLU that are zero for all of these images.
    pub units: Option<(Rc<ImageSet>, Vec<u32>)>,
    /// The gradients of the last training step.
    pub gradients: bool,
}

/// The result of an inspection. Fields that were not requested are empty.
#[derive(Clone, Debug, Default)]
pub struct Inspected {
    pub activations: Vec<Activations>,
    pub units: Vec<UnitHealth>,
    /// The gradients by the parameters' names, in the network's order.
    pub gradients: Vec<(String, TensorData)>,
}

/// The L2 norms of all parameters and of their gradients, in the network's order.
pub fn parameter_health(
    state: &NetworkState,
    gradients: &[(String, TensorData)],
) -> Vec<ParameterHealth> {
    let health = |(name, gradient): &(String, TensorData)| {
        let weight = state.tensors.get(name)?;
        Some(ParameterHealth {
            name: name.clone(),
            shape: weight.shape.clone(),
            weight_norm: norm(&weight.values),
            grad_norm: norm(&gradient.values),
        })
    };
    gradients.iter().filter_map(health).collect()
}

/// The L2 norm of these numbers.
fn norm(numbers: &[f32]) -> f64 {
    let squares = numbers.iter().map(|&v| f64::from(v) * f64::from(v));
    squares.sum::<f64>().sqrt()
}

/// The first layer's filters as RGB pictures, each scaled to its own range; empty unless the first layer is a
/// convolution of three channels.
pub fn filters(spec: &NetworkSpec, state: &NetworkState) -> Vec<Picture> {
    let nodes = spec.nodes().unwrap_or_default();
    let first = nodes
        .first()
        .and_then(|node| state.tensors.get(&format!("{}.weight", node.name)));
    let Some(TensorData { shape, values }) = first else {
        return Vec::new();
    };
    let &[_, 3, side, _] = &shape[..] else {
        return Vec::new();
    };
    let plane = side * side;
    let picture = |filter: &[f32]| {
        let min = filter.iter().copied().fold(f32::INFINITY, f32::min);
        let max = filter.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let range = if max > min { max - min } else { 1.0 };
        let rgb = (0..plane)
            .flat_map(|i| (0..3).map(move |c| c * plane + i))
            .map(|i| ((filter[i] - min) / range * 255.0).round() as u8)
            .collect();
        Picture {
            side: side as u32,
            rgb,
        }
    };
    values.chunks_exact(3 * plane).map(picture).collect()
}
