//! `residual "(" arch ")"`: the sum of its layers' output and its input (He et al., "Deep Residual Learning", CVPR 2016).
//! If their shapes differ, the input passes through a 1x1 convolution and a norm, the shortcut. The convolution's stride is
//! the one that gives the output's height and width; if there is none, it is an error. The block takes in the ReLU that
//! follows.

pub mod cpu;
mod gpu;

use super::candle::CandlePass;
use super::conv::ConvOp;
use super::cpu::{CpuPlace, Layer};
use super::kind::{Kind, LayerOp};
use super::norm::{NormOp, cpu::Norm, cpu::NormEpilogue};
use super::relu::ReluOp;
use crate::domain::arch::{
    ArchError, ArchLayer, Arguments, InferContext, MAX_STRIDE, Node, Shape, write_layers,
};
use candle_core::{Result, Tensor, bail};
use cpu::{Residual, ResidualSum};
use std::fmt;
use std::sync::Arc;

pub const KIND: Kind = Kind {
    word: "residual",
    usage: "(LAYERS)",
    parse,
};

#[derive(Debug)]
pub struct ResidualOp {
    pub body: Vec<ArchLayer>,
}

fn parse(arguments: &mut Arguments) -> std::result::Result<Arc<dyn LayerOp>, ArchError> {
    let body = arguments.layers()?;
    Ok(Arc::new(ResidualOp { body }))
}

impl fmt::Display for ResidualOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", KIND.word)?;
        write_layers(&self.body, f)?;
        f.write_str(")")
    }
}

/// The convolution that brings a block's input to the shape of its body's output.
fn projection(input: Shape, output: Shape) -> Option<ConvOp> {
    let size = Some((output.height, output.width));
    let stride = (1..=MAX_STRIDE).find(|&stride| input.windows(1, stride, 0) == size)?;
    Some(ConvOp {
        out: output.channels,
        kernel: 1,
        stride,
        padding: 0,
        no_bias: false,
        dirac: false,
    })
}

impl LayerOp for ResidualOp {
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
        let (input, prefix) = (node.input, format!("{}.", node.name));
        let body = context.branch(&self.body, input, &prefix)?;
        let output = body.last().map_or(input, |last| last.output);
        let mut shortcut = Vec::new();
        if output != input {
            let Some(conv) = projection(input, output) else {
                return Err(context.error(format!(
                    "its layers turn {input} into {output}, and no stride of a 1x1 convolution does that to the shortcut; \
                     give its convolutions 'same'"
                )));
            };
            let ops: Vec<Arc<dyn LayerOp>> = vec![Arc::new(conv), Arc::new(NormOp::default())];
            shortcut = context.unwritten_branch(ops, input, &format!("{prefix}shortcut."))?;
        }
        node.output = output;
        node.branches = vec![body, shortcut];
        Ok(())
    }

    fn cpu(&self, place: &mut CpuPlace) -> Result<Box<dyn Layer>> {
        let node = place.node;
        let [body, shortcut] = &node.branches[..] else {
            bail!("{}: a residual block has two branches", node.name);
        };
        let relu = place.absorb::<ReluOp>().is_some();
        let last_norm = body.split_last().and_then(|(last, before)| {
            let norm = last.layer.op.downcast::<NormOp>()?;
            Some((last, norm, before))
        });
        let (body, tail) = match last_norm {
            // It also adds the shortcut.
            Some((last, norm, before)) => {
                let before = place.branch(before)?;
                let after = NormEpilogue {
                    relu,
                    ..NormEpilogue::default()
                };
                (
                    before,
                    ResidualSum::norm(Norm::of(place, last, *norm, after)?)?,
                )
            }
            None => {
                let body = place.branch(body)?;
                let tail = ResidualSum::sum(body.output(place.input), relu)?;
                (body, tail)
            }
        };
        let shortcut = place.branch(shortcut)?;
        let residual = Residual::new(&place.name, body, tail, shortcut, place.input)?;
        Ok(Box::new(residual))
    }

    fn candle(&self, node: &Node, x: &Tensor, pass: &mut CandlePass) -> Result<Tensor> {
        let mut sum: Option<Tensor> = None;
        for branch in &node.branches {
            let y = pass.sequential(branch, x)?;
            sum = Some(match sum {
                None => y,
                Some(sum) => (sum + y)?,
            });
        }
        Ok(sum.unwrap_or_else(|| x.clone()))
    }
}
