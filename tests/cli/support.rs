//! Gives each test its own folder, in which the binary runs with a clean environment, and a tiny data set.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

/// A network that learns a little and trains in an instant.
pub const TINY: &str = "conv 4 s4, relu, pool, drop, dense 10";

pub struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// An empty folder.
    pub fn new() -> Self {
        Place {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// A folder with a tiny data set in `data`.
    pub fn with_data() -> Self {
        let place = Place::new();
        write_batches(&place.path("data"), 24);
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cifar-tui"));
        command
            .args(args)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("TERM", "xterm-256color")
            .env("HOME", self.folder.path().join("home"));
        // Tests may run under nohup, and an ignored signal is inherited.
        // SAFETY: signal() may be called between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::signal(libc::SIGHUP, libc::SIG_DFL);
                Ok(())
            });
        }
        command
    }

    pub fn run(&self, args: &[&str]) -> Done {
        Done::of(self.command(args).output().unwrap(), args)
    }

    /// `train` on the tiny data with a tiny network.
    pub fn train(&self, args: &[&str]) -> Done {
        self.run(&train(args))
    }

    /// Like [`Place::train`], but returns while the run continues.
    pub fn begin(&self, args: &[&str]) -> Running {
        self.start(&train(args))
    }

    /// Starts any command.
    pub fn start(&self, args: &[&str]) -> Running {
        self.start_with(args, Stdio::piped())
    }

    /// Starts any command with this standard output.
    pub fn start_with(&self, args: &[&str], out: Stdio) -> Running {
        let mut command = self.command(args);
        let child = command.stdout(out).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap();
        let lines = child.stdout.take().map(BufReader::new);
        Running { child, lines }
    }
}

fn train<'a>(args: &[&'a str]) -> Vec<&'a str> {
    let common = ["train", "--runs", "runs", "--device", "cpu"];
    // A resumed run keeps its architecture, so none is given.
    let fresh: &[&str] = match args.contains(&"--resume") {
        true => &[],
        false => &["--arch", TINY, "--batch", "16"],
    };
    [&common, fresh, args].concat()
}

/// The result of running the binary.
#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
    args: String,
}

impl Done {
    pub fn of(output: Output, args: &[&str]) -> Self {
        Done {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
            args: args.join(" "),
        }
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "cifar-tui {}\n{}\n{}",
            self.args,
            self.out,
            self.err
        );
        self
    }

    /// Asserts that standard error contains all of `parts`.
    #[track_caller]
    pub fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(
                self.err.contains(part),
                "cifar-tui {} does not say '{part}' but:\n{}",
                self.args,
                self.err
            );
        }
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }

    pub fn json(&self) -> Vec<serde_json::Value> {
        json(&self.out)
    }
}

pub fn json(text: &str) -> Vec<serde_json::Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect()
}

/// The binary while it runs.
pub struct Running {
    child: Child,
    /// None if standard output is not a pipe to this test.
    lines: Option<BufReader<ChildStdout>>,
}

impl Running {
    /// Reads lines up to one that contains `part`.
    pub fn wait_for(&mut self, part: &str) {
        while !self.line().contains(part) {}
    }

    /// The next line.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        let bytes = self.lines.as_mut().unwrap().read_line(&mut line).unwrap();
        assert!(bytes > 0, "the output has ended");
        line
    }

    /// The remaining output.
    pub fn rest(&mut self) -> String {
        let mut rest = String::new();
        std::io::Read::read_to_string(self.lines.as_mut().unwrap(), &mut rest).unwrap();
        rest
    }

    /// Closes the pipe that its output goes to.
    pub fn close(&mut self) {
        self.lines = None;
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: the child has not been waited for, so the number is still its own.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Waits until a signal has stopped it.
    pub fn wait_stopped(&self) {
        let pid = i32::try_from(self.child.id()).unwrap();
        let mut status = 0;
        // SAFETY: `status` is valid for the length of the call.
        assert_eq!(
            unsafe { libc::waitpid(pid, &raw mut status, libc::WUNTRACED) },
            pid
        );
        assert!(libc::WIFSTOPPED(status));
    }

    /// Waits for the end. Returns the exit code.
    pub fn end(self) -> Option<i32> {
        self.end_with_errors().0
    }

    /// Waits for the end. Returns the exit code and the contents of standard error.
    pub fn end_with_errors(mut self) -> (Option<i32>, String) {
        if let Some(lines) = &mut self.lines {
            std::io::copy(lines, &mut std::io::sink()).unwrap();
        }
        let mut errors = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        std::io::Read::read_to_string(&mut stderr, &mut errors).unwrap();
        (self.child.wait().unwrap().code(), errors)
    }
}

/// Writes binary batches of `images` images each, whose class determines a colour and an edge, with some noise.
pub fn write_batches(folder: &Path, images: u32) {
    std::fs::create_dir_all(folder).unwrap();
    let mut state = 12345u32;
    let mut noise = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 27) as u8
    };
    let names = (1..=5).map(|i| format!("data_batch_{i}.bin"));
    for name in names.chain(["test_batch.bin".into()]) {
        let mut bytes = Vec::new();
        for i in 0..images {
            let class = (i % 10) as u8;
            bytes.push(class);
            for channel in 0..3u8 {
                for y in 0..32u8 {
                    for x in 0..32u8 {
                        let edge = u8::from(if class.is_multiple_of(2) { x } else { y } < 16) * 60;
                        bytes.push(class * 15 / (channel + 1) + edge + noise());
                    }
                }
            }
        }
        std::fs::write(folder.join(name), bytes).unwrap();
    }
    let classes = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ];
    std::fs::write(folder.join("batches.meta.txt"), classes.join("\n") + "\n").unwrap();
}

/// Runs a command. Returns its exit code, its standard output and its peak memory in MiB.
#[allow(clippy::zombie_processes, reason = "wait4 waits for it")]
pub fn measured(command: &mut Command) -> (Option<i32>, String, i64) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = String::new();
    std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut out).unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let mut status = 0;
    // SAFETY: plain numbers, for which zero is a value; the child has not been waited for.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::wait4(pid, &mut status, 0, &mut usage), pid);
        usage
    };
    let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
    (code, out, usage.ru_maxrss / 1024)
}

/// Starts a session whose run `name` does not end by itself. Its epochs take milliseconds.
pub fn session(place: &Place, name: &str, more: &[&str]) -> Running {
    let args = [
        "--json",
        "--data",
        "data",
        "--epochs",
        "9999",
        "--threads",
        "1",
        "--name",
        name,
    ];
    let mut running = place.begin(&[&args, more].concat());
    running.wait_for("\"event\":\"epoch\"");
    running
}
