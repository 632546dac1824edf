//! The subcommand `sweep`.

use super::{headless, hyperparameters, json, session_args};
use crate::domain::sweep::{MAX_TRIALS, Strategy};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Arg, ArgAction, Command, value_parser};

pub(super) fn command() -> Command {
    let count = |least: u64, most: u64| value_parser!(u64).range(least..=most).map(|n| n as usize);
    session_args(hyperparameters(Command::new("sweep")))
        .about("Train many runs with different hyperparameters, several at a time, and rank them")
        .arg(
            Arg::new("axes")
                .value_name("KEY=VALUES")
                .num_args(0..)
                .conflicts_with("resume")
                .help("A hyperparameter and what to try: dropout=0.3,0.5, seed=1..4, or learning_rate=1e-4..1e-2 log 5 for 5 points"),
        )
        .arg(
            Arg::new("strategy")
                .long("strategy")
                .value_name(Strategy::ALL.map(Strategy::word).join("|"))
                .hide_possible_values(true)
                .conflicts_with("resume")
                .value_parser(PossibleValuesParser::new(Strategy::ALL.map(Strategy::word)))
                .help("Which combinations to train, and how far [default: grid, or random with --trials]"),
        )
        .arg(
            Arg::new("trials")
                .long("trials")
                .value_name("N")
                .conflicts_with("resume")
                .value_parser(count(1, MAX_TRIALS as u64))
                .help("Draw this many combinations at random"),
        )
        .arg(
            Arg::new("parallel")
                .long("parallel")
                .value_name("N")
                .value_parser(count(0, 64))
                .help("How many runs to train at the same time; 0 only shows what other processes train [default: one per thread on the CPU, 1 on a GPU]"),
        )
        .arg(headless("Write lines instead of showing the screen, as in a pipe"))
        .arg(
            Arg::new("no-wait")
                .long("no-wait")
                .action(ArgAction::SetTrue)
                .help("End when other processes train all that is left, instead of waiting in case that one dies (halving and population always wait)"),
        )
        .arg(
            Arg::new("slurm")
                .long("slurm")
                .action(ArgAction::SetTrue)
                .conflicts_with_all(["headless", "no-wait"])
                .help("Train on a Slurm cluster: write a job script into the sweep's folder and submit it with sbatch"),
        )
        .arg(
            Arg::new("slurm-args")
                .long("slurm-args")
                .value_name("OPTIONS")
                .requires("slurm")
                .allow_hyphen_values(true)
                .help("Options of sbatch for the job script: '--partition=gpu --gres=gpu:1 --time=4:00:00'"),
        )
        .arg(
            Arg::new("slurm-tasks")
                .long("slurm-tasks")
                .value_name("N")
                .requires("slurm")
                .value_parser(count(1, MAX_TRIALS as u64))
                .help("Most tasks of the job array [default: one for each trial]"),
        )
        .arg(json("Write what happens, and at the end the results, as lines of JSON"))
        .after_help(
            "grid trains every combination. random draws --trials of them; each draw is repeated with every value of `seed`.\n\
             halving trains all for a few epochs, the best third three times as long, and so on. population trains all side by\n\
             side; every few epochs the worst quarter continues with copies of the best and with changed values.\n\
             Without KEY=VALUES, the sweep of config.toml is begun, if it has one.\n\
             The runs are in a folder of their own in the runs folder. A sweep that was interrupted goes on with --resume, and\n\
             several processes can work on one. With --slurm these are the tasks of a job array, which take trials until none is\n\
             left: the command itself trains nothing, and --parallel is the number of runs that a task trains at the same time\n\
             [default: 1]. --resume NAME --slurm submits again. Examples:\n  \
             cifar-tui sweep 'learning_rate=1e-4..1e-2 log' dropout=0.3,0.5 seed=1..3\n  \
             cifar-tui sweep 'lr=0.01..1 log' weight_decay=1e-4,5e-4 --recipe resnet --trials 12 --strategy halving\n  \
             cifar-tui sweep lr=1e-3,1e-2 seed=1..4 --slurm --slurm-args '--gres=gpu:1 --time=2:00:00'\n  \
             cifar-tui sweep --resume sweep-1123-0412",
        )
}
