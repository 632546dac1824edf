//! Runs the CUDA kernels on the CPU: an executor that compiles them with the system's C++ compiler and a small shim,
//! and runs them thread by thread.

use cifar_tui::backend::DeviceInfo;
use cifar_tui::backend::gpu::GpuDevice;
use cifar_tui::domain::gpu_tuning::GpuTuning;
use cifar_tui::hardware::executor::{
    AllocationId, Compiling, ExecutorDevice, ExecutorError, KernelExecutor, KernelList, Launch,
    MAX_MEMBERS, Offset, Result,
};
use cifar_tui::hardware::threads::Threads;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{CStr, CString, c_void};
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

/// The device's name in messages.
const NAME: &str = "the processor";
const SHIM: &str = include_str!("shim.h");

/// The C++ compiler, if there is one.
pub fn compiler() -> Option<String> {
    let name = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let found = Command::new(&name).arg("--version").output();
    found.is_ok_and(|o| o.status.success()).then_some(name)
}

type Start = unsafe extern "C" fn(*mut c_void, *const u32, u32, u32, u32, *mut *mut c_void, i32);

/// Compiled kernels, with stacks for all threads of a block.
struct Library(*mut c_void);

impl Library {
    fn open(path: &CStr) -> Self {
        // SAFETY: the library was just built; loading it runs only the shim's constructors.
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        // SAFETY: dlerror returns a C string after a failure.
        assert!(!library.is_null(), "{:?}", unsafe {
            CStr::from_ptr(libc::dlerror())
        });
        Library(library)
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: it is open, and its owner, which is dropped or has another library, does not call its functions again.
        unsafe { libc::dlclose(self.0) };
    }
}

const COMPILER_OPTIONS: [&str; 6] = [
    "-std=c++17",
    "-O1",
    "-fPIC",
    // Otherwise the libraries of tests that run at the same time would share the kernels' shared memory.
    "-fvisibility=hidden",
    "-w",
    "-ffp-contract=off",
];

/// The shim's file. Its precompiled form lies beside it, where GCC and Clang look for it: a third of the time of a
/// compilation is that of the standard library's headers.
fn shim() -> &'static Path {
    static SHIM_FILE: OnceLock<PathBuf> = OnceLock::new();
    SHIM_FILE.get_or_init(|| {
        let compiler = compiler().unwrap();
        let version = Command::new(&compiler).arg("--version").output().unwrap();
        let mut hasher = DefaultHasher::new();
        (SHIM, COMPILER_OPTIONS, version.stdout).hash(&mut hasher);
        let folder = format!("shim-{:016x}", hasher.finish());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
        let (file, precompiled) = (folder.join("shim.h"), folder.join("shim.h.gch"));
        if !precompiled.exists() {
            // Each is complete when it gets its name, as another process may do the same.
            let part = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let [part_of_file, part_of_precompiled] =
                ["shim.h", "shim.gch"].map(|n| part.path().join(n));
            std::fs::create_dir_all(&folder).unwrap();
            if !file.exists() {
                std::fs::write(&part_of_file, SHIM).unwrap();
                std::fs::rename(&part_of_file, &file).unwrap();
            }
            let made = Command::new(compiler)
                .args(COMPILER_OPTIONS)
                .args(["-x", "c++-header", "-o"])
                .args([&part_of_precompiled, &file])
                .status();
            // Without it, the header itself serves.
            if made.is_ok_and(|status| status.success()) {
                std::fs::rename(&part_of_precompiled, &precompiled).unwrap();
            }
        }
        file
    })
}

