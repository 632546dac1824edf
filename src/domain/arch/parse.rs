//! Reading and writing an architecture's text.
//!
//! ```text
//! arch     = item { "," item } [ "," ]
//! item     = [ INT "x" ] ( layer | "(" arch ")" )
//! layer    = "conv" INT { "k" INT | "s" INT | "p" INT | "same" }
//!          | "norm" | "relu" | "global-pool"
//!          | "pool" [ INT ] [ "s" INT ]
//!          | "drop" [ NUMBER [ "%" ] ]
//!          | "dense" INT
//!          | "residual" "(" arch ")"
//! INT      = digit { digit }
//! NUMBER   = digit { digit | "." }
//! ```
//! White space and line breaks are allowed between words and numbers; words are case-insensitive. `k` is
//! the kernel (3), `s` the stride (1; of a pool its window), `p` the padding (0); `same` pads an odd kernel by its half.

use super::{
    Arch, ArchError, ArchLayer, MAX_CHANNELS, MAX_DEPTH, MAX_KERNEL, MAX_LAYERS, MAX_REPEATS,
    MAX_SHARE, MAX_STRIDE, MAX_TEXT, MAX_WINDOW, Op, shortened,
};
use crate::domain::text::nearest;
use std::fmt;
use std::ops::{Range, RangeInclusive};

const WORDS: [&str; 8] = [
    "conv",
    "norm",
    "relu",
    "pool",
    "global-pool",
    "drop",
    "dense",
    "residual",
];

/// Reads an architecture's text. Shapes are not looked at: see [`Arch::infer_shapes`].
///
/// # Errors
/// Returns an error at the position where the text violates the grammar or a limit, with what is expected there.
pub fn parse(text: &str) -> Result<Arch, ArchError> {
    if text.len() > MAX_TEXT {
        return Err(ArchError {
            layer: None,
            why: format!("the text is longer than {MAX_TEXT} bytes"),
            at: 0..0,
        });
    }
    let mut parser = Parser {
        text,
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
            b'0'..=b'9' => (
                TokenKind::Number,
                run(i, |b| b.is_ascii_digit() || b == b'.'),
            ),
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
        let op = match word.as_str() {
            "conv" => self.conv(from)?,
            "norm" => Op::Norm,
            "relu" => Op::Relu,
            "global-pool" => Op::GlobalPool,
            "pool" => self.pool(from)?,
            "drop" => self.drop(from)?,
            "dense" => Op::Dense {
                out: self.int(from, "the number of outputs", 1..=MAX_CHANNELS)?,
            },
            "residual" => {
                if self.peek_kind() != Some(TokenKind::Open) {
                    return Err(self.fail_in(
                        from,
                        self.here(),
                        "its layers must follow in parentheses",
                    ));
                }
                // A block is counted before its layers.
                self.count += 1;
                let body = self.group(depth)?;
                self.count -= 1;
                Op::Residual { body }
            }
            _ => {
                let near = nearest(&word, WORDS, 2);
                let word = shortened(&word);
                return Err(self.fail(
                    at,
                    match near {
                        Some(known) => {
                            format!("'{word}' is not a layer; did you mean '{known}'?")
                        }
                        None => format!("'{word}' is not a layer; there are: {}", WORDS.join(", ")),
                    },
                ));
            }
        };
        self.count += 1;
        Ok(ArchLayer {
            op,
            at: from..self.end(),
        })
    }

    fn conv(&mut self, from: usize) -> Result<Op, ArchError> {
        let out = self.int(from, "the number of channels", 1..=MAX_CHANNELS)?;
        let (mut kernel, mut stride, mut padding) = (None, None, None);
        let mut same = None;
        while let Some(word) = self.peek_word() {
            let at = self.here();
            let twice = match word.as_str() {
                "k" => kernel.is_some(),
                "s" => stride.is_some(),
                "p" | "same" => padding.is_some() || same.is_some(),
                _ => {
                    let why = format!(
                        "'{}' is not a property of a convolution; the properties are k (kernel), s (stride), p (padding) and same",
                        shortened(&word)
                    );
                    return Err(self.fail_in(from, at, why));
                }
            };
            if twice {
                return Err(self.fail_in(from, at, format!("'{word}' is said twice")));
            }
            self.next += 1;
            match word.as_str() {
                "k" => kernel = Some(self.int(from, "the kernel", 1..=MAX_KERNEL)?),
                "s" => stride = Some(self.int(from, "the stride", 1..=MAX_STRIDE)?),
                "p" => {
                    let start = self.here().start;
                    let p = self.int(from, "the padding", 0..=MAX_KERNEL - 1)?;
                    padding = Some((p, start..self.end()));
                }
                _ => same = Some(at),
            }
        }
        let kernel = kernel.unwrap_or(3);
        let padding = match (padding, same) {
            (Some((p, at)), _) if p >= kernel => {
                let why = format!("the padding must be smaller than the kernel ({kernel})");
                return Err(self.fail_in(from, at, why));
            }
            (Some((p, _)), _) => p,
            (None, Some(at)) if kernel % 2 == 0 => {
                return Err(self.fail_in(from, at, "'same' needs an odd kernel"));
            }
            (None, Some(_)) => kernel / 2,
            (None, None) => 0,
        };
        Ok(Op::Conv {
            out,
            kernel,
            stride: stride.unwrap_or(1),
            padding,
        })
    }

    fn pool(&mut self, from: usize) -> Result<Op, ArchError> {
        let kernel = match self.peek_kind() {
            Some(TokenKind::Number) => self.int(from, "the window", 1..=MAX_WINDOW)?,
            _ => 2,
        };
        let stride = match self.peek_word().as_deref() {
            Some("s") => {
                self.next += 1;
                self.int(from, "the stride", 1..=MAX_STRIDE)?
            }
            _ => kernel,
        };
        Ok(Op::Pool { kernel, stride })
    }

    fn drop(&mut self, from: usize) -> Result<Op, ArchError> {
        let at = self.here();
        if !self.accept(TokenKind::Number) {
            return Ok(Op::Drop { share: None });
        }
        let number = self.text[at.clone()].parse::<f64>();
        let percent = self.accept(TokenKind::Percent);
        match number.map(|v| if percent { v / 100.0 } else { v }) {
            Ok(share) if (0.0..=MAX_SHARE).contains(&share) => Ok(Op::Drop { share: Some(share) }),
            _ => {
                let why = format!("the share must be a number from 0 to {MAX_SHARE}");
                Err(self.fail_in(from, at, why))
            }
        }
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

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(&self.layers, f)
    }
}

