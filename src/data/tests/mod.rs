//! The same small data set must load as the same images from every format, and any defect of a file must give an error that
//! names the file.

mod archives;
mod fixtures;
mod mutations;
mod parquet_files;
mod pickles;

use super::*;
use crate::domain::mutate::{is_seed, mutated};
use fixtures::*;
use std::fs;
use std::io::Write;

#[test]
fn every_format_gives_the_same_images() {
    let dir = tempfile::tempdir().unwrap();
    let fixtures = fixtures(&dir);
    // A row in FORMATS without a fixture here fails.
    let mut named: Vec<_> = fixtures
        .iter()
        .map(|f| f.0)
        .chain([SAMPLE_FORMAT])
        .collect();
    let mut formats: Vec<_> = FORMATS.iter().map(|f| f.name).collect();
    named.sort_unstable();
    formats.sort_unstable();
    assert_eq!(named, formats);
    let (train, test) = expected_images();
    for (format, path, files) in fixtures {
        let mut last = (0, 0);
        let found = find(Some(&path)).unwrap();
        let data = load(&found, &mut |done, total| last = (done, total), 2).unwrap();
        assert_eq!(data.info.format, format);
        assert!(data.train == train && data.test == test, "{format}");
        assert_eq!(data.info.classes, CLASSES, "{format}");
        assert_eq!(last, (18, 18), "{format}");
        // The user may also name the file or the folder that contains it.
        for path in [files[0].as_path(), found.path.as_path()] {
            assert_eq!(find(Some(path)).unwrap().path, found.path, "{format}");
        }
    }
}

#[test]
fn pixels_and_statistics_are_where_they_belong() {
    let (train, _) = expected_images();
    let picture = train.picture(7);
    for (x, y) in [(0, 0), (31, 0), (0, 31), (17, 5)] {
        let rgb = &picture.rgb[3 * (y * 32 + x)..][..3];
        assert_eq!(rgb, [0, 1, 2].map(|c| pixel(7, c, y, x)), "({x}, {y})");
    }
    assert_eq!(train.of_class(Some(label(2))).next(), Some(2));
    assert_eq!(train.of_class(None).count(), 15);
    let flat = |values: [u8; 3]| values.map(|v| [v; 1024]).concat();
    let two = Images {
        side: 32,
        pixels: [flat([10, 0, 255]), flat([30, 0, 255])].concat().into(),
        labels: vec![0, 1],
    };
    let (mean, std) = channel_statistics(&two, 2);
    let near = |a: &[f32], b: [f32; 3]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
    assert!(
        near(&mean, [20.0 / 255.0, 0.0, 1.0]) && near(&std, [10.0 / 255.0, 0.0, 0.0]),
        "{mean:?} {std:?}"
    );
}

#[test]
fn data_is_looked_for_in_order_and_a_named_place_never_falls_back() {
    let dir = tempfile::tempdir().unwrap();
    let fixtures = fixtures(&dir);
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let place = |path: &Path, named| DataLocation {
        what: "a test",
        path: path.into(),
        named,
    };
    let (python, binary) = (&fixtures[0].1, &fixtures[1].1);
    let format = |named: Option<&Path>, places: &[DataLocation]| {
        find_among(named, places).map(|found| found.format.name)
    };
    assert_eq!(
        format(Some(python), &[place(binary, true)]).unwrap(),
        "python batches"
    );
    assert_eq!(
        format(None, &[place(binary, true), place(python, false)]).unwrap(),
        "binary batches"
    );
    assert_eq!(
        format(None, &[place(&empty, false), place(python, false)]).unwrap(),
        "python batches"
    );
    let gone = dir.path().join("gone");
    assert_eq!(
        format(None, &[place(&empty, false), place(&gone, false)]).unwrap(),
        SAMPLE_FORMAT
    );
    assert_eq!(
        format(Some(Path::new(SAMPLE)), &[place(python, true)]).unwrap(),
        SAMPLE_FORMAT
    );
    for path in [&empty, &gone] {
        assert_reports(
            &find_among(Some(path), &[place(python, true)]).unwrap_err(),
            path,
            "--data",
        );
        assert_reports(
            &find_among(None, &[place(path, true), place(python, false)]).unwrap_err(),
            path,
            "--data",
        );
    }
}

