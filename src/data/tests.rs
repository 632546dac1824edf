//! The same small set, written here in every format, must load as the same images; and nothing that is wrong with a file
//! may do more than give an error that names it.

use super::*;
use crate::domain::mutate::{is_seed, mutated};
use ::parquet::basic::Compression;
use ::parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;
use std::fs;
use std::io::Write;
use std::sync::Arc;
use tempfile::TempDir;

/// Images of each batch; the batches differ in size, so that places are not mixed up.
const SIZES: [usize; 6] = [3, 2, 4, 1, 5, 3];
const BATCHES: [&str; 6] = [
    "data_batch_1",
    "data_batch_2",
    "data_batch_3",
    "data_batch_4",
    "data_batch_5",
    "test_batch",
];

/// Pixel (channel, y, x) of image `i`: different for every axis.
fn pixel(i: usize, c: usize, y: usize, x: usize) -> u8 {
    (i * 31 + c * 101 + y * 7 + x * 3 + (x * y) / 5) as u8
}

fn image(i: usize) -> Vec<u8> {
    let at = |p: usize| pixel(i, p / 1024, p / 32 % 32, p % 32);
    (0..IMAGE_BYTES).map(at).collect()
}

fn label(i: usize) -> u8 {
    (i * 3 % 10) as u8
}

/// The images of batch `batch`, by number.
fn numbers(batch: usize) -> std::ops::Range<usize> {
    let first = SIZES[..batch].iter().sum();
    first..first + SIZES[batch]
}

/// Small pickles, as Python 2 and 3 write them.
struct Writer(Vec<u8>);

impl Writer {
    fn short(&mut self, text: &str) -> &mut Self {
        self.0.extend([b'U', text.len() as u8]);
        self.raw(text.as_bytes())
    }

    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend(bytes);
        self
    }
}

/// A batch as published: protocol 2, by Python 2.
fn python_batch(images: std::ops::Range<usize>) -> Vec<u8> {
    let mut w = Writer(b"\x80\x02}q\x01(".to_vec());
    w.short("batch_label")
        .raw(b"q\x02")
        .short("a batch")
        .raw(b"q\x03");
    w.short("labels").raw(b"q\x04]q\x05(");
    images.clone().for_each(|i| _ = w.raw(&[b'K', label(i)]));
    w.raw(b"e").short("data").raw(b"q\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\t(K\x01");
    w.raw(&[b'K', images.len() as u8]);
    w.raw(b"M\x00\x0c\x86cnumpy\ndtype\nq\nU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T");
    w.raw(&((images.len() * IMAGE_BYTES) as u32).to_le_bytes());
    images.clone().for_each(|i| _ = w.raw(&image(i)));
    w.raw(b"tb").short("filenames").raw(b"q\x0c]q\r(");
    images.for_each(|i| _ = w.short(&format!("image_{i}.png")));
    w.raw(b"eu.");
    w.0
}

/// The same as Python 3 and numpy 2 write it again: protocol 4, keys and pixels as bytes, the pixels first.
fn python3_batch(images: std::ops::Range<usize>) -> Vec<u8> {
    let mut w = Writer(b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00}\x94(C\x04data\x94".to_vec());
    w.raw(b"\x8c\x16numpy._core.multiarray\x94\x8c\x0c_reconstruct\x94\x93\x94\x8c\x05numpy\x94\x8c\x07ndarray\x94\x93\x94K\x00\x85\x94C\x01b\x94\x87\x94R\x94(K\x01");
    w.raw(&[b'K', images.len() as u8]);
    w.raw(b"M\x00\x0c\x86\x94h\x05\x8c\x05dtype\x94\x93\x94\x8c\x02u1\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01|\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94b\x89B");
    w.raw(&((images.len() * IMAGE_BYTES) as u32).to_le_bytes());
    images.clone().for_each(|i| _ = w.raw(&image(i)));
    w.raw(b"\x94t\x94bC\x06labels\x94]\x94(");
    images.for_each(|i| _ = w.raw(&[b'K', label(i)]));
    w.raw(b"eu.");
    w.0
}

fn python_meta() -> Vec<u8> {
    let mut w = Writer(b"\x80\x02}q\x01(".to_vec());
    w.short("label_names").raw(b"q\x03]q\x04(");
    CLASSES.iter().for_each(|name| _ = w.short(name));
    w.raw(b"eu.");
    w.0
}

fn binary_batch(images: std::ops::Range<usize>) -> Vec<u8> {
    images
        .flat_map(|i| [vec![label(i)], image(i)].concat())
        .collect()
}

/// Name and contents of every file in the folder as published, in an order that is not the batches'.
fn python_files() -> Vec<(String, Vec<u8>)> {
    let batch = |b: usize| (BATCHES[b].to_owned(), python_batch(numbers(b)));
    let mut files: Vec<_> = [3, 5, 0, 4, 2, 1].map(batch).into();
    files.insert(1, ("readme.html".into(), b"<meta>".to_vec()));
    files.insert(2, ("batches.meta".into(), python_meta()));
    files
}

fn binary_files() -> Vec<(String, Vec<u8>)> {
    let batch = |b: usize| (format!("{}.bin", BATCHES[b]), binary_batch(numbers(b)));
    let mut files: Vec<_> = [3, 5, 0, 4, 2, 1].map(batch).into();
    files.push((
        "batches.meta.txt".into(),
        format!("{}\n\n", CLASSES.join("\n")).into_bytes(),
    ));
    files
}

fn write_all(folder: &Path, files: &[(String, Vec<u8>)]) {
    fs::create_dir_all(folder).unwrap();
    files
        .iter()
        .for_each(|(name, bytes)| fs::write(folder.join(name), bytes).unwrap());
}

fn entry(name: &str, kind: tar::EntryType, size: usize) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    let bytes = name.as_bytes();
    header.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
    header.set_entry_type(kind);
    header.set_size(size as u64);
    header.set_mode(0o644);
    header.set_cksum();
    header
}

