//! SGD (momentum, Nesterov), Adam and AdamW over all parameters of a network, with state that can be saved.
//!
//! The rules are PyTorch's `torch.optim.SGD`, `Adam` and `AdamW` and its `clip_grad_norm_`; epsilon is Keras's 1e-7.
//! One step reads the gradients once for their norm and then updates each parameter in a single fused pass. Work is
//! cut into pieces of a fixed size whose results are added in order, so the numbers do not depend on the threads.

use crate::domain::params::Optimizer as Rule;
use crate::domain::report::StepSettings;
use crate::hardware::threads::{Parts, Threads};
use crate::layers::{Param, slices};
use crate::net::engine::Update;
use crate::net::{self, Net};
use candle_core::{Result, Tensor, bail};
use std::sync::atomic::{AtomicBool, Ordering};

/// Keras's default, ten times PyTorch's.
const EPSILON: f64 = 1e-7;
/// PyTorch's guard against a division by zero while clipping.
const CLIP_EPSILON: f64 = 1e-6;
/// Numbers in one piece of work: 64 KiB of each tensor.
const PIECE: usize = 16 * 1024;
/// A gradient whose norm is above this counts as diverged: its square is what Adam's second moment holds, in f32.
const LARGEST_NORM: f64 = 1e19;

/// The moments' names in a checkpoint are a prefix and the parameter's own name.
const FIRST: &str = "optimizer.first.";
const SECOND: &str = "optimizer.second.";

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Norm of the whole gradient, before clipping and without weight decay.
    pub grad_norm: f64,
    /// Whether the parameters moved. They do not when the gradient is not finite, or too large to square.
    pub applied: bool,
    /// Whether every parameter that moved is a finite number now.
    pub sound: bool,
}

/// The optimizer's state: the moments of each parameter, in the order of the parameters.
pub struct Optimizer {
    rule: Rule,
    names: Vec<String>,
    /// SGD's momentum buffer, or Adam's running mean of the gradient.
    first: Vec<Tensor>,
    /// Adam's running mean of the squared gradient.
    second: Vec<Tensor>,
    /// Products of all betas so far. For constant betas this is `beta^t`; for betas that changed on the way it is what
    /// makes the bias correction exact (the weights of a running mean add up to one minus this product).
    beta_products: [f64; 2],
}

impl Optimizer {
    /// State at rest, for these parameters.
    ///
    /// # Errors
    /// Those of the device.
    pub fn new(rule: Rule, params: &[&Param]) -> Result<Self> {
        let zeros = |wanted: bool| -> Result<Vec<Tensor>> {
            if !wanted {
                return Ok(Vec::new());
            }
            params
                .iter()
                .map(|p| slices::zeros(p.var.shape().clone(), p.var.device()))
                .collect()
        };
        Ok(Optimizer {
            rule,
            names: params.iter().map(|p| p.name.clone()).collect(),
            first: zeros(true)?,
            second: zeros(rule != Rule::Sgd)?,
            beta_products: [1.0; 2],
        })
    }

