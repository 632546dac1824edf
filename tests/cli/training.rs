//! Tests of `train`: events, files, reproducible results, signals, resuming, divergence.

use crate::support::{Place, json};
use cifar_tui::data;
use serde_json::Value;
use std::collections::BTreeMap;

/// Simulates a process that is suspended while it loads, by sending the signal that ends a suspension.
#[test]
fn time_suspended_does_not_count_as_loading() {
    let place = Place::with_data();
    let found = data::find(Some(&place.path("data"))).unwrap();
    let load = |stops: bool| {
        // SAFETY: a signal that, unless it is caught, changes nothing for a process that runs.
        let mut stop = |_, _| assert!(!stops || unsafe { libc::raise(libc::SIGCONT) } == 0);
        data::load(&found, &mut stop, 1).unwrap().info
    };
    assert!(load(false).load_time(" in ").starts_with(" in 0."));
    assert_eq!(load(true).load_seconds, None);
    assert_eq!(load(true).load_time(" in "), "");
}

/// The contents of metrics.jsonl without values that depend on the clock or the computer.
fn metrics(place: &Place, run: &str) -> Vec<Value> {
    fn strip(value: &mut Value) {
        const CLOCK: &[&str] = &[
            "images_per_s",
            "elapsed",
            "eta",
            "load_seconds",
            "started",
            "device",
            "name",
            "folder",
            "path",
            "resumed_at",
            "run",
        ];
        match value {
            Value::Object(map) => {
                CLOCK.iter().for_each(|key| drop(map.remove(*key)));
                map.values_mut().for_each(strip);
            }
            Value::Array(all) => all.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut lines = json(&place.read(&format!("runs/{run}/metrics.jsonl")));
    lines.iter_mut().for_each(strip);
    lines
}

fn epochs(lines: &[Value]) -> Vec<&Value> {
    lines.iter().filter(|l| l["event"] == "epoch").collect()
}

/// The tensors of a checkpoint as bytes.
fn tensors(place: &Place, file: &str) -> BTreeMap<String, Vec<u8>> {
    let bytes = std::fs::read(place.path(file)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.iter()
        .map(|(name, view)| (name.to_owned(), view.data().to_vec()))
        .collect()
}

#[test]
fn a_run_prints_valid_events_and_writes_every_file() {
    let place = Place::with_data();
    let done = place
        .train(&["--name", "one", "--epochs", "2", "--json"])
        .exits(0);
    let events = done.json();
    for kind in [
        "data",
        "started",
        "steps",
        "epoch",
        "evaluation",
        "checkpoint",
        "ended",
    ] {
        assert!(
            events.iter().any(|e| e["event"] == kind),
            "no '{kind}' in\n{}",
            done.out
        );
    }
    assert_eq!(epochs(&events).len(), 2);
    assert_eq!(events.last().unwrap()["event"], "ended");
    assert_eq!(events.last().unwrap()["state"]["is"], "done");
    let test = events
        .iter()
        .find(|e| e["event"] == "evaluation" && e["split"] == "test");
    assert!(test.is_some(), "the test images were not scored at the end");
    for file in [
        "config.toml",
        "metrics.jsonl",
        "last.safetensors",
        "best.safetensors",
        "accuracy.png",
        "loss.png",
        "confusion.png",
        "log.txt",
    ] {
        assert!(
            place.path(&format!("runs/one/{file}")).is_file(),
            "{file} is missing"
        );
    }
    let names: Vec<String> = std::fs::read_dir(place.path("runs/one"))
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert!(
        names.iter().any(|n| n.starts_with("events.out.tfevents.")),
        "{names:?}"
    );
    for picture in ["accuracy", "loss", "confusion"] {
        let picture = image::open(place.path(&format!("runs/one/{picture}.png"))).unwrap();
        assert_eq!((picture.width(), picture.height()), (1200, 800));
    }
    // The run's config.toml can be read back.
    let again = [
        "--config",
        "runs/one/config.toml",
        "--name",
        "again",
        "--json",
    ];
    let done = place.run(&[&["train", "--runs", "runs", "--data", "data"], &again[..]].concat());
    done.exits(0);
    assert_eq!(
        epochs(&metrics(&place, "one")),
        epochs(&metrics(&place, "again"))
    );
}

#[test]
fn a_pipe_gets_a_line_an_epoch_and_no_escape_codes() {
    let place = Place::with_data();
    let out = place.train(&["--epochs", "3"]).exits(0).out;
    let lines = out.lines().filter(|l| l.starts_with("epoch ")).count();
    assert_eq!(lines, 3, "{out}");
    assert!(
        !out.contains('\u{1b}') && out.contains("test     loss"),
        "{out}"
    );
}

#[test]
fn the_same_seed_gives_the_same_metrics_for_any_number_of_threads() {
    let place = Place::with_data();
    let recipe = [
        "--epochs",
        "2",
        "--flip",
        "--crop",
        "2",
        "--test-each-epoch",
    ];
    for (name, threads) in [("a", "1"), ("b", "1"), ("c", "2"), ("d", "3")] {
        place
            .train(&[&recipe[..], &["--name", name, "--threads", threads]].concat())
            .exits(0);
    }
    let first = metrics(&place, "a");
    assert!(first.len() > 5);
    for other in ["b", "c", "d"] {
        assert_eq!(first, metrics(&place, other), "run {other}");
    }
    place
        .train(&[&recipe[..], &["--name", "e", "--seed", "5"]].concat())
        .exits(0);
    assert_ne!(epochs(&first), epochs(&metrics(&place, "e")));
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one_bit_for_bit() {
    let place = Place::with_data();
    let recipe = ["--epochs", "60", "--dropout", "0.3"];
    place
        .train(&[&recipe[..], &["--name", "whole"]].concat())
        .exits(0);
    let mut running = place.begin(&[&recipe[..], &["--name", "broken", "--json"]].concat());
    running.wait_for("\"event\":\"epoch\"");
    running.signal(libc::SIGINT);
    assert_eq!(running.end(), Some(130));
    let before = epochs(&metrics(&place, "broken")).len();
    assert!(
        (1..60).contains(&before),
        "{before} epochs before the break"
    );
    place.train(&["--resume", "broken"]).exits(0);
    assert_eq!(
        tensors(&place, "runs/whole/last.safetensors"),
        tensors(&place, "runs/broken/last.safetensors")
    );
    assert_eq!(
        tensors(&place, "runs/whole/best.safetensors"),
        tensors(&place, "runs/broken/best.safetensors")
    );
    assert_eq!(
        epochs(&metrics(&place, "whole")),
        epochs(&metrics(&place, "broken"))
    );
}

#[test]
fn signals_end_a_run_with_a_checkpoint_and_exit_code_128_plus_signal() {
    for (signal, code) in [
        (libc::SIGINT, 130),
        (libc::SIGTERM, 143),
        (libc::SIGHUP, 129),
    ] {
        let place = Place::with_data();
        let mut running = place.begin(&[
            "--epochs",
            "9999",
            "--name",
            "long",
            "--json",
            "--on-hangup",
            "checkpoint-and-stop",
        ]);
        running.wait_for("\"event\":\"steps\"");
        running.signal(signal);
        assert_eq!(running.end(), Some(code));
        assert!(place.path("runs/long/last.safetensors").is_file());
        let out = place.run(&["runs", "--runs", "runs", "--json"]).exits(0);
        assert_eq!(out.json()[0][0]["outcome"], "stopped");
    }
}

#[test]
fn divergence_exits_3_and_keeps_what_was_good() {
    let place = Place::with_data();
    let recipe = [
        "--optimizer",
        "sgd",
        "--lr",
        "10",
        "--momentum",
        "0.99",
        "--dropout",
        "0",
    ];
    let arch = ["--arch", "conv 8, conv 8, conv 8, pool, dense 32, dense 10"];
    let done = place.run(
        &[
            &[
                "train", "--runs", "runs", "--data", "data", "--epochs", "50", "--name", "wild",
            ][..],
            &recipe,
            &arch,
        ]
        .concat(),
    );
    let done = done.exits(3);
    assert!(done.out.contains("diverged"), "{}", done.out);
    let out = place.run(&["runs", "--runs", "runs", "--json"]).exits(0);
    assert_eq!(out.json()[0][0]["outcome"], "diverged");
}

#[test]
fn a_name_that_is_taken_or_no_name_is_refused() {
    let place = Place::with_data();
    place.train(&["--name", "one", "--epochs", "1"]).exits(0);
    place
        .train(&["--name", "one", "--epochs", "1"])
        .exits(1)
        .says(&["one"]);
    place
        .train(&["--name", "../one", "--epochs", "1"])
        .exits(1)
        .says(&["../one"]);
    place
        .train(&["--resume", "absent"])
        .exits(1)
        .says(&["absent"]);
}

#[test]
fn bad_data_is_named_with_what_to_do() {
    let place = Place::with_data();
    std::fs::create_dir(place.path("empty")).unwrap();
    let train = |data: &str| place.run(&["train", "--runs", "runs", "--data", data]);
    train("empty")
        .exits(1)
        .says(&["empty", "cifar-tui data download"]);
    train("absent").exits(1).says(&["absent", "does not exist"]);
    let batch = std::fs::read(place.path("data/data_batch_3.bin")).unwrap();
    place.write("data/data_batch_3.bin", &batch[..batch.len() - 100]);
    train("data").exits(1).says(&["data_batch_3.bin"]);
    let mut wrong = batch.clone();
    wrong[3073] = 77;
    place.write("data/data_batch_3.bin", &wrong);
    train("data")
        .exits(1)
        .says(&["data_batch_3.bin", "byte 3073", "77"]);
    std::fs::remove_file(place.path("data/data_batch_3.bin")).unwrap();
    train("data")
        .exits(1)
        .says(&["data_batch_3.bin", "missing"]);
    place
        .run(&["data", "--data", "data"])
        .exits(1)
        .says(&["data_batch_3.bin"]);
}
