//! Architectures as text: the layers, the presets, and the arithmetic of shapes, parameters and multiply-adds, so that a
//! screen and the config reader can check what is typed without a device. The grammar stands in `arch/parse.rs`.
//!
//! What the layers mean:
//! - `conv`: 3x3 kernel, stride 1 and no padding unless said otherwise (Keras's defaults); has a bias, except directly
//!   before a `norm`, which would subtract it again.
//! - `norm`: batch normalisation over each channel.
//! - `pool`: the largest value of each window; stride as large as the window unless said otherwise; what does not fill a
//!   window at the right and bottom edge is left out.
//! - `global-pool`: each channel's mean.
//! - `drop`: dropout; without a share it follows the live hyperparameter.
//! - `dense`: fully connected; flattens what comes before it, channel by channel (PyTorch's order).
//! - `residual(...)`: the sum of what its layers make of the input and the input itself. Where the two have different
//!   shapes, the input goes through a 1x1 convolution and a norm; the convolution's stride is the one that gives the
//!   body's height and width, and it is an error when none does.

mod parse;

pub use parse::parse;

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;

/// Most layers after repeats are written out.
pub const MAX_LAYERS: usize = 256;
/// Most channels of a convolution and outputs of a dense layer.
pub const MAX_CHANNELS: u32 = 8192;
/// Largest kernel of a convolution.
pub const MAX_KERNEL: u32 = 11;
/// Largest window of a pool.
pub const MAX_WINDOW: u32 = 64;
/// Largest stride.
pub const MAX_STRIDE: u32 = 64;
/// Most repeats of one group.
pub const MAX_REPEATS: u32 = 64;
/// Deepest nesting of parentheses.
pub const MAX_DEPTH: usize = 8;
/// Longest text, in bytes.
pub const MAX_TEXT: usize = 16 * 1024;
/// Largest pinned dropout share, as for the live one.
pub const MAX_SHARE: f64 = 0.95;
/// Most parameters: 400 MB in f32, four times that with Adam's moments and the gradient.
pub const MAX_PARAMETERS: u64 = 100_000_000;
/// Most activations that one image leaves in all layers together.
pub const MAX_ACTIVATIONS: u64 = 50_000_000;
/// Most multiply-adds of one image's forward pass.
pub const MAX_MULTIPLY_ADDS: u64 = 100_000_000_000;

/// A named architecture.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    pub name: &'static str,
    pub text: &'static str,
    /// One line on what it is for.
    pub about: &'static str,
}

/// The presets.
pub static ARCHS: &[Preset] = &[
    Preset {
        name: "seed",
        text: "conv 32, relu, conv 32, relu, pool, drop, conv 32, relu, pool, drop, dense 128, relu, drop, dense 10",
        about: "Three convolutions and two dense layers: the Keras network of the 2018 blog post.",
    },
    Preset {
        name: "resnet",
        text: "conv 32 same, norm, relu, pool, \
               residual(conv 32 same, norm, relu, conv 32 same, norm), relu, \
               conv 64 same, norm, relu, pool, \
               residual(conv 64 same, norm, relu, conv 64 same, norm), relu, \
               conv 128 same, norm, relu, pool, \
               residual(conv 128 same, norm, relu, conv 128 same, norm), relu, \
               global-pool, drop, dense 10",
        about: "Batch normalisation and three residual blocks, 32 to 128 channels: clearly better, 2.6 times the work.",
    },
    Preset {
        name: "tiny",
        text: "conv 8, relu, pool, conv 16, relu, pool, dense 10",
        about: "Two small convolutions: learns something within seconds on any machine.",
    },
];

/// Channels, height and width of one image's activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    pub channels: u32,
    pub height: u32,
    pub width: u32,
}

impl Shape {
    /// A CIFAR-10 image.
    pub const CIFAR: Shape = Shape::new(3, 32, 32);

    pub const fn new(channels: u32, height: u32, width: u32) -> Self {
        Shape {
            channels,
            height,
            width,
        }
    }

    /// How many numbers it holds.
    pub const fn len(self) -> u64 {
        self.channels as u64 * self.height as u64 * self.width as u64
    }

