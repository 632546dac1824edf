//! Recognises files that are not CIFAR-10: another data set, another packing, a web page saved under the archive's
//! name. Nothing of them is read; this module only finds the error message.

use super::{CLASSES, DataError, FORMATS};
use crate::files;
use flate2::read::GzDecoder;
use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};

/// Number of bytes at the beginning of a file that are examined: the header of a tar archive.
const HEAD: usize = 512;
/// Maximum number of names in a folder, or entries of an archive, that are examined.
const MAX_NAMES: usize = 4096;

/// A description that follows "PATH", as in "PATH is ...", and what to do about it.
type Words = (&'static str, &'static str);

const FETCH: &str = "`cifar-tui data download` downloads CIFAR-10 in a supported format.";
const CIFAR_100: Words = (
    "CIFAR-100, which has 100 classes; only CIFAR-10 is supported",
    FETCH,
);
const ARRAYS: Words = (
    "a NumPy archive (.npz), as used by Keras, which is not supported",
    FETCH,
);
const UNPACK: &str = "Unpack it and name its contents with --data.";

/// A test of a file's first bytes, and what the file is if it passes.
type Signature = (fn(&[u8]) -> bool, Words);

static SIGNS: &[Signature] = &[
    (
        is_page,
        (
            "a web page: the server answered with it in the place of the file",
            "Fetch the file again; `cifar-tui data download` checks what it fetches.",
        ),
    ),
    (
        |head| head.starts_with(b"version https://git-lfs"),
        (
            "a pointer of Git LFS and not the file itself",
            "Run `git lfs pull` in its repository, or download the file itself.",
        ),
    ),
    (
        |head| head.starts_with(b"PK\x03\x04") && head.windows(4).any(|w| w == b".npy"),
        ARRAYS,
    ),
    (
        |head| head.starts_with(b"PK\x03\x04"),
        ("a zip archive, which is not supported", UNPACK),
    ),
    (
        |head| head.starts_with(b"7z\xbc\xaf\x27\x1c"),
        ("a 7z archive, which is not supported", UNPACK),
    ),
    (
        |head| head.starts_with(b"Rar!"),
        ("a RAR archive, which is not supported", UNPACK),
    ),
    (
        |head| head.starts_with(b"BZh"),
        ("packed with bzip2; only gzip is supported", UNPACK),
    ),
    (
        |head| head.starts_with(b"\xfd7zXZ"),
        ("packed with xz; only gzip is supported", UNPACK),
    ),
    (
        |head| head.starts_with(b"\x28\xb5\x2f\xfd"),
        ("packed with zstd; only gzip is supported", UNPACK),
    ),
    (
        |head| head.get(257..262) == Some(b"ustar"),
        (
            "a tar archive that is not packed with gzip",
            "Pack it with `gzip`, or unpack it with `tar xf` and name the folder with --data.",
        ),
    ),
    (
        |head| head.starts_with(b"\x93NUMPY"),
        ("a NumPy array (.npy), which is not supported", FETCH),
    ),
    (
        |head| head.starts_with(b"\x89HDF\r\n"),
        ("an HDF5 file, which is not supported", FETCH),
    ),
    (
        |head| head.starts_with(b"MATLAB 5.0"),
        (
            "a MATLAB file; of the published archives, the python and the binary version are supported",
            FETCH,
        ),
    ),
    (
        |head| head.starts_with(b"ARROW1") || head.starts_with(b"\xff\xff\xff\xff"),
        (
            "an Arrow file, as in the cache of the datasets library, which is not supported",
            "Write it as parquet (`Dataset.to_parquet`), or fetch CIFAR-10 with `cifar-tui data download`.",
        ),
    ),
];

fn is_page(head: &[u8]) -> bool {
    let text = head
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(head)
        .trim_ascii_start();
    [&b"<!doctype html"[..], b"<html", b"<?xml"]
        .iter()
        .any(|tag| {
            text.get(..tag.len())
                .is_some_and(|t| t.eq_ignore_ascii_case(tag))
        })
}

fn head(path: &Path) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    let file = files::open(path).ok()?;
    file.take(HEAD as u64).read_to_end(&mut head).ok()?;
    Some(head)
}

/// Identifies a file by its first bytes.
fn by_head(path: &Path) -> Option<Words> {
    let head = head(path)?;
    SIGNS
        .iter()
        .find(|(sign, _)| sign(&head))
        .map(|(_, words)| *words)
}

