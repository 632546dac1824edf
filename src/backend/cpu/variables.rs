//! A network's variables by name.

use super::{NetworkSpec, Result, weights};
use candle_core::{Device, Tensor, Var};
use std::collections::HashMap;

/// Variables by name. Clones share the variables.
#[derive(Clone)]
pub struct Variables(HashMap<String, Var>);

impl Variables {
    /// New variables with the initial weights from `seed`.
    pub fn new(spec: &NetworkSpec, seed: u64) -> Result<Self> {
        let variable = |initial: weights::InitialTensor| {
            let data = initial.data;
            let tensor = Tensor::from_vec(data.values, data.shape, &Device::Cpu)?;
            Ok((initial.name, Var::from_tensor(&tensor)?))
        };
        let initial = weights::initial(&spec.nodes()?, seed);
        Ok(Variables(
            initial.into_iter().map(variable).collect::<Result<_>>()?,
        ))
    }

    pub fn by_name(&self) -> &HashMap<String, Var> {
        &self.0
    }
}
