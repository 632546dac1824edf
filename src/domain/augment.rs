//! Augmentation as plain numbers: for each image of a batch, where it is placed, whether it is mirrored and what is cut
//! out. The plan is made here; the input layer's kernels carry it out while they turn u8 into f32.

use super::params::Hyperparameters;
use super::rng::{Rng, Stream};

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

    /// The placement of the image at `place` of the batch of training step `step`, for images of `side` x `side` pixels.
    pub fn random(image: u32, place: u32, step: u64, side: u32, params: &Hyperparameters) -> Self {
        if !params.flip && params.crop == 0 && params.cutout == 0 {
            return Self::plain(image);
        }
        let rng = Rng::new(params.seed, Stream::Augment, step);
        let [flip, dx, dy, _] = rng.block(2 * place);
        let [cut_x, cut_y, _, _] = rng.block(2 * place + 1);
        let below = |word: u32, n: u32| ((u64::from(word) * u64::from(n)) >> 32) as u32;
        let shift = |word| (below(word, 2 * params.crop + 1) as i32 - params.crop as i32) as i8;
        Placement {
            image,
            flip: params.flip && flip >> 31 == 1,
            dx: shift(dx),
            dy: shift(dy),
            cut: params.cutout as u8,
            cut_x: below(cut_x, side) as u8,
            cut_y: below(cut_y, side) as u8,
        }
    }
}
