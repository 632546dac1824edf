//! Vectors in plain Rust, which run on every processor. Tests compare the other levels with them.

use super::{Kernel, Simd};

#[inline(never)]
pub unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: guaranteed by the caller.
    unsafe { kernel.run::<PortableVector>() }
}

#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub struct PortableVector([f32; 4]);

/// Computes each lane by an expression in the lane's index.
macro_rules! lanes {
    ($i:ident => $value:expr) => {{
        let mut out = [0.0f32; 4];
        let mut $i = 0;
        while $i < 4 {
            out[$i] = $value;
            $i += 1;
        }
        PortableVector(out)
    }};
}

impl Simd for PortableVector {
    const LANES: usize = 4;
    const ACCUMULATORS: usize = 12;
    type Mask = [bool; 4];

    #[inline(always)]
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: guaranteed by the caller.
        unsafe { enter(kernel) }
    }

    #[inline(always)]
    unsafe fn zero() -> Self {
        PortableVector([0.0; 4])
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        PortableVector([value; 4])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: guaranteed by the caller.
        PortableVector(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: guaranteed by the caller.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        // SAFETY: the caller guarantees it for the first `count`.
        lanes!(i => if i < count { unsafe { *from.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        for i in 0..count.min(4) {
            // SAFETY: the caller guarantees it for the first `count`.
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
        // f32::mul_add would call the C library on targets without the instruction.
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
            // SAFETY: guaranteed by the caller; `count` is at most the index of the lane.
            unsafe { *to.add(count) = lane };
            count += usize::from(keep);
        }
        count
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8, count: usize) -> Self {
        // SAFETY: the caller guarantees it for the first `count`.
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
            // SAFETY: the caller guarantees it for the first `count`.
            unsafe { *to.add(i) = self.0[i] as u8 }
        }
    }
}
