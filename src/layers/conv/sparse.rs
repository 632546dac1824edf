//! The backward pass of one image where most of the gradient is exactly zero, as it is behind ReLU, max-pooling (one of
//! four) and dropout: only the nonzero elements cost time.
//!
//! The gradient becomes a list: for each pixel of the convolution's results, in order, its open channels and their
//! values. The weight gradient of one output channel is then a sum over that channel's entries, held in registers, one
//! vector (or two) for every place of the kernel; the input gradient is a window of the kernel's size that moves along
//! the pixels, also in registers, to which each entry adds its channel's weights.

#![allow(
    clippy::needless_range_loop,
    reason = "constant index loops become registers; iterators over arrays of vectors less surely so"
)]

use super::backward::Arriving;
use super::geometry::{Geometry, cut};
use super::layout::Layout;
use super::tile::{unroll, unroll_two};
use crate::hardware::simd::{Kernel, Simd, prefetch};
use crate::layers::slices::scratch;

/// Most lanes of any level: what a compressed store may write beyond the end.
const SLACK: usize = 16;

/// The backward pass of one image.
pub struct SparseBackward<'a> {
    pub geometry: &'a Geometry,
    pub x: &'a [f32],
    /// The next image, if any: it is prefetched, because the weight gradient reads it in random order.
    pub next: &'a [f32],
    pub arriving: Arriving<'a>,
    /// Weights packed by [`Layout::whole`]; unused without `grad_input`.
    pub weights: &'a [f32],
    /// Weight gradient in the order of the packed weights, then the bias gradient, to add to.
    pub sums: &'a mut [f32],
    /// Overwrite `sums`.
    pub fresh: bool,
    pub grad_input: Option<&'a mut [f32]>,
}

/// The nonzero elements of the gradient of the convolution's results.
#[derive(Clone, Copy)]
struct Entries {
    /// Index of each pixel's first entry, and the total count at the end.
    begins: *const u32,
    /// The output channel of each entry.
    channels: *const u32,
    values: *const f32,
}

/// An image (or its gradient) with its padding, channels rounded up to whole vectors.
#[derive(Clone, Copy)]
struct Field {
    at: *mut f32,
    row: usize,
    line: usize,
}

impl Kernel for SparseBackward<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let g = self.geometry;
        let pixels = g.out_height * g.out_width;
        let layout = Layout::whole(g, S::LANES);
        let line = layout.width();
        let field_len = layout.image_len(g);
        let direct = g.padding == 0 && line == g.inputs;

        let most = self.arriving.grad.len();
        let mut begins = scratch(pixels + 1);
        let mut channels = scratch(most + SLACK);
        let mut values = scratch(most + SLACK);
        // SAFETY: the caller guarantees it; f32 and u32 have one size and alignment, and all are as long as the entries
        // can be many.
        unsafe {
            let begins: *mut u32 = begins.as_mut_ptr().cast();
            collect::<S>(
                g,
                &self.arriving,
                begins,
                channels.as_mut_ptr(),
                values.as_mut_ptr(),
            );
            let entries = Entries {
                begins,
                channels: channels.as_ptr().cast(),
                values: values.as_ptr(),
            };
            let padded = (!direct).then(|| {
                let mut padded = scratch(field_len);
                layout.widen(g, self.x, &mut padded);
                padded
            });
            let x = padded
                .as_ref()
                .map_or(self.x.as_ptr(), |padded| padded.as_ptr());
            let x = Field {
                at: x.cast_mut(),
                row: g.padded().1 * line,
                line,
            };
            S::call(WeightGradient {
                geometry: g,
                entries,
                x,
                next: self.next,
                sums: self.sums,
                fresh: self.fresh,
            });
            let Some(grad_input) = self.grad_input else {
                return;
            };
            let mut padded = (!direct).then(|| scratch(field_len));
            let out = match &mut padded {
                Some(padded) => &mut **padded,
                None => &mut *grad_input,
            };
            S::call(InputGradient {
                geometry: g,
                entries,
                weights: self.weights.as_ptr(),
                out: Field {
                    at: out.as_mut_ptr(),
                    ..x
                },
                out_len: field_len,
            });
            if let Some(padded) = padded {
                layout.narrow(g, &padded, grad_input);
            }
        }
    }
}

