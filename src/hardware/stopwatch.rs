//! How long this process worked on something. It can be stopped at any moment and for any time (ctrl-z, SIGSTOP); the
//! system says when it goes on, and not for how long it stood still.

use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often this process was continued.
static CONTINUED: AtomicU64 = AtomicU64::new(0);

/// A span that takes longer may have held a stop whose end another thread is just being told of.
const LONG: Duration = Duration::from_millis(500);

/// Measures one span of work.
pub struct Stopwatch {
    began: Instant,
    count: &'static AtomicU64,
    /// What `count` was at the start.
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

    /// Seconds since the start. None when the process was stopped meanwhile: nobody knows how long it worked.
    pub fn seconds(&self) -> Option<f64> {
        let elapsed = self.began.elapsed();
        if elapsed > LONG {
            // The signal's handler runs on any thread, at the moment at which all go on.
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
        // SAFETY: the handler only adds to an atomic number.
        let listens = unsafe { signal_hook::low_level::register(libc::SIGCONT, count) };
        if let Err(error) = listens {
            tracing::warn!("time for which this process is stopped counts as work: {error}");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_in_which_the_process_was_stopped_has_no_known_length() {
        // Not the process's own count, by which other tests measure.
        static COUNT: AtomicU64 = AtomicU64::new(3);
        let before = Stopwatch::with(&COUNT);
        assert!(before.seconds().is_some());
        COUNT.fetch_add(1, Ordering::SeqCst);
        assert_eq!(before.seconds(), None);
        assert!(Stopwatch::with(&COUNT).seconds().is_some());
    }
}
