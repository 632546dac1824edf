//! The terminal itself: entered, drawn on, given back as it was found. Writes only what changed, nothing at all when
//! nothing did. Knows no session.

use crossterm::event::{
    DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture,
};
use crossterm::terminal::{
    BeginSynchronizedUpdate, DisableLineWrap, EnableLineWrap, EndSynchronizedUpdate,
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{cursor, execute, queue};
use ratatui::backend::{Backend, ClearType, CrosstermBackend};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, PoisonError};

/// Whether this process can show the screen; else why not.
///
/// # Errors
/// In words that follow 'cifar-tui needs a terminal:'.
pub fn usable() -> Result<(), String> {
    if !io::stdout().is_terminal() {
        return Err("standard output is not a terminal".into());
    }
    if std::env::var("TERM").is_ok_and(|term| term == "dumb") {
        return Err("TERM is 'dumb'".into());
    }
    match Keyboard::open() {
        Ok(_) => Ok(()),
        Err(e) => Err(format!("there is no keyboard to read: {e}")),
    }
}

/// The descriptor from which crossterm reads keys.
pub struct Keyboard(Option<File>);

impl Keyboard {
    /// Standard input when it is a terminal, else the controlling terminal.
    ///
    /// # Errors
    /// When there is neither.
    pub fn open() -> io::Result<Self> {
        if io::stdin().is_terminal() {
            Ok(Keyboard(None))
        } else {
            Ok(Keyboard(Some(File::open("/dev/tty")?)))
        }
    }

    fn fd(&self) -> RawFd {
        self.0
            .as_ref()
            .map_or(libc::STDIN_FILENO, AsRawFd::as_raw_fd)
    }

    /// Blocks until a key waits (true) or the terminal has gone (false). crossterm's own poll would spin then.
    pub fn wait(&self) -> bool {
        loop {
            let mut fds = libc::pollfd {
                fd: self.fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one valid pollfd, for the length of the call.
            let n = unsafe { libc::poll(&raw mut fds, 1, -1) };
            if n < 0 {
                if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return false;
            }
            if fds.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0 {
                return false;
            }
            if fds.revents & libc::POLLIN != 0 {
                return true;
            }
        }
    }
}

/// Words of panics, kept while the screen is shown: they would be lost in it and spoil it.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Keeps the words of panics (of any thread) from the screen; when dropped, after the screen, they go to standard error.
pub struct HeldPanics;

impl HeldPanics {
    pub fn begin() -> Self {
        std::panic::set_hook(Box::new(|info| {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or("unnamed");
            let words = format!("thread '{name}' {info}");
            tracing::error!("{words}");
            PANICS
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(words);
        }));
        HeldPanics
    }
}

impl Drop for HeldPanics {
    fn drop(&mut self) {
        // The hook cannot be changed while this thread panics.
        if !std::thread::panicking() {
            drop(std::panic::take_hook());
        }
        let mut held = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
        for words in held.drain(..) {
            // Standard error may have gone with the terminal.
            let _ = writeln!(io::stderr(), "{words}");
        }
    }
}

/// The screen between entering and leaving. Dropping it leaves, whatever happened.
pub struct Screen {
    backend: CrosstermBackend<BufWriter<io::Stdout>>,
    shown: Buffer,
    next: Buffer,
    /// What is shown is unknown: clear and draw everything.
    unknown: bool,
    entered: bool,
    mouse: bool,
}

impl Screen {
    /// Enters raw mode and the alternate screen.
    ///
    /// # Errors
    /// Those of the terminal; it is then as it was.
    pub fn enter(mouse: bool) -> io::Result<Self> {
        // 64 KiB hold any frame, so that one frame is one write.
        let backend = CrosstermBackend::new(BufWriter::with_capacity(1 << 16, io::stdout()));
        let mut screen = Screen {
            backend,
            shown: Buffer::empty(Rect::ZERO),
            next: Buffer::empty(Rect::ZERO),
            unknown: true,
            entered: false,
            mouse,
        };
        screen.resume()?;
        Ok(screen)
    }

