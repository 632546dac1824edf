//! Looks at an earlier state of a run while the run stands where it is.

use super::Trainer;
use super::resume::{check, mismatch};
use crate::backend::NetworkState;
use crate::train::Result;
use crate::train::checkpoint::Checkpoint;
use std::path::Path;

impl Trainer {
    /// Calls `look` on this trainer as it was at `past`, a checkpoint of its run; `path` is named in errors. Nothing of
    /// the run changes: a second network holds the checkpoint's weights meanwhile.
    ///
    /// # Errors
    /// Returns an error if the checkpoint is of another network, of other data, or of data that were divided in another
    /// way; if the device has no memory for the second network, or fails; and the errors of `look`.
    pub fn look_back<T>(
        &mut self,
        past: &Checkpoint,
        path: &Path,
        look: impl FnOnce(&mut Trainer) -> Result<T>,
    ) -> Result<T> {
        check(&past.run_state, path, &self.training_data)?;
        let (then, now) = (&past.run_state, &self.run_state);
        let divided =
            then.split_seed == now.split_seed && then.params.validation == now.params.validation;
        if !divided || !self.can_exchange(past) {
            return Err(mismatch(path, "it is not of this run".into()).into());
        }
        let state = NetworkState {
            tensors: past.tensors.clone(),
            scalars: then.optimizer.clone(),
        };
        let member = self.backend.add(0)?;
        let looked = match self.backend.import(member, &state) {
            Ok(()) => {
                let own = std::mem::replace(&mut self.member, member);
                let now = std::mem::replace(&mut self.run_state, past.run_state.clone());
                let looked = look(self);
                (self.member, self.run_state) = (own, now);
                looked
            }
            Err(error) => Err(error.into()),
        };
        self.backend.remove(member);
        looked
    }
}
