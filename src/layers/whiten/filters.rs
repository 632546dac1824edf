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

    /// Printed by tests/reference/whiten.py (numpy 2.4, float64).
    #[rustfmt::skip]
    const EXPECTED: [[f64; PATCH]; PATCH] = [
        [-0.578_394_9, -14.650_450_5, 0.816_663_2, -1.800_636_9, -0.039_963_5, 11.393_363_0, 14.782_532_1, 0.430_092_8, 1.637_537_2, 0.739_296_5, -10.822_951_7, 0.169_876_3],
        [-1.385_316_8, 7.392_131_0, -1.461_143_9, -6.171_106_3, -2.214_483_5, 11.286_483_7, -9.333_791_8, 1.451_840_4, 6.871_290_0, 1.576_398_1, -8.660_104_0, 0.623_806_8],
        [-6.260_176_8, 0.581_971_7, -0.523_693_0, -0.974_470_2, 10.407_288_4, 0.938_399_4, -0.864_483_8, 1.113_269_1, -4.142_592_7, 1.520_014_9, -1.038_289_3, 0.151_270_5],
        [2.020_380_6, 0.393_706_0, -0.812_315_7, -6.934_500_6, 0.341_245_3, -1.680_404_9, 1.917_942_0, 8.174_357_6, -0.220_382_5, -2.211_071_6, 1.413_868_2, -1.751_294_9],
        [0.067_070_9, -4.914_933_2, 6.078_311_8, -0.811_173_7, 0.774_015_3, 3.417_217_7, -4.776_431_9, 0.138_317_3, -0.014_941_7, -3.728_440_5, 4.056_507_9, -0.364_238_8],
        [0.200_521_9, -1.538_982_1, 5.193_211_1, -0.874_447_6, -0.861_696_6, -3.707_378_0, -1.747_841_8, 1.456_798_6, -0.252_823_3, 5.940_292_7, -3.265_577_5, -0.890_344_8],
        [-0.341_139_7, 1.418_303_4, 2.548_708_6, -2.712_879_4, 2.054_248_5, -2.294_640_6, 1.899_930_9, -3.396_474_6, 3.735_069_1, -2.268_829_2, -0.810_092_5, 0.054_926_9],
        [4.035_935_7, -0.424_045_7, -0.653_947_4, -2.279_906_9, 1.207_945_3, 0.237_503_1, -0.725_139_5, -2.032_613_9, -2.393_994_0, 0.680_135_9, -0.410_281_5, 2.728_895_6],
        [-1.371_947_6, 0.673_834_9, 1.102_560_5, 0.017_586_5, -1.191_502_6, -0.289_122_7, 0.415_887_7, 0.713_768_8, -1.074_169_0, -1.126_484_6, -0.656_886_7, 2.847_075_5],
        [0.559_611_7, -0.839_055_2, -0.626_160_1, 0.963_105_5, 0.775_586_4, -0.832_303_4, -0.809_527_2, 0.788_545_3, 1.017_621_6, -0.749_085_5, -0.940_643_1, 0.735_934_7],
        [-0.074_733_1, -0.071_247_4, -0.059_296_2, -0.057_571_9, 0.046_877_2, 0.052_324_3, 0.061_952_3, 0.063_473_9, 0.300_848_2, 0.304_301_2, 0.318_786_7, 0.311_596_9],
        [0.143_439_7, 0.142_940_1, 0.138_334_6, 0.137_453_3, 0.093_116_0, 0.092_890_3, 0.088_228_1, 0.087_435_3, 0.016_902_8, 0.016_091_6, 0.011_648_9, 0.009_895_3],
    ];

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
        let (ours, negatives) = ours.split_at(PATCH * PATCH);
        for (ours, exact) in ours.iter().zip(EXPECTED.as_flattened()) {
            let off = (f64::from(*ours) - exact).abs();
            assert!(off < 1e-6 * (1.0 + exact.abs()), "{ours} {exact}");
        }
        assert!(ours.iter().zip(negatives).all(|(a, b)| *a == -b));
    }

    /// What the filters are for: the patches' second moments become the identity, but for epsilon.
    #[test]
    fn filtered_patches_are_white() {
        let numbers = [0, 3, 5, 7];
        let (pixels, side) = (pixels(8, 9), 9);
        let images = SeenImages {
            pixels: &pixels,
            side,
            numbers: &numbers,
            scaling: &SCALING,
        };
        let moments = second_moments(&images);
        let filters = filters(&images);
        let values = eigen::symmetric(&moments).map(|(value, _)| value);
        for (i, a) in filters.chunks_exact(PATCH).take(PATCH).enumerate() {
            for (j, b) in filters.chunks_exact(PATCH).take(PATCH).enumerate() {
                let pairs = (0..PATCH).flat_map(|k| (0..PATCH).map(move |l| (k, l)));
                let moment: f64 = pairs
                    .map(|(k, l)| f64::from(a[k]) * moments[k][l] * f64::from(b[l]))
                    .sum();
                let exact = match i == j {
                    true => values[i] / (values[i] + EPSILON),
                    false => 0.0,
                };
                assert!((moment - exact).abs() < 1e-4, "{i} {j}: {moment} {exact}");
            }
        }
    }

    #[test]
    fn images_beyond_the_most_are_not_looked_at() {
        let pixels = pixels(8, 2);
        let seen = |numbers: &[u32]| {
            filters(&SeenImages {
                pixels: &pixels,
                side: 2,
                numbers,
                scaling: &SCALING,
            })
        };
        let many: Vec<u32> = (0..IMAGES as u32).map(|i| i % 7).collect();
        let more = [&many[..], &[7]].concat();
        assert_eq!(seen(&many), seen(&more));
        assert!(seen(&many) != seen(&more[1..]));
    }
}
