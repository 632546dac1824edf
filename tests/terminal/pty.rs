//! A pseudo-terminal that runs the program and keeps its screen. Waits do not sleep: each ends when its condition
//! holds, or fails after a long deadline.

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, SlavePty, native_pty_system};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longer than any step of a test takes on a busy computer.
const DEADLINE: Duration = Duration::from_secs(120);
/// Interval at which a silent program is checked, and the time for its last output to arrive after its end.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
const LAST_OUTPUT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy)]
pub struct Size {
    pub width: u16,
    pub height: u16,
}

impl Size {
    pub const WIDE: Size = Size {
        width: 120,
        height: 36,
    };
    pub const SMALL: Size = Size {
        width: 80,
        height: 24,
    };
}

/// A mouse report: a move at column 10 of line 10.
const REPORT: &str = "\x1b[<35;10;10M";

/// The input side of the terminal, which sends keys and mouse reports.
struct Keyboard {
    /// None after the terminal was closed.
    writer: Option<Box<dyn Write + Send>>,
    /// Whether the program wants mouse reports.
    mouse: bool,
    moves: bool,
    /// The newest bytes of the program's output, in case a sequence is split.
    tail: Vec<u8>,
}

impl Keyboard {
    fn write(&mut self, keys: &str) {
        if let Some(writer) = &mut self.writer {
            writer.write_all(keys.as_bytes()).unwrap();
            writer.flush().unwrap();
        }
    }

    /// Processes the program's output in order, as a terminal does: turns mouse reports on and off, and answers status
    /// requests.
    fn process(&mut self, output: &[u8]) {
        self.tail.extend(output);
        let mut rest = 0;
        for at in 0..self.tail.len() {
            let sequence = [&b"\x1b[?1000h"[..], b"\x1b[?1000l", b"\x1b[5n"]
                .into_iter()
                .position(|s| self.tail[at..].starts_with(s));
            match sequence {
                Some(2) => self.write("\x1b[0n"),
                Some(off) => {
                    self.mouse = off == 0;
                    if off == 1 && self.moves {
                        // Reports that were sent before the terminal processed the sequence.
                        self.write(&REPORT.repeat(20));
                    }
                }
                None => continue,
            }
            rest = at + 1;
        }
        rest = rest.max(self.tail.len().saturating_sub(8));
        self.tail.drain(..rest);
    }
}

pub struct Pty {
    folder: Arc<tempfile::TempDir>,
    master: Option<Box<dyn MasterPty + Send>>,
    /// Kept, so that the modes can be read after the program has ended.
    slave: Option<Box<dyn SlavePty + Send>>,
    keyboard: Arc<Mutex<Keyboard>>,
    child: Box<dyn Child + Send + Sync>,
    output: Receiver<Vec<u8>>,
    written: Vec<u8>,
    picture: vt100::Parser,
    /// The terminal's modes before the program began.
    before: String,
    /// Locked during each read of the terminal's output.
    reading: Arc<Mutex<()>>,
}

impl Pty {
    /// Starts cifar-tui with `args` in an empty folder.
    pub fn start(size: Size, args: &[&str]) -> Self {
        Self::start_as(size, args, "xterm-256color")
    }