    /// Whether it holds none.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

impl fmt::Display for Shape {
    /// `32 x 30x30`: channels, height and width; `128` for a plain vector.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.height, self.width) {
            (1, 1) => write!(f, "{}", self.channels),
            (h, w) => write!(f, "{} x {h}x{w}", self.channels),
        }
    }
}

/// What a layer does.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    Conv {
        out: u32,
        kernel: u32,
        stride: u32,
        padding: u32,
    },
    Norm,
    Relu,
    Pool {
        kernel: u32,
        stride: u32,
    },
    GlobalPool,
    /// None follows the live dropout value.
    Drop {
        share: Option<f64>,
    },
    Dense {
        out: u32,
    },
    Residual {
        body: Vec<ArchLayer>,
    },
}

/// One layer as written. Two layers are equal when they do the same, wherever they are written.
#[derive(Clone, Debug)]
pub struct ArchLayer {
    pub op: Op,
    /// The bytes of the text that say it.
    pub at: Range<usize>,
}

impl PartialEq for ArchLayer {
    fn eq(&self, other: &Self) -> bool {
        self.op == other.op
    }
}

/// An architecture: its layers, repeats written out. `Display` writes it as text that parses to the same layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Arch {
    pub layers: Vec<ArchLayer>,
}

/// What is wrong with an architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchError {
    /// The layer's number, from 1, counted as [`Arch::summary`] lists them without the shortcuts, and its text; None
    /// when the whole is wrong.
    pub layer: Option<(usize, String)>,
    pub why: String,
    /// The bytes of the text to point at.
    pub at: Range<usize>,
}

impl fmt::Display for ArchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.layer {
            Some((number, text)) => {
                write!(f, "layer {number}, '{}': {}", shortened(text), self.why)
            }
            None => f.write_str(&self.why),
        }
    }
}

impl std::error::Error for ArchError {}

/// The first 40 characters: a message need not repeat a whole block.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// One line of a network's summary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Unique name such as `conv1`, the prefix of its parameters' names; empty for layers without a name.
    pub name: String,
    /// The layer as it is written.
    pub text: String,
    /// How deep in residual blocks it stands.
    pub depth: u32,
    pub output: Shape,
    pub parameters: u64,
    /// Multiply-adds of one image's forward pass.
    pub multiply_adds: u64,
}

/// A layer in its place in a network, with all that is needed to build it.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Unique and non-empty for layers with parameters and for residual blocks: `conv1`, `residual1.conv2`,
    /// `residual1.shortcut.conv1`. Empty for the others.
    pub name: String,
    pub layer: ArchLayer,
    pub input: Shape,
    pub output: Shape,
    /// Whether a convolution or dense layer has a bias.
    pub bias: bool,
    /// Its own, without its body's.
    pub parameters: u64,
    pub multiply_adds: u64,
    /// A residual block's layers.
    pub body: Vec<Node>,
    /// What a residual block's input goes through before the sum: nothing, or a convolution and a norm.
    pub shortcut: Vec<Node>,
}

/// The architecture that a preset's name or a text stands for.
///
/// # Errors
/// When it is neither; the positions are those of the text.
pub fn resolve(name_or_text: &str) -> Result<Arch, ArchError> {
    let name = name_or_text.trim();
    if let Some(preset) = ARCHS.iter().find(|p| p.name.eq_ignore_ascii_case(name)) {
        return parse(preset.text);
    }
    parse(name_or_text).map_err(|error| {
        let word = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if word && !name.is_empty() && error.layer.is_none() {
            let presets: Vec<_> = ARCHS.iter().map(|p| p.name).collect();
            ArchError {
                why: format!(
                    "'{}' is neither a preset ({}) nor a layer",
                    shortened(name),
                    presets.join(", ")
                ),
                ..error
            }
        } else {
            error
        }
    })
}

/// Whether `text` is a preset's name or a well-formed architecture for 32x32 RGB images and ten classes.
///
/// # Errors
/// Names the layer and what is wrong with it.
pub fn check(text: &str) -> Result<(), String> {
    resolve(text)
        .and_then(|arch| arch.infer_shapes(Shape::CIFAR, 10))
        .map(|_| ())
        .map_err(|error| error.to_string())
}

