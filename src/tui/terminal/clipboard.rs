//! The clipboard from within tmux and GNU screen. By default (`set-clipboard external`) tmux ignores what programs send
//! to the terminal's clipboard, and tells them nothing, so its paste buffer is loaded as well. GNU screen passes it on
//! when it is wrapped.

use std::io::{self, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Maximum time for tmux to accept the text.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Interval at which it is checked whether tmux has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// Number of bytes that every pipe accepts without a reader.
const PIPE_CAPACITY: usize = 16 << 10;

/// Whether this process runs inside tmux.
pub fn inside_tmux() -> bool {
    is_set("TMUX")
}

/// Whether this process runs inside GNU screen.
pub fn inside_screen() -> bool {
    is_set("STY") && !inside_tmux()
}

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

/// Wraps a control sequence that ends in a string terminator (`ESC \`) so that GNU screen passes it on to its terminal.
/// The sequence is split, since GNU screen drops strings longer than 768 bytes, and ends in BEL instead, since the
/// terminator would end a piece.
pub fn through_screen(sequence: &str) -> String {
    let mut rest = sequence.trim_end_matches("\x1b\\").to_owned() + "\x07";
    let mut wrapped = String::new();
    while !rest.is_empty() {
        // Base64 and the control sequence around it are ASCII.
        let after = rest.split_off(rest.len().min(256));
        wrapped += &format!("\x1bP{rest}\x1b\\");
        rest = after;
    }
    wrapped
}

/// Loads `text` into tmux's paste buffer. tmux passes it on to the clipboard of its terminal if it is configured to.
/// Blocks for at most two seconds.
///
/// # Errors
/// Returns the reason, in tmux's words if it gave any.
pub fn load_into_tmux(text: &str) -> Result<(), String> {
    let end = Instant::now() + TIMEOUT;
    load("tmux", &["load-buffer", "-w", "-"], text, end)
        // tmux before 3.2 has no option -w and does not pass the text on.
        .or_else(|_| load("tmux", &["load-buffer", "-"], text, end))
}

/// Runs a program with `text` as its input. Kills it at `end`.
fn load(program: &str, arguments: &[&str], text: &str, end: Instant) -> Result<(), String> {
    if text.len() > PIPE_CAPACITY {
        return Err(format!("{} bytes are too many", text.len()));
    }
    let run = || -> io::Result<Child> {
        let (input, mut writer) = io::pipe()?;
        writer.write_all(text.as_bytes())?;
        Command::new(program)
            .args(arguments)
            .stdin(input)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
    };
    let mut child = run().map_err(|error| format!("{program}: {error}"))?;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => {
                let mut words = String::new();
                if let Some(mut stderr) = child.stderr.take() {
                    // If tmux printed nothing, report its exit status.
                    let _ = stderr.read_to_string(&mut words);
                }
                return Err(match words.trim() {
                    "" => format!("{program}: {status}"),
                    words => words.to_owned(),
                });
            }
            Ok(None) if Instant::now() < end => std::thread::sleep(POLL_INTERVAL),
            Ok(None) => {
                // Killing fails if the process has ended.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{program} did not answer"));
            }
            Err(error) => return Err(format!("{program}: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, text: &str, patience: Duration) -> Result<(), String> {
        load("/bin/sh", &["-c", script], text, Instant::now() + patience)
    }

    #[test]
    fn the_result_of_the_program_is_reported() {
        let long = Duration::from_secs(60);
        let text = "a = 1\nb = 2";
        assert_eq!(
            shell("test \"$(cat)\" = \"a = 1\nb = 2\"", text, long),
            Ok(())
        );
        let refused = shell("echo no server running >&2; exit 1", text, long);
        assert_eq!(refused.unwrap_err(), "no server running");
        assert!(shell("exit 3", text, long).unwrap_err().contains('3'));
        let absent = load("/nowhere/tmux", &[], text, Instant::now() + long);
        assert!(absent.unwrap_err().starts_with("/nowhere/tmux: "));
        let large = "x".repeat(PIPE_CAPACITY + 1);
        assert!(shell("cat", &large, long).unwrap_err().contains("16385"));
    }

    #[test]
    fn sequences_are_split_for_gnu_screen() {
        let payload = "A".repeat(400);
        let wrapped = through_screen(&format!("\x1b]52;c;{payload}\x1b\\"));
        let pieces: Vec<&str> = wrapped.split_terminator("\x1b\\").collect();
        assert!(
            pieces
                .iter()
                .all(|p| p.starts_with("\x1bP") && p.len() <= 258)
        );
        let passed: String = pieces.iter().map(|p| &p[2..]).collect();
        assert_eq!(passed, format!("\x1b]52;c;{payload}\x07"));
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let stuck = shell("exec sleep 1000", "text", Duration::ZERO);
        assert_eq!(stuck.unwrap_err(), "/bin/sh did not answer");
    }
}
