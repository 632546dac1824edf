//! A fixed set of threads that run the parallel regions of a training step. This module does not know what the tasks
//! compute.

use std::any::Any;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long an idle thread spins before it sleeps. Waking a sleeping thread costs the caller about 5 us and delays the
/// first task by up to 50 us, whereas a step's regions follow each other within a few microseconds. A longer spin would
/// take the core from other processes.
const SPIN: Duration = Duration::from_micros(40);

/// A fixed set of threads. The calling thread is one of them.
pub struct Threads {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Locked during a region. A region that starts while another runs is executed by its calling thread alone.
    region: Mutex<()>,
}

/// One parallel region: a task to be called for each index. It lives on the caller's stack until every worker has left
/// it.
struct Region<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    tasks: usize,
    next: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

struct Shared {
    /// Number of the region in the upper bits; bit 16: workers may enter it; lower 16 bits: number of workers inside
    /// it.
    state: AtomicU64,
    /// Address of the open region: valid for the workers inside it.
    region: AtomicUsize,
    asleep: Vec<AtomicBool>,
    /// The caller of the region, while it sleeps until the last worker has left.
    waiting: Mutex<Option<Thread>>,
    quit: AtomicBool,
}

const OPEN: u64 = 1 << 16;
const INSIDE: u64 = OPEN - 1;
const NEXT_REGION: u64 = 1 << 17;

