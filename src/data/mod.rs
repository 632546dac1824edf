//! Finds data sets on disk and reads them into memory: their formats, the searched locations, and the readers.
//!
//! Images are u8 in NCHW order, in one allocation per split. Files are not trusted: sizes are checked against limits
//! before memory is allocated, and nothing in a file is executed. This room knows no device and no screen, and only
//! [`download`] uses the internet.

pub mod batches;
mod binary_batches;

pub mod download;
mod lookalike;
mod parquet;
mod pickle;
pub mod picture;
mod pool;
mod python_batches;
mod sample;
mod tarball;
#[cfg(test)]
mod tests;
mod verify;

pub use verify::{Compared, Published, Verified, verify};

use crate::domain::report::{DataInfo, Picture, Split};
use crate::domain::shared_bytes::SharedBytes;
use crate::domain::text::plain;
use crate::hardware::stopwatch::Stopwatch;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Side of an image in pixels.
pub const SIDE: usize = 32;
/// Channels of an image: red, green and blue.
pub const CHANNELS: usize = 3;
/// Size of one image in bytes.
pub const IMAGE_BYTES: usize = CHANNELS * SIDE * SIDE;
/// CIFAR-10's classes, in the order of its labels.
pub const CLASSES: [&str; 10] = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
];
/// Maximum number of images in a split (CIFAR-10 has 50,000), which limits the memory that a hostile file can claim.
const MAX_IMAGES: usize = 60_000;
/// The name of the built-in sample set, used in place of a path.
pub const SAMPLE: &str = "sample";
const SAMPLE_FORMAT: &str = "built-in sample set";
/// The environment variable that names a file or folder with the data.
pub const ENV: &str = "CIFAR_TUI_DATA";

/// Images of one split and their labels. The pixels are u8 in NCHW order, [`CHANNELS`] of `side` x `side` per image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Images {
    pub side: usize,
    pub pixels: SharedBytes,
    pub labels: Vec<u8>,
}

impl Images {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Size of one image in bytes.
    pub fn image_bytes(&self) -> usize {
        CHANNELS * self.side * self.side
    }

    /// The pixels of image `i`, CHW.
    ///
    /// # Panics
    /// If there is no such image.
    pub fn image(&self, i: usize) -> &[u8] {
        let n = self.image_bytes();
        &self.pixels[i * n..(i + 1) * n]
    }

    /// Image `i` for drawing: RGB, row by row.
    ///
    /// # Panics
    /// If there is no such image.
    pub fn picture(&self, i: usize) -> Picture {
        Picture::from_planes(self.side as u32, self.image(i))
    }

    /// The indices of the images of `class`, ascending; of all images for None.
    pub fn of_class(&self, class: Option<u8>) -> impl Iterator<Item = u32> + '_ {
        let labels = self.labels.iter().enumerate();
        labels
            .filter(move |(_, label)| class.is_none_or(|c| c == **label))
            .map(|(i, _)| i as u32)
    }

    /// Number of images of each of `classes` classes.
    pub fn counts(&self, classes: usize) -> Vec<u32> {
        let mut counts = vec![0; classes];
        self.labels
            .iter()
            .for_each(|label| counts[usize::from(*label)] += 1);
        counts
    }
}

/// A data set in its published order.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    pub info: DataInfo,
    pub train: Images,
    pub test: Images,
}

impl Dataset {
    /// The images that contain `split`. Validation images are held-out training images.
    pub fn images(&self, split: Split) -> &Images {
        match split {
            Split::Train | Split::Validation => &self.train,
            Split::Test => &self.test,
        }
    }
}

/// Errors of finding and reading data. Every message contains the path, the reason and what to do.
#[derive(Debug, Error)]
pub enum DataError {
    #[error(
        "{} holds no CIFAR-10 data: looked for {}. Name a file or \
         folder that holds it with --data, fetch it with `cifar-tui data download`, or use `--data sample`.",
        path.display(), expected()
    )]
    Nothing { path: PathBuf },
    #[error("{} does not exist. Name a file or folder with CIFAR-10 in it with --data, fetch it with `cifar-tui data download`, or use `--data sample`.", path.display())]
    Absent { path: PathBuf },
    #[error(
        "{} is incomplete: {file} is missing. Fetch or unpack the data set again (`cifar-tui data download`), or name another one with --data.",
        path.display()
    )]
    Missing { path: PathBuf, file: String },
    #[error("{} cannot be read: {source}. Check that it is a file that you may read.", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} {what}. {to_do}", path.display())]
    Unsupported {
        path: PathBuf,
        /// What was recognised, worded to follow the path: "PATH is ...".
        what: String,
        to_do: String,
    },
    #[error(
        "{}, {place}: {why}. The file is damaged or not a published one: fetch or unpack the data set again (`cifar-tui data download`), or name another one with --data.",
        path.display()
    )]
    Damaged {
        path: PathBuf,
        /// An offset, a key or a row.
        place: String,
        why: String,
    },
}

