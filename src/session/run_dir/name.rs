//! The names of runs: which names are valid, and generated names.

use super::{RunError, now};
use crate::domain::params::Hyperparameters;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A name must be a plain folder name, so that no path leads out of the runs folder.
pub(in crate::session) fn check_name(name: &str) -> Result<(), RunError> {
    let wrong = |why| {
        Err(RunError::Name {
            name: name.into(),
            why,
        })
    };
    if name.is_empty() {
        return wrong("it is empty");
    }
    if name.len() > 100 {
        return wrong("it is longer than 100 bytes");
    }
    if name.starts_with(['.', '-']) {
        return wrong("it begins with '.' or '-'");
    }
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.chars().all(plain) {
        return wrong("it holds another character than a letter, a digit, '-', '_' or '.'");
    }
    Ok(())
}

/// Makes a folder in the runs folder, and the runs folder if it is missing. Without a name, it is `stem` or, if that is
/// taken, `stem-2` and so on. Returns the folder's name.
///
/// # Errors
/// Returns an error if the name is taken or is not a plain folder name, or the file system refuses.
pub(in crate::session) fn make_folder(
    runs: &Path,
    name: Option<&str>,
    stem: impl FnOnce() -> String,
) -> Result<String, RunError> {
    fs::create_dir_all(runs).map_err(RunError::io("cannot make the runs folder", runs))?;
    let make = |name: &str| fs::create_dir(runs.join(name));
    let failed = |name: &str| RunError::io("cannot make the run's folder", &runs.join(name));
    if let Some(name) = name {
        check_name(name)?;
        return match make(name) {
            Ok(()) => Ok(name.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(RunError::Exists(runs.join(name)))
            }
            Err(error) => Err(failed(name)(error)),
        };
    }
    let stem = stem();
    let mut name = stem.clone();
    let mut number = 1;
    loop {
        match make(&name) {
            Ok(()) => return Ok(name),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                number += 1;
                name = format!("{stem}-{number}");
            }
            Err(error) => return Err(failed(&name)(error)),
        }
    }
}

/// The folder of the run `wanted`: the run with this name in `runs`, otherwise the folder with this path. None if
/// neither exists.
pub(in crate::session) fn folder_of(runs: &Path, wanted: &Path) -> Option<PathBuf> {
    let named = wanted.to_str().filter(|name| !name.contains('/'));
    let named = named.map(|name| runs.join(name));
    named
        .into_iter()
        .chain([wanted.to_owned()])
        .find(|folder| folder.is_dir())
}

/// Month, day, hour, minute.
pub(in crate::session) type LocalTime = [u32; 4];

#[cfg(unix)]
pub(in crate::session) fn local_time() -> LocalTime {
    let seconds = now() as libc::time_t;
    // SAFETY: both pointers are to values on this stack; `tm` is plain numbers and a pointer that may be null.
    let tm = unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        libc::localtime_r(&seconds, &mut tm);
        tm
    };
    [tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min].map(|n| n.unsigned_abs())
}

/// Elsewhere than on Unix the name only has to be unique: day and minute since the Unix epoch.
#[cfg(not(unix))]
pub(in crate::session) fn local_time() -> LocalTime {
    let minutes = now() as u64 / 60;
    let days = (minutes / 1440) as u32;
    [
        days / 100,
        days % 100,
        (minutes / 60 % 24) as u32,
        (minutes % 60) as u32,
    ]
}

/// `seed-1123-0412`: the preset (or `custom`), the day and the time.
pub(super) fn generated_name(params: &Hyperparameters, time: LocalTime) -> String {
    let stem = params.architecture.to_ascii_lowercase();
    match check_name(&stem).is_ok() && stem.len() <= 20 {
        true => dated(&stem, time),
        false => dated("custom", time),
    }
}

/// `STEM-1123-0412`: with the day and the time.
pub(in crate::session) fn dated(stem: &str, [month, day, hour, minute]: LocalTime) -> String {
    format!("{stem}-{month:02}{day:02}-{hour:02}{minute:02}")
}

#[cfg(test)]
mod tests {
    use super::super::{HostId, Owner, RunDir};
    use super::*;

    #[test]
    fn names_are_made_up_unique_and_plain() {
        let runs = tempfile::tempdir().unwrap();
        let params = Hyperparameters::default();
        let owner = Owner::new(HostId::this());
        assert_eq!(generated_name(&params, [11, 23, 4, 12]), "seed-1123-0412");
        let custom = Hyperparameters {
            architecture: "dense 10".into(),
            ..params.clone()
        };
        assert_eq!(generated_name(&custom, [1, 2, 3, 4]), "custom-0102-0304");
        let a = RunDir::create(runs.path(), None, &params, &owner).unwrap();
        let b = RunDir::create(runs.path(), None, &params, &owner).unwrap();
        assert_ne!(a.name, b.name);
        for bad in [
            "",
            "..",
            ".x",
            "a/b",
            "a\\b",
            "-r",
            "a\nb",
            &"x".repeat(101),
        ] {
            let error = RunDir::create(runs.path(), Some(bad), &params, &owner)
                .err()
                .unwrap();
            assert!(matches!(error, RunError::Name { .. }), "{bad}: {error}");
        }
        let error = RunDir::create(runs.path(), Some(&a.name), &params, &owner);
        assert!(matches!(error.err().unwrap(), RunError::Exists(_)));
    }
}
