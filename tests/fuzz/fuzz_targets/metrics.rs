#![no_main]
//! metrics.jsonl: any bytes give a run in the table, and the events of its past or the error that another version wrote
//! them.
use cifar_tui::session::run_dir::{HostId, Owner, read_metrics};
use cifar_tui::session::runs::RunsFolder;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let runs = tempfile::tempdir().expect("a folder");
    let run = runs.path().join("run");
    std::fs::create_dir(&run).expect("room");
    std::fs::write(run.join("metrics.jsonl"), bytes).expect("room");
    let mut table = RunsFolder::new(runs.path(), Owner::new(HostId::this()));
    assert_eq!(table.list().expect("a folder").len(), 1);
    if let Err(error) = read_metrics(&run, u64::MAX) {
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
    }
});
