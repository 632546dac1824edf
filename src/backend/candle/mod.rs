//! The reference backend: the same networks in plain Candle, with its autograd. It is slow and simple. Tests compare
//! the other backends with it, and it trains on every device that Candle supports, including devices for which we have
//! no kernels.
//!
//! It uses our random numbers, so that its dropout masks and augmentation equal those of the other backends.

mod average;
mod device;
mod input;

pub use device::CandleDevice;

use super::checks::{check_batch, check_work, no_average, place_scoring};
use super::cpu::import;
use super::cpu::network::Network;
use super::cpu::optimizer::CpuOptimizer;
use super::members::Members;
use super::{
    Backend, CPU_MIRROR_BATCH, Error, ImageSet, Inspected, Inspection, MemberId, NetworkSpec,
    NetworkState, PartTime, Result, ScoringBatch, StepOutcome, StepPlan, TensorData, make_steps,
    weights,
};
use crate::domain::arch::Node;
use crate::domain::augment::Placement;
use crate::domain::number::argmax;
use crate::domain::params::{LossReduction, ParameterGroup, Weights};
use crate::hardware::threads::Threads;
use crate::layers::candle::{CandlePass, CandleTraining};
use crate::layers::cpu::TrainingPass;
use crate::layers::slices;
use crate::optimizers::{MAX_NORM, MAX_SLOTS, Numbers, Rule, clip_factor};
use average::Average;
use candle_core::{DType, Device as CandleCoreDevice, Tensor, Var};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

struct CandleBackend {
    spec: NetworkSpec,
    device: CandleCoreDevice,
    dtype: DType,
    threads: Rc<Threads>,
    capacity: usize,
    members: Members<Member>,
}

struct Member {
    /// Names of the trained parameters, in the network's order, and their groups.
    names: Vec<(String, ParameterGroup)>,
    parameters: HashMap<String, Var>,
    /// The norms' running statistics.
    buffers: HashMap<String, Tensor>,
    /// The averages of both, after steps with an `average_decay`.
    average: Option<Average>,
    /// The gradients of the last step, by parameter.
    gradients: HashMap<String, TensorData>,
    /// The optimizer's state tensors, slot by slot, each by parameter.
    slots: Vec<HashMap<String, Vec<f32>>>,
    scalars: Vec<f64>,
}

impl Member {
    /// The logits of an input, `[images, classes]`.
    fn forward(
        &self,
        nodes: &[Node],
        input: &Tensor,
        training: Option<&mut CandleTraining>,
    ) -> Result<Tensor> {
        let mut pass = CandlePass {
            parameters: &self.parameters,
            buffers: &self.buffers,
            training,
        };
        Ok(pass.sequential(nodes, input)?.flatten_from(1)?)
    }

    /// The logits of an input in scoring, `[images, classes]`.
    fn score(&self, nodes: &[Node], input: &Tensor, weights: Weights) -> Result<Tensor> {
        let average = match weights {
            Weights::Last => return self.forward(nodes, input, None),
            Weights::Average => self.average.as_ref().ok_or_else(no_average)?,
        };
        let mut pass = CandlePass {
            parameters: &average.parameters(&self.parameters)?,
            buffers: average.tensors(),
            training: None,
        };
        Ok(pass.sequential(nodes, input)?.flatten_from(1)?)
    }

    /// The parameters and running statistics by name.
    fn weights(&self) -> impl Iterator<Item = (&String, &Tensor)> {
        let parameters = self
            .parameters
            .iter()
            .map(|(name, p)| (name, p.as_tensor()));
        parameters.chain(&self.buffers)
    }
}

impl CandleBackend {
    fn tensor(&self, data: &TensorData) -> Result<Tensor> {
        let tensor = Tensor::from_slice(&data.values, &data.shape[..], &self.device)?;
        Ok(tensor.to_dtype(self.dtype)?)
    }

    /// The network's input for placed images of a set.
    fn input(&self, images: &ImageSet, placements: &[Placement]) -> Result<Tensor> {
        let values = input::place(images, placements, &self.spec.scaling)?;
        let side = images.side();
        let shape = vec![placements.len(), images.channels(), side, side];
        self.tensor(&TensorData { shape, values })
    }

