//! Pictures drawn with half blocks: one cell shows two pixels, the upper one in the foreground colour of `▀`, the lower
//! one in the background. A cell is about twice as high as wide, so the pixels come out square. Where the terminal has
//! no colour or no half blocks, a ramp of characters shows the brightness.
//!
//! Drawing depends only on the picture, the area and the theme, so that a repaint writes only cells that have changed.
//! This module knows no network and no screen.

use crate::domain::report::Picture;
use crate::domain::symbols::Symbols;
use crate::tui::theme::{ANSI16, Colors, Theme};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style};

/// How an image is enlarged. Reducing always averages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Linear interpolation: for photographs.
    Smooth,
    /// Every pixel stays a square: for filters and feature maps.
    Pixels,
}

/// Characters from dark to bright on a dark background.
const RAMP: [&str; 10] = [" ", ".", ":", "-", "=", "+", "*", "#", "%", "@"];

/// Size in cells, at most `width` x `height`, at which a square picture keeps its shape: twice as wide as high.
pub fn fit(width: u16, height: u16) -> (u16, u16) {
    let height = height.min(width / 2);
    (height * 2, height)
}

/// Draws the picture over the whole of `area` (cut to the buffer).
pub fn draw(picture: &Picture, scale: Scale, theme: Theme, area: Rect, buf: &mut Buffer) {
    let visible = area.intersection(buf.area);
    let expected = 3 * picture.side as usize * picture.side as usize;
    if visible.is_empty() || expected == 0 || picture.rgb.len() != expected {
        return;
    }
    let (columns, rows) = (usize::from(area.width), 2 * usize::from(area.height));
    let pixels = resample(picture, columns, rows, scale);
    let at = |x: u16, y: u16| pixels[usize::from(y) * columns + usize::from(x)];
    let spread = Brightness::of(&pixels);
    for y in visible.top()..visible.bottom() {
        for x in visible.left()..visible.right() {
            let (column, row) = (x - area.x, 2 * (y - area.y));
            let (upper, lower) = (at(column, row), at(column, row + 1));
            let cell = &mut buf[(x, y)];
            match theme.colors {
                colors if colors == Colors::None || theme.symbols == Symbols::Ascii => {
                    let ink = spread.stretched((luminance(upper) + luminance(lower)) / 2.0);
                    let step = (ink * RAMP.len() as f32) as usize;
                    cell.set_symbol(RAMP[step.min(RAMP.len() - 1)])
                        .set_style(Style::reset().fg(hue(upper, lower, colors)));
                }
                Colors::None | Colors::Ansi16 => {
                    cell.set_symbol("▀").set_style(
                        Style::reset()
                            .fg(dithered16(upper, column, row))
                            .bg(dithered16(lower, column, row + 1)),
                    );
                }
                colors @ (Colors::Ansi256 | Colors::True) => {
                    cell.set_symbol("▀")
                        .set_style(Style::reset().fg(colors.rgb(upper)).bg(colors.rgb(lower)));
                }
            }
        }
    }
}

/// The colour of two pixels at full brightness; the character shows the brightness.
fn hue(upper: [u8; 3], lower: [u8; 3], colors: Colors) -> Color {
    let sum: [u16; 3] = std::array::from_fn(|i| u16::from(upper[i]) + u16::from(lower[i]));
    let brightest = sum.into_iter().max().unwrap_or(0).max(1);
    colors.rgb(sum.map(|v| (255 * u32::from(v) / u32::from(brightest)) as u8))
}

/// The picture at `columns` x `rows` pixels.
fn resample(picture: &Picture, columns: usize, rows: usize, scale: Scale) -> Vec<[u8; 3]> {
    let side = picture.side as usize;
    let across = taps(side, columns, scale);
    let down = taps(side, rows, scale);
    let mut pixels = Vec::with_capacity(columns * rows);
    for vertical in &down {
        for horizontal in &across {
            let mut sum = [0.0f32; 3];
            for &(y, wy) in vertical {
                for &(x, wx) in horizontal {
                    let at = 3 * (y * side + x);
                    for (total, &value) in sum.iter_mut().zip(&picture.rgb[at..at + 3]) {
                        *total += wy * wx * f32::from(value);
                    }
                }
            }
            pixels.push(sum.map(|v| (v + 0.5) as u8));
        }
    }
    pixels
}