/// Lists the entries, pixel by pixel.
///
/// # Safety
/// That of `S`; `begins` holds a number for each pixel and one more, the others one for each of the gradient and
/// [`SLACK`].
#[inline(always)]
unsafe fn collect<S: Simd>(
    g: &Geometry,
    arriving: &Arriving,
    begins: *mut u32,
    channels: *mut f32,
    values: *mut f32,
) {
    // The number of each channel, as the bits of an f32: vectors carry them along.
    let mut numbers = scratch(g.outputs + SLACK);
    for (c, number) in numbers.iter_mut().enumerate() {
        *number = f32::from_bits(c as u32);
    }
    let columns = g.out_width / 2;
    let mut count = 0;
    // SAFETY: the caller guarantees it; vectors are loaded only as far as the channels reach.
    unsafe {
        let scale = S::splat(arriving.scale);
        for y in 0..g.out_height {
            for x in 0..g.out_width {
                *begins.add(y * g.out_width + x) = count as u32;
                let (pixel, place) = match arriving.taken {
                    None => (y * g.out_width + x, None),
                    Some(taken) => {
                        if y / 2 >= g.out_height / 2 || x / 2 >= columns {
                            continue; // An odd last row or column is not pooled.
                        }
                        let place = (y % 2 * 2 + x % 2) as f32;
                        (y / 2 * columns + x / 2, Some((taken, S::splat(place))))
                    }
                };
                let mut first = 0;
                while first < g.outputs {
                    let lanes = (g.outputs - first).min(S::LANES);
                    let at = pixel * g.outputs + first;
                    let mut value = S::load_part(arriving.grad.as_ptr().add(at), lanes);
                    if let Some(output) = arriving.output {
                        let output = S::load_part(output.as_ptr().add(at), lanes);
                        value = value.mul(scale).select(output.nonzero(), S::zero());
                    }
                    if let Some((taken, place)) = place {
                        let taken = S::load_bytes(taken.as_ptr().add(at), lanes);
                        value = value.select(taken.equals(place), S::zero());
                    }
                    let open = value.nonzero();
                    S::load(numbers.as_ptr().add(first)).compress(open, channels.add(count));
                    count += value.compress(open, values.add(count));
                    first += lanes;
                }
            }
        }
        *begins.add(g.out_height * g.out_width) = count as u32;
    }
}

/// Adds up the weight and bias gradients of the entries.
struct WeightGradient<'a> {
    geometry: &'a Geometry,
    entries: Entries,
    x: Field,
    next: &'a [f32],
    sums: &'a mut [f32],
    fresh: bool,
}

impl Kernel for WeightGradient<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let g = self.geometry;
        let pixels = g.out_height * g.out_width;
        let len = Layout::whole(g, S::LANES).channel_len(g);
        let (weights, bias) = self.sums.split_at_mut(g.outputs * len);
        if self.fresh {
            weights.fill(0.0);
            bias.fill(0.0);
        }
        // The entries again, channel by channel: for each, where the kernel stands in the image, and the value.
        let mut counts = scratch(g.outputs);
        let mut places = scratch(g.outputs * pixels);
        let mut values = scratch(g.outputs * pixels);
        // SAFETY: the caller guarantees it; no channel has more entries than there are pixels, and every place leaves
        // room for the kernel within the field.
        unsafe {
            let counts: *mut u32 = counts.as_mut_ptr().cast();
            let places: *mut u32 = places.as_mut_ptr().cast();
            let values = values.as_mut_ptr();
            for c in 0..g.outputs {
                *counts.add(c) = 0;
            }
            for y in 0..g.out_height {
                for x in 0..g.out_width {
                    let pixel = self.entries.begins.add(y * g.out_width + x);
                    let place = y * g.stride * self.x.row + x * g.stride * self.x.line;
                    for entry in *pixel as usize..*pixel.add(1) as usize {
                        let channel = *self.entries.channels.add(entry) as usize;
                        let count = *counts.add(channel) as usize;
                        *places.add(channel * pixels + count) = place as u32;
                        *values.add(channel * pixels + count) = *self.entries.values.add(entry);
                        *counts.add(channel) = count as u32 + 1;
                    }
                }
            }
            for c in 0..g.outputs {
                let ahead = |c| cut(self.next.len(), g.outputs, c);
                prefetch(&self.next[ahead(c)..ahead(c + 1)]);
                let list = Places {
                    places: places.add(c * pixels),
                    values: values.add(c * pixels),
                    count: *counts.add(c) as usize,
                };
                for entry in 0..list.count {
                    bias[c] += *list.values.add(entry);
                }
                list.add_channel::<S>(g, self.x, weights[c * len..].as_mut_ptr());
            }
        }
    }
}

