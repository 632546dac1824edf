//! Pictures of any size as the small square that a network takes: the middle of the picture, turned as its EXIF
//! orientation says, on white where it is transparent.
//!
//! A picture is shrunk while it is decoded: PNG row by row, JPEG by the decoder's own scaling. Other formats are decoded
//! whole, and are limited to [`MAX_WHOLE`]. With these limits the process stays below [`MAX_MEMORY`].

use crate::files;
use image::metadata::Orientation;
use image::{DynamicImage, GenericImageView, ImageDecoder, ImageError, ImageFormat, ImageReader};
use image::{Limits, Rgb, RgbImage, imageops};
use jpeg_decoder::{CodingProcess, PixelFormat};
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Bytes of memory that the process stays below, whatever picture it is given.
pub const MAX_MEMORY: u64 = 512 << 20;
/// Pixels of the largest picture that is read: reading more would take minutes.
const MAX_PIXELS: u64 = 1 << 29;
/// Bytes of a decoded picture, in the formats that can only be decoded whole.
const MAX_WHOLE: u64 = 160 << 20;
/// Bytes of the coefficients of a progressive JPEG, all of which are kept until its end.
const MAX_COEFFICIENTS: u64 = 384 << 20;
/// Pixels of a JPEG that is not scaled while it is decoded.
const UNSCALED_PIXELS: u64 = 8 << 20;
/// Pixels a side, at least, that a large picture's middle keeps for the filter that brings it to the network's size.
const GRID: u32 = 512;

/// Why a picture cannot be used.
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
    #[error("is no picture that can be read (PNG, JPEG, BMP, GIF, WebP, TIFF, PNM).")]
    Unknown,
    #[error("has no pixels.")]
    Empty,
    #[error("is too large: {0}. Make it smaller and try again.")]
    TooLarge(String),
    #[error("is a {format} picture that is damaged, or of a kind that is not read: {why}.")]
    Damaged { format: &'static str, why: String },
}

/// A picture as a network takes it.
#[derive(Debug, PartialEq, Eq)]
pub struct DecodedImage {
    /// CHW, `3 * side * side` bytes.
    pub pixels: Vec<u8>,
    /// The file ends before the picture does: the rest of it was made up by the decoder.
    pub cut_short: bool,
}

/// Reads the picture in a file, `side` x `side` pixels of it.
///
/// # Errors
/// When the file is no picture, is damaged, or is larger than the limits allow.
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
/// Why the bytes are no picture.
#[cfg(fuzzing)]
pub fn fuzz_decode(bytes: &[u8], side: u32) -> Result<DecodedImage, String> {
    decode(io::Cursor::new(bytes), side).map_err(|problem| problem.to_string())
}

fn decode(mut source: impl BufRead + Seek, side: u32) -> Result<DecodedImage, ImageProblem> {
    let start = source.fill_buf().map_err(ImageProblem::Io)?;
    let format = image::guess_format(start).map_err(|_| ImageProblem::Unknown)?;
    let (grid, orientation, cut_short) = match format {
        ImageFormat::Png => png(source)?,
        ImageFormat::Jpeg => jpeg(source)?,
        _ => whole(source, format)?,
    };
    let mut picture = DynamicImage::ImageRgb8(grid.picture());
    picture.apply_orientation(orientation);
    Ok(DecodedImage {
        pixels: planes(&resize(picture.into_rgb8(), side)),
        cut_short,
    })
}

type Decoded = (CropAccumulator, Orientation, bool);

