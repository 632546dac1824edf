//! `dense INT ["no-bias"]`: fully connected; flattens what comes before it, channel by channel (PyTorch's order). It has a
//! bias, except with `no-bias` or directly before a `norm`, which would subtract it again. It takes in the ReLU that follows and a dropout after
//! that.

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
    parse,
};

#[derive(Debug)]
pub struct DenseOp {
    pub out: u32,
    pub no_bias: bool,
}

fn parse(arguments: &mut Arguments) -> std::result::Result<Arc<dyn LayerOp>, ArchError> {
    let out = arguments.int("the number of outputs", 1..=MAX_CHANNELS)?;
    let no_bias = arguments.peek_word().is_some_and(|word| word == NO_BIAS);
    if no_bias {
        arguments.skip_word();
    }
    Ok(Arc::new(DenseOp { out, no_bias }))
}

impl fmt::Display for DenseOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", KIND.word, self.out)?;
        match self.no_bias {
            true => write!(f, " {NO_BIAS}"),
            false => Ok(()),
        }
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
        let initial = Initialization::Glorot { fans: inputs + out };
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