/// One channel's entries.
#[derive(Clone, Copy)]
struct Places {
    places: *const u32,
    values: *const f32,
    count: usize,
}

impl Places {
    /// Adds the gradient of one channel's weights to `out`.
    #[inline(always)]
    unsafe fn add_channel<S: Simd>(self, g: &Geometry, x: Field, out: *mut f32) {
        // SAFETY: the caller guarantees it; the offsets stay within the kernel and the line.
        unsafe {
            let mut first = 0;
            while first < x.line {
                let two = x.line - first >= 2 * S::LANES;
                let (at, out) = (x.at.add(first), out.add(first));
                first += match g.kernel {
                    3 if two && 18 <= S::ACCUMULATORS => {
                        self.add_places::<S, 3, 9, 2>(Field { at, ..x }, out);
                        2 * S::LANES
                    }
                    3 => {
                        self.add_places::<S, 3, 9, 1>(Field { at, ..x }, out);
                        S::LANES
                    }
                    5 if two => {
                        for ky in 0..5 {
                            let at = at.add(ky * x.row);
                            self.add_places::<S, 5, 5, 2>(
                                Field { at, ..x },
                                out.add(ky * 5 * x.line),
                            );
                        }
                        2 * S::LANES
                    }
                    kernel => {
                        for place in 0..kernel * kernel {
                            let at = at.add(place / kernel * x.row + place % kernel * x.line);
                            self.add_places::<S, 1, 1, 1>(
                                Field { at, ..x },
                                out.add(place * x.line),
                            );
                        }
                        S::LANES
                    }
                };
            }
        }
    }

    /// For `T` places of the kernel, `W` in a row of it, and `V` vectors of input channels.
    #[inline(always)]
    unsafe fn add_places<S: Simd, const W: usize, const T: usize, const V: usize>(
        self,
        x: Field,
        out: *mut f32,
    ) {
        // SAFETY: the caller guarantees it.
        unsafe {
            let mut sums = [[S::zero(); V]; T];
            unroll! { t in T {
                unroll_two! { v in V {
                    sums[t][v] = S::load(out.add(t * x.line + v * S::LANES));
                }}
            }}
            for entry in 0..self.count {
                let at = x.at.add(*self.places.add(entry) as usize);
                let value = S::splat(*self.values.add(entry));
                unroll! { t in T {
                    let at = at.add(t / W * x.row + t % W * x.line);
                    unroll_two! { v in V {
                        sums[t][v] = value.mul_add(S::load(at.add(v * S::LANES)), sums[t][v]);
                    }}
                }}
            }
            unroll! { t in T {
                unroll_two! { v in V {
                    sums[t][v].store(out.add(t * x.line + v * S::LANES));
                }}
            }}
        }
    }
}

/// Writes the gradient of the padded input.
struct InputGradient<'a> {
    geometry: &'a Geometry,
    entries: Entries,
    weights: *const f32,
    out: Field,
    out_len: usize,
}

