//! `send` to a session on another computer.

use super::*;
use crate::commands::sweep::steer;
use crate::config::{self, Flags, Surroundings};
use crate::domain::params::Hyperparameters;
use crate::domain::report::State;
use crate::hardware::device::DeviceChoice;
use crate::session::protocol::Command;
use crate::session::sent::NoAnswer;
use crate::session::{self, Settings};
use std::path::Path;

/// Binary batches of a few images.
fn write_batches(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    let names = (1..=5).map(|at| format!("data_batch_{at}.bin"));
    for name in names.chain(["test_batch.bin".into()]) {
        let images = (0..20u8).flat_map(|at| {
            let pixels = (0..3072usize).map(move |pixel| (pixel * usize::from(at)) as u8);
            [at % 10].into_iter().chain(pixels)
        });
        std::fs::write(folder.join(name), images.collect::<Vec<u8>>()).unwrap();
    }
    let classes = (0..10).map(|class| format!("class {class}\n"));
    std::fs::write(folder.join("batches.meta.txt"), classes.collect::<String>()).unwrap();
}

#[test]
fn a_session_that_this_computer_cannot_reach_is_steered_through_files() {
    let folder = tempfile::tempdir().unwrap();
    let runs = folder.path().join("runs");
    write_batches(&folder.path().join("data"));
    let settings = Settings {
        params: Hyperparameters {
            architecture: "conv 4 s4, relu, dense 10".into(),
            epochs: 9999.0,
            ..Hyperparameters::default()
        },
        data: Some(folder.path().join("data")),
        runs: Some(runs.clone()),
        name: Some("one".into()),
        device: DeviceChoice::Cpu,
        threads: 1,
        paused: true,
        host: HostId {
            name: "gpu-7".into(),
            kernel: "ffffffff".into(),
        },
        ..Settings::default()
    };
    let (client, worker) = session::start(settings).unwrap();
    loop {
        match client.events.recv().unwrap().event {
            Event::State(State::Paused) => break,
            Event::State(State::Failed { why }) => panic!("{why}"),
            _ => {}
        }
    }
    let around = Surroundings::of_process().unwrap();
    let mut config = config::load_without_file(&around, &Flags::default()).unwrap();
    config.runs = runs.clone();
    let send = |words: &str, wait: bool| {
        let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        let (run, request) = crate::session::protocol::parse_words(&words).unwrap();
        let sending = Sending {
            run,
            request,
            wait,
            timeout: Some(Duration::from_secs(60)),
        };
        let mut out = Vec::new();
        let taken = super::run(&sending, &config, &mut out)?;
        let lines = String::from_utf8(out).unwrap();
        let lines = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        Ok::<_, anyhow::Error>((taken, lines.collect::<Vec<serde_json::Value>>()))
    };
    let (taken, lines) = send("one ask status", false).unwrap();
    assert!(taken && lines[0]["state"]["is"] == "paused", "{lines:?}");
    let (taken, lines) = send("one set learning_rate=0.01 dropout=0.25", true).unwrap();
    assert!(taken && lines.len() == 2, "{lines:?}");
    assert_eq!(
        (&lines[0]["key"], &lines[1]["value"]),
        (&"learning_rate".into(), &0.25.into())
    );
    let (taken, lines) = send("one go-back", false).unwrap();
    assert!(!taken && lines[0]["refused"].is_string(), "{lines:?}");
    // As the screen of a sweep does.
    let choose = |state: &State| match state {
        State::Paused => Command::Resume,
        _ => Command::Pause,
    };
    for wanted in [Command::Resume, Command::Pause] {
        assert_eq!(steer(&runs, "one", choose).unwrap(), wanted);
    }
    let error = steer(&runs, "one", |_| Command::GoBack).unwrap_err();
    assert!(error.to_string().contains("diverged"), "{error}");
    // Without the run's name, it could be any session's.
    let error = send("pause", false).unwrap_err();
    assert!(error.to_string().contains("open on gpu-7"), "{error}");
    let (taken, _) = send("one quit", true).unwrap();
    assert!(taken);
    worker.join().unwrap();
    let error = send("one pause", false).unwrap_err();
    assert!(error.to_string().contains("is not running"), "{error}");
    assert!(error.downcast_ref::<NoAnswer>().is_none());
}
