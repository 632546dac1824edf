//! Borrows the elements of Candle's CPU tensors as slices, to read or to write in place, without allocation.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, DType, Device, InplaceOp1, Layout, Result, Shape, Storage, StorageRef, Tensor, bail,
};
use std::cell::RefCell;
use std::ops::{Deref, Range};

/// Alignment in f32: 64 bytes, the size of a cache line.
const ALIGN: usize = 16;

/// Allocates a tensor of zeros. On the CPU its first element is aligned to a cache line.
///
/// # Errors
/// Returns an error if the device runs out of memory.
pub fn zeros(shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
    let shape = shape.into();
    if !device.is_cpu() {
        return Tensor::zeros(shape, DType::F32, device);
    }
    let count = shape.elem_count();
    let room = Tensor::zeros(count + ALIGN - 1, DType::F32, device)?;
    let start = {
        let room = read(&room)?;
        prefer_huge_pages(&room);
        room.as_ptr().align_offset(4 * ALIGN) % ALIGN
    };
    room.narrow(0, start, count)?.reshape(shape)
}

/// The borrowed elements of a tensor.
pub struct Slice<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

/// Borrows the elements of a contiguous f32 tensor on the CPU. Writing it fails until the slice is dropped.
///
/// # Errors
/// Returns an error if the tensor is not contiguous, not f32 or not on the CPU.
pub fn read(tensor: &Tensor) -> Result<Slice<'_>> {
    let (storage, layout) = tensor.storage_and_layout();
    let range = range(layout)?;
    if !matches!(&*storage, Storage::Cpu(CpuStorage::F32(_))) {
        bail!(
            "expected f32 numbers on the CPU, found {:?} on {:?}",
            tensor.dtype(),
            tensor.device()
        );
    }
    Ok(Slice { storage, range })
}

impl Deref for Slice<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(all)) => &all[self.range.clone()],
            _ => &[], // `read` makes no such slice.
        }
    }
}

/// Calls `f` with the elements of contiguous f32 tensors on the CPU as mutable slices. The tensors must not share
/// storage with each other or with a [`Slice`] in use.
///
/// # Errors
/// Returns an error if a tensor is not contiguous, not f32, not on the CPU, or given twice.
pub fn write<const N: usize, R>(
    tensors: [&Tensor; N],
    f: impl FnOnce([&mut [f32]; N]) -> R,
) -> Result<R> {
    for (i, tensor) in tensors.iter().enumerate() {
        if tensors[..i].iter().any(|t| t.id() == tensor.id()) {
            bail!(
                "a tensor of shape {:?} is lent twice for writing",
                tensor.shape()
            );
        }
    }
    let mut result = None;
    let mut f = Some(f);
    let mut ranges = [(std::ptr::null_mut::<f32>(), 0); N];
    nest(&tensors, &mut ranges, 0, &mut |ranges: &[(
        *mut f32,
        usize,
    )]| {
        let lent = std::array::from_fn(|i| {
            let (start, len) = ranges[i];
            // SAFETY: the enclosing calls hold the write locks of all storages. The storages differ, since a second
            // lock of the same storage fails.
            unsafe { std::slice::from_raw_parts_mut(start, len) }
        });
        result = f.take().map(|f| f(lent));
    })?;
    result.ok_or_else(|| candle_core::Error::Msg("nothing was lent".into()))
}

/// The address and the number of a tensor's elements.
type ElementRange = (*mut f32, usize);

type LendTo<'a> = dyn FnMut(&mut [f32]) -> Result<()> + 'a;

/// Takes the write locks of the tensors from index `at` on in nested calls, then calls `f`.
fn nest(
    tensors: &[&Tensor],
    ranges: &mut [ElementRange],
    at: usize,
    f: &mut dyn FnMut(&[ElementRange]),
) -> Result<()> {
    if at == tensors.len() {
        f(ranges);
        return Ok(());
    }
    tensors[at].inplace_op1(&Lend(RefCell::new(&mut |all: &mut [f32]| {
        ranges[at] = (all.as_mut_ptr(), all.len());
        nest(tensors, ranges, at + 1, f)
    })))
}

/// An in-place operation that passes the elements to a closure. This is how Candle gives access to a tensor's storage.
struct Lend<'a>(RefCell<&'a mut LendTo<'a>>);

impl InplaceOp1 for Lend<'_> {
    fn name(&self) -> &'static str {
        "lend"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let range = range(layout)?;
        match storage {
            CpuStorage::F32(all) => (self.0.borrow_mut())(&mut all[range]),
            other => bail!("expected f32 numbers, found {:?}", other.dtype()),
        }
    }
}

