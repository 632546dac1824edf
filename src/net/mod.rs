//! The network: an architecture made into fused layers over Candle variables, one training pass, one scoring pass. It
//! knows no optimizer, no epoch and no file.
//!
//! A pass runs the list of layers forward and, in training, back; outputs, gradients and scratch are allocated once for a
//! capacity. The variables outlive a change of the capacity.

pub mod engine;
mod inspect;
mod lower;
pub mod plan;
mod weights;

pub use crate::layers::Param;
pub use crate::layers::input::Scaling;

use crate::domain::arch::{Arch, ArchError, Node, Shape};
use crate::domain::augment::Placement;
use crate::domain::params::{Optimizer as Rule, Precision};
use crate::domain::report::StepSettings;
use crate::hardware::executor::{ExecutorError, KernelExecutor};
use crate::hardware::threads::Threads;
use crate::layers::chain::Chain;
use crate::layers::{Pass, Train, input, loss, slices};
use candle_core::{Device, Tensor};
use engine::{Engine, Found, PlannedStep};
use std::cell::RefCell;
use std::time::Instant;
use weights::Weights;

/// What can go wrong in a network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the architecture does not fit: {0}")]
    Arch(#[from] ArchError),
    #[error("the device failed: {0}")]
    Device(#[from] candle_core::Error),
    #[error(
        "these weights belong to another architecture: {0}; use the architecture that they were trained with"
    )]
    Weights(String),
    #[error("{0}")]
    Batch(String),
    #[error(transparent)]
    Executor(#[from] ExecutorError),
}

pub type Result<T> = std::result::Result<T, Error>;

/// Images that a network on a machine still computes here at once.
const HERE: usize = 32;

/// What one training pass found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchOutcome {
    /// Mean over the batch, with smoothing. NaN or infinite when a weight or an activation is.
    pub loss: f64,
    /// Images whose largest logit was the label's.
    pub correct: u32,
}

/// Seconds spent in one layer since timing began. The input's preparation and the loss are rows of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerTime {
    pub name: String,
    pub forward: f64,
    pub backward: f64,
}

/// A network and the gradients of its last training pass.
pub struct Net {
    nodes: Vec<Node>,
    classes: usize,
    capacity: usize,
    device: Device,
    weights: Weights,
    /// f32, `[capacity, height, width, channels]`.
    input: Tensor,
    chain: Chain,
    /// For each layer of the chain, whether it ends in a ReLU.
    rectifies: Vec<bool>,
    grad_logits: Tensor,
    logits: Vec<f32>,
    /// Seconds in the input's preparation and in the loss, when they are measured.
    around: Option<(f64, f64)>,
    /// Where passes run instead, when it is not here. Weights and gradients here are then a copy, made when asked for.
    engine: Option<RefCell<Engine>>,
}

impl Net {
    /// A network with fresh weights (Glorot uniform, biases zero, norms one), from `seed`. A pass takes at most
    /// `capacity` images.
    ///
    /// # Errors
    /// When the architecture does not fit the input or the classes; those of the device.
    pub fn build(
        arch: &Arch,
        input: Shape,
        classes: usize,
        capacity: usize,
        seed: u64,
        device: &Device,
    ) -> Result<Net> {
        let nodes = arch.infer_shapes(input, classes)?;
        let weights = Weights::fresh(&nodes, seed, device)?;
        Net::assemble(nodes, input, classes, capacity, weights, device)
    }

    fn assemble(
        nodes: Vec<Node>,
        shape: Shape,
        classes: usize,
        capacity: usize,
        weights: Weights,
        device: &Device,
    ) -> Result<Net> {
        let capacity = capacity.max(1);
        let (height, width) = (shape.height as usize, shape.width as usize);
        let input = slices::zeros((capacity, height, width, shape.channels as usize), device)?;
        let (chain, rectifies) = lower::lower(&nodes, &weights, &input)?;
        Ok(Net {
            nodes,
            classes,
            capacity,
            device: device.clone(),
            weights,
            grad_logits: slices::zeros((capacity, 1, 1, classes), device)?,
            logits: vec![0.0; capacity * classes],
            input,
            chain,
            rectifies,
            around: None,
            engine: None,
        })
    }

    /// Trains and scores on a machine from now on: with that optimizer and number format.
    ///
    /// # Errors
    /// When the machine has not enough memory, or fails.
    pub fn accelerate(
        &mut self,
        machine: Box<dyn KernelExecutor>,
        rule: Rule,
        precision: Precision,
    ) -> Result<()> {
        let needs = plan::Needs {
            capacity: self.capacity,
            side: self.input.dims4()?.1,
            classes: self.classes,
            rule,
            precision,
            blocks: 1,
        };
        // Of what is still computed here, a few images at a time are enough.
        self.set_capacity(HERE)?;
        let engine = Engine::new(machine, needs, &self.parts())?;
        self.engine = Some(RefCell::new(engine));
        Ok(())
    }

