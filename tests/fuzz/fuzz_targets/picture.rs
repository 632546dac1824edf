#![no_main]
//! Pictures: any bytes give the pixels that a network takes, or an error.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(picture) = cifar_tui::data::picture::fuzz_decode(bytes, 32) {
        assert_eq!(picture.pixels.len(), 3 * 32 * 32);
    }
});
