//! The backend of our own kernels on a GPU: a network as lists of kernel launches (schedule/), run by an executor.
//! Training steps are submitted many at a time; what changes from one to the next is written ahead as a list of records,
//! so the GPU never waits for the host within it.

mod optimizer;
mod records;
pub mod schedule;

pub use records::COMMON;

use super::checks::{check_work, place_scoring};
use super::cpu::network::Network;
use super::cpu::optimizer::CpuOptimizer;
use super::cpu::{export, import};
use super::members::Members;
use super::{
    Backend, CPU_MIRROR_BATCH, Device, DeviceInfo, Error, ImageSet, Inspected, Inspection,
    MemberId, NetworkSpec, NetworkState, PartTime, Result, ScoringBatch, StepOutcome, StepPlan,
};
use crate::domain::params::{CropPadding, LossReduction, Precision};
use crate::hardware::executor::{ExecutorDevice, ExecutorError, KernelExecutor, KernelList};
use crate::hardware::threads::Threads;
use crate::layers::dropout::Mask;
use crate::layers::input::Scaling;
use crate::layers::slices;
use crate::optimizers::{GroupCoefficients, MAX_COEFFICIENTS};
use candle_core::Tensor;
use records::{OutcomeRecord, ProgressRecord, Record, StepRecord};
use schedule::{KernelSchedule, MAX_STEPS, Slot};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Device addresses of a copy of an image set.
#[derive(Clone, Copy)]
struct DeviceImages {
    pixels: u64,
    labels: u64,
}

/// An opened GPU with its copies of image sets, shared by its backends.
struct SharedGpu {
    gpu: Rc<dyn ExecutorDevice>,
    threads: Rc<Threads>,
    /// The copies by the ids of the sets. They are freed with the device.
    images: RefCell<HashMap<u64, DeviceImages>>,
}

/// A GPU.
pub struct GpuDevice {
    shared: Rc<SharedGpu>,
    info: DeviceInfo,
}

impl GpuDevice {
    pub fn new(gpu: Rc<dyn ExecutorDevice>, info: DeviceInfo) -> Self {
        let shared = SharedGpu {
            gpu,
            threads: Rc::clone(&info.threads),
            images: RefCell::default(),
        };
        GpuDevice {
            shared: Rc::new(shared),
            info,
        }
    }
}

impl Device for GpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn precisions(&self) -> &'static [Precision] {
        &[Precision::F32, Precision::Tf32, Precision::Bf16]
    }

    fn backend(&self, spec: &NetworkSpec, capacity: usize) -> Result<Box<dyn Backend>> {
        let mirror = Network::new(spec, CPU_MIRROR_BATCH, 0)?;
        Ok(Box::new(GpuBackend {
            gpu: Rc::clone(&self.shared),
            spec: spec.clone(),
            capacity: capacity.max(1),
            optimizer: CpuOptimizer::new(spec.optimizer, &mirror.trained_params())?,
            mirror,
            members: Members::default(),
        }))
    }
}

struct GpuBackend {
    gpu: Rc<SharedGpu>,
    spec: NetworkSpec,
    capacity: usize,
    /// A CPU copy of the network and the optimizer's state of the member that was last inspected.
    mirror: Network,
    optimizer: CpuOptimizer,
    members: Members<Member>,
}

/// A network on the GPU: its memory and its lists of kernel launches.
struct Member {
    executor: Box<dyn KernelExecutor>,
    schedule: KernelSchedule,
    training: KernelList,
    scoring: KernelList,
    packing: KernelList,
    /// The optimizer's scalars.
    scalars: Vec<f64>,
}

impl SharedGpu {
    /// The copy of an image set. The first call copies it.
    fn images(&self, images: &ImageSet) -> Result<DeviceImages> {
        if let Some(found) = self.images.borrow().get(&images.id()) {
            return Ok(*found);
        }
        // Use one allocation, so that either both fit or neither does.
        let mut bytes = images.pixels().to_vec();
        bytes.resize(bytes.len().next_multiple_of(256), 0);
        let labels = bytes.len() as u64;
        bytes.extend(images.labels().iter().flat_map(|label| label.to_le_bytes()));
        let pixels = self.gpu.upload(&bytes)?;
        let copy = DeviceImages {
            pixels,
            labels: pixels + labels,
        };
        self.images.borrow_mut().insert(images.id(), copy);
        Ok(copy)
    }
}