impl Threads {
    /// A set of `count` threads, the caller included; 0 means one thread per core. The set is smaller if the system
    /// cannot start as many.
    pub fn new(count: usize) -> Self {
        let cores = thread::available_parallelism().map_or(1, |n| n.get());
        let count = if count == 0 { cores } else { count }.min(INSIDE as usize);
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            region: AtomicUsize::new(0),
            asleep: (1..count).map(|_| AtomicBool::new(false)).collect(),
            waiting: Mutex::new(None),
            quit: AtomicBool::new(false),
        });
        let workers = (1..count)
            .map_while(|n| {
                let shared = Arc::clone(&shared);
                thread::Builder::new()
                    .name(format!("train-{n}"))
                    .spawn(move || shared.work(n - 1))
                    .ok()
            })
            .collect();
        Threads {
            shared,
            workers,
            region: Mutex::new(()),
        }
    }

    /// Number of threads, the caller included.
    pub fn count(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(i)` once for every `i` in `0..tasks`, on all threads, and returns when all are done. Any thread may
    /// run any task, so no two tasks may write the same data.
    ///
    /// # Panics
    /// If a task panics, no further tasks are started, and this function panics with the task's payload after the
    /// running tasks have ended.
    pub fn run(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        let free = self.region.try_lock();
        if tasks <= 1 || self.workers.is_empty() || free.is_err() {
            (0..tasks).for_each(task);
            return;
        }
        let region = Region {
            task: &task,
            tasks,
            next: AtomicUsize::new(0),
            panic: Mutex::new(None),
        };
        let shared = &*self.shared;
        shared
            .region
            .store(&raw const region as usize, Ordering::Relaxed);
        let before = shared.state.load(Ordering::Relaxed);
        shared
            .state
            .store((before & !OPEN) + NEXT_REGION + OPEN, Ordering::SeqCst);
        for (asleep, worker) in shared.asleep.iter().zip(&self.workers).take(tasks - 1) {
            if asleep.load(Ordering::SeqCst) && asleep.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        region.work();
        // No worker enters any more; the workers inside finish their tasks.
        let mut inside = shared.state.fetch_and(!OPEN, Ordering::SeqCst) & INSIDE;
        let begin = Instant::now();
        let mut round = 0u32;
        while inside != 0 {
            std::hint::spin_loop();
            round = round.wrapping_add(1);
            if round.is_multiple_of(64) && begin.elapsed() > SPIN {
                shared.wait_for_the_last();
            }
            inside = shared.state.load(Ordering::Acquire) & INSIDE;
        }
        drop(free);
        let panic = region.panic.into_inner();
        if let Some(payload) = panic.unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(payload);
        }
    }

    /// Calls `task(i, chunk)` for every chunk of `size` items (the last may be shorter), on all threads.
    pub fn chunks<T: Send>(
        &self,
        items: &mut [T],
        size: usize,
        task: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let size = size.max(1);
        let parts = SharedSlice::new(items);
        self.run(parts.len().div_ceil(size), |i| {
            let range = i * size..((i + 1) * size).min(parts.len());
            // SAFETY: the chunks of different tasks do not overlap.
            task(i, unsafe { parts.range(range) });
        });
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.quit.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // The result is always Ok, since workers catch the panics of their tasks.
            let _ = worker.join();
        }
    }
}

impl Region<'_> {
    /// Runs tasks until none is left.
    fn work(&self) {
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= self.tasks {
                return;
            }
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| (self.task)(i))) {
                self.next.store(self.tasks, Ordering::Relaxed);
                let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(payload);
                return;
            }
        }
    }
}

impl Shared {
    /// The loop of a worker: runs tasks of each region until the threads are to end.
    fn work(&self, me: usize) {
        let mut seen = 0;
        while let Some(number) = self.next_region(me, seen) {
            seen = number;
            // Enter the region, unless it has been closed in the meantime.
            let mut state = self.state.load(Ordering::Acquire);
            let entered = loop {
                if state / NEXT_REGION != seen || state & OPEN == 0 {
                    break false;
                }
                match self.state.compare_exchange_weak(
                    state,
                    state + 1,
                    Ordering::AcqRel,
                    Ordering::Acquire,
                ) {
                    Ok(_) => break true,
                    Err(now) => state = now,
                }
            };
            if !entered {
                continue;
            }
            let region = self.region.load(Ordering::Relaxed) as *const Region;
            // SAFETY: the caller stays in `run`, which owns the region, until no worker is inside.
            unsafe { (*region).work() };
            // After the subtraction, the region may no longer exist.
            if self.state.fetch_sub(1, Ordering::SeqCst) & (INSIDE | OPEN) == 1 {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(caller) = waiting.take() {
                    caller.unpark();
                }
            }
        }
    }

    /// Waits for a region with another number than `seen`: spins for [`SPIN`], then sleeps. None if the threads are to
    /// end.
    fn next_region(&self, me: usize, seen: u64) -> Option<u64> {
        let mut begin = Instant::now();
        let mut round = 0u32;
        loop {
            let state = self.state.load(Ordering::SeqCst);
            if state / NEXT_REGION != seen && state & OPEN != 0 {
                return Some(state / NEXT_REGION);
            }
            if self.quit.load(Ordering::SeqCst) {
                return None;
            }
            round = round.wrapping_add(1);
            if round.is_multiple_of(64) && begin.elapsed() > SPIN {
                self.asleep[me].store(true, Ordering::SeqCst);
                // A caller that opened a region before it saw the flag does not wake this thread: check once more.
                let state = self.state.load(Ordering::SeqCst);
                let idle = state / NEXT_REGION == seen || state & OPEN == 0;
                if idle && !self.quit.load(Ordering::SeqCst) {
                    thread::park();
                }
                self.asleep[me].store(false, Ordering::SeqCst);
                begin = Instant::now();
            } else {
                std::hint::spin_loop();
            }
        }
    }

    /// Puts the caller of the closed region to sleep until the last worker has left it.
    fn wait_for_the_last(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        *waiting = Some(thread::current());
        drop(waiting);
        // If the last worker left before it saw this thread in `waiting`, it does not wake it: check once more.
        if self.state.load(Ordering::SeqCst) & INSIDE != 0 {
            thread::park();
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        *waiting = None;
    }
}

/// A slice whose parts are written by different tasks.
pub struct SharedSlice<'a, T> {
    items: *mut T,
    len: usize,
    lent: PhantomData<&'a mut [T]>,
}

// SAFETY: the only access is `range`, whose callers guarantee that ranges in use at the same time do not overlap.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}
// SAFETY: it may be sent like a `&mut [T]`.
unsafe impl<T: Send> Send for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    pub fn new(items: &'a mut [T]) -> Self {
        SharedSlice {
            items: items.as_mut_ptr(),
            len: items.len(),
            lent: PhantomData,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The items of a range.
    ///
    /// # Safety
    /// No other range in use at the same time may overlap it.
    ///
    /// # Panics
    /// Panics if the range is outside the slice.
    pub unsafe fn range(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "part {range:?} of {} items",
            self.len
        );
        // SAFETY: the range is in bounds, and the caller guarantees that it overlaps no other.
        unsafe { std::slice::from_raw_parts_mut(self.items.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_region_after_region() {
        for count in 1..5 {
            let threads = Threads::new(count);
            assert_eq!(threads.count(), count);
            for tasks in (0..20).chain([1000]) {
                let mut hits = vec![0u8; tasks];
                threads.chunks(&mut hits, 1, |_, hit| hit[0] += 1);
                assert!(hits.iter().all(|&n| n == 1));
            }
        }
    }

    #[test]
    fn many_short_regions_after_naps() {
        let threads = Threads::new(3);
        let total = AtomicUsize::new(0);
        for region in 0..3000 {
            threads.run(4, |i| {
                total.fetch_add(i, Ordering::Relaxed);
            });
            if region % 500 == 0 {
                // Wait until the workers sleep.
                let begin = Instant::now();
                while begin.elapsed() < 4 * SPIN {
                    thread::yield_now();
                }
            }
        }
        assert_eq!(total.into_inner(), 3000 * 6);
    }

    #[test]
    fn a_task_may_start_a_region() {
        let threads = Threads::new(2);
        let total = AtomicUsize::new(0);
        threads.run(8, |_| {
            threads.run(8, |_| {
                total.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(total.into_inner(), 64);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_threads_live_on() {
        let threads = Threads::new(3);
        for bad in [0, 5, 63] {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                threads.run(64, |i| assert!(i != bad, "task {bad}"));
            }));
            let payload = caught.unwrap_err();
            assert_eq!(
                payload.downcast_ref::<String>().unwrap(),
                &format!("task {bad}")
            );
        }
        let total = AtomicUsize::new(0);
        threads.run(64, |_| {
            total.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(total.into_inner(), 64);
    }
}
