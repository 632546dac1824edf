//! A cache of compiled kernels on disk, and of what was measured of them. If it cannot be read or written, the kernels are compiled at each start, and
//! the log says why.

use super::driver::Version;
use crate::files;
use sha2::{Digest, Sha256};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// First bytes of every file. They change when the file format changes.
const MAGIC: &[u8; 8] = b"CTKERN01";
const DIGEST_BYTES: usize = 32;
/// Maximum size in bytes of all files together. The kernels of a network at one batch size take a few hundred
/// kilobytes.
const LIMIT: u64 = 128 << 20;

/// The inputs that determine a kernel's machine code.
#[derive(Clone, Copy, Debug)]
pub struct CacheKey<'a> {
    pub source: &'a str,
    pub options: &'a [&'a str],
    /// Compute capability; 89 is 8.9.
    pub architecture: u32,
    /// Version of NVRTC.
    pub compiler: Version,
}

impl CacheKey<'_> {
    /// The name of the key's file: a digest of the key.
    fn file_name(&self) -> String {
        let mut digest = Sha256::new();
        let (major, minor) = self.compiler;
        let head = format!("sm_{} NVRTC {major}.{minor}", self.architecture);
        let parts = [head.as_str()]
            .into_iter()
            .chain(self.options.iter().copied())
            .chain([self.source]);
        for part in parts {
            // Hash the length too, so that different keys never give the same bytes.
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        let hex: String = digest
            .finalize()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        format!("{hex}.cubin")
    }
}

/// A folder of compiled kernels. Several processes may use it at the same time.
#[derive(Clone, Debug)]
pub struct KernelCache {
    /// None if the user has no cache folder; nothing is then read or written.
    folder: Option<PathBuf>,
    limit: u64,
}

impl KernelCache {
    /// The cache of this user: `cifar-tui/kernels` in the XDG cache folder.
    pub fn of_user() -> Self {
        use etcetera::base_strategy::{BaseStrategy, Xdg};
        let folder = Xdg::new().map(|xdg| xdg.cache_dir().join("cifar-tui/kernels"));
        if let Err(error) = &folder {
            tracing::warn!("compiled kernels are not kept: {error}");
        }
        KernelCache {
            folder: folder.ok(),
            limit: LIMIT,
        }
    }

    /// A cache of at most `limit` bytes in `folder`, which is created by the first write.
    pub fn new(folder: PathBuf, limit: u64) -> Self {
        KernelCache {
            folder: Some(folder),
            limit,
        }
    }

    /// The machine code of a key. None if its file is missing, unreadable or damaged.
    pub fn read(&self, key: &CacheKey) -> Option<Vec<u8>> {
        let path = self.folder.as_ref()?.join(key.file_name());
        let bytes = match files::read(&path, LIMIT) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!("{} cannot be read: {error}", path.display());
                return None;
            }
        };
        let Some(code) = checked(&bytes) else {
            tracing::warn!(
                "{} is damaged; the kernel is compiled again",
                path.display()
            );
            return None;
        };
        // Record the use, since the least recently used files are removed first. This fails in a read-only cache, where
        // nothing is removed.
        let _ = files::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(code.to_vec())
    }

    /// Stores the machine code of a key, then removes the least recently used files above the limit.
    pub fn write(&self, key: &CacheKey, code: &[u8]) {
        let Some(folder) = &self.folder else { return };
        if let Err(error) = replace(folder, &key.file_name(), code).and_then(|()| self.trim(folder))
        {
            tracing::warn!(
                "compiled kernels are not kept in {}: {error}",
                folder.display()
            );
        }
    }

    /// Removes the least recently used files until the rest is within the limit.
    fn trim(&self, folder: &Path) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            // Another process may have removed the file in the meantime.
            if let Ok(data) = entry.metadata()
                && data.is_file()
            {
                files.push((data.modified()?, data.len(), entry.path()));
            }
        }
        let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        files.sort();
        for (_, bytes, path) in files {
            if total <= self.limit {
                break;
            }
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => total -= bytes,
            }
        }
        Ok(())
    }
}

/// The machine code in a file's bytes. None if the digest does not match.
fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (digest, code) = bytes.strip_prefix(MAGIC)?.split_at_checked(DIGEST_BYTES)?;
    (Sha256::digest(code).as_slice() == digest).then_some(code)
}

