#![no_main]
//! Parquet: any bytes as both splits give images or an error.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["train.parquet", "test.parquet"] {
        std::fs::write(folder.path().join(name), bytes).expect("room");
    }
    if let Ok(found) = cifar_tui::data::find(Some(folder.path())) {
        let _ = cifar_tui::data::load(&found, &mut |_, _| {}, 1);
    }
});
