//! Vector instructions, chosen at run time. A kernel is written once over [`Simd`] and runs at every [`Level`]:
//! [`Level::run`] enters a function compiled for that level's instructions, into which the kernel is inlined (so every
//! function on the way is `#[inline(always)]`, and hot loops call no closures).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

/// A set of vector instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Plain Rust, which the compiler vectorises with what the target always has.
    Portable,
    /// 128 bits, fused multiply-add (every 64-bit ARM).
    Neon,
    /// 256 bits, fused multiply-add.
    Avx2,
    /// 512 bits (F, BW, DQ, VL).
    Avx512,
}

/// The environment variable that masks levels off: `portable`, `neon`, `avx2` or `avx512`.
pub const LEVEL_VARIABLE: &str = "CIFAR_TUI_SIMD";

impl Level {
    /// The levels that this processor runs, the best last.
    pub fn available() -> Vec<Level> {
        let mut levels = vec![Level::Portable];
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            levels.push(Level::Neon);
        }
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if avx2 {
                levels.push(Level::Avx2);
            }
            if avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                levels.push(Level::Avx512);
            }
        }
        levels
    }

    /// The best level of this processor, at most the one named in [`LEVEL_VARIABLE`]. Asked once a process.
    pub fn best() -> Level {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| {
            let most = std::env::var(LEVEL_VARIABLE).ok();
            Level::at_most(most.as_deref())
        })
    }

    /// The best available level up to the one of this name; a name that is none masks nothing off.
    fn at_most(name: Option<&str>) -> Level {
        let most = name.and_then(Level::from_name).unwrap_or(Level::Avx512);
        Level::available()
            .into_iter()
            .rfind(|&level| level <= most)
            .unwrap_or(Level::Portable)
    }

    /// The level of this name, as [`Level::name`] gives it.
    pub fn from_name(name: &str) -> Option<Level> {
        [Level::Portable, Level::Neon, Level::Avx2, Level::Avx512]
            .into_iter()
            .find(|level| level.name() == name)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Level::Portable => "portable",
            Level::Neon => "neon",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
        }
    }

    /// f32 in a vector.
    pub const fn lanes(self) -> usize {
        match self {
            Level::Portable | Level::Neon => 4,
            Level::Avx2 => 8,
            Level::Avx512 => 16,
        }
    }

    /// Runs a kernel with this level's instructions.
    ///
    /// # Panics
    /// If this processor does not have the instructions.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            // SAFETY: no instructions beyond those of the target.
            Level::Portable => unsafe { portable::enter(kernel) },
            #[cfg(target_arch = "aarch64")]
            Level::Neon => {
                assert!(std::arch::is_aarch64_feature_detected!("neon"));
                // SAFETY: asked just now.
                unsafe { neon::enter(kernel) }
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => {
                assert!(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"));
                // SAFETY: asked just now.
                unsafe { avx2::enter(kernel) }
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                assert!(
                    is_x86_feature_detected!("avx512f")
                        && is_x86_feature_detected!("avx512bw")
                        && is_x86_feature_detected!("avx512dq")
                        && is_x86_feature_detected!("avx512vl")
                );
                // SAFETY: asked just now.
                unsafe { avx512::enter(kernel) }
            }
            #[allow(unreachable_patterns, reason = "the levels of other architectures")]
            other => panic!("this processor has no {}", other.name()),
        }
    }
}

/// Work that is written once for every level.
pub trait Kernel {
    type Output;

    /// To be `#[inline(always)]`, and so everything it calls.
    ///
    /// # Safety
    /// The processor must have the instructions of `S`, which [`Level::run`] ensures.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

/// Asks for numbers that will be read soon, in an order that the processor cannot foresee. Does nothing else, and nothing
/// at all where there is no such instruction.
#[inline(always)]
pub fn prefetch(numbers: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in numbers.chunks(16) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: an instruction of every x86-64, which reads nothing into the program.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = numbers;
}

/// A vector of f32.
///
/// # Safety
/// The processor must have the instructions; pointers must be valid for [`Simd::LANES`] f32, or as many as asked.
/// No alignment is needed; a multiple of the vector's size is faster.
#[allow(clippy::missing_safety_doc, reason = "said once, above")]
pub trait Simd: Copy {
    const LANES: usize;
    /// How many vectors of accumulators, beside those that a tile needs for its operands, the registers hold.
    const ACCUMULATORS: usize;
    type Mask: Copy;

    /// Runs a kernel within a kernel, in a function of its own: for what would otherwise be inlined at several places.
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output;
    unsafe fn zero() -> Self;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// The first `count` lanes, the others zero; reads no further.
    unsafe fn load_part(from: *const f32, count: usize) -> Self;
    /// The first `count` lanes; writes no further.
    unsafe fn store_part(self, to: *mut f32, count: usize);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// self * factor + addend, fused where the level can.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// Zero where negative; NaN stays NaN.
    unsafe fn relu(self) -> Self;
    /// Lanes greater than `other`'s, or not a number: those that max-pooling takes in place of `other`'s.
    unsafe fn beats(self, other: Self) -> Self::Mask;
    /// Lanes that are not zero (NaN is not).
    unsafe fn nonzero(self) -> Self::Mask;
    /// Lanes equal to `other`'s.
    unsafe fn equals(self, other: Self) -> Self::Mask;
    /// The lanes whose mask is set, close together; returns how many. May write a whole vector.
    unsafe fn compress(self, mask: Self::Mask, to: *mut f32) -> usize;
    /// The first `count` bytes as numbers, the other lanes zero; reads no further.
    unsafe fn load_bytes(from: *const u8, count: usize) -> Self;
    /// `self` where the mask is set, else `other`.
    unsafe fn select(self, mask: Self::Mask, other: Self) -> Self;
    /// One bit a lane, the first lowest.
    unsafe fn bits(mask: Self::Mask) -> u32;
    /// The first `count` lanes, which hold small whole numbers, as bytes.
    unsafe fn store_bytes(self, to: *mut u8, count: usize);
}
