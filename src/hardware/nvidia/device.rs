//! An opened GPU: its context, the compiler, and the kernels loaded so far. It outlives the executors on it, so that a
//! later run reuses the kernels that an earlier run loaded.

use super::compile::{self, compile_all};
use super::driver::{self, Driver, Gpu, Version, words};
use super::kernel_cache::{CacheKey, KernelCache};
use super::nvrtc::Nvrtc;
use super::nvrtc_search::{SearchPath, install_command};
use crate::hardware::executor::Compiling;
use cudarc::driver::sys::{CUdevice_attribute, CUfunction, CUmodule};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DriverError, result};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The oldest CUDA version whose drivers have every function that this program calls.
const MIN_DRIVER: Version = (12, 0);
/// The lowest compute capability that the kernels compile for.
const MIN_CAPABILITY: (u32, u32) = (8, 0);

/// Why a GPU cannot be used. The messages say what to do.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GpuError {
    #[error("there is no NVIDIA driver here ({0})")]
    NoDriver(String),
    #[error("the NVIDIA driver finds no GPU that it may use; CUDA_VISIBLE_DEVICES can hide GPUs")]
    NoGpu,
    #[error("there {} here, so the highest number is {}", count(*.0), .0 - 1)]
    NoSuchGpu(usize),
    #[error(
        "the NVIDIA driver does not work: {0}; after an update of the driver, restart the computer"
    )]
    Driver(String),
    #[error(
        "the NVIDIA driver is for CUDA {}.{}, and {}.{} is needed; update the driver",
        .0.0, .0.1, MIN_DRIVER.0, MIN_DRIVER.1
    )]
    OldDriver(Version),
    #[error(
        "{name} has compute capability {}.{}, and {}.{} is needed",
        capability.0, capability.1, MIN_CAPABILITY.0, MIN_CAPABILITY.1
    )]
    OldGpu {
        name: String,
        capability: (u32, u32),
    },
    #[error(
        "NVRTC, CUDA's run-time compiler, was not found; install it with `{}`",
        install_command(*.0)
    )]
    NoCompiler(Version),
    #[error(
        "NVRTC {compiler} does not know compute capability {}.{}; install a newer one with `{} --upgrade`",
        capability.0, capability.1, install_command(*.driver)
    )]
    OldCompiler {
        compiler: String,
        capability: (u32, u32),
        driver: Version,
    },
    #[error("{name} cannot be opened: {why}")]
    Open { name: String, why: String },
}

fn count(gpus: usize) -> String {
    match gpus {
        1 => "is one GPU".into(),
        n => format!("are {n} GPUs"),
    }
}

impl GpuError {
    /// Whether the computer has no usable GPU at all, so that `auto` takes the CPU without a word.
    pub fn is_absence(&self) -> bool {
        matches!(self, GpuError::NoDriver(_) | GpuError::NoGpu)
    }

    /// The reason in a few words, for the header.
    pub fn short(&self) -> &'static str {
        match self {
            GpuError::NoDriver(_) => "no NVIDIA driver",
            GpuError::NoGpu | GpuError::NoSuchGpu(_) => "no such GPU",
            GpuError::Driver(_) => "driver broken",
            GpuError::OldDriver(_) => "driver too old",
            GpuError::OldGpu { .. } => "too old",
            GpuError::NoCompiler(_) => "no NVRTC",
            GpuError::OldCompiler { .. } => "NVRTC too old",
            GpuError::Open { .. } => "cannot be opened",
        }
    }
}

