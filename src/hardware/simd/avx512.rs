//! x86-64 with AVX-512: 16 lanes.

use super::{Kernel, Simd};
use std::arch::x86_64::*;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
#[inline(never)]
pub unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: guaranteed by the caller.
    unsafe { kernel.run::<Avx512Vector>() }
}

#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Avx512Vector(__m512);

/// Loads and stores through this type have no checks in builds with debug assertions, unlike those of the intrinsics.
/// In the innermost loops, the checks would double the time of every test that trains.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Unaligned(__m512);

/// A mask whose first `count` lanes are set.
#[inline(always)]
fn first(count: usize) -> __mmask16 {
    ((1u32 << count.min(16)) - 1) as __mmask16
}

// SAFETY: in every block below, the caller guarantees it.
impl Simd for Avx512Vector {
    const LANES: usize = 16;
    const ACCUMULATORS: usize = 28;
    type Mask = __mmask16;

    #[inline(always)]
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: guaranteed by the caller.
        unsafe { enter(kernel) }
    }

    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { Avx512Vector(_mm512_setzero_ps()) }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { Avx512Vector(_mm512_set1_ps(value)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Avx512Vector((*from.cast::<Unaligned>()).0) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { *to.cast::<Unaligned>() = Unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        unsafe { Avx512Vector(_mm512_maskz_loadu_ps(first(count), from)) }
    }
    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        unsafe { _mm512_mask_storeu_ps(to, first(count), self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { Avx512Vector(_mm512_add_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { Avx512Vector(_mm512_mul_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        unsafe { Avx512Vector(_mm512_fmadd_ps(self.0, factor.0, addend.0)) }
    }
    #[inline(always)]
    unsafe fn relu(self) -> Self {
        // If one operand is NaN, the instruction returns the second.
        unsafe { Avx512Vector(_mm512_max_ps(_mm512_setzero_ps(), self.0)) }
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
        // Compress into a register and store all of it: the compressing store is slow on some cores.
        unsafe { Avx512Vector(_mm512_maskz_compress_ps(mask, self.0)).store(to) };
        mask.count_ones() as usize
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8, count: usize) -> Self {
        unsafe {
            let bytes = _mm_maskz_loadu_epi8(first(count), from.cast());
            Avx512Vector(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)))
        }
    }
    #[inline(always)]
    unsafe fn select(self, mask: __mmask16, other: Self) -> Self {
        unsafe { Avx512Vector(_mm512_mask_blend_ps(mask, other.0, self.0)) }
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
