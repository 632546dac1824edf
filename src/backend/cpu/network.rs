//! A network on the CPU: fused layers over Candle variables, with a training pass and a scoring pass. This module knows
//! no optimizer, no epoch and no file.
//!
//! A pass runs the list of layers forward and, in training, back; outputs, gradients and scratch are allocated once for a
//! capacity. The variables outlive a change of the capacity.

use super::variables::Variables;
use super::{ImageSet, NetworkSpec, PartTime, Result, ScoringBatch};
use crate::backend::checks::{check_batch, place_scoring};
use crate::domain::augment::Placement;
use crate::domain::number::argmax;
use crate::domain::params::LossReduction;
use crate::domain::report::StepSettings;
use crate::hardware::threads::Threads;
use crate::layers::cpu::{Parameter, Pass, TrainingPass, fuse};
use crate::layers::sequential::Sequential;
use crate::layers::{input, loss, slices};
use candle_core::{Device, Tensor};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// The results of a training pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PassOutcome {
    /// Mean loss over the batch, with label smoothing. Not finite if a weight or an activation is not.
    pub loss: f64,
    /// Number of images whose label had the largest logit.
    pub correct: u32,
}

/// A network and the gradients of its last training pass.
pub struct Network {
    pub(in crate::backend) spec: NetworkSpec,
    capacity: usize,
    variables: Variables,
    /// f32, `[capacity, height, width, channels]`.
    pub(super) input: Tensor,
    pub(in crate::backend) layers: Sequential,
    grad_logits: Tensor,
    logits: Vec<f32>,
    /// While measuring: seconds spent on the input and on the loss.
    around: Option<(f64, f64)>,
}

impl Network {
    /// A network with initial weights from `seed`, for passes of at most `capacity` images.
    ///
    /// # Errors
    /// Returns an error if the architecture does not fit the input or the classes.
    pub fn new(spec: &NetworkSpec, capacity: usize, seed: u64) -> Result<Self> {
        Self::assemble(spec, capacity, Variables::new(spec, seed)?)
    }

    fn assemble(spec: &NetworkSpec, capacity: usize, variables: Variables) -> Result<Self> {
        let capacity = capacity.max(1);
        let [height, width, channels] =
            [spec.input.height, spec.input.width, spec.input.channels].map(|v| v as usize);
        let input = slices::zeros((capacity, height, width, channels), &Device::Cpu)?;
        let layers = fuse(&spec.nodes()?, variables.by_name(), &input)?;
        Ok(Network {
            spec: spec.clone(),
            capacity,
            variables,
            grad_logits: slices::zeros((capacity, 1, 1, spec.classes), &Device::Cpu)?,
            logits: vec![0.0; capacity * spec.classes],
            input,
            layers,
            around: None,
        })
    }

    /// Changes the maximum number of images in a pass, and allocates the buffers for it. Keeps weights and running
    /// statistics; gradients are lost.
    ///
    /// # Errors
    /// Returns an error if a layer cannot be created.
    pub fn set_capacity(&mut self, capacity: usize) -> Result<()> {
        if capacity.max(1) == self.capacity {
            return Ok(());
        }
        let measures = self.around.is_some();
        *self = Self::assemble(&self.spec, capacity, self.variables.clone())?;
        self.measure(measures);
        Ok(())
    }

    /// Maximum number of images in a pass.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Runs one forward and backward pass over the placed images of a set. The gradients of the mean loss are then in
    /// [`Network::params`]. If `stop` is set during the pass, the results are undefined.
    ///
    /// # Errors
    /// Returns an error if the batch is empty, exceeds the capacity or does not fit.
    pub fn train_pass(
        &mut self,
        images: &ImageSet,
        placements: &[Placement],
        settings: &StepSettings,
        threads: &Threads,
        stop: Option<&AtomicBool>,
    ) -> Result<PassOutcome> {
        let pass = Pass {
            images: placements.len(),
            threads,
            train: Some(TrainingPass::of(settings)),
            stop,
        };
        self.forward(images, placements, &pass)?;
        let begin = Instant::now();
        let count = placements.len();
        let smoothing = settings.label_smoothing as f32;
        let scale = match settings.loss_reduction {
            LossReduction::Mean => 1.0 / count as f32,
            LossReduction::Sum => 1.0,
        };
        let mut outcome = PassOutcome {
            loss: 0.0,
            correct: 0,
        };
        let classes = self.spec.classes;
        for (logits, placement) in self.logits.chunks_exact_mut(classes).zip(placements) {
            let label = usize::from(images.labels()[placement.image as usize]);
            outcome.correct += u32::from(argmax(logits) == label);
            outcome.loss += loss::cross_entropy(logits, label, smoothing);
            loss::gradient(logits, label, smoothing, scale);
        }
        outcome.loss /= count as f64;
        let gradients = &self.logits[..count * classes];
        slices::write([&self.grad_logits], |[to]| {
            to[..gradients.len()].copy_from_slice(gradients);
        })?;
        if let Some((_, loss)) = &mut self.around {
            *loss += begin.elapsed().as_secs_f64();
        }
        self.layers
            .backward(&self.input, &self.grad_logits, None, &pass)?;
        Ok(outcome)
    }