/// GPU `index` as the driver describes it, and the driver's CUDA version.
///
/// # Errors
/// Returns an error if the driver is absent, broken or too old, has no GPU `index`, or the GPU is too old.
fn usable(driver: Driver, index: usize) -> Result<(Version, Gpu), GpuError> {
    let (cuda, gpus) = match driver {
        Driver::Absent(why) => return Err(GpuError::NoDriver(why)),
        Driver::NoGpu { .. } => return Err(GpuError::NoGpu),
        Driver::Broken { why, .. } => return Err(GpuError::Driver(why)),
        Driver::Ready { cuda, gpus } => (cuda, gpus),
    };
    let gpu = gpus.get(index).ok_or(GpuError::NoSuchGpu(gpus.len()))?;
    if cuda < MIN_DRIVER {
        return Err(GpuError::OldDriver(cuda));
    }
    if gpu.capability < MIN_CAPABILITY {
        return Err(GpuError::OldGpu {
            name: gpu.name.clone(),
            capability: gpu.capability,
        });
    }
    Ok((cuda, gpu.clone()))
}

/// Finds the compiler for a GPU.
///
/// # Errors
/// Returns an error if no copy of NVRTC is found, or the newest one does not support the GPU.
fn compiler(path: &SearchPath, driver: Version, gpu: &Gpu) -> Result<Nvrtc, GpuError> {
    let compiler = path.newest(driver.0).ok_or(GpuError::NoCompiler(driver))?;
    if !compiler.supports(architecture(gpu.capability)) {
        return Err(GpuError::OldCompiler {
            compiler: compiler.to_string(),
            capability: gpu.capability,
            driver,
        });
    }
    Ok(compiler)
}

/// Whether a launch of a captured graph can start before the previous one has ended. This needs compute capability 9.0
/// and CUDA 12.3.
fn starts_launches_early(cuda: Version, capability: (u32, u32)) -> bool {
    cuda >= (12, 3) && capability >= (9, 0)
}

/// A compute capability as one number: 89 is 8.9.
fn architecture((major, minor): (u32, u32)) -> u32 {
    10 * major + minor
}

/// A CUDA module: the loaded machine code of one source.
pub(super) struct Module {
    module: CUmodule,
    // Keeps the context alive, which owns the module.
    context: Arc<CudaContext>,
}

impl Module {
    fn load(context: &Arc<CudaContext>, code: &[u8]) -> Result<Self, DriverError> {
        context.bind_to_thread()?;
        // SAFETY: `code` is a complete CUBIN, and the driver copies it.
        let module = unsafe { result::module::load_data(code.as_ptr().cast()) }?;
        Ok(Module {
            module,
            context: Arc::clone(context),
        })
    }

    /// A kernel of the module. It may be launched while the module lives.
    pub fn function(&self, name: &str) -> Result<CUfunction, DriverError> {
        let name = CString::new(name).unwrap_or_default();
        // SAFETY: the module is loaded.
        unsafe { result::module::get_function(self.module, name) }
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // If unloading fails, the module is freed with its context.
        let _ = self.context.bind_to_thread();
        // SAFETY: `load` loaded the module, and this is the only call that unloads it.
        let _ = unsafe { result::module::unload(self.module) };
    }
}

/// An opened GPU.
pub struct CudaDevice {
    index: usize,
    name: String,
    context: Arc<CudaContext>,
    multiprocessors: u32,
    architecture: u32,
    starts_launches_early: bool,
    /// The driver's CUDA version.
    driver: Version,
    compiler: Arc<Nvrtc>,
    cache: KernelCache,
    /// Loaded kernels by source.
    modules: RefCell<HashMap<String, Rc<Module>>>,
    /// Allocations that all executors may read.
    uploads: RefCell<Vec<CudaSlice<u8>>>,
}

impl fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CUDA:{} {}, NVRTC {}",
            self.index, self.name, self.compiler
        )
    }
}

