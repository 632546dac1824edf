//! Reads the binary batches: a folder with `data_batch_1.bin` to `data_batch_5.bin`, `test_batch.bin` and
//! `batches.meta.txt`. A batch consists of records of 3,073 bytes: a label and the pixels.

use super::python_batches::{FileSegment, open, pieces, recognise_folder, room};
use super::{DataError, IMAGE_BYTES, ProgressFn, RawDataset, pool};
use std::io::{self, Read as _, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The training batches, in order.
pub const TRAIN: [&str; 5] = [
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
];
pub const TEST: &str = "test_batch.bin";
pub const META: &str = "batches.meta.txt";
/// Size in bytes of a record: a label and an image.
pub const RECORD: usize = 1 + IMAGE_BYTES;
/// Number of records read at once, so few that they fit the second-level cache.
const CHUNK: usize = 50;

/// The folder `path`, if it contains at least one batch, or the folder of the batch `path`.
pub fn recognise(path: &Path) -> Option<PathBuf> {
    recognise_folder(path, |name| TRAIN.contains(&name) || name == TEST)
}

/// The number of images in a batch of `size` bytes.
pub fn images(path: &Path, size: u64) -> Result<usize, DataError> {
    let record = RECORD as u64;
    if size == 0 || !size.is_multiple_of(record) {
        let why = format!(
            "{size} bytes are not a multiple of {record}, the size of a record (a label and 32x32 RGB pixels)"
        );
        return Err(DataError::damaged(
            path,
            format!("byte {}", size - size % record),
            why,
        ));
    }
    Ok((size / record) as usize)
}

/// Reads records from `source`, which starts at `offset` in the file `path`.
pub fn records(
    source: &mut dyn io::Read,
    path: &Path,
    offset: u64,
    pixels: &mut [u8],
    labels: &mut [u8],
) -> Result<(), DataError> {
    let mut buffer = vec![0; CHUNK * RECORD];
    let chunks = pixels
        .chunks_mut(CHUNK * IMAGE_BYTES)
        .zip(labels.chunks_mut(CHUNK));
    for (i, (pixels, labels)) in chunks.enumerate() {
        let buffer = &mut buffer[..labels.len() * RECORD];
        source.read_exact(buffer).map_err(DataError::io(path))?;
        let images = pixels.chunks_exact_mut(IMAGE_BYTES).zip(labels);
        for (j, (record, (image, label))) in buffer.chunks_exact(RECORD).zip(images).enumerate() {
            if record[0] > 9 {
                let place = format!("byte {}", offset + ((i * CHUNK + j) * RECORD) as u64);
                return Err(DataError::damaged(
                    path,
                    place,
                    format!("the label is {}, where labels are 0 to 9", record[0]),
                ));
            }
            *label = record[0];
            image.copy_from_slice(&record[1..]);
        }
    }
    Ok(())
}

/// The ten class names, one per line.
pub fn class_names(text: &[u8], path: &Path) -> Result<Vec<String>, DataError> {
    let text = String::from_utf8_lossy(text);
    let names: Vec<_> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(String::from)
        .collect();
    if names.len() != 10 {
        return Err(DataError::damaged(
            path,
            "its lines",
            format!("{} names, where there are ten classes", names.len()),
        ));
    }
    Ok(names)
}

/// Reads the folder.
pub fn read(folder: &Path, threads: usize, progress: ProgressFn) -> Result<RawDataset, DataError> {
    let meta = folder.join(META);
    let mut text = Vec::new();
    let file = open(&meta)?;
    file.take(1 << 16)
        .read_to_end(&mut text)
        .map_err(DataError::io(&meta))?;
    let classes = class_names(&text, &meta)?;
    let batch = |name: &&str| {
        let path = folder.join(name);
        let file = open(&path)?;
        let size = file.metadata().map_err(DataError::io(&path))?.len();
        let count = images(&path, size)?;
        Ok((path, 0, count))
    };
    let train_batches = TRAIN
        .iter()
        .map(batch)
        .collect::<Result<Vec<_>, DataError>>()?;
    let test_batches = [batch(&TEST)?];
    let (mut train, mut test) = (room(&train_batches)?, room(&test_batches)?);
    let total = (train.len() + test.len()) as u64;
    let jobs = pieces(&train_batches, RECORD, &mut train)
        .chain(pieces(&test_batches, RECORD, &mut test))
        .collect();
    pool::run(
        jobs,
        threads,
        total,
        progress,
        |piece: FileSegment, tell| {
            let mut file = open(piece.path)?;
            file.seek(SeekFrom::Start(piece.offset))
                .map_err(DataError::io(piece.path))?;
            records(
                &mut file,
                piece.path,
                piece.offset,
                piece.pixels,
                piece.labels,
            )?;
            tell(piece.labels.len());
            Ok(())
        },
    )?;
    Ok(RawDataset {
        classes,
        train,
        test,
    })
}
