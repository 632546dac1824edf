//! Tests that results have not changed: the figures of short runs, and of runs resumed from files of earlier versions,
//! equal those in numbers.txt bit for bit.

use crate::support::Place;
use cifar_tui::hardware::simd::{LEVEL_VARIABLE, Level};
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};
use std::path::Path;

const OPTIMIZERS: [&str; 3] = ["sgd", "adam", "adamw"];
/// Maximum relative difference of losses between instruction sets.
const LOSS_TOLERANCE: f64 = 5e-3;

/// The figures of a run: the digest of its last checkpoint's tensors, and the training and validation loss of its last
/// epoch.
struct Numbers {
    digest: String,
    losses: [f64; 2],
}

/// The recorded figures of a run, and whether they were recorded with these vector instructions; otherwise those of
/// other instructions are returned.
fn recorded(level: &str, run: &str) -> (bool, Numbers) {
    let lines: Vec<Vec<&str>> = include_str!("numbers.txt")
        .lines()
        .map(|line| line.split(' ').collect())
        .collect();
    let of_run = || {
        lines
            .iter()
            .filter(|line| format!("{} {}", line[1], line[2]) == run)
    };
    let same_level = of_run().find(|line| line[0] == level);
    let line = same_level
        .or_else(|| of_run().next())
        .unwrap_or_else(|| panic!("{run} was not recorded"));
    let numbers = Numbers {
        digest: line[3].into(),
        losses: [line[4].parse().unwrap(), line[5].parse().unwrap()],
    };
    (same_level.is_some(), numbers)
}

fn numbers(run: &Path) -> Numbers {
    let file = std::fs::read(run.join("last.safetensors")).unwrap();
    let all = SafeTensors::deserialize(&file).unwrap();
    let mut tensors = all.tensors();
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut hash = Sha256::new();
    for (_, tensor) in tensors {
        hash.update(tensor.data());
    }
    let digest: String = hash.finalize()[..8]
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let epoch = crate::support::json(&metrics)
        .into_iter()
        .rfind(|event| event["event"] == "epoch")
        .unwrap();
    let losses = ["train_loss", "val_loss"].map(|key| epoch[key].as_f64().unwrap());
    Numbers { digest, losses }
}

/// Runs `train` with each instruction set that this processor has, and compares the figures.
fn compare(place: &Place, run: &str, name: &str, args: &[&str]) {
    for level in Level::available() {
        let level = level.name();
        let runs = format!("runs-{level}");
        let folder = place.path(&runs).join(name);
        let common = [
            "train", "--device", "cpu", "--data", "data", "--runs", &runs,
        ];
        let output = place
            .command(&[&common, args].concat())
            .env(LEVEL_VARIABLE, level)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{run}, {level}: {said}");
        let ours = numbers(&folder);
        let (exact, theirs) = recorded(level, run);
        for (a, b) in ours.losses.iter().zip(theirs.losses) {
            let off = (a - b).abs() / b;
            assert!(
                off < LOSS_TOLERANCE,
                "{run}, {level}: a loss of {a}, not {b}"
            );
        }
        if exact {
            assert_eq!(ours.digest, theirs.digest, "{run}, {level}");
        }
    }
}

#[test]
fn a_seed_gives_the_recorded_weights() {
    let place = Place::with_data();
    for preset in ["seed", "resnet"] {
        for optimizer in OPTIMIZERS {
            let name = format!("{preset}-{optimizer}");
            #[rustfmt::skip]
            let args = [
                "--arch", preset, "--optimizer", optimizer, "--name", &name, "--batch", "16", "--epochs", "1",
                "--weight-decay", "0.01", "--clip-norm", "1.0", "--label-smoothing", "0.1",
                "--flip", "on", "--crop", "2", "--cutout", "4",
            ];
            compare(&place, &format!("{preset} {optimizer}"), &name, &args);
        }
    }
}

/// The parts of the recipe `airbench`, in a network that is small.
#[test]
fn a_seed_gives_the_recorded_weights_with_muon() {
    let place = Place::with_data();
    #[rustfmt::skip]
    let args = [
        "--recipe", "airbench", "--arch",
        "whiten, gelu, conv 24 same no-bias dirac, pool, norm no-scale momentum 0.4 eps 1e-12, gelu, \
         conv 24 same no-bias dirac, norm no-scale momentum 0.4 eps 1e-12, gelu, pool 3, \
         dense 10 no-bias unit-variance, scale 0.25",
        "--name", "muon", "--batch", "24", "--epochs", "1.5", "--validation", "0.2", "--average-decay", "0.9",
    ];
    compare(&place, "whiten muon", "muon", &args);
}

/// The runs in tests/fixtures/format-1 were written by version 0.1.0, with checkpoints of format 1. Each was stopped in
/// the middle of an epoch.
#[test]
fn runs_of_format_1_resume_with_the_recorded_results() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1");
    let place = Place::with_data();
    for optimizer in OPTIMIZERS {
        for level in Level::available() {
            let to = place
                .path(&format!("runs-{}", level.name()))
                .join(optimizer);
            std::fs::create_dir_all(&to).unwrap();
            for file in ["last.safetensors", "metrics.jsonl", "config.toml"] {
                std::fs::copy(fixtures.join(optimizer).join(file), to.join(file)).unwrap();
            }
        }
        let args = ["--resume", optimizer, "--epochs", "13"];
        compare(&place, &format!("resumed {optimizer}"), optimizer, &args);
    }
}