fn png(source: impl BufRead + Seek) -> Result<Decoded, ImageProblem> {
    let problem = |error: png::DecodingError| match error {
        png::DecodingError::LimitsExceeded => ImageProblem::TooLarge(
            "a row of it, or what is told about it, takes too much memory".into(),
        ),
        error => damaged(ImageFormat::Png, error),
    };
    let mut decoder = png::Decoder::new(source);
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    // Before memory is taken for a row.
    let (width, height) = decoder.read_header_info().map_err(problem)?.size();
    let mut grid = CropAccumulator::new(width, height)?;
    let mut reader = decoder.read_info().map_err(problem)?;
    let channels = reader.output_color_type().0.samples();
    for (y, xs) in png_rows(width, height, reader.info().interlaced) {
        let Some(row) = reader.next_interlaced_row().map_err(problem)? else {
            return Err(damaged(ImageFormat::Png, "it has fewer rows than it says"));
        };
        let pixels = row.data().chunks_exact(channels).map(rgba);
        grid.add_row(y, xs.zip(pixels));
    }
    // What is told about the picture may stand behind it.
    let cut_short = reader.finish().is_err();
    let exif = reader.info().exif_metadata.as_deref();
    Ok((grid, orientation(exif), cut_short))
}

/// The rows of a PNG in the order of the file: each a row of the picture, and which of its columns it has.
fn png_rows(
    width: u32,
    height: u32,
    interlaced: bool,
) -> impl Iterator<Item = (u32, std::iter::StepBy<std::ops::Range<u32>>)> {
    // First column and row, and the steps to the next, of each pass of Adam7.
    const ADAM7: [[u32; 4]; 7] = [
        [0, 0, 8, 8],
        [4, 0, 8, 8],
        [0, 4, 4, 8],
        [2, 0, 4, 4],
        [0, 2, 2, 4],
        [1, 0, 2, 2],
        [0, 1, 1, 2],
    ];
    let passes: &[[u32; 4]] = match interlaced {
        true => &ADAM7,
        false => &[[0, 0, 1, 1]],
    };
    let passes = passes.iter().filter(move |pass| pass[0] < width);
    passes.flat_map(move |&[x, y, right, down]| {
        let rows = (y..height).step_by(down as usize);
        rows.map(move |y| (y, (x..width).step_by(right as usize)))
    })
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

fn jpeg(mut source: impl BufRead + Seek) -> Result<Decoded, ImageProblem> {
    let problem = |error: jpeg_decoder::Error| damaged(ImageFormat::Jpeg, error);
    let coefficients = progressive_coefficients(&mut source).map_err(ImageProblem::Io)?;
    source.rewind().map_err(ImageProblem::Io)?;
    let mut source = Padded { source, made_up: 0 };
    let mut decoder = jpeg_decoder::Decoder::new(&mut source);
    decoder.read_info().map_err(problem)?;
    let header = |decoder: &jpeg_decoder::Decoder<_>| {
        decoder
            .info()
            .ok_or_else(|| damaged(ImageFormat::Jpeg, "it has no header"))
    };
    let info = header(&decoder)?;
    let (width, height) = (u64::from(info.width), u64::from(info.height));
    check_size(width, height)?;
    if info.coding_process == CodingProcess::Lossless {
        return Err(damaged(ImageFormat::Jpeg, "it is a lossless JPEG"));
    }
    if info.coding_process == CodingProcess::DctProgressive {
        // What the decoder finds and the search did not is taken to be as large as it can be.
        let bytes = 2 * coefficients.unwrap_or(4 * (width + 32) * (height + 32));
        if bytes > MAX_COEFFICIENTS {
            return Err(ImageProblem::TooLarge(format!(
                "a progressive JPEG of {width}x{height} pixels takes {} MiB to decode, and {} MiB are given; saved as \
                 a baseline JPEG it can be read",
                bytes >> 20,
                MAX_COEFFICIENTS >> 20
            )));
        }
    }
    // A half, a quarter or an eighth: the first with few enough pixels.
    let scale = [1, 2, 4]
        .into_iter()
        .find(|s| width * height / (s * s) <= UNSCALED_PIXELS);
    let scale = scale.unwrap_or(8);
    if scale > 1 {
        let scaled = |length: u64| length.div_ceil(scale) as u16;
        decoder
            .scale(scaled(width), scaled(height))
            .map_err(problem)?;
    }
    let pixels = decoder.decode().map_err(problem)?;
    let info = header(&decoder)?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    let pixel: fn(&[u8]) -> [u8; 4] = match info.pixel_format {
        PixelFormat::CMYK32 => |cmyk| {
            let light = |ink: u8| 255 - u32::from(ink);
            let [c, m, y, k] = rgba(cmyk).map(light);
            let mix = |ink: u32| ((ink * k + 127) / 255) as u8;
            [mix(c), mix(m), mix(y), 255]
        },
        _ => rgba,
    };
    let channels = info.pixel_format.pixel_bytes();
    let mut grid = CropAccumulator::new(width, height)?;
    let rows = pixels.chunks_exact(width as usize * channels);
    for (y, row) in (0..height).zip(rows) {
        grid.add_row(y, (0..width).zip(row.chunks_exact(channels).map(pixel)));
    }
    let orientation = orientation(decoder.exif_data());
    Ok((grid, orientation, source.made_up > 0))
}

/// The number of coefficients of a progressive JPEG, by its frame header; None for what is none.
fn progressive_coefficients(source: &mut impl Read) -> io::Result<Option<u64>> {
    let mut byte = || -> io::Result<Option<u8>> {
        let mut byte = [0];
        match source.read_exact(&mut byte) {
            Ok(()) => Ok(Some(byte[0])),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    };
    let mut number = |bytes: usize| -> io::Result<Option<u64>> {
        let mut value = 0;
        for _ in 0..bytes {
            let Some(byte) = byte()? else { return Ok(None) };
            value = value << 8 | u64::from(byte);
        }
        Ok(Some(value))
    };
    loop {
        // A marker is one or more bytes FF and another one.
        while number(1)?.is_some_and(|byte| byte != 0xff) {}
        let mut marker = Some(0xff);
        while marker == Some(0xff) {
            marker = number(1)?;
        }
        match marker {
            // No length follows: padding, the file's beginning, a restart.
            Some(0 | 1 | 0xd0..=0xd8) => continue,
            // A progressive frame.
            Some(0xc2 | 0xc6 | 0xca | 0xce) => {}
            // Another frame, a scan, the end.
            Some(0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf | 0xd9 | 0xda) | None => {
                return Ok(None);
            }
            Some(_) => {
                let length = number(2)?.unwrap_or(2);
                for _ in 2..length {
                    number(1)?;
                }
                continue;
            }
        }
        // Length, precision; height, width, components.
        number(3)?;
        let [Some(height), Some(width), Some(count)] = [number(2)?, number(2)?, number(1)?] else {
            return Ok(None);
        };
        let (mut across, mut down, mut blocks) = (1, 1, 0);
        for _ in 0..count {
            let Some(component) = number(3)? else {
                return Ok(None);
            };
            let (h, v) = (component >> 12 & 15, component >> 8 & 15);
            (across, down, blocks) = (across.max(h), down.max(v), blocks + h * v);
        }
        let units = width.div_ceil(8 * across) * height.div_ceil(8 * down);
        return Ok(Some(units * blocks * 64));
    }
}

/// A JPEG that does not end before the end of its picture: after the file's last byte comes the marker that ends one.
struct Padded<R> {
    source: R,
    /// Bytes that were not in the file.
    made_up: u64,
}

impl<R: Read> Read for Padded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.source.read(buffer)? {
            0 if !buffer.is_empty() => {
                buffer[0] = [0xff, 0xd9][(self.made_up % 2) as usize];
                self.made_up += 1;
                Ok(1)
            }
            n => Ok(n),
        }
    }
}