    /// Enters again after [`Screen::leave`].
    ///
    /// # Errors
    /// Those of the terminal.
    pub fn resume(&mut self) -> io::Result<()> {
        enable_raw_mode()?;
        self.entered = true;
        self.unknown = true;
        let writer = &mut self.backend;
        execute!(
            writer,
            EnterAlternateScreen,
            EnableBracketedPaste,
            DisableLineWrap,
            cursor::Hide
        )?;
        if self.mouse {
            execute!(writer, EnableMouseCapture)?;
        }
        Ok(())
    }

    /// Gives the terminal back.
    ///
    /// # Errors
    /// Those of the terminal; each step is tried all the same.
    pub fn leave(&mut self) -> io::Result<()> {
        if !self.entered {
            return Ok(());
        }
        self.entered = false;
        let writer = &mut self.backend;
        let modes = execute!(
            writer,
            EndSynchronizedUpdate,
            DisableMouseCapture,
            DisableBracketedPaste,
            EnableLineWrap,
            LeaveAlternateScreen,
            cursor::Show
        );
        disable_raw_mode().and(modes)
    }

    /// Forgets the terminal without a word to it: it has gone.
    pub fn abandon(&mut self) {
        self.entered = false;
    }

    /// Turns mouse reports on or off.
    ///
    /// # Errors
    /// Those of the terminal.
    pub fn set_mouse(&mut self, on: bool) -> io::Result<()> {
        self.mouse = on;
        if on {
            execute!(self.backend, EnableMouseCapture)
        } else {
            execute!(self.backend, DisableMouseCapture)
        }
    }

    /// Draws everything anew next time.
    pub fn forget(&mut self) {
        self.unknown = true;
    }

    /// Puts text on the clipboard of the terminal's machine (OSC 52).
    ///
    /// # Errors
    /// Those of the terminal.
    pub fn copy(&mut self, text: &str) -> io::Result<()> {
        execute!(
            self.backend,
            crossterm::clipboard::CopyToClipboard::to_clipboard_from(text)
        )
    }

    /// Draws a frame: writes the cells that differ from what is shown.
    ///
    /// # Errors
    /// Those of the terminal.
    pub fn draw(&mut self, size: (u16, u16), paint: impl FnOnce(&mut Buffer)) -> io::Result<()> {
        let area = Rect::new(0, 0, size.0, size.1);
        if self.next.area != area {
            self.shown.resize(area);
            self.next.resize(area);
            self.unknown = true;
        }
        self.next.reset();
        paint(&mut self.next);
        if self.unknown {
            self.shown.reset();
        }
        let changed = self.shown.diff(&self.next);
        if !changed.is_empty() || self.unknown {
            queue!(self.backend, BeginSynchronizedUpdate)?;
            if self.unknown {
                self.backend.clear_region(ClearType::All)?;
            }
            self.backend.draw(changed.into_iter())?;
            queue!(self.backend, EndSynchronizedUpdate)?;
            Write::flush(&mut self.backend)?;
        }
        self.unknown = false;
        std::mem::swap(&mut self.shown, &mut self.next);
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = self.leave();
    }
}

/// Stops this process and its group as ctrl-z does, until it is continued.
pub fn stop_process() {
    // SAFETY: plain system calls without pointers. The group's others (cargo run) stop by SIGTSTP, which this process
    // handles; it stops itself by the signal that nothing handles.
    unsafe {
        libc::kill(0, libc::SIGTSTP);
        libc::raise(libc::SIGSTOP);
    }
}

/// Hour and minute of a time (seconds since the Unix epoch) here.
pub fn local_time(seconds: f64) -> (u32, u32) {
    let time = seconds as libc::time_t;
    // SAFETY: tm is plain numbers and a pointer that may be null; localtime_r fills it or fails.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the length of the call.
    let done = unsafe { libc::localtime_r(&raw const time, &raw mut tm) };
    if done.is_null() {
        return (0, 0);
    }
    (tm.tm_hour as u32, tm.tm_min as u32)
}
