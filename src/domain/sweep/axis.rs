//! The axes of a sweep: a hyperparameter and the values to try, as a user types them.

use super::{MAX_TRIALS, SweepError};
use crate::domain::params::{self, HyperParam, Value, ValueKind};
use crate::domain::rng::Rng;

/// Number of points of a range of real numbers whose text gives none.
const POINTS: usize = 3;

/// A hyperparameter and the values to try.
#[derive(Clone, Debug)]
pub struct Axis {
    pub row: &'static HyperParam,
    pub values: AxisValues,
}

#[derive(Clone, Debug, PartialEq)]
pub enum AxisValues {
    List(Vec<Value>),
    Range(Range),
}

/// All numbers between two ends, both included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    pub from: f64,
    pub to: f64,
    /// Spaced by equal factors instead of equal differences.
    pub log: bool,
    /// Number of points in a grid. None: [`POINTS`] real numbers, or every whole number.
    pub points: Option<usize>,
    /// Whether only whole numbers are allowed.
    pub whole: bool,
}

impl Axis {
    /// Parses `KEY=VALUES`. VALUES are `a,b,c`, or a range `A..B [log] [N]`. The values of a text, which may contain
    /// commas, are separated by semicolons.
    ///
    /// # Errors
    /// Returns an error if there is no such hyperparameter, or a value is not allowed or given twice.
    pub fn parse(text: &str) -> Result<Self, SweepError> {
        let (key, values) = text
            .split_once('=')
            .ok_or_else(|| SweepError::Syntax(text.into()))?;
        Self::of(params::find(key.trim())?, values)
    }

    /// The axis of a hyperparameter with these VALUES; see [`Axis::parse`].
    ///
    /// # Errors
    /// Returns an error if a value is not allowed or given twice.
    pub fn of(row: &'static HyperParam, values: &str) -> Result<Self, SweepError> {
        let values = match range_of(row, values)? {
            Some(range) => AxisValues::Range(range),
            None => AxisValues::List(list_of(row, values)?),
        };
        Ok(Axis { row, values })
    }

    /// The values of a grid.
    pub fn points(&self) -> Vec<Value> {
        match &self.values {
            AxisValues::List(values) => values.clone(),
            AxisValues::Range(range) => range.points(),
        }
    }

    /// A random value, uniform over the list or the range (its logarithm with `log`). `index` is that of the random
    /// number.
    pub fn draw(&self, rng: &Rng, index: u32) -> Value {
        match &self.values {
            AxisValues::List(values) => {
                values[rng.below(index, values.len().max(1) as u32) as usize].clone()
            }
            AxisValues::Range(range) => range.draw(rng.uniform(index).into()),
        }
    }

    /// A value near `value`: a number of a range times 0.8 or 1.25, or the neighbour in a list of numbers. Words keep
    /// theirs.
    pub fn perturbed(&self, value: &Value, up: bool) -> Value {
        match (&self.values, number(value)) {
            (AxisValues::Range(range), Some(number)) => range.perturbed(number, up),
            (AxisValues::List(values), Some(_)) => {
                let mut sorted: Vec<&Value> = values.iter().collect();
                sorted.sort_by(|a, b| {
                    number(a)
                        .partial_cmp(&number(b))
                        .unwrap_or(std::cmp::Ordering::Equal)
                });
                let at = sorted.iter().position(|other| *other == value);
                let at = at.unwrap_or_default();
                let next = match up {
                    true => (at + 1).min(sorted.len() - 1),
                    false => at.saturating_sub(1),
                };
                sorted[next].clone()
            }
            (_, None) => value.clone(),
        }
    }

    /// Whether the axis is drawn with a logarithmic scale.
    pub fn is_log(&self) -> bool {
        match &self.values {
            AxisValues::Range(range) => range.log,
            AxisValues::List(values) => {
                let numbers: Option<Vec<f64>> = values.iter().map(number).collect();
                let bounds = numbers.map(|all| {
                    all.iter().fold((f64::INFINITY, 0f64), |(low, high), n| {
                        (low.min(*n), high.max(*n))
                    })
                });
                bounds.is_some_and(|(low, high)| low > 0.0 && high >= 10.0 * low)
            }
        }
    }
}

/// The number that a value is, if it is one.
pub fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Int(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        Value::Bool(_) | Value::Text(_) => None,
    }
}

