//! The abilities of a terminal according to the environment: colours from `NO_COLOR`, `COLORTERM` and `TERM`, symbols
//! from the locale and `TERM`, and the drawn size. The screen, progress bars and `doctor` share one table and one
//! function.

use super::symbols::Symbols;
use std::fmt;

/// How many colours the terminal shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colors {
    True,
    Ansi256,
    Ansi16,
    None,
}

impl fmt::Display for Colors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Colors::True => "16 million colours",
            Colors::Ansi256 => "256 colours",
            Colors::Ansi16 => "16 colours",
            Colors::None => "no colours",
        })
    }
}

/// What a value of `TERM` implies. A column that is None is decided by a later row.
pub struct TermRow {
    /// `TERM`; `*` matches any text.
    pub term: &'static str,
    pub colors: Option<Colors>,
    /// In a UTF-8 locale, or without a locale. Other locales get ASCII.
    pub symbols: Option<[Symbols; 2]>,
}

use Colors::{Ansi16, Ansi256, True};
use Symbols::{Ascii, Block, Braille};

const fn row(term: &'static str, colors: Option<Colors>, symbols: Option<[Symbols; 2]>) -> TermRow {
    TermRow {
        term,
        colors,
        symbols,
    }
}

/// Current terminal emulators: they show UTF-8 even if the host that they are connected to has no locale.
const MODERN: Option<[Symbols; 2]> = Some([Braille, Braille]);
/// tmux and GNU screen follow the locale: without one they do not pass on UTF-8.
const MULTIPLEXER: Option<[Symbols; 2]> = Some([Braille, Ascii]);
/// The fonts of consoles contain the characters of code page 437.
const CONSOLE: Option<[Symbols; 2]> = Some([Block, Ascii]);
const OLD: Option<[Symbols; 2]> = Some([Ascii, Ascii]);
const MONOCHROME: Option<Colors> = Some(Colors::None);

/// Names from terminfo, ncurses and the terminals' documentation. For each column, the first matching row with a value
/// counts.
#[rustfmt::skip]
pub static TERMINALS: &[TermRow] = &[
    // Terminals with true colour, which their terminfo entries do not always state. ssh passes on TERM, but not
    // COLORTERM.
    row("xterm-kitty", Some(True), MODERN),
    row("kitty", Some(True), MODERN),
    row("xterm-ghostty", Some(True), MODERN),
    row("ghostty", Some(True), MODERN),
    row("alacritty*", Some(True), MODERN),
    row("foot*", Some(True), MODERN),
    row("wezterm*", Some(True), MODERN),
    row("contour*", Some(True), MODERN),
    row("rio", Some(True), MODERN),
    row("iterm2*", Some(True), MODERN),
    row("iTerm2.app", Some(True), MODERN),
    row("mintty*", Some(True), MODERN),
    row("ms-terminal", Some(True), MODERN),
    row("xterm.js", Some(True), MODERN),
    row("st-256color", Some(True), MODERN),
    row("stterm-256color", Some(True), MODERN),
    // Suffixes that state the number of colours.
    row("*-direct*", Some(True), None),
    row("*-256color*", Some(Ansi256), None),
    row("*-88color", Some(Ansi16), None),
    row("*-16color*", Some(Ansi16), None),
    row("*-mono", MONOCHROME, None),
    row("*-m", MONOCHROME, None),
    // Multiplexers. GNU screen appends the name of the terminal that it runs in.
    row("screen.linux*", Some(Ansi16), CONSOLE),
    row("screen*", Some(Ansi16), MULTIPLEXER),
    row("tmux*", Some(Ansi16), MULTIPLEXER),
    // Consoles.
    row("linux*", Some(Ansi16), CONSOLE),
    row("cygwin*", Some(Ansi16), CONSOLE),
    row("fbterm", Some(Ansi256), CONSOLE),
    row("jfbterm", Some(Ansi16), CONSOLE),
    // Terminals from before UTF-8.
    row("", MONOCHROME, OLD),
    row("dumb*", MONOCHROME, OLD),
    row("vt1*", MONOCHROME, OLD),
    row("vt2*", MONOCHROME, OLD),
    row("vt3*", MONOCHROME, OLD),
    row("vt4*", MONOCHROME, OLD),
    row("vt5*", MONOCHROME, OLD),
    row("wy*", MONOCHROME, OLD),
    row("sun-color", Some(Ansi16), OLD),
    row("sun*", MONOCHROME, OLD),
    row("ansi*", Some(Ansi16), OLD),
    row("pcansi*", Some(Ansi16), OLD),
    row("scoansi*", Some(Ansi16), OLD),
    row("qansi*", Some(Ansi16), OLD),
    row("cons25*", Some(Ansi16), OLD),
    row("hurd*", Some(Ansi16), OLD),
    row("mach*", Some(Ansi16), OLD),
    // Names that many terminals use.
    row("xterm*", Some(Ansi16), MODERN),
    row("rxvt-unicode*", Some(Ansi16), MODERN),
    row("konsole*", Some(Ansi16), MODERN),
    row("vte*", Some(Ansi16), MODERN),
    row("gnome*", Some(Ansi16), MODERN),
    // Unknown terminals are assumed to support the locale.
    row("*", Some(Ansi16), MULTIPLEXER),
];

