//! The parquet files that Hugging Face publishes: `train*.parquet` and `test*.parquet`, each row an image file (PNG, or
//! JPEG) in `img.bytes` and a `label`. Rows are read on the calling thread and decoded on the others, each image
//! straight into its place.
//!
//! The parquet crate takes the memory that a page's header asks for, so the headers are checked first ([`pages`]).

use super::{DataError, IMAGE_BYTES, Images, MAX_IMAGES, ProgressFn, RawDataset, SIDE, pool};
use crate::files;
use image::{ImageError, ImageFormat, ImageReader, Limits};
use parquet::basic::{Compression, Type};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::SchemaDescriptor;
use std::fs::File;
use std::io::{self, Cursor, Read as _, Seek, SeekFrom};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;

/// Rows read and decoded at a time.
const ROWS: usize = 256;
/// Bytes of one image file: a 32x32 PNG has 3 KiB at most.
const MAX_IMAGE_FILE: usize = 1 << 20;
/// Bytes of one page, unpacked. Hugging Face's have about one million.
const MAX_PAGE: i64 = 64 << 20;
/// Bytes of the description at a file's end.
const MAX_FOOTER: u32 = 1 << 20;

/// Columns that an error names.
const MAX_COLUMNS: usize = 8;

mod pages;

/// The folder, when `path` is one with such files, or is one of them.
pub fn recognise(path: &Path) -> Option<PathBuf> {
    if !path.is_dir() && split_of(path).is_some() {
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        return Some(folder.unwrap_or(Path::new(".")).into());
    }
    let mut entries = path.read_dir().ok()?.flatten();
    entries
        .any(|entry| split_of(&entry.path()).is_some())
        .then(|| path.into())
}

/// "train" or "test", by the file's name.
fn split_of(path: &Path) -> Option<&'static str> {
    let name = path.file_name()?.to_str()?;
    let split = ["train", "test"]
        .into_iter()
        .find(|split| name.starts_with(split))?;
    name.ends_with(".parquet").then_some(split)
}

/// How a file says which part of a split it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// `train.parquet`.
    All,
    /// `train-00001-of-00002.parquet`, also with a hash behind the numbers.
    Of { number: usize, count: usize },
    /// `train-00001.parquet`, `train_1.parquet`: of how many, nobody says.
    Numbered(usize),
    /// A name that says nothing.
    Unclear,
}

impl Part {
    fn of(path: &Path, split: &str) -> Part {
        let stem = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default();
        let rest = stem.strip_prefix(split).unwrap_or_default();
        if rest.is_empty() {
            return Part::All;
        }
        let rest = rest.strip_prefix(['-', '_', '.']).unwrap_or(rest);
        if let Ok(number) = rest.parse() {
            return Part::Numbered(number);
        }
        let numbers = rest.split_once("-of-").and_then(|(number, rest)| {
            let (count, _) = rest.split_once('-').unwrap_or((rest, ""));
            Some((number.parse().ok()?, count.parse().ok()?))
        });
        numbers.map_or(Part::Unclear, |(number, count)| Part::Of { number, count })
    }

    /// Whether both can be parts of one split.
    fn goes_with(self, other: Part) -> bool {
        match (self, other) {
            (
                Part::Of { number, count },
                Part::Of {
                    number: n,
                    count: c,
                },
            ) => count == c && number != n,
            (Part::Numbered(number), Part::Numbered(n)) => number != n,
            _ => false,
        }
    }

    fn number(self) -> usize {
        match self {
            Part::Of { number, .. } | Part::Numbered(number) => number,
            Part::All | Part::Unclear => 0,
        }
    }
}