impl DataError {
    /// Converts an I/O error: errors of the operating system are reported as such; all others mean that the file is
    /// damaged.
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> DataError + '_ {
        move |source| match source.kind() {
            std::io::ErrorKind::InvalidInput => DataError::Io {
                path: path.into(),
                source,
            },
            _ if source.raw_os_error().is_some() => DataError::Io {
                path: path.into(),
                source,
            },
            std::io::ErrorKind::UnexpectedEof => {
                DataError::damaged(path, "its end", "it ends in the middle")
            }
            _ => DataError::damaged(path, "its bytes", source.to_string()),
        }
    }

    fn damaged(path: &Path, place: impl Into<String>, why: impl Into<String>) -> DataError {
        // The library's message may quote bytes of the file, so hidden characters are escaped.
        DataError::Damaged {
            path: path.into(),
            place: plain(&place.into()).into(),
            why: plain(&why.into()).into(),
        }
    }

    fn unsupported(path: &Path, what: impl Into<String>, to_do: impl Into<String>) -> DataError {
        DataError::Unsupported {
            path: path.into(),
            what: plain(&what.into()).into(),
            to_do: to_do.into(),
        }
    }
}

/// The result of a reader: the two splits, and the class names in the order of the labels.
struct RawDataset {
    classes: Vec<String>,
    train: Images,
    test: Images,
}

type ProgressFn<'a> = &'a mut dyn FnMut(u64, u64);

/// A row of [`FORMATS`]: a format of data sets.
pub struct Format {
    /// The name in [`DataInfo`].
    pub name: &'static str,
    /// Description of the files, for messages.
    pub sign: &'static str,
    /// Name of the folder that the published archive unpacks to; it is searched too.
    pub folder: &'static str,
    /// The files with a known published digest, by name. An empty name stands for the data set's own path.
    published: &'static [(&'static str, Published)],
    /// Returns the path to read if `path` (a file or a folder) has this format.
    recognise: fn(path: &Path) -> Option<PathBuf>,
    read: fn(path: &Path, threads: usize, progress: ProgressFn) -> Result<RawDataset, DataError>,
}

/// The formats in order of preference: unpacked before packed, since they load faster.
pub static FORMATS: &[Format] = &[
    Format {
        name: "python batches",
        sign: "a folder with data_batch_1 to 5, test_batch and batches.meta",
        folder: "cifar-10-batches-py",
        published: &verify::PYTHON_BATCHES,
        recognise: python_batches::recognise,
        read: python_batches::read,
    },
    Format {
        name: "binary batches",
        sign: "a folder with data_batch_1.bin to 5, test_batch.bin and batches.meta.txt",
        folder: "cifar-10-batches-bin",
        published: &[],
        recognise: binary_batches::recognise,
        read: binary_batches::read,
    },
    Format {
        name: "python archive",
        sign: "cifar-10-python.tar.gz",
        folder: "",
        published: &verify::PYTHON_ARCHIVE,
        recognise: tarball::recognise_python,
        read: tarball::read_python,
    },
    Format {
        name: "binary archive",
        sign: "cifar-10-binary.tar.gz",
        folder: "",
        published: &verify::BINARY_ARCHIVE,
        recognise: tarball::recognise_binary,
        read: tarball::read_binary,
    },
    Format {
        name: "parquet",
        sign: "a folder with train*.parquet and test*.parquet",
        folder: "plain_text",
        published: &[],
        recognise: parquet::recognise,
        read: parquet::read,
    },
    Format {
        name: SAMPLE_FORMAT,
        sign: "the word `sample`",
        folder: "",
        published: &[],
        recognise: |path| (path == Path::new(SAMPLE)).then(|| path.into()),
        read: sample::read,
    },
];

