//! The results of a sweep: repeated trials, which differ in their seed only, as one result with its uncertainty.

use crate::domain::params::Value;

/// Trials with the same values but for their seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Repeats {
    /// Without the seed.
    pub values: Vec<(String, Value)>,
    pub accuracies: Vec<f64>,
}

impl Repeats {
    /// The mean accuracy.
    pub fn mean(&self) -> f64 {
        self.accuracies.iter().sum::<f64>() / self.accuracies.len() as f64
    }

    /// The standard error of the mean: the sample's standard deviation over the root of its size. None for one trial.
    pub fn standard_error(&self) -> Option<f64> {
        let count = self.accuracies.len() as f64;
        self.variance().map(|variance| (variance / count).sqrt())
    }

    /// The sample's standard deviation. None for one trial.
    pub fn std(&self) -> Option<f64> {
        self.variance().map(f64::sqrt)
    }

    /// The sample's variance. None for one trial.
    fn variance(&self) -> Option<f64> {
        let count = self.accuracies.len() as f64;
        let mean = self.mean();
        let squares: f64 = self.accuracies.iter().map(|a| (a - mean).powi(2)).sum();
        (count > 1.0).then(|| squares / (count - 1.0))
    }
}

/// The trials (values and accuracy) by their values but for the seed, the best mean first.
pub fn repeats<'a>(trials: impl Iterator<Item = (&'a [(String, Value)], f64)>) -> Vec<Repeats> {
    let mut groups: Vec<Repeats> = Vec::new();
    for (values, accuracy) in trials {
        let values: Vec<_> = values
            .iter()
            .filter(|(key, _)| key != "seed")
            .cloned()
            .collect();
        match groups.iter_mut().find(|group| group.values == values) {
            Some(group) => group.accuracies.push(accuracy),
            None => groups.push(Repeats {
                values,
                accuracies: vec![accuracy],
            }),
        }
    }
    groups.sort_by(|a, b| b.mean().total_cmp(&a.mean()));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_have_a_mean_and_its_standard_error() {
        let trial = |rate: f64, seed: u64| {
            vec![
                ("learning_rate".to_owned(), Value::Float(rate)),
                ("seed".to_owned(), Value::Int(seed)),
            ]
        };
        let trials = [
            trial(0.1, 1),
            trial(0.2, 1),
            trial(0.1, 2),
            trial(0.1, 3),
            trial(0.3, 1),
        ];
        let accuracies = [0.60, 0.70, 0.63, 0.66, 0.5];
        let groups = repeats(trials.iter().map(Vec::as_slice).zip(accuracies));
        let means: Vec<f64> = groups.iter().map(Repeats::mean).collect();
        assert!(
            means
                .iter()
                .zip([0.70, 0.63, 0.5])
                .all(|(a, b)| (a - b).abs() < 1e-12),
            "{means:?}"
        );
        // The deviation of 60, 63 and 66 is 3; over the root of 3 it is 1.732.
        assert!((groups[1].standard_error().unwrap() - 0.017_320_508).abs() < 1e-9);
        assert_eq!(groups[0].standard_error(), None);
        assert_eq!(
            groups[1].values,
            [("learning_rate".to_owned(), Value::Float(0.1))]
        );
    }
}
