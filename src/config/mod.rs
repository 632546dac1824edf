//! The program's configuration and the origin of each value: flags override config.toml, which overrides the
//! environment, which overrides the defaults. A recipe sets all its hyperparameters; other keys of the same file, or
//! other flags, override them. Driven by two tables: HYPERPARAMS for the hyperparameters, [`OPTIONS`] for all other
//! settings. This module reads the file and knows the folders; other modules interpret the values.

mod edit;
mod load;
mod options;
mod sweep;
mod template;
#[cfg(test)]
mod tests;

pub use edit::with_value;
pub use load::{load, load_without_file};
pub use options::{OPTIONS, OnHangup, OnUsr1, OptionKind, OptionRow, Options};
pub use sweep::ConfiguredSweep;
pub use template::{parameter_table, template};

use crate::domain::params::{HYPERPARAMS, Hyperparameters, Value};
use crate::domain::text::nearest;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Maximum size of config.toml in bytes.
pub const MAX_FILE: u64 = 1 << 20;

/// An invalid setting: a usage error. The message contains the place, the value and what is allowed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// The environment of the process, read once; tests supply their own.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The current folder.
    pub here: PathBuf,
    pub home: Option<PathBuf>,
    /// `cifar-tui` in the XDG config, state and data folders; None without a home.
    pub config_folder: Option<PathBuf>,
    pub state_folder: Option<PathBuf>,
    pub data_folder: Option<PathBuf>,
    /// The environment variables that [`OPTIONS`] names, where set and not empty.
    pub variables: BTreeMap<String, String>,
}

impl Surroundings {
    /// The environment of this process.
    ///
    /// # Errors
    /// Returns an error if the current folder is gone.
    pub fn of_process() -> Result<Self, ConfigError> {
        use etcetera::base_strategy::{BaseStrategy, Xdg};
        let xdg = Xdg::new().ok();
        let mine = |folder: Option<PathBuf>| folder.map(|folder| folder.join("cifar-tui"));
        Ok(Surroundings {
            here: std::env::current_dir()
                .map_err(|e| ConfigError(format!("the current folder cannot be read: {e}")))?,
            home: xdg.as_ref().map(|x| x.home_dir().to_owned()),
            config_folder: mine(xdg.as_ref().map(BaseStrategy::config_dir)),
            state_folder: mine(xdg.as_ref().and_then(BaseStrategy::state_dir)),
            data_folder: mine(xdg.as_ref().map(BaseStrategy::data_dir)),
            variables: OPTIONS
                .iter()
                .filter_map(|row| row.env)
                .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
                .filter(|(_, value)| !value.is_empty())
                .collect(),
        })
    }
}

/// The settings on the command line.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// Hyperparameters, in the table's order.
    pub params: Vec<(&'static str, Value)>,
    /// Rows of [`OPTIONS`] and their text.
    pub options: Vec<(&'static str, String)>,
}

/// A setting and its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub key: &'static str,
    /// `--data`, `config.toml, line 3`, `$CIFAR_TUI_RUNS`.
    pub said: String,
}

/// All settings, after all layers.
#[derive(Clone, Debug)]
pub struct Config {
    pub params: Hyperparameters,
    pub options: Options,
    /// Hyperparameters set by flags, which override those of a resumed run.
    pub given: Vec<(&'static str, Value)>,
    /// The config file that was read.
    pub file: Option<PathBuf>,
    /// The runs folder, and the reason for it.
    pub runs: PathBuf,
    pub runs_because: String,
    /// The origin of each setting that was set.
    pub origins: Vec<Origin>,
    /// The sweep of config.toml.
    pub sweep: ConfiguredSweep,
}

impl Config {
    /// The origin of `key`; None if it has its default.
    pub fn origin(&self, key: &str) -> Option<&str> {
        self.origins
            .iter()
            .rev()
            .find(|o| o.key == key)
            .map(|o| o.said.as_str())
    }
}

fn unknown_key(key: &str) -> String {
    let known = || {
        OPTIONS
            .iter()
            .map(|row| row.key)
            .chain(HYPERPARAMS.iter().map(|row| row.key))
    };
    match nearest(&key.replace('-', "_"), known(), 3) {
        Some(near) => format!("there is no key '{key}'; did you mean '{near}'?"),
        None => format!(
            "there is no key '{key}'; there are: {}",
            known().collect::<Vec<_>>().join(", ")
        ),
    }
}

fn toml_value(value: &Value) -> toml_edit::Value {
    match value {
        Value::Bool(v) => (*v).into(),
        Value::Int(v) => i64::try_from(*v).unwrap_or(i64::MAX).into(),
        // Write `15`, not `15.0`; both are read as the same value.
        Value::Float(v) if v.fract() == 0.0 && v.abs() < 1e9 => (*v as i64).into(),
        Value::Float(v) => (*v).into(),
        Value::Text(v) => v.as_str().into(),
    }
}
