//! The learning rate range test: the loss of training steps whose learning rate grows from step to step (Smith,
//! "Cyclical Learning Rates for Training Neural Networks", 2017). This is its arithmetic: the rates, when it ends, and
//! what it suggests. [`crate::train`] makes the steps.

use super::number;
use serde::{Deserialize, Serialize};

/// Lowest and highest rate.
pub const RATES: (f64, f64) = (1e-6, 10.0);
/// Number of steps, unless another is asked for: 14 for each power of ten.
pub const STEPS: usize = 100;
/// Fewer steps say nothing.
pub const MIN_STEPS: usize = 20;
pub const MAX_STEPS: usize = 10_000;
/// Share that each step keeps of the running mean of the losses.
const DECAY: f64 = 0.9;
/// Number of steps after which the running mean is stable enough to be compared.
const SETTLED: usize = 10;
/// The test ends when the running mean exceeds its lowest value by this factor. (fast.ai's `lr_find`.)
const RISE: f64 = 4.0;
/// The suggested rate is the one with the lowest running mean divided by this: there the loss still falls, and with a
/// margin to where it rises. (fast.ai's `minimum`.)
const MARGIN: f64 = 10.0;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RatePoint {
    pub rate: f64,
    /// The mean loss of the step's images, before the step moved the weights.
    #[serde(with = "number")]
    pub loss: f64,
    /// The running mean of the losses up to this step.
    #[serde(with = "number")]
    pub smoothed: f64,
}

/// Why a test has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RateTestEnd {
    /// All rates were tried.
    AllRates,
    /// The loss rose to four times its lowest value.
    Rose,
    /// A number of this name was not finite after the last point.
    NotFinite(String),
    /// It was stopped.
    Stopped,
}

/// A learning rate range test, while it runs and after it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RateTest {
    /// Number of steps that it has at most.
    pub steps: usize,
    pub points: Vec<RatePoint>,
    /// None while it runs.
    pub end: Option<RateTestEnd>,
}

impl RateTest {
    /// A test of `steps` steps, at least two.
    pub fn new(steps: usize) -> Self {
        RateTest {
            steps: steps.max(2),
            ..RateTest::default()
        }
    }

    /// The rate of the next step: each is the same multiple of the one before.
    pub fn next_rate(&self) -> f64 {
        let share = self.points.len() as f64 / (self.steps - 1) as f64;
        RATES.0 * (RATES.1 / RATES.0).powf(share)
    }

    /// Adds the loss of a step with [`RateTest::next_rate`].
    pub fn add(&mut self, loss: f64) {
        let rate = self.next_rate();
        // The mean of all losses so far, each with DECAY times the weight of the next one.
        let weights = |losses: usize| (1.0 - DECAY.powf(losses as f64)) / (1.0 - DECAY);
        let before = self.points.len();
        let sum = self.points.last().map_or(0.0, |p| p.smoothed) * weights(before);
        let smoothed = (DECAY * sum + loss) / weights(before + 1);
        self.points.push(RatePoint {
            rate,
            loss,
            smoothed,
        });
        let lowest = self.lowest().map_or(f64::INFINITY, |p| p.smoothed);
        if self.points.len() == self.steps {
            self.end = Some(RateTestEnd::AllRates);
        } else if smoothed > RISE * lowest {
            self.end = Some(RateTestEnd::Rose);
        }
    }

    /// The point with the lowest running mean; None before the running mean is stable.
    pub fn lowest(&self) -> Option<&RatePoint> {
        let stable = self.points.get(SETTLED..)?;
        stable
            .iter()
            .min_by(|a, b| a.smoothed.total_cmp(&b.smoothed))
    }

    /// The suggested learning rate, to two digits. None if the loss did not fall.
    pub fn suggestion(&self) -> Option<f64> {
        let (first, lowest) = (self.points.get(SETTLED)?, self.lowest()?);
        if lowest.rate <= first.rate {
            return None;
        }
        let rate = lowest.rate / MARGIN;
        let unit = 10f64.powi(rate.log10().floor() as i32 - 1);
        // Divide by a whole number where the unit is below one, so that 0.0012 is not 0.0012000000000000001.
        Some(match unit < 1.0 {
            true => (rate / unit).round() / unit.recip().round(),
            false => (rate / unit).round() * unit,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A test on a loss that depends on the rate alone.
    fn test(steps: usize, loss: impl Fn(f64) -> f64) -> RateTest {
        let mut test = RateTest::new(steps);
        while test.end.is_none() {
            test.add(loss(test.next_rate()));
        }
        test
    }

    #[test]
    fn the_rates_grow_evenly_from_the_lowest_to_the_highest() {
        let test = test(8, |_| 1.0);
        assert_eq!(test.end, Some(RateTestEnd::AllRates));
        for (i, point) in test.points.iter().enumerate() {
            let expected = 10f64.powi(i as i32 - 6);
            assert!(
                (point.rate / expected - 1.0).abs() < 1e-12,
                "{}",
                point.rate
            );
        }
    }

    #[test]
    fn the_running_mean_weighs_recent_steps_more() {
        let mut test = RateTest::new(100);
        for loss in [4.0, 2.0, 1.0] {
            test.add(loss);
        }
        let expected = (0.81 * 4.0 + 0.9 * 2.0 + 1.0) / (0.81 + 0.9 + 1.0);
        assert!((test.points[2].smoothed - expected).abs() < 1e-12);
        assert_eq!(test.points[0].smoothed, 4.0);
    }

    #[test]
    fn a_valley_suggests_a_tenth_of_its_lowest_rate() {
        // Lowest at 0.1.
        let test = test(1_000, |rate| 1.0 + (rate.log10() + 1.0).powi(2));
        let lowest = test.lowest().unwrap();
        // The running mean lags by some steps.
        assert!((0.1..0.2).contains(&lowest.rate), "{lowest:?}");
        let suggestion = test.suggestion().unwrap();
        assert!((0.01..0.02).contains(&suggestion), "{suggestion}");
    }

    #[test]
    fn a_loss_that_rises_ends_the_test_and_one_that_never_falls_suggests_nothing() {
        let rises = test(100, |rate| if rate < 1e-3 { 1.0 } else { 1e3 * rate });
        assert_eq!(rises.end, Some(RateTestEnd::Rose));
        assert!(rises.points.len() < 80, "{}", rises.points.len());
        let never = test(100, |rate| 1.0 + rate);
        assert_eq!(never.suggestion(), None);
        let short = RateTest::new(100);
        assert_eq!((short.lowest(), short.suggestion()), (None, None));
    }

    #[test]
    fn suggestions_have_two_digits() {
        for (at, expected) in [(-2.0, 0.001), (-4.31, 4.9e-6), (0.5, 0.32)] {
            let mut test = test(2_000, |_| 1.0);
            let nearest = |p: &RatePoint| (p.rate.log10() - at).abs();
            let lowest = (0..2_000)
                .min_by(|a, b| nearest(&test.points[*a]).total_cmp(&nearest(&test.points[*b])));
            test.points[lowest.unwrap()].smoothed = 0.5;
            assert_eq!(test.suggestion(), Some(expected));
        }
    }
}
