//! The way back: each layer's launches for the gradients of its parameters and of its input.

use super::{
    Activation, Builder, CONV, NORM, POINTWISE, POOL, PlacedLayer, PlacedNorm, PlacedResidual,
    ScheduledLayer, TERMS, TILE, before_constants, pointwise,
};
use crate::hardware::executor::Launch;

impl Builder {
    pub(super) fn sequential_backward(&mut self, steps: &[ScheduledLayer]) {
        for step in steps.iter().rev() {
            self.step_backward(step);
        }
    }

    /// Where a kernel that knows nothing of the layer before writes the gradient of its input.
    pub(super) fn plain(&mut self, input: &Activation) -> Option<usize> {
        match &input.before {
            None => input.grad,
            Some(_) => input.grad.map(|_| self.batch(input.len)),
        }
    }

    /// After it has: what is left to do for the layer before.
    fn deliver(&mut self, from: usize, input: &Activation) {
        if let (Some(before), Some(grad)) = (input.before.as_deref(), input.grad) {
            let mut constants = pointwise(input.len, true, None);
            constants.push_str(&before_constants(Some(before)));
            let arguments = vec![
                Some(self.layout.now),
                Some(from),
                Some(input.at),
                before.taken,
                Some(grad),
            ];
            let launch = self.elementwise(POINTWISE, &constants, "arriving", input.len, arguments);
            self.backward.push(launch);
        }
    }

    fn step_backward(&mut self, step: &ScheduledLayer) {
        let (input, output) = (&step.input, &step.output);
        let now = Some(self.layout.now);
        match &step.placed {
            PlacedLayer::Gemm {
                product,
                weight,
                bias,
                packed_back,
                constants,
            } => {
                let g = product.geometry;
                let rows = g.patch() + usize::from(product.bias);
                let weight_tiles = rows.div_ceil(TILE.0) * g.outputs.div_ceil(TILE.1);
                let pixels = self.spec.capacity * g.out_height * g.out_width;
                let weight_splits = self.splits(weight_tiles, pixels.div_ceil(TERMS));
                let (weight_parts, weight_counters) = self.shared(weight_tiles, weight_splits);
                let tiles = self.input_tiles(&g);
                let (mut blocks, mut shared) = (weight_tiles * weight_splits, (None, None));
                if input.grad.is_some() {
                    let taps = g.kernel * g.kernel;
                    let splits = self.splits(tiles, (taps * g.outputs).div_ceil(TERMS));
                    shared = self.shared(tiles, splits);
                    blocks += tiles * splits;
                }
                let squares = self.squares(weight_tiles);
                let launch = Launch {
                    source: CONV,
                    constants: constants.as_str().into(),
                    entry: "backward",
                    grid: [blocks as u32, 1, 1],
                    block: 128,
                    arguments: vec![
                        now,
                        Some(input.at),
                        output.grad,
                        *packed_back,
                        Some(self.grad_of(*weight)),
                        bias.map(|bias| self.grad_of(bias)),
                        Some(squares),
                        weight_parts,
                        weight_counters,
                        input.grad,
                        input.before.as_ref().and_then(|before| before.taken),
                        shared.0,
                        shared.1,
                    ],
                };
                self.backward.push(launch);
            }
            PlacedLayer::Norm(norm) => {
                let to = self.plain(input);
                self.norm_backward(norm, input, output, None, to);
                if let Some(to) = to {
                    self.deliver(to, input);
                }
            }
            PlacedLayer::MaxPool { constants, taken } => {
                self.through(input, |b, to| {
                    let arguments = vec![now, output.grad, Some(*taken), Some(to)];
                    b.elementwise(POOL, constants, "spread", input.len, arguments)
                });
            }
            PlacedLayer::GlobalPool { constants } => {
                self.through(input, |b, to| {
                    let arguments = vec![now, output.grad, Some(to)];
                    b.elementwise(POOL, constants, "spread_mean", input.len, arguments)
                });
            }
            PlacedLayer::Relu { constants } => {
                self.through(input, |b, to| {
                    let arguments = vec![now, output.grad, Some(output.at), Some(to)];
                    b.elementwise(POINTWISE, constants, "mask", input.len, arguments)
                });
            }
            PlacedLayer::Drop { constants } => {
                self.through(input, |b, to| {
                    let arguments = vec![now, output.grad, Some(to)];
                    b.elementwise(POINTWISE, constants, "drop", input.len, arguments)
                });
            }
            PlacedLayer::Residual(block) => self.block_backward(block, input, output),
        }
    }

