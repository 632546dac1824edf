//! The variants of the kernels of products: tiles, and how their operands come into shared memory. All compute the same;
//! which one is fastest depends on the GPU and on the product's shape.

use super::Geometry;
use std::collections::HashMap;

/// Terms that are added at a time, BK in product.cuh.
pub const TERMS: usize = 32;
/// Bytes of shared memory that a block may use on every GPU: those of compute capability 8.6 and 8.9 have the least, and
/// the kernels have a few bytes besides.
const MAX_SHARED: usize = 99 * 1024 - 256;
/// The most blocks that share a sum: those that `split_k_reduce` adds in two rounds.
const MAX_SPLITS: usize = 1024;

/// How a block's operands come into shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loads {
    /// Through registers: the next slice is loaded while the last one is multiplied.
    Registers,
    /// By asynchronous copies, several slices ahead.
    Copies,
    /// The weights by asynchronous copies. A rectangle of pixels with its rim comes once, for all taps of the kernel.
    Rim,
}

/// A way to compute a product of matrices.
#[derive(Debug, PartialEq, Eq)]
pub struct KernelVariant {
    /// Its name in tables and on disk. Another way needs another name.
    pub name: &'static str,
    /// Lines and columns of a block's results.
    pub tile: (usize, usize),
    pub threads: usize,
    pub loads: Loads,
    /// Slices of [`TERMS`] terms that a block holds: of both operands, or with a rim of the weights.
    pub stages: usize,
    /// Number of blocks for each multiprocessor among which sums are divided, and the most that share one sum.
    pub blocks: usize,
    pub max_splits: usize,
    /// Number of blocks whose registers a multiprocessor must hold, about as many as fit by their shared memory; 0 leaves it
    /// to the compiler. Left alone, it spills registers of some kernels to hold more.
    pub min_blocks: usize,
}

/// Enough stages for all terms at once, where they fit.
const ALL: usize = 12;

/// The first is the plain one, which the others are compared with.
#[rustfmt::skip]
pub static VARIANTS: &[KernelVariant] = &[
    KernelVariant { name: "plain", tile: (64, 32), threads: 128, loads: Loads::Registers, stages: 2, blocks: 2, max_splits: 32, min_blocks: 0 },
    KernelVariant { name: "64x32 spread", tile: (64, 32), threads: 128, loads: Loads::Registers, stages: 2, blocks: 6, max_splits: MAX_SPLITS, min_blocks: 4 },
    KernelVariant { name: "128x32", tile: (128, 32), threads: 128, loads: Loads::Registers, stages: 2, blocks: 3, max_splits: MAX_SPLITS, min_blocks: 3 },
    KernelVariant { name: "64x64", tile: (64, 64), threads: 128, loads: Loads::Registers, stages: 2, blocks: 4, max_splits: MAX_SPLITS, min_blocks: 3 },
    KernelVariant { name: "64x32 copies 3", tile: (64, 32), threads: 128, loads: Loads::Copies, stages: 3, blocks: 4, max_splits: MAX_SPLITS, min_blocks: 4 },
    KernelVariant { name: "64x32 copies 4", tile: (64, 32), threads: 128, loads: Loads::Copies, stages: 4, blocks: 3, max_splits: MAX_SPLITS, min_blocks: 3 },
    KernelVariant { name: "128x32 copies 3", tile: (128, 32), threads: 128, loads: Loads::Copies, stages: 3, blocks: 3, max_splits: MAX_SPLITS, min_blocks: 3 },
    KernelVariant { name: "64x64 copies 3", tile: (64, 64), threads: 128, loads: Loads::Copies, stages: 3, blocks: 4, max_splits: MAX_SPLITS, min_blocks: 3 },
    KernelVariant { name: "128x64 copies 3", tile: (128, 64), threads: 256, loads: Loads::Copies, stages: 3, blocks: 2, max_splits: MAX_SPLITS, min_blocks: 2 },
    KernelVariant { name: "64x32 rim", tile: (64, 32), threads: 128, loads: Loads::Rim, stages: 3, blocks: 4, max_splits: MAX_SPLITS, min_blocks: 4 },
    KernelVariant { name: "64x32 rim, all", tile: (64, 32), threads: 128, loads: Loads::Rim, stages: ALL, blocks: 3, max_splits: MAX_SPLITS, min_blocks: 3 },
    KernelVariant { name: "128x32 rim", tile: (128, 32), threads: 128, loads: Loads::Rim, stages: 3, blocks: 3, max_splits: MAX_SPLITS, min_blocks: 4 },
    KernelVariant { name: "128x64 rim", tile: (128, 64), threads: 256, loads: Loads::Rim, stages: 3, blocks: 2, max_splits: MAX_SPLITS, min_blocks: 2 },
];