/// Formats that can only be decoded whole.
fn whole(source: impl BufRead + Seek, format: ImageFormat) -> Result<Decoded, ImageProblem> {
    let problem = |error: ImageError| match error {
        ImageError::Limits(_) => {
            ImageProblem::TooLarge("it takes too much memory to decode".into())
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
            "{width}x{height} pixels take {} MiB, and in this format at most {} MiB are read; as a PNG or JPEG it can \
             be read",
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

fn check_size(width: u64, height: u64) -> Result<(), ImageProblem> {
    if width * height > MAX_PIXELS {
        return Err(ImageProblem::TooLarge(format!(
            "it has {width}x{height} pixels, and at most {} million are read",
            MAX_PIXELS / 1_000_000
        )));
    }
    Ok(())
}

/// The square in the middle of a picture, shrunk by a whole number: each cell is the mean of the pixels that fall into it,
/// which may come in any order.
struct CropAccumulator {
    left: u32,
    top: u32,
    /// Pixels of the picture a side.
    square: u32,
    /// Pixels of the picture to one cell, each way.
    factor: u32,
    /// Cells a side.
    side: u32,
    sums: Vec<[u32; 3]>,
}

impl CropAccumulator {
    /// For a picture of this size.
    fn new(width: u32, height: u32) -> Result<Self, ImageProblem> {
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

    /// Adds pixels of row `y`: a column and red, green, blue, alpha each. White shines through where alpha is below 255.
    fn add_row(&mut self, y: u32, pixels: impl Iterator<Item = (u32, [u8; 4])>) {
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

    fn picture(&self) -> RgbImage {
        // The cells at the right and lower edge may have fewer pixels.
        let pixels = |cell: u32| self.factor.min(self.square - cell * self.factor);
        RgbImage::from_fn(self.side, self.side, |x, y| {
            let n = pixels(x) * pixels(y);
            Rgb(self.sums[(y * self.side + x) as usize].map(|sum| ((sum + n / 2) / n) as u8))
        })
    }
}

/// Scales with a filter that averages over what it leaves out.
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

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ExtendedColorType, ImageEncoder, codecs};
    use std::io::{Cursor, Write};

    fn read_bytes(bytes: &[u8]) -> Result<DecodedImage, ImageProblem> {
        decode(Cursor::new(bytes), 32)
    }

    fn pixels(bytes: &[u8]) -> Vec<u8> {
        read_bytes(bytes).unwrap().pixels
    }

    fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn png_of(picture: RgbImage) -> Vec<u8> {
        encoded(&picture.into(), ImageFormat::Png)
    }

    /// 32x32, different along every axis and in every channel.
    fn exact() -> RgbImage {
        RgbImage::from_fn(32, 32, |x, y| {
            Rgb([8 * x as u8, 8 * y as u8, (x * y) as u8])
        })
    }

    #[test]
    fn the_middle_is_cut_out_and_nothing_is_squeezed() {
        // Red, green and blue thirds: only the green one is in the middle square.
        let wide = RgbImage::from_fn(96, 32, |x, _| {
            let mut rgb = [0; 3];
            rgb[(x / 32) as usize] = 255;
            Rgb(rgb)
        });
        let chw = pixels(&png_of(wide));
        assert!(chw[..1024].iter().all(|v| *v == 0) && chw[1024..2048].iter().all(|v| *v == 255));
        // Large enough to be shrunk while it is read, with cells of fewer pixels at the edge.
        let large = RgbImage::from_fn(1599, 2399, |_, y| match (400..1999).contains(&y) {
            true => Rgb([10, 20, 30]),
            false => Rgb([255; 3]),
        });
        let chw = pixels(&png_of(large));
        for (plane, v) in chw.chunks(1024).zip([10, 20, 30]) {
            assert!(plane.iter().all(|p| *p == v), "{plane:?}");
        }
    }

    #[test]
    fn a_picture_of_the_right_size_stays_as_it_is() {
        let chw = pixels(&png_of(exact()));
        assert_eq!(chw, planes(&exact()));
        assert_eq!((chw[5], chw[1024 + 32], chw[2048 + 33]), (40, 8, 1));
    }

    #[test]
    fn what_is_transparent_is_white() {
        let mut picture = image::RgbaImage::new(32, 32);
        picture.put_pixel(1, 0, image::Rgba([10, 20, 30, 255]));
        picture.put_pixel(2, 0, image::Rgba([0, 0, 0, 51]));
        let chw = pixels(&encoded(&picture.into(), ImageFormat::Png));
        assert_eq!(chw[..3], [255, 10, 204]);
    }

    #[test]
    fn every_format_and_every_kind_of_pixel_is_read() {
        use ImageFormat::{Bmp, Gif, Jpeg, Png, Pnm, Tiff, WebP};
        let picture = DynamicImage::from(RgbImage::from_pixel(40, 50, Rgb([200, 60, 20])));
        for format in [Png, Jpeg, Bmp, Gif, WebP, Tiff, Pnm] {
            let chw = pixels(&encoded(&picture, format));
            let near = chw[0].abs_diff(200) < 12 && chw[2048].abs_diff(20) < 12;
            assert!(near, "{format:?}: {} {}", chw[0], chw[2048]);
        }
        let grey = [
            DynamicImage::from(picture.to_luma8()),
            picture.to_luma_alpha8().into(),
            picture.to_luma16().into(),
            picture.to_luma_alpha16().into(),
        ];
        let value = picture.to_luma8().get_pixel(0, 0).0[0];
        for picture in grey {
            let chw = pixels(&encoded(&picture, Png));
            assert!(chw.iter().all(|v| *v == value), "{:?}", picture.color());
        }
        for deep in [
            DynamicImage::from(picture.to_rgb16()),
            picture.to_rgba16().into(),
        ] {
            assert_eq!(pixels(&encoded(&deep, Png))[..1024], [200; 1024]);
        }
    }

    /// A TIFF header with the orientation tag alone, as EXIF has it.
    fn exif(orientation: u8) -> Vec<u8> {
        let mut exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
        exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
        exif
    }

    /// An uncompressed RGB TIFF, the one format whose own header says the orientation.
    fn tiff(picture: &RgbImage, orientation: u16) -> Vec<u8> {
        let (width, height) = picture.dimensions();
        let data = picture.as_raw();
        let entries: [(u16, u16, u32); 10] = [
            (256, 4, width),
            (257, 4, height),
            (258, 3, 8),
            (259, 3, 1),
            (262, 3, 2),
            (273, 4, 8),
            (274, 3, orientation.into()),
            (277, 3, 3),
            (278, 4, height),
            (279, 4, data.len() as u32),
        ];
        let mut file = b"II*\0".to_vec();
        file.extend((8 + data.len() as u32).to_le_bytes());
        file.extend(data);
        file.extend((entries.len() as u16).to_le_bytes());
        for (tag, kind, value) in entries {
            file.extend(tag.to_le_bytes());
            file.extend(kind.to_le_bytes());
            file.extend(1u32.to_le_bytes());
            file.extend(value.to_le_bytes());
        }
        file.extend([0; 4]);
        file
    }

    #[test]
    fn all_eight_orientations_are_applied_in_every_format_that_has_them() {
        let picture = exact();
        let encode = |format, stored: &RgbImage, orientation: u8| {
            let mut bytes = Vec::new();
            fn write(mut encoder: impl ImageEncoder, picture: &RgbImage, orientation: u8) {
                encoder.set_exif_metadata(exif(orientation)).unwrap();
                let (width, height) = picture.dimensions();
                let rgb = ExtendedColorType::Rgb8;
                encoder
                    .write_image(picture.as_raw(), width, height, rgb)
                    .unwrap();
            }
            match format {
                "PNG" => write(
                    codecs::png::PngEncoder::new(&mut bytes),
                    stored,
                    orientation,
                ),
                "WebP" => {
                    let encoder = codecs::webp::WebPEncoder::new_lossless(&mut bytes);
                    write(encoder, stored, orientation);
                }
                "JPEG" => {
                    let encoder = codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 100);
                    write(encoder, stored, orientation);
                }
                _ => bytes = tiff(stored, orientation.into()),
            }
            bytes
        };
        for orientation in 1..=8 {
            // How a camera that was held so stores the picture: 6 says that it has to be turned clockwise to be upright.
            let upright = DynamicImage::from(picture.clone());
            let stored = match orientation {
                1 => upright,
                2 => upright.fliph(),
                3 => upright.rotate180(),
                4 => upright.flipv(),
                5 => upright.fliph().rotate90().rotate180(),
                6 => upright.rotate270(),
                7 => upright.fliph().rotate90(),
                _ => upright.rotate90(),
            };
            for (format, off) in [("PNG", 0), ("WebP", 0), ("TIFF", 0), ("JPEG", 40)] {
                let chw = pixels(&encode(format, &stored.to_rgb8(), orientation));
                let difference = chw.iter().zip(planes(&picture)).map(|(a, b)| a.abs_diff(b));
                let most = difference.max().unwrap();
                assert!(
                    most <= off,
                    "{format}, orientation {orientation}: off by {most}"
                );
            }
        }
    }

    #[test]
    fn small_pictures_are_the_fuzz_targets_seeds() {
        use crate::domain::mutate::is_seed;
        let picture = DynamicImage::from(imageops::crop_imm(&exact(), 0, 0, 9, 7).to_image());
        for format in [
            ImageFormat::Png,
            ImageFormat::Bmp,
            ImageFormat::Gif,
            ImageFormat::Pnm,
        ] {
            let name = format.extensions_str()[0];
            is_seed("picture", name, &encoded(&picture, format));
        }
        let mut bytes = Vec::new();
        let mut encoder = codecs::jpeg::JpegEncoder::new(&mut bytes);
        encoder.set_exif_metadata(exif(6)).unwrap();
        encoder.encode_image(&picture).unwrap();
        is_seed("picture", "jpg", &bytes);
        is_seed("picture", "tiff", &tiff(&picture.to_rgb8(), 6));
        let mut bytes = Vec::new();
        let mut encoder = codecs::webp::WebPEncoder::new_lossless(&mut bytes);
        encoder.set_exif_metadata(exif(6)).unwrap();
        picture.write_with_encoder(encoder).unwrap();
        is_seed("picture", "webp", &bytes);
    }

    #[test]
    fn mutated_pictures_never_panic_and_give_pixels_or_words() {
        use crate::domain::mutate::mutated;
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds/picture");
        let (mut read, mut refused) = (0, 0);
        for seed in std::fs::read_dir(seeds).unwrap() {
            let whole = std::fs::read(seed.unwrap().path()).unwrap();
            for number in 0..200 {
                match read_bytes(&mutated(&whole, number)) {
                    Ok(picture) => {
                        assert_eq!(picture.pixels.len(), 3 * 32 * 32);
                        read += 1;
                    }
                    Err(problem) => {
                        assert!(!problem.to_string().is_empty());
                        refused += 1;
                    }
                }
            }
        }
        assert!(
            read > 100 && refused > 100,
            "{read} read, {refused} refused"
        );
    }

    fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
        let mut crc = flate2::Crc::new();
        crc.update(kind);
        crc.update(data);
        let length = (data.len() as u32).to_be_bytes();
        [&length[..], kind, data, &crc.sum().to_be_bytes()].concat()
    }

    /// The beginning of a grey PNG of this size.
    fn png_header(width: u32, height: u32, interlaced: u8) -> Vec<u8> {
        let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
        header.extend([8, 0, 0, 0, interlaced]);
        [&b"\x89PNG\r\n\x1a\n"[..], &chunk(b"IHDR", &header)].concat()
    }

    #[test]
    fn interlaced_rows_land_where_another_reader_puts_them() {
        for (width, height) in [(1, 1), (3, 2), (5, 9), (8, 8), (33, 17)] {
            let mut rows = Vec::new();
            for (i, (_, xs)) in png_rows(width, height, true).enumerate() {
                rows.push(0);
                rows.extend(xs.map(|x| (37 * i as u32 + x) as u8));
            }
            let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            zlib.write_all(&rows).unwrap();
            let mut file = png_header(width, height, 1);
            file.extend(chunk(b"IDAT", &zlib.finish().unwrap()));
            file.extend(chunk(b"IEND", b""));
            let whole = image::load_from_memory(&file).unwrap().into_rgb8();
            let (grid, ..) = png(Cursor::new(&file)).unwrap();
            let square = width.min(height);
            let (left, top) = ((width - square) / 2, (height - square) / 2);
            let middle = imageops::crop_imm(&whole, left, top, square, square).to_image();
            assert_eq!(grid.picture(), middle, "{width}x{height}");
        }
    }

    #[test]
    fn a_jpeg_cut_short_is_read_as_far_as_it_goes_and_says_so() {
        let picture = RgbImage::from_fn(64, 64, |x, y| Rgb([4 * x as u8, 4 * y as u8, 9]));
        let file = encoded(&picture.into(), ImageFormat::Jpeg);
        let whole = read_bytes(&file).unwrap();
        assert!(!whole.cut_short);
        let half = read_bytes(&file[..file.len() * 2 / 3]).unwrap();
        assert!(half.cut_short);
        assert_eq!(
            half.pixels[..128],
            whole.pixels[..128],
            "the first rows are there"
        );
        assert!(read_bytes(&file[..file.len() - 1]).unwrap().cut_short);
        let header = read_bytes(&file[..30]).unwrap_err().to_string();
        assert!(header.contains("JPEG picture that is damaged"), "{header}");
    }

    #[test]
    fn a_large_jpeg_is_scaled_while_it_is_decoded() {
        let picture = RgbImage::from_fn(4400, 2400, |x, y| {
            let inside = (1000..3400).contains(&x) && (700..1700).contains(&y);
            Rgb([if inside { 200 } else { 40 }, 80, 120])
        });
        let file = encoded(&picture.clone().into(), ImageFormat::Jpeg);
        let scaled = pixels(&file);
        let grid = {
            let mut grid = CropAccumulator::new(4400, 2400).unwrap();
            for (y, row) in picture.rows().enumerate() {
                grid.add_row(y as u32, (0..).zip(row.map(|p| rgba(&p.0))));
            }
            planes(&resize(grid.picture(), 32))
        };
        let most = scaled
            .iter()
            .zip(&grid)
            .map(|(a, b)| a.abs_diff(*b))
            .max()
            .unwrap();
        assert!(most < 12, "off by {most}");
    }

    #[test]
    fn what_is_too_large_is_called_so_before_it_is_decoded() {
        let too_large = |bytes: &[u8], part: &str| {
            let text = read_bytes(bytes).unwrap_err().to_string();
            assert!(
                text.contains("is too large") && text.contains(part),
                "{text}"
            );
        };
        too_large(&png_header(100_000, 100_000, 0), "100000x100000");
        let wide = [png_header(1 << 27, 4, 0), chunk(b"IDAT", b"")].concat();
        too_large(&wide, "a row of it");
        // A frame header of three components without subsampling, then a scan that is never reached.
        let frame = |marker: u8, side: u16| {
            let [high, low] = side.to_be_bytes();
            let mut file = b"\xff\xd8\xff".to_vec();
            file.extend([marker, 0, 17, 8, high, low, high, low, 3]);
            file.extend([1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0]);
            file
        };
        too_large(&frame(0xc2, 12_000), "progressive");
        too_large(&frame(0xc0, 65_000), "65000x65000");
        let mut bmp = encoded(&RgbImage::new(1, 1).into(), ImageFormat::Bmp);
        bmp[18..26].copy_from_slice(&[0x20, 0x4e, 0, 0, 0x20, 0x4e, 0, 0]);
        too_large(&bmp, "20000x20000");
    }

    #[test]
    fn what_is_no_picture_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("words.png");
        std::fs::write(&text, "no picture").unwrap();
        let fifo = folder.path().join("fifo.png");
        files::tests::make_fifo(&fifo);
        for (path, words) in [
            (text.as_path(), "words.png is no picture"),
            (&fifo, "fifo.png cannot be read: it is a named pipe"),
            (Path::new("absent.png"), "absent.png cannot be read"),
        ] {
            let error = read(path, 32).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let cut = png_of(exact());
        let text = read_bytes(&cut[..cut.len() / 2]).unwrap_err().to_string();
        assert!(text.contains("PNG picture that is damaged"), "{text}");
    }
}
