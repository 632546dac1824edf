//! Architectures as text: presets, the grammar, and the calculation of shapes, parameters and multiply-adds. The screen
//! and the config reader check a text without a device.
//!
//! The grammar is in `arch/parse.rs`. The kinds of layers, their arguments and their shapes are those of
//! [`crate::layers::KINDS`], the one thing outside the domain that this module knows.

mod parse;
mod shapes;
#[cfg(test)]
mod tests;

pub use parse::{Arguments, parse, parse_with};
pub use shapes::InferContext;
use shapes::ShapeInference;

use crate::layers::KINDS;
use crate::layers::kind::{BufferSpec, LayerOp, ParameterSpec};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Most layers after repeats are written out.
pub const MAX_LAYERS: usize = 256;
/// Most channels of a convolution and outputs of a dense layer.
pub const MAX_CHANNELS: u32 = 8192;
/// Largest stride.
pub const MAX_STRIDE: u32 = 64;
/// Most repeats of one group.
pub const MAX_REPEATS: u32 = 64;
/// Deepest nesting of parentheses.
pub const MAX_DEPTH: usize = 8;
/// Longest text, in bytes.
pub const MAX_TEXT: usize = 16 * 1024;
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
        name: "airbench",
        text: "whiten, gelu, \
               conv 64 same no-bias dirac, pool, norm no-scale momentum 0.4 eps 1e-12, gelu, \
               conv 64 same no-bias dirac, norm no-scale momentum 0.4 eps 1e-12, gelu, \
               conv 256 same no-bias dirac, pool, norm no-scale momentum 0.4 eps 1e-12, gelu, \
               conv 256 same no-bias dirac, norm no-scale momentum 0.4 eps 1e-12, gelu, \
               conv 256 same no-bias dirac, pool, norm no-scale momentum 0.4 eps 1e-12, gelu, \
               conv 256 same no-bias dirac, norm no-scale momentum 0.4 eps 1e-12, gelu, \
               pool 3, dense 10 no-bias unit-variance, scale 0.00390625",
        about: "Whitened patches and six convolutions of 64 to 256 channels: the network of airbench94, 12 times the work.",
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

/// Number of classes of CIFAR-10.
pub const CIFAR_CLASSES: usize = 10;

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

    /// The number of values of this shape.
    pub const fn len(self) -> u64 {
        self.channels as u64 * self.height as u64 * self.width as u64
    }

    /// Whether it holds none.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Number of places, from top to bottom and from left to right, at which a window fits; None where it does not fit
    /// once.
    pub fn windows(self, kernel: u32, stride: u32, padding: u32) -> Option<(u32, u32)> {
        let along = |size: u32| {
            (size + 2 * padding)
                .checked_sub(kernel)
                .map(|rest| rest / stride + 1)
        };
        Some((along(self.height)?, along(self.width)?))
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

/// One layer as written. Two layers are equal when they do the same, wherever they are written.
#[derive(Clone, Debug)]
pub struct ArchLayer {
    pub op: Arc<dyn LayerOp>,
    /// The bytes of the text that say it.
    pub at: Range<usize>,
}

impl PartialEq for ArchLayer {
    fn eq(&self, other: &Self) -> bool {
        // The text says everything about a layer.
        self.op.to_string() == other.op.to_string()
    }
}

/// An architecture: its layers, repeats written out. `Display` writes it as text that parses to the same layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Arch {
    pub layers: Vec<ArchLayer>,
}

/// An error in an architecture.
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
pub fn shortened(text: &str) -> String {
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
    /// Nesting depth in residual blocks.
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
    /// Its own, without those of the layers in its branches. So are buffers and multiply-adds.
    pub parameters: Vec<ParameterSpec>,
    pub buffers: Vec<BufferSpec>,
    /// Of one image's forward pass.
    pub multiply_adds: u64,
    /// Sequences of layers that the layer itself consists of: a residual block's body and shortcut.
    pub branches: Vec<Vec<Node>>,
}

impl Node {
    /// Number of trained numbers.
    pub fn parameter_count(&self) -> u64 {
        let trained = self.parameters.iter().filter(|p| p.trained);
        trained.map(ParameterSpec::len).sum()
    }

