//! Tests without an NVIDIA GPU, and with one that cannot be used, which a fake driver describes.

use crate::support::{Done, Place, json};
use std::process::Command;

/// A folder with a fake of NVIDIA's driver in `driver`. For `flags` see tests/fake_cuda/driver.c.
fn with_driver(flags: &[&str]) -> Place {
    let place = Place::with_data();
    std::fs::create_dir(place.path("driver")).unwrap();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake_cuda/driver.c");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-w", source, "-o"])
        .arg(place.path("driver/libcuda.so.1"))
        .args(flags)
        .status()
        .unwrap();
    assert!(built.success());
    place
}

fn run(place: &Place, args: &[&str]) -> Done {
    let mut command = place.command(args);
    command.env("LD_LIBRARY_PATH", place.path("driver"));
    Done::of(command.output().unwrap(), args)
}

fn train(place: &Place, device: &str) -> Done {
    let args = [
        "train",
        "--runs",
        "runs",
        "--data",
        "data",
        "--arch",
        "conv 4 s4, relu, pool, dense 10",
        "--batch",
        "16",
        "--epochs",
        "1",
        "--device",
        device,
        "--name",
        device,
        "--json",
    ];
    run(place, &args)
}

/// The findings of `doctor --json`.
fn doctor(place: &Place, device: &str) -> serde_json::Value {
    let done = run(place, &["doctor", "--json", "--device", device]);
    serde_json::from_str(&done.exits(0).out).unwrap()
}

fn text<'a>(findings: &'a serde_json::Value, key: &str) -> &'a str {
    findings[key]["text"].as_str().unwrap()
}

/// The device that a run reports, and its warnings.
fn device_and_warnings(done: &Done) -> (String, Vec<String>) {
    let events = json(&done.out);
    let words = |event: &serde_json::Value, key: &str| event[key].as_str().unwrap().to_owned();
    let started = events.iter().find(|e| e["event"] == "started").unwrap();
    let warnings = events.iter().filter(|e| e["event"] == "warning");
    (
        words(started, "device"),
        warnings.map(|e| words(e, "text")).collect(),
    )
}

#[test]
fn without_a_driver_it_trains_on_the_cpu_without_a_warning() {
    let place = Place::with_data();
    let found = doctor(&place, "auto");
    let driver = text(&found, "NVIDIA driver");
    if !driver.starts_with("none") {
        eprintln!("left out: this computer has a driver: {driver}");
        return;
    }
    assert!(driver.contains("libcuda.so.1"), "{driver}");
    assert!(text(&found, "device").starts_with("CPU"));
    let done = train(&place, "auto").exits(0);
    let (device, warnings) = device_and_warnings(&done);
    assert!(
        device.starts_with("CPU") && !device.contains("GPU"),
        "{device}"
    );
    assert!(warnings.is_empty(), "{warnings:?}");
    train(&place, "cuda").exits(1).says(&[
        "CUDA device 0 cannot be used",
        "no NVIDIA driver",
        "--device cpu",
    ]);
}

#[test]
fn without_nvrtc_it_trains_on_the_cpu_and_says_how_to_get_it() {
    for (version, command) in [
        ("12040", "pip install nvidia-cuda-nvrtc-cu12"),
        ("13000", "pip install nvidia-cuda-nvrtc"),
    ] {
        let place = with_driver(&[&format!("-DVERSION={version}"), "-DCAPABILITY=89"]);
        let found = doctor(&place, "auto");
        let compiler = text(&found, "NVRTC");
        if !compiler.starts_with("none") {
            eprintln!("left out: this computer has NVRTC {compiler}");
            return;
        }
        let quoted = format!("`{command}`");
        assert!(compiler.contains(&quoted), "{compiler}");
        assert!(found["NVRTC"]["wrong"].as_bool().unwrap());
        assert!(
            text(&found, "NVIDIA driver").contains("Test GPU, 24.0 GB, compute capability 8.9")
        );
        let device = text(&found, "device");
        assert!(
            device.starts_with("CPU") && device.contains("(GPU: no NVRTC)"),
            "{device}"
        );

        let done = train(&place, "auto").exits(0);
        let (device, warnings) = device_and_warnings(&done);
        assert!(
            device.starts_with("CPU") && device.ends_with("(GPU: no NVRTC)"),
            "{device}"
        );
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains(&quoted), "{warnings:?}");
        // With `--device cpu` there is no warning about GPUs; with `--device cuda` the run fails instead of using the
        // CPU.
        let (device, warnings) = device_and_warnings(&train(&place, "cpu").exits(0));
        assert!(
            !device.contains("GPU") && warnings.is_empty(),
            "{device} {warnings:?}"
        );
        train(&place, "cuda")
            .exits(1)
            .says(&["CUDA device 0", &quoted, "--device cpu"]);
    }
}

#[test]
fn a_gpu_that_cannot_be_used_is_named_with_the_reason() {
    for (flags, short, part) in [
        (
            ["-DVERSION=11080", "-DCAPABILITY=89", ""],
            "driver too old",
            "for CUDA 11.8, and 12.0",
        ),
        (
            ["-DVERSION=12040", "-DCAPABILITY=75", ""],
            "too old",
            "compute capability 7.5",
        ),
        (
            ["-DVERSION=12040", "-DCAPABILITY=89", "-DSTART=803"],
            "driver broken",
            "driver mismatch",
        ),
    ] {
        let flags: Vec<&str> = flags.into_iter().filter(|f| !f.is_empty()).collect();
        let place = with_driver(&flags);
        let (device, warnings) = device_and_warnings(&train(&place, "auto").exits(0));
        assert!(device.ends_with(&format!("(GPU: {short})")), "{device}");
        assert!(warnings.iter().any(|w| w.contains(part)), "{warnings:?}");
        train(&place, "cuda").exits(1).says(&[part]);
    }
    let place = with_driver(&["-DVERSION=12040", "-DCAPABILITY=89"]);
    train(&place, "cuda:7")
        .exits(1)
        .says(&["CUDA device 7", "one GPU here"]);
    // A driver without a GPU counts as no driver.
    let place = with_driver(&["-DVERSION=12040", "-DCAPABILITY=89", "-DSTART=100"]);
    let (device, warnings) = device_and_warnings(&train(&place, "auto").exits(0));
    assert!(
        !device.contains("GPU") && warnings.is_empty(),
        "{device} {warnings:?}"
    );
}
