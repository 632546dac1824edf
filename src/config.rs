//! What is set, and where it was said: flags over config.toml over the environment over the defaults. Driven by two
//! tables, HYPERPARAMS for the hyperparameters and [`OPTIONS`] for the rest. Knows the file and the folders, never what is
//! done with a value.

use crate::domain::params::{HYPERPARAMS, HyperParam, Hyperparameters, Value};
use crate::domain::symbols::Symbols;
use crate::domain::terminal::Terminal;
use crate::domain::text::nearest;
use crate::files;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use toml_edit::{Document, DocumentMut, Item};

/// Bytes that config.toml may have.
pub const MAX_FILE: u64 = 1 << 20;

/// Settings that are not hyperparameters: where things are and what the program runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// A data set's file or folder; None looks in the usual places.
    pub data: Option<PathBuf>,
    /// The runs folder; None takes the usual place.
    pub runs: Option<PathBuf>,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// CPU threads; 0 is one a core.
    pub threads: usize,
    pub mouse: bool,
    /// None takes those that the terminal shows, as far as the environment tells.
    pub symbols: Option<Symbols>,
    pub on_hangup: OnHangup,
    pub on_usr1: OnUsr1,
}

/// What a session does when its terminal goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnHangup {
    /// Train on, without a screen.
    Continue,
    /// Write a checkpoint and end.
    CheckpointAndStop,
}

/// What a session does when it is sent SIGUSR1 or SIGUSR2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUsr1 {
    /// Write a checkpoint and go on.
    Checkpoint,
    /// Write a checkpoint and end.
    CheckpointAndStop,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            data: None,
            runs: None,
            device: "auto".into(),
            threads: 0,
            mouse: true,
            symbols: None,
            on_hangup: OnHangup::Continue,
            on_usr1: OnUsr1::Checkpoint,
        }
    }
}

impl Options {
    /// The symbols to draw with: those set here, else those that the terminal shows.
    pub fn symbols(&self) -> Symbols {
        let detected = || Terminal::of_process().symbols;
        self.symbols.unwrap_or_else(detected)
    }
}

