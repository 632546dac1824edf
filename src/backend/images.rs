//! The images and labels that backends train on and score.

use super::{Error, Result};
use crate::domain::shared_bytes::SharedBytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Images of one size, each with a label, in host memory. A device may keep a copy, which it identifies by
/// [`ImageSet::id`]. A clone is the same set: it has the same id and shares the memory.
#[derive(Clone, Debug)]
pub struct ImageSet {
    id: u64,
    channels: usize,
    side: usize,
    pixels: SharedBytes,
    labels: Arc<[u16]>,
    largest_label: u16,
}

impl ImageSet {
    /// An image set of these pixels, `[labels, channels, side, side]`.
    ///
    /// # Errors
    /// Returns an error if the number of pixels does not fit the other sizes.
    pub fn new(
        channels: usize,
        side: usize,
        pixels: impl Into<SharedBytes>,
        labels: Vec<u16>,
    ) -> Result<Self> {
        let pixels = pixels.into();
        static NEXT: AtomicU64 = AtomicU64::new(0);
        if pixels.len() != labels.len() * channels * side * side {
            return Err(Error::Batch(format!(
                "{} bytes are not {} images of {channels} x {side} x {side}",
                pixels.len(),
                labels.len()
            )));
        }
        Ok(ImageSet {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            channels,
            side,
            pixels,
            largest_label: labels.iter().copied().max().unwrap_or(0),
            labels: labels.into(),
        })
    }

    /// Whether another set has the same labels and shares its pixels with this one.
    pub fn is_same(&self, other: &ImageSet) -> bool {
        std::ptr::eq(self.pixels(), other.pixels())
            && (self.channels, self.side, &self.labels)
                == (other.channels, other.side, &other.labels)
    }

    /// A number that is unique in this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Width and height of an image.
    pub fn side(&self) -> usize {
        self.side
    }

    /// The pixels, `[images, channels, side, side]`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    pub fn labels(&self) -> &[u16] {
        &self.labels
    }

    /// The largest label; 0 if there are no images.
    pub fn largest_label(&self) -> u16 {
        self.largest_label
    }

    /// The pixels of one image, `[channels, side, side]`. None if there is no such image.
    pub fn image(&self, number: u32) -> Option<&[u8]> {
        let len = self.channels * self.side * self.side;
        let begin = (number as usize).checked_mul(len)?;
        self.pixels.get(begin..begin.checked_add(len)?)
    }
}
