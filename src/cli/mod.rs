//! The command line: parses the arguments into an [`Invocation`]. The flags of hyperparameters and options are generated
//! from their tables. Nothing is executed here.

mod arguments;
mod attach;
#[cfg(test)]
mod tests;

pub use arguments::command;

use crate::config::{Flags, OPTIONS, OptionKind};
use crate::domain::gpus::{self, KnownGpu};
use crate::domain::params::{HYPERPARAMS, Tta, Value, Weights, param};
use crate::domain::rate_test;
use crate::domain::sweep::Strategy;
use crate::session::protocol::{self, TypedRequest};
use clap::ArgMatches;
use std::path::PathBuf;
use std::time::Duration;

/// The parsed command line.
#[derive(Clone, Debug)]
pub struct Invocation {
    pub flags: Flags,
    pub task: Task,
}

/// The task to perform.
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
        weights: Weights,
        tta: Option<Tta>,
        split: String,
        json: bool,
    },
    Predict {
        checkpoint: PathBuf,
        weights: Weights,
        tta: Option<Tta>,
        images: Vec<PathBuf>,
        json: bool,
    },
    Runs(RunsCommand),
    Data(DataCommand),
    Bench {
        options: BenchOptions,
        suite: bool,
        /// A script whose speed the suite shows beside ours.
        peer: Option<PathBuf>,
        /// Measure all variants of the kernels.
        tune: bool,
        /// Explain each launch of a step on a GPU.
        explain: bool,
        /// The GPU to explain for, if not the device.
        gpu: Option<&'static KnownGpu>,
        json: bool,
    },
    /// Tests learning rates, on a new network or on that of a run.
    FindLr {
        run: Option<PathBuf>,
        steps: usize,
        json: bool,
    },
    /// Trains many runs with different hyperparameters.
    Sweep {
        plan: SweepPlan,
        /// Number of runs to train at the same time; 0 only shows the sweep. None: as many as the device has threads.
        parallel: Option<usize>,
        /// Wait for the runs of other processes when nothing is left to begin.
        waits: bool,
        /// Without the screen, even on a terminal.
        headless: bool,
        /// Submit it to Slurm instead of training.
        slurm: Option<Slurm>,
        json: bool,
    },
    Doctor {
        json: bool,
    },
    /// The screen of a running session.
    Attach(Attach),
    /// Steers a running session.
    Send(Sending),
    /// Prints the events of a running session.
    Watch {
        run: Option<String>,
        json: bool,
    },
    /// Prints the page about the protocol.
    Protocol,
    Config(ConfigTask),
    /// Lists every key of the screen.
    Keys,
    /// Lists the recipes.
    Recipes {
        json: bool,
    },
}

/// The run that a session creates, resumes or forks.
#[derive(Clone, Debug, Default)]
pub struct Session {
    pub name: Option<String>,
    pub resume: Option<String>,
    /// RUN@STATE.
    pub fork: Option<String>,
}

/// The running session to attach to. A run is named by its name or folder; without one, it is the newest session.
#[derive(Clone, Debug, PartialEq)]
pub enum Attach {
    Here {
        run: Option<String>,
    },
    /// Passes the protocol's lines between the session and standard input and output.
    Pipe {
        run: Option<String>,
    },
    Remote {
        host: String,
        run: Option<String>,
        /// The program that connects, with its arguments.
        ssh: Option<Vec<String>>,
        /// The runs folder over there.
        runs: Option<String>,
    },
}

/// The sweep to begin or to continue.
#[derive(Clone, Debug, PartialEq)]
pub enum SweepPlan {
    New {
        axes: Vec<String>,
        strategy: Option<Strategy>,
        trials: Option<usize>,
        name: Option<String>,
    },
    /// The sweep with this name or folder.
    Resume(String),
}

/// How to submit a sweep to Slurm.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slurm {
    /// Options of sbatch, as typed.
    pub args: Option<String>,
    /// Most tasks of the array. None: one for each trial.
    pub tasks: Option<usize>,
}

/// What `send` is to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Sending {
    /// The run's name or folder; None: that of the only session.
    pub run: Option<String>,
    pub request: TypedRequest,
    /// Wait until the effect is complete.
    pub wait: bool,
    pub timeout: Option<Duration>,
}

/// What `bench` is asked to measure.
#[derive(Clone, Copy, Debug)]
pub struct BenchOptions {
    /// How long, in seconds.
    pub seconds: f64,
    /// Scoring, too.
    pub eval: bool,
    /// Networks that train at once.
    pub networks: usize,
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
    /// Shows all settings and their origins.
    Show,
    /// Creates a config.toml in the current folder.
    Init,
    Set {
        key: String,
        value: String,
    },
}

