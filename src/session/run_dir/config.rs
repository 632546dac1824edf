//! A run's config.toml.

use super::{CONFIG, RunError};
use crate::domain::params::{HYPERPARAMS, Hyperparameters, Value};
use crate::train::files::Folder;

/// Writes config.toml in the form that the program reads: every hyperparameter, with its help text.
///
/// # Errors
/// Returns an error if a file operation fails.
pub(super) fn write(folder: &Folder, params: &Hyperparameters) -> Result<(), RunError> {
    let mut text = String::from("# The hyperparameters at the run's start.\n");
    for row in HYPERPARAMS {
        let value: toml_edit::Value = match row.get(params) {
            Value::Bool(v) => v.into(),
            Value::Int(v) => i64::try_from(v).unwrap_or(i64::MAX).into(),
            Value::Float(v) => v.into(),
            Value::Text(v) => v.into(),
        };
        text += &format!("\n# {}\n{} = {value}\n", row.help, row.key);
    }
    folder
        .write(CONFIG, text.as_bytes())
        .map_err(RunError::io("cannot write", &folder.join(CONFIG)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_holds_every_hyperparameter() {
        let runs = tempfile::tempdir().unwrap();
        let params = Hyperparameters {
            architecture: "conv 8, relu, dense 10".into(),
            weight_decay: 1e-7,
            ..Hyperparameters::default()
        };
        write(&runs.path().into(), &params).unwrap();
        let text = std::fs::read_to_string(runs.path().join(CONFIG)).unwrap();
        let table: toml_edit::DocumentMut = text.parse().unwrap();
        for row in HYPERPARAMS {
            let item = table[row.key].as_value().unwrap();
            let text = match item {
                toml_edit::Value::String(s) => s.value().clone(),
                other => other.to_string().trim().to_owned(),
            };
            assert_eq!(row.parse(&text).unwrap(), row.get(&params), "{}", row.key);
        }
    }
}