/// The library of a source, which is compiled in `folder`. A source that was compiled before is not compiled again: many
/// tests begin or resume the same networks.
fn built(text: String, folder: &Path) -> Result<Arc<[u8]>> {
    static BUILT: Mutex<BTreeMap<String, Arc<[u8]>>> = Mutex::new(BTreeMap::new());
    if let Some(library) = BUILT.lock().unwrap().get(&text) {
        return Ok(Arc::clone(library));
    }
    let (source, library) = (folder.join("all.cc"), folder.join("built.so"));
    std::fs::write(&source, &text).unwrap();
    let output = Command::new(compiler().unwrap())
        .args(COMPILER_OPTIONS)
        .args(["-shared", "-include"])
        .args([shim(), Path::new("-o"), &library, &source])
        .output()
        .unwrap();
    if !output.status.success() {
        return Err(ExecutorError::Kernel {
            device: NAME.into(),
            log: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    let library: Arc<[u8]> = std::fs::read(library).unwrap().into();
    BUILT.lock().unwrap().insert(text, Arc::clone(&library));
    Ok(library)
}

/// A device whose executors run on the CPU.
pub struct HostDevice {
    multiprocessors: u32,
    backwards: bool,
    /// Bytes of the device's memory, and of the allocations of all executors now.
    max_bytes: usize,
    bytes: Cell<usize>,
    /// The most bytes at once since the last question.
    peak: Cell<usize>,
    /// Number of allocations of all executors so far, and the indices of those that fail.
    allocations: Cell<usize>,
    failing: Vec<usize>,
    uploads: RefCell<Vec<Vec<u8>>>,
    /// Number of bytes that executors have copied on the device.
    copied: Cell<usize>,
    /// The end of the first compilation in the background.
    delay: Cell<Option<Receiver<()>>>,
    /// What it remembers.
    memory: RefCell<HashMap<String, Vec<u8>>>,
    /// For each number of members, how often lists were run on so many.
    runs: Runs,
}

/// For each number of members, how often lists were run on so many.
pub type Runs = Arc<Mutex<BTreeMap<usize, usize>>>;

impl HostDevice {
    /// `multiprocessors` determines the number of blocks that share work. With `backwards`, threads and blocks run in
    /// reverse order.
    pub fn new(multiprocessors: u32, backwards: bool) -> Self {
        HostDevice {
            multiprocessors,
            backwards,
            max_bytes: usize::MAX,
            bytes: Cell::new(0),
            peak: Cell::new(0),
            allocations: Cell::new(0),
            failing: Vec::new(),
            uploads: RefCell::default(),
            copied: Cell::new(0),
            delay: Cell::default(),
            memory: RefCell::default(),
            runs: Runs::default(),
        }
    }

    /// For each number of members, how often lists were run on so many since the last call.
    pub fn take_runs(&self) -> BTreeMap<usize, usize> {
        std::mem::take(&mut self.runs.lock().unwrap())
    }

    /// With a shared record of [`HostDevice::take_runs`].
    pub fn with_runs(self, runs: &Runs) -> Self {
        HostDevice {
            runs: Arc::clone(runs),
            ..self
        }
    }

    /// Bytes of the allocations of all executors.
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// The most bytes at once since the last call.
    pub fn take_peak(&self) -> usize {
        self.peak.take()
    }

    /// Number of allocations so far.
    pub fn allocations(&self) -> usize {
        self.allocations.get()
    }

    /// Number of bytes that executors have copied on the device.
    pub fn copied(&self) -> usize {
        self.copied.get()
    }

    /// Number of results of measurements that it remembers.
    pub fn remembered(&self) -> usize {
        self.memory.borrow().len()
    }

    /// The next compilation in the background takes until the sender is dropped.
    pub fn delay_compiling(&self) -> Sender<()> {
        let (sender, receiver) = channel();
        self.delay.set(Some(receiver));
        sender
    }

    /// Limits the memory.
    pub fn with_memory(self, max_bytes: usize) -> Self {
        HostDevice { max_bytes, ..self }
    }

    /// Makes the allocations with these indices fail (from 0, over all executors).
    pub fn with_failing(self, failing: &[usize]) -> Self {
        HostDevice {
            failing: failing.to_vec(),
            ..self
        }
    }

    /// The GPU device of backends that run on this one.
    pub fn device(self) -> GpuDevice {
        Rc::new(self).shared_device()
    }

    /// Like [`HostDevice::device`], for a test that keeps a reference to this device.
    pub fn shared_device(self: Rc<Self>) -> GpuDevice {
        self.tuned_device(GpuTuning::Off)
    }

    /// A device whose kernels are chosen.
    pub fn tuned_device(self: Rc<Self>, tuning: GpuTuning) -> GpuDevice {
        let info = DeviceInfo {
            words: NAME.into(),
            threads: Rc::new(Threads::new(1)),
            gpu_index: None,
            unused_gpu: None,
        };
        GpuDevice::new(self, info, tuning)
    }
}

impl ExecutorDevice for HostDevice {
    fn executor(self: Rc<Self>) -> Result<Box<dyn KernelExecutor>> {
        Ok(Box::new(Host {
            device: self,
            allocations: BTreeMap::new(),
            allocated: 0,
            lists: Vec::new(),
            libraries: Vec::new(),
        }))
    }

    fn upload(&self, bytes: &[u8]) -> Result<u64> {
        let copy = bytes.to_vec();
        let at = copy.as_ptr() as u64;
        self.uploads.borrow_mut().push(copy);
        Ok(at)
    }

    /// Compiles nothing: kernels are compiled when they are launched.
    fn compile_ahead(&self, _: Vec<String>) -> Compiling {
        match self.delay.take() {
            Some(end) => Compiling::begin(move |_| {
                // An error is the end of the delay too.
                let _ = end.recv();
            }),
            None => Compiling::default(),
        }
    }

    fn recall(&self, key: &str) -> Option<Vec<u8>> {
        self.memory.borrow().get(key).cloned()
    }

    fn remember(&self, key: &str, value: &[u8]) {
        self.memory.borrow_mut().insert(key.into(), value.into());
    }
}

struct Host {
    device: Rc<HostDevice>,
    allocations: BTreeMap<AllocationId, Vec<u128>>,
    allocated: u64,
    /// The launches of each list, with their kernels and the shim's `launch` of their library.
    lists: Vec<(Start, Vec<(*mut c_void, Launch)>)>,
    /// Contain the functions of the lists.
    libraries: Vec<Library>,
}

/// The address that stands for the beginning of every allocation in a launch on several members. There is no memory at it.
const ORIGIN: usize = 1 << 12;

impl Host {
    fn bytes(&mut self, id: AllocationId, at: usize, len: usize) -> &mut [u8] {
        let memory = self.allocations.get_mut(&id).unwrap();
        assert!(at + len <= 16 * memory.len(), "{len} bytes at {at}");
        // SAFETY: the range is in bounds, and all byte patterns are valid.
        unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast::<u8>().add(at), len) }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for id in self.allocations.keys().copied().collect::<Vec<_>>() {
            self.free(id);
        }
    }
}

/// The sources of all launches as one text. Each use of a source has its own namespace.
pub fn one_source(
    common: &str,
    lists: &[Vec<Launch>],
    exports: bool,
) -> (String, Vec<Vec<String>>) {
    let mut modules: HashMap<(usize, String), (usize, BTreeSet<&str>)> = HashMap::new();
    let mut names = Vec::new();
    let mut order = Vec::new();
    for list in lists {
        let mut row = Vec::new();
        for launch in list {
            let key = (
                launch.source.as_ptr() as usize,
                launch.constants.to_string(),
            );
            let next = modules.len();
            let (number, entries) = modules.entry(key).or_insert_with(|| {
                order.push(launch);
                (next, BTreeSet::new())
            });
            entries.insert(launch.entry);
            row.push(format!("m{number}_{}", launch.entry));
        }
        names.push(row);
    }
    let mut text = String::new();
    for launch in order {
        let key = (
            launch.source.as_ptr() as usize,
            launch.constants.to_string(),
        );
        let (number, entries) = &modules[&key];
        let body = launch
            .text(common)
            .replace("extern \"C\" __global__", "__global__");
        writeln!(text, "namespace m{number} {{\n{body}\n}}").unwrap();
        if exports {
            for entry in entries {
                writeln!(
                    text,
                    "EXPORT void *m{number}_{entry}() {{ return (void *)&m{number}::{entry}; }}"
                )
                .unwrap();
            }
        }
        for line in launch.constants.lines() {
            let name = line.split(' ').nth(1).unwrap();
            writeln!(text, "#undef {name}").unwrap();
        }
    }
    (text, names)
}

fn symbol(library: *mut c_void, name: &str) -> *mut c_void {
    let name = CString::new(name).unwrap();
    // SAFETY: the library is open, and `name` is a C string.
    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
    assert!(!found.is_null(), "{name:?}");
    found
}

impl KernelExecutor for Host {
    fn multiprocessors(&self) -> u32 {
        self.device.multiprocessors
    }

    fn allocate(&mut self, bytes: usize) -> Result<AllocationId> {
        let device = &self.device;
        let number = device.allocations.replace(device.allocations.get() + 1);
        let free = device.max_bytes.saturating_sub(device.bytes.get());
        if bytes > free || device.failing.contains(&number) {
            return Err(ExecutorError::Memory {
                device: NAME.into(),
                needed: bytes as u64,
                free: free as u64,
            });
        }
        // Fill the memory with NaN, so that a test fails if a kernel reads memory before it is written.
        let memory = vec![u128::MAX; bytes.div_ceil(16)];
        device.bytes.set(device.bytes.get() + 16 * memory.len());
        device.peak.set(device.peak.get().max(device.bytes.get()));
        let id = AllocationId(self.allocated);
        self.allocated += 1;
        self.allocations.insert(id, memory);
        Ok(id)
    }

    fn free(&mut self, allocation: AllocationId) {
        let memory = self.allocations.remove(&allocation).unwrap();
        let bytes = &self.device.bytes;
        bytes.set(bytes.get() - 16 * memory.len());
    }

    fn address(&self, allocation: AllocationId) -> Result<u64> {
        Ok(self.allocations[&allocation].as_ptr() as u64)
    }

    fn write(&mut self, to: AllocationId, at: usize, bytes: &[u8]) -> Result<()> {
        self.bytes(to, at, bytes.len()).copy_from_slice(bytes);
        Ok(())
    }

    fn clear(&mut self, allocation: AllocationId, at: usize, bytes: usize) -> Result<()> {
        self.bytes(allocation, at, bytes).fill(0);
        Ok(())
    }

    fn read(&mut self, from: AllocationId, at: usize, bytes: &mut [u8]) -> Result<()> {
        bytes.copy_from_slice(self.bytes(from, at, bytes.len()));
        Ok(())
    }

    fn copy(
        &mut self,
        from: (AllocationId, usize),
        to: (AllocationId, usize),
        bytes: usize,
    ) -> Result<()> {
        let copy = self.bytes(from.0, from.1, bytes).to_vec();
        self.bytes(to.0, to.1, bytes).copy_from_slice(&copy);
        self.device.copied.set(self.device.copied.get() + bytes);
        Ok(())
    }

    fn prepare(
        &mut self,
        common: &'static str,
        lists: Vec<Vec<Launch>>,
    ) -> Result<Vec<KernelList>> {
        let (text, names) = one_source(common, &lists, true);
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("all.so");
        std::fs::write(&library, built(text, folder.path())?).unwrap();
        let path = CString::new(library.to_str().unwrap()).unwrap();
        let opened = Library::open(&path);
        let library = opened.0;
        // SAFETY: the shim's `launch` has this type.
        let start = unsafe { std::mem::transmute::<*mut c_void, Start>(symbol(library, "launch")) };
        let first = self.lists.len();
        for (list, names) in lists.into_iter().zip(names) {
            let kernel = |name: &String| {
                // SAFETY: every such function takes no arguments and returns a pointer.
                let get = unsafe {
                    std::mem::transmute::<*mut c_void, extern "C" fn() -> *mut c_void>(symbol(
                        library, name,
                    ))
                };
                get()
            };
            let launches = list.into_iter().zip(&names);
            let launches = launches.map(|(launch, name)| (kernel(name), launch));
            self.lists.push((start, launches.collect()));
        }
        self.libraries.push(opened);
        Ok((first..self.lists.len()).map(KernelList).collect())
    }

    fn run(&mut self, list: KernelList, members: &[AllocationId], times: usize) -> Result<()> {
        assert!((1..=MAX_MEMBERS).contains(&members.len()));
        let mut addresses: Vec<usize> = Vec::new();
        for member in members {
            addresses.push(self.allocations.get_mut(member).unwrap().as_mut_ptr() as usize);
        }
        let distinct: BTreeSet<&usize> = addresses.iter().collect();
        assert_eq!(distinct.len(), members.len());
        let distances = addresses.iter().map(|at| at.wrapping_sub(ORIGIN));
        let table: Vec<usize> = distances.collect();
        let (base, members) = match addresses[..] {
            [only] => (only, std::ptr::null_mut()),
            _ => (ORIGIN, table.as_ptr() as *mut c_void),
        };
        let mut runs = self.device.runs.lock().unwrap();
        *runs.entry(table.len()).or_default() += times;
        drop(runs);
        let (start, launches) = &self.lists[list.0];
        for _ in 0..times {
            // Run the launches one after the other, which is also a valid order for launches that start early.
            for (kernel, launch) in launches {
                let pointer = |place: &Offset| place.map_or(0, |at| base + at) as *mut c_void;
                let mut arguments = vec![members];
                arguments.extend(launch.arguments.iter().map(pointer));
                let [x, y, z] = launch.grid;
                let grid = [x, y, z * table.len() as u32];
                // SAFETY: the kernel takes this number of pointers, which point into live memory once it has moved them to
                // their member.
                unsafe {
                    start(
                        *kernel,
                        grid.as_ptr(),
                        launch.block,
                        launch.shared_memory,
                        arguments.len() as u32,
                        arguments.as_mut_ptr(),
                        self.device.backwards.into(),
                    );
                }
            }
        }
        Ok(())
    }

    fn time(&mut self, list: KernelList, member: AllocationId) -> Result<f64> {
        self.run(list, &[member], 1)?;
        let begin = Instant::now();
        self.run(list, &[member], 1)?;
        Ok(begin.elapsed().as_secs_f64())
    }
}