impl CudaDevice {
    /// Opens CUDA device `index`. The driver numbers the devices that CUDA_VISIBLE_DEVICES lists, in that order.
    ///
    /// # Errors
    /// Returns an error if the driver, the GPU or the compiler cannot be used.
    pub fn open(index: usize) -> Result<Self, GpuError> {
        let (driver, gpu) = usable(driver::driver(), index)?;
        let compiler = compiler(&SearchPath::of_process(), driver, &gpu)?;
        let failed = |error| GpuError::Open {
            name: gpu.name.clone(),
            why: words(error),
        };
        let context = CudaContext::new(index).map_err(failed)?;
        // SAFETY: each executor uses one stream on one thread, so its work needs no events for ordering.
        unsafe { context.disable_event_tracking() };
        let multiprocessors = context
            .attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .map_err(failed)?;
        tracing::info!("CUDA:{index} is {gpu}; NVRTC {compiler}");
        Ok(CudaDevice {
            index,
            context,
            multiprocessors: multiprocessors.max(1) as u32,
            architecture: architecture(gpu.capability),
            starts_launches_early: starts_launches_early(driver, gpu.capability),
            name: gpu.name,
            driver,
            compiler: Arc::new(compiler),
            cache: KernelCache::of_user(),
            modules: RefCell::default(),
            uploads: RefCell::default(),
        })
    }

