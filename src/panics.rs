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
