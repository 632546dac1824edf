//! `pool [INT] ["s" INT]`: max-pooling, the largest value of each window (2x2). The stride is the window unless given;
//! incomplete windows at the right and bottom edge are dropped. Convolutions and norms take in a 2x2 pool that follows
//! their ReLU.

mod candle;
pub mod cpu;
mod gpu;

use super::candle::CandlePass;
use super::cpu::{CpuPlace, Layer};
use super::kind::{Kind, LayerOp};
use crate::domain::arch::{ArchError, Arguments, InferContext, MAX_STRIDE, Node, Shape};
use candle_core::{Result, Tensor};
use std::fmt;
use std::sync::Arc;

pub const KIND: Kind = Kind {
    word: "pool",
    usage: "[WINDOW] [s STRIDE]",
    parse,
};

/// Largest window.
pub const MAX_WINDOW: u32 = 64;

#[derive(Debug)]
pub struct PoolOp {
    pub kernel: u32,
    pub stride: u32,
}

impl PoolOp {
    /// Whether it halves height and width, which other layers can do at their end.
    pub fn is_two_by_two(&self) -> bool {
        (self.kernel, self.stride) == (2, 2)
    }
}

fn parse(arguments: &mut Arguments) -> std::result::Result<Arc<dyn LayerOp>, ArchError> {
    let mut kernel = 2;
    if arguments.is_number_next() {
        kernel = arguments.int("the window", 1..=MAX_WINDOW)?;
    }
    let mut stride = kernel;
    if arguments.peek_word().as_deref() == Some("s") {
        arguments.skip_word();
        stride = arguments.int("the stride", 1..=MAX_STRIDE)?;
    }
    Ok(Arc::new(PoolOp { kernel, stride }))
}

impl fmt::Display for PoolOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(KIND.word)?;
        if self.kernel != 2 {
            write!(f, " {}", self.kernel)?;
        }
        if self.stride != self.kernel {
            write!(f, " s{}", self.stride)?;
        }
        Ok(())
    }
}

impl LayerOp for PoolOp {
    fn word(&self) -> &'static str {
        KIND.word
    }

    fn infer(
        &self,
        node: &mut Node,
        context: &mut InferContext,
    ) -> std::result::Result<(), ArchError> {
        let (input, kernel) = (node.input, self.kernel);
        let Some((height, width)) = input.windows(kernel, self.stride, 0) else {
            return Err(context.error(format!(
                "its {kernel}x{kernel} window is larger than its input ({}x{})",
                input.height, input.width,
            )));
        };
        node.output = Shape::new(input.channels, height, width);
        Ok(())
    }

    fn cpu(&self, place: &mut CpuPlace) -> Result<Box<dyn Layer>> {
        let (kernel, stride) = (self.kernel as usize, self.stride as usize);
        let (shape, capacity) = (place.shape(), place.capacity());
        let pool = cpu::MaxPool::new(&place.name, shape, kernel, stride, capacity, place.device())?;
        Ok(Box::new(pool))
    }

    fn candle(&self, _node: &Node, x: &Tensor, _pass: &mut CandlePass) -> Result<Tensor> {
        candle::max_pool(x, self.kernel as usize, self.stride as usize)
    }

    fn makes_choices(&self) -> bool {
        true
    }

    /// The differences between the two largest numbers of each window.
    fn choice_gaps(&self, image: &[f64], [channels, height, width]: [usize; 3]) -> Vec<f64> {
        let (kernel, stride) = (self.kernel as usize, self.stride as usize);
        let mut gaps = Vec::new();
        for plane in image.chunks_exact(height * width).take(channels) {
            for top in (0..=height - kernel).step_by(stride) {
                for left in (0..=width - kernel).step_by(stride) {
                    let (mut first, mut second) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
                    for place in 0..kernel * kernel {
                        let (y, x) = (top + place / kernel, left + place % kernel);
                        let value = plane[y * width + x];
                        second = second.max(value.min(first));
                        first = first.max(value);
                    }
                    gaps.push(first - second);
                }
            }
        }
        gaps
    }
}
