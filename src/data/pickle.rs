//! A reader for the pickles in which CIFAR-10 is published: the opcodes that Python 2 and 3 use for them (protocols 2
//! to 4), and three globals. It builds plain values; nothing is imported, called or executed. Opcodes: CPython's
//! `Lib/pickletools.py`.
//!
//! Values are in one arena and refer to each other by index, so that no input, however nested, causes recursion. Long
//! strings (pixels) are not stored: the [`PickleSource`] skips them, and their offsets are recorded.

use std::io;

/// The input of the unpickler.
pub trait PickleSource {
    /// Fills `buffer`.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<()>;
    /// Skips `length` bytes.
    fn pass(&mut self, length: u64) -> io::Result<()>;
}

/// Strings from this length on (one image) are skipped.
pub const LONG: u64 = super::IMAGE_BYTES as u64;
/// Maximum number of lists, tuples and dictionaries, which also bounds their nesting. A batch has about ten.
const MAX_CONTAINERS: usize = 256;
/// Maximum number of values: a batch of 60,000 has 120,000.
const MAX_VALUES: usize = 400_000;
/// Maximum total size in bytes of short strings: the names of 60,000 images.
const MAX_TEXT: usize = 8 << 20;

/// The reason of a failure and its offset.
#[derive(Debug)]
pub struct PickleError {
    pub offset: u64,
    pub why: String,
    /// The pickle is in a form that other programs write, and not one in which CIFAR-10 is published.
    pub other_form: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Global {
    Reconstruct,
    Array,
    Type,
}

/// The globals that a batch may refer to: those that build an array of bytes (the second module is numpy 2's name).
const GLOBALS: [(&str, &str, Global); 4] = [
    ("numpy.core.multiarray", "_reconstruct", Global::Reconstruct),
    (
        "numpy._core.multiarray",
        "_reconstruct",
        Global::Reconstruct,
    ),
    ("numpy", "ndarray", Global::Array),
    ("numpy", "dtype", Global::Type),
];

/// Globals of intact pickles in other forms: bytes that Python 3 wrote in protocols 0 to 2, and arrays that NumPy wrote in
/// protocol 5.
const OTHER_GLOBALS: [(&str, &str); 3] = [
    ("_codecs", "encode"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
];

/// An array of bytes with two dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    pub rows: u64,
    pub columns: u64,
    /// Offset of its bytes in the source, `rows * columns` of them.
    pub offset: u64,
}

type Id = u32;

enum PickleValue {
    Nothing,
    Int(i64),
    /// A range of the text.
    Text(usize, usize),
    Long {
        offset: u64,
        length: u64,
    },
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    /// A dtype: unsigned bytes.
    Type,
    Array(Option<Matrix>),
}

/// A dictionary that was read.
pub struct Pickle {
    values: Vec<PickleValue>,
    text: Vec<u8>,
    root: Id,
}

impl Pickle {
    fn get(&self, key: &str) -> Option<&PickleValue> {
        let PickleValue::Dict(entries) = &self.values[self.root as usize] else {
            return None;
        };
        let found = entries
            .iter()
            .find(|(k, _)| self.is_text(*k, key.as_bytes()));
        found.map(|(_, value)| &self.values[*value as usize])
    }

    fn is_text(&self, id: Id, wanted: &[u8]) -> bool {
        matches!(self.values[id as usize], PickleValue::Text(from, to) if &self.text[from..to] == wanted)
    }

    /// The array under `key`.
    pub fn matrix(&self, key: &str) -> Option<Matrix> {
        match self.get(key) {
            Some(PickleValue::Array(matrix)) => *matrix,
            _ => None,
        }
    }

    fn list(&self, key: &str) -> Option<&[Id]> {
        match self.get(key) {
            Some(PickleValue::List(items)) => Some(items),
            _ => None,
        }
    }

    /// The list of whole numbers under `key`.
    pub fn numbers(&self, key: &str) -> Option<Vec<i64>> {
        let number = |id: &Id| match self.values[*id as usize] {
            PickleValue::Int(n) => Some(n),
            _ => None,
        };
        self.list(key)?.iter().map(number).collect()
    }