/// The files of one split in order.
///
/// # Errors
/// When a part is missing, or two files cannot be parts of the same split: their images would count twice.
fn files(folder: &Path, split: &str) -> Result<Vec<PathBuf>, DataError> {
    let entries = folder.read_dir().map_err(DataError::io(folder))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut parts: Vec<(Part, PathBuf)> = paths
        .filter(|path| split_of(path) == Some(split))
        .map(|path| (Part::of(&path, split), path))
        .collect();
    parts.sort_by(|a, b| (a.0.number(), &a.1).cmp(&(b.0.number(), &b.1)));
    let missing = |file: String| DataError::Missing {
        path: folder.into(),
        file,
    };
    let Some((first, path)) = parts.first() else {
        return Err(missing(format!("{split}-00000-of-00001.parquet")));
    };
    let pairs = parts.iter().zip(&parts[1..]);
    let strangers = pairs
        .map(|((a, path), (b, other))| (a.goes_with(*b), path, other))
        .find(|(goes, ..)| !goes);
    if let Some((_, path, other)) = strangers {
        let name = |path: &Path| {
            path.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        return Err(DataError::unsupported(
            folder,
            format!(
                "holds {} and {}, which are not parts of the same split: images would count twice",
                name(path),
                name(other)
            ),
            "Move one of them elsewhere, or name another folder with --data.",
        ));
    }
    // Without a count only a gap shows that a part is missing.
    let (from, to) = match *first {
        Part::Of { count, .. } => (0, count),
        Part::Numbered(number) => (
            number.min(1),
            parts.last().map_or(0, |last| last.0.number() + 1),
        ),
        Part::All | Part::Unclear => (0, 1),
    };
    let wanted = from..to.max(1);
    if wanted.len() != parts.len()
        || wanted
            .clone()
            .zip(&parts)
            .any(|(i, part)| part.0.number() != i)
    {
        let absent = wanted
            .clone()
            .find(|i| parts.iter().all(|part| part.0.number() != *i));
        let beyond = || parts.last().map(|part| part.1.clone()).unwrap_or_default();
        return Err(match (absent, *first) {
            (Some(i), Part::Of { count, .. }) => {
                missing(format!("{split}-{i:05}-of-{count:05}.parquet"))
            }
            (Some(i), _) => missing(format!("part {i} beside {}", path.display())),
            (None, _) => DataError::damaged(
                &beyond(),
                "its name",
                "there are fewer parts than its number says",
            ),
        });
    }
    Ok(parts.into_iter().map(|(_, path)| path).collect())
}

/// Reads the folder. The parquet crate is not made for bytes that mean ill: where it panics, that is an error too.
pub fn read(folder: &Path, threads: usize, progress: ProgressFn) -> Result<RawDataset, DataError> {
    std::panic::catch_unwind(AssertUnwindSafe(|| read_all(folder, threads, progress)))
        .unwrap_or_else(|_| {
            let why = "what it says of itself makes no sense, so that reading it failed";
            Err(DataError::damaged(folder, "a parquet file", why))
        })
}

fn read_all(folder: &Path, threads: usize, progress: ProgressFn) -> Result<RawDataset, DataError> {
    let open = |split| {
        files(folder, split)?
            .into_iter()
            .map(Table::open)
            .collect::<Result<Vec<_>, _>>()
    };
    let (train, test) = (open("train")?, open("test")?);
    let count = |tables: &[Table]| tables.iter().map(|t| t.rows).sum::<usize>();
    let (train_count, test_count) = (count(&train), count(&test));
    for (tables, count) in [(&train, train_count), (&test, test_count)] {
        if count > MAX_IMAGES {
            let why = format!("{count} in this split, where at most {MAX_IMAGES} are expected");
            return Err(DataError::damaged(&tables[0].path, "its rows", why));
        }
    }
    let room = |count| Images {
        side: SIDE,
        pixels: vec![0; count * IMAGE_BYTES],
        labels: vec![0; count],
    };
    let (mut train_images, mut test_images) = (room(train_count), room(test_count));
    let total = (train_count + test_count) as u64;
    let mut done = 0;
    let mut tell = |n| {
        done += n as u64;
        progress(done, total);
    };
    decode(train, &mut train_images, threads, &mut tell)?;
    decode(test, &mut test_images, threads, &mut tell)?;
    Ok(RawDataset {
        classes: super::CLASSES.map(String::from).into(),
        train: train_images,
        test: test_images,
    })
}

/// One file, opened and checked.
struct Table {
    path: PathBuf,
    reader: SerializedFileReader<File>,
    rows: usize,
    /// Numbers of the columns.
    bytes: usize,
    label: usize,
}

impl Table {
    fn open(path: PathBuf) -> Result<Table, DataError> {
        let mut file = files::open(&path).map_err(DataError::io(&path))?;
        check_footer(&mut file, &path)?;
        let broken = |e: ParquetError| {
            DataError::damaged(&path, "the description at its end", e.to_string())
        };
        let headers = file.try_clone().map_err(DataError::io(&path))?;
        let reader = SerializedFileReader::new(file).map_err(broken)?;
        let metadata = reader.metadata();
        let rows = metadata.file_metadata().num_rows();
        let rows = usize::try_from(rows)
            .ok()
            .filter(|rows| *rows <= MAX_IMAGES);
        let rows = rows.ok_or_else(|| {
            DataError::damaged(
                &path,
                "its rows",
                format!("more than {MAX_IMAGES}, or none that can be"),
            )
        })?;
        let schema = metadata.file_metadata().schema_descr();
        let column = |name, kind| column(schema, name, kind, &path);
        let (bytes, label) = (
            column("img.bytes", Type::BYTE_ARRAY)?,
            column("label", Type::INT64)?,
        );
        let mut sum = 0;
        for group in metadata.row_groups() {
            sum += group.num_rows();
            for chunk in [group.column(bytes), group.column(label)] {
                check_chunk(chunk, &headers, &path)?;
            }
        }
        if sum != rows as i64 {
            return Err(DataError::damaged(
                &path,
                "its row groups",
                format!("{sum} rows, where the file says {rows}"),
            ));
        }
        Ok(Table {
            path,
            reader,
            rows,
            bytes,
            label,
        })
    }
}

/// The number of the column `name`, which holds one value of type `kind` a row.
fn column(
    schema: &SchemaDescriptor,
    name: &str,
    kind: Type,
    path: &Path,
) -> Result<usize, DataError> {
    let columns = schema.columns();
    let names: Vec<String> = columns
        .iter()
        .map(|column| column.path().string())
        .collect();
    let place = names.iter().position(|n| n == name);
    let what = match place.map(|i| &columns[i]) {
        Some(found) if found.physical_type() != kind => {
            format!(
                "has a column '{name}' of type {}, where {kind} is read",
                found.physical_type()
            )
        }
        Some(found) if found.max_rep_level() > 0 => {
            format!("has a column '{name}' of lists, where one value a row is read")
        }
        Some(_) => return Ok(place.unwrap_or_default()),
        None if names.iter().any(|n| n == "fine_label") => {
            "holds CIFAR-100 (there is a column 'fine_label'); only CIFAR-10 is read".into()
        }
        None => format!(
            "has no column '{name}'; its columns are {}",
            names
                .iter()
                .take(MAX_COLUMNS)
                .map(|n| format!("'{n}'"))
                .collect::<Vec<_>>()
                .join(", ")
        ),
    };
    Err(DataError::unsupported(
        path,
        what,
        "Write it with the columns img (a struct with the field bytes, a PNG or JPEG each) and label (64-bit integers), or \
         fetch CIFAR-10 with `cifar-tui data download`.",
    ))
}

/// The description stands at the end, before its length and the word PAR1.
fn check_footer(file: &mut File, path: &Path) -> Result<(), DataError> {
    let mut tail = [0; 8];
    let end = file.seek(SeekFrom::End(0)).map_err(DataError::io(path))?;
    let damaged =
        |why: &str| DataError::damaged(path, format!("byte {}", end.saturating_sub(8)), why);
    if end < 12 {
        return Err(damaged("it is too short for a parquet file"));
    }
    file.seek(SeekFrom::End(-8))
        .and_then(|_| file.read_exact(&mut tail))
        .map_err(DataError::io(path))?;
    let length = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
    if &tail[4..] != b"PAR1" {
        return Err(damaged("it does not end as a parquet file does"));
    }
    if length > MAX_FOOTER {
        return Err(damaged(
            "its description is larger than that of any CIFAR-10 file",
        ));
    }
    Ok(())
}

fn check_chunk(chunk: &ColumnChunkMetaData, file: &File, path: &Path) -> Result<(), DataError> {
    let name = chunk.column_path().string();
    let damaged = |why: String| DataError::damaged(path, format!("column '{name}'"), why);
    if !matches!(
        chunk.compression(),
        Compression::SNAPPY | Compression::UNCOMPRESSED
    ) {
        let packing = format!("{:?}", chunk.compression());
        let packing = packing.split('(').next().unwrap_or_default().to_lowercase();
        return Err(DataError::unsupported(
            path,
            format!("is packed with {packing}, where snappy and no packing at all are read"),
            "Write it again with compression='snappy', or fetch CIFAR-10 with `cifar-tui data download`.",
        ));
    }
    let start = chunk
        .dictionary_page_offset()
        .unwrap_or(i64::MAX)
        .min(chunk.data_page_offset());
    let (Ok(start), Ok(length)) = (u64::try_from(start), u64::try_from(chunk.compressed_size()))
    else {
        return Err(damaged("it lies before the file's beginning".into()));
    };
    let end = file.metadata().map_err(DataError::io(path))?.len();
    if start.checked_add(length).is_none_or(|to| to > end) {
        return Err(damaged("it lies beyond the file's end".into()));
    }
    pages::check(file, start, length)
        .map_err(|(offset, why)| DataError::damaged(path, format!("byte {offset}"), why))
}

/// Rows to decode and where they go.
struct Rows<'a> {
    path: &'a Path,
    first: usize,
    files: Vec<ByteArray>,
    pixels: &'a mut [u8],
}

