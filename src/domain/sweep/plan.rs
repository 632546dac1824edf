//! The plan of a sweep: its trials and its strategy, as `sweep.json` holds them.

use super::{Axis, SweepError};
use crate::domain::params::{Hyperparameters, Value, param};
use crate::domain::recipes;
use crate::domain::rng::{Rng, Stream};
use serde::{Deserialize, Serialize};

/// Most trials of a sweep.
pub const MAX_TRIALS: usize = 1000;

/// How trials are chosen and how long each is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Every combination of the axes' points.
    #[default]
    Grid,
    /// Random draws.
    Random,
    /// Asynchronous successive halving (ASHA; Li et al., "A system for massively parallel hyperparameter tuning", MLSys
    /// 2020): all trials are trained for a few epochs, the best third of them for three times as long, and so on.
    Halving,
    /// Population-based training (Jaderberg et al., 2017): all trials train side by side, and every few epochs the worst
    /// quarter continues with copies of the best quarter's weights and with perturbed hyperparameters.
    Population,
}

impl Strategy {
    pub const ALL: [Strategy; 4] = [
        Strategy::Grid,
        Strategy::Random,
        Strategy::Halving,
        Strategy::Population,
    ];

    pub const fn word(self) -> &'static str {
        match self {
            Strategy::Grid => "grid",
            Strategy::Random => "random",
            Strategy::Halving => "halving",
            Strategy::Population => "population",
        }
    }

    pub fn named(word: &str) -> Option<Self> {
        Strategy::ALL
            .into_iter()
            .find(|strategy| strategy.word() == word)
    }

    /// Whether it compares trials while they train.
    pub const fn compares(self) -> bool {
        matches!(self, Strategy::Halving | Strategy::Population)
    }
}

/// The plan of a sweep. It never changes: what to train next follows from it and from what the runs have reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The version of this format.
    pub v: u32,
    /// The axes, as `KEY=VALUES`.
    pub axes: Vec<String>,
    pub strategy: Strategy,
    /// The seed of random draws and perturbations.
    pub seed: u64,
    /// The hyperparameters of every trial, before its own values.
    pub params: Hyperparameters,
    /// The data set that the user named: a path, or `sample`. None: the usual locations.
    pub data: Option<String>,
    pub trials: Vec<Trial>,
}

/// One trial: a run's name and the values that it has of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    pub name: String,
    pub values: Vec<(String, Value)>,
}

/// How a run of a sweep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrialEnd {
    Done,
    Diverged,
    /// Stopped by the user.
    Stopped,
    Failed,
}

/// What a run of a sweep has reached.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrialProgress {
    /// The accuracy after each epoch, of the images that the strategy compares by.
    pub accuracies: Vec<f64>,
    /// None while more is to be trained.
    pub end: Option<TrialEnd>,
    /// Whether a session trains it now, this or another one.
    pub busy: bool,
}

impl TrialProgress {
    pub fn epochs(&self) -> u32 {
        self.accuracies.len() as u32
    }

    /// The accuracy after this epoch. That of a run that has diverged is less than any other.
    pub fn accuracy_after(&self, epoch: u32) -> Option<f64> {
        let at = (epoch as usize).checked_sub(1)?;
        match (self.accuracies.get(at), self.end) {
            (Some(accuracy), _) => Some(*accuracy),
            (None, Some(TrialEnd::Diverged)) => Some(f64::NEG_INFINITY),
            (None, _) => None,
        }
    }
}

impl Plan {
    pub const VERSION: u32 = 1;

    /// The plan of a sweep over `axes`, of runs with these hyperparameters. `trials` is the number of random draws; a
    /// seed among the axes is not drawn: each draw is repeated with every seed.
    ///
    /// # Errors
    /// Returns an error if there are no axes, too many trials, or a hyperparameter that cannot vary.
    pub fn new(
        axes: &[String],
        strategy: Option<Strategy>,
        trials: Option<usize>,
        params: &Hyperparameters,
    ) -> Result<Self, SweepError> {
        let strategy = strategy.unwrap_or(match trials {
            Some(_) => Strategy::Random,
            None => Strategy::Grid,
        });
        let parsed = axes.iter().map(|text| Axis::parse(text));
        let parsed = parsed.collect::<Result<Vec<_>, _>>()?;
        check(&parsed, strategy, params)?;
        let values = match (strategy, trials) {
            (Strategy::Grid, Some(_)) => return Err(SweepError::TrialsOfGrid),
            (Strategy::Random, None) => {
                let strategy = strategy.word();
                return Err(SweepError::NoTrials { strategy });
            }
            (_, None) => grid(&parsed)?,
            (_, Some(trials)) => draws(&parsed, trials, params.seed)?,
        };
        let digits = values.len().to_string().len().max(2);
        let trials = values.into_iter().enumerate().map(|(i, values)| Trial {
            name: format!("{:0digits$}", i + 1),
            values,
        });
        Ok(Plan {
            v: Plan::VERSION,
            axes: axes.to_vec(),
            strategy,
            seed: params.seed,
            params: params.clone(),
            data: None,
            trials: trials.collect(),
        })
    }

