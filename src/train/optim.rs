//! SGD (momentum, Nesterov), Adam and AdamW over all parameters of a network, with state that can be saved.
//!
//! The rules are PyTorch's `torch.optim.SGD`, `Adam` and `AdamW` and its `clip_grad_norm_`; epsilon is Keras's 1e-7.
//! One step reads the gradients once for their norm and then updates each parameter in a single fused pass. Work is
//! cut into pieces of a fixed size whose results are added in order, so the numbers do not depend on the threads.

use crate::device::threads::{Parts, Threads};
use crate::domain::params::Optimizer as Rule;
use crate::domain::report::StepSettings;
use crate::layers::{Param, slices};
use candle_core::{Result, Tensor, bail};

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
            return Ok(Outcome { grad_norm, applied });
        }
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
                        pieces(grad.len(), threads, |at| {
                            // SAFETY: pieces do not overlap.
                            let (w, m) = unsafe { (w.range(at.clone()), m.range(at.clone())) };
                            update.run(w, &grad[at], m);
                        });
                    })?;
                }
                Rule::Adam | Rule::Adamw => {
                    let update = Adam::new(settings, clip, decay, self.beta_products);
                    let tensors = [param.var.as_tensor(), &self.first[i], &self.second[i]];
                    slices::write(tensors, |[w, m, v]| {
                        let (w, m, v) = (Parts::new(w), Parts::new(m), Parts::new(v));
                        pieces(grad.len(), threads, |at| {
                            // SAFETY: pieces do not overlap.
                            let (w, m, v) = unsafe {
                                (
                                    w.range(at.clone()),
                                    m.range(at.clone()),
                                    v.range(at.clone()),
                                )
                            };
                            update.run(w, &grad[at], m, v);
                        });
                    })?;
                }
            }
        }
        Ok(Outcome { grad_norm, applied })
    }

    /// The moments by their names in a checkpoint, with the shapes of their parameters.
    pub fn moments(&self) -> impl Iterator<Item = (String, &Tensor)> {
        let named = |prefix: &'static str, tensors| {
            std::iter::zip(&self.names, tensors).map(move |(name, t)| (format!("{prefix}{name}"), t))
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

/// Calls `task` with the ranges that cut `len` numbers into pieces.
fn pieces(len: usize, threads: &Threads, task: impl Fn(std::ops::Range<usize>) + Sync) {
    threads.run(len.div_ceil(PIECE), |i| {
        task(i * PIECE..((i + 1) * PIECE).min(len));
    });
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
            unsafe { parts.range(i..i + 1) }[0] = sum_of_squares(&numbers[at]);
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
            *m = self.beta1 * *m + (1.0 - self.beta1) * g;
            *v = self.beta2 * *v + (1.0 - self.beta2) * (g * g);
            let root = v.sqrt() * self.root2 + EPSILON as f32;
            *w = self.shrink * *w - self.rate * (*m / root);
        }
    }
}
