//! Reads the published archives `cifar-10-python.tar.gz` and `cifar-10-binary.tar.gz` as a stream. Nothing is unpacked
//! to disk, and only the regular files of the data set are read. Archives with links, devices, absolute or parent
//! paths, duplicates, or more bytes than a data set has, are refused.

use super::pickle::{self, PickleSource};
use super::{
    DataError, IMAGE_BYTES, Images, MAX_IMAGES, ProgressFn, RawDataset, SIDE, binary_batches,
    python_batches,
};
use crate::files;
use flate2::read::GzDecoder;
use std::fs::File;
use std::io::{self, BufReader, Read as _};
use std::path::{Component, Path, PathBuf};
use tar::{Archive, EntryType};

/// Maximum number of unpacked bytes; the published archives have 186 million. More would be a decompression bomb.
pub const MAX_BYTES: u64 = 256 << 20;
/// Maximum size in bytes of one entry.
const MAX_ENTRY: u64 = (MAX_IMAGES * (binary_batches::RECORD + 64)) as u64;
/// Maximum size in bytes of an extended header (names, times), which is skipped.
const MAX_HEADER: u64 = 1 << 16;
/// Maximum number of entries; the published archives have nine.
const MAX_ENTRIES: usize = 64;

/// The kind of an archive.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ArchiveKind {
    Python,
    Binary,
}

impl ArchiveKind {
    fn published(self) -> &'static str {
        match self {
            ArchiveKind::Python => "cifar-10-python.tar.gz",
            ArchiveKind::Binary => "cifar-10-binary.tar.gz",
        }
    }

    /// The batches in order, training first, and the file with the class names.
    fn files(self) -> ([&'static str; 5], &'static str, &'static str) {
        match self {
            ArchiveKind::Python => (
                python_batches::TRAIN,
                python_batches::TEST,
                python_batches::META,
            ),
            ArchiveKind::Binary => (
                binary_batches::TRAIN,
                binary_batches::TEST,
                binary_batches::META,
            ),
        }
    }

    fn of_entry(name: &str) -> Option<ArchiveKind> {
        [ArchiveKind::Python, ArchiveKind::Binary]
            .into_iter()
            .find(|kind| {
                let (train, test, meta) = kind.files();
                train.contains(&name) || name == test || name == meta
            })
    }
}

pub fn recognise_python(path: &Path) -> Option<PathBuf> {
    recognise(path, ArchiveKind::Python)
}

pub fn recognise_binary(path: &Path) -> Option<PathBuf> {
    recognise(path, ArchiveKind::Binary)
}

/// The archive of this kind: `path` itself, or the file with its published name in the folder `path`.
fn recognise(path: &Path, kind: ArchiveKind) -> Option<PathBuf> {
    if path.is_dir() {
        return Some(path.join(kind.published())).filter(|file| file.exists() && !file.is_dir());
    }
    let name = path.file_name()?.to_str()?;
    if !(name.ends_with(".tar.gz") || name.ends_with(".tgz")) || path.is_dir() {
        return None;
    }
    // Recognise it by name first, so that a damaged archive is reported as damaged; otherwise by its contents.
    let by_name = [ArchiveKind::Python, ArchiveKind::Binary]
        .into_iter()
        .find(|kind| name == kind.published());
    (by_name.or_else(|| first_kind(path)) == Some(kind)).then(|| path.into())
}

/// The kind of the first entry whose name identifies it.
fn first_kind(path: &Path) -> Option<ArchiveKind> {
    let mut archive = Archive::new(Limited::open(path).ok()?);
    archive
        .entries()
        .ok()?
        .raw(true)
        .take(MAX_ENTRIES)
        .map_while(Result::ok)
        .find_map(|entry| {
            let path = entry.path().ok()?;
            ArchiveKind::of_entry(path.file_name()?.to_str()?)
        })
}

/// A reader of unpacked bytes that fails beyond [`MAX_BYTES`].
struct Limited {
    bytes: GzDecoder<BufReader<File>>,
    left: u64,
}

impl Limited {
    fn open(path: &Path) -> io::Result<Self> {
        let bytes = GzDecoder::new(BufReader::with_capacity(1 << 18, files::open(path)?));
        Ok(Limited {
            bytes,
            left: MAX_BYTES,
        })
    }
}

