//! A dense layer's launches: those of a 1x1 convolution of one pixel.

use super::cpu::Dense;
use crate::layers::conv::Geometry;
use crate::layers::conv::gpu::Gemm;
use crate::layers::cpu::Layer;
use crate::layers::gpu::{Activation, BackwardLaunches, LaunchBuilder};

pub fn schedule(
    dense: &Dense,
    builder: &mut LaunchBuilder,
    input: &Activation,
) -> (Activation, BackwardLaunches) {
    let (channels, pixels) = dense.input();
    let gemm = Gemm {
        geometry: Geometry {
            height: 1,
            width: 1,
            inputs: channels * pixels,
            outputs: dense.outputs(),
            kernel: 1,
            stride: 1,
            padding: 0,
            out_height: 1,
            out_width: 1,
        },
        flat: (channels, pixels),
        relu: dense.rectifies(),
        pool: false,
        dropout: dense.dropout(),
        bias: dense.has_bias(),
        trained: true,
    };
    gemm.schedule(dense.name(), builder, input)
}
