//! A comparison of training with and without a change, from one state, on the same batches with the same random numbers:
//! the difference that the change makes, and how far that difference is from noise.

use super::number;
use super::params::{Change, Influence, param};
use super::report::Split;
use super::text::grouped;
use serde::{Deserialize, Serialize};

/// Maximum number of blocks of steps whose means are kept. An even number.
const MAX_BLOCKS: usize = 32;
/// Fewest blocks from which an error is estimated.
const MIN_BLOCKS: usize = 4;
/// A difference of accuracies is taken for real if it exceeds this many standard errors.
const CLEAR_ERRORS: f64 = 2.0;
/// The same for a difference of losses, whose error is underestimated: the blocks' means are correlated, too. Measured with
/// a correlation of 0.9 between consecutive steps.
const CLEAR_LOSS_ERRORS: f64 = 3.0;
/// Fewest steps after which a difference of losses is taken for real.
const MIN_CLEAR_STEPS: u64 = 128;

/// A difference, with minus without the change.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    #[serde(with = "number")]
    pub mean: f64,
    /// Its standard error.
    #[serde(with = "number")]
    pub error: f64,
}

impl Difference {
    /// Whether it exceeds this many standard errors.
    fn exceeds(&self, errors: f64) -> bool {
        self.mean.abs() > errors * self.error
    }

    /// The difference of two accuracies on the same images; each item says whether an image was predicted correctly
    /// without and with the change. The standard error is that of the mean of the paired differences (McNemar, 1947).
    pub fn of_accuracies(images: impl IntoIterator<Item = (bool, bool)>) -> Option<Self> {
        let (mut count, mut gained, mut lost) = (0u64, 0u64, 0u64);
        for (without, with) in images {
            count += 1;
            gained += u64::from(with && !without);
            lost += u64::from(without && !with);
        }
        if count == 0 {
            return None;
        }
        let n = count as f64;
        let mean = (gained as f64 - lost as f64) / n;
        let variance = (gained + lost) as f64 / n - mean * mean;
        Some(Difference {
            mean,
            error: (variance.max(0.0) / n).sqrt(),
        })
    }
}

/// The differences of the losses of single steps. It keeps the means of at most 32 blocks of consecutive steps; when
/// there are more, neighbouring blocks are merged.
#[derive(Clone, Debug)]
pub struct StepDifferences {
    /// Number of steps in a block.
    size: u64,
    blocks: Vec<f64>,
    /// Sum and number of the steps that do not fill a block yet.
    open: (f64, u64),
}

impl Default for StepDifferences {
    fn default() -> Self {
        StepDifferences {
            size: 1,
            blocks: Vec::new(),
            open: (0.0, 0),
        }
    }
}

impl StepDifferences {
    /// Adds the next step's difference.
    pub fn add(&mut self, difference: f64) {
        self.open.0 += difference;
        self.open.1 += 1;
        if self.open.1 < self.size {
            return;
        }
        self.blocks.push(self.open.0 / self.size as f64);
        self.open = (0.0, 0);
        if self.blocks.len() > MAX_BLOCKS {
            // The newest block alone has no neighbour: it becomes the first half of the next block.
            if let Some(last) = self.blocks.pop() {
                self.open = (last * self.size as f64, self.size);
            }
            let merged = self.blocks.chunks(2).map(|pair| (pair[0] + pair[1]) / 2.0);
            self.blocks = merged.collect();
            self.size *= 2;
        }
    }

    /// The mean difference over the newer half of the steps, and the number of steps in it. Its error comes from the
    /// spread of the blocks' means, since differences of consecutive steps are alike (the method of batch means). None
    /// after too few steps.
    pub fn newest(&self) -> Option<(Difference, u64)> {
        let newer = &self.blocks[self.blocks.len() / 2..];
        if newer.len() < MIN_BLOCKS {
            return None;
        }
        let n = newer.len() as f64;
        let mean = newer.iter().sum::<f64>() / n;
        let squares: f64 = newer.iter().map(|block| (block - mean).powi(2)).sum();
        let error = (squares / (n - 1.0) / n).sqrt();
        Some((Difference { mean, error }, newer.len() as u64 * self.size))
    }
}

