//! A curve in one line of eighth blocks.

/// Draws `points` (x, y) as `width` columns over x from `from` to `to`. A column shows the mean of its points, scaled
/// from the smallest value (or `floor`) to the largest. A column without points repeats the previous one; columns after
/// the last point are blank.
pub fn sparkline(
    points: &[(f64, f64)],
    (from, to): (f64, f64),
    width: usize,
    floor: Option<f64>,
) -> String {
    // Without the full block, lines below each other stay separate.
    const BLOCKS: [char; 7] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇'];
    let mut columns = vec![(0.0, 0u32); width];
    let mut end = 0;
    for &(x, y) in points {
        let share = (x - from) / (to - from);
        if y.is_finite() && (0.0..=1.0).contains(&share) && width > 0 {
            let at = ((share * width as f64) as usize).min(width - 1);
            columns[at].0 += y;
            columns[at].1 += 1;
            end = end.max(at + 1);
        }
    }
    let means = columns
        .iter()
        .filter(|c| c.1 > 0)
        .map(|c| c.0 / f64::from(c.1));
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for mean in means {
        (low, high) = (low.min(mean), high.max(mean));
    }
    let low = floor.unwrap_or(low);
    let mut before = ' ';
    let mut text: String = columns[..end]
        .iter()
        .map(|&(sum, n)| {
            if n > 0 {
                let share = if high > low {
                    (sum / f64::from(n) - low) / (high - low)
                } else {
                    0.5
                };
                before = BLOCKS[((share * 7.0) as usize).min(6)];
            }
            before
        })
        .collect();
    text.extend(std::iter::repeat_n(' ', width - end));
    text
}

/// The range of x for a growing curve: from 0 to a power of two, or to `whole` if that is less. It changes seldom, so
/// that drawn columns stay in place, and is always at least 45% full.
pub fn growing(x: f64, whole: f64) -> f64 {
    let wanted = (x / 0.9).max(1.0 / 64.0);
    let power = wanted.log2().ceil().exp2();
    if whole > 0.0 {
        power.min(whole.max(x))
    } else {
        power
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_rises_and_nothing_panics() {
        let ramp: Vec<(f64, f64)> = (0..70).map(|i| (f64::from(i), f64::from(i))).collect();
        let all = (0.0, 70.0);
        assert_eq!(sparkline(&ramp, all, 7, None), "▁▂▃▄▅▆▇");
        assert_eq!(sparkline(&ramp, (0.0, 140.0), 14, None), "▁▂▃▄▅▆▇       ");
        assert_eq!(sparkline(&[], all, 3, None), "   ");
        assert_eq!(sparkline(&ramp, all, 0, None), "");
        assert_eq!(sparkline(&ramp, (0.0, 0.0), 2, None), "  ");
        assert_eq!(sparkline(&[(69.0, 5.0)], all, 2, None), " ▄");
        assert_eq!(sparkline(&[(1.0, f64::NAN)], all, 2, None), "  ");
    }

    #[test]
    fn a_floor_of_zero_keeps_small_changes_small() {
        let flat = [(0.0, 80.0), (1.0, 100.0)];
        assert_eq!(sparkline(&flat, (0.0, 1.0), 2, Some(0.0)), "▆▇");
    }

    #[test]
    fn the_range_of_a_growing_curve_doubles() {
        assert_eq!(growing(0.95, 15.0), 2.0);
        assert_eq!(growing(3.4, 15.0), 4.0);
        assert_eq!(growing(8.0, 15.0), 15.0);
        assert_eq!(growing(0.0, 15.0), 1.0 / 64.0);
        assert_eq!(growing(70.0, 0.0), 128.0);
    }
}