/// What an option's value is: how it is written in config.toml, and what its flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionKind {
    /// A file or a folder, in a config file meant from the file's folder; the word that stands for it in the help.
    Path(&'static str),
    /// A word; the word that stands for it in the help.
    Word(&'static str),
    /// A whole number.
    Number,
    /// On or off, and on unless its flag `--no-NAME` is given; the flag's help.
    Switch(&'static str),
}

/// One key of config.toml that is no hyperparameter; its flag has the same name.
pub struct OptionRow {
    pub key: &'static str,
    pub kind: OptionKind,
    /// The environment variable that sets it where neither flag nor file does. The data's is read where data is
    /// looked for, beside the other places.
    pub env: Option<&'static str>,
    pub help: &'static str,
    /// What is allowed, in words.
    pub range: &'static str,
    /// The default, as config.toml writes it.
    pub default: &'static str,
    set: fn(&mut Options, &str) -> Option<()>,
    get: fn(&Options) -> String,
}

impl OptionRow {
    /// The flag's name, without its dashes.
    pub fn flag(&self) -> String {
        self.key.replace('_', "-")
    }

    /// The value as a person would type it; empty where none is set.
    pub fn show(&self, options: &Options) -> String {
        (self.get)(options)
    }

    /// Reads what a person typed into `options`.
    ///
    /// # Errors
    /// When it is not allowed; says what is.
    pub fn parse(&self, options: &mut Options, text: &str) -> Result<(), String> {
        (self.set)(options, text.trim())
            .ok_or_else(|| format!("{}: '{text}' is not allowed: {}", self.key, self.range))
    }
}

/// Every setting that is no hyperparameter.
#[rustfmt::skip]
pub static OPTIONS: &[OptionRow] = &[
    OptionRow { key: "data", kind: OptionKind::Path("PATH"), env: None, default: "\"\"", range: "a file or folder",
        help: "The data set: python or binary batches or their tar.gz, parquet files, or `sample` for the built-in set. \
               Empty: $CIFAR_TUI_DATA, then ./data, then the XDG data folder, then the built-in set.",
        set: |o, text| { o.data = path(text); Some(()) }, get: |o| shown(&o.data) },
    OptionRow { key: "runs", kind: OptionKind::Path("FOLDER"), env: Some("CIFAR_TUI_RUNS"), default: "\"\"", range: "a folder",
        help: "The folder that runs are kept in. Empty: $CIFAR_TUI_RUNS, then ./runs in a project or where it exists, \
               then the XDG state folder.",
        set: |o, text| { o.runs = path(text); Some(()) }, get: |o| shown(&o.runs) },
    OptionRow { key: "device", kind: OptionKind::Word("DEVICE"), env: None, default: "\"auto\"", range: "auto, cpu, cuda or cuda:N",
        help: "Where the network runs. auto: the first NVIDIA GPU if it can be used, else the CPU.",
        set: |o, text| { let text = text.to_ascii_lowercase(); device_word(&text).then(|| o.device = text) },
        get: |o| o.device.clone() },
    OptionRow { key: "threads", kind: OptionKind::Number, env: None, default: "0", range: "a whole number, 0 to 1024",
        help: "CPU threads of the training step; 0 is one a core. Results do not depend on it.",
        set: |o, text| { o.threads = text.parse().ok().filter(|n| *n <= 1024)?; Some(()) },
        get: |o| o.threads.to_string() },
    OptionRow { key: "mouse", kind: OptionKind::Switch("Leave the mouse to the terminal"), env: None, default: "true", range: "on or off",
        help: "Whether the screen takes the mouse.",
        set: |o, text| { o.mouse = match text.to_ascii_lowercase().as_str() {
            "on" | "true" | "yes" => true, "off" | "false" | "no" => false, _ => return None }; Some(()) },
        get: |o| if o.mouse { "on" } else { "off" }.into() },
    OptionRow { key: "symbols", kind: OptionKind::Word("SET"), env: None, default: "\"auto\"", range: "auto, braille, block or ascii",
        help: "The symbols that screens and progress bars are drawn with: braille dots, half blocks and lines, or plain \
               ASCII. auto: what the terminal shows, by the locale (LC_ALL, LC_CTYPE, LANG) and TERM; `cifar-tui doctor` \
               tells.",
        set: |o, text| { let text = text.to_ascii_lowercase();
            let named = Symbols::ALL.into_iter().find(|symbols| symbols.name() == text);
            (text == "auto" || named.is_some()).then(|| o.symbols = named) },
        get: |o| o.symbols.map_or("auto", Symbols::name).into() },
    OptionRow { key: "on_hangup", kind: OptionKind::Word("WHAT"), env: None, default: "\"continue\"", range: "continue or checkpoint-and-stop",
        help: "What happens when the terminal goes away (a dropped ssh connection, a closed window): train on without \
               a screen (`cifar-tui attach` returns to it), or write a checkpoint and end.",
        set: |o, text| { o.on_hangup = match text { "continue" => OnHangup::Continue,
            "checkpoint-and-stop" => OnHangup::CheckpointAndStop, _ => return None }; Some(()) },
        get: |o| match o.on_hangup { OnHangup::Continue => "continue",
            OnHangup::CheckpointAndStop => "checkpoint-and-stop" }.into() },
    OptionRow { key: "on_usr1", kind: OptionKind::Word("WHAT"), env: None, default: "\"checkpoint\"", range: "checkpoint or checkpoint-and-stop",
        help: "What the signals SIGUSR1 and SIGUSR2 do (Slurm sends one before its time limit, where asked to): write a \
               checkpoint and go on, or write a checkpoint and end.",
        set: |o, text| { o.on_usr1 = match text { "checkpoint" => OnUsr1::Checkpoint,
            "checkpoint-and-stop" => OnUsr1::CheckpointAndStop, _ => return None }; Some(()) },
        get: |o| match o.on_usr1 { OnUsr1::Checkpoint => "checkpoint",
            OnUsr1::CheckpointAndStop => "checkpoint-and-stop" }.into() },
];

fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}

fn shown(path: &Option<PathBuf>) -> String {
    path.as_ref()
        .map_or(String::new(), |p| p.display().to_string())
}

fn device_word(text: &str) -> bool {
    matches!(text, "auto" | "cpu" | "cuda")
        || text
            .strip_prefix("cuda:")
            .is_some_and(|n| n.len() <= 3 && n.parse::<u16>().is_ok())
}

/// Something that is set wrongly: a usage error. The message says where, what, and what is allowed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// What the process finds around it, gathered once so that tests can give their own.
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
    /// Those of this process.
    ///
    /// # Errors
    /// When the current folder is gone.
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

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// Hyperparameters, in the table's order.
    pub params: Vec<(&'static str, Value)>,
    /// Rows of [`OPTIONS`] and their text.
    pub options: Vec<(&'static str, String)>,
}

/// A setting and where it was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub key: &'static str,
    /// `--data`, `config.toml, line 3`, `$CIFAR_TUI_RUNS`.
    pub said: String,
}

/// Everything that is set, after all layers.
#[derive(Clone, Debug)]
pub struct Config {
    pub params: Hyperparameters,
    pub options: Options,
    /// Hyperparameters that flags gave: what a resumed run takes over its own.
    pub given: Vec<(&'static str, Value)>,
    /// The config file that was read.
    pub file: Option<PathBuf>,
    /// The runs folder, and why it is this one.
    pub runs: PathBuf,
    pub runs_because: String,
    /// Where each setting that is not at its default was said.
    pub origins: Vec<Origin>,
}

impl Config {
    /// The place where `key` was set; None where the default stands.
    pub fn origin(&self, key: &str) -> Option<&str> {
        self.origins
            .iter()
            .rev()
            .find(|o| o.key == key)
            .map(|o| o.said.as_str())
    }
}

/// Puts the layers over each other.
///
/// # Errors
/// When the file cannot be read or a key or a value in it or in the environment is wrong.
pub fn load(around: &Surroundings, flags: &Flags) -> Result<Config, ConfigError> {
    layers(around, flags, config_file(around, flags)?)
}

/// As [`load`], but without the config file: what `doctor` goes on with when the file is wrong.
///
/// # Errors
/// When a value in the environment or a flag is wrong.
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

/// `--runs` and its like; else `./runs` in a project or where it exists; else the XDG state folder.
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
    for (key, item) in document.iter() {
        let offset = document
            .as_table()
            .key(key)
            .and_then(toml_edit::Key::span)
            .or_else(|| item.span())
            .map_or(0, |span| span.start);
        let line = 1 + text[..offset].matches('\n').count();
        let said = format!("{shown}, line {line}");
        let wrong = |why: String| ConfigError(format!("{said}: {why}"));
        if let Some(row) = HYPERPARAMS.iter().find(|row| row.key == key) {
            let value = param_value(row, item).map_err(wrong)?;
            row.set(&mut config.params, value)
                .map_err(|e| wrong(e.to_string()))?;
            config.origins.push(Origin { key: row.key, said });
        } else if let Some(row) = OPTIONS.iter().find(|row| row.key == key) {
            let written = option_text(row, item, folder, around).map_err(wrong)?;
            // An empty path and the like say nothing: what the environment says stands.
            if Some(written.as_str()) != default_text(row).as_deref() {
                row.parse(&mut config.options, &written).map_err(wrong)?;
                config.origins.push(Origin { key: row.key, said });
            }
        } else {
            return Err(wrong(unknown_key(key)));
        }
    }
    Ok(())
}

/// The value that `item` holds for `row`. Text is read as a person would type it, so that `off` and `cosine` work.
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
    // A path in a file is meant from the file's folder, and no shell expands its tilde.
    let path = match (text.strip_prefix("~/"), &around.home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => folder.join(&text),
    };
    Ok(path.to_string_lossy().into_owned())
}

