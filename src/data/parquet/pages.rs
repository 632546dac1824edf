//! Walks the page headers of a column and checks the sizes in them, before the parquet crate allocates memory for them.
//! A header is a struct in Thrift's compact protocol (`PageHeader` in parquet-format's `parquet.thrift`).

use super::super::MAX_IMAGES;
use super::MAX_PAGE;
use super::table::read_at;
use std::fs::File;

/// Maximum size in bytes of a page header; its statistics may contain a whole image file several times.
const MAX_HEADER: usize = 64 << 10;
/// Maximum nesting of a header's structs; the published ones have three levels.
const DEEPEST: u32 = 8;
/// Fields of `PageHeader` and, within the headers of the three kinds of page, the number of values.
const UNCOMPRESSED: u32 = 2;
const COMPRESSED: u32 = 3;
const VALUE_COUNTS: [u32; 3] = [5 << 16 | 1, 7 << 16 | 1, 8 << 16 | 1];

/// Checks all pages between `start` and `start + length`.
///
/// # Errors
/// Returns the offset and the reason.
pub fn check(file: &File, start: u64, length: u64) -> Result<(), (u64, String)> {
    let end = start + length;
    let mut offset = start;
    let mut buffer = vec![0; MAX_HEADER];
    while offset < end {
        let wrong = |why: &str| (offset, why.to_owned());
        let n = read_at(file, offset, &mut buffer).map_err(|error| (offset, error.to_string()))?;
        let mut header = Header {
            bytes: &buffer[..n],
            at: 0,
            numbers: Vec::new(),
        };
        header
            .structure(0, 0)
            .ok_or_else(|| wrong("a page's header cannot be read"))?;
        let number = |field| {
            header
                .numbers
                .iter()
                .find(|(f, _)| *f == field)
                .map(|(_, n)| *n)
        };
        let size = number(COMPRESSED).filter(|size| (0..=MAX_PAGE).contains(size));
        let size = size.ok_or_else(|| wrong("a page without a size that can be"))?;
        if !number(UNCOMPRESSED).is_some_and(|size| (0..=MAX_PAGE).contains(&size)) {
            return Err(wrong("a page larger than any CIFAR-10 file has"));
        }
        let count = VALUE_COUNTS.into_iter().find_map(number).unwrap_or(0);
        if !(0..=MAX_IMAGES as i64).contains(&count) {
            return Err(wrong("a page with more values than any CIFAR-10 file has"));
        }
        offset += header.at as u64 + size as u64;
    }
    Ok(())
}

struct Header<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Integers by field: those of the struct, and those of nested structs as `outer << 16 | inner`.
    numbers: Vec<(u32, i64)>,
}

/// None if the bytes end early or are invalid.
impl Header<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.at).copied();
        self.at += 1;
        byte
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn zigzag(&mut self) -> Option<i64> {
        let n = self.varint()?;
        Some((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    fn structure(&mut self, outer: u32, depth: u32) -> Option<()> {
        let mut field = 0i64;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Some(());
            }
            field = match head >> 4 {
                0 => self.zigzag()?,
                delta => field + i64::from(delta),
            };
            let id = u32::try_from(field).ok().filter(|id| *id < 1 << 16)?;
            self.value(
                head & 15,
                if depth == 0 { id } else { outer << 16 | id },
                depth,
            )?;
        }
    }

    fn value(&mut self, kind: u8, field: u32, depth: u32) -> Option<()> {
        match kind {
            1 | 2 => {}
            3 => drop(self.byte()?),
            4..=6 => {
                let number = self.zigzag()?;
                if depth <= 1 {
                    self.numbers.push((field, number));
                }
            }
            7 => self.at += 8,
            8 => {
                let length = usize::try_from(self.varint()?).ok()?;
                self.at = self.at.checked_add(length)?;
            }
            9 | 10 => {
                let head = self.byte()?;
                let count = if head >> 4 == 15 {
                    self.varint()?
                } else {
                    u64::from(head >> 4)
                };
                for _ in 0..count {
                    // Every element has at least one byte, booleans included.
                    match head & 15 {
                        1 | 2 => drop(self.byte()?),
                        kind => self.nested(kind, depth)?,
                    }
                }
            }
            12 => {
                if depth >= DEEPEST {
                    return None;
                }
                self.structure(if depth == 0 { field } else { 0 }, depth + 1)?;
            }
            _ => return None,
        }
        (self.at <= self.bytes.len()).then_some(())
    }

    fn nested(&mut self, kind: u8, depth: u32) -> Option<()> {
        if depth >= DEEPEST {
            return None;
        }
        self.value(kind, 0, depth.max(1) + 1)
    }
}
