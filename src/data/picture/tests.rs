use super::*;
use image::Rgb;
use image::{ExtendedColorType, ImageEncoder, codecs};
use std::io::{Cursor, Write};

fn read_bytes(bytes: &[u8]) -> Result<DecodedImage, ImageProblem> {
    decode(Cursor::new(bytes), 32)
}

fn pixels(bytes: &[u8]) -> Vec<u8> {
    read_bytes(bytes).unwrap().pixels
}

fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn png_of(picture: RgbImage) -> Vec<u8> {
    encoded(&picture.into(), ImageFormat::Png)
}

/// A 32x32 picture that differs along every axis and in every channel.
fn exact() -> RgbImage {
    RgbImage::from_fn(32, 32, |x, y| {
        Rgb([8 * x as u8, 8 * y as u8, (x * y) as u8])
    })
}

#[test]
fn the_middle_square_is_cropped_without_distortion() {
    // Red, green and blue thirds. Only the green one is in the middle square.
    let wide = RgbImage::from_fn(96, 32, |x, _| {
        let mut rgb = [0; 3];
        rgb[(x / 32) as usize] = 255;
        Rgb(rgb)
    });
    let chw = pixels(&png_of(wide));
    assert!(chw[..1024].iter().all(|v| *v == 0) && chw[1024..2048].iter().all(|v| *v == 255));
    // Large enough to be reduced while it is decoded, with cells of fewer pixels at the edge.
    let large = RgbImage::from_fn(1599, 2399, |_, y| match (400..1999).contains(&y) {
        true => Rgb([10, 20, 30]),
        false => Rgb([255; 3]),
    });
    let chw = pixels(&png_of(large));
    for (plane, v) in chw.chunks(1024).zip([10, 20, 30]) {
        assert!(plane.iter().all(|p| *p == v), "{plane:?}");
    }
}

#[test]
fn a_picture_of_the_right_size_stays_as_it_is() {
    let chw = pixels(&png_of(exact()));
    assert_eq!(chw, planes(&exact()));
    assert_eq!((chw[5], chw[1024 + 32], chw[2048 + 33]), (40, 8, 1));
}

#[test]
fn transparent_pixels_become_white() {
    let mut picture = image::RgbaImage::new(32, 32);
    picture.put_pixel(1, 0, image::Rgba([10, 20, 30, 255]));
    picture.put_pixel(2, 0, image::Rgba([0, 0, 0, 51]));
    let chw = pixels(&encoded(&picture.into(), ImageFormat::Png));
    assert_eq!(chw[..3], [255, 10, 204]);
}

#[test]
fn every_format_and_every_kind_of_pixel_is_read() {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, Pnm, Tiff, WebP};
    let picture = DynamicImage::from(RgbImage::from_pixel(40, 50, Rgb([200, 60, 20])));
    for format in [Png, Jpeg, Bmp, Gif, WebP, Tiff, Pnm] {
        let chw = pixels(&encoded(&picture, format));
        let near = chw[0].abs_diff(200) < 12 && chw[2048].abs_diff(20) < 12;
        assert!(near, "{format:?}: {} {}", chw[0], chw[2048]);
    }
    let grey = [
        DynamicImage::from(picture.to_luma8()),
        picture.to_luma_alpha8().into(),
        picture.to_luma16().into(),
        picture.to_luma_alpha16().into(),
    ];
    let value = picture.to_luma8().get_pixel(0, 0).0[0];
    for picture in grey {
        let chw = pixels(&encoded(&picture, Png));
        assert!(chw.iter().all(|v| *v == value), "{:?}", picture.color());
    }
    for deep in [
        DynamicImage::from(picture.to_rgb16()),
        picture.to_rgba16().into(),
    ] {
        assert_eq!(pixels(&encoded(&deep, Png))[..1024], [200; 1024]);
    }
}

/// EXIF data: a TIFF header with the orientation tag only.
fn exif(orientation: u8) -> Vec<u8> {
    let mut exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    exif
}

/// An uncompressed RGB TIFF, the only format whose own header contains the orientation.
fn tiff(picture: &RgbImage, orientation: u16) -> Vec<u8> {
    let (width, height) = picture.dimensions();
    let data = picture.as_raw();
    let entries: [(u16, u16, u32); 10] = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 2),
        (273, 4, 8),
        (274, 3, orientation.into()),
        (277, 3, 3),
        (278, 4, height),
        (279, 4, data.len() as u32),
    ];
    let mut file = b"II*\0".to_vec();
    file.extend((8 + data.len() as u32).to_le_bytes());
    file.extend(data);
    file.extend((entries.len() as u16).to_le_bytes());
    for (tag, kind, value) in entries {
        file.extend(tag.to_le_bytes());
        file.extend(kind.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        file.extend(value.to_le_bytes());
    }
    file.extend([0; 4]);
    file
}