fn expected() -> String {
    FORMATS
        .iter()
        .map(|f| f.sign)
        .collect::<Vec<_>>()
        .join("; ")
}

/// Data that was found and can be loaded.
#[derive(Clone)]
pub struct LocatedData {
    /// The row in [`FORMATS`].
    pub format: &'static Format,
    /// The file or folder to read; [`SAMPLE`] for the built-in set.
    pub path: PathBuf,
    /// Names of other formats in the same folder, which are not read.
    pub beside: Vec<&'static str>,
}

impl LocatedData {
    pub fn is_sample(&self) -> bool {
        self.path == Path::new(SAMPLE)
    }
}

impl std::fmt::Debug for LocatedData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}", self.format.name, self.path.display())
    }
}

/// A location that is searched for data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataLocation {
    /// The reason why this location is searched, for messages.
    pub what: &'static str,
    pub path: PathBuf,
    /// Whether the user named this location; it is then an error if it holds no data.
    pub named: bool,
}

/// The locations that are searched in order if `--data` and config.toml name none: `CIFAR_TUI_DATA`, `./data`, the XDG
/// data folder.
pub fn locations() -> Vec<DataLocation> {
    let named = std::env::var_os(ENV).filter(|value| !value.is_empty());
    let named = named.map(|value| DataLocation {
        what: ENV,
        path: value.into(),
        named: true,
    });
    let here = DataLocation {
        what: "./data",
        path: "data".into(),
        named: false,
    };
    let own = data_folder().map(|path| DataLocation {
        what: "the data folder",
        path,
        named: false,
    });
    named.into_iter().chain([here]).chain(own).collect()
}

/// The folder for downloads, which is searched last: `cifar-tui` in the XDG data folder. None without a home folder.
pub fn data_folder() -> Option<PathBuf> {
    use etcetera::BaseStrategy;
    let strategy = etcetera::choose_base_strategy().ok()?;
    Some(strategy.data_dir().join("cifar-tui"))
}

/// Finds the data at `named` (a file, a folder, or [`SAMPLE`]), otherwise in [`locations`], otherwise the built-in
/// sample set.
///
/// # Errors
/// Returns an error if a location that the user named (`named` or `CIFAR_TUI_DATA`) holds no data that can be loaded. A
/// wrong path never falls back to the sample set.
pub fn find(named: Option<&Path>) -> Result<LocatedData, DataError> {
    find_among(named, &locations())
}

/// [`find`] in the given locations.
///
/// # Errors
/// Returns the errors of [`find`].
pub fn find_among(
    named: Option<&Path>,
    locations: &[DataLocation],
) -> Result<LocatedData, DataError> {
    if let Some(path) = named {
        return at(path)?.ok_or_else(|| lookalike::explain(path));
    }
    for location in locations {
        match at(&location.path) {
            Ok(Some(found)) => return Ok(found),
            Ok(None) if location.named => return Err(lookalike::explain(&location.path)),
            Err(error) if location.named => return Err(error),
            // A folder called `data` often belongs to another program.
            Ok(None) | Err(_) => {}
        }
    }
    at(Path::new(SAMPLE))?.ok_or_else(|| DataError::Nothing {
        path: SAMPLE.into(),
    })
}

/// Identifies the data set at `path`, if there is one.
fn at(path: &Path) -> Result<Option<LocatedData>, DataError> {
    if path != Path::new(SAMPLE) {
        match path.try_exists() {
            Ok(true) => {}
            Ok(false) => return Err(DataError::Absent { path: path.into() }),
            Err(source) => {
                return Err(DataError::Io {
                    path: path.into(),
                    source,
                });
            }
        }
    }
    let mut all = FORMATS.iter().filter_map(|format| {
        let recognise = |path: &Path| Some((format, (format.recognise)(path)?));
        recognise(path).or_else(|| recognise(&path.join(format.folder)))
    });
    Ok(all.next().map(|(format, path)| LocatedData {
        format,
        path,
        beside: all.map(|(format, _)| format.name).collect(),
    }))
}

