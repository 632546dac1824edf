//! `predict`: what a checkpoint says of pictures.

use super::network::{Images, Trained};
use crate::config::Config;
use crate::data;
use crate::domain::symbols::Symbols;
use crate::domain::text::percent;
use anyhow::{Context, bail};
use image::imageops::{FilterType, crop_imm, resize};
use image::{ImageReader, Limits, Rgb, RgbImage};
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Bytes that decoding one picture may take: 100 megapixels in RGB, less than the program's bound of 512 MiB.
const MOST_BYTES: u64 = 300 << 20;

#[derive(Serialize)]
struct Line<'a> {
    image: String,
    class: &'a str,
    probability: f32,
    /// All classes, most probable first.
    probabilities: Vec<Class<'a>>,
}

#[derive(Serialize)]
struct Class<'a> {
    class: &'a str,
    probability: f32,
}

/// Classifies and prints, picture by picture.
///
/// # Errors
/// When the checkpoint cannot be used; after all that can be read is printed, when a picture cannot be.
pub fn run(
    config: &Config,
    checkpoint: &Path,
    pictures: &[PathBuf],
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let mut trained = Trained::open(checkpoint, config)?;
    let side = trained.progress.side;
    let mut wrong = Vec::new();
    for path in pictures {
        let pixels = match read(path, side) {
            Ok(pixels) => pixels,
            Err(error) => {
                wrong.push(format!("{error:#}"));
                continue;
            }
        };
        let images = Images::new(data::Images {
            side: side as usize,
            pixels,
            // No label is known; the loss that it gives is not looked at.
            labels: vec![0],
        })?;
        let scored = trained.score(&images, &[0], &mut |_| {})?;
        let mut probabilities: Vec<_> = trained
            .progress
            .classes
            .iter()
            .zip(&scored.probabilities)
            .map(|(class, p)| Class {
                class,
                probability: *p,
            })
            .collect();
        probabilities.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        let Some(first) = probabilities.first() else {
            bail!("{} has no classes", trained.file.display());
        };
        let line = Line {
            image: path.display().to_string(),
            class: first.class,
            probability: first.probability,
            probabilities,
        };
        match json {
            true => super::json(&line, out)?,
            false => print(&line, config.options.symbols(), out)?,
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n       "));
    }
    Ok(())
}

fn print(line: &Line, symbols: Symbols, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(
        out,
        "{}: {} {}",
        line.image,
        line.class,
        percent(line.probability.into())
    )?;
    for class in &line.probabilities {
        let bar = symbols
            .text("█")
            .repeat((class.probability * 40.0).round() as usize);
        writeln!(
            out,
            "  {:<12} {:>6}  {bar}",
            class.class,
            percent(class.probability.into())
        )?;
    }
    Ok(())
}

/// The picture as the network takes it: u8, CHW, `side` x `side`.
fn read(path: &Path, side: u32) -> anyhow::Result<Vec<u8>> {
    let mut reader = ImageReader::open(path)
        .and_then(ImageReader::with_guessed_format)
        .with_context(|| format!("{} cannot be read", path.display()))?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MOST_BYTES);
    reader.limits(limits);
    let picture = reader.decode().with_context(|| {
        format!(
            "{} is no picture that can be read (PNG, JPEG, BMP, GIF, WebP, TIFF, PNM)",
            path.display()
        )
    })?;
    if picture.width() == 0 || picture.height() == 0 {
        bail!("{} has no pixels", path.display());
    }
    Ok(planes(&fit(&on_white(&picture.to_rgba8()), side)))
}

/// Over white paper, which is what a picture with a transparent ground is usually seen on.
fn on_white(picture: &image::RgbaImage) -> RgbImage {
    RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
        let [r, g, b, a] = picture.get_pixel(x, y).0.map(u32::from);
        Rgb([r, g, b].map(|v| ((v * a + 255 * (255 - a) + 127) / 255) as u8))
    })
}

/// The square in the middle, scaled with a filter that averages over what it leaves out.
fn fit(picture: &RgbImage, side: u32) -> RgbImage {
    let (width, height) = picture.dimensions();
    let square = width.min(height);
    let middle = crop_imm(
        picture,
        (width - square) / 2,
        (height - square) / 2,
        square,
        square,
    )
    .to_image();
    match square == side {
        true => middle,
        false => resize(&middle, side, side, FilterType::Lanczos3),
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

    #[test]
    fn the_middle_is_cut_out_and_nothing_is_squeezed() {
        // Red, green and blue thirds: only the green one is in the middle square.
        let wide = RgbImage::from_fn(96, 32, |x, _| {
            let mut rgb = [0; 3];
            rgb[(x / 32) as usize] = 255;
            Rgb(rgb)
        });
        assert!(fit(&wide, 32).pixels().all(|p| p.0 == [0, 255, 0]));
        let large = RgbImage::from_fn(640, 960, |_, y| match (160..800).contains(&y) {
            true => Rgb([10, 20, 30]),
            false => Rgb([255; 3]),
        });
        let small = fit(&large, 32);
        assert_eq!(small.dimensions(), (32, 32));
        assert!(small.pixels().all(|p| p.0 == [10, 20, 30]));
        assert_eq!(planes(&small)[1024], 20);
    }

    #[test]
    fn a_picture_of_the_right_size_stays_as_it_is() {
        let exact = RgbImage::from_fn(32, 32, |x, y| Rgb([x as u8, y as u8, (x * y) as u8]));
        assert_eq!(fit(&exact, 32), exact);
        let chw = planes(&exact);
        assert_eq!((chw[5], chw[1024 + 32], chw[2048 + 33]), (5, 1, 1));
    }

    #[test]
    fn what_is_transparent_is_white() {
        let mut picture = image::RgbaImage::new(2, 1);
        picture.put_pixel(1, 0, image::Rgba([10, 20, 30, 255]));
        let flat = on_white(&picture);
        assert_eq!(flat.get_pixel(0, 0).0, [255; 3]);
        assert_eq!(flat.get_pixel(1, 0).0, [10, 20, 30]);
    }

    #[test]
    fn every_format_is_read_and_what_is_none_is_named() {
        use image::ImageFormat::{Bmp, Gif, Jpeg, Png, Pnm, Tiff, WebP};
        let folder = tempfile::tempdir().unwrap();
        let picture = RgbImage::from_pixel(40, 50, Rgb([200, 60, 20]));
        for format in [Png, Jpeg, Bmp, Gif, WebP, Tiff, Pnm] {
            let path = folder
                .path()
                .join(format!("x.{}", format.extensions_str()[0]));
            picture.save_with_format(&path, format).unwrap();
            let chw = read(&path, 32).unwrap();
            assert!(
                chw[0].abs_diff(200) < 12 && chw[2048].abs_diff(20) < 12,
                "{format:?}"
            );
        }
        let text = folder.path().join("words.png");
        std::fs::write(&text, "no picture").unwrap();
        let error = format!("{:#}", read(&text, 32).unwrap_err());
        assert!(error.contains("words.png is no picture"), "{error}");
        let error = format!("{:#}", read(Path::new("absent.png"), 32).unwrap_err());
        assert!(error.contains("absent.png cannot be read"), "{error}");
    }
}
