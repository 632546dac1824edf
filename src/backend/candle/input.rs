//! Makes the network's input from images, pixel by pixel.

use super::super::{Error, ImageSet, Result, Scaling};
use crate::domain::augment::Placement;

/// The input for placed images, `[placements, channels, side, side]`. It is zero where a placement shows no pixel.
pub fn place(images: &ImageSet, placements: &[Placement], scaling: &Scaling) -> Result<Vec<f32>> {
    let (channels, side) = (images.channels(), images.side() as u32);
    let mut out = Vec::with_capacity(placements.len() * channels * images.side() * images.side());
    for placement in placements {
        let Some(image) = images.image(placement.image) else {
            return Err(Error::Batch(format!(
                "image {} of {} was asked for",
                placement.image,
                images.len()
            )));
        };
        for channel in 0..channels {
            for y in 0..side {
                for x in 0..side {
                    out.push(match placement.source(y, x, side) {
                        None => 0.0,
                        Some((row, column)) => {
                            let at = (channel as u32 * side + row) * side + column;
                            let byte = f32::from(image[at as usize]);
                            byte * scaling.scale[channel] + scaling.shift[channel]
                        }
                    });
                }
            }
        }
    }
    Ok(out)
}
