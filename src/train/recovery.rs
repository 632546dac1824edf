//! Chooses the checkpoint and the learning rate with which a run continues after a divergence or a collapse.

use super::checkpoint::RunState;
use crate::domain::params::Value;

/// Divisor of the last good learning rate. The second one is used if the run has gone back to the same step before.
const DIVISOR: f64 = 2.0;
const DIVISOR_AGAIN: f64 = 10.0;

/// The checkpoint and the learning rate to continue with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recovery {
    /// Index of the checkpoint.
    pub checkpoint: usize,
    pub learning_rate: f64,
    /// The last learning rate known to be good.
    pub good: f64,
}

/// Chooses one of `checkpoints` (of one run, newest first) for a run that failed in the state `failed`. A collapsed run
/// goes back at least to `collapsed_after`, the last good epoch. `before` is the step that the run last went back to.
/// Returns None if there is no suitable checkpoint.
///
/// The newest checkpoint may have been trained with the rate that failed. So a checkpoint is preferred whose rate is at
/// most the last good one: that of the best epoch, otherwise that of the run's first step.
pub fn recovery(
    checkpoints: &[RunState],
    failed: &RunState,
    collapsed_after: Option<u32>,
    before: Option<u64>,
) -> Option<Recovery> {
    let good = learning_rate_at(failed, failed.best.map_or(1, |best| best.step));
    let allowed =
        |run_state: &RunState| collapsed_after.is_none_or(|epoch| run_state.epochs <= epoch);
    let candidates = || checkpoints.iter().enumerate().filter(|c| allowed(c.1));
    let rate = |run_state: &RunState| run_state.params.learning_rate;
    let (checkpoint, run_state) = candidates()
        .find(|(_, run_state)| rate(run_state) <= good)
        .or_else(|| candidates().next_back())?;
    let divisor = match before == Some(run_state.step) {
        true => DIVISOR_AGAIN,
        false => DIVISOR,
    };
    let least = good.min(rate(run_state)).min(rate(failed));
    Some(Recovery {
        checkpoint,
        learning_rate: least / divisor,
        good,
    })
}

/// The base learning rate, before the schedule, of step `step`.
fn learning_rate_at(run_state: &RunState, step: u64) -> f64 {
    let later = |c: &&super::checkpoint::Applied| c.change.key == "learning_rate" && c.step > step;
    match run_state.changes.iter().find(later).map(|c| &c.change.old) {
        Some(Value::Float(rate)) => *rate,
        _ => run_state.params.learning_rate,
    }
}

#[cfg(test)]
mod tests {
    use super::super::checkpoint::tests::example;
    use super::super::checkpoint::{Applied, Best};
    use super::*;
    use crate::domain::params::Change;

    /// The state at `step` of a run with 100 steps per epoch. The learning rate was 0.001 at first; `changes` are the
    /// steps of its changes and the new rates. The best epoch was number `best`.
    fn at(step: u64, changes: &[(u64, f64)], best: Option<u32>) -> RunState {
        let mut run_state = example().run_state;
        run_state.step = step;
        run_state.epochs = (step / 100) as u32;
        run_state.params.learning_rate = 1e-3;
        run_state.best = best.map(|epoch| Best {
            accuracy: 0.5,
            epoch,
            step: 100 * u64::from(epoch),
        });
        run_state.changes.clear();
        for &(step, rate) in changes {
            let change = Change {
                key: "learning_rate".into(),
                old: Value::Float(run_state.params.learning_rate),
                new: Value::Float(rate),
            };
            run_state.params.learning_rate = rate;
            run_state.changes.push(Applied {
                change,
                step,
                epoch: 1,
            });
        }
        run_state
    }

    fn chosen(checkpoints: &[RunState], failed: &RunState) -> (u64, f64) {
        let found = recovery(checkpoints, failed, None, None).unwrap();
        (checkpoints[found.checkpoint].step, found.learning_rate)
    }

    #[test]
    fn recovery_halves_the_last_good_rate_and_not_the_failed_one() {
        let typed = [(250, 10.0)];
        let failed = at(260, &typed, Some(2));
        // The checkpoint was saved before the change.
        assert_eq!(chosen(&[at(240, &[], Some(2))], &failed), (240, 5e-4));
        // The newest checkpoint was saved after the change, the other one before it.
        let checkpoints = [at(255, &typed, Some(2)), at(200, &[], Some(2))];
        assert_eq!(chosen(&checkpoints, &failed), (200, 5e-4));
        // In the first epoch, only the initial learning rate counts as good.
        let early = [at(55, &[(50, 10.0)], None), at(0, &[], None)];
        assert_eq!(chosen(&early, &at(60, &[(50, 10.0)], None)), (0, 5e-4));
        // If all checkpoints were trained with the failed rate, the oldest is chosen, which had the fewest steps with
        // it.
        let late = [at(57, &[(50, 10.0)], None), at(55, &[(50, 10.0)], None)];
        assert_eq!(chosen(&late, &at(60, &[(50, 10.0)], None)), (55, 5e-4));
        assert_eq!(recovery(&[], &failed, None, None), None);
    }

    #[test]
    fn going_back_repeatedly_lowers_the_rate_further() {
        let mut start = at(0, &[], None);
        start.params.learning_rate = 10.0;
        let mut failed = at(3, &[], None);
        failed.params.learning_rate = 10.0;
        let mut before = None;
        let mut rates = Vec::new();
        for _ in 0..5 {
            let found = recovery(std::slice::from_ref(&start), &failed, None, before).unwrap();
            rates.push(found.learning_rate);
            let change = Change {
                key: "learning_rate".into(),
                old: Value::Float(10.0),
                new: Value::Float(found.learning_rate),
            };
            failed.changes = vec![Applied {
                change,
                step: 1,
                epoch: 1,
            }];
            failed.params.learning_rate = found.learning_rate;
            before = Some(0);
        }
        assert_eq!(rates, [5.0, 0.5, 0.05, 0.005, 0.0005]);
    }

    #[test]
    fn a_collapsed_run_goes_back_to_its_best_epoch_or_before() {
        let typed = [(310, 10.0)];
        let checkpoints = [
            at(500, &typed, Some(2)),
            at(400, &typed, Some(2)),
            at(200, &[], Some(2)),
        ];
        let found = recovery(&checkpoints, &at(500, &typed, Some(2)), Some(2), None).unwrap();
        assert_eq!((found.checkpoint, found.learning_rate), (2, 5e-4));
        let none = recovery(&checkpoints[..2], &at(500, &typed, Some(2)), Some(2), None);
        assert_eq!(none, None);
    }
}
