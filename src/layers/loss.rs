//! Softmax and cross-entropy with label smoothing, for one image at a time.

/// Replaces the logits by their probabilities (softmax) and returns the cross-entropy: -sum of target * ln probability.
/// The target is smoothing / classes for every class, plus (1 - smoothing) for `label` (PyTorch's `label_smoothing`).
/// If a logit is not finite, the loss is NaN.
pub fn cross_entropy(logits: &mut [f32], label: usize, smoothing: f32) -> f64 {
    let largest = f64::from(logits.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b)));
    let mut sum = 0.0f64;
    let mut mean = 0.0f64;
    let own = f64::from(logits[label]) - largest;
    for logit in logits.iter_mut() {
        let centred = f64::from(*logit) - largest;
        let e = centred.exp();
        mean += centred;
        sum += e;
        *logit = e as f32;
    }
    mean /= logits.len() as f64;
    for p in logits.iter_mut() {
        *p = (f64::from(*p) / sum) as f32;
    }
    let smoothing = f64::from(smoothing);
    // ln p_c = centred_c - ln sum. Without smoothing, `mean` is not used: it is -inf if a class has probability zero.
    let spread = if smoothing > 0.0 {
        smoothing * mean
    } else {
        0.0
    };
    sum.ln() - (1.0 - smoothing) * own - spread
}

/// Replaces the probabilities by the gradient of `scale` times the cross-entropy with respect to the logits.
pub fn gradient(probabilities: &mut [f32], label: usize, smoothing: f32, scale: f32) {
    let spread = smoothing / probabilities.len() as f32;
    for (class, p) in probabilities.iter_mut().enumerate() {
        let own = if class == label { 1.0 - smoothing } else { 0.0 };
        *p = (*p - own - spread) * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{D, Device, Tensor};
    use candle_nn::ops::{log_softmax, softmax};

    #[test]
    fn agrees_with_candle_and_its_own_differences() {
        let logits = [
            [0.3f32, -2.0, 5.0, 1.0],
            [100.0, -100.0, 0.0, 99.0],
            [0.0; 4],
        ];
        for (i, line) in logits.iter().enumerate() {
            for smoothing in [0.0f32, 0.1, 0.9] {
                for label in 0..4 {
                    let mut p = *line;
                    let loss = cross_entropy(&mut p, label, smoothing);
                    let x = Tensor::new(line, &Device::Cpu).unwrap();
                    let expected: Vec<f32> = softmax(&x, D::Minus1).unwrap().to_vec1().unwrap();
                    assert!(p.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6));
                    let ln: Vec<f32> = log_softmax(&x, D::Minus1).unwrap().to_vec1().unwrap();
                    let expected: f32 =
                        -(1.0 - smoothing) * ln[label] - smoothing / 4.0 * ln.iter().sum::<f32>();
                    assert!(
                        (loss - f64::from(expected)).abs() < 1e-5 * f64::from(expected.abs() + 1.0),
                        "{i} {label} {smoothing}: {loss} {expected}"
                    );
                    gradient(&mut p, label, smoothing, 2.0);
                    for class in 0..4 {
                        let at = |value: f32| {
                            let mut x = *line;
                            x[class] = value;
                            cross_entropy(&mut x, label, smoothing)
                        };
                        // Divide by the actual difference, which in f32 is not exactly 0.02.
                        let (up, down) = (line[class] + 0.01, line[class] - 0.01);
                        let slope = (at(up) - at(down)) / f64::from(up - down) * 2.0;
                        assert!(
                            (slope - f64::from(p[class])).abs() < 1e-3,
                            "{slope} {}",
                            p[class]
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_shows() {
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(cross_entropy(&mut [0.0, bad, 1.0], 0, 0.0).is_nan());
        }
        assert!(cross_entropy(&mut [0.0, f32::NEG_INFINITY, 1.0], 1, 0.0).is_infinite());
        assert!(cross_entropy(&mut [0.0, f32::NEG_INFINITY], 0, 0.0).is_finite());
    }
}
