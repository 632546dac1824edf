//! A network on the GPU: its memory, and the training steps that are submitted to it.

use super::records::{OutcomeRecord, ProgressRecord, Record, StepRecord};
use super::schedule::{KernelSchedule, Slot};
use super::{COMMON, DeviceImages, SharedGpu};
use crate::backend::cpu::optimizer::CpuOptimizer;
use crate::backend::{Error, ImageSet, NetworkSpec, Result, StepOutcome, StepPlan};
use crate::domain::layer_rates::LayerRates;
use crate::domain::params::{CropPadding, LossReduction};
use crate::hardware::executor::{ExecutorError, KernelExecutor, KernelList};
use crate::layers::dropout::Mask;
use crate::layers::gpu::ScheduledLaunch;
use crate::layers::input::Scaling;
use crate::layers::slices;
use crate::optimizers::{GroupCoefficients, MAX_COEFFICIENTS};
use candle_core::Tensor;

/// A network on the GPU: its memory and its lists of kernel launches.
pub(super) struct Member {
    pub executor: Box<dyn KernelExecutor>,
    pub schedule: KernelSchedule,
    pub training: KernelList,
    pub scoring: KernelList,
    pub packing: KernelList,
    /// Exchanges the weights and their average, if the schedule keeps one.
    pub swapping: Option<KernelList>,
    /// Whether the average has begun.
    pub has_average: bool,
    /// The optimizer's scalars.
    pub scalars: Vec<f64>,
    /// The factors that its pieces have.
    layer_rates: LayerRates,
}

/// The error for a network whose memory is lost, because its old memory could not be allocated again.
pub(super) fn lost(error: Error) -> Error {
    match error {
        Error::Executor(ExecutorError::Memory { device, .. }) => {
            Error::Executor(ExecutorError::Lost {
                device,
                what: "allocating the network's memory again",
                why: "another program has taken it".into(),
            })
        }
        other => other,
    }
}

impl Member {
    /// A member with allocated memory and weights of zero.
    pub fn new(executor: Box<dyn KernelExecutor>, schedule: KernelSchedule) -> Result<Self> {
        let mut member = Member {
            executor,
            schedule,
            training: KernelList(0),
            scoring: KernelList(0),
            packing: KernelList(0),
            swapping: None,
            has_average: false,
            scalars: Vec::new(),
            layer_rates: LayerRates::default(),
        };
        member.install()?;
        Ok(member)
    }

    /// Allocates the schedule's memory and compiles its kernels.
    fn install(&mut self) -> Result<()> {
        let schedule = &self.schedule;
        self.executor.allocate(schedule.layout.bytes)?;
        for &(at, bytes) in &schedule.zeroed {
            self.executor.clear(at, bytes)?;
        }
        let pieces = schedule.pieces_at(&self.layer_rates);
        self.executor
            .write(schedule.layout.pieces, &words(&pieces))?;
        if !schedule.matrices.is_empty() {
            self.executor
                .write(schedule.layout.matrices, &words(&schedule.matrices))?;
        }
        let mut lists = vec![&schedule.training, &schedule.scoring, &schedule.packing];
        lists.extend(&schedule.swapping);
        let launches =
            |list: &Vec<ScheduledLaunch>| list.iter().map(|l| l.launch.clone()).collect();
        let lists = lists.into_iter().map(launches).collect();
        let lists = self.executor.prepare(COMMON, lists)?;
        if let [training, scoring, packing, ref swapping @ ..] = lists[..] {
            (self.training, self.scoring, self.packing) = (training, scoring, packing);
            self.swapping = swapping.first().copied();
        }
        Ok(())
    }

    /// Whether its training steps can move an average of the weights.
    pub fn averages(&self) -> bool {
        self.schedule.layout.average.is_some()
    }

