//! The backend of our own kernels on the CPU's threads.

pub(super) mod average;
mod inspect;
pub(super) mod network;
pub(super) mod optimizer;
#[cfg(test)]
mod tests;
mod variables;

use super::checks::{check_work, no_average};
use super::members::Members;
use super::{
    Backend, Device, DeviceInfo, Error, ImageSet, Inspected, Inspection, MemberId, NetworkSpec,
    NetworkState, PartTime, Result, ScoringBatch, StepOutcome, StepPlan, TensorData, make_steps,
    weights,
};
use crate::domain::augment::Placement;
use crate::domain::params::Weights;
use crate::hardware::peak;
use crate::hardware::simd::Level;
use crate::hardware::threads::Threads;
use crate::layers::slices;
use average::WeightAverage;
use candle_core::Tensor;
use network::Network;
use optimizer::CpuOptimizer;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// The CPU's threads.
pub struct CpuDevice {
    info: DeviceInfo,
}

impl CpuDevice {
    pub fn new(info: DeviceInfo) -> Self {
        CpuDevice { info }
    }
}

impl Device for CpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn peak_flops(&self) -> Option<f64> {
        Some(peak::flops(Level::best(), &self.info.threads))
    }

    fn backend(&self, spec: &NetworkSpec, capacity: usize) -> Result<Box<dyn Backend>> {
        // Refuse an architecture that does not fit.
        spec.nodes()?;
        Ok(Box::new(CpuBackend {
            spec: spec.clone(),
            threads: Rc::clone(&self.info.threads),
            capacity: capacity.max(1),
            members: Members::default(),
            measures: false,
        }))
    }
}

struct CpuBackend {
    spec: NetworkSpec,
    threads: Rc<Threads>,
    capacity: usize,
    members: Members<Member>,
    measures: bool,
}

struct Member {
    network: Network,
    optimizer: CpuOptimizer,
    /// The average of the weights, after steps with an `average_decay`.
    average: Option<WeightAverage>,
    /// The placements of the current batch; kept to reuse the allocation.
    placements: Vec<Placement>,
    /// While measuring: seconds spent in the optimizer, and number of steps.
    measured: (f64, u64),
}

impl Backend for CpuBackend {
    fn max_steps(&self) -> usize {
        1
    }

    fn members_at_once(&self) -> usize {
        self.threads.count()
    }

    fn add(&mut self, seed: u64) -> Result<MemberId> {
        let mut network = Network::new(&self.spec, self.capacity, seed)?;
        network.measure(self.measures);
        let member = Member {
            optimizer: CpuOptimizer::new(self.spec.optimizer, &network.trained_params())?,
            network,
            average: None,
            placements: Vec::new(),
            measured: (0.0, 0),
        };
        Ok(self.members.add(member))
    }

