//! Compares a data set with the published one. The digests of the published files and the numbers of their images are
//! known; for repackaged files and other formats there is nothing to compare with.

use super::{CLASSES, DataError, LocatedData, ProgressFn, load};
use crate::domain::report::DataInfo;
use crate::files;
use md5::Md5;
use sha2::{Digest, Sha256};
use std::io::{self, Read as _};
use std::path::Path;

/// The digest of a published file, in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    Md5(&'static str),
    Sha256(&'static str),
}

/// Digests of the files in cifar-10-python.tar.gz.
pub(super) static PYTHON_BATCHES: [(&str, Published); 7] = [
    (
        "data_batch_1",
        Published::Md5("c99cafc152244af753f735de768cd75f"),
    ),
    (
        "data_batch_2",
        Published::Md5("d4bba439e000b95fd0a9bffe97cbabec"),
    ),
    (
        "data_batch_3",
        Published::Md5("54ebc095f3ab1f0389bbae665268c751"),
    ),
    (
        "data_batch_4",
        Published::Md5("634d18415352ddfa80567beed471001a"),
    ),
    (
        "data_batch_5",
        Published::Md5("482c414d41f54cd18b22e5b47cb7c3cb"),
    ),
    (
        "test_batch",
        Published::Md5("40351d587109b95175f43aff81a1287e"),
    ),
    (
        "batches.meta",
        Published::Md5("5ff9c542aee3614f3951f8cda6e48888"),
    ),
];
/// Digests of the archives; their file names may differ.
pub(super) static PYTHON_ARCHIVE: [(&str, Published); 1] =
    [("", Published::Sha256(super::download::SHA256))];
pub(super) static BINARY_ARCHIVE: [(&str, Published); 1] =
    [("", Published::Sha256(super::download::BINARY_SHA256))];

impl Published {
    pub fn name(self) -> &'static str {
        match self {
            Published::Md5(_) => "MD5",
            Published::Sha256(_) => "SHA-256",
        }
    }

    pub fn digest(self) -> &'static str {
        match self {
            Published::Md5(digest) | Published::Sha256(digest) => digest,
        }
    }

    fn of(self, path: &Path) -> io::Result<String> {
        match self {
            Published::Md5(_) => digest::<Md5>(path),
            Published::Sha256(_) => digest::<Sha256>(path),
        }
    }
}

/// The digest of a file, in hexadecimal.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub(super) fn digest<D: Digest>(path: &Path) -> io::Result<String> {
    let mut file = files::open(path)?;
    let (mut digest, mut buffer) = (D::new(), vec![0; 1 << 18]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => digest.update(&buffer[..n]),
        }
    }
    Ok(digest
        .finalize()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect())
}

/// One file and its published digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    pub name: String,
    pub published: Published,
    /// In hexadecimal.
    pub found: String,
}

impl Compared {
    pub fn is_published(&self) -> bool {
        self.found == self.published.digest()
    }
}

/// The result of [`verify`].
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    pub info: DataInfo,
    /// The files with a known published digest; empty for formats without one.
    pub files: Vec<Compared>,
    /// Other deviations from the published set: numbers of images, names of classes.
    pub differences: Vec<String>,
}

/// Reads all of `found` and compares it with the published data set, as far as that is known.
///
/// # Errors
/// Returns the errors of [`load`]. A difference is not an error here.
pub fn verify(
    found: &LocatedData,
    progress: ProgressFn,
    threads: usize,
) -> Result<Verified, DataError> {
    let info = load(found, progress, threads)?.info;
    let compare = |(name, published): &(&str, Published)| {
        let path = match name.is_empty() {
            true => found.path.clone(),
            false => found.path.join(name),
        };
        Ok(Compared {
            name: path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into(),
            published: *published,
            found: published.of(&path).map_err(DataError::io(&path))?,
        })
    };
    let files = found
        .format
        .published
        .iter()
        .map(compare)
        .collect::<Result<_, _>>()?;
    let differences = match found.is_sample() {
        true => Vec::new(),
        false => differences(&info),
    };
    Ok(Verified {
        info,
        files,
        differences,
    })
}

/// CIFAR-10 has 5,000 training and 1,000 test images of each of its classes.
fn differences(info: &DataInfo) -> Vec<String> {
    let mut all = Vec::new();
    for (split, counts, published) in [
        ("training", &info.train_counts, 5_000),
        ("test", &info.test_counts, 1_000),
    ] {
        if counts.iter().any(|n| *n != published) {
            all.push(format!(
                "it has {} {split} images ({} to {} of a class), where {} were published ({published} of each class)",
                counts.iter().sum::<u32>(),
                counts.iter().min().unwrap_or(&0),
                counts.iter().max().unwrap_or(&0),
                published * CLASSES.len() as u32,
            ));
        }
    }
    if info.classes != CLASSES {
        all.push(format!(
            "its classes are {}, but those published are {}",
            info.classes.join(", "),
            CLASSES.join(", ")
        ));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::python_batches;
    use super::*;

    #[test]
    fn digests_are_those_that_others_compute() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        // The test vectors of RFC 1321 and FIPS 180-2.
        assert_eq!(
            digest::<Md5>(&path).unwrap(),
            "900150983cd24fb0d6963f7d28e17f72"
        );
        assert_eq!(
            digest::<Sha256>(&path).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn every_published_digest_has_the_length_of_its_kind_and_every_file_one() {
        let all = PYTHON_BATCHES
            .iter()
            .chain(&PYTHON_ARCHIVE)
            .chain(&BINARY_ARCHIVE);
        for (name, published) in all {
            let digits = match published {
                Published::Md5(_) => 32,
                Published::Sha256(_) => 64,
            };
            assert_eq!(published.digest().len(), digits, "{name}");
        }
        let named: Vec<_> = PYTHON_BATCHES.iter().map(|(name, _)| *name).collect();
        let files: Vec<_> = python_batches::TRAIN
            .into_iter()
            .chain([python_batches::TEST, python_batches::META])
            .collect();
        assert_eq!(named, files);
    }
}
