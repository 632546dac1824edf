//! The executor on an NVIDIA GPU, with one stream. From its second run on the same members, or on as many, each list is
//! captured as a CUDA graph, so that every later run is one call.

use super::device::CudaDevice;
use super::driver::words;
use crate::hardware::executor::{
    AllocationId, Compiling, ExecutorDevice, ExecutorError, KernelExecutor, KernelList, Launch,
    MAX_MEMBERS, Offset, Result,
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

/// The address that stands for the beginning of every member's allocation in a launch on several members. It is only
/// added to: `members` has the distances from it to the allocations.
const ORIGIN: CUdeviceptr = 1 << 32;
/// Most graphs of a list that are kept: those that were used last. There is room for one of each member alone and for
/// as many of groups of members.
const MAX_GRAPHS: usize = 2 * MAX_MEMBERS;

/// A launch with its kernel loaded.
struct ReadyLaunch {
    function: CUfunction,
    /// The grid of one member.
    grid: [u32; 3],
    block: u32,
    shared_memory: u32,
    starts_early: bool,
    arguments: Vec<Offset>,
}

/// What a launch depends on besides the list. A graph is of use for every run with the same.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Target {
    /// The address that offsets are added to.
    base: CUdeviceptr,
    /// The address of the table `members`; 0 for one member.
    table: CUdeviceptr,
    count: u32,
}

#[derive(Default)]
struct PreparedList {
    launches: Vec<ReadyLaunch>,
    /// The targets that the list has run on, the last one first. On its first run, a list is not captured: the first
    /// launch of a kernel loads it, which is not allowed during a capture, and a single run is not worth a capture.
    graphs: Vec<(Target, Option<CudaGraph>)>,
}

/// An allocation and its address.
struct Memory {
    slice: CudaSlice<u8>,
    address: CUdeviceptr,
}

