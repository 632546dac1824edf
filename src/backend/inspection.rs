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
            grad_norm: Some(norm(&gradient.values)),
        })
    };
    gradients.iter().filter_map(health).collect()
}

/// The L2 norm of these numbers.
fn norm(numbers: &[f32]) -> f64 {
    let squares = numbers.iter().map(|&v| f64::from(v) * f64::from(v));
    squares.sum::<f64>().sqrt()
}

/// The first layer's filters as pictures, each scaled to its own range: grey where images have one channel. Empty unless
/// the first layer is a convolution.
pub fn filters(spec: &NetworkSpec, state: &NetworkState) -> Vec<Picture> {
    let nodes = spec.nodes().unwrap_or_default();
    let first = nodes
        .first()
        .and_then(|node| state.tensors.get(&format!("{}.weight", node.name)));
    let Some(TensorData { shape, values }) = first else {
        return Vec::new();
    };
    let &[_, channels, side, _] = &shape[..] else {
        return Vec::new();
    };
    let picture = |filter: &[f32]| {
        let min = filter.iter().copied().fold(f32::INFINITY, f32::min);
        let max = filter.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let range = if max > min { max - min } else { 1.0 };
        let byte = |v: &f32| ((v - min) / range * 255.0).round() as u8;
        Picture::from_planes(side as u32, &filter.iter().map(byte).collect::<Vec<_>>())
    };
    let filters = values.chunks_exact(channels * side * side);
    filters.map(picture).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Scaling, rule};
    use crate::domain::arch::{Shape, resolve};
    use crate::domain::params::{Optimizer, Precision};

    #[test]
    fn filters_of_grey_images_are_grey() {
        let spec = NetworkSpec {
            arch: resolve("conv 2 k2, dense 10").unwrap(),
            input: Shape::new(1, 4, 4),
            classes: 10,
            scaling: Scaling::UNIT,
            optimizer: rule(Optimizer::Sgd),
            precision: Precision::F32,
        };
        let mut state = NetworkState::default();
        let weight = TensorData {
            shape: vec![2, 1, 2, 2],
            values: vec![-1.0, 0.0, 1.0, 2.0, 5.0, 5.0, 5.0, 5.0],
        };
        state.tensors.insert("conv1.weight".into(), weight);
        let pictures = filters(&spec, &state);
        let rgb = [0, 85, 170, 255].map(|v| [v; 3]).concat();
        assert_eq!(pictures.len(), 2);
        assert_eq!((pictures[0].side, &pictures[0].rgb), (2, &rgb));
        assert_eq!(pictures[1].rgb, [0; 12]);
    }
}
