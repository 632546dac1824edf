//! `conv INT { "k" INT | "s" INT | "p" INT | "same" | "no-bias" | "dirac" }`: a convolution of so many output channels. `k`
//! is the kernel (3), `s` the stride (1), `p` the padding (0), as Keras has them; `same` pads an odd kernel by its half. It
//! has a bias, except with `no-bias` or directly before a `norm`, which would subtract it again. It takes in the ReLU that
//! follows, then a 2x2 pool, then a dropout; without a ReLU only the pool.
//!
//! Its weights begin as [`Initialization::Glorot`] says; with `dirac` the first filters let their input channel through and
//! the others begin as PyTorch's do ([`Initialization::Dirac`]).
//!
//! The CPU's kernels are direct convolutions on NHWC: under one row of the kernel, (column, channel) is one run of memory,
//! so nothing is unfolded. `tile.rs` has the inner loops; `forward.rs` and `backward.rs` what is around them; `winograd`
//! the same with fewer multiplications; `pack.rs` the order of their weights. `sparse.rs` has the backward pass where most
//! of the gradient is zero, and `pooled.rs` where only pooling made it so; `layout.rs` how both lay out images and
//! weights. `algorithm.rs` has what differs between the backward passes, and `total.rs` the sums of the gradients' parts.

mod algorithm;
mod backward;
mod candle;
pub mod cpu;
mod forward;
mod geometry;
pub mod gpu;
mod layout;
mod pack;
mod pooled;
pub mod product;
mod sparse;
mod tile;
mod total;
pub mod variant;
mod winograd;

pub use geometry::Geometry;

use super::candle::CandlePass;
use super::cpu::{CpuPlace, Layer};
use super::dropout::DropoutOp;
use super::kind::{Initialization, Kind, LayerOp, NO_BIAS, ParameterSpec};
use super::norm::NormOp;
use super::pool::PoolOp;
use super::relu::ReluOp;
use crate::domain::arch::{
    ArchError, Arguments, InferContext, MAX_CHANNELS, MAX_STRIDE, Node, Shape, shortened,
};
use crate::domain::params::ParameterGroup;
use candle_core::{Result, Tensor};
use std::fmt;
use std::sync::Arc;

pub const KIND: Kind = Kind {
    word: "conv",
    usage: "CHANNELS [k KERNEL] [s STRIDE] [p PADDING | same] [no-bias] [dirac]",
    parse,
};

/// Largest kernel.
pub const MAX_KERNEL: u32 = 11;
const DIRAC: &str = "dirac";

#[derive(Debug)]
pub struct ConvOp {
    pub out: u32,
    pub kernel: u32,
    pub stride: u32,
    pub padding: u32,
    pub no_bias: bool,
    /// Whether the first filters begin as the identity.
    pub dirac: bool,
}

fn parse(arguments: &mut Arguments) -> std::result::Result<Arc<dyn LayerOp>, ArchError> {
    let out = arguments.int("the number of channels", 1..=MAX_CHANNELS)?;
    let (mut kernel, mut stride, mut padding) = (None, None, None);
    let mut same = None;
    let (mut no_bias, mut dirac) = (false, false);
    while let Some(word) = arguments.peek_word() {
        let at = arguments.here();
        let twice = match word.as_str() {
            "k" => kernel.is_some(),
            "s" => stride.is_some(),
            NO_BIAS => no_bias,
            DIRAC => dirac,
            "p" | "same" => padding.is_some() || same.is_some(),
            _ => {
                let why = format!(
                    "'{}' is not a property of a convolution; the properties are k (kernel), s (stride), p (padding), same, no-bias and dirac",
                    shortened(&word)
                );
                return Err(arguments.error(at, why));
            }
        };
        if twice {
            return Err(arguments.error(at, format!("'{word}' is said twice")));
        }
        arguments.skip_word();
        match word.as_str() {
            NO_BIAS => no_bias = true,
            DIRAC => dirac = true,
            "k" => kernel = Some(arguments.int("the kernel", 1..=MAX_KERNEL)?),
            "s" => stride = Some(arguments.int("the stride", 1..=MAX_STRIDE)?),
            "p" => {
                let start = arguments.here().start;
                let p = arguments.int("the padding", 0..=MAX_KERNEL - 1)?;
                padding = Some((p, start..arguments.end()));
            }
            _ => same = Some(at),
        }
    }
    let kernel = kernel.unwrap_or(3);
    let padding = match (padding, same) {
        (Some((p, at)), _) if p >= kernel => {
            let why = format!("the padding must be smaller than the kernel ({kernel})");
            return Err(arguments.error(at, why));
        }
        (Some((p, _)), _) => p,
        (None, Some(at)) if kernel % 2 == 0 => {
            return Err(arguments.error(at, "'same' needs an odd kernel"));
        }
        (None, Some(_)) => kernel / 2,
        (None, None) => 0,
    };
    Ok(Arc::new(ConvOp {
        out,
        kernel,
        stride: stride.unwrap_or(1),
        padding,
        no_bias,
        dirac,
    }))
}

