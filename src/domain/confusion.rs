//! The confusion matrix, and the accuracy, precision, recall and F1 computed from it.

use serde::{Deserialize, Serialize};

/// Counts of (true class, predicted class), row by row: `counts[truth * classes + predicted]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confusion {
    pub classes: usize,
    pub counts: Vec<u32>,
}

impl Confusion {
    pub fn new(classes: usize) -> Self {
        Confusion {
            classes,
            counts: vec![0; classes * classes],
        }
    }

    pub fn add(&mut self, truth: usize, predicted: usize) {
        self.counts[truth * self.classes + predicted] += 1;
    }

    pub fn count(&self, truth: usize, predicted: usize) -> u32 {
        self.counts[truth * self.classes + predicted]
    }

    /// Number of images of a true class.
    pub fn row_total(&self, truth: usize) -> u32 {
        (0..self.classes).map(|p| self.count(truth, p)).sum()
    }

    /// Number of images predicted as a class.
    pub fn column_total(&self, predicted: usize) -> u32 {
        (0..self.classes).map(|t| self.count(t, predicted)).sum()
    }

    pub fn total(&self) -> u32 {
        self.counts.iter().sum()
    }

    /// Share of all images on the diagonal; None without images.
    pub fn accuracy(&self) -> Option<f64> {
        share(
            (0..self.classes).map(|c| self.count(c, c)).sum(),
            self.total(),
        )
    }

    /// Precision: of the images predicted as `class`, the share that belong to it. None without such images.
    pub fn precision(&self, class: usize) -> Option<f64> {
        share(self.count(class, class), self.column_total(class))
    }

    /// Recall: of the images of `class`, the share predicted as it. None without such images.
    pub fn recall(&self, class: usize) -> Option<f64> {
        share(self.count(class, class), self.row_total(class))
    }

    /// Harmonic mean of precision and recall: 2 TP / (2 TP + FP + FN).
    pub fn f1(&self, class: usize) -> Option<f64> {
        share(
            2 * self.count(class, class),
            self.row_total(class) + self.column_total(class),
        )
    }

    /// The largest off-diagonal cells as (true, predicted, count), largest first, at most `n`. Empty cells are skipped.
    pub fn most_confused(&self, n: usize) -> Vec<(usize, usize, u32)> {
        let mut cells: Vec<_> = (0..self.classes)
            .flat_map(|t| (0..self.classes).map(move |p| (t, p)))
            .filter(|(t, p)| t != p)
            .map(|(t, p)| (t, p, self.count(t, p)))
            .filter(|cell| cell.2 > 0)
            .collect();
        cells.sort_by_key(|&(t, p, count)| (std::cmp::Reverse(count), t, p));
        cells.truncate(n);
        cells
    }
}

fn share(part: u32, whole: u32) -> Option<f64> {
    (whole > 0).then(|| f64::from(part) / f64::from(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_small_matrix() {
        let mut m = Confusion::new(3);
        for (truth, predicted, n) in [(0, 0, 5), (0, 1, 3), (1, 1, 2), (1, 0, 1)] {
            (0..n).for_each(|_| m.add(truth, predicted));
        }
        assert_eq!(m.total(), 11);
        assert_eq!(m.accuracy(), Some(7.0 / 11.0));
        assert_eq!(m.precision(0), Some(5.0 / 6.0));
        assert_eq!(m.recall(0), Some(5.0 / 8.0));
        assert_eq!(m.f1(0), Some(10.0 / 14.0));
        assert_eq!((m.precision(2), m.recall(2), m.f1(2)), (None, None, None));
        assert_eq!(m.most_confused(5), [(0, 1, 3), (1, 0, 1)]);
        assert_eq!(Confusion::new(10).accuracy(), None);
    }
}
