//! Tests of parquet files with another layout, and of damaged ones.

use super::*;
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;
use std::sync::Arc;

#[test]
fn damaged_images_and_images_of_another_size_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &parquet_files());
    let file = dir.path().join("test-00000-of-00001.parquet");
    let mut large = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(33, 32)
        .write_to(&mut large, image::ImageFormat::Png)
        .unwrap();
    let mut small = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(31, 32)
        .write_to(&mut small, image::ImageFormat::Png)
        .unwrap();
    for (bad, why, damaged) in [
        (b"GIF89a".to_vec(), "neither a PNG nor a JPEG", false),
        (b"noise".to_vec(), "neither a PNG nor a JPEG", true),
        (large.into_inner(), "row 1", false),
        (small.into_inner(), "an image of 31x32", false),
        (png(0)[..60].to_vec(), "row 1", true),
    ] {
        fs::write(
            &file,
            parquet_file(vec![png(0), bad, png(1)], vec![1, 2, 3]),
        )
        .unwrap();
        let error = load_at(dir.path()).unwrap_err();
        assert_reports(&error, &file, why);
        assert_eq!(error.to_string().contains("damaged"), damaged, "{error}");
    }
}

#[test]
fn an_empty_row_group_is_skipped() {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &parquet_files());
    let file = dir.path().join("test-00000-of-00001.parquet");
    // The first of the two row groups is empty.
    fs::write(&file, parquet_file(vec![png(3)], vec![3])).unwrap();
    let data = load_at(dir.path()).unwrap();
    assert_eq!((data.test.len(), data.test.labels[0]), (1, 3));
}

#[test]
fn a_split_without_images_is_refused() {
    for (name, split) in [("train", "training"), ("test", "test")] {
        let dir = tempfile::tempdir().unwrap();
        let mut files = parquet_files();
        for (file, bytes) in &mut files {
            if file.starts_with(name) {
                *bytes = odd_parquet(["", ""]);
            }
        }
        write_all(dir.path(), &files);
        let words = format!("has no {split} images");
        assert_reports(&load_at(dir.path()).unwrap_err(), dir.path(), &words);
    }
}

/// A parquet file without rows, in whose schema `change[0]` is replaced by `change[1]`.
fn odd_parquet(change: [&str; 2]) -> Vec<u8> {
    let schema = PARQUET_SCHEMA.replace(change[0], change[1]);
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let writer = SerializedFileWriter::new(Vec::new(), schema, Arc::default()).unwrap();
    writer.into_inner().unwrap()
}

#[test]
fn parquet_that_is_not_the_published_kind_says_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &parquet_files());
    let file = dir.path().join("test-00000-of-00001.parquet");
    for (change, words) in [
        (
            ["group img", "group image"],
            "no column 'img.bytes'; its columns are 'image.bytes', 'image.path', 'label'",
        ),
        (["label", "labels"], "no column 'label'"),
        (
            ["int64 label", "int32 label"],
            "a column 'label' of type INT32; INT64 is expected",
        ),
        (["int64 label", "int64 fine_label"], "CIFAR-100"),
    ] {
        fs::write(&file, odd_parquet(change)).unwrap();
        let error = load_at(dir.path()).unwrap_err();
        assert!(matches!(error, DataError::Unsupported { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains(&file.display().to_string()) && text.contains(words),
            "{text}"
        );
    }
    // In the metadata of the last column, the number of the codec follows the name. Change it from snappy to zstd.
    let mut zstd = parquet_file(vec![png(0), png(1)], vec![1, 2]);
    let at = zstd
        .windows(7)
        .rposition(|w| w == b"label\x15\x02")
        .unwrap();
    zstd[at + 6] = 12;
    fs::write(&file, zstd).unwrap();
    let text = load_at(dir.path()).unwrap_err().to_string();
    assert!(text.contains("is packed with zstd; only snappy"), "{text}");
}

#[test]
fn parts_of_two_layouts_are_refused_and_never_counted_twice() {
    let [first, second, test] = &parquet_files()[..] else {
        panic!("three files")
    };
    let load_with = |names: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        for (i, name) in names.iter().enumerate() {
            fs::write(dir.path().join(name), &[first, second][i % 2].1).unwrap();
        }
        fs::write(dir.path().join(&test.0), &test.1).unwrap();
        load_at(dir.path())
            .map(|data| data.train.len())
            .map_err(|error| error.to_string())
    };
    for names in [
        &["train.parquet", "train-00000-of-00001.parquet"][..],
        &[
            "train-00000-of-00001.parquet",
            "train-00000-of-00002.parquet",
            "train-00001-of-00002.parquet",
        ],
        &[
            "train-00000-of-00002.parquet",
            "train-0.parquet",
            "train-00001-of-00002.parquet",
        ],
        &["train.parquet", "train (1).parquet"],
        &["train-0.parquet", "train_0.parquet"],
        &[
            "train-00000-of-00001-aa.parquet",
            "train-00000-of-00001-bb.parquet",
        ],
    ] {
        let text = load_with(names).unwrap_err();
        assert!(
            text.contains("images would count twice"),
            "{names:?}: {text}"
        );
        let named = names.iter().filter(|name| text.contains(*name)).count();
        assert!(named >= 2, "{names:?}: {text}");
    }
    for (names, missing) in [
        (
            &["train-00001-of-00002.parquet"][..],
            "train-00000-of-00002.parquet is missing",
        ),
        (
            &[
                "train-00000-of-00003.parquet",
                "train-00002-of-00003.parquet",
            ],
            "train-00001-of-00003.parquet is missing",
        ),
        (&["train-0.parquet", "train-2.parquet"], "part 1"),
        (&["train-2.parquet", "train-3.parquet"], "part 1"),
        (
            &[
                "train-00000-of-00001.parquet",
                "train-00003-of-00001.parquet",
            ],
            "fewer parts",
        ),
    ] {
        let text = load_with(names).unwrap_err();
        assert!(text.contains(missing), "{names:?}: {text}");
    }
    for names in [
        &[
            "train-00000-of-00002.parquet",
            "train-00001-of-00002.parquet",
        ][..],
        &[
            "train-00001-of-00002-aa.parquet",
            "train-00000-of-00002-bb.parquet",
        ],
        &["train_1.parquet", "train_2.parquet"],
        &["train-0.parquet", "train-1.parquet"],
    ] {
        assert_eq!(load_with(names), Ok(15), "{names:?}");
    }
    assert_eq!(load_with(&["train.parquet"]), Ok(9));
}
