//! Shell job control from the job's side: stopping, continuing in the background, and detaching from the terminal.

use super::stray::redirect;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// Stops this process and its group, like ctrl-z, until it is continued.
pub fn stop_process() {
    // SAFETY: plain system calls without pointers. SIGTSTP stops the other processes of the group (such as `cargo
    // run`). This process handles SIGTSTP, so it stops itself with SIGSTOP, which cannot be handled.
    unsafe {
        libc::kill(0, libc::SIGTSTP);
        libc::raise(libc::SIGSTOP);
    }
}

/// Detaches from the terminal for good: those of standard input, output and error that are the terminal are redirected
/// to /dev/null. Nothing can then block on the terminal or fail because it has disappeared.
///
/// # Errors
/// Returns an error if /dev/null cannot be opened.
pub fn detach() -> io::Result<()> {
    let nowhere = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    for fd in 0..3 {
        // SAFETY: plain numbers, filled by fstat.
        let mut about: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: `about` is valid for the length of the call. isatty returns false for a terminal that has
        // disappeared.
        let known = unsafe { libc::fstat(fd, &raw mut about) } == 0;
        if known && about.st_mode & libc::S_IFMT == libc::S_IFCHR {
            redirect(nowhere.as_raw_fd(), fd)?;
        }
    }
    Ok(())
}

/// Returns the prompt to the shell while this process continues in the background, like `ctrl-z` and `bg`. Returns
/// false if there is no shell with job control.
///
/// # Errors
/// Returns an error if the system cannot create a pipe or process for the helper that continues this one.
pub fn to_background() -> io::Result<bool> {
    // SAFETY: numbers only.
    let (group, leader) = unsafe { (libc::getpgrp(), libc::getsid(0)) };
    let Ok(terminal) = File::open("/dev/tty") else {
        return Ok(false);
    };
    if group == leader {
        return Ok(false);
    }
    let (running, runs) = io::pipe()?;
    // SAFETY: the child calls nothing but what is safe between fork and exit in a program of several threads.
    let helper = unsafe { libc::fork() };
    match helper {
        -1 => return Err(io::Error::last_os_error()),
        // SAFETY: as above; the descriptors are open in the child too.
        0 => unsafe {
            libc::close(runs.as_raw_fd());
            continue_group(group, terminal.as_raw_fd(), running.as_raw_fd())
        },
        _ => {}
    }
    // Put the helper into its own group, so that it is not stopped with this process. Both processes do it, since
    // either may run first.
    // SAFETY: numbers only.
    unsafe { libc::setpgid(helper, helper) };
    stop_process();
    // When this process runs again, closing the pipe ends the helper.
    drop(runs);
    // SAFETY: the status is not used.
    unsafe { libc::waitpid(helper, std::ptr::null_mut(), 0) };
    // SAFETY: numbers only.
    Ok(unsafe { libc::tcgetpgrp(terminal.as_raw_fd()) } != group)
}

/// Number of checks, a hundredth of a second apart, whether the shell has taken the terminal back.
const MAX_CHECKS: u32 = 200;

/// The helper process of [`to_background`]: continues the process group `group` once the shell, after noticing that its
/// job has stopped, has taken the terminal back; at the latest after two seconds. The helper ends when the pipe
/// `running` is closed, whose other end the continued process holds.
///
/// # Safety
/// To be called between fork and exit: it allocates nothing, takes no lock and never returns.
unsafe fn continue_group(group: libc::pid_t, terminal: RawFd, running: RawFd) -> ! {
    // SAFETY: numbers, and one valid pollfd for the length of each call; all of them may be called after a fork.
    unsafe {
        libc::setpgid(0, 0);
        let mut checks = 0;
        loop {
            let mut end = libc::pollfd {
                fd: running,
                events: libc::POLLIN,
                revents: 0,
            };
            if libc::poll(&raw mut end, 1, 10) > 0 {
                libc::_exit(0);
            }
            checks += 1;
            // Send the signal repeatedly, since a process may stop only after its group was continued.
            if checks > MAX_CHECKS || libc::tcgetpgrp(terminal) != group {
                libc::kill(-group, libc::SIGCONT);
            }
        }
    }
}
