//! The GPU as a machine that runs lists of launches: kernels compiled by NVRTC for the GPU at hand, one block of memory,
//! and each list captured as a CUDA graph after it ran once, so that running it again is one call.

use super::executor::{ExecutorError, KernelExecutor, KernelList, Launch, Result};
use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::sys::{
    CUdevice_attribute, CUdeviceptr, CUgraphInstantiate_flags, CUstreamCaptureMode,
};
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaFunction, CudaGraph, CudaSlice, CudaStream, DevicePtr, DriverError, result,
};
use candle_core::cuda_backend::cudarc::nvrtc;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, PoisonError};

/// A launch that is ready.
struct Ready {
    function: CudaFunction,
    grid: (u32, u32, u32),
    block: (u32, u32, u32),
    arguments: Vec<CUdeviceptr>,
}

struct Prepared {
    launches: Vec<Ready>,
    /// Whether it ran once.
    warm: bool,
    graph: Option<CudaGraph>,
}

/// A CUDA device.
pub struct Cuda {
    name: String,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    memory: Option<CudaSlice<u8>>,
    base: CUdeviceptr,
    bytes: usize,
    kept: Vec<CudaSlice<u8>>,
    lists: Vec<Prepared>,
    multiprocessors: u32,
    /// As NVRTC names it: sm_90.
    architecture: String,
    // The context lives as long as the device that opened it.
    _device: CudaDevice,
}

impl Cuda {
    /// The machine of an open device, which must have been opened on this thread.
    ///
    /// # Errors
    /// When the device does not say what it is, or its compute capability is below 8.0, which the kernels need.
    pub fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        let context = Arc::clone(stream.context());
        let name = format!("CUDA:{}", context.ordinal());
        let lost = |what| {
            let device = name.clone();
            move |error: DriverError| lost_device(&device, what, &error)
        };
        let name = context.name().map_err(lost("asking its name"))?;
        let (major, minor) = context
            .compute_capability()
            .map_err(lost("asking its compute capability"))?;
        let multiprocessors = context
            .attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .map_err(lost("asking its size"))?;
        if major < 8 {
            return Err(ExecutorError::Kernel {
                device: name,
                log: format!("its compute capability is {major}.{minor}, and 8.0 is needed"),
            });
        }
        // SAFETY: all work is on the one stream of this thread, so that no event needs to order it.
        unsafe { context.disable_event_tracking() };
        Ok(Cuda {
            name,
            context,
            stream,
            memory: None,
            base: 0,
            bytes: 0,
            kept: Vec::new(),
            lists: Vec::new(),
            multiprocessors: multiprocessors.max(1) as u32,
            architecture: format!("sm_{major}{minor}"),
            _device: device.clone(),
        })
    }

    fn lost(&self, what: &'static str) -> impl Fn(DriverError) -> ExecutorError + '_ {
        move |error| lost_device(&self.name, what, &error)
    }

    /// `bytes` of memory, or how much there is.
    fn buffer(&self, bytes: usize) -> Result<CudaSlice<u8>> {
        let (free, _) = self
            .context
            .mem_get_info()
            .map_err(self.lost("asking for free memory"))?;
        // SAFETY: the kernels overwrite what they read.
        unsafe { self.stream.alloc::<u8>(bytes.max(1)) }.map_err(|_| ExecutorError::Memory {
            device: self.name.clone(),
            needed: bytes as u64,
            free: free as u64,
        })
    }

    fn inside(&self, at: usize, bytes: usize) -> Result<CUdeviceptr> {
        match at.checked_add(bytes) {
            Some(end) if end <= self.bytes => Ok(self.base + at as u64),
            _ => Err(ExecutorError::Lost {
                device: self.name.clone(),
                what: "using its memory",
                why: format!("{bytes} bytes at {at} of {}", self.bytes),
            }),
        }
    }

    fn launch(&self, ready: &Ready) -> std::result::Result<(), DriverError> {
        let mut values = ready.arguments.clone();
        let mut arguments: Vec<*mut c_void> = values
            .iter_mut()
            .map(|value| std::ptr::from_mut(value).cast())
            .collect();
        // SAFETY: the kernel takes these pointers, which lie in memory that this holds as long as the function.
        unsafe {
            result::launch_kernel(
                ready.function.cu_function(),
                ready.grid,
                ready.block,
                0,
                self.stream.cu_stream(),
                &mut arguments,
            )
        }
    }

    /// Captures a list. Nothing runs.
    fn capture(&self, launches: &[Ready]) -> Result<CudaGraph> {
        let lost = self.lost("capturing a graph");
        self.stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .map_err(&lost)?;
        let launched = launches.iter().try_for_each(|ready| self.launch(ready));
        // Ended whatever happened, or the stream stays in capture.
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = self.stream.end_capture(flags);
        launched.map_err(&lost)?;
        let graph = graph.map_err(&lost)?.ok_or_else(|| ExecutorError::Lost {
            device: self.name.clone(),
            what: "capturing a graph",
            why: "the driver gave none".into(),
        })?;
        graph.upload().map_err(&lost)?;
        Ok(graph)
    }
}

