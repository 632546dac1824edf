//! The definition of the command line: every flag and subcommand with its help.

mod sweep;

use crate::config::{OPTIONS, OptionKind, Options};
use crate::domain::arch;
use crate::domain::gpus;
use crate::domain::params::{HYPERPARAMS, Hyperparameters, Tta, ValueKind, Weights};
use crate::domain::rate_test::{MAX_STEPS, MIN_STEPS, STEPS};
use crate::session::protocol::{self, parse_setting};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Arg, ArgAction, Command, value_parser};
use std::path::PathBuf;

/// The complete command line.
pub fn command() -> Command {
    session_args(hyperparameters(Command::new("cifar-tui")))
        .version(env!("CARGO_PKG_VERSION"))
        .about("Watch and steer a convolutional network while it learns CIFAR-10, in a terminal")
        .after_help(format!(
            "Without a command: the screen, training. Examples:\n  \
             cifar-tui                                     train on CIFAR-10 if it is found, else on the built-in images\n  \
             cifar-tui --data ~/cifar-10-python.tar.gz     train on this copy\n  \
             cifar-tui --recipe resnet --epochs 8          a stronger recipe, for 8 epochs\n  \
             cifar-tui --resume seed-0412                  go on with a run\n  \
             cifar-tui fork seed-0412@best --lr 5e-4       go on from its best epoch in a new run\n  \
             cifar-tui train --epochs 5                    without a screen\n\n\
             {}\n\n\
             Exit codes: 0 done, 1 failed, 2 usage, 3 diverged, 4 a command was refused, 5 no such session, 124 no answer in \
             time, 128+n ended by signal n.",
            arch::help(),
        ))
        .args(options())
        .subcommand(
            session_args(hyperparameters(Command::new("train")))
                .about("Train without a screen: progress bars on a terminal, plain lines in a pipe")
                .arg(json("Write every event as one line of JSON"))
                .after_help(
                    "Examples:\n  \
                     cifar-tui train --epochs 5\n  \
                     cifar-tui train --arch resnet --batch 128 --schedule one-cycle --name deep\n  \
                     cifar-tui train --resume deep --epochs 30\n  \
                     cifar-tui train --json | jq 'select(.event == \"epoch\")'",
                ),
        )
        .subcommand(fork())
        .subcommand(super::attach::subcommand())
        .subcommand(send())
        .subcommand(watch())
        .subcommand(
            Command::new("protocol")
                .about("The messages between a session and other programs")
                .defer(|command| command.before_help(protocol::page()))
                .after_help("Example:\n  cifar-tui protocol | less"),
        )
        .subcommand(
            Command::new("eval")
                .about("Score a checkpoint: loss, accuracy, classes, confusion matrix")
                .arg(checkpoint())
                .arg(
                    Arg::new("split")
                        .long("split")
                        .value_parser(PossibleValuesParser::new(["test", "validation"]))
                        .default_value("test")
                        .help("The images to score; validation is split off as it was in the run"),
                )
                .arg(weights())
                .arg(tta())
                .arg(json("Write the result as JSON"))
                .after_help(
                    "Examples:\n  \
                     cifar-tui eval runs/seed-0412/best.safetensors\n  \
                     cifar-tui eval seed-0412 --split validation --json",
                ),
        )
        .subcommand(
            Command::new("predict")
                .about("Classify pictures with a checkpoint")
                .arg(checkpoint())
                .arg(
                    Arg::new("images")
                        .value_name("IMAGE")
                        .required(true)
                        .num_args(1..)
                        .value_parser(value_parser!(PathBuf))
                        .help("Pictures: PNG, JPEG, BMP, GIF, WebP, TIFF or PNM, of any size"),
                )
                .arg(weights())
                .arg(tta())
                .arg(json("Write one line of JSON a picture"))
                .after_help(
                    "A picture is cut to the square in its middle and scaled to 32x32. Examples:\n  \
                     cifar-tui predict seed-0412 cat.jpg\n  \
                     cifar-tui predict runs/seed-0412/best.safetensors *.png --json",
                ),
        )
        .subcommand(runs())
        .subcommand(data())
        .subcommand(
            hyperparameters(Command::new("bench"))
                .about("Time the training step and say where its time goes")
                .arg(
                    Arg::new("seconds")
                        .long("seconds")
                        .value_name("S")
                        .value_parser(|text: &str| seconds(text, 0.01, 3600.0))
                        .default_value("5")
                        .help("How long to measure, after the warm-up"),
                )
                .arg(
                    Arg::new("eval")
                        .long("eval")
                        .action(ArgAction::SetTrue)
                        .help("Time scoring too"),
                )
                .arg(
                    Arg::new("networks")
                        .long("networks")
                        .value_name("N")
                        .value_parser(value_parser!(u16).range(1..=1024))
                        .help("How many networks train at once, each on its own batches [default: 1]"),
                )
                .arg(
                    Arg::new("suite")
                        .long("suite")
                        .action(ArgAction::SetTrue)
                        .conflicts_with_all(["seconds", "eval", "networks"])
                        .help("All checks and figures of the device, in some minutes"),
                )
                .arg(
                    Arg::new("peer")
                        .long("peer")
                        .value_name("SCRIPT")
                        .requires("suite")
                        .value_parser(value_parser!(PathBuf))
                        .help("Python script that trains the same networks: its speed beside ours at the end of the suite"),
                )
                .arg(
                    Arg::new("explain")
                        .long("explain")
                        .action(ArgAction::SetTrue)
                        .conflicts_with_all(["suite", "eval", "networks"])
                        .help("Each kernel launch of a step on a GPU: its work, the least time for it, and its own time"),
                )
                .arg(
                    Arg::new("tune")
                        .long("tune")
                        .action(ArgAction::SetTrue)
                        .conflicts_with_all(["suite", "eval", "explain", "seconds", "networks"])
                        .help("Measure all variants of the network's kernels on a GPU, and keep the fastest for later runs"),
                )
                .arg(
                    Arg::new("gpu")
                        .long("gpu")
                        .value_name("NAME")
                        .requires("explain")
                        .conflicts_with_all(["seconds", "device"])
                        .value_parser(PossibleValuesParser::new(gpus::words()))
                        .help("Explain them for this GPU, which need not be here"),
                )
                .arg(json("Write the result as one line of JSON"))
                .after_help(
                    "Examples:\n  \
                     cifar-tui bench\n  \
                     cifar-tui bench --device cpu --threads 1 --batch 128 --seconds 10\n  \
                     cifar-tui bench --arch resnet --eval --json\n  \
                     cifar-tui bench --explain --gpu h200 --recipe airbench --precision bf16\n  \
                     cifar-tui bench --suite --device cuda --data cifar-10-batches-bin",
                ),
        )
        .subcommand(find_lr())
        .subcommand(sweep::command())
        .subcommand(
            Command::new("doctor")
                .about("Show what this machine has: device, CPU, terminal, data, folders")
                .arg(json("Write it as JSON"))
                .after_help("Examples:\n  cifar-tui doctor\n  cifar-tui doctor --json"),
        )
        .subcommand(
            Command::new("recipes")
                .about("List the recipes: what each sets, and what it reaches")
                .arg(json("Write each recipe as one line of JSON"))
                .after_help(
                    "A recipe is an architecture and the hyperparameters that belong to it. Examples:\n  \
                     cifar-tui recipes\n  \
                     cifar-tui --recipe resnet\n  \
                     cifar-tui config set recipe resnet",
                ),
        )
        .subcommand(
            Command::new("keys")
                .about("List every key of the screen, by screen")
                .after_help("Example:\n  cifar-tui keys | less"),
        )
        .subcommand(
            Command::new("config")
                .about("Show or change what is set in config.toml")
                .subcommand(Command::new("show").about("Every setting, its value and where it was said"))
                .subcommand(Command::new("init").about("Write a config.toml with every key and its default here"))
                .subcommand(
                    Command::new("set")
                        .about("Set one key in config.toml; comments stay")
                        .arg(Arg::new("key").value_name("KEY").required(true))
                        .arg(
                            Arg::new("value")
                                .value_name("VALUE")
                                .required(true)
                                .allow_negative_numbers(true),
                        ),
                )
                .after_help(
                    "Examples:\n  \
                     cifar-tui config\n  \
                     cifar-tui config init\n  \
                     cifar-tui config set learning_rate 0.0005",
                ),
        )
}

