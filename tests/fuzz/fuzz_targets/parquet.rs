#![no_main]
//! Parquet: any bytes as both splits give images or an error.
//!
//! The parquet crate panics on some of them; the reader catches that and reports an error. The hook lets it: libFuzzer's own
//! would end the process before. A panic that nobody catches still ends it.
libfuzzer_sys::fuzz_target!(init: std::panic::set_hook(Box::new(|_| {})), |bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["train.parquet", "test.parquet"] {
        std::fs::write(folder.path().join(name), bytes).expect("room");
    }
    if let Ok(found) = cifar_tui::data::find(Some(folder.path())) {
        let _ = cifar_tui::data::load(&found, &mut |_, _| {}, 1);
    }
});
