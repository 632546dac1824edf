//! Decides what the program prints when a thread panics: nothing if the panic of a library is caught and becomes an
//! error; the message after the screen has closed if a screen is shown; otherwise the message as Rust prints it.

use std::cell::Cell;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::{Mutex, Once, PoisonError};

thread_local! {
    /// Whether this thread's panics are caught by [`catch`].
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// The messages kept while the screen is shown; None while it is not.
static HELD: Mutex<Option<Vec<String>>> = Mutex::new(None);

/// Installs the panic hook, unless it is installed already.
fn install_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| {
            if CAUGHT.get() {
                tracing::debug!("a caught panic: {info}");
            } else if !hold(info) {
                before(info);
            }
        }));
    });
}

/// Keeps a panic's message if the screen is shown. Returns whether the message was kept.
fn hold(info: &PanicHookInfo) -> bool {
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(messages) = held.as_mut() else {
        return false;
    };
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed");
    let message = format!("thread '{name}' {info}");
    tracing::error!("{message}");
    messages.push(message);
    true
}

/// Runs `f`, which calls a library that may panic on malformed bytes. Returns None, and prints nothing, if `f`
/// panicked. Panics of threads that `f` starts are not caught.
pub fn catch<T>(f: impl FnOnce() -> T) -> Option<T> {
    install_hook();
    let before = CAUGHT.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    CAUGHT.set(before);
    result.ok()
}

/// Keeps the panic messages of all threads off the screen, which they would disturb. When dropped, after the screen,
/// prints them to standard error.
pub struct Held;

impl Held {
    pub fn begin() -> Self {
        install_hook();
        *HELD.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
        Held
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let held = HELD.lock().unwrap_or_else(PoisonError::into_inner).take();
        for message in held.into_iter().flatten() {
            // Standard error may have disappeared with the terminal.
            let _ = writeln!(io::stderr(), "{message}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Started as a process by the test below, since only a process has its own standard error.
    #[test]
    #[ignore = "the process that another test starts"]
    fn a_process_with_a_caught_panic_and_another() {
        assert_eq!(catch(|| panic!("the caught words")), None::<u8>);
        assert!(
            std::thread::spawn(|| panic!("the other words"))
                .join()
                .is_err()
        );
    }

    #[test]
    fn a_caught_panic_prints_nothing_and_any_other_prints_its_message() {
        let program = std::env::current_exe().unwrap();
        let test = "panics::tests::a_process_with_a_caught_panic_and_another";
        let mut process = std::process::Command::new(program);
        process.args(["--exact", test, "--ignored", "--nocapture"]);
        let output = process.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{error}");
        assert!(error.contains("the other words"), "{error}");
        let printed = error + &String::from_utf8_lossy(&output.stdout);
        assert!(!printed.contains("the caught words"), "{printed}");
    }

    #[test]
    fn a_caught_panic_is_none_and_the_next_is_not_caught() {
        assert_eq!(catch(|| 7), Some(7));
        let nested = catch(|| {
            assert_eq!(catch(|| panic!("expected: the inner")), None::<u8>);
            assert!(CAUGHT.get());
            panic!("expected: the outer");
        });
        assert_eq!(nested, None::<u8>);
        assert!(!CAUGHT.get());
    }
}