fn find_lr() -> Command {
    let steps = value_parser!(u64).range(MIN_STEPS as u64..=MAX_STEPS as u64);
    hyperparameters(Command::new("find-lr"))
        .about("Find a learning rate: train a copy of the network while the rate grows, and see where the loss falls")
        .arg(
            Arg::new("run")
                .value_name("RUN")
                .value_parser(value_parser!(PathBuf))
                .help("A run (its last checkpoint) or a checkpoint, which is only read; without one a new network"),
        )
        .arg(
            Arg::new("steps")
                .long("steps")
                .value_name("N")
                .value_parser(steps.map(|n| n as usize))
                .help(format!("Number of steps [default: {STEPS}]")),
        )
        .arg(json("Write the result as one line of JSON"))
        .after_help(
            "Examples:\n  \
             cifar-tui find-lr --optimizer sgd\n  \
             cifar-tui find-lr --recipe resnet --steps 200\n  \
             cifar-tui find-lr seed-0412 --json | jq .suggestion",
        )
}

fn send() -> Command {
    Command::new("send")
        .about("Steer a running session from a script: each answer is one line of JSON")
        .override_usage("cifar-tui send [OPTIONS] [RUN] COMMAND [ARGUMENT]...")
        .arg(
            Arg::new("words")
                .value_name("COMMAND")
                .required(true)
                .num_args(1..)
                .help("The run's name, unless only one session is running; then a command and what it takes"),
        )
        .arg(
            Arg::new("wait")
                .long("wait")
                .action(ArgAction::SetTrue)
                .help("Answer when the effect is complete, not when the command is accepted"),
        )
        .arg(
            Arg::new("timeout")
                .long("timeout")
                .value_name("S")
                .value_parser(|text: &str| seconds(text, 0.0, 1e6))
                .help("Give up after this many seconds [default: never]"),
        )
        .after_help(format!(
            "Commands:\n{}\n\
             Exit codes: 0 accepted and, with --wait, in effect; 4 refused, or without effect; 5 no such session; 124 no \
             answer in time. Examples:\n  \
             cifar-tui send pause\n  \
             cifar-tui send seed-0412 set learning_rate=0.0005 dropout=0.3 --wait\n  \
             cifar-tui send evaluate --wait | jq .evaluation.accuracy\n  \
             cifar-tui send ask status | jq .epoch",
            protocol::typed_commands()
        ))
}

