//! A network's state as plain numbers by name, in host memory.

use super::{Error, Result};
use crate::layers::slices;
use std::collections::BTreeMap;

/// A tensor: its shape, and its numbers in row-major order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TensorData {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// The whole training state of a network: its weights and running statistics, the optimizer's state tensors
/// (`optimizer.SLOT.PARAMETER`) and scalars.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetworkState {
    pub tensors: BTreeMap<String, TensorData>,
    pub scalars: BTreeMap<String, f64>,
}

impl NetworkState {
    /// Whether every weight and running statistic is finite. Does not check the optimizer's state.
    pub fn is_finite(&self) -> bool {
        let mut weights = self.tensors.iter();
        weights.all(|(name, tensor)| {
            name.starts_with("optimizer.") || slices::all_finite(&tensor.values)
        })
    }

    /// The tensors with these names and shapes, in this order.
    ///
    /// # Errors
    /// Returns an error that names the tensors that are missing or have another shape.
    pub fn select<'a>(&'a self, wanted: &[(String, Vec<usize>)]) -> Result<Vec<&'a TensorData>> {
        let (mut wrong, mut found) = (Vec::new(), Vec::new());
        for (name, shape) in wanted {
            match self.tensors.get(name) {
                None => wrong.push(format!("{name} is missing")),
                Some(tensor) if tensor.shape != *shape => wrong.push(format!(
                    "{name} has the shape {:?} instead of {shape:?}",
                    tensor.shape
                )),
                Some(tensor) => found.push(tensor),
            }
        }
        match wrong.len() {
            0 => Ok(found),
            1..=3 => Err(Error::Weights(wrong.join(", "))),
            n => {
                wrong.truncate(3);
                let first = wrong.join(", ");
                Err(Error::Weights(format!("{first}, and {} more", n - 3)))
            }
        }
    }
}