/// For each of `to` target pixels: the source pixels of `from` that it covers, and their shares.
fn taps(from: usize, to: usize, scale: Scale) -> Vec<Vec<(usize, f32)>> {
    let ratio = from as f32 / to as f32;
    (0..to)
        .map(|i| {
            if to >= from {
                let centre = (i as f32 + 0.5) * ratio;
                return match scale {
                    Scale::Pixels => vec![((centre as usize).min(from - 1), 1.0)],
                    Scale::Smooth => {
                        let place = (centre - 0.5).clamp(0.0, (from - 1) as f32);
                        let first = place as usize;
                        let share = place - first as f32;
                        vec![(first, 1.0 - share), ((first + 1).min(from - 1), share)]
                    }
                };
            }
            let (start, end) = (i as f32 * ratio, (i + 1) as f32 * ratio);
            (start as usize..from.min(end.ceil() as usize))
                .map(|j| {
                    let covered = end.min((j + 1) as f32) - start.max(j as f32);
                    (j, covered / ratio)
                })
                .collect()
        })
        .collect()
}

/// Brightness from 0 to 255 (Rec. 709 weights).
fn luminance([r, g, b]: [u8; 3]) -> f32 {
    0.2126 * f32::from(r) + 0.7152 * f32::from(g) + 0.0722 * f32::from(b)
}

/// The darkest and the brightest value of a picture, which are mapped to the ends of the ramp.
struct Brightness {
    low: f32,
    high: f32,
}

impl Brightness {
    fn of(pixels: &[[u8; 3]]) -> Self {
        let (mut low, mut high) = (255.0f32, 0.0f32);
        for &pixel in pixels {
            let value = luminance(pixel);
            low = low.min(value);
            high = high.max(value);
        }
        Brightness { low, high }
    }

    /// From 0 to 1. An image of uniform brightness is drawn at that brightness.
    fn stretched(&self, value: f32) -> f32 {
        if self.high - self.low < 8.0 {
            value / 255.0
        } else {
            (value - self.low) / (self.high - self.low)
        }
    }
}