/// The variant that `--gpu-tuning off` uses.
pub fn plain() -> &'static KernelVariant {
    &VARIANTS[0]
}

/// The variant of this name.
pub fn find(name: &str) -> Option<&'static KernelVariant> {
    VARIANTS.iter().find(|variant| variant.name == name)
}

/// The kernel that a variant is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProductPass {
    Forward,
    /// The gradients of the weight and of the input.
    Backward,
}

impl ProductPass {
    /// The name of its kernel.
    pub fn entry(self) -> &'static str {
        match self {
            ProductPass::Forward => "forward",
            ProductPass::Backward => "backward",
        }
    }
}

/// What decides which variants fit.
#[derive(Clone, Copy, Debug)]
pub struct ProductShape {
    pub geometry: Geometry,
    pub pass: ProductPass,
    /// Whether the forward pass ends with 2x2 pooling.
    pub pool: bool,
    /// Whether the backward pass computes the gradient of the input.
    pub input_wanted: bool,
}

impl ProductShape {
    /// Height and width of the pixels that are lines of the results: those in whole windows; the input's.
    pub fn area(&self) -> (usize, usize) {
        let g = &self.geometry;
        match (self.pass, self.pool) {
            (ProductPass::Forward, true) => (g.out_height / 2 * 2, g.out_width / 2 * 2),
            (ProductPass::Forward, false) => (g.out_height, g.out_width),
            (ProductPass::Backward, _) => (g.height, g.width),
        }
    }

    /// Channels of the pixels that a result depends on.
    pub fn depth(&self) -> usize {
        match self.pass {
            ProductPass::Forward => self.geometry.inputs,
            ProductPass::Backward => self.geometry.outputs,
        }
    }

    /// Terms of the sum of a line: of the forward pass, or of the input's gradient.
    pub fn terms(&self) -> usize {
        self.geometry.kernel * self.geometry.kernel * self.depth()
    }
}

/// A rectangle of pixels whose results a block computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rectangle {
    pub height: usize,
    pub width: usize,
}

impl Rectangle {
    /// The rectangle of at most `lines` pixels with which an area takes the fewest blocks, and of those the one with the
    /// fewest pixels around it.
    fn best(shape: &ProductShape, lines: usize) -> Rectangle {
        let (area_height, area_width) = shape.area();
        let step = if shape.pass == ProductPass::Forward && shape.pool {
            2
        } else {
            1
        };
        let rim = shape.geometry.kernel - 1;
        let even = |pixels: usize| pixels.next_multiple_of(step);
        let heights = (step..=lines / step).step_by(step);
        let rectangles = heights.map(|height| {
            let most = (lines / height / step * step).max(step);
            // As wide as the other rectangles of the row.
            let width = even(area_width.div_ceil(area_width.div_ceil(most)));
            let height = even(area_height.div_ceil(area_height.div_ceil(height)));
            Rectangle { height, width }
        });
        let best = rectangles.min_by_key(|r| {
            let around = (r.height + rim) * (r.width + rim);
            (r.count(shape), around)
        });
        best.unwrap_or_default()
    }

