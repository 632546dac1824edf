//! Divides the training images into training and validation, and orders them into batches. Everything is determined by
//! the seed.

use crate::domain::rng::{Rng, Stream};

/// Training images, divided into training and validation images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Division {
    /// Indices of the images, ascending.
    pub train: Vec<u32>,
    pub validation: Vec<u32>,
}

impl Division {
    /// Holds out `share` of `images` images, rounded to the nearest number, but leaves at least one image on each side
    /// if there are two. A share of 0 holds out none.
    pub fn new(images: usize, seed: u64, share: f64) -> Self {
        let held = (images as f64 * share).round() as usize;
        let least = usize::from(images > 1 && share > 0.0);
        let held = held.clamp(least, images.saturating_sub(1));
        let mut validation = Rng::new(seed, Stream::Split, 0).permutation(images);
        let mut train = validation.split_off(held);
        train.sort_unstable();
        validation.sort_unstable();
        Division { train, validation }
    }

    /// The training images in the order of epoch `epoch` (any number; the same one gives the same order).
    pub fn order(&self, seed: u64, epoch: u64) -> Vec<u32> {
        let mut order = self.train.clone();
        Rng::new(seed, Stream::Order, epoch).shuffle(&mut order);
        order
    }
}

/// Number of batches in an epoch of `images` images: without the last one if that is smaller and `drop_last`, but at
/// least one if there are images.
pub fn steps(images: usize, batch_size: u32, drop_last: bool) -> u64 {
    let size = batch_size.max(1) as usize;
    let steps = match drop_last {
        true => (images / size).max(images.min(1)),
        false => images.div_ceil(size),
    };
    steps as u64
}

/// The images of batch `batch` (from 0) in an epoch's `order`; empty after the last batch.
pub fn batch(order: &[u32], batch: u64, batch_size: u32) -> &[u32] {
    let size = batch_size.max(1) as usize;
    usize::try_from(batch)
        .ok()
        .and_then(|batch| order.chunks(size).nth(batch))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_division_holds_every_image_once() {
        let division = Division::new(1_000, 4, 0.2);
        assert_eq!(
            (division.train.len(), division.validation.len()),
            (800, 200)
        );
        let mut all = [&division.train[..], &division.validation].concat();
        all.sort_unstable();
        assert!(all.iter().zip(0..).all(|(a, b)| *a == b));
        assert_eq!(division, Division::new(1_000, 4, 0.2));
        assert_ne!(division, Division::new(1_000, 5, 0.2));
        for (images, share, held) in [
            (2, 0.01, 1),
            (3, 0.9, 2),
            (1, 0.5, 0),
            (0, 0.5, 0),
            (7, 0.5, 4),
            (7, 0.0, 0),
        ] {
            let division = Division::new(images, 4, share);
            assert_eq!(division.validation.len(), held, "{share} of {images}");
            assert_eq!(division.train.len(), images - held);
        }
    }

    #[test]
    fn an_epoch_goes_through_every_image_once_in_an_order_of_its_own() {
        let division = Division::new(103, 4, 0.2);
        let order = division.order(4, 1);
        assert_eq!(order, division.order(4, 1));
        assert_ne!(order, division.order(4, 2));
        assert_eq!(steps(order.len(), 32, true), 2);
        assert_eq!(steps(order.len(), 500, true), 1);
        assert_eq!(steps(0, 32, true), 0);
        let batches: Vec<_> = (0..steps(order.len(), 32, false))
            .map(|i| batch(&order, i, 32))
            .collect();
        assert_eq!(
            batches.iter().map(|b| b.len()).collect::<Vec<_>>(),
            [32, 32, 18]
        );
        let mut all = batches.concat();
        all.sort_unstable();
        assert_eq!(all, division.train);
        assert!(batch(&order, 3, 32).is_empty());
    }
}
