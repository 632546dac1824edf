//! The optimizers: one file a rule, one row a rule in [`rule`]. A rule says what state it keeps for each parameter, what
//! follows from a step's settings, and how one step moves the numbers of a parameter: in Rust over slices, and as CUDA
//! text over one element. Backends walk the parameters, measure and clip the gradient, and hold the state.
//!
//! The rules are PyTorch's `torch.optim.SGD`, `Adam` and `AdamW`; epsilon is Keras's 1e-7.

mod adam;
mod adamw;
mod muon;
mod sgd;

use crate::domain::params::{Optimizer, ParameterGroup};
use crate::domain::report::StepSettings;
use crate::hardware::executor::Cost;
use crate::hardware::threads::Threads;
use std::collections::BTreeMap;

/// State tensors that a rule keeps for each parameter, at most.
pub const MAX_SLOTS: usize = 2;
/// Coefficients of a rule's own, at most. `Step` of the CUDA kernels has room for as many.
pub const MAX_COEFFICIENTS: usize = 8;
/// PyTorch's guard against a division by zero while clipping.
const CLIP_EPSILON: f64 = 1e-6;
/// A gradient whose norm is not below this counts as diverged: its square must fit the f32 of Adam's second moment. NaN
/// compares false and counts as diverged too.
pub const MAX_NORM: f64 = 1e19;

/// The CUDA source of every rule's kernels `pack` and `update`. The rule's statements are its constant UPDATE_ELEMENT.
pub const CUDA: &str = concat!(include_str!("pieces.cuh"), include_str!("update.cu"));

/// A rule is known by its word.
impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.word == other.word
    }
}

/// One optimizer. It works element by element, on the filters possibly matrix by matrix.
#[derive(Debug)]
pub struct Rule {
    pub word: Optimizer,
    /// The state tensors of each parameter, by name: zeros at first, of the parameter's shape. A checkpoint holds them
    /// as `optimizer.SLOT.PARAMETER`.
    pub slots: &'static [&'static str],
    /// Numbers of the whole network that one step hands to the next, by name, and their values before the first step.
    pub scalars: &'static [(&'static str, f64)],
    /// Takes the scalars (in the order of `scalars`) from before this step to after it, and computes the step's
    /// coefficients for each group of parameters.
    pub coefficients: fn(&StepSettings, &mut [f64]) -> GroupCoefficients,
    /// Updates some numbers of a parameter from their gradients, which are to be multiplied by `clip` first. Slots that
    /// the rule does not have are empty.
    pub update: fn(&Coefficients, clip: f32, Numbers),
    /// The CUDA statements, in one line, that update one element. They see its gradient `g` (clipped, with the L2 penalty),
    /// its weight `w`, the `decay_factor`, the rule's own coefficients `OWN[i]` and the state tensors `SLOT(i)`.
    pub cuda: &'static str,
    /// Floating-point operations of these statements, and of clipping and the L2 penalty before them.
    pub flop: usize,
    /// How the filters of convolutions are updated, if not element by element.
    pub filters: Option<MatrixRule>,
}

/// The update of a convolution's filters as a matrix: a row for each output channel, a column for each input channel and
/// place in the kernel.
#[derive(Clone, Copy, Debug)]
pub struct MatrixRule {
    /// Updates a matrix of `[rows, columns]` from its gradient, which is to be multiplied by `clip` first.
    pub update: fn(&Coefficients, clip: f32, [usize; 2], Numbers, &Threads),
    /// The CUDA source of the kernels that find the directions in which the matrices move. They are launched in this
    /// order.
    pub source: &'static str,
    pub launches: &'static [MatrixLaunch],
    /// The CUDA statements that update one element. They see what those of [`Rule::cuda`] see, and the element's
    /// `direction` and its matrix's `weight_scale`.
    pub cuda: &'static str,
    /// Floating-point operations of these statements, and of clipping and the L2 penalty before them.
    pub flop: usize,
}

/// A launch of a kernel of a [`MatrixRule`].
#[derive(Clone, Copy, Debug)]
pub struct MatrixLaunch {
    pub entry: &'static str,
    pub grid: MatrixGrid,
    pub arguments: &'static [MatrixArgument],
    /// What it does to a matrix, given its shorter and its longer side.
    pub cost: fn(usize, usize) -> Cost,
}

/// The blocks of a launch for all matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixGrid {
    /// One for each piece of the parameters.
    Pieces,
    /// In z, one for each matrix; in x and y, tiles of 32 x 32 of the largest product of a matrix with its transpose.
    Squares,
    /// In z, one for each matrix; in x and y, tiles of 32 x 32 of the largest matrix.
    Matrices,
}

