//! The symbols that a terminal can show. Everything is drawn with the full set; the table here replaces, character by
//! character, those that a terminal lacks.

use std::fmt;

/// Which characters the terminal shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symbols {
    /// All of Unicode, braille dots included.
    Braille,
    /// Text and the symbols of code page 437, which the fonts of consoles contain: half blocks and lines, no braille.
    Block,
    /// Bytes from 0x20 to 0x7e.
    Ascii,
}

/// Each drawn symbol, its replacement for terminals with code page 437, and in ASCII.
#[rustfmt::skip]
pub static SYMBOLS: &[(char, char, char)] = &[
    // Frames and axes.
    ('─', '─', '-'), ('│', '│', '|'), ('╭', '┌', '+'), ('╮', '┐', '+'), ('╰', '└', '+'), ('╯', '┘', '+'),
    ('└', '└', '+'), ('┤', '┤', '+'), ('┬', '┬', '+'), ('┷', '┴', '+'), ('┊', ':', ':'), ('┄', '-', '-'),
    // Sparklines.
    ('▁', '_', '.'), ('▂', '_', ':'), ('▃', '_', '-'), ('▄', '▄', '='), ('▅', '▄', '+'), ('▆', '▄', '*'),
    ('▇', '█', '#'),
    // Bars. Images are drawn with half blocks where these are available.
    ('▏', '▌', '-'), ('▎', '▌', '-'), ('▍', '▌', '-'), ('▌', '▌', '='), ('▋', '▌', '='), ('▊', '█', '='),
    ('▉', '█', '='), ('█', '█', '#'), ('▀', '▀', '"'),
    // Points and marks.
    ('•', '•', 'o'), ('◆', '♦', '@'), ('╳', 'X', 'X'), ('▲', '▲', '^'), ('▸', '►', '>'),
    ('●', '•', '*'), ('◌', '○', 'o'), ('‖', '║', '='), ('■', '■', '#'), ('✓', '√', '+'),
    ('✗', 'x', 'x'),
    // In text.
    ('→', '→', '>'), ('←', '←', '<'), ('↑', '↑', '^'), ('↓', '↓', 'v'), ('⏎', '◄', '<'), ('·', '·', '.'), ('±', '±', '~'),
    ('…', '~', '~'), ('–', '-', '-'), ('×', 'x', 'x'), ('°', '°', '\''),
    // Marks a character that must not be shown.
    ('\u{fffd}', '?', '?'),
];

/// The characters of a progress bar, from full to empty.
const BAR: &str = "█▉▊▋▌▍▎▏ ";

/// ASCII letters for the characters U+00C0 to U+00FF.
const LATIN: &[u8; 64] = b"AAAAAAACEEEEIIIIDNOOOOOxOUUUUYTsaaaaaaaceeeeiiiidnooooo/ouuuuyty";

impl Symbols {
    /// Every set, the richest first.
    pub const ALL: [Symbols; 3] = [Symbols::Braille, Symbols::Block, Symbols::Ascii];

    /// Its name in the option `symbols`.
    pub fn name(self) -> &'static str {
        match self {
            Symbols::Braille => "braille",
            Symbols::Block => "block",
            Symbols::Ascii => "ascii",
        }
    }

    /// `c` or its replacement. In ASCII, characters without a replacement become `?`.
    pub fn fit(self, c: char) -> char {
        if self == Symbols::Braille || c.is_ascii() {
            return c;
        }
        let row = SYMBOLS.iter().find(|row| row.0 == c);
        match (self, dots(c), row) {
            (Symbols::Block, Some(dots), _) => block(dots),
            (_, Some(dots), _) => stroke(dots),
            (Symbols::Block, _, Some(row)) => row.1,
            (Symbols::Block, _, None) => c,
            (_, _, Some(row)) => row.2,
            (_, _, None) => (c as usize)
                .checked_sub(0xc0)
                .and_then(|at| LATIN.get(at))
                .map_or('?', |&letter| letter.into()),
        }
    }

    /// `text`, character by character as [`Symbols::fit`] shows it.
    pub fn text(self, text: &str) -> String {
        text.chars().map(|c| self.fit(c)).collect()
    }

    /// The characters of a progress bar, from full to empty.
    pub fn bar(self) -> String {
        self.text(BAR)
    }

    /// The enter key: a symbol if available, else its name.
    pub fn enter(self) -> &'static str {
        match self {
            Symbols::Braille => "⏎",
            Symbols::Block | Symbols::Ascii => "enter",
        }
    }
}

