//! Infers the shapes, names and costs of an architecture's layers.

use super::*;

/// Walks the layers, keeps the totals under the limits.
#[derive(Default)]
pub(super) struct ShapeInference {
    /// Number of the layer being looked at, from 1.
    pub(super) number: usize,
    parameters: u64,
    activations: u64,
    multiply_adds: u64,
}

impl ShapeInference {
    pub(super) fn sequence(
        &mut self,
        layers: &[ArchLayer],
        input: Shape,
        prefix: &str,
    ) -> Result<Vec<Node>, ArchError> {
        let mut count = Counter::default();
        let mut shape = input;
        let mut nodes = Vec::with_capacity(layers.len());
        for (i, layer) in layers.iter().enumerate() {
            self.number += 1;
            let before_norm = matches!(layers.get(i + 1).map(|l| &l.op), Some(Op::Norm));
            let name = count.name(&layer.op, prefix);
            let node = self.node(layer, shape, name, !before_norm, !prefix.is_empty())?;
            shape = node.output;
            nodes.push(node);
        }
        Ok(nodes)
    }

    fn node(
        &mut self,
        layer: &ArchLayer,
        input: Shape,
        name: String,
        bias: bool,
        nested: bool,
    ) -> Result<Node, ArchError> {
        let number = self.number;
        let fail = |why: String| ArchError {
            layer: Some((number, layer.to_string())),
            why,
            at: layer.at.clone(),
        };
        let mut node = Node {
            name,
            layer: layer.clone(),
            input,
            output: input,
            bias: false,
            parameters: 0,
            multiply_adds: 0,
            body: Vec::new(),
            shortcut: Vec::new(),
        };
        match &layer.op {
            Op::Relu | Op::Drop { .. } => {}
            Op::Norm => node.parameters = 2 * u64::from(input.channels),
            Op::GlobalPool => node.output = Shape::new(input.channels, 1, 1),
            &Op::Conv {
                out,
                kernel,
                stride,
                padding,
            } => {
                node.output = window(input, kernel, stride, padding)
                    .map(|(height, width)| Shape::new(out, height, width))
                    .ok_or_else(|| {
                        fail(format!(
                            "its {kernel}x{kernel} kernel is larger than its input ({}x{}); try 'same'",
                            input.height, input.width,
                        ))
                    })?;
                let weights =
                    u64::from(out) * u64::from(input.channels) * u64::from(kernel * kernel);
                node.bias = bias;
                node.parameters = weights + if bias { u64::from(out) } else { 0 };
                node.multiply_adds =
                    weights * u64::from(node.output.height) * u64::from(node.output.width);
            }
            &Op::Pool { kernel, stride } => {
                node.output = window(input, kernel, stride, 0)
                    .map(|(height, width)| Shape::new(input.channels, height, width))
                    .ok_or_else(|| {
                        fail(format!(
                            "its {kernel}x{kernel} window is larger than its input ({}x{})",
                            input.height, input.width,
                        ))
                    })?;
            }
            &Op::Dense { out } => {
                if nested && (input.height, input.width) != (1, 1) {
                    return Err(fail(format!(
                        "in a residual block it needs a plain vector, not {input}; put 'global-pool' before the block"
                    )));
                }
                let weights = u64::from(out) * input.len();
                node.output = Shape::new(out, 1, 1);
                node.bias = bias;
                node.parameters = weights + if bias { u64::from(out) } else { 0 };
                node.multiply_adds = weights;
            }
            Op::Residual { body } => {
                let prefix = format!("{}.", node.name);
                node.body = self.sequence(body, input, &prefix)?;
                node.output = node.body.last().map_or(input, |last| last.output);
                if node.output != input {
                    let conv = self.shortcut(input, node.output, layer, number)?;
                    let norm = ArchLayer {
                        op: Op::Norm,
                        at: layer.at.clone(),
                    };
                    let prefix = format!("{prefix}shortcut.");
                    let last = self.number;
                    node.shortcut = self.sequence(&[conv, norm], input, &prefix)?;
                    // The shortcut is not written, so it does not count.
                    self.number = last;
                }
            }
        }
        self.parameters += node.parameters;
        self.activations += node.output.len();
        self.multiply_adds += node.multiply_adds;
        for (what, total, most) in [
            ("parameters", self.parameters, MAX_PARAMETERS),
            ("activations an image", self.activations, MAX_ACTIVATIONS),
            (
                "multiply-adds an image",
                self.multiply_adds,
                MAX_MULTIPLY_ADDS,
            ),
        ] {
            if total > most {
                return Err(fail(format!(
                    "with it the network has {total} {what}; the most allowed is {most}"
                )));
            }
        }
        Ok(node)
    }

    /// The convolution that brings a residual block's input to the shape of its body's output.
    fn shortcut(
        &self,
        input: Shape,
        output: Shape,
        layer: &ArchLayer,
        number: usize,
    ) -> Result<ArchLayer, ArchError> {
        (1..=MAX_STRIDE)
            .find(|&stride| window(input, 1, stride, 0) == Some((output.height, output.width)))
            .map(|stride| ArchLayer {
                op: Op::Conv {
                    out: output.channels,
                    kernel: 1,
                    stride,
                    padding: 0,
                },
                at: layer.at.clone(),
            })
            .ok_or_else(|| ArchError {
                layer: Some((number, layer.to_string())),
                why: format!(
                    "its layers turn {input} into {output}, and no stride of a 1x1 convolution does that to the shortcut; \
                     give its convolutions 'same'"
                ),
                at: layer.at.clone(),
            })
    }
}

/// Height and width of what a sliding window leaves; None when it does not fit once.
fn window(input: Shape, kernel: u32, stride: u32, padding: u32) -> Option<(u32, u32)> {
    let along = |size: u32| {
        (size + 2 * padding)
            .checked_sub(kernel)
            .map(|rest| rest / stride + 1)
    };
    Some((along(input.height)?, along(input.width)?))
}

/// Numbers the layers of one kind.
#[derive(Default)]
struct Counter {
    conv: usize,
    norm: usize,
    dense: usize,
    residual: usize,
}

impl Counter {
    fn name(&mut self, op: &Op, prefix: &str) -> String {
        let (word, count) = match op {
            Op::Conv { .. } => ("conv", &mut self.conv),
            Op::Norm => ("norm", &mut self.norm),
            Op::Dense { .. } => ("dense", &mut self.dense),
            Op::Residual { .. } => ("residual", &mut self.residual),
            Op::Relu | Op::Pool { .. } | Op::GlobalPool | Op::Drop { .. } => return String::new(),
        };
        *count += 1;
        format!("{prefix}{word}{count}")
    }
}
