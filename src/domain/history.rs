//! Series of bounded length that keep all extremes. The values are stored in buckets of equal width in x, each with its
//! mean, smallest, largest and last value. If there are too many buckets, their width doubles and neighbours are
//! merged, so that a million steps need a few thousand buckets and no spike is lost by averaging.

use std::fmt;

/// Maximum number of buckets of a series.
const CAPACITY: usize = 4096;

/// The samples in an interval of x.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// Index of the bucket; it begins at x = `index * width`.
    index: i64,
    /// The last x in it.
    pub x: f64,
    pub min: f64,
    pub max: f64,
    pub last: f64,
    /// Sum of weight * value and of the weights.
    sum: f64,
    weight: f64,
    /// Whether a value in it was NaN or infinite. The statistics cover the finite values only.
    pub broken: bool,
}

impl Bucket {
    /// Weighted mean of its finite values; None when it has none.
    pub fn mean(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }

    fn absorb(&mut self, next: &Bucket) {
        self.x = self.x.max(next.x);
        self.broken |= next.broken;
        if next.weight > 0.0 {
            self.min = self.min.min(next.min);
            self.max = self.max.max(next.max);
            self.last = next.last;
            self.sum += next.sum;
            self.weight += next.weight;
        }
    }
}

/// A bounded series of values over a non-decreasing x.
#[derive(Clone)]
pub struct Series {
    width: f64,
    buckets: Vec<Bucket>,
}

impl fmt::Debug for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Series of {} buckets", self.buckets.len())
    }
}

impl Series {
    /// An empty series with buckets of `width` (above 0) in x.
    pub fn new(width: f64) -> Self {
        Series {
            width,
            buckets: Vec::new(),
        }
    }

    /// Adds the mean of `weight` (above 0) samples between `min` and `max`, ending at `x`. A value that is
    /// not finite marks its bucket as broken.
    pub fn push(&mut self, x: f64, value: f64, min: f64, max: f64, weight: f64) {
        if !x.is_finite() {
            return;
        }
        let finite = value.is_finite();
        let or_value = |v: f64| if v.is_finite() { v } else { value };
        let bucket = Bucket {
            index: (x / self.width).floor() as i64,
            x,
            min: if finite { or_value(min) } else { f64::INFINITY },
            max: if finite {
                or_value(max)
            } else {
                f64::NEG_INFINITY
            },
            last: value,
            sum: if finite { value * weight } else { 0.0 },
            weight: if finite { weight } else { 0.0 },
            broken: !(finite && min.is_finite() && max.is_finite()),
        };
        match self.buckets.last_mut() {
            // A smaller x than before (of a clock or by rounding) goes into the newest bucket.
            Some(last) if bucket.index <= last.index => last.absorb(&bucket),
            _ => self.buckets.push(bucket),
        }
        while self.buckets.len() > CAPACITY {
            self.halve();
        }
    }

    /// Adds a single sample.
    pub fn add(&mut self, x: f64, value: f64) {
        self.push(x, value, value, value, 1.0);
    }

    fn halve(&mut self) {
        self.width *= 2.0;
        let mut merged: Vec<Bucket> = Vec::with_capacity(self.buckets.len() / 2 + 1);
        for mut bucket in self.buckets.drain(..) {
            bucket.index = bucket.index.div_euclid(2);
            match merged.last_mut() {
                Some(last) if last.index == bucket.index => last.absorb(&bucket),
                _ => merged.push(bucket),
            }
        }
        self.buckets = merged;
    }

    /// The buckets in the order of x.
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// The newest value, finite or not.
    pub fn last(&self) -> Option<f64> {
        self.buckets.last().map(|b| b.last)
    }

    /// The largest finite value.
    pub fn max(&self) -> Option<f64> {
        self.buckets
            .iter()
            .filter(|b| b.weight > 0.0)
            .map(|b| b.max)
            .reduce(f64::max)
    }

