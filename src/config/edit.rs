//! Sets one key in the text of config.toml.

use super::{ConfigError, OPTIONS, OptionKind, Options, toml_value, unknown_key};
use crate::domain::params::HYPERPARAMS;
use toml_edit::{DocumentMut, Item};

/// Sets `key` in the text of a config file and keeps everything else as it is, comments included.
///
/// # Errors
/// Returns an error if the text is not TOML, the key does not exist, or the value is not allowed.
pub fn with_value(text: &str, key: &str, value: &str) -> Result<String, ConfigError> {
    let mut document: DocumentMut = text
        .parse()
        .map_err(|e| ConfigError(format!("the file is not valid TOML: {e}")))?;
    let key = key.replace('-', "_");
    let mut new: toml_edit::Value = if let Some(row) = HYPERPARAMS.iter().find(|row| row.key == key)
    {
        toml_value(&row.parse(value).map_err(|e| ConfigError(e.to_string()))?)
    } else if let Some(row) = OPTIONS.iter().find(|row| row.key == key) {
        let mut options = Options::default();
        row.parse(&mut options, value).map_err(ConfigError)?;
        let shown = row.show(&options);
        match row.kind {
            OptionKind::Number => shown.parse::<i64>().map_or(shown.into(), Into::into),
            OptionKind::Switch(_) => (shown == "on").into(),
            OptionKind::Path(_) | OptionKind::Word(_) => value.into(),
        }
    } else {
        return Err(ConfigError(unknown_key(&key)));
    };
    match document.get_mut(&key).and_then(Item::as_value_mut) {
        Some(old) => {
            *new.decor_mut() = old.decor().clone();
            *old = new;
        }
        None => document[&key] = Item::Value(new),
    }
    Ok(document.to_string())
}