    fn remove(&mut self, member: MemberId) {
        self.members.remove(member);
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn resize(&mut self, capacity: usize) -> Result<()> {
        for member in self.members.iter_mut() {
            member.network.set_capacity(capacity)?;
        }
        self.capacity = capacity.max(1);
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
        let members = self.members.get_all(work.iter().map(|(id, _)| *id))?;
        let jobs = members.into_iter().zip(work.iter().map(|(_, plans)| plans));
        let threads = &self.threads;
        if work.len() < threads.count() || work.len() == 1 {
            // A thread for each would leave threads idle: train the members in turn on all of them.
            return jobs
                .map(|(member, plans)| {
                    make_steps(plans, |plan| member.step(images, plan, threads, stop))
                })
                .collect();
        }
        // Train each member on its own thread: members do not depend on each other.
        let images = &**images;
        std::thread::scope(|scope| {
            let train = |(member, plans): (&'_ mut Member, &'_ Vec<StepPlan>)| {
                let threads = Threads::new(1);
                make_steps(plans, |plan| member.step(images, plan, &threads, stop))
            };
            let running: Vec<_> = jobs.map(|job| scope.spawn(move || train(job))).collect();
            let results = running.into_iter().map(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            // Collect first, so that every thread is joined even if one failed.
            results.collect::<Vec<_>>().into_iter().collect()
        })
    }

    fn score(&mut self, member: MemberId, batch: ScoringBatch) -> Result<()> {
        let member = self.members.get(member)?;
        match batch.weights {
            Weights::Last => member.network.score(batch, &self.threads),
            Weights::Average => {
                let average = member.average.as_mut().ok_or_else(no_average)?;
                average.swap(&member.network)?;
                let scored = member.network.score(batch, &self.threads);
                average.swap(&member.network)?;
                scored
            }
        }
    }

    fn has_average(&mut self, member: MemberId) -> Result<bool> {
        Ok(self.members.get(member)?.average.is_some())
    }

    fn inspect(&mut self, member: MemberId, inspection: &Inspection) -> Result<Inspected> {
        let network = &mut self.members.get(member)?.network;
        network.inspect(inspection, &self.threads)
    }

    fn export(&mut self, member: MemberId) -> Result<NetworkState> {
        let member = self.members.get(member)?;
        let mut state = export(&member.network, &member.optimizer)?;
        if let Some(average) = &member.average {
            average.clone().add_to(&member.network, &mut state);
        }
        Ok(state)
    }

    fn import(&mut self, member: MemberId, state: &NetworkState) -> Result<()> {
        let member = self.members.get(member)?;
        let average = WeightAverage::from_state(&member.network, state)?;
        import(&member.network, &mut member.optimizer, state)?;
        member.average = average;
        Ok(())
    }

    fn measure(&mut self, on: bool) {
        self.measures = on;
        for member in self.members.iter_mut() {
            member.measured = (0.0, 0);
            member.network.measure(on);
        }
    }

    fn timings(&self) -> Vec<PartTime> {
        let Some(member) = self.members.iter().next().filter(|_| self.measures) else {
            return Vec::new();
        };
        let (optimizer, steps) = member.measured;
        let mut parts = member.network.timings();
        parts.push(PartTime {
            name: "optimizer".into(),
            forward: optimizer,
            backward: 0.0,
        });
        for part in &mut parts {
            part.forward /= steps.max(1) as f64;
            part.backward /= steps.max(1) as f64;
        }
        parts
    }
}

impl Member {
    /// Makes one training step. Returns None if it was abandoned.
    fn step(
        &mut self,
        images: &ImageSet,
        plan: &StepPlan,
        threads: &Threads,
        stop: &AtomicBool,
    ) -> Result<Option<StepOutcome>> {
        let settings = &plan.settings;
        plan.augmentation.place(
            &plan.images,
            settings,
            images.side() as u32,
            &mut self.placements,
        );
        // Keep a copy of the running statistics: the forward pass updates them before it is known whether the step is
        // finite.
        let running = self.network.running_statistics()?;
        let pass =
            self.network
                .train_pass(images, &self.placements, settings, threads, Some(stop))?;
        if stop.load(Ordering::Relaxed) {
            self.network.restore_running_statistics(&running)?;
            return Ok(None);
        }
        let begin = Instant::now();
        let mut outcome = StepOutcome {
            step: settings.step,
            loss: pass.loss,
            grad_norm: f64::NAN,
            correct: pass.correct,
            not_finite: None,
        };
        let mut finite = pass.loss.is_finite();
        if finite {
            let update = self
                .optimizer
                .step(&self.network.trained_params(), plan, threads)?;
            outcome.grad_norm = update.grad_norm;
            // A weight that is not finite can hide behind a ReLU, so the loss alone does not show it.
            finite = update.applied && update.finite;
        }
        if finite {
            self.average(settings.average_decay, threads)?;
        } else {
            let first = self.network.first_not_finite(plan.images.len(), threads)?;
            self.network.restore_running_statistics(&running)?;
            outcome.not_finite = Some(first.unwrap_or_else(|| "the loss".into()));
        }
        self.measured.0 += begin.elapsed().as_secs_f64();
        self.measured.1 += 1;
        Ok(Some(outcome))
    }

    /// Moves the average of the weights to those after a step, begins it, or drops it if the decay is 0.
    fn average(&mut self, decay: f64, threads: &Threads) -> Result<()> {
        match &mut self.average {
            _ if decay == 0.0 => self.average = None,
            Some(average) => average.update(&self.network, decay, threads)?,
            None => self.average = Some(WeightAverage::of(&self.network)?),
        }
        Ok(())
    }
}

/// Copies the state of a network and its optimizer, without the average.
pub(super) fn export(network: &Network, optimizer: &CpuOptimizer) -> Result<NetworkState> {
    let named = network.tensors().into_iter().chain(optimizer.state());
    let tensors = named.map(|(name, tensor)| Ok((name, copy(tensor)?)));
    Ok(NetworkState {
        tensors: tensors.collect::<Result<_>>()?,
        scalars: optimizer.scalars(),
    })
}

/// Replaces the whole state of a network and its optimizer, without the average, or nothing if a tensor is missing.
pub(super) fn import(
    network: &Network,
    optimizer: &mut CpuOptimizer,
    state: &NetworkState,
) -> Result<()> {
    let weights = network.tensors();
    let slots: Vec<_> = optimizer.state().collect();
    let named = weights.iter().chain(&slots);
    let wanted: Vec<_> = named
        .clone()
        .map(|(name, tensor)| (name.clone(), tensor.dims().to_vec()))
        .collect();
    let found = state.select(&wanted)?;
    let scalars = optimizer.rule().select_scalars(&state.scalars);
    let scalars = scalars.map_err(Error::Weights)?;
    for ((_, tensor), data) in named.zip(found) {
        slices::write([*tensor], |[to]| to.copy_from_slice(&data.values))?;
    }
    optimizer.set_scalars(scalars);
    Ok(())
}

/// The gradients of the last training step, by the parameters' names.
pub(super) fn gradients(network: &Network) -> Result<Vec<(String, TensorData)>> {
    let params = network.params();
    let gradients = params.iter().map(|p| Ok((p.name.clone(), copy(&p.grad)?)));
    gradients.collect()
}

fn copy(tensor: &Tensor) -> Result<TensorData> {
    Ok(TensorData {
        shape: tensor.dims().to_vec(),
        values: slices::read(tensor)?.to_vec(),
    })
}
