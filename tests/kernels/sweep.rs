//! A sweep on the GPU's backend: its runs share the device and its launches, and each is what it is alone.

use super::host::{HostDevice, Runs};
use super::left_out;
use cifar_tui::domain::params::{Hyperparameters, Optimizer};
use cifar_tui::domain::sweep::{Plan, Strategy};
use cifar_tui::session::Settings;
use cifar_tui::session::run_dir::{HostId, Owner};
use cifar_tui::session::sweep::{SweepEnd, SweepEvent, SweepFolder, SweepRunner};
use cifar_tui::train::checkpoint::Checkpoint;
use crossbeam_channel::never;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// Writes binary batches of 8 images each, of which each class has its own grey.
fn write_batches(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let names = (1..=5).map(|i| format!("data_batch_{i}.bin"));
    for name in names.chain(["test_batch.bin".into()]) {
        let image = |i: u8| {
            let pixels = (0..3072u32).map(move |at| 20 * i + (at * at % 19) as u8);
            std::iter::once(i).chain(pixels)
        };
        let bytes: Vec<u8> = (0..8).flat_map(image).collect();
        std::fs::write(folder.join(name), bytes).unwrap();
    }
    let classes: Vec<String> = (0..10).map(|class| format!("grey {class}\n")).collect();
    std::fs::write(folder.join("batches.meta.txt"), classes.concat()).unwrap();
}

/// Trains a sweep, so many runs at a time. Returns what each run has learned, and how often lists of launches were run on
/// how many members.
fn train(parallel: usize, axes: &[&str]) -> (BTreeMap<String, Checkpoint>, BTreeMap<usize, usize>) {
    let files = tempfile::tempdir().unwrap();
    write_batches(&files.path().join("data"));
    let params = Hyperparameters {
        architecture: "conv 4 s4, norm, relu, drop, dense 10".into(),
        optimizer: Optimizer::Adam,
        batch_size: 8,
        epochs: 3.0,
        ..Hyperparameters::default()
    };
    let axes: Vec<String> = axes.iter().map(|axis| (*axis).into()).collect();
    let plan = Plan::new(&axes, Some(Strategy::Grid), None, &params).unwrap();
    let owner = Owner::new(HostId::this());
    let mut folder = SweepFolder::create(files.path(), Some("sweep"), plan, owner).unwrap();
    let settings = Settings {
        data: Some(files.path().join("data")),
        threads: 1,
        ..Settings::default()
    };
    let runs = Runs::default();
    let log = Arc::clone(&runs);
    let runner = SweepRunner::new(&mut folder, settings, parallel, true);
    let runner = runner.with_device(Arc::new(move || {
        let device = HostDevice::new(4, false).with_runs(&log);
        Ok(Rc::new(device.device()))
    }));
    let mut report = |event: &SweepEvent| {
        if let SweepEvent::Ended { end: None, .. } = event {
            panic!("{event:?}");
        }
    };
    let end = runner.run(&never(), &mut report).unwrap();
    assert_eq!(end, SweepEnd::Done { failed: Vec::new() });
    let names = folder.progress().unwrap().into_keys();
    let run = |name: String| {
        let path = folder.path().join(&name).join("last.safetensors");
        let mut checkpoint = Checkpoint::read(&path).unwrap();
        let run_state = &mut checkpoint.run_state;
        (run_state.started, run_state.elapsed) = (0.0, 0.0);
        (run_state.metrics_bytes, run_state.unwritten) = (0, None);
        run_state.totals.seconds = 0.0;
        run_state.data_source.clear();
        (name, checkpoint)
    };
    let runs = runs.lock().unwrap().clone();
    (names.map(run).collect(), runs)
}

#[test]
fn runs_of_a_sweep_share_launches_and_each_is_what_it_is_alone() {
    if left_out() {
        return;
    }
    // Runs that end early, whose batches differ and whose averages come with their first step.
    let axes = ["lr=1e-3,1e-2", "epochs=2,3", "average_decay=0,0.9"];
    let (expected, of_each) = train(1, &axes);
    assert_eq!(expected.len(), 8);
    assert_eq!(of_each.keys().collect::<Vec<_>>(), [&1]);
    let (found, together) = train(4, &axes);
    assert!(found == expected);
    let shared: usize = together.range(2..).map(|(_, times)| times).sum();
    assert!(shared > 0, "{together:?}");
}
