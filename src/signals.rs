//! The signals that a session handles, as messages on one channel for the whole life of the process, so that no signal
//! is lost when one front end takes over from another.

use crossbeam_channel::{Receiver, unbounded};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2, SIGWINCH};
use std::io;

/// Signals of every session. Batch systems can send SIGUSR1 shortly before their time limit.
const SESSION: [i32; 5] = [SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2];
/// Signals of the screen only.
const SCREEN: [i32; 3] = [SIGTSTP, SIGCONT, SIGWINCH];

/// Starts to receive signals; with `screen` also those of the screen. A hangup that the process was started to ignore
/// (nohup) stays ignored.
///
/// # Errors
/// Returns an error if the system refuses a handler or a thread.
pub fn listen(screen: bool) -> io::Result<Receiver<i32>> {
    let wanted = SESSION
        .into_iter()
        .filter(|signal| *signal != SIGHUP || !is_ignored(SIGHUP))
        .chain(SCREEN.into_iter().filter(|_| screen));
    let mut signals = signal_hook::iterator::Signals::new(wanted)?;
    let (sender, receiver) = unbounded();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in &mut signals {
                if sender.send(signal).is_err() {
                    return;
                }
            }
        })?;
    Ok(receiver)
}

/// Restores the default action of SIGTSTP: ctrl-z then stops this process at once, like any program without a screen.
pub fn stop_at_once() {
    // SAFETY: a signal's number and the default action.
    unsafe { libc::signal(SIGTSTP, libc::SIG_DFL) };
}

fn is_ignored(signal: i32) -> bool {
    // SAFETY: plain data, filled by sigaction, which changes nothing with a null pointer.
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut now) == 0
            && now.sa_sigaction == libc::SIG_IGN
    }
}