    /// The list of texts under `key`.
    pub fn texts(&self, key: &str) -> Option<Vec<String>> {
        let text = |id: &Id| match self.values[*id as usize] {
            PickleValue::Text(from, to) => String::from_utf8(self.text[from..to].into()).ok(),
            _ => None,
        };
        self.list(key)?.iter().map(text).collect()
    }
}

/// Reads one pickled dictionary.
///
/// # Errors
/// Returns an error if the source ends early or fails, and on every opcode, global, type or size that a batch has no
/// use for.
pub fn read(source: &mut dyn PickleSource) -> Result<Pickle, PickleError> {
    let mut unpickler = Unpickler {
        source,
        offset: 0,
        values: vec![PickleValue::Nothing],
        text: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        containers: 0,
        pushes: 0,
        other_form: false,
    };
    match unpickler.run() {
        Ok(root) => Ok(Pickle {
            values: unpickler.values,
            text: unpickler.text,
            root,
        }),
        Err(why) => Err(PickleError {
            offset: unpickler.offset,
            why,
            other_form: unpickler.other_form,
        }),
    }
}

struct Unpickler<'a> {
    source: &'a mut dyn PickleSource,
    offset: u64,
    values: Vec<PickleValue>,
    text: Vec<u8>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: Vec<Id>,
    containers: usize,
    pushes: usize,
    /// See [`PickleError::other_form`].
    other_form: bool,
}

type Step<T> = Result<T, String>;

