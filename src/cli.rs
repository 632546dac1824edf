//! The command line: every flag and subcommand, made from the tables where there is one. Says what was asked; does
//! nothing itself.

use crate::config::{Flags, OPTIONS, OptionKind, Options};
use crate::domain::params::{HYPERPARAMS, Hyperparameters, ValueKind};
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use std::path::PathBuf;

/// What the command line asks for.
#[derive(Clone, Debug)]
pub struct Invocation {
    pub flags: Flags,
    pub task: Task,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Task {
    /// The TUI.
    Screen(Session),
    Train {
        session: Session,
        json: bool,
    },
    Eval {
        checkpoint: PathBuf,
        split: String,
        json: bool,
    },
    Predict {
        checkpoint: PathBuf,
        images: Vec<PathBuf>,
        json: bool,
    },
    Runs(RunsCommand),
    Data(DataCommand),
    Bench {
        seconds: f64,
        eval: bool,
        suite: bool,
        json: bool,
    },
    Doctor {
        json: bool,
    },
    /// The screen of a session that runs already.
    Attach {
        run: Option<String>,
    },
    Config(ConfigTask),
    /// Every key of the screen.
    Keys,
}

/// Which run a session makes or goes on with.
#[derive(Clone, Debug, Default)]
pub struct Session {
    pub name: Option<String>,
    pub resume: Option<String>,
}

#[derive(Clone, Debug)]
pub enum RunsCommand {
    List { json: bool },
    Show { name: String, json: bool },
    Compare { names: Vec<String>, json: bool },
    Export { name: String, format: String },
}

#[derive(Clone, Debug)]
pub enum DataCommand {
    Info { json: bool },
    Download,
    Verify,
}

#[derive(Clone, Debug)]
pub enum ConfigTask {
    /// Everything that is set and where it was said.
    Show,
    /// A fresh config.toml here.
    Init,
    Set {
        key: String,
        value: String,
    },
}

/// Reads the command line.
///
/// # Errors
/// A usage error, or the text of `--help` and `--version`: clap's own, with its exit code.
pub fn parse(
    arguments: impl IntoIterator<Item = impl Into<std::ffi::OsString> + Clone>,
) -> Result<Invocation, clap::Error> {
    let matches = command().try_get_matches_from(arguments)?;
    let (name, sub) = match matches.subcommand() {
        Some((name, sub)) => (name, sub),
        None => ("", &matches),
    };
    let text = |m: &ArgMatches, id: &str| m.get_one::<String>(id).cloned();
    let file = |id: &str| sub.get_one::<PathBuf>(id).cloned().unwrap_or_default();
    let json = |m: &ArgMatches| m.get_flag("json");

    let mut flags = Flags {
        config: sub.get_one::<PathBuf>("config").cloned(),
        ..Default::default()
    };
    for row in OPTIONS {
        let given = match row.kind {
            OptionKind::Switch(_) => sub.get_flag(row.key).then(|| "off".into()),
            OptionKind::Path(_) | OptionKind::Word(_) | OptionKind::Number => text(sub, row.key),
        };
        if let Some(text) = given {
            flags.options.push((row.key, text));
        }
    }
    let trains = matches!(name, "" | "train" | "bench");
    for row in HYPERPARAMS {
        let given = |m: &ArgMatches| m.try_get_one(row.key).ok().flatten().cloned();
        let outer = given(&matches);
        if outer.is_some() && !trains {
            return Err(no_effect(&format!("--{}", row.flag()), name));
        }
        if let Some(value) = given(sub).or(outer) {
            flags.params.push((row.key, value));
        }
    }
    let session = Session {
        name: text(&matches, "name").or_else(|| optional(sub, "name")),
        resume: text(&matches, "resume").or_else(|| optional(sub, "resume")),
    };
    if !matches!(name, "" | "train") {
        for (flag, value) in [("--name", &session.name), ("--resume", &session.resume)] {
            // Subcommands have arguments of these names too; only what stands before the subcommand is misplaced.
            if value.is_some() && text(&matches, &flag[2..]).is_some() {
                return Err(no_effect(flag, name));
            }
        }
    }

    let task = match name {
        "train" => Task::Train {
            session,
            json: json(sub),
        },
        "eval" => Task::Eval {
            checkpoint: file("checkpoint"),
            split: text(sub, "split").unwrap_or_default(),
            json: json(sub),
        },
        "predict" => Task::Predict {
            checkpoint: file("checkpoint"),
            images: sub
                .get_many::<PathBuf>("images")
                .map(|all| all.cloned().collect())
                .unwrap_or_default(),
            json: json(sub),
        },
        "runs" => Task::Runs(match sub.subcommand() {
            Some(("show", m)) => RunsCommand::Show {
                name: text(m, "run").unwrap_or_default(),
                json: json(m),
            },
            Some(("compare", m)) => RunsCommand::Compare {
                names: m
                    .get_many::<String>("run")
                    .map(|all| all.cloned().collect())
                    .unwrap_or_default(),
                json: json(m),
            },
            Some(("export", m)) => RunsCommand::Export {
                name: text(m, "run").unwrap_or_default(),
                format: text(m, "format").unwrap_or_default(),
            },
            Some((_, m)) => RunsCommand::List { json: json(m) },
            None => RunsCommand::List { json: json(sub) },
        }),
        "data" => Task::Data(match sub.subcommand() {
            Some(("download", _)) => DataCommand::Download,
            Some(("verify", _)) => DataCommand::Verify,
            Some((_, m)) => DataCommand::Info { json: json(m) },
            None => DataCommand::Info { json: json(sub) },
        }),
        "bench" => Task::Bench {
            seconds: sub.get_one("seconds").copied().unwrap_or(5.0),
            eval: sub.get_flag("eval"),
            suite: sub.get_flag("suite"),
            json: json(sub),
        },
        "attach" => Task::Attach {
            run: text(sub, "run"),
        },
        "doctor" => Task::Doctor { json: json(sub) },
        "keys" => Task::Keys,
        "config" => Task::Config(match sub.subcommand() {
            Some(("init", _)) => ConfigTask::Init,
            Some(("set", m)) => ConfigTask::Set {
                key: text(m, "key").unwrap_or_default(),
                value: text(m, "value").unwrap_or_default(),
            },
            _ => ConfigTask::Show,
        }),
        _ => Task::Screen(session),
    };
    Ok(Invocation { flags, task })
}

fn optional(matches: &ArgMatches, id: &str) -> Option<String> {
    matches.try_get_one::<String>(id).ok().flatten().cloned()
}

fn no_effect(flag: &str, subcommand: &str) -> clap::Error {
    command().error(
        clap::error::ErrorKind::ArgumentConflict,
        format!("{flag} has no effect on `{subcommand}`"),
    )
}

/// The whole command line.
pub fn command() -> Command {
    session_args(hyperparameters(Command::new("cifar-tui")))
        .version(env!("CARGO_PKG_VERSION"))
        .about("Watch and steer a convolutional network while it learns CIFAR-10, in a terminal")
        .after_help(
            "Without a command: the screen, training. Examples:\n  \
             cifar-tui                                     train on CIFAR-10 if it is found, else on the built-in images\n  \
             cifar-tui --data ~/cifar-10-python.tar.gz     train on this copy\n  \
             cifar-tui --optimizer sgd --lr 0.05 --flip    another recipe\n  \
             cifar-tui --resume seed-0412                  go on with a run\n  \
             cifar-tui train --epochs 5                    without a screen\n\n\
             Exit codes: 0 done, 1 failed, 2 usage, 3 diverged, 128+n ended by signal n.",
        )
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
        .subcommand(
            Command::new("attach")
                .about("The screen of a session that runs already: one that lost its terminal, was detached with D, or is another's")
                .arg(Arg::new("run").value_name("RUN").help("The run's name; without one the newest session"))
                .after_help(
                    "The whole history is there, and every key works. D leaves, and training goes on. Examples:\n  \
                     cifar-tui attach\n  \
                     cifar-tui attach seed-0412",
                ),
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
                        .value_parser(seconds)
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
                    Arg::new("suite")
                        .long("suite")
                        .action(ArgAction::SetTrue)
                        .conflicts_with_all(["seconds", "eval"])
                        .help("All checks and figures of the device, in some minutes"),
                )
                .arg(json("Write the result as one line of JSON"))
                .after_help(
                    "Examples:\n  \
                     cifar-tui bench\n  \
                     cifar-tui bench --device cpu --threads 1 --batch 128 --seconds 10\n  \
                     cifar-tui bench --arch resnet --eval --json\n  \
                     cifar-tui bench --suite --device cuda --data cifar-10-batches-bin",
                ),
        )
        .subcommand(
            Command::new("doctor")
                .about("Show what this machine has: device, CPU, terminal, data, folders")
                .arg(json("Write it as JSON"))
                .after_help("Examples:\n  cifar-tui doctor\n  cifar-tui doctor --json"),
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

fn runs() -> Command {
    let run = || Arg::new("run").value_name("RUN").required(true);
    Command::new("runs")
        .about("List, show, compare and export runs")
        .arg(json("Write JSON"))
        .subcommand(
            Command::new("list")
                .about("Every run, newest first")
                .arg(json("Write JSON")),
        )
        .subcommand(
            Command::new("show")
                .about("One run: its recipe and its epochs")
                .arg(run())
                .arg(json("Write JSON")),
        )
        .subcommand(
            Command::new("compare")
                .about("Where runs differ, and what came of it")
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
                .about("Fetch CIFAR-10; a broken transfer goes on where it ended"),
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

/// `--data`, `--runs`, `--config`, ...: what every command takes.
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

/// One flag a row of HYPERPARAMS.
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
            ValueKind::Bool => arg.num_args(0..=1).default_missing_value("on"),
            _ => arg,
        };
        match row.alias {
            Some(alias) => arg.visible_alias(alias),
            None => arg,
        }
    });
    command.args(args)
}