    /// Number of rectangles in an image.
    pub fn count(&self, shape: &ProductShape) -> usize {
        let (height, width) = shape.area();
        height.div_ceil(self.height) * width.div_ceil(self.width)
    }

    /// Pixels that a rectangle depends on.
    pub fn with_rim(&self, shape: &ProductShape) -> usize {
        let rim = shape.geometry.kernel - 1;
        (self.height + rim) * (self.width + rim)
    }
}

impl KernelVariant {
    /// Whether it can compute a product, on any GPU, and is worth being tried.
    pub fn fits(&self, shape: &ProductShape) -> bool {
        let g = &shape.geometry;
        let backward = shape.pass == ProductPass::Backward;
        let columns = match backward && shape.input_wanted {
            true => g.outputs.max(g.inputs),
            false => g.outputs,
        };
        let narrow = self.tile.1 <= columns.next_multiple_of(32).max(32);
        let has_rim = g.stride == 1
            && g.kernel > 1
            && shape.depth().is_multiple_of(8)
            && (!backward || shape.input_wanted);
        narrow && (self.loads != Loads::Rim || has_rim) && self.shared_memory(shape) <= MAX_SHARED
    }

    /// The rectangle of a variant with rims.
    pub fn rectangle(&self, shape: &ProductShape) -> Option<Rectangle> {
        (self.loads == Loads::Rim).then(|| Rectangle::best(shape, self.tile.0))
    }

    /// Number of tiles of so many images' lines.
    pub fn line_tiles(&self, shape: &ProductShape, images: usize) -> usize {
        let (height, width) = shape.area();
        match self.rectangle(shape) {
            Some(rectangle) => images * rectangle.count(shape),
            None => (images * height * width).div_ceil(self.tile.0),
        }
    }

    /// Bytes of a block's shared memory.
    pub fn shared_memory(&self, shape: &ProductShape) -> usize {
        4 * self.room(shape)
    }

    /// Numbers in a block's shared memory, as product.cuh lays them out.
    fn room(&self, shape: &ProductShape) -> usize {
        let (lines, columns) = self.tile;
        let weights = TERMS * (columns + 8);
        let stage = lines * (TERMS + 4) + weights;
        let results = lines * (columns + 4);
        let operands = match self.rectangle(shape) {
            None => self.stages * stage,
            Some(rectangle) => {
                let pixels = rectangle.with_rim(shape) * (shape.depth() + 4);
                let slices = shape.terms().div_ceil(TERMS);
                let own = pixels + self.stages.min(slices) * weights;
                // The weight's gradient has no rim.
                match shape.pass {
                    ProductPass::Forward => own,
                    ProductPass::Backward => own.max(self.stages.min(3) * stage),
                }
            }
        };
        operands.max(results)
    }

    /// The constants of product.cuh, by name.
    pub fn constants(&self, shape: &ProductShape) -> [(&'static str, usize); 9] {
        let rectangle = self.rectangle(shape).unwrap_or_default();
        [
            ("BM", self.tile.0),
            ("BN", self.tile.1),
            ("THREADS", self.threads),
            ("LOADS", self.loads as usize),
            ("STAGES", self.stages),
            ("ROOM", self.room(shape)),
            ("MIN_BLOCKS", self.min_blocks),
            ("RIM_H", rectangle.height),
            ("RIM_W", rectangle.width),
        ]
    }
}

/// Which variant each product uses.
#[derive(Clone, Debug, Default)]
pub struct Choices {
    /// By the products' keys.
    chosen: HashMap<String, &'static KernelVariant>,
    /// What other products use, where it fits; otherwise they use the plain one.
    others: Option<&'static KernelVariant>,
}

impl Choices {
    /// The same variant for every product that it fits.
    pub fn all(variant: &'static KernelVariant) -> Self {
        Choices {
            chosen: HashMap::new(),
            others: Some(variant),
        }
    }

    pub fn choose(&mut self, key: String, variant: &'static KernelVariant) {
        self.chosen.insert(key, variant);
    }

