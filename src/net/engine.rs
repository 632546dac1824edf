//! A network on a machine that runs lists of launches: what is planned in plan/, carried out. Training steps are asked
//! for many at a time; what changes from one to the next is written ahead as a list, so the machine never waits for the
//! host within it.

use super::plan::{COMMON, FOUND_BYTES, MAX_STEPS, Needs, Plan, STATE_BYTES, STEP_BYTES, Slot};
use super::{Error, Result};
use crate::domain::augment::Placement;
use crate::domain::params::Hyperparameters;
use crate::domain::report::StepSettings;
use crate::hardware::executor::{ExecutorError, KernelExecutor, KernelList};
use crate::layers::chain::Chain;
use crate::layers::dropout::Mask;
use crate::layers::input::Scaling;
use crate::layers::{Param, slices};
use crate::optimizers::Coefficients;
use candle_core::{CpuStorage, Storage, Tensor, TensorId};
use std::collections::HashMap;

/// One training step, planned ahead.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlannedStep {
    pub settings: StepSettings,
    /// What the optimizer's rule needs to know of it.
    pub update: Coefficients,
    /// Images in its batch.
    pub images: usize,
    /// Augmentation, as in the hyperparameters.
    pub flip: bool,
    pub crop: u32,
    pub cutout: u32,
}

impl PlannedStep {
    pub fn new(
        settings: StepSettings,
        update: Coefficients,
        images: usize,
        params: &Hyperparameters,
    ) -> Self {
        PlannedStep {
            settings,
            update,
            images,
            flip: params.flip,
            crop: params.crop,
            cutout: params.cutout,
        }
    }
}

/// What a training step found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    pub step: u64,
    /// Mean over the batch.
    pub loss: f64,
    /// Of the whole gradient, before clipping.
    pub grad_norm: f64,
    pub correct: u32,
    /// False from the first step on whose loss or gradient is not finite: the weights are as they were before it.
    pub applied: bool,
}

/// A network on a machine.
pub struct Engine {
    machine: Box<dyn KernelExecutor>,
    needs: Needs,
    plan: Plan,
    training: KernelList,
    scoring: KernelList,
    packing: KernelList,
    /// The pixels and labels of a split, by its tensor of pixels.
    pools: HashMap<TensorId, (u64, u64)>,
}

/// The network's side of it.
pub struct Parts<'a> {
    pub chain: &'a Chain,
    pub params: Vec<&'a Param>,
    pub buffers: Vec<(String, &'a Tensor)>,
}

