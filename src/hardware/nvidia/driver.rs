//! NVIDIA's driver (libcuda), loaded at run time: whether it is installed, its CUDA version, and its GPUs.

use cudarc::driver::sys::{self, CUdevice_attribute, CUresult};
use cudarc::driver::{DriverError, result};
use std::ffi::{CStr, CString, c_char, c_int};
use std::fmt;
use std::sync::OnceLock;

const LIBRARY: &str = "libcuda.so.1";

/// A version of CUDA: major and minor.
pub type Version = (u32, u32);

/// A GPU as the driver describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpu {
    pub name: String,
    /// Bytes.
    pub memory: u64,
    /// Compute capability: major and minor.
    pub capability: (u32, u32),
    pub multiprocessors: u32,
    /// Of the multiprocessors and of the memory, in kHz; 0 if the driver does not tell.
    pub clocks: [u32; 2],
    /// Bits of the memory bus; 0 if the driver does not tell.
    pub bus_bits: u32,
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {:.1} GB, compute capability {}.{}",
            self.name,
            self.memory as f64 / 1e9,
            self.capability.0,
            self.capability.1
        )
    }
}

/// What the driver says about itself and its GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// No driver is installed. The text is the dynamic loader's message.
    Absent(String),
    /// The driver works but has no GPU: none is installed, or CUDA_VISIBLE_DEVICES hides all.
    NoGpu { cuda: Version },
    /// The driver cannot start.
    Broken { cuda: Version, why: String },
    /// `cuda` is the newest CUDA that the driver runs; `gpus` are in the order of their numbers, at least one.
    Ready { cuda: Version, gpus: Vec<Gpu> },
}

/// Loads the driver's library, once. Call no function of cudarc before this has succeeded: cudarc panics if the library
/// is missing. cudarc's own check for the library does not exist in builds with Candle's feature `cuda`, which link to
/// the driver.
fn load() -> Result<(), String> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    LOADED
        .get_or_init(|| {
            // SAFETY: the library is NVIDIA's driver, whose initialisers may run at any time.
            match unsafe { libloading::Library::new(LIBRARY) } {
                Ok(library) => {
                    // The driver must stay loaded once it has been initialised.
                    std::mem::forget(library);
                    Ok(())
                }
                Err(error) => Err(super::loader_words(&error)),
            }
        })
        .clone()
}

/// The driver's text for an error, and its number.
pub(super) fn words(error: DriverError) -> String {
    match error.error_string() {
        Ok(text) => format!("{} (CUDA error {})", text.to_string_lossy(), error.0 as u32),
        Err(_) => format!("CUDA error {}", error.0 as u32),
    }
}

/// Loads the driver and describes it and its GPUs.
pub fn driver() -> Driver {
    if let Err(why) = load() {
        return Driver::Absent(why);
    }
    let mut number: c_int = 0;
    // SAFETY: the library is loaded and the pointer is valid over the call.
    let asked = unsafe { sys::cuDriverGetVersion(&raw mut number) }.result();
    let cuda = (number as u32 / 1000, number as u32 % 1000 / 10);
    match asked.and_then(|()| gpus()) {
        Ok(gpus) if gpus.is_empty() => Driver::NoGpu { cuda },
        Ok(gpus) => Driver::Ready { cuda, gpus },
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => Driver::NoGpu { cuda },
        Err(error) => Driver::Broken {
            cuda,
            why: words(error),
        },
    }
}

/// Initialises the driver and describes its GPUs.
fn gpus() -> Result<Vec<Gpu>, DriverError> {
    const MAJOR: CUdevice_attribute =
        CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR;
    const MINOR: CUdevice_attribute =
        CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR;
    result::init()?;
    (0..result::device::get_count()?)
        .map(|index| {
            let device = result::device::get(index)?;
            // SAFETY: the driver gave this device.
            let attribute = |which| unsafe { result::device::get_attribute(device, which) };
            let (major, minor) = (attribute(MAJOR)?, attribute(MINOR)?);
            let figure = |which| attribute(which).map_or(0, |value| value.max(0) as u32);
            // SAFETY: the driver gave this device.
            let memory = unsafe { result::device::total_mem(device) }?;
            Ok(Gpu {
                name: result::device::get_name(device)?,
                memory: memory as u64,
                capability: (major as u32, minor as u32),
                multiprocessors: figure(
                    CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
                ),
                clocks: [
                    figure(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE),
                    figure(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE),
                ],
                bus_bits: figure(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH),
            })
        })
        .collect()
}

/// The PCI address of CUDA device `index`. It identifies a GPU to both the driver and NVML, which number GPUs in
/// different orders; CUDA_VISIBLE_DEVICES changes only the driver's numbers. None if there is no such device.
pub(super) fn pci_address(index: usize) -> Option<CString> {
    load().ok()?;
    result::init().ok()?;
    let device = result::device::get(c_int::try_from(index).ok()?).ok()?;
    let mut text = [0 as c_char; 64];
    // SAFETY: the driver gave this device, writes at most this many bytes, and ends the text with a zero.
    unsafe {
        sys::cuDeviceGetPCIBusId(text.as_mut_ptr(), text.len() as c_int, device)
            .result()
            .ok()?;
        Some(CStr::from_ptr(text.as_ptr()).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_describes_its_gpus_or_says_why_not() {
        match driver() {
            Driver::Absent(why) | Driver::Broken { why, .. } => {
                assert!(!why.is_empty());
                assert!(pci_address(0).is_none());
            }
            Driver::NoGpu { .. } => assert!(pci_address(0).is_none()),
            Driver::Ready { cuda, gpus } => {
                assert!(cuda.0 >= 9);
                assert!(!gpus.is_empty());
                for (index, gpu) in gpus.iter().enumerate() {
                    assert!(gpu.memory > 0 && gpu.capability.0 > 0, "{gpu:?}");
                    assert!(pci_address(index).is_some());
                }
                assert!(pci_address(gpus.len()).is_none());
            }
        }
        assert!(pci_address(usize::MAX).is_none());
        let gpu = Gpu {
            name: "A GPU".into(),
            memory: 24_000_000_000,
            capability: (8, 9),
            ..Gpu::default()
        };
        assert_eq!(gpu.to_string(), "A GPU, 24.0 GB, compute capability 8.9");
    }
}
