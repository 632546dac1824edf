//! The backward pass of some images of a 3x3 convolution that only a 2x2 max-pool reads, without ReLU: every pooled
//! pixel passes its gradient to one result of the four, so three quarters of the results' gradient are zero.
//!
//! Each pooled pixel of each output channel is an entry of a list: where the kernel stands over the result that was
//! selected, and the gradient. For one output channel and one vector of input channels, the weights and the sums of
//! their gradient, nine vectors each, are held in registers for all of the channel's entries: each adds the image under
//! the kernel, times the gradient, to the sums, and the weights, times the gradient, to the gradient of the image there.
//!
//! Entries come in any order, so what they read and write must lie in the first-level cache. Images and their gradients
//! are laid out with their padding, one vector of input channels after the other ([`Layout`]), and are worked on in
//! parts: a few small images, or some rows of a large one.

#![allow(
    clippy::needless_range_loop,
    reason = "constant index loops become registers; iterators over arrays of vectors less surely so"
)]

use super::geometry::{Geometry, cut};
use super::layout::Layout;
use super::tile::unroll;
use crate::hardware::simd::{Kernel, Simd};
use crate::layers::slices::scratch;

/// Places of the kernel.
const PLACES: usize = 9;
/// f32 of images and their gradients, one vector of input channels of each, that are worked on together: most of the
/// first-level cache, beside the list, the weights and the sums.
const PART_LEN: usize = 1 << 13;
/// f32 of whole images and their gradients that are laid out together: a part of the second-level cache.
const IMAGES_LEN: usize = 1 << 17;

/// Whether a pooled convolution goes this way.
pub fn fits(g: &Geometry) -> bool {
    g.kernel == 3
}

/// Images that are best laid out together.
pub fn images(g: &Geometry, lanes: usize) -> usize {
    (IMAGES_LEN / (2 * Layout::vectors(g, lanes).image_len(g))).max(1)
}

/// The backward pass of some images.
pub struct PooledBackward<'a> {
    pub geometry: &'a Geometry,
    /// Whole images.
    pub x: &'a [f32],
    /// The gradient of the pooled pixels.
    pub grad: &'a [f32],
    /// Index in the 2x2 window that each pooled pixel selected.
    pub taken: &'a [u8],
    /// Weights packed by [`Layout::vectors`]; unused without `grad_input`.
    pub weights: &'a [f32],
    /// Weight gradient in the order of the packed weights, then the bias gradient, to add to.
    pub sums: &'a mut [f32],
    /// Overwrite `sums`.
    pub fresh: bool,
    pub grad_input: Option<&'a mut [f32]>,
}

impl Kernel for PooledBackward<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let g = self.geometry;
        let layout = Layout::vectors(g, S::LANES);
        let images = self.x.len() / g.input_len();
        let entries = images * (g.out_height / 2) * (g.out_width / 2);
        let (sums, bias) = self.sums.split_at_mut(layout.weights_len(g));
        if self.fresh {
            sums.fill(0.0);
            bias.fill(0.0);
        }
        let list_len = entries * g.outputs.next_multiple_of(S::LANES);
        let (mut places, mut values) = (scratch(list_len), scratch(list_len));
        let len = images * layout.image_len(g);
        let mut x = scratch(len);
        layout.widen(g, self.x, &mut x);
        let mut grad_x = self.grad_input.is_some().then(|| {
            let mut grad_x = scratch(len);
            grad_x.fill(0.0);
            grad_x
        });
        // SAFETY: the caller guarantees it; the scratch is as long as the list and the images.
        unsafe {
            S::call(ListEntries {
                geometry: g,
                layout,
                images,
                grad: self.grad,
                taken: self.taken,
                bias,
                places: &mut places,
                values: &mut values,
            });
            S::call(Accumulate {
                geometry: g,
                layout,
                images,
                entries,
                places: &places,
                values: &values,
                x: &x,
                weights: self.weights,
                sums,
                grad_x: grad_x.as_deref_mut(),
            });
        }
        if let (Some(grad_x), Some(grad_input)) = (grad_x, self.grad_input) {
            layout.narrow(g, &grad_x, grad_input);
        }
    }
}

/// Writes the list of entries: for each vector of output channels, for each image, for each pooled pixel, a place and a
/// value in each lane. Places are numbers of f32 from the begin of the first image's plane, as the bits of f32: vectors
/// carry them along. Adds the values to the bias gradient.
struct ListEntries<'a> {
    geometry: &'a Geometry,
    layout: Layout,
    images: usize,
    grad: &'a [f32],
    taken: &'a [u8],
    bias: &'a mut [f32],
    places: &'a mut [f32],
    values: &'a mut [f32],
}