/// What a difference is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DifferenceOf {
    Loss,
    Accuracy,
}

/// What is known of the difference that a change makes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ComparisonReport {
    /// Steps since the change.
    pub steps: u64,
    /// Mean difference of the batches' losses over the newer half of these steps.
    pub loss: Option<Difference>,
    /// Number of steps that `loss` covers.
    pub loss_steps: u64,
    /// Difference of the accuracies on the images that are scored after each epoch.
    pub accuracy: Option<Difference>,
    /// Epochs after which `accuracy` was measured, counted from the change; the first and the last one may be partial.
    pub epochs: u32,
    /// The step at which the network with the change diverged, and the first value that was not finite.
    pub diverged: Option<(u64, String)>,
}

impl ComparisonReport {
    /// Whether the network with the change is better (true) or worse (false) by the accuracy or by the loss, as far as that
    /// is clear. By the loss only before the first evaluation, and only if the change leaves it the same measure: dropout
    /// and augmentation, for example, raise the training loss of a network that is better.
    pub fn is_better(&self, change: &Change, by: DifferenceOf) -> Option<bool> {
        if self.diverged.is_some() {
            return Some(false);
        }
        match (by, &self.accuracy, &self.loss) {
            (DifferenceOf::Accuracy, Some(accuracy), _) => accuracy
                .exceeds(CLEAR_ERRORS)
                .then_some(accuracy.mean > 0.0),
            (DifferenceOf::Loss, None, Some(loss)) => {
                let same = param(&change.key).is_some_and(|row| row.influence == Influence::Steps);
                let clear = loss.exceeds(CLEAR_LOSS_ERRORS) && self.loss_steps >= MIN_CLEAR_STEPS;
                (same && clear).then_some(loss.mean < 0.0)
            }
            _ => None,
        }
    }

