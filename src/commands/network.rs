//! Images on a device and scoring them: what `bench`, `eval` and `predict` share.

use crate::data;
use crate::device::threads::Threads;
use crate::domain::augment::Placement;
use crate::net::{Net, Scaling};
use candle_core::{Device, Tensor};

/// Images of one split on the device: u8, `[n, 3, side, side]`, and a label each.
pub struct Images {
    pub pixels: Tensor,
    pub labels: Vec<u8>,
}

impl Images {
    /// Takes the block of pixels over.
    ///
    /// # Errors
    /// Those of the device.
    pub fn new(images: data::Images, device: &Device) -> anyhow::Result<Self> {
        let shape = (images.labels.len(), 3, images.side, images.side);
        Ok(Images {
            pixels: Tensor::from_vec(images.pixels, shape, device)?,
            labels: images.labels,
        })
    }
}

/// What the network says of images.
pub struct Scored {
    /// `classes` for each image.
    pub probabilities: Vec<f32>,
    /// Cross-entropy of each image.
    pub losses: Vec<f32>,
}

/// Scores the images of the numbers `which`, as many at a time as the network takes. `progress` counts images.
///
/// # Errors
/// Those of the network.
pub fn score(
    net: &mut Net,
    images: &Images,
    which: &[u32],
    scaling: &Scaling,
    threads: &Threads,
    progress: &mut dyn FnMut(u64),
) -> anyhow::Result<Scored> {
    let classes = net.classes();
    let mut scored = Scored {
        probabilities: vec![0.0; which.len() * classes],
        losses: vec![0.0; which.len()],
    };
    let size = net.capacity();
    let mut done = 0;
    for ((part, probabilities), losses) in which
        .chunks(size)
        .zip(scored.probabilities.chunks_mut(size * classes))
        .zip(scored.losses.chunks_mut(size))
    {
        let placements: Vec<_> = part.iter().map(|i| Placement::plain(*i)).collect();
        net.score(
            &images.pixels,
            &images.labels,
            &placements,
            scaling,
            threads,
            probabilities,
            losses,
        )?;
        done += part.len() as u64;
        progress(done);
    }
    Ok(scored)
}