/// What a kernel of a [`MatrixRule`] is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixArgument {
    /// The step under way.
    Step,
    /// The pieces of all parameters, and the matrices.
    Pieces,
    Matrices,
    /// All parameters, their gradients, and the first of their state tensors.
    Weights,
    Gradients,
    State,
    /// The sums of squares that the gradients' kernels left.
    Squares,
    /// Two rows of numbers like the parameters'. The last launch leaves the directions in the second.
    First,
    Second,
    /// Two f64 for each piece.
    Parts,
    /// Two square matrices for each matrix.
    Products,
    Polynomials,
    /// One f32 for each matrix: the factor of its weights.
    WeightScales,
}

/// The coefficients of each group of parameters, in the order of [`ParameterGroup::ALL`].
pub type GroupCoefficients = [Coefficients; ParameterGroup::ALL.len()];

/// What a rule needs to know of one step, in the kernels' precision.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Coefficients {
    /// Weight decay as a part of the gradient: `g + l2 * w`.
    pub l2: f32,
    /// Weight decay apart from the gradient: the weight is multiplied by this first.
    pub decay_factor: f32,
    /// The rule's own, in an order that its two implementations agree on: the learning rate first, zeros at the end.
    pub own: [f32; MAX_COEFFICIENTS],
}

impl Coefficients {
    /// Without weight decay.
    pub fn new<const N: usize>(own: [f32; N]) -> Self {
        const { assert!(N <= MAX_COEFFICIENTS) };
        let mut all = [0.0; MAX_COEFFICIENTS];
        all[..N].copy_from_slice(&own);
        Coefficients {
            l2: 0.0,
            decay_factor: 1.0,
            own: all,
        }
    }

    /// The same at a learning rate that is multiplied by `factor`. The CUDA text repeats it.
    #[must_use]
    pub fn at(mut self, factor: f32) -> Self {
        if factor != 1.0 {
            self.own[0] *= factor;
            self.decay_factor = 1.0 - factor * (1.0 - self.decay_factor);
        }
        self
    }

    /// The same for all groups of parameters, without weight decay of biases and norms.
    pub fn for_groups(self) -> GroupCoefficients {
        let undecayed = Coefficients {
            l2: 0.0,
            decay_factor: 1.0,
            ..self
        };
        ParameterGroup::ALL.map(|group| match group {
            ParameterGroup::Filters | ParameterGroup::Dense => self,
            ParameterGroup::Biases | ParameterGroup::Whitening => undecayed,
        })
    }
}

/// Some numbers of a parameter, of its gradient and of its state: slices of one length.
pub struct Numbers<'a> {
    pub weights: &'a mut [f32],
    pub gradients: &'a [f32],
    pub state: [&'a mut [f32]; MAX_SLOTS],
}

/// The row of every optimizer.
pub fn rule(optimizer: Optimizer) -> &'static Rule {
    match optimizer {
        Optimizer::Sgd => &sgd::RULE,
        Optimizer::Adam => &adam::RULE,
        Optimizer::Adamw => &adamw::RULE,
        Optimizer::Muon => &muon::RULE,
    }
}

impl Rule {
    /// The scalars before the first step.
    pub fn initial_scalars(&self) -> Vec<f64> {
        self.scalars.iter().map(|(_, value)| *value).collect()
    }

    /// The scalars from saved ones.
    ///
    /// # Errors
    /// Says which one is missing.
    pub fn select_scalars(&self, saved: &BTreeMap<String, f64>) -> Result<Vec<f64>, String> {
        let value = |(name, _): &(&str, f64)| match saved.get(*name) {
            Some(value) => Ok(*value),
            None => Err(format!("the optimizer's {name} is missing")),
        };
        self.scalars.iter().map(value).collect()
    }
}