/// Executes lists of launches on a GPU.
pub struct CudaExecutor {
    // Owns the kernels that the lists launch.
    device: Rc<CudaDevice>,
    stream: Arc<CudaStream>,
    allocations: HashMap<AllocationId, Memory>,
    /// Number of allocations so far.
    allocated: u64,
    /// The table `members` of launches on several members, and the distances from [`ORIGIN`] that it has.
    table: AllocationId,
    distances: Vec<u64>,
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
        let mut executor = CudaExecutor {
            device,
            stream,
            allocations: HashMap::new(),
            allocated: 0,
            table: AllocationId(0),
            distances: Vec::new(),
            lists: Vec::new(),
        };
        executor.table = executor.allocate(size_of::<[u64; MAX_MEMBERS]>())?;
        Ok(executor)
    }

    fn lost(&self, what: &'static str) -> impl Fn(DriverError) -> ExecutorError + '_ {
        move |error| lost_device(&self.device, what, error)
    }

    fn wrong(&self, what: &'static str, why: String) -> ExecutorError {
        ExecutorError::Lost {
            device: self.device.name().to_owned(),
            what,
            why,
        }
    }

    fn memory(&self, allocation: AllocationId) -> Result<&Memory> {
        self.allocations.get(&allocation).ok_or_else(|| {
            let why = format!("there is no allocation {}", allocation.0);
            self.wrong("using its memory", why)
        })
    }

    /// The address of a range of an allocation.
    fn range(&self, allocation: AllocationId, at: usize, bytes: usize) -> Result<CUdeviceptr> {
        let memory = self.memory(allocation)?;
        let size = memory.slice.len();
        match at.checked_add(bytes) {
            Some(end) if end <= size => Ok(memory.address + at as u64),
            _ => Err(self.wrong(
                "using its memory",
                format!("{bytes} bytes at {at} of {size}"),
            )),
        }
    }

    /// What launches on these members depend on. Writes the table of several members.
    fn target(&mut self, members: &[AllocationId]) -> Result<Target> {
        let addresses = members.iter().map(|member| self.address(*member));
        let addresses = addresses.collect::<Result<Vec<u64>>>()?;
        let mut distinct = addresses.clone();
        distinct.sort_unstable();
        distinct.dedup();
        if !(1..=MAX_MEMBERS).contains(&members.len()) || distinct.len() < members.len() {
            let why = format!("{} of {} members", distinct.len(), members.len());
            return Err(self.wrong("running a list", why));
        }
        let count = members.len() as u32;
        if let [base] = addresses[..] {
            return Ok(Target {
                base,
                table: 0,
                count,
            });
        }
        let distances = addresses.iter().map(|at| at.wrapping_sub(ORIGIN));
        let distances: Vec<u64> = distances.collect();
        if !self.distances.starts_with(&distances) {
            let bytes: Vec<u8> = distances.iter().flat_map(|d| d.to_le_bytes()).collect();
            self.write(self.table, 0, &bytes)?;
            self.distances = distances;
        }
        Ok(Target {
            base: ORIGIN,
            table: self.address(self.table)?,
            count,
        })
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

    fn launch(&self, ready: &ReadyLaunch, target: Target) -> std::result::Result<(), DriverError> {
        let address = |at: &Offset| at.map_or(0, |at| target.base + at as u64);
        let mut values = vec![target.table];
        values.extend(ready.arguments.iter().map(address));
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
            gridDimX: ready.grid[0],
            gridDimY: ready.grid[1],
            gridDimZ: ready.grid[2] * target.count,
            blockDimX: ready.block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: ready.shared_memory,
            hStream: self.stream.cu_stream(),
            attrs: &raw mut early,
            numAttrs: u32::from(ready.starts_early),
        };
        // SAFETY: the kernel takes these pointers, which point into memory that this executor owns after `move_to_member`;
        // the attribute outlives the call.
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
    fn capture(&self, launches: &[ReadyLaunch], target: Target) -> Result<CudaGraph> {
        let lost = self.lost("capturing a graph");
        self.stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .map_err(&lost)?;
        let launched = launches
            .iter()
            .try_for_each(|ready| self.launch(ready, target));
        // End the capture even after an error, or the stream stays in capture.
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = self.stream.end_capture(flags);
        launched.map_err(&lost)?;
        let graph = graph.map_err(&lost)?.ok_or_else(|| {
            let why = "the driver gave none".into();
            self.wrong("capturing a graph", why)
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

    fn allocate(&mut self, bytes: usize) -> Result<AllocationId> {
        let slice = buffer(&self.device, &self.stream, bytes)?;
        let address = slice.device_ptr(&self.stream).0;
        // Fill the memory with NaN, so that a kernel that reads memory before it is written gives a visibly wrong
        // result.
        // SAFETY: the range is the whole allocation.
        unsafe { result::memset_d8_async(address, 0xff, bytes, self.stream.cu_stream()) }
            .map_err(self.lost("clearing its memory"))?;
        let allocation = AllocationId(self.allocated);
        self.allocated += 1;
        let memory = Memory { slice, address };
        self.allocations.insert(allocation, memory);
        Ok(allocation)
    }

    fn free(&mut self, allocation: AllocationId) {
        if self.allocations.remove(&allocation).is_some() {
            // Wait, so that the memory can be allocated on other streams. The next call reports an error.
            let _ = self.stream.synchronize();
        }
    }

    fn address(&self, allocation: AllocationId) -> Result<u64> {
        Ok(self.memory(allocation)?.address)
    }

    fn write(&mut self, to: AllocationId, at: usize, bytes: &[u8]) -> Result<()> {
        let to = self.range(to, at, bytes.len())?;
        // SAFETY: the range is inside the allocation; from pageable memory, the call returns after it has read all of
        // `bytes`.
        unsafe { result::memcpy_htod_async(to, bytes, self.stream.cu_stream()) }
            .map_err(self.lost("writing its memory"))
    }

    fn clear(&mut self, allocation: AllocationId, at: usize, bytes: usize) -> Result<()> {
        let to = self.range(allocation, at, bytes)?;
        // SAFETY: the range is inside the allocation.
        unsafe { result::memset_d8_async(to, 0, bytes, self.stream.cu_stream()) }
            .map_err(self.lost("clearing its memory"))
    }

    fn read(&mut self, from: AllocationId, at: usize, bytes: &mut [u8]) -> Result<()> {
        let from = self.range(from, at, bytes.len())?;
        // SAFETY: the range is inside the allocation, and `bytes` lives until the stream is synchronised below.
        unsafe { result::memcpy_dtoh_async(bytes, from, self.stream.cu_stream()) }
            .map_err(self.lost("reading its memory"))?;
        self.stream
            .synchronize()
            .map_err(self.lost("running kernels"))
    }

    fn copy(
        &mut self,
        from: (AllocationId, usize),
        to: (AllocationId, usize),
        bytes: usize,
    ) -> Result<()> {
        let from = self.range(from.0, from.1, bytes)?;
        let to = self.range(to.0, to.1, bytes)?;
        // SAFETY: both ranges are inside their allocations.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }
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
                launches.push(ReadyLaunch {
                    function,
                    grid: launch.grid,
                    block: launch.block,
                    shared_memory: launch.shared_memory,
                    starts_early: launch.starts_early && self.device.starts_launches_early(),
                    arguments: launch.arguments,
                });
            }
            prepared.push(PreparedList {
                launches,
                graphs: Vec::new(),
            });
        }
        let first = self.lists.len();
        self.lists.extend(prepared);
        Ok((first..self.lists.len()).map(KernelList).collect())
    }

    fn run(&mut self, list: KernelList, members: &[AllocationId], times: usize) -> Result<()> {
        let target = self.target(members)?;
        let Some(prepared) = self.lists.get_mut(list.0) else {
            let why = format!("there is no list {}", list.0);
            return Err(self.wrong("running a list", why));
        };
        let mut prepared = std::mem::take(prepared);
        let done = self.run_prepared(&mut prepared, target, times);
        self.lists[list.0] = prepared;
        done
    }

    fn time(&mut self, list: KernelList, member: AllocationId) -> Result<f64> {
        self.run(list, &[member], 1)?;
        let begin = self.event()?;
        self.run(list, &[member], 1)?;
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

    fn run_prepared(
        &self,
        prepared: &mut PreparedList,
        target: Target,
        mut times: usize,
    ) -> Result<()> {
        let lost = self.lost("running kernels");
        let known = prepared.graphs.iter().position(|(of, _)| *of == target);
        match known {
            Some(index) => prepared.graphs[..=index].rotate_right(1),
            None if times > 0 => {
                for ready in &prepared.launches {
                    self.launch(ready, target).map_err(&lost)?;
                }
                times -= 1;
                if prepared.graphs.len() >= MAX_GRAPHS {
                    // A graph is not freed before its last run has ended.
                    self.stream.synchronize().map_err(&lost)?;
                    prepared.graphs.truncate(MAX_GRAPHS - 1);
                }
                prepared.graphs.insert(0, (target, None));
            }
            None => {}
        }
        for _ in 0..times {
            let graph = &mut prepared.graphs[0].1;
            if graph.is_none() {
                *graph = Some(self.capture(&prepared.launches, target)?);
            }
            if let Some(graph) = graph {
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
