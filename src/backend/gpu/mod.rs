//! The backend of our own kernels on a GPU: a network as lists of kernel launches (schedule.rs), run by an executor.
//! Training steps are submitted many at a time; what changes from one to the next is written ahead as a list of records,
//! so the GPU never waits for the host within it.
//!
//! All members run the same lists, each in memory of its own that is laid out alike. A launch works on all members that
//! train at once: at small batches one network leaves most of a GPU idle.

mod member;
mod optimizer;
mod prepared;
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
    Backend, CPU_MIRROR_BATCH, Device, DeviceInfo, Error, ImageSet, Inspected, Inspection,
    MemberId, NetworkSpec, NetworkState, PartTime, Result, ScoringBatch, StepOutcome, StepPlan,
};
use crate::domain::gpu_tuning::GpuTuning;
use crate::domain::layer_rates::LayerRates;
use crate::domain::params::{Precision, Weights};
use crate::hardware::executor::{ExecutorDevice, MAX_MEMBERS};
use crate::hardware::threads::Threads;
use crate::layers::conv::variant::{Choices, KernelVariant};
use member::{Member, MemberTraining, scoring_record, words};
use prepared::{PreparedSchedule, TensorRow, float_bytes};
use records::{Record, StepRecord};
use schedule::{KernelSchedule, MAX_STEPS};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
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

    fn is_shared(&self) -> bool {
        true
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
        let prepared = self.shared.prepared(&mirror, capacity.max(1), false)?;
        Ok(GpuBackend {
            gpu: Rc::clone(&self.shared),
            spec: spec.clone(),
            prepared,
            optimizer: CpuOptimizer::new(spec.optimizer, &mirror.trained_params())?,
            mirror,
            members: Members::default(),
        })
    }
}

struct GpuBackend {
    gpu: Rc<SharedGpu>,
    spec: NetworkSpec,
    prepared: PreparedSchedule,
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

    /// The schedule of a network, compiled.
    fn prepared(
        &self,
        network: &Network,
        capacity: usize,
        averages: bool,
    ) -> Result<PreparedSchedule> {
        let executor = Rc::clone(&self.gpu).executor()?;
        let multiprocessors = executor.multiprocessors();
        let schedule = self.schedule(network, capacity, multiprocessors, averages);
        PreparedSchedule::new(executor, schedule)
    }
}

impl GpuBackend {
    /// Copies a member's weights, gradients and running statistics to the mirror.
    fn read_network(&mut self, member: MemberId) -> Result<()> {
        let memory = self.members.get(member)?.memory;
        let (params, buffers) = (self.mirror.params(), self.mirror.buffers());
        let weights = params.iter().map(|p| p.var.as_tensor());
        let grads = params.iter().map(|p| &p.grad);
        let running = buffers.iter().map(|(_, tensor)| *tensor);
        self.prepared
            .read_row(memory, TensorRow::Weights, weights)?;
        self.prepared
            .read_row(memory, TensorRow::Gradients, grads)?;
        self.prepared.read_row(memory, TensorRow::Running, running)
    }

    /// Copies the mirror's weights and running statistics and the optimizer's state to a member.
    fn write_member(&mut self, member: MemberId) -> Result<()> {
        let member = self.members.get(member)?;
        let (memory, prepared) = (member.memory, &mut self.prepared);
        let (params, buffers) = (self.mirror.params(), self.mirror.buffers());
        let weights = params.iter().map(|p| p.var.as_tensor());
        let running = buffers.iter().map(|(_, tensor)| *tensor);
        prepared.write_row(memory, TensorRow::Weights, weights)?;
        prepared.write_row(memory, TensorRow::Running, running)?;
        for (slot, tensors) in self.optimizer.slots().iter().enumerate() {
            prepared.write_row(memory, TensorRow::State(slot), tensors.iter())?;
        }
        member.scalars = self.optimizer.scalar_values().to_vec();
        prepared.executor.run(prepared.packing, &[memory], 1)?;
        Ok(())
    }