fn unsupported(path: &Path, (what, to_do): Words) -> DataError {
    DataError::unsupported(path, format!("is {what}"), to_do)
}

/// Replaces an error about a damaged file by one that says what the file is, if it can be recognised.
pub fn instead_of(error: DataError) -> DataError {
    match &error {
        DataError::Damaged { path, .. } => match by_head(path) {
            Some(words) => unsupported(path, words),
            None => error,
        },
        _ => error,
    }
}

/// The error for `path`, which exists but holds no data set.
pub fn explain(path: &Path) -> DataError {
    let words = match path.is_dir() {
        true => folder(path),
        false => file(path).map(|words| unsupported(path, words)),
    };
    words.unwrap_or_else(|| DataError::Nothing { path: path.into() })
}

/// Identifies a file by its first bytes; a gzip file by its contents.
fn file(path: &Path) -> Option<Words> {
    by_head(path).or_else(|| {
        let head = head(path)?;
        match () {
            () if head.starts_with(b"\x1f\x8b") => in_gzip(path),
            () if head.starts_with(b"PAR1") => Some((
                "a parquet file whose name contains neither train nor test",
                "Name the files train.parquet and test.parquet, or as they are published.",
            )),
            () => None,
        }
    })
}

fn in_gzip(path: &Path) -> Option<Words> {
    let source = GzDecoder::new(BufReader::new(files::open(path).ok()?));
    let mut archive = tar::Archive::new(source.take(super::tarball::MAX_BYTES));
    let entries = archive.entries().ok()?.raw(true);
    let names: Vec<PathBuf> = entries
        .take(MAX_NAMES)
        .map_while(Result::ok)
        .filter_map(|entry| entry.path().ok().map(|path| path.into_owned()))
        .collect();
    if names.is_empty() {
        return Some(("packed with gzip, but not a tar archive", UNPACK));
    }
    let ends_in = |end: &str| names.iter().any(|name| name.ends_with(end));
    match () {
        () if ends_in("cifar-100-python/train") || ends_in("cifar-100-binary/train.bin") => {
            Some(CIFAR_100)
        }
        () if ends_in("data_batch_1.mat") => Some((
            "the MATLAB version of CIFAR-10; the python and the binary version are supported",
            FETCH,
        )),
        () => Some(("an archive without CIFAR-10's batches in it", FETCH)),
    }
}

/// Identifies what a folder holds instead of CIFAR-10.
fn folder(path: &Path) -> Option<DataError> {
    let entries = path.read_dir().ok()?.flatten().take(MAX_NAMES);
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    let has = |name: &str| names.iter().any(|n| n == name);
    // The data set may be in a subfolder.
    let inside = names.iter().map(|name| path.join(name)).find_map(|inside| {
        let format = FORMATS.iter().find(|f| (f.recognise)(&inside).is_some())?;
        inside.is_dir().then_some((inside, format.name))
    });
    if let Some((inside, format)) = inside {
        let to_do = format!("Name that folder: --data '{}'.", inside.display());
        return Some(DataError::unsupported(
            path,
            format!("holds no data itself; {} does ({format})", inside.display()),
            to_do,
        ));
    }
    let holds = |what: &str, to_do: &str| {
        Some(DataError::unsupported(path, format!("holds {what}"), to_do))
    };
    let cifar_100 = has("cifar-100-python") || has("cifar-100-binary");
    let cifar_100 = cifar_100 || names.iter().any(|n| n.starts_with("cifar-100-"));
    if cifar_100 || has("train") && has("meta") || has("train.bin") || has("fine_label_names.txt") {
        return holds(CIFAR_100.0, CIFAR_100.1);
    }
    if has("trainLabels.csv") {
        let what = "Kaggle's copy of CIFAR-10 (pictures and trainLabels.csv), which is not read: its test images have \
                    no labels";
        return holds(what, FETCH);
    }
    let by_class = |folder: &str| CLASSES.iter().any(|c| path.join(folder).join(c).is_dir());
    if by_class("train") || by_class("") {
        return holds(
            "pictures in one folder per class, which are not supported",
            FETCH,
        );
    }
    if has("train") && has("test") || has("data_batch") {
        return holds(
            "its images in other files than CIFAR-10 is published in (data_batch_1 to 5 and test_batch)",
            FETCH,
        );
    }
    names.iter().find_map(|name| {
        let inside = path.join(name);
        let (what, to_do) = file(&inside)?;
        let what = format!("no data that is read; {} is {what}", inside.display());
        holds(&what, to_do)
    })
}