impl Unpickler<'_> {
    fn run(&mut self) -> Step<Id> {
        loop {
            let [opcode] = self.take()?;
            match opcode {
                0x80 => {
                    let [protocol] = self.take()?;
                    if !(2..=5).contains(&protocol) {
                        return Err(format!("pickle protocol {protocol}"));
                    }
                }
                // FRAME: its length is not needed.
                0x95 => drop(self.take::<8>()?),
                b'.' => {
                    let root = self.pop()?;
                    return match self.values[root as usize] {
                        PickleValue::Dict(_) => Ok(root),
                        _ => Err("it does not hold a dictionary".into()),
                    };
                }
                b'(' => {
                    self.count_container()?;
                    self.marks.push(self.stack.len());
                }
                b'0' => drop(self.pop()?),
                b'N' => self.push(PickleValue::Nothing)?,
                0x88 => self.push(PickleValue::Int(1))?,
                0x89 => self.push(PickleValue::Int(0))?,
                b'K' => {
                    let [n] = self.take()?;
                    self.push(PickleValue::Int(n.into()))?;
                }
                b'M' => {
                    let n = u16::from_le_bytes(self.take()?);
                    self.push(PickleValue::Int(n.into()))?;
                }
                b'J' => {
                    let n = i32::from_le_bytes(self.take()?);
                    self.push(PickleValue::Int(n.into()))?;
                }
                // Short strings of 8, 32 and 64 bits of length: Python 2's str, bytes, and text.
                b'U' | b'C' | 0x8c => {
                    let [n] = self.take()?;
                    self.string(n.into())?;
                }
                b'T' | b'B' | b'X' => {
                    let n = u32::from_le_bytes(self.take()?);
                    self.string(n.into())?;
                }
                0x8e | 0x8d => {
                    let n = u64::from_le_bytes(self.take()?);
                    self.string(n)?;
                }
                b']' => self.container(PickleValue::List(Vec::new()))?,
                b'}' => self.container(PickleValue::Dict(Vec::new()))?,
                b')' => self.container(PickleValue::Tuple(Vec::new()))?,
                0x85..=0x87 => {
                    let n = usize::from(opcode - 0x84);
                    let from = self.stack.len().checked_sub(n).ok_or("an empty stack")?;
                    let items = self.stack.split_off(from);
                    self.container(PickleValue::Tuple(items))?;
                }
                b't' => {
                    let items = self.marked()?;
                    self.container(PickleValue::Tuple(items))?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.extend_list(vec![item])?;
                }
                b'e' => {
                    let items = self.marked()?;
                    self.extend_list(items)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.extend_dict(&[key, value])?;
                }
                b'u' => {
                    let items = self.marked()?;
                    self.extend_dict(&items)?;
                }
                b'q' => {
                    let [n] = self.take()?;
                    self.memorise(n.into())?;
                }
                b'r' => {
                    let n = u32::from_le_bytes(self.take()?);
                    self.memorise(n as usize)?;
                }
                0x94 => self.memorise(self.memo.len())?,
                b'h' => {
                    let [n] = self.take()?;
                    self.recall(n.into())?;
                }
                b'j' => {
                    let n = u32::from_le_bytes(self.take()?);
                    self.recall(n as usize)?;
                }
                b'c' => {
                    let (module, name) = (self.word()?, self.word()?);
                    self.global(&module, &name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (module, name) = (self.text_of(module)?, self.text_of(name)?);
                    self.global(&module, &name)?;
                }
                b'R' => self.reduce()?,
                b'b' => self.build()?,
                // Texts and dictionaries of protocol 0.
                b'd' | b'p' | b'V' | b'S' => {
                    return Err(self.in_other_form("an opcode of pickle protocol 0"));
                }
                other => {
                    return Err(format!(
                        "opcode 0x{other:02x}, which no CIFAR-10 batch uses"
                    ));
                }
            }
        }
    }

    fn take<const N: usize>(&mut self) -> Step<[u8; N]> {
        let mut bytes = [0; N];
        self.source.fill(&mut bytes).map_err(ended)?;
        self.offset += N as u64;
        Ok(bytes)
    }

    fn push(&mut self, value: PickleValue) -> Step<()> {
        self.count_push()?;
        self.stack.push(self.values.len() as Id);
        self.values.push(value);
        Ok(())
    }

    /// Adds a value; bounds the number of values and thereby of all lists.
    fn count_push(&mut self) -> Step<()> {
        self.pushes += 1;
        if self.pushes > MAX_VALUES {
            return Err(format!("more than {MAX_VALUES} values"));
        }
        Ok(())
    }

    fn count_container(&mut self) -> Step<()> {
        self.containers += 1;
        if self.containers > MAX_CONTAINERS {
            return Err(format!(
                "more than {MAX_CONTAINERS} lists, tuples and dictionaries: nested too deep for a batch"
            ));
        }
        Ok(())
    }

    fn container(&mut self, value: PickleValue) -> Step<()> {
        self.count_container()?;
        self.push(value)
    }

    fn pop(&mut self) -> Step<Id> {
        self.stack.pop().ok_or_else(|| "an empty stack".into())
    }

    /// Removes and returns the values pushed since the last mark.
    fn marked(&mut self) -> Step<Vec<Id>> {
        let mark = self.marks.pop().filter(|mark| *mark <= self.stack.len());
        Ok(self.stack.split_off(mark.ok_or("no mark on the stack")?))
    }

    fn top(&mut self) -> Step<&mut PickleValue> {
        let top = *self.stack.last().ok_or("an empty stack")?;
        Ok(&mut self.values[top as usize])
    }

    fn extend_list(&mut self, mut items: Vec<Id>) -> Step<()> {
        match self.top()? {
            PickleValue::List(list) => list.append(&mut items),
            _ => return Err("items for a value that is not a list".into()),
        }
        Ok(())
    }

    fn extend_dict(&mut self, items: &[Id]) -> Step<()> {
        match self.top()? {
            PickleValue::Dict(dict) if items.len().is_multiple_of(2) => {
                dict.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
            }
            _ => return Err("items for a value that is not a dictionary".into()),
        }
        Ok(())
    }

    fn memorise(&mut self, place: usize) -> Step<()> {
        let top = *self.stack.last().ok_or("an empty stack")?;
        if place >= MAX_VALUES {
            return Err(format!("memo number {place}"));
        }
        if place >= self.memo.len() {
            self.memo.resize(place + 1, 0);
        }
        self.memo[place] = top;
        Ok(())
    }

    fn recall(&mut self, place: usize) -> Step<()> {
        let id = *self.memo.get(place).ok_or("a memo that was never made")?;
        self.count_push()?;
        self.stack.push(id);
        Ok(())
    }

    fn string(&mut self, length: u64) -> Step<()> {
        if length >= LONG {
            if length > (super::MAX_IMAGES * super::IMAGE_BYTES) as u64 {
                return Err(format!("a string of {length} bytes"));
            }
            let offset = self.offset;
            self.source.pass(length).map_err(ended)?;
            self.offset += length;
            return self.push(PickleValue::Long { offset, length });
        }
        let from = self.text.len();
        let to = from + length as usize;
        if to > MAX_TEXT {
            return Err(format!("more than {MAX_TEXT} bytes of names"));
        }
        self.text.resize(to, 0);
        self.source.fill(&mut self.text[from..]).map_err(ended)?;
        self.offset += length;
        self.push(PickleValue::Text(from, to))
    }

    /// A line of ASCII; GLOBAL has two.
    fn word(&mut self) -> Step<String> {
        let mut word = String::new();
        loop {
            match self.take()? {
                [b'\n'] => return Ok(word),
                [byte] if byte.is_ascii_graphic() && word.len() < 64 => word.push(byte.into()),
                _ => return Err("a global's name that is not a string".into()),
            }
        }
    }

    fn text_of(&self, id: Id) -> Step<String> {
        match self.values[id as usize] {
            PickleValue::Text(from, to) if to - from <= 64 => {
                Ok(String::from_utf8_lossy(&self.text[from..to]).into_owned())
            }
            _ => Err("a global's name that is not a string".into()),
        }
    }

    /// The reason `why` for refusing an intact pickle.
    fn in_other_form(&mut self, why: &str) -> String {
        self.other_form = true;
        why.into()
    }

    fn global(&mut self, module: &str, name: &str) -> Step<()> {
        if OTHER_GLOBALS.contains(&(module, name)) {
            let why = format!("the global {module}.{name} (nothing was executed)");
            return Err(self.in_other_form(&why));
        }
        let known = GLOBALS.iter().find(|(m, n, _)| (*m, *n) == (module, name));
        let (_, _, global) = known.ok_or_else(|| {
            let (module, name) = (module.escape_debug(), name.escape_debug());
            format!(
                "the global {module}.{name}, which no CIFAR-10 batch needs (nothing was executed)"
            )
        })?;
        self.push(PickleValue::Global(*global))
    }

    fn tuple(&self, id: Id) -> Step<&[Id]> {
        match &self.values[id as usize] {
            PickleValue::Tuple(items) => Ok(items),
            _ => Err("arguments that are not a tuple".into()),
        }
    }

    fn is_text(&self, id: Id, wanted: &str) -> bool {
        matches!(self.values[id as usize], PickleValue::Text(from, to) if &self.text[from..to] == wanted.as_bytes())
    }

    /// REDUCE, for `_reconstruct(ndarray, ...)`: an array to be filled, and `dtype('u1', ...)`.
    fn reduce(&mut self) -> Step<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let arguments = self.tuple(arguments)?;
        let first = *arguments.first().ok_or("a call without arguments")?;
        let value = match self.values[function as usize] {
            PickleValue::Global(Global::Reconstruct)
                if matches!(
                    self.values[first as usize],
                    PickleValue::Global(Global::Array)
                ) =>
            {
                PickleValue::Array(None)
            }
            PickleValue::Global(Global::Type) if self.is_text(first, "u1") => PickleValue::Type,
            PickleValue::Global(Global::Type) => {
                return Err(self.in_other_form("an array that is not of unsigned bytes ('u1')"));
            }
            _ => return Err("a call that no CIFAR-10 batch makes".into()),
        };
        self.push(value)
    }

    /// BUILD, for an array: (version, shape, dtype, Fortran order, bytes). The state of a dtype (such as byte order) is
    /// irrelevant for bytes.
    fn build(&mut self) -> Step<()> {
        let state = self.pop()?;
        let matrix = match self.top()? {
            PickleValue::Type => return Ok(()),
            PickleValue::Array(None) => self.matrix(state)?,
            _ => return Err("state for something that has none".into()),
        };
        *self.top()? = PickleValue::Array(Some(matrix));
        Ok(())
    }

    fn matrix(&mut self, state: Id) -> Step<Matrix> {
        let &[_, shape, kind, fortran, bytes] = self.tuple(state)? else {
            return Err("an array's state without its five parts".into());
        };
        let &[rows, columns] = self.tuple(shape)? else {
            return Err(self.in_other_form("an array that has not two dimensions"));
        };
        let value = |id: Id| &self.values[id as usize];
        match (
            value(rows),
            value(columns),
            value(kind),
            value(fortran),
            value(bytes),
        ) {
            (
                PickleValue::Int(rows),
                PickleValue::Int(columns),
                PickleValue::Type,
                PickleValue::Int(0),
                PickleValue::Long { offset, length },
            ) => {
                let [rows, columns] = [*rows, *columns].map(|n| u64::try_from(n).unwrap_or(0));
                if rows.checked_mul(columns) != Some(*length) {
                    return Err(format!(
                        "an array of {rows} x {columns} with {length} bytes"
                    ));
                }
                Ok(Matrix {
                    rows,
                    columns,
                    offset: *offset,
                })
            }
            _ => Err("an array that is not rows of bytes, row by row".into()),
        }
    }
}

fn ended(error: io::Error) -> String {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        "it ends in the middle".into()
    } else {
        error.to_string()
    }
}
