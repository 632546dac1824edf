//! Compiles kernels to machine code: reads it from the disk cache if they were compiled before, otherwise runs NVRTC on
//! all cores.

use super::kernel_cache::{CacheKey, KernelCache};
use super::nvrtc::{Nvrtc, OPTIONS};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The machine code of each source, in order, for GPUs of a compute capability; 89 is 8.9.
///
/// # Errors
/// Returns NVRTC's log of the first source that does not compile.
pub fn compile_all(
    compiler: &Nvrtc,
    cache: &KernelCache,
    architecture: u32,
    sources: &[&str],
) -> Result<Vec<Vec<u8>>, String> {
    on_all_cores(sources, |source| {
        let key = CacheKey {
            source,
            options: &OPTIONS,
            architecture,
            compiler: compiler.version(),
        };
        if let Some(code) = cache.read(&key) {
            return Ok(code);
        }
        let code = compiler.compile(source, architecture)?;
        tracing::debug!("compiled a kernel of {} bytes", code.len());
        cache.write(&key, &code);
        Ok(code)
    })
}

/// Number of threads that compile at once.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// Applies `work` to each item, on one thread per core, and returns the results in the order of the items. Returns the
/// error of the first item that failed.
fn on_all_cores<I: Sync, T: Send>(
    items: &[I],
    work: impl Fn(&I) -> Result<T, String> + Sync,
) -> Result<Vec<T>, String> {
    let cores = cores();
    let next = AtomicUsize::new(0);
    let worker = || -> Vec<(usize, Result<T, String>)> {
        let taken = || next.fetch_add(1, Ordering::Relaxed);
        std::iter::repeat_with(taken)
            .map_while(|i| Some((i, work(items.get(i)?))))
            .collect()
    };
    let mut results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores.min(items.len()))
            .map(|_| scope.spawn(worker))
            .collect();
        let failed = |_| vec![(0, Err("a compiling thread failed".into()))];
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_else(failed))
            .collect()
    });
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::super::nvrtc::fake;
    use super::*;
    use std::path::Path;

    fn compiler(folder: &Path, name: &str, flags: &[&str]) -> Nvrtc {
        let file = folder.join(name);
        fake::build(&file, (12, 4), flags);
        Nvrtc::open(file.as_os_str()).unwrap()
    }

    #[test]
    fn a_second_start_compiles_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::new(folder.path().join("kernels"), 1 << 20);
        let first = compiler(folder.path(), "first.so", &[]);
        let sources: Vec<String> = (0..20).map(|i| format!("int x{i};")).collect();
        let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
        let codes = compile_all(&first, &cache, 90, &sources).unwrap();
        for (code, source) in codes.iter().zip(&sources) {
            assert!(
                code.ends_with(source.as_bytes()),
                "in the order of the sources"
            );
        }
        // A copy of the same version, which refuses to compile.
        let second = compiler(folder.path(), "second.so", &["-DREFUSE"]);
        assert_eq!(compile_all(&second, &cache, 90, &sources).unwrap(), codes);
        // Code for another architecture is not in the cache.
        let log = compile_all(&second, &cache, 80, &sources).unwrap_err();
        assert!(log.contains("COMPILATION"), "{log}");
        // Without a cache, every source is compiled again.
        let unusable = KernelCache::new(folder.path().join("first.so/kernels"), 1 << 20);
        assert_eq!(compile_all(&first, &unusable, 90, &sources).unwrap(), codes);
    }

    #[test]
    fn the_first_source_that_does_not_compile_is_told_and_never_kept() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::new(folder.path().join("kernels"), 1 << 20);
        let nvrtc = compiler(folder.path(), "nvrtc.so", &[]);
        for _ in 0..2 {
            let log = compile_all(&nvrtc, &cache, 90, &["int x;", "error"]).unwrap_err();
            assert!(log.contains("line 1: no such thing"), "{log}");
        }
        assert!(compile_all(&nvrtc, &cache, 90, &[]).unwrap().is_empty());
    }
}
