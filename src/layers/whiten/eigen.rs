//! Eigenvalues and eigenvectors of small symmetric matrices.

/// Sweeps over all pairs of rows, at most. Convergence is quadratic: a 12x12 matrix takes six to eight.
const MAX_SWEEPS: usize = 64;

/// Eigenvalues in ascending order, each with its eigenvector of length 1, by cyclic Jacobi rotations (Golub, Van Loan:
/// "Matrix Computations", section 8.5). The number of largest size in each vector is positive. Only numbers that are not
/// finite keep the rotations from converging; the results are then not finite either.
pub fn symmetric<const N: usize>(matrix: &[[f64; N]; N]) -> [(f64, [f64; N]); N] {
    let mut a = *matrix;
    // Row i is the vector of a[i][i].
    let mut vectors = [[0.0; N]; N];
    for (i, vector) in vectors.iter_mut().enumerate() {
        vector[i] = 1.0;
    }
    for _ in 0..MAX_SWEEPS {
        let above = |a: &[[f64; N]; N]| -> f64 {
            let rows = a.iter().enumerate();
            rows.flat_map(|(i, row)| &row[i + 1..]).map(|v| v * v).sum()
        };
        if above(&a) == 0.0 {
            break;
        }
        for p in 0..N {
            for q in p + 1..N {
                rotate(&mut a, &mut vectors, p, q);
            }
        }
    }
    let mut pairs: [(f64, [f64; N]); N] = std::array::from_fn(|i| (a[i][i], vectors[i]));
    pairs.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    for (_, vector) in &mut pairs {
        let largest = vector.iter().fold(
            0.0f64,
            |most, &v| if v.abs() > most.abs() { v } else { most },
        );
        if largest < 0.0 {
            for v in vector {
                *v = -*v;
            }
        }
    }
    pairs
}

/// Turns rows and columns `p` and `q` so that `a[p][q]` becomes zero.
fn rotate<const N: usize>(a: &mut [[f64; N]; N], vectors: &mut [[f64; N]; N], p: usize, q: usize) {
    // Beside the numbers on the diagonal this one changes nothing.
    let negligible = a[p][q].abs() <= f64::EPSILON * f64::EPSILON * (a[p][p].abs() + a[q][q].abs());
    if a[p][q] == 0.0 || negligible {
        (a[p][q], a[q][p]) = (0.0, 0.0);
        return;
    }
    let ratio = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
    let tangent = ratio.signum() / (ratio.abs() + ratio.hypot(1.0));
    let cosine = 1.0 / tangent.hypot(1.0);
    let sine = tangent * cosine;
    let turn = |x: &mut f64, y: &mut f64| {
        (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
    };
    for row in a.iter_mut() {
        let (left, right) = row.split_at_mut(q);
        turn(&mut left[p], &mut right[0]);
    }
    for matrix in [&mut *a, vectors] {
        let (above, below) = matrix.split_at_mut(q);
        for (x, y) in above[p].iter_mut().zip(&mut below[0]) {
            turn(x, y);
        }
    }
    (a[p][q], a[q][p]) = (0.0, 0.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // [[2, 1], [1, 2]] has 1 with (1, -1) / sqrt 2 and 3 with (1, 1) / sqrt 2.
        let [(one, first), (three, second)] = symmetric(&[[2.0, 1.0], [1.0, 2.0]]);
        let root = 0.5f64.sqrt();
        assert!((one - 1.0).abs() < 1e-15 && (three - 3.0).abs() < 1e-15);
        assert!(first.map(f64::abs).iter().all(|v| (v - root).abs() < 1e-15));
        assert!(first[0] * first[1] < 0.0);
        assert!(
            second.iter().all(|v| (v - root).abs() < 1e-15),
            "{second:?}"
        );
        // The chain 2, -1: 2 - 2 cos(k pi / 13) for k = 1 to 12.
        let chain: [[f64; 12]; 12] = std::array::from_fn(|i| {
            std::array::from_fn(|j| match i.abs_diff(j) {
                0 => 2.0,
                1 => -1.0,
                _ => 0.0,
            })
        });
        for (k, (value, vector)) in (1..).zip(symmetric(&chain)) {
            let exact = 2.0 - 2.0 * (f64::from(k) * std::f64::consts::PI / 13.0).cos();
            assert!((value - exact).abs() < 1e-14, "{value} {exact}");
            let length: f64 = vector.iter().map(|v| v * v).sum();
            assert!((length - 1.0).abs() < 1e-14);
            for (row, v) in chain.iter().zip(vector) {
                let product: f64 = row.iter().zip(vector).map(|(a, b)| a * b).sum();
                assert!((product - value * v).abs() < 1e-14);
            }
        }
    }

    #[test]
    fn diagonal_and_broken_matrices() {
        let diagonal = [[3.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, -1.0]];
        let pairs = symmetric(&diagonal);
        assert_eq!(pairs.map(|(value, _)| value), [-1.0, 0.0, 3.0]);
        assert_eq!(pairs[2].1, [1.0, 0.0, 0.0]);
        let broken = symmetric(&[[f64::NAN, 1.0], [1.0, 0.0]]);
        assert!(broken.iter().any(|(value, _)| !value.is_finite()));
    }
}
