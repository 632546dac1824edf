//! Reads the lines of a run's metrics one at a time, in at most [`MAX_LINE`] bytes of memory.

use std::io::{self, BufRead, Read};

/// Maximum length in bytes of a line. The longest lines that the program writes, evaluations, have a few thousand.
pub(super) const MAX_LINE: u64 = 1 << 20;

pub(super) struct Lines<R> {
    source: R,
    line: Vec<u8>,
    /// Number of lines so far that were longer than [`MAX_LINE`] and were skipped.
    pub too_long: u64,
}

impl<R: BufRead> Lines<R> {
    pub fn new(source: R) -> Self {
        Lines {
            source,
            line: Vec::new(),
            too_long: 0,
        }
    }

    /// The next line that is not too long, including its line break. None at the end of the source.
    ///
    /// # Errors
    /// Returns an error if the source cannot be read.
    pub fn next(&mut self) -> io::Result<Option<&[u8]>> {
        loop {
            self.line.clear();
            let mut source = (&mut self.source).take(MAX_LINE);
            let length = source.read_until(b'\n', &mut self.line)?;
            if length == 0 {
                return Ok(None);
            }
            if (length as u64) < MAX_LINE || self.line.ends_with(b"\n") {
                return Ok(Some(&self.line));
            }
            self.source.skip_until(b'\n')?;
            self.too_long += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    #[test]
    fn a_line_without_an_end_is_passed_over_and_kept_nowhere() {
        let huge = io::repeat(b'x').take(1 << 30);
        let text = (&b"one\n"[..]).chain(huge).chain(&b"\ntwo\nlast"[..]);
        let mut lines = Lines::new(BufReader::new(text));
        let mut read = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            read.push(line.to_owned());
        }
        assert_eq!(read, [&b"one\n"[..], b"two\n", b"last"]);
        assert_eq!(lines.too_long, 1);
        assert!(lines.line.capacity() as u64 <= 2 * MAX_LINE);
    }
}