    /// Whether it has a parameter of this suffix, such as `bias`.
    pub fn has_parameter(&self, suffix: &str) -> bool {
        self.parameters.iter().any(|p| p.suffix == suffix)
    }
}

/// The kinds of layers with their arguments and the presets, for `--help`.
pub fn help() -> String {
    let mut text =
        "Architectures are layers, separated by commas; '3 x (...)' repeats layers:".to_owned();
    for kind in KINDS {
        text += format!("\n  {} {}", kind.word, kind.usage).trim_end();
    }
    text += "\nPresets:";
    for preset in ARCHS {
        text += &format!("\n  {:10}{}", preset.name, preset.about);
    }
    text
}

/// The architecture with a preset's name, or described by a text.
///
/// # Errors
/// Returns an error if it is neither; the positions are those of the text.
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

/// Whether `text` is a preset's name or a well-formed architecture for the images of CIFAR-10. Settings are checked before
/// the data is loaded; data of other shapes is checked when a network is made for it.
///
/// # Errors
/// Returns an error that names the layer and the reason.
pub fn check(text: &str) -> Result<(), String> {
    resolve(text)
        .and_then(|arch| arch.infer_shapes(Shape::CIFAR, CIFAR_CLASSES))
        .map(|_| ())
        .map_err(|error| error.to_string())
}

impl Arch {
    /// The network's layers in their places.
    ///
    /// # Errors
    /// Names the first layer that does not fit its input, and says why; or the limit that is exceeded.
    pub fn infer_shapes(&self, input: Shape, classes: usize) -> Result<Vec<Node>, ArchError> {
        let mut inference = ShapeInference::default();
        let nodes = inference.sequence(&self.layers, input, "")?;
        let outputs = nodes.last().map(|node| node.output.len());
        match self.layers.last() {
            Some(last) if last.op.makes_logits() && outputs == Some(classes as u64) => Ok(nodes),
            Some(last) => Err(ArchError {
                layer: Some((inference.number, last.op.to_string())),
                why: format!("the last layer must be 'dense {classes}', one output for each class"),
                at: last.at.clone(),
            }),
            None => Err(ArchError {
                layer: None,
                why: format!("there is no layer; the last one must be 'dense {classes}'"),
                at: 0..0,
            }),
        }
    }

    /// Whether a layer decides where gradients go, as ReLU and max-pooling do.
    ///
    /// # Errors
    /// Returns the errors of [`Arch::infer_shapes`].
    pub fn makes_choices(&self, input: Shape, classes: usize) -> Result<bool, ArchError> {
        fn any(nodes: &[Node]) -> bool {
            let chooses = |node: &Node| {
                node.layer.op.makes_choices() || node.branches.iter().any(|branch| any(branch))
            };
            nodes.iter().any(chooses)
        }
        Ok(any(&self.infer_shapes(input, classes)?))
    }

    /// The network's layers, line by line; a residual block's own line is followed by those of its layers and of its
    /// shortcut, one deeper.
    ///
    /// # Errors
    /// Returns the errors of [`Arch::infer_shapes`].
    pub fn summary(&self, input: Shape, classes: usize) -> Result<Vec<Summary>, ArchError> {
        fn list(nodes: &[Node], depth: u32, lines: &mut Vec<Summary>) {
            for node in nodes {
                lines.push(Summary {
                    name: node.name.clone(),
                    text: match node.branches.is_empty() {
                        true => node.layer.op.to_string(),
                        false => node.layer.op.word().into(),
                    },
                    depth,
                    output: node.output,
                    parameters: node.parameter_count(),
                    multiply_adds: node.multiply_adds,
                });
                for branch in &node.branches {
                    list(branch, depth + 1, lines);
                }
            }
        }
        let mut lines = Vec::new();
        list(&self.infer_shapes(input, classes)?, 0, &mut lines);
        Ok(lines)
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_layers(&self.layers, f)
    }
}

/// Writes layers as the grammar has them.
pub fn write_layers(layers: &[ArchLayer], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (i, layer) in layers.iter().enumerate() {
        if i > 0 {
            f.write_str(", ")?;
        }
        write!(f, "{}", layer.op)?;
    }
    Ok(())
}