    /// Like [`Pty::start`], with `TERM=term`.
    pub fn start_as(size: Size, args: &[&str], term: &str) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_cifar-tui"));
        Self::command(size, program, args, term, &[])
    }

    /// Starts cifar-tui with `args` on another terminal in the same folder.
    pub fn beside(&self, size: Size, args: &[&str]) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_cifar-tui"));
        let folder = Arc::clone(&self.folder);
        Self::open(folder, size, program, args, "xterm-256color", &[])
    }

    /// Starts any program.
    pub fn command(
        size: Size,
        program: &Path,
        args: &[&str],
        term: &str,
        variables: &[(&str, &str)],
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("runs")).unwrap();
        Self::open(Arc::new(folder), size, program, args, term, variables)
    }

    fn open(
        folder: Arc<tempfile::TempDir>,
        size: Size,
        program: &Path,
        args: &[&str],
        term: &str,
        variables: &[(&str, &str)],
    ) -> Self {
        let pair = native_pty_system()
            .openpty(PtySize {
                rows: size.height,
                cols: size.width,
                pixel_width: 0,
                pixel_height: 0,
            })
            .unwrap();
        let mut command = CommandBuilder::new(program);
        command.args(args);
        command.cwd(folder.path());
        command.env_clear();
        command.env("PATH", "/usr/bin:/bin");
        command.env("TERM", term);
        command.env("HOME", folder.path().join("home"));
        for (name, value) in variables {
            command.env(name, value);
        }
        let before = modes(&*pair.master);
        let child = pair.slave.spawn_command(command).unwrap();
        let mut reader = pair.master.try_clone_reader().unwrap();
        let (sender, output) = channel();
        let reading = Arc::new(Mutex::new(()));
        let held = Arc::clone(&reading);
        let keyboard = Arc::new(Mutex::new(Keyboard {
            writer: Some(pair.master.take_writer().unwrap()),
            mouse: false,
            moves: false,
            tail: Vec::new(),
        }));
        let heeding = Arc::clone(&keyboard);
        std::thread::spawn(move || {
            let mut buffer = [0; 1 << 16];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                drop(held.lock());
                heeding.lock().unwrap().process(&buffer[..n]);
                if sender.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Pty {
            folder,
            keyboard,
            master: Some(pair.master),
            slave: Some(pair.slave),
            child,
            output,
            written: Vec::new(),
            // For a terminal without a size, or with an extreme one, keep a small part of the screen.
            picture: match size {
                Size {
                    width: 1..=1000,
                    height: 1..=1000,
                } => vt100::Parser::new(size.height, size.width, 0),
                _ => vt100::Parser::new(Size::SMALL.height, Size::SMALL.width, 0),
            },
            before,
            reading,
        }
    }

    /// While this mutex is locked, the terminal's output is not read, as after ctrl-s or on a stalled connection.
    pub fn reading(&self) -> Arc<Mutex<()>> {
        Arc::clone(&self.reading)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Everything that was written to the terminal so far.
    pub fn written(&self) -> &[u8] {
        &self.written
    }

    pub fn keys(&mut self, keys: &str) {
        self.keyboard.lock().unwrap().write(keys);
    }

    /// Moves the mouse continuously as soon as the program turns mouse reports on, until it turns them off.
    pub fn move_the_mouse(&self) {
        let keyboard = Arc::clone(&self.keyboard);
        let mut wanted = false;
        keyboard.lock().unwrap().moves = true;
        std::thread::spawn(move || {
            loop {
                let mut keyboard = keyboard.lock().unwrap();
                match (keyboard.mouse, keyboard.writer.is_some()) {
                    (true, true) => keyboard.write(REPORT),
                    (false, true) if !wanted => {}
                    _ => return,
                }
                wanted |= keyboard.mouse;
                drop(keyboard);
                std::thread::yield_now();
            }
        });
    }

    /// The keys and mouse reports that the program has not read, and that a shell would read next.
    pub fn left_unread(&self) -> String {
        use std::os::unix::fs::OpenOptionsExt;
        let name = self.master.as_ref().unwrap().tty_name().unwrap();
        let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
        let mut options = std::fs::File::options();
        let mut tty = options.read(true).custom_flags(flags).open(name).unwrap();
        // In the terminal's line mode, an incomplete line could not be read. SAFETY: an open terminal, and plain
        // numbers that tcgetattr fills.
        unsafe {
            let fd = std::os::fd::AsRawFd::as_raw_fd(&tty);
            let mut raw: libc::termios = std::mem::zeroed();
            assert_eq!(libc::tcgetattr(fd, &raw mut raw), 0);
            libc::cfmakeraw(&raw mut raw);
            assert_eq!(libc::tcsetattr(fd, libc::TCSANOW, &raw const raw), 0);
        }
        let mut unread = Vec::new();
        // The read ends with an error when no input is left.
        let _ = tty.read_to_end(&mut unread);
        String::from_utf8_lossy(&unread).into_owned()
    }

    pub fn resize(&mut self, size: Size) {
        let master = self.master.as_ref().unwrap();
        let size = PtySize {
            rows: size.height,
            cols: size.width,
            pixel_width: 0,
            pixel_height: 0,
        };
        master.resize(size).unwrap();
    }

    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.process_id().unwrap()).unwrap();
        // SAFETY: the child has not been waited for, so the number is still its own.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Reads output until `is` returns true for the screen's text.
    #[track_caller]
    pub fn wait_for(&mut self, what: &str, is: impl Fn(&str) -> bool) {
        self.wait(what, |picture| is(&picture.screen().contents()));
    }

    #[track_caller]
    fn wait(&mut self, what: &str, is: impl Fn(&vt100::Parser) -> bool) {
        let mut end = Instant::now() + DEADLINE;
        let mut ended = false;
        while !is(&self.picture) {
            match self.output.recv_timeout(POLL_INTERVAL) {
                Ok(bytes) => self.take(bytes),
                Err(_) if Instant::now() < end => {
                    // A program that has ended writes nothing more; wait only for output that is still on its way.
                    if !ended && self.child.try_wait().unwrap().is_some() {
                        ended = true;
                        end = Instant::now() + LAST_OUTPUT;
                    }
                }
                Err(_) => {
                    let contents = self.picture.screen().contents();
                    panic!("{what} did not come (the program has ended: {ended}):\n{contents}");
                }
            }
        }
    }

    fn take(&mut self, bytes: Vec<u8>) {
        self.picture.process(&bytes);
        self.written.extend(bytes);
    }

    /// Waits for the end of the program. Returns its exit code, which is 137 if it was killed, as in a shell.
    pub fn code(&mut self) -> u32 {
        let status = self.child.wait().unwrap();
        match status.signal() {
            None => status.exit_code(),
            Some("Killed") => 137,
            Some(other) => panic!("a signal that should have been handled ended it: {other}"),
        }
    }

    /// Asserts that the program ends with `code` and restores the terminal: modes, screen, cursor, mouse.
    #[track_caller]
    pub fn ends_with(&mut self, code: u32) {
        assert_eq!(self.code(), code, "{}", self.picture.screen().contents());
        self.modes_are_as_before();
        self.wait("the screen as it was", |picture| {
            let screen = picture.screen();
            !screen.alternate_screen()
                && !screen.hide_cursor()
                && !screen.bracketed_paste()
                && !screen.application_cursor()
                && screen.mouse_protocol_mode() == vt100::MouseProtocolMode::None
        });
    }

    #[track_caller]
    pub fn modes_are_as_before(&self) {
        assert_eq!(modes(&**self.master.as_ref().unwrap()), self.before);
    }

    /// Asserts that no mouse report was echoed and none is left for the shell.
    #[track_caller]
    pub fn leaves_no_reports(&mut self) {
        assert_eq!(self.left_unread(), "");
        while let Ok(bytes) = self.output.recv_timeout(POLL_INTERVAL) {
            self.take(bytes);
        }
        let written = String::from_utf8_lossy(&self.written);
        assert!(!written.contains(&REPORT[1..]), "a report was echoed");
    }

    /// Closes the terminal, like a closed window.
    pub fn vanish(&mut self) {
        self.keyboard.lock().unwrap().writer = None;
        self.slave = None;
        self.master = None;
        // The reading thread holds a copy of the terminal's descriptor until the program has ended. So send the signal
        // that a closing window sends.
        self.signal(libc::SIGHUP);
    }

    /// Waits for a condition that is not on the screen.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut is: impl FnMut() -> bool) {
        let end = Instant::now() + DEADLINE;
        while !is() {
            assert!(Instant::now() < end, "{what} did not come");
            match self.output.recv_timeout(POLL_INTERVAL) {
                Ok(bytes) => self.take(bytes),
                // The terminal is closed, so no output wakes this thread.
                Err(RecvTimeoutError::Disconnected) => std::thread::park_timeout(POLL_INTERVAL),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Whether the program is stopped, according to the system.
    #[cfg(target_os = "linux")]
    pub fn stopped(&self) -> impl Fn() -> bool + use<> {
        let pid = self.child.process_id().unwrap();
        move || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            stat.unwrap().contains(") T ")
        }
    }

    /// Peak resident memory of the program in bytes.
    #[cfg(target_os = "linux")]
    pub fn peak_memory(&self) -> u64 {
        let pid = self.child.process_id().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
        let kib = line.split_whitespace().nth(1).unwrap();
        kib.parse::<u64>().unwrap() << 10
    }

    /// Whether the program has a thread with this name.
    #[cfg(target_os = "linux")]
    pub fn has_thread(&self, name: &'static str) -> impl Fn() -> bool + use<> {
        let pid = self.child.process_id().unwrap();
        move || {
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            let name_of =
                |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm"));
            // A thread may end between the two calls.
            let mut names = tasks.flatten().filter_map(|task| name_of(task).ok());
            names.any(|n| n.trim_end() == name)
        }
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        // A failed test must not leave a program that trains for ever.
        let _ = self.child.kill();
    }
}

/// The terminal's modes as text.
fn modes(master: &(dyn MasterPty + Send)) -> String {
    format!("{:?}", master.get_termios().unwrap())
}
