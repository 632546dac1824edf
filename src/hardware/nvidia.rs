//! What NVIDIA's software says of this machine: the driver, its GPUs, the libraries that a CUDA build needs, and how busy
//! a GPU is. All of it is looked up at run time, so that any build can say what is there, and nothing of it need be.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::fmt;

/// A GPU as the driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    pub name: String,
    /// Bytes.
    pub memory: u64,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
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

/// What the driver says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// There is none, in the loader's words.
    Absent(String),
    /// There is one, but it finds no GPU that it can use.
    Idle { cuda: (u32, u32), why: String },
    /// `cuda` is the newest CUDA that it runs.
    Ready { cuda: (u32, u32), gpus: Vec<Gpu> },
}

/// The libraries that a CUDA build is linked to or loads, besides the driver, by the names that loaders know.
const LIBRARIES: [(&str, &[&str]); 4] = [
    (
        "NVRTC",
        &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"],
    ),
    (
        "cuBLAS",
        &["libcublas.so.13", "libcublas.so.12", "libcublas.so"],
    ),
    (
        "cuBLASLt",
        &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"],
    ),
    ("cuRAND", &["libcurand.so.10", "libcurand.so"]),
];

const DRIVER: &str = "libcuda.so.1";
const MANAGEMENT: &str = "libnvidia-ml.so.1";

/// A shared library, open as long as this lives.
struct Library(*mut c_void);

impl Library {
    fn open(name: &str) -> Result<Self, String> {
        let name = CString::new(name).map_err(|e| e.to_string())?;
        // SAFETY: a valid C string. The libraries opened here are NVIDIA's, whose initialisers may run at any time.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if !handle.is_null() {
            return Ok(Library(handle));
        }
        // SAFETY: returns null or a string that stands until this thread's next call of the loader.
        let why = unsafe {
            let why = libc::dlerror();
            match why.is_null() {
                true => "it cannot be loaded".into(),
                false => CStr::from_ptr(why).to_string_lossy().into_owned(),
            }
        };
        Err(why)
    }

    /// The function of this name.
    ///
    /// # Safety
    /// `F` must be the type of a C function pointer, and that of the function.
    unsafe fn function<F: Copy>(&self, name: &CStr) -> Option<F> {
        // SAFETY: the library is open; the rest is the caller's word.
        unsafe {
            let found = libc::dlsym(self.0, name.as_ptr());
            (!found.is_null() && size_of::<F>() == size_of_val(&found))
                .then(|| std::mem::transmute_copy(&found))
        }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: opened by `open`; its functions do not outlive it.
        unsafe { libc::dlclose(self.0) };
    }
}

/// Asks the driver.
pub fn driver() -> Driver {
    let library = match Library::open(DRIVER) {
        Ok(library) => library,
        Err(why) => return Driver::Absent(why),
    };
    // The driver must stay loaded once it was initialised.
    let library = std::mem::ManuallyDrop::new(library);
    // SAFETY: the types are those of cuda.h.
    unsafe { ask(&library) }.unwrap_or_else(|| Driver::Absent(format!("{DRIVER} is no driver")))
}

