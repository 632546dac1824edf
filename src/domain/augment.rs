//! Augmentation as plain numbers: the shift, the mirroring and the cut square of each image in a batch. The input
//! layer's kernels apply them while they convert u8 to f32.

use super::params::{CropPadding, Flip, Hyperparameters, Tta};
use super::report::StepSettings;
use super::rng::{Rng, Stream};

/// The settings of augmentation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Augmentation {
    pub flip: Flip,
    /// Maximum shift of an image in pixels, in each direction.
    pub crop: u32,
    pub padding: CropPadding,
    /// Side in pixels of the square that is cut out, 0 for none.
    pub cutout: u32,
}

impl Augmentation {
    pub fn of(params: &Hyperparameters) -> Self {
        Augmentation {
            flip: params.flip,
            crop: params.crop,
            padding: params.crop_padding,
            cutout: params.cutout,
        }
    }

    /// Whether augmentation changes no image.
    fn is_off(&self) -> bool {
        self.flip == Flip::Off && self.crop == 0 && self.cutout == 0
    }

    /// Computes the placement of each image in a training step's batch into `placements`; `side` is the images' side in
    /// pixels.
    pub fn place(
        &self,
        images: &[u32],
        settings: &StepSettings,
        side: u32,
        placements: &mut Vec<Placement>,
    ) {
        placements.clear();
        let numbered = images.iter().zip(0..);
        placements
            .extend(numbered.map(|(image, place)| self.placement(*image, place, settings, side)));
    }

    /// The placement of `image`, which is at position `place` in a training step's batch.
    fn placement(&self, image: u32, place: u32, settings: &StepSettings, side: u32) -> Placement {
        if self.is_off() {
            return Placement::plain(image);
        }
        let rng = Rng::new(settings.seed, Stream::Augment, settings.step);
        let [flip, dx, dy, _] = rng.block(2 * place);
        let [cut_x, cut_y, _, _] = rng.block(2 * place + 1);
        let below = |word: u32, n: u32| ((u64::from(word) * u64::from(n)) >> 32) as u32;
        let shift = |word| (below(word, 2 * self.crop + 1) as i32 - self.crop as i32) as i8;
        Placement {
            image,
            flip: match self.flip {
                Flip::Off => false,
                Flip::Random => flip >> 31 == 1,
                Flip::Alternate => {
                    let [first, ..] = Rng::new(settings.seed, Stream::Mirror, 0).block(image);
                    (first >> 31 == 1) == (settings.epoch % 2 == 1)
                }
            },
            reflect: self.padding == CropPadding::Reflect,
            dx: shift(dx),
            dy: shift(dy),
            cut: self.cutout as u8,
            cut_x: below(cut_x, side) as u8,
            cut_y: below(cut_y, side) as u8,
        }
    }
}

/// How one image enters the network. Pixel (y, x) of the input shows pixel (y + dy, x + dx) of the image, after
/// mirroring. What falls outside the image is zero (the padding value of the scaled input) or the image mirrored at its
/// edge; what falls inside the cut square is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The image's index in its split.
    pub image: u32,
    /// Mirrored left to right.
    pub flip: bool,
    /// Shift in pixels, -crop..=crop.
    pub dx: i8,
    pub dy: i8,
    /// Whether pixels outside the image show it mirrored at its edge, instead of zero.
    pub reflect: bool,
    /// Side of the cut square in pixels, 0 for none, and its centre.
    pub cut: u8,
    pub cut_x: u8,
    pub cut_y: u8,
}

/// One of the views of test-time augmentation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageView {
    pub flip: bool,
    /// Shift in pixels, the same in both directions; pixels outside show the image mirrored at its edge.
    pub shift: i8,
    /// The share of its logits in the average.
    pub weight: f32,
}

const fn view(flip: bool, shift: i8, weight: f32) -> ImageView {
    ImageView {
        flip,
        shift,
        weight,
    }
}

impl Tta {
    /// The views. input.cu and loss.cu compute the same from their number.
    pub fn views(self) -> &'static [ImageView] {
        match self {
            Tta::None => &const { [view(false, 0, 1.0)] },
            Tta::Mirror => &const { [view(false, 0, 0.5), view(true, 0, 0.5)] },
            Tta::MirrorTranslate => {
                &const {
                    [
                        view(false, 0, 0.25),
                        view(true, 0, 0.25),
                        view(false, -1, 0.125),
                        view(true, -1, 0.125),
                        view(false, 1, 0.125),
                        view(true, 1, 0.125),
                    ]
                }
            }
        }
    }

    /// How the images are placed for scoring: all in the first view, then all in the second, and so on.
    pub fn place(self, images: &[u32]) -> Vec<Placement> {
        let placed = |view: &ImageView| {
            let view = *view;
            images.iter().map(move |&image| Placement {
                image,
                flip: view.flip,
                dx: view.shift,
                dy: view.shift,
                reflect: view.shift != 0,
                ..Placement::default()
            })
        };
        self.views().iter().flat_map(placed).collect()
    }

    /// Averages the logits of placed images (`[views, images, classes]`) into `[images, classes]`.
    pub fn average(self, logits: &[f32], averaged: &mut [f32]) {
        averaged.fill(0.0);
        for (view, logits) in self.views().iter().zip(logits.chunks_exact(averaged.len())) {
            for (sum, logit) in averaged.iter_mut().zip(logits) {
                *sum += view.weight * logit;
            }
        }
    }
}