/// Decodes all rows of `tables` into `images`. `tell` is called on this thread.
fn decode(
    tables: Vec<Table>,
    images: &mut Images,
    threads: usize,
    tell: pool::AdvanceFn,
) -> Result<(), DataError> {
    let paths: Vec<PathBuf> = tables.iter().map(|table| table.path.clone()).collect();
    let failed = AtomicBool::new(false);
    let first_error = Mutex::new(None);
    let workers = pool::count(threads);
    // Short: what waits in it is memory.
    let (send, receive) = sync_channel::<Rows>(2 * workers);
    let receive = Mutex::new(receive);
    let fail = |error| {
        pool::lock(&first_error).get_or_insert(error);
        failed.store(true, Ordering::Relaxed);
    };
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let next = pool::lock(&receive).recv();
                    let Ok(rows) = next else { break };
                    // After a failure the rest is only drained, so that the sender never waits.
                    if !failed.load(Ordering::Relaxed) {
                        rows.decode().unwrap_or_else(fail);
                    }
                }
            });
        }
        let (mut pixels, mut labels) = (&mut images.pixels[..], &mut images.labels[..]);
        for (table, path) in tables.iter().zip(&paths) {
            let mut row = 0;
            let read = table.rows(&mut |files, marks| {
                let n = marks.len();
                if n > labels.len() {
                    return Err(DataError::damaged(
                        path,
                        format!("row {row}"),
                        "more rows than the file says",
                    ));
                }
                let (mine, rest) = std::mem::take(&mut pixels).split_at_mut(n * IMAGE_BYTES);
                pixels = rest;
                let (my_labels, rest) = std::mem::take(&mut labels).split_at_mut(n);
                labels = rest;
                for (i, (label, mark)) in my_labels.iter_mut().zip(marks).enumerate() {
                    *label = u8::try_from(*mark)
                        .ok()
                        .filter(|label| *label <= 9)
                        .ok_or_else(|| {
                            DataError::damaged(
                                path,
                                format!("column 'label', row {}", row + i),
                                format!("it is {mark}, where labels are 0 to 9"),
                            )
                        })?;
                }
                // The receiver is alive: it is held outside the scope.
                _ = send.send(Rows {
                    path,
                    first: row,
                    files,
                    pixels: mine,
                });
                row += n;
                tell(n);
                Ok(!failed.load(Ordering::Relaxed))
            });
            read.unwrap_or_else(fail);
            if failed.load(Ordering::Relaxed) {
                break;
            }
        }
        drop(send);
    });
    match first_error
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
    {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Takes the image files and labels of some rows, and says whether to go on.
type Each<'a> = &'a mut dyn FnMut(Vec<ByteArray>, &[i64]) -> Result<bool, DataError>;

impl Table {
    /// Gives (image files, labels) to `each`, some rows at a time, until it says false.
    fn rows(&self, each: Each) -> Result<(), DataError> {
        let mut row = 0;
        for group in 0..self.reader.num_row_groups() {
            let broken = |e: ParquetError| {
                DataError::damaged(&self.path, format!("row {row}"), e.to_string())
            };
            let reader = self.reader.get_row_group(group).map_err(broken)?;
            let columns = (
                reader.get_column_reader(self.bytes),
                reader.get_column_reader(self.label),
            );
            let (
                ColumnReader::ByteArrayColumnReader(mut bytes),
                ColumnReader::Int64ColumnReader(mut labels),
            ) = (columns.0.map_err(broken)?, columns.1.map_err(broken)?)
            else {
                return Err(DataError::damaged(
                    &self.path,
                    format!("row {row}"),
                    "columns of another type",
                ));
            };
            let mut left = usize::try_from(reader.metadata().num_rows()).unwrap_or(0);
            while left > 0 {
                let n = left.min(ROWS);
                let files = self.some(&mut bytes, n, row)?;
                let marks = self.some(&mut labels, n, row)?;
                if !each(files, &marks)? {
                    return Ok(());
                }
                row += n;
                left -= n;
            }
        }
        Ok(())
    }

    /// The next `n` values of a column, none of them missing.
    fn some<T: DataType>(
        &self,
        column: &mut ColumnReaderImpl<T>,
        n: usize,
        row: usize,
    ) -> Result<Vec<T::T>, DataError> {
        let damaged = |why: String| DataError::damaged(&self.path, format!("row {row}"), why);
        let (mut values, mut levels) = (Vec::with_capacity(n), Vec::with_capacity(n));
        while values.len() < n {
            let before = values.len();
            let (records, present, _) = column
                .read_records(n - before, Some(&mut levels), None, &mut values)
                .map_err(|error| damaged(error.to_string()))?;
            if records == 0 || records != present {
                return Err(damaged("the rows end early, or a value is missing".into()));
            }
        }
        Ok(values)
    }
}

impl Rows<'_> {
    fn decode(self) -> Result<(), DataError> {
        for (i, (file, pixels)) in self
            .files
            .iter()
            .zip(self.pixels.chunks_exact_mut(IMAGE_BYTES))
            .enumerate()
        {
            decode_image(file.data(), pixels).map_err(|why| {
                DataError::damaged(
                    self.path,
                    format!("column 'img.bytes', row {}", self.first + i),
                    why,
                )
            })?;
        }
        Ok(())
    }
}

