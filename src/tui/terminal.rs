//! The terminal: set up, drawn on, and restored. Only changed cells are written. `output` writes without blocking,
//! `input` reads keys, `stray` captures what other code prints, `clipboard` handles tmux, `job_control` hands the
//! terminal to the shell.

pub mod clipboard;
mod input;
mod job_control;
mod output;
mod stray;

pub use input::FromTerminal;
pub use job_control::{detach, stop_process, to_background};

use crate::domain::terminal::drawn_size;
use crossbeam_channel::{Receiver, Sender, unbounded};
use crossterm::clipboard::CopyToClipboard;
use crossterm::event::{
    DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture,
};
use crossterm::style::Print;
use crossterm::terminal::{
    BeginSynchronizedUpdate, DisableLineWrap, EnableLineWrap, EndSynchronizedUpdate,
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{Command, cursor, execute, queue};
use input::{Keyboard, Reader, STATUS_REQUEST};
use output::Tty;
use ratatui::backend::{Backend, ClearType, CrosstermBackend};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;
use stray::Captured;

/// Checks whether this process can show the screen.
///
/// # Errors
/// Returns the reason, worded to follow 'cifar-tui needs a terminal:'.
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

/// The terminal while the screen is shown. Dropping it restores the terminal.
pub struct TerminalScreen {
    tty: Tty,
    backend: CrosstermBackend<Tty>,
    shown: Buffer,
    next: Buffer,
    /// The contents of the terminal are unknown: clear it and draw everything.
    unknown: bool,
    entered: bool,
    captured: Option<Captured>,
    mouse: bool,
    keyboard: Arc<Keyboard>,
    /// Present while the screen is shown.
    reader: Option<Reader>,
    input: (Sender<FromTerminal>, Receiver<FromTerminal>),
}

impl TerminalScreen {
    /// Enters raw mode and the alternate screen, and begins to read keys.
    ///
    /// # Errors
    /// Returns an error if the terminal cannot be set up; it is then restored.
    pub fn enter(mouse: bool) -> io::Result<Self> {
        let tty = Tty::open()?;
        let mut screen = TerminalScreen {
            backend: CrosstermBackend::new(tty.clone()),
            tty,
            shown: Buffer::empty(Rect::ZERO),
            next: Buffer::empty(Rect::ZERO),
            unknown: true,
            entered: false,
            captured: None,
            mouse,
            keyboard: Arc::new(Keyboard::open()?),
            reader: None,
            input: unbounded(),
        };
        screen.resume()?;
        Ok(screen)
    }

    /// Sets up the terminal again after [`TerminalScreen::leave`], or after the process was stopped.
    ///
    /// # Errors
    /// Returns an error if the terminal cannot be set up.
    pub fn resume(&mut self) -> io::Result<()> {
        if self.entered {
            // crossterm's record of the modes is wrong after another program has changed them.
            disable_raw_mode()?;
        }
        enable_raw_mode()?;
        self.entered = true;
        self.unknown = true;
        if self.captured.is_none() {
            self.captured = Some(Captured::begin()?);
        }
        let writer = &mut self.backend;
        queue!(
            writer,
            EnterAlternateScreen,
            EnableBracketedPaste,
            DisableLineWrap,
            cursor::Hide
        )?;
        if self.mouse {
            queue!(writer, EnableMouseCapture)?;
        }
        Write::flush(writer)?;
        if self.reader.is_none() {
            let keyboard = Arc::clone(&self.keyboard);
            self.reader = Some(Reader::start(keyboard, self.input.0.clone())?);
        }
        Ok(())
    }

    /// Keys and mouse reports while the screen is shown.
    pub fn input(&self) -> Receiver<FromTerminal> {
        self.input.1.clone()
    }

    /// The number of columns and lines to draw, see [`drawn_size`].
    ///
    /// # Errors
    /// Returns an error if the terminal has disappeared.
    pub fn size(&self) -> io::Result<(u16, u16)> {
        // SAFETY: the type consists of plain numbers.
        let mut size: libc::winsize = unsafe { std::mem::zeroed() };
        let fd = self.tty.fd();
        // SAFETY: `size` is valid for the length of the call.
        match unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, &raw mut size) } {
            0 => Ok(drawn_size((size.ws_col, size.ws_row))),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Writes what the terminal accepts now. Returns whether the last frame has been written, so that another one may
    /// be drawn.
    ///
    /// # Errors
    /// Returns an error if the terminal has disappeared.
    pub fn is_ready(&mut self) -> io::Result<bool> {
        self.tty.push()
    }

    /// How long the terminal has accepted no output, if output is waiting.
    pub fn stalled(&self) -> Option<Duration> {
        self.tty.stalled()
    }

    /// Restores the terminal. Waits at most 200 ms for a terminal that accepts no output.
    ///
    /// # Errors
    /// Returns the first error; all steps are tried in any case.
    pub fn leave(&mut self) -> io::Result<()> {
        if !self.entered {
            return Ok(());
        }
        self.entered = false;
        // The thread would read the answers that are waited for below.
        self.reader = None;
        // In the background, the terminal belongs to another program, and changing its modes would stop this process.
        let foreground = self.has_foreground();
        // The terminal sends mouse reports until it has processed the sequence that turns them off.
        let status = if self.mouse && foreground {
            STATUS_REQUEST
        } else {
            ""
        };
        let writer = &mut self.backend;
        let modes = queue!(
            writer,
            EndSynchronizedUpdate,
            DisableMouseCapture,
            Print(status),
            DisableBracketedPaste,
            EnableLineWrap,
            LeaveAlternateScreen,
            cursor::Show
        )
        .and_then(|()| Write::flush(writer));
        let taken = self.tty.drain();
        if !status.is_empty() && modes.is_ok() && taken.is_ok() {
            self.keyboard.discard_until_status();
        }
        let raw = match foreground {
            true => disable_raw_mode(),
            false => Ok(()),
        };
        self.captured = None;
        raw.and(modes).and(taken)
    }

    fn has_foreground(&self) -> bool {
        let fd = self.tty.fd();
        // SAFETY: numbers only.
        unsafe { libc::tcgetpgrp(fd) == libc::getpgrp() }
    }

    /// Restores as much as possible of a terminal that has disappeared or will soon disappear.
    pub fn abandon(&mut self) {
        if let Err(error) = self.leave() {
            tracing::info!("the terminal has gone: {error}");
        }
    }

    /// Turns mouse reports on or off.
    ///
    /// # Errors
    /// Returns an error if the terminal has disappeared.
    pub fn set_mouse(&mut self, on: bool) -> io::Result<()> {
        self.mouse = on;
        if on {
            execute!(self.backend, EnableMouseCapture)
        } else {
            execute!(self.backend, DisableMouseCapture)
        }
    }

    /// Draws every cell in the next frame.
    pub fn forget(&mut self) {
        self.unknown = true;
    }

    /// Puts text on the clipboard of the computer that shows the terminal (OSC 52).
    ///
    /// # Errors
    /// Returns an error if the terminal has disappeared.
    pub fn copy(&mut self, text: &str) -> io::Result<()> {
        let mut sequence = String::new();
        CopyToClipboard::to_clipboard_from(text)
            .write_ansi(&mut sequence)
            .map_err(io::Error::other)?;
        if clipboard::inside_screen() {
            sequence = clipboard::through_screen(&sequence);
        }
        execute!(self.backend, Print(sequence))
    }

    /// Draws a frame: writes the cells that differ from those shown.
    ///
    /// # Errors
    /// Returns an error if the terminal has disappeared.
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

impl Drop for TerminalScreen {
    fn drop(&mut self) {
        // An error in `drop` cannot be reported.
        let _ = self.leave();
    }
}

/// Converts a time (seconds since the Unix epoch) to local hour and minute.
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
