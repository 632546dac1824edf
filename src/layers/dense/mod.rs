//! `dense INT { "no-bias" | "unit-variance" }`: fully connected; flattens what comes before it, channel by channel (PyTorch's
//! order). It has a bias, except with `no-bias` or directly before a `norm`, which would subtract it again. It takes in the
//! ReLU that follows and a dropout after that.
//!
//! Its weights begin as [`Initialization::Glorot`] says, with `unit-variance` as [`Initialization::UnitVariance`] does.

mod candle;
pub mod cpu;
mod gpu;

use super::candle::CandlePass;
use super::cpu::{CpuPlace, Layer};
use super::dropout::DropoutOp;
use super::kind::{Initialization, Kind, LayerOp, NO_BIAS, ParameterSpec};
use super::norm::NormOp;
use super::relu::ReluOp;
use crate::domain::arch::{ArchError, Arguments, InferContext, MAX_CHANNELS, Node, Shape};
use crate::domain::params::ParameterGroup;
use candle_core::{Result, Tensor};
use std::fmt;
use std::sync::Arc;

pub const KIND: Kind = Kind {
    word: "dense",
    usage: "OUTPUTS [no-bias] [unit-variance]",
    parse,
};

const UNIT_VARIANCE: &str = "unit-variance";

#[derive(Debug)]
pub struct DenseOp {
    pub out: u32,
    pub no_bias: bool,
    /// Whether the weights begin with the variance 1.
    pub unit_variance: bool,
}

fn parse(arguments: &mut Arguments) -> std::result::Result<Arc<dyn LayerOp>, ArchError> {
    let out = arguments.int("the number of outputs", 1..=MAX_CHANNELS)?;
    let mut op = DenseOp {
        out,
        no_bias: false,
        unit_variance: false,
    };
    while let Some(word) = arguments.peek_word() {
        let at = arguments.here();
        let option = match word.as_str() {
            NO_BIAS => &mut op.no_bias,
            UNIT_VARIANCE => &mut op.unit_variance,
            _ => break,
        };
        if std::mem::replace(option, true) {
            return Err(arguments.error(at, format!("'{word}' is said twice")));
        }
        arguments.skip_word();
    }
    Ok(Arc::new(op))
}

impl fmt::Display for DenseOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", KIND.word, self.out)?;
        let options = [(self.no_bias, NO_BIAS), (self.unit_variance, UNIT_VARIANCE)];
        let mut chosen = options.iter().filter(|(chosen, _)| *chosen);
        chosen.try_for_each(|(_, word)| write!(f, " {word}"))
    }
}

impl LayerOp for DenseOp {
    fn word(&self) -> &'static str {
        KIND.word
    }

    fn has_name(&self) -> bool {
        true
    }

    fn makes_logits(&self) -> bool {
        true
    }

    fn infer(
        &self,
        node: &mut Node,
        context: &mut InferContext,
    ) -> std::result::Result<(), ArchError> {
        let input = node.input;
        if context.is_nested() && (input.height, input.width) != (1, 1) {
            return Err(context.error(format!(
                "in a residual block it needs a plain vector, not {input}; put 'global-pool' before the block"
            )));
        }
        let (out, inputs) = (self.out as usize, input.len() as usize);
        node.output = Shape::new(self.out, 1, 1);
        let initial = match self.unit_variance {
            true => Initialization::UnitVariance,
            false => Initialization::Glorot { fans: inputs + out },
        };
        node.parameters.push(ParameterSpec::weight(
            ParameterGroup::Dense,
            vec![out, inputs],
            initial,
        ));
        if !self.no_bias && !context.is_before::<NormOp>() {
            node.parameters.push(ParameterSpec::bias(out));
        }
        node.multiply_adds = u64::from(self.out) * input.len();
        Ok(())
    }

    fn cpu(&self, place: &mut CpuPlace) -> Result<Box<dyn Layer>> {
        let relu = place.absorb::<ReluOp>().is_some();
        let mut dropout = None;
        if relu && let Some(drop) = place.absorb::<DropoutOp>() {
            dropout = Some(place.dropout(drop.share));
        }
        let weight = place.parameter(place.node, "weight")?;
        let bias = place.optional_parameter(place.node, "bias")?;
        let (shape, capacity) = (place.shape(), place.capacity());
        let dense = cpu::Dense::new(&place.name, shape, relu, dropout, weight, bias, capacity)?;
        Ok(Box::new(dense))
    }

    fn candle(&self, node: &Node, x: &Tensor, pass: &mut CandlePass) -> Result<Tensor> {
        candle::dense(node, x, pass)
    }
}
