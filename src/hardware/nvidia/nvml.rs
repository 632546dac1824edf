//! NVIDIA's management library (NVML), loaded at run time: a GPU's load, memory, temperature and power.

use super::driver;
use libloading::Library;
use std::ffi::{c_char, c_int, c_uint, c_void};

const LIBRARY: &str = "libnvidia-ml.so.1";

/// The usage of a GPU. A field is None if NVML does not report it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GpuUsage {
    /// Share of the time in which a kernel ran, 0 to 1, over the last sampling period of NVML.
    pub load: Option<f64>,
    /// Bytes in use, and total bytes.
    pub memory: Option<(u64, u64)>,
    /// Degrees Celsius.
    pub temperature: Option<f64>,
    pub watts: Option<f64>,
}

type NvmlDevice = *mut c_void;

#[repr(C)]
#[derive(Default)]
struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

#[repr(C)]
#[derive(Default)]
struct Memory {
    total: u64,
    free: u64,
    used: u64,
}

/// Reads the usage of one GPU.
#[derive(Debug)]
pub struct Monitor {
    device: NvmlDevice,
    utilization: unsafe extern "C" fn(NvmlDevice, *mut Utilization) -> c_int,
    memory: unsafe extern "C" fn(NvmlDevice, *mut Memory) -> c_int,
    temperature: unsafe extern "C" fn(NvmlDevice, c_uint, *mut c_uint) -> c_int,
    power: unsafe extern "C" fn(NvmlDevice, *mut c_uint) -> c_int,
    // Keeps the functions above loaded.
    _library: Library,
}

impl Monitor {
    /// A monitor of CUDA device `index`. None if NVML, the driver or the GPU is absent.
    pub fn open(index: usize) -> Option<Self> {
        let address = driver::pci_address(index)?;
        // SAFETY: the library is NVML, and the types are those of nvml.h.
        unsafe {
            let library = Library::new(LIBRARY).ok()?;
            let init = library.get::<unsafe extern "C" fn() -> c_int>(c"nvmlInit_v2");
            let find = library
                .get::<unsafe extern "C" fn(*const c_char, *mut NvmlDevice) -> c_int>(
                    c"nvmlDeviceGetHandleByPciBusId_v2",
                )
                .ok()?;
            let mut device = std::ptr::null_mut();
            if init.ok()?() != 0 || find(address.as_ptr(), &raw mut device) != 0 {
                return None;
            }
            Some(Monitor {
                device,
                utilization: *library.get(c"nvmlDeviceGetUtilizationRates").ok()?,
                memory: *library.get(c"nvmlDeviceGetMemoryInfo").ok()?,
                temperature: *library.get(c"nvmlDeviceGetTemperature").ok()?,
                power: *library.get(c"nvmlDeviceGetPowerUsage").ok()?,
                _library: library,
            })
        }
    }

    /// The usage of the GPU now.
    pub fn usage(&self) -> GpuUsage {
        const CORE: c_uint = 0;
        let mut rates = Utilization::default();
        let mut memory = Memory::default();
        let (mut degrees, mut milliwatts) = (0, 0);
        // SAFETY: the library is loaded, it created the device handle, and all pointers are valid during the calls.
        let known = unsafe {
            [
                (self.utilization)(self.device, &raw mut rates),
                (self.memory)(self.device, &raw mut memory),
                (self.temperature)(self.device, CORE, &raw mut degrees),
                (self.power)(self.device, &raw mut milliwatts),
            ]
        }
        .map(|code| code == 0);
        GpuUsage {
            load: known[0].then(|| f64::from(rates.gpu) / 100.0),
            memory: known[1].then_some((memory.used, memory.total)),
            temperature: known[2].then(|| f64::from(degrees)),
            watts: known[3].then(|| f64::from(milliwatts) / 1e3),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_monitored_where_there_is_one() {
        match Monitor::open(0) {
            None => assert!(Monitor::open(1).is_none()),
            Some(monitor) => {
                let usage = monitor.usage();
                assert!(usage.load.is_none_or(|load| (0.0..=1.0).contains(&load)));
                assert!(usage.memory.is_none_or(|(used, total)| used <= total));
            }
        }
        assert!(Monitor::open(usize::MAX).is_none());
    }
}