/// Asks the system for huge pages where a buffer is large: kernels go through several large buffers at once, and with
/// pages of 4 KiB the processor would wait for their addresses.
#[cfg(target_os = "linux")]
fn prefer_huge_pages(room: &[f32]) {
    const PAGE: usize = 4096;
    const HUGE: usize = 2 << 20;
    let bytes = size_of_val(room);
    if bytes < 2 * HUGE {
        return;
    }
    let begin = room.as_ptr().addr().next_multiple_of(PAGE);
    let len = (room.as_ptr().addr() + bytes - begin) / PAGE * PAGE;
    // SAFETY: the pages lie within the buffer, and the advice does not change their contents. A system that does not
    // follow it is slower, and that is all.
    unsafe {
        let begin = room.as_ptr().cast_mut().with_addr(begin);
        libc::madvise(begin.cast(), len, libc::MADV_HUGEPAGE);
    }
}

#[cfg(not(target_os = "linux"))]
fn prefer_huge_pages(_room: &[f32]) {}

fn range(layout: &Layout) -> Result<Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => bail!("expected a contiguous tensor, found {layout:?}"),
    }
}

/// A buffer that begins at a cache line, which kernels keep between calls.
#[derive(Default)]
pub struct Aligned {
    room: Vec<f32>,
    start: usize,
    len: usize,
}

impl Aligned {
    pub fn zeros(len: usize) -> Self {
        let room = vec![0.0f32; len + ALIGN - 1];
        prefer_huge_pages(&room);
        let start = room.as_ptr().align_offset(4 * ALIGN) % ALIGN;
        Aligned { room, start, len }
    }

    /// Makes the buffer at least `len` long. Its contents are lost if it grows.
    pub fn reserve(&mut self, len: usize) -> &mut [f32] {
        if self.len < len {
            *self = Aligned::zeros(len);
        }
        &mut self[..len]
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.room[self.start..self.start + self.len]
    }
}

impl std::ops::DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.room[self.start..self.start + self.len]
    }
}

/// A scratch buffer of this thread. It begins at a cache line, and its initial contents are arbitrary.
pub struct Scratch {
    mine: Aligned,
    len: usize,
}

thread_local! {
    static FREE: RefCell<Vec<Aligned>> = const { RefCell::new(Vec::new()) };
}

/// A scratch buffer of `len` numbers. Threads reuse their buffers, which have grown to the largest size requested, so
/// that steps do not allocate. (A closure could not be used instead: kernels must be inlined to be compiled for their
/// vector level.)
pub fn scratch(len: usize) -> Scratch {
    let mut mine = FREE
        .with(|free| free.borrow_mut().pop())
        .unwrap_or_default();
    mine.reserve(len);
    Scratch { mine, len }
}

impl Deref for Scratch {
    type Target = [f32];

    #[inline(always)]
    fn deref(&self) -> &[f32] {
        &self.mine[..self.len]
    }
}

impl std::ops::DerefMut for Scratch {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.mine[..self.len]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mine = std::mem::take(&mut self.mine);
        FREE.with(|free| free.borrow_mut().push(mine));
    }
}

/// Whether all numbers are finite.
pub fn all_finite(numbers: &[f32]) -> bool {
    // A number is not finite if all bits of its exponent are set. The compiler vectorises integer code without
    // branches.
    const NONE: u32 = 0x7f80_0000;
    let any = numbers
        .iter()
        .fold(0, |any, v| any | u32::from(v.to_bits() & NONE == NONE));
    any == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_written_in_place_and_read_back() {
        let device = Device::Cpu;
        let a = zeros((2, 3, 5, 7), &device).unwrap();
        let b = zeros(4, &device).unwrap();
        assert_eq!(read(&a).unwrap().as_ptr() as usize % 64, 0);
        write([&a, &b], |[a, b]| {
            assert_eq!((a.len(), b.len()), (210, 4));
            a[209] = 1.0;
            b.fill(2.0);
        })
        .unwrap();
        assert_eq!(a.sum_all().unwrap().to_scalar::<f32>().unwrap(), 1.0);
        assert_eq!(b.to_vec1::<f32>().unwrap(), [2.0; 4]);
    }

    #[test]
    fn what_cannot_be_lent_is_an_error() {
        let device = Device::Cpu;
        let a = zeros((2, 3), &device).unwrap();
        assert!(write([&a, &a], |_| ()).is_err());
        assert!(write([&a.t().unwrap()], |_| ()).is_err());
        assert!(read(&a.t().unwrap()).is_err());
        assert!(read(&a.to_dtype(DType::F64).unwrap()).is_err());
        assert!(write([&a.to_dtype(DType::U8).unwrap()], |_| ()).is_err());
    }

    #[test]
    fn scratch_is_kept_and_nests() {
        for _ in 0..3 {
            let mut a = scratch(100);
            let mut b = scratch(50);
            a.fill(1.0);
            b.fill(2.0);
            assert!(a.len() == 100 && a.iter().all(|&v| v == 1.0));
            assert_eq!(a.as_ptr() as usize % 64, 0);
        }
    }

    #[test]
    fn one_number_that_is_none_is_seen_wherever_it_is() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in 0..70 {
                let mut numbers = vec![f32::MAX; 70];
                numbers[69 - at] = f32::MIN_POSITIVE;
                assert!(all_finite(&numbers));
                numbers[at] = bad;
                assert!(!all_finite(&numbers), "{bad} at {at}");
            }
        }
        assert!(all_finite(&[]));
    }
}
