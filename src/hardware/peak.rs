//! Measures the peak of the CPU: the rate of multiply-adds on registers. Kernels are compared with it.

use super::simd::{Kernel, Level, Simd};
use super::threads::Threads;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Runs `rounds` rounds of [`CHAINS`] independent multiply-adds: more than the latency times the number of multiply-add
/// units of any core.
struct Burn {
    rounds: u64,
}

const CHAINS: usize = 12;

impl Kernel for Burn {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f32 {
        // SAFETY: guaranteed by the caller; `out` is as long as the widest vector.
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

/// Measures for about 50 ms how many floating-point operations a second all threads together reach at `level`, and
/// returns the largest rate of several short runs. A multiply-add counts as two operations. The load of other processes
/// lowers the rate.
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
