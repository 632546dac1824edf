//! Loads the configuration: defaults, environment, config.toml and flags, each overriding the one before.

use super::{
    Config, ConfigError, ConfiguredSweep, Flags, MAX_FILE, OPTIONS, OptionKind, OptionRow, Options,
    Origin, Surroundings, sweep, unknown_key,
};
use crate::domain::params::{self, HYPERPARAMS, HyperParam, Hyperparameters, Value};
use crate::domain::recipes;
use crate::files;
use std::path::{Path, PathBuf};
use toml_edit::{Document, Item};

/// Combines the layers.
///
/// # Errors
/// Returns an error if the file cannot be read or a key or a value in it or in the environment is wrong.
pub fn load(around: &Surroundings, flags: &Flags) -> Result<Config, ConfigError> {
    layers(around, flags, config_file(around, flags)?)
}

/// Loads the configuration without the config file, which is how `doctor` continues if the file is wrong.
///
/// # Errors
/// Returns an error if a value in the environment or a flag is wrong.
pub fn load_without_file(around: &Surroundings, flags: &Flags) -> Result<Config, ConfigError> {
    layers(around, flags, None)
}

fn layers(
    around: &Surroundings,
    flags: &Flags,
    file: Option<PathBuf>,
) -> Result<Config, ConfigError> {
    let mut config = Config {
        params: Hyperparameters::default(),
        options: Options::default(),
        given: flags.params.clone(),
        file,
        runs: PathBuf::new(),
        runs_because: String::new(),
        origins: Vec::new(),
        sweep: ConfiguredSweep::default(),
    };
    for row in OPTIONS {
        let Some(name) = row.env else { continue };
        let Some(text) = around.variables.get(name) else {
            continue;
        };
        row.parse(&mut config.options, text)
            .map_err(|why| ConfigError(format!("${name}: {why}")))?;
        config.origins.push(Origin {
            key: row.key,
            said: format!("${name}"),
        });
    }
    if let Some(file) = config.file.clone() {
        read_file(&mut config, &file, around)?;
    }
    let recipe = flags.params.iter().find(|(key, _)| *key == recipes::KEY);
    if let Some((_, value)) = recipe {
        apply(&mut config, value, "--recipe");
    }
    for (key, value) in &flags.params {
        let Some(row) = HYPERPARAMS.iter().find(|row| row.key == *key) else {
            continue;
        };
        row.set(&mut config.params, value.clone())
            .map_err(|e| ConfigError(e.to_string()))?;
        config.origins.push(Origin {
            key: row.key,
            said: format!("--{}", row.flag()),
        });
    }
    for (key, text) in &flags.options {
        let Some(row) = OPTIONS.iter().find(|row| row.key == *key) else {
            continue;
        };
        row.parse(&mut config.options, text).map_err(ConfigError)?;
        config.origins.push(Origin {
            key: row.key,
            said: format!("--{}", row.flag()),
        });
    }
    (config.runs, config.runs_because) = runs_folder(&config, around);
    Ok(config)
}

/// Sets the hyperparameters to the values of a recipe. Settings that are applied later override them.
fn apply(config: &mut Config, name: &Value, said: &str) {
    let Some(recipe) = recipes::find(&name.to_string()) else {
        return;
    };
    recipe.apply(&mut config.params);
    let origins = recipe.rows().map(|(row, _)| Origin {
        key: row.key,
        said: format!("the recipe {} ({said})", recipe.name),
    });
    config.origins.extend(origins);
}

fn config_file(around: &Surroundings, flags: &Flags) -> Result<Option<PathBuf>, ConfigError> {
    if let Some(file) = &flags.config {
        let file = around.here.join(file);
        return match file.exists() {
            true => Ok(Some(file)),
            false => Err(ConfigError(format!(
                "--config {}: there is no such file",
                file.display()
            ))),
        };
    }
    let xdg = around.config_folder.as_ref();
    Ok([Some(&around.here), xdg]
        .into_iter()
        .flatten()
        .map(|folder| folder.join("config.toml"))
        .find(|file| file.exists()))
}

/// The runs folder: `--runs`, the environment or config.toml; else `./runs` in a project or if it exists; else the XDG
/// state folder.
fn runs_folder(config: &Config, around: &Surroundings) -> (PathBuf, String) {
    if let Some(runs) = &config.options.runs {
        let said = config.origin("runs").unwrap_or("set").to_owned();
        return (around.here.join(runs), said);
    }
    let local = around.here.join("runs");
    for (sign, is) in [
        ("there is a runs folder here", local.is_dir()),
        (
            "there is a Cargo.toml here",
            around.here.join("Cargo.toml").is_file(),
        ),
        (
            "there is a config.toml here",
            around.here.join("config.toml").is_file(),
        ),
    ] {
        if is {
            return (local, sign.into());
        }
    }
    match &around.state_folder {
        Some(folder) => (folder.join("runs"), "the XDG state folder".into()),
        None => (local, "no home folder is known".into()),
    }
}

