//! Adam with decoupled weight decay (Loshchilov and Hutter, 2017): PyTorch's `torch.optim.AdamW`.

use super::{Coefficients, GroupCoefficients, Rule, adam};
use crate::domain::params::Optimizer;
use crate::domain::report::StepSettings;

pub const RULE: Rule = Rule {
    word: Optimizer::Adamw,
    coefficients,
    ..adam::RULE
};

fn coefficients(settings: &StepSettings, products: &mut [f64]) -> GroupCoefficients {
    let coefficients = Coefficients {
        decay_factor: (1.0 - settings.learning_rate * settings.weight_decay) as f32,
        ..adam::undecayed(settings, products)
    };
    coefficients.for_groups()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{agrees_with_pytorch, settings};
    use crate::domain::params::Optimizer;

    #[test]
    fn four_steps_as_pytorch_makes_them() {
        let case = settings(Optimizer::Adamw).with(|p| p.weight_decay = 0.02);
        agrees_with_pytorch(
            case,
            [
                0.24109483,
                0.13467237,
                0.13825732,
                0.16362149,
                -0.11598225,
                0.048590861,
                0.17420116,
            ],
        );
    }
}