    /// The difference in words: `with lr 0.0005: val +0.80 ±0.50 % after 2 epochs`. `split` is what is scored after each
    /// epoch.
    pub fn words(&self, change: &Change, split: Split, of: DifferenceOf) -> String {
        let accuracy = || {
            let Difference { mean, error } = self.accuracy?;
            let epochs = match self.epochs {
                1 => "1 epoch".to_owned(),
                n => format!("{n} epochs"),
            };
            let (mean, error) = (100.0 * mean, 100.0 * error);
            let split = split.short();
            Some(format!("{split} {mean:+.2} ±{error:.2} % after {epochs}"))
        };
        let loss = || {
            let Difference { mean, error } = self.loss?;
            let steps = grouped(self.loss_steps);
            Some(format!("loss {mean:+.4} ±{error:.4} over {steps} steps"))
        };
        let known = match (&self.diverged, of) {
            (Some((step, _)), _) => Some(format!("diverged at step {}", grouped(*step))),
            (None, DifferenceOf::Accuracy) => accuracy().or_else(loss),
            (None, DifferenceOf::Loss) => loss(),
        };
        let known = known.unwrap_or_else(|| "no difference is known yet".into());
        let Change { key, new, .. } = change;
        match param(key) {
            Some(row) => format!("with {} {}: {known}", row.short, row.show(new)),
            None => format!("with {key} {new}: {known}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::params::Value;
    use crate::domain::rng::{Rng, Stream};

    #[test]
    fn paired_accuracies_differ_by_what_changed_sides() {
        // 10 images: 3 gained, 1 lost.
        let images = [
            [(false, true); 3].as_slice(),
            &[(true, false)],
            &[(true, true); 4],
            &[(false, false); 2],
        ]
        .concat();
        let difference = Difference::of_accuracies(images).unwrap();
        assert!((difference.mean - 0.2).abs() < 1e-12);
        // The variance of +1 (3 times), -1 (once) and 0 (6 times) is 0.4 - 0.04.
        assert!((difference.error - (0.36f64 / 10.0).sqrt()).abs() < 1e-12);
        assert!(!difference.exceeds(CLEAR_ERRORS));
        assert_eq!(Difference::of_accuracies([]), None);
    }

    #[test]
    fn the_mean_difference_is_of_the_newer_half() {
        let mut differences = StepDifferences::default();
        for step in 0..10_000u32 {
            differences.add(if step < 4500 { 5.0 } else { -1.0 });
        }
        let (difference, steps) = differences.newest().unwrap();
        assert!((4000..=5200).contains(&steps), "{steps}");
        assert!((difference.mean + 1.0).abs() < 1e-9, "{difference:?}");
        assert!(differences.blocks.len() <= MAX_BLOCKS);
    }

    #[test]
    fn every_step_is_in_exactly_one_block() {
        let mut differences = StepDifferences::default();
        for step in 1..=1000u32 {
            differences.add(f64::from(step));
            let blocks: f64 = differences.blocks.iter().sum();
            let all = blocks * differences.size as f64 + differences.open.0;
            assert!((all - f64::from(step * (step + 1) / 2)).abs() < 1e-6);
        }
    }

    /// The share of comparisons of noise, with this correlation between consecutive steps, whose difference would be taken
    /// for real after `steps` steps.
    fn false_alarms(steps: u32, correlation: f64) -> f64 {
        let alarms = (0..300u64).filter(|&stream| {
            let mut differences = StepDifferences::default();
            let rng = Rng::new(1, Stream::Sample, stream);
            let mut noise = 0.0;
            for i in 0..steps {
                noise = correlation * noise + f64::from(rng.uniform(i)) - 0.5;
                differences.add(noise);
            }
            let (difference, count) = differences.newest().unwrap();
            count >= MIN_CLEAR_STEPS && difference.exceeds(CLEAR_LOSS_ERRORS)
        });
        alarms.count() as f64 / 300.0
    }

    #[test]
    fn noise_is_seldom_taken_for_a_difference() {
        for (steps, correlation, most) in [
            (256, 0.0, 0.05),
            (3000, 0.0, 0.05),
            (300, 0.9, 0.15),
            (3000, 0.9, 0.05),
        ] {
            let share = false_alarms(steps, correlation);
            assert!(share <= most, "{steps} steps, {correlation}: {share}");
        }
        // A difference that is there is found.
        let mut differences = StepDifferences::default();
        let rng = Rng::new(1, Stream::Sample, 1);
        (0..1000).for_each(|i| differences.add(f64::from(rng.uniform(i)) - 0.6));
        assert!(differences.newest().unwrap().0.exceeds(CLEAR_LOSS_ERRORS));
    }

    #[test]
    fn the_better_one_is_known_when_the_difference_is_clear() {
        let difference = |mean, error| Some(Difference { mean, error });
        let change = |key: &str| Change {
            key: key.into(),
            old: Value::Float(0.1),
            new: Value::Float(0.2),
        };
        let rate = change("learning_rate");
        let by_loss = |r: &ComparisonReport, c: &Change| r.is_better(c, DifferenceOf::Loss);
        let by_accuracy = |r: &ComparisonReport| r.is_better(&rate, DifferenceOf::Accuracy);
        let mut report = ComparisonReport::default();
        assert_eq!(
            (by_loss(&report, &rate), by_accuracy(&report)),
            (None, None)
        );
        (report.loss, report.loss_steps) = (difference(-0.1, 0.01), 127);
        assert_eq!(by_loss(&report, &rate), None, "too few steps");
        report.loss_steps = 128;
        assert_eq!(by_loss(&report, &rate), Some(true));
        // The losses with another dropout measure something else.
        for key in ["dropout", "label_smoothing", "crop"] {
            assert_eq!(by_loss(&report, &change(key)), None);
        }
        report.accuracy = difference(0.01, 0.008);
        assert_eq!(
            (by_loss(&report, &rate), by_accuracy(&report)),
            (None, None)
        );
        report.accuracy = difference(-0.02, 0.008);
        assert_eq!(by_accuracy(&report), Some(false));
        report.accuracy = difference(0.02, 0.008);
        assert_eq!(by_accuracy(&report), Some(true));
        report.diverged = Some((7, "the loss".into()));
        assert_eq!(by_accuracy(&report), Some(false));
    }
}