fn default_text(row: &OptionRow) -> Option<String> {
    Some(row.default.trim_matches('"').to_owned())
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

/// Sets `key` in the text of a config file and keeps everything else as it is, comments included.
///
/// # Errors
/// When the text is no TOML, there is no such key, or the value is not allowed.
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

fn toml_value(value: &Value) -> toml_edit::Value {
    match value {
        Value::Bool(v) => (*v).into(),
        Value::Int(v) => i64::try_from(*v).unwrap_or(i64::MAX).into(),
        Value::Float(v) => (*v).into(),
        Value::Text(v) => v.as_str().into(),
    }
}

/// The text of config.toml with every key at its default, each with a comment.
pub fn template() -> String {
    let mut text = String::from(
        "# cifar-tui reads this file from the current folder, else from the XDG config folder; --config names another.\n\
         # Every key is also a flag, with - for _, and a flag wins. What stands here are the defaults.\n",
    );
    for row in OPTIONS {
        let _ = write!(
            text,
            "\n{}{} = {}\n",
            comment(&format!("{} Allowed: {}.", row.help, row.range)),
            row.key,
            row.default
        );
    }
    text += "\n\n# Hyperparameters: the recipe of the seed model.\n";
    let defaults = Hyperparameters::default();
    for row in HYPERPARAMS {
        let unit = match row.unit {
            "" => String::new(),
            unit => format!(" {unit}"),
        };
        let note = format!(
            "{} Allowed: {}{unit}. A change while training applies: {}.",
            row.help,
            row.range(),
            row.applies
        );
        let _ = write!(
            text,
            "\n{}{} = {}\n",
            comment(&note),
            row.key,
            toml_value(&row.get(&defaults))
        );
    }
    text
}

/// `text` as comment lines of at most 118 columns.
fn comment(text: &str) -> String {
    let lines = textwrap::Options::new(118)
        .initial_indent("# ")
        .subsequent_indent("# ")
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    textwrap::fill(text, lines) + "\n"
}

/// The README's table of hyperparameters, as Markdown.
pub fn parameter_table() -> String {
    let mut text = String::from("| key | default | allowed | applies | |\n|---|---|---|---|---|\n");
    let defaults = Hyperparameters::default();
    for row in HYPERPARAMS {
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} |",
            row.key,
            row.show(&row.get(&defaults)),
            row.range(),
            row.applies,
            row.help
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(config: &str) -> (tempfile::TempDir, Surroundings) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.toml"), config).unwrap();
        let around = Surroundings {
            here: folder.path().into(),
            state_folder: Some("/state/cifar-tui".into()),
            home: Some("/home/me".into()),
            ..Default::default()
        };
        (folder, around)
    }

    fn mutations(count: u32) {
        let whole = template();
        let (folder, around) = folder_with("");
        let mut refused = 0;
        for number in 0..count {
            let bytes = crate::domain::mutate::mutated(whole.as_bytes(), number);
            std::fs::write(folder.path().join("config.toml"), &bytes).unwrap();
            match load(&around, &Flags::default()) {
                Ok(config) => {
                    for row in HYPERPARAMS {
                        row.check(row.get(&config.params)).unwrap();
                    }
                }
                Err(error) => {
                    refused += 1;
                    assert!(
                        error.to_string().contains("config.toml"),
                        "{number}: {error}"
                    );
                }
            }
        }
        assert!(refused > 0 && refused < count, "{refused} of {count}");
    }

    #[test]
    fn mutated_files_never_panic_and_never_give_a_value_out_of_range() {
        mutations(200);
    }

    #[test]
    #[ignore = "the long form: 20,000"]
    fn twenty_thousand_mutated_files_never_panic() {
        mutations(20_000);
    }

    fn refusal(config: &str) -> String {
        let (_folder, around) = folder_with(config);
        load(&around, &Flags::default()).unwrap_err().to_string()
    }

    #[test]
    fn the_repository_s_config_toml_has_every_key_its_default_and_a_comment() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.toml");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&file, template()).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(file).unwrap(),
            template(),
            "run the tests once with UPDATE=1 to write config.toml anew"
        );
    }

    #[test]
    fn the_template_is_the_fuzz_target_s_seed() {
        crate::domain::mutate::is_seed("config", "template", template().as_bytes());
    }

    #[test]
    fn the_template_says_what_the_defaults_are() {
        let (_folder, around) = folder_with(&template());
        let config = load(&around, &Flags::default()).unwrap();
        assert_eq!(config.params, Hyperparameters::default());
        assert_eq!(config.options, Options::default());
        let lines: Vec<_> = template().lines().map(str::to_owned).collect();
        for key in OPTIONS
            .iter()
            .map(|r| r.key)
            .chain(HYPERPARAMS.iter().map(|r| r.key))
        {
            let at = lines
                .iter()
                .position(|l| l.starts_with(&format!("{key} = ")))
                .unwrap();
            assert!(lines[at - 1].starts_with("# "), "{key} has no comment");
        }
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_the_environment() {
        let (folder, mut around) =
            folder_with("dropout = 0.25\nepochs = 3\ndata = 'here'\nclip_norm = 'off'\n");
        around
            .variables
            .insert("CIFAR_TUI_RUNS".into(), "/env/runs".into());
        let mut flags = Flags {
            params: vec![("epochs", Value::Int(7))],
            ..Default::default()
        };
        let config = load(&around, &flags).unwrap();
        assert_eq!((config.params.dropout, config.params.epochs), (0.25, 7));
        assert_eq!(config.options.data, Some(folder.path().join("here")));
        assert_eq!(config.runs, Path::new("/env/runs"));
        assert_eq!(config.origin("epochs"), Some("--epochs"));
        assert_eq!(config.origin("dropout"), Some("config.toml, line 1"));
        assert_eq!(config.origin("runs"), Some("$CIFAR_TUI_RUNS"));
        assert_eq!(config.given, [("epochs", Value::Int(7))]);
        flags.options.push(("data", "there".into()));
        let config = load(&around, &flags).unwrap();
        assert_eq!(config.options.data, Some("there".into()));
    }

    #[test]
    fn an_empty_path_in_the_file_lets_the_environment_speak() {
        let (_folder, mut around) = folder_with(&template());
        around
            .variables
            .insert("CIFAR_TUI_RUNS".into(), "/env/runs".into());
        let config = load(&around, &Flags::default()).unwrap();
        assert_eq!(config.runs, Path::new("/env/runs"));
    }

    #[test]
    fn a_tilde_is_the_home_folder_and_sample_is_no_path() {
        let (_folder, around) = folder_with("runs = '~/runs'\ndata = 'sample'\n");
        let config = load(&around, &Flags::default()).unwrap();
        assert_eq!(config.runs, Path::new("/home/me/runs"));
        assert_eq!(config.options.data, Some("sample".into()));
    }

    #[test]
    fn wrong_keys_and_values_are_named_with_file_line_and_range() {
        let error = refusal("# a comment\n\ndropuot = 0.3\n");
        assert_eq!(
            error,
            "config.toml, line 3: there is no key 'dropuot'; did you mean 'dropout'?"
        );
        assert!(refusal("zzzzzzzzz = 1").contains("there are: data, runs"));
        let error = refusal("epochs = 3\ndropout = 1.5");
        assert!(
            error.starts_with("config.toml, line 2: dropout: "),
            "{error}"
        );
        assert!(
            error.contains("'1.5'") && error.contains("0 to 0.95"),
            "{error}"
        );
        assert!(refusal("batch_size = -3").contains("1 to 8192"));
        assert!(refusal("batch_size = 3.5").contains("1 to 8192"));
        assert!(refusal("flip = 3").contains("on or off"));
        assert!(refusal("optimizer = 'adamx'").contains("sgd, adam or adamw"));
        assert!(refusal("device = 'gpu'").contains("auto, cpu, cuda or cuda:N"));
        assert!(refusal("threads = -1").contains("0 to 1024"));
        assert!(refusal("[dropout]\nx = 1").contains("plain value"));
        assert!(refusal("dropout = ").contains("not valid TOML"));
        assert!(refusal("learning_rate = nan").contains("0 to 10"));
    }

    /// Every row, from the file and from text alike.
    #[test]
    fn every_range_is_held() {
        use crate::domain::params::ValueKind;
        for row in HYPERPARAMS {
            let over = match row.kind {
                ValueKind::Int { max, .. } if max < i64::MAX as u64 => format!("{}", max + 1),
                ValueKind::Int { .. } => "-1".into(),
                ValueKind::Float { max, .. } => format!("{}", max + 1.0),
                ValueKind::Bool => "7".into(),
                ValueKind::Choice(_) | ValueKind::Text(_) => "'no such thing'".into(),
            };
            let error = refusal(&format!("{} = {over}", row.key));
            assert!(
                error.starts_with(&format!("config.toml, line 1: {}: ", row.key)),
                "{error}"
            );
        }
    }

    #[test]
    fn runs_go_to_a_project_or_to_the_state_folder() {
        let (folder, around) = folder_with("");
        let config = load(&around, &Flags::default()).unwrap();
        assert_eq!(config.runs, folder.path().join("runs"));
        std::fs::remove_file(folder.path().join("config.toml")).unwrap();
        let config = load(&around, &Flags::default()).unwrap();
        assert_eq!(config.runs, Path::new("/state/cifar-tui/runs"));
        std::fs::create_dir(folder.path().join("runs")).unwrap();
        let config = load(&around, &Flags::default()).unwrap();
        assert_eq!(config.runs, folder.path().join("runs"));
    }

    #[test]
    fn a_config_that_is_named_must_exist() {
        let (_folder, around) = folder_with("");
        let flags = Flags {
            config: Some("other.toml".into()),
            ..Default::default()
        };
        let error = load(&around, &flags).unwrap_err().to_string();
        assert!(
            error.contains("other.toml: there is no such file"),
            "{error}"
        );
    }

    #[test]
    fn writing_back_keeps_comments_and_order() {
        let text = "# mine\nepochs = 3 # few\n\n# the rate\nlearning_rate = 0.1\n";
        let text = with_value(text, "learning-rate", "5e-4").unwrap();
        let text = with_value(&text, "epochs", "9").unwrap();
        let text = with_value(&text, "flip", "on").unwrap();
        assert_eq!(
            text,
            "# mine\nepochs = 9 # few\n\n# the rate\nlearning_rate = 0.0005\nflip = true\n"
        );
        assert!(with_value(&text, "epochs", "0").is_err());
        assert!(
            with_value(&text, "epoch", "1")
                .unwrap_err()
                .to_string()
                .contains("'epochs'")
        );
    }
}
