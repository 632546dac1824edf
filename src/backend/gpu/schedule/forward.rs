//! The way forward: where each layer's things stand, and its launches.

use super::{
    Activation, Before, Builder, CONV, Gemm, LOSS, MAX_SHARDS, NORM, POINTWISE, POOL, PlacedLayer,
    PlacedNorm, PlacedResidual, ScheduledLayer, TERMS, TILE, before_constants, dropout_constants,
    norm_parts, pointwise,
};
use crate::domain::params::Precision;
use crate::hardware::executor::Launch;
use crate::layers::Layer;
use crate::layers::conv::Geometry;
use crate::layers::sequential::Sequential;
use crate::layers::spec::{LayerSpec, ResidualEnd};
use std::fmt::Write;
use std::rc::Rc;

impl Builder {
    pub(super) fn sequential(
        &mut self,
        layers: &Sequential,
        mut input: Activation,
    ) -> Vec<ScheduledLayer> {
        let mut steps = Vec::new();
        for layer in layers.layers() {
            let (placed, output) = self.layer(layer.as_ref(), &input);
            let before = std::mem::replace(&mut input, output.clone());
            steps.push(ScheduledLayer {
                placed,
                input: before,
                output,
            });
        }
        steps
    }

    fn layer(&mut self, layer: &dyn Layer, input: &Activation) -> (PlacedLayer, Activation) {
        let now = Some(self.layout.now);
        let name = layer.name();
        match layer.spec() {
            LayerSpec::Conv {
                geometry,
                after,
                bias,
            } => {
                let product = Gemm {
                    flat: (geometry.inputs, 1),
                    geometry,
                    relu: after.relu,
                    pool: after.pool,
                    dropout: after.dropout,
                    bias,
                };
                self.product(name, product, input)
            }
            LayerSpec::Dense {
                channels,
                pixels,
                outputs,
                relu,
                dropout,
                bias,
            } => {
                let geometry = Geometry {
                    height: 1,
                    width: 1,
                    inputs: channels * pixels,
                    outputs,
                    kernel: 1,
                    stride: 1,
                    padding: 0,
                    out_height: 1,
                    out_width: 1,
                };
                let product = Gemm {
                    geometry,
                    flat: (channels, pixels),
                    relu,
                    pool: false,
                    dropout,
                    bias,
                };
                self.product(name, product, input)
            }
            LayerSpec::Norm {
                input: shape,
                after,
            } => {
                let pooled = (shape.0 / 2) * (shape.1 / 2) * shape.2;
                let len = if after.pool { pooled } else { input.len };
                let output = self.flow(len);
                let norm = self.norm(name, shape, after.relu, after.pool, input, None, &output);
                (PlacedLayer::Norm(norm), output)
            }
            LayerSpec::MaxPool {
                input: (h, w, c),
                kernel,
                stride,
            } => {
                let (oh, ow) = ((h - kernel) / stride + 1, (w - kernel) / stride + 1);
                let mut constants = String::new();
                define!(
                    constants,
                    H = h,
                    W = w,
                    C = c,
                    KERNEL = kernel,
                    STRIDE = stride,
                    OH = oh,
                    OW = ow
                );
                let output = self.flow(oh * ow * c);
                let taken = self.room(2 * self.spec.capacity * output.len);
                let arguments = vec![now, Some(input.at), Some(output.at), Some(taken)];
                let launch = self.elementwise(POOL, &constants, "largest", output.len, arguments);
                self.both(launch);
                (PlacedLayer::MaxPool { constants, taken }, output)
            }
            LayerSpec::GlobalPool { pixels, channels } => {
                let mut constants = String::new();
                define!(
                    constants,
                    H = pixels,
                    W = 1,
                    C = channels,
                    KERNEL = 1,
                    STRIDE = 1,
                    OH = 1,
                    OW = 1
                );
                let output = self.flow(channels);
                let arguments = vec![now, Some(input.at), Some(output.at)];
                let launch = self.elementwise(POOL, &constants, "mean", channels, arguments);
                self.both(launch);
                (PlacedLayer::GlobalPool { constants }, output)
            }
            LayerSpec::Relu => {
                let constants = pointwise(input.len, true, None);
                let output = self.flow(input.len);
                let arguments = vec![now, Some(input.at), Some(output.at)];
                let launch =
                    self.elementwise(POINTWISE, &constants, "rectify", input.len, arguments);
                self.both(launch);
                (PlacedLayer::Relu { constants }, output)
            }
            LayerSpec::Drop(dropout) => {
                let constants = pointwise(input.len, false, Some(dropout));
                let output = self.flow(input.len);
                let arguments = vec![now, Some(input.at), Some(output.at)];
                let launch = self.elementwise(POINTWISE, &constants, "drop", input.len, arguments);
                self.both(launch);
                (PlacedLayer::Drop { constants }, output)
            }
            LayerSpec::Residual {
                body,
                tail,
                shortcut,
            } => self.residual(body, tail, shortcut, input),
        }
    }

