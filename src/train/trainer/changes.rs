//! Requested changes of hyperparameters: applied at once, or kept until the epoch or the run in which they may change.

use super::{Trainer, TrainingHost, capacity};
use crate::backend::{self, NetworkState};
use crate::domain::layer_rates;
use crate::domain::params::{
    self, Applies, Change, HYPERPARAMS, HyperParam, HyperParamError, Hyperparameters, Value,
};
use crate::domain::recipes;
use crate::train::Result;
use crate::train::checkpoint::{Applied, RunState};

/// The result of a request to change a hyperparameter.
#[derive(Clone, Debug, PartialEq)]
pub enum ChangeOutcome {
    Applied(Applied),
    /// The change takes effect at this later time.
    Pending(Change, Applies),
    /// The request was withdrawn: it equals the current value.
    Withdrawn,
    /// The requested value was requested before or is in force already.
    Unchanged,
}

/// A request that can be undone.
pub(super) enum Undoable {
    /// The hyperparameter and its value before the request.
    Change(&'static HyperParam, Value),
    /// The layer, the last step before the reset, and the layer's state then.
    Reset {
        layer: String,
        at: u64,
        before: NetworkState,
    },
}

impl Trainer {
    /// Changes a hyperparameter: at once, at the next epoch or in the next run, as its row in HYPERPARAMS says.
    ///
    /// # Errors
    /// Returns an error if the value is not allowed, or the hyperparameter is being compared.
    pub fn request_change(
        &mut self,
        row: &'static HyperParam,
        value: Value,
    ) -> std::result::Result<ChangeOutcome, HyperParamError> {
        let value = self.check(row, value)?;
        self.check_not_compared(row)?;
        let before = self.wanted(row);
        if value == before {
            return Ok(ChangeOutcome::Unchanged);
        }
        self.requests.push(Undoable::Change(row, before));
        self.accept(row, value)
    }

    /// Checks a value, and that the network has the layers that it names.
    pub(super) fn check(
        &self,
        row: &'static HyperParam,
        value: Value,
    ) -> std::result::Result<Value, HyperParamError> {
        let mut params = self.run_state.params.clone();
        row.set(&mut params, value)?;
        if row.key == layer_rates::KEY {
            params.layer_rates.check(&self.layers)?;
        }
        Ok(row.get(&params))
    }

    /// Undoes the last request if it is a change of a hyperparameter. Returns None if it is not. [`Trainer::take_back_reset`]
    /// undoes the reset of a layer.
    ///
    /// # Errors
    /// Returns an error if the hyperparameter is being compared. (The earlier value was checked when it was requested.)
    pub fn undo_change(
        &mut self,
    ) -> std::result::Result<Option<(&'static HyperParam, ChangeOutcome)>, HyperParamError> {
        let Some(Undoable::Change(row, before)) = self.requests.last() else {
            return Ok(None);
        };
        let (row, before) = (*row, before.clone());
        self.check_not_compared(row)?;
        self.requests.pop();
        Ok(Some((row, self.accept(row, before)?)))
    }

    fn accept(
        &mut self,
        row: &'static HyperParam,
        value: Value,
    ) -> std::result::Result<ChangeOutcome, HyperParamError> {
        self.run_state.pending.retain(|(key, _)| key != row.key);
        let live = row.get(&self.run_state.params);
        if live == value {
            return Ok(ChangeOutcome::Withdrawn);
        }
        let now = match row.applies {
            Applies::Now => true,
            Applies::NextEpoch => self.may_change(row),
            Applies::NextRun => false,
        };
        if now {
            return Ok(ChangeOutcome::Applied(self.apply(row, value)?));
        }
        let pending = (row.key.into(), value.clone());
        self.run_state.pending.push(pending);
        let change = Change {
            key: row.key.into(),
            old: live,
            new: value,
        };
        Ok(ChangeOutcome::Pending(change, row.applies))
    }

    /// Whether a hyperparameter that changes between epochs may change now. A finished run that ended within an epoch
    /// may get more epochs.
    fn may_change(&self, row: &HyperParam) -> bool {
        self.at_epoch_start() || row.key == "epochs" && self.is_finished()
    }