    /// A layer without parameters.
    fn through(&mut self, input: &Activation, launch: impl Fn(&Self, usize) -> Launch) {
        if let Some(to) = self.plain(input) {
            let launch = launch(self, to);
            self.backward.push(launch);
            self.deliver(to, input);
        }
    }

    fn norm_backward(
        &mut self,
        norm: &PlacedNorm,
        input: &Activation,
        output: &Activation,
        masked: Option<usize>,
        to: Option<usize>,
    ) {
        let squares = self.squares(1);
        let now = Some(self.layout.now);
        let slopes = Launch {
            source: NORM,
            constants: norm.constants.as_str().into(),
            entry: "slopes",
            grid: [norm.shards as u32, 1, 1],
            block: 256,
            arguments: vec![
                now,
                Some(input.at),
                output.grad,
                Some(output.at),
                norm.taken,
                Some(norm.weight),
                masked,
                Some(self.grad_of(norm.weight)),
                Some(self.grad_of(norm.bias)),
                Some(squares),
                Some(norm.kept),
                Some(norm.parts),
                Some(norm.counter),
            ],
        };
        self.backward.push(slopes);
        if let Some(to) = to {
            let arguments = vec![
                now,
                Some(input.at),
                masked.or(output.grad),
                Some(output.at),
                norm.taken,
                Some(norm.kept),
                Some(to),
            ];
            let slope = self.elementwise(NORM, &norm.constants, "slope", norm.pixels, arguments);
            self.backward.push(slope);
        }
    }

    fn block_backward(&mut self, block: &PlacedResidual, input: &Activation, output: &Activation) {
        let now = Some(self.layout.now);
        let masked = self.batch(output.len);
        let [body_end, skip_end] = &block.ends;
        if let Some(norm) = &block.tail {
            let to = self.plain(body_end);
            self.norm_backward(norm, body_end, output, Some(masked), to);
            if let Some(to) = to {
                self.deliver(to, body_end);
            }
        } else {
            let constants = pointwise(output.len, block.relu, None);
            let arguments = vec![now, output.grad, Some(output.at), Some(masked)];
            let mask = self.elementwise(POINTWISE, &constants, "mask", output.len, arguments);
            self.backward.push(mask);
            self.hand(masked, body_end);
        }
        self.sequential_backward(&block.body);
        if !block.shortcut.is_empty() {
            self.hand(masked, skip_end);
            self.sequential_backward(&block.shortcut);
        }
        let [Some(body), Some(skip)] = block.grads else {
            return;
        };
        let skip = if block.shortcut.is_empty() {
            masked
        } else {
            skip
        };
        let constants = pointwise(input.len, false, None);
        let add = self.elementwise(
            POINTWISE,
            &constants,
            "add",
            input.len,
            vec![now, Some(skip), Some(body)],
        );
        self.backward.push(add);
        self.deliver(body, input);
    }

    /// Gives a gradient that is ready to the layer that ends a branch.
    fn hand(&mut self, from: usize, end: &Activation) {
        match (&end.before, end.grad) {
            (Some(_), _) => self.deliver(from, end),
            (None, Some(grad)) => {
                let constants = pointwise(end.len, false, None);
                let arguments = vec![Some(self.layout.now), Some(from), Some(end.at), Some(grad)];
                let copy = self.elementwise(POINTWISE, &constants, "mask", end.len, arguments);
                self.backward.push(copy);
            }
            (None, None) => {}
        }
    }
}
