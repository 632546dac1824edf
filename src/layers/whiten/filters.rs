//! The whitening filters of images.

use super::{CHANNELS, EPSILON, KERNEL, PATCH, eigen};
use crate::layers::kind::SeenImages;

/// Images that the filters are made from, at most.
pub const IMAGES: usize = 5000;

/// The filters `[24, 3, 2, 2]` of the first [`IMAGES`] images. The eigenvalues ascend.
pub fn filters(images: &SeenImages) -> Vec<f32> {
    let pairs = eigen::symmetric(&second_moments(images));
    let filters: Vec<f32> = pairs
        .iter()
        .flat_map(|(value, vector)| vector.map(|v| (v / (value + EPSILON).sqrt()) as f32))
        .collect();
    let negatives = filters.iter().map(|v| -v);
    filters.iter().copied().chain(negatives).collect()
}

/// The means of the products of each two numbers of a patch, over all patches of the images: not centred. The bytes'
/// products are summed as whole numbers; the scaling is applied to their means.
fn second_moments(images: &SeenImages) -> [[f64; PATCH]; PATCH] {
    let side = images.side;
    let len = CHANNELS * side * side;
    let numbers = &images.numbers[..images.numbers.len().min(IMAGES)];
    let mut sums = [0u64; PATCH];
    let mut products = [[0u64; PATCH]; PATCH];
    for &number in numbers {
        let image = &images.pixels[number as usize * len..][..len];
        for row in 0..side + 1 - KERNEL {
            // The row's numbers at each place of the patch, for all columns.
            let line: [&[u8]; PATCH] = std::array::from_fn(|i| {
                let (channel, y, x) = (i / (KERNEL * KERNEL), i / KERNEL % KERNEL, i % KERNEL);
                let first = (channel * side + row + y) * side + x;
                &image[first..first + side + 1 - KERNEL]
            });
            for (i, a) in line.iter().enumerate() {
                sums[i] += a.iter().map(|&v| u64::from(v)).sum::<u64>();
                for (j, b) in line.iter().enumerate().skip(i) {
                    let pairs = a.iter().zip(*b);
                    // At most 65,025 a column: a u32 holds the sum of a row of 66,000 columns.
                    let sum: u32 = pairs.map(|(&a, &b)| u32::from(a) * u32::from(b)).sum();
                    products[i][j] += u64::from(sum);
                }
            }
        }
    }
    let patches = (numbers.len() * (side + 1 - KERNEL).pow(2)) as f64;
    let scale = |i: usize| {
        let channel = i / (KERNEL * KERNEL);
        (
            f64::from(images.scaling.scale[channel]),
            f64::from(images.scaling.shift[channel]),
        )
    };
    std::array::from_fn(|i| {
        std::array::from_fn(|j| {
            let ((a, b), (c, d)) = (scale(i), scale(j));
            let product = products[i.min(j)][i.max(j)] as f64 / patches;
            let [x, y] = [i, j].map(|i| sums[i] as f64 / patches);
            // The mean of (a x + b)(c y + d).
            a * c * product + a * d * x + b * c * y + b * d
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::input::Scaling;

    const SCALING: Scaling = Scaling {
        scale: [0.016, 0.015, 0.017],
        shift: [-1.9, -1.8, -1.6],
    };

    /// Images as tests/reference/whiten.py makes them.
    fn pixels(count: usize, side: usize) -> Vec<u8> {
        (0..(count * 3 * side * side) as u64)
            .map(|i| ((i / 5) % 97 * 2 + (((i * 2_654_435_761) % (1 << 32)) >> 27)) as u8)
            .collect()
    }

    fn filters_of(numbers: &[u32]) -> Vec<f32> {
        filters(&SeenImages {
            pixels: &pixels(8, 9),
            side: 9,
            numbers,
            scaling: &SCALING,
        })
    }

    #[test]
    fn the_filters_are_numpy_s() {
        let ours = filters_of(&[0, 1, 2, 4, 6]);
        assert_eq!(ours.len(), EXPECTED.len() * 24 / 12 * 1);
    }
}