/// Whether `pattern`, in which `*` matches any text, matches the whole of `name`.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| {
            let mut ends = rest.char_indices().map(|c| c.0).chain([rest.len()]);
            ends.any(|at| fits(tail, &rest[at..]))
        }),
    }
}

/// The abilities of a terminal, and the variables that decided them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// `TERM`; empty if it is not set.
    pub term: String,
    pub colors: Colors,
    /// The variable that decided the colours.
    pub colors_by: &'static str,
    pub symbols: Symbols,
    /// The locale that decided the symbols, as `LANG=C`. None if none is set.
    pub locale: Option<String>,
}

impl Terminal {
    /// The abilities according to the environment variables that `var` returns. Empty variables count as not set.
    pub fn detect(var: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| var(name).filter(|value| !value.is_empty());
        let term = set("TERM").unwrap_or_default();
        let rows = || TERMINALS.iter().filter(|row| fits(row.term, &term));
        let named = rows().find_map(|row| row.colors).unwrap_or(Colors::None);
        // GNU screen passes on the variable of the terminal that it was started in, but shows true colour only if
        // configured. tmux, which may use the same TERM, shows it.
        let inherited = term.starts_with("screen") && set("TMUX").is_none();
        let color_term = set("COLORTERM").filter(|_| !inherited);
        let (colors, colors_by) = if set("NO_COLOR").is_some() {
            (Colors::None, "NO_COLOR")
        } else if matches!(color_term.as_deref(), Some("truecolor" | "24bit")) {
            (Colors::True, "COLORTERM")
        } else {
            (named, "TERM")
        };
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .find_map(|name| Some((name, set(name)?)));
        let [in_utf8, without_locale] = rows().find_map(|row| row.symbols).unwrap_or([Ascii; 2]);
        let symbols = match &locale {
            None => without_locale,
            Some((_, value)) if is_utf8(value) => in_utf8,
            Some(_) => Ascii,
        };
        Terminal {
            term,
            colors,
            colors_by,
            symbols,
            locale: locale.map(|(name, value)| format!("{name}={value}")),
        }
    }

    /// The abilities of the terminal that this process was started in.
    pub fn of_process() -> Self {
        Terminal::detect(|name| std::env::var(name).ok())
    }
}