#[test]
fn a_missing_batch_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for (format, path, _) in fixtures(&dir) {
        let missing = match format {
            "python batches" => "data_batch_2",
            "binary batches" => "test_batch.bin",
            "parquet" => "train-00000-of-00002.parquet",
            _ => continue,
        };
        let folder = find(Some(&path)).unwrap().path;
        fs::remove_file(folder.join(missing)).unwrap();
        assert_reports(
            &load_at(&path).unwrap_err(),
            &folder,
            &format!("{missing} is missing"),
        );
    }
    for (name, files, missing) in [
        ("cifar-10-python.tar.gz", python_files(), "data_batch_4"),
        ("cifar-10-binary.tar.gz", binary_files(), "batches.meta.txt"),
    ] {
        let kept: Vec<_> = files
            .into_iter()
            .filter(|(name, _)| name != missing)
            .collect();
        let path = dir.path().join(name);
        fs::write(&path, archive(&entries("any-name", &kept))).unwrap();
        assert_reports(
            &load_at(&path).unwrap_err(),
            &path,
            &format!("{missing} is missing"),
        );
    }
}

#[test]
fn truncated_files_of_every_format_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    for (format, path, files) in fixtures(&dir) {
        let whole = fs::read(&files[0]).unwrap();
        for keep in [0, 1, whole.len() / 3, whole.len() - 20] {
            fs::write(&files[0], &whole[..keep]).unwrap();
            let error = load_at(&path).unwrap_err();
            assert_reports(&error, &files[0], "damaged");
            assert!(
                matches!(error, DataError::Damaged { .. }),
                "{format}, {keep} bytes"
            );
        }
    }
}

#[test]
fn labels_above_nine_are_reported_with_their_position() {
    let dir = tempfile::tempdir().unwrap();
    let python = dir.path().join("py");
    write_all(&python, &python_files());
    let batch = python.join("data_batch_1");
    let mut bytes = fs::read(&batch).unwrap();
    let at = bytes
        .windows(2)
        .position(|w| w == [b'K', label(1)])
        .unwrap();
    bytes[at + 1] = 10;
    fs::write(&batch, bytes).unwrap();
    assert_reports(
        &load_at(&python).unwrap_err(),
        &batch,
        "key 'labels': row 1 is 10",
    );
    let binary = dir.path().join("bin");
    write_all(&binary, &binary_files());
    let batch = binary.join("data_batch_3.bin");
    let mut bytes = fs::read(&batch).unwrap();
    bytes[3073] = 77;
    fs::write(&batch, bytes).unwrap();
    assert_reports(
        &load_at(&binary).unwrap_err(),
        &batch,
        "byte 3073: the label is 77",
    );
    let parquet = dir.path().join("hf");
    write_all(&parquet, &parquet_files());
    let file = parquet.join("test-00000-of-00001.parquet");
    fs::write(
        &file,
        parquet_file((0..3).map(png).collect(), vec![1, 2, 10]),
    )
    .unwrap();
    assert_reports(&load_at(&parquet).unwrap_err(), &file, "row 2: it is 10");
}

