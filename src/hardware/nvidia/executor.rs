//! The executor on an NVIDIA GPU, with one allocation and one stream. After its first run, each list is captured as a
//! CUDA graph, so that every later run is one call.

use super::device::CudaDevice;
use super::driver::words;
use crate::hardware::executor::{
    Compiling, ExecutorDevice, ExecutorError, KernelExecutor, KernelList, Launch, Offset, Result,
};
use cudarc::driver::sys::{
    CUdeviceptr, CUevent_flags, CUfunction, CUfunction_attribute, CUgraphInstantiate_flags,
    CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig,
    CUstreamCaptureMode, cuFuncSetAttribute, cuLaunchKernelEx,
};
use cudarc::driver::{CudaEvent, CudaGraph, CudaSlice, CudaStream, DevicePtr, DriverError, result};
use std::collections::HashMap;
use std::ffi::c_void;
use std::rc::Rc;
use std::sync::Arc;

/// Bytes of dynamic shared memory that any kernel may use. Larger amounts need [`CudaExecutor::allow_shared_memory`].
const DEFAULT_SHARED_MEMORY: u32 = 48 * 1024;

/// A launch with its kernel loaded and its addresses known.
struct ReadyLaunch {
    function: CUfunction,
    grid: (u32, u32, u32),
    block: u32,
    shared_memory: u32,
    starts_early: bool,
    arguments: Vec<CUdeviceptr>,
}

struct PreparedList {
    launches: Vec<ReadyLaunch>,
    /// Whether the list has run once. The first launch of a kernel loads it, which is not allowed during a capture.
    warm: bool,
    graph: Option<CudaGraph>,
}

/// Executes lists of launches on a GPU.
pub struct CudaExecutor {
    // Owns the kernels that the lists launch.
    device: Rc<CudaDevice>,
    stream: Arc<CudaStream>,
    memory: Option<CudaSlice<u8>>,
    base: CUdeviceptr,
    bytes: usize,
    lists: Vec<PreparedList>,
}

impl CudaExecutor {
    /// An executor on a device that was opened on this thread.
    ///
    /// # Errors
    /// Returns an error if the device fails.
    pub fn new(device: Rc<CudaDevice>) -> Result<Self> {
        let stream = device
            .stream()
            .map_err(|error| lost_device(&device, "making a stream", error))?;
        Ok(CudaExecutor {
            device,
            stream,
            memory: None,
            base: 0,
            bytes: 0,
            lists: Vec::new(),
        })
    }

