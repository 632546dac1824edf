//! Reads the python batches: a folder with `data_batch_1` to `data_batch_5`, `test_batch` and `batches.meta`, each a
//! pickled dictionary. A first pass reads everything but the pixels and finds their offsets. Then all threads read the
//! pixels directly into place.

use super::pickle::{self, Pickle, PickleError, PickleSource};
use super::{DataError, IMAGE_BYTES, Images, MAX_IMAGES, ProgressFn, RawDataset, SIDE, pool};
use crate::files;
use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The training batches, in order.
pub const TRAIN: [&str; 5] = [
    "data_batch_1",
    "data_batch_2",
    "data_batch_3",
    "data_batch_4",
    "data_batch_5",
];
pub const TEST: &str = "test_batch";
pub const META: &str = "batches.meta";
/// Number of images in one job.
const JOB: usize = 500;

/// The folder `path`, if it contains at least one batch, or the folder of the batch `path`.
pub fn recognise(path: &Path) -> Option<PathBuf> {
    recognise_folder(path, |name| TRAIN.contains(&name) || name == TEST)
}

/// The folder `path` or the one that contains it, if it has a file with a batch's name.
pub fn recognise_folder(path: &Path, is_batch: impl Fn(&str) -> bool) -> Option<PathBuf> {
    if path.is_dir() {
        let mut names = path
            .read_dir()
            .ok()?
            .flatten()
            .map(|entry| entry.file_name());
        return names
            .any(|name| name.to_str().is_some_and(&is_batch))
            .then(|| path.into());
    }
    let named = path.file_name()?.to_str().is_some_and(is_batch);
    let folder = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    named.then(|| folder.unwrap_or(Path::new(".")).into())
}

/// The layout of a batch file.
pub struct Batch {
    pub labels: Vec<u8>,
    /// Offset of its pixels, `labels.len() * IMAGE_BYTES` of them.
    pub offset: u64,
}

/// Checks the contents of a batch's pickle.
pub fn batch(pickle: &Pickle, path: &Path) -> Result<Batch, DataError> {
    let damaged = |key: &str, why: String| DataError::damaged(path, format!("key '{key}'"), why);
    let data = pickle.matrix("data");
    let data = data.ok_or_else(|| damaged("data", "its value is not an array of bytes".into()))?;
    if pickle.numbers("fine_labels").is_some() {
        return Err(DataError::unsupported(
            path,
            "holds CIFAR-100 (it has a key 'fine_labels'); only CIFAR-10 is supported",
            "`cifar-tui data download` fetches CIFAR-10.",
        ));
    }
    let labels = pickle.numbers("labels");
    let labels =
        labels.ok_or_else(|| damaged("labels", "its value is not a list of integers".into()))?;
    if data.columns != IMAGE_BYTES as u64 {
        let why = format!(
            "rows of {} bytes, where 32x32 RGB images have {IMAGE_BYTES}",
            data.columns
        );
        return Err(damaged("data", why));
    }
    if labels.len() as u64 != data.rows {
        return Err(damaged(
            "labels",
            format!("{} labels for {} images", labels.len(), data.rows),
        ));
    }
    let label = |(row, label): (usize, i64)| match u8::try_from(label) {
        Ok(label @ 0..=9) => Ok(label),
        _ => Err(damaged(
            "labels",
            format!("row {row} is {label}, where labels are 0 to 9"),
        )),
    };
    let labels = labels
        .into_iter()
        .enumerate()
        .map(label)
        .collect::<Result<_, _>>()?;
    Ok(Batch {
        labels,
        offset: data.offset,
    })
}

/// The ten class names in `batches.meta`.
pub fn class_names(pickle: &Pickle, path: &Path) -> Result<Vec<String>, DataError> {
    let names = pickle
        .texts("label_names")
        .filter(|names| names.len() == 10);
    names.ok_or_else(|| {
        DataError::damaged(
            path,
            "key 'label_names'",
            "its value is not a list of ten names",
        )
    })
}

/// Converts an error of the unpickler into one that names the file.
pub fn at(path: &Path) -> impl FnOnce(PickleError) -> DataError + '_ {
    |problem| {
        let PickleError {
            offset,
            why,
            other_form,
        } = problem;
        match other_form {
            true => DataError::unsupported(
                path,
                format!(
                    "was written by another program, in a form that is not supported (at byte {offset}: {why})"
                ),
                "Write it with pickle protocol 3 or 4, with an array of N x 3072 unsigned bytes and a list of labels, or \
                 name the published files with --data (`cifar-tui data download` fetches them).",
            ),
            false => DataError::damaged(path, format!("byte {offset}"), why),
        }
    }
}

struct OnDisk {
    file: BufReader<File>,
    left: u64,
}

