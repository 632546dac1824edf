//! The same small data set, written in every format.

use crate::data::*;
use ::parquet::basic::Compression;
use ::parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;
use std::fs;
use std::io::Write;
use std::sync::Arc;
use tempfile::TempDir;

/// Number of images in each batch. The batches differ in size, so that a mix-up of batches is detected.
pub const SIZES: [usize; 6] = [3, 2, 4, 1, 5, 3];
pub const BATCHES: [&str; 6] = [
    "data_batch_1",
    "data_batch_2",
    "data_batch_3",
    "data_batch_4",
    "data_batch_5",
    "test_batch",
];

/// Pixel (channel, y, x) of image `i`. It depends on every index, so that a mix-up of axes is detected.
pub fn pixel(i: usize, c: usize, y: usize, x: usize) -> u8 {
    (i * 31 + c * 101 + y * 7 + x * 3 + (x * y) / 5) as u8
}

pub fn image(i: usize) -> Vec<u8> {
    let at = |p: usize| pixel(i, p / 1024, p / 32 % 32, p % 32);
    (0..IMAGE_BYTES).map(at).collect()
}

pub fn label(i: usize) -> u8 {
    (i * 3 % 10) as u8
}

/// The indices of the images in batch `batch`.
pub fn numbers(batch: usize) -> std::ops::Range<usize> {
    let first = SIZES[..batch].iter().sum();
    first..first + SIZES[batch]
}

/// Writes small pickles as Python 2 and 3 do.
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub fn short(&mut self, text: &str) -> &mut Self {
        self.0.extend([b'U', text.len() as u8]);
        self.raw(text.as_bytes())
    }

    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend(bytes);
        self
    }
}

/// A batch as published: protocol 2, written by Python 2.
pub fn python_batch(images: std::ops::Range<usize>) -> Vec<u8> {
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

/// The same batch as Python 3 and numpy 2 would write it: protocol 4, keys and pixels as bytes, the pixels first.
pub fn python3_batch(images: std::ops::Range<usize>) -> Vec<u8> {
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

pub fn python_meta() -> Vec<u8> {
    let mut w = Writer(b"\x80\x02}q\x01(".to_vec());
    w.short("label_names").raw(b"q\x03]q\x04(");
    CLASSES.iter().for_each(|name| _ = w.short(name));
    w.raw(b"eu.");
    w.0
}

pub fn binary_batch(images: std::ops::Range<usize>) -> Vec<u8> {
    images
        .flat_map(|i| [vec![label(i)], image(i)].concat())
        .collect()
}

/// Name and contents of every file of the published folder, not in the order of the batches.
pub fn python_files() -> Vec<(String, Vec<u8>)> {
    let batch = |b: usize| (BATCHES[b].to_owned(), python_batch(numbers(b)));
    let mut files: Vec<_> = [3, 5, 0, 4, 2, 1].map(batch).into();
    files.insert(1, ("readme.html".into(), b"<meta>".to_vec()));
    files.insert(2, ("batches.meta".into(), python_meta()));
    files
}

pub fn binary_files() -> Vec<(String, Vec<u8>)> {
    let batch = |b: usize| (format!("{}.bin", BATCHES[b]), binary_batch(numbers(b)));
    let mut files: Vec<_> = [3, 5, 0, 4, 2, 1].map(batch).into();
    files.push((
        "batches.meta.txt".into(),
        format!("{}\n\n", CLASSES.join("\n")).into_bytes(),
    ));
    files
}

pub fn write_all(folder: &Path, files: &[(String, Vec<u8>)]) {
    fs::create_dir_all(folder).unwrap();
    files
        .iter()
        .for_each(|(name, bytes)| fs::write(folder.join(name), bytes).unwrap());
}

pub fn entry(name: &str, kind: tar::EntryType, size: usize) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    let bytes = name.as_bytes();
    header.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
    header.set_entry_type(kind);
    header.set_size(size as u64);
    header.set_mode(0o644);
    header.set_cksum();
    header
}

pub fn archive(entries: &[(tar::Header, Vec<u8>)]) -> Vec<u8> {
    packed(&tar_of(entries))
}

pub fn packed(tar: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(tar).unwrap();
    gz.finish().unwrap()
}

pub fn tar_of(entries: &[(tar::Header, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    entries
        .iter()
        .for_each(|(header, bytes)| tar.append(header, &bytes[..]).unwrap());
    tar.into_inner().unwrap()
}

pub fn entries(folder: &str, files: &[(String, Vec<u8>)]) -> Vec<(tar::Header, Vec<u8>)> {
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

pub fn png(i: usize) -> Vec<u8> {
    let picture = image::RgbImage::from_fn(32, 32, |x, y| {
        image::Rgb([0, 1, 2].map(|c| pixel(i, c, y as usize, x as usize)))
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

pub const PARQUET_SCHEMA: &str = "message schema { optional group img { optional binary bytes; optional binary path (UTF8); } optional int64 label; }";

pub fn parquet_file(files: Vec<Vec<u8>>, labels: Vec<i64>) -> Vec<u8> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .build();
    let schema = Arc::new(parse_message_type(PARQUET_SCHEMA).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    // Write two row groups.
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

pub fn parquet_files() -> Vec<(String, Vec<u8>)> {
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

pub fn load_at(path: &Path) -> Result<Dataset, DataError> {
    load(&find(Some(path))?, &mut |_, _| {}, 2)
}

/// The images that every fixture holds.
pub fn expected_images() -> (Images, Images) {
    let images = |range: std::ops::Range<usize>| Images {
        side: 32,
        pixels: range.clone().flat_map(image).collect(),
        labels: range.map(label).collect(),
    };
    (images(0..15), images(15..18))
}

/// Writes every format to disk. Returns for each its name in FORMATS, the path to load, and the files that a test can
/// damage.
pub fn fixtures(dir: &TempDir) -> Vec<(&'static str, PathBuf, Vec<PathBuf>)> {
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

/// Asserts that an error is one paragraph, names the file, contains `what` and says what to do.
pub fn assert_reports(error: &DataError, path: &Path, what: &str) {
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
