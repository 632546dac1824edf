//! The optimizer on the CPU: a rule of [`crate::optimizers`] over all parameters of a network, with state that can be
//! saved.
//!
//! One step reads the gradients once for their norm and then updates each parameter in a single fused pass. Work is
//! cut into pieces of a fixed size whose results are added in order, so the numbers do not depend on the threads.

use crate::backend::StepPlan;
use crate::domain::params::ParameterGroup;
use crate::domain::report::StepSettings;
use crate::hardware::threads::{SharedSlice, Threads};
use crate::layers::cpu::Parameter;
use crate::layers::slices;
use crate::optimizers::{GroupCoefficients, MAX_NORM, Numbers, Rule, clip_factor};
use candle_core::{Result, Tensor, bail};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// Numbers in one piece of work: 64 KiB of each tensor.
const PIECE: usize = 16 * 1024;

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UpdateOutcome {
    /// Norm of the whole gradient, before clipping and without weight decay.
    pub grad_norm: f64,
    /// Whether the parameters moved. They do not when the gradient is not finite, or too large to square.
    pub applied: bool,
    /// Whether every parameter that moved is a finite number now.
    pub finite: bool,
}

/// A rule and its state.
pub struct CpuOptimizer {
    rule: &'static Rule,
    names: Vec<String>,
    /// For each of the rule's slots, a tensor for each parameter, in the order of the parameters.
    state: Vec<Vec<Tensor>>,
    /// In the order of the rule's.
    scalars: Vec<f64>,
}

impl CpuOptimizer {
    /// The state before the first step, for these parameters.
    ///
    /// # Errors
    /// Returns an error if the device runs out of memory.
    pub fn new(rule: &'static Rule, params: &[&Parameter]) -> Result<Self> {
        let zeros = |_| {
            let zeros = |p: &&Parameter| slices::zeros(p.var.shape().clone(), p.var.device());
            params.iter().map(zeros).collect()
        };
        Ok(CpuOptimizer {
            rule,
            names: params.iter().map(|p| p.name.clone()).collect(),
            state: rule.slots.iter().map(zeros).collect::<Result<_>>()?,
            scalars: rule.initial_scalars(),
        })
    }

    /// One step from the gradients that the parameters hold. What belongs to a frozen layer stays as it is.
    ///
    /// # Errors
    /// Those of the device, and parameters that are not those it was made for.
    pub fn step(
        &mut self,
        params: &[&Parameter],
        plan: &StepPlan,
        threads: &Threads,
    ) -> Result<UpdateOutcome> {
        let settings = &plan.settings;
        if params.len() != self.names.len() || settings.optimizer != self.rule.word {
            bail!(
                "an optimizer ({:?}) of {} parameters was given {} ({:?})",
                self.rule.word,
                self.names.len(),
                params.len(),
                settings.optimizer
            );
        }
        let grad_norm = norm(params.iter().map(|p| &p.grad), threads)?;
        // NaN compares false.
        let applied = grad_norm < MAX_NORM;
        if !applied {
            return Ok(UpdateOutcome {
                grad_norm,
                applied,
                finite: true,
            });
        }
        let mut finite = true;
        let clip = clip_factor(settings.clip_norm, grad_norm);
        let coefficients = (self.rule.coefficients)(settings, &mut self.scalars);
        for (i, param) in params.iter().enumerate() {
            let factor = plan.settings.layer_rates.of_parameter(&param.name) as f32;
            if factor == 0.0 {
                continue;
            }
            let coefficients = &coefficients[param.group as usize].at(factor);
            let matrix_rule = match param.group {
                ParameterGroup::Filters => self.rule.filters,
                _ => None,
            };
            let gradients = slices::read(&param.grad)?;
            let update = |weights: &mut [f32], state: [&mut [f32]; 2]| {
                if let Some(rule) = matrix_rule {
                    let rows = param.var.dims()[0];
                    let shape = [rows, weights.len() / rows];
                    let numbers = Numbers {
                        weights: &mut *weights,
                        gradients: &gradients,
                        state,
                    };
                    (rule.update)(coefficients, clip, shape, numbers, threads);
                    return slices::all_finite(weights);
                }
                let weights = SharedSlice::new(weights);
                let state = state.map(SharedSlice::new);
                pieces(gradients.len(), threads, |at| {
                    // SAFETY: pieces do not overlap.
                    let numbers = unsafe {
                        Numbers {
                            weights: weights.range(at.clone()),
                            gradients: &gradients[at.clone()],
                            state: state.each_ref().map(|s| match s.is_empty() {
                                true => s.range(0..0),
                                false => s.range(at.clone()),
                            }),
                        }
                    };
                    (self.rule.update)(coefficients, clip, numbers);
                    // SAFETY: the numbers above are not used any more.
                    slices::all_finite(unsafe { weights.range(at) })
                })
            };
            let weights = param.var.as_tensor();
            finite &= match &self.state[..] {
                [first] => slices::write([weights, &first[i]], |[w, a]| update(w, [a, &mut []]))?,
                [first, second] => slices::write([weights, &first[i], &second[i]], |[w, a, b]| {
                    update(w, [a, b])
                })?,
                other => bail!("a rule with {} state tensors a parameter", other.len()),
            };
        }
        Ok(UpdateOutcome {
            grad_norm,
            applied,
            finite,
        })
    }