/// None when a function is missing.
///
/// # Safety
/// The library must be CUDA's driver.
unsafe fn ask(library: &Library) -> Option<Driver> {
    const MAJOR: c_int = 75;
    const MINOR: c_int = 76;
    type Number = unsafe extern "C" fn(*mut c_int) -> c_int;
    type Get = unsafe extern "C" fn(*mut c_int, c_int) -> c_int;
    // SAFETY: the caller's.
    unsafe {
        let init: unsafe extern "C" fn(c_uint) -> c_int = library.function(c"cuInit")?;
        let version: Number = library.function(c"cuDriverGetVersion")?;
        let count: Number = library.function(c"cuDeviceGetCount")?;
        let get: Get = library.function(c"cuDeviceGet")?;
        let name: unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int =
            library.function(c"cuDeviceGetName")?;
        let memory: unsafe extern "C" fn(*mut usize, c_int) -> c_int =
            library.function(c"cuDeviceTotalMem_v2")?;
        let attribute: unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int =
            library.function(c"cuDeviceGetAttribute")?;

        let mut number = 0;
        version(&raw mut number);
        let cuda = (number as u32 / 1000, number as u32 % 1000 / 10);
        let idle = |why: String| Some(Driver::Idle { cuda, why });
        match init(0) {
            0 => {}
            100 => return idle("it finds no GPU".into()),
            999 => return idle("it cannot start (unknown error)".into()),
            code => return idle(format!("it cannot start (CUDA error {code})")),
        }
        let mut gpus = Vec::new();
        let mut devices = 0;
        count(&raw mut devices);
        for index in 0..devices {
            let (mut device, mut bytes, mut major, mut minor) = (0, 0, 0, 0);
            let mut text = [0 as c_char; 256];
            let codes = [
                get(&raw mut device, index),
                name(text.as_mut_ptr(), text.len() as c_int - 1, device),
                memory(&raw mut bytes, device),
                attribute(&raw mut major, MAJOR, device),
                attribute(&raw mut minor, MINOR, device),
            ];
            if let Some(code) = codes.iter().find(|code| **code != 0) {
                return idle(format!(
                    "it cannot describe GPU {index} (CUDA error {code})"
                ));
            }
            gpus.push(Gpu {
                name: CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned(),
                memory: bytes as u64,
                capability: (major as u32, minor as u32),
            });
        }
        match gpus.is_empty() {
            true => idle("it finds no GPU".into()),
            false => Some(Driver::Ready { cuda, gpus }),
        }
    }
}

/// The libraries besides the driver: what each is called, and the file that the loader finds for it.
pub fn libraries() -> Vec<(&'static str, Option<&'static str>)> {
    LIBRARIES
        .iter()
        .map(|(what, files)| {
            let found = files.iter().find(|file| Library::open(file).is_ok());
            (*what, found.copied())
        })
        .collect()
}

/// Which build of this program suits this machine.
pub fn fitting_build(driver: &Driver) -> &'static str {
    match driver {
        Driver::Absent(_) => "the one without CUDA (one with CUDA does not start here)",
        Driver::Idle { .. } => "the one without CUDA (one with CUDA starts here, but has no GPU)",
        Driver::Ready { .. } => "the one with CUDA: cargo build --release --features cuda",
    }
}

/// How busy a GPU is. What its driver does not say is None.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Busy {
    /// 0 to 1.
    pub load: Option<f64>,
    /// Bytes in use, and in all.
    pub memory: Option<(u64, u64)>,
    /// Degrees Celsius.
    pub temperature: Option<f64>,
    pub watts: Option<f64>,
}

type Device = *mut c_void;

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

/// NVIDIA's management library (NVML), watching one GPU.
pub struct Monitor {
    library: Library,
    device: Device,
    utilization: unsafe extern "C" fn(Device, *mut Utilization) -> c_int,
    memory: unsafe extern "C" fn(Device, *mut Memory) -> c_int,
    temperature: unsafe extern "C" fn(Device, c_uint, *mut c_uint) -> c_int,
    power: unsafe extern "C" fn(Device, *mut c_uint) -> c_int,
}

impl Monitor {
    /// Watches CUDA device number `index`. None where the library, the driver or the GPU is absent.
    pub fn open(index: usize) -> Option<Self> {
        let bus = bus_address(index)?;
        let library = Library::open(MANAGEMENT).ok()?;
        // SAFETY: the types are those of nvml.h.
        unsafe {
            let init: unsafe extern "C" fn() -> c_int = library.function(c"nvmlInit_v2")?;
            let by_bus: unsafe extern "C" fn(*const c_char, *mut Device) -> c_int =
                library.function(c"nvmlDeviceGetHandleByPciBusId_v2")?;
            if init() != 0 {
                return None;
            }
            let mut device = std::ptr::null_mut();
            let monitor = Monitor {
                device,
                utilization: library.function(c"nvmlDeviceGetUtilizationRates")?,
                memory: library.function(c"nvmlDeviceGetMemoryInfo")?,
                temperature: library.function(c"nvmlDeviceGetTemperature")?,
                power: library.function(c"nvmlDeviceGetPowerUsage")?,
                library,
            };
            match by_bus(bus.as_ptr(), &raw mut device) {
                0 => Some(Monitor { device, ..monitor }),
                _ => None,
            }
        }
    }

