#![no_main]
//! config.toml: any bytes give settings in range or an error.
use cifar_tui::config::{self, Flags, Surroundings};
use cifar_tui::domain::params::HYPERPARAMS;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("config.toml"), bytes).expect("room");
    let around = Surroundings {
        here: folder.path().into(),
        ..Default::default()
    };
    if let Ok(config) = config::load(&around, &Flags::default()) {
        for row in HYPERPARAMS {
            row.check(row.get(&config.params)).expect("a value in range");
        }
    }
});
