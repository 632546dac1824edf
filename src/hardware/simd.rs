//! Vector instructions, chosen at run time. A kernel is written once over [`Simd`] and runs at every [`Level`]:
//! [`Level::run`] enters a function compiled for that level's instructions, into which the kernel is inlined (so every
//! function on the way is `#[inline(always)]`, and hot loops call no closures).

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
    /// Those that this machine runs, the best last.
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

    /// The best level of this machine, at most the one named in [`LEVEL_VARIABLE`]. Asked once a process.
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
    /// When this machine does not have them.
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
            other => panic!("this machine has no {}", other.name()),
        }
    }
}

/// Work that is written once for every level.
pub trait Kernel {
    type Output;

    /// To be `#[inline(always)]`, and so everything it calls.
    ///
    /// # Safety
    /// The machine must have the instructions of `S`; [`Level::run`] sees to it.
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
/// The machine must have the instructions; pointers must be valid for [`Simd::LANES`] f32, or as many as asked.
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

mod portable {
    use super::{Kernel, Simd};

    #[inline(never)]
    pub unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the caller's.
        unsafe { kernel.run::<Vector>() }
    }

    #[derive(Clone, Copy)]
    #[repr(C, align(16))]
    pub struct Vector([f32; 4]);

    /// Lane by lane.
    macro_rules! lanes {
        ($i:ident => $value:expr) => {{
            let mut out = [0.0f32; 4];
            let mut $i = 0;
            while $i < 4 {
                out[$i] = $value;
                $i += 1;
            }
            Vector(out)
        }};
    }

    impl Simd for Vector {
        const LANES: usize = 4;
        const ACCUMULATORS: usize = 12;
        type Mask = [bool; 4];

        #[inline(always)]
        unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
            // SAFETY: the caller's.
            unsafe { enter(kernel) }
        }

