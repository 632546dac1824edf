//! AArch64: 4 lanes.

use super::{Kernel, Simd};
use std::arch::aarch64::*;

#[target_feature(enable = "neon")]
#[inline(never)]
pub unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: guaranteed by the caller.
    unsafe { kernel.run::<NeonVector>() }
}

#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct NeonVector(float32x4_t);

// SAFETY: in every block below, the caller guarantees it.
impl Simd for NeonVector {
    const LANES: usize = 4;
    const ACCUMULATORS: usize = 24;
    type Mask = uint32x4_t;

    #[inline(always)]
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: guaranteed by the caller.
        unsafe { enter(kernel) }
    }

    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { NeonVector(vdupq_n_f32(0.0)) }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { NeonVector(vdupq_n_f32(value)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { NeonVector(vld1q_f32(from)) }
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
        unsafe { NeonVector(vaddq_f32(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { NeonVector(vmulq_f32(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        unsafe { NeonVector(vfmaq_f32(addend.0, self.0, factor.0)) }
    }
    #[inline(always)]
    unsafe fn relu(self) -> Self {
        // FMAX returns NaN if either operand is NaN.
        unsafe { NeonVector(vmaxq_f32(vdupq_n_f32(0.0), self.0)) }
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
        unsafe { NeonVector(vbslq_f32(mask, self.0, other.0)) }
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
