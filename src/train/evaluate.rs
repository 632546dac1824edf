//! Scores a whole split: the network's prediction for every image, and the loss, accuracy and confusion matrix.

use crate::domain::confusion::Confusion;
use crate::domain::number::argmax;
use crate::domain::params::{Tta, Weights};
use crate::domain::report::{Evaluation, PastPrediction, ScoredWeights, Split};

/// The network's predictions for every image of a split.
#[derive(Clone, Debug)]
pub struct Scores {
    pub split: Split,
    pub step: u64,
    pub classes: usize,
    /// The indices of the images in their [`ImageSet`](crate::backend::ImageSet), and their labels.
    pub images: Vec<u32>,
    pub labels: Vec<u16>,
    /// `[images, classes]`.
    pub probabilities: Vec<f32>,
    /// The class with the largest probability, for each image.
    pub predicted: Vec<u16>,
    /// The scores of the whole split.
    pub evaluation: Evaluation,
}

/// An evaluation that has not been completed.
pub(super) struct Scoring {
    pub images: Vec<u32>,
    pub labels: Vec<u16>,
    pub probabilities: Vec<f32>,
    pub losses: Vec<f32>,
    /// Seconds spent in the backend.
    pub seconds: f64,
}

impl Scoring {
    pub fn new(images: Vec<u32>, labels: Vec<u16>, classes: usize) -> Self {
        Scoring {
            probabilities: vec![0.0; images.len() * classes],
            losses: vec![0.0; images.len()],
            seconds: 0.0,
            images,
            labels,
        }
    }

    /// The scores of a split with these weights and views, after step `step` in epoch `epoch`.
    pub fn finish(
        self,
        split: Split,
        (weights, tta): (Weights, Tta),
        (step, epoch): (u64, u32),
        classes: usize,
    ) -> Scores {
        let mut confusion = Confusion::new(classes);
        let predicted: Vec<u16> = self
            .probabilities
            .chunks(classes)
            .map(|row| argmax(row) as u16)
            .collect();
        for (label, predicted) in self.labels.iter().zip(&predicted) {
            confusion.add(usize::from(*label), usize::from(*predicted));
        }
        let count = self.images.len().max(1) as f64;
        let evaluation = Evaluation {
            split,
            weights: match weights {
                Weights::Last => ScoredWeights::Last,
                Weights::Average => ScoredWeights::Average,
            },
            tta,
            step,
            epoch,
            loss: self.losses.iter().map(|&l| f64::from(l)).sum::<f64>() / count,
            accuracy: confusion.accuracy().unwrap_or(0.0),
            confusion,
            images_per_s: count / self.seconds.max(1e-9),
        };
        Scores {
            split,
            step,
            classes,
            images: self.images,
            labels: self.labels,
            probabilities: self.probabilities,
            predicted,
            evaluation,
        }
    }
}

impl Scores {
    /// The probabilities of image `index` of the split.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.probabilities[index * self.classes..(index + 1) * self.classes]
    }

    /// Whether each image is predicted correctly.
    pub fn correct(&self) -> impl Iterator<Item = bool> {
        let pairs = self.predicted.iter().zip(&self.labels);
        pairs.map(|(predicted, label)| predicted == label)
    }

    /// The probability of the class predicted for image `index`.
    pub fn confidence(&self, index: usize) -> f32 {
        self.row(index)[usize::from(self.predicted[index])]
    }
}

/// The predictions for every image of a split at each evaluation.
#[derive(Clone, Default)]
pub struct History {
    evaluations: Vec<Past>,
}

#[derive(Clone)]
struct Past {
    step: u64,
    predicted: Vec<u16>,
    confidence: Vec<f32>,
}

impl History {
    /// Maximum number of evaluations. When it is reached, every second one of the older half is dropped. 10,000 images
    /// take 6 MB.
    const MAX_EVALUATIONS: usize = 128;

    /// Adds an evaluation. It replaces the last one if that is of the same step.
    pub fn add(&mut self, scores: &Scores) {
        if self
            .evaluations
            .last()
            .is_some_and(|p| p.step == scores.step)
        {
            self.evaluations.pop();
        }
        if self.evaluations.len() == Self::MAX_EVALUATIONS {
            let mut number = 0;
            self.evaluations.retain(|_| {
                number += 1;
                number > Self::MAX_EVALUATIONS / 2 || number % 2 == 1
            });
        }
        self.evaluations.push(Past {
            step: scores.step,
            predicted: scores.predicted.clone(),
            confidence: (0..scores.images.len())
                .map(|i| scores.confidence(i))
                .collect(),
        });
    }

    /// The evaluations before this step.
    pub fn before(&self, step: u64) -> History {
        let evaluations = self.evaluations.iter().filter(|past| past.step < step);
        History {
            evaluations: evaluations.cloned().collect(),
        }
    }

    /// The predictions for image `index` of the split, oldest first.
    pub fn of(&self, index: usize) -> Vec<PastPrediction> {
        let opinion = |past: &Past| {
            Some(PastPrediction {
                step: past.step,
                predicted: *past.predicted.get(index)?,
                confidence: *past.confidence.get(index)?,
            })
        };
        self.evaluations.iter().filter_map(opinion).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(step: u64) -> Scores {
        let mut scoring = Scoring::new(vec![7, 3, 5], vec![0, 1, 1], 2);
        scoring.probabilities = vec![0.75, 0.25, 0.5, 0.5, f32::NAN, f32::NAN];
        scoring.losses = vec![0.5, 1.0, 3.0];
        scoring.finish(Split::Test, (Weights::Last, Tta::None), (step, 1), 2)
    }

    #[test]
    fn figures_follow_from_the_probabilities() {
        let scores = scores(9);
        assert_eq!(scores.predicted, [0, 0, 0]);
        assert_eq!(scores.confidence(0), 0.75);
        assert_eq!(scores.evaluation.loss, 1.5);
        assert_eq!(scores.evaluation.accuracy, 1.0 / 3.0);
        assert_eq!(scores.evaluation.confusion.counts, [1, 0, 2, 0]);
    }

    #[test]
    fn classes_beyond_a_byte_are_told_apart() {
        const CLASSES: usize = 300;
        let mut scoring = Scoring::new(vec![0, 1], vec![299, 43], CLASSES);
        scoring.probabilities[299] = 1.0;
        // 43 is 299 modulo 256.
        scoring.probabilities[CLASSES + 299] = 1.0;
        let scores = scoring.finish(Split::Test, (Weights::Last, Tta::None), (1, 1), CLASSES);
        assert_eq!(scores.predicted, [299, 299]);
        assert_eq!(scores.evaluation.accuracy, 0.5);
        assert_eq!(scores.evaluation.confusion.count(43, 299), 1);
        let mut history = History::default();
        history.add(&scores);
        assert_eq!(
            (history.of(1)[0].predicted, history.of(1)[0].confidence),
            (299, 1.0)
        );
    }

    #[test]
    fn the_history_is_bounded_and_keeps_both_ends() {
        let mut history = History::default();
        for step in (1..=1000).flat_map(|s| [s, s]) {
            history.add(&scores(step));
        }
        let past = history.of(0);
        assert!(
            past.len() <= History::MAX_EVALUATIONS && past.len() >= History::MAX_EVALUATIONS / 2
        );
        assert!(past.windows(2).all(|w| w[0].step < w[1].step));
        assert_eq!((past[0].step, past[past.len() - 1].step), (1, 1000));
        assert!(history.of(3).is_empty());
        let earlier = history.before(past[9].step);
        assert_eq!(earlier.of(0), past[..9]);
    }
}