impl Engine {
    /// Puts the network there, with its weights and running statistics and moments of zero.
    ///
    /// # Errors
    /// When there is not enough memory, a kernel does not compile or the device fails.
    pub fn new(machine: Box<dyn KernelExecutor>, needs: Needs, parts: &Parts) -> Result<Self> {
        let needs = Needs {
            blocks: machine.multiprocessors() as usize * 2,
            ..needs
        };
        let mut engine = Engine {
            plan: Plan::new(needs, parts.chain, &parts.params, &parts.buffers),
            machine,
            needs,
            training: KernelList(0),
            scoring: KernelList(0),
            packing: KernelList(0),
            pools: HashMap::new(),
        };
        engine.install()?;
        engine.push(parts)?;
        Ok(engine)
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Takes the plan's memory and compiles its kernels.
    fn install(&mut self) -> Result<()> {
        let plan = &self.plan;
        self.machine.allocate(plan.places.bytes)?;
        for &(at, bytes) in &plan.zeroed {
            self.machine.clear(at, bytes)?;
        }
        self.machine
            .write(plan.places.pieces, &words(&plan.pieces))?;
        let lists = vec![
            plan.training.clone(),
            plan.scoring.clone(),
            plan.packing.clone(),
        ];
        let lists = self.machine.prepare(COMMON, lists)?;
        if let [training, scoring, packing] = lists[..] {
            (self.training, self.scoring, self.packing) = (training, scoring, packing);
        }
        Ok(())
    }

    /// For batches of up to so many images from now on. Weights, moments and running statistics stay.
    ///
    /// # Errors
    /// When there is not enough memory: then all is as it was.
    pub fn set_capacity(&mut self, capacity: usize, parts: &Parts) -> Result<()> {
        let mut lasting = vec![0; self.plan.places.lasting];
        self.machine.read(0, &mut lasting)?;
        let needs = Needs {
            capacity,
            ..self.needs
        };
        let plan = Plan::new(needs, parts.chain, &parts.params, &parts.buffers);
        let before = (self.needs, std::mem::replace(&mut self.plan, plan));
        self.needs = needs;
        let failed = match self.install() {
            Err(error @ Error::Executor(ExecutorError::Memory { .. })) => {
                (self.needs, self.plan) = before;
                self.install()?;
                Some(error)
            }
            other => {
                other?;
                None
            }
        };
        self.machine.write(0, &lasting)?;
        self.machine.run(self.packing, 1)?;
        failed.map_or(Ok(()), Err)
    }

    /// Takes the host's weights and running statistics.
    ///
    /// # Errors
    /// When the device fails.
    pub fn push(&mut self, parts: &Parts) -> Result<()> {
        let weights = parts.params.iter().map(|p| p.var.as_tensor());
        write_row(
            &mut *self.machine,
            self.plan.places.weights,
            &self.plan.params,
            weights,
        )?;
        let buffers = parts.buffers.iter().map(|(_, tensor)| *tensor);
        write_row(
            &mut *self.machine,
            self.plan.places.running,
            &self.plan.running,
            buffers,
        )?;
        self.machine.run(self.packing, 1)?;
        Ok(())
    }

    /// Takes the host's optimizer state: for each slot a tensor for each parameter.
    ///
    /// # Errors
    /// When the device fails.
    pub fn push_state(&mut self, state: &[Vec<Tensor>]) -> Result<()> {
        for (slot, tensors) in state.iter().enumerate() {
            let at = self.plan.state_row(slot);
            write_row(&mut *self.machine, at, &self.plan.params, tensors.iter())?;
        }
        Ok(())
    }

    /// Brings weights, gradients and running statistics to the host.
    ///
    /// # Errors
    /// When the device fails.
    pub fn pull(&mut self, parts: &Parts) -> Result<()> {
        let (p, slots) = (&self.plan.places, &self.plan.params);
        let weights = parts.params.iter().map(|p| p.var.as_tensor());
        read_row(&mut *self.machine, p.weights, slots, weights)?;
        let grads = parts.params.iter().map(|p| &p.grad);
        read_row(&mut *self.machine, p.grads, slots, grads)?;
        let buffers = parts.buffers.iter().map(|(_, tensor)| *tensor);
        read_row(&mut *self.machine, p.running, &self.plan.running, buffers)
    }

    /// Brings the optimizer's state to the host.
    ///
    /// # Errors
    /// When the device fails.
    pub fn pull_state(&mut self, state: &[Vec<Tensor>]) -> Result<()> {
        for (slot, tensors) in state.iter().enumerate() {
            let at = self.plan.state_row(slot);
            read_row(&mut *self.machine, at, &self.plan.params, tensors.iter())?;
        }
        Ok(())
    }

    /// Runs training steps one after the other: step by step the next of `images` (numbers in the split whose pixels
    /// `pixels` and `labels` are), and returns what each found. When one is not finite, neither it nor any after it
    /// changes anything.
    ///
    /// # Errors
    /// When the steps do not fit; when the device fails.
    pub fn train(
        &mut self,
        pixels: &Tensor,
        labels: &[u8],
        scaling: &Scaling,
        images: &[u32],
        steps: &[PlannedStep],
    ) -> Result<Vec<Found>> {
        let wanted: usize = steps.iter().map(|s| s.images).sum();
        let fits = steps
            .iter()
            .all(|s| (1..=self.plan.capacity).contains(&s.images));
        if steps.is_empty() || steps.len() > MAX_STEPS || wanted != images.len() || !fits {
            return Err(Error::Batch(format!(
                "{} steps of up to {} images, {} images in all",
                steps.len(),
                self.plan.capacity,
                images.len()
            )));
        }
        let pool = self.pool(pixels, labels, images)?;
        let (base, p) = (self.machine.base(), &self.plan.places);
        let mut records = Vec::with_capacity(steps.len() * STEP_BYTES);
        let mut first = 0;
        for step in steps {
            let at = base + (p.images + 4 * first) as u64;
            record(&mut records, step, pool, at, scaling, step.settings.step);
            first += step.images;
        }
        self.machine.write(p.images, &words(images))?;
        self.machine.write(p.steps, &records)?;
        self.machine.write(p.now, &records[..STEP_BYTES])?;
        self.machine.clear(p.state, STATE_BYTES)?;
        self.machine.run(self.training, steps.len())?;
        let mut bytes = vec![0; FOUND_BYTES * steps.len()];
        self.machine.read(p.found, &mut bytes)?;
        Ok(bytes.chunks_exact(FOUND_BYTES).map(found).collect())
    }

    /// Probabilities and cross-entropies without smoothing of the images of a split.
    ///
    /// # Errors
    /// When there are more than the capacity, or the results' lengths are not theirs; when the device fails.
    pub fn score(
        &mut self,
        pixels: &Tensor,
        labels: &[u8],
        scaling: &Scaling,
        placements: &[Placement],
        probabilities: &mut [f32],
        losses: &mut [f32],
    ) -> Result<()> {
        let plain = placements.iter().all(|p| *p == Placement::plain(p.image));
        if placements.is_empty() || placements.len() > self.plan.capacity || !plain {
            return Err(Error::Batch(format!(
                "from 1 to {} images are scored at once, as they are, not {}",
                self.plan.capacity,
                placements.len()
            )));
        }
        let images: Vec<u32> = placements.iter().map(|p| p.image).collect();
        let pool = self.pool(pixels, labels, &images)?;
        let p = &self.plan.places;
        let step = PlannedStep {
            images: images.len(),
            ..scoring()
        };
        let at = self.machine.base() + p.images as u64;
        let mut bytes = Vec::with_capacity(STEP_BYTES);
        record(&mut bytes, &step, pool, at, scaling, 0);
        self.machine.write(p.images, &words(&images))?;
        self.machine.write(p.now, &bytes)?;
        self.machine.run(self.scoring, 1)?;
        read_floats(&mut *self.machine, p.probabilities, probabilities)?;
        read_floats(&mut *self.machine, p.losses, losses)
    }

    /// Where a split's pixels and labels stand: brought there when they are first asked for.
    fn pool(&mut self, pixels: &Tensor, labels: &[u8], images: &[u32]) -> Result<(u64, u64)> {
        let (count, channels, side, across) = pixels.dims4()?;
        if channels != 3 || side != self.needs.side || across != side || labels.len() != count {
            return Err(Error::Batch(format!(
                "images of shape {:?} with {} labels do not fit a network for {} x {} pixels",
                pixels.dims(),
                labels.len(),
                self.needs.side,
                self.needs.side
            )));
        }
        if let Some(image) = images.iter().find(|image| **image as usize >= count) {
            return Err(Error::Batch(format!(
                "image {image} of {count} was asked for"
            )));
        }
        if let Some(pool) = self.pools.get(&pixels.id()) {
            return Ok(*pool);
        }
        let classes = self.plan.classes;
        if let Some(at) = labels.iter().position(|l| usize::from(*l) >= classes) {
            return Err(Error::Batch(format!(
                "image {at} has the label {}, but there are {classes} classes",
                labels[at]
            )));
        }
        let (storage, layout) = pixels.storage_and_layout();
        let (Storage::Cpu(CpuStorage::U8(bytes)), Some((start, end))) =
            (&*storage, layout.contiguous_offsets())
        else {
            return Err(Error::Batch(
                "the images are not contiguous bytes on the host".into(),
            ));
        };
        let pool = (
            self.machine.upload_persistent(&bytes[start..end])?,
            self.machine.upload_persistent(labels)?,
        );
        drop(storage);
        self.pools.insert(pixels.id(), pool);
        Ok(pool)
    }
}

/// A step that scores.
fn scoring() -> PlannedStep {
    let p = Hyperparameters::default();
    let settings = StepSettings {
        optimizer: p.optimizer,
        learning_rate: 0.0,
        weight_decay: 0.0,
        momentum: 0.0,
        nesterov: false,
        beta1: 0.0,
        beta2: 0.0,
        clip_norm: 0.0,
        dropout: 0.0,
        label_smoothing: 0.0,
        seed: 0,
        step: 0,
    };
    PlannedStep {
        settings,
        update: Coefficients::default(),
        images: 0,
        flip: false,
        crop: 0,
        cutout: 0,
    }
}

/// Appends a `Step` of kernels.cuh.
fn record(
    to: &mut Vec<u8>,
    step: &PlannedStep,
    (pixels, labels): (u64, u64),
    images: u64,
    scaling: &Scaling,
    number: u64,
) {
    let (s, u) = (&step.settings, &step.update);
    let (threshold, scale) = Mask::numbers(s.dropout as f32);
    for v in [number, s.seed, pixels, labels, images] {
        to.extend(v.to_le_bytes());
    }
    for v in [
        step.images as u32,
        u32::from(step.flip),
        step.crop,
        step.cutout,
        threshold,
    ] {
        to.extend(v.to_le_bytes());
    }
    let numbers = [
        scale,
        s.label_smoothing as f32,
        1.0 / step.images.max(1) as f32,
    ];
    let decay = [u.l2, u.decay_factor];
    for v in numbers
        .iter()
        .chain(&scaling.scale)
        .chain(&scaling.shift)
        .chain(&decay)
        .chain(&u.own)
    {
        to.extend(v.to_le_bytes());
    }
    to.extend(s.clip_norm.max(0.0).to_le_bytes());
}

/// A `Found` of kernels.cuh.
fn found(bytes: &[u8]) -> Found {
    let eight = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let last = eight(24);
    Found {
        step: eight(0),
        loss: f64::from_bits(eight(8)),
        grad_norm: f64::from_bits(eight(16)),
        correct: last as u32,
        applied: last >> 32 != 0,
    }
}

fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn write_row<'a>(
    machine: &mut dyn KernelExecutor,
    at: usize,
    slots: &[Slot],
    tensors: impl Iterator<Item = &'a Tensor>,
) -> Result<()> {
    for (slot, tensor) in slots.iter().zip(tensors) {
        let numbers = slices::read(tensor)?;
        let bytes: Vec<u8> = numbers.iter().flat_map(|v| v.to_le_bytes()).collect();
        machine.write(at + 4 * slot.begin, &bytes)?;
    }
    Ok(())
}

fn read_row<'a>(
    machine: &mut dyn KernelExecutor,
    at: usize,
    slots: &[Slot],
    tensors: impl Iterator<Item = &'a Tensor>,
) -> Result<()> {
    for (slot, tensor) in slots.iter().zip(tensors) {
        let mut read = Ok(());
        slices::write([tensor], |[numbers]| {
            read = read_floats(machine, at + 4 * slot.begin, numbers);
        })?;
        read?;
    }
    Ok(())
}

fn read_floats(machine: &mut dyn KernelExecutor, at: usize, numbers: &mut [f32]) -> Result<()> {
    let mut bytes = vec![0; 4 * numbers.len()];
    machine.read(at, &mut bytes)?;
    for (number, bytes) in numbers.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *number = f32::from_le_bytes(*bytes);
    }
    Ok(())
}
