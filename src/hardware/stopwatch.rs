//! Measures how long this process worked on something. A process can be suspended at any moment and for any time
//! (ctrl-z, SIGSTOP). The system signals when it continues (SIGCONT), but not how long it was suspended.

use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Number of times that this process received SIGCONT.
static CONTINUED: AtomicU64 = AtomicU64::new(0);

/// In a longer span, the process may have been suspended while another thread has not handled SIGCONT yet.
const LONG: Duration = Duration::from_millis(500);

/// Measures one span of work.
pub struct Stopwatch {
    began: Instant,
    count: &'static AtomicU64,
    /// Value of `count` at the start.
    continued: u64,
}

impl Stopwatch {
    pub fn start() -> Self {
        count_continuations();
        Self::with(&CONTINUED)
    }

    fn with(count: &'static AtomicU64) -> Self {
        Stopwatch {
            continued: count.load(Ordering::SeqCst),
            count,
            began: Instant::now(),
        }
    }

    /// Seconds since the start. None if the process was suspended in the meantime, so that the time it worked is
    /// unknown.
    pub fn seconds(&self) -> Option<f64> {
        let elapsed = self.began.elapsed();
        if elapsed > LONG {
            // The signal's handler may run on another thread, which continues at the same time as this one. Give it
            // time to run.
            std::thread::sleep(Duration::from_millis(1));
        }
        (self.count.load(Ordering::SeqCst) == self.continued).then_some(elapsed.as_secs_f64())
    }
}

fn count_continuations() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let count = || {
            CONTINUED.fetch_add(1, Ordering::SeqCst);
        };
        // SAFETY: the handler only increments an atomic counter.
        let listens = unsafe { signal_hook::low_level::register(libc::SIGCONT, count) };
        if let Err(error) = listens {
            tracing::warn!("SIGCONT cannot be handled, so time in which this process is suspended counts as work: {error}");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_in_which_the_process_was_stopped_has_no_known_length() {
        // Not CONTINUED, which other tests use at the same time.
        static COUNT: AtomicU64 = AtomicU64::new(3);
        let before = Stopwatch::with(&COUNT);
        assert!(before.seconds().is_some());
        COUNT.fetch_add(1, Ordering::SeqCst);
        assert_eq!(before.seconds(), None);
        assert!(Stopwatch::with(&COUNT).seconds().is_some());
    }
}
