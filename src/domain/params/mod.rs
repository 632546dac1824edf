//! The hyperparameters and their table HYPERPARAMS, which defines the name, help, unit, range, step and time of effect of
//! each. The panel, config.toml, the flags, the checkpoint and the docs are generated from the table.

mod choices;
mod table;
#[cfg(test)]
mod tests;

pub use choices::{
    CropPadding, Flip, LossReduction, NumberFormat, Optimizer, Precision, Schedule, Tta, Weights,
};
pub use table::{HYPERPARAMS, Hyperparameters};

use super::report::Split;
use super::text::nearest;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The parts of a network that an optimizer may treat differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ParameterGroup {
    /// Weights of convolutions.
    Filters,
    /// Weights of dense layers.
    Dense,
    /// Biases of all layers, and the scales of norms.
    Biases,
    /// The biases of whitening layers.
    Whitening,
}

impl ParameterGroup {
    pub const ALL: [ParameterGroup; 4] = [
        ParameterGroup::Filters,
        ParameterGroup::Dense,
        ParameterGroup::Biases,
        ParameterGroup::Whitening,
    ];
}

/// A learning rate of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// The hyperparameter.
    pub base: f64,
    /// After the schedule: what the optimizer multiplies by.
    pub effective: f64,
}

/// The learning rates of one step, in the order of [`ParameterGroup::ALL`]. Only muon has different ones.
pub type Rates = [Rate; ParameterGroup::ALL.len()];

impl Hyperparameters {
    /// The images that are scored after each epoch: the validation images, or the test images if none are held out.
    pub fn scored_split(&self) -> Split {
        match self.validation > 0.0 {
            true => Split::Validation,
            false => Split::Test,
        }
    }

    /// The views in which an evaluation before the end scores its images.
    pub fn tta_of_evaluations(&self) -> Tta {
        match self.tta_each_evaluation {
            true => self.tta,
            false => Tta::None,
        }
    }

    /// The base learning rate of a group, and the number of epochs over which its schedule stretches.
    pub fn base_rate(&self, group: ParameterGroup) -> (f64, f64) {
        if self.optimizer != Optimizer::Muon {
            return (self.learning_rate, self.epochs);
        }
        match group {
            ParameterGroup::Filters => (self.learning_rate, self.epochs),
            ParameterGroup::Dense => (self.head_rate, self.epochs),
            ParameterGroup::Biases => (self.bias_rate, self.epochs),
            ParameterGroup::Whitening => {
                let ends = self.whiten_epochs > 0.0;
                let epochs = if ends {
                    self.whiten_epochs
                } else {
                    self.epochs
                };
                (self.whiten_rate, epochs)
            }
        }
    }

    /// The learning rates of a step outside any schedule: the base rates.
    pub fn base_rates(&self) -> Rates {
        ParameterGroup::ALL.map(|group| {
            let (base, _) = self.base_rate(group);
            Rate {
                base,
                effective: base,
            }
        })
    }

    /// Number of training steps in the whole run, where an epoch has `steps_per_epoch`. Rounded up.
    pub fn total_steps(&self, steps_per_epoch: u64) -> u64 {
        // 0.7 epochs of 10 steps are 7 steps, although 0.7 is slightly larger in binary.
        (self.epochs * steps_per_epoch as f64 - 1e-6)
            .ceil()
            .max(0.0) as u64
    }
}

/// When a change takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Applies {
    Now,
    NextEpoch,
    NextRun,
}

impl fmt::Display for Applies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Applies::Now => "now",
            Applies::NextEpoch => "next epoch",
            Applies::NextRun => "next run",
        })
    }
}

/// A value of any hyperparameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    Bool(bool),
    Int(u64),
    Float(f64),
    Text(String),
}