    /// Means of the buckets, smoothed: (x, value). `smoothing` from 0 (none) to below 1 is the share that the past
    /// keeps over `unit` (above 0) of x, so that a curve looks the same however many buckets it has. The first values
    /// are corrected for the empty past, as in Adam. Smoothing restarts after a broken bucket.
    pub fn smoothed(&self, smoothing: f64, unit: f64) -> Vec<(f64, f64)> {
        let (mut mean, mut mass, mut before) = (0.0, 0.0, None);
        let mut points = Vec::with_capacity(self.buckets.len());
        for bucket in &self.buckets {
            let Some(value) = bucket.mean() else {
                (mean, mass, before) = (0.0, 0.0, None);
                continue;
            };
            let passed = before.map_or(unit, |x: f64| (bucket.x - x).max(0.0));
            let keep = if smoothing > 0.0 {
                smoothing.powf(passed / unit)
            } else {
                0.0
            };
            // Samples at the same x have equal weights.
            let keep = if passed == 0.0 {
                mass / (mass + 1.0)
            } else {
                keep
            };
            mean = keep * mean + (1.0 - keep) * value;
            mass = keep * mass + (1.0 - keep);
            before = Some(bucket.x);
            points.push((bucket.x, if mass > 0.0 { mean / mass } else { value }));
        }
        points
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_steps_stay_small_and_keep_their_extremes() {
        let mut series = Series::new(1e-3);
        for step in 0..1_000_000 {
            let value = match step {
                123_457 => 99.0,
                654_321 => -99.0,
                _ => f64::from(step % 7),
            };
            series.add(f64::from(step) / 1000.0, value);
        }
        assert!(series.buckets().len() <= CAPACITY && series.buckets().len() >= CAPACITY / 4);
        assert_eq!(series.max(), Some(99.0));
        let lowest = series.buckets().iter().map(|b| b.min).reduce(f64::min);
        assert_eq!(lowest, Some(-99.0));
        let spike = series.buckets().iter().find(|b| b.max == 99.0).unwrap();
        assert!((spike.x - 123.457).abs() < 1.0, "{spike:?}");
        assert_eq!(series.last(), Some(f64::from(999_999 % 7)));
        let weight: f64 = series.buckets().iter().map(|b| b.weight).sum();
        assert_eq!(weight, 1e6);
    }

    #[test]
    fn a_value_that_is_not_finite_is_marked_and_spoils_nothing() {
        let mut series = Series::new(1.0);
        series.add(0.5, 2.0);
        series.add(1.5, f64::NAN);
        series.push(2.5, 3.0, 1.0, f64::INFINITY, 4.0);
        let b = series.buckets();
        assert_eq!((b[0].mean(), b[0].broken), (Some(2.0), false));
        assert_eq!((b[1].mean(), b[1].broken), (None, true));
        assert_eq!((b[2].mean(), b[2].broken, b[2].max), (Some(3.0), true, 3.0));
        assert_eq!(series.max(), Some(3.0));
        assert!(series.smoothed(0.9, 1.0).iter().all(|p| p.1.is_finite()));
    }

    #[test]
    fn smoothing_keeps_a_constant_and_halves_noise() {
        let mut flat = Series::new(1.0);
        let mut noise = Series::new(1.0);
        for i in 0..400 {
            flat.add(f64::from(i), 5.0);
            noise.add(f64::from(i), if i % 2 == 0 { 1.0 } else { -1.0 });
        }
        assert!(
            flat.smoothed(0.9, 1.0)
                .iter()
                .all(|p| (p.1 - 5.0).abs() < 1e-9)
        );
        assert!(
            noise.smoothed(0.9, 1.0)[200..]
                .iter()
                .all(|p| p.1.abs() < 0.1)
        );
        assert_eq!(noise.smoothed(0.0, 1.0)[7].1, -1.0);
    }

    #[test]
    fn an_x_that_steps_back_joins_the_newest() {
        let mut series = Series::new(1.0);
        series.add(5.0, 1.0);
        series.add(4.0, 3.0);
        series.add(f64::NAN, 9.0);
        assert_eq!(series.buckets().len(), 1);
        assert_eq!(series.buckets()[0].mean(), Some(2.0));
        assert_eq!(series.buckets()[0].x, 5.0);
    }
}