impl io::Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.bytes.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            io::Error::other(format!(
                "it unpacks to more than {} MiB, where CIFAR-10 has 178",
                MAX_BYTES >> 20
            ))
        })?;
        Ok(n)
    }
}

pub fn read_python(path: &Path, _: usize, progress: ProgressFn) -> Result<RawDataset, DataError> {
    read(path, ArchiveKind::Python, progress)
}

pub fn read_binary(path: &Path, _: usize, progress: ProgressFn) -> Result<RawDataset, DataError> {
    read(path, ArchiveKind::Binary, progress)
}

/// One split, whose batches may arrive in any order.
struct PartialSplit {
    images: Images,
    /// Number of images of each batch that has arrived, in the published order.
    counts: Vec<Option<usize>>,
}

impl PartialSplit {
    fn new(batches: usize) -> Self {
        PartialSplit {
            images: Images {
                side: SIDE,
                ..Images::default()
            },
            counts: vec![None; batches],
        }
    }

    /// Allocates memory at the end for a batch of `count` images, and for as many in the batches to come.
    fn reserve(&mut self, count: usize) {
        let more = self.counts.iter().filter(|c| c.is_none()).count() * count;
        let more = more.min(MAX_IMAGES.saturating_sub(self.images.len()));
        self.images.pixels.reserve_exact(more * IMAGE_BYTES);
    }

    /// Moves the appended batch to its place.
    fn settle(&mut self, place: usize, count: usize) {
        let before: usize = self.counts[..place].iter().flatten().sum();
        self.images.pixels[before * IMAGE_BYTES..].rotate_right(count * IMAGE_BYTES);
        self.images.labels[before..].rotate_right(count);
        self.counts[place] = Some(count);
    }
}

fn read(path: &Path, kind: ArchiveKind, progress: ProgressFn) -> Result<RawDataset, DataError> {
    let (train_files, test_file, meta) = kind.files();
    let limited = Limited::open(path).map_err(DataError::io(path))?;
    let mut archive = Archive::new(limited);
    let (mut train, mut test, mut classes) = (
        PartialSplit::new(train_files.len()),
        PartialSplit::new(1),
        None,
    );
    let broken = |error: io::Error| DataError::damaged(path, "the archive", describe(&error));
    for (i, entry) in archive.entries().map_err(broken)?.raw(true).enumerate() {
        let mut entry = entry.map_err(broken)?;
        let (name, size) = (
            name_of(&entry, path)?,
            entry.header().entry_size().map_err(broken)?,
        );
        let refused =
            |why: &str| DataError::damaged(path, format!("entry '{}'", name.display()), why);
        if i >= MAX_ENTRIES {
            return Err(refused("there are more entries than a data set has"));
        }
        match entry.header().entry_type() {
            EntryType::Directory => continue,
            EntryType::XHeader | EntryType::XGlobalHeader if size <= MAX_HEADER => continue,
            EntryType::Regular => {}
            _ => return Err(refused("it is neither a regular file nor a folder")),
        }
        if size > MAX_ENTRY {
            return Err(refused("it is larger than any batch"));
        }
        let base = name
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        // Errors name the archive and the entry in it.
        let inside = path.join(&name);
        let place = train_files.iter().position(|file| *file == base);
        if base == meta {
            if classes.is_some() {
                return Err(refused("it is there twice"));
            }
            classes = Some(match kind {
                ArchiveKind::Python => {
                    let mut stream = PickleStream {
                        from: &mut entry,
                        into: &mut Vec::new(),
                        most: 0,
                    };
                    let pickle = pickle::read(&mut stream).map_err(python_batches::at(&inside))?;
                    python_batches::class_names(&pickle, &inside)?
                }
                ArchiveKind::Binary => {
                    let mut text = Vec::new();
                    entry
                        .by_ref()
                        .take(1 << 16)
                        .read_to_end(&mut text)
                        .map_err(broken)?;
                    binary_batches::class_names(&text, &inside)?
                }
            });
            continue;
        }
        let (split, place) = match place {
            Some(place) => (&mut train, place),
            None if base == test_file => (&mut test, 0),
            None => continue,
        };
        if split.counts[place].is_some() {
            return Err(refused("it is there twice"));
        }
        let count = match kind {
            ArchiveKind::Python => append_python(&mut entry, &inside, size, split)?,
            ArchiveKind::Binary => append_binary(&mut entry, &inside, size, split)?,
        };
        split.settle(place, count);
        let done = (train.images.len() + test.images.len()) as u64;
        let batches = train.counts.iter().chain(&test.counts);
        let left = batches.filter(|c| c.is_none()).count() * count;
        progress(done, done + left as u64);
    }
    // The checksum of all bytes follows the last one.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(broken)?;
    let missing = |file: &str| DataError::Missing {
        path: path.into(),
        file: file.into(),
    };
    let files = train_files
        .iter()
        .zip(&train.counts)
        .chain([(&test_file, &test.counts[0])]);
    if let Some((file, _)) = files.into_iter().find(|(_, count)| count.is_none()) {
        return Err(missing(file));
    }
    let classes = classes.ok_or_else(|| missing(meta))?;
    Ok(RawDataset {
        classes,
        train: train.images,
        test: test.images,
    })
}