    /// How busy the GPU is now: the load over its driver's last sampling period.
    pub fn look(&self) -> Busy {
        const CORE: c_uint = 0;
        let mut rates = Utilization::default();
        let mut memory = Memory::default();
        let (mut degrees, mut milliwatts) = (0, 0);
        // SAFETY: the functions are the library's, the device was made by it, and everything lives over the calls.
        let codes = unsafe {
            [
                (self.utilization)(self.device, &raw mut rates),
                (self.memory)(self.device, &raw mut memory),
                (self.temperature)(self.device, CORE, &raw mut degrees),
                (self.power)(self.device, &raw mut milliwatts),
            ]
        };
        let known = codes.map(|code| code == 0);
        Busy {
            load: known[0].then(|| f64::from(rates.gpu) / 100.0),
            memory: known[1].then_some((memory.used, memory.total)),
            temperature: known[2].then(|| f64::from(degrees)),
            watts: known[3].then(|| f64::from(milliwatts) / 1e3),
        }
    }
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor")
            .field("library", &self.library.0)
            .finish_non_exhaustive()
    }
}

/// Where on the bus CUDA device number `index` is: the management library numbers GPUs in another order.
fn bus_address(index: usize) -> Option<CString> {
    let library = std::mem::ManuallyDrop::new(Library::open(DRIVER).ok()?);
    // SAFETY: the types are those of cuda.h.
    unsafe {
        let init: unsafe extern "C" fn(c_uint) -> c_int = library.function(c"cuInit")?;
        let get: unsafe extern "C" fn(*mut c_int, c_int) -> c_int =
            library.function(c"cuDeviceGet")?;
        let address: unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int =
            library.function(c"cuDeviceGetPCIBusId")?;
        let (mut device, mut text) = (0, [0 as c_char; 64]);
        let found = init(0) == 0
            && get(&raw mut device, c_int::try_from(index).ok()?) == 0
            && address(text.as_mut_ptr(), text.len() as c_int, device) == 0;
        found.then(|| CStr::from_ptr(text.as_ptr()).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_s_gpus_or_why_there_are_none() {
        let driver = driver();
        eprintln!("{driver:?}; {:?}", libraries());
        match &driver {
            Driver::Absent(why) | Driver::Idle { why, .. } => {
                assert!(!why.is_empty());
                assert!(Monitor::open(0).is_none());
                assert!(fitting_build(&driver).contains("without CUDA"));
            }
            Driver::Ready { gpus, .. } => {
                assert!(
                    gpus.iter()
                        .all(|gpu| gpu.memory > 0 && gpu.capability.0 > 0)
                );
                if let Some(monitor) = Monitor::open(0) {
                    let busy = monitor.look();
                    assert!(busy.load.is_none_or(|load| (0.0..=1.0).contains(&load)));
                    assert!(busy.memory.is_none_or(|(used, total)| used <= total));
                }
            }
        }
        assert!(Monitor::open(usize::MAX).is_none());
        assert_eq!(libraries().len(), LIBRARIES.len());
    }

    #[test]
    fn what_is_not_there_is_said_in_the_loader_s_words() {
        let why = Library::open("libno-such-library.so.1").err().unwrap();
        assert!(why.contains("libno-such-library"), "{why}");
        assert!(Library::open("with\0nul").is_err());
        let gpu = Gpu {
            name: "A GPU".into(),
            memory: 24_000_000_000,
            capability: (8, 9),
        };
        assert_eq!(gpu.to_string(), "A GPU, 24.0 GB, compute capability 8.9");
    }
}