#[test]
fn all_eight_orientations_are_applied_in_every_format_that_has_them() {
    let picture = exact();
    let encode = |format, stored: &RgbImage, orientation: u8| {
        let mut bytes = Vec::new();
        fn write(mut encoder: impl ImageEncoder, picture: &RgbImage, orientation: u8) {
            encoder.set_exif_metadata(exif(orientation)).unwrap();
            let (width, height) = picture.dimensions();
            let rgb = ExtendedColorType::Rgb8;
            encoder
                .write_image(picture.as_raw(), width, height, rgb)
                .unwrap();
        }
        match format {
            "PNG" => write(
                codecs::png::PngEncoder::new(&mut bytes),
                stored,
                orientation,
            ),
            "WebP" => {
                let encoder = codecs::webp::WebPEncoder::new_lossless(&mut bytes);
                write(encoder, stored, orientation);
            }
            "JPEG" => {
                let encoder = codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 100);
                write(encoder, stored, orientation);
            }
            _ => bytes = tiff(stored, orientation.into()),
        }
        bytes
    };
    for orientation in 1..=8 {
        // The picture as a camera in this orientation stores it. 6 means that it must be rotated clockwise by 90
        // degrees.
        let upright = DynamicImage::from(picture.clone());
        let stored = match orientation {
            1 => upright,
            2 => upright.fliph(),
            3 => upright.rotate180(),
            4 => upright.flipv(),
            5 => upright.fliph().rotate90().rotate180(),
            6 => upright.rotate270(),
            7 => upright.fliph().rotate90(),
            _ => upright.rotate90(),
        };
        for (format, off) in [("PNG", 0), ("WebP", 0), ("TIFF", 0), ("JPEG", 40)] {
            let chw = pixels(&encode(format, &stored.to_rgb8(), orientation));
            let difference = chw.iter().zip(planes(&picture)).map(|(a, b)| a.abs_diff(b));
            let most = difference.max().unwrap();
            assert!(
                most <= off,
                "{format}, orientation {orientation}: off by {most}"
            );
        }
    }
}

#[test]
fn small_pictures_are_the_fuzz_targets_seeds() {
    use crate::domain::mutate::is_seed;
    let picture = DynamicImage::from(imageops::crop_imm(&exact(), 0, 0, 9, 7).to_image());
    for format in [
        ImageFormat::Png,
        ImageFormat::Bmp,
        ImageFormat::Gif,
        ImageFormat::Pnm,
    ] {
        let name = format.extensions_str()[0];
        is_seed("picture", name, &encoded(&picture, format));
    }
    let mut bytes = Vec::new();
    let mut encoder = codecs::jpeg::JpegEncoder::new(&mut bytes);
    encoder.set_exif_metadata(exif(6)).unwrap();
    encoder.encode_image(&picture).unwrap();
    is_seed("picture", "jpg", &bytes);
    is_seed("picture", "tiff", &tiff(&picture.to_rgb8(), 6));
    let mut bytes = Vec::new();
    let mut encoder = codecs::webp::WebPEncoder::new_lossless(&mut bytes);
    encoder.set_exif_metadata(exif(6)).unwrap();
    picture.write_with_encoder(encoder).unwrap();
    is_seed("picture", "webp", &bytes);
}

#[test]
fn mutated_pictures_never_panic_and_give_pixels_or_words() {
    use crate::domain::mutate::mutated;
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds/picture");
    let (mut read, mut refused) = (0, 0);
    for seed in std::fs::read_dir(seeds).unwrap() {
        let whole = std::fs::read(seed.unwrap().path()).unwrap();
        for number in 0..200 {
            match read_bytes(&mutated(&whole, number)) {
                Ok(picture) => {
                    assert_eq!(picture.pixels.len(), 3 * 32 * 32);
                    read += 1;
                }
                Err(problem) => {
                    assert!(!problem.to_string().is_empty());
                    refused += 1;
                }
            }
        }
    }
    assert!(
        read > 100 && refused > 100,
        "{read} read, {refused} refused"
    );
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(kind);
    crc.update(data);
    let length = (data.len() as u32).to_be_bytes();
    [&length[..], kind, data, &crc.sum().to_be_bytes()].concat()
}

/// The beginning of a grey PNG of this size.
fn png_header(width: u32, height: u32, interlaced: u8) -> Vec<u8> {
    let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
    header.extend([8, 0, 0, 0, interlaced]);
    [&b"\x89PNG\r\n\x1a\n"[..], &chunk(b"IHDR", &header)].concat()
}

