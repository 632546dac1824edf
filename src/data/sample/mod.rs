//! The built-in sample set: images of ten classes with CIFAR-10's names, drawn by the program, so that it can train
//! before anything is downloaded. Every image depends on its index alone, so the set is the same for any number of
//! threads.
//!
//! A person recognises the classes at a glance; the seed recipe reaches an accuracy of 80 to 97%. The set is difficult
//! because colours and backgrounds depend little on the class, poses and sizes vary, other objects are in front, the
//! light is uneven and the images are noisy. [`art`] draws the objects, [`scenery`] their surroundings; this file turns
//! the drawings into images.

mod art;
mod pen;
mod scenery;

use super::{CLASSES, DataError, IMAGE_BYTES, Images, ProgressFn, RawDataset, SIDE, pool};
use crate::domain::rng::{Rng, Stream};
use pen::{Pen, RandomSequence};
use std::path::Path;
use tiny_skia::Pixmap;

/// Independent of a run's seed, so that all runs are compared on the same images.
const SEED: u64 = 10;
const TRAIN: usize = 10_000;
const TEST: usize = 2_000;
/// Number of images in one job.
const JOB: usize = 250;
/// First step of the random stream that orders the classes within blocks of ten images. Smaller steps are image
/// indices.
const ORDERS: u64 = 1 << 32;

/// Draws all images of the set.
pub(super) fn read(
    _: &Path,
    threads: usize,
    progress: ProgressFn,
) -> Result<RawDataset, DataError> {
    let [mut train, mut test] = [TRAIN, TEST].map(|n| vec![0; n * IMAGE_BYTES]);
    let jobs = train
        .chunks_mut(JOB * IMAGE_BYTES)
        .chain(test.chunks_mut(JOB * IMAGE_BYTES));
    let jobs = jobs
        .enumerate()
        .map(|(i, pixels)| (i * JOB, pixels))
        .collect();
    pool::run(
        jobs,
        threads,
        (TRAIN + TEST) as u64,
        progress,
        |(first, pixels), tell| {
            for (i, pixels) in pixels.chunks_exact_mut(IMAGE_BYTES).enumerate() {
                draw(first + i, pixels);
            }
            tell(pixels.len() / IMAGE_BYTES);
            Ok(())
        },
    )?;
    let images = |pixels: Vec<u8>, first, n| Images {
        side: SIDE,
        pixels: pixels.into(),
        labels: (first..first + n).map(class_of).collect(),
    };
    Ok(RawDataset {
        classes: CLASSES.map(String::from).into(),
        train: images(train, 0, TRAIN),
        test: images(test, TRAIN, TEST),
    })
}

/// The class of image `number`. Each block of ten images contains every class once, in random order.
fn class_of(number: usize) -> u8 {
    let order =
        Rng::new(SEED, Stream::Sample, ORDERS + number as u64 / 10).permutation(CLASSES.len());
    order[number % 10] as u8
}

/// Draws image `number` into `pixels` (CHW).
fn draw(number: usize, pixels: &mut [u8]) {
    let mut random = RandomSequence::new(Rng::new(SEED, Stream::Sample, number as u64));
    let class = usize::from(class_of(number));
    // Allocating 4 KiB per image is cheap compared with drawing it.
    let Some(mut map) = Pixmap::new(SIDE as u32, SIDE as u32) else {
        return;
    };
    let scene = scenery::behind(&mut Pen::whole(&mut map), &mut random, class);
    let pose = art::Pose::random(&mut random, class);
    art::draw(&mut Pen::posed(&mut map, &pose), &mut random, class);
    scenery::in_front(&mut Pen::whole(&mut map), &mut random, scene);
    expose(&map, &mut random, pixels);
}

/// Imitates a photograph of the drawing: light, contrast, colour cast, saturation, and the noise of a cheap sensor.
fn expose(map: &Pixmap, random: &mut RandomSequence, pixels: &mut [u8]) {
    let contrast = random.between(0.65, 1.1);
    let brightness = random.between(-30.0, 30.0);
    let cast = [(); 3].map(|()| random.between(0.85, 1.15));
    let saturation = if random.chance(0.12) {
        0.0
    } else {
        random.between(0.45, 1.1)
    };
    let noise = random.between(4.0, 14.0);
    // The brightness changes linearly across the image, like light from one side.
    let (lx, ly) = (random.between(-0.9, 0.9), random.between(-0.9, 0.9));
    let plane = SIDE * SIDE;
    for (i, pixel) in map.pixels().iter().enumerate() {
        let rgb = [pixel.red(), pixel.green(), pixel.blue()].map(f32::from);
        let grey = 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2];
        let light = lx * ((i % SIDE) as f32 - 15.5) + ly * ((i / SIDE) as f32 - 15.5) + brightness;
        let words = random.block();
        for c in 0..3 {
            // A sum of four uniform bytes is close enough to a normal deviate (mean 510, deviation 148).
            let sum: i32 = words[c].to_le_bytes().iter().map(|b| i32::from(*b)).sum();
            let grain = (sum - 510) as f32 * (noise / 148.0);
            let value = (grey + (rgb[c] - grey) * saturation - 128.0) * contrast * cast[c] + 128.0;
            // `as u8` clamps to 0 to 255.
            pixels[c * plane + i] = (value + light + grain + 0.5) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_is_the_same_on_any_number_of_threads_and_balanced() {
        let one = read(Path::new(""), 1, &mut |_, _| {}).unwrap();
        let mut last = (0, 0);
        let three = read(Path::new(""), 3, &mut |done, total| last = (done, total)).unwrap();
        assert_eq!(last, (12_000, 12_000));
        assert!(one.train == three.train && one.test == three.test);
        assert_eq!((one.train.len(), one.test.len()), (TRAIN, TEST));
        assert_eq!(one.train.counts(10), [TRAIN as u32 / 10; 10]);
        assert_eq!(one.test.counts(10), [TEST as u32 / 10; 10]);
    }

    #[test]
    fn no_two_images_are_the_same() {
        let mut seen = std::collections::HashSet::new();
        for number in 0..500 {
            let mut pixels = vec![0; IMAGE_BYTES];
            draw(number, &mut pixels);
            assert!(seen.insert(pixels), "image {number}");
        }
    }
}
