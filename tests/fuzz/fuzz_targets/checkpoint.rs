#![no_main]
//! Checkpoints: any bytes, with the right checksum put on them, give a checkpoint or an error.
use cifar_tui::train::checkpoint::{Checkpoint, fuzz_sign};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = Checkpoint::decode(fuzz_sign(bytes.to_vec()), std::path::Path::new("x"));
});
