//! Fault injection. A fault is set for a folder and affects all threads, but not tests that use other folders.

use super::*;
use std::collections::{HashMap, HashSet};
use std::sync::{LazyLock, Mutex};

/// A fault to inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Only operation number `at` fails, with this error code of the system.
    Error {
        at: usize,
        code: i32,
    },
    /// Operation number `at` writes half of its bytes, and then fails because the disk is full.
    Short {
        at: usize,
    },
    /// The computer crashes before operation number `at`, or after it: all later operations fail, and files that
    /// were not synced keep only a part of their bytes.
    CrashBefore {
        at: usize,
    },
    CrashAfter {
        at: usize,
    },
    /// The disk is full: all operations that need space fail until the guard is dropped.
    Full,
    /// Every operation of this kind fails with this error code of the system.
    Deny {
        op: FileOp,
        code: i32,
    },
}

#[derive(Default)]
struct Plan {
    fault: Option<Fault>,
    done: Vec<FileOp>,
    crashed: bool,
    unsynced: HashSet<PathBuf>,
}

static PLANS: LazyLock<Mutex<HashMap<PathBuf, Plan>>> = LazyLock::new(Mutex::default);

/// Sets the fault for the files of `folder` until the guard is dropped. None only records the operations.
pub(crate) fn lay(folder: &Path, fault: Option<Fault>) -> Laid {
    let plan = Plan {
        fault,
        ..Plan::default()
    };
    PLANS.lock().unwrap().insert(folder.into(), plan);
    Laid(folder.into())
}

pub(crate) struct Laid(PathBuf);

impl Laid {
    /// The operations carried out so far.
    pub(crate) fn done(&self) -> Vec<FileOp> {
        PLANS.lock().unwrap()[&self.0].done.clone()
    }
}

impl Drop for Laid {
    fn drop(&mut self) {
        PLANS.lock().unwrap().remove(&self.0);
    }
}

fn crash<T>() -> io::Result<T> {
    Err(io::Error::other(
        "the computer has crashed (injected fault)",
    ))
}

pub(crate) fn through<T>(
    op: FileOp,
    path: &Path,
    act: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let mut plans = PLANS.lock().unwrap();
    let Some(plan) = path.parent().and_then(|f| plans.get_mut(f)) else {
        drop(plans);
        return act();
    };
    if plan.crashed {
        return crash();
    }
    let number = plan.done.len();
    plan.done.push(op);
    match plan.fault {
        // Operations that need no space succeed on a full disk.
        Some(Fault::Full)
            if !matches!(
                op,
                FileOp::Remove | FileOp::Open | FileOp::Cut | FileOp::Lock
            ) =>
        {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        Some(Fault::Deny { op: denied, code }) if denied == op => {
            return Err(io::Error::from_raw_os_error(code));
        }
        Some(Fault::Error { at, code }) if at == number => {
            return Err(io::Error::from_raw_os_error(code));
        }
        Some(Fault::CrashBefore { at }) if at == number => {
            plan.stop();
            return crash();
        }
        _ => {}
    }
    let outcome = act();
    if outcome.is_ok() {
        let beside = PathBuf::from(format!("{}{BESIDE}", path.display()));
        match op {
            FileOp::Create | FileOp::Write | FileOp::Copy => {
                plan.unsynced.insert(path.into());
            }
            FileOp::Sync | FileOp::Remove => {
                plan.unsynced.remove(path);
            }
            FileOp::Rename => {
                plan.unsynced.remove(path);
                if plan.unsynced.remove(&beside) {
                    plan.unsynced.insert(path.into());
                }
            }
            FileOp::Open | FileOp::Cut | FileOp::Link | FileOp::SyncFolder | FileOp::Lock => {}
        }
    }
    if plan.fault == Some(Fault::CrashAfter { at: number }) {
        plan.stop();
        return crash();
    }
    outcome
}

pub(super) fn some_through(
    path: &Path,
    bytes: &[u8],
    act: impl FnOnce(&[u8]) -> io::Result<usize>,
) -> io::Result<usize> {
    let short = {
        let plans = PLANS.lock().unwrap();
        let plan = path.parent().and_then(|f| plans.get(f));
        plan.and_then(|p| p.fault.map(|f| (f, p.done.len())))
    };
    match short {
        Some((Fault::Short { at }, number)) if number == at => {
            through(FileOp::Write, path, || act(&bytes[..bytes.len() / 2]))
        }
        Some((Fault::Short { at }, number)) if number == at + 1 => {
            through(FileOp::Write, path, || {
                Err(io::Error::from_raw_os_error(libc::ENOSPC))
            })
        }
        _ => through(FileOp::Write, path, || act(bytes)),
    }
}

impl Plan {
    fn stop(&mut self) {
        self.crashed = true;
        for path in self.unsynced.drain() {
            if let Ok(file) = File::options().write(true).open(&path) {
                let length = file.metadata().unwrap().len();
                file.set_len(length / 2).unwrap();
            }
        }
    }
}
