//! `--resume`: what takes effect with it, what is refused.

use crate::support::{Place, TINY};

fn trained() -> Place {
    let place = Place::with_data();
    place.train(&["--name", "one", "--epochs", "3"]).exits(0);
    place
}

fn resumed<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&["--resume", "one", "--json"], args].concat()
}

#[test]
fn what_cannot_change_in_a_run_is_refused_and_nothing_is_written() {
    let place = trained();
    let metrics = place.read("runs/one/metrics.jsonl");
    let args = [
        "--arch",
        "resnet",
        "--seed",
        "9",
        "--optimizer",
        "sgd",
        "--validation",
        "0.3",
    ];
    place.train(&resumed(&args)).exits(2).says(&[
        "--architecture and --optimizer and --seed and --validation cannot change",
        "its optimizer is adam; its seed is 4",
        "start a new run",
    ]);
    place.train(&resumed(&["--epochs", "2"])).exits(2).says(&[
        "--epochs 2",
        "3 epochs",
        "leave it out",
    ]);
    let best = place.path("runs/one/best.safetensors");
    std::fs::copy(place.path("runs/one/previous.safetensors"), &best).unwrap();
    place
        .train(&["--resume", "runs/one/best.safetensors"])
        .exits(2)
        .says(&["best.safetensors is of step", "cifar-tui --resume", "cp "]);
    assert_eq!(place.read("runs/one/metrics.jsonl"), metrics);
    // What is as it was anyway is no change.
    let same = ["--arch", TINY, "--seed", "4", "--epochs", "3"];
    place.train(&resumed(&same)).exits(0);
}
