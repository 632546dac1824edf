//! Muon: the filters of each convolution, as a matrix, move by their orthogonalised momentum, and their norm is fixed.
//! All other parameters move by SGD with Nesterov's momentum.
//!
//! Jordan and others: "Muon: An optimizer for hidden layers in neural networks", 2024; this is the variant of
//! airbench94_muon (github.com/KellerJordan/cifar10-airbench), which makes three Newton-Schulz steps and gives every matrix
//! the Frobenius norm sqrt(rows) before it moves.

use super::MatrixArgument::{
    self, First, Gradients, Matrices, Parts, Pieces, Polynomials, Products, Second, Squares, State,
    Step, WeightScales, Weights,
};
use super::{
    Coefficients, GroupCoefficients, MatrixGrid, MatrixLaunch, MatrixRule, Numbers, Rule, sgd,
};
use crate::domain::params::{Optimizer, ParameterGroup};
use crate::domain::report::StepSettings;
use crate::hardware::executor::Cost;
use crate::hardware::threads::{SharedSlice, Threads};

/// The coefficients of the quintic that each Newton-Schulz step applies to the singular values. The CUDA text repeats
/// them.
const QUINTIC: [f32; 3] = [3.4445, -4.7750, 2.0315];
/// Newton-Schulz steps.
const STEPS: usize = 3;
/// Added to the norm that the matrix is divided by. The CUDA text repeats it.
const EPSILON: f64 = 1e-7;

pub const RULE: Rule = Rule {
    word: Optimizer::Muon,
    slots: &["momentum_buffer"],
    scalars: &[],
    coefficients,
    update: sgd::update,
    cuda: sgd::CUDA,
    flop: sgd::FLOP,
    filters: Some(MatrixRule {
        update,
        source: concat!(include_str!("pieces.cuh"), include_str!("muon.cu")),
        launches: &[
            LOOK_AHEAD,
            NORMALISE,
            square(&[Matrices, First, Products]),
            POLYNOMIAL,
            transform(&[Matrices, First, Polynomials, Second]),
            square(&[Matrices, Second, Products]),
            POLYNOMIAL,
            transform(&[Matrices, Second, Polynomials, First]),
            square(&[Matrices, First, Products]),
            POLYNOMIAL,
            transform(&[Matrices, First, Polynomials, Second]),
        ],
        cuda: "{ \
            const float learning_rate = OWN[0], momentum = OWN[1]; \
            SLOT(0) = momentum * SLOT(0) + g; \
            w = weight_scale * w - learning_rate * direction; \
        }",
        flop: 8,
    }),
};

const LOOK_AHEAD: MatrixLaunch = MatrixLaunch {
    entry: "look_ahead",
    grid: MatrixGrid::Pieces,
    arguments: &[
        Step, Pieces, Weights, Gradients, State, Squares, First, Parts,
    ],
    // Five operations for the momentum, two for each of the sums.
    cost: |small, large| Cost::of_f32(4 * small * large, 9 * small * large),
};

const NORMALISE: MatrixLaunch = MatrixLaunch {
    entry: "normalise",
    grid: MatrixGrid::Pieces,
    arguments: &[Pieces, Matrices, First, Parts, WeightScales],
    cost: |small, large| Cost::of_f32(2 * small * large, small * large),
};

const POLYNOMIAL: MatrixLaunch = MatrixLaunch {
    entry: "polynomial",
    grid: MatrixGrid::Squares,
    arguments: &[Matrices, Products, Polynomials],
    cost: |small, _| {
        let square = small * small;
        Cost::of_f32(2 * square, 2 * square * small + 3 * square)
    },
};

const fn square(arguments: &'static [MatrixArgument]) -> MatrixLaunch {
    MatrixLaunch {
        entry: "square",
        grid: MatrixGrid::Squares,
        arguments,
        cost: |small, large| Cost::of_f32(small * (large + small), 2 * small * small * large),
    }
}

const fn transform(arguments: &'static [MatrixArgument]) -> MatrixLaunch {
    MatrixLaunch {
        entry: "transform",
        grid: MatrixGrid::Matrices,
        arguments,
        cost: |small, large| {
            let flop = 2 * small * small * large + 2 * small * large;
            Cost::of_f32(small * small + 2 * small * large, flop)
        },
    }
}

