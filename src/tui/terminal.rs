//! The terminal itself: entered, drawn on, given back as it was found. Writes only what changed, nothing at all when
//! nothing did. Knows no session.

use crate::domain::terminal::drawn_size;
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
use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, IsTerminal, PipeReader, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a terminal that takes nothing is waited for when it is given back.
const PATIENCE: Duration = Duration::from_millis(200);

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

    /// Blocks until a key waits (true), or the terminal has gone or `stop` was closed (false). crossterm's own poll
    /// would spin then.
    pub fn wait(&self, stop: &PipeReader) -> bool {
        loop {
            let watched = |fd| libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            };
            let mut fds = [watched(self.fd()), watched(stop.as_raw_fd())];
            // SAFETY: two valid pollfds, for the length of the call.
            let n = unsafe { libc::poll(fds.as_mut_ptr(), 2, -1) };
            if n < 0 {
                if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return false;
            }
            let gone = libc::POLLHUP | libc::POLLERR | libc::POLLNVAL;
            if fds[1].revents != 0 || fds[0].revents & gone != 0 {
                return false;
            }
            if fds[0].revents & libc::POLLIN != 0 {
                return true;
            }
        }
    }
}

/// The terminal as a writer that never blocks, on a descriptor of its own, so that standard output and standard error
/// can lead elsewhere meanwhile. What the terminal does not take yet waits.
#[derive(Clone)]
struct Tty(Rc<RefCell<Output>>);

struct Output {
    file: File,
    /// Flushed, but not taken yet.
    waiting: Vec<u8>,
    /// Not flushed yet.
    frame: Vec<u8>,
    /// Since when the terminal takes nothing.
    stalled: Option<Instant>,
}

impl Tty {
    fn open() -> io::Result<Self> {
        // Opened anew: the flag that forbids blocking must not reach the shell's own descriptor.
        let anew = ["/proc/self/fd/1", "/dev/tty"]
            .into_iter()
            .find_map(|path| {
                let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
                let mut options = OpenOptions::new();
                let file = options.write(true).custom_flags(flags).open(path).ok()?;
                file.is_terminal().then_some(file)
            });
        let file = match anew {
            Some(file) => file,
            None => io::stdout().as_fd().try_clone_to_owned()?.into(),
        };
        Ok(Tty(Rc::new(RefCell::new(Output {
            file,
            waiting: Vec::new(),
            frame: Vec::new(),
            stalled: None,
        }))))
    }
}

impl Output {
    /// Writes what the terminal takes; true when nothing waits.
    fn push(&mut self) -> io::Result<bool> {
        let mut done = 0;
        let outcome = loop {
            if done == self.waiting.len() {
                break Ok(true);
            }
            match self.file.write(&self.waiting[done..]) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    done += n;
                    self.stalled = None;
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => break Ok(false),
                    _ => break Err(error),
                },
            }
        };
        self.waiting.drain(..done);
        match outcome {
            Ok(false) => {
                self.stalled.get_or_insert_with(Instant::now);
            }
            _ => self.stalled = None,
        }
        outcome
    }

    /// Writes until nothing waits, or the terminal has taken nothing for too long.
    fn drain(&mut self) -> io::Result<()> {
        let end = Instant::now() + PATIENCE;
        while !self.push()? {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.waiting.clear();
                return Err(io::ErrorKind::TimedOut.into());
            }
            let mut fds = libc::pollfd {
                fd: self.file.as_raw_fd(),
                events: libc::POLLOUT,
                revents: 0,
            };
            // SAFETY: one valid pollfd, for the length of the call.
            unsafe { libc::poll(&raw mut fds, 1, left.as_millis() as i32 + 1) };
        }
        Ok(())
    }
}

impl Write for Tty {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().frame.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut output = self.0.borrow_mut();
        let frame = std::mem::take(&mut output.frame);
        output.waiting.extend(frame);
        output.push().map(|_| ())
    }
}

/// Standard output and standard error while the screen is shown: what any library writes there goes to the log.
/// Dropping it puts them back.
struct Captured(Vec<(RawFd, OwnedFd)>);

impl Captured {
    fn begin() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        let mut captured = Captured(Vec::new());
        for fd in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
            // SAFETY: a descriptor number; the process does not close it.
            if unsafe { libc::isatty(fd) } == 0 {
                continue;
            }
            // SAFETY: as above; the copy is owned by nobody else.
            let saved = unsafe {
                match libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) {
                    -1 => return Err(io::Error::last_os_error()),
                    copy => OwnedFd::from_raw_fd(copy),
                }
            };
            redirect(writer.as_raw_fd(), fd)?;
            captured.0.push((fd, saved));
        }
        std::thread::Builder::new()
            .name("stray output".into())
            .spawn(move || {
                for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
                    tracing::warn!("written to the screen: {}", String::from_utf8_lossy(&line));
                }
            })?;
        Ok(captured)
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        // A line that was begun belongs to the log.
        let _ = io::stdout().flush();
        for (fd, saved) in &self.0 {
            // It was that before, so it can be so again.
            let _ = redirect(saved.as_raw_fd(), *fd);
        }
    }
}

