//! A pseudo-terminal with the program in it, a reader that keeps the picture, and waiting without sleeping: each wait
//! ends when what is waited for is there, or fails after a long deadline.

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, SlavePty, native_pty_system};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longer than anything takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);
/// How often a program that writes nothing is looked after, and how long its last words may take to arrive.
const GLANCE: Duration = Duration::from_millis(100);
const LAST_WORDS: Duration = Duration::from_secs(5);

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

pub struct Pty {
    folder: Arc<tempfile::TempDir>,
    master: Option<Box<dyn MasterPty + Send>>,
    /// Kept, so that the modes can be read after the program has ended.
    slave: Option<Box<dyn SlavePty + Send>>,
    writer: Option<Box<dyn Write + Send>>,
    child: Box<dyn Child + Send + Sync>,
    output: Receiver<Vec<u8>>,
    written: Vec<u8>,
    picture: vt100::Parser,
    /// The terminal's modes before the program began.
    before: String,
    /// Held for each read of the terminal's output.
    reading: Arc<Mutex<()>>,
}

impl Pty {
    /// cifar-tui with `args`, in an empty folder.
    pub fn start(size: Size, args: &[&str]) -> Self {
        Self::start_as(size, args, "xterm-256color")
    }

    /// The same on a terminal of the type `term`.
    pub fn start_as(size: Size, args: &[&str], term: &str) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_cifar-tui"));
        Self::command(size, program, args, term, &[])
    }

    /// cifar-tui with `args` on another terminal, in the same folder.
    pub fn beside(&self, size: Size, args: &[&str]) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_cifar-tui"));
        let folder = Arc::clone(&self.folder);
        Self::open(folder, size, program, args, "xterm-256color", &[])
    }

    /// Any program.
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
        std::thread::spawn(move || {
            let mut buffer = [0; 1 << 16];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                drop(held.lock());
                if sender.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Pty {
            folder,
            writer: Some(pair.master.take_writer().unwrap()),
            master: Some(pair.master),
            slave: Some(pair.slave),
            child,
            output,
            written: Vec::new(),
            picture: vt100::Parser::new(size.height, size.width, 0),
            before,
            reading,
        }
    }

    /// While this is locked nobody reads the terminal's output, as with ctrl-s or a stalled connection.
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
        let writer = self.writer.as_mut().unwrap();
        writer.write_all(keys.as_bytes()).unwrap();
        writer.flush().unwrap();
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

    /// Reads on until the screen is as `is` wants it.
    #[track_caller]
    pub fn wait_for(&mut self, what: &str, is: impl Fn(&str) -> bool) {
        self.wait(what, |picture| is(&picture.screen().contents()));
    }

    #[track_caller]
    fn wait(&mut self, what: &str, is: impl Fn(&vt100::Parser) -> bool) {
        let mut end = Instant::now() + DEADLINE;
        let mut ended = false;
        while !is(&self.picture) {
            match self.output.recv_timeout(GLANCE) {
                Ok(bytes) => self.take(bytes),
                Err(_) if Instant::now() < end => {
                    // What a program that has ended did not write by now it never will.
                    if !ended && self.child.try_wait().unwrap().is_some() {
                        ended = true;
                        end = Instant::now() + LAST_WORDS;
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

    /// Waits for the end; the exit code, 128 + n for a signal that was not handled.
    pub fn code(&mut self) -> u32 {
        self.child.wait().unwrap().exit_code()
    }

    /// It ends with `code`, and the terminal is as it was found: modes, screen, cursor, mouse.
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

    /// The terminal goes away, as when a window is closed.
    pub fn vanish(&mut self) {
        self.writer = None;
        self.slave = None;
        self.master = None;
        // The reader holds a copy of the terminal's end until it has nothing to read: the program has ended then, or
        // is told that the terminal is gone by the signal that a closing window sends.
        self.signal(libc::SIGHUP);
    }

    /// Waits until something beside the screen is as it should be.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut is: impl FnMut() -> bool) {
        let end = Instant::now() + DEADLINE;
        while !is() {
            assert!(Instant::now() < end, "{what} did not come");
            match self.output.recv_timeout(GLANCE) {
                Ok(bytes) => self.take(bytes),
                // The terminal has gone; there is only time left to wait for.
                Err(RecvTimeoutError::Disconnected) => std::thread::park_timeout(GLANCE),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Asks the system whether the program is stopped.
    #[cfg(target_os = "linux")]
    pub fn stopped(&self) -> impl Fn() -> bool + use<> {
        let pid = self.child.process_id().unwrap();
        move || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            stat.unwrap().contains(") T ")
        }
    }

    /// Asks the system whether the program has a thread of this name.
    #[cfg(target_os = "linux")]
    pub fn has_thread(&self, name: &'static str) -> impl Fn() -> bool + use<> {
        let pid = self.child.process_id().unwrap();
        move || {
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            let name_of =
                |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm"));
            // A thread may end between the two questions.
            let mut names = tasks.flatten().filter_map(|task| name_of(task).ok());
            names.any(|n| n.trim_end() == name)
        }
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        // A test that failed must not leave a program behind that trains for ever.
        let _ = self.child.kill();
    }
}

/// What tcgetattr says.
fn modes(master: &(dyn MasterPty + Send)) -> String {
    format!("{:?}", master.get_termios().unwrap())
}