fn read_file(config: &mut Config, file: &Path, around: &Surroundings) -> Result<(), ConfigError> {
    let shown = file.strip_prefix(&around.here).unwrap_or(file).display();
    let text = files::read_text(file, MAX_FILE)
        .map_err(|e| ConfigError(format!("{shown}: cannot be read: {e}")))?;
    let document = Document::parse(text.as_str())
        .map_err(|e| ConfigError(format!("{shown} is not valid TOML: {e}")))?;
    let folder = file.parent().unwrap_or(Path::new(""));
    let said = |key: &str, item: &Item| {
        let offset = document
            .as_table()
            .key(key)
            .and_then(toml_edit::Key::span)
            .or_else(|| item.span())
            .map_or(0, |span| span.start);
        let line = 1 + text[..offset].matches('\n').count();
        format!("{shown}, line {line}")
    };
    // The other keys of the file override the recipe, whatever their order.
    let recipe = params::param(recipes::KEY);
    if let (Some(row), Some(item)) = (recipe, document.get(recipes::KEY)) {
        let said = said(recipes::KEY, item);
        let name = param_value(row, item).map_err(|why| ConfigError(format!("{said}: {why}")))?;
        apply(config, &name, &said);
    }
    for (key, item) in document.iter() {
        let said = said(key, item);
        let wrong = |why: String| ConfigError(format!("{said}: {why}"));
        if let Some(row) = HYPERPARAMS.iter().find(|row| row.key == key) {
            let value = param_value(row, item).map_err(wrong)?;
            row.set(&mut config.params, value)
                .map_err(|e| wrong(e.to_string()))?;
            config.origins.push(Origin { key: row.key, said });
        } else if let Some(row) = OPTIONS.iter().find(|row| row.key == key) {
            let written = option_text(row, item, folder, around).map_err(wrong)?;
            // An empty value in the file does not override the environment.
            if Some(written.as_str()) != default_text(row).as_deref() {
                row.parse(&mut config.options, &written).map_err(wrong)?;
                config.origins.push(Origin { key: row.key, said });
            }
        } else if key == "sweep" {
            config.sweep = sweep::read(item, said.clone()).map_err(wrong)?;
        } else {
            return Err(wrong(unknown_key(key)));
        }
    }
    Ok(())
}

/// The value of `item` for `row`. Strings are parsed like typed text, so that `off` and `cosine` work.
fn param_value(row: &HyperParam, item: &Item) -> Result<Value, String> {
    let found = match item {
        Item::Value(toml_edit::Value::Boolean(v)) => Some(Value::Bool(*v.value())),
        Item::Value(toml_edit::Value::Float(v)) => Some(Value::Float(*v.value())),
        Item::Value(toml_edit::Value::Integer(v)) => {
            let v = *v.value();
            Some(u64::try_from(v).map_or(Value::Float(v as f64), Value::Int))
        }
        Item::Value(toml_edit::Value::String(v)) => {
            return row.parse(v.value()).map_err(|e| e.to_string());
        }
        _ => None,
    };
    let found =
        found.ok_or_else(|| format!("{}: a plain value is needed: {}", row.key, row.range()))?;
    row.check(found).map_err(|e| e.to_string())
}

fn option_text(
    row: &OptionRow,
    item: &Item,
    folder: &Path,
    around: &Surroundings,
) -> Result<String, String> {
    let text = match item {
        Item::Value(toml_edit::Value::Boolean(v)) => v.value().to_string(),
        Item::Value(toml_edit::Value::Integer(v)) => v.value().to_string(),
        Item::Value(toml_edit::Value::String(v)) => v.value().clone(),
        _ => {
            return Err(format!(
                "{}: a plain value is needed: {}",
                row.key, row.range
            ));
        }
    };
    let is_path = matches!(row.kind, OptionKind::Path(_));
    if !is_path || text.is_empty() || text == "sample" {
        return Ok(text);
    }
    // Paths in the file are relative to its folder, and `~` is expanded here since no shell does it.
    let path = match (text.strip_prefix("~/"), &around.home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => folder.join(&text),
    };
    Ok(path.to_string_lossy().into_owned())
}

fn default_text(row: &OptionRow) -> Option<String> {
    Some(row.default.trim_matches('"').to_owned())
}