    /// Replaces the schedule by one with another capacity, or with memory for averages. If memory is short, all members
    /// stay as they were.
    fn replace_schedule(&mut self, capacity: usize, averages: bool) -> Result<()> {
        let mut new = self.gpu.prepared(&self.mirror, capacity, averages)?;
        let old = &mut self.prepared;
        let mut members: Vec<&mut Member> = self.members.iter_mut().collect();
        for i in 0..members.len() {
            let member = &mut *members[i];
            if let Err(error) = new.take(&mut member.memory, old, &member.layer_rates) {
                // Move every member back, even if one fails.
                let back = members[..i]
                    .iter_mut()
                    .map(|m| old.take(&mut m.memory, &mut new, &m.layer_rates));
                let back: Vec<_> = back.collect();
                back.into_iter()
                    .collect::<Result<Vec<()>>>()
                    .map_err(Error::while_restoring)?;
                return Err(error);
            }
        }
        self.prepared = new;
        Ok(())
    }

    /// Lays all members out anew, with the variants that are now known to be best. Without the memory for them, training
    /// goes on with the old ones.
    fn change_variants(&mut self) -> Result<()> {
        match self.replace_schedule(self.capacity(), self.prepared.averages()) {
            Err(error) if error.is_out_of_memory() => {
                tracing::warn!("the variants of the products stay as they are: {error}");
                Ok(())
            }
            changed => changed,
        }
    }

    /// Allocates memory for averages of the members' weights. It is kept until the capacity changes.
    fn keep_averages(&mut self) -> Result<()> {
        match self.prepared.averages() {
            true => Ok(()),
            false => self.replace_schedule(self.prepared.schedule.capacity, true),
        }
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
        MAX_MEMBERS
    }

    fn add(&mut self, seed: u64) -> Result<MemberId> {
        // The CPU's network makes the initial weights of the seed.
        self.mirror = Network::new(&self.spec, CPU_MIRROR_BATCH, seed)?;
        self.optimizer = CpuOptimizer::new(self.spec.optimizer, &self.mirror.trained_params())?;
        let layer_rates = LayerRates::default();
        let id = self.members.add(Member {
            memory: self.prepared.allocate(&layer_rates)?,
            has_average: false,
            scalars: Vec::new(),
            layer_rates,
        });
        match self.write_member(id) {
            Ok(()) => Ok(id),
            Err(error) => {
                self.remove(id);
                Err(error)
            }
        }
    }

    fn copy(&mut self, member: MemberId) -> Result<MemberId> {
        let original = self.members.get(member)?;
        let prepared = &mut self.prepared;
        let copy = Member {
            memory: prepared.allocate(&original.layer_rates)?,
            has_average: original.has_average,
            scalars: original.scalars.clone(),
            layer_rates: original.layer_rates.clone(),
        };
        let (from, to) = (original.memory, copy.memory);
        let id = self.members.add(copy);
        let copied = prepared
            .executor
            .copy((from, 0), (to, 0), prepared.schedule.layout.lasting)
            .and_then(|()| prepared.executor.run(prepared.packing, &[to], 1));
        match copied {
            Ok(()) => Ok(id),
            Err(error) => {
                self.remove(id);
                Err(error.into())
            }
        }
    }

    fn remove(&mut self, member: MemberId) {
        if let Some(member) = self.members.remove(member) {
            self.prepared.executor.free(member.memory);
        }
    }

    fn capacity(&self) -> usize {
        self.prepared.schedule.capacity
    }

