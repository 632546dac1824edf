//! Gives a layer fresh weights while the run trains, and takes that back.

use super::Trainer;
use super::changes::Undoable;
use crate::backend::{self, NetworkState};
use crate::domain::layer_rates::{self, is_in};
use crate::domain::report::LayerReset;
use crate::domain::rng::{Rng, Stream};
use crate::train::{Error, Result};

/// Number of resets that can be undone; each keeps the layer's state.
const MAX_RESETS: usize = 8;

/// Why a layer is not reset. The messages say what to do.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    #[error("a comparison is under way: keep or drop its change first")]
    Comparison,
    #[error("the first step is still to come: all weights are fresh")]
    Fresh,
    #[error(
        "an epoch ends here, and its scores and checkpoints are of these weights: make a step first"
    )]
    EpochEnd,
    #[error("{layer} was reset at this step already")]
    Already { layer: String },
    #[error("{0}")]
    Layer(String),
    #[error("layer {layer} has no weights")]
    NoWeights { layer: String },
    #[error(transparent)]
    Train(#[from] Error),
}

impl Trainer {
    /// Checks that a layer or block can be reset now.
    ///
    /// # Errors
    /// Returns an error if there is no such layer, it has no weights or was reset at this step, an epoch ends here, the run
    /// has made no step, or a comparison is under way.
    pub fn can_reset(&self, layer: &str) -> std::result::Result<(), ResetError> {
        if self.variant.is_some() {
            return Err(ResetError::Comparison);
        }
        if self.run_state.step == 0 {
            return Err(ResetError::Fresh);
        }
        self.check_within_epoch()?;
        if let Some(Undoable::Reset {
            layer: last, at, ..
        }) = self.requests.last()
            && (last, *at) == (&layer.to_owned(), self.run_state.step)
        {
            let layer = layer.into();
            return Err(ResetError::Already { layer });
        }
        layer_rates::check_layer(layer, &self.layers).map_err(ResetError::Layer)?;
        match layer_rates::has_weights(layer, &self.layers) {
            true => Ok(()),
            false => Err(ResetError::NoWeights {
                layer: layer.into(),
            }),
        }
    }

    /// Gives a layer, or all layers of a block, the weights of a new network: its weights and running statistics begin
    /// again, with their averages, and the optimizer's state for them. The rest of the network, the optimizer's scalars and
    /// the schedule go on. Adam does not correct its averages' first steps again, so that the layer's steps are longer than
    /// usual at first: for a constant gradient 3 times at once, 7 times after twelve steps, 3 times after a hundred. The
    /// weights depend on the run's seed and step. [`Trainer::take_back_reset`] undoes it.
    ///
    /// # Errors
    /// Returns the errors of [`Trainer::can_reset`], and an error if memory is short or the device fails. Nothing has
    /// changed then.
    pub fn reset_layer(&mut self, layer: &str) -> std::result::Result<LayerReset, ResetError> {
        self.can_reset(layer)?;
        let fresh = self.fresh_state().map_err(Error::from)?;
        let before = self.exchange_layer(layer, &fresh)?;
        self.requests.push(Undoable::Reset {
            layer: layer.into(),
            at: self.run_state.step,
            before,
        });
        self.forget_old_resets();
        Ok(self.report(layer, false))
    }

    /// Checks that no scores and no checkpoint of an epoch's end belong to the present step: steps name weights, so that
    /// those of such a step must not change.
    fn check_within_epoch(&self) -> std::result::Result<(), ResetError> {
        let state = &self.run_state;
        match state.is_closed() || state.step_in_epoch >= self.steps_of_epoch() {
            true => Err(ResetError::EpochEnd),
            false => Ok(()),
        }
    }

    /// Drops the states of all but the last few resets, which can then not be undone.
    fn forget_old_resets(&mut self) {
        let mut newer = 0;
        for i in (0..self.requests.len()).rev() {
            if matches!(self.requests[i], Undoable::Reset { .. }) {
                newer += 1;
                if newer > MAX_RESETS {
                    self.requests.remove(i);
                }
            }
        }
    }

    /// Whether the last request is the reset of a layer, so that it can be taken back now.
    ///
    /// # Errors
    /// Returns an error if it is, and an epoch ends here or a comparison is under way.
    pub fn can_take_back_reset(&self) -> std::result::Result<bool, ResetError> {
        match (self.requests.last(), &self.variant) {
            (Some(Undoable::Reset { .. }), Some(_)) => Err(ResetError::Comparison),
            (Some(Undoable::Reset { .. }), None) => self.check_within_epoch().map(|()| true),
            _ => Ok(false),
        }
    }

    /// Undoes the last request, the reset of a layer: gives it the state that it had then. Returns None if the last request
    /// is another one.
    ///
    /// # Errors
    /// Returns an error if a comparison is under way or the device fails. Nothing has changed then.
    pub fn take_back_reset(&mut self) -> std::result::Result<Option<LayerReset>, ResetError> {
        if !self.can_take_back_reset()? {
            return Ok(None);
        }
        let Some(Undoable::Reset { layer, at, before }) = self.requests.pop() else {
            return Ok(None);
        };
        if let Err(error) = self.exchange_layer(&layer, &before) {
            self.requests.push(Undoable::Reset { layer, at, before });
            return Err(error.into());
        }
        Ok(Some(self.report(&layer, true)))
    }

    fn report(&self, layer: &str, taken_back: bool) -> LayerReset {
        LayerReset {
            layer: layer.into(),
            taken_back,
            step: self.run_state.step + 1,
            epoch: self.run_state.epochs + 1,
        }
    }

    /// The state of a new network whose weights depend on the run's seed and step.
    fn fresh_state(&mut self) -> backend::Result<NetworkState> {
        let rng = Rng::new(
            self.run_state.params.seed,
            Stream::Reset,
            self.run_state.step,
        );
        let [low, high, ..] = rng.block(0).map(u64::from);
        let member = self.backend.add(high << 32 | low)?;
        let images = &self.training_data.train;
        let numbers = &self.division.train;
        let backend = &mut *self.backend;
        let made = backend::take_from_images(backend, member, &self.spec, images, numbers)
            .and_then(|()| backend.export(member));
        backend.remove(member);
        made
    }

    /// Replaces a layer's tensors, and the optimizer's state for them, by those of `with`. Returns the earlier ones. The
    /// average begins at the layer's new weights if `with` has none.
    fn exchange_layer(&mut self, layer: &str, with: &NetworkState) -> Result<NetworkState> {
        let mut state = self.backend.export(self.member)?;
        let before = state.replace(with, |tensor| is_in(tensor, layer));
        self.backend.import(self.member, &state)?;
        Ok(before)
    }
}
