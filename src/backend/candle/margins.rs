//! How clear a network's choices are. Which side of zero a ReLU's input is on and which number of a pooling window is the
//! largest decide where gradients go. Two implementations that round differently decide differently where the margin is
//! as small as their rounding errors, and then their gradients differ without either being wrong.

use super::super::Result;
use crate::domain::arch::Op;
use candle_core::{DType, Tensor};

/// For each image of a batch, the smallest margin of its choices so far, as a share of the largest number of the layer's
/// input. Exact zeros and exact ties are no choices: they are zeros of earlier layers, the same in every implementation.
pub struct Margins(pub Vec<f64>);

impl Margins {
    pub fn new(images: usize) -> Self {
        Margins(vec![f64::INFINITY; images])
    }

    /// Takes in the choices of a layer with the input `x`, `[images, channels, height, width]`.
    pub fn add(&mut self, op: &Op, x: &Tensor) -> Result<()> {
        let gaps: fn(&[f64], &Op, [usize; 3]) -> Vec<f64> = match op {
            Op::Relu => |image, _, _| image.iter().map(|v| v.abs()).collect(),
            Op::Pool { .. } => pool_gaps,
            _ => return Ok(()),
        };
        let (_, channels, height, width) = x.dims4()?;
        let images: Vec<Vec<f64>> = x.flatten_from(1)?.to_dtype(DType::F64)?.to_vec2()?;
        let largest = images.iter().flatten().fold(0.0f64, |m, v| m.max(v.abs()));
        for (margin, image) in self.0.iter_mut().zip(&images) {
            for gap in gaps(image, op, [channels, height, width]) {
                if gap > 0.0 {
                    *margin = margin.min(gap / largest);
                }
            }
        }
        Ok(())
    }
}

/// The differences between the two largest numbers of each window.
fn pool_gaps(image: &[f64], op: &Op, [channels, height, width]: [usize; 3]) -> Vec<f64> {
    let &Op::Pool { kernel, stride } = op else {
        return Vec::new();
    };
    let (kernel, stride) = (kernel as usize, stride as usize);
    let mut gaps = Vec::new();
    for plane in image.chunks_exact(height * width).take(channels) {
        for top in (0..=height - kernel).step_by(stride) {
            for left in (0..=width - kernel).step_by(stride) {
                let (mut first, mut second) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
                for place in 0..kernel * kernel {
                    let (y, x) = (top + place / kernel, left + place % kernel);
                    let value = plane[y * width + x];
                    second = second.max(value.min(first));
                    first = first.max(value);
                }
                gaps.push(first - second);
            }
        }
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn the_smallest_gap_counts_and_exact_ties_do_not() {
        let image = |values: [f64; 4]| Tensor::new(&values, &Device::Cpu).unwrap();
        let x = Tensor::cat(
            &[image([4.0, -1.0, 0.0, 2.0]), image([0.0, 0.0, 3.0, 3.0])],
            0,
        );
        let x = x.unwrap().reshape((2, 1, 2, 2)).unwrap();
        let mut margins = Margins::new(2);
        margins.add(&Op::Relu, &x).unwrap();
        assert_eq!(margins.0, [0.25, 0.75]);
        let mut margins = Margins::new(2);
        let pool = Op::Pool {
            kernel: 2,
            stride: 2,
        };
        margins.add(&pool, &x).unwrap();
        assert_eq!(margins.0, [0.5, f64::INFINITY]);
    }
}
