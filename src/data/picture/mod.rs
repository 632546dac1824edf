//! Reads a picture of any size as the small square image that a network takes: the middle of the picture, rotated as its
//! EXIF orientation says, with white where it is transparent.
//!
//! A picture is reduced while it is decoded: PNG row by row, JPEG by the decoder's own scaling. Other formats are decoded
//! whole and are limited to [`MAX_WHOLE`]. With these limits the process stays below [`MAX_MEMORY`].

mod crop;
mod jpeg;
mod png;
#[cfg(test)]
mod tests;

use crate::{files, panics};
use crop::CropAccumulator;
use image::metadata::Orientation;
use image::{DynamicImage, GenericImageView, ImageDecoder, ImageError, ImageFormat, ImageReader};
use image::{Limits, RgbImage, imageops};
use std::io::{self, BufRead, BufReader, Seek};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Upper bound in bytes of the memory of the process, for any picture.
pub const MAX_MEMORY: u64 = 512 << 20;
/// Maximum number of pixels of a picture. Reading a larger one would take minutes.
const MAX_PIXELS: u64 = 1 << 29;
/// Maximum size in bytes of a decoded picture, in formats that are decoded whole.
const MAX_WHOLE: u64 = 160 << 20;
/// Maximum size in bytes of the coefficients of a progressive JPEG, which are all kept in memory.
const MAX_COEFFICIENTS: u64 = 384 << 20;
/// Maximum number of pixels of a JPEG that is decoded at full size.
const UNSCALED_PIXELS: u64 = 8 << 20;
/// Minimum side, in cells, to which a large picture is reduced before it is resampled to the network's size.
const GRID: u32 = 512;

/// The error of reading a picture.
#[derive(Debug, Error)]
#[error("{} {problem}", path.display())]
pub struct PictureError {
    path: PathBuf,
    problem: ImageProblem,
}