fn archive(entries: &[(tar::Header, Vec<u8>)]) -> Vec<u8> {
    packed(&tar_of(entries))
}

fn packed(tar: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(tar).unwrap();
    gz.finish().unwrap()
}

fn tar_of(entries: &[(tar::Header, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    entries
        .iter()
        .for_each(|(header, bytes)| tar.append(header, &bytes[..]).unwrap());
    tar.into_inner().unwrap()
}

fn entries(folder: &str, files: &[(String, Vec<u8>)]) -> Vec<(tar::Header, Vec<u8>)> {
    let regular = |(name, bytes): &(String, Vec<u8>)| {
        let name = format!("{folder}/{name}");
        (
            entry(&name, tar::EntryType::Regular, bytes.len()),
            bytes.clone(),
        )
    };
    let top = (
        entry(&format!("{folder}/"), tar::EntryType::Directory, 0),
        Vec::new(),
    );
    [top].into_iter().chain(files.iter().map(regular)).collect()
}

fn png(i: usize) -> Vec<u8> {
    let picture = image::RgbImage::from_fn(32, 32, |x, y| {
        image::Rgb([0, 1, 2].map(|c| pixel(i, c, y as usize, x as usize)))
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

const PARQUET_SCHEMA: &str = "message schema { optional group img { optional binary bytes; optional binary path (UTF8); } optional int64 label; }";

fn parquet_file(files: Vec<Vec<u8>>, labels: Vec<i64>) -> Vec<u8> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .build();
    let schema = Arc::new(parse_message_type(PARQUET_SCHEMA).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    // Two groups of rows.
    let half = files.len() / 2;
    for (files, labels) in [
        (&files[..half], &labels[..half]),
        (&files[half..], &labels[half..]),
    ] {
        let mut group = writer.next_row_group().unwrap();
        let n = files.len();
        let values: Vec<ByteArray> = files.iter().map(|f| f.clone().into()).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<ByteArrayType>()
            .write_batch(&values, Some(&vec![2; n]), None)
            .unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<ByteArrayType>()
            .write_batch(&[], Some(&vec![1; n]), None)
            .unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<Int64Type>()
            .write_batch(labels, Some(&vec![1; n]), None)
            .unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

fn parquet_files() -> Vec<(String, Vec<u8>)> {
    let file = |name: &str, images: std::ops::Range<usize>| {
        let labels = images.clone().map(|i| i64::from(label(i))).collect();
        (
            name.to_owned(),
            parquet_file(images.map(png).collect(), labels),
        )
    };
    vec![
        file("train-00000-of-00002.parquet", 0..9),
        file("train-00001-of-00002.parquet", 9..15),
        file("test-00000-of-00001.parquet", 15..18),
    ]
}

fn load_at(path: &Path) -> Result<Dataset, DataError> {
    load(&find(Some(path))?, &mut |_, _| {}, 2)
}

/// The images that every fixture holds.
fn expected_images() -> (Images, Images) {
    let images = |range: std::ops::Range<usize>| Images {
        side: 32,
        pixels: range.clone().flat_map(image).collect(),
        labels: range.map(label).collect(),
    };
    (images(0..15), images(15..18))
}

/// Every format on disk: its name in FORMATS, what to name, and the files that can be damaged.
fn fixtures(dir: &TempDir) -> Vec<(&'static str, PathBuf, Vec<PathBuf>)> {
    let at = |name: &str| dir.path().join(name);
    let (python, binary, parquet) = (
        at("py/cifar-10-batches-py"),
        at("bin/cifar-10-batches-bin"),
        at("hf/plain_text"),
    );
    write_all(&python, &python_files());
    write_all(&binary, &binary_files());
    write_all(&parquet, &parquet_files());
    let tars = [
        (
            "tarpy/cifar-10-python.tar.gz",
            "cifar-10-batches-py",
            python_files(),
        ),
        (
            "tarbin/cifar-10-binary.tar.gz",
            "cifar-10-batches-bin",
            binary_files(),
        ),
    ];
    for (name, folder, files) in &tars {
        fs::create_dir_all(at(name).parent().unwrap()).unwrap();
        fs::write(at(name), archive(&entries(folder, files))).unwrap();
    }
    vec![
        (
            "python batches",
            at("py"),
            vec![python.join("data_batch_3"), python.join("batches.meta")],
        ),
        (
            "binary batches",
            at("bin"),
            vec![
                binary.join("data_batch_3.bin"),
                binary.join("batches.meta.txt"),
            ],
        ),
        ("python archive", at("tarpy"), vec![at(tars[0].0)]),
        ("binary archive", at("tarbin"), vec![at(tars[1].0)]),
        (
            "parquet",
            at("hf"),
            vec![parquet.join("train-00001-of-00002.parquet")],
        ),
    ]
}

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
        // The folder or file itself may be named, too.
        for path in [files[0].as_path(), found.path.as_path()] {
            assert_eq!(find(Some(path)).unwrap().path, found.path, "{format}");
        }
    }
}

#[test]
fn batches_that_python_3_wrote_again_are_read() {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &[("batches.meta".into(), python_meta())]);
    for (b, name) in BATCHES.iter().enumerate() {
        write_all(dir.path(), &[((*name).into(), python3_batch(numbers(b)))]);
    }
    let data = load_at(dir.path()).unwrap();
    assert!((data.train, data.test) == expected_images());
}

#[test]
fn serde_pickle_reads_the_same_labels_from_our_batches() {
    let value: serde_pickle::Value = serde_pickle::value_from_slice(
        &python_batch(0..4),
        serde_pickle::DeOptions::new().replace_unresolved_globals(),
    )
    .unwrap();
    let serde_pickle::Value::Dict(dict) = value else {
        panic!("no dictionary")
    };
    let labels = &dict[&serde_pickle::HashableValue::Bytes(b"labels".to_vec())];
    let expected = (0..4)
        .map(|i| serde_pickle::Value::I64(label(i).into()))
        .collect();
    assert_eq!(*labels, serde_pickle::Value::List(expected));
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
        pixels: [flat([10, 0, 255]), flat([30, 0, 255])].concat(),
        labels: vec![0, 1],
    };
    let (mean, deviation) = channel_statistics(&two, 2);
    let near = |a: &[f32], b: [f32; 3]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
    assert!(
        near(&mean, [20.0 / 255.0, 0.0, 1.0]) && near(&deviation, [10.0 / 255.0, 0.0, 0.0]),
        "{mean:?} {deviation:?}"
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
        told(
            &find_among(Some(path), &[place(python, true)]).unwrap_err(),
            path,
            "--data",
        );
        told(
            &find_among(None, &[place(path, true), place(python, false)]).unwrap_err(),
            path,
            "--data",
        );
    }
}

/// That an error is one paragraph, names the file and says `what`.
fn told(error: &DataError, path: &Path, what: &str) {
    let text = error.to_string();
    assert!(
        text.contains(&path.display().to_string()) && text.contains(what) && !text.contains('\n'),
        "{text}"
    );
    assert!(
        text.contains("--data") || text.contains("Check"),
        "it says what to do: {text}"
    );
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
        told(
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
        told(
            &load_at(&path).unwrap_err(),
            &path,
            &format!("{missing} is missing"),
        );
    }
}

#[test]
fn truncated_files_of_every_format_are_told() {
    let dir = tempfile::tempdir().unwrap();
    for (format, path, files) in fixtures(&dir) {
        let whole = fs::read(&files[0]).unwrap();
        for keep in [0, 1, whole.len() / 3, whole.len() - 20] {
            fs::write(&files[0], &whole[..keep]).unwrap();
            let error = load_at(&path).unwrap_err();
            told(&error, &files[0], "damaged");
            assert!(
                matches!(error, DataError::Damaged { .. }),
                "{format}, {keep} bytes"
            );
        }
    }
}

#[test]
fn labels_beyond_nine_are_told_with_their_place() {
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
    told(
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
    told(
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
    told(&load_at(&parquet).unwrap_err(), &file, "row 2: it is 10");
}

#[test]
fn images_that_are_none_or_of_another_size_are_told() {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &parquet_files());
    let file = dir.path().join("test-00000-of-00001.parquet");
    let mut large = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(33, 32)
        .write_to(&mut large, image::ImageFormat::Png)
        .unwrap();
    for (bad, why) in [
        (b"GIF89a".to_vec(), "neither a PNG nor a JPEG"),
        (large.into_inner(), "row 1"),
        (png(0)[..60].to_vec(), "row 1"),
    ] {
        fs::write(
            &file,
            parquet_file(vec![png(0), bad, png(1)], vec![1, 2, 3]),
        )
        .unwrap();
        told(&load_at(dir.path()).unwrap_err(), &file, why);
    }
}

fn pickled(bytes: &[u8]) -> DataError {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &python_files());
    fs::write(dir.path().join("data_batch_2"), bytes).unwrap();
    let error = load_at(dir.path()).unwrap_err();
    told(&error, &dir.path().join("data_batch_2"), "byte");
    error
}

#[test]
fn hostile_pickles_are_refused() {
    // Run by a real unpickler, this would start a program.
    let error = pickled(b"\x80\x02cposix\nsystem\nU\x04true\x85R.");
    assert!(error.to_string().contains("global posix.system"), "{error}");
    // 100,000 deep, in each way that nests.
    let deep = 100_000;
    let nested = [
        [vec![b']'; deep], vec![b'a'; deep]].concat(),
        [vec![b')'], vec![0x85; deep]].concat(),
        vec![b'('; deep],
        [vec![b'}'; deep], vec![b's'; deep]].concat(),
    ];
    for body in nested {
        let error = pickled(&[b"\x80\x02", &body[..], b"."].concat());
        assert!(error.to_string().contains("nested too deep"), "{error}");
    }
    // Claims without bytes behind them.
    for claim in [
        &b"\x80\x02}(T\xff\xff\xff\x7f"[..],
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x80\x02}r\xff\xff\xff\xff",
    ] {
        pickled(claim);
    }
    let float = python_batch(0..3);
    let at = float.windows(2).position(|w| w == b"u1").unwrap();
    let float = [&float[..at], b"f4", &float[at + 2..]].concat();
    assert!(pickled(&float).to_string().contains("'u1'"));
}

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
        told(&load_at(&path).unwrap_err(), &path, why);
    }
    let many: Vec<_> = (0..100).map(|i| regular(&format!("x/{i}"))).collect();
    fs::write(&path, archive(&many)).unwrap();
    told(&load_at(&path).unwrap_err(), &path, "more entries");
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
    told(&load_at(&path).unwrap_err(), &path, "checksum");
}