/// Machine code of a source for GPUs of an architecture.
fn compile(device: &str, architecture: &str, text: &str) -> Result<Vec<u8>> {
    let failed = |log: String| ExecutorError::Kernel {
        device: device.to_owned(),
        log,
    };
    let broken = |error: nvrtc::result::NvrtcError| failed(format!("NVRTC: {error:?}"));
    let text = CString::new(text).map_err(|e| failed(e.to_string()))?;
    let program = nvrtc::result::create_program(&text, None).map_err(broken)?;
    let options = [
        format!("--gpu-architecture={}", architecture),
        "--std=c++17".to_owned(),
    ];
    // SAFETY: the program was just made, and is destroyed once, last.
    unsafe {
        let code = nvrtc::result::compile_program(program, &options)
            .and_then(|()| {
                let mut size = 0;
                nvrtc::sys::nvrtcGetCUBINSize(program, &raw mut size).result()?;
                let mut code = vec![0u8; size];
                nvrtc::sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast()).result()?;
                Ok(code)
            })
            .map_err(|error| {
                let log = nvrtc::result::get_program_log(program).unwrap_or_default();
                let log: Vec<u8> = log.iter().map(|c| *c as u8).collect();
                failed(format!(
                    "{error:?}: {}",
                    String::from_utf8_lossy(&log).trim_matches('\0')
                ))
            });
        // Nothing hangs on a program that cannot be destroyed.
        let _ = nvrtc::result::destroy_program(program);
        code
    }
}

/// Machine code, shared by all who use it.
type Code = Arc<Vec<u8>>;

/// Machine code by architecture and source: another run, or another batch size, seldom needs anything new.
static COMPILED: Mutex<BTreeMap<(String, String), Code>> = Mutex::new(BTreeMap::new());

/// Machine code of all sources, each once; what is not there yet is compiled on all cores.
fn compiled(device: &str, architecture: &str, texts: &[String]) -> Result<Vec<Code>> {
    let mut known = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    let key = |text: &String| (architecture.to_owned(), text.clone());
    let wanted: BTreeSet<&String> = texts
        .iter()
        .filter(|text| !known.contains_key(&key(text)))
        .collect();
    let wanted: Vec<&String> = wanted.into_iter().collect();
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get());
    let share = wanted.len().div_ceil(workers).max(1);
    let codes: Vec<Result<Vec<u8>>> = std::thread::scope(|scope| {
        let shares: Vec<_> = wanted
            .chunks(share)
            .map(|texts| {
                scope.spawn(move || -> Vec<_> {
                    let one = |text: &&String| compile(device, architecture, text);
                    texts.iter().map(one).collect()
                })
            })
            .collect();
        shares
            .into_iter()
            .flat_map(|thread| {
                thread.join().unwrap_or_else(|_| {
                    vec![Err(ExecutorError::Kernel {
                        device: device.to_owned(),
                        log: "the compiler's thread failed".into(),
                    })]
                })
            })
            .collect()
    });
    for (text, code) in wanted.into_iter().zip(codes) {
        known.insert(key(text), Arc::new(code?));
    }
    Ok(texts
        .iter()
        .filter_map(|text| known.get(&key(text)).cloned())
        .collect())
}

fn lost_device(device: &str, what: &'static str, error: &DriverError) -> ExecutorError {
    ExecutorError::Lost {
        device: device.to_owned(),
        what,
        why: error.to_string(),
    }
}

impl KernelExecutor for Cuda {
    fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    fn allocate(&mut self, bytes: usize) -> Result<()> {
        self.lists.clear();
        self.stream.synchronize().map_err(self.lost("waiting"))?;
        self.memory = None;
        (self.base, self.bytes) = (0, 0);
        // What was freed is asked back only now.
        self.stream.synchronize().map_err(self.lost("waiting"))?;
        let memory = self.buffer(bytes)?;
        (self.base, self.bytes) = (memory.device_ptr(&self.stream).0, bytes);
        self.memory = Some(memory);
        // NaN wherever a kernel reads what none has written: such a mistake shows at once.
        // SAFETY: all of the memory.
        unsafe { result::memset_d8_async(self.base, 0xff, bytes, self.stream.cu_stream()) }
            .map_err(self.lost("clearing its memory"))
    }