impl Range {
    fn points(&self) -> Vec<Value> {
        let span = (self.to - self.from).abs();
        let count = match (self.points, self.whole) {
            (Some(points), _) => points,
            (None, true) if !self.log => span as usize + 1,
            (None, _) => POINTS,
        };
        let mut points: Vec<Value> = Vec::new();
        for i in 0..count {
            let point = self.value(self.at(i as f64 / (count - 1).max(1) as f64));
            // Neighbouring points may round to the same whole number.
            if points.last() != Some(&point) {
                points.push(point);
            }
        }
        points
    }

    fn draw(&self, share: f64) -> Value {
        // Each whole number has the same share of the interval, also those at its ends.
        match self.whole && !self.log {
            true => {
                let count = (self.to - self.from).abs() + 1.0;
                let (low, high) = (self.from.min(self.to), self.from.max(self.to));
                Value::Int((low + (share * count).floor()).min(high) as u64)
            }
            false => self.value(self.at(share)),
        }
    }

    fn perturbed(&self, number: f64, up: bool) -> Value {
        let factor = if up { 1.25 } else { 0.8 };
        let (low, high) = (self.from.min(self.to), self.from.max(self.to));
        let mut moved = number * factor;
        if self.whole {
            let least = if up { number + 1.0 } else { number - 1.0 };
            moved = if up {
                moved.max(least)
            } else {
                moved.min(least)
            };
        }
        self.value(moved.clamp(low, high))
    }

    /// The number at a share of the way from one end to the other.
    fn at(&self, share: f64) -> f64 {
        match (share, self.log) {
            (0.0, _) => self.from,
            (1.0, _) => self.to,
            (_, true) => self.from * (self.to / self.from).powf(share),
            (_, false) => self.from + (self.to - self.from) * share,
        }
    }

    fn value(&self, number: f64) -> Value {
        match self.whole {
            true => Value::Int(number.round() as u64),
            // Four significant digits are enough to try, and can be read.
            false => Value::Float(format!("{number:.3e}").parse().unwrap_or(number)),
        }
    }
}

/// The range that the text describes. None if it has no `..`.
fn range_of(row: &HyperParam, text: &str) -> Result<Option<Range>, SweepError> {
    let whole = match row.kind {
        ValueKind::Int { .. } => true,
        ValueKind::Float { .. } => false,
        ValueKind::Bool | ValueKind::Choice(_) | ValueKind::Text(_) => return Ok(None),
    };
    let Some((from, rest)) = text.split_once("..") else {
        return Ok(None);
    };
    let wrong = |why: String| SweepError::Values {
        key: row.key.into(),
        why,
    };
    let mut words = rest.split_whitespace();
    let end = |text: &str| -> Result<f64, SweepError> {
        Ok(number(&row.parse(text)?).unwrap_or_default())
    };
    let mut range = Range {
        from: end(from)?,
        to: end(words.next().unwrap_or_default())?,
        log: false,
        points: None,
        whole,
    };
    for word in words {
        match (word, word.parse::<usize>()) {
            ("log", _) if !range.log => range.log = true,
            (_, Ok(points)) if range.points.is_none() && (2..=MAX_TRIALS).contains(&points) => {
                range.points = Some(points);
            }
            _ => {
                return Err(wrong(format!(
                    "'{word}' cannot follow the range {}..{}: `log` can, and the number of points, 2 to {MAX_TRIALS}",
                    row.show(&range.value(range.from)),
                    row.show(&range.value(range.to)),
                )));
            }
        }
    }
    if range.from == range.to {
        return Err(wrong("both ends of the range are the same".into()));
    }
    if range.log && range.from.min(range.to) <= 0.0 {
        return Err(wrong("a range with `log` must begin above 0".into()));
    }
    if whole
        && range.points.is_none()
        && !range.log
        && (range.to - range.from).abs() >= MAX_TRIALS as f64
    {
        return Err(wrong(format!(
            "the range holds more than {MAX_TRIALS} whole numbers; say how many to try: `{}..{} 5`",
            range.from, range.to
        )));
    }
    Ok(Some(range))
}

fn list_of(row: &HyperParam, text: &str) -> Result<Vec<Value>, SweepError> {
    let parts: Vec<&str> = match row.kind {
        ValueKind::Text(_) if text.contains(';') => text.split(';').collect(),
        // One architecture, whose layers are separated by commas.
        ValueKind::Text(_) if row.parse(text).is_ok() => vec![text],
        _ => text.split(',').collect(),
    };
    let mut values = Vec::new();
    for part in parts {
        let value = row.parse(part)?;
        if values.contains(&value) {
            return Err(SweepError::Values {
                key: row.key.into(),
                why: format!("{value} is given twice"),
            });
        }
        values.push(value);
    }
    Ok(values)
}
