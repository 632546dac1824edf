//! The backend of our own kernels on a GPU: a network as lists of kernel launches (schedule/), run by an executor.
//! Training steps are submitted many at a time; what changes from one to the next is written ahead as a list of records,
//! so the GPU never waits for the host within it.

mod member;
mod optimizer;
mod records;
pub mod schedule;
pub mod timing;
pub mod trials;
pub mod tuning;

pub use records::COMMON;

use super::checks::{check_work, no_average, place_scoring};
use super::cpu::average::WeightAverage;
use super::cpu::network::Network;
use super::cpu::optimizer::CpuOptimizer;
use super::cpu::{export, import};
use super::members::Members;
use super::{
    Backend, CPU_MIRROR_BATCH, Device, DeviceInfo, ImageSet, Inspected, Inspection, MemberId,
    NetworkSpec, NetworkState, PartTime, Result, ScoringBatch, StepOutcome, StepPlan,
};
use crate::domain::gpu_tuning::GpuTuning;
use crate::domain::params::{Precision, Weights};
use crate::hardware::executor::ExecutorDevice;
use crate::hardware::threads::Threads;
use crate::layers::conv::variant::{Choices, KernelVariant};
use member::{Member, float_bytes, lost, read_floats, read_row, scoring_record, words, write_row};
use records::{Record, StepRecord};
use schedule::{KernelSchedule, MAX_STEPS};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use timing::LaunchTimes;
use tuning::{TunedProduct, Tuning};

/// Device addresses of a copy of an image set.
#[derive(Clone, Copy)]
struct DeviceImages {
    pixels: u64,
    labels: u64,
}

/// An opened GPU with its copies of image sets, shared by its backends.
struct SharedGpu {
    gpu: Rc<dyn ExecutorDevice>,
    tuning: RefCell<Tuning>,
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
    pub fn new(gpu: Rc<dyn ExecutorDevice>, info: DeviceInfo, tuning: GpuTuning) -> Self {
        let shared = SharedGpu {
            tuning: RefCell::new(Tuning::new(Rc::clone(&gpu), tuning)),
            gpu,
            threads: Rc::clone(&info.threads),
            images: RefCell::default(),
        };
        GpuDevice {
            shared: Rc::new(shared),
            info,
        }
    }

    /// The same device with this variant for every product that it fits.
    pub fn with_variant(self, variant: &'static KernelVariant) -> Self {
        self.shared.tuning.borrow_mut().fix(variant);
        self
    }
}

impl Device for GpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn precisions(&self) -> &'static [Precision] {
        &[Precision::F32, Precision::Tf32, Precision::Bf16]
    }

    fn tune(
        &self,
        spec: &NetworkSpec,
        capacity: usize,
        tuning: GpuTuning,
        again: bool,
    ) -> Result<Vec<TunedProduct>> {
        let network = Network::new(spec, CPU_MIRROR_BATCH, 0)?;
        let executor = Rc::clone(&self.shared.gpu).executor()?;
        let multiprocessors = executor.multiprocessors();
        let plain = Rc::new(Choices::default());
        let schedule = KernelSchedule::new(&network, capacity, multiprocessors, false, &plain);
        let products = schedule.products();
        let mut known = self.shared.tuning.borrow_mut();
        known.measure_now(&products, multiprocessors, tuning, again)
    }

    fn time_launches(
        &self,
        spec: &NetworkSpec,
        images: &Rc<ImageSet>,
        step: &StepPlan,
    ) -> Result<Option<LaunchTimes>> {
        let mut backend = self.backend_of(spec, step.images.len())?;
        timing::time_launches(&mut backend, images, step).map(Some)
    }

    fn backend(&self, spec: &NetworkSpec, capacity: usize) -> Result<Box<dyn Backend>> {
        Ok(Box::new(self.backend_of(spec, capacity)?))
    }
}

