//! The seam between the GPU engine and a GPU: lists of kernel launches over allocations of device memory that are all laid
//! out alike, one for each member. The engine records its lists against this trait, so that tests can run the same lists,
//! and check them, without a GPU.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Why an executor failed. The messages say what to do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ExecutorError {
    #[error(
        "not enough memory on {device}: {} MB are needed and {} MB are free; choose a smaller batch size or a smaller architecture",
        needed / 1_000_000,
        free / 1_000_000
    )]
    Memory {
        device: String,
        needed: u64,
        free: u64,
    },
    #[error("a kernel does not compile for {device}: {log}")]
    Kernel { device: String, log: String },
    #[error("{device} failed ({what}: {why}); the last checkpoint is intact: resume from it")]
    Lost {
        device: String,
        what: &'static str,
        why: String,
    },
}

pub type Result<T> = std::result::Result<T, ExecutorError>;

/// Bytes from the beginning of an allocation. None is a null pointer.
pub type Offset = Option<usize>;

/// Most members that a list runs on at once.
pub const MAX_MEMBERS: usize = 64;

/// One launch of one kernel on one member. On several members, the grid has this many times as many blocks in z: those of
/// one member after those of another. Every kernel begins with `move_to_member` (kernels.cuh), which needs the z of one
/// member's grid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Launch {
    /// CUDA C++.
    pub source: &'static str,
    /// `#define` lines for the source's constants.
    pub constants: Rc<str>,
    /// The kernel's name in the source.
    pub entry: &'static str,
    /// Number of blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads in a block.
    pub block: u32,
    /// The kernel's arguments, which are all pointers into the member's allocation. The executor passes one before them:
    /// `members`, see `move_to_member`.
    pub arguments: Vec<Offset>,
    /// Bytes of dynamic shared memory (`extern __shared__`) of each block.
    pub shared_memory: u32,
    /// Whether it may start before the previous launch has ended (programmatic dependent launch), on devices that
    /// support it. Its kernel must then call `wait_for_earlier_launches` (kernels.cuh) before it reads memory that
    /// earlier launches write and before it writes memory that they read.
    pub starts_early: bool,
}

impl Launch {
    /// The text to compile: the constants, the header that all sources share, the source.
    pub fn text(&self, common: &str) -> String {
        format!("{}\n{common}\n{}", self.constants, self.source)
    }
}

/// The least that a launch does with a full batch, whatever its kernel does beyond that: the figures of
/// `bench --explain`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations of products of matrices in the network's number format: two for each multiply-add.
    pub product_flop: u64,
    /// All other floating-point operations, in f32. A function such as `erff` counts as one.
    pub flop: u64,
    /// Bytes of what it reads and of what it writes, each counted once.
    pub bytes: u64,
}

impl Cost {
    /// Of a launch that reads and writes so many f32, with so many operations outside of products.
    pub fn of_f32(numbers: usize, flop: usize) -> Self {
        Cost {
            product_flop: 0,
            flop: flop as u64,
            bytes: 4 * numbers as u64,
        }
    }

    /// With some more bytes.
    pub fn and_bytes(self, bytes: usize) -> Self {
        Cost {
            bytes: self.bytes + bytes as u64,
            ..self
        }
    }
}

impl std::ops::Add for Cost {
    type Output = Cost;