    /// The hyperparameters that a restarted run begins with: the current ones, or those of a pending recipe, with all
    /// other pending changes applied.
    pub fn wanted_params(&self) -> Hyperparameters {
        recipes::changed(&self.run_state.params, |key| {
            let pending = self.run_state.pending.iter().find(|(k, _)| k == key);
            pending.map(|(_, value)| value.clone())
        })
    }

    fn wanted(&self, row: &HyperParam) -> Value {
        let pending = self
            .run_state
            .pending
            .iter()
            .find(|(key, _)| key == row.key);
        pending.map_or_else(
            || row.get(&self.run_state.params),
            |(_, value)| value.clone(),
        )
    }

    fn apply(
        &mut self,
        row: &'static HyperParam,
        value: Value,
    ) -> std::result::Result<Applied, HyperParamError> {
        self.apply_to_variant(row, value.clone())?;
        apply_to(&mut self.run_state, row, value)
    }

    /// Undoes, for lack of memory, a change that switched the average of the weights on with the next step, and reports it
    /// to the host. Returns false if there was no such change.
    pub(super) fn refuse_average(
        &mut self,
        host: &mut impl TrainingHost,
        error: &backend::Error,
    ) -> Result<bool> {
        let row = params::find("average_decay")?;
        let (next, off) = (self.run_state.step + 1, Value::Float(0.0));
        let is_switch = |a: &Applied| a.change.key == row.key && a.change.old == off;
        let mut changes = self.run_state.changes.iter();
        let switched_on = changes.any(|a| a.step == next && is_switch(a));
        if !switched_on || row.get(&self.run_state.params) == off {
            return Ok(false);
        }
        let applied = self.apply(row, off)?;
        host.applied(&applied);
        host.change_refused(error.to_string());
        Ok(true)
    }

    /// Sets `epochs` to those done, which finishes the run.
    pub(super) fn end_here(&mut self, host: &mut impl TrainingHost) -> Result<()> {
        let row = params::find("epochs")?;
        let done = f64::from(self.run_state.epochs);
        let applied = self.apply(row, Value::Float(done))?;
        host.applied(&applied);
        Ok(())
    }

    /// Applies the changes that wait for the next epoch. A batch size that does not fit in memory is undone and
    /// reported to the host.
    pub(super) fn apply_pending(&mut self, host: &mut impl TrainingHost) -> Result<()> {
        let batch_size = self.run_state.params.batch_size;
        for row in HYPERPARAMS
            .iter()
            .filter(|r| r.applies == Applies::NextEpoch)
        {
            if !self.may_change(row) {
                continue;
            }
            let pending = &mut self.run_state.pending;
            if let Some(at) = pending.iter().position(|(key, _)| key == row.key) {
                let (_, value) = pending.remove(at);
                let applied = self.apply(row, value)?;
                host.applied(&applied);
            }
        }
        let capacity = capacity(&self.run_state.params);
        if capacity == self.backend.capacity() {
            return Ok(());
        }
        match self.backend.resize(capacity) {
            Err(error) if error.is_out_of_memory() => {
                if let Some(row) = params::param("batch_size") {
                    let before = Value::Int(u64::from(batch_size));
                    if let Ok(applied) = self.apply(row, before) {
                        host.applied(&applied);
                    }
                }
                host.change_refused(error.to_string());
            }
            other => other?,
        }
        Ok(())
    }
}

/// Makes a change from the next step on.
pub(super) fn apply_to(
    run_state: &mut RunState,
    row: &'static HyperParam,
    value: Value,
) -> std::result::Result<Applied, HyperParamError> {
    let old = row.get(&run_state.params);
    row.set(&mut run_state.params, value.clone())?;
    let applied = Applied {
        change: Change {
            key: row.key.into(),
            old,
            new: value,
        },
        step: run_state.step + 1,
        epoch: run_state.epochs + 1,
    };
    run_state.changes.push(applied.clone());
    Ok(applied)
}

/// The error that refuses a change.
pub(super) fn refuse(row: &HyperParam, why: &str) -> HyperParamError {
    HyperParamError {
        key: row.key.into(),
        why: why.into(),
    }
}