impl GpuDevice {
    fn backend_of(&self, spec: &NetworkSpec, capacity: usize) -> Result<GpuBackend> {
        let mirror = Network::new(spec, CPU_MIRROR_BATCH, 0)?;
        Ok(GpuBackend {
            gpu: Rc::clone(&self.shared),
            spec: spec.clone(),
            capacity: capacity.max(1),
            optimizer: CpuOptimizer::new(spec.optimizer, &mirror.trained_params())?,
            mirror,
            members: Members::default(),
        })
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

impl SharedGpu {
    /// The schedule of a network with the variants that are known to be best.
    fn schedule(
        &self,
        network: &Network,
        capacity: usize,
        multiprocessors: u32,
        averages: bool,
    ) -> KernelSchedule {
        let with = |choices| {
            KernelSchedule::new(
                network,
                capacity,
                multiprocessors,
                averages,
                &Rc::new(choices),
            )
        };
        let products = with(Choices::default()).products();
        let mut tuning = self.tuning.borrow_mut();
        with(tuning.choices(&products, multiprocessors))
    }

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

impl GpuBackend {
    fn schedule(&self, capacity: usize, multiprocessors: u32, averages: bool) -> KernelSchedule {
        self.gpu
            .schedule(&self.mirror, capacity, multiprocessors, averages)
    }

    /// A new member with allocated memory and weights of zero.
    fn new_member(&self, averages: bool) -> Result<Member> {
        let executor = Rc::clone(&self.gpu.gpu).executor()?;
        let schedule = self.schedule(self.capacity, executor.multiprocessors(), averages);
        Member::new(executor, schedule)
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
        let member = self.new_member(false)?;
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
        let averages = self.members.get(member)?.averages();
        let mut copy = self.new_member(averages)?;
        let original = self.members.get(member)?;
        let lasting = copy.schedule.layout.lasting;
        copy.executor.copy(&mut *original.executor, 0, lasting)?;
        copy.scalars = original.scalars.clone();
        copy.has_average = original.has_average;
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
        if self.gpu.tuning.borrow_mut().advance(false)? {
            self.change_variants()?;
        }
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
            let averages = |plan: &StepPlan| plan.settings.average_decay > 0.0;
            self.keep_average(*id, plans.iter().any(averages))?;
            let gpu = Rc::clone(&self.gpu);
            let (spec, optimizer) = (&self.spec, &mut self.optimizer);
            let member = self.members.get(*id)?;
            let mut outcomes = Vec::with_capacity(plans.len());
            let alike = plans.chunk_by(|a, b| a.layer_rates == b.layer_rates);
            for plans in alike.flat_map(|plans| plans.chunks(MAX_STEPS)) {
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
            weights,
            tta,
            probabilities,
            losses,
        } = batch;
        let (gpu, spec) = (Rc::clone(&self.gpu), &self.spec);
        let member = self.members.get(member)?;
        let swapping = match (weights, member.swapping) {
            (Weights::Last, _) => None,
            (Weights::Average, Some(swapping)) if member.has_average => Some(swapping),
            (Weights::Average, _) => return Err(no_average()),
        };
        let at = gpu.images(images)?;
        let layout = &member.schedule.layout;
        let first = member.executor.base() + layout.images as u64;
        let record = StepRecord {
            views: tta.views().len() as u32,
            ..scoring_record(&spec.scaling, at, first, placements.len())
        };
        member.executor.write(layout.images, &words(numbers))?;
        member.executor.write(layout.now, record.bytes())?;
        for list in [swapping, Some(member.scoring), swapping]
            .into_iter()
            .flatten()
        {
            member.executor.run(list, 1)?;
        }
        read_floats(&mut *member.executor, layout.probabilities, probabilities)?;
        read_floats(&mut *member.executor, layout.losses, losses)
    }

    fn has_average(&mut self, member: MemberId) -> Result<bool> {
        Ok(self.members.get(member)?.has_average)
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
        let mut state = export(&self.mirror, &self.optimizer)?;
        if member.has_average {
            let mut average = WeightAverage::of(&self.mirror)?;
            for ((at, _), values) in member.schedule.averages().zip(average.tensors_mut()) {
                read_floats(&mut *member.executor, at, values)?;
            }
            average.add_to(&self.mirror, &mut state);
        }
        Ok(state)
    }

    fn import(&mut self, member: MemberId, state: &NetworkState) -> Result<()> {
        self.members.get(member)?;
        import(&self.mirror, &mut self.optimizer, state)?;
        let average = WeightAverage::from_state(&self.mirror, state)?;
        self.keep_average(member, average.is_some())?;
        self.write_member(member)?;
        let member = self.members.get(member)?;
        member.has_average = average.is_some();
        let averages = average.iter().flat_map(WeightAverage::tensors);
        for ((at, _), values) in member.schedule.averages().zip(averages) {
            member.executor.write(at, &float_bytes(values))?;
        }
        Ok(())
    }

    fn measure(&mut self, _: bool) {}

    /// Empty: launches within a list are not timed.
    fn timings(&self) -> Vec<PartTime> {
        Vec::new()
    }
}

impl GpuBackend {
    fn resize_member(&mut self, id: MemberId, capacity: usize) -> Result<()> {
        let member = self.members.get(id)?;
        let (multiprocessors, averages) = (member.executor.multiprocessors(), member.averages());
        let schedule = self.schedule(capacity, multiprocessors, averages);
        self.members.get(id)?.resize(schedule)
    }

    /// Lays all members out anew, with the variants that are now known to be best.
    fn change_variants(&mut self) -> Result<()> {
        for id in self.members.ids() {
            self.resize_member(id, self.capacity)?;
        }
        Ok(())
    }

    /// Allocates memory for the average of a member's weights, or frees it.
    fn keep_average(&mut self, id: MemberId, keep: bool) -> Result<()> {
        let member = self.members.get(id)?;
        if member.averages() == keep {
            return Ok(());
        }
        let multiprocessors = member.executor.multiprocessors();
        let schedule = self.schedule(self.capacity, multiprocessors, keep);
        let member = self.members.get(id)?;
        member.resize(schedule)?;
        member.has_average = false;
        member.fill_average()
    }
}