/// The error for a network whose memory is lost, because its old memory could not be allocated again.
fn lost(error: Error) -> Error {
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

impl GpuBackend {
    fn schedule(&self, capacity: usize, multiprocessors: u32) -> KernelSchedule {
        KernelSchedule::new(&self.mirror, capacity, multiprocessors as usize * 2)
    }

    /// A new member with allocated memory and weights of zero.
    fn new_member(&self) -> Result<Member> {
        let executor = Rc::clone(&self.gpu.gpu).executor()?;
        let schedule = self.schedule(self.capacity, executor.multiprocessors());
        let mut member = Member {
            schedule,
            executor,
            training: KernelList(0),
            scoring: KernelList(0),
            packing: KernelList(0),
            scalars: Vec::new(),
        };
        member.install()?;
        Ok(member)
    }

    /// Copies a member's weights, gradients and running statistics to the mirror.
    fn read_network(&mut self, member: MemberId) -> Result<()> {
        let member = self.members.get(member)?;
        let params = self.mirror.params();
        let (layout, slots) = (&member.schedule.layout, &member.schedule.params);
        let executor = &mut *member.executor;
        let weights = params.iter().map(|p| p.var.as_tensor());
        read_row(executor, layout.weights, slots.iter(), weights)?;
        read_row(
            executor,
            layout.grads,
            slots.iter(),
            params.iter().map(|p| &p.grad),
        )?;
        let buffers = self.mirror.buffers();
        let buffers = buffers.iter().map(|(_, tensor)| *tensor);
        let slots = member.schedule.running.iter();
        read_row(executor, layout.running, slots, buffers)
    }

    /// Copies the mirror's weights and running statistics and the optimizer's state to a member.
    fn write_member(&mut self, id: MemberId) -> Result<()> {
        let member = self.members.get(id)?;
        let params = self.mirror.params();
        let schedule = &member.schedule;
        let executor = &mut *member.executor;
        let weights = params.iter().map(|p| p.var.as_tensor());
        let slots = schedule.params.iter();
        write_row(executor, schedule.layout.weights, slots, weights)?;
        let buffers = self.mirror.buffers();
        let buffers = buffers.iter().map(|(_, tensor)| *tensor);
        write_row(
            executor,
            schedule.layout.running,
            schedule.running.iter(),
            buffers,
        )?;
        for (slot, tensors) in self.optimizer.slots().iter().enumerate() {
            let at = schedule.state_row(slot);
            write_row(executor, at, schedule.trained(), tensors.iter())?;
        }
        member.scalars = self.optimizer.scalar_values().to_vec();
        member.executor.run(member.packing, 1)?;
        Ok(())
    }

    /// Names the first tensor that was not finite in a member's last step.
    fn name_not_finite(&mut self, member: MemberId, loss: f64) -> Result<String> {
        self.read_network(member)?;
        let found = match self.mirror.first_weight_not_finite()? {
            Some(weight) => Some(weight),
            None => self.mirror.first_gradient_not_finite()?,
        };
        let unnamed = match loss.is_finite() {
            true => "the gradient",
            false => "the loss",
        };
        Ok(found.unwrap_or_else(|| unnamed.into()))
    }
}

impl Backend for GpuBackend {
    fn max_steps(&self) -> usize {
        MAX_STEPS
    }

    fn members_at_once(&self) -> usize {
        1
    }

    fn add(&mut self, seed: u64) -> Result<MemberId> {
        let member = self.new_member()?;
        // The CPU's network makes the initial weights of the seed.
        self.mirror = Network::new(&self.spec, CPU_MIRROR_BATCH, seed)?;
        self.optimizer = CpuOptimizer::new(self.spec.optimizer, &self.mirror.trained_params())?;
        let id = self.members.add(member);
        match self.write_member(id) {
            Ok(()) => Ok(id),
            Err(error) => {
                self.members.remove(id);
                Err(error)
            }
        }
    }

    fn copy(&mut self, member: MemberId) -> Result<MemberId> {
        self.members.get(member)?;
        let mut copy = self.new_member()?;
        let original = self.members.get(member)?;
        let lasting = copy.schedule.layout.lasting;
        copy.executor.copy(&mut *original.executor, 0, lasting)?;
        copy.scalars = original.scalars.clone();
        copy.executor.run(copy.packing, 1)?;
        Ok(self.members.add(copy))
    }

    fn remove(&mut self, member: MemberId) {
        self.members.remove(member);
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn resize(&mut self, capacity: usize) -> Result<()> {
        let capacity = capacity.max(1);
        if capacity == self.capacity {
            return Ok(());
        }
        let ids = self.members.ids();
        for (i, id) in ids.iter().enumerate() {
            if let Err(error) = self.resize_member(*id, capacity) {
                // Resize every member back, even if one fails.
                let back = ids[..i]
                    .iter()
                    .map(|id| self.resize_member(*id, self.capacity));
                let back: Vec<_> = back.collect();
                back.into_iter()
                    .collect::<Result<Vec<()>>>()
                    .map_err(lost)?;
                return Err(error);
            }
        }
        self.capacity = capacity;
        Ok(())
    }

    fn train(
        &mut self,
        images: &Rc<ImageSet>,
        work: &[(MemberId, Vec<StepPlan>)],
        stop: &AtomicBool,
    ) -> Result<Vec<Vec<StepOutcome>>> {
        let at_once = self.members_at_once();
        check_work(&self.spec, self.capacity, at_once, images, work)?;
        // Check all members before any step.
        self.members.get_all(work.iter().map(|(id, _)| *id))?;
        let mut all = Vec::with_capacity(work.len());
        for (id, plans) in work {
            if stop.load(Ordering::Relaxed) {
                all.push(Vec::new());
                continue;
            }
            let gpu = Rc::clone(&self.gpu);
            let (spec, optimizer) = (&self.spec, &mut self.optimizer);
            let member = self.members.get(*id)?;
            let mut outcomes = Vec::with_capacity(plans.len());
            for plans in plans.chunks(MAX_STEPS) {
                outcomes.extend(member.train(&gpu, spec, optimizer, images, plans)?);
                if outcomes
                    .last()
                    .is_some_and(|o: &StepOutcome| o.not_finite.is_some())
                {
                    break;
                }
            }
            if let Some(last) = outcomes.last_mut().filter(|last| last.not_finite.is_some()) {
                last.not_finite = Some(self.name_not_finite(*id, last.loss)?);
            }
            all.push(outcomes);
        }
        Ok(all)
    }

    fn score(&mut self, member: MemberId, batch: ScoringBatch) -> Result<()> {
        let placements = place_scoring(&self.spec, self.capacity, &batch)?;
        let ScoringBatch {
            images,
            numbers,
            tta,
            probabilities,
            losses,
        } = batch;
        let (gpu, spec) = (Rc::clone(&self.gpu), &self.spec);
        let member = self.members.get(member)?;
        let at = gpu.images(images)?;
        let layout = &member.schedule.layout;
        let first = member.executor.base() + layout.images as u64;
        let record = StepRecord {
            views: tta.views().len() as u32,
            ..scoring_record(&spec.scaling, at, first, placements.len())
        };
        member.executor.write(layout.images, &words(numbers))?;
        member.executor.write(layout.now, record.bytes())?;
        member.executor.run(member.scoring, 1)?;
        read_floats(&mut *member.executor, layout.probabilities, probabilities)?;
        read_floats(&mut *member.executor, layout.losses, losses)
    }

    fn inspect(&mut self, member: MemberId, inspection: &Inspection) -> Result<Inspected> {
        self.read_network(member)?;
        self.mirror.inspect(inspection, &self.gpu.threads)
    }

    fn export(&mut self, member: MemberId) -> Result<NetworkState> {
        self.read_network(member)?;
        let member = self.members.get(member)?;
        for (slot, tensors) in self.optimizer.slots().iter().enumerate() {
            let at = member.schedule.state_row(slot);
            read_row(
                &mut *member.executor,
                at,
                member.schedule.trained(),
                tensors.iter(),
            )?;
        }
        self.optimizer.set_scalars(member.scalars.clone());
        export(&self.mirror, &self.optimizer)
    }

    fn import(&mut self, member: MemberId, state: &NetworkState) -> Result<()> {
        self.members.get(member)?;
        import(&self.mirror, &mut self.optimizer, state)?;
        self.write_member(member)
    }

    fn measure(&mut self, _: bool) {}

    /// Empty: launches within a list are not timed.
    fn timings(&self) -> Vec<PartTime> {
        Vec::new()
    }
}

impl GpuBackend {
    fn resize_member(&mut self, id: MemberId, capacity: usize) -> Result<()> {
        let multiprocessors = self.members.get(id)?.executor.multiprocessors();
        let schedule = self.schedule(capacity, multiprocessors);
        self.members.get(id)?.resize(schedule)
    }
}

impl Member {
    /// Allocates the schedule's memory and compiles its kernels.
    fn install(&mut self) -> Result<()> {
        let schedule = &self.schedule;
        self.executor.allocate(schedule.layout.bytes)?;
        for &(at, bytes) in &schedule.zeroed {
            self.executor.clear(at, bytes)?;
        }
        self.executor
            .write(schedule.layout.pieces, &words(&schedule.pieces))?;
        if !schedule.matrices.is_empty() {
            self.executor
                .write(schedule.layout.matrices, &words(&schedule.matrices))?;
        }
        let lists = vec![
            schedule.training.clone(),
            schedule.scoring.clone(),
            schedule.packing.clone(),
        ];
        let lists = self.executor.prepare(COMMON, lists)?;
        if let [training, scoring, packing] = lists[..] {
            (self.training, self.scoring, self.packing) = (training, scoring, packing);
        }
        Ok(())
    }

    /// Replaces the schedule by another one of the same network. If memory is short, the member stays as it was.
    fn resize(&mut self, schedule: KernelSchedule) -> Result<()> {
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
        self.executor.write(0, &lasting)?;
        self.executor.run(self.packing, 1)?;
        failed.map_or(Ok(()), Err)
    }

    /// Makes steps until one is not finite; that step and those after it have no effect. The caller must still name the
    /// tensor that was not finite in the last outcome.
    fn train(
        &mut self,
        gpu: &SharedGpu,
        spec: &NetworkSpec,
        optimizer: &mut CpuOptimizer,
        images: &ImageSet,
        plans: &[StepPlan],
    ) -> Result<Vec<StepOutcome>> {
        let at = gpu.images(images)?;
        let (base, layout) = (self.executor.base(), &self.schedule.layout);
        let mut records = Vec::with_capacity(plans.len());
        let mut numbers = Vec::new();
        // The optimizer's scalars before each step and after the last.
        let mut scalars = Vec::with_capacity(plans.len() + 1);
        optimizer.set_scalars(self.scalars.clone());
        for plan in plans {
            let (coefficients, before) = optimizer.coefficients(&plan.settings);
            scalars.push(before);
            let first = base + (layout.images + 4 * numbers.len()) as u64;
            records.push(training_record(
                plan,
                &coefficients,
                &spec.scaling,
                at,
                first,
            ));
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

fn scoring_record(scaling: &Scaling, at: DeviceImages, images: u64, count: usize) -> StepRecord {
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

fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn write_row<'a>(
    executor: &mut dyn KernelExecutor,
    at: usize,
    slots: impl Iterator<Item = &'a Slot>,
    tensors: impl Iterator<Item = &'a Tensor>,
) -> Result<()> {
    for (slot, tensor) in slots.zip(tensors) {
        let numbers = slices::read(tensor)?;
        let bytes: Vec<u8> = numbers.iter().flat_map(|v| v.to_le_bytes()).collect();
        executor.write(at + 4 * slot.begin, &bytes)?;
    }
    Ok(())
}

fn read_row<'a>(
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

fn read_floats(executor: &mut dyn KernelExecutor, at: usize, numbers: &mut [f32]) -> Result<()> {
    let mut bytes = vec![0; 4 * numbers.len()];
    executor.read(at, &mut bytes)?;
    for (number, bytes) in numbers.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *number = f32::from_le_bytes(*bytes);
    }
    Ok(())
}
