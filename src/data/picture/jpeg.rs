//! Decodes a JPEG. The decoder itself scales large pictures down.

use super::crop::{CropAccumulator, check_size};
use super::{Decoded, ImageProblem, MAX_COEFFICIENTS, UNSCALED_PIXELS, damaged, orientation, rgba};
use image::ImageFormat;
use jpeg_decoder::{CodingProcess, PixelFormat};
use std::io::{self, BufRead, Read, Seek};

/// Decodes a JPEG, scaled down so far that it has at most [`UNSCALED_PIXELS`].
pub fn decode(mut source: impl BufRead + Seek) -> Result<Decoded, ImageProblem> {
    let problem = |error: jpeg_decoder::Error| damaged(ImageFormat::Jpeg, error);
    let coefficients = progressive_coefficients(&mut source).map_err(ImageProblem::Io)?;
    source.rewind().map_err(ImageProblem::Io)?;
    let mut source = Padded { source, added: 0 };
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
        // If only the decoder found a progressive frame, assume the largest possible number of coefficients.
        let bytes = 2 * coefficients.unwrap_or(4 * (width + 32) * (height + 32));
        if bytes > MAX_COEFFICIENTS {
            return Err(ImageProblem::TooLarge(format!(
                "a progressive JPEG of {width}x{height} pixels needs {} MiB to decode, more than the limit of {} MiB; \
                 a baseline JPEG of this size can be read",
                bytes >> 20,
                MAX_COEFFICIENTS >> 20
            )));
        }
    }
    // The decoder scales by a half, a quarter or an eighth.
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
    Ok((grid, orientation, source.added > 0))
}

/// The number of coefficients of a progressive JPEG, from its frame header. None for other JPEGs.
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
        // A marker is one or more FF bytes followed by another byte.
        while number(1)?.is_some_and(|byte| byte != 0xff) {}
        let mut marker = Some(0xff);
        while marker == Some(0xff) {
            marker = number(1)?;
        }
        match marker {
            // Markers without a length: padding, start of image, restart.
            Some(0 | 1 | 0xd0..=0xd8) => continue,
            // A progressive frame.
            Some(0xc2 | 0xc6 | 0xca | 0xce) => {}
            // Another kind of frame, a scan, end of image.
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

/// Appends end-of-image markers after the last byte of the file, so that a truncated JPEG decodes as far as it goes.
struct Padded<R> {
    source: R,
    /// Number of bytes read that were not in the file.
    added: u64,
}

impl<R: Read> Read for Padded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.source.read(buffer)? {
            0 if !buffer.is_empty() => {
                buffer[0] = [0xff, 0xd9][(self.added % 2) as usize];
                self.added += 1;
                Ok(1)
            }
            n => Ok(n),
        }
    }
}