    /// The machine that passes run on, when they do not run here.
    pub fn engine(&self) -> Option<&RefCell<Engine>> {
        self.engine.as_ref()
    }

    fn parts(&self) -> engine::Parts<'_> {
        engine::Parts {
            chain: &self.chain,
            params: self.chain.params(),
            buffers: self.chain.buffers(),
        }
    }

    /// Brings weights, gradients and running statistics here from the machine that trains them, if there is one.
    ///
    /// # Errors
    /// When the machine fails.
    pub fn pull(&self) -> Result<()> {
        match &self.engine {
            Some(engine) => engine.borrow_mut().pull(&self.parts()),
            None => Ok(()),
        }
    }

    /// As [`Engine::train`].
    ///
    /// # Errors
    /// As [`Engine::train`]; when there is no machine.
    pub fn train_steps(
        &mut self,
        pixels: &Tensor,
        labels: &[u8],
        scaling: &Scaling,
        images: &[u32],
        steps: &[PlannedStep],
    ) -> Result<Vec<Found>> {
        match &self.engine {
            Some(engine) => engine
                .borrow_mut()
                .train(pixels, labels, scaling, images, steps),
            None => Err(Error::Batch(
                "steps are planned ahead for a machine only".into(),
            )),
        }
    }

    /// Makes passes of up to `capacity` images possible, and gives back what smaller ones do not need. Weights and
    /// running statistics stay; gradients are lost.
    ///
    /// # Errors
    /// Those of the device.
    pub fn set_capacity(&mut self, capacity: usize) -> Result<()> {
        let capacity = capacity.max(1);
        if capacity == self.capacity() {
            return Ok(());
        }
        if let Some(engine) = &self.engine {
            return engine.borrow_mut().set_capacity(capacity, &self.parts());
        }
        let (_, height, width, channels) = self.input.dims4()?;
        let shape = Shape::new(channels as u32, height as u32, width as u32);
        let measured = self.around.is_some();
        *self = Net::assemble(
            self.nodes.clone(),
            shape,
            self.classes,
            capacity,
            self.weights.clone(),
            &self.device.clone(),
        )?;
        self.measure(measured);
        Ok(())
    }

    /// Most images that a pass takes.
    pub fn capacity(&self) -> usize {
        match &self.engine {
            Some(engine) => engine.borrow().plan().capacity,
            None => self.capacity,
        }
    }

    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Multiply-adds of one image's forward pass.
    pub fn multiply_adds(&self) -> u64 {
        fn sum(nodes: &[Node]) -> u64 {
            let own = |n: &Node| n.multiply_adds + sum(&n.body) + sum(&n.shortcut);
            nodes.iter().map(own).sum()
        }
        sum(&self.nodes)
    }

    /// One pass forward and back over the placed images of a split (`pixels` u8, `[n, 3, side, side]`; `labels` the
    /// split's). Leaves the gradients of the mean loss in [`Net::params`].
    ///
    /// # Errors
    /// When the batch is empty, exceeds the capacity or does not fit; those of the device.
    pub fn train_pass(
        &mut self,
        pixels: &Tensor,
        labels: &[u8],
        placements: &[Placement],
        scaling: &Scaling,
        settings: &StepSettings,
        threads: &Threads,
    ) -> Result<BatchOutcome> {
        let pass = Pass {
            images: placements.len(),
            threads,
            train: Some(Train {
                seed: settings.seed,
                step: settings.step,
                dropout: settings.dropout as f32,
            }),
        };
        self.forward(pixels, placements, scaling, &pass)?;
        let begin = Instant::now();
        let images = placements.len();
        let smoothing = settings.label_smoothing as f32;
        let mut outcome = BatchOutcome {
            loss: 0.0,
            correct: 0,
        };
        for (logits, placement) in self.logits.chunks_exact_mut(self.classes).zip(placements) {
            let label = label(labels, placement, self.classes)?;
            outcome.correct += u32::from(loss::largest(logits) == label);
            outcome.loss += loss::cross_entropy(logits, label, smoothing);
            loss::gradient(logits, label, smoothing, 1.0 / images as f32);
        }
        outcome.loss /= images as f64;
        upload(&self.logits[..images * self.classes], &self.grad_logits)?;
        if let Some((_, loss)) = &mut self.around {
            *loss += begin.elapsed().as_secs_f64();
        }
        self.chain
            .backward(&self.input, &self.grad_logits, None, &pass)?;
        Ok(outcome)
    }

    /// Probabilities (`[images, classes]`) and cross-entropies without smoothing of the placed images of a split. Nothing
    /// is dropped, norms use their running statistics, no gradient is kept.
    ///
    /// # Errors
    /// As [`Net::train_pass`]; when the results' lengths are not those of the batch.
    #[allow(
        clippy::too_many_arguments,
        reason = "what is scored, and where the results go"
    )]
    pub fn score(
        &mut self,
        pixels: &Tensor,
        labels: &[u8],
        placements: &[Placement],
        scaling: &Scaling,
        threads: &Threads,
        probabilities: &mut [f32],
        losses: &mut [f32],
    ) -> Result<()> {
        let images = placements.len();
        if probabilities.len() != images * self.classes || losses.len() != images {
            return Err(Error::Batch(format!(
                "{images} images have {} probabilities and {images} losses, not {} and {}",
                images * self.classes,
                probabilities.len(),
                losses.len()
            )));
        }
        if let Some(engine) = &self.engine {
            let mut engine = engine.borrow_mut();
            return engine.score(pixels, labels, scaling, placements, probabilities, losses);
        }
        let pass = Pass {
            images,
            threads,
            train: None,
        };
        self.forward(pixels, placements, scaling, &pass)?;
        probabilities.copy_from_slice(&self.logits[..images * self.classes]);
        for (i, line) in probabilities.chunks_exact_mut(self.classes).enumerate() {
            let label = label(labels, &placements[i], self.classes)?;
            losses[i] = loss::cross_entropy(line, label, 0.0) as f32;
        }
        Ok(())
    }

    /// Prepares the input, runs the layers, and brings the logits to the host.
    fn forward(
        &mut self,
        pixels: &Tensor,
        placements: &[Placement],
        scaling: &Scaling,
        pass: &Pass,
    ) -> Result<()> {
        if placements.is_empty() || placements.len() > self.capacity {
            return Err(Error::Batch(format!(
                "a batch has from 1 to {} images, not {}",
                self.capacity,
                placements.len()
            )));
        }
        let begin = Instant::now();
        input::prepare(pixels, placements, scaling, &self.input, pass.threads)?;
        if let Some((input, _)) = &mut self.around {
            *input += begin.elapsed().as_secs_f64();
        }
        self.chain.forward(&self.input, pass)?;
        let logits = slices::read(self.chain.output(&self.input))?;
        let len = placements.len() * self.classes;
        self.logits[..len].copy_from_slice(&logits[..len]);
        Ok(())
    }

    /// Parameters and their gradients, always in the same order.
    pub fn params(&self) -> Vec<&Param> {
        self.chain.params()
    }

    /// What is saved but not trained (running statistics), by its name in the checkpoint.
    pub fn buffers(&self) -> Vec<(String, &Tensor)> {
        self.chain.buffers()
    }

    /// Takes weights and running statistics by name; `saved` may hold more.
    ///
    /// # Errors
    /// Names what is missing or has another shape, and then nothing is taken; those of the device.
    pub fn load(&self, saved: &std::collections::HashMap<String, Tensor>) -> Result<()> {
        self.weights.load(saved)?;
        match &self.engine {
            Some(engine) => engine.borrow_mut().push(&self.parts()),
            None => Ok(()),
        }
    }

    /// Begins to measure each layer's time, from zero; or ends it.
    pub fn measure(&mut self, on: bool) {
        self.around = on.then_some((0.0, 0.0));
        self.chain.time(on);
    }

    /// The times since [`Net::measure`] began, in the order of the layers; empty when nothing is measured.
    pub fn timings(&self) -> Vec<LayerTime> {
        let Some((input, loss)) = self.around else {
            return Vec::new();
        };
        let row = |name: &str, forward, backward| LayerTime {
            name: name.to_owned(),
            forward,
            backward,
        };
        let layers = self.chain.layers().iter().zip(self.chain.times());
        std::iter::once(row("input", input, 0.0))
            .chain(layers.map(|(layer, time)| row(layer.name(), time.forward, time.backward)))
            .chain(std::iter::once(row("loss", loss, 0.0)))
            .collect()
    }
}

fn label(labels: &[u8], placement: &Placement, classes: usize) -> Result<usize> {
    match labels.get(placement.image as usize) {
        Some(&label) if usize::from(label) < classes => Ok(label.into()),
        Some(label) => Err(Error::Batch(format!(
            "image {} has the label {label}, but there are {classes} classes",
            placement.image
        ))),
        None => Err(Error::Batch(format!(
            "image {} has no label",
            placement.image
        ))),
    }
}

/// Writes numbers to the beginning of a tensor.
fn upload(numbers: &[f32], to: &Tensor) -> Result<()> {
    slices::write([to], |[to]| to[..numbers.len()].copy_from_slice(numbers))?;
    Ok(())
}

#[cfg(test)]
mod tests;