/// Decodes a PNG or JPEG of 32x32 pixels into `pixels` (CHW).
fn decode_image(file: &[u8], pixels: &mut [u8]) -> Result<(), String> {
    if file.len() > MAX_IMAGE_FILE {
        return Err(format!("an image file of {} bytes", file.len()));
    }
    let format = match file {
        [0x89, b'P', b'N', b'G', ..] => ImageFormat::Png,
        [0xff, 0xd8, ..] => ImageFormat::Jpeg,
        _ => return Err("it is neither a PNG nor a JPEG".into()),
    };
    let mut reader = ImageReader::with_format(Cursor::new(file), format);
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE as u32);
    limits.max_image_height = Some(SIDE as u32);
    limits.max_alloc = Some(4 << 20);
    reader.limits(limits);
    let image = reader
        .decode()
        .map_err(|error| match error {
            ImageError::Limits(_) => format!("an image larger than {SIDE}x{SIDE}"),
            error => error.to_string(),
        })?
        .into_rgb8();
    if image.dimensions() != (SIDE as u32, SIDE as u32) {
        return Err(format!(
            "an image of {}x{}, where {SIDE}x{SIDE} is expected",
            image.width(),
            image.height()
        ));
    }
    let plane = SIDE * SIDE;
    for (i, rgb) in image.as_raw().chunks_exact(3).enumerate() {
        for c in 0..3 {
            pixels[c * plane + i] = rgb[c];
        }
    }
    Ok(())
}

/// Reads at a place; used by [`pages`].
fn read_at(mut file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    file.seek(SeekFrom::Start(offset))?;
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}