    /// One-hot labels, `[images, classes]`.
    fn one_hot(&self, images: &ImageSet, placements: &[Placement]) -> Result<Tensor> {
        let classes = self.spec.classes;
        let mut values = vec![0.0; placements.len() * classes];
        for (row, placement) in values.chunks_exact_mut(classes).zip(placements) {
            row[usize::from(images.labels()[placement.image as usize])] = 1.0;
        }
        let shape = vec![placements.len(), classes];
        self.tensor(&TensorData { shape, values })
    }

    /// The forward pass of a training step: the logits and the one-hot labels, both `[images, classes]`.
    fn forward(
        &mut self,
        id: MemberId,
        images: &ImageSet,
        plan: &StepPlan,
        training: &mut CandleTraining,
    ) -> Result<(Tensor, Tensor)> {
        check_batch(
            &self.spec,
            self.capacity,
            images,
            plan.images.iter().copied(),
        )?;
        let settings = &plan.settings;
        let mut placements = Vec::new();
        plan.augmentation.place(
            &plan.images,
            settings,
            images.side() as u32,
            &mut placements,
        );
        let input = self.input(images, &placements)?;
        let targets = self.one_hot(images, &placements)?;
        let nodes = self.spec.nodes()?;
        let member = self.members.get(id)?;
        let logits = member.forward(&nodes, &input, Some(training))?;
        Ok((logits, targets))
    }

    /// Makes one training step. Returns None if it was abandoned.
    fn step(
        &mut self,
        id: MemberId,
        images: &ImageSet,
        plan: &StepPlan,
        stop: &AtomicBool,
    ) -> Result<Option<StepOutcome>> {
        let rule = self.spec.optimizer;
        let settings = &plan.settings;
        let mut training = CandleTraining::new(TrainingPass::of(settings));
        let (logits, targets) = self.forward(id, images, plan, &mut training)?;
        let member = self.members.get(id)?;
        let loss = cross_entropy(&logits, &targets, settings.label_smoothing)?.mean_all()?;
        let differentiated = match settings.loss_reduction {
            LossReduction::Mean => loss.clone(),
            LossReduction::Sum => (&loss * plan.images.len() as f64)?,
        };
        let gradients = differentiated.backward()?;
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        member.gradients.clear();
        for (name, parameter) in &member.parameters {
            let gradient = match gradients.get(parameter) {
                Some(gradient) => data(gradient)?,
                None => data(&parameter.zeros_like()?)?,
            };
            member.gradients.insert(name.clone(), gradient);
        }
        let mut outcome = StepOutcome {
            step: settings.step,
            loss: loss.to_dtype(DType::F64)?.to_scalar()?,
            grad_norm: member.gradient_norm(),
            correct: correct(&logits, &targets)?,
            not_finite: None,
        };
        // NaN compares false.
        let applies = outcome.loss.is_finite() && outcome.grad_norm < MAX_NORM;
        if applies {
            member.update(rule, plan, outcome.grad_norm, &self.threads)?;
            member.buffers.extend(training.buffers);
        }
        outcome.not_finite = member.first_not_finite(applies)?;
        if !applies && outcome.not_finite.is_none() {
            outcome.not_finite = Some("the loss".into());
        }
        if outcome.not_finite.is_none() {
            let (before, decay) = (member.average.take(), settings.average_decay);
            if decay > 0.0 {
                member.average = Some(Average::moved(before, member.weights(), decay)?);
            }
        }
        Ok(Some(outcome))
    }
}

impl Member {
    /// The norm of all gradients together.
    fn gradient_norm(&self) -> f64 {
        let all = self.gradients.values().flat_map(|g| &g.values);
        all.map(|&g| f64::from(g) * f64::from(g))
            .sum::<f64>()
            .sqrt()
    }

