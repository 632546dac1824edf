//! Which device to compute on, as `--device` names it, and opening it.

use super::nvidia::{CudaDevice, GpuError};
use std::fmt;
use std::rc::Rc;
use std::str::FromStr;

/// The value of `--device`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first NVIDIA GPU if it can be used, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// CUDA device number `n`.
    Cuda(usize),
    /// Metal device number `n`.
    Metal(usize),
}

/// Why a device cannot be used. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("there is no device '{0}': use auto, cpu, cuda, cuda:N, metal or metal:N")]
    Unknown(String),
    #[error("our kernels do not run on Metal devices; `--engine candle` does")]
    Metal,
    #[error("CUDA device {index} cannot be used: {source}; or use --device cpu")]
    Unusable { index: usize, source: GpuError },
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown(text.to_owned());
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" => Ok(DeviceChoice::Cuda(0)),
            "metal" => Ok(DeviceChoice::Metal(0)),
            other => {
                let (kind, number) = other.split_once(':').ok_or_else(unknown)?;
                let digits = number.bytes().all(|b| b.is_ascii_digit());
                let number = number.parse().ok().filter(|_| digits).ok_or_else(unknown)?;
                match kind {
                    "cuda" => Ok(DeviceChoice::Cuda(number)),
                    "metal" => Ok(DeviceChoice::Metal(number)),
                    _ => Err(unknown()),
                }
            }
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Cuda(n) => write!(f, "cuda:{n}"),
            DeviceChoice::Metal(n) => write!(f, "metal:{n}"),
        }
    }
}

impl DeviceChoice {
    /// Opens the device. The thread that opens it must be the one that uses and drops it.
    ///
    /// # Errors
    /// Returns an error if a CUDA device was asked for by name and cannot be used.
    pub fn open(self) -> Result<OpenedDevice, DeviceError> {
        self.open_with(CudaDevice::open)
    }

    /// [`DeviceChoice::open`] with the function that opens a GPU as an argument, so that tests can replace it.
    fn open_with(
        self,
        open: impl Fn(usize) -> Result<CudaDevice, GpuError>,
    ) -> Result<OpenedDevice, DeviceError> {
        let gpu = |gpu| OpenedDevice {
            gpu: Some(Rc::new(gpu)),
            unused_gpu: None,
        };
        let cpu = |unused_gpu| OpenedDevice {
            gpu: None,
            unused_gpu,
        };
        match self {
            DeviceChoice::Cpu => Ok(cpu(None)),
            DeviceChoice::Metal(_) => Err(DeviceError::Metal),
            DeviceChoice::Auto => Ok(match open(0) {
                Ok(opened) => gpu(opened),
                Err(error) if error.is_absence() => cpu(None),
                Err(error) => cpu(Some(error)),
            }),
            DeviceChoice::Cuda(index) => open(index)
                .map(gpu)
                .map_err(|source| DeviceError::Unusable { index, source }),
        }
    }
}

/// The device that a session computes on: the CPU, or an opened GPU.
#[derive(Clone, Debug)]
pub struct OpenedDevice {
    gpu: Option<Rc<CudaDevice>>,
    unused_gpu: Option<GpuError>,
}

impl OpenedDevice {
    pub fn is_cpu(&self) -> bool {
        self.gpu.is_none()
    }

    /// The number of the CUDA device, if it is one.
    pub fn gpu_index(&self) -> Option<usize> {
        self.gpu.as_ref().map(|gpu| gpu.index())
    }

    /// Why `--device auto` does not use the GPU of this computer. None if it uses it, or there is no GPU.
    pub fn unused_gpu(&self) -> Option<&GpuError> {
        self.unused_gpu.as_ref()
    }

    /// The GPU; None on the CPU.
    pub fn gpu(&self) -> Option<&Rc<CudaDevice>> {
        self.gpu.as_ref()
    }

    /// The device for the header: `CUDA:0`, `CPU 2 threads AVX-512`, or, if a GPU is present but cannot be used, `CPU 2
    /// threads AVX-512 (GPU: no NVRTC)`.
    pub fn describe(&self, threads: usize) -> String {
        if let Some(index) = self.gpu_index() {
            return format!("CUDA:{index}");
        }
        let plural = if threads == 1 { "" } else { "s" };
        let vectors = vector_instructions();
        let cpu = format!("CPU {threads} thread{plural} {vectors}");
        let cpu = cpu.trim_end();
        match &self.unused_gpu {
            Some(error) => format!("{cpu} (GPU: {})", error.short()),
            None => cpu.to_owned(),
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
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Cpu),
            ("cuda:3", DeviceChoice::Cuda(3)),
        ] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap(), choice);
            assert_eq!(choice.to_string(), text);
        }
        assert_eq!(
            "cuda".parse::<DeviceChoice>().unwrap(),
            DeviceChoice::Cuda(0)
        );
        for wrong in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU "] {
            let error = wrong.parse::<DeviceChoice>().unwrap_err().to_string();
            assert!(error.contains("cuda:N"), "{error}");
        }
    }

    /// Fails with `error` to open any GPU.
    fn broken(error: GpuError) -> impl Fn(usize) -> Result<CudaDevice, GpuError> {
        move |_| Err(error.clone())
    }

    #[test]
    fn without_a_usable_gpu_auto_takes_the_cpu_and_says_why() {
        let absent = [GpuError::NoGpu, GpuError::NoDriver("not found".into())];
        for error in absent {
            let device = DeviceChoice::Auto.open_with(broken(error)).unwrap();
            assert!(device.is_cpu() && device.unused_gpu().is_none());
            assert!(!device.describe(2).contains("GPU"), "{device:?}");
        }
        let error = GpuError::NoCompiler((12, 4));
        let device = DeviceChoice::Auto.open_with(broken(error.clone())).unwrap();
        assert!(device.is_cpu() && device.gpu_index().is_none());
        assert!(device.gpu().is_none());
        assert_eq!(device.unused_gpu(), Some(&error));
        let words = device.describe(2);
        assert!(words.starts_with("CPU 2 threads"), "{words}");
        assert!(words.ends_with("(GPU: no NVRTC)"), "{words}");
    }

    #[test]
    fn a_gpu_that_was_asked_for_is_used_or_refused() {
        let refusal = DeviceChoice::Cuda(3)
            .open_with(broken(GpuError::NoCompiler((13, 0))))
            .unwrap_err()
            .to_string();
        assert!(refusal.contains("device 3"), "{refusal}");
        assert!(
            refusal.contains("`pip install nvidia-cuda-nvrtc`"),
            "{refusal}"
        );
        assert!(refusal.contains("--device cpu"), "{refusal}");
        let untouched = |_| panic!("the CPU needs no GPU");
        assert!(DeviceChoice::Cpu.open_with(untouched).unwrap().is_cpu());
    }
}
