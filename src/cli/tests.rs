use super::*;
use crate::domain::params::Hyperparameters;
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
fn every_hyperparameter_is_a_flag_of_each_command_that_trains() {
    for row in HYPERPARAMS {
        let value = row.get(&Hyperparameters::default());
        for command in [
            "cifar-tui",
            "cifar-tui train",
            "cifar-tui bench",
            "cifar-tui fork a",
        ] {
            let line = format!("{command} --{} {value}", row.flag());
            assert_eq!(flags(&line).params, [(row.key, value.clone())], "{line}");
        }
        let arguments = ["cifar-tui", "fork", "a", "--set"].map(str::to_owned);
        let set = format!("{}={value}", row.key);
        let parsed = parse(arguments.into_iter().chain([set])).unwrap();
        assert_eq!(parsed.flags.params, [(row.key, value)]);
    }
}

#[test]
fn flags_refuse_values_out_of_range() {
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
        [("flip", Value::Text("random".into()))]
    );
    assert_eq!(
        flags("cifar-tui --flip off").params,
        [("flip", Value::Text("off".into()))]
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
            ("epochs", Value::Float(3.0)),
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