impl PickleSource for OnDisk {
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.left = self.left.saturating_sub(buffer.len() as u64);
        self.file.read_exact(buffer)
    }

    fn pass(&mut self, length: u64) -> io::Result<()> {
        self.left = self
            .left
            .checked_sub(length)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        self.file.seek_relative(length as i64)
    }
}

/// Opens a file of the data set. A missing file is reported as missing from its folder.
pub fn open(path: &Path) -> Result<File, DataError> {
    files::open(path).map_err(
        |source| match (source.kind(), path.parent(), path.file_name()) {
            (io::ErrorKind::NotFound, Some(folder), Some(name)) => DataError::Missing {
                path: folder.into(),
                file: name.to_string_lossy().into(),
            },
            _ => DataError::io(path)(source),
        },
    )
}

fn unpickle(path: &Path) -> Result<Pickle, DataError> {
    let file = open(path)?;
    let left = file.metadata().map_err(DataError::io(path))?.len();
    pickle::read(&mut OnDisk {
        file: BufReader::new(file),
        left,
    })
    .map_err(at(path))
}

/// A part of a file and the memory to read it into.
pub struct FileSegment<'a> {
    pub path: &'a Path,
    pub offset: u64,
    pub pixels: &'a mut [u8],
    pub labels: &'a mut [u8],
}

/// Divides batches into segments: `batches` are (file, offset of the first image, number of images), `stride` the bytes
/// from one image to the next in the file.
pub fn pieces<'a>(
    batches: &'a [(PathBuf, u64, usize)],
    stride: usize,
    images: &'a mut Images,
) -> impl Iterator<Item = FileSegment<'a>> {
    let (mut pixels, mut labels) = (&mut images.pixels[..], &mut images.labels[..]);
    batches.iter().flat_map(move |(path, offset, count)| {
        let (mine, rest) = std::mem::take(&mut pixels).split_at_mut(count * IMAGE_BYTES);
        pixels = rest;
        let (marks, rest) = std::mem::take(&mut labels).split_at_mut(*count);
        labels = rest;
        let parts = mine
            .chunks_mut(JOB * IMAGE_BYTES)
            .zip(marks.chunks_mut(JOB))
            .enumerate();
        parts.map(move |(i, (pixels, labels))| FileSegment {
            path,
            offset: offset + (i * JOB * stride) as u64,
            pixels,
            labels,
        })
    })
}

/// Allocates memory for the images of `batches`.
///
/// # Errors
/// Returns an error if there are more than any CIFAR-10 has.
pub fn room(batches: &[(PathBuf, u64, usize)]) -> Result<Images, DataError> {
    let count = batches.iter().map(|batch| batch.2).sum::<usize>();
    if count > MAX_IMAGES {
        let largest = batches.iter().max_by_key(|batch| batch.2);
        let path = largest.map_or(Path::new(""), |batch| &batch.0);
        return Err(DataError::damaged(
            path,
            "its images",
            format!(
                "{count} with those of the other batches, where at most {MAX_IMAGES} are expected"
            ),
        ));
    }
    Ok(Images {
        side: SIDE,
        pixels: vec![0; count * IMAGE_BYTES].into(),
        labels: vec![0; count],
    })
}

/// Reads the folder.
pub fn read(folder: &Path, threads: usize, progress: ProgressFn) -> Result<RawDataset, DataError> {
    let files: Vec<PathBuf> = TRAIN
        .iter()
        .chain([&TEST])
        .map(|name| folder.join(name))
        .collect();
    let meta = folder.join(META);
    let classes = class_names(&unpickle(&meta)?, &meta)?;
    let headers = pool::run(files.clone(), threads, 0, &mut |_, _| {}, |path, _| {
        batch(&unpickle(&path)?, &path)
    })?;
    let mut batches: Vec<_> = files
        .into_iter()
        .zip(&headers)
        .map(|(path, b)| (path, b.offset, b.labels.len()))
        .collect();
    let last = batches.split_off(TRAIN.len());
    let (mut train, mut test) = (room(&batches)?, room(&last)?);
    let total = (train.len() + test.len()) as u64;
    let jobs = pieces(&batches, IMAGE_BYTES, &mut train)
        .chain(pieces(&last, IMAGE_BYTES, &mut test))
        .collect();
    pool::run(
        jobs,
        threads,
        total,
        progress,
        |piece: FileSegment, tell| {
            let mut file = open(piece.path)?;
            let read = file
                .seek(SeekFrom::Start(piece.offset))
                .and_then(|_| file.read_exact(piece.pixels));
            read.map_err(DataError::io(piece.path))?;
            tell(piece.labels.len());
            Ok(())
        },
    )?;
    let [one, two, three, four, five, six] = &headers[..] else {
        return Err(DataError::Nothing {
            path: folder.into(),
        });
    };
    train.labels = [one, two, three, four, five]
        .map(|b| &b.labels[..])
        .concat();
    test.labels.clone_from(&six.labels);
    Ok(RawDataset {
        classes,
        train,
        test,
    })
}
