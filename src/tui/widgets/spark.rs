//! A curve in one line of eighth blocks.

/// `points` (x, y) as `width` columns over the extent of their x, each the mean of what falls on it, scaled from the
/// smallest (or `floor`) to the largest value shown. Columns without a value repeat the one before.
pub fn sparkline(points: &[(f64, f64)], width: usize, floor: Option<f64>) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let points: Vec<(f64, f64)> = points
        .iter()
        .copied()
        .filter(|p| p.0.is_finite() && p.1.is_finite())
        .collect();
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return " ".repeat(width);
    };
    let extent = (last.0 - first.0).max(f64::MIN_POSITIVE);
    let mut columns = vec![(0.0, 0u32); width];
    for &(x, y) in &points {
        let at = ((x - first.0) / extent * width as f64) as usize;
        if let Some(column) = columns.get_mut(at.min(width.saturating_sub(1))) {
            column.0 += y;
            column.1 += 1;
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
    columns
        .iter()
        .map(|&(sum, n)| {
            if n > 0 {
                let share = if high > low {
                    (sum / f64::from(n) - low) / (high - low)
                } else {
                    0.5
                };
                before = BLOCKS[((share * 8.0) as usize).min(7)];
            }
            before
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_rises_and_nothing_panics() {
        let ramp: Vec<(f64, f64)> = (0..80).map(|i| (f64::from(i), f64::from(i))).collect();
        assert_eq!(sparkline(&ramp, 8, None), "▁▂▃▄▅▆▇█");
        assert_eq!(sparkline(&[], 3, None), "   ");
        assert_eq!(sparkline(&ramp, 0, None), "");
        assert_eq!(sparkline(&[(1.0, 5.0)], 3, None), "▅▅▅");
        assert_eq!(sparkline(&[(1.0, f64::NAN)], 2, None), "  ");
    }

    #[test]
    fn a_floor_of_zero_keeps_small_changes_small() {
        let flat = [(0.0, 99.0), (1.0, 100.0)];
        assert_eq!(sparkline(&flat, 2, Some(0.0)), "▇█");
    }
}