    fn product(
        &mut self,
        name: &str,
        product: Gemm,
        input: &Activation,
    ) -> (PlacedLayer, Activation) {
        let g = product.geometry;
        let capacity = self.spec.capacity;
        let (height, width) = match product.pool {
            true => (g.out_height / 2, g.out_width / 2),
            false => (g.out_height, g.out_width),
        };
        let len = height * width * g.outputs;
        let result = g.out_height * g.out_width * g.outputs;
        let taken = product.pool.then(|| self.room(capacity * len));
        let output = Activation {
            at: self.batch(len),
            len,
            // Beyond the last whole window it stays zero.
            grad: Some(self.zeros(4 * capacity * result)),
            before: product.relu.then(|| {
                Rc::new(Before {
                    output: (height, width, g.outputs),
                    result: (g.out_height, g.out_width),
                    pool: product.pool,
                    dropout: product.dropout,
                    taken,
                })
            }),
        };
        let (wide_outputs, wide_inputs) =
            (g.outputs.next_multiple_of(4), g.inputs.next_multiple_of(4));
        let taps = g.kernel * g.kernel;
        let packed = self.zeros(4 * taps * g.inputs * wide_outputs);
        let packed_back = input
            .grad
            .map(|_| self.zeros(4 * taps * g.outputs * wide_inputs));
        self.packings.insert(
            format!("{name}.weight"),
            [
                g.inputs,
                g.outputs,
                taps,
                product.flat.0,
                product.flat.1,
                wide_outputs,
                wide_inputs,
                packed / 4,
                packed_back.unwrap_or(0) / 4,
            ]
            .map(|v| v as u32),
        );
        let wanted = match product.pool {
            true => height * width * 4,
            false => height * width,
        };
        let tiles = (
            (capacity * wanted).div_ceil(TILE.0),
            g.outputs.div_ceil(TILE.1),
        );
        let splits = self.splits(tiles.0 * tiles.1, g.patch().div_ceil(TERMS));
        let mut constants = String::new();
        define!(
            constants,
            H = g.height,
            W = g.width,
            I = g.inputs,
            O = g.outputs,
            KERNEL = g.kernel,
            STRIDE = g.stride,
            PAD = g.padding,
            OH = g.out_height,
            OW = g.out_width,
            RELU = u32::from(product.relu),
            POOL = u32::from(product.pool),
            BIAS = u32::from(product.bias),
            C = product.flat.0,
            P = product.flat.1,
            WIDE_O = wide_outputs,
            WIDE_I = wide_inputs,
            PRECISION = match self.spec.precision {
                Precision::F32 => 0,
                Precision::Tf32 => 1,
                Precision::Bf16 => 2,
            },
            SPLITS = splits,
        );
        constants.push_str(&dropout_constants(product.dropout));
        let (parts, counters) = self.shared(tiles.0 * tiles.1, splits);
        let weight = self.param(name, "weight");
        let bias = product.bias.then(|| self.param(name, "bias"));

        // The backward constants complete the forward ones, so that both kernels are compiled together.
        let rows = g.patch() + usize::from(product.bias);
        let weight_tiles = rows.div_ceil(TILE.0) * g.outputs.div_ceil(TILE.1);
        let pixels = capacity * g.out_height * g.out_width;
        let weight_splits = self.splits(weight_tiles, pixels.div_ceil(TERMS));
        let input_tiles = self.input_tiles(&g);
        let input_splits = match input.grad {
            None => 0,
            Some(_) => self.splits(input_tiles, (taps * g.outputs).div_ceil(TERMS)),
        };
        define!(
            constants,
            INPUT_SPLITS = input_splits,
            WEIGHT_SPLITS = weight_splits,
            WEIGHT_BLOCKS = weight_tiles * weight_splits,
        );
        if input.grad.is_some() {
            constants.push_str(&before_constants(input.before.as_deref()));
        }
        let launch = Launch {
            source: CONV,
            constants: constants.as_str().into(),
            entry: "forward",
            grid: [tiles.0 as u32, tiles.1 as u32, splits as u32],
            block: 128,
            arguments: vec![
                Some(self.layout.now),
                Some(input.at),
                Some(packed),
                bias,
                Some(output.at),
                taken,
                parts,
                counters,
            ],
        };
        self.both(launch);
        let laid = PlacedLayer::Gemm {
            product,
            weight,
            bias,
            packed_back,
            constants,
        };
        (laid, output)
    }