fn coefficients(settings: &StepSettings, _: &mut [f64]) -> GroupCoefficients {
    ParameterGroup::ALL.map(|group| {
        let rate = settings.rates[group as usize];
        let own = |momentum: f64| [rate.effective as f32, momentum as f32, 1.0];
        match group {
            ParameterGroup::Filters => Coefficients::new(own(settings.momentum)),
            ParameterGroup::Dense | ParameterGroup::Biases | ParameterGroup::Whitening => {
                // `weight_decay` is the share that is taken off at the base rate.
                let l2 = match rate.base > 0.0 {
                    true => settings.weight_decay / rate.base,
                    false => 0.0,
                };
                Coefficients {
                    l2: l2 as f32,
                    ..Coefficients::new(own(settings.sgd_momentum))
                }
            }
        }
    })
}

/// The step of one matrix.
fn update(c: &Coefficients, clip: f32, shape: [usize; 2], numbers: Numbers, threads: &Threads) {
    let [learning_rate, momentum, ..] = c.own;
    let [buffer, _] = numbers.state;
    let mut direction = Vec::with_capacity(numbers.gradients.len());
    for (buffer, &g) in buffer.iter_mut().zip(numbers.gradients) {
        let g = clip * g;
        *buffer = momentum * *buffer + g;
        direction.push(g + momentum * *buffer);
    }
    orthogonalise(&mut direction, shape, threads);
    let norm = norm(numbers.weights);
    let weight_scale = match norm > 0.0 {
        true => ((shape[0] as f64).sqrt() / norm) as f32,
        false => 1.0,
    };
    for (w, direction) in numbers.weights.iter_mut().zip(direction) {
        *w = weight_scale * *w - learning_rate * direction;
    }
}

/// The Frobenius norm, summed in f64.
fn norm(matrix: &[f32]) -> f64 {
    let squares = matrix.iter().map(|&x| f64::from(x) * f64::from(x));
    squares.sum::<f64>().sqrt()
}

/// Brings the singular values of a matrix (`[rows, columns]`, row-major) near 1 and keeps its singular vectors: divides
/// it by its norm and makes [`STEPS`] Newton-Schulz steps.
fn orthogonalise(matrix: &mut [f32], shape: [usize; 2], threads: &Threads) {
    let scale = (1.0 / (norm(matrix) + EPSILON)) as f32;
    for x in matrix.iter_mut() {
        *x *= scale;
    }
    let x = View::with_fewer_rows(shape);
    let (small, large) = (x.rows, x.columns);
    let square = View {
        rows: small,
        columns: small,
        row_stride: small,
        column_stride: 1,
    };
    let mut products = vec![0.0; small * small];
    let mut polynomial = vec![0.0; small * small];
    let mut next = vec![0.0; small * large];
    let [a, b, c] = QUINTIC;
    for _ in 0..STEPS {
        product(
            &mut products,
            square,
            (matrix, x),
            (matrix, x.turned()),
            threads,
        );
        product(
            &mut polynomial,
            square,
            (&products, square),
            (&products, square),
            threads,
        );
        for (p, s) in polynomial.iter_mut().zip(&products) {
            *p = b * s + c * *p;
        }
        product(&mut next, x, (&polynomial, square), (matrix, x), threads);
        for (x, next) in matrix.iter_mut().zip(&next) {
            *x = a * *x + next;
        }
    }
}