fn redirect(from: RawFd, to: RawFd) -> io::Result<()> {
    // SAFETY: descriptor numbers; both stay open.
    match unsafe { libc::dup2(from, to) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
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
    tty: Tty,
    backend: CrosstermBackend<Tty>,
    shown: Buffer,
    next: Buffer,
    /// What is shown is unknown: clear and draw everything.
    unknown: bool,
    entered: bool,
    captured: Option<Captured>,
    mouse: bool,
}

impl Screen {
    /// Enters raw mode and the alternate screen.
    ///
    /// # Errors
    /// Those of the terminal; it is then as it was.
    pub fn enter(mouse: bool) -> io::Result<Self> {
        let tty = Tty::open()?;
        let mut screen = Screen {
            backend: CrosstermBackend::new(tty.clone()),
            tty,
            shown: Buffer::empty(Rect::ZERO),
            next: Buffer::empty(Rect::ZERO),
            unknown: true,
            entered: false,
            captured: None,
            mouse,
        };
        screen.resume()?;
        Ok(screen)
    }

    /// Enters again after [`Screen::leave`], or after the process was stopped and something else had the terminal.
    ///
    /// # Errors
    /// Those of the terminal.
    pub fn resume(&mut self) -> io::Result<()> {
        if self.entered {
            // crossterm believes that the modes are still its own.
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
        Write::flush(writer)
    }

    /// Columns and lines to draw, see [`drawn_size`].
    ///
    /// # Errors
    /// When the terminal has gone.
    pub fn size(&self) -> io::Result<(u16, u16)> {
        // SAFETY: plain numbers.
        let mut size: libc::winsize = unsafe { std::mem::zeroed() };
        let fd = self.tty.0.borrow().file.as_raw_fd();
        // SAFETY: `size` is valid for the length of the call.
        match unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, &raw mut size) } {
            0 => Ok(drawn_size((size.ws_col, size.ws_row))),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Whether a frame can be drawn: the terminal has taken the one before. Writes what it takes now.
    ///
    /// # Errors
    /// When the terminal has gone.
    pub fn is_ready(&mut self) -> io::Result<bool> {
        self.tty.0.borrow_mut().push()
    }

    /// For how long the terminal has taken nothing, if it takes nothing.
    pub fn stalled(&self) -> Option<Duration> {
        self.tty.0.borrow().stalled.map(|since| since.elapsed())
    }

    /// Gives the terminal back; one that takes nothing is not waited for longer than 200 ms.
    ///
    /// # Errors
    /// Those of the terminal; each step is tried all the same.
    pub fn leave(&mut self) -> io::Result<()> {
        if !self.entered {
            return Ok(());
        }
        self.entered = false;
        let writer = &mut self.backend;
        let modes = queue!(
            writer,
            EndSynchronizedUpdate,
            DisableMouseCapture,
            DisableBracketedPaste,
            EnableLineWrap,
            LeaveAlternateScreen,
            cursor::Show
        )
        .and_then(|()| Write::flush(writer));
        let taken = self.tty.0.borrow_mut().drain();
        // In the background the modes are another program's affair by now, and to set them would stop this one.
        let raw = match self.has_foreground() {
            true => disable_raw_mode(),
            false => Ok(()),
        };
        self.captured = None;
        raw.and(modes).and(taken)
    }

    fn has_foreground(&self) -> bool {
        let fd = self.tty.0.borrow().file.as_raw_fd();
        // SAFETY: numbers only.
        unsafe { libc::tcgetpgrp(fd) == libc::getpgrp() }
    }

    /// Gives back what can be given back of a terminal that has gone, or is about to.
    pub fn abandon(&mut self) {
        if let Err(error) = self.leave() {
            tracing::info!("the terminal has gone: {error}");
        }
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

/// Lets go of the terminal for good: standard input, output and error lead nowhere from now on, where they led to a
/// terminal. Nothing can then block on it, or be told that it has gone.
///
/// # Errors
/// When /dev/null cannot be opened.
pub fn let_go() -> io::Result<()> {
    let nowhere = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    for fd in 0..3 {
        // SAFETY: plain numbers, filled by fstat.
        let mut about: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: `about` is valid for the length of the call. A terminal that has gone is no terminal to isatty.
        let known = unsafe { libc::fstat(fd, &raw mut about) } == 0;
        if known && about.st_mode & libc::S_IFMT == libc::S_IFCHR {
            redirect(nowhere.as_raw_fd(), fd)?;
        }
    }
    Ok(())
}

/// Gives the shell its prompt back while this process goes on in the background, as `ctrl-z` and `bg` do. False where
/// there is no shell with job control.
///
/// # Errors
/// When the helper that continues the process cannot be started.
pub fn to_background() -> io::Result<bool> {
    use std::os::unix::process::CommandExt;
    // SAFETY: numbers only.
    let (group, leader) = unsafe { (libc::getpgrp(), libc::getsid(0)) };
    if group == leader {
        return Ok(false);
    }
    // In a group of its own, so that it is not stopped with this one.
    let mut helper = std::process::Command::new("/bin/sh")
        .args(["-c", &format!("sleep 0.2; kill -CONT -- -{group}")])
        .process_group(0)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    stop_process();
    helper.wait()?;
    Ok(true)
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
