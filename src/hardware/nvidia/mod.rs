//! NVIDIA's GPUs. NVIDIA's libraries (driver, NVRTC, NVML) are loaded at run time, so one binary runs on computers with
//! and without a GPU.

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

/// The dynamic loader's message about a library or symbol that it cannot load.
fn loader_words(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}