/// How a matrix lies in memory.
#[derive(Clone, Copy)]
struct View {
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl View {
    /// A row-major matrix of this shape, or its transpose if that has fewer rows.
    fn with_fewer_rows([rows, columns]: [usize; 2]) -> Self {
        let view = View {
            rows,
            columns,
            row_stride: columns,
            column_stride: 1,
        };
        if rows > columns { view.turned() } else { view }
    }

    /// The transpose.
    fn turned(self) -> Self {
        View {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

/// Rows of a result that one task computes. Fixed, so that the numbers do not depend on the threads.
const ROWS: usize = 64;

/// Writes the product of two matrices to `to`.
fn product(
    to: &mut [f32],
    shape: View,
    (a, a_shape): (&[f32], View),
    (b, b_shape): (&[f32], View),
    threads: &Threads,
) {
    // The tasks cut the result along its longer side, whose length both halves of a product then share.
    let by_columns = shape.columns > shape.rows;
    let length = if by_columns {
        shape.columns
    } else {
        shape.rows
    };
    let to = SharedSlice::new(to);
    threads.run(length.div_ceil(ROWS), |i| {
        let first = i * ROWS;
        let count = ROWS.min(length - first);
        let (rows, columns) = match by_columns {
            true => ((0, shape.rows), (first, count)),
            false => ((first, count), (0, shape.columns)),
        };
        // SAFETY: tasks write different elements of `to`, all within the matrix that `shape` describes; the operands
        // are as large as their shapes say, and `gemm` reads no further.
        unsafe {
            let to = to.range(0..to.len()).as_mut_ptr();
            gemm::gemm(
                rows.1,
                columns.1,
                a_shape.columns,
                to.add(rows.0 * shape.row_stride + columns.0 * shape.column_stride),
                shape.column_stride as isize,
                shape.row_stride as isize,
                false,
                a.as_ptr().add(rows.0 * a_shape.row_stride),
                a_shape.column_stride as isize,
                a_shape.row_stride as isize,
                b.as_ptr().add(columns.0 * b_shape.column_stride),
                b_shape.column_stride as isize,
                b_shape.row_stride as isize,
                0.0f32,
                1.0f32,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::params::Hyperparameters;
    use crate::optimizers::MAX_SLOTS;

    /// Name, shape, group, and the float64 values of tests/reference/muon.py (PyTorch 2.15).
    type Case = (
        &'static str,
        &'static [usize],
        ParameterGroup,
        &'static [f64],
    );
    #[rustfmt::skip]
    const CASES: &[Case] = &[
        ("wide", &[4, 2, 3, 3], ParameterGroup::Filters,
         &[0.2891260, 0.2595750, 0.0348180, -0.2779977, 0.2705361, -0.3128405, 0.2075605, 0.2260427, 0.0622654,
           0.0367892, 0.2175255, 0.2021379, -0.2813759, 0.3023350, -0.2808802, 0.0168505, 0.2772525, 0.2707078,
           0.2702776, -0.0090005, -0.2933039, 0.2824200, -0.2978484, 0.1994631, 0.2760345, 0.1129941, 0.1020096,
           0.2816569, 0.1592443, -0.2945876, 0.2920836, -0.2773255, -0.1002617, 0.1919013, 0.2589160, 0.2106506,
           -0.1437763, -0.2238657, 0.2969358, -0.2705472, 0.0564910, 0.3106941, 0.2402807, 0.2535153, 0.3322029,
           -0.0076437, -0.2342879, 0.2584353, -0.1322674, -0.2341849, 0.0603577, 0.1688818, 0.0356231, -0.2839047,
           -0.0566599, 0.1760039, -0.1450293, -0.1247396, 0.2360625, 0.3287552, 0.3119415, 0.2077980, -0.2098209,
           -0.0272553, 0.0607143, 0.0903755, -0.2940975, -0.1964364, -0.0793860, -0.1870652, -0.2873189, 0.1875343]),
        ("tall", &[6, 1, 2, 2], ParameterGroup::Filters,
         &[-0.2684409, -0.4908757, -0.7869143, 0.4743759, -0.0246170, 0.1929315, -0.7066496, 0.1685509, 0.6722274,
           0.5989208, 0.1243107, -0.6627403, 0.1687329, -0.0146910, 0.4684185, -0.6059724, -0.5587244, -0.5024432,
           -0.5296414, -0.6837271, 0.5673706, -0.1864805, 0.2931467, -0.6969526]),
        ("dense", &[3, 2], ParameterGroup::Dense,
         &[2.4105127, 2.7497573, 1.6020821, -2.6280529, 1.7597426, -2.1322148]),
        ("bias", &[3], ParameterGroup::Biases,
         &[0.5966760, 0.8790087, 0.9428414]),
    ];

    /// What tests/reference/muon.py computes too: step 0 is the weight, later ones gradients.
    fn values(shape: &[usize], step: u32, name: &str) -> Vec<f32> {
        let salt = (name.len() + shape[0]) as f64;
        let value = |i: usize| (0.37 * (i * i) as f64 + salt + 1.3 * f64::from(step)).sin() as f32;
        (0..shape.iter().product()).map(value).collect()
    }

    fn settings(step: u32) -> StepSettings {
        let params = Hyperparameters {
            optimizer: Optimizer::Muon,
            learning_rate: 0.24,
            momentum: 0.6,
            sgd_momentum: 0.85,
            bias_rate: 0.053,
            head_rate: 0.67,
            weight_decay: 0.004,
            ..Hyperparameters::default()
        };
        let mut rates = params.base_rates();
        for rate in &mut rates {
            rate.effective *= if step < 3 { 1.0 } else { 0.5 };
        }
        StepSettings::new(&params, rates, step.into(), 1)
    }

    #[test]
    fn four_steps_as_pytorch_makes_them_in_double_precision() {
        let threads = Threads::new(2);
        for (name, shape, group, expected) in CASES {
            let mut weights = values(shape, 0, name);
            let mut buffer = vec![0.0; weights.len()];
            for step in 1..=4 {
                let gradients = values(shape, step, name);
                // A gradient twice as large, clipped to its half.
                let gradients: Vec<f32> = gradients.iter().map(|g| 2.0 * g).collect();
                let c = &coefficients(&settings(step), &mut [])[*group as usize];
                let mut state: [&mut [f32]; MAX_SLOTS] = Default::default();
                state[0] = &mut buffer;
                let numbers = Numbers {
                    weights: &mut weights,
                    gradients: &gradients,
                    state,
                };
                match group {
                    ParameterGroup::Filters => {
                        let columns = shape[1..].iter().product();
                        super::update(c, 0.5, [shape[0], columns], numbers, &threads);
                    }
                    _ => (RULE.update)(c, 0.5, numbers),
                }
            }
            for (ours, expected) in weights.iter().zip(*expected) {
                assert!(
                    (f64::from(*ours) - expected).abs() < 2e-5,
                    "{name}: {weights:?}"
                );
            }
            assert_eq!(weights.len(), expected.len());
        }
    }

    #[test]
    fn singular_values_come_near_one_and_the_numbers_do_not_depend_on_the_threads() {
        for shape in [[70, 200], [130, 27], [1, 9], [64, 64]] {
            let matrix = values(&shape, 3, "any");
            let mut one = matrix.clone();
            orthogonalise(&mut one, shape, &Threads::new(1));
            let mut three = matrix.clone();
            orthogonalise(&mut three, shape, &Threads::new(3));
            assert_eq!(one, three, "{shape:?}");
            // Orthogonal rows of norm 1 would give the square root of the shorter side; the quintic leaves singular
            // values between 0.3 (those that were small) and 1.2.
            let small = shape[0].min(shape[1]) as f64;
            let norm = norm(&one);
            assert!(
                norm < 1.25 * small.sqrt() && norm > 0.3,
                "{shape:?}: {norm}"
            );
        }
    }

    #[test]
    fn weights_of_zero_get_no_scale_and_a_rate_of_zero_moves_nothing_else() {
        let mut weights = vec![0.0; 8];
        let mut buffer = vec![0.0; 8];
        let c = Coefficients::new([0.5, 0.9]);
        let numbers = Numbers {
            weights: &mut weights,
            gradients: &[0.0; 8],
            state: [&mut buffer, &mut []],
        };
        super::update(&c, 1.0, [2, 4], numbers, &Threads::new(1));
        assert_eq!(weights, [0.0; 8]);
        let mut settings = settings(1);
        settings.rates[ParameterGroup::Dense as usize].base = 0.0;
        let coefficients = coefficients(&settings, &mut []);
        assert_eq!(coefficients[ParameterGroup::Dense as usize].l2, 0.0);
    }
}
