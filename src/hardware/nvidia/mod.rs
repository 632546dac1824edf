//! NVIDIA's GPUs. Every library of NVIDIA's (driver, NVRTC, NVML) is looked for at run time, so one binary serves
//! computers with a GPU and without.

mod compile;
mod device;
pub mod driver;
mod executor;
pub mod kernel_cache;
pub mod nvml;
pub mod nvrtc;
pub mod nvrtc_search;

pub use compile::compile_all;
pub use device::{CudaDevice, GpuError};
pub use executor::CudaExecutor;

/// What the loader says of a library or a symbol that it cannot load.
fn loader_words(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}