    /// One step of the optimizer. What belongs to a frozen layer stays as it is.
    fn update(
        &mut self,
        rule: &Rule,
        plan: &StepPlan,
        grad_norm: f64,
        threads: &Threads,
    ) -> Result<()> {
        let settings = &plan.settings;
        let coefficients = (rule.coefficients)(settings, &mut self.scalars);
        let clip = clip_factor(settings.clip_norm, grad_norm);
        for (name, group) in &self.names {
            let factor = plan.settings.layer_rates.of_parameter(name) as f32;
            if factor == 0.0 {
                continue;
            }
            let parameter = &self.parameters[name];
            let mut weights = data(parameter)?.values;
            let mut state: [&mut [f32]; MAX_SLOTS] = Default::default();
            for (slot, to) in self.slots.iter_mut().zip(&mut state) {
                if let Some(values) = slot.get_mut(name) {
                    *to = values;
                }
            }
            let numbers = Numbers {
                weights: &mut weights,
                gradients: &self.gradients[name].values,
                state,
            };
            let coefficients = &coefficients[*group as usize].at(factor);
            match (rule.filters, group) {
                (Some(filters), ParameterGroup::Filters) => {
                    let rows = parameter.dims()[0];
                    let shape = [rows, parameter.elem_count() / rows];
                    (filters.update)(coefficients, clip, shape, numbers, threads);
                }
                _ => (rule.update)(coefficients, clip, numbers),
            }
            let weights = Tensor::from_vec(weights, parameter.dims(), parameter.device())?;
            parameter.set(&weights.to_dtype(parameter.dtype())?)?;
        }
        Ok(())
    }

    /// Names the first weight that is not finite, otherwise (if the step was not applied) the first gradient, from the
    /// last layer to the first.
    fn first_not_finite(&self, updated: bool) -> Result<Option<String>> {
        for (name, _) in &self.names {
            if !slices::all_finite(&data(&self.parameters[name])?.values) {
                return Ok(Some(format!("the weights {name}")));
            }
        }
        let is_bad = |name: &&String| !slices::all_finite(&self.gradients[*name].values);
        let mut names = self.names.iter().rev().map(|(name, _)| name);
        let gradient = names.find(is_bad).filter(|_| !updated);
        Ok(gradient.map(|name| format!("the gradient of {name}")))
    }
}

/// The cross-entropy of each image, `[images]`, with label smoothing.
fn cross_entropy(logits: &Tensor, targets: &Tensor, smoothing: f64) -> Result<Tensor> {
    let classes = targets.dims()[1] as f64;
    let targets = ((targets * (1.0 - smoothing))? + smoothing / classes)?;
    let log_probabilities = candle_nn::ops::log_softmax(logits, 1)?;
    Ok((targets * log_probabilities)?.sum(1)?.neg()?)
}

/// Number of images whose label has the largest logit (the first one of equal logits).
fn correct(logits: &Tensor, targets: &Tensor) -> Result<u32> {
    let rows = |t: &Tensor| -> Result<Vec<Vec<f32>>> { Ok(t.to_dtype(DType::F32)?.to_vec2()?) };
    let pairs = rows(logits)?.into_iter().zip(rows(targets)?);
    Ok(pairs.filter(|(l, t)| argmax(l) == argmax(t)).count() as u32)
}

/// Copies a tensor's numbers.
fn data(tensor: &Tensor) -> Result<TensorData> {
    Ok(TensorData {
        shape: tensor.dims().to_vec(),
        values: tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?,
    })
}

impl Backend for CandleBackend {
    fn max_steps(&self) -> usize {
        1
    }

    fn members_at_once(&self) -> usize {
        1
    }