    fn resize(&mut self, capacity: usize) -> Result<()> {
        let capacity = capacity.max(1);
        if capacity == self.capacity() {
            return Ok(());
        }
        let averages = self.members.iter().any(|member| member.has_average);
        self.replace_schedule(capacity, averages)
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
        check_work(
            &self.spec,
            self.capacity(),
            self.members_at_once(),
            images,
            work,
        )?;
        let ids = || work.iter().map(|(id, _)| *id);
        // Check all members before any step.
        self.members.get_all(ids())?;
        let mut plans = work.iter().flat_map(|(_, plans)| plans);
        if plans.any(|plan| plan.settings.average_decay > 0.0) {
            self.keep_averages()?;
        }
        let mut training = MemberTraining {
            images: self.gpu.images(images)?,
            prepared: &mut self.prepared,
            optimizer: &mut self.optimizer,
            spec: &self.spec,
        };
        let mut members = self.members.get_all(ids())?;
        let plans: Vec<&[StepPlan]> = work.iter().map(|(_, plans)| &**plans).collect();
        let mut all = training.train(&mut members, &plans, stop)?;
        for (id, outcomes) in ids().zip(&mut all) {
            if let Some(last) = outcomes.last_mut().filter(|last| last.not_finite.is_some()) {
                last.not_finite = Some(self.name_not_finite(id, last.loss)?);
            }
        }
        Ok(all)
    }

    fn score(&mut self, member: MemberId, batch: ScoringBatch) -> Result<()> {
        let placements = place_scoring(&self.spec, self.capacity(), &batch)?;
        let ScoringBatch {
            images,
            numbers,
            weights,
            tta,
            probabilities,
            losses,
        } = batch;
        let member = self.members.get(member)?;
        let (memory, prepared) = (member.memory, &mut self.prepared);
        let swapping = match (weights, prepared.swapping) {
            (Weights::Last, _) => None,
            (Weights::Average, Some(swapping)) if member.has_average => Some(swapping),
            (Weights::Average, _) => return Err(no_average()),
        };
        let at = self.gpu.images(images)?;
        let (executor, layout) = (&mut *prepared.executor, &prepared.schedule.layout);
        let first = executor.address(memory)? + layout.images as u64;
        let record = StepRecord {
            views: tta.views().len() as u32,
            ..scoring_record(&self.spec.scaling, at, first, placements.len())
        };
        executor.write(memory, layout.images, &words(numbers))?;
        executor.write(memory, layout.now, record.bytes())?;
        for list in [swapping, Some(prepared.scoring), swapping]
            .into_iter()
            .flatten()
        {
            executor.run(list, &[memory], 1)?;
        }
        let (at_probabilities, at_losses) = (layout.probabilities, layout.losses);
        prepared.read(memory, at_probabilities, probabilities)?;
        prepared.read(memory, at_losses, losses)
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
        let (memory, prepared) = (member.memory, &mut self.prepared);
        for (slot, tensors) in self.optimizer.slots().iter().enumerate() {
            prepared.read_row(memory, TensorRow::State(slot), tensors.iter())?;
        }
        self.optimizer.set_scalars(member.scalars.clone());
        let mut state = export(&self.mirror, &self.optimizer)?;
        if member.has_average {
            let mut average = WeightAverage::of(&self.mirror)?;
            let offsets: Vec<usize> = prepared.schedule.averages().collect();
            for (at, values) in offsets.into_iter().zip(average.tensors_mut()) {
                prepared.read(memory, at, values)?;
            }
            average.add_to(&self.mirror, &mut state);
        }
        Ok(state)
    }

    fn import(&mut self, member: MemberId, state: &NetworkState) -> Result<()> {
        self.members.get(member)?;
        import(&self.mirror, &mut self.optimizer, state)?;
        let average = WeightAverage::from_state(&self.mirror, state)?;
        if average.is_some() {
            self.keep_averages()?;
        }
        self.write_member(member)?;
        let member = self.members.get(member)?;
        member.has_average = average.is_some();
        let averages = average.iter().flat_map(WeightAverage::tensors);
        for (at, values) in self.prepared.schedule.averages().zip(averages) {
            let bytes = float_bytes(values);
            self.prepared.executor.write(member.memory, at, &bytes)?;
        }
        Ok(())
    }

    fn measure(&mut self, _: bool) {}

    /// Empty: launches within a list are not timed.
    fn timings(&self) -> Vec<PartTime> {
        Vec::new()
    }
}
