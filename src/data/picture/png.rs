//! Decodes a PNG row by row.

use super::crop::CropAccumulator;
use super::{Decoded, ImageProblem, damaged, orientation, rgba};
use image::ImageFormat;
use png::{Decoder, DecodingError, Transformations};
use std::io::{BufRead, Seek};

/// Decodes a PNG.
pub fn decode(source: impl BufRead + Seek) -> Result<Decoded, ImageProblem> {
    let problem = |error: DecodingError| match error {
        DecodingError::LimitsExceeded => {
            ImageProblem::TooLarge("one of its rows or its metadata needs too much memory".into())
        }
        error => damaged(ImageFormat::Png, error),
    };
    let mut decoder = Decoder::new(source);
    decoder.set_transformations(Transformations::normalize_to_color8());
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    // Check the size before memory is allocated for a row.
    let (width, height) = decoder.read_header_info().map_err(problem)?.size();
    let mut grid = CropAccumulator::new(width, height)?;
    let mut reader = decoder.read_info().map_err(problem)?;
    let channels = reader.output_color_type().0.samples();
    for (y, xs) in rows(width, height, reader.info().interlaced) {
        let Some(row) = reader.next_interlaced_row().map_err(problem)? else {
            return Err(damaged(
                ImageFormat::Png,
                "it has fewer rows than its header says",
            ));
        };
        let pixels = row.data().chunks_exact(channels).map(rgba);
        grid.add_row(y, xs.zip(pixels));
    }
    // EXIF data may follow the pixels.
    let cut_short = reader.finish().is_err();
    let exif = reader.info().exif_metadata.as_deref();
    Ok((grid, orientation(exif), cut_short))
}

/// The rows of a PNG in the order of the file: for each, its row in the picture and the columns it contains.
pub fn rows(
    width: u32,
    height: u32,
    interlaced: bool,
) -> impl Iterator<Item = (u32, std::iter::StepBy<std::ops::Range<u32>>)> {
    // First column, first row, column step and row step of each Adam7 pass.
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