/// Reads the images on `threads` threads (0: one per core). `progress(done, total)` counts images.
///
/// # Errors
/// Returns an error if the data cannot be read. It names the file, the position in it, and what to do.
pub fn load(
    found: &LocatedData,
    progress: &mut dyn FnMut(u64, u64),
    threads: usize,
) -> Result<Dataset, DataError> {
    let watch = Stopwatch::start();
    let RawDataset {
        classes,
        train,
        test,
    } = (found.format.read)(&found.path, threads, progress).map_err(lookalike::instead_of)?;
    for (images, split) in [(&train, "training"), (&test, "test")] {
        if images.is_empty() {
            return Err(DataError::unsupported(
                &found.path,
                format!("has no {split} images"),
                "Name another data set with --data, or fetch CIFAR-10 with `cifar-tui data download`.",
            ));
        }
    }
    let (mean, std) = channel_statistics(&train, threads);
    let sample = found.is_sample();
    let info = DataInfo {
        name: if sample { "sample set" } else { "CIFAR-10" }.into(),
        source: if sample {
            "drawn by the program".into()
        } else {
            found.path.display().to_string()
        },
        format: found.format.name.into(),
        is_sample: sample,
        side: SIDE as u32,
        train: train.len() as u32,
        test: test.len() as u32,
        train_counts: train.counts(classes.len()),
        test_counts: test.counts(classes.len()),
        classes,
        mean,
        std,
        bytes: (train.pixels.len() + test.pixels.len()) as u64,
        load_seconds: watch.seconds(),
    };
    Ok(Dataset { info, train, test })
}

/// Mean and standard deviation of each channel over all pixels, in [0, 1].
fn channel_statistics(images: &Images, threads: usize) -> (Vec<f32>, Vec<f32>) {
    let plane = images.side * images.side;
    let sums = |pixels: &[u8]| {
        let mut sums = [[0u64; 2]; 3];
        for (i, channel) in pixels.chunks_exact(plane).enumerate() {
            // The sums over one channel of an image fit into u32: 1,024 * 255^2 < 2^27.
            let (sum, squares) = channel.iter().fold((0u32, 0u32), |(sum, squares), v| {
                let v = u32::from(*v);
                (sum + v, squares + v * v)
            });
            sums[i % 3][0] += u64::from(sum);
            sums[i % 3][1] += u64::from(squares);
        }
        sums
    };
    let part = images.len().div_ceil(pool::count(threads)).max(1) * images.image_bytes();
    let parts: Vec<[[u64; 2]; 3]> = std::thread::scope(|scope| {
        let threads: Vec<_> = images
            .pixels
            .chunks(part)
            .map(|p| scope.spawn(move || sums(p)))
            .collect();
        let join = |t: std::thread::ScopedJoinHandle<'_, _>| t.join();
        threads
            .into_iter()
            .map(|t| join(t).unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let n = (images.len() * plane).max(1) as f64;
    let total = |c: usize, k: usize| parts.iter().map(|p| p[c][k]).sum::<u64>() as f64 / n;
    (0..3)
        .map(|c| {
            let mean = total(c, 0);
            let variance = (total(c, 1) - mean * mean).max(0.0);
            ((mean / 255.0) as f32, (variance.sqrt() / 255.0) as f32)
        })
        .unzip()
}

/// Reads a pickled batch from memory, for the fuzz target.
///
/// # Errors
/// Returns the reason and the offset if the bytes are not a batch.
// Compiled for the tests too, so that they detect a rename that would break the fuzz target.
#[cfg(any(test, fuzzing))]
pub fn fuzz_pickle(bytes: &[u8]) -> Result<(), String> {
    struct InMemory<'a>(&'a [u8]);
    impl pickle::PickleSource for InMemory<'_> {
        fn fill(&mut self, buffer: &mut [u8]) -> std::io::Result<()> {
            std::io::Read::read_exact(&mut self.0, buffer)
        }
        fn pass(&mut self, length: u64) -> std::io::Result<()> {
            let length = usize::try_from(length).map_err(std::io::Error::other)?;
            let rest = self.0.get(length..);
            self.0 = rest.ok_or(std::io::ErrorKind::UnexpectedEof)?;
            Ok(())
        }
    }
    let pickle = pickle::read(&mut InMemory(bytes)).map_err(|problem| problem.why)?;
    let path = Path::new("x");
    let _ = python_batches::class_names(&pickle, path);
    python_batches::batch(&pickle, path).map_err(|e| e.to_string())?;
    Ok(())
}
