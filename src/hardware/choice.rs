//! Which device to compute on, as a person names it, and opening it.

use candle_core::Device;
use std::fmt;
use std::str::FromStr;

/// What `--device` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The first CUDA device when this build knows CUDA and one is present, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// CUDA device number `n`.
    Cuda(usize),
}

/// Why a device cannot be used. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("'{0}' is no device: use auto, cpu, cuda or cuda:N")]
    Unknown(String),
    #[error(
        "this build has no CUDA: use --device cpu, or build with `cargo build --release --features cuda`"
    )]
    NotBuilt,
    #[error(
        "CUDA device {index} cannot be used: {source}; choose another with --device cuda:N, or use --device cpu"
    )]
    Unusable {
        index: usize,
        source: candle_core::Error,
    },
}

impl FromStr for Choice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown(text.to_owned());
        match text {
            "auto" => Ok(Choice::Auto),
            "cpu" => Ok(Choice::Cpu),
            "cuda" => Ok(Choice::Cuda(0)),
            other => {
                let number = other.strip_prefix("cuda:").ok_or_else(unknown)?;
                Ok(Choice::Cuda(number.parse().map_err(|_| unknown())?))
            }
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Auto => f.write_str("auto"),
            Choice::Cpu => f.write_str("cpu"),
            Choice::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

impl Choice {
    /// Opens the device. The thread that opens it must be the one that uses and drops it.
    ///
    /// # Errors
    /// When a CUDA device was asked for by name and cannot be used.
    pub fn open(self) -> Result<Device, DeviceError> {
        match self {
            Choice::Cpu => Ok(Device::Cpu),
            Choice::Auto => Ok(open_cuda(0).unwrap_or(Device::Cpu)),
            Choice::Cuda(index) => open_cuda(index),
        }
    }
}

#[cfg(feature = "cuda")]
fn open_cuda(index: usize) -> Result<Device, DeviceError> {
    // A stream of its own, since the default one cannot be captured.
    Device::new_cuda_with_stream(index).map_err(|source| DeviceError::Unusable { index, source })
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(_index: usize) -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt)
}

/// The number of the CUDA device, when it is one.
pub fn gpu(device: &Device) -> Option<usize> {
    match device.location() {
        candle_core::DeviceLocation::Cuda { gpu_id } => Some(gpu_id),
        _ => None,
    }
}

/// The device in the header's words: `CPU 2 threads AVX-512`, `CUDA:0`.
pub fn describe(device: &Device, threads: usize) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("CUDA:{gpu_id}"),
        _ => {
            let plural = if threads == 1 { "" } else { "s" };
            format!("CPU {threads} thread{plural} {}", vector_instructions())
                .trim_end()
                .to_owned()
        }
    }
}

/// The widest vector instructions of this CPU that the kernels use.
fn vector_instructions() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            return "AVX-512";
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            return "AVX2";
        }
        "SSE2"
    }
    #[cfg(target_arch = "aarch64")]
    {
        "NEON"
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_by_name() {
        for (text, choice) in [
            ("auto", Choice::Auto),
            ("cpu", Choice::Cpu),
            ("cuda:3", Choice::Cuda(3)),
        ] {
            assert_eq!(text.parse::<Choice>().unwrap(), choice);
            assert_eq!(choice.to_string(), text);
        }
        assert_eq!("cuda".parse::<Choice>().unwrap(), Choice::Cuda(0));
        for wrong in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU "] {
            let error = wrong.parse::<Choice>().unwrap_err().to_string();
            assert!(error.contains("cuda:N"), "{error}");
        }
        assert!(matches!(Choice::Cpu.open().unwrap(), Device::Cpu));
    }
}
