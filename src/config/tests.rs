use super::*;
use std::path::Path;

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
    // The line of a hyperparameter is a comment, so that it does not override a recipe by accident. Without the # it
    // sets the default.
    let mut bare = template();
    for row in HYPERPARAMS {
        let line = format!("\n# {} = ", row.key);
        assert_eq!(bare.matches(&line).count(), 1, "{}", row.key);
        bare = bare.replace(&line, &format!("\n{} = ", row.key));
    }
    let (_folder, around) = folder_with(&bare);
    let config = load(&around, &Flags::default()).unwrap();
    assert_eq!(config.params, Hyperparameters::default());
    let lines: Vec<_> = bare.lines().map(str::to_owned).collect();
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
    assert_eq!((config.params.dropout, config.params.epochs), (0.25, 7.0));
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
fn an_empty_path_in_the_file_does_not_override_the_environment() {
    let (_folder, mut around) = folder_with(&template());
    around
        .variables
        .insert("CIFAR_TUI_RUNS".into(), "/env/runs".into());
    let config = load(&around, &Flags::default()).unwrap();
    assert_eq!(config.runs, Path::new("/env/runs"));
}

#[test]
fn a_tilde_is_the_home_folder_and_sample_is_not_a_path() {
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
    assert!(refusal("flip = 3").contains("off, random or alternate"));
    assert!(refusal("optimizer = 'adamx'").contains("sgd, adam, adamw or muon"));
    assert!(refusal("device = 'gpu'").contains("auto, cpu, cuda, cuda:N, metal or metal:N"));
    assert!(refusal("threads = -1").contains("0 to 1024"));
    assert!(refusal("[dropout]\nx = 1").contains("plain value"));
    assert!(refusal("dropout = ").contains("not valid TOML"));
    assert!(refusal("learning_rate = nan").contains("0 to 10"));
}

/// Every row gives the same value from the file and from typed text.
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
        "# mine\nepochs = 9 # few\n\n# the rate\nlearning_rate = 0.0005\nflip = \"random\"\n"
    );
    assert!(with_value(&text, "epochs", "0").is_err());
    assert!(
        with_value(&text, "epoch", "1")
            .unwrap_err()
            .to_string()
            .contains("'epochs'")
    );
}

#[test]
fn a_recipe_is_changed_by_the_keys_of_its_layer_and_by_all_later_ones() {
    let (_folder, around) = folder_with("batch_size = 64\nrecipe = \"resnet\"\ncrop = 1\n");
    let config = load(&around, &Flags::default()).unwrap();
    let params = &config.params;
    assert_eq!(params.architecture, "resnet");
    assert_eq!((params.batch_size, params.crop), (64, 1));
    assert!(
        config
            .origin("optimizer")
            .unwrap()
            .contains("resnet (config.toml, line 2)")
    );
    assert_eq!(config.origin("crop"), Some("config.toml, line 3"));

    // A recipe on the command line replaces all hyperparameters of the file except those that no recipe sets.
    let (_folder, around) = folder_with("batch_size = 64\nseed = 7\n");
    let flags = Flags {
        params: vec![
            ("crop", Value::Int(2)),
            ("recipe", Value::Text("resnet".into())),
        ],
        ..Flags::default()
    };
    let config = load(&around, &flags).unwrap();
    let params = &config.params;
    assert_eq!((params.batch_size, params.crop, params.seed), (128, 2, 7));

    assert!(
        refusal("recipe = 'vgg'")
            .contains("line 1: recipe: 'vgg' is not allowed: seed, resnet or airbench")
    );
    assert!(refusal("recipe = 7").contains("seed, resnet or airbench"));
    let text = with_value("", "recipe", "Resnet").unwrap();
    assert_eq!(text, "recipe = \"resnet\"\n");
    assert!(with_value("", "recipe", "x").is_err());
}

#[test]
fn a_sweep_is_read_and_a_wrong_one_is_refused() {
    let table = "[sweep]\nlr = \"1e-4..1e-2 log\"\ndropout = [0.3, 0.5]\nseed = 7\narchitecture = [\"seed\", \"relu, dense 10\"]\n\
         strategy = \"random\"\ntrials = 10\nparallel = 2\n";
    let (_folder, around) = folder_with(&format!("epochs = 3\n{table}"));
    let config = load(&around, &Flags::default()).unwrap();
    let axes = [
        "learning_rate=1e-4..1e-2 log",
        "dropout=0.3,0.5",
        "seed=7",
        "architecture=seed; relu, dense 10",
    ];
    assert_eq!(config.sweep.axes, axes);
    assert_eq!(
        (config.sweep.trials, config.sweep.parallel),
        (Some(10), Some(2))
    );
    assert_eq!(config.sweep.said, "config.toml, line 2");
    for (wrong, part) in [
        ("[sweep]\ndropuot = 1", "did you mean 'dropout'"),
        ("[sweep]\ndropout = \"0..3\"", "0 to 0.95"),
        ("[sweep]\ndropout = {}", "a list of values"),
        ("[sweep]\nstrategy = \"best\"", "one of grid"),
        ("[sweep]\ntrials = -1", "a whole number"),
        ("sweep = 3", "[sweep]"),
    ] {
        let (_folder, around) = folder_with(wrong);
        let error = load(&around, &Flags::default()).unwrap_err().to_string();
        assert!(error.contains(part), "{wrong}: {error}");
    }
    // The template's lines are such a table.
    let lines = template();
    let (_, lines) = lines.split_once("#   [sweep]").unwrap();
    let (_folder, around) = folder_with(&format!("[sweep]{}", lines.replace("\n#", "\n")));
    assert_eq!(
        load(&around, &Flags::default()).unwrap().sweep.axes.len(),
        3
    );
}
