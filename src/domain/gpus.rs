//! What some of NVIDIA's GPUs can do at most: arithmetic, memory, launches. From these rates `bench --explain` computes the
//! least time that a launch takes.

use super::params::NumberFormat;

/// A GPU whose rates are known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KnownGpu {
    /// The word of `--gpu`.
    pub word: &'static str,
    /// The driver's name of it.
    pub name: &'static str,
    /// Compute capability: major and minor.
    pub capability: (u32, u32),
    pub multiprocessors: u32,
    pub rates: GpuRates,
}

/// What a GPU can do at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GpuRates {
    /// Floating-point operations a second in products of f32, tf32 and bf16 numbers, with sums in f32 and without
    /// sparsity.
    pub flops: [f64; 3],
    /// Bytes a second from and to device memory.
    pub bandwidth: f64,
    /// Seconds from the beginning of a kernel to that of the kernel after it in a graph, if both do nothing.
    pub launch: f64,
    /// What our kernels reach on it, where that was measured.
    pub reached: Option<KernelRates>,
}

/// What our kernels reach on a GPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KernelRates {
    /// Seconds that a launch takes besides its arithmetic and its bytes.
    pub launch: f64,
    /// Floating-point operations a second in products of f32, tf32 and bf16 numbers.
    pub flops: [f64; 3],
}

/// Fitted to the measured training steps of four cases on one H200, one run each: `seed` in batches of 32, 512 and 4,096
/// and `resnet` in batches of 128. The time of every launch is taken as `launch` and the longer one of its arithmetic at
/// these rates and its bytes at [`GpuRates::bandwidth`]. The twelve steps so computed take from 0.94 to 1.12 times the
/// measured ones.
const REACHED_ON_H200: KernelRates = KernelRates {
    launch: 6.25e-6,
    flops: [13.6e12, 19.0e12, 18.4e12],
};

/// The distance of two kernels that depend on each other in a graph: an assumption for every GPU, until
/// `bench --explain` has run on one.
const LAUNCH: f64 = 2e-6;

/// The GPUs of `--gpu`.
pub const GPUS: &[KnownGpu] = &[
    // f32 and tf32: data sheet of the SXM part. bf16: a product of two 8192 x 8192 matrices in PyTorch on random numbers
    // (data sheet: 989e12). Memory: a copy in device memory, reads and writes counted (data sheet: 4.8e12).
    KnownGpu {
        word: "h200",
        name: "NVIDIA H200",
        capability: (9, 0),
        multiprocessors: 132,
        rates: GpuRates {
            flops: [67e12, 494e12, 790e12],
            bandwidth: 4.3e12,
            launch: LAUNCH,
            reached: Some(REACHED_ON_H200),
        },
    },
    // The same sources. Memory by the data sheet: 3.35e12.
    KnownGpu {
        word: "h100",
        name: "NVIDIA H100 80GB HBM3",
        capability: (9, 0),
        multiprocessors: 132,
        rates: GpuRates {
            flops: [67e12, 494e12, 798e12],
            bandwidth: 3.0e12,
            launch: LAUNCH,
            reached: None,
        },
    },
    // Data sheet.
    KnownGpu {
        word: "a100",
        name: "NVIDIA A100-SXM4-80GB",
        capability: (8, 0),
        multiprocessors: 108,
        rates: GpuRates {
            flops: [19.5e12, 156e12, 312e12],
            bandwidth: 2.039e12,
            launch: LAUNCH,
            reached: None,
        },
    },
    // NVIDIA's white paper on the Ada architecture.
    KnownGpu {
        word: "rtx4090",
        name: "NVIDIA GeForce RTX 4090",
        capability: (8, 9),
        multiprocessors: 128,
        rates: GpuRates {
            flops: [82.6e12, 82.6e12, 165.2e12],
            bandwidth: 1.008e12,
            launch: LAUNCH,
            reached: None,
        },
    },
];

/// The words of [`GPUS`], in order.
pub fn words() -> impl Iterator<Item = &'static str> {
    GPUS.iter().map(|gpu| gpu.word)
}

/// The GPU of this word, or of this name.
pub fn find(word_or_name: &str) -> Option<&'static KnownGpu> {
    let is_it = |gpu: &&KnownGpu| [gpu.word, gpu.name].contains(&word_or_name);
    GPUS.iter().find(is_it)
}

impl GpuRates {
    /// The rates of a GPU of compute capability `capability` by its clocks, in Hz, and the width of its memory bus in bits.
    /// None if it is newer than this table, or the driver does not tell its clocks.
    pub fn by_clocks(
        capability: (u32, u32),
        multiprocessors: u32,
        [clock, memory_clock]: [f64; 2],
        bus_bits: u32,
    ) -> Option<GpuRates> {
        // Multiply-adds in a cycle of a multiprocessor: NVIDIA's white papers on Ampere, Ada, Hopper and Blackwell.
        let products = match capability {
            (8, 0) => [64.0, 512.0, 1024.0],
            (8 | 12, _) => [128.0, 128.0, 256.0],
            (9, _) => [128.0, 1024.0, 2048.0],
            (10, _) => [128.0, 2048.0, 4096.0],
            _ => return None,
        };
        // Two transfers a cycle.
        let bandwidth = 2.0 * memory_clock * f64::from(bus_bits) / 8.0;
        let cycles = clock * f64::from(multiprocessors);
        (cycles > 0.0 && bandwidth > 0.0).then(|| GpuRates {
            flops: products.map(|products| 2.0 * products * cycles),
            bandwidth,
            launch: LAUNCH,
            reached: None,
        })
    }
}

/// The rate of these numbers.
pub fn rate_of([f32, tf32, bf16]: [f64; 3], format: NumberFormat) -> f64 {
    match format {
        NumberFormat::F32 => f32,
        NumberFormat::Tf32 => tf32,
        NumberFormat::Bf16 => bf16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_give_about_the_known_rates() {
        // MHz of the multiprocessors and of the memory, and the bus.
        let clocks = [
            ("h200", 1980.0, 3201.0, 6144),
            ("h100", 1980.0, 2619.0, 5120),
            ("a100", 1410.0, 1593.0, 5120),
            ("rtx4090", 2520.0, 10501.0, 384),
        ];
        for (word, clock, memory_clock, bus_bits) in clocks {
            let gpu = find(word).unwrap();
            assert_eq!(find(gpu.name), Some(gpu));
            let clocks = [clock * 1e6, memory_clock * 1e6];
            let rates =
                GpuRates::by_clocks(gpu.capability, gpu.multiprocessors, clocks, bus_bits).unwrap();
            let [flops, known] = [rates.flops, gpu.rates.flops];
            for (a, b) in flops.into_iter().zip(known) {
                assert!((0.95..1.4).contains(&(a / b)), "{word}: {a} {b}");
            }
            let bandwidth = rates.bandwidth / gpu.rates.bandwidth;
            assert!((0.95..1.2).contains(&bandwidth), "{word}: {bandwidth}");
        }
        assert_eq!(clocks.len(), GPUS.len());
        assert_eq!(GpuRates::by_clocks((9, 0), 132, [0.0, 0.0], 0), None);
        assert_eq!(GpuRates::by_clocks((99, 0), 132, [1e9, 1e9], 384), None);
    }
}
