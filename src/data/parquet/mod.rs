//! Reads the parquet files that Hugging Face publishes: `train*.parquet` and `test*.parquet`. Each row has an image file
//! (PNG or JPEG) in `img.bytes` and a `label`. The calling thread reads the rows; other threads decode the images.
//!
//! The parquet crate allocates the memory that a page's header asks for, so the headers are checked first ([`pages`]).

mod decode;
mod files;
mod pages;
mod table;

pub use files::recognise;

use super::{DataError, IMAGE_BYTES, Images, MAX_IMAGES, ProgressFn, RawDataset, SIDE};
use crate::panics;
use decode::decode;
use files::files;
use std::path::Path;
use table::Table;

/// Number of rows that are read and decoded at a time.
const ROWS: usize = 256;
/// Maximum size in bytes of one uncompressed page. Hugging Face's pages have about one million bytes.
const MAX_PAGE: i64 = 64 << 20;

/// Reads the folder. The parquet crate may panic on malformed bytes, which is reported as an error.
pub fn read(folder: &Path, threads: usize, progress: ProgressFn) -> Result<RawDataset, DataError> {
    without_panics(folder, || read_all(folder, threads, progress))
}

/// Returns the result of `read`, or an error about `folder` if the parquet crate panicked.
fn without_panics<T>(
    folder: &Path,
    read: impl FnOnce() -> Result<T, DataError>,
) -> Result<T, DataError> {
    panics::catch(read).unwrap_or_else(|| {
        let why = "its metadata is inconsistent, and reading it failed";
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
        pixels: vec![0; count * IMAGE_BYTES].into(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_parquet_crate_becomes_an_error_that_names_the_folder() {
        let folder = Path::new("some/folder");
        let error = without_panics::<()>(folder, || panic!("expected: the crate")).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("some/folder, a parquet file: "), "{text}");
        assert!(!text.contains("expected"), "{text}");
        assert!(matches!(without_panics(folder, || Ok(7)), Ok(7)));
    }
}