    pub fn index(&self) -> usize {
        self.index
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Keeps memory allocated until the device is dropped.
    pub(super) fn keep_allocated(&self, memory: CudaSlice<u8>) {
        self.uploads.borrow_mut().push(memory);
    }

    pub fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    /// Whether a launch can start before the previous one has ended.
    pub fn starts_launches_early(&self) -> bool {
        self.starts_launches_early
    }

    pub(super) fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// A new stream. The default stream cannot be captured.
    pub(super) fn stream(&self) -> Result<Arc<CudaStream>, DriverError> {
        self.context.new_stream()
    }

    /// Compiles sources in the background, into the disk cache.
    pub(super) fn begin_compiling(&self, sources: Vec<String>) -> Compiling {
        let (compiler, cache) = (Arc::clone(&self.compiler), self.cache.clone());
        let architecture = self.architecture;
        Compiling::begin(move |stop| {
            let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
            // As many at once as there are cores.
            for sources in sources.chunks(compile::cores()) {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                if let Err(log) = compile_all(&compiler, &cache, architecture, sources) {
                    tracing::warn!("a variant of a kernel does not compile: {log}");
                }
            }
        })
    }

    /// A result of measurements on such a GPU with this driver and compiler, from the disk cache.
    pub(super) fn read_result(&self, key: &str) -> Option<Vec<u8>> {
        self.cache
            .read(&self.result_key(key, &self.result_options().each_ref().map(String::as_str)))
    }

    /// Keeps a result of measurements in the disk cache.
    pub(super) fn write_result(&self, key: &str, value: &[u8]) {
        let options = self.result_options();
        self.cache.write(
            &self.result_key(key, &options.each_ref().map(String::as_str)),
            value,
        );
    }

    fn result_options(&self) -> [String; 2] {
        let (major, minor) = self.driver;
        [
            format!("measured on {}", self.name),
            format!("driver {major}.{minor}"),
        ]
    }

    fn result_key<'a>(&self, key: &'a str, options: &'a [&'a str]) -> CacheKey<'a> {
        CacheKey {
            source: key,
            options,
            architecture: self.architecture,
            compiler: self.compiler.version(),
        }
    }

    /// Returns the loaded module of each source, in order. Modules that this device has not loaded yet are read from
    /// the disk cache or compiled.
    ///
    /// # Errors
    /// Returns an error if a source does not compile or its code cannot be loaded.
    pub(super) fn modules(&self, sources: &[String]) -> Result<Vec<Rc<Module>>, String> {
        let mut modules = self.modules.borrow_mut();
        let mut missing: Vec<&str> = sources
            .iter()
            .map(String::as_str)
            .filter(|source| !modules.contains_key(*source))
            .collect();
        missing.sort_unstable();
        missing.dedup();
        let codes = compile_all(&self.compiler, &self.cache, self.architecture, &missing)?;
        for (source, code) in missing.into_iter().zip(codes) {
            let module = Module::load(&self.context, &code).map_err(words)?;
            modules.insert(source.to_owned(), Rc::new(module));
        }
        let loaded = |source| modules.get(source).cloned();
        let modules: Option<_> = sources.iter().map(loaded).collect();
        modules.ok_or_else(|| "a kernel is missing".into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::nvrtc::fake;
    use super::*;

    fn gpu(capability: (u32, u32)) -> Gpu {
        Gpu {
            name: "Test GPU".into(),
            memory: 1,
            capability,
            ..Gpu::default()
        }
    }

    fn ready(cuda: Version, capability: (u32, u32)) -> Driver {
        let gpus = vec![gpu(capability)];
        Driver::Ready { cuda, gpus }
    }

    #[test]
    fn each_reason_says_what_to_do() {
        for (driver, index, part) in [
            (
                Driver::Absent("not found".into()),
                0,
                "no NVIDIA driver here (not found)",
            ),
            (Driver::NoGpu { cuda: (12, 4) }, 0, "CUDA_VISIBLE_DEVICES"),
            (
                Driver::Broken {
                    cuda: (12, 4),
                    why: "error 999".into(),
                },
                0,
                "error 999",
            ),
            (
                ready((12, 4), (9, 0)),
                1,
                "is one GPU here, so the highest number is 0",
            ),
            (
                ready((11, 8), (9, 0)),
                0,
                "for CUDA 11.8, and 12.0 is needed; update",
            ),
            (
                ready((12, 4), (7, 5)),
                0,
                "Test GPU has compute capability 7.5, and 8.0",
            ),
        ] {
            let error = usable(driver, index).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            assert!(!error.short().is_empty());
        }
        for cuda in [(12, 0), (13, 1)] {
            let found = usable(ready(cuda, (8, 0)), 0);
            assert_eq!(found, Ok((cuda, gpu((8, 0)))));
        }
    }

    #[test]
    fn only_a_missing_gpu_is_not_missed() {
        let absent = [GpuError::NoDriver(String::new()), GpuError::NoGpu];
        assert!(absent.iter().all(GpuError::is_absence));
        let present = [
            GpuError::NoSuchGpu(1),
            GpuError::Driver(String::new()),
            GpuError::OldDriver((11, 8)),
            GpuError::NoCompiler((12, 0)),
        ];
        assert!(!present.iter().any(GpuError::is_absence));
    }

    #[test]
    fn launches_start_early_where_driver_and_gpu_can() {
        assert!(starts_launches_early((12, 3), (9, 0)));
        assert!(starts_launches_early((13, 0), (10, 0)));
        assert!(!starts_launches_early((12, 2), (9, 0)));
        assert!(!starts_launches_early((13, 0), (8, 9)));
    }

    #[test]
    fn the_compiler_fits_driver_and_gpu() {
        let folder = tempfile::tempdir().unwrap();
        let path = SearchPath::in_folders(vec![folder.path().into()]);
        let none = compiler(&path, (13, 0), &gpu((9, 0))).unwrap_err();
        assert_eq!(none, GpuError::NoCompiler((13, 0)));
        fake::build(&folder.path().join("libnvrtc.so.12"), (12, 4), &[]);
        for driver in [(12, 0), (13, 0)] {
            let found = compiler(&path, driver, &gpu((9, 0))).unwrap();
            assert_eq!(found.version(), (12, 4));
        }
        let old = compiler(&path, (12, 9), &gpu((12, 0)))
            .unwrap_err()
            .to_string();
        for part in [
            "NVRTC 12.4 (",
            "compute capability 12.0",
            "`pip install nvidia-cuda-nvrtc-cu12 --upgrade`",
        ] {
            assert!(old.contains(part), "{old}");
        }
        let absent = compiler(&path, (11, 8), &gpu((9, 0))).unwrap_err();
        assert_eq!(absent, GpuError::NoCompiler((11, 8)));
    }
}
