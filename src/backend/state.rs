//! A network's state as plain numbers by name, on no device.

use super::{Error, Result};
use crate::layers::slices;
use std::collections::BTreeMap;

/// One tensor: its shape and its numbers in row-major order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TensorData {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// All that training a network further needs: weights, running statistics and the optimizer's state tensors
/// (`optimizer.SLOT.PARAMETER`), and the optimizer's scalars.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetworkState {
    pub tensors: BTreeMap<String, TensorData>,
    pub scalars: BTreeMap<String, f64>,
}

impl NetworkState {
    /// Whether every weight and running statistic is finite. The optimizer's state is not looked at.
    pub fn is_finite(&self) -> bool {
        let mut weights = self.tensors.iter();
        weights.all(|(name, tensor)| {
            name.starts_with("optimizer.") || slices::all_finite(&tensor.values)
        })
    }

    /// The tensors of these names and shapes, in their order.
    ///
    /// # Errors
    /// Names what is missing or has another shape.
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