    /// The variant of a product.
    pub fn of(&self, key: &str, shape: &ProductShape) -> &'static KernelVariant {
        let chosen = self.chosen.get(key).copied().or(self.others);
        chosen.filter(|v| v.fits(shape)).unwrap_or(plain())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seed network's second convolution, with pooling.
    fn second(pass: ProductPass) -> ProductShape {
        ProductShape {
            geometry: Geometry {
                height: 30,
                width: 30,
                inputs: 32,
                outputs: 32,
                kernel: 3,
                stride: 1,
                padding: 0,
                out_height: 28,
                out_width: 28,
            },
            pass,
            pool: true,
            input_wanted: true,
        }
    }

    #[test]
    fn names_are_unique_and_the_first_is_plain() {
        for (i, variant) in VARIANTS.iter().enumerate() {
            assert_eq!(find(variant.name), Some(&VARIANTS[i]));
        }
        assert_eq!(plain().name, "plain");
        assert_eq!(find("other"), None);
    }

    #[test]
    fn a_rectangle_takes_the_fewest_blocks_and_whole_windows() {
        let rectangle = |pass, lines| Rectangle::best(&second(pass), lines);
        // 28 x 28 pixels: 14 rectangles of 56 pixels, of which 4 x 14 has the smallest rim.
        let forward = rectangle(ProductPass::Forward, 64);
        assert_eq!((forward.height, forward.width), (4, 14));
        assert_eq!(forward.count(&second(ProductPass::Forward)), 14);
        assert_eq!(forward.with_rim(&second(ProductPass::Forward)), 6 * 16);
        // 30 x 30: 15 rectangles of 60.
        let backward = rectangle(ProductPass::Backward, 64);
        assert_eq!((backward.height, backward.width), (6, 10));
        for (side, lines) in (1..40).flat_map(|side| [64, 128].map(|lines| (side, lines))) {
            for pool in [false, true] {
                let mut shape = second(ProductPass::Forward);
                (shape.geometry.out_height, shape.geometry.out_width) = (side, side + 3);
                shape.pool = pool && side > 1;
                let r = Rectangle::best(&shape, lines);
                assert!((1..=lines).contains(&(r.height * r.width)), "{r:?}");
                assert!(
                    !shape.pool || (r.height.is_multiple_of(2) && r.width.is_multiple_of(2)),
                    "{r:?}"
                );
                assert!(r.count(&shape) * lines >= shape.area().0 * shape.area().1);
            }
        }
    }

    #[test]
    fn a_variant_that_does_not_fit_is_never_used() {
        let all = find("64x32 rim, all").unwrap();
        let mut shape = second(ProductPass::Forward);
        assert!(all.fits(&shape));
        let choices = Choices::all(all);
        assert_eq!(choices.of("", &shape), all);
        shape.geometry.stride = 2;
        assert_eq!(choices.of("", &shape), plain());
        shape.geometry.stride = 1;
        // 256 channels of 96 pixels are more than a block may have.
        shape.geometry.inputs = 256;
        assert_eq!(choices.of("", &shape), plain());
        shape.geometry.inputs = 12;
        assert_eq!(choices.of("", &shape), plain());
        let wide = find("64x64").unwrap();
        assert!(!wide.fits(&shape), "half of the columns would be empty");
        shape.geometry.outputs = 33;
        assert!(wide.fits(&shape));
        for variant in VARIANTS {
            let shape = second(ProductPass::Backward);
            assert!(variant.shared_memory(&shape) <= MAX_SHARED || !variant.fits(&shape));
            assert_eq!(variant.loads as usize, variant.constants(&shape)[3].1);
        }
    }

    #[test]
    fn a_choice_is_for_its_product_alone() {
        let shape = second(ProductPass::Backward);
        let mut choices = Choices::default();
        choices.choose("a".into(), &VARIANTS[4]);
        assert_eq!(choices.of("a", &shape), &VARIANTS[4]);
        assert_eq!(choices.of("b", &shape), plain());
    }
}