    /// The axes.
    ///
    /// # Errors
    /// Returns an error if the plan was written by a version with other hyperparameters.
    pub fn parsed_axes(&self) -> Result<Vec<Axis>, SweepError> {
        self.axes.iter().map(|text| Axis::parse(text)).collect()
    }

    /// The hyperparameters of a run with these values.
    pub fn params_of(&self, values: &[(String, Value)]) -> Hyperparameters {
        recipes::changed(&self.params, |key| {
            let (_, value) = values.iter().find(|(own, _)| own == key)?;
            Some(value.clone())
        })
    }

    /// Number of epochs of every trial, rounded up.
    pub fn epochs(&self) -> u32 {
        self.params.epochs.ceil() as u32
    }
}

/// Checks which hyperparameters vary.
fn check(axes: &[Axis], strategy: Strategy, params: &Hyperparameters) -> Result<(), SweepError> {
    if axes.is_empty() {
        return Err(SweepError::NoAxes);
    }
    for (i, axis) in axes.iter().enumerate() {
        let key = axis.row.key;
        if axes[..i].iter().any(|other| other.row.key == key) {
            return Err(SweepError::Twice { key: key.into() });
        }
        let why = match key {
            "epochs" if strategy.compares() => "trials are compared after the same epochs",
            "validation" if strategy.compares() => {
                "trials are compared by the same validation images"
            }
            "recipe" if strategy.compares() => "a recipe sets the number of epochs",
            _ => continue,
        };
        return Err(SweepError::Fixed {
            key: key.into(),
            strategy: strategy.word(),
            why,
        });
    }
    if strategy.compares() && params.validation == 0.0 {
        return Err(SweepError::Fixed {
            key: "validation 0".into(),
            strategy: strategy.word(),
            why: "nothing may be chosen by the test images; hold out some training images with --validation",
        });
    }
    Ok(())
}

/// Every combination; the first axis varies slowest.
fn grid(axes: &[Axis]) -> Result<Vec<Vec<(String, Value)>>, SweepError> {
    let mut trials = vec![Vec::new()];
    for axis in axes {
        let points = axis.points();
        let count = trials.len() * points.len();
        if count > MAX_TRIALS {
            return Err(SweepError::TooMany { count });
        }
        let key = axis.row.key.to_owned();
        let longer = |trial: Vec<(String, Value)>| {
            let points = points.iter().map(|point| {
                let mut trial = trial.clone();
                trial.push((key.clone(), point.clone()));
                trial
            });
            points.collect::<Vec<_>>()
        };
        trials = trials.into_iter().flat_map(longer).collect();
    }
    Ok(trials)
}

fn draws(axes: &[Axis], count: usize, seed: u64) -> Result<Vec<Vec<(String, Value)>>, SweepError> {
    let seeds = axes.iter().find(|axis| axis.row.key == "seed");
    let seeds = seeds.map_or_else(Vec::new, Axis::points);
    let total = count.saturating_mul(seeds.len().max(1));
    if total > MAX_TRIALS {
        return Err(SweepError::TooMany { count: total });
    }
    let mut trials = Vec::new();
    for draw in 0..count {
        let rng = Rng::new(seed, Stream::Sweep, draw as u64);
        let values = axes
            .iter()
            .zip(0..)
            .filter(|(axis, _)| axis.row.key != "seed");
        let values = values.map(|(axis, i)| (axis.row.key.to_owned(), axis.draw(&rng, i)));
        let values: Vec<_> = values.collect();
        if seeds.is_empty() {
            trials.push(values);
            continue;
        }
        for seed in &seeds {
            let mut values = values.clone();
            values.push(("seed".into(), seed.clone()));
            trials.push(values);
        }
    }
    Ok(trials)
}

impl Trial {
    /// Its values in words: `lr 0.001, dropout 0.3`.
    pub fn describe(&self) -> String {
        describe(&self.values)
    }
}

/// Values in words, with the short names of hyperparameters.
pub fn describe(values: &[(String, Value)]) -> String {
    let words = values.iter().map(|(key, value)| match param(key) {
        Some(row) => {
            let name = if row.short.is_empty() {
                row.label
            } else {
                row.short
            };
            format!("{name} {}", row.show(value))
        }
        None => format!("{key} {value}"),
    });
    words.collect::<Vec<_>>().join(", ")
}