    /// The state tensors by their names in a checkpoint, `optimizer.SLOT.PARAMETER`, with the parameters' shapes.
    pub fn state(&self) -> impl Iterator<Item = (String, &Tensor)> {
        let slots = self.rule.slots.iter().zip(&self.state);
        slots.flat_map(|(slot, tensors)| {
            let named = self.names.iter().zip(tensors);
            named.map(move |(name, tensor)| (format!("optimizer.{slot}.{name}"), tensor))
        })
    }

    /// For each of the rule's slots, a tensor for each parameter, in the order of the parameters.
    pub fn slots(&self) -> &[Vec<Tensor>] {
        &self.state
    }

    /// The scalars in the rule's order.
    pub fn scalar_values(&self) -> &[f64] {
        &self.scalars
    }

    /// The scalars by their names.
    pub fn scalars(&self) -> BTreeMap<String, f64> {
        let names = self.rule.scalars.iter().map(|(name, _)| (*name).to_owned());
        names.zip(self.scalars.iter().copied()).collect()
    }

    pub fn rule(&self) -> &'static Rule {
        self.rule
    }

    /// Goes on from scalars in the rule's order; the state tensors are written through [`CpuOptimizer::state`].
    pub fn set_scalars(&mut self, scalars: Vec<f64>) {
        self.scalars = scalars;
    }

    /// The coefficients of a step that is made elsewhere. Takes the scalars past it, and returns those before it too.
    pub fn coefficients(&mut self, settings: &StepSettings) -> (GroupCoefficients, Vec<f64>) {
        let before = self.scalars.clone();
        (
            (self.rule.coefficients)(settings, &mut self.scalars),
            before,
        )
    }
}

/// Calls `task` with the ranges that cut `len` numbers into pieces, and says whether it held for all.
pub fn pieces(
    len: usize,
    threads: &Threads,
    task: impl Fn(std::ops::Range<usize>) -> bool + Sync,
) -> bool {
    let all = AtomicBool::new(true);
    threads.run(len.div_ceil(PIECE), |i| {
        if !task(i * PIECE..((i + 1) * PIECE).min(len)) {
            all.store(false, Ordering::Relaxed);
        }
    });
    all.into_inner()
}

/// The Euclidean norm of all numbers of the tensors together, added up in f64.
///
/// # Errors
/// When a tensor is no contiguous f32 tensor on the CPU.
pub fn norm<'a>(tensors: impl Iterator<Item = &'a Tensor>, threads: &Threads) -> Result<f64> {
    let mut sums = Vec::new();
    for tensor in tensors {
        let numbers = slices::read(tensor)?;
        let begin = sums.len();
        sums.resize(begin + numbers.len().div_ceil(PIECE), 0.0);
        let parts = SharedSlice::new(&mut sums[begin..]);
        pieces(numbers.len(), threads, |at| {
            let i = at.start / PIECE;
            // SAFETY: each piece has its own sum.
            let sum = unsafe { parts.range(i..i + 1) };
            sum[0] = sum_of_squares(&numbers[at]);
            true
        });
    }
    Ok(sums.iter().sum::<f64>().sqrt())
}