impl Kernel for InputGradient<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (g, line) = (self.geometry, self.out.line);
        // SAFETY: the caller guarantees it; the offsets stay within the kernel, the line and the field.
        unsafe {
            // Where the windows below do not slide, they add to what stands there.
            if g.stride > 1 || !matches!(g.kernel, 1 | 3) {
                std::slice::from_raw_parts_mut(self.out.at, self.out_len).fill(0.0);
            }
            for y in 0..g.out_height {
                let mut first = 0;
                while first < line {
                    let two = line - first >= 2 * S::LANES;
                    let window = |places: usize| Window {
                        weights: self.weights.add(places * line + first),
                        out: Field {
                            at: self
                                .out
                                .at
                                .add((y * g.stride + places / g.kernel) * self.out.row)
                                .add(places % g.kernel * line + first),
                            ..self.out
                        },
                    };
                    first += match g.kernel {
                        3 if two && 18 <= S::ACCUMULATORS => {
                            window(0).move_along::<S, 3, 9, 2>(&self, y, 0);
                            2 * S::LANES
                        }
                        3 => {
                            window(0).move_along::<S, 3, 9, 1>(&self, y, 0);
                            S::LANES
                        }
                        5 if two => {
                            for ky in 0..5 {
                                window(ky * 5).move_along::<S, 5, 5, 2>(&self, y, ky);
                            }
                            2 * S::LANES
                        }
                        kernel => {
                            for place in 0..kernel * kernel {
                                window(place).move_along::<S, 1, 1, 1>(&self, y, place / kernel);
                            }
                            S::LANES
                        }
                    };
                }
            }
        }
    }
}

/// Some places of the kernel, over the first pixel of a row of results.
#[derive(Clone, Copy)]
struct Window {
    /// Of the first output channel.
    weights: *const f32,
    out: Field,
}

impl Window {
    /// Moves over row `y`: `T` places of the kernel, `W` in a row of it, the first in its row `ky`; `V` vectors of input
    /// channels.
    #[inline(always)]
    unsafe fn move_along<S: Simd, const W: usize, const T: usize, const V: usize>(
        self,
        all: &InputGradient,
        y: usize,
        ky: usize,
    ) {
        let (g, line) = (all.geometry, self.out.line);
        let channel = g.kernel * g.kernel * line;
        // Whether the window covers the kernel's rows to their whole width and moves pixel by pixel: then it holds what
        // the next pixel adds to as well, and every pixel is written once for each row of results: the first time (by
        // the kernel's last row, or in the first row of results) without reading.
        let slides = g.stride == 1 && W == g.kernel;
        // SAFETY: the caller guarantees it.
        unsafe {
            let begins = all.entries.begins.add(y * g.out_width);
            let mut sums = [[S::zero(); V]; T];
            let mut out = self.out.at;
            let mut entry = *begins as usize;
            for x in 0..g.out_width {
                let end = *begins.add(x + 1) as usize;
                while entry < end {
                    let weights = self
                        .weights
                        .add(*all.entries.channels.add(entry) as usize * channel);
                    let value = S::splat(*all.entries.values.add(entry));
                    unroll! { t in T {
                        unroll_two! { v in V {
                            let weight = S::load(weights.add(t * line + v * S::LANES));
                            sums[t][v] = value.mul_add(weight, sums[t][v]);
                        }}
                    }}
                    entry += 1;
                }
                let whole = !slides || x + 1 == g.out_width;
                unroll! { t in T {
                    if t.is_multiple_of(W) || whole {
                        let newest = slides && (y == 0 || ky + t / W + 1 == g.kernel);
                        let out = out.add(t / W * self.out.row + t % W * line);
                        unroll_two! { v in V {
                            let out = out.add(v * S::LANES);
                            if newest {
                                sums[t][v].store(out);
                            } else {
                                S::load(out).add(sums[t][v]).store(out);
                            }
                        }}
                    }
                }}
                // One place on: every column takes over from the next.
                unroll! { t in T {
                    unroll_two! { v in V {
                        sums[t][v] = if slides && t % W + 1 < W { sums[(t + 1) % T][v] } else { S::zero() };
                    }}
                }}
                out = out.add(g.stride * line);
            }
        }
    }
}
