//! Throughput of the training steps, and the estimate of the remaining time.

use super::{SECONDS_PER_SUBMISSION, Trainer};

/// Weight of a new step in the running mean of the throughput.
const SPEED_SHARE: f64 = 0.02;
/// Steps before there is an estimate of the remaining time.
const STEPS_BEFORE_ETA: u64 = 10;

impl Trainer {
    /// Adds a step of `images` images that took `seconds` to the running mean of the throughput.
    pub(super) fn time(&mut self, images: u64, seconds: f64) {
        let speed = images as f64 / seconds.max(1e-9);
        self.steps_timed += 1;
        // A plain mean at first, so that the slow first step does not dominate.
        let share = SPEED_SHARE.max(1.0 / self.steps_timed as f64);
        self.speed += share * (speed - self.speed);
    }

    /// Number of steps that take [`SECONDS_PER_SUBMISSION`].
    pub(super) fn steps_that_fit(&self) -> usize {
        match self.backend.seconds_per_step() {
            Some(seconds) => (SECONDS_PER_SUBMISSION / seconds) as usize,
            None => {
                let batch_size = f64::from(self.run_state.params.batch_size);
                (SECONDS_PER_SUBMISSION * self.speed / batch_size) as usize
            }
        }
    }

    /// Estimates the remaining seconds of the run, evaluations included. None in the first few steps.
    pub(super) fn eta(&self) -> Option<f64> {
        if self.steps_timed < STEPS_BEFORE_ETA {
            return None;
        }
        let epochs = (self.run_state.params.epochs - f64::from(self.run_state.epochs)).max(0.0);
        let images = epochs * self.epoch_images() - self.run_state.images_in_epoch as f64;
        Some(images.max(0.0) / self.speed + epochs.ceil() * self.evaluation_seconds)
    }
}
