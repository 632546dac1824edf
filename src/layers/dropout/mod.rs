//! `drop [NUMBER ["%"]]`: inverted dropout; without a share it follows the live hyperparameter. Convolutions and dense
//! layers take in one that follows their ReLU.

mod candle;
pub mod cpu;
pub mod gpu;
mod mask;

pub use mask::Mask;

use super::candle::CandlePass;
use super::cpu::{CpuPlace, Layer, Pass};
use super::kind::{Kind, LayerOp};
use crate::domain::arch::{ArchError, Arguments, Node};
use candle_core::{Result, Tensor};
use std::fmt;
use std::sync::Arc;

pub const KIND: Kind = Kind {
    word: "drop",
    usage: "[SHARE | SHARE%]",
    parse,
};

/// Largest share that an architecture may fix; the hyperparameter has the same limit.
pub const MAX_SHARE: f64 = 0.95;

#[derive(Debug)]
pub struct DropoutOp {
    /// None: the hyperparameter's value.
    pub share: Option<f64>,
}

/// A dropout in the network, as a separate layer or fused into another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Its number in the network, which selects its random numbers.
    pub layer: u16,
    /// The dropout share that the architecture fixes; None uses the hyperparameter.
    pub share: Option<f32>,
}

impl Dropout {
    /// The mask of a pass. None in scoring, or if the share is 0.
    pub fn mask(self, pass: &Pass) -> Option<Mask> {
        let train = pass.train?;
        let share = self.share.unwrap_or(train.dropout);
        Mask::new(train.seed, self.layer, train.step, share)
    }
}

fn parse(arguments: &mut Arguments) -> std::result::Result<Arc<dyn LayerOp>, ArchError> {
    let mut share = None;
    if arguments.is_number_next() {
        share = Some(arguments.float("the share", 0.0..=MAX_SHARE)?);
    }
    Ok(Arc::new(DropoutOp { share }))
}

impl fmt::Display for DropoutOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.share {
            None => f.write_str(KIND.word),
            Some(share) => write!(f, "{} {share}", KIND.word),
        }
    }
}

impl LayerOp for DropoutOp {
    fn word(&self) -> &'static str {
        KIND.word
    }

    fn cpu(&self, place: &mut CpuPlace) -> Result<Box<dyn Layer>> {
        let dropout = place.dropout(self.share);
        let (shape, capacity) = (place.shape(), place.capacity());
        let drop = cpu::Drop::new(&place.name, shape, dropout, capacity, place.device())?;
        Ok(Box::new(drop))
    }

    fn candle(&self, _node: &Node, x: &Tensor, pass: &mut CandlePass) -> Result<Tensor> {
        candle::dropout(self, x, pass)
    }
}