impl fmt::Display for Value {
    /// As a user types it: `0.001`, `1e-7`, `32`, `on`, `cosine`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(true) => f.write_str("on"),
            Value::Bool(false) => f.write_str("off"),
            Value::Int(v) => write!(f, "{v}"),
            Value::Float(v) if *v != 0.0 && v.abs() < 1e-4 => write!(f, "{v:e}"),
            Value::Float(v) => write!(f, "{v}"),
            Value::Text(v) => f.write_str(v),
        }
    }
}

/// A change of a hyperparameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    pub key: String,
    pub old: Value,
    pub new: Value,
}

/// How a key press changes a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Nudge {
    /// Add or subtract: the fine and the coarse step.
    Add(f64, f64),
    /// Multiply or divide: the fine and the coarse factor. The third number is the first value above zero; steps below
    /// it lead to zero.
    Times(f64, f64, f64),
}

/// The kind and range of a hyperparameter. Both ends of a range are allowed.
#[derive(Clone, Copy, Debug)]
pub enum ValueKind {
    Bool,
    Int {
        min: u64,
        max: u64,
        nudge: Nudge,
    },
    Float {
        min: f64,
        max: f64,
        nudge: Nudge,
    },
    Choice(&'static [&'static str]),
    /// Free text, with a function that checks it.
    Text(fn(&str) -> Result<(), String>),
}

/// The error of a value that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{key}: {why}")]
pub struct HyperParamError {
    pub key: String,
    pub why: String,
}

/// What a change of a hyperparameter has an effect on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Influence {
    /// On the steps of training; their batches stay the same.
    Steps,
    /// Also on what the training loss is of: its targets, the images, or the units that take part.
    Losses,
    /// On the batches themselves, or their number.
    Batches,
    /// Only on what is scored and reported.
    Reports,
}

/// One hyperparameter.
pub struct HyperParam {
    /// The key in config.toml; the flag is the same with `-` for `_`.
    pub key: &'static str,
    /// The name in the panel.
    pub label: &'static str,
    /// The short name on a chart's axis.
    pub short: &'static str,
    /// A second, shorter name of its command-line flag.
    pub alias: Option<&'static str>,
    /// The optimizers that use it; empty means all.
    pub optimizers: &'static [Optimizer],
    /// One sentence.
    pub help: &'static str,
    /// Unit of the number, or empty.
    pub unit: &'static str,
    pub applies: Applies,
    pub kind: ValueKind,
    /// Whether zero means that it is off.
    pub zero_is_off: bool,
    pub influence: Influence,
    get: fn(&Hyperparameters) -> Value,
    set: fn(&mut Hyperparameters, Value),
}

impl fmt::Debug for HyperParam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key)
    }
}

impl HyperParam {
    /// Whether training can go on with and without a change of it, step by step on the same batches.
    ///
    /// # Errors
    /// Returns the reason if it cannot.
    pub fn comparable(&self) -> Result<(), String> {
        let label = self.label;
        match (self.applies, self.influence) {
            (Applies::NextRun, _) => Err(format!(
                "a change of {label} needs a run of its own: fork this one"
            )),
            (_, Influence::Batches) => Err(format!(
                "{label} changes the batches, so the steps could not be compared: fork the run"
            )),
            (_, Influence::Reports) => Err(format!("{label} changes nothing in the training")),
            (_, Influence::Steps | Influence::Losses) => Ok(()),
        }
    }

    /// The value that `params` holds.
    pub fn get(&self, params: &Hyperparameters) -> Value {
        (self.get)(params)
    }

    /// The value as the panel shows it: `off` if zero means off.
    pub fn show(&self, value: &Value) -> String {
        match value {
            Value::Int(0) if self.zero_is_off => "off".into(),
            Value::Float(0.0) if self.zero_is_off => "off".into(),
            other => other.to_string(),
        }
    }

    /// Whether the value has an effect on a run with this optimizer.
    pub fn applies_to(&self, optimizer: Optimizer) -> bool {
        self.optimizers.is_empty() || self.optimizers.contains(&optimizer)
    }

