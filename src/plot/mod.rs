//! Draws curves and confusion matrices as PNG, for the run folder and for the key that saves a picture. Takes domain
//! data and returns bytes.

mod confusion;
mod curves;

pub use confusion::confusion;
pub use curves::{Curve, Curves, curves};

use plotters::coord::Shift;
use plotters::prelude::{BitMapBackend, DrawingArea, IntoDrawingArea};
use plotters::style::{Color, FontStyle, RGBColor, TextStyle, register_font};
use std::sync::OnceLock;

/// A picture's size in pixels.
pub const SIZE: (u32, u32) = (1200, 800);

const FONT: &str = "sans-serif";
const PAPER: RGBColor = RGBColor(255, 255, 255);
const INK: RGBColor = RGBColor(32, 36, 44);
const GREY: RGBColor = RGBColor(112, 118, 130);
const RULE: RGBColor = RGBColor(228, 230, 235);
// Two colours that can be distinguished with all common kinds of colour blindness (Okabe and Ito's blue and vermilion).
const TRAIN: RGBColor = RGBColor(0, 114, 178);
const VALIDATION: RGBColor = RGBColor(213, 94, 0);
const WRONG: RGBColor = RGBColor(200, 30, 45);

/// An error of drawing a picture.
#[derive(Debug, thiserror::Error)]
#[error("the picture could not be drawn: {0}")]
pub struct PlotError(String);

impl PlotError {
    fn of(error: impl std::fmt::Display) -> Self {
        PlotError(error.to_string())
    }
}

type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

/// Draws on white paper and encodes it.
fn picture(draw: impl FnOnce(&Area) -> Result<(), PlotError>) -> Result<Vec<u8>, PlotError> {
    load_font()?;
    let (width, height) = SIZE;
    let mut pixels = vec![255; (width * height * 3) as usize];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, SIZE).into_drawing_area();
        area.fill(&PAPER).map_err(PlotError::of)?;
        draw(&area)?;
        area.present().map_err(PlotError::of)?;
    }
    let mut png = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_raw(width, height, pixels)
        .ok_or_else(|| PlotError("the buffer has the wrong size".into()))?
        .write_to(&mut png, image::ImageFormat::Png)
        .map_err(PlotError::of)?;
    Ok(png.into_inner())
}

/// Plotters keeps fonts in a global table. The font is built in, so that no installed font is needed.
fn load_font() -> Result<(), PlotError> {
    static LOADED: OnceLock<bool> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| {
        [FontStyle::Normal, FontStyle::Bold]
            .into_iter()
            .all(|style| register_font(FONT, style, epaint_default_fonts::UBUNTU_LIGHT).is_ok())
    });
    match loaded {
        true => Ok(()),
        false => Err(PlotError("the built-in font cannot be read".into())),
    }
}

fn text(size: u32, color: RGBColor) -> TextStyle<'static> {
    TextStyle {
        color: color.to_backend_color(),
        ..TextStyle::from((FONT, size))
    }
}
