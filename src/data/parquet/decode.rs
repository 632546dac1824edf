//! Decodes the image files of a table's rows on several threads, each image directly into its place.

use super::super::{DataError, IMAGE_BYTES, Images, SIDE, pool};
use super::table::Table;
use crate::panics;
use image::{ImageError, ImageFormat, ImageReader, Limits};
use parquet::data_type::ByteArray;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;

/// Maximum size in bytes of one image file. A 32x32 PNG has at most 3 KiB.
const MAX_IMAGE_FILE: usize = 1 << 20;

/// Rows to decode and their destination.
struct Rows<'a> {
    path: &'a Path,
    first: usize,
    files: Vec<ByteArray>,
    pixels: &'a mut [u8],
}

/// Decodes all rows of `tables` into `images`. `tell` reports progress on the calling thread.
pub fn decode(
    tables: Vec<Table>,
    images: &mut Images,
    threads: usize,
    tell: pool::AdvanceFn,
) -> Result<(), DataError> {
    let paths: Vec<PathBuf> = tables.iter().map(|table| table.path.clone()).collect();
    let failed = AtomicBool::new(false);
    let first_error = Mutex::new(None);
    let workers = pool::count(threads);
    // The channel is short, since the rows in it take memory.
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
                    // After a failure, drain the channel so that the sender does not block.
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
                        "more rows than the metadata says",
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
                // Sending cannot fail: the receiver lives outside the scope.
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

impl Rows<'_> {
    fn decode(self) -> Result<(), DataError> {
        for (i, (file, pixels)) in self
            .files
            .iter()
            .zip(self.pixels.chunks_exact_mut(IMAGE_BYTES))
            .enumerate()
        {
            without_panics(|| decode_image(file.data(), pixels))
                .map_err(|fault| fault.into_error(self.path, self.first + i))?;
        }
        Ok(())
    }
}

/// Why an image file cannot be used.
#[derive(Debug, PartialEq, Eq)]
enum ImageFault {
    Damaged(String),
    /// It is an intact image of another format or size.
    Other(String),
}

impl ImageFault {
    fn into_error(self, path: &Path, row: usize) -> DataError {
        let place = format!("column 'img.bytes', row {row}");
        match self {
            ImageFault::Damaged(why) => DataError::damaged(path, place, why),
            ImageFault::Other(what) => DataError::unsupported(
                path,
                format!("has another kind of image than CIFAR-10 ({place}: {what})"),
                format!(
                    "Write it with PNG or JPEG images of {SIDE}x{SIDE} pixels, or fetch CIFAR-10 with `cifar-tui data \
                     download`, or name another set with --data."
                ),
            ),
        }
    }
}

/// Returns the result of `decode`, or an error if the image decoder panicked on malformed bytes. (A panic is caught only
/// on its own thread.)
fn without_panics(decode: impl FnOnce() -> Result<(), ImageFault>) -> Result<(), ImageFault> {
    panics::catch(decode).unwrap_or_else(|| Err(ImageFault::Damaged("its decoder failed".into())))
}

/// Decodes a PNG or JPEG of 32x32 pixels into `pixels` (CHW).
fn decode_image(file: &[u8], pixels: &mut [u8]) -> Result<(), ImageFault> {
    if file.len() > MAX_IMAGE_FILE {
        let what = format!("an image file of {} bytes", file.len());
        return Err(ImageFault::Other(what));
    }
    let format = match file {
        [0x89, b'P', b'N', b'G', ..] => ImageFormat::Png,
        [0xff, 0xd8, ..] => ImageFormat::Jpeg,
        _ => {
            let why = "it is neither a PNG nor a JPEG".into();
            return Err(match image::guess_format(file) {
                Ok(_) => ImageFault::Other(why),
                Err(_) => ImageFault::Damaged(why),
            });
        }
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
            ImageError::Limits(_) => {
                ImageFault::Other(format!("an image larger than {SIDE}x{SIDE}"))
            }
            error => ImageFault::Damaged(error.to_string()),
        })?
        .into_rgb8();
    if image.dimensions() != (SIDE as u32, SIDE as u32) {
        return Err(ImageFault::Other(format!(
            "an image of {}x{}, where {SIDE}x{SIDE} is expected",
            image.width(),
            image.height()
        )));
    }
    let plane = SIDE * SIDE;
    for (i, rgb) in image.as_raw().chunks_exact(3).enumerate() {
        for c in 0..3 {
            pixels[c * plane + i] = rgb[c];
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_image_decoder_becomes_an_error() {
        let failed = without_panics(|| panic!("expected: the decoder"));
        assert_eq!(
            failed,
            Err(ImageFault::Damaged("its decoder failed".into()))
        );
        assert_eq!(without_panics(|| Ok(())), Ok(()));
    }
}
