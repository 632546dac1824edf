//! The table `[sweep]` of config.toml: the sweep that `cifar-tui sweep` begins without KEY=VALUES.

use crate::domain::params::{self, Value};
use crate::domain::sweep::{Axis, Strategy};
use toml_edit::{Item, Value as TomlValue};

/// The sweep of config.toml.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfiguredSweep {
    /// The axes, as `KEY=VALUES`.
    pub axes: Vec<String>,
    pub strategy: Option<Strategy>,
    pub trials: Option<usize>,
    pub parallel: Option<usize>,
    /// Where it is written: `config.toml, line 3`.
    pub said: String,
}

/// Its lines in the template.
pub(super) const TEMPLATE: &str = r#"

# The sweep that `cifar-tui sweep` begins without KEY=VALUES: hyperparameters with a range or a list, and how to train.
#   [sweep]
#   learning_rate = "1e-4..1e-2 log"
#   dropout = [0.3, 0.5]
#   seed = "1..3"
#   strategy = "random"
#   trials = 10
#   parallel = 2
"#;

/// Reads the table.
///
/// # Errors
/// Returns an error if a key or a value is wrong.
pub(super) fn read(item: &Item, said: String) -> Result<ConfiguredSweep, String> {
    let table = item
        .as_table_like()
        .ok_or("sweep: a table is needed: [sweep]")?;
    let mut sweep = ConfiguredSweep {
        said,
        ..Default::default()
    };
    for (key, item) in table.iter() {
        match key {
            "strategy" => {
                let words = Strategy::ALL.map(Strategy::word).join(", ");
                let named = item.as_str().and_then(Strategy::named);
                sweep.strategy =
                    Some(named.ok_or(format!("sweep.strategy: one of {words} is needed"))?);
            }
            "trials" => sweep.trials = Some(count(key, item)?),
            "parallel" => sweep.parallel = Some(count(key, item)?),
            key => {
                let row = params::find(key).map_err(|error| format!("sweep.{error}"))?;
                let values = values(item).ok_or_else(|| {
                    format!(
                        "sweep.{key}: a value, a list of values, or a range in quotes is needed"
                    )
                })?;
                Axis::of(row, &values).map_err(|error| format!("sweep.{error}"))?;
                sweep.axes.push(format!("{}={values}", row.key));
            }
        }
    }
    Ok(sweep)
}

fn count(key: &str, item: &Item) -> Result<usize, String> {
    let number = item
        .as_integer()
        .and_then(|number| usize::try_from(number).ok());
    number.ok_or(format!("sweep.{key}: a whole number is needed"))
}

/// The VALUES of an axis. None if the item is no plain value and no list of plain values.
fn values(item: &Item) -> Option<String> {
    let plain = |value: &TomlValue| match value {
        TomlValue::String(text) => Some(text.value().clone()),
        TomlValue::Integer(number) => Some(number.value().to_string()),
        TomlValue::Float(number) => Some(Value::Float(*number.value()).to_string()),
        TomlValue::Boolean(on) => Some(Value::Bool(*on.value()).to_string()),
        _ => None,
    };
    match item.as_value()? {
        // Texts of architectures contain commas.
        TomlValue::Array(list)
            if list
                .iter()
                .any(|value| value.as_str().is_some_and(|text| text.contains(','))) =>
        {
            let parts: Option<Vec<String>> = list.iter().map(plain).collect();
            parts.map(|parts| parts.join("; "))
        }
        TomlValue::Array(list) => {
            let parts: Option<Vec<String>> = list.iter().map(plain).collect();
            parts.map(|parts| parts.join(","))
        }
        value => plain(value),
    }
}
