//! How the kernels of sparse gradients lay out images and weights: images with their padding, input channels rounded up
//! to whole vectors with zeros, and all of them together or one vector after the other.

use super::geometry::Geometry;
use crate::layers::slices::Aligned;

/// The order of images, weights and sums of the weight gradient.
#[derive(Clone, Copy)]
pub struct Layout {
    /// Input channels of a part: whole vectors.
    width: usize,
    parts: usize,
}

impl Layout {
    /// All input channels together.
    pub fn whole(g: &Geometry, lanes: usize) -> Self {
        Layout {
            width: g.inputs.next_multiple_of(lanes),
            parts: 1,
        }
    }

    /// One vector of input channels after the other.
    pub fn vectors(g: &Geometry, lanes: usize) -> Self {
        Layout {
            width: lanes,
            parts: g.inputs.div_ceil(lanes),
        }
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn parts(&self) -> usize {
        self.parts
    }

    /// f32 of one output channel's weights in one part, or of their gradient: a line of input channels for each place of
    /// the kernel.
    pub fn channel_len(&self, g: &Geometry) -> usize {
        g.kernel * g.kernel * self.width
    }

    /// f32 of all weights: part by part, output by output.
    pub fn weights_len(&self, g: &Geometry) -> usize {
        self.parts * g.outputs * self.channel_len(g)
    }

    /// Where the weights of an output channel in a part begin.
    pub fn weights_begin(&self, g: &Geometry, part: usize, output: usize) -> usize {
        (part * g.outputs + output) * self.channel_len(g)
    }

    /// f32 of one part of an image's channels, with the padding.
    pub fn plane_len(&self, g: &Geometry) -> usize {
        let (height, width) = g.padded();
        height * width * self.width
    }

    /// f32 of an image, with the padding.
    pub fn image_len(&self, g: &Geometry) -> usize {
        self.parts * self.plane_len(g)
    }

    /// Where a row of the image begins in its plane.
    fn row_begin(&self, g: &Geometry, y: usize) -> usize {
        ((y + g.padding) * g.padded().1 + g.padding) * self.width
    }

    /// Packs OIHW weights.
    pub fn pack(&self, g: &Geometry, weight: &[f32], packed: &mut Aligned) {
        let packed = packed.reserve(self.weights_len(g));
        let places = g.kernel * g.kernel;
        for (output, weight) in weight.chunks_exact(g.inputs * places).enumerate() {
            for (part, weight) in weight.chunks(self.width * places).enumerate() {
                let begin = self.weights_begin(g, part, output);
                let lines = packed[begin..].chunks_exact_mut(self.width);
                for (place, line) in lines.take(places).enumerate() {
                    for (input, out) in line.iter_mut().enumerate() {
                        *out = weight.get(input * places + place).copied().unwrap_or(0.0);
                    }
                }
            }
        }
    }

    /// From an output channel's weights in one part back to OIHW; `weight` has those of the part's inputs.
    pub fn unpack(&self, g: &Geometry, packed: &[f32], weight: &mut [f32]) {
        let places = g.kernel * g.kernel;
        for (input, weight) in weight.chunks_exact_mut(places).enumerate() {
            for (place, weight) in weight.iter_mut().enumerate() {
                *weight = packed[place * self.width + input];
            }
        }
    }

    /// Lays images out.
    pub fn widen(&self, g: &Geometry, images: &[f32], fields: &mut [f32]) {
        fields.fill(0.0);
        let fields = fields.chunks_exact_mut(self.image_len(g));
        for (image, field) in images.chunks_exact(g.input_len()).zip(fields) {
            for (part, plane) in field.chunks_exact_mut(self.plane_len(g)).enumerate() {
                let channels = self.channels(g, part);
                for (y, row) in image.chunks_exact(g.width * g.inputs).enumerate() {
                    let lines = plane[self.row_begin(g, y)..].chunks_exact_mut(self.width);
                    for (pixel, line) in row.chunks_exact(g.inputs).zip(lines) {
                        line[..channels.len()].copy_from_slice(&pixel[channels.clone()]);
                    }
                }
            }
        }
    }

    /// The images back out of the layout.
    pub fn narrow(&self, g: &Geometry, fields: &[f32], images: &mut [f32]) {
        let fields = fields.chunks_exact(self.image_len(g));
        for (image, field) in images.chunks_exact_mut(g.input_len()).zip(fields) {
            for (part, plane) in field.chunks_exact(self.plane_len(g)).enumerate() {
                let channels = self.channels(g, part);
                for (y, row) in image.chunks_exact_mut(g.width * g.inputs).enumerate() {
                    let lines = plane[self.row_begin(g, y)..].chunks_exact(self.width);
                    for (pixel, line) in row.chunks_exact_mut(g.inputs).zip(lines) {
                        pixel[channels.clone()].copy_from_slice(&line[..channels.len()]);
                    }
                }
            }
        }
    }

    /// The input channels of a part.
    fn channels(&self, g: &Geometry, part: usize) -> std::ops::Range<usize> {
        let first = part * self.width;
        first..(first + self.width).min(g.inputs)
    }
}