    /// Scores images with the weights that the network has now. Nothing is dropped, norms use their running statistics, no
    /// gradient is kept.
    ///
    /// # Errors
    /// Returns an error if the batch does not fit, or the result slices have other lengths.
    pub fn score(&mut self, batch: ScoringBatch, threads: &Threads) -> Result<()> {
        let placements = place_scoring(&self.spec, self.capacity, &batch)?;
        let ScoringBatch {
            images,
            numbers,
            weights: _,
            tta,
            probabilities,
            losses,
        } = batch;
        let classes = self.spec.classes;
        self.forward_scoring(images, &placements, threads)?;
        tta.average(&self.logits, probabilities);
        let results = probabilities.chunks_exact_mut(classes).zip(losses);
        for ((row, loss), number) in results.zip(numbers) {
            let label = usize::from(images.labels()[*number as usize]);
            *loss = loss::cross_entropy(row, label, 0.0) as f32;
        }
        Ok(())
    }

    /// Runs the layers on images without augmentation, as in scoring.
    ///
    /// # Errors
    /// Returns an error if the batch is empty, exceeds the capacity or does not fit.
    pub(super) fn forward_plain(
        &mut self,
        images: &ImageSet,
        numbers: &[u32],
        threads: &Threads,
    ) -> Result<()> {
        let placements: Vec<_> = numbers.iter().map(|i| Placement::plain(*i)).collect();
        self.forward_scoring(images, &placements, threads)
    }

    /// Runs the layers for placed images, as in scoring.
    fn forward_scoring(
        &mut self,
        images: &ImageSet,
        placements: &[Placement],
        threads: &Threads,
    ) -> Result<()> {
        let pass = Pass::scoring(placements.len(), threads);
        self.forward(images, placements, &pass)
    }

    /// Prepares the input, runs the layers, and copies the logits out.
    fn forward(&mut self, images: &ImageSet, placements: &[Placement], pass: &Pass) -> Result<()> {
        let numbers = placements.iter().map(|placement| placement.image);
        check_batch(&self.spec, self.capacity, images, numbers)?;
        let begin = Instant::now();
        let scaling = &self.spec.scaling;
        input::prepare(
            images.pixels(),
            placements,
            scaling,
            &self.input,
            pass.threads,
        )?;
        if let Some((input, _)) = &mut self.around {
            *input += begin.elapsed().as_secs_f64();
        }
        self.layers.forward(&self.input, pass)?;
        let logits = slices::read(self.layers.output(&self.input))?;
        let len = placements.len() * self.spec.classes;
        self.logits[..len].copy_from_slice(&logits[..len]);
        Ok(())
    }

    /// The parameters with their gradients, always in the same order.
    pub fn params(&self) -> Vec<&Parameter> {
        self.layers.params()
    }

    /// The parameters that the optimizer moves, in the same order.
    pub fn trained_params(&self) -> Vec<&Parameter> {
        let mut params = self.params();
        params.retain(|p| p.trained);
        params
    }

    /// What is saved but not trained (running statistics), by its name in the checkpoint.
    pub fn buffers(&self) -> Vec<(String, &Tensor)> {
        self.layers.buffers()
    }

    /// Parameters and buffers by name.
    pub(super) fn tensors(&self) -> Vec<(String, &Tensor)> {
        let params = self.params().into_iter();
        let params = params.map(|p| (p.name.clone(), p.var.as_tensor()));
        params.chain(self.buffers()).collect()
    }

    /// The names and shapes of [`Network::tensors`].
    pub(super) fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let tensors = self.tensors().into_iter();
        tensors
            .map(|(name, tensor)| (name, tensor.dims().to_vec()))
            .collect()
    }

    /// A copy of the norms' running statistics.
    pub(super) fn running_statistics(&self) -> Result<Vec<Vec<f32>>> {
        let buffers = self.buffers();
        let copies = buffers.iter().map(|(_, b)| Ok(slices::read(b)?.to_vec()));
        copies.collect()
    }

    pub(super) fn restore_running_statistics(&self, saved: &[Vec<f32>]) -> Result<()> {
        for ((_, buffer), saved) in self.buffers().iter().zip(saved) {
            slices::write([*buffer], |[b]| b.copy_from_slice(saved))?;
        }
        Ok(())
    }

    /// Starts measuring each layer's time from zero, or stops measuring.
    pub fn measure(&mut self, on: bool) {
        self.around = on.then_some((0.0, 0.0));
        self.layers.time(on);
    }

    /// The seconds spent in each layer since measuring started, in the order of the layers. Empty if nothing is
    /// measured.
    pub fn timings(&self) -> Vec<PartTime> {
        let Some((input, loss)) = self.around else {
            return Vec::new();
        };
        let row = |name: &str, forward, backward| PartTime {
            name: name.to_owned(),
            forward,
            backward,
        };
        let layers = self.layers.layers().iter().zip(self.layers.times());
        std::iter::once(row("input", input, 0.0))
            .chain(layers.map(|(layer, time)| row(layer.name(), time.forward, time.backward)))
            .chain(std::iter::once(row("loss", loss, 0.0)))
            .collect()
    }
}
