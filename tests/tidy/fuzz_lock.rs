//! Checks that the lock file of the fuzz targets, which are a workspace of their own, has the program's dependencies.

use std::collections::BTreeSet;
use std::path::Path;
use toml_edit::DocumentMut;

fn read(file: &str) -> DocumentMut {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

#[test]
fn the_fuzz_targets_lock_file_has_the_program_s_dependencies() {
    let manifest = read("Cargo.toml");
    let wanted: BTreeSet<&str> = manifest["dependencies"]
        .as_table()
        .unwrap()
        .iter()
        .map(|(name, _)| name)
        .collect();
    let lock = read("tests/fuzz/Cargo.lock");
    let packages = lock["package"].as_array_of_tables().unwrap();
    let program = packages
        .iter()
        .find(|package| package["name"].as_str() == Some("cifar-tui"));
    // A name is followed by its version if there are several.
    let locked: BTreeSet<&str> = program.unwrap()["dependencies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap().split(' ').next().unwrap())
        .collect();
    assert_eq!(
        locked, wanted,
        "run `cargo metadata > /dev/null` in tests/fuzz"
    );
}