impl Kernel for ListEntries<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let g = self.geometry;
        let row = g.padded().1 * S::LANES;
        let image_len = self.layout.image_len(g);
        let mut entry = 0;
        // SAFETY: the caller guarantees it; vectors are loaded only as far as the channels reach.
        unsafe {
            for first in (0..g.outputs).step_by(S::LANES) {
                let lanes = (g.outputs - first).min(S::LANES);
                let mut sum = S::load_part(self.bias.as_ptr().add(first), lanes);
                let mut from = first;
                for image in 0..self.images {
                    for y in 0..g.out_height / 2 {
                        for x in 0..g.out_width / 2 {
                            let at = |n: usize| {
                                let (y, x) = (2 * y + n / 2, 2 * x + n % 2);
                                let place = image * image_len + g.stride * (y * row + x * S::LANES);
                                f32::from_bits(place as u32)
                            };
                            let taken = S::load_bytes(self.taken.as_ptr().add(from), lanes);
                            let mut place = S::splat(at(0));
                            for n in 1..4 {
                                let is = taken.equals(S::splat(n as f32));
                                place = S::splat(at(n)).select(is, place);
                            }
                            let value = S::load_part(self.grad.as_ptr().add(from), lanes);
                            place.store(self.places.as_mut_ptr().add(entry));
                            value.store(self.values.as_mut_ptr().add(entry));
                            sum = sum.add(value);
                            entry += S::LANES;
                            from += g.outputs;
                        }
                    }
                }
                sum.store_part(self.bias.as_mut_ptr().add(first), lanes);
            }
        }
    }
}

/// Adds every entry to the sums and to the gradient of the images.
struct Accumulate<'a> {
    geometry: &'a Geometry,
    layout: Layout,
    images: usize,
    /// Entries of one output channel.
    entries: usize,
    places: &'a [f32],
    values: &'a [f32],
    x: &'a [f32],
    weights: &'a [f32],
    sums: &'a mut [f32],
    grad_x: Option<&'a mut [f32]>,
}

impl Kernel for Accumulate<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let g = self.geometry;
        let plane = self.layout.plane_len(g);
        let rows = g.out_height / 2;
        // A part is some images, or a band of the rows of one; either is one run of the list.
        let planes = (PART_LEN / (2 * plane)).clamp(1, self.images);
        let bands = (2 * plane).div_ceil(PART_LEN).min(rows);
        let parts = self.images.div_ceil(planes) * bands;
        let begin = |part: usize| {
            let image = (part / bands * planes).min(self.images);
            (image * rows + cut(rows, bands, part % bands)) * (g.out_width / 2)
        };
        // SAFETY: the caller guarantees it; every place leaves room for the kernel within the plane.
        unsafe {
            for vector in 0..self.layout.parts() {
                let channel = Channel {
                    row: g.padded().1 * S::LANES,
                    x: self.x.as_ptr().add(vector * plane),
                    grad_x: match &self.grad_x {
                        Some(grad_x) => grad_x.as_ptr().add(vector * plane).cast_mut(),
                        None => std::ptr::null_mut(),
                    },
                    places: self.places.as_ptr(),
                    values: self.values.as_ptr(),
                    count: 0,
                    weights: self.weights.as_ptr(),
                    sums: self.sums.as_mut_ptr(),
                };
                for part in 0..parts {
                    let (begin, end) = (begin(part), begin(part + 1));
                    for output in 0..g.outputs {
                        let (lines, lane) = (output / S::LANES, output % S::LANES);
                        let entry = (lines * self.entries + begin) * S::LANES + lane;
                        let weight = self.layout.weights_begin(g, vector, output);
                        let channel = Channel {
                            places: channel.places.add(entry),
                            values: channel.values.add(entry),
                            count: end - begin,
                            weights: channel.weights.add(weight),
                            sums: channel.sums.add(weight),
                            ..channel
                        };
                        if self.grad_x.is_none() {
                            channel.add::<S, true, false>();
                        } else if 2 * PLACES <= S::ACCUMULATORS {
                            channel.add::<S, true, true>();
                        } else {
                            channel.add::<S, true, false>();
                            channel.add::<S, false, true>();
                        }
                    }
                }
            }
        }
    }
}

/// Entries of one output channel, and one vector of input channels.
#[derive(Clone, Copy)]
struct Channel {
    /// f32 from one row of a plane to the next.
    row: usize,
    x: *const f32,
    grad_x: *mut f32,
    /// One in each line of the list.
    places: *const f32,
    values: *const f32,
    count: usize,
    weights: *const f32,
    sums: *mut f32,
}

impl Channel {
    /// Adds to the sums, to the gradient of the images, or to both.
    #[inline(always)]
    unsafe fn add<S: Simd, const SUMS: bool, const GRADS: bool>(self) {
        // SAFETY: the caller guarantees it; without GRADS neither the weights nor the images' gradient are read.
        unsafe {
            let mut weights = [S::zero(); PLACES];
            let mut sums = [S::zero(); PLACES];
            unroll! { t in PLACES {
                if GRADS {
                    weights[t] = S::load(self.weights.add(t * S::LANES));
                }
                if SUMS {
                    sums[t] = S::load(self.sums.add(t * S::LANES));
                }
            }}
            for entry in 0..self.count {
                let place = (*self.places.add(entry * S::LANES)).to_bits() as usize;
                let value = S::splat(*self.values.add(entry * S::LANES));
                unroll! { t in PLACES {
                    let at = place + t / 3 * self.row + t % 3 * S::LANES;
                    if SUMS {
                        sums[t] = value.mul_add(S::load(self.x.add(at)), sums[t]);
                    }
                    if GRADS {
                        let grad = self.grad_x.add(at);
                        value.mul_add(weights[t], S::load(grad)).store(grad);
                    }
                }}
            }
            if SUMS {
                unroll! { t in PLACES {
                    sums[t].store(self.sums.add(t * S::LANES));
                }}
            }
        }
    }
}