impl Arch {
    /// The network's layers in their places.
    ///
    /// # Errors
    /// Names the first layer that does not fit its input, and says why; or the limit that is exceeded.
    pub fn infer_shapes(&self, input: Shape, classes: usize) -> Result<Vec<Node>, ArchError> {
        let mut planner = Planner::default();
        let nodes = planner.sequence(&self.layers, input, "")?;
        match self.layers.last() {
            Some(ArchLayer {
                op: Op::Dense { out },
                ..
            }) if *out as usize == classes => Ok(nodes),
            Some(last) => Err(ArchError {
                layer: Some((planner.number, last.to_string())),
                why: format!("the last layer must be 'dense {classes}', one output for each class"),
                at: last.at.clone(),
            }),
            None => Err(ArchError {
                layer: None,
                why: format!("there is no layer; the last must be 'dense {classes}'"),
                at: 0..0,
            }),
        }
    }

    /// The network's layers, line by line; a residual block's own line is followed by those of its layers and of its
    /// shortcut, one deeper.
    ///
    /// # Errors
    /// As [`Arch::infer_shapes`].
    pub fn summary(&self, input: Shape, classes: usize) -> Result<Vec<Summary>, ArchError> {
        fn list(nodes: &[Node], depth: u32, lines: &mut Vec<Summary>) {
            for node in nodes {
                lines.push(Summary {
                    name: node.name.clone(),
                    text: match node.layer.op {
                        Op::Residual { .. } => "residual".into(),
                        _ => node.layer.to_string(),
                    },
                    depth,
                    output: node.output,
                    parameters: node.parameters,
                    multiply_adds: node.multiply_adds,
                });
                list(&node.body, depth + 1, lines);
                list(&node.shortcut, depth + 1, lines);
            }
        }
        let mut lines = Vec::new();
        list(&self.infer_shapes(input, classes)?, 0, &mut lines);
        Ok(lines)
    }
}

/// Walks the layers, keeps the totals under the limits.
#[derive(Default)]
struct Planner {
    /// Number of the layer being looked at, from 1.
    number: usize,
    parameters: u64,
    activations: u64,
    multiply_adds: u64,
}

