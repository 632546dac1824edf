//! Dropout's masks (inverted dropout: Srivastava et al., "Dropout", JMLR 2014, section 10): the masks are the same for
//! any number of threads, and on the CPU and the GPU.

use crate::domain::rng::{Rng, Stream};
use crate::hardware::simd::{Kernel, Level, Simd};

/// The mask of one dropout layer in one step. Element `i` of the layer's output (over the whole batch, NHWC) is dropped
/// if `Rng::uniform(i)` is below the share.
#[derive(Clone, Copy, Debug)]
pub struct Mask {
    rng: Rng,
    threshold: u32,
    scale: f32,
}

impl Mask {
    /// The mask of dropout layer number `layer` in the network; `share` is in [0, 1). None if the share is 0.
    pub fn new(seed: u64, layer: u16, step: u64, share: f32) -> Option<Self> {
        let (threshold, scale) = Mask::numbers(share);
        (share > 0.0).then(|| Mask {
            rng: Rng::new(seed, Stream::Dropout(layer), step),
            threshold,
            scale,
        })
    }

    /// The share as kernels use it: (threshold, factor). An element is dropped if the upper 24 bits of its random word
    /// are below the threshold; otherwise it is multiplied by the factor.
    pub fn numbers(share: f32) -> (u32, f32) {
        if share > 0.0 {
            let threshold = (f64::from(share) * f64::from(1 << 24)).ceil() as u32;
            (threshold, 1.0 / (1.0 - share))
        } else {
            (0, 1.0)
        }
    }

    /// The factor of kept elements: 1 / (1 - share).
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// The factors of elements `first..first + out.len()`: 0 where dropped, else [`Mask::scale`].
    pub fn factors(&self, level: Level, first: usize, out: &mut [f32]) {
        level.run(Factors {
            mask: *self,
            first,
            out,
        });
    }

    /// Computes [`Mask::factors`] inside a SIMD kernel.
    ///
    /// # Safety
    /// As for [`Kernel::run`].
    #[inline(always)]
    pub unsafe fn factors_in<S: Simd>(&self, first: usize, out: &mut [f32]) {
        // Compute the elements before the first whole block of four words, the whole blocks, and the rest.
        let head = (first.wrapping_neg() % 4).min(out.len());
        let (before, out) = out.split_at_mut(head);
        for (i, out) in before.iter_mut().enumerate() {
            *out = self.factor(self.rng.word((first + i) as u32));
        }
        let block = ((first + head) / 4) as u32;
        let (blocks, after) = out.as_chunks_mut::<4>();
        for (i, out) in blocks.iter_mut().enumerate() {
            let words = self.rng.block(block.wrapping_add(i as u32));
            *out = [
                self.factor(words[0]),
                self.factor(words[1]),
                self.factor(words[2]),
                self.factor(words[3]),
            ];
        }
        let last = first + head + 4 * blocks.len();
        for (i, out) in after.iter_mut().enumerate() {
            *out = self.factor(self.rng.word((last + i) as u32));
        }
    }

    #[inline(always)]
    fn factor(&self, word: u32) -> f32 {
        if word >> 8 >= self.threshold {
            self.scale
        } else {
            0.0
        }
    }
}

struct Factors<'a> {
    mask: Mask,
    first: usize,
    out: &'a mut [f32],
}

impl Kernel for Factors<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller guarantees it.
        unsafe { self.mask.factors_in::<S>(self.first, self.out) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_follow_the_generator_at_every_level_and_offset() {
        let mask = Mask::new(4, 2, 9, 0.3).unwrap();
        let rng = Rng::new(4, Stream::Dropout(2), 9);
        for level in Level::available() {
            for first in [0, 1, 2, 3, 70] {
                for len in [0, 1, 2, 5, 64, 131] {
                    let mut out = vec![0.0; len];
                    mask.factors(level, first, &mut out);
                    for (i, &factor) in out.iter().enumerate() {
                        let kept = rng.uniform((first + i) as u32) >= 0.3;
                        assert_eq!(factor, if kept { 1.0 / 0.7 } else { 0.0 });
                    }
                }
            }
        }
    }

    #[test]
    fn the_share_is_dropped() {
        assert!(Mask::new(1, 0, 1, 0.0).is_none());
        let mut out = vec![0.0; 100_000];
        Mask::new(1, 0, 1, 0.25)
            .unwrap()
            .factors(Level::best(), 0, &mut out);
        let dropped = out.iter().filter(|&&v| v == 0.0).count();
        assert!((24_500..25_500).contains(&dropped), "{dropped}");
    }
}