        #[inline(always)]
        unsafe fn zero() -> Self {
            Vector([0.0; 4])
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            Vector([value; 4])
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller's.
            Vector(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller's.
            unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
        }
        #[inline(always)]
        unsafe fn load_part(from: *const f32, count: usize) -> Self {
            // SAFETY: the caller's, for the first `count`.
            lanes!(i => if i < count { unsafe { *from.add(i) } } else { 0.0 })
        }
        #[inline(always)]
        unsafe fn store_part(self, to: *mut f32, count: usize) {
            for i in 0..count.min(4) {
                // SAFETY: the caller's, for the first `count`.
                unsafe { *to.add(i) = self.0[i] }
            }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            lanes!(i => self.0[i] + other.0[i])
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            lanes!(i => self.0[i] * other.0[i])
        }
        #[inline(always)]
        unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
            // Not f32::mul_add, which is a call to the C library where the target has no such instruction.
            lanes!(i => self.0[i] * factor.0[i] + addend.0[i])
        }
        #[inline(always)]
        unsafe fn relu(self) -> Self {
            lanes!(i => if self.0[i] < 0.0 { 0.0 } else { self.0[i] })
        }
        #[inline(always)]
        unsafe fn beats(self, other: Self) -> [bool; 4] {
            std::array::from_fn(|i| self.0[i] > other.0[i] || self.0[i].is_nan())
        }
        #[inline(always)]
        unsafe fn nonzero(self) -> [bool; 4] {
            std::array::from_fn(|i| self.0[i] != 0.0)
        }
        #[inline(always)]
        unsafe fn equals(self, other: Self) -> [bool; 4] {
            std::array::from_fn(|i| self.0[i] == other.0[i])
        }
        #[inline(always)]
        unsafe fn compress(self, mask: [bool; 4], to: *mut f32) -> usize {
            let mut count = 0;
            for (lane, keep) in self.0.into_iter().zip(mask) {
                // SAFETY: the caller's; fewer are kept than were seen.
                unsafe { *to.add(count) = lane };
                count += usize::from(keep);
            }
            count
        }
        #[inline(always)]
        unsafe fn load_bytes(from: *const u8, count: usize) -> Self {
            // SAFETY: the caller's, for the first `count`.
            lanes!(i => if i < count { f32::from(unsafe { *from.add(i) }) } else { 0.0 })
        }
        #[inline(always)]
        unsafe fn select(self, mask: [bool; 4], other: Self) -> Self {
            lanes!(i => if mask[i] { self.0[i] } else { other.0[i] })
        }
        #[inline(always)]
        unsafe fn bits(mask: [bool; 4]) -> u32 {
            let [a, b, c, d] = mask.map(u32::from);
            a | b << 1 | c << 2 | d << 3
        }
        #[inline(always)]
        unsafe fn store_bytes(self, to: *mut u8, count: usize) {
            for i in 0..count.min(4) {
                // SAFETY: the caller's, for the first `count`.
                unsafe { *to.add(i) = self.0[i] as u8 }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{Kernel, Simd};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
    #[inline(never)]
    pub unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the caller's.
        unsafe { kernel.run::<Vector>() }
    }

    #[derive(Clone, Copy)]
    #[repr(transparent)]
    pub struct Vector(__m256);

    /// Loads and stores through this type carry no check in builds with debug assertions, as the intrinsics do: in the
    /// innermost loops those would double the time of every test that trains.
    #[derive(Clone, Copy)]
    #[repr(C, packed)]
    struct Unaligned(__m256);

    /// The first `count` lanes set.
    #[inline(always)]
    unsafe fn first(count: usize) -> __m256i {
        // SAFETY: the caller's.
        unsafe {
            _mm256_cmpgt_epi32(
                _mm256_set1_epi32(count as i32),
                _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
            )
        }
    }

    // SAFETY of every block below: the caller's.
    impl Simd for Vector {
        const LANES: usize = 8;
        const ACCUMULATORS: usize = 12;
        type Mask = __m256;

        #[inline(always)]
        unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
            // SAFETY: the caller's.
            unsafe { enter(kernel) }
        }

        #[inline(always)]
        unsafe fn zero() -> Self {
            unsafe { Vector(_mm256_setzero_ps()) }
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            unsafe { Vector(_mm256_set1_ps(value)) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            unsafe { Vector((*from.cast::<Unaligned>()).0) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { *to.cast::<Unaligned>() = Unaligned(self.0) }
        }
        #[inline(always)]
        unsafe fn load_part(from: *const f32, count: usize) -> Self {
            if count >= 8 {
                return unsafe { Self::load(from) };
            }
            unsafe { Vector(_mm256_maskload_ps(from, first(count))) }
        }
        #[inline(always)]
        unsafe fn store_part(self, to: *mut f32, count: usize) {
            // The masked store is microcode on some cores.
            if count >= 8 {
                return unsafe { self.store(to) };
            }
            unsafe { _mm256_maskstore_ps(to, first(count), self.0) }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            unsafe { Vector(_mm256_add_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            unsafe { Vector(_mm256_mul_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
            unsafe { Vector(_mm256_fmadd_ps(self.0, factor.0, addend.0)) }
        }
        #[inline(always)]
        unsafe fn relu(self) -> Self {
            // Of two operands of which one is NaN, the instruction gives the second.
            unsafe { Vector(_mm256_max_ps(_mm256_setzero_ps(), self.0)) }
        }
        #[inline(always)]
        unsafe fn beats(self, other: Self) -> __m256 {
            unsafe {
                _mm256_or_ps(
                    _mm256_cmp_ps::<_CMP_GT_OQ>(self.0, other.0),
                    _mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0),
                )
            }
        }
        #[inline(always)]
        unsafe fn nonzero(self) -> __m256 {
            unsafe { _mm256_cmp_ps::<_CMP_NEQ_UQ>(self.0, _mm256_setzero_ps()) }
        }
        #[inline(always)]
        unsafe fn equals(self, other: Self) -> __m256 {
            unsafe { _mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, other.0) }
        }
        #[inline(always)]
        unsafe fn compress(self, mask: __m256, to: *mut f32) -> usize {
            unsafe {
                let mut lanes = [0.0f32; 8];
                self.store(lanes.as_mut_ptr());
                let mut bits = Self::bits(mask);
                let mut count = 0;
                while bits != 0 {
                    *to.add(count) = lanes[bits.trailing_zeros() as usize & 7];
                    bits &= bits - 1;
                    count += 1;
                }
                count
            }
        }
        #[inline(always)]
        unsafe fn load_bytes(from: *const u8, count: usize) -> Self {
            unsafe {
                let mut bytes = [0u8; 8];
                std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), count.min(8));
                let bytes = _mm_cvtsi64_si128(i64::from_le_bytes(bytes));
                Vector(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)))
            }
        }
        #[inline(always)]
        unsafe fn select(self, mask: __m256, other: Self) -> Self {
            unsafe { Vector(_mm256_blendv_ps(other.0, self.0, mask)) }
        }
        #[inline(always)]
        unsafe fn bits(mask: __m256) -> u32 {
            unsafe { _mm256_movemask_ps(mask) as u32 }
        }
        #[inline(always)]
        unsafe fn store_bytes(self, to: *mut u8, count: usize) {
            unsafe {
                let words = _mm256_cvttps_epi32(self.0);
                let words = _mm256_packus_epi32(words, words);
                let bytes = _mm256_packus_epi16(words, words);
                let low = _mm256_extract_epi32::<0>(bytes) as u32;
                let high = _mm256_extract_epi32::<4>(bytes) as u32;
                let all = (u64::from(high) << 32 | u64::from(low)).to_le_bytes();
                std::ptr::copy_nonoverlapping(all.as_ptr(), to, count.min(8));
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{Kernel, Simd};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
    #[inline(never)]
    pub unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the caller's.
        unsafe { kernel.run::<Vector>() }
    }

    #[derive(Clone, Copy)]
    #[repr(transparent)]
    pub struct Vector(__m512);

    /// Loads and stores through this type carry no check in builds with debug assertions, as the intrinsics do: in the
    /// innermost loops those would double the time of every test that trains.
    #[derive(Clone, Copy)]
    #[repr(C, packed)]
    struct Unaligned(__m512);

    /// The first `count` lanes set.
    #[inline(always)]
    fn first(count: usize) -> __mmask16 {
        ((1u32 << count.min(16)) - 1) as __mmask16
    }

    // SAFETY of every block below: the caller's.
    impl Simd for Vector {
        const LANES: usize = 16;
        const ACCUMULATORS: usize = 28;
        type Mask = __mmask16;

        #[inline(always)]
        unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
            // SAFETY: the caller's.
            unsafe { enter(kernel) }
        }

        #[inline(always)]
        unsafe fn zero() -> Self {
            unsafe { Vector(_mm512_setzero_ps()) }
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            unsafe { Vector(_mm512_set1_ps(value)) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            unsafe { Vector((*from.cast::<Unaligned>()).0) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { *to.cast::<Unaligned>() = Unaligned(self.0) }
        }
        #[inline(always)]
        unsafe fn load_part(from: *const f32, count: usize) -> Self {
            unsafe { Vector(_mm512_maskz_loadu_ps(first(count), from)) }
        }
        #[inline(always)]
        unsafe fn store_part(self, to: *mut f32, count: usize) {
            unsafe { _mm512_mask_storeu_ps(to, first(count), self.0) }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            unsafe { Vector(_mm512_add_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            unsafe { Vector(_mm512_mul_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
            unsafe { Vector(_mm512_fmadd_ps(self.0, factor.0, addend.0)) }
        }
        #[inline(always)]
        unsafe fn relu(self) -> Self {
            // Of two operands of which one is NaN, the instruction gives the second.
            unsafe { Vector(_mm512_max_ps(_mm512_setzero_ps(), self.0)) }
        }
        #[inline(always)]
        unsafe fn beats(self, other: Self) -> __mmask16 {
            unsafe {
                _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, other.0)
                    | _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0)
            }
        }
        #[inline(always)]
        unsafe fn nonzero(self) -> __mmask16 {
            unsafe { _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(self.0, _mm512_setzero_ps()) }
        }
        #[inline(always)]
        unsafe fn equals(self, other: Self) -> __mmask16 {
            unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, other.0) }
        }
        #[inline(always)]
        unsafe fn compress(self, mask: __mmask16, to: *mut f32) -> usize {
            // In a register and stored whole: the instruction's own store is slow on some cores.
            unsafe { Vector(_mm512_maskz_compress_ps(mask, self.0)).store(to) };
            mask.count_ones() as usize
        }
        #[inline(always)]
        unsafe fn load_bytes(from: *const u8, count: usize) -> Self {
            unsafe {
                let bytes = _mm_maskz_loadu_epi8(first(count), from.cast());
                Vector(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)))
            }
        }
        #[inline(always)]
        unsafe fn select(self, mask: __mmask16, other: Self) -> Self {
            unsafe { Vector(_mm512_mask_blend_ps(mask, other.0, self.0)) }
        }
        #[inline(always)]
        unsafe fn bits(mask: __mmask16) -> u32 {
            u32::from(mask)
        }
        #[inline(always)]
        unsafe fn store_bytes(self, to: *mut u8, count: usize) {
            unsafe {
                let bytes = _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(self.0));
                _mm_mask_storeu_epi8(to.cast(), first(count), bytes);
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use super::{Kernel, Simd};
    use std::arch::aarch64::*;

    #[target_feature(enable = "neon")]
    #[inline(never)]
    pub unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the caller's.
        unsafe { kernel.run::<Vector>() }
    }

    #[derive(Clone, Copy)]
    #[repr(transparent)]
    pub struct Vector(float32x4_t);

    // SAFETY of every block below: the caller's.
    impl Simd for Vector {
        const LANES: usize = 4;
        const ACCUMULATORS: usize = 24;
        type Mask = uint32x4_t;

        #[inline(always)]
        unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
            // SAFETY: the caller's.
            unsafe { enter(kernel) }
        }

        #[inline(always)]
        unsafe fn zero() -> Self {
            unsafe { Vector(vdupq_n_f32(0.0)) }
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            unsafe { Vector(vdupq_n_f32(value)) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            unsafe { Vector(vld1q_f32(from)) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { vst1q_f32(to, self.0) }
        }
        #[inline(always)]
        unsafe fn load_part(from: *const f32, count: usize) -> Self {
            let mut lanes = [0.0f32; 4];
            unsafe {
                std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count.min(4));
                Self::load(lanes.as_ptr())
            }
        }
        #[inline(always)]
        unsafe fn store_part(self, to: *mut f32, count: usize) {
            let mut lanes = [0.0f32; 4];
            unsafe {
                self.store(lanes.as_mut_ptr());
                std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count.min(4));
            }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            unsafe { Vector(vaddq_f32(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            unsafe { Vector(vmulq_f32(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
            unsafe { Vector(vfmaq_f32(addend.0, self.0, factor.0)) }
        }
        #[inline(always)]
        unsafe fn relu(self) -> Self {
            // FMAX gives NaN where either operand is.
            unsafe { Vector(vmaxq_f32(vdupq_n_f32(0.0), self.0)) }
        }
        #[inline(always)]
        unsafe fn beats(self, other: Self) -> uint32x4_t {
            unsafe {
                vorrq_u32(
                    vcgtq_f32(self.0, other.0),
                    vmvnq_u32(vceqq_f32(self.0, self.0)),
                )
            }
        }
        #[inline(always)]
        unsafe fn nonzero(self) -> uint32x4_t {
            unsafe { vmvnq_u32(vceqzq_f32(self.0)) }
        }
        #[inline(always)]
        unsafe fn equals(self, other: Self) -> uint32x4_t {
            unsafe { vceqq_f32(self.0, other.0) }
        }
        #[inline(always)]
        unsafe fn compress(self, mask: uint32x4_t, to: *mut f32) -> usize {
            unsafe {
                let mut lanes = [0.0f32; 4];
                self.store(lanes.as_mut_ptr());
                let bits = Self::bits(mask);
                let mut count = 0;
                for (i, lane) in lanes.into_iter().enumerate() {
                    *to.add(count) = lane;
                    count += (bits >> i & 1) as usize;
                }
                count
            }
        }
        #[inline(always)]
        unsafe fn load_bytes(from: *const u8, count: usize) -> Self {
            let mut lanes = [0.0f32; 4];
            unsafe {
                for (i, lane) in lanes.iter_mut().enumerate().take(count) {
                    *lane = f32::from(*from.add(i));
                }
                Self::load(lanes.as_ptr())
            }
        }
        #[inline(always)]
        unsafe fn select(self, mask: uint32x4_t, other: Self) -> Self {
            unsafe { Vector(vbslq_f32(mask, self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn bits(mask: uint32x4_t) -> u32 {
            unsafe {
                let weights = vld1q_u32([1u32, 2, 4, 8].as_ptr());
                vaddvq_u32(vandq_u32(mask, weights))
            }
        }
        #[inline(always)]
        unsafe fn store_bytes(self, to: *mut u8, count: usize) {
            let mut lanes = [0.0f32; 4];
            unsafe {
                self.store(lanes.as_mut_ptr());
                for i in 0..count.min(4) {
                    *to.add(i) = lanes[i] as u8;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every function of the trait on awkward values, lane by lane.
    struct Check;

    impl Kernel for Check {
        type Output = ();

        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            let values = [
                -1.5f32,
                0.0,
                -0.0,
                f32::NAN,
                f32::INFINITY,
                f32::NEG_INFINITY,
                2.0,
                1e-40,
            ];
            let same = |a: f32, b: f32| a == b || a.is_nan() && b.is_nan();
            for (i, &a) in values.iter().enumerate() {
                for &b in &values {
                    let n = S::LANES;
                    // Lanes differ: a in the odd ones, b in the even ones.
                    let x: Vec<f32> = (0..n).map(|l| if l % 2 == 1 { a } else { b }).collect();
                    let y: Vec<f32> = (0..n).map(|l| if l % 2 == 1 { b } else { a }).collect();
                    let mut out = vec![7.0f32; n];
                    // SAFETY: Level::run chose S; every vector is n long.
                    unsafe {
                        let (v, w) = (S::load(x.as_ptr()), S::load(y.as_ptr()));
                        v.relu().store(out.as_mut_ptr());
                        let relu = |v: f32| if v < 0.0 { 0.0 } else { v };
                        assert!((0..n).all(|l| same(out[l], relu(x[l]))), "relu {a} {b}");
                        v.add(w).mul(S::splat(2.0)).store(out.as_mut_ptr());
                        assert!((0..n).all(|l| same(out[l], (x[l] + y[l]) * 2.0)));
                        v.mul_add(w, S::splat(3.0)).store(out.as_mut_ptr());
                        assert!((0..n).all(|l| same(out[l], x[l].mul_add(y[l], 3.0))));
                        let bits = S::bits(v.beats(w));
                        assert!(
                            (0..n).all(|l| (bits >> l & 1 == 1) == (x[l] > y[l] || x[l].is_nan()))
                        );
                        let bits = S::bits(v.nonzero());
                        assert!((0..n).all(|l| (bits >> l & 1 == 1) == (x[l] != 0.0)));
                        v.select(v.nonzero(), w).store(out.as_mut_ptr());
                        assert!(
                            (0..n).all(|l| same(out[l], if x[l] != 0.0 { x[l] } else { y[l] }))
                        );
                        let bits = S::bits(v.equals(w));
                        assert!((0..n).all(|l| (bits >> l & 1 == 1) == (x[l] == y[l])));
                        let count = v.compress(v.nonzero(), out.as_mut_ptr());
                        let nonzero: Vec<f32> = x.iter().copied().filter(|&v| v != 0.0).collect();
                        assert_eq!(count, nonzero.len());
                        assert!((0..count).all(|l| same(out[l], nonzero[l])));
                        for count in 0..=n {
                            let mut part = vec![7.0f32; n];
                            S::load_part(x.as_ptr(), count).store(out.as_mut_ptr());
                            v.store_part(part.as_mut_ptr(), count);
                            let mut bytes = vec![9u8; n];
                            S::splat(i as f32).store_bytes(bytes.as_mut_ptr(), count);
                            for l in 0..n {
                                let within = l < count;
                                assert!(same(out[l], if within { x[l] } else { 0.0 }));
                                assert!(same(part[l], if within { x[l] } else { 7.0 }));
                                assert_eq!(bytes[l], if within { i as u8 } else { 9 });
                            }
                            S::load_bytes(bytes.as_ptr(), count).store(out.as_mut_ptr());
                            for (l, &number) in out.iter().enumerate() {
                                assert_eq!(number, if l < count { i as f32 } else { 0.0 });
                            }
                        }
                        S::zero().store(out.as_mut_ptr());
                        assert!(out.iter().all(|&v| v == 0.0));
                    }
                }
            }
        }
    }

    #[test]
    fn every_level_computes_the_same_lanes() {
        for level in Level::available() {
            level.run(Check);
        }
    }

    #[test]
    fn levels_can_be_masked_off() {
        assert_eq!(Level::at_most(Some("portable")), Level::Portable);
        assert_eq!(Level::at_most(None), *Level::available().last().unwrap());
        assert!(Level::at_most(Some("avx2")) <= Level::Avx2);
        for level in Level::available() {
            assert_eq!(Level::from_name(level.name()), Some(level));
        }
    }
}
