//! Tests of damaged and hostile tar archives.

use super::*;

#[test]
fn hostile_archives_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cifar-10-python.tar.gz");
    let batch = python_batch(0..3);
    let good = || entries("cifar-10-batches-py", &python_files());
    let regular = |name: &str| {
        (
            entry(name, tar::EntryType::Regular, batch.len()),
            batch.clone(),
        )
    };
    let special = |kind| {
        (
            entry("cifar-10-batches-py/data_batch_1", kind, 0),
            Vec::new(),
        )
    };
    for (hostile, why) in [
        (regular("../../data_batch_1"), "leads out"),
        (regular("/etc/data_batch_1"), "leads out"),
        (regular("elsewhere/data_batch_1"), "twice"),
        (regular("\u{1b}[2J/data_batch_1"), "characters"),
        (special(tar::EntryType::Symlink), "neither"),
        (special(tar::EntryType::Link), "neither"),
        (special(tar::EntryType::Char), "neither"),
        (special(tar::EntryType::Fifo), "neither"),
    ] {
        let mut entries = good();
        entries.push(hostile);
        fs::write(&path, archive(&entries)).unwrap();
        assert_reports(&load_at(&path).unwrap_err(), &path, why);
    }
    let many: Vec<_> = (0..100).map(|i| regular(&format!("x/{i}"))).collect();
    fs::write(&path, archive(&many)).unwrap();
    assert_reports(&load_at(&path).unwrap_err(), &path, "more entries");
}

#[test]
fn an_archive_whose_bytes_do_not_match_its_checksum_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cifar-10-binary.tar.gz");
    let mut bytes = archive(&entries("cifar-10-batches-bin", &binary_files()));
    fs::write(&path, &bytes).unwrap();
    load_at(&path).unwrap();
    // The last eight bytes of a gzip file: checksum and length.
    let at = bytes.len() - 8;
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert_reports(&load_at(&path).unwrap_err(), &path, "checksum");
}

#[test]
fn a_bomb_is_refused_before_it_is_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cifar-10-python.tar.gz");
    // One entry whose header claims 10 GiB, and entries that are larger together than any data set.
    let claimed = entry(
        "cifar-10-batches-py/data_batch_1",
        tar::EntryType::Regular,
        10 << 30,
    );
    let mut gz = flate2::write::GzEncoder::new(
        fs::File::create(&path).unwrap(),
        flate2::Compression::fast(),
    );
    gz.write_all(claimed.as_bytes()).unwrap();
    gz.write_all(&[0; 1 << 20]).unwrap();
    gz.finish().unwrap();
    assert_reports(&load_at(&path).unwrap_err(), &path, "larger than any batch");
    let mut gz = flate2::write::GzEncoder::new(
        fs::File::create(&path).unwrap(),
        flate2::Compression::fast(),
    );
    for i in 0..3 {
        gz.write_all(entry(&format!("x/{i}"), tar::EntryType::Regular, 100 << 20).as_bytes())
            .unwrap();
        (0..100).for_each(|_| gz.write_all(&[0; 1 << 20]).unwrap());
    }
    gz.finish().unwrap();
    assert_reports(&load_at(&path).unwrap_err(), &path, "more than 256 MiB");
}
