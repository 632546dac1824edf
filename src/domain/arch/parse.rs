//! Reading an architecture's text.
//!
//! ```text
//! arch     = item { "," item } [ "," ]
//! item     = [ INT "x" ] ( layer | "(" arch ")" )
//! layer    = WORD arguments
//! INT      = digit { digit }
//! NUMBER   = digit { digit | "." } [ "e" [ "-" ] digit { digit } ]
//! ```
//! The words and their arguments are those of the kinds of layers, each described in its own module under
//! [`crate::layers`]. White space and line breaks are allowed between words and numbers; words are case-insensitive.

use super::{Arch, ArchError, ArchLayer, MAX_DEPTH, MAX_LAYERS, MAX_REPEATS, MAX_TEXT, shortened};
use crate::domain::text::nearest;
use crate::layers::KINDS;
use crate::layers::kind::Kind;
use std::ops::{Range, RangeInclusive};

/// Reads an architecture's text. Shapes are not looked at: see [`Arch::infer_shapes`].
///
/// # Errors
/// Returns an error at the position where the text violates the grammar or a limit, with what is expected there.
pub fn parse(text: &str) -> Result<Arch, ArchError> {
    parse_with(text, KINDS)
}

/// Reads an architecture's text, of layers of these kinds.
///
/// # Errors
/// Returns the errors of [`parse`].
pub fn parse_with(text: &str, kinds: &[Kind]) -> Result<Arch, ArchError> {
    if text.len() > MAX_TEXT {
        return Err(ArchError {
            layer: None,
            why: format!("the text is longer than {MAX_TEXT} bytes"),
            at: 0..0,
        });
    }
    let mut parser = Parser {
        text,
        kinds,
        tokens: tokens(text)?,
        next: 0,
        count: 0,
    };
    let layers = parser.sequence(0)?;
    match parser.peek() {
        None => Ok(Arch { layers }),
        Some(token) => Err(parser.fail(
            token.at.clone(),
            format!("'{}' closes nothing", &text[token.at.clone()]),
        )),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenKind {
    Word,
    Number,
    Percent,
    Comma,
    Open,
    Close,
}

#[derive(Clone, Debug)]
struct Token {
    kind: TokenKind,
    at: Range<usize>,
}

fn tokens(text: &str) -> Result<Vec<Token>, ArchError> {
    let bytes = text.as_bytes();
    let run = |from: usize, of: fn(u8) -> bool| {
        from + bytes[from..].iter().take_while(|b| of(**b)).count()
    };
    let mut tokens = Vec::new();
    let mut i = 0;
    while i < bytes.len() {
        let (kind, end) = match bytes[i] {
            b if b.is_ascii_whitespace() => {
                i += 1;
                continue;
            }
            b'a'..=b'z' | b'A'..=b'Z' => (
                TokenKind::Word,
                run(i, |b| b.is_ascii_alphabetic() || b == b'-' || b == b'_'),
            ),
            b'0'..=b'9' => {
                let end = run(i, |b| b.is_ascii_digit() || b == b'.');
                let exponent = match &bytes[end..] {
                    [b'e' | b'E', b'-', b'0'..=b'9', ..] => 2,
                    [b'e' | b'E', b'0'..=b'9', ..] => 1,
                    _ => 0,
                };
                let end = match exponent {
                    0 => end,
                    skipped => run(end + skipped, |b| b.is_ascii_digit()),
                };
                (TokenKind::Number, end)
            }
            b'%' => (TokenKind::Percent, i + 1),
            b',' => (TokenKind::Comma, i + 1),
            b'(' => (TokenKind::Open, i + 1),
            b')' => (TokenKind::Close, i + 1),
            _ => {
                let c = text[i..].chars().next().unwrap_or_default();
                return Err(ArchError {
                    layer: None,
                    why: format!("'{}' has no meaning here", c.escape_default()),
                    at: i..i + c.len_utf8(),
                });
            }
        };
        tokens.push(Token { kind, at: i..end });
        i = end;
    }
    Ok(tokens)
}

struct Parser<'a> {
    text: &'a str,
    kinds: &'a [Kind],
    tokens: Vec<Token>,
    next: usize,
    /// Layers so far, repeats written out.
    count: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next)
    }

    fn peek_kind(&self) -> Option<TokenKind> {
        self.peek().map(|t| t.kind)
    }

    /// The next token's word in small letters, when it is a word.
    fn peek_word(&self) -> Option<String> {
        self.peek()
            .filter(|t| t.kind == TokenKind::Word)
            .map(|t| self.text[t.at.clone()].to_ascii_lowercase())
    }

    fn accept(&mut self, kind: TokenKind) -> bool {
        let is = self.peek_kind() == Some(kind);
        self.next += usize::from(is);
        is
    }

    /// The next token's bytes, or the end of the text.
    fn here(&self) -> Range<usize> {
        self.peek()
            .map_or(self.text.len()..self.text.len(), |t| t.at.clone())
    }

    /// End of the token read last.
    fn end(&self) -> usize {
        self.next
            .checked_sub(1)
            .and_then(|i| self.tokens.get(i))
            .map_or(0, |t| t.at.end)
    }

    fn found(&self) -> String {
        match self.peek() {
            Some(token) => format!("'{}'", shortened(&self.text[token.at.clone()])),
            None => "the end".into(),
        }
    }

    fn fail(&self, at: Range<usize>, why: impl Into<String>) -> ArchError {
        ArchError {
            layer: None,
            why: why.into(),
            at,
        }
    }

    /// An error in the layer that starts at `from`, pointing at `at`.
    fn fail_in(&self, from: usize, at: Range<usize>, why: impl Into<String>) -> ArchError {
        let end = at.end.max(self.end()).max(from);
        ArchError {
            layer: Some((self.count + 1, self.text[from..end].trim().to_owned())),
            why: why.into(),
            at,
        }
    }

    fn sequence(&mut self, depth: usize) -> Result<Vec<ArchLayer>, ArchError> {
        let mut layers = Vec::new();
        loop {
            self.item(depth, &mut layers)?;
            let more = self.accept(TokenKind::Comma);
            match self.peek_kind() {
                None | Some(TokenKind::Close) => return Ok(layers),
                Some(_) if more => {}
                Some(_) => {
                    let why = format!("a comma is missing before {}", self.found());
                    return Err(self.fail(self.here(), why));
                }
            }
        }
    }

    fn item(&mut self, depth: usize, layers: &mut Vec<ArchLayer>) -> Result<(), ArchError> {
        let from = self.here().start;
        let repeats = if self.peek_kind() == Some(TokenKind::Number) {
            let repeats = self.int(from, "the number of repeats", 1..=MAX_REPEATS)?;
            if self.peek_word().as_deref() != Some("x") {
                let why = format!(
                    "'x' must follow the number of repeats, not {}",
                    self.found()
                );
                return Err(self.fail(self.here(), why));
            }
            self.next += 1;
            repeats as usize
        } else {
            1
        };
        let (first, before) = (layers.len(), self.count);
        if self.peek_kind() == Some(TokenKind::Open) {
            layers.extend(self.group(depth)?);
        } else {
            layers.push(self.layer(depth)?);
        }
        let own = self.count - before;
        if before + own * repeats > MAX_LAYERS {
            return Err(self.fail(
                from..self.end(),
                format!("these are more than {MAX_LAYERS} layers"),
            ));
        }
        let last = layers.len();
        for _ in 1..repeats {
            layers.extend_from_within(first..last);
        }
        self.count = before + own * repeats;
        Ok(())
    }

    fn group(&mut self, depth: usize) -> Result<Vec<ArchLayer>, ArchError> {
        let open = self.here();
        self.next += 1;
        if depth == MAX_DEPTH {
            return Err(self.fail(
                open,
                format!("parentheses are nested deeper than {MAX_DEPTH}"),
            ));
        }
        let layers = self.sequence(depth + 1)?;
        if !self.accept(TokenKind::Close) {
            return Err(self.fail(open, "this parenthesis is not closed"));
        }
        Ok(layers)
    }

    fn layer(&mut self, depth: usize) -> Result<ArchLayer, ArchError> {
        let at = self.here();
        let Some(word) = self.peek_word() else {
            let why = format!("a layer is expected, not {}", self.found());
            return Err(self.fail(at, why));
        };
        self.next += 1;
        let from = at.start;
        let Some(kind) = self.kinds.iter().find(|kind| kind.word == word) else {
            let words = || self.kinds.iter().map(|kind| kind.word);
            let near = nearest(&word, words(), 2);
            let word = shortened(&word);
            return Err(self.fail(
                at,
                match near {
                    Some(known) => {
                        format!("'{word}' is not a layer; did you mean '{known}'?")
                    }
                    None => format!(
                        "'{word}' is not a layer; there are: {}",
                        words().collect::<Vec<_>>().join(", ")
                    ),
                },
            ));
        };
        let op = (kind.parse)(&mut Arguments {
            parser: self,
            from,
            depth,
        })?;
        self.count += 1;
        Ok(ArchLayer {
            op,
            at: from..self.end(),
        })
    }

    fn int(
        &mut self,
        from: usize,
        what: &str,
        range: RangeInclusive<u32>,
    ) -> Result<u32, ArchError> {
        let at = self.here();
        let expected = format!(
            "{what} must be a whole number from {} to {}",
            range.start(),
            range.end()
        );
        if !self.accept(TokenKind::Number) {
            let why = format!("{expected}, not {}", self.found());
            return Err(self.fail_in(from, at, why));
        }
        match self.text[at.clone()].parse::<u32>() {
            Ok(value) if range.contains(&value) => Ok(value),
            _ => Err(self.fail_in(from, at, expected)),
        }
    }
}

