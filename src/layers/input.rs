//! Makes the network's input from the data set's bytes: gathers and augments images, scales them, and converts u8 NCHW
//! to f32 NHWC.

use super::slices::write;
use crate::domain::augment::{Placement, reflected};
use crate::hardware::threads::Threads;
use candle_core::{Result, Tensor, bail};

/// Most channels of an image.
pub const MAX_CHANNELS: usize = 3;

/// Maps the bytes of each channel to f32: byte * scale + shift. Images of one channel use the first numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scaling {
    pub scale: [f32; MAX_CHANNELS],
    pub shift: [f32; MAX_CHANNELS],
}

impl Scaling {
    /// Maps bytes to [0, 1].
    pub const UNIT: Scaling = Scaling {
        scale: [1.0 / 255.0; MAX_CHANNELS],
        shift: [0.0; MAX_CHANNELS],
    };

    /// Maps bytes to mean 0 and standard deviation 1, given each channel's mean and standard deviation in [0, 1]. A
    /// channel of standard deviation 0 is only shifted.
    pub fn standard(mean: &[f32], std: &[f32]) -> Self {
        let mut scaling = Scaling::UNIT;
        for (c, (mean, std)) in mean.iter().zip(std).enumerate().take(MAX_CHANNELS) {
            let divisor = if *std > 0.0 { *std } else { 1.0 };
            scaling.scale[c] = 1.0 / (255.0 * divisor);
            scaling.shift[c] = -mean / divisor;
        }
        scaling
    }

    /// The scaled value of each byte, for each of `C` channels.
    fn table<const C: usize>(&self) -> [[f32; 256]; C] {
        std::array::from_fn(|c| {
            std::array::from_fn(|byte| (byte as f32).mul_add(self.scale[c], self.shift[c]))
        })
    }
}

/// Writes the placed images of `pixels` (u8, `[images, channels, side, side]`) into the first rows of `input` (f32,
/// `[capacity, side, side, channels]`).
///
/// # Errors
/// Returns an error if the shapes do not fit, there are not 1 or 3 channels, or an image's number is out of range.
pub fn prepare(
    pixels: &[u8],
    placements: &[Placement],
    scaling: &Scaling,
    input: &Tensor,
    threads: &Threads,
) -> Result<()> {
    match input.dims4()?.3 {
        1 => prepare_channels::<1>(pixels, placements, scaling, input, threads),
        3 => prepare_channels::<3>(pixels, placements, scaling, input, threads),
        channels => bail!("images have 1 or 3 channels, not {channels}"),
    }
}

/// [`prepare`] for `C` channels.
fn prepare_channels<const C: usize>(
    pixels: &[u8],
    placements: &[Placement],
    scaling: &Scaling,
    input: &Tensor,
    threads: &Threads,
) -> Result<()> {
    let (capacity, side, across, _) = input.dims4()?;
    let len = C * side * side;
    if side != across || !pixels.len().is_multiple_of(len) {
        bail!(
            "{} bytes are not images that fit the network's input {:?}",
            pixels.len(),
            &input.dims()[1..]
        );
    }
    if placements.len() > capacity {
        bail!(
            "{} images exceed the capacity of {capacity}",
            placements.len()
        );
    }
    let images = pixels.len() / len;
    if let Some(wrong) = placements.iter().find(|p| p.image as usize >= images) {
        bail!(
            "there is no image {}: there are {images} images",
            wrong.image
        );
    }
    let table = &scaling.table::<C>();
    write([input], |[out]| {
        threads.chunks(&mut out[..placements.len() * len], len, |i, out| {
            let placement = &placements[i];
            let first = placement.image as usize * len;
            place(&pixels[first..first + len], side, placement, table, out);
        });
    })
}

