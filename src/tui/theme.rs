//! Colours by meaning. There is one accent; other colours mark training, validation, best and wrong values. Without
//! colours, marks, bold and dim carry the same meaning. After a screen has been drawn, symbols that the terminal lacks
//! are replaced here.

pub use crate::domain::terminal::Colors;

use crate::domain::symbols::Symbols;
use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier, Style};

impl Colors {
    /// The nearest colour that the terminal shows; `Reset` without colours.
    pub fn rgb(self, rgb: [u8; 3]) -> Color {
        match self {
            Colors::True => Color::Rgb(rgb[0], rgb[1], rgb[2]),
            Colors::Ansi256 => Color::Indexed(nearest_256(rgb)),
            Colors::Ansi16 => nearest_16(rgb),
            Colors::None => Color::Reset,
        }
    }
}

fn distance(a: [u8; 3], b: [u8; 3]) -> u32 {
    a.iter()
        .zip(b)
        .map(|(x, y)| u32::from(x.abs_diff(y)).pow(2))
        .sum()
}

/// xterm's 6x6x6 cube and its 24 greys. The first 16 colours differ between terminals and are not used.
fn nearest_256(rgb: [u8; 3]) -> u8 {
    const LEVELS: [u8; 6] = [0, 95, 135, 175, 215, 255];
    let near = |v: u8| {
        (0..6u8)
            .min_by_key(|&i| LEVELS[i as usize].abs_diff(v))
            .unwrap_or(0)
    };
    let [r, g, b] = rgb.map(near);
    let cube = [r, g, b].map(|i| LEVELS[i as usize]);
    let mean = rgb.iter().map(|&v| u32::from(v)).sum::<u32>() / 3;
    let grey = (mean.saturating_sub(3) / 10).min(23) as u8;
    if distance([8 + 10 * grey; 3], rgb) < distance(cube, rgb) {
        232 + grey
    } else {
        16 + 36 * r + 6 * g + b
    }
}

/// The sixteen colours as xterm shows them; terminals differ.
pub const ANSI16: [(Color, [u8; 3]); 16] = [
    (Color::Black, [0, 0, 0]),
    (Color::Red, [205, 0, 0]),
    (Color::Green, [0, 205, 0]),
    (Color::Yellow, [205, 205, 0]),
    (Color::Blue, [0, 0, 238]),
    (Color::Magenta, [205, 0, 205]),
    (Color::Cyan, [0, 205, 205]),
    (Color::Gray, [229, 229, 229]),
    (Color::DarkGray, [127, 127, 127]),
    (Color::LightRed, [255, 0, 0]),
    (Color::LightGreen, [0, 255, 0]),
    (Color::LightYellow, [255, 255, 0]),
    (Color::LightBlue, [92, 92, 255]),
    (Color::LightMagenta, [255, 0, 255]),
    (Color::LightCyan, [0, 255, 255]),
    (Color::White, [255, 255, 255]),
];

fn nearest_16(rgb: [u8; 3]) -> Color {
    ANSI16
        .iter()
        .min_by_key(|(_, candidate)| distance(*candidate, rgb))
        .map_or(Color::Reset, |(color, _)| *color)
}

/// The styles by meaning.
#[derive(Clone, Copy, Debug)]
pub struct Theme {
    pub colors: Colors,
    pub symbols: Symbols,
}

impl Theme {
    /// Replaces the symbols that the terminal cannot show, in a finished frame.
    pub fn fit(self, buf: &mut Buffer) {
        if self.symbols == Symbols::Braille {
            return;
        }
        let width = usize::from(buf.area.width);
        for i in 0..buf.content.len() {
            let symbol = buf.content[i].symbol();
            let Some(full) = symbol.chars().next().filter(|_| !symbol.is_ascii()) else {
                continue;
            };
            let shown = self.symbols.fit(full);
            buf.content[i].set_char(shown);
            // `0.1 > 0.2` would read as a comparison, so draw `->`.
            if full == '→' && shown == '>' && i % width > 0 && buf.content[i - 1].symbol() == " "
            {
                buf.content[i - 1].set_char('-');
            }
        }
    }

    fn ink(self, rgb: [u8; 3], sixteen: Color) -> Style {
        match self.colors {
            Colors::None => self.text(),
            Colors::Ansi16 => Style::new().fg(sixteen),
            colors => Style::new().fg(colors.rgb(rgb)),
        }
    }

    /// Plain text in the terminal's own colour.
    pub fn text(self) -> Style {
        Style::new().fg(Color::Reset)
    }

    /// Secondary text: labels, units, axes, hints.
    pub fn dim(self) -> Style {
        match self.colors {
            Colors::None => Style::new().add_modifier(Modifier::DIM),
            _ => self.ink([128, 134, 150], Color::DarkGray),
        }
    }

    /// Values next to labels.
    pub fn strong(self) -> Style {
        self.text().add_modifier(Modifier::BOLD)
    }

    /// Frames around panels.
    pub fn frame(self) -> Style {
        match self.colors {
            Colors::None => Style::new().add_modifier(Modifier::DIM),
            _ => self.ink([74, 80, 96], Color::DarkGray),
        }
    }

    /// The accent: the focus, and what can be pressed.
    pub fn accent(self) -> Style {
        match self.colors {
            Colors::None => Style::new().add_modifier(Modifier::BOLD),
            _ => self.ink([187, 154, 247], Color::Magenta),
        }
    }

    /// The item under the cursor, and the open tab.
    pub fn selected(self) -> Style {
        match self.colors {
            Colors::None | Colors::Ansi16 => Style::new().add_modifier(Modifier::REVERSED),
            colors => Style::new()
                .bg(colors.rgb([58, 52, 84]))
                .fg(colors.rgb([235, 230, 250]))
                .add_modifier(Modifier::BOLD),
        }
    }

    /// Training figures.
    pub fn train(self) -> Style {
        self.ink([97, 175, 239], Color::Cyan)
    }

    /// Single batches behind the smoothed training curve.
    pub fn train_raw(self) -> Style {
        match self.colors {
            Colors::None => Style::new().add_modifier(Modifier::DIM),
            _ => self.ink([66, 104, 142], Color::DarkGray),
        }
    }

    /// Validation figures.
    pub fn validation(self) -> Style {
        self.ink([229, 181, 103], Color::Yellow)
    }

    /// The best value so far; correct.
    pub fn best(self) -> Style {
        self.ink([136, 200, 110], Color::Green)
            .add_modifier(Modifier::BOLD)
    }

    /// Wrong, failed, diverged.
    pub fn wrong(self) -> Style {
        self.ink([240, 101, 101], Color::LightRed)
            .add_modifier(Modifier::BOLD)
    }

    /// Waiting to take effect; a warning.
    pub fn pending(self) -> Style {
        match self.colors {
            Colors::None => Style::new().add_modifier(Modifier::UNDERLINED),
            _ => self.ink([187, 154, 247], Color::Magenta),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_fall_to_the_nearest() {
        assert_eq!(Colors::Ansi256.rgb([255, 0, 0]), Color::Indexed(196));
        assert_eq!(Colors::Ansi256.rgb([128, 128, 128]), Color::Indexed(244));
        assert_eq!(Colors::Ansi16.rgb([250, 5, 5]), Color::LightRed);
        assert_eq!(Colors::None.rgb([1, 2, 3]), Color::Reset);
    }
}