    fn add(self, other: Cost) -> Cost {
        Cost {
            product_flop: self.product_flop + other.product_flop,
            flop: self.flop + other.flop,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// The number of a prepared list of launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelList(pub usize);

/// The id of an allocation of an executor. Ids are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AllocationId(pub u64);

/// An opened device that executors are made on. It outlives them.
pub trait ExecutorDevice {
    /// A new executor, without an allocation.
    ///
    /// # Errors
    /// Returns an error if the device fails.
    fn executor(self: Rc<Self>) -> Result<Box<dyn KernelExecutor>>;

    /// Copies bytes into a new allocation that all executors may read and that lives until the device is dropped.
    /// Returns its device address.
    ///
    /// # Errors
    /// Returns an error if the device has too little free memory, or fails.
    fn upload(&self, bytes: &[u8]) -> Result<u64>;

    /// Begins to compile sources in the background, so that launches of them start without delay. Those that do not
    /// compile fail when they are launched.
    fn compile_ahead(&self, sources: Vec<String>) -> Compiling;

    /// What [`ExecutorDevice::remember`] was last told of `key`, by any process on such a device. None if it was not, or if
    /// it cannot be read.
    fn recall(&self, key: &str) -> Option<Vec<u8>>;

    /// Keeps a few bytes that hold on such a device, if it can.
    fn remember(&self, key: &str, value: &[u8]);
}

/// Sources that are compiled in the background. Dropping it, or waiting for it, ends that: no source is begun any more.
#[derive(Debug, Default)]
pub struct Compiling {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Compiling {
    /// Runs `work` on a thread of its own. It must end soon after its argument has become true.
    pub fn begin(work: impl FnOnce(&AtomicBool) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("compiling".into())
            .spawn(move || work(&stopped));
        if let Err(error) = &thread {
            tracing::warn!("no kernels are compiled in the background: {error}");
        }
        Compiling {
            stop,
            thread: thread.ok(),
        }
    }

    pub fn is_done(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until all sources are compiled.
    pub fn wait(mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread that compiles in the background has panicked");
        }
    }
}

impl Drop for Compiling {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was logged, and its work is not wanted any more.
            let _ = thread.join();
        }
    }
}

/// Executes recorded lists of kernel launches on allocations of device memory, in the order of the calls. The CUDA
/// implementation captures each list as a graph; tests run the same lists on the CPU. One thread makes, uses and drops
/// an executor.
pub trait KernelExecutor {
    /// Number of blocks that the device runs at the same time when each fills a multiprocessor.
    fn multiprocessors(&self) -> u32;

    /// A new allocation of this size. Its contents are undefined.
    ///
    /// # Errors
    /// Returns an error if the device has too little free memory or fails.
    fn allocate(&mut self, bytes: usize) -> Result<AllocationId>;

    /// Frees an allocation after all earlier calls have been executed. Other allocations and executors can use the memory
    /// when this returns.
    fn free(&mut self, allocation: AllocationId);

    /// The device address of an allocation, for pointers that are themselves stored in it.
    ///
    /// # Errors
    /// Returns an error if there is no such allocation.
    fn address(&self, allocation: AllocationId) -> Result<u64>;

    /// Copies bytes from the host into an allocation, at offset `at`.
    ///
    /// # Errors
    /// Returns an error if the range is outside the allocation or the device fails.
    fn write(&mut self, to: AllocationId, at: usize, bytes: &[u8]) -> Result<()>;

    /// Sets bytes of an allocation to zero.
    ///
    /// # Errors
    /// Returns an error if the range is outside the allocation or the device fails.
    fn clear(&mut self, allocation: AllocationId, at: usize, bytes: usize) -> Result<()>;

    /// Waits until all earlier calls have been executed, then copies bytes from an allocation to the host.
    ///
    /// # Errors
    /// Returns an error if the range is outside the allocation, or if this or an earlier call failed on the device.
    fn read(&mut self, from: AllocationId, at: usize, bytes: &mut [u8]) -> Result<()>;

    /// Copies bytes on the device, from an allocation and an offset to another allocation or to another range of the same
    /// one.
    ///
    /// # Errors
    /// Returns an error if a range is outside its allocation or the device fails.
    fn copy(
        &mut self,
        from: (AllocationId, usize),
        to: (AllocationId, usize),
        bytes: usize,
    ) -> Result<()>;

    /// Compiles the kernels of the lists. Every source begins with `common`.
    ///
    /// # Errors
    /// Returns an error if a kernel does not compile or cannot be loaded.
    fn prepare(&mut self, common: &'static str, lists: Vec<Vec<Launch>>)
    -> Result<Vec<KernelList>>;

    /// Submits a list `times` times on these members, and returns when the device has accepted the work. Each launch
    /// works on all members, each in its own allocation: the results do not depend on the other members.
    ///
    /// # Errors
    /// Returns an error if there is no member, one is named twice, there are more than [`MAX_MEMBERS`], or the device fails.
    fn run(&mut self, list: KernelList, members: &[AllocationId], times: usize) -> Result<()>;

    /// Runs a list twice on a member and waits for it. Returns the seconds that the device takes for the second run, which
    /// is submitted while the first one is running.
    ///
    /// # Errors
    /// Returns an error if this or an earlier call failed on the device.
    fn time(&mut self, list: KernelList, member: AllocationId) -> Result<f64>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn what_compiles_in_the_background_is_waited_for_or_stopped() {
        assert!(Compiling::default().is_done());
        let (sender, receiver) = mpsc::channel();
        let compiling = Compiling::begin(move |_| sender.send(1).unwrap());
        compiling.wait();
        assert_eq!(receiver.try_recv(), Ok(1));
        // Dropping it asks the work to end and waits until it has.
        let (sender, receiver) = mpsc::channel();
        let compiling = Compiling::begin(move |stop| {
            while !stop.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            sender.send(2).unwrap();
        });
        assert!(!compiling.is_done());
        drop(compiling);
        assert_eq!(receiver.try_recv(), Ok(2));
        // A panic of the work is no panic of its owner.
        let compiling = Compiling::begin(|_| panic!("a test"));
        compiling.wait();
    }
}
