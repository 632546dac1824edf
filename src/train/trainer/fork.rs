//! A new run that begins in the state of another one, with changes that no running run can make.

use super::resume::{check, mismatch};
use super::{Trainer, network_spec};
use crate::backend::{Device, NetworkState};
use crate::domain::arch;
use crate::domain::fork::ForkOrigin;
use crate::domain::layer_rates;
use crate::domain::params::{self, Applies, Change};
use crate::train::Result;
use crate::train::checkpoint::{Applied, Checkpoint, RunState};
use crate::train::training_data::TrainingData;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

impl Trainer {
    /// A new run in the state of a checkpoint; `path` is named in errors. Of the changes in `origin`, those take effect
    /// that need a new run; the caller requests the others. Weights whose name and shape fit are taken over. The rest
    /// begins afresh from the run's seed, and so does the optimizer's state if a weight does or the optimizer is another
    /// one. Layer rates of layers that are gone are dropped. The images stay divided as they were. With a new seed, the rest of an epoch under way has the order of the new
    /// seed.
    ///
    /// # Errors
    /// Returns an error if the run was trained on other data, its weights do not fit its own architecture, a change is not
    /// allowed or does not fit, or the device has too little memory or fails.
    pub fn fork(
        checkpoint: Checkpoint,
        path: &Path,
        mut origin: ForkOrigin,
        training_data: Rc<TrainingData>,
        device: &dyn Device,
        stop: Arc<AtomicBool>,
    ) -> Result<Self> {
        check(&checkpoint.run_state, path, &training_data)?;
        let Checkpoint {
            mut run_state,
            tensors,
        } = checkpoint;
        let before = network_spec(&run_state)?;
        apply(&mut run_state, &origin.changes)?;
        drop_rates_of_missing_layers(&mut run_state)?;
        let mut trainer = Self::in_state(&run_state, training_data, device, stop)?;
        let old = NetworkState {
            tensors,
            scalars: run_state.optimizer,
        };
        let new = trainer.backend.export(trainer.member)?;
        let same_optimizer = trainer.spec.optimizer.word == before.optimizer.word;
        let weights = new.weights().count();
        let (state, fresh) = taken_over(old, new, same_optimizer);
        // Only a change of the architecture may leave weights out.
        if !fresh.is_empty() && trainer.spec.arch == before.arch {
            let why = format!(
                "these weights are missing or have another shape: {}",
                fresh.join(", ")
            );
            return Err(mismatch(path, why).into());
        }
        origin.taken = (weights - fresh.len()) as u32;
        origin.fresh = fresh;
        // The best weights so far are of no use to another network.
        if (&trainer.spec.arch, &trainer.spec.scaling) != (&before.arch, &before.scaling) {
            run_state.best = None;
        }
        run_state.origin = Some(origin);
        (run_state.run, run_state.started) = (String::new(), 0.0);
        run_state.optimizer = state.scalars;
        let checkpoint = Checkpoint {
            run_state,
            tensors: state.tensors,
        };
        trainer.take_over(checkpoint, path)?;
        Ok(trainer)
    }
}

/// Makes the changes that need a new run. None of the changes is pending any more.
fn apply(run_state: &mut RunState, changes: &[Change]) -> Result<()> {
    for change in changes {
        let row = params::find(&change.key)?;
        run_state.pending.retain(|(key, _)| key != row.key);
        if row.applies != Applies::NextRun {
            continue;
        }
        row.set(&mut run_state.params, change.new.clone())?;
        run_state.changes.push(Applied {
            change: change.clone(),
            step: run_state.step + 1,
            epoch: run_state.epochs + 1,
        });
        if row.key == "architecture" {
            run_state.architecture = arch::resolve(&run_state.params.architecture)?.to_string();
        }
    }
    Ok(())
}

/// Drops the factors on the learning rates of layers that the network does not have, after a change of the architecture.
fn drop_rates_of_missing_layers(run_state: &mut RunState) -> Result<()> {
    let spec = network_spec(run_state)?;
    let layers = spec.arch.summary(spec.input, spec.classes)?;
    let row = params::find(layer_rates::KEY)?;
    let old = row.get(&run_state.params);
    run_state.params.layer_rates.retain(&layers);
    let new = row.get(&run_state.params);
    if new != old {
        run_state.changes.push(Applied {
            change: Change {
                key: row.key.into(),
                old,
                new,
            },
            step: run_state.step + 1,
            epoch: run_state.epochs + 1,
        });
    }
    Ok(())
}

/// The state for a network that would begin in the state `new`, with what fits of the state `old` of another one. Also
/// returns the names of the weights that do not fit and stay new.
fn taken_over(
    old: NetworkState,
    mut new: NetworkState,
    same_optimizer: bool,
) -> (NetworkState, Vec<String>) {
    let fits = |name: &String, shape: &[usize]| {
        let tensor = old.tensors.get(name);
        tensor.is_some_and(|tensor| tensor.shape == *shape)
    };
    let fresh: Vec<_> = new
        .weights()
        .filter(|(name, tensor)| !fits(name, &tensor.shape))
        .map(|(name, _)| name.clone())
        .collect();
    if fresh.is_empty() && same_optimizer {
        return (old, fresh);
    }
    new.take_weights(&old);
    if !fresh.is_empty() {
        new.remove_average();
    }
    (new, fresh)
}
