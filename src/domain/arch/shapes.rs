//! Infers the shapes, names and costs of an architecture's layers.

use super::*;
use std::any::Any;
use std::collections::HashMap;

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
        // Numbers the layers of one word.
        let mut counts: HashMap<&str, usize> = HashMap::new();
        let mut shape = input;
        let mut nodes = Vec::with_capacity(layers.len());
        for (i, layer) in layers.iter().enumerate() {
            self.number += 1;
            let mut name = String::new();
            if layer.op.has_name() {
                let word = layer.op.word();
                let count = counts.entry(word).or_default();
                *count += 1;
                name = format!("{prefix}{word}{count}");
            }
            let context = InferContext {
                number: self.number,
                inference: self,
                layer,
                next: layers.get(i + 1),
                is_nested: !prefix.is_empty(),
            };
            let node = context.node(name, shape)?;
            shape = node.output;
            nodes.push(node);
        }
        Ok(nodes)
    }
}

/// Where in the network a layer is whose shapes are inferred.
pub struct InferContext<'a> {
    inference: &'a mut ShapeInference,
    layer: &'a ArchLayer,
    /// The layer's number.
    number: usize,
    next: Option<&'a ArchLayer>,
    is_nested: bool,
}

impl InferContext<'_> {
    /// Whether the layer is in a branch of another.
    pub fn is_nested(&self) -> bool {
        self.is_nested
    }

    /// Whether it is the network's first layer.
    pub fn is_first(&self) -> bool {
        self.number == 1
    }

    /// Whether a layer of this kind follows directly.
    pub fn is_before<T: LayerOp>(&self) -> bool {
        self.next
            .is_some_and(|next| (&*next.op as &dyn Any).is::<T>())
    }

    /// An error in this layer.
    pub fn error(&self, why: String) -> ArchError {
        ArchError {
            layer: Some((self.number, self.layer.op.to_string())),
            why,
            at: self.layer.at.clone(),
        }
    }

    /// Infers the layers of a branch. `prefix` begins their names.
    ///
    /// # Errors
    /// Returns an error if one of them does not fit.
    pub fn branch(
        &mut self,
        layers: &[ArchLayer],
        input: Shape,
        prefix: &str,
    ) -> Result<Vec<Node>, ArchError> {
        self.inference.sequence(layers, input, prefix)
    }

    /// The same for layers that are not written in the text and so have no numbers there.
    ///
    /// # Errors
    /// Returns an error if one of them does not fit.
    pub fn unwritten_branch(
        &mut self,
        ops: Vec<Arc<dyn LayerOp>>,
        input: Shape,
        prefix: &str,
    ) -> Result<Vec<Node>, ArchError> {
        let at = &self.layer.at;
        let layers: Vec<_> = ops
            .into_iter()
            .map(|op| ArchLayer { op, at: at.clone() })
            .collect();
        let last = self.inference.number;
        let nodes = self.inference.sequence(&layers, input, prefix)?;
        self.inference.number = last;
        Ok(nodes)
    }

    fn node(mut self, name: String, input: Shape) -> Result<Node, ArchError> {
        let mut node = Node {
            name,
            layer: self.layer.clone(),
            input,
            output: input,
            parameters: Vec::new(),
            buffers: Vec::new(),
            multiply_adds: 0,
            branches: Vec::new(),
        };
        self.layer.op.infer(&mut node, &mut self)?;
        let inference = &mut *self.inference;
        inference.parameters += node.parameter_count();
        inference.activations += node.output.len();
        inference.multiply_adds += node.multiply_adds;
        for (what, total, most) in [
            ("parameters", inference.parameters, MAX_PARAMETERS),
            (
                "activations an image",
                inference.activations,
                MAX_ACTIVATIONS,
            ),
            (
                "multiply-adds an image",
                inference.multiply_adds,
                MAX_MULTIPLY_ADDS,
            ),
        ] {
            if total > most {
                return Err(self.error(format!(
                    "with it the network has {total} {what}; the most allowed is {most}"
                )));
            }
        }
        Ok(node)
    }
}