    /// Fills the memory of the average with the weights and running statistics. A training step changes only those that
    /// it moves.
    pub fn fill_average(&mut self) -> Result<()> {
        let schedule = &self.schedule;
        let (weights, running) = (schedule.layout.weights, schedule.layout.running);
        let params = schedule.params.iter().map(|slot| (weights, slot));
        let slots = params.chain(schedule.running.iter().map(|slot| (running, slot)));
        for ((row, slot), (at, len)) in slots.zip(schedule.averages()) {
            let mut bytes = vec![0; 4 * len];
            self.executor.read(row + 4 * slot.begin, &mut bytes)?;
            self.executor.write(at, &bytes)?;
        }
        Ok(())
    }

    /// Replaces the schedule by another one of the same network. If memory is short, the member stays as it was.
    pub fn resize(&mut self, schedule: KernelSchedule) -> Result<()> {
        let mut lasting = vec![0; self.schedule.layout.lasting];
        self.executor.read(0, &mut lasting)?;
        let before = std::mem::replace(&mut self.schedule, schedule);
        let failed = match self.install() {
            Err(error @ Error::Executor(ExecutorError::Memory { .. })) => {
                self.schedule = before;
                self.install().map_err(lost)?;
                Some(error)
            }
            other => {
                other?;
                None
            }
        };
        lasting.truncate(self.schedule.layout.lasting);
        self.executor.write(0, &lasting)?;
        self.executor.run(self.packing, 1)?;
        failed.map_or(Ok(()), Err)
    }

    /// Gives the pieces these factors.
    fn set_layer_rates(&mut self, rates: &LayerRates) -> Result<()> {
        if self.layer_rates != *rates {
            let pieces = self.schedule.pieces_at(rates);
            self.executor
                .write(self.schedule.layout.pieces, &words(&pieces))?;
            self.layer_rates = rates.clone();
        }
        Ok(())
    }

    /// Makes steps with the same layer rates until one is not finite; that step and those after it have no effect. The caller must still name the
    /// tensor that was not finite in the last outcome.
    pub fn train(
        &mut self,
        gpu: &SharedGpu,
        spec: &NetworkSpec,
        optimizer: &mut CpuOptimizer,
        images: &ImageSet,
        plans: &[StepPlan],
    ) -> Result<Vec<StepOutcome>> {
        self.set_layer_rates(&plans[0].layer_rates)?;
        let at = gpu.images(images)?;
        let (base, layout) = (self.executor.base(), &self.schedule.layout);
        let mut records = Vec::with_capacity(plans.len());
        let mut numbers = Vec::new();
        // The optimizer's scalars before each step and after the last.
        let mut scalars = Vec::with_capacity(plans.len() + 1);
        // Whether the average has begun after each step.
        let mut averaged = Vec::with_capacity(plans.len());
        let mut has_average = self.has_average;
        optimizer.set_scalars(self.scalars.clone());
        for plan in plans {
            let (coefficients, before) = optimizer.coefficients(&plan.settings);
            scalars.push(before);
            let first = base + (layout.images + 4 * numbers.len()) as u64;
            let decay = plan.settings.average_decay;
            let average_share = match has_average {
                _ if decay == 0.0 => 0.0,
                true => (1.0 - decay) as f32,
                false => 1.0,
            };
            has_average = decay > 0.0;
            averaged.push(has_average);
            records.push(StepRecord {
                average_share,
                ..training_record(plan, &coefficients, &spec.scaling, at, first)
            });
            numbers.extend_from_slice(&plan.images);
        }
        let bytes: Vec<u8> = records.iter().flat_map(|r| r.bytes()).copied().collect();
        self.executor.write(layout.images, &words(&numbers))?;
        self.executor.write(layout.steps, &bytes)?;
        self.executor.write(layout.now, records[0].bytes())?;
        self.executor
            .clear(layout.state, size_of::<ProgressRecord>())?;
        self.executor.run(self.training, plans.len())?;
        let mut bytes = vec![0; size_of::<OutcomeRecord>() * plans.len()];
        self.executor.read(layout.found, &mut bytes)?;

        scalars.push(optimizer.scalar_values().to_vec());
        let mut outcomes = Vec::with_capacity(plans.len());
        for (i, bytes) in bytes.chunks_exact(size_of::<OutcomeRecord>()).enumerate() {
            let record = OutcomeRecord::from_bytes(bytes);
            let applied = record.applied != 0;
            let finite = applied && record.not_finite == 0;
            outcomes.push(StepOutcome {
                step: record.number,
                loss: record.loss,
                grad_norm: record.norm,
                correct: record.correct,
                not_finite: (!finite).then(String::new),
            });
            self.scalars = scalars[i + usize::from(applied)].clone();
            if applied {
                self.has_average = averaged[i];
            }
            if !finite {
                break;
            }
        }
        Ok(outcomes)
    }
}