    fn add(&mut self, seed: u64) -> Result<MemberId> {
        let (mut names, mut parameters, mut buffers) = (Vec::new(), HashMap::new(), HashMap::new());
        let rule = self.spec.optimizer;
        let mut slots = vec![HashMap::new(); rule.slots.len()];
        for initial in weights::initial(&self.spec.nodes()?, seed) {
            let (name, tensor) = (initial.name, self.tensor(&initial.data)?);
            let Some(group) = initial.group else {
                buffers.insert(name, tensor);
                continue;
            };
            parameters.insert(name.clone(), Var::from_tensor(&tensor)?);
            if initial.trained {
                for slot in &mut slots {
                    slot.insert(name.clone(), vec![0.0; initial.data.values.len()]);
                }
                names.push((name, group));
            }
        }
        let gradients = |(name, parameter): (&String, &Var)| {
            Ok((name.clone(), data(&parameter.zeros_like()?)?))
        };
        let member = Member {
            gradients: parameters.iter().map(gradients).collect::<Result<_>>()?,
            names,
            parameters,
            buffers,
            average: None,
            slots,
            scalars: rule.initial_scalars(),
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
        work.iter()
            .map(|(id, plans)| make_steps(plans, |plan| self.step(*id, images, plan, stop)))
            .collect()
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
        let input = self.input(images, &placements)?;
        let targets = self.one_hot(images, &placements[..numbers.len()])?;
        let nodes = self.spec.nodes()?;
        let member = self.members.get(member)?;
        let all = member.score(&nodes, &input, weights)?;
        let mut logits = targets.zeros_like()?;
        for (v, view) in tta.views().iter().enumerate() {
            let of_view = all.narrow(0, v * numbers.len(), numbers.len())?;
            logits = (logits + (of_view * f64::from(view.weight))?)?;
        }
        let all = data(&candle_nn::ops::softmax(&logits, 1)?)?;
        probabilities.copy_from_slice(&all.values);
        losses.copy_from_slice(&data(&cross_entropy(&logits, &targets, 0.0)?)?.values);
        Ok(())
    }

    fn has_average(&mut self, member: MemberId) -> Result<bool> {
        Ok(self.members.get(member)?.average.is_some())
    }

    /// A network on the CPU with the member's weights computes activations and units.
    fn inspect(&mut self, member: MemberId, inspection: &Inspection) -> Result<Inspected> {
        let state = self.export(member)?;
        let mut mirror = Network::new(&self.spec, CPU_MIRROR_BATCH, 0)?;
        let mut optimizer = CpuOptimizer::new(self.spec.optimizer, &mirror.trained_params())?;
        import(&mirror, &mut optimizer, &state)?;
        let mut inspected = mirror.inspect(inspection, &self.threads)?;
        let member = self.members.get(member)?;
        for (name, gradient) in &mut inspected.gradients {
            *gradient = member.gradients[name].clone();
        }
        Ok(inspected)
    }

    fn export(&mut self, member: MemberId) -> Result<NetworkState> {
        let rule = self.spec.optimizer;
        let member = self.members.get(member)?;
        let mut tensors = BTreeMap::new();
        for (name, parameter) in &member.parameters {
            let weights = data(parameter)?;
            for (slot, states) in rule.slots.iter().zip(&member.slots) {
                if let Some(values) = states.get(name) {
                    let state = TensorData {
                        shape: weights.shape.clone(),
                        values: values.clone(),
                    };
                    tensors.insert(format!("optimizer.{slot}.{name}"), state);
                }
            }
            tensors.insert(name.clone(), weights);
        }
        for (name, tensor) in &member.buffers {
            tensors.insert(name.clone(), data(tensor)?);
        }
        let scalars = rule.scalars.iter().zip(&member.scalars);
        let mut state = NetworkState {
            tensors,
            scalars: scalars.map(|((n, _), v)| ((*n).to_owned(), *v)).collect(),
        };
        if let Some(average) = &member.average {
            average.add_to(&mut state)?;
        }
        Ok(state)
    }

    fn import(&mut self, member: MemberId, state: &NetworkState) -> Result<()> {
        let mut own = self.export(member)?;
        own.remove_average();
        let wanted: Vec<_> = own
            .tensors
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.shape.clone()))
            .collect();
        let found = state.select(&wanted)?;
        let rule = self.spec.optimizer;
        let scalars = rule
            .select_scalars(&state.scalars)
            .map_err(Error::Weights)?;
        let tensors: HashMap<&str, &TensorData> = wanted
            .iter()
            .map(|(name, _)| name.as_str())
            .zip(found)
            .collect();
        let mut buffers = HashMap::new();
        let member_names = self.members.get(member)?.buffers.keys().cloned();
        for name in member_names.collect::<Vec<_>>() {
            let tensor = self.tensor(tensors[name.as_str()])?;
            buffers.insert(name, tensor);
        }
        let dtype = self.dtype;
        let member = self.members.get(member)?;
        member.average = Average::from_state(state, member.weights())?;
        for (name, parameter) in &member.parameters {
            let data = tensors[name.as_str()];
            let weights = Tensor::from_slice(&data.values, &data.shape[..], parameter.device())?;
            parameter.set(&weights.to_dtype(dtype)?)?;
        }
        for (slot, states) in rule.slots.iter().zip(&mut member.slots) {
            for (name, values) in states {
                let state = tensors[format!("optimizer.{slot}.{name}").as_str()];
                values.clone_from(&state.values);
            }
        }
        member.buffers = buffers;
        member.scalars = scalars;
        Ok(())
    }

    fn measure(&mut self, _: bool) {}

    fn timings(&self) -> Vec<PartTime> {
        Vec::new()
    }
}
