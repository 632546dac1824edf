//! The launches of a dropout layer that is not fused, and the constants of all kernels that apply dropout.

use super::{Dropout, Mask};
use crate::domain::rng::Stream;
use crate::layers::gpu::{
    Activation, BackwardLaunches, BackwardReads, KernelPair, LaunchBuilder, define,
};
use std::fmt::Write;

const SOURCE: &str = include_str!("dropout.cu");

pub fn schedule(
    dropout: Dropout,
    builder: &mut LaunchBuilder,
    input: &Activation,
) -> (Activation, BackwardLaunches) {
    let mut constants = String::new();
    define!(constants, LEN = input.len);
    constants.push_str(&constants_of(Some(dropout)));
    let pair = KernelPair {
        source: SOURCE,
        constants,
        forward: "dropout",
        backward: "dropout",
        backward_reads: BackwardReads::GradientOnly,
        flop: [1, 1],
    };
    builder.kernel_pair(pair, input, input.len)
}

/// The constants of a kernel that applies dropout: DROP (the random stream, 0 for no dropout), DROP_LIVE (1 if the
/// share is the hyperparameter), DROP_THRESHOLD and DROP_SCALE (of a share that the architecture fixes).
pub fn constants_of(dropout: Option<Dropout>) -> String {
    let mut constants = String::new();
    let stream = dropout.map_or(0, |d| Stream::Dropout(d.layer).word());
    let pinned = dropout.and_then(|d| d.share);
    let (threshold, scale) = Mask::numbers(pinned.unwrap_or(0.0));
    define!(
        constants,
        DROP = format!("{stream}u"),
        DROP_LIVE = u32::from(pinned.is_none()),
        DROP_THRESHOLD = format!("{threshold}u"),
        DROP_SCALE = format!("{scale:?}f"),
    );
    constants
}

/// The constants of a kernel that undoes dropout: UPSTREAM_DROP (0: no dropout, 1: the hyperparameter's share, 2: a
/// share that the architecture fixes) and UPSTREAM_SCALE.
pub fn upstream_constants(dropout: Option<Dropout>) -> String {
    let mut constants = String::new();
    let pinned = dropout.and_then(|d| d.share);
    let (_, scale) = Mask::numbers(pinned.unwrap_or(0.0));
    define!(
        constants,
        UPSTREAM_DROP = match dropout {
            None => 0,
            Some(Dropout { share: None, .. }) => 1,
            Some(_) => 2,
        },
        UPSTREAM_SCALE = format!("{scale:?}f"),
    );
    constants
}
