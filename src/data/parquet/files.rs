//! Which files of a folder hold a split, and in which order.

use super::super::DataError;
use std::path::{Path, PathBuf};

/// The folder `path`, if it contains such files, or the folder of the file `path`.
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

/// The split in a file's name: "train" or "test".
fn split_of(path: &Path) -> Option<&'static str> {
    let name = path.file_name()?.to_str()?;
    let split = ["train", "test"]
        .into_iter()
        .find(|split| name.starts_with(split))?;
    name.ends_with(".parquet").then_some(split)
}

/// How a file name numbers the parts of a split.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// `train.parquet`.
    All,
    /// `train-00001-of-00002.parquet`, possibly with a hash after the numbers.
    Of { number: usize, count: usize },
    /// `train-00001.parquet`, `train_1.parquet`: the number of parts is unknown.
    Numbered(usize),
    /// Any other name.
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

    /// Whether both names can be parts of one split.
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
/// Returns an error if a part is missing, or two files cannot be parts of the same split: their images would count
/// twice.
pub fn files(folder: &Path, split: &str) -> Result<Vec<PathBuf>, DataError> {
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
    // Without a total count, only a gap reveals a missing part.
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
                "there are fewer parts than its name says",
            ),
        });
    }
    Ok(parts.into_iter().map(|(_, path)| path).collect())
}
