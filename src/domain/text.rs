//! Formatting of numbers, the same in every front end, and sanitising of text from outside before it is printed.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

/// Whether a terminal interprets `c` or shows nothing for it: control characters (which begin escape sequences), marks
/// that change the direction of text, characters without a width.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Replaces each hidden character in `text`, except those in `kept`, by what `escape` writes.
fn escaped<'a>(text: &'a str, kept: &[char], escape: impl Fn(char, &mut String)) -> Cow<'a, str> {
    let hidden = |c: &char| is_hidden(*c) && !kept.contains(c);
    if !text.chars().any(|c| hidden(&c)) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match hidden(&c) {
            true => escape(c, &mut out),
            false => out.push(c),
        }
    }
    out.into()
}

/// Text from outside (a name, a note, a path) as one line: hidden characters are shown as escapes such as `\u{1b}`.
pub fn plain(text: &str) -> Cow<'_, str> {
    escaped(text, &[], |c, out| out.extend(c.escape_default()))
}

/// A path as [`plain`] text.
pub fn plain_path(path: &Path) -> String {
    plain(&path.to_string_lossy()).into_owned()
}

/// [`plain`], cut to `width` characters.
pub fn cell(text: &str, width: usize) -> String {
    let text = plain(text);
    match text.chars().count() > width {
        true => text
            .chars()
            .take(width.saturating_sub(3))
            .chain("...".chars())
            .collect(),
        false => text.into_owned(),
    }
}

/// `text` as one word of a shell command, quoted if necessary. Hidden characters become escapes, so that a terminal
/// does not interpret them when the command is pasted.
pub fn shell_word(text: &str) -> String {
    let text = plain(text);
    let harmless = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    match !text.is_empty() && text.chars().all(harmless) {
        true => text.into_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// [`plain`] for text of several lines.
pub fn plain_lines(text: &str) -> Cow<'_, str> {
    escaped(text, &['\n'], |c, out| out.extend(c.escape_default()))
}

/// A line of JSON with its hidden characters written as JSON escapes. The value stays the same, since such characters
/// occur only in strings.
pub fn plain_json(json: &str) -> Cow<'_, str> {
    escaped(json, &['\n'], |c, out| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a string cannot fail.
            let _ = write!(out, "\\u{unit:04x}");
        }
    })
}

/// A writer that lets no hidden character through, except line breaks. Each call must pass whole UTF-8, as formatting
/// does; other bytes are replaced.
pub struct Plain<W>(pub W);

impl<W: io::Write> io::Write for Plain<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .write_all(plain_lines(&String::from_utf8_lossy(bytes)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// With thousands separators: `40,000`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Seconds as `0:07`, `12:03`, `1:02:03` or `3d 04:05`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "?".into();
    }
    let s = seconds.max(0.0) as u64;
    match s {
        0..3600 => format!("{}:{:02}", s / 60, s % 60),
        3600..86_400 => format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60),
        _ => format!("{}d {:02}:{:02}", s / 86_400, s / 3600 % 24, s / 60 % 60),
    }
}

/// Bytes as `812 B`, `0.8 MB`, `1.2 GB` (powers of ten, as files are counted).
pub fn bytes(n: u64) -> String {
    let n = n as f64;
    match n {
        n if n < 1e3 => format!("{n} B"),
        n if n < 1e5 => format!("{:.1} kB", n / 1e3),
        n if n < 1e9 => format!("{:.1} MB", n / 1e6),
        _ => format!("{:.1} GB", n / 1e9),
    }
}

/// The most similar of the `known` words, if its edit distance to `word` is at most `within`; the first of several.
pub fn nearest<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str>,
    within: usize,
) -> Option<&'a str> {
    known
        .into_iter()
        .map(|known| (strsim::levenshtein(word, known), known))
        .filter(|(distance, _)| *distance <= within)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// A share as `59.6%`; NaN stays NaN.
pub fn percent(share: f64) -> String {
    match share.is_finite() {
        true => format!("{:.1}%", share * 100.0),
        false => format!("{share}"),
    }
}

/// A command line from its words.
pub fn command_line(words: &[&str]) -> String {
    let words: Vec<_> = words.iter().map(|word| shell_word(word)).collect();
    words.join(" ")
}

