//! Augmentation as plain numbers: for each image of a batch, where it is placed, whether it is mirrored and what is cut
//! out. The input layer's kernels apply these placements while they turn u8 into f32.

use super::params::Hyperparameters;
use super::rng::{Rng, Stream};

/// How training images are varied at random.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Augmentation {
    /// Mirror every second image left to right.
    pub flip: bool,
    /// Most pixels that an image is shifted by, in each direction.
    pub crop: u32,
    /// Side in pixels of the square that is cut out, 0 for none.
    pub cutout: u32,
}

impl Augmentation {
    pub fn of(params: &Hyperparameters) -> Self {
        Augmentation {
            flip: params.flip,
            crop: params.crop,
            cutout: params.cutout,
        }
    }

    /// Writes into `placements` where each image of the batch of training step `step` is placed; `side` is the images'
    /// side in pixels.
    pub fn place(
        &self,
        images: &[u32],
        seed: u64,
        step: u64,
        side: u32,
        placements: &mut Vec<Placement>,
    ) {
        placements.clear();
        let numbered = images.iter().zip(0..);
        placements
            .extend(numbered.map(|(image, place)| self.placement(*image, place, seed, step, side)));
    }

    /// The placement of the image at `place` of the batch of training step `step`.
    fn placement(&self, image: u32, place: u32, seed: u64, step: u64, side: u32) -> Placement {
        if *self == Augmentation::default() {
            return Placement::plain(image);
        }
        let rng = Rng::new(seed, Stream::Augment, step);
        let [flip, dx, dy, _] = rng.block(2 * place);
        let [cut_x, cut_y, _, _] = rng.block(2 * place + 1);
        let below = |word: u32, n: u32| ((u64::from(word) * u64::from(n)) >> 32) as u32;
        let shift = |word| (below(word, 2 * self.crop + 1) as i32 - self.crop as i32) as i8;
        Placement {
            image,
            flip: self.flip && flip >> 31 == 1,
            dx: shift(dx),
            dy: shift(dy),
            cut: self.cutout as u8,
            cut_x: below(cut_x, side) as u8,
            cut_y: below(cut_y, side) as u8,
        }
    }
}

/// How one image enters the network. Pixel (y, x) of the input shows pixel (y + dy, x + dx) of the image, after
/// mirroring; what falls outside the image, or inside the cut square, is zero (the padding value of the scaled input).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The image's number in its split.
    pub image: u32,
    /// Mirrored left to right.
    pub flip: bool,
    /// Shift in pixels, -crop..=crop.
    pub dx: i8,
    pub dy: i8,
    /// Side of the cut square in pixels, 0 for none, and its centre.
    pub cut: u8,
    pub cut_x: u8,
    pub cut_y: u8,
}

impl Placement {
    /// The image as it is.
    pub fn plain(image: u32) -> Self {
        Placement {
            image,
            ..Placement::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placements_follow_the_seed_and_the_step() {
        let place = |augmentation: Augmentation, images: &[u32], step| {
            let mut placements = Vec::new();
            augmentation.place(images, 4, step, 32, &mut placements);
            placements
        };
        let none = Augmentation::default();
        assert_eq!(
            place(none, &[7, 9], 3),
            [Placement::plain(7), Placement::plain(9)]
        );
        let some = Augmentation {
            flip: true,
            crop: 4,
            cutout: 0,
        };
        let images: Vec<u32> = (0..64).collect();
        let placements = place(some, &images, 3);
        assert_eq!(placements, place(some, &images, 3));
        assert_ne!(placements, place(some, &images, 4));
        assert!(placements.iter().any(|p| p.flip) && placements.iter().any(|p| !p.flip));
        assert!(
            placements
                .iter()
                .all(|p| p.dx.abs() <= 4 && p.dy.abs() <= 4)
        );
    }
}
