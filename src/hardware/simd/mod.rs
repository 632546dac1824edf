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
    /// Plain Rust, which the compiler vectorises with the instructions that every processor of the target has.
    Portable,
    /// 128 bits, fused multiply-add (every 64-bit ARM).
    Neon,
    /// 256 bits, fused multiply-add.
    Avx2,
    /// 512 bits (F, BW, DQ, VL).
    Avx512,
}

/// The environment variable that names the highest level to use: `portable`, `neon`, `avx2` or `avx512`.
pub const LEVEL_VARIABLE: &str = "CIFAR_TUI_SIMD";

impl Level {
    /// The levels that this processor supports, from the lowest to the highest.
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

    /// The highest level that this processor supports and [`LEVEL_VARIABLE`] allows. The process reads the variable
    /// once.
    pub fn best() -> Level {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| {
            let most = std::env::var(LEVEL_VARIABLE).ok();
            Level::at_most(most.as_deref())
        })
    }

    /// The highest available level up to the one of this name. An unknown name allows every level.
    fn at_most(name: Option<&str>) -> Level {
        let most = name.and_then(Level::from_name).unwrap_or(Level::Avx512);
        Level::available()
            .into_iter()
            .rfind(|&level| level <= most)
            .unwrap_or(Level::Portable)
    }

    /// The level whose [`Level::name`] this is.
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

    /// Number of f32 in a vector.
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
    /// Panics if this processor does not have the instructions.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            // SAFETY: every processor of the target has these instructions.
            Level::Portable => unsafe { portable::enter(kernel) },
            #[cfg(target_arch = "aarch64")]
            Level::Neon => {
                assert!(std::arch::is_aarch64_feature_detected!("neon"));
                // SAFETY: the guard of this arm has checked that the processor has the instructions.
                unsafe { neon::enter(kernel) }
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => {
                assert!(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"));
                // SAFETY: the guard of this arm has checked that the processor has the instructions.
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
                // SAFETY: the guard of this arm has checked that the processor has the instructions.
                unsafe { avx512::enter(kernel) }
            }
            #[allow(unreachable_patterns, reason = "the levels of other architectures")]
            other => panic!("this processor has no {}", other.name()),
        }
    }
}

/// Code that is written once and compiled for every level.
pub trait Kernel {
    type Output;

    /// Implementations and all functions that they call must be `#[inline(always)]`. Closures cannot be, so none may
    /// contain vectors (nor [`std::array::from_fn`] and the like): one that is not inlined lacks the instructions of
    /// `S`, and each of its operations becomes a call.
    ///
    /// # Safety
    /// The processor must have the instructions of `S`, which [`Level::run`] ensures.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

/// Prefetches numbers into the cache that will be read soon in an order that the processor cannot predict. Does nothing
/// on processors other than x86-64.
#[inline(always)]
pub fn prefetch(numbers: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in numbers.chunks(16) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: every x86-64 has this instruction, and it has no effect but on the cache.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = numbers;
}

/// A vector of f32.
///
/// # Safety
/// The processor must have the instructions. Pointers must be valid for [`Simd::LANES`] f32, or for `count` where it is
/// given. They need no alignment; multiples of the vector's size are faster.
#[allow(
    clippy::missing_safety_doc,
    reason = "the trait's Safety section applies to all functions"
)]
pub trait Simd: Copy {
    const LANES: usize;
    /// Number of registers that a tile can use as accumulators, beside those for its operands.
    const ACCUMULATORS: usize;
    type Mask: Copy;

    /// Runs a kernel within a kernel as a function that is not inlined, for code that several places share.
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output;
    unsafe fn zero() -> Self;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// Loads the first `count` lanes and sets the others to zero. Reads only `count` f32.
    unsafe fn load_part(from: *const f32, count: usize) -> Self;
    /// Stores the first `count` lanes. Writes only `count` f32.
    unsafe fn store_part(self, to: *mut f32, count: usize);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// self * factor + addend, rounded once where the level has fused multiply-add.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// max(self, 0); NaN stays NaN.
    unsafe fn relu(self) -> Self;
    /// Lanes that max-pooling takes instead of `other`'s: those that are greater or NaN.
    unsafe fn beats(self, other: Self) -> Self::Mask;
    /// Lanes that are not zero, NaN included.
    unsafe fn nonzero(self) -> Self::Mask;
    /// Lanes equal to `other`'s.
    unsafe fn equals(self, other: Self) -> Self::Mask;
    /// Stores the lanes whose mask is set, one after the other, and returns their number. May write a whole vector.
    unsafe fn compress(self, mask: Self::Mask, to: *mut f32) -> usize;
    /// Loads the first `count` bytes as numbers and sets the other lanes to zero. Reads only `count` bytes.
    unsafe fn load_bytes(from: *const u8, count: usize) -> Self;
    /// `self` where the mask is set, else `other`.
    unsafe fn select(self, mask: Self::Mask, other: Self) -> Self;
    /// One bit for each lane; the first lane is the lowest bit.
    unsafe fn bits(mask: Self::Mask) -> u32;
    /// Stores the first `count` lanes, which must be whole numbers from 0 to 255, as bytes.
    unsafe fn store_bytes(self, to: *mut u8, count: usize);
}