#[test]
fn interlaced_rows_land_where_another_reader_puts_them() {
    for (width, height) in [(1, 1), (3, 2), (5, 9), (8, 8), (33, 17)] {
        let mut rows = Vec::new();
        for (i, (_, xs)) in super::png::rows(width, height, true).enumerate() {
            rows.push(0);
            rows.extend(xs.map(|x| (37 * i as u32 + x) as u8));
        }
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        zlib.write_all(&rows).unwrap();
        let mut file = png_header(width, height, 1);
        file.extend(chunk(b"IDAT", &zlib.finish().unwrap()));
        file.extend(chunk(b"IEND", b""));
        let whole = image::load_from_memory(&file).unwrap().into_rgb8();
        let (grid, ..) = super::png::decode(Cursor::new(&file)).unwrap();
        let square = width.min(height);
        let (left, top) = ((width - square) / 2, (height - square) / 2);
        let middle = imageops::crop_imm(&whole, left, top, square, square).to_image();
        assert_eq!(grid.picture(), middle, "{width}x{height}");
    }
}

#[test]
fn a_truncated_jpeg_is_read_as_far_as_possible_and_reported() {
    let picture = RgbImage::from_fn(64, 64, |x, y| Rgb([4 * x as u8, 4 * y as u8, 9]));
    let file = encoded(&picture.into(), ImageFormat::Jpeg);
    let whole = read_bytes(&file).unwrap();
    assert!(!whole.cut_short);
    let half = read_bytes(&file[..file.len() * 2 / 3]).unwrap();
    assert!(half.cut_short);
    assert_eq!(
        half.pixels[..128],
        whole.pixels[..128],
        "the first rows are there"
    );
    assert!(read_bytes(&file[..file.len() - 1]).unwrap().cut_short);
    let header = read_bytes(&file[..30]).unwrap_err().to_string();
    assert!(header.contains("is a damaged JPEG picture"), "{header}");
}

#[test]
fn a_large_jpeg_is_scaled_while_it_is_decoded() {
    let picture = RgbImage::from_fn(4400, 2400, |x, y| {
        let inside = (1000..3400).contains(&x) && (700..1700).contains(&y);
        Rgb([if inside { 200 } else { 40 }, 80, 120])
    });
    let file = encoded(&picture.clone().into(), ImageFormat::Jpeg);
    let scaled = pixels(&file);
    let grid = {
        let mut grid = CropAccumulator::new(4400, 2400).unwrap();
        for (y, row) in picture.rows().enumerate() {
            grid.add_row(y as u32, (0..).zip(row.map(|p| rgba(&p.0))));
        }
        planes(&resize(grid.picture(), 32))
    };
    let most = scaled
        .iter()
        .zip(&grid)
        .map(|(a, b)| a.abs_diff(*b))
        .max()
        .unwrap();
    assert!(most < 12, "off by {most}");
}

#[test]
fn too_large_pictures_are_refused_before_decoding() {
    let too_large = |bytes: &[u8], part: &str| {
        let text = read_bytes(bytes).unwrap_err().to_string();
        assert!(
            text.contains("is too large") && text.contains(part),
            "{text}"
        );
    };
    too_large(&png_header(100_000, 100_000, 0), "100000x100000");
    let wide = [png_header(1 << 27, 4, 0), chunk(b"IDAT", b"")].concat();
    too_large(&wide, "one of its rows");
    // A frame header of three components without subsampling, then a scan that is never reached.
    let frame = |marker: u8, side: u16| {
        let [high, low] = side.to_be_bytes();
        let mut file = b"\xff\xd8\xff".to_vec();
        file.extend([marker, 0, 17, 8, high, low, high, low, 3]);
        file.extend([1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0]);
        file
    };
    too_large(&frame(0xc2, 12_000), "progressive");
    too_large(&frame(0xc0, 65_000), "65000x65000");
    let mut bmp = encoded(&RgbImage::new(1, 1).into(), ImageFormat::Bmp);
    bmp[18..26].copy_from_slice(&[0x20, 0x4e, 0, 0, 0x20, 0x4e, 0, 0]);
    too_large(&bmp, "20000x20000");
}

#[test]
fn a_panic_of_a_decoder_becomes_an_error_that_names_the_format() {
    let panicked = without_panics::<()>(ImageFormat::Gif, || panic!("expected: the decoder"));
    let text = panicked.unwrap_err().to_string();
    assert!(
        text.contains("damaged GIF") && text.contains("its decoder failed"),
        "{text}"
    );
    assert!(!text.contains("expected"), "{text}");
}

#[test]
fn what_is_no_picture_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("words.png");
    std::fs::write(&text, "no picture").unwrap();
    let fifo = folder.path().join("fifo.png");
    files::tests::make_fifo(&fifo);
    for (path, words) in [
        (text.as_path(), "words.png is not a picture"),
        (&fifo, "fifo.png cannot be read: it is a named pipe"),
        (Path::new("absent.png"), "absent.png cannot be read"),
    ] {
        let error = read(path, 32).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let cut = png_of(exact());
    let text = read_bytes(&cut[..cut.len() / 2]).unwrap_err().to_string();
    assert!(text.contains("is a damaged PNG picture"), "{text}");
}
