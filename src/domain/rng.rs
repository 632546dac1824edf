//! The only source of random numbers. It is counter-based: a number depends only on (seed, stream, step, index), and
//! never on the number of threads, the order of the calls, or whether the run was resumed.
//!
//! The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011),
//! which is also what CUDA's libraries use, so a GPU kernel can draw the same numbers.

/// The purpose of the random numbers. Streams never overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Initial weights of parameter number `n` of the network.
    Init(u16),
    /// The train/validation split.
    Split,
    /// The order of the training images; `step` is the epoch.
    Order,
    /// Augmentation; `step` is the training step, `index` the image's place in the batch.
    Augment,
    /// The dropout mask of layer number `n`; `step` is the training step.
    Dropout(u16),
    /// The built-in sample set; `step` is the image's number.
    Sample,
    /// Which images the first epoch mirrors with `flip = "alternate"`; `index` is the image's index.
    Mirror,
    /// The draws and perturbations of a sweep; `step` is the draw's number.
    Sweep,
    /// The seed of a layer's fresh weights when it is reset; `step` is the training step.
    Reset,
}

impl Stream {
    /// The stream's number in the generator's counter.
    pub const fn word(self) -> u32 {
        match self {
            Stream::Init(n) => 1 | (n as u32) << 8,
            Stream::Split => 2,
            Stream::Order => 3,
            Stream::Augment => 4,
            Stream::Dropout(n) => 5 | (n as u32) << 8,
            Stream::Sample => 6,
            Stream::Mirror => 7,
            Stream::Sweep => 8,
            Stream::Reset => 9,
        }
    }
}

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// Ten rounds of Philox4x32: four uniform words from a counter and a key.
#[inline(always)]
pub const fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    let mut round = 0;
    while round < ROUNDS {
        let a = MULTIPLIERS[0] as u64 * counter[0] as u64;
        let b = MULTIPLIERS[1] as u64 * counter[2] as u64;
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        round += 1;
    }
    counter
}

/// The numbers of one (seed, stream, step), addressed by index.
#[derive(Clone, Copy, Debug)]
pub struct Rng {
    key: [u32; 2],
    step: u64,
    stream: u32,
}

impl Rng {
    pub const fn new(seed: u64, stream: Stream, step: u64) -> Self {
        Rng {
            key: [seed as u32, (seed >> 32) as u32],
            step,
            stream: stream.word(),
        }
    }

    /// Four uniform 32-bit words. Word `i` of the sequence is `block(i / 4)[i % 4]`.
    #[inline(always)]
    pub const fn block(&self, index: u32) -> [u32; 4] {
        philox(
            [
                index,
                self.step as u32,
                (self.step >> 32) as u32,
                self.stream,
            ],
            self.key,
        )
    }

    /// Word number `index`, uniform over all 32-bit values.
    #[inline(always)]
    pub const fn word(&self, index: u32) -> u32 {
        self.block(index / 4)[(index % 4) as usize]
    }

    /// Uniform in [0, 1), 24 bits.
    #[inline(always)]
    pub const fn uniform(&self, index: u32) -> f32 {
        (self.word(index) >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Uniform in 0..n (Lemire's multiply-shift; the bias is below n / 2^32). `n` is at least 1.
    #[inline(always)]
    pub const fn below(&self, index: u32, n: u32) -> u32 {
        ((self.word(index) as u64 * n as u64) >> 32) as u32
    }

    /// A uniform permutation of 0..n (Fisher-Yates).
    pub fn permutation(&self, n: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n as u32).collect();
        self.shuffle(&mut order);
        order
    }

    /// Shuffles in place (Fisher-Yates, from the end).
    pub fn shuffle<T>(&self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u32, i as u32 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of the Random123 library (kat_vectors, philox4x32 10).
    #[test]
    fn philox_known_answers() {
        assert_eq!(
            philox([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn permutation_holds_every_index_once_and_depends_on_the_step() {
        let a = Rng::new(4, Stream::Order, 0).permutation(1000);
        let b = Rng::new(4, Stream::Order, 1).permutation(1000);
        let mut sorted = a.clone();
        sorted.sort_unstable();
        assert!(sorted.iter().enumerate().all(|(i, &v)| i as u32 == v));
        assert_ne!(a, b);
    }

    #[test]
    fn uniform_is_uniform() {
        let rng = Rng::new(1, Stream::Split, 0);
        let mean: f64 = (0..100_000).map(|i| f64::from(rng.uniform(i))).sum::<f64>() / 100_000.0;
        assert!((mean - 0.5).abs() < 0.005, "mean {mean}");
        assert!((0..100_000).all(|i| (0.0..1.0).contains(&rng.uniform(i)) && rng.below(i, 7) < 7));
    }
}