impl fmt::Display for Symbols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The dots of a braille character: one byte for the left and one for the right column, with one bit per row. The top
/// row is the lowest bit.
fn dots(c: char) -> Option<[u8; 2]> {
    let bits = (c as u32)
        .checked_sub(0x2800)
        .filter(|bits| *bits < 0x100)? as u8;
    // Unicode numbers three dots down the left column, three down the right, then the lowest two.
    Some([
        bits & 7 | (bits >> 3) & 8,
        (bits >> 3) & 7 | (bits >> 4) & 8,
    ])
}

/// The half blocks that cover the dots.
fn block([left, right]: [u8; 2]) -> char {
    let both = left | right;
    match (both & 3 != 0, both & 12 != 0) {
        (false, false) => ' ',
        (true, false) => '▀',
        (false, true) => '▄',
        (true, true) if right == 0 => '▌',
        (true, true) if left == 0 => '▐',
        (true, true) => '█',
    }
}

/// The ASCII character that looks most like a piece of a curve with these dots.
fn stroke([left, right]: [u8; 2]) -> char {
    let both = left | right;
    let count = left.count_ones() + right.count_ones();
    // The mean row of a column's dots, counted from the top; NaN without dots, which compares false below.
    let mean = |column: u8| {
        let rows = (0..4).filter(|row| column & (1 << row) != 0);
        rows.sum::<u32>() as f32 / column.count_ones() as f32
    };
    let narrow = left == 0 || right == 0;
    let falls = mean(right) - mean(left);
    match mean(both) {
        _ if count == 0 => ' ',
        _ if count >= 6 => '#',
        _ if narrow && count >= 3 => '|',
        _ if falls >= 1.5 => '\\',
        _ if falls <= -1.5 => '/',
        row if row < 0.75 => '\'',
        row if row < 2.5 => '-',
        _ if narrow => '.',
        _ => '_',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The symbols of code page 437: those in place of its control characters, then those from 0xb0 on. Letters are
    /// left out.
    const CODE_PAGE_437: &str = "☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼⌂\
        ░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■½¼";

    #[test]
    fn each_symbol_has_one_row_and_what_stands_for_it_is_there() {
        for (i, &(full, block, ascii)) in SYMBOLS.iter().enumerate() {
            assert!(SYMBOLS[..i].iter().all(|row| row.0 != full), "{full} twice");
            assert!(ascii.is_ascii_graphic(), "{full}");
            let shown = block.is_ascii_graphic() || CODE_PAGE_437.contains(block);
            assert!(shown, "{full}: {block} is not in the code page");
            for (symbols, expected) in Symbols::ALL.into_iter().zip([full, block, ascii]) {
                assert_eq!(symbols.fit(full), expected);
            }
        }
    }

    #[test]
    fn dots_become_blocks_and_strokes() {
        let looks = |c: char| (Symbols::Block.fit(c), Symbols::Ascii.fit(c));
        assert_eq!(looks('\u{2800}'), (' ', ' '));
        assert_eq!(looks('⠉'), ('▀', '\''));
        assert_eq!(looks('⠒'), ('▀', '-'));
        assert_eq!(looks('⠤'), ('▄', '-'));
        assert_eq!(looks('⣀'), ('▄', '_'));
        assert_eq!(looks('⡀'), ('▄', '.'));
        assert_eq!(looks('⡇'), ('▌', '|'));
        assert_eq!(looks('⢸'), ('▐', '|'));
        assert_eq!(looks('⢄'), ('▄', '_'));
        assert_eq!(looks('⠣'), ('█', '\\'));
        assert_eq!(looks('⡠'), ('▄', '_'));
        assert_eq!(looks('⠜'), ('█', '/'));
        assert_eq!(looks('⣿'), ('█', '#'));
        for c in '\u{2800}'..='\u{28ff}' {
            let (block, ascii) = looks(c);
            assert_eq!(block == ' ', c == '\u{2800}', "{c}");
            assert_eq!(ascii == ' ', c == '\u{2800}', "{c}");
            assert!(" ▀▄▌▐█".contains(block) && ascii.is_ascii(), "{c}");
        }
    }

    #[test]
    fn text_from_outside_stays_or_is_transliterated() {
        let text = "Größe Ångström 漢 ü";
        assert_eq!(Symbols::Braille.text(text), text);
        assert_eq!(Symbols::Block.text(text), text);
        assert_eq!(Symbols::Ascii.text(text), "Grose Angstrom ? u");
    }

    #[test]
    fn bars_have_as_many_steps_as_the_terminal_can_show() {
        assert_eq!(Symbols::Block.bar(), "███▌▌▌▌▌ ");
        assert_eq!(Symbols::Ascii.bar(), "#====--- ");
    }
}