/// Writes one placed image.
fn place<const C: usize>(
    image: &[u8],
    side: usize,
    placement: &Placement,
    table: &[[f32; 256]; C],
    out: &mut [f32],
) {
    let planes: [&[u8]; C] = std::array::from_fn(|c| &image[c * side * side..][..side * side]);
    let (dx, dy) = (isize::from(placement.dx), isize::from(placement.dy));
    let size = side as isize;
    // The pixel of row `from` of the image that appears in column `x` of the input.
    let pixel = |from: usize, x: usize| {
        let column = reflected((x as isize + dx) as i32, side as u32) as usize;
        let column = if placement.flip {
            side - 1 - column
        } else {
            column
        };
        planes.map(|plane| plane[from * side + column])
    };
    let scaled =
        |bytes: [u8; C]| -> [f32; C] { std::array::from_fn(|c| table[c][usize::from(bytes[c])]) };
    // The columns of the input from `left` to `right` show the image.
    let left = (-dx).clamp(0, size) as usize;
    let right = (size - dx).clamp(left as isize, size) as usize;
    for (y, row) in out.chunks_exact_mut(C * side).enumerate() {
        let from = y as isize + dy;
        let from = match placement.reflect {
            true => reflected(from as i32, side as u32) as usize,
            // The image is shifted out of this row, or out of all columns.
            false if left == right || !(0..size).contains(&from) => {
                row.fill(0.0);
                continue;
            }
            false => from as usize,
        };
        if placement.reflect {
            let pixels = row.as_chunks_mut::<C>().0;
            for x in (0..left).chain(right..side) {
                pixels[x] = scaled(pixel(from, x));
            }
        } else {
            row[..C * left].fill(0.0);
            row[C * right..].fill(0.0);
        }
        if left == right {
            continue;
        }
        let shown = row[C * left..C * right].as_chunks_mut::<C>().0;
        let count = shown.len();
        // The same number of the image's columns. Column x of the mirrored image is column side - 1 - x.
        let begin = (left as isize + dx) as usize;
        let first = match placement.flip {
            true => side - begin - count,
            false => begin,
        };
        let lines = planes.map(|plane| &plane[from * side + first..][..count]);
        // `zip(0..count)` spares the bounds checks that `enumerate()` keeps.
        if placement.flip {
            for (pixel, x) in shown.iter_mut().rev().zip(0..count) {
                *pixel = scaled(lines.map(|line| line[x]));
            }
        } else {
            for (pixel, x) in shown.iter_mut().zip(0..count) {
                *pixel = scaled(lines.map(|line| line[x]));
            }
        }
    }
    if placement.cut > 0 {
        let cut = usize::from(placement.cut);
        let span = |centre: u8| {
            let begin = usize::from(centre).saturating_sub(cut / 2).min(side);
            let end = (usize::from(centre) + cut - cut / 2).clamp(begin, side);
            begin..end
        };
        let columns = span(placement.cut_x);
        for y in span(placement.cut_y) {
            out[C * (y * side + columns.start)..C * (y * side + columns.end)].fill(0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use proptest::prelude::*;

    /// The definition of a placement, pixel by pixel.
    fn expected(image: &[u8], side: usize, p: &Placement, scaling: &Scaling) -> Vec<f32> {
        let channels = image.len() / (side * side);
        let mut out = Vec::new();
        for y in 0..side as i64 {
            for x in 0..side as i64 {
                for c in 0..channels {
                    let size = side as i64;
                    let mirrored = |at: i64| match (p.reflect, at) {
                        (true, _) if size == 1 => 0,
                        (true, mut at) => {
                            while !(0..size).contains(&at) {
                                at = if at < 0 { -at } else { 2 * (size - 1) - at };
                            }
                            at
                        }
                        (false, at) => at,
                    };
                    let (from_y, from_x) =
                        (mirrored(y + i64::from(p.dy)), mirrored(x + i64::from(p.dx)));
                    let inside = (0..size).contains(&from_y) && (0..size).contains(&from_x);
                    let first = |centre: u8| i64::from(centre) - i64::from(p.cut) / 2;
                    let within = |v: i64, centre: u8| {
                        (first(centre)..first(centre) + i64::from(p.cut)).contains(&v)
                    };
                    out.push(if inside && !(within(y, p.cut_y) && within(x, p.cut_x)) {
                        let column = if p.flip { size - 1 - from_x } else { from_x };
                        let byte =
                            image[c * side * side + from_y as usize * side + column as usize];
                        f32::from(byte).mul_add(scaling.scale[c], scaling.shift[c])
                    } else {
                        0.0
                    });
                }
            }
        }
        out
    }

    proptest! {
        #[test]
        fn every_placement_shows_what_it_says(
            grey: bool,
            side in 1..12usize,
            placements in proptest::collection::vec(
                (0..3u32, any::<[bool; 2]>(), -16..=16i8, -16..=16i8, (0..14u8, 0..12u8, 0..12u8)),
                1..5,
            )
        ) {
            let channels = if grey { 1 } else { 3 };
            let len = channels * side * side;
            let bytes: Vec<u8> = (0..3 * len).map(|i| (i * 37 % 251) as u8).collect();
            let input = (Tensor::ones((6, side, side, channels), DType::F32, &Device::Cpu).unwrap() * 7.0).unwrap();
            let scaling = Scaling::standard(&[0.5, 0.4, 0.3][..channels], &[0.2, 0.25, 0.0][..channels]);
            let placements: Vec<_> = placements
                .into_iter()
                .map(|(image, [flip, reflect], dx, dy, (cut, cut_x, cut_y))| Placement {
                    image,
                    flip,
                    dx,
                    dy,
                    reflect,
                    cut,
                    cut_x,
                    cut_y,
                })
                .collect();
            prepare(&bytes, &placements, &scaling, &input, &Threads::new(2)).unwrap();
            let got: Vec<f32> = input.flatten_all().unwrap().to_vec1().unwrap();
            for (i, p) in placements.iter().enumerate() {
                let image = &bytes[p.image as usize * len..(p.image as usize + 1) * len];
                prop_assert_eq!(&got[i * len..(i + 1) * len], expected(image, side, p, &scaling), "{:?}", p);
            }
            prop_assert!(got[placements.len() * len..].iter().all(|&v| v == 7.0));
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let threads = Threads::new(1);
        let pixels = [0; 2 * 3 * 4 * 4];
        let input =
            |channels| Tensor::zeros((1, 4, 4, channels), DType::F32, &Device::Cpu).unwrap();
        let plain = Placement::plain;
        let prepare_for = |channels, pixels: &[u8], placements: &[Placement]| {
            super::prepare(
                pixels,
                placements,
                &Scaling::UNIT,
                &input(channels),
                &threads,
            )
        };
        let prepare = |pixels: &[u8], placements: &[Placement]| prepare_for(3, pixels, placements);
        assert!(prepare(&pixels, &[plain(1)]).is_ok());
        assert!(prepare(&pixels, &[plain(2)]).is_err());
        assert!(prepare(&pixels, &[plain(0), plain(1)]).is_err());
        assert!(prepare(&pixels[1..], &[plain(0)]).is_err());
        assert!(prepare_for(1, &pixels, &[plain(5)]).is_ok());
        assert!(prepare_for(1, &pixels, &[plain(6)]).is_err());
        assert!(prepare_for(2, &pixels, &[plain(0)]).is_err());
    }
}