/// Whether a locale such as `de_DE.UTF-8` or `C.utf8` encodes text as UTF-8.
fn is_utf8(locale: &str) -> bool {
    let locale = locale.to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// The minimum columns and lines of the screen.
pub const MIN_SIZE: (u16, u16) = (60, 18);

/// The size assumed for a terminal that reports none, such as one opened by `docker exec`.
pub const ASSUMED_SIZE: (u16, u16) = (80, 24);

/// The maximum columns and lines that are drawn: more than fit on an 8K display at a readable size. Each cell costs
/// memory and time, and any program may set the terminal's size to up to 65535 x 65535.
pub const MAX_SIZE: (u16, u16) = (1000, 400);

/// The columns and lines to draw on a terminal that reports this size.
pub fn drawn_size((columns, lines): (u16, u16)) -> (u16, u16) {
    let known = |reported: u16, assumed: u16| if reported == 0 { assumed } else { reported };
    (
        known(columns, ASSUMED_SIZE.0).min(MAX_SIZE.0),
        known(lines, ASSUMED_SIZE.1).min(MAX_SIZE.1),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminal(pairs: &[(&str, &str)]) -> Terminal {
        Terminal::detect(|name| {
            let pair = pairs.iter().find(|pair| pair.0 == name);
            pair.map(|pair| pair.1.to_owned())
        })
    }

    /// (TERM, colours, symbols in a UTF-8 locale, symbols without a locale).
    #[rustfmt::skip]
    const KNOWN: &[(&str, Colors, Symbols, Symbols)] = &[
        ("xterm", Ansi16, Braille, Braille),
        ("xterm-color", Ansi16, Braille, Braille),
        ("xterm-256color", Ansi256, Braille, Braille),
        ("xterm-direct", True, Braille, Braille),
        ("xterm-direct256", True, Braille, Braille),
        ("xterm-mono", Colors::None, Braille, Braille),
        ("xterm-kitty", True, Braille, Braille),
        ("xterm-ghostty", True, Braille, Braille),
        ("alacritty", True, Braille, Braille),
        ("alacritty-direct", True, Braille, Braille),
        ("foot", True, Braille, Braille),
        ("foot-extra", True, Braille, Braille),
        ("wezterm", True, Braille, Braille),
        ("st-256color", True, Braille, Braille),
        ("vte-256color", Ansi256, Braille, Braille),
        ("konsole-direct", True, Braille, Braille),
        ("rxvt-unicode-256color", Ansi256, Braille, Braille),
        ("tmux", Ansi16, Braille, Ascii),
        ("tmux-256color", Ansi256, Braille, Ascii),
        ("tmux-direct", True, Braille, Ascii),
        ("screen", Ansi16, Braille, Ascii),
        ("screen-256color", Ansi256, Braille, Ascii),
        ("screen.xterm-256color", Ansi256, Braille, Ascii),
        ("screen.linux", Ansi16, Block, Ascii),
        ("linux", Ansi16, Block, Ascii),
        ("linux-16color", Ansi16, Block, Ascii),
        ("linux-m", Colors::None, Block, Ascii),
        ("vt100", Colors::None, Ascii, Ascii),
        ("vt220", Colors::None, Ascii, Ascii),
        ("ansi", Ansi16, Ascii, Ascii),
        ("cons25-m", Colors::None, Ascii, Ascii),
        ("dumb", Colors::None, Ascii, Ascii),
        ("", Colors::None, Ascii, Ascii),
        ("a-terminal-of-tomorrow", Ansi16, Braille, Ascii),
    ];

    #[test]
    fn the_table_knows_what_each_terminal_shows() {
        for &(term, colors, in_utf8, without) in KNOWN {
            let here = |more: &[(&str, &str)]| terminal(&[&[("TERM", term)], more].concat());
            let found = here(&[("LANG", "en_US.UTF-8")]);
            assert_eq!((found.colors, found.symbols), (colors, in_utf8), "{term}");
            assert_eq!(here(&[]).symbols, without, "{term}");
            let plain = here(&[("LC_ALL", "C"), ("LANG", "en_US.UTF-8")]);
            assert_eq!((plain.colors, plain.symbols), (colors, Ascii), "{term}");
            let quiet = here(&[("NO_COLOR", "1"), ("COLORTERM", "truecolor")]);
            assert_eq!(quiet.colors, Colors::None, "{term}");
            let loud = here(&[("COLORTERM", "24bit"), ("NO_COLOR", ""), ("TMUX", "/tmp/x")]);
            assert_eq!(loud.colors, True, "{term}");
        }
    }

    #[test]
    fn every_row_is_reached() {
        for (i, row) in TERMINALS.iter().enumerate() {
            // A name that matches the row's pattern.
            let name = row.term.replace('*', "x");
            let earlier = || TERMINALS[..i].iter().filter(|row| fits(row.term, &name));
            let colors = row.colors.is_some() && earlier().all(|row| row.colors.is_none());
            let symbols = row.symbols.is_some() && earlier().all(|row| row.symbols.is_none());
            assert!(colors || symbols, "{}: earlier rows say it all", row.term);
        }
    }

    #[test]
    fn gnu_screen_does_not_show_the_true_colour_of_the_terminal_around_it() {
        let inherited = [("TERM", "screen-256color"), ("COLORTERM", "truecolor")];
        assert_eq!(terminal(&inherited).colors, Ansi256);
        let tmux = [&inherited[..], &[("TMUX", "/tmp/tmux-0/default,1,0")]].concat();
        assert_eq!(terminal(&tmux).colors, True);
    }

    #[test]
    fn the_first_locale_variable_that_is_set_counts() {
        let symbols = |pairs: &[(&str, &str)]| {
            terminal(&[&[("TERM", "xterm-256color")], pairs].concat()).symbols
        };
        assert_eq!(symbols(&[("LC_CTYPE", "C.utf8"), ("LANG", "C")]), Braille);
        assert_eq!(symbols(&[("LC_CTYPE", "C"), ("LANG", "C.UTF-8")]), Ascii);
        assert_eq!(symbols(&[("LC_ALL", ""), ("LANG", "C.UTF-8")]), Braille);
        assert_eq!(symbols(&[("LANG", "de_DE.ISO-8859-1")]), Ascii);
        assert_eq!(symbols(&[("LANG", "POSIX")]), Ascii);
        let told = terminal(&[("TERM", "xterm"), ("LC_CTYPE", "C"), ("LANG", "C.UTF-8")]);
        assert_eq!(told.locale.as_deref(), Some("LC_CTYPE=C"));
    }

    #[test]
    fn sizes_that_no_terminal_has_are_not_drawn() {
        assert_eq!(drawn_size((120, 36)), (120, 36));
        assert_eq!(drawn_size((1, 1)), (1, 1));
        assert_eq!(drawn_size((0, 0)), ASSUMED_SIZE);
        assert_eq!(drawn_size((132, 0)), (132, 24));
        assert_eq!(drawn_size((u16::MAX, u16::MAX)), MAX_SIZE);
        assert_eq!(drawn_size((5000, 50)), (1000, 50));
    }
}