fn training_record(
    plan: &StepPlan,
    coefficients: &GroupCoefficients,
    scaling: &Scaling,
    at: DeviceImages,
    images: u64,
) -> StepRecord {
    let settings = &plan.settings;
    let (threshold, scale) = Mask::numbers(settings.dropout as f32);
    let scoring = scoring_record(scaling, at, images, plan.images.len());
    let mut own = [0.0; 32];
    for (own, c) in own.chunks_exact_mut(MAX_COEFFICIENTS).zip(coefficients) {
        own.copy_from_slice(&c.own);
    }
    StepRecord {
        number: settings.step,
        seed: settings.seed,
        flip: plan.augmentation.flip as u32,
        crop: plan.augmentation.crop,
        reflect: (plan.augmentation.padding == CropPadding::Reflect).into(),
        epoch: settings.epoch,
        cutout: plan.augmentation.cutout,
        threshold,
        scale,
        smoothing: settings.label_smoothing as f32,
        share: match settings.loss_reduction {
            LossReduction::Mean => scoring.share,
            LossReduction::Sum => 1.0,
        },
        l2: coefficients.map(|c| c.l2),
        decay_factor: coefficients.map(|c| c.decay_factor),
        own,
        clip_norm: settings.clip_norm.max(0.0),
        ..scoring
    }
}

pub(super) fn scoring_record(
    scaling: &Scaling,
    at: DeviceImages,
    images: u64,
    count: usize,
) -> StepRecord {
    StepRecord {
        pixels: at.pixels,
        labels: at.labels,
        images,
        count: count as u32,
        share: 1.0 / count.max(1) as f32,
        scale: 1.0,
        pixel_scale: scaling.scale,
        pixel_shift: scaling.shift,
        ..StepRecord::default()
    }
}

pub(super) fn float_bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub(super) fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub(super) fn write_row<'a>(
    executor: &mut dyn KernelExecutor,
    at: usize,
    slots: impl Iterator<Item = &'a Slot>,
    tensors: impl Iterator<Item = &'a Tensor>,
) -> Result<()> {
    for (slot, tensor) in slots.zip(tensors) {
        let numbers = slices::read(tensor)?;
        executor.write(at + 4 * slot.begin, &float_bytes(&numbers))?;
    }
    Ok(())
}

pub(super) fn read_row<'a>(
    executor: &mut dyn KernelExecutor,
    at: usize,
    slots: impl Iterator<Item = &'a Slot>,
    tensors: impl Iterator<Item = &'a Tensor>,
) -> Result<()> {
    for (slot, tensor) in slots.zip(tensors) {
        let mut read = Ok(());
        slices::write([tensor], |[numbers]| {
            read = read_floats(executor, at + 4 * slot.begin, numbers);
        })?;
        read?;
    }
    Ok(())
}

pub(super) fn read_floats(
    executor: &mut dyn KernelExecutor,
    at: usize,
    numbers: &mut [f32],
) -> Result<()> {
    let mut bytes = vec![0; 4 * numbers.len()];
    executor.read(at, &mut bytes)?;
    for (number, bytes) in numbers.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *number = f32::from_le_bytes(*bytes);
    }
    Ok(())
}