    #[allow(clippy::too_many_arguments, reason = "what a norm is between")]
    fn norm(
        &mut self,
        name: &str,
        (h, w, c): (usize, usize, usize),
        relu: bool,
        pool: bool,
        input: &Activation,
        skip: Option<&Activation>,
        output: &Activation,
    ) -> PlacedNorm {
        let capacity = self.spec.capacity;
        let shards = (capacity * h * w).div_ceil(64).clamp(1, MAX_SHARDS);
        let mut constants = String::new();
        define!(
            constants,
            H = h,
            W = w,
            C = c,
            RELU = u32::from(relu),
            POOL = u32::from(pool),
            SKIP = u32::from(skip.is_some()),
            SHARDS = shards,
        );
        let norm = PlacedNorm {
            shards,
            weight: self.param(name, "weight"),
            bias: self.param(name, "bias"),
            taken: pool.then(|| self.room(capacity * output.len)),
            kept: self.room(4 * 7 * c),
            parts: self.room(8 * 2 * shards * c),
            counter: self.zeros(4),
            pixels: h * w * c,
            constants,
        };
        let running = |suffix: &str| {
            self.running
                .get(&format!("{name}.{suffix}"))
                .copied()
                .unwrap_or_default()
        };
        let (mean, var) = (running("running_mean"), running("running_var"));
        let moved = |at: usize| at - self.layout.running + self.layout.moved;
        let moments = Launch {
            source: NORM,
            constants: norm.constants.as_str().into(),
            entry: "moments",
            grid: [shards as u32, 1, 1],
            block: 256,
            arguments: [
                self.layout.now,
                input.at,
                norm.weight,
                norm.bias,
                mean,
                var,
                moved(mean),
                moved(var),
                norm.kept,
                norm.parts,
                norm.counter,
            ]
            .map(Some)
            .to_vec(),
        };
        let settle = Launch {
            entry: "settle",
            grid: [1; 3],
            arguments: [norm.weight, norm.bias, mean, var, norm.kept]
                .map(Some)
                .to_vec(),
            ..moments.clone()
        };
        let arguments = vec![
            Some(self.layout.now),
            Some(input.at),
            Some(norm.kept),
            skip.map(|skip| skip.at),
            Some(output.at),
            norm.taken,
        ];
        let apply = self.elementwise(NORM, &norm.constants, "apply", output.len, arguments);
        self.forward.push(moments);
        self.scoring.push(settle);
        self.both(apply);
        norm
    }

    fn residual(
        &mut self,
        body: &Sequential,
        tail: ResidualEnd,
        shortcut: &Sequential,
        input: &Activation,
    ) -> (PlacedLayer, Activation) {
        // The branches' gradients are added before the layer before sees them.
        let body_grad = self.plain(input);
        let skip_grad = input.grad.map(|_| self.batch(input.len));
        let branch = |grad| Activation {
            grad,
            before: None,
            ..input.clone()
        };
        let (body_input, skip_input) = (branch(body_grad), branch(skip_grad));
        let body = self.sequential(body, body_input.clone());
        let shortcut = self.sequential(shortcut, skip_input.clone());
        let end = |steps: &[ScheduledLayer], input: Activation| {
            steps.last().map_or(input, |s| s.output.clone())
        };
        let ends = [end(&body, body_input), end(&shortcut, skip_input)];
        let (output, tail, relu) = match tail {
            ResidualEnd::Norm(norm) => {
                let (name, shape, relu) = norm_parts(norm);
                let output = self.flow(ends[0].len);
                let laid = self.norm(name, shape, relu, false, &ends[0], Some(&ends[1]), &output);
                (output, Some(laid), relu)
            }
            ResidualEnd::Sum { relu } => {
                let output = self.flow(ends[0].len);
                let constants = pointwise(output.len, relu, None);
                let arguments = vec![
                    Some(self.layout.now),
                    Some(ends[0].at),
                    Some(ends[1].at),
                    Some(output.at),
                ];
                let launch = self.elementwise(POINTWISE, &constants, "sum", output.len, arguments);
                self.both(launch);
                (output, None, relu)
            }
        };
        let block = PlacedResidual {
            body,
            tail,
            relu,
            shortcut,
            ends,
            grads: [body_grad, skip_grad],
        };
        (PlacedLayer::Residual(Box::new(block)), output)
    }

    pub(super) fn loss(&mut self, logits: &Activation) {
        let mut constants = String::new();
        define!(constants, CLASSES = self.spec.classes);
        let blocks = self.spec.capacity.div_ceil(128);
        let (parts, counter) = (self.room(16 * blocks), self.zeros(4));
        let p = &self.layout;
        let train = Launch {
            source: LOSS,
            constants: constants.as_str().into(),
            entry: "train",
            grid: [blocks as u32, 1, 1],
            block: 128,
            arguments: vec![
                Some(p.now),
                Some(p.state),
                Some(logits.at),
                logits.grad,
                Some(parts),
                Some(counter),
            ],
        };
        let score = Launch {
            entry: "score",
            arguments: [p.now, logits.at, p.probabilities, p.losses]
                .map(Some)
                .to_vec(),
            ..train.clone()
        };
        self.forward.push(train);
        self.scoring.push(score);
    }
}