/// Writes a file atomically: readers see the old file or the complete new one.
fn replace(folder: &Path, name: &str, code: &[u8]) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    fs::create_dir_all(folder)?;
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let temporary = folder.join(format!("{name}.{}.{number}.tmp", std::process::id()));
    let bytes = [MAGIC, Sha256::digest(code).as_slice(), code].concat();
    let written =
        fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, folder.join(name)));
    if written.is_err() {
        // If this fails too, `trim` removes the rest as a least recently used file.
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: CacheKey = CacheKey {
        source: "int x;",
        options: &["-a", "-b"],
        architecture: 89,
        compiler: (12, 4),
    };

    fn cache(limit: u64) -> (tempfile::TempDir, KernelCache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::new(folder.path().join("kernels"), limit);
        (folder, cache)
    }

    fn files(cache: &KernelCache) -> Vec<PathBuf> {
        let entries = fs::read_dir(cache.folder.as_ref().unwrap()).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn what_was_written_is_read_by_the_next_process() {
        let (_folder, cache) = cache(LIMIT);
        assert_eq!(cache.read(&KEY), None);
        cache.write(&KEY, b"code");
        let next = cache.clone();
        assert_eq!(next.read(&KEY).as_deref(), Some(&b"code"[..]));
        next.write(&KEY, b"");
        assert_eq!(cache.read(&KEY).as_deref(), Some(&b""[..]));
        assert_eq!(files(&cache).len(), 1, "no temporary file stays");
    }

    #[test]
    fn a_named_pipe_in_place_of_a_file_is_passed_over_and_replaced() {
        let (_folder, cache) = cache(LIMIT);
        let folder = cache.folder.clone().unwrap();
        fs::create_dir(&folder).unwrap();
        files::tests::make_fifo(&folder.join(KEY.file_name()));
        assert_eq!(cache.read(&KEY), None);
        cache.write(&KEY, b"code");
        assert_eq!(cache.read(&KEY).as_deref(), Some(&b"code"[..]));
    }

    #[test]
    fn every_part_of_the_key_counts() {
        let others = [
            CacheKey {
                source: "int y;",
                ..KEY
            },
            CacheKey {
                options: &["-a"],
                ..KEY
            },
            CacheKey {
                options: &["-a-b"],
                ..KEY
            },
            CacheKey {
                options: &["-a", "-bint x;"],
                source: "",
                ..KEY
            },
            CacheKey {
                architecture: 90,
                ..KEY
            },
            CacheKey {
                compiler: (12, 5),
                ..KEY
            },
            CacheKey {
                compiler: (13, 4),
                ..KEY
            },
        ];
        let mut names: Vec<_> = others.iter().map(CacheKey::file_name).collect();
        names.push(KEY.file_name());
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 1 + others.len());
    }

    #[test]
    fn a_damaged_file_is_not_used_and_is_written_again() {
        let (_folder, cache) = cache(LIMIT);
        cache.write(&KEY, b"some machine code");
        let path = files(&cache).remove(0);
        let whole = fs::read(&path).unwrap();
        let mut damages: Vec<Vec<u8>> = (0..whole.len())
            .map(|i| {
                let mut bytes = whole.clone();
                bytes[i] ^= 0x40;
                bytes
            })
            .collect();
        damages.extend((0..whole.len()).map(|len| whole[..len].to_vec()));
        damages.push([&whole[..], b"more"].concat());
        for bytes in damages {
            fs::write(&path, bytes).unwrap();
            assert_eq!(cache.read(&KEY), None);
        }
        cache.write(&KEY, b"some machine code");
        assert!(cache.read(&KEY).is_some());
    }

    #[test]
    fn the_least_recently_used_are_removed_above_the_limit() {
        let bytes = (MAGIC.len() + DIGEST_BYTES + 100) as u64;
        let (_folder, cache) = cache(3 * bytes);
        let key = |architecture| CacheKey {
            architecture,
            ..KEY
        };
        // Set the dates, so that the test need not wait.
        let age = |architecture, seconds| {
            let path = cache
                .folder
                .as_ref()
                .unwrap()
                .join(key(architecture).file_name());
            let then = SystemTime::now() - std::time::Duration::from_secs(seconds);
            let file = fs::File::open(path).unwrap();
            file.set_modified(then).unwrap();
        };
        for architecture in [80, 86, 89] {
            cache.write(&key(architecture), &[7; 100]);
        }
        age(80, 300);
        age(86, 200);
        age(89, 100);
        // Reading a file makes it the most recently used one.
        assert!(cache.read(&key(80)).is_some());
        cache.write(&key(90), &[7; 100]);
        let there = [80, 86, 89, 90].map(|a| cache.read(&key(a)).is_some());
        assert_eq!(there, [true, false, true, true]);
        assert_eq!(files(&cache).len(), 3);
    }

    #[test]
    fn a_cache_that_cannot_be_used_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        // A file has the name of the folder.
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let none = KernelCache {
            folder: None,
            limit: LIMIT,
        };
        for cache in [KernelCache::new(file.join("kernels"), LIMIT), none] {
            cache.write(&KEY, b"code");
            assert_eq!(cache.read(&KEY), None);
        }
        // A folder has the name of the file.
        let cache = KernelCache::new(folder.path().join("kernels"), LIMIT);
        let taken = cache.folder.as_ref().unwrap().join(KEY.file_name());
        fs::create_dir_all(&taken).unwrap();
        cache.write(&KEY, b"code");
        assert_eq!(cache.read(&KEY), None);
        assert_eq!(files(&cache), [taken], "the temporary file is removed");
    }

    #[test]
    fn several_writers_and_readers_see_whole_files_only() {
        // The limit is so small that every writer also removes files.
        let (_folder, cache) = cache(1000);
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                let cache = &cache;
                scope.spawn(move || {
                    for round in 0..50u32 {
                        let key = CacheKey {
                            architecture: round % 5,
                            ..KEY
                        };
                        let code = [round as u8 % 5; 300];
                        if thread % 2 == 0 {
                            cache.write(&key, &code);
                        }
                        if let Some(read) = cache.read(&key) {
                            assert_eq!(read, code);
                        }
                    }
                });
            }
        });
    }
}
