//! The peak of the processor: the rate of fused multiply-adds on registers, against which kernels are measured.

use super::simd::{Kernel, Level, Simd};
use super::threads::Threads;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Rounds of independent multiply-adds: more than latency times width of any core.
struct Burn {
    rounds: u64,
}

const CHAINS: usize = 12;

impl Kernel for Burn {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f32 {
        // SAFETY: the caller's; `out` holds the widest vector.
        unsafe {
            let (factor, addend) = (S::splat(black_box(0.999)), S::splat(black_box(0.001)));
            let mut chains = [S::splat(black_box(1.0)); CHAINS];
            for _ in 0..self.rounds {
                for chain in &mut chains {
                    *chain = chain.mul_add(factor, addend);
                }
            }
            let mut sum = S::zero();
            for chain in chains {
                sum = sum.add(chain);
            }
            let mut out = [0.0; 16];
            sum.store(out.as_mut_ptr());
            out.iter().sum()
        }
    }
}

/// The most floating-point operations a second (a multiply-add counts two) that all threads together reach at `level`:
/// the best of several short runs, about 50 ms in all. Other processes' load lowers it.
pub fn flops(level: Level, threads: &Threads) -> f64 {
    let lanes = level.lanes() as u64;
    let mut rounds = 10_000;
    let mut best = 0.0f64;
    let end = Instant::now() + Duration::from_millis(50);
    loop {
        let begin = Instant::now();
        threads.run(threads.count(), |_| {
            black_box(level.run(Burn { rounds }));
        });
        let seconds = begin.elapsed().as_secs_f64();
        let operations = 2 * lanes * CHAINS as u64 * rounds * threads.count() as u64;
        best = best.max(operations as f64 / seconds);
        if seconds < 0.004 {
            rounds *= 2;
        }
        if Instant::now() > end {
            return best;
        }
    }
}
