//! The learning rate range test: the loss of training steps whose learning rate grows from step to step (Smith,
//! "Cyclical Learning Rates for Training Neural Networks", 2017). This is its arithmetic: the rates, when it ends, and
//! what it suggests. [`crate::train`] makes the steps.

use super::number;
use super::params::Value;
use super::text::grouped;
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

/// Checks the number of steps of a test.
///
/// # Errors
/// Returns an error if it is below [`MIN_STEPS`] or above [`MAX_STEPS`].
pub fn check_steps(steps: usize) -> Result<usize, String> {
    match steps {
        MIN_STEPS..=MAX_STEPS => Ok(steps),
        _ => Err(format!(
            "a test of learning rates has {MIN_STEPS} to {} steps, not {steps}",
            grouped(MAX_STEPS as u64)
        )),
    }
}

/// A fall of the running mean by fewer of its standard deviations is noise.
const DEVIATIONS: f64 = 3.0;

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
    /// It could not be made, for this reason.
    Failed(String),
}

impl RateTestEnd {
    /// Why a test whose last point has this rate ended early. None if it did not, or a user ended it.
    pub fn describe(&self, last: f64) -> Option<String> {
        match self {
            RateTestEnd::Rose => Some(format!(
                "at {last:.1e}: the loss rose to four times its lowest value"
            )),
            RateTestEnd::NotFinite(name) => Some(format!("after {last:.1e}: {name} not finite")),
            RateTestEnd::Failed(why) => Some(format!("early: {why}")),
            RateTestEnd::AllRates | RateTestEnd::Stopped => None,
        }
    }
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

    /// The suggested learning rate, to two digits. None if the loss did not fall by more than its noise.
    pub fn suggestion(&self) -> Option<f64> {
        let (first, lowest) = (self.points.get(SETTLED)?, self.lowest()?);
        if lowest.rate <= first.rate || first.smoothed - lowest.smoothed <= self.noise(lowest) {
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

    /// The change of the running mean up to `last` that the differences between batches explain.
    fn noise(&self, last: &RatePoint) -> f64 {
        let points = self
            .points
            .iter()
            .take_while(|point| point.rate <= last.rate);
        let squares = points.map(|point| (point.loss - point.smoothed).powi(2));
        let (count, sum) = squares.fold((0.0, 0.0), |(count, sum), square| {
            (count + 1.0, sum + square)
        });
        // The variance of a running mean of independent losses, as a share of theirs.
        let share = (1.0 - DECAY) / (1.0 + DECAY);
        DEVIATIONS * (share * sum / count).sqrt()
    }

    /// The points from index `first` on, of a test that began after the run's step `step`.
    pub fn report(&self, step: u64, first: usize) -> RateTestReport {
        RateTestReport {
            step,
            steps: self.steps,
            first,
            points: self.points.get(first..).unwrap_or_default().to_vec(),
            suggestion: self.suggestion(),
            end: self.end.clone(),
        }
    }
}

/// A test of a session's run, as its viewers receive it: the points since the report before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RateTestReport {
    /// Number of steps that the run had made when the test began.
    pub step: u64,
    /// Number of steps that the test has at most.
    pub steps: usize,
    /// Index of the first of `points`. A new test begins with 0.
    pub first: usize,
    pub points: Vec<RatePoint>,
    /// The learning rate that all points up to the last suggest.
    pub suggestion: Option<f64>,
    /// Why the test has ended. None while it runs.
    pub end: Option<RateTestEnd>,
}

impl RateTestReport {
    /// Adds the next report of the same test, or becomes the first of another one.
    pub fn extend(&mut self, next: &RateTestReport) {
        if next.first == 0 {
            *self = next.clone();
            return;
        }
        self.points.truncate(next.first);
        self.points.extend_from_slice(&next.points);
        self.suggestion = next.suggestion;
        self.end.clone_from(&next.end);
    }

    /// The rate of the last point; 0 before the first.
    pub fn last_rate(&self) -> f64 {
        self.points.last().map_or(0.0, |point| point.rate)
    }

    /// What the ended test found, as a sentence. None while it runs.
    pub fn result(&self) -> Option<String> {
        let end = self.end.as_ref()?;
        Some(match (self.suggestion, end) {
            (_, RateTestEnd::Failed(why)) => format!("learning rates could not be tested: {why}"),
            (Some(rate), _) => format!("tested learning rates: try {}", Value::Float(rate)),
            (None, RateTestEnd::Stopped) => "the test of learning rates was stopped".into(),
            (None, _) => "tested learning rates: none made the loss fall clearly".into(),
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
        // Batches of different losses, at whatever rate.
        let noise = |rate: f64| 2.0 + 0.3 * (1e9 * rate).sin();
        let flat = test(100, noise);
        let fall = flat.points[SETTLED].smoothed - flat.lowest().unwrap().smoothed;
        assert!(fall > 0.0, "{fall}");
        assert_eq!(flat.suggestion(), None);
        let falls = test(100, |rate| noise(rate) - (rate * 1e3).min(1.0) + rate);
        assert!(falls.suggestion().is_some());
        let short = RateTest::new(100);
        assert_eq!((short.lowest(), short.suggestion()), (None, None));
    }

    #[test]
    fn reports_add_up_to_the_whole_test() {
        let whole = test(60, |rate| 1.0 + (rate.log10() + 1.0).powi(2));
        let mut sum = RateTestReport::default();
        let mut part = RateTest::new(60);
        let mut sent = 0;
        while part.end.is_none() {
            part.add(whole.points[part.points.len()].loss);
            if part.points.len() % 7 == 1 || part.end.is_some() {
                sum.extend(&part.report(5, sent));
                sent = part.points.len();
            }
        }
        assert_eq!(sum, whole.report(5, 0));
        assert_eq!(sum.suggestion, whole.suggestion());
        assert!(sum.result().unwrap().ends_with("try 0.11"), "{sum:?}");
        // Another test begins.
        sum.extend(&RateTest::new(30).report(9, 0));
        assert_eq!((sum.step, sum.points.len(), sum.result()), (9, 0, None));
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
