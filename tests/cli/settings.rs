//! Tests of flags, config.toml and the environment: which values are refused, and the messages.

use crate::support::Place;

#[test]
fn usage_errors_exit_2_and_name_the_range() {
    let place = Place::new();
    place.run(&["--no-such-flag"]).exits(2);
    place.run(&["no-such-command"]).exits(2);
    place.run(&["predict", "only-a-checkpoint"]).exits(2);
    place
        .run(&["train", "--dropout", "1.5"])
        .exits(2)
        .says(&["--dropout", "0 to 0.95"]);
    place
        .run(&["train", "--arch", "conv 32, rely, dense 10"])
        .exits(2)
        .says(&["rely"]);
    place
        .run(&["train", "--batch", "0"])
        .exits(2)
        .says(&["1 to 8192"]);
    place.run(&["--help"]).exits(0);
    assert!(
        place
            .run(&["--version"])
            .exits(0)
            .out
            .starts_with("cifar-tui ")
    );
}

#[test]
fn a_wrong_config_is_named_with_file_line_key_and_range() {
    let place = Place::new();
    place.write("config.toml", "# mine\nlearning_rat = 0.1\n");
    place.run(&["train"]).exits(2).says(&[
        "config.toml, line 2",
        "'learning_rat'",
        "'learning_rate'",
    ]);
    place.write("config.toml", "epochs = 3\n\ndropout = 2\n");
    place
        .run(&["train"])
        .exits(2)
        .says(&["config.toml, line 3", "dropout", "'2'", "0 to 0.95"]);
    place.write("config.toml", "dropout = \n");
    place
        .run(&["train"])
        .exits(2)
        .says(&["config.toml", "TOML"]);
    place
        .run(&["train", "--config", "other.toml"])
        .exits(2)
        .says(&["other.toml"]);
}

#[test]
fn a_pipe_gets_no_escape_codes_and_a_hint() {
    let place = Place::new();
    let done = place
        .run(&[])
        .exits(2)
        .says(&["terminal", "cifar-tui train"]);
    assert_eq!(done.out, "");
    assert!(!done.err.contains('\u{1b}'), "{:?}", done.err);
}

#[test]
fn config_is_shown_set_and_started_anew() {
    let place = Place::new();
    place.run(&["config", "init"]).exits(0);
    place
        .run(&["config", "init"])
        .exits(1)
        .says(&["already here"]);
    place
        .run(&["config", "set", "learning-rate", "5e-4"])
        .exits(0);
    place
        .run(&["config", "set", "epochs", "0"])
        .exits(2)
        .says(&["epochs", "1 to 10000"]);
    let text = place.read("config.toml");
    assert!(text.contains("\nlearning_rate = 0.0005\n") && text.contains("# Step size"));
    let shown = place.run(&["config", "--epochs", "7"]);
    assert_eq!(
        shown.code,
        Some(2),
        "a hyperparameter is no flag of `config`"
    );
    let shown = place.run(&["config"]).exits(0).out;
    let line = shown
        .lines()
        .find(|l| l.starts_with("learning_rate"))
        .unwrap();
    assert!(
        line.contains("0.0005") && line.contains("config.toml, line"),
        "{line}"
    );
}

#[test]
fn doctor_reports_a_wrong_config_file_and_goes_on() {
    let place = Place::with_data();
    for (text, why) in [
        ("dropout = \n", "not valid TOML"),
        ("epochs = 3\ndropout = 2\n", "line 2"),
    ] {
        place.write("config.toml", text);
        let json = &place.run(&["doctor", "--json"]).exits(0).json()[0];
        assert_eq!(json["config"]["wrong"], true);
        assert!(json["config"]["text"].as_str().unwrap().contains(why));
        assert_eq!(json["data"]["wrong"], false, "the rest is still looked at");
        let lines = place.run(&["doctor"]).exits(0).out;
        let config = lines.find("! config").unwrap();
        assert!(lines[config..].contains("\n  runs"), "{lines}");
    }
}

#[test]
fn doctor_names_every_folder_and_where_it_comes_from() {
    let place = Place::with_data();
    let text = place.run(&["doctor"]).exits(0).out;
    for part in [
        "device",
        "CPU",
        "processor",
        "terminal",
        "data",
        "config",
        "runs",
        "XDG state",
    ] {
        assert!(text.contains(part), "'{part}' is missing in\n{text}");
    }
    place.write("config.toml", "threads = 1\n");
    let json = &place.run(&["doctor", "--json"]).exits(0).json()[0];
    assert!(
        json["threads"]["text"]
            .as_str()
            .unwrap()
            .contains("config.toml, line 1")
    );
    assert!(
        json["runs"]["text"]
            .as_str()
            .unwrap()
            .contains("config.toml here")
    );
}
