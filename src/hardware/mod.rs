//! The computer's hardware: which device to compute on, threads, vector instructions, measured peaks, and NVIDIA's
//! driver and GPUs. It knows no layer.

pub mod device;
pub mod executor;
pub mod nvidia;
pub mod peak;
pub mod simd;
pub mod stopwatch;
pub mod threads;
