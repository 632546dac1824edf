//! The transforms of the two sizes of tiles.

use crate::hardware::simd::Simd;

/// How many results a tile has on a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tile {
    Two,
    Four,
}

impl Tile {
    /// Results on a side.
    pub const fn side(self) -> usize {
        match self {
            Tile::Two => 2,
            Tile::Four => 4,
        }
    }

    /// Places of a transformed tile: the inputs that its results depend on.
    pub const fn places(self) -> usize {
        let reach = self.side() + 2;
        reach * reach
    }
}

/// The transforms of tiles of `SIDE` x `SIDE` results, which depend on `REACH` x `REACH` inputs. Each works on one line
/// of a tile; a tile takes it on its columns and then on its rows. The names of the matrices are Lavin's and Gray's.
pub trait Scheme<const SIDE: usize, const REACH: usize> {
    /// B' d of inputs.
    unsafe fn input<S: Simd>(d: [S; REACH]) -> [S; REACH];
    /// A' m of products.
    unsafe fn output<S: Simd>(m: [S; REACH]) -> [S; SIDE];
    /// A d of the results' gradient.
    unsafe fn spread<S: Simd>(d: [S; SIDE]) -> [S; REACH];
    /// G g of weights.
    fn weights(g: [f32; 3]) -> [f32; REACH];
    /// G' s of a weight gradient.
    fn back(s: [f32; REACH]) -> [f32; 3];
}

/// The line across the lines of a tile: number `at` of each.
#[inline(always)]
pub fn across<T: Copy, const LINES: usize, const LINE: usize>(
    tile: &[[T; LINE]; LINES],
    at: usize,
) -> [T; LINES] {
    let mut line = [tile[0][at]; LINES];
    for (n, numbers) in line.iter_mut().zip(tile) {
        *n = numbers[at];
    }
    line
}

/// The transforms of `SIDE` and `REACH`.
#[derive(Clone, Copy, Debug)]
pub struct Transforms<const SIDE: usize, const REACH: usize>;

/// From the points 0, 1, -1.
impl Scheme<2, 4> for Transforms<2, 4> {
    /// B' = [1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 1 0 -1].
    #[inline(always)]
    unsafe fn input<S: Simd>([a, b, c, d]: [S; 4]) -> [S; 4] {
        // SAFETY: the caller guarantees it.
        unsafe { [minus(a, c), b.add(c), minus(c, b), minus(b, d)] }
    }

    /// A' = [1 1 1 0; 0 1 -1 -1].
    #[inline(always)]
    unsafe fn output<S: Simd>([a, b, c, d]: [S; 4]) -> [S; 2] {
        // SAFETY: the caller guarantees it.
        unsafe { [a.add(b).add(c), minus(minus(b, c), d)] }
    }

    #[inline(always)]
    unsafe fn spread<S: Simd>([a, b]: [S; 2]) -> [S; 4] {
        // SAFETY: the caller guarantees it.
        unsafe { [a, a.add(b), minus(a, b), minus(S::zero(), b)] }
    }

    /// G = [1 0 0; 1/2 1/2 1/2; 1/2 -1/2 1/2; 0 0 1].
    #[inline(always)]
    fn weights([a, b, c]: [f32; 3]) -> [f32; 4] {
        [a, 0.5 * ((a + c) + b), 0.5 * ((a + c) - b), c]
    }

    #[inline(always)]
    fn back([a, b, c, d]: [f32; 4]) -> [f32; 3] {
        [a + 0.5 * (b + c), 0.5 * (b - c), d + 0.5 * (b + c)]
    }
}

/// From the points 0, 1, -1, 2, -2.
impl Scheme<4, 6> for Transforms<4, 6> {
    /// B' = [4 0 -5 0 1 0; 0 -4 -4 1 1 0; 0 4 -4 -1 1 0; 0 -2 -1 2 1 0; 0 2 -1 -2 1 0; 0 4 0 -5 0 1].
    #[inline(always)]
    unsafe fn input<S: Simd>([a, b, c, d, e, f]: [S; 6]) -> [S; 6] {
        // SAFETY: the caller guarantees it.
        unsafe {
            let (two, four, five) = (S::splat(2.0), S::splat(-4.0), S::splat(-5.0));
            // 4 (a - c) + (e - c), and so on.
            let (even, odd) = (c.mul_add(four, e), b.mul_add(four, d));
            let (near, far) = (minus(e, c), minus(d, b));
            [
                a.mul_add(S::splat(4.0), c.mul_add(five, e)),
                even.add(odd),
                minus(even, odd),
                far.mul_add(two, near),
                far.mul_add(S::splat(-2.0), near),
                b.mul_add(S::splat(4.0), d.mul_add(five, f)),
            ]
        }
    }

    /// A' = [1 1 1 1 1 0; 0 1 -1 2 -2 0; 0 1 1 4 4 0; 0 1 -1 8 -8 1].
    #[inline(always)]
    unsafe fn output<S: Simd>([a, b, c, d, e, f]: [S; 6]) -> [S; 4] {
        // SAFETY: the caller guarantees it.
        unsafe {
            let (one, one_apart) = (b.add(c), minus(b, c));
            let (two, two_apart) = (d.add(e), minus(d, e));
            [
                a.add(one).add(two),
                two_apart.mul_add(S::splat(2.0), one_apart),
                two.mul_add(S::splat(4.0), one),
                two_apart.mul_add(S::splat(8.0), one_apart).add(f),
            ]
        }
    }

    #[inline(always)]
    unsafe fn spread<S: Simd>([a, b, c, d]: [S; 4]) -> [S; 6] {
        // SAFETY: the caller guarantees it.
        unsafe {
            let (even, odd) = (a.add(c), b.add(d));
            let even_two = c.mul_add(S::splat(4.0), a);
            let odd_two = d.mul_add(S::splat(4.0), b);
            [
                a,
                even.add(odd),
                minus(even, odd),
                odd_two.mul_add(S::splat(2.0), even_two),
                odd_two.mul_add(S::splat(-2.0), even_two),
                d,
            ]
        }
    }

    /// G = [1/4 0 0; -1/6 -1/6 -1/6; -1/6 1/6 -1/6; 1/24 1/12 1/6; 1/24 -1/12 1/6; 0 0 1].
    #[inline(always)]
    fn weights([a, b, c]: [f32; 3]) -> [f32; 6] {
        let (sixth, far) = ((a + c) * (-1.0 / 6.0), a * (1.0 / 24.0) + c * (1.0 / 6.0));
        let (b_sixth, b_far) = (b * (1.0 / 6.0), b * (1.0 / 12.0));
        [
            0.25 * a,
            sixth - b_sixth,
            sixth + b_sixth,
            far + b_far,
            far - b_far,
            c,
        ]
    }

    #[inline(always)]
    fn back([a, b, c, d, e, f]: [f32; 6]) -> [f32; 3] {
        let (near, far) = ((b + c) * (-1.0 / 6.0), d + e);
        [
            0.25 * a + near + far * (1.0 / 24.0),
            (c - b) * (1.0 / 6.0) + (d - e) * (1.0 / 12.0),
            near + far * (1.0 / 6.0) + f,
        ]
    }
}

/// a - b.
#[inline(always)]
pub unsafe fn minus<S: Simd>(a: S, b: S) -> S {
    // SAFETY: the caller guarantees it.
    unsafe { b.mul_add(S::splat(-1.0), a) }
}