/// The factor that brings a gradient of this norm down to the norm `max`, as PyTorch's `clip_grad_norm_`; 1 where `max`
/// is 0 (off) or the norm is below it.
pub fn clip_factor(max: f64, norm: f64) -> f32 {
    match max > 0.0 {
        true => (max / (norm + CLIP_EPSILON)).min(1.0) as f32,
        false => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::params::Hyperparameters;

    /// Settings of step `step` under the default betas and momentum, without weight decay and clipping.
    pub fn settings(optimizer: Optimizer) -> StepSettings {
        let params = Hyperparameters {
            optimizer,
            ..Hyperparameters::default()
        };
        StepSettings {
            learning_rate: 0.1,
            ..StepSettings::new(&params, params.base_rates(), 0, 1)
        }
    }

    /// Holds four steps of a weight (with decay) and a bias to the values that tests/reference/optim.py prints
    /// (PyTorch 2.15).
    pub fn agrees_with_pytorch(case: StepSettings, expected: [f64; 7]) {
        let rule = rule(case.optimizer);
        let mut scalars = rule.initial_scalars();
        let mut parameters = [vec![0.5f32, 0.3, 0.1, -0.1, -0.3], vec![0.1, -0.1]];
        let mut state = [0, 1].map(|i| [0, 1].map(|_| vec![0.0; parameters[i].len()]));
        let mut norm = 0.0;
        for step in 1..=4u32 {
            let angle = |i: usize| i as f64 + f64::from(step);
            let gradients: [Vec<f32>; 2] = [
                (0..5).map(|i| angle(i).sin() as f32).collect(),
                (0..2).map(|i| angle(i).cos() as f32).collect(),
            ];
            let squares = gradients.iter().flatten().map(|&g| f64::from(g).powi(2));
            norm = squares.sum::<f64>().sqrt();
            let settings = StepSettings {
                learning_rate: if step < 3 { 0.1 } else { 0.05 },
                step: step.into(),
                ..case.clone()
            };
            let coefficients = (rule.coefficients)(&settings, &mut scalars);
            for (i, (weights, state)) in parameters.iter_mut().zip(&mut state).enumerate() {
                let numbers = Numbers {
                    weights,
                    gradients: &gradients[i],
                    state: state.each_mut().map(|s| s.as_mut_slice()),
                };
                let clip = clip_factor(settings.clip_norm, norm);
                // A weight and a bias.
                let group = [ParameterGroup::Dense, ParameterGroup::Biases][i];
                (rule.update)(&coefficients[group as usize], clip, numbers);
            }
        }
        assert!((norm - 1.8677619).abs() < 1e-6, "{norm}");
        let ours = parameters.concat();
        for (a, b) in ours.iter().zip(expected) {
            assert!(
                (f64::from(*a) - b).abs() < 1e-6,
                "{case:?}: {ours:?} and not {expected:?}"
            );
        }
    }

    #[test]
    fn every_rule_has_distinct_slots_and_a_kernel() {
        for word in Optimizer::ALL {
            let rule = rule(*word);
            assert_eq!(rule.word, *word);
            assert!(!rule.cuda.contains('\n'), "{word:?}");
            assert!((1..=MAX_SLOTS).contains(&rule.slots.len()), "{word:?}");
            assert!(rule.slots.len() < 2 || rule.slots[0] != rule.slots[1]);
            assert!(rule.slots.iter().all(|slot| !slot.contains('.')));
            assert!(rule.cuda.contains("SLOT(0)"), "{word:?}");
        }
    }

    /// The weights and state after four steps whose learning rates are multiplied by `in_rates` in the settings and by
    /// `at` in the coefficients.
    fn four_steps(optimizer: Optimizer, in_rates: f64, at: f32) -> Vec<f32> {
        let rule = rule(optimizer);
        let mut scalars = rule.initial_scalars();
        let mut weights = vec![0.5f32, 0.3, 0.1, -0.1, -0.3, 0.2];
        let mut state = [0, 1].map(|_| vec![0.0f32; weights.len()]);
        for step in 1..=4u32 {
            let mut settings = StepSettings {
                step: step.into(),
                ..settings(optimizer).with(|p| p.weight_decay = 0.3)
            };
            settings.learning_rate *= in_rates;
            for rate in &mut settings.rates {
                rate.effective *= in_rates;
            }
            let coefficients = (rule.coefficients)(&settings, &mut scalars);
            let gradients: Vec<f32> = (0..6).map(|i| ((i + step) as f32).sin()).collect();
            let numbers = Numbers {
                weights: &mut weights,
                gradients: &gradients,
                state: state.each_mut().map(|s| s.as_mut_slice()),
            };
            match rule.filters {
                Some(filters) => {
                    let c = coefficients[ParameterGroup::Filters as usize].at(at);
                    (filters.update)(&c, 1.0, [2, 3], numbers, &Threads::new(1));
                }
                None => {
                    let c = coefficients[ParameterGroup::Dense as usize].at(at);
                    (rule.update)(&c, 1.0, numbers);
                }
            }
        }
        weights.into_iter().chain(state.concat()).collect()
    }

    #[test]
    fn a_factor_multiplies_the_learning_rate_and_one_changes_no_bit() {
        for optimizer in Optimizer::ALL {
            let plain = four_steps(*optimizer, 1.0, 1.0);
            let halved = four_steps(*optimizer, 0.5, 1.0);
            for (a, b) in four_steps(*optimizer, 1.0, 0.5).iter().zip(&halved) {
                assert!((a - b).abs() < 1e-6, "{optimizer:?}: {a} and {b}");
            }
            assert_ne!(plain, halved);
        }
        let c = Coefficients {
            decay_factor: 0.3,
            ..Coefficients::new([0.1, 0.2])
        };
        assert_eq!(c.at(1.0), c);
    }

    #[test]
    fn the_gradient_is_clipped_to_the_norm_and_never_enlarged() {
        assert_eq!(clip_factor(0.0, 5.0), 1.0);
        assert_eq!(clip_factor(2.0, 1.0), 1.0);
        assert!((clip_factor(1.0, 4.0) - 0.25).abs() < 1e-6);
    }
}