    /// One step from the gradients that the parameters hold.
    ///
    /// # Errors
    /// Those of the device, and parameters that are not those it was made for.
    pub fn step(
        &mut self,
        params: &[&Param],
        settings: &StepSettings,
        threads: &Threads,
    ) -> Result<Outcome> {
        if params.len() != self.names.len() || settings.optimizer != self.rule {
            bail!(
                "an optimizer ({:?}) of {} parameters was given {} ({:?})",
                self.rule,
                self.names.len(),
                params.len(),
                settings.optimizer
            );
        }
        let grad_norm = norm(params.iter().map(|p| &p.grad), threads)?;
        // A NaN is not below it either.
        let applied = grad_norm < LARGEST_NORM;
        if !applied {
            return Ok(Outcome {
                grad_norm,
                applied,
                sound: true,
            });
        }
        let mut sound = true;
        let clip = if settings.clip_norm > 0.0 {
            (settings.clip_norm / (grad_norm + CLIP_EPSILON)).min(1.0) as f32
        } else {
            1.0
        };
        self.beta_products[0] *= settings.beta1;
        self.beta_products[1] *= settings.beta2;
        for (i, param) in params.iter().enumerate() {
            let decay = if param.decay {
                settings.weight_decay
            } else {
                0.0
            };
            let grad = slices::read(&param.grad)?;
            match self.rule {
                Rule::Sgd => {
                    let update = Sgd::new(settings, clip, decay);
                    slices::write([param.var.as_tensor(), &self.first[i]], |[w, m]| {
                        let (w, m) = (Parts::new(w), Parts::new(m));
                        sound &= pieces(grad.len(), threads, |at| {
                            // SAFETY: pieces do not overlap.
                            let (w, m) = unsafe { (w.range(at.clone()), m.range(at.clone())) };
                            update.run(w, &grad[at], m);
                            slices::all_finite(w)
                        });
                    })?;
                }
                Rule::Adam | Rule::Adamw => {
                    let update = Adam::new(settings, clip, decay, self.beta_products);
                    let tensors = [param.var.as_tensor(), &self.first[i], &self.second[i]];
                    slices::write(tensors, |[w, m, v]| {
                        let (w, m, v) = (Parts::new(w), Parts::new(m), Parts::new(v));
                        sound &= pieces(grad.len(), threads, |at| {
                            // SAFETY: pieces do not overlap.
                            let (w, m, v) = unsafe {
                                (
                                    w.range(at.clone()),
                                    m.range(at.clone()),
                                    v.range(at.clone()),
                                )
                            };
                            update.run(w, &grad[at], m, v);
                            slices::all_finite(w)
                        });
                    })?;
                }
            }
        }
        Ok(Outcome {
            grad_norm,
            applied,
            sound,
        })
    }

    /// One step's numbers for a machine's optimizer, which then need not know the steps before: `beta_products` are those
    /// before it, and become those after it.
    pub fn plan(settings: &StepSettings, beta_products: &mut [f64; 2]) -> Update {
        beta_products[0] *= settings.beta1;
        beta_products[1] *= settings.beta2;
        let decay = settings.weight_decay;
        let clip_norm = settings.clip_norm.max(0.0);
        match settings.optimizer {
            Rule::Sgd => {
                let sgd = Sgd::new(settings, 1.0, decay);
                Update {
                    rate: sgd.rate,
                    momentum: sgd.momentum,
                    nesterov: sgd.nesterov,
                    l2: sgd.decay,
                    shrink: 1.0,
                    clip_norm,
                    ..Update::default()
                }
            }
            Rule::Adam | Rule::Adamw => {
                let adam = Adam::new(settings, 1.0, decay, *beta_products);
                Update {
                    rate: adam.rate,
                    beta1: adam.beta1,
                    beta2: adam.beta2,
                    rest1: adam.rest1,
                    rest2: adam.rest2,
                    root2: adam.root2,
                    l2: adam.l2,
                    shrink: adam.shrink,
                    clip_norm,
                    ..Update::default()
                }
            }
        }
    }

    /// Brings the moments here from the machine that a network trains on, if there is one.
    ///
    /// # Errors
    /// When the machine fails.
    pub fn pull(&self, net: &Net) -> net::Result<()> {
        match net.engine() {
            Some(engine) => engine.borrow_mut().pull_moments(&self.first, &self.second),
            None => Ok(()),
        }
    }

    /// Brings the moments to the machine that a network trains on, if there is one.
    ///
    /// # Errors
    /// When the machine fails.
    pub fn push(&self, net: &Net) -> net::Result<()> {
        match net.engine() {
            Some(engine) => engine.borrow_mut().push_moments(&self.first, &self.second),
            None => Ok(()),
        }
    }

    /// The moments by their names in a checkpoint, with the shapes of their parameters.
    pub fn moments(&self) -> impl Iterator<Item = (String, &Tensor)> {
        let named = |prefix: &'static str, tensors| {
            std::iter::zip(&self.names, tensors)
                .map(move |(name, t)| (format!("{prefix}{name}"), t))
        };
        named(FIRST, &self.first).chain(named(SECOND, &self.second))
    }

    /// The products of the betas of all steps so far, for the checkpoint.
    pub fn beta_products(&self) -> [f64; 2] {
        self.beta_products
    }

    /// Goes on from saved products of the betas; the moments are written through [`Optimizer::moments`].
    pub fn set_beta_products(&mut self, products: [f64; 2]) {
        self.beta_products = products;
    }
}

