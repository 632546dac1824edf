//! A network's variables by name.

use super::{Error, NetworkSpec, Result, weights};
use candle_core::{Device, Tensor, Var};
use std::collections::HashMap;

/// Variables by name. Clones share them.
#[derive(Clone)]
pub struct Variables(HashMap<String, Var>);

impl Variables {
    /// New variables with the initial weights from `seed`.
    pub fn new(spec: &NetworkSpec, seed: u64) -> Result<Self> {
        let variable = |(name, data): (String, super::TensorData)| {
            let tensor = Tensor::from_vec(data.values, data.shape, &Device::Cpu)?;
            Ok((name, Var::from_tensor(&tensor)?))
        };
        let initial = weights::initial(&spec.nodes()?, seed);
        Ok(Variables(
            initial.into_iter().map(variable).collect::<Result<_>>()?,
        ))
    }

    /// The variable of this name.
    pub fn get(&self, name: &str) -> Result<Var> {
        match self.0.get(name) {
            Some(var) => Ok(var.clone()),
            None => Err(Error::Weights(format!("{name} is missing"))),
        }
    }
}