fn session_args(command: Command) -> Command {
    command
        .arg(
            Arg::new("name")
                .long("name")
                .value_name("NAME")
                .help("Name of the new run [default: made from the architecture and a number]"),
        )
        .arg(
            Arg::new("resume")
                .long("resume")
                .value_name("NAME")
                .conflicts_with("name")
                .help("Go on with this run, where its last checkpoint is"),
        )
}

fn checkpoint() -> Arg {
    Arg::new("checkpoint")
        .value_name("CHECKPOINT")
        .required(true)
        .value_parser(value_parser!(PathBuf))
        .help("A .safetensors file of a run, or a run's name or folder: then its best")
}

fn json(help: &'static str) -> Arg {
    Arg::new("json")
        .long("json")
        .action(ArgAction::SetTrue)
        .help(help)
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|s| (0.01..=3600.0).contains(s))
        .ok_or_else(|| "seconds: 0.01 to 3600".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::params::Value;

    fn flags(line: &str) -> Flags {
        parse(line.split_whitespace()).unwrap().flags
    }

    fn refusal(line: &str) -> clap::Error {
        parse(line.split_whitespace()).unwrap_err()
    }

    #[test]
    fn clap_finds_no_fault() {
        command().debug_assert();
    }

    #[test]
    fn every_hyperparameter_is_a_flag_of_the_screen_of_train_and_of_bench() {
        for row in HYPERPARAMS {
            let value = row.get(&Hyperparameters::default());
            for command in ["cifar-tui", "cifar-tui train", "cifar-tui bench"] {
                let line = format!("{command} --{} {value}", row.flag());
                assert_eq!(flags(&line).params, [(row.key, value.clone())], "{line}");
            }
        }
    }

    #[test]
    fn ranges_are_held_by_the_flags() {
        let error = refusal("cifar-tui train --dropout 1.5");
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("0 to 0.95"), "{error}");
        assert!(refusal("cifar-tui --lr -1").to_string().contains("0 to 10"));
        assert!(
            refusal("cifar-tui --device gpu")
                .to_string()
                .contains("cuda:N")
        );
        assert!(
            refusal("cifar-tui --dropuot 1")
                .to_string()
                .contains("--dropout")
        );
    }

    #[test]
    fn switches_work_alone_and_with_a_word() {
        assert_eq!(
            flags("cifar-tui --flip").params,
            [("flip", Value::Bool(true))]
        );
        assert_eq!(
            flags("cifar-tui --flip off").params,
            [("flip", Value::Bool(false))]
        );
        assert_eq!(
            flags("cifar-tui --no-mouse").options,
            [("mouse", "off".into())]
        );
    }

    #[test]
    fn flags_count_before_and_after_the_command() {
        let flags = flags("cifar-tui --epochs 3 --threads 1 train --lr 0.1 --batch 64");
        assert_eq!(
            flags.params,
            [
                ("learning_rate", Value::Float(0.1)),
                ("batch_size", Value::Int(64)),
                ("epochs", Value::Int(3)),
            ]
        );
        assert_eq!(flags.options, [("threads", "1".into())]);
        let error = refusal("cifar-tui --epochs 3 doctor").to_string();
        assert!(
            error.contains("--epochs has no effect on `doctor`"),
            "{error}"
        );
        assert!(
            refusal("cifar-tui --name x runs")
                .to_string()
                .contains("--name has no effect")
        );
    }

    #[test]
    fn every_command_has_examples_in_its_help() {
        for sub in command().get_subcommands() {
            let help = sub.get_after_help().map(ToString::to_string);
            assert!(
                help.is_some_and(|h| h.contains(&format!("cifar-tui {}", sub.get_name()))),
                "{} has no example",
                sub.get_name()
            );
        }
    }
}