/// A loss or norm in few characters: `1.128`, `23.46`, `1234`, `2.0e15`, `4.2e-6`, `NaN`, `inf`. A number below 10 has
/// `decimals` decimals, a larger one the same number of digits in total.
pub fn compact(value: f64, decimals: usize) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return value.to_string();
    }
    if size >= 1e5 || size != 0.0 && size < 0.1f64.powi(decimals as i32) {
        return format!("{value:.1e}");
    }
    let digits = size.max(1.0).log10().floor() as usize;
    let decimals = decimals.saturating_sub(digits);
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(12_345_678), "12,345,678");
        assert_eq!(duration(7.4), "0:07");
        assert_eq!(duration(3723.0), "1:02:03");
        assert_eq!(duration(-1.0), "0:00");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(1_440_000), "1.4 MB");
        assert_eq!(bytes(170_498_071), "170.5 MB");
        assert_eq!(percent(0.5961), "59.6%");
        assert_eq!(percent(f64::NAN), "NaN");
        for (value, text) in [
            (0.0, "0.000"),
            (1.12849, "1.128"),
            (23.456, "23.46"),
            (1234.5, "1234"),
            (99_999.0, "99999"),
            (2e15, "2.0e15"),
            (-3.5e-6, "-3.5e-6"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(compact(value, 3), text);
        }
    }

    /// Names, and how each must be printed.
    const HOSTILE: [(&str, &str); 6] = [
        ("a\u{1b}[31mb", "a\\u{1b}[31mb"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("a\u{9b}b\u{7f}\0", "a\\u{9b}b\\u{7f}\\u{0}"),
        ("cat\u{202e}tac\u{2066}", "cat\\u{202e}tac\\u{2066}"),
        (
            "a\u{200b}\u{feff}b\u{e0041}",
            "a\\u{200b}\\u{feff}b\\u{e0041}",
        ),
        ("Löwe 猫 🐱", "Löwe 猫 🐱"),
    ];

    #[test]
    fn what_a_terminal_would_act_on_is_shown() {
        for (text, shown) in HOSTILE {
            assert_eq!(plain(text), shown);
            assert!(!plain(text).chars().any(is_hidden));
            let mut out = Plain(Vec::new());
            io::Write::write_fmt(&mut out, format_args!("{text}: {text}")).unwrap();
            let out = String::from_utf8(out.0).unwrap();
            assert!(!out.chars().any(|c| is_hidden(c) && c != '\n'), "{out:?}");
        }
        assert_eq!(plain_lines("a\n\u{1b}b"), "a\n\\u{1b}b");
        assert_eq!(cell("abcdef", 5), "ab...");
        assert_eq!(shell_word("runs/a-1.b"), "runs/a-1.b");
        assert_eq!(shell_word("a; rm 'b'\n"), r"'a; rm '\''b'\''\n'");
        assert_eq!(shell_word(""), "''");
        assert_eq!(cell("ab\u{1b}", 99), "ab\\u{1b}");
    }

    #[test]
    fn json_stays_the_same_json() {
        for (text, _) in HOSTILE {
            let json = serde_json::to_string(text).unwrap();
            let shown = plain_json(&json);
            assert!(!shown.chars().any(is_hidden), "{shown:?}");
            assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
        }
    }

    #[test]
    fn the_nearest_word_is_what_was_meant() {
        let known = ["momentum", "seed", "epochs", "speed"];
        assert_eq!(nearest("momentun", known, 3), Some("momentum"));
        assert_eq!(nearest("sped", known, 3), Some("seed"));
        assert_eq!(nearest("learning", known, 3), None);
        assert_eq!(nearest("seed", [], 3), None);
    }

    #[test]
    fn words_of_a_command_reach_the_program_as_they_are() {
        assert_eq!(command_line(&["a-b", "/c/d_1.x"]), "a-b /c/d_1.x");
        let odd = ["my runs", "it's", "", "$HOME", "~", "*", "ä"];
        let line = command_line(&odd);
        let shell = format!("printf '%s\\0' {line}");
        let shown = std::process::Command::new("sh")
            .args(["-c", &shell])
            .output()
            .unwrap();
        let seen = String::from_utf8(shown.stdout).unwrap();
        assert_eq!(
            seen.split_terminator('\0').collect::<Vec<_>>(),
            odd,
            "{line}"
        );
    }
}
