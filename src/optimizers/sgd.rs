//! Stochastic gradient descent with momentum, optionally Nesterov's: PyTorch's `torch.optim.SGD`.

use super::{Coefficients, GroupCoefficients, Numbers, Rule};
use crate::domain::params::Optimizer;
use crate::domain::report::StepSettings;

pub const RULE: Rule = Rule {
    word: Optimizer::Sgd,
    slots: &["momentum_buffer"],
    scalars: &[],
    coefficients,
    update,
    cuda: CUDA,
    flop: FLOP,
    filters: None,
};

/// Of the coefficients learning rate, momentum, and whether it is Nesterov's.
pub const CUDA: &str = "{ \
        const float learning_rate = OWN[0], momentum = OWN[1], nesterov = OWN[2]; \
        float buffer = momentum * SLOT(0) + g; \
        SLOT(0) = buffer; \
        w -= learning_rate * (nesterov != 0.0f ? g + momentum * buffer : buffer); \
    }";

/// Floating-point operations of these statements, and of clipping and the L2 penalty before them.
pub const FLOP: usize = 9;

fn coefficients(settings: &StepSettings, _: &mut [f64]) -> GroupCoefficients {
    let own = [
        settings.learning_rate as f32,
        settings.momentum as f32,
        f32::from(u8::from(settings.nesterov)),
    ];
    let coefficients = Coefficients {
        l2: settings.weight_decay as f32,
        ..Coefficients::new(own)
    };
    coefficients.for_groups()
}

pub fn update(c: &Coefficients, clip: f32, numbers: Numbers) {
    let (l2, [learning_rate, momentum, nesterov, ..]) = (c.l2, c.own);
    let nesterov = nesterov != 0.0;
    let [buffer, _] = numbers.state;
    for ((w, &g), buffer) in numbers
        .weights
        .iter_mut()
        .zip(numbers.gradients)
        .zip(buffer)
    {
        let g = clip * g + l2 * *w;
        *buffer = momentum * *buffer + g;
        let by = if nesterov {
            g + momentum * *buffer
        } else {
            *buffer
        };
        *w -= learning_rate * by;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{agrees_with_pytorch, settings};
    use crate::domain::params::Optimizer;

    #[test]
    fn four_steps_as_pytorch_makes_them() {
        let plain = settings(Optimizer::Sgd);
        #[rustfmt::skip]
        let cases = [
            (plain.with(|p| p.momentum = 0.0),
             [0.35570729, 0.28074461, 0.22348525, 0.052694123, -0.25848326, 0.16976626, 0.059113003]),
            (plain.with(|p| p.weight_decay = 0.01),
             [0.1287051, 0.14957955, 0.30710384, 0.27366915, -0.10276657, 0.15969302, 0.24264704]),
            (plain.with(|p| (p.weight_decay, p.nesterov, p.clip_norm) = (0.01, true, 0.5)),
             [0.36966392, 0.25733557, 0.18192691, 0.030426437, -0.24021891, 0.13319074, 0.024409266]),
        ];
        for (case, expected) in cases {
            agrees_with_pytorch(case, expected);
        }
    }
}
