//! x86-64 with AVX2 and FMA: 8 lanes.

use super::{Kernel, Simd};
use std::arch::x86_64::*;

#[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
#[inline(never)]
pub unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: guaranteed by the caller.
    unsafe { kernel.run::<Avx2Vector>() }
}

#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Avx2Vector(__m256);

/// Loads and stores through this type have no checks in builds with debug assertions, unlike those of the intrinsics.
/// In the innermost loops, the checks would double the time of every test that trains.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Unaligned(__m256);

/// A mask whose first `count` lanes are set.
#[inline(always)]
unsafe fn first(count: usize) -> __m256i {
    // SAFETY: guaranteed by the caller.
    unsafe {
        _mm256_cmpgt_epi32(
            _mm256_set1_epi32(count as i32),
            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
        )
    }
}

// SAFETY: in every block below, the caller guarantees it.
impl Simd for Avx2Vector {
    const LANES: usize = 8;
    const ACCUMULATORS: usize = 12;
    type Mask = __m256;

    #[inline(always)]
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: guaranteed by the caller.
        unsafe { enter(kernel) }
    }

    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { Avx2Vector(_mm256_setzero_ps()) }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { Avx2Vector(_mm256_set1_ps(value)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Avx2Vector((*from.cast::<Unaligned>()).0) }
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
        unsafe { Avx2Vector(_mm256_maskload_ps(from, first(count))) }
    }
    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        // Avoid the masked store where possible: it is slow microcode on some cores.
        if count >= 8 {
            return unsafe { self.store(to) };
        }
        unsafe { _mm256_maskstore_ps(to, first(count), self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { Avx2Vector(_mm256_add_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { Avx2Vector(_mm256_mul_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        unsafe { Avx2Vector(_mm256_fmadd_ps(self.0, factor.0, addend.0)) }
    }
    #[inline(always)]
    unsafe fn relu(self) -> Self {
        // If one operand is NaN, the instruction returns the second.
        unsafe { Avx2Vector(_mm256_max_ps(_mm256_setzero_ps(), self.0)) }
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
            Avx2Vector(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)))
        }
    }
    #[inline(always)]
    unsafe fn select(self, mask: __m256, other: Self) -> Self {
        unsafe { Avx2Vector(_mm256_blendv_ps(other.0, self.0, mask)) }
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