    /// Whether it can be switched on and off.
    pub fn is_switch(&self) -> bool {
        match self.kind {
            ValueKind::Bool => true,
            ValueKind::Choice(words) => switches(words),
            ValueKind::Int { .. } | ValueKind::Float { .. } | ValueKind::Text(_) => false,
        }
    }

    /// The command-line flag, without the dashes.
    pub fn flag(&self) -> String {
        self.key.replace('_', "-")
    }

    /// The allowed values, in words: `0 to 0.95`, `sgd, adam or adamw`.
    pub fn range(&self) -> String {
        match self.kind {
            ValueKind::Bool => "on or off".into(),
            ValueKind::Int { min, max, .. } => format!("a whole number, {min} to {max}"),
            ValueKind::Float { min, max, .. } => {
                format!("{} to {}", Value::Float(min), Value::Float(max))
            }
            ValueKind::Choice(words) => match words {
                [all @ .., last] if !all.is_empty() => format!("{} or {last}", all.join(", ")),
                words => words.join(""),
            },
            ValueKind::Text(_) => "see --help".into(),
        }
    }

    /// Parses a typed value.
    ///
    /// # Errors
    /// Returns an error if the text is not a value of this kind or is out of range. The message says what is allowed.
    pub fn parse(&self, text: &str) -> Result<Value, HyperParamError> {
        let text = text.trim();
        let off = self.zero_is_off && text.eq_ignore_ascii_case("off");
        let value = match self.kind {
            ValueKind::Bool => match text.to_ascii_lowercase().as_str() {
                "on" | "true" | "yes" | "1" => Some(Value::Bool(true)),
                "off" | "false" | "no" | "0" => Some(Value::Bool(false)),
                _ => None,
            },
            ValueKind::Int { .. } if off => Some(Value::Int(0)),
            ValueKind::Float { .. } if off => Some(Value::Float(0.0)),
            ValueKind::Int { .. } => text.replace(['_', ','], "").parse().ok().map(Value::Int),
            ValueKind::Float { .. } => match text.strip_suffix('%') {
                Some(percent) => percent
                    .trim()
                    .parse::<f64>()
                    .ok()
                    .map(|v| Value::Float(v / 100.0)),
                None => text.parse().ok().map(Value::Float),
            },
            ValueKind::Choice(words) => match text.to_ascii_lowercase().as_str() {
                "on" | "true" | "yes" if switches(words) => Some(Value::Bool(true)),
                "false" | "no" if switches(words) => Some(Value::Bool(false)),
                word => Some(Value::Text(word.to_owned())),
            },
            ValueKind::Text(_) => Some(Value::Text(text.to_owned())),
        };
        let value = value.ok_or_else(|| self.error(format!("'{text}' is not {}", self.range())))?;
        self.check(value)
    }

    /// Checks a value against the type and the range. An integer is accepted for a float.
    ///
    /// # Errors
    /// Returns an error if the value does not pass. The message says what is allowed.
    pub fn check(&self, value: Value) -> Result<Value, HyperParamError> {
        let wrong =
            |value: &Value| self.error(format!("'{value}' is not allowed: {}", self.range()));
        match (self.kind, value) {
            (ValueKind::Bool, value @ Value::Bool(_)) => Ok(value),
            (ValueKind::Int { min, max, .. }, Value::Int(v)) if (min..=max).contains(&v) => {
                Ok(Value::Int(v))
            }
            (ValueKind::Float { .. }, Value::Int(v)) => self.check(Value::Float(v as f64)),
            // A NaN is not in any range.
            (ValueKind::Float { min, max, .. }, Value::Float(v)) if (min..=max).contains(&v) => {
                Ok(Value::Float(v))
            }
            (ValueKind::Choice(words), Value::Text(v)) if words.contains(&v.as_str()) => {
                Ok(Value::Text(v))
            }
            (ValueKind::Choice(words), Value::Bool(on)) if switches(words) => {
                Ok(Value::Text(words[usize::from(on)].into()))
            }
            (ValueKind::Text(check), Value::Text(v)) => match check(&v) {
                Ok(()) => Ok(Value::Text(v)),
                Err(why) => Err(self.error(why)),
            },
            (_, value) => Err(wrong(&value)),
        }
    }