/// In f64 (the square of an f32 fits), over lanes that the compiler turns into vectors.
fn sum_of_squares(numbers: &[f32]) -> f64 {
    const LANES: usize = 16;
    let (chunks, rest) = numbers.as_chunks::<LANES>();
    let mut lanes = [0.0f64; LANES];
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(x) * f64::from(x);
        }
    }
    let rest: f64 = rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    lanes.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::params::{Hyperparameters, Optimizer as Kind};
    use crate::optimizers::rule;
    use candle_core::{Device, Var};

    fn param(name: &str, values: &[f32]) -> Parameter {
        let device = Device::Cpu;
        Parameter {
            name: name.into(),
            var: Var::from_slice(values, values.len(), &device).unwrap(),
            grad: slices::zeros(values.len(), &device).unwrap(),
            group: ParameterGroup::Dense,
            trained: true,
        }
    }

    fn plan(kind: Kind, step: u64) -> StepPlan {
        let params = Hyperparameters {
            optimizer: kind,
            learning_rate: 0.1,
            ..Hyperparameters::default()
        };
        StepPlan::new(&params, params.base_rates(), (step, 1), &[])
    }

    fn fill(param: &Parameter, values: impl Fn(usize) -> f32) {
        slices::write([&param.grad], |[g]| {
            g.iter_mut().enumerate().for_each(|(i, g)| *g = values(i));
        })
        .unwrap();
    }

    fn values(param: &Parameter) -> Vec<f32> {
        slices::read(param.var.as_tensor()).unwrap().to_vec()
    }

    #[test]
    fn the_numbers_do_not_depend_on_the_threads_and_state_comes_back() {
        let start: Vec<f32> = (0..PIECE * 3 + 77)
            .map(|i| (i as f32 * 0.37).sin())
            .collect();
        let run = |threads: usize, break_at: Option<u64>| {
            let threads = Threads::new(threads);
            let param = param("w", &start);
            let mut optimizer = CpuOptimizer::new(rule(Kind::Adamw), &[&param]).unwrap();
            for step in 1..=5 {
                if break_at == Some(step) {
                    let other = CpuOptimizer::new(rule(Kind::Adamw), &[&param]).unwrap();
                    for ((name, from), (to_name, to)) in optimizer.state().zip(other.state()) {
                        assert_eq!(name, to_name);
                        let from = slices::read(from).unwrap();
                        slices::write([to], |[to]| to.copy_from_slice(&from)).unwrap();
                    }
                    let scalars = optimizer.scalars();
                    optimizer = other;
                    let scalars = optimizer.rule().select_scalars(&scalars).unwrap();
                    optimizer.set_scalars(scalars);
                }
                fill(&param, |i| (i as f32 * 0.11 + step as f32).cos());
                let mut plan = plan(Kind::Adamw, step);
                let params = &mut plan.settings.params;
                (params.clip_norm, params.weight_decay) = (1.0, 0.1);
                plan.settings.params.beta1 = if step < 3 { 0.9 } else { 0.8 };
                optimizer.step(&[&param], &plan, &threads).unwrap();
            }
            values(&param)
        };
        let unbroken = run(1, None);
        assert!(unbroken.iter().zip(&start).all(|(a, b)| a != b));
        assert!(unbroken == run(3, None) && unbroken == run(2, Some(4)));
    }

    #[test]
    fn a_gradient_that_is_not_finite_moves_nothing() {
        let threads = Threads::new(1);
        for bad in [f32::NAN, f32::INFINITY, f32::MAX] {
            for kind in [Kind::Sgd, Kind::Adam] {
                let param = param("w", &[1.0, 2.0]);
                let mut optimizer = CpuOptimizer::new(rule(kind), &[&param]).unwrap();
                fill(&param, |i| if i == 1 { bad } else { 1.0 });
                let outcome = optimizer.step(&[&param], &plan(kind, 1), &threads).unwrap();
                assert!(!outcome.applied);
                assert_eq!(values(&param), [1.0, 2.0]);
                assert!(
                    optimizer
                        .state()
                        .all(|(_, m)| slices::read(m).unwrap().iter().all(|&x| x == 0.0))
                );
                assert!(optimizer.scalars().values().all(|&s| s == 1.0));
            }
        }
    }
}