fn list(layers: &[ArchLayer], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (i, layer) in layers.iter().enumerate() {
        if i > 0 {
            f.write_str(", ")?;
        }
        write!(f, "{layer}")?;
    }
    Ok(())
}

impl fmt::Display for ArchLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.op {
            Op::Conv {
                out,
                kernel,
                stride,
                padding,
            } => {
                write!(f, "conv {out}")?;
                if *kernel != 3 {
                    write!(f, " k{kernel}")?;
                }
                if *stride != 1 {
                    write!(f, " s{stride}")?;
                }
                match *padding {
                    0 => Ok(()),
                    p if kernel % 2 == 1 && p == kernel / 2 => f.write_str(" same"),
                    p => write!(f, " p{p}"),
                }
            }
            Op::Norm => f.write_str("norm"),
            Op::Relu => f.write_str("relu"),
            Op::GlobalPool => f.write_str("global-pool"),
            Op::Pool { kernel, stride } => {
                f.write_str("pool")?;
                if *kernel != 2 {
                    write!(f, " {kernel}")?;
                }
                if stride != kernel {
                    write!(f, " s{stride}")?;
                }
                Ok(())
            }
            Op::Drop { share: None } => f.write_str("drop"),
            Op::Drop { share: Some(share) } => write!(f, "drop {share}"),
            Op::Dense { out } => write!(f, "dense {out}"),
            Op::Residual { body } => {
                f.write_str("residual(")?;
                list(body, f)?;
                f.write_str(")")
            }
        }
    }
}

#[cfg(test)]
mod tests;
