#![no_main]
//! Archives: any bytes inside a gzip file give images or an error, and nothing beside it.
use flate2::{Compression, write::GzEncoder};
use std::io::Write;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["cifar-10-python.tar.gz", "cifar-10-binary.tar.gz"] {
        let path = folder.path().join(name);
        let file = std::fs::File::create(&path).expect("a file");
        let mut gz = GzEncoder::new(file, Compression::none());
        gz.write_all(bytes).and_then(|()| gz.try_finish()).expect("room");
        if let Ok(found) = cifar_tui::data::find(Some(&path)) {
            let _ = cifar_tui::data::load(&found, &mut |_, _| {}, 1);
        }
        std::fs::remove_file(&path).expect("the file is there");
        let left = std::fs::read_dir(folder.path()).expect("the folder is there").count();
        assert_eq!(left, 0);
    }
});
