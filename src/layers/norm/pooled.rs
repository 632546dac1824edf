//! Normalisation, ReLU and 2x2 max-pooling in one pass, and its gradient: what was normalised but not taken is never
//! written.

use super::rows::{blocks, load, masked, store};
use crate::hardware::simd::{Kernel, Simd};

/// The pixels of one image before pooling; an odd last row or column is left out of the output.
#[derive(Clone, Copy)]
pub struct Size {
    pub height: usize,
    pub width: usize,
}

impl Size {
    pub fn pooled(self) -> usize {
        (self.height / 2) * (self.width / 2)
    }

    /// The pixels of the window of output pixel (row, column), in the order of their places.
    #[inline(always)]
    fn window(self, row: usize, column: usize) -> [usize; 4] {
        let first = 2 * row * self.width + 2 * column;
        [first, first + 1, first + self.width, first + self.width + 1]
    }
}

/// Forward, one image: the largest of x * scale + shift in each window, then ReLU. The first of equals is taken, and any
/// NaN before all numbers.
pub struct Largest<'a> {
    pub size: Size,
    pub x: &'a [f32],
    pub scale: &'a [f32],
    pub shift: &'a [f32],
    pub out: &'a mut [f32],
    /// The input that each output took, and its place in the window (0 to 3), when they are wanted.
    pub taken: Option<(&'a mut [f32], &'a mut [f32])>,
}

impl Kernel for Largest<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let channels = self.scale.len();
        let (height, width) = (self.size.height / 2, self.size.width / 2);
        // SAFETY: the caller guarantees it; blocks lie within the channels, windows within the image.
        unsafe {
            blocks!(S, channels, |V, first, count| {
                let scale = load::<S, V>(self.scale.as_ptr().add(first), count);
                let shift = load::<S, V>(self.shift.as_ptr().add(first), count);
                for row in 0..height {
                    for column in 0..width {
                        let pixels = self.size.window(row, column);
                        let mut best = [S::zero(); V];
                        let mut chosen = [S::zero(); V];
                        let mut place = [S::zero(); V];
                        for (k, pixel) in pixels.into_iter().enumerate() {
                            let at = pixel * channels + first;
                            let x = load::<S, V>(self.x.as_ptr().add(at), count);
                            for v in 0..V {
                                let y = x[v].mul_add(scale[v], shift[v]);
                                if k == 0 {
                                    best[v] = y;
                                    chosen[v] = x[v];
                                } else {
                                    let beats = y.beats(best[v]);
                                    best[v] = y.select(beats, best[v]);
                                    chosen[v] = x[v].select(beats, chosen[v]);
                                    place[v] = S::splat(k as f32).select(beats, place[v]);
                                }
                            }
                        }
                        for best in &mut best {
                            *best = best.relu();
                        }
                        let to = (row * width + column) * channels + first;
                        store(best, self.out.as_mut_ptr().add(to), count);
                        if let Some((chosens, places)) = &mut self.taken {
                            store(chosen, chosens.as_mut_ptr().add(to), count);
                            store(place, places.as_mut_ptr().add(to), count);
                        }
                    }
                }
            });
        }
    }
}

/// Backward, one image: b * x + c everywhere, and a * gradient on top where an output that is not zero took it.
pub struct Spread<'a> {
    pub size: Size,
    pub x: &'a [f32],
    pub grad: &'a [f32],
    pub output: &'a [f32],
    pub place: &'a [f32],
    pub a: &'a [f32],
    pub b: &'a [f32],
    pub c: &'a [f32],
    pub out: &'a mut [f32],
}

impl Kernel for Spread<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let channels = self.a.len();
        let Size { height, width } = self.size;
        // SAFETY: the caller guarantees it; blocks lie within the channels, windows within the image.
        unsafe {
            blocks!(S, channels, |V, first, count| {
                let a = load::<S, V>(self.a.as_ptr().add(first), count);
                let b = load::<S, V>(self.b.as_ptr().add(first), count);
                let c = load::<S, V>(self.c.as_ptr().add(first), count);
                for row in 0..height / 2 {
                    for column in 0..width / 2 {
                        let from = (row * (width / 2) + column) * channels + first;
                        let mut grad = masked::<S, V>(self.grad, Some(self.output), from, count);
                        let place = load::<S, V>(self.place.as_ptr().add(from), count);
                        for v in 0..V {
                            grad[v] = grad[v].mul(a[v]);
                        }
                        for (k, pixel) in self.size.window(row, column).into_iter().enumerate() {
                            let at = pixel * channels + first;
                            let mut x = load::<S, V>(self.x.as_ptr().add(at), count);
                            for v in 0..V {
                                let elsewhere = place[v].add(S::splat(-(k as f32))).nonzero();
                                let arriving = S::zero().select(elsewhere, grad[v]);
                                x[v] = x[v].mul_add(b[v], c[v]).add(arriving);
                            }
                            store(x, self.out.as_mut_ptr().add(at), count);
                        }
                    }
                }
                let last_row = (height % 2) * width;
                let last_column = (width % 2) * height;
                let row = (0..last_row).map(|i| (height - 1) * width + i);
                let column = (0..last_column).map(|i| i * width + width - 1);
                for pixel in row.chain(column) {
                    let at = pixel * channels + first;
                    let mut x = load::<S, V>(self.x.as_ptr().add(at), count);
                    for v in 0..V {
                        x[v] = x[v].mul_add(b[v], c[v]);
                    }
                    store(x, self.out.as_mut_ptr().add(at), count);
                }
            });
        }
    }
}