fn name_of(entry: &tar::Entry<'_, impl io::Read>, path: &Path) -> Result<PathBuf, DataError> {
    let name = entry
        .path()
        .map_err(|e| DataError::damaged(path, "the archive", describe(&e)))?
        .into_owned();
    let plain = |part: Component| matches!(part, Component::Normal(_) | Component::CurDir);
    if name
        .to_str()
        .is_none_or(|name| name.contains(char::is_control))
    {
        let why = "its name has characters that no file of CIFAR-10 has";
        return Err(DataError::damaged(
            path,
            format!("entry '{}'", name.display()),
            why,
        ));
    }
    if !name.components().all(plain) {
        let why = "its path leads out of the archive";
        return Err(DataError::damaged(
            path,
            format!("entry '{}'", name.display()),
            why,
        ));
    }
    Ok(name)
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "it ends in the middle".into(),
        _ => error.to_string(),
    }
}

/// A pickle in a stream; its long string is read into `into`.
struct PickleStream<'a, R> {
    from: &'a mut R,
    into: &'a mut Vec<u8>,
    /// Maximum size of `into` in bytes.
    most: usize,
}

impl<R: io::Read> PickleSource for PickleStream<'_, R> {
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.from.read_exact(buffer)
    }

    fn pass(&mut self, length: u64) -> io::Result<()> {
        if self.into.len() as u64 + length > self.most as u64 {
            return Err(io::Error::other("more pixels than a data set has"));
        }
        if self.from.by_ref().take(length).read_to_end(self.into)? as u64 != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

fn append_python(
    entry: &mut impl io::Read,
    path: &Path,
    size: u64,
    split: &mut PartialSplit,
) -> Result<usize, DataError> {
    // Assume the largest number of images that fits; the actual number is known only after part of the pickle is read.
    split.reserve((size / IMAGE_BYTES as u64) as usize);
    let before = split.images.pixels.len();
    // Buffer the many small reads. Bytes read ahead belong to the same entry.
    let mut from = BufReader::with_capacity(1 << 16, entry);
    let mut stream = PickleStream {
        from: &mut from,
        into: &mut split.images.pixels,
        most: MAX_IMAGES * IMAGE_BYTES,
    };
    let pickle = pickle::read(&mut stream).map_err(python_batches::at(path))?;
    let batch = python_batches::batch(&pickle, path)?;
    let count = batch.labels.len();
    if split.images.pixels.len() - before != count * IMAGE_BYTES {
        return Err(DataError::damaged(
            path,
            "key 'data'",
            "there is more than one long string",
        ));
    }
    split.images.labels.extend(batch.labels);
    Ok(count)
}

fn append_binary(
    entry: &mut impl io::Read,
    path: &Path,
    size: u64,
    split: &mut PartialSplit,
) -> Result<usize, DataError> {
    let count = binary_batches::images(path, size)?;
    let before = split.images.len();
    if before + count > MAX_IMAGES {
        return Err(DataError::damaged(
            path,
            "its images",
            format!("with the other batches more than {MAX_IMAGES}"),
        ));
    }
    split.reserve(count);
    split
        .images
        .pixels
        .resize((before + count) * IMAGE_BYTES, 0);
    split.images.labels.resize(before + count, 0);
    let pixels = &mut split.images.pixels[before * IMAGE_BYTES..];
    binary_batches::records(entry, path, 0, pixels, &mut split.images.labels[before..])?;
    Ok(count)
}
