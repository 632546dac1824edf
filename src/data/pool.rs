//! The threads that load data: a queue of jobs, results in the order of the jobs, and progress reports on the calling
//! thread.

use super::DataError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};

/// Reports to the calling thread the number of images that a job has finished since the last call.
pub type AdvanceFn<'a> = &'a mut dyn FnMut(usize);

/// Runs `work` on every job on `threads` threads (0: one per core) and returns the results in the order of the jobs.
/// `progress(done, total)` is called on the calling thread whenever a job reports `n` more images.
///
/// # Errors
/// Returns the error of the first failed job, in the order of the jobs. Jobs that had not begun by then are skipped.
pub fn run<J: Send, T: Send>(
    jobs: Vec<J>,
    threads: usize,
    total: u64,
    progress: &mut dyn FnMut(u64, u64),
    work: impl Fn(J, AdvanceFn) -> Result<T, DataError> + Sync,
) -> Result<Vec<T>, DataError> {
    let threads = count(threads).min(jobs.len()).max(1);
    let queue = Mutex::new(jobs.into_iter().enumerate());
    let results = Mutex::new(Vec::new());
    let failed = AtomicBool::new(false);
    let (tell, told) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let tell = tell.clone();
            let (queue, results, failed, work) = (&queue, &results, &failed, &work);
            scope.spawn(move || {
                while !failed.load(Ordering::Relaxed) {
                    let next = lock(queue).next();
                    let Some((place, job)) = next else { break };
                    // Sending cannot fail: the receiver lives as long as the scope.
                    let result = work(job, &mut |n| _ = tell.send(n));
                    failed.fetch_or(result.is_err(), Ordering::Relaxed);
                    lock(results).push((place, result));
                }
            });
        }
        drop(tell);
        let mut done = 0;
        while let Ok(n) = told.recv() {
            done += n as u64;
            progress(done, total);
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(place, _)| *place);
    results.into_iter().map(|(_, result)| result).collect()
}

/// The number of threads that the setting `threads` means: 0 is one per core.
pub fn count(threads: usize) -> usize {
    match threads {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
        n => n,
    }
}

/// Locks the mutex even if a thread has panicked while holding it, since the thread scope reports the panic itself.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn results_come_in_order_and_progress_adds_up() {
        for threads in [1, 3] {
            let mut last = 0;
            let squares = run(
                (0..50u64).collect(),
                threads,
                100,
                &mut |done, _| last = done,
                |n, tell| {
                    tell(2);
                    Ok(n * n)
                },
            );
            assert_eq!(
                squares.unwrap(),
                (0..50).map(|n| n * n).collect::<Vec<u64>>()
            );
            assert_eq!(last, 100);
        }
    }

    #[test]
    fn the_first_failed_job_names_the_error() {
        let result = run((0..9).collect(), 1, 0, &mut |_, _| {}, |n, _| {
            if n < 4 {
                return Ok(n);
            }
            Err(DataError::Nothing {
                path: PathBuf::from(format!("job {n}")),
            })
        });
        assert!(result.unwrap_err().to_string().contains("job 4"));
    }
}
