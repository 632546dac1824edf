//! `whiten`: the first layer's convolution with 24 fixed 2x2 filters that whiten the training images' patches, and a bias
//! that is trained (except directly before a `norm`, which would subtract it again). No padding: 3 x 32x32 becomes
//! 24 x 31x31. It takes in what a convolution does, or a smooth activation.
//!
//! The filters are the 12 eigenvectors of the second moments of the images' 2x2 patches, each divided by the square root
//! of its eigenvalue plus [`EPSILON`], and the negatives of these ([`filters()`]). They come from the first
//! [`filters::IMAGES`] training images of the run, scaled as the network sees them, without augmentation. Without images,
//! as in a benchmark, they are those of white patches: the identity and its negative. They are parameters that are not
//! trained: a checkpoint holds them, and a resumed run has them from there.
//!
//! Jordan: "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024.

pub mod cpu;
mod eigen;
pub mod filters;

pub use filters::filters;

use super::activation::ActivationOp;
use super::candle::CandlePass;
use super::conv::ConvOp;
use super::conv::cpu::ConvEpilogue;
use super::cpu::{CpuPlace, Layer};
use super::kind::{Initialization, Kind, LayerOp, SeenImages};
use crate::domain::arch::{ArchError, InferContext, Node};
use crate::domain::params::ParameterGroup;
use candle_core::{Result, Tensor};
use std::fmt;
use std::sync::Arc;

pub const KIND: Kind = Kind {
    word: "whiten",
    usage: "",
    parse: |_| Ok(Arc::new(WhitenOp)),
};

/// Added to the eigenvalues.
pub const EPSILON: f64 = 5e-4;
/// Pixels on each side of a patch.
const KERNEL: usize = 2;
/// Colours of an image.
const CHANNELS: usize = 3;
/// Numbers of a patch, in the order of a convolution's weight: channel, row, column.
const PATCH: usize = CHANNELS * KERNEL * KERNEL;

/// What it computes.
const CONV: ConvOp = ConvOp {
    out: 2 * PATCH as u32,
    kernel: KERNEL as u32,
    stride: 1,
    padding: 0,
    no_bias: false,
    dirac: false,
};

#[derive(Debug)]
pub struct WhitenOp;

impl fmt::Display for WhitenOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(KIND.word)
    }
}

impl LayerOp for WhitenOp {
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
        if !context.is_first() {
            return Err(context.error("it whitens images, so it must be the first layer".into()));
        }
        if node.input.channels as usize != CHANNELS {
            return Err(context.error(format!(
                "it whitens images of {CHANNELS} channels, not of {}",
                node.input.channels
            )));
        }
        CONV.infer(node, context)?;
        for parameter in &mut node.parameters {
            match parameter.suffix {
                "weight" => {
                    parameter.initial = Initialization::PlusMinusIdentity;
                    parameter.trained = false;
                }
                _ => parameter.group = ParameterGroup::Whitening,
            }
        }
        Ok(())
    }

    fn parameters_from(&self, images: &SeenImages) -> Vec<(&'static str, Vec<f32>)> {
        vec![("weight", filters(images))]
    }

    fn cpu(&self, place: &mut CpuPlace) -> Result<Box<dyn Layer>> {
        let conv = CONV.fused(place)?;
        if conv.after() != ConvEpilogue::default() {
            return Ok(Box::new(conv));
        }
        Ok(match place.absorb::<ActivationOp>() {
            Some(activation) => Box::new(cpu::Whiten::new(conv, activation.function())),
            None => Box::new(conv),
        })
    }

    fn candle(&self, node: &Node, x: &Tensor, pass: &mut CandlePass) -> Result<Tensor> {
        CONV.candle(node, x, pass)
    }
}
