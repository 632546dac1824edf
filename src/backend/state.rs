//! A network's state as plain numbers by name, in host memory.

use super::{Error, Result};
use crate::layers::slices;
use std::collections::BTreeMap;

/// The beginning of the names of the averaged tensors: `average.conv1.weight`.
const AVERAGE: &str = "average.";
/// The beginning of the names of the optimizer's tensors: `optimizer.exp_avg.conv1.weight`.
const OPTIMIZER: &str = "optimizer.";

/// A tensor: its shape, and its numbers in row-major order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TensorData {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// The whole training state of a network: its weights and running statistics, their average if it has one
/// (`average.NAME`), the optimizer's state tensors (`optimizer.SLOT.PARAMETER`) and scalars.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetworkState {
    pub tensors: BTreeMap<String, TensorData>,
    pub scalars: BTreeMap<String, f64>,
}

impl NetworkState {
    /// Whether every weight and running statistic, and their average, is finite. Does not check the optimizer's state.
    pub fn is_finite(&self) -> bool {
        let mut tensors = self.tensors.iter();
        tensors
            .all(|(name, tensor)| name.starts_with(OPTIMIZER) || slices::all_finite(&tensor.values))
    }

    /// The weights and running statistics.
    pub fn weights(&self) -> impl Iterator<Item = (&String, &TensorData)> {
        let tensors = self.tensors.iter();
        tensors.filter(|(name, _)| !name.starts_with(OPTIMIZER) && !name.starts_with(AVERAGE))
    }

    /// Replaces weights, running statistics and their average by those of `other` that have the same name and shape, and
    /// adds its average if there is none. The optimizer's state stays.
    pub fn take_weights(&mut self, other: &NetworkState) {
        for (name, tensor) in &other.tensors {
            let own = self.tensors.get(name);
            let fits = match own {
                Some(own) => own.shape == tensor.shape,
                None => name.starts_with(AVERAGE),
            };
            if fits && !name.starts_with(OPTIMIZER) {
                self.tensors.insert(name.clone(), tensor.clone());
            }
        }
    }

    /// This state with the weights, running statistics and average of `other`.
    ///
    /// # Errors
    /// Returns an error that names the weights that are missing or have another shape.
    pub fn with_weights(&self, other: &NetworkState) -> Result<NetworkState> {
        let own = self.weights();
        let wanted: Vec<_> = own
            .map(|(name, tensor)| (name.clone(), tensor.shape.clone()))
            .collect();
        other.select(&wanted)?;
        let mut state = self.clone();
        state.remove_average();
        state.take_weights(other);
        Ok(state)
    }

    /// Replaces the tensors whose own name or whose parameter's name is `chosen`, with their optimizer's state and average,
    /// by those of `with`. If `with` has no averages, its weights are taken as such. Returns the replaced tensors.
    pub fn replace(&mut self, with: &NetworkState, chosen: impl Fn(&str) -> bool) -> NetworkState {
        let mut before = NetworkState::default();
        for (name, tensor) in &mut self.tensors {
            let parameter = match name.strip_prefix(OPTIMIZER) {
                // The slot's name stands before the parameter's.
                Some(rest) => rest
                    .split_once('.')
                    .map_or(rest, |(_, parameter)| parameter),
                None => name.strip_prefix(AVERAGE).unwrap_or(name),
            };
            if !chosen(parameter) {
                continue;
            }
            let new = with.tensors.get(name).or_else(|| {
                let averaged = name.strip_prefix(AVERAGE)?;
                with.tensors.get(averaged)
            });
            if let Some(new) = new {
                let old = std::mem::replace(tensor, new.clone());
                before.tensors.insert(name.clone(), old);
            }
        }
        before
    }

    /// Adds the average of the tensor `name`.
    pub fn add_average(&mut self, name: &str, average: TensorData) {
        self.tensors.insert(format!("{AVERAGE}{name}"), average);
    }

    /// Removes the averages.
    pub fn remove_average(&mut self) {
        self.tensors.retain(|name, _| !name.starts_with(AVERAGE));
    }

    /// The averages of the tensors with these names and shapes, in this order. None if the state has no averages.
    ///
    /// # Errors
    /// Returns an error if it has only some of them, or one has another shape.
    pub fn average(&self, wanted: &[(String, Vec<usize>)]) -> Result<Option<Vec<&TensorData>>> {
        if !self.tensors.keys().any(|name| name.starts_with(AVERAGE)) {
            return Ok(None);
        }
        let averaged =
            |(name, shape): &(String, Vec<usize>)| (format!("{AVERAGE}{name}"), shape.clone());
        let wanted: Vec<_> = wanted.iter().map(averaged).collect();
        self.select(&wanted).map(Some)
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