impl fmt::Display for ConvOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", KIND.word, self.out)?;
        if self.kernel != 3 {
            write!(f, " k{}", self.kernel)?;
        }
        if self.stride != 1 {
            write!(f, " s{}", self.stride)?;
        }
        match self.padding {
            0 => Ok(()),
            p if self.kernel % 2 == 1 && p == self.kernel / 2 => f.write_str(" same"),
            p => write!(f, " p{p}"),
        }?;
        let options = [(self.no_bias, NO_BIAS), (self.dirac, DIRAC)];
        let mut chosen = options.iter().filter(|(chosen, _)| *chosen);
        chosen.try_for_each(|(_, word)| write!(f, " {word}"))
    }
}

impl LayerOp for ConvOp {
    fn word(&self) -> &'static str {
        KIND.word
    }

    fn has_name(&self) -> bool {
        true
    }

    fn infer(
        &self,
        node: &mut Node,
        context: &mut InferContext,
    ) -> std::result::Result<(), ArchError> {
        let (input, kernel) = (node.input, self.kernel);
        let Some((height, width)) = input.windows(kernel, self.stride, self.padding) else {
            return Err(context.error(format!(
                "its {kernel}x{kernel} kernel is larger than its input ({}x{}); try 'same'",
                input.height, input.width,
            )));
        };
        node.output = Shape::new(self.out, height, width);
        let [out, inputs, side] = [self.out, input.channels, kernel].map(|n| n as usize);
        let initial = match self.dirac {
            true => Initialization::Dirac,
            false => Initialization::Glorot {
                fans: (inputs + out) * side * side,
            },
        };
        let weight = ParameterSpec::weight(
            ParameterGroup::Filters,
            vec![out, inputs, side, side],
            initial,
        );
        node.multiply_adds = weight.len() * u64::from(height) * u64::from(width);
        node.parameters.push(weight);
        if !self.no_bias && !context.is_before::<NormOp>() {
            node.parameters.push(ParameterSpec::bias(out));
        }
        Ok(())
    }

    fn cpu(&self, place: &mut CpuPlace) -> Result<Box<dyn Layer>> {
        Ok(Box::new(self.fused(place)?))
    }

    fn candle(&self, node: &Node, x: &Tensor, pass: &mut CandlePass) -> Result<Tensor> {
        candle::conv(self, node, x, pass)
    }
}

impl ConvOp {
    /// The convolution with what it takes in.
    ///
    /// # Errors
    /// Returns the errors of [`LayerOp::cpu`].
    pub fn fused(&self, place: &mut CpuPlace) -> Result<cpu::Conv> {
        let sizes = [self.out, self.kernel, self.stride, self.padding].map(|v| v as usize);
        let [out, kernel, stride, padding] = sizes;
        let geometry = Geometry::new(place.shape(), out, kernel, stride, padding)?;
        let relu = place.absorb::<ReluOp>().is_some();
        let pool = place.absorb_if(PoolOp::is_two_by_two).is_some();
        let mut dropout = None;
        if relu && let Some(drop) = place.absorb::<DropoutOp>() {
            dropout = Some(place.dropout(drop.share));
        }
        let after = cpu::ConvEpilogue {
            relu,
            pool,
            dropout,
        };
        let weight = place.parameter(place.node, "weight")?;
        let bias = place.optional_parameter(place.node, "bias")?;
        let capacity = place.capacity();
        cpu::Conv::new(&place.name, geometry, after, weight, bias, capacity)
    }
}