    /// Checks the value and sets it in `params`.
    ///
    /// # Errors
    /// Returns the errors of [`HyperParam::check`]; `params` is then unchanged.
    pub fn set(&self, params: &mut Hyperparameters, value: Value) -> Result<(), HyperParamError> {
        (self.set)(params, self.check(value)?);
        Ok(())
    }

    /// The next value up or down by the fine or the coarse step, clamped to the range. None for text.
    pub fn nudged(&self, value: &Value, up: bool, coarse: bool) -> Option<Value> {
        match (self.kind, value) {
            (ValueKind::Bool, Value::Bool(v)) => Some(Value::Bool(!v)),
            (ValueKind::Choice(words), Value::Text(v)) => {
                let at = words.iter().position(|w| w == v)?;
                let n = words.len();
                Some(Value::Text(
                    words[if up { at + 1 } else { at + n - 1 } % n].into(),
                ))
            }
            (ValueKind::Int { min, max, nudge }, Value::Int(v)) => {
                let moved = nudge.apply(*v as f64, up, coarse).round();
                // A factor close to 1 must still change a small integer.
                let moved = if moved == *v as f64 {
                    moved + if up { 1.0 } else { -1.0 }
                } else {
                    moved
                };
                Some(Value::Int(moved.clamp(min as f64, max as f64) as u64))
            }
            (ValueKind::Float { min, max, nudge }, Value::Float(v)) => Some(Value::Float(
                six_digits(nudge.apply(*v, up, coarse)).clamp(min, max),
            )),
            _ => None,
        }
    }

    fn error(&self, why: String) -> HyperParamError {
        HyperParamError {
            key: self.key.into(),
            why,
        }
    }
}

/// Whether a choice can be switched on and off: its first word is `off`; on is its second word.
fn switches(words: &[&str]) -> bool {
    words.len() > 1 && words[0] == "off"
}

impl Nudge {
    fn apply(self, v: f64, up: bool, coarse: bool) -> f64 {
        match self {
            Nudge::Add(fine, much) => {
                let by = if coarse { much } else { fine };
                if up { v + by } else { v - by }
            }
            Nudge::Times(fine, much, first) => {
                let by = if coarse { much } else { fine };
                match (up, v) {
                    (true, 0.0) => first,
                    (true, v) => v * by,
                    (false, v) if v / by < first * 0.999 => 0.0,
                    (false, v) => v / by,
                }
            }
        }
    }
}

/// Rounds to six significant digits, so that 0.1 + 0.2 is 0.3.
fn six_digits(v: f64) -> f64 {
    format!("{v:.5e}").parse().unwrap_or(v)
}

/// The row of `key`, where `-` counts as `_`.
pub fn param(key: &str) -> Option<&'static HyperParam> {
    let key = key.replace('-', "_");
    HYPERPARAMS.iter().find(|p| p.key == key)
}

/// The row of a typed key or alias, or an error that suggests what may have been meant.
///
/// # Errors
/// Returns an error if there is no such hyperparameter.
pub fn find(key: &str) -> Result<&'static HyperParam, HyperParamError> {
    let aliased = || HYPERPARAMS.iter().find(|row| row.alias == Some(key));
    param(key).or_else(aliased).ok_or_else(|| {
        let keys = || HYPERPARAMS.iter().map(|p| p.key);
        HyperParamError {
            key: key.into(),
            why: match nearest(&key.replace('-', "_"), keys(), 3) {
                Some(known) => {
                    format!("no hyperparameter has this name; did you mean '{known}'?")
                }
                None => format!(
                    "no hyperparameter has this name; there are: {}",
                    keys().collect::<Vec<_>>().join(", ")
                ),
            },
        }
    })
}
