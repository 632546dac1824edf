//! The square in the middle of a picture, reduced while the picture is decoded.

use super::{GRID, ImageProblem, MAX_PIXELS};
use image::{Rgb, RgbImage};

/// # Errors
/// Returns an error if a picture of this size has too many pixels to be read.
pub fn check_size(width: u64, height: u64) -> Result<(), ImageProblem> {
    if width * height > MAX_PIXELS {
        return Err(ImageProblem::TooLarge(format!(
            "it has {width}x{height} pixels, more than the limit of {} million",
            MAX_PIXELS / 1_000_000
        )));
    }
    Ok(())
}

/// Accumulates the square in the middle of a picture, reduced by a whole factor: each cell is the mean of the pixels in
/// it. Rows may be added in any order.
pub struct CropAccumulator {
    left: u32,
    top: u32,
    /// Side of the square in pixels of the picture.
    square: u32,
    /// Side of a cell in pixels of the picture.
    factor: u32,
    /// Side of the square in cells.
    side: u32,
    sums: Vec<[u32; 3]>,
}

impl CropAccumulator {
    /// For a picture of `width` x `height` pixels.
    ///
    /// # Errors
    /// Returns an error if the picture has no pixels or too many.
    pub fn new(width: u32, height: u32) -> Result<Self, ImageProblem> {
        check_size(width.into(), height.into())?;
        let square = width.min(height);
        if square == 0 {
            return Err(ImageProblem::Empty);
        }
        let factor = (square / GRID).max(1);
        let side = square.div_ceil(factor);
        Ok(CropAccumulator {
            left: (width - square) / 2,
            top: (height - square) / 2,
            square,
            factor,
            side,
            sums: vec![[0; 3]; (side * side) as usize],
        })
    }

    /// Adds pixels of row `y`, each a column and its RGBA. Transparent pixels are blended with white.
    pub fn add_row(&mut self, y: u32, pixels: impl Iterator<Item = (u32, [u8; 4])>) {
        let y = y.wrapping_sub(self.top);
        if y >= self.square {
            return;
        }
        let first = (y / self.factor * self.side) as usize;
        let cells = &mut self.sums[first..first + self.side as usize];
        for (x, [r, g, b, a]) in pixels {
            let x = x.wrapping_sub(self.left);
            if x < self.square {
                let cell = &mut cells[(x / self.factor) as usize];
                let a = u32::from(a);
                for (sum, v) in cell.iter_mut().zip([r, g, b]) {
                    *sum += (u32::from(v) * a + 255 * (255 - a) + 127) / 255;
                }
            }
        }
    }

    /// The reduced square.
    pub fn picture(&self) -> RgbImage {
        // Cells at the right and lower edge may have fewer pixels.
        let pixels = |cell: u32| self.factor.min(self.square - cell * self.factor);
        RgbImage::from_fn(self.side, self.side, |x, y| {
            let n = pixels(x) * pixels(y);
            Rgb(self.sums[(y * self.side + x) as usize].map(|sum| ((sum + n / 2) / n) as u8))
        })
    }
}
