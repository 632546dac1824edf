//! The settings that are not hyperparameters, and their table [`OPTIONS`].

use crate::domain::engine::EngineChoice;
use crate::domain::gpu_tuning::GpuTuning;
use crate::domain::keep::Keep;
use crate::domain::symbols::Symbols;
use crate::domain::terminal::Terminal;
use std::path::PathBuf;

/// The settings that are not hyperparameters: locations, devices and terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The data set's file or folder; None searches the usual locations.
    pub data: Option<PathBuf>,
    /// The runs folder; None uses the usual one.
    pub runs: Option<PathBuf>,
    /// `auto`, `cpu`, `cuda`, `cuda:N`, `metal` or `metal:N`.
    pub device: String,
    pub engine: EngineChoice,
    pub gpu_tuning: GpuTuning,
    /// Number of CPU threads; 0 uses one per core.
    pub threads: usize,
    pub mouse: bool,
    /// None: the symbols that the terminal shows, detected from the environment.
    pub symbols: Option<Symbols>,
    /// Which checkpoints of the ends of epochs a run keeps.
    pub keep: Keep,
    pub on_hangup: OnHangup,
    pub on_usr1: OnUsr1,
}

/// What a session does when its terminal disappears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnHangup {
    /// Continue to train without a screen.
    Continue,
    /// Write a checkpoint and end.
    CheckpointAndStop,
}

/// What a session does when it is sent SIGUSR1 or SIGUSR2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUsr1 {
    /// Write a checkpoint and continue.
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
            engine: EngineChoice::Auto,
            gpu_tuning: GpuTuning::Off,
            threads: 0,
            mouse: true,
            symbols: None,
            keep: Keep::default(),
            on_hangup: OnHangup::Continue,
            on_usr1: OnUsr1::Checkpoint,
        }
    }
}

impl Options {
    /// The configured symbols, or else those that the terminal shows.
    pub fn symbols(&self) -> Symbols {
        let detected = || Terminal::of_process().symbols;
        self.symbols.unwrap_or_else(detected)
    }
}

/// The type of an option's value: how config.toml writes it and what its flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionKind {
    /// A file or a folder, relative to the config file's folder; with the placeholder for the help.
    Path(&'static str),
    /// A word; with the placeholder for the help.
    Word(&'static str),
    /// A whole number.
    Number,
    /// On or off, on by default; its flag `--no-NAME` turns it off. With the flag's help.
    Switch(&'static str),
}

/// A key of config.toml that is not a hyperparameter. Its flag has the same name.
pub struct OptionRow {
    pub key: &'static str,
    pub kind: OptionKind,
    /// The environment variable that sets it if neither a flag nor the file does. The variable for the data set is read
    /// where data is searched.
    pub env: Option<&'static str>,
    pub help: &'static str,
    /// The allowed values, in words.
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

    /// The value as a user would type it; empty if none is set.
    pub fn show(&self, options: &Options) -> String {
        (self.get)(options)
    }

    /// Parses typed text into `options`.
    ///
    /// # Errors
    /// Returns an error if it is not allowed. The message says what is allowed.
    pub fn parse(&self, options: &mut Options, text: &str) -> Result<(), String> {
        (self.set)(options, text.trim())
            .ok_or_else(|| format!("{}: '{text}' is not allowed: {}", self.key, self.range))
    }
}

/// Every setting that is not a hyperparameter.
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
    OptionRow { key: "device", kind: OptionKind::Word("DEVICE"), env: None, default: "\"auto\"", range: "auto, cpu, cuda, cuda:N, metal or metal:N",
        help: "Where the network runs. auto: the first NVIDIA GPU if it can be used, else the CPU. metal: with `engine = \"candle\"` only.",
        set: |o, text| { let text = text.to_ascii_lowercase(); device_word(&text).then(|| o.device = text) },
        get: |o| o.device.clone() },
    OptionRow { key: "engine", kind: OptionKind::Word("ENGINE"), env: None, default: "\"auto\"", range: "auto, native or candle",
        help: "Whose code computes. auto and native: our own kernels. candle: plain Candle, slow, to compare with and for \
               devices that we have no kernels for.",
        set: |o, text| { o.engine = EngineChoice::named(&text.to_ascii_lowercase())?; Some(()) },
        get: |o| o.engine.name().into() },
    OptionRow { key: "gpu_tuning", kind: OptionKind::Word("TUNING"), env: None, default: "\"off\"", range: "off, quick or full",
        help: "How the GPU's kernels are chosen. off: always the plain ones, until a GPU has confirmed the others. quick: the first run of a network on a GPU measures \
               a few of them for at most 1 s and keeps the winners. full: measures all, which takes longer. Results depend on \
               it by rounding alone.",
        set: |o, text| { o.gpu_tuning = GpuTuning::named(&text.to_ascii_lowercase())?; Some(()) },
        get: |o| o.gpu_tuning.name().into() },
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
    OptionRow { key: "keep", kind: OptionKind::Word("WHICH"), env: None, default: "\"thin\"", range: "thin, all or last",
        help: "Which checkpoints of the ends of epochs stay in the run's folder `checkpoints`: those of the last 8 epochs \
               and at most 32 before them, all, or none but the last, the one before it and the best.",
        set: |o, text| { o.keep = Keep::named(text)?; Some(()) },
        get: |o| o.keep.name().into() },
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
    matches!(text, "auto" | "cpu" | "cuda" | "metal")
        || text
            .strip_prefix("cuda:")
            .or_else(|| text.strip_prefix("metal:"))
            .is_some_and(|n| n.len() <= 3 && n.parse::<u16>().is_ok())
}