#[derive(Debug, Error)]
enum ImageProblem {
    #[error("cannot be read: {0}. Check that it is a file that you may read.")]
    Io(io::Error),
    #[error("is not a picture in a supported format (PNG, JPEG, BMP, GIF, WebP, TIFF, PNM).")]
    Unknown,
    #[error("has no pixels.")]
    Empty,
    #[error("is too large: {0}. Make it smaller and try again.")]
    TooLarge(String),
    #[error("is a damaged {format} picture, or one of an unsupported kind: {why}.")]
    Damaged { format: &'static str, why: String },
}

/// A picture as the input of a network.
#[derive(Debug, PartialEq, Eq)]
pub struct DecodedImage {
    /// CHW, `3 * side * side` bytes.
    pub pixels: Vec<u8>,
    /// The file is truncated: the decoder filled in the missing rest of the picture.
    pub cut_short: bool,
}

/// Reads a picture file as `side` x `side` pixels.
///
/// # Errors
/// Returns an error if the file is not a picture, is damaged, or exceeds the limits.
pub fn read(path: &Path, side: u32) -> Result<DecodedImage, PictureError> {
    let file = files::open(path).map_err(ImageProblem::Io);
    file.and_then(|file| decode(BufReader::with_capacity(1 << 16, file), side))
        .map_err(|problem| PictureError {
            path: path.into(),
            problem,
        })
}

/// [`read`] from memory, for the fuzz target.
///
/// # Errors
/// Returns an error if the bytes are not a picture.
#[cfg(any(test, fuzzing))]
pub fn fuzz_decode(bytes: &[u8], side: u32) -> Result<DecodedImage, String> {
    decode(io::Cursor::new(bytes), side).map_err(|problem| problem.to_string())
}

fn decode(mut source: impl BufRead + Seek, side: u32) -> Result<DecodedImage, ImageProblem> {
    let start = source.fill_buf().map_err(ImageProblem::Io)?;
    let format = image::guess_format(start).map_err(|_| ImageProblem::Unknown)?;
    let (grid, orientation, cut_short) = without_panics(format, || match format {
        ImageFormat::Png => png::decode(source),
        ImageFormat::Jpeg => jpeg::decode(source),
        _ => whole(source, format),
    })?;
    let mut picture = DynamicImage::ImageRgb8(grid.picture());
    picture.apply_orientation(orientation);
    Ok(DecodedImage {
        pixels: planes(&resize(picture.into_rgb8(), side)),
        cut_short,
    })
}

/// Returns the result of `decode`, or an error if the decoder of this format panicked on malformed bytes.
fn without_panics<T>(
    format: ImageFormat,
    decode: impl FnOnce() -> Result<T, ImageProblem>,
) -> Result<T, ImageProblem> {
    panics::catch(decode).unwrap_or_else(|| Err(damaged(format, "its decoder failed")))
}

/// The reduced picture, its orientation, and whether the file is truncated.
type Decoded = (CropAccumulator, Orientation, bool);

/// Decodes a picture in one of the formats that are decoded whole.
fn whole(source: impl BufRead + Seek, format: ImageFormat) -> Result<Decoded, ImageProblem> {
    let problem = |error: ImageError| match error {
        ImageError::Limits(_) => {
            ImageProblem::TooLarge("it needs too much memory to decode".into())
        }
        ImageError::Unsupported(_) if !format.reading_enabled() => ImageProblem::Unknown,
        error => damaged(format, error),
    };
    let mut reader = ImageReader::with_format(source, format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(2 * MAX_WHOLE);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(problem)?;
    let (width, height) = decoder.dimensions();
    let mut grid = CropAccumulator::new(width, height)?;
    if decoder.total_bytes() > MAX_WHOLE {
        return Err(ImageProblem::TooLarge(format!(
            "{width}x{height} pixels need {} MiB, more than the limit of {} MiB for this format; as a PNG or JPEG it \
             can be read",
            decoder.total_bytes() >> 20,
            MAX_WHOLE >> 20
        )));
    }
    let orientation = decoder.orientation().map_err(problem)?;
    let picture = DynamicImage::from_decoder(decoder).map_err(problem)?;
    for y in 0..height {
        grid.add_row(y, (0..width).map(|x| (x, picture.get_pixel(x, y).0)));
    }
    Ok((grid, orientation, false))
}

fn damaged(format: ImageFormat, why: impl std::fmt::Display) -> ImageProblem {
    ImageProblem::Damaged {
        format: match format {
            ImageFormat::Png => "PNG",
            ImageFormat::Jpeg => "JPEG",
            ImageFormat::Bmp => "BMP",
            ImageFormat::Gif => "GIF",
            ImageFormat::WebP => "WebP",
            ImageFormat::Tiff => "TIFF",
            _ => "PNM",
        },
        why: why.to_string(),
    }
}

fn orientation(exif: Option<&[u8]>) -> Orientation {
    exif.and_then(Orientation::from_exif_chunk)
        .unwrap_or(Orientation::NoTransforms)
}

/// Resamples to `side` x `side` pixels with a filter that averages when it reduces.
fn resize(picture: RgbImage, side: u32) -> RgbImage {
    match picture.dimensions() == (side, side) {
        true => picture,
        false => imageops::resize(&picture, side, side, imageops::FilterType::Lanczos3),
    }
}

fn planes(picture: &RgbImage) -> Vec<u8> {
    (0..3)
        .flat_map(|c| picture.pixels().map(move |pixel| pixel.0[c]))
        .collect()
}

/// A pixel of one to four channels: grey, grey and alpha, RGB, RGB and alpha.
fn rgba(pixel: &[u8]) -> [u8; 4] {
    match *pixel {
        [v] => [v, v, v, 255],
        [v, a] => [v, v, v, a],
        [r, g, b] => [r, g, b, 255],
        [r, g, b, a, ..] => [r, g, b, a],
        [] => [0; 4],
    }
}
