#![no_main]
//! Python batches: any bytes give a dictionary or an error.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = cifar_tui::data::fuzz_pickle(bytes);
});
