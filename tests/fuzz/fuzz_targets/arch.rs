#![no_main]
//! Architectures: any text gives layers or an error; what is printed of them means the same.
use cifar_tui::domain::arch::{self, Shape};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(arch) = arch::resolve(text) {
        let _ = arch.summary(Shape::CIFAR, 10);
        assert_eq!(arch::resolve(&arch.to_string()), Ok(arch));
    }
});