/// Calls `task` with the ranges that cut `len` numbers into pieces, and says whether it held for all.
fn pieces(
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
        let parts = Parts::new(&mut sums[begin..]);
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

/// `g = clip * g + decay * w; m = momentum * m + g; w -= rate * (g + momentum * m, or m)`.
struct Sgd {
    rate: f32,
    momentum: f32,
    nesterov: bool,
    clip: f32,
    decay: f32,
}

impl Sgd {
    fn new(settings: &StepSettings, clip: f32, decay: f64) -> Self {
        Sgd {
            rate: settings.learning_rate as f32,
            momentum: settings.momentum as f32,
            nesterov: settings.nesterov,
            clip,
            decay: decay as f32,
        }
    }

    fn run(&self, w: &mut [f32], g: &[f32], m: &mut [f32]) {
        for ((w, &g), m) in w.iter_mut().zip(g).zip(m) {
            let g = self.clip * g + self.decay * *w;
            *m = self.momentum * *m + g;
            let by = if self.nesterov {
                g + self.momentum * *m
            } else {
                *m
            };
            *w -= self.rate * by;
        }
    }
}

/// `g = clip * g + l2 * w; m, v = running means of g, g^2; w = shrink * w - rate * m / (sqrt(v / c2) + epsilon)`, where
/// `rate` holds the first moment's bias correction.
struct Adam {
    rate: f32,
    beta1: f32,
    beta2: f32,
    /// One minus the betas, subtracted in f64: in f32, 1 - 0.999 is wrong in the fifth digit.
    rest1: f32,
    rest2: f32,
    root2: f32,
    clip: f32,
    l2: f32,
    shrink: f32,
}

impl Adam {
    fn new(settings: &StepSettings, clip: f32, decay: f64, beta_products: [f64; 2]) -> Self {
        let rate = settings.learning_rate;
        let decoupled = settings.optimizer == Rule::Adamw;
        Adam {
            rate: (rate / (1.0 - beta_products[0])) as f32,
            beta1: settings.beta1 as f32,
            beta2: settings.beta2 as f32,
            rest1: (1.0 - settings.beta1) as f32,
            rest2: (1.0 - settings.beta2) as f32,
            root2: (1.0 / (1.0 - beta_products[1]).sqrt()) as f32,
            clip,
            l2: if decoupled { 0.0 } else { decay as f32 },
            shrink: if decoupled {
                (1.0 - rate * decay) as f32
            } else {
                1.0
            },
        }
    }

    fn run(&self, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        for (((w, &g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
            let g = self.clip * g + self.l2 * *w;
            *m = self.beta1 * *m + self.rest1 * g;
            *v = self.beta2 * *v + self.rest2 * (g * g);
            let root = v.sqrt() * self.root2 + EPSILON as f32;
            *w = self.shrink * *w - self.rate * (*m / root);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::params::Hyperparameters;
    use candle_core::{Device, Var};

    fn param(name: &str, values: &[f32], decay: bool) -> Param {
        let device = Device::Cpu;
        Param {
            name: name.into(),
            var: Var::from_slice(values, values.len(), &device).unwrap(),
            grad: slices::zeros(values.len(), &device).unwrap(),
            decay,
        }
    }

    fn settings(rule: Rule, step: u64) -> StepSettings {
        let p = Hyperparameters::default();
        StepSettings {
            optimizer: rule,
            learning_rate: 0.1,
            weight_decay: 0.0,
            momentum: p.momentum,
            nesterov: false,
            beta1: p.beta1,
            beta2: p.beta2,
            clip_norm: 0.0,
            dropout: 0.0,
            label_smoothing: 0.0,
            seed: 1,
            step,
        }
    }

    fn fill(param: &Param, values: impl Fn(usize) -> f32) {
        slices::write([&param.grad], |[g]| {
            g.iter_mut().enumerate().for_each(|(i, g)| *g = values(i));
        })
        .unwrap();
    }

    fn values(param: &Param) -> Vec<f32> {
        slices::read(param.var.as_tensor()).unwrap().to_vec()
    }

    /// The table that tests/reference/optim.py prints (PyTorch 2.15).
    #[test]
    fn four_steps_as_pytorch_makes_them() {
        let none = settings(Rule::Sgd, 0);
        let adam = settings(Rule::Adam, 0);
        #[rustfmt::skip]
        let cases = [
            (StepSettings { momentum: 0.0, ..none },
             [0.35570729, 0.28074461, 0.22348525, 0.052694123, -0.25848326, 0.16976626, 0.059113003]),
            (StepSettings { weight_decay: 0.01, ..none },
             [0.1287051, 0.14957955, 0.30710384, 0.27366915, -0.10276657, 0.15969302, 0.24264704]),
            (StepSettings { weight_decay: 0.01, nesterov: true, clip_norm: 0.5, ..none },
             [0.36966392, 0.25733557, 0.18192691, 0.030426437, -0.24021891, 0.13319074, 0.024409266]),
            (adam,
             [0.24344659, 0.13591091, 0.13861784, 0.1636668, -0.11719868, 0.048590861, 0.17420116]),
            (StepSettings { weight_decay: 0.02, clip_norm: 0.7, ..adam },
             [0.24221569, 0.13448647, 0.13759887, 0.16338921, -0.11620381, 0.048267722, 0.17443597]),
            (StepSettings { optimizer: Rule::Adamw, weight_decay: 0.02, ..adam },
             [0.24109483, 0.13467237, 0.13825732, 0.16362149, -0.11598225, 0.048590861, 0.17420116]),
        ];
        let threads = Threads::new(1);
        for (case, expected) in cases {
            let weight = param("weight", &[0.5, 0.3, 0.1, -0.1, -0.3], true);
            let bias = param("bias", &[0.1, -0.1], false);
            let params = [&weight, &bias];
            let mut optimizer = Optimizer::new(case.optimizer, &params).unwrap();
            let mut last = 0.0;
            for step in 1..=4 {
                fill(&weight, |i| ((i as f64) + step as f64).sin() as f32);
                fill(&bias, |i| ((i as f64) + step as f64).cos() as f32);
                let learning_rate = if step < 3 { 0.1 } else { 0.05 };
                let settings = StepSettings {
                    learning_rate,
                    step,
                    ..case
                };
                let outcome = optimizer.step(&params, &settings, &threads).unwrap();
                assert!(outcome.applied);
                last = outcome.grad_norm;
            }
            assert!((last - 1.8677619).abs() < 1e-6, "{last}");
            let ours = [values(&weight), values(&bias)].concat();
            for (a, b) in ours.iter().zip(expected) {
                assert!(
                    (f64::from(*a) - b).abs() < 1e-6,
                    "{case:?}: {ours:?} and not {expected:?}"
                );
            }
        }
    }

    #[test]
    fn the_numbers_do_not_depend_on_the_threads_and_state_comes_back() {
        let start: Vec<f32> = (0..PIECE * 3 + 77)
            .map(|i| (i as f32 * 0.37).sin())
            .collect();
        let run = |threads: usize, break_at: Option<u64>| {
            let threads = Threads::new(threads);
            let param = param("w", &start, true);
            let mut optimizer = Optimizer::new(Rule::Adamw, &[&param]).unwrap();
            for step in 1..=5 {
                if break_at == Some(step) {
                    let other = Optimizer::new(Rule::Adamw, &[&param]).unwrap();
                    for ((name, from), (to_name, to)) in optimizer.moments().zip(other.moments()) {
                        assert_eq!(name, to_name);
                        let from = slices::read(from).unwrap();
                        slices::write([to], |[to]| to.copy_from_slice(&from)).unwrap();
                    }
                    let products = optimizer.beta_products();
                    optimizer = other;
                    optimizer.set_beta_products(products);
                }
                fill(&param, |i| (i as f32 * 0.11 + step as f32).cos());
                let settings = StepSettings {
                    clip_norm: 1.0,
                    weight_decay: 0.1,
                    beta1: if step < 3 { 0.9 } else { 0.8 },
                    ..settings(Rule::Adamw, step)
                };
                optimizer.step(&[&param], &settings, &threads).unwrap();
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
            for rule in [Rule::Sgd, Rule::Adam] {
                let param = param("w", &[1.0, 2.0], true);
                let mut optimizer = Optimizer::new(rule, &[&param]).unwrap();
                fill(&param, |i| if i == 1 { bad } else { 1.0 });
                let outcome = optimizer
                    .step(&[&param], &settings(rule, 1), &threads)
                    .unwrap();
                assert!(!outcome.applied);
                assert_eq!(values(&param), [1.0, 2.0]);
                assert!(
                    optimizer
                        .moments()
                        .all(|(_, m)| slices::read(m).unwrap().iter().all(|&x| x == 0.0))
                );
                assert_eq!(optimizer.beta_products(), [1.0, 1.0]);
            }
        }
    }
}
