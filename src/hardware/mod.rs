//! The computer's hardware: which device to compute on, threads, vector instructions, measured peaks, and NVIDIA's
//! driver and GPUs. It knows no layer.

pub mod choice;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod executor;
pub mod nvidia;
pub mod peak;
pub mod simd;
pub mod threads;