/// Parses the command line.
///
/// # Errors
/// Returns clap's error for wrong usage, `--help` and `--version`, with its exit code.
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
    let trains = matches!(name, "" | "train" | "bench" | "find-lr" | "fork" | "sweep");
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
    let set = sub.try_get_many::<(&'static str, Value)>("set");
    flags
        .params
        .extend(set.ok().flatten().into_iter().flatten().cloned());
    if name == "find-lr"
        && sub.contains_id("run")
        && let Some((key, _)) = flags.params.first()
    {
        let flag = param(key).map_or_else(|| (*key).to_owned(), |row| format!("--{}", row.flag()));
        return Err(no_effect(&flag, "find-lr RUN"));
    }
    let session = Session {
        name: text(&matches, "name").or_else(|| optional(sub, "name")),
        resume: text(&matches, "resume").or_else(|| optional(sub, "resume")),
        fork: (name == "fork").then(|| text(sub, "run")).flatten(),
    };
    let works = [
        ("--name", matches!(name, "" | "train" | "fork" | "sweep")),
        ("--resume", matches!(name, "" | "train" | "sweep")),
    ];
    for (flag, works) in works {
        // Subcommands have arguments with the same names; only arguments before the subcommand are misplaced.
        if !works && text(&matches, &flag[2..]).is_some() {
            return Err(no_effect(flag, name));
        }
    }

    let task = match name {
        "train" => Task::Train {
            session,
            json: json(sub),
        },
        "fork" if sub.get_flag("headless") || json(sub) => Task::Train {
            session,
            json: json(sub),
        },
        "eval" => Task::Eval {
            checkpoint: file("checkpoint"),
            weights: weights(sub),
            tta: tta(sub),
            split: text(sub, "split").unwrap_or_default(),
            json: json(sub),
        },
        "predict" => Task::Predict {
            checkpoint: file("checkpoint"),
            weights: weights(sub),
            tta: tta(sub),
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
            options: BenchOptions {
                seconds: sub.get_one("seconds").copied().unwrap_or(5.0),
                eval: sub.get_flag("eval"),
                networks: sub
                    .get_one::<u16>("networks")
                    .map_or(1, |n| usize::from(*n)),
            },
            suite: sub.get_flag("suite"),
            peer: sub.get_one("peer").cloned(),
            tune: sub.get_flag("tune"),
            explain: sub.get_flag("explain"),
            gpu: text(sub, "gpu").and_then(|word| gpus::find(&word)),
            json: json(sub),
        },
        "find-lr" => Task::FindLr {
            run: sub.get_one("run").cloned(),
            steps: sub.get_one("steps").copied().unwrap_or(rate_test::STEPS),
            json: json(sub),
        },
        "sweep" => Task::Sweep {
            plan: sweep_plan(sub, session, &flags)?,
            parallel: sub.get_one("parallel").copied(),
            waits: !sub.get_flag("no-wait"),
            headless: sub.get_flag("headless"),
            slurm: sub.get_flag("slurm").then(|| Slurm {
                args: text(sub, "slurm-args"),
                tasks: sub.get_one("slurm-tasks").copied(),
            }),
            json: json(sub),
        },
        "attach" => Task::Attach(attach::attach(sub, &mut flags)?),
        "send" => Task::Send(sending(sub)?),
        "watch" => Task::Watch {
            run: text(sub, "run"),
            json: json(sub),
        },
        "protocol" => Task::Protocol,
        "doctor" => Task::Doctor { json: json(sub) },
        "keys" => Task::Keys,
        "recipes" => Task::Recipes { json: json(sub) },
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

/// The sweep that the arguments describe.
///
/// # Errors
/// Returns an error if a sweep is to be continued and also changed.
fn sweep_plan(
    matches: &ArgMatches,
    session: Session,
    flags: &Flags,
) -> Result<SweepPlan, clap::Error> {
    if let Some(resume) = session.resume {
        return match flags.params.first() {
            Some((key, _)) => Err(no_effect(
                &format!("--{}", key.replace('_', "-")),
                "sweep --resume",
            )),
            None => Ok(SweepPlan::Resume(resume)),
        };
    }
    let axes = matches.get_many::<String>("axes").unwrap_or_default();
    let strategy = matches.get_one::<String>("strategy");
    Ok(SweepPlan::New {
        axes: axes.cloned().collect(),
        strategy: strategy.and_then(|word| Strategy::named(word)),
        trials: matches.get_one("trials").copied(),
        name: session.name,
    })
}

fn sending(matches: &ArgMatches) -> Result<Sending, clap::Error> {
    let words = matches.get_many::<String>("words").unwrap_or_default();
    let words: Vec<String> = words.cloned().collect();
    let (run, request) = protocol::parse_words(&words).map_err(|why| {
        let more = "`cifar-tui send --help` lists the commands";
        command().error(
            clap::error::ErrorKind::InvalidValue,
            format!("{why}. {more}"),
        )
    })?;
    let seconds = matches.get_one::<f64>("timeout");
    Ok(Sending {
        run,
        request,
        wait: matches.get_flag("wait"),
        timeout: seconds.map(|seconds| Duration::from_secs_f64(*seconds)),
    })
}

/// The weights that `--weights` names.
fn weights(matches: &ArgMatches) -> Weights {
    let word = matches.get_one::<String>("weights");
    let named = |weights: &Weights| word.is_some_and(|word| weights.word() == word);
    Weights::ALL.iter().copied().find(named).unwrap_or_default()
}

/// The views that `--tta` names, if it is given.
fn tta(matches: &ArgMatches) -> Option<Tta> {
    let word = matches.get_one::<String>("tta")?;
    Tta::ALL.iter().copied().find(|tta| tta.word() == word)
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
