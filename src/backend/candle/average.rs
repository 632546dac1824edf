//! The exponential moving average of a network's weights, in plain Candle.

use super::{NetworkState, Result, TensorData, data};
use candle_core::{Tensor, Var};
use std::collections::HashMap;

/// The averages of a network's parameters and running statistics, by name.
pub struct Average(HashMap<String, Tensor>);

impl Average {
    /// Moves the average to `decay * average + (1 - decay) * weights`, where `weights` are a network's parameters and
    /// running statistics by name. It begins as a copy of them.
    pub fn moved<'a>(
        before: Option<Average>,
        weights: impl Iterator<Item = (&'a String, &'a Tensor)>,
        decay: f64,
    ) -> Result<Self> {
        let moved = |(name, now): (&String, &Tensor)| {
            let now = now.copy()?.detach();
            let average = match before.as_ref().and_then(|before| before.0.get(name)) {
                // In this form equal weights keep the average exactly as it is.
                Some(before) => (before + ((now - before)? * (1.0 - decay))?)?,
                None => now,
            };
            Ok((name.clone(), average))
        };
        Ok(Average(weights.map(moved).collect::<Result<_>>()?))
    }

    /// The average in the state of a network with these weights. None if it has none.
    ///
    /// # Errors
    /// Returns an error if tensors of the average are missing or have another shape.
    pub fn from_state<'a>(
        state: &NetworkState,
        weights: impl Iterator<Item = (&'a String, &'a Tensor)>,
    ) -> Result<Option<Self>> {
        let weights: Vec<_> = weights.collect();
        let shapes = weights
            .iter()
            .map(|(name, t)| ((*name).clone(), t.dims().to_vec()));
        let Some(found) = state.average(&shapes.collect::<Vec<_>>())? else {
            return Ok(None);
        };
        let tensor = |((name, like), data): (&(&String, &Tensor), &TensorData)| {
            let tensor = Tensor::from_slice(&data.values, &data.shape[..], like.device())?;
            Ok(((*name).clone(), tensor.to_dtype(like.dtype())?))
        };
        let tensors = weights.iter().zip(found).map(tensor);
        Ok(Some(Average(tensors.collect::<Result<_>>()?)))
    }

    /// Adds the average to a state.
    pub fn add_to(&self, state: &mut NetworkState) -> Result<()> {
        for (name, tensor) in &self.0 {
            state.add_average(name, data(tensor)?);
        }
        Ok(())
    }

    /// The averages of these parameters.
    pub fn parameters(&self, of: &HashMap<String, Var>) -> Result<HashMap<String, Var>> {
        let names = self.0.iter().filter(|(name, _)| of.contains_key(*name));
        let parameters = names.map(|(name, t)| Ok((name.clone(), Var::from_tensor(t)?)));
        parameters.collect()
    }

    /// All averages, by name.
    pub fn tensors(&self) -> &HashMap<String, Tensor> {
        &self.0
    }
}