#[test]
fn a_bomb_is_refused_before_it_goes_off() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cifar-10-python.tar.gz");
    // One entry that says it has 10 GiB, and entries that add up to more than any data set.
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
    told(&load_at(&path).unwrap_err(), &path, "larger than any batch");
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
    told(&load_at(&path).unwrap_err(), &path, "more than 256 MiB");
}

/// Damaged bytes give an error or images, never a panic. (A damaged pixel cannot be told.) Each reader gets `count`
/// injuries; archives every second time inside, before they are packed.
fn mutations(count: u32) {
    let dir = tempfile::tempdir().unwrap();
    let tars = [python_files(), binary_files()].map(|files| {
        let folder = match files[0].0.ends_with(".bin") || files[0].0.ends_with(".txt") {
            true => "cifar-10-batches-bin",
            false => "cifar-10-batches-py",
        };
        (folder, tar_of(&entries(folder, &files)))
    });
    for (format, path, files) in fixtures(&dir) {
        let whole: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
        let inside = tars.iter().find(|(folder, _)| {
            format.contains("archive")
                && folder.contains(if format.contains("python") {
                    "py"
                } else {
                    "bin"
                })
        });
        let (mut refused, mut slowest) = (0, std::time::Duration::ZERO);
        for number in 0..count {
            let which = number as usize % files.len();
            let bytes = match inside {
                Some((_, tar)) if number % 2 == 0 => packed(&mutated(tar, number)),
                _ => mutated(&whole[which], number),
            };
            fs::write(&files[which], bytes).unwrap();
            let begin = std::time::Instant::now();
            if let Err(error) = load_at(&path) {
                refused += 1;
                assert!(
                    !error.to_string().contains('\n'),
                    "{format} {number}: {error}"
                );
            }
            slowest = slowest.max(begin.elapsed());
            fs::write(&files[which], &whole[which]).unwrap();
        }
        assert!(refused > count / 10, "{format}: {refused} of {count}");
        println!("{format}: {refused} of {count} refused, the slowest in {slowest:?}");
    }
}