fn watch() -> Command {
    Command::new("watch")
        .about("Print the events of a running session until it ends")
        .arg(
            Arg::new("run")
                .value_name("RUN")
                .help("The run's name, unless only one session is running"),
        )
        .arg(json(
            "Write every event as one line of JSON, the first being a snapshot of the session so far",
        ))
        .after_help(
            "The exit code is that of the session. However slowly its output is read, training goes on; see\n\
             `cifar-tui protocol` for the events. Examples:\n  \
             cifar-tui watch\n  \
             cifar-tui watch seed-0412 --json | jq 'select(.event == \"epoch\")'",
        )
}

fn fork() -> Command {
    hyperparameters(Command::new("fork"))
        .about("Begin a new run in a saved state of another one, with changes")
        .arg(
            Arg::new("run")
                .value_name("RUN[@STATE]")
                .required(true)
                .help("A run's name or folder, and @5 for the end of epoch 5, @best, or @step:N; without it, its last checkpoint"),
        )
        .arg(
            Arg::new("set")
                .long("set")
                .value_name("KEY=VALUE")
                .action(ArgAction::Append)
                .value_parser(parse_setting)
                .help("Change a hyperparameter, as its own flag does"),
        )
        .arg(name())
        .arg(headless("Train without the screen, as `cifar-tui train` does"))
        .arg(json("Without the screen: write every event as one line of JSON"))
        .after_help(
            "The other run is only read, and may be training. Any hyperparameter may change but `validation`; the images stay\n\
             divided as they are. Weights that fit another architecture are taken over. Examples:\n  \
             cifar-tui fork seed-0412@best --lr 5e-4\n  \
             cifar-tui fork seed-0412@5 --set optimizer=sgd --set learning_rate=0.01 --name sgd\n  \
             cifar-tui fork seed-0412 --epochs 30 --headless",
        )
}

fn runs() -> Command {
    let run = || Arg::new("run").value_name("RUN").required(true);
    Command::new("runs")
        .about("List, show, compare and export runs")
        .arg(json("Write JSON: the runs, without the sweeps"))
        .subcommand(
            Command::new("list")
                .about("Every run, newest first, then every sweep")
                .arg(json("Write JSON: the runs, without the sweeps")),
        )
        .subcommand(
            Command::new("show")
                .about("One run: its recipe and its epochs")
                .arg(run())
                .arg(json("Write JSON")),
        )
        .subcommand(
            Command::new("compare")
                .about("Compare the hyperparameters and results of runs")
                .arg(run().num_args(2..))
                .arg(json("Write JSON")),
        )
        .subcommand(
            Command::new("export")
                .about("A run's epochs, for other programs")
                .arg(run())
                .arg(
                    Arg::new("format")
                        .long("format")
                        .value_parser(PossibleValuesParser::new(["csv", "json"]))
                        .default_value("csv")
                        .help("What to write"),
                ),
        )
        .after_help(
            "Examples:\n  \
             cifar-tui runs\n  \
             cifar-tui runs show seed-0412\n  \
             cifar-tui runs compare seed-0412 seed-0413\n  \
             cifar-tui runs export seed-0412 --format csv > curve.csv",
        )
}

