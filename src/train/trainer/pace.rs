//! Throughput of the training steps, and the estimate of the remaining time.

use super::Trainer;

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
