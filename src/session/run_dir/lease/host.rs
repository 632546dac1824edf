//! The owner of a lease: a computer and a session on it.

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};

/// A computer on which leases are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostId {
    pub name: String,
    /// Eight digits that identify one start of the computer's kernel.
    pub kernel: String,
}

impl HostId {
    /// The computer that this process runs on.
    pub fn this() -> Self {
        static THIS: LazyLock<HostId> = LazyLock::new(|| HostId {
            name: host_name(),
            // Without a boot id, no lease of an earlier process counts as one of this kernel.
            kernel: boot_id().unwrap_or_else(|| random_digits()[..8].into()),
        });
        THIS.clone()
    }

    /// Whether the owner with this id took its lease on this kernel.
    pub(super) fn is_of(&self, id: &str) -> bool {
        id.strip_prefix(&*self.kernel)
            .is_some_and(|rest| rest.starts_with('-'))
    }

    /// A new owner's id.
    pub(in crate::session) fn new_id(&self) -> String {
        format!("{}-{}", self.kernel, random_digits())
    }
}

fn host_name() -> String {
    let mut name = [0u8; 256];
    // SAFETY: the pointer and the length are those of `name`; its last byte stays 0.
    let failed = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len() - 1) } != 0;
    let length = name.iter().position(|&b| b == 0).unwrap_or(0);
    match failed || length == 0 {
        true => "localhost".into(),
        false => String::from_utf8_lossy(&name[..length]).into_owned(),
    }
}

/// Eight digits of the kernel's boot id.
#[cfg(target_os = "linux")]
fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    id.get(..8).map(str::to_owned)
}

/// Eight digits of the kernel's boot id.
#[cfg(target_os = "macos")]
fn boot_id() -> Option<String> {
    let mut id = [0u8; 64];
    let mut length = id.len();
    // SAFETY: the name ends in 0, `id` and `length` are valid for the call, and nothing is set.
    let failed = unsafe {
        libc::sysctlbyname(
            c"kern.bootsessionuuid".as_ptr(),
            id.as_mut_ptr().cast(),
            &raw mut length,
            std::ptr::null_mut(),
            0,
        )
    } != 0;
    let id = std::str::from_utf8(&id).ok().filter(|_| !failed)?;
    id.get(..8).map(str::to_owned)
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn boot_id() -> Option<String> {
    None
}

/// Sixteen random digits, from the standard library's hash keys, which the system's random generator makes.
fn random_digits() -> String {
    format!("{:016x}", RandomState::new().hash_one(0))
}

/// The owner of leases: the computer and, if the session has one, its socket.
#[derive(Clone, Debug)]
pub struct Owner {
    pub host: HostId,
    pub socket: Option<Arc<Mutex<PathBuf>>>,
}

impl Owner {
    pub fn new(host: HostId) -> Self {
        Owner { host, socket: None }
    }
}
