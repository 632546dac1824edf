//! Adam (Kingma and Ba, 2014), with weight decay as an L2 penalty in the gradient: PyTorch's `torch.optim.Adam`.

use super::{Coefficients, GroupCoefficients, Numbers, Rule};
use crate::domain::params::Optimizer;
use crate::domain::report::StepSettings;

/// Keras's default, ten times PyTorch's. The CUDA text repeats it.
const EPSILON: f32 = 1e-7;

pub const RULE: Rule = Rule {
    word: Optimizer::Adam,
    slots: &["exp_avg", "exp_avg_sq"],
    // The products of all betas so far. For a constant beta this is `beta^t`; for betas that changed on the way it is
    // what makes the bias correction exact (the weights of a running mean add up to one minus this product).
    scalars: &[("beta1_product", 1.0), ("beta2_product", 1.0)],
    coefficients,
    update,
    cuda: "{ \
        const float learning_rate = OWN[0], beta1 = OWN[1], beta2 = OWN[2], one_minus_beta1 = OWN[3], \
                    one_minus_beta2 = OWN[4], inv_sqrt_bias_correction2 = OWN[5]; \
        float mean = beta1 * SLOT(0) + one_minus_beta1 * g; \
        float square = beta2 * SLOT(1) + one_minus_beta2 * (g * g); \
        SLOT(0) = mean; \
        SLOT(1) = square; \
        w = decay_factor * w - learning_rate * (mean / (sqrtf(square) * inv_sqrt_bias_correction2 + 1e-7f)); \
    }",
    flop: 17,
    filters: None,
};

fn coefficients(settings: &StepSettings, products: &mut [f64]) -> GroupCoefficients {
    let coefficients = Coefficients {
        l2: settings.weight_decay as f32,
        ..undecayed(settings, products)
    };
    coefficients.for_groups()
}

/// Adam's coefficients without weight decay.
pub fn undecayed(settings: &StepSettings, products: &mut [f64]) -> Coefficients {
    let (beta1, beta2) = (settings.beta1, settings.beta2);
    products[0] *= beta1;
    products[1] *= beta2;
    Coefficients::new([
        // With the first moment's bias correction.
        (settings.learning_rate / (1.0 - products[0])) as f32,
        beta1 as f32,
        beta2 as f32,
        // Subtracted in f64: in f32, 1 - 0.999 is wrong in the fifth digit.
        (1.0 - beta1) as f32,
        (1.0 - beta2) as f32,
        (1.0 / (1.0 - products[1]).sqrt()) as f32,
    ])
}

pub fn update(c: &Coefficients, clip: f32, numbers: Numbers) {
    let (l2, decay_factor) = (c.l2, c.decay_factor);
    let [
        learning_rate,
        beta1,
        beta2,
        one_minus_beta1,
        one_minus_beta2,
        inv_sqrt_bias_correction2,
        ..,
    ] = c.own;
    let [mean, square] = numbers.state;
    let weights = numbers.weights.iter_mut().zip(numbers.gradients);
    for (((w, &g), mean), square) in weights.zip(mean).zip(square) {
        let g = clip * g + l2 * *w;
        *mean = beta1 * *mean + one_minus_beta1 * g;
        *square = beta2 * *square + one_minus_beta2 * (g * g);
        let root = square.sqrt() * inv_sqrt_bias_correction2 + EPSILON;
        *w = decay_factor * *w - learning_rate * (*mean / root);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{agrees_with_pytorch, settings};
    use crate::domain::params::Optimizer;

    #[test]
    fn four_steps_as_pytorch_makes_them() {
        let adam = settings(Optimizer::Adam);
        #[rustfmt::skip]
        let cases = [
            (adam.clone(),
             [0.24344659, 0.13591091, 0.13861784, 0.1636668, -0.11719868, 0.048590861, 0.17420116]),
            (adam.with(|p| (p.weight_decay, p.clip_norm) = (0.02, 0.7)),
             [0.24221569, 0.13448647, 0.13759887, 0.16338921, -0.11620381, 0.048267722, 0.17443597]),
        ];
        for (case, expected) in cases {
            agrees_with_pytorch(case, expected);
        }
    }
}
