//! From images to the network's input, pixel by pixel.

use super::super::{Error, ImageSet, Result, Scaling};
use crate::domain::augment::Placement;

/// Placed images as numbers, `[placements, channels, side, side]`: zero where a placement shows nothing.
pub fn place(images: &ImageSet, placements: &[Placement], scaling: &Scaling) -> Result<Vec<f32>> {
    let (channels, side) = (images.channels(), images.side() as i32);
    let mut out = Vec::with_capacity(placements.len() * channels * images.side() * images.side());
    for placement in placements {
        let Some(image) = images.image(placement.image) else {
            return Err(Error::Batch(format!(
                "image {} of {} was asked for",
                placement.image,
                images.len()
            )));
        };
        let cut = i32::from(placement.cut);
        let (top, left) = (
            i32::from(placement.cut_y) - cut / 2,
            i32::from(placement.cut_x) - cut / 2,
        );
        for channel in 0..channels {
            for y in 0..side {
                for x in 0..side {
                    let (from_y, from_x) =
                        (y + i32::from(placement.dy), x + i32::from(placement.dx));
                    let shown = (0..side).contains(&from_y) && (0..side).contains(&from_x);
                    let is_cut = (top..top + cut).contains(&y) && (left..left + cut).contains(&x);
                    if !shown || is_cut {
                        out.push(0.0);
                        continue;
                    }
                    let column = match placement.flip {
                        true => side - 1 - from_x,
                        false => from_x,
                    };
                    let at = (channel as i32 * side + from_y) * side + column;
                    let byte = f32::from(image[at as usize]);
                    out.push(byte * scaling.scale[channel] + scaling.shift[channel]);
                }
            }
        }
    }
    Ok(out)
}