    fn lost(&self, what: &'static str) -> impl Fn(DriverError) -> ExecutorError + '_ {
        move |error| lost_device(&self.device, what, error)
    }

    fn inside(&self, at: usize, bytes: usize) -> Result<CUdeviceptr> {
        match at.checked_add(bytes) {
            Some(end) if end <= self.bytes => Ok(self.base + at as u64),
            _ => Err(self.outside(at, bytes, self.bytes)),
        }
    }

    fn outside(&self, at: usize, bytes: usize, size: usize) -> ExecutorError {
        ExecutorError::Lost {
            device: self.device.name().to_owned(),
            what: "using its memory",
            why: format!("{bytes} bytes at {at} of {size}"),
        }
    }

    /// Lets a kernel use more dynamic shared memory than [`DEFAULT_SHARED_MEMORY`].
    fn allow_shared_memory(&self, function: CUfunction, bytes: u32) -> Result<()> {
        if bytes <= DEFAULT_SHARED_MEMORY {
            return Ok(());
        }
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function belongs to a loaded module.
        unsafe { cuFuncSetAttribute(function, attribute, bytes as i32) }
            .result()
            .map_err(self.lost("allowing a kernel its shared memory"))
    }

    fn launch(&self, ready: &ReadyLaunch) -> std::result::Result<(), DriverError> {
        let mut values = ready.arguments.clone();
        let mut arguments: Vec<*mut c_void> = values
            .iter_mut()
            .map(|value| std::ptr::from_mut(value).cast())
            .collect();
        let mut early = CUlaunchAttribute {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: Default::default(),
            value: CUlaunchAttributeValue {
                programmaticStreamSerializationAllowed: 1,
            },
        };
        let config = CUlaunchConfig {
            gridDimX: ready.grid.0,
            gridDimY: ready.grid.1,
            gridDimZ: ready.grid.2,
            blockDimX: ready.block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: ready.shared_memory,
            hStream: self.stream.cu_stream(),
            attrs: &raw mut early,
            numAttrs: u32::from(ready.starts_early),
        };
        // SAFETY: the kernel takes these pointers, which point into memory that this executor owns; the attribute
        // outlives the call.
        unsafe {
            cuLaunchKernelEx(
                &raw const config,
                ready.function,
                arguments.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        }
        .result()
    }

    /// Captures a list as a graph without running it.
    fn capture(&self, launches: &[ReadyLaunch]) -> Result<CudaGraph> {
        let lost = self.lost("capturing a graph");
        self.stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .map_err(&lost)?;
        let launched = launches.iter().try_for_each(|ready| self.launch(ready));
        // End the capture even after an error, or the stream stays in capture.
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = self.stream.end_capture(flags);
        launched.map_err(&lost)?;
        let graph = graph.map_err(&lost)?.ok_or_else(|| ExecutorError::Lost {
            device: self.device.name().to_owned(),
            what: "capturing a graph",
            why: "the driver gave none".into(),
        })?;
        graph.upload().map_err(&lost)?;
        Ok(graph)
    }
}

/// Allocates bytes, whose contents are undefined.
fn buffer(device: &CudaDevice, stream: &Arc<CudaStream>, bytes: usize) -> Result<CudaSlice<u8>> {
    let (free, _) = device
        .context()
        .mem_get_info()
        .map_err(|error| lost_device(device, "asking for free memory", error))?;
    // SAFETY: callers write every byte before they read it.
    unsafe { stream.alloc::<u8>(bytes.max(1)) }.map_err(|_| ExecutorError::Memory {
        device: device.name().to_owned(),
        needed: bytes as u64,
        free: free as u64,
    })
}

impl ExecutorDevice for CudaDevice {
    fn executor(self: Rc<Self>) -> Result<Box<dyn KernelExecutor>> {
        Ok(Box::new(CudaExecutor::new(self)?))
    }

    fn upload(&self, bytes: &[u8]) -> Result<u64> {
        let lost = |error| lost_device(self, "copying the images", error);
        let stream = self.stream().map_err(lost)?;
        let slice = buffer(self, &stream, bytes.len())?;
        let at = slice.device_ptr(&stream).0;
        // SAFETY: `slice` is as long as `bytes`, which live until the stream is synchronised below.
        unsafe { result::memcpy_htod_async(at, bytes, stream.cu_stream()) }.map_err(lost)?;
        // Executors read the bytes on other streams.
        stream.synchronize().map_err(lost)?;
        self.keep_allocated(slice);
        Ok(at)
    }

    fn compile_ahead(&self, sources: Vec<String>) -> Compiling {
        self.begin_compiling(sources)
    }

    fn recall(&self, key: &str) -> Option<Vec<u8>> {
        self.read_result(key)
    }

    fn remember(&self, key: &str, value: &[u8]) {
        self.write_result(key, value);
    }
}

fn lost_device(device: &CudaDevice, what: &'static str, error: DriverError) -> ExecutorError {
    ExecutorError::Lost {
        device: device.name().to_owned(),
        what,
        why: words(error),
    }
}

impl KernelExecutor for CudaExecutor {
    fn multiprocessors(&self) -> u32 {
        self.device.multiprocessors()
    }

    fn allocate(&mut self, bytes: usize) -> Result<()> {
        self.lists.clear();
        self.stream.synchronize().map_err(self.lost("waiting"))?;
        self.memory = None;
        (self.base, self.bytes) = (0, 0);
        // Wait again, so that the freed memory can be allocated.
        self.stream.synchronize().map_err(self.lost("waiting"))?;
        let memory = buffer(&self.device, &self.stream, bytes)?;
        (self.base, self.bytes) = (memory.device_ptr(&self.stream).0, bytes);
        self.memory = Some(memory);
        // Fill the memory with NaN, so that a kernel that reads memory before it is written gives a visibly wrong
        // result.
        // SAFETY: the range is the whole allocation.
        unsafe { result::memset_d8_async(self.base, 0xff, bytes, self.stream.cu_stream()) }
            .map_err(self.lost("clearing its memory"))
    }

    fn base(&self) -> u64 {
        self.base
    }

    fn size(&self) -> usize {
        self.bytes
    }

    fn write(&mut self, at: usize, bytes: &[u8]) -> Result<()> {
        let to = self.inside(at, bytes.len())?;
        // SAFETY: the range is inside the allocation; from pageable memory, the call returns after it has read all of
        // `bytes`.
        unsafe { result::memcpy_htod_async(to, bytes, self.stream.cu_stream()) }
            .map_err(self.lost("writing its memory"))
    }

    fn clear(&mut self, at: usize, bytes: usize) -> Result<()> {
        let to = self.inside(at, bytes)?;
        // SAFETY: the range is inside the allocation.
        unsafe { result::memset_d8_async(to, 0, bytes, self.stream.cu_stream()) }
            .map_err(self.lost("clearing its memory"))
    }

    fn read(&mut self, at: usize, bytes: &mut [u8]) -> Result<()> {
        let from = self.inside(at, bytes.len())?;
        // SAFETY: the range is inside the allocation, and `bytes` lives until the stream is synchronised below.
        unsafe { result::memcpy_dtoh_async(bytes, from, self.stream.cu_stream()) }
            .map_err(self.lost("reading its memory"))?;
        self.stream
            .synchronize()
            .map_err(self.lost("running kernels"))
    }

    fn copy(&mut self, from: &mut dyn KernelExecutor, at: usize, bytes: usize) -> Result<()> {
        let to = self.inside(at, bytes)?;
        if at + bytes > from.size() {
            return Err(self.outside(at, bytes, from.size()));
        }
        // Wait for the work on the other executor's stream.
        from.read(at, &mut [])?;
        // SAFETY: the range is inside both allocations, which live until the stream is synchronised below.
        unsafe {
            result::memcpy_dtod_async(to, from.base() + at as u64, bytes, self.stream.cu_stream())
        }
        .map_err(self.lost("copying memory"))?;
        // After this call the other executor may change or free its memory.
        self.stream
            .synchronize()
            .map_err(self.lost("copying memory"))
    }

    fn prepare(
        &mut self,
        common: &'static str,
        lists: Vec<Vec<Launch>>,
    ) -> Result<Vec<KernelList>> {
        // The distinct sources, and the index of each by the source text's address and the constants.
        let mut numbers = HashMap::new();
        let mut sources = Vec::new();
        let key = |launch: &Launch| (launch.source.as_ptr(), launch.constants.clone());
        for launch in lists.iter().flatten() {
            numbers.entry(key(launch)).or_insert_with(|| {
                sources.push(launch.text(common));
                sources.len() - 1
            });
        }
        let modules = self
            .device
            .modules(&sources)
            .map_err(|log| ExecutorError::Kernel {
                device: self.device.name().to_owned(),
                log,
            })?;
        let mut prepared = Vec::new();
        for list in lists {
            let mut launches = Vec::new();
            for launch in list {
                let function = modules[numbers[&key(&launch)]]
                    .function(launch.entry)
                    .map_err(self.lost("loading a kernel"))?;
                self.allow_shared_memory(function, launch.shared_memory)?;
                let address = |at: &Offset| at.map_or(0, |at| self.base + at as u64);
                launches.push(ReadyLaunch {
                    function,
                    grid: launch.grid.into(),
                    block: launch.block,
                    shared_memory: launch.shared_memory,
                    starts_early: launch.starts_early && self.device.starts_launches_early(),
                    arguments: launch.arguments.iter().map(address).collect(),
                });
            }
            prepared.push(PreparedList {
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
        let Some(mut prepared) = self.lists.get_mut(list.0).map(|p| PreparedList {
            launches: std::mem::take(&mut p.launches),
            warm: p.warm,
            graph: p.graph.take(),
        }) else {
            return Err(ExecutorError::Lost {
                device: self.device.name().to_owned(),
                what: "running a list",
                why: format!("there is no list {}", list.0),
            });
        };
        let done = self.run_prepared(&mut prepared, times);
        self.lists[list.0] = prepared;
        done
    }

    fn time(&mut self, list: KernelList) -> Result<f64> {
        self.run(list, 1)?;
        let begin = self.event()?;
        self.run(list, 1)?;
        let end = self.event()?;
        let milliseconds = begin
            .elapsed_ms(&end)
            .map_err(self.lost("running kernels"))?;
        Ok(f64::from(milliseconds) / 1e3)
    }
}

impl CudaExecutor {
    /// A clock reading after the work that was submitted so far.
    fn event(&self) -> Result<CudaEvent> {
        // Events record no time by default.
        let flags = Some(CUevent_flags::CU_EVENT_DEFAULT);
        self.stream
            .record_event(flags)
            .map_err(self.lost("recording an event"))
    }

    fn run_prepared(&self, prepared: &mut PreparedList, times: usize) -> Result<()> {
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

impl Drop for CudaExecutor {
    fn drop(&mut self) {
        // Drop the graphs before the memory that they use. Errors cannot be reported from here.
        self.lists.clear();
        let _ = self.stream.synchronize();
    }
}