impl Planner {
    fn sequence(
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

#[cfg(test)]
mod tests {
    use super::*;

    fn mutations(count: u32) {
        let texts: Vec<&str> = ARCHS.iter().map(|preset| preset.text).collect();
        let mut fit = 0;
        for number in 0..count {
            let text = texts[number as usize % texts.len()];
            let bytes = crate::domain::mutate::mutated(text.as_bytes(), number);
            let text = String::from_utf8_lossy(&bytes);
            // Whatever fits is printed as text that means the same.
            if let Ok(arch) = resolve(&text)
                && let Ok(layers) = arch.summary(Shape::CIFAR, 10)
            {
                fit += 1;
                assert_eq!(resolve(&arch.to_string()).as_ref(), Ok(&arch), "{text}");
                assert!(layers.iter().map(|l| l.parameters).sum::<u64>() <= 100_000_000);
            }
        }
        assert!(fit > 0 && fit < count, "{fit} of {count}");
    }

    #[test]
    fn mutated_texts_never_panic() {
        mutations(1000);
    }

    #[test]
    #[ignore = "the long form: 20,000"]
    fn twenty_thousand_mutated_texts_never_panic() {
        mutations(20_000);
    }

    #[test]
    fn the_presets_are_the_fuzz_target_s_seeds() {
        for preset in ARCHS {
            super::super::mutate::is_seed("arch", preset.name, preset.text.as_bytes());
        }
    }

    fn summary(text: &str) -> Result<Vec<Summary>, ArchError> {
        resolve(text)?.summary(Shape::CIFAR, 10)
    }

    #[test]
    fn the_seed_model_has_the_figures_of_the_blog_post() {
        let lines = summary("seed").unwrap();
        assert_eq!(
            lines.iter().map(|l| l.multiply_adds).sum::<u64>(),
            9_478_784
        );
        assert_eq!(lines.iter().map(|l| l.parameters).sum::<u64>(), 168_266);
        let named: Vec<_> = lines
            .iter()
            .filter(|l| !l.name.is_empty())
            .map(|l| (l.name.as_str(), l.output.to_string(), l.parameters))
            .collect();
        assert_eq!(
            named,
            [
                ("conv1", "32 x 30x30".into(), 896),
                ("conv2", "32 x 28x28".into(), 9248),
                ("conv3", "32 x 12x12".into(), 9248),
                ("dense1", "128".into(), 147_584),
                ("dense2", "10".into(), 1290),
            ]
        );
        assert_eq!(lines[8].output, Shape::new(32, 6, 6));
    }

    #[test]
    fn every_preset_fits_and_has_a_name_of_its_own() {
        for (i, preset) in ARCHS.iter().enumerate() {
            assert_eq!(check(preset.name), Ok(()), "{}", preset.name);
            assert_eq!(check(preset.text), Ok(()), "{}", preset.name);
            assert!(!preset.about.is_empty());
            assert!(ARCHS[..i].iter().all(|other| other.name != preset.name));
        }
    }

    #[test]
    fn names_in_residual_blocks_and_shortcuts() {
        let lines = summary(
            "conv 8 same, residual(conv 16 same s2, norm, relu, conv 16 same), residual(relu), global-pool, dense 10",
        )
        .unwrap();
        let names: Vec<_> = lines
            .iter()
            .filter(|l| !l.name.is_empty())
            .map(|l| (l.name.as_str(), l.depth, l.parameters))
            .collect();
        assert_eq!(
            names,
            [
                ("conv1", 0, 224),
                ("residual1", 0, 0),
                ("residual1.conv1", 1, 8 * 16 * 9),
                ("residual1.norm1", 1, 32),
                ("residual1.conv2", 1, 16 * 16 * 9 + 16),
                ("residual1.shortcut.conv1", 1, 8 * 16),
                ("residual1.shortcut.norm1", 1, 32),
                ("residual2", 0, 0),
                ("dense1", 0, 170),
            ]
        );
        assert!(lines.iter().any(|l| l.text == "conv 16 k1 s2"));
    }

    #[test]
    fn errors_name_the_layer_and_point_at_it() {
        for (text, number, at, part) in [
            (
                "conv 8, pool 40, dense 10",
                2,
                "pool 40",
                "larger than its input (30x30)",
            ),
            (
                "pool, pool, pool, pool, pool, pool, dense 10",
                6,
                "pool",
                "2x2 window is larger than its input (1x1)",
            ),
            (
                "global-pool, conv 8, dense 10",
                2,
                "conv 8",
                "3x3 kernel is larger than its input (1x1)",
            ),
            ("pool 16, conv 8 k5, dense 10", 2, "conv 8 k5", "try 'same'"),
            ("conv 8, dense 12", 2, "dense 12", "must be 'dense 10'"),
            ("dense 10, relu", 2, "relu", "must be 'dense 10'"),
            (
                "residual(conv 8), dense 10",
                1,
                "residual(conv 8)",
                "no stride",
            ),
            (
                "relu, residual(dense 10), dense 10",
                3,
                "dense 10",
                "global-pool",
            ),
            (
                "dense 8000, dense 8000, dense 8000, dense 10",
                3,
                "dense 8000",
                "parameters",
            ),
            (
                "64 x (conv 1024 k1), dense 10",
                48,
                "conv 1024 k1",
                "activations",
            ),
        ] {
            let error = summary(text).unwrap_err();
            assert_eq!(error.layer.as_ref().map(|l| l.0), Some(number), "{error}");
            assert_eq!(&text[error.at.clone()], at, "{error}");
            assert!(error.why.contains(part), "{error}");
            assert!(
                error
                    .to_string()
                    .starts_with(&format!("layer {number}, '{at}'")),
                "{error}"
            );
        }
        let error = resolve("resent").unwrap_err();
        assert!(error.to_string().contains("seed, resnet, tiny"), "{error}");
        assert!(check("").is_err());
    }
}