#[test]
fn files_that_are_not_cifar_10_are_recognised() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    let page = b"\n<!DOCTYPE html><title>503</title>";
    file("page/cifar-10-python.tar.gz", page);
    file("page2/train.parquet", page);
    file("page2/test.parquet", page);
    file(
        "lfs/cifar-10-binary.tar.gz",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
    );
    let tar = tar_of(&entries("cifar-10-batches-py", &python_files()));
    file("cifar-10-python.tar", &tar);
    file("tar/cifar-10-python.tar.gz", &tar);
    file("tars/cifar-10-python.tar", &tar);
    file(
        "cifar10.npz",
        b"PK\x03\x04..........................x_train.npyPK",
    );
    file("x.zip", b"PK\x03\x04....");
    file("x_train.npy", b"\x93NUMPY\x01\0");
    file("xz/cifar-10-python.tar.gz", b"\xfd7zXZ\0");
    file("nothing.txt", b"words");
    file(
        "cifar-100.tar.gz",
        &packed(&tar_of(&entries(
            "cifar-100-python",
            &[("train".into(), Vec::new()), ("meta".into(), Vec::new())],
        ))),
    );
    file(
        "other.tar.gz",
        &packed(&tar_of(&entries(
            "photos",
            &[("cat.jpg".into(), Vec::new())],
        ))),
    );
    for name in ["train", "test", "meta"] {
        file(&format!("100/{name}"), b"");
    }
    for name in ["train", "test"] {
        file(&format!("merged/{name}"), b"\x80\x04}.");
    }
    file("kaggle/trainLabels.csv", b"id,label\n");
    file("kaggle/train/1.png", b"");
    file("classes/train/frog/1.png", b"");
    write_all(&dir.path().join("hf/data"), &parquet_files());
    let mut fine = python_batch(0..3);
    let at = fine.windows(7).position(|w| w == b"\x06labels").unwrap();
    fine.splice(at..at + 7, *b"\x0bfine_labels");
    write_all(&dir.path().join("fine"), &python_files());
    file("fine/data_batch_2", &fine);
    for (path, words) in [
        ("page", "is a web page"),
        ("page2", "is a web page"),
        ("lfs", "pointer of Git LFS"),
        (
            "cifar-10-python.tar",
            "a tar archive that is not packed with gzip",
        ),
        ("tar", "a tar archive that is not packed with gzip"),
        ("tars", "cifar-10-python.tar is a tar archive"),
        ("cifar10.npz", "a NumPy archive (.npz), as used by Keras"),
        ("x.zip", "a zip archive"),
        ("x_train.npy", "a NumPy array"),
        ("xz", "packed with xz"),
        ("cifar-100.tar.gz", "CIFAR-100"),
        ("100", "CIFAR-100"),
        ("fine", "CIFAR-100"),
        ("other.tar.gz", "an archive without CIFAR-10's batches"),
        ("merged", "in other files than"),
        ("kaggle", "Kaggle's copy"),
        ("classes", "one folder per class"),
        ("hf", "hf/data does (parquet)"),
    ] {
        let path = dir.path().join(path);
        let error = load_at(&path).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, DataError::Unsupported { .. }), "{text}");
        assert!(
            text.contains(&path.display().to_string()) && text.contains(words),
            "{text}"
        );
        assert!(!text.contains("damaged"), "{text}");
    }
    let error = load_at(&dir.path().join("nothing.txt")).unwrap_err();
    assert!(matches!(error, DataError::Nothing { .. }), "{error}");
}

#[test]
fn several_formats_in_one_folder_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &binary_files());
    write_all(dir.path(), &python_files());
    let found = find(Some(dir.path())).unwrap();
    assert_eq!(found.format.name, "python batches");
    assert_eq!(found.beside, ["binary batches"]);
}

#[test]
fn verifying_says_of_each_file_whether_it_is_the_published_one() {
    let dir = tempfile::tempdir().unwrap();
    for (format, path, _) in fixtures(&dir) {
        let verified = verify(&find(Some(&path)).unwrap(), &mut |_, _| {}, 1).unwrap();
        let known = match format {
            "python batches" => 7,
            "python archive" | "binary archive" => 1,
            _ => 0,
        };
        assert_eq!(verified.files.len(), known, "{format}");
        assert!(
            verified.files.iter().all(|file| !file.is_published()),
            "{format}"
        );
        let [train, test] = &verified.differences[..] else {
            panic!("{format}: {:?}", verified.differences)
        };
        assert!(
            train.contains("15 training images") && train.contains("50000"),
            "{train}"
        );
        assert!(test.contains("3 test images"), "{test}");
    }
    // The published digest of `batches.meta` is known, and the one that this fixture contains differs from it.
    let sample = verify(&find(Some(Path::new(SAMPLE))).unwrap(), &mut |_, _| {}, 0).unwrap();
    assert!(sample.files.is_empty() && sample.differences.is_empty());
}

/// With the real data set: all formats in the same folder give the same images.
#[test]
fn unpacked_sets_agree() {
    let Some(folder) = std::env::var_os("CIFAR_TUI_UNPACKED").map(PathBuf::from) else {
        eprintln!("left out: CIFAR_TUI_UNPACKED names no folder with all formats of CIFAR-10");
        return;
    };
    let all = [
        "cifar-10-batches-py",
        "cifar-10-batches-bin",
        "cifar-10-python.tar.gz",
        "cifar-10-binary.tar.gz",
        "plain_text",
    ];
    let first = load_at(&folder.join(all[0])).unwrap();
    for name in &all[1..] {
        let other = load_at(&folder.join(name)).unwrap();
        assert!(
            first.train == other.train && first.test == other.test,
            "{name}"
        );
    }
}
