//! A machine that runs lists of kernel launches over one block of memory: what the CUDA engine asks of a GPU. The
//! engine is written against this, so that its lists can also be run, and checked, where there is no GPU.

use std::rc::Rc;

/// What a machine can fail with. The messages say what to do.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
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
    #[error("{device} failed ({what}: {why}); the last checkpoint stands: start again from it")]
    Lost {
        device: String,
        what: &'static str,
        why: String,
    },
}

pub type Result<T> = std::result::Result<T, MachineError>;

/// A place in the machine's memory: bytes from its beginning. None is a null pointer.
pub type Place = Option<usize>;

/// One launch of one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// CUDA C++.
    pub source: &'static str,
    /// `#define` lines that make the source's constants.
    pub constants: Rc<str>,
    /// The kernel's name in the source.
    pub entry: &'static str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// The kernel takes pointers and nothing else.
    pub arguments: Vec<Place>,
}

impl Launch {
    /// What is compiled for it: the common beginning, the constants, the source.
    pub fn text(&self, common: &str) -> String {
        format!("{}\n{common}\n{}", self.constants, self.source)
    }
}

/// The number of a list of launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List(pub usize);

/// Runs lists of launches, one after the other, in the order in which it is asked. Used from one thread.
pub trait Machine {
    /// How many blocks run at a time at best: that many are worth having.
    fn multiprocessors(&self) -> u32;

    /// Takes that much memory, in place of what it had, and forgets all lists. The memory holds anything.
    ///
    /// # Errors
    /// When there is not so much; then it has none.
    fn reserve(&mut self, bytes: usize) -> Result<()>;

    /// Where the memory begins, for pointers that stand in memory themselves.
    fn base(&self) -> u64;

    /// Copies bytes to a place in memory.
    ///
    /// # Errors
    /// When the device failed.
    fn write(&mut self, at: usize, bytes: &[u8]) -> Result<()>;

    /// Sets bytes to zero.
    ///
    /// # Errors
    /// When the device failed.
    fn clear(&mut self, at: usize, bytes: usize) -> Result<()>;

    /// Waits for all that was asked, and copies bytes from a place in memory.
    ///
    /// # Errors
    /// When the device failed, also in what was asked before.
    fn read(&mut self, at: usize, bytes: &mut [u8]) -> Result<()>;

    /// Keeps a block of bytes outside the memory, until the machine is dropped, and says where it stands.
    ///
    /// # Errors
    /// When there is not so much memory.
    fn keep(&mut self, bytes: &[u8]) -> Result<u64>;

    /// Compiles what the launches need. `common` is the beginning of every source.
    ///
    /// # Errors
    /// When a kernel does not compile.
    fn prepare(&mut self, common: &'static str, lists: Vec<Vec<Launch>>) -> Result<Vec<List>>;

    /// Asks for a list to be run so many times, and returns when the device has taken that up.
    ///
    /// # Errors
    /// When the device failed.
    fn run(&mut self, list: List, times: usize) -> Result<()>;
}

/// The machine of a device: none for the CPU, which computes by itself.
///
/// # Errors
/// When the device cannot be used.
pub fn of(device: &candle_core::Device) -> Result<Option<Box<dyn Machine>>> {
    match device {
        #[cfg(feature = "cuda")]
        candle_core::Device::Cuda(cuda) => Ok(Some(Box::new(super::cuda::Cuda::new(cuda)?))),
        _ => Ok(None),
    }
}
