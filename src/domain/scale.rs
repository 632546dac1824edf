//! The scale of a chart's y axis.

/// Maximum ratio of the axis to the usual size of a curve.
const MAX_RATIO: f64 = 3.0;

/// The upper end at which an axis is cut off, so that an exploding loss does not flatten the curve before it. `curve`
/// holds the values in view in the order of x. Its usual size is its first value or its median, whichever is larger.
/// None if all of `curve` fits.
pub fn cut_off(curve: &[f64]) -> Option<f64> {
    let mut sorted: Vec<f64> = curve.iter().copied().filter(|v| v.is_finite()).collect();
    let first = *sorted.first()?;
    sorted.sort_by(f64::total_cmp);
    let top = MAX_RATIO * first.max(sorted[sorted.len() / 2]);
    (top > 0.0 && sorted[sorted.len() - 1] > top).then_some(top)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explosion_is_cut_off_and_a_healthy_curve_is_not() {
        let falling = [f64::NAN, 2.3, 1.8, 1.5, 1.2, 1.1];
        assert_eq!(cut_off(&falling), None);
        let explodes = [2.3, 1.8, 1.5, 1.2, 40.0, 2e15, f64::INFINITY];
        assert_eq!(cut_off(&explodes), Some(3.0 * 2.3));
        // If only the explosion is in view, show all of it.
        assert_eq!(cut_off(&[1e15, 2e15, 1.5e15]), None);
        assert_eq!(cut_off(&[]), None);
        assert_eq!(cut_off(&[0.0, 0.0]), None);
    }
}