#[test]
fn small_sets_are_the_fuzz_targets_seeds() {
    is_seed("pickle", "batch", &python_batch(0..1));
    is_seed("pickle", "batch_of_python_3", &python3_batch(0..1));
    is_seed("pickle", "meta", &python_meta());
    is_seed(
        "parquet",
        "rows",
        &parquet_file(vec![png(0), png(1)], vec![1, 2]),
    );
    for (name, folder, files) in [
        ("python", "cifar-10-batches-py", python_files()),
        ("binary", "cifar-10-batches-bin", binary_files()),
    ] {
        is_seed("tarball", name, &tar_of(&entries(folder, &files)));
    }
}

#[test]
fn mutations_never_panic() {
    mutations(150);
}

#[test]
#[ignore = "the long form: 20,000 for each reader"]
fn twenty_thousand_mutations_never_panic() {
    mutations(20_000);
}

#[test]
fn what_lies_in_the_place_of_cifar_10_is_recognised() {
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
        ("cifar10.npz", "a NumPy archive (.npz), as Keras"),
        ("x.zip", "a zip archive"),
        ("x_train.npy", "a NumPy array"),
        ("xz", "packed with xz"),
        ("cifar-100.tar.gz", "CIFAR-100"),
        ("100", "CIFAR-100"),
        ("fine", "CIFAR-100"),
        ("other.tar.gz", "an archive without CIFAR-10's batches"),
        ("merged", "in other files than"),
        ("kaggle", "Kaggle's copy"),
        ("classes", "a folder for each class"),
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

/// A parquet file without rows, with `change` made to the schema.
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
            "a column 'label' of type INT32, where INT64 is read",
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
    // In the description of the last column, the number of the packing follows the name: snappy's becomes zstd's.
    let mut zstd = parquet_file(vec![png(0), png(1)], vec![1, 2]);
    let at = zstd
        .windows(7)
        .rposition(|w| w == b"label\x15\x02")
        .unwrap();
    zstd[at + 6] = 12;
    fs::write(&file, zstd).unwrap();
    let text = load_at(dir.path()).unwrap_err().to_string();
    assert!(text.contains("is packed with zstd, where snappy"), "{text}");
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

#[test]
fn formats_side_by_side_are_told() {
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
    // One file is known without the data: the class names as Python 2 wrote them are not ours.
    let sample = verify(&find(Some(Path::new(SAMPLE))).unwrap(), &mut |_, _| {}, 0).unwrap();
    assert!(sample.files.is_empty() && sample.differences.is_empty());
}

/// Bytes in memory.
struct InMemory<'a>(&'a [u8]);

impl pickle::PickleSource for InMemory<'_> {
    fn fill(&mut self, buffer: &mut [u8]) -> std::io::Result<()> {
        std::io::Read::read_exact(&mut self.0, buffer)
    }

    fn pass(&mut self, length: u64) -> std::io::Result<()> {
        let length = usize::try_from(length).map_err(std::io::Error::other)?;
        self.0 = self
            .0
            .get(length..)
            .ok_or(std::io::ErrorKind::UnexpectedEof)?;
        Ok(())
    }
}

#[test]
fn mutated_pickles_never_panic() {
    for whole in [python_batch(0..3), python3_batch(0..3), python_meta()] {
        for number in 0..2000 {
            // Either is right; what is read must be there to be asked for.
            if let Ok(pickle) = pickle::read(&mut InMemory(&mutated(&whole, number))) {
                let _ = (
                    pickle.matrix("data"),
                    pickle.numbers("labels"),
                    pickle.texts("label_names"),
                );
            }
        }
    }
}

/// The real images, where they are: every format of the same folder gives the same bytes.
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
