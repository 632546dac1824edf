//! The learning rate over the run: a pure function of the hyperparameters and of the number of epochs done, not of
//! steps, so that a change of the batch size does not move the schedule.

use crate::domain::params::{Hyperparameters, ParameterGroup, Rate, Rates, Schedule};
use std::f64::consts::PI;

/// One-cycle starts at the base rate divided by this and ends at the start rate divided by [`ONE_CYCLE_END`]. These are
/// the defaults of PyTorch's `OneCycleLR` (Smith and Topin, "Super-convergence", 2018).
const ONE_CYCLE_START: f64 = 25.0;
const ONE_CYCLE_END: f64 = 1e4;
/// Share of the run in which the rate of one-cycle rises.
const ONE_CYCLE_RISE: f64 = 0.3;

/// The learning rates of a step that begins after `before` and ends after `after` epochs of the run, fractions included.
pub fn rates(params: &Hyperparameters, before: f64, after: f64) -> Rates {
    ParameterGroup::ALL.map(|group| {
        let (base, epochs) = params.base_rate(group);
        Rate {
            base,
            effective: rate(params, base, epochs, before, after),
        }
    })
}

/// The effective learning rate for the base `base`, whose schedule stretches over `epochs`. A group whose schedule ends
/// before the run stops learning there.
fn rate(params: &Hyperparameters, base: f64, epochs: f64, before: f64, after: f64) -> f64 {
    if epochs < params.epochs && before >= epochs {
        return 0.0;
    }
    if before < params.warmup {
        // Use the end of the step, so that the rate of the first step is not zero.
        return base * (after / params.warmup).min(1.0);
    }
    let length = epochs - params.warmup;
    let share = if length > 0.0 {
        ((before - params.warmup) / length).clamp(0.0, 1.0)
    } else {
        0.0
    };
    match params.schedule {
        Schedule::Constant => base,
        Schedule::Step if share < 0.5 => base,
        Schedule::Step if share < 0.75 => base / 10.0,
        Schedule::Step => base / 100.0,
        Schedule::Linear => base * (1.0 - share),
        Schedule::Cosine => base * (1.0 + (PI * share).cos()) / 2.0,
        Schedule::OneCycle => {
            let first = base / ONE_CYCLE_START;
            if share < ONE_CYCLE_RISE {
                first + (base - first) * share / ONE_CYCLE_RISE
            } else {
                let last = first / ONE_CYCLE_END;
                let fall = (share - ONE_CYCLE_RISE) / (1.0 - ONE_CYCLE_RISE);
                last + (base - last) * (1.0 + (PI * fall).cos()) / 2.0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::params::Optimizer;

    fn at(schedule: Schedule, warmup: f64, epochs_done: f64) -> f64 {
        let params = Hyperparameters {
            learning_rate: 0.1,
            epochs: 10.0,
            schedule,
            warmup,
            ..Hyperparameters::default()
        };
        let rates = rates(&params, epochs_done, epochs_done + 0.01);
        assert!(
            rates
                .iter()
                .all(|rate| *rate == rates[0] && rate.base == 0.1)
        );
        rates[0].effective
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-12
    }

    #[test]
    fn the_rates_at_the_turning_points() {
        for (schedule, epochs_done, expected) in [
            (Schedule::Constant, 9.99, 0.1),
            (Schedule::Step, 4.99, 0.1),
            (Schedule::Step, 5.0, 0.01),
            (Schedule::Step, 7.5, 0.001),
            (Schedule::Linear, 0.0, 0.1),
            (Schedule::Linear, 7.5, 0.025),
            (Schedule::Linear, 10.0, 0.0),
            (Schedule::Cosine, 0.0, 0.1),
            (Schedule::Cosine, 5.0, 0.05),
            (Schedule::Cosine, 10.0, 0.0),
            (Schedule::OneCycle, 0.0, 0.1 / 25.0),
            (Schedule::OneCycle, 1.5, (0.1 / 25.0 + 0.1) / 2.0),
            (Schedule::OneCycle, 3.0, 0.1),
            (Schedule::OneCycle, 10.0, 0.1 / 250_000.0),
        ] {
            let rate = at(schedule, 0.0, epochs_done);
            assert!(
                close(rate, expected),
                "{schedule:?} at {epochs_done}: {rate}"
            );
        }
    }

    #[test]
    fn warm_up_rises_linearly_and_the_schedule_follows() {
        assert!(close(at(Schedule::Cosine, 2.0, 0.0), 0.1 * 0.005));
        assert!(close(at(Schedule::Cosine, 2.0, 0.99), 0.1 * 0.5));
        assert!(close(at(Schedule::Cosine, 2.0, 2.0), 0.1));
        assert!(close(at(Schedule::Cosine, 2.0, 6.0), 0.05));
        // With a warm-up longer than the run, the rate rises until the end.
        assert!(close(at(Schedule::Cosine, 20.0, 9.99), 0.05));
    }

    #[test]
    fn muons_groups_have_their_own_rates_and_the_whitening_biases_their_own_end() {
        let params = Hyperparameters {
            optimizer: Optimizer::Muon,
            learning_rate: 0.24,
            head_rate: 0.67,
            bias_rate: 0.053,
            whiten_rate: 0.06,
            whiten_epochs: 3.0,
            epochs: 8.0,
            schedule: Schedule::Linear,
            ..Hyperparameters::default()
        };
        for (before, share, whitening) in [(0.0, 1.0, 1.0), (1.5, 0.8125, 0.5), (4.0, 0.5, 0.0)] {
            let rates = rates(&params, before, before + 0.1);
            let expected = [0.24 * share, 0.67 * share, 0.053 * share, 0.06 * whitening];
            for (rate, expected) in rates.iter().zip(expected) {
                assert!(close(rate.effective, expected), "{before}: {rates:?}");
            }
            assert_eq!(rates.map(|rate| rate.base), [0.24, 0.67, 0.053, 0.06]);
        }
        // They stop learning there under every schedule.
        for schedule in Schedule::ALL {
            let params = Hyperparameters {
                schedule: *schedule,
                ..params.clone()
            };
            let whitening = |before| rates(&params, before, before + 0.1)[3].effective;
            assert!(whitening(2.9) > 0.0 && whitening(3.0) == 0.0 && whitening(7.0) == 0.0);
        }
    }
}