    fn base(&self) -> u64 {
        self.base
    }

    fn write(&mut self, at: usize, bytes: &[u8]) -> Result<()> {
        let to = self.inside(at, bytes.len())?;
        // SAFETY: within the memory; from pageable memory the copy is done with `bytes` when the call returns.
        unsafe { result::memcpy_htod_async(to, bytes, self.stream.cu_stream()) }
            .map_err(self.lost("writing its memory"))
    }

    fn clear(&mut self, at: usize, bytes: usize) -> Result<()> {
        let to = self.inside(at, bytes)?;
        // SAFETY: within the memory.
        unsafe { result::memset_d8_async(to, 0, bytes, self.stream.cu_stream()) }
            .map_err(self.lost("clearing its memory"))
    }

    fn read(&mut self, at: usize, bytes: &mut [u8]) -> Result<()> {
        let from = self.inside(at, bytes.len())?;
        // SAFETY: within the memory, and `bytes` lives until the stream has been waited for.
        unsafe { result::memcpy_dtoh_async(bytes, from, self.stream.cu_stream()) }
            .map_err(self.lost("reading its memory"))?;
        self.stream
            .synchronize()
            .map_err(self.lost("running kernels"))
    }

    fn upload_persistent(&mut self, bytes: &[u8]) -> Result<u64> {
        let slice = self.buffer(bytes.len())?;
        let at = slice.device_ptr(&self.stream).0;
        // SAFETY: as long as the slice; as in `write`.
        unsafe { result::memcpy_htod_async(at, bytes, self.stream.cu_stream()) }
            .map_err(self.lost("copying the images"))?;
        self.kept.push(slice);
        Ok(at)
    }

    fn prepare(
        &mut self,
        common: &'static str,
        lists: Vec<Vec<Launch>>,
    ) -> Result<Vec<KernelList>> {
        // The sources in use, and the number of each by what makes it.
        let mut numbers = HashMap::new();
        let mut texts = Vec::new();
        let key = |launch: &Launch| (launch.source.as_ptr(), launch.constants.clone());
        for launch in lists.iter().flatten() {
            numbers.entry(key(launch)).or_insert_with(|| {
                texts.push(launch.text(common));
                texts.len() - 1
            });
        }
        let mut modules = Vec::new();
        for code in compiled(&self.name, &self.architecture, &texts)? {
            let code = nvrtc::Ptx::from_binary(code.to_vec());
            let module = self.context.load_module(code);
            modules.push(module.map_err(self.lost("loading a kernel"))?);
        }
        let mut prepared = Vec::new();
        for list in lists {
            let mut launches = Vec::new();
            for launch in list {
                let module = &modules[numbers[&key(&launch)]];
                let function = module
                    .load_function(launch.entry)
                    .map_err(self.lost("loading a kernel"))?;
                let address = |place: &Option<usize>| place.map_or(0, |at| self.base + at as u64);
                launches.push(Ready {
                    function,
                    grid: launch.grid.into(),
                    block: (launch.block, 1, 1),
                    arguments: launch.arguments.iter().map(address).collect(),
                });
            }
            prepared.push(Prepared {
                launches,
                warm: false,
                graph: None,
            });
        }
        let first = self.lists.len();
        self.lists.extend(prepared);
        Ok((first..self.lists.len()).map(KernelList).collect())
    }

    fn run(&mut self, list: KernelList, times: usize) -> Result<()> {
        let Some(mut prepared) = self.lists.get_mut(list.0).map(|p| Prepared {
            launches: std::mem::take(&mut p.launches),
            warm: p.warm,
            graph: p.graph.take(),
        }) else {
            return Err(ExecutorError::Lost {
                device: self.name.clone(),
                what: "running a list",
                why: format!("there is no list {}", list.0),
            });
        };
        let done = self.run_prepared(&mut prepared, times);
        self.lists[list.0] = prepared;
        done
    }
}

impl Cuda {
    fn run_prepared(&self, prepared: &mut Prepared, times: usize) -> Result<()> {
        let lost = self.lost("running kernels");
        for _ in 0..times {
            if !prepared.warm {
                for ready in &prepared.launches {
                    self.launch(ready).map_err(&lost)?;
                }
                prepared.warm = true;
                continue;
            }
            if prepared.graph.is_none() {
                prepared.graph = Some(self.capture(&prepared.launches)?);
            }
            if let Some(graph) = &prepared.graph {
                graph.launch().map_err(&lost)?;
            }
        }
        Ok(())
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // Graphs before the memory that they use; an error now changes nothing.
        self.lists.clear();
        let _ = self.stream.synchronize();
    }
}