impl Placement {
    /// The unchanged image.
    pub fn plain(image: u32) -> Self {
        Placement {
            image,
            ..Placement::default()
        }
    }

    /// The pixel (row, column) of the image that pixel (`y`, `x`) of the input shows; None where it is zero. `side` is the
    /// image's side in pixels.
    pub fn source(&self, y: u32, x: u32, side: u32) -> Option<(u32, u32)> {
        let is_cut = |at: u32, centre: u8| {
            let first = i32::from(centre) - i32::from(self.cut) / 2;
            (first..first + i32::from(self.cut)).contains(&(at as i32))
        };
        if is_cut(y, self.cut_y) && is_cut(x, self.cut_x) {
            return None;
        }
        let row = self.line(y, self.dy, side)?;
        let column = self.line(x, self.dx, side)?;
        let column = if self.flip { side - 1 - column } else { column };
        Some((row, column))
    }

    /// The row or column of an unmirrored image that row or column `at` of the input shows at this shift, if any.
    fn line(&self, at: u32, shift: i8, side: u32) -> Option<u32> {
        let from = at as i32 + i32::from(shift);
        match self.reflect {
            true => Some(reflected(from, side)),
            false => (0..side as i32).contains(&from).then_some(from as u32),
        }
    }
}

/// Maps index `at` into 0..size by mirroring at both ends as often as necessary, like numpy's `reflect` padding.
pub fn reflected(at: i32, size: u32) -> u32 {
    let period = (2 * size as i32 - 2).max(1);
    let at = at.rem_euclid(period);
    at.min(period - at).min(size as i32 - 1) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placements_follow_the_seed_and_the_step() {
        let place_in = |augmentation: Augmentation, images: &[u32], step, epoch| {
            let mut placements = Vec::new();
            let params = Hyperparameters::default();
            let settings = StepSettings::new(&params, params.base_rates(), step, epoch);
            augmentation.place(images, &settings, 32, &mut placements);
            placements
        };
        let place = |augmentation, images: &[u32], step| place_in(augmentation, images, step, 1);
        let none = Augmentation::default();
        assert_eq!(
            place(none, &[7, 9], 3),
            [Placement::plain(7), Placement::plain(9)]
        );
        let some = Augmentation {
            flip: Flip::Random,
            crop: 4,
            ..none
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
        let alternate = Augmentation {
            flip: Flip::Alternate,
            ..none
        };
        let [first, second, third] = [1, 2, 3].map(|epoch| place_in(alternate, &images, 9, epoch));
        assert!(first.iter().any(|p| p.flip) && first.iter().any(|p| !p.flip));
        assert!(first.iter().zip(&second).all(|(a, b)| a.flip != b.flip));
        assert_eq!(first, third);
    }

    #[test]
    fn reflection_repeats_no_edge() {
        let at = |size| (-4..7).map(|i| reflected(i, size)).collect::<Vec<_>>();
        // numpy.pad(range(4), (4, 3), "reflect")
        assert_eq!(at(4), [2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0]);
        assert_eq!(at(2), [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0]);
        assert_eq!(at(1), [0; 11]);
    }

    #[test]
    fn the_views_of_an_image_weigh_one_and_stand_view_by_view() {
        for tta in Tta::ALL {
            let weights = tta.views().iter().map(|view| view.weight);
            assert_eq!(weights.sum::<f32>(), 1.0);
            let placed = tta.place(&[7, 9]);
            let images: Vec<u32> = placed.iter().map(|placement| placement.image).collect();
            assert_eq!(images, [7, 9].repeat(tta.views().len()));
            // Every view is there with its mirror image.
            let flipped = placed.iter().filter(|placement| placement.flip).count();
            assert_eq!(flipped, placed.len() / 2 * usize::from(!tta.is_none()));
        }
        assert_eq!(Tta::None.place(&[3]), [Placement::plain(3)]);
        let shifted = Tta::MirrorTranslate.place(&[3])[2];
        // One pixel to the upper left: the corner shows what lies one pixel inside.
        assert_eq!(shifted.source(0, 0, 32), Some((1, 1)));
        assert_eq!(shifted.source(5, 6, 32), Some((4, 5)));
        let logits = [1.0, 2.0, 3.0, 6.0, 9.0, 0.0, 5.0, -2.0];
        let mut averaged = [f32::NAN; 4];
        Tta::Mirror.average(&logits, &mut averaged);
        assert_eq!(averaged, [5.0, 1.0, 4.0, 2.0]);
    }
}
