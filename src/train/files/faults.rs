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
struct FaultState {
    fault: Option<Fault>,
    done: Vec<FileOp>,
    crashed: bool,
    unsynced: HashSet<PathBuf>,
}

static STATES: LazyLock<Mutex<HashMap<PathBuf, FaultState>>> = LazyLock::new(Mutex::default);

/// Sets the fault for the files in `folder`, however deep, until the guard is dropped. None only records the operations.
pub(crate) fn inject(folder: &Path, fault: Option<Fault>) -> InjectedFault {
    let state = FaultState {
        fault,
        ..FaultState::default()
    };
    STATES.lock().unwrap().insert(folder.into(), state);
    InjectedFault(folder.into())
}

pub(crate) struct InjectedFault(PathBuf);

impl InjectedFault {
    /// The operations carried out so far.
    pub(crate) fn done(&self) -> Vec<FileOp> {
        STATES.lock().unwrap()[&self.0].done.clone()
    }
}

impl Drop for InjectedFault {
    fn drop(&mut self) {
        STATES.lock().unwrap().remove(&self.0);
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
    let mut states = STATES.lock().unwrap();
    let folder = path.ancestors().find(|folder| states.contains_key(*folder));
    let Some(state) = folder.and_then(|f| states.get_mut(f)) else {
        drop(states);
        return act();
    };
    if state.crashed {
        return crash();
    }
    let number = state.done.len();
    state.done.push(op);
    match state.fault {
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
            state.stop();
            return crash();
        }
        _ => {}
    }
    let outcome = act();
    if outcome.is_ok() {
        let temporary = PathBuf::from(format!("{}{TEMPORARY_SUFFIX}", path.display()));
        match op {
            FileOp::Create | FileOp::Write | FileOp::Copy => {
                state.unsynced.insert(path.into());
            }
            FileOp::Sync | FileOp::Remove => {
                state.unsynced.remove(path);
            }
            FileOp::Rename => {
                state.unsynced.remove(path);
                if state.unsynced.remove(&temporary) {
                    state.unsynced.insert(path.into());
                }
            }
            FileOp::Open | FileOp::Cut | FileOp::Link | FileOp::SyncFolder | FileOp::Lock => {}
        }
    }
    if state.fault == Some(Fault::CrashAfter { at: number }) {
        state.stop();
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
        let states = STATES.lock().unwrap();
        let state = path.ancestors().find_map(|folder| states.get(folder));
        state.and_then(|p| p.fault.map(|f| (f, p.done.len())))
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

impl FaultState {
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