/// Ordered dithering (Bayer's 4x4 matrix) to the sixteen colours.
fn dithered16(rgb: [u8; 3], column: u16, row: u16) -> Color {
    const BAYER: [[i32; 4]; 4] = [[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]];
    // An amplitude of 72 levels: about the distance between neighbouring colours of the palette.
    let offset = (BAYER[usize::from(row % 4)][usize::from(column % 4)] * 2 - 15) * 72 / 30;
    let wanted = rgb.map(|v| (i32::from(v) + offset).clamp(0, 255));
    let distance = |candidate: [u8; 3]| -> i32 {
        // Weights according to the eye's sensitivity to the channels.
        wanted
            .iter()
            .zip(candidate)
            .zip([3, 6, 2])
            .map(|((&a, b), weight)| weight * (a - i32::from(b)).pow(2))
            .sum()
    };
    ANSI16
        .iter()
        .min_by_key(|(_, candidate)| distance(*candidate))
        .map_or(Color::Black, |(color, _)| *color)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture of 2x2 pixels: red and green above blue and white.
    fn four() -> Picture {
        Picture {
            side: 2,
            rgb: vec![255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255],
        }
    }

    fn drawn(picture: &Picture, scale: Scale, colors: Colors, width: u16, height: u16) -> Buffer {
        let symbols = Symbols::Braille;
        themed(picture, scale, Theme { colors, symbols }, (width, height))
    }

    fn themed(picture: &Picture, scale: Scale, theme: Theme, size: (u16, u16)) -> Buffer {
        let area = Rect::new(0, 0, size.0, size.1);
        let mut buf = Buffer::empty(area);
        draw(picture, scale, theme, area, &mut buf);
        buf
    }

    #[test]
    fn a_cell_is_one_pixel_wide_and_two_high() {
        let buf = drawn(&four(), Scale::Smooth, Colors::True, 2, 1);
        assert_eq!(buf[(0, 0)].symbol(), "▀");
        assert_eq!(
            (buf[(0, 0)].fg, buf[(0, 0)].bg),
            (Color::Rgb(255, 0, 0), Color::Rgb(0, 0, 255))
        );
        assert_eq!(
            (buf[(1, 0)].fg, buf[(1, 0)].bg),
            (Color::Rgb(0, 255, 0), Color::Rgb(255, 255, 255))
        );
    }

    #[test]
    fn shrinking_averages() {
        let mut rgb = vec![0; 3 * 16];
        rgb[..3].fill(200);
        let picture = Picture { side: 4, rgb };
        let buf = drawn(&picture, Scale::Smooth, Colors::True, 2, 1);
        assert_eq!(buf[(0, 0)].fg, Color::Rgb(50, 50, 50));
        assert_eq!(buf[(1, 0)].fg, Color::Rgb(0, 0, 0));
    }

    #[test]
    fn shrinking_by_an_odd_share_keeps_the_mean() {
        let picture = Picture {
            side: 32,
            rgb: vec![90; 3 * 32 * 32],
        };
        let pixels = resample(&picture, 13, 7, Scale::Smooth);
        assert_eq!(pixels.len(), 91);
        assert!(pixels.iter().all(|p| *p == [90; 3]), "{pixels:?}");
    }

    #[test]
    fn enlarging_keeps_squares_or_mixes() {
        let squares = resample(&four(), 4, 4, Scale::Pixels);
        assert_eq!(
            squares[..4],
            [[255, 0, 0], [255, 0, 0], [0, 255, 0], [0, 255, 0]]
        );
        let smooth = resample(&four(), 4, 4, Scale::Smooth);
        assert_eq!(smooth[0], [255, 0, 0]);
        assert_eq!(smooth[1], [191, 64, 0]);
    }

    #[test]
    fn without_colour_the_ramp_shows_brightness() {
        let mut rgb = vec![0; 12];
        rgb[3..6].fill(255);
        rgb[9..12].fill(255);
        let buf = drawn(&Picture { side: 2, rgb }, Scale::Pixels, Colors::None, 2, 1);
        assert_eq!((buf[(0, 0)].symbol(), buf[(1, 0)].symbol()), (" ", "@"));
        assert_eq!(
            (buf[(1, 0)].fg, buf[(1, 0)].bg),
            (Color::Reset, Color::Reset)
        );
    }

    #[test]
    fn in_ascii_the_ramp_says_how_bright_and_the_colour_which_hue() {
        let picture = Picture {
            side: 2,
            rgb: vec![0, 0, 0, 0, 120, 0, 0, 0, 0, 0, 120, 0],
        };
        let theme = Theme {
            colors: Colors::True,
            symbols: Symbols::Ascii,
        };
        let buf = themed(&picture, Scale::Pixels, theme, (2, 1));
        assert_eq!((buf[(0, 0)].symbol(), buf[(1, 0)].symbol()), (" ", "@"));
        assert_eq!(
            (buf[(1, 0)].fg, buf[(1, 0)].bg),
            (Color::Rgb(0, 255, 0), Color::Reset)
        );
    }

    #[test]
    fn sixteen_colours_mix_what_the_palette_lacks() {
        let grey = |level| Picture {
            side: 1,
            rgb: vec![level; 3],
        };
        let inks = |level| {
            let buf = drawn(&grey(level), Scale::Pixels, Colors::Ansi16, 4, 2);
            let mut inks: Vec<Color> = buf.content.iter().flat_map(|c| [c.fg, c.bg]).collect();
            inks.dedup();
            inks
        };
        assert_eq!(inks(0), [Color::Black]);
        assert!(inks(178).contains(&Color::Gray) && inks(178).contains(&Color::DarkGray));
    }

    #[test]
    fn no_size_and_no_broken_picture_panics() {
        for (width, height) in [(0, 0), (1, 1), (1, 9), (7, 2), (64, 32)] {
            for colors in [Colors::True, Colors::Ansi256, Colors::Ansi16, Colors::None] {
                drawn(&four(), Scale::Smooth, colors, width, height);
                let broken = Picture {
                    side: 32,
                    rgb: vec![1, 2],
                };
                drawn(&broken, Scale::Pixels, colors, width, height);
            }
        }
        let mut small = Buffer::empty(Rect::new(0, 0, 3, 3));
        draw(
            &four(),
            Scale::Smooth,
            Theme {
                colors: Colors::True,
                symbols: Symbols::Ascii,
            },
            Rect::new(1, 1, 9, 9),
            &mut small,
        );
        assert_eq!(fit(70, 16), (32, 16));
        assert_eq!(fit(9, 20), (8, 4));
    }
}