/// What stands behind a layer's word, read from left to right.
pub struct Arguments<'p, 'a> {
    parser: &'p mut Parser<'a>,
    /// Where the layer begins in the text.
    from: usize,
    /// Depth of the parentheses around it.
    depth: usize,
}

impl Arguments<'_, '_> {
    /// The next word, in small letters; None when something else follows.
    pub fn peek_word(&self) -> Option<String> {
        self.parser.peek_word()
    }

    /// Whether a number follows.
    pub fn is_number_next(&self) -> bool {
        self.parser.peek_kind() == Some(TokenKind::Number)
    }

    /// Goes on behind the next word.
    pub fn skip_word(&mut self) {
        self.parser.accept(TokenKind::Word);
    }

    /// The bytes of the word or number that follows.
    pub fn here(&self) -> Range<usize> {
        self.parser.here()
    }

    /// Where the word or number that was read last ends.
    pub fn end(&self) -> usize {
        self.parser.end()
    }

    /// Reads a whole number. `what` names it in the message.
    ///
    /// # Errors
    /// Returns an error if none follows, or it is outside the range.
    pub fn int(&mut self, what: &str, range: RangeInclusive<u32>) -> Result<u32, ArchError> {
        self.parser.int(self.from, what, range)
    }

    /// Reads a number, or a percentage. `what` names it in the message.
    ///
    /// # Errors
    /// Returns an error if none follows, or it is outside the range.
    pub fn float(&mut self, what: &str, range: RangeInclusive<f64>) -> Result<f64, ArchError> {
        let at = self.here();
        let expected = format!(
            "{what} must be a number from {} to {}",
            range.start(),
            range.end()
        );
        if !self.parser.accept(TokenKind::Number) {
            let why = format!("{expected}, not {}", self.parser.found());
            return Err(self.error(at, why));
        }
        let number = self.parser.text[at.clone()].parse::<f64>();
        let is_percentage = self.parser.accept(TokenKind::Percent);
        match number.map(|v| if is_percentage { v / 100.0 } else { v }) {
            Ok(value) if range.contains(&value) => Ok(value),
            _ => Err(self.error(at, expected)),
        }
    }

    /// Reads layers in parentheses.
    ///
    /// # Errors
    /// Returns an error if none follow, or one of them is wrong.
    pub fn layers(&mut self) -> Result<Vec<ArchLayer>, ArchError> {
        if self.parser.peek_kind() != Some(TokenKind::Open) {
            return Err(self.error(self.here(), "its layers must follow in parentheses"));
        }
        // A block is counted before its layers.
        self.parser.count += 1;
        let layers = self.parser.group(self.depth)?;
        self.parser.count -= 1;
        Ok(layers)
    }

    /// An error in this layer, pointing at `at`.
    pub fn error(&self, at: Range<usize>, why: impl Into<String>) -> ArchError {
        self.parser.fail_in(self.from, at, why)
    }
}

#[cfg(test)]
mod tests;