fn data() -> Command {
    Command::new("data")
        .about("Show, fetch and check the data set")
        .arg(json("Write JSON"))
        .subcommand(
            Command::new("info")
                .about("What is found, and where")
                .arg(json("Write JSON")),
        )
        .subcommand(
            Command::new("download")
                .about("Download CIFAR-10; an interrupted download is continued"),
        )
        .subcommand(
            Command::new("verify").about("Read every image and check the published digests"),
        )
        .after_help(
            "Examples:\n  \
             cifar-tui data\n  \
             cifar-tui data info --data ~/cifar-10-batches-py\n  \
             cifar-tui data download\n  \
             cifar-tui data verify",
        )
}

/// The options of every command: `--data`, `--runs`, `--config`, ...
fn options() -> Vec<Arg> {
    let mut all = vec![
        Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help("Read this file instead of config.toml"),
    ];
    for row in OPTIONS {
        let value_name = match row.kind {
            OptionKind::Switch(help) => {
                let flag = format!("no-{}", row.flag());
                let arg = Arg::new(row.key).long(flag).action(ArgAction::SetTrue);
                all.push(arg.help(help));
                continue;
            }
            OptionKind::Path(name) | OptionKind::Word(name) => name,
            OptionKind::Number => "N",
        };
        all.push(
            Arg::new(row.key)
                .long(row.flag())
                .value_name(value_name)
                .allow_negative_numbers(true)
                .value_parser(move |text: &str| {
                    row.parse(&mut Options::default(), text)
                        .map(|()| text.to_owned())
                })
                .help(row.help),
        );
    }
    all.into_iter()
        .map(|arg| arg.global(true).help_heading("Where and on what"))
        .collect()
}

/// One flag per row of HYPERPARAMS.
fn hyperparameters(command: Command) -> Command {
    let defaults = Hyperparameters::default();
    let args = HYPERPARAMS.iter().map(|row| {
        let parser = move |text: &str| row.parse(text).map_err(|error| error.why);
        let value_name = match row.kind {
            ValueKind::Bool => "on|off".to_owned(),
            ValueKind::Int { .. } => "N".into(),
            ValueKind::Float { .. } => "X".into(),
            ValueKind::Choice(words) => words.join("|"),
            ValueKind::Text(_) => "TEXT".into(),
        };
        let range = match row.kind {
            ValueKind::Int { .. } | ValueKind::Float { .. } => format!("{}; ", row.range()),
            _ => String::new(),
        };
        let arg = Arg::new(row.key)
            .long(row.flag())
            .value_name(value_name)
            .allow_negative_numbers(true)
            .value_parser(parser)
            .help_heading("Hyperparameters")
            .help(format!(
                "{} [{range}default: {}]",
                row.help,
                row.show(&row.get(&defaults))
            ));
        let arg = match row.kind {
            _ if row.is_switch() => arg.num_args(0..=1).default_missing_value("on"),
            _ => arg,
        };
        match row.alias {
            Some(alias) => arg.visible_alias(alias),
            None => arg,
        }
    });
    command.args(args)
}

fn name() -> Arg {
    Arg::new("name")
        .long("name")
        .value_name("NAME")
        .help("Name of the new run [default: made from the architecture and a number]")
}

fn session_args(command: Command) -> Command {
    command.arg(name()).arg(
        Arg::new("resume")
            .long("resume")
            .value_name("NAME")
            .conflicts_with("name")
            .help("Go on with this run, where its last checkpoint is"),
    )
}

fn weights() -> Arg {
    Arg::new("weights")
        .long("weights")
        .value_name(Weights::WORDS.join("|"))
        .hide_possible_values(true)
        .hide_default_value(true)
        .value_parser(PossibleValuesParser::new(Weights::WORDS))
        .default_value(Weights::Last.word())
        .help("The weights after the checkpoint's step, or their average (see average_decay)")
}

fn tta() -> Arg {
    Arg::new("tta")
        .long("tta")
        .value_name(Tta::WORDS.join("|"))
        .hide_possible_values(true)
        .value_parser(PossibleValuesParser::new(Tta::WORDS))
        .help("Views of each image to average over, instead of those that the run says")
}

fn checkpoint() -> Arg {
    Arg::new("checkpoint")
        .value_name("CHECKPOINT")
        .required(true)
        .value_parser(value_parser!(PathBuf))
        .help("A .safetensors file of a run, or a run's name or folder: then its best")
}

fn headless(help: &'static str) -> Arg {
    Arg::new("headless")
        .long("headless")
        .action(ArgAction::SetTrue)
        .help(help)
}

fn json(help: &'static str) -> Arg {
    Arg::new("json")
        .long("json")
        .action(ArgAction::SetTrue)
        .help(help)
}

fn seconds(text: &str, least: f64, most: f64) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|s| (least..=most).contains(s))
        .ok_or_else(|| format!("seconds: {least} to {most}"))
}
