//! Tests of `fork`: the flags, the messages, and what `runs` says of the family.

use crate::support::{Done, Place};

/// A run of three epochs, with the checkpoint of each.
fn trained() -> Place {
    let place = Place::with_data();
    let args = ["--name", "one", "--epochs", "3", "--keep", "all"];
    place.train(&args).exits(0);
    // A save that waits for another one is merged with it, so that epochs of some milliseconds may not be kept.
    let last = std::fs::read(place.path("runs/one/last.safetensors")).unwrap();
    std::fs::create_dir_all(place.path("runs/one/checkpoints")).unwrap();
    place.write("runs/one/checkpoints/epoch-0003.safetensors", last);
    place
}

fn fork(place: &Place, args: &[&str]) -> Done {
    let common = ["fork", "--runs", "runs", "--device", "cpu"];
    place.run(&[&common, args].concat())
}

#[test]
fn a_fork_goes_on_without_a_screen_and_is_shown_below_its_parent() {
    let place = trained();
    let metrics = place.read("runs/one/metrics.jsonl");
    let args = ["one", "--epochs", "4", "--set", "learning_rate=5e-4"];
    let args = [&args[..], &["--name", "two", "--headless"]].concat();
    let out = fork(&place, &args).exits(0).out;
    for words in [
        "forked   from one at the end of epoch 3, step 18",
        "change   learning_rate 0.001 to 0.0005 at step 19, epoch 4",
        "epoch 4/4",
    ] {
        assert!(out.contains(words), "{words}: {out}");
    }
    assert_eq!(place.read("runs/one/metrics.jsonl"), metrics);
    let show = place.run(&["runs", "show", "two"]).exits(0).out;
    for words in [
        "forked from      one at the end of epoch 3, step 18\n",
        "changes          learning_rate 0.001 to 0.0005, epochs 3 to 4\n",
    ] {
        assert!(show.contains(words), "{words}: {show}");
    }
    // Its curve begins with its parent's.
    let export = place.run(&["runs", "export", "two"]).exits(0).out;
    assert_eq!(export.lines().count(), 5, "{export}");
    let list = place.run(&["runs", "--symbols", "ascii"]).exits(0).out;
    let lines: Vec<_> = list.lines().collect();
    assert!(lines[1].starts_with("one "), "{list}");
    assert!(lines[2].starts_with("+ two  done "), "{list}");
    assert!(
        lines[3]
            .trim()
            .starts_with("forked from one at the end of epoch 3, step 18: learning"),
        "{list}"
    );
    std::fs::remove_dir_all(place.path("runs/one")).unwrap();
    let show = place.run(&["runs", "show", "two"]).exits(0).out;
    assert!(show.contains("step 18, a run that is gone\n"), "{show}");
    let best = place.run(&["eval", "two", "--split", "validation"]);
    best.exits(0);
}

#[test]
fn a_flag_and_a_setting_of_the_same_name_are_one() {
    let place = trained();
    for (name, change) in [
        ("a", ["--lr", "5e-4"]),
        ("b", ["--set", "learning-rate=5e-4"]),
    ] {
        let args = [
            &["one@3", "--epochs", "4", "--name", name, "--json"],
            &change[..],
        ]
        .concat();
        let events = fork(&place, &args).exits(0).json();
        let changes = events.iter().filter(|e| e["event"] == "applied");
        let keys: Vec<_> = changes
            .map(|e| e["change"]["key"].as_str().unwrap())
            .collect();
        assert!(keys.contains(&"learning_rate"), "{keys:?}");
    }
    for (change, words) in [
        ("lerning_rate=1", "did you mean 'learning_rate'?"),
        ("learning_rate=11", "'11' is not allowed: 0 to 10"),
        ("learning_rate", "is not KEY=VALUE"),
        ("=", "no hyperparameter has this name"),
        ("optimizer=adm", "sgd, adam, adamw or muon"),
    ] {
        fork(&place, &["one@3", "--set", change])
            .exits(2)
            .says(&[words]);
    }
    let all = std::fs::read_dir(place.path("runs")).unwrap().count();
    assert_eq!(all, 3, "what is refused leaves no run");
}

#[test]
fn what_cannot_be_forked_is_refused_with_a_command_that_can() {
    let place = trained();
    for (args, words) in [
        (
            &["one@7"][..],
            "has no checkpoint of the end of epoch 7. The nearest is that of the end of epoch 3: `cifar-tui fork runs/one@3`",
        ),
        (&["one@step:"], "'step:' is not a state of a run"),
        (&["two"], "there is no run 'two' in"),
        (
            &["one"],
            "3 epochs are done in that state. Give `epochs` of more than 3",
        ),
        (
            &["one@3", "--epochs", "9", "--validation", "0.5"],
            "it stays 0.2, and 0.5 was asked for",
        ),
    ] {
        fork(&place, args).exits(2).says(&[words]);
    }
    // Without a terminal, it says how to train without one.
    fork(&place, &["one", "--epochs", "9"])
        .exits(2)
        .says(&["`cifar-tui fork --headless` trains without one"]);
    let used = fork(
        &place,
        &["one", "--epochs", "9", "--name", "one", "--headless"],
    );
    used.exits(1).says(&["runs/one already"]);
    let resume = ["fork", "one", "--resume", "one"];
    place.run(&resume).exits(2);
}

#[test]
fn a_fork_that_is_killed_is_resumed_with_the_same_result() {
    let place = trained();
    let forking = |name| {
        let args = ["one@3", "--epochs", "60", "--set", "seed=9", "--name", name];
        let common = ["fork", "--runs", "runs", "--device", "cpu", "--json"];
        [&common[..], &args].concat()
    };
    let mut killed = place.start(&forking("two"));
    // Before its first checkpoint, there is nothing to resume.
    killed.wait_for("\"event\":\"checkpoint\"");
    killed.signal(libc::SIGKILL);
    killed.end();
    place.train(&["--resume", "two"]).exits(0);
    place.run(&forking("three")).exits(0);
    let epochs = |run: &str| {
        let export = place.run(&["runs", "export", run]).exits(0).out;
        let figures = |line: &str| line.split(',').take(6).collect::<Vec<_>>().join(",");
        export.lines().map(figures).collect::<Vec<_>>()
    };
    assert_eq!(epochs("two").len(), 61);
    assert_eq!(epochs("two"), epochs("three"));
    let show = place.run(&["runs", "show", "two"]).exits(0).out;
    let from = "forked from      one at the end of epoch 3";
    assert!(show.contains(from), "{show}");
}
