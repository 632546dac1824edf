//! Tests of `y` inside and outside tmux: what is copied, and that success is reported only if it is known. A script
//! replaces tmux.

use crate::LONG;
use crate::pty::{Pty, Size};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn training(tmux: &str) -> (Pty, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("tmux");
    std::fs::write(&script, format!("#!/bin/sh\n{tmux}\n")).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", folder.path().display());
    let socket = if tmux.is_empty() {
        ""
    } else {
        "/tmp/socket,1,0"
    };
    let mut pty = Pty::command(
        Size::WIDE,
        Path::new(env!("CARGO_BIN_EXE_cifar-tui")),
        LONG,
        "xterm-256color",
        &[("PATH", &path), ("TMUX", socket)],
    );
    pty.wait_for("training", |s| s.contains("img/s"));
    pty.keys("y");
    (pty, folder)
}

/// `learning_rate = 0.001` in base64, as OSC 52 carries it.
const SENT: &str = "\x1b]52;c;bGVhcm5pbmdfcmF0ZSA9IDAuMDAx";

#[track_caller]
fn was_sent(pty: &Pty) {
    assert!(String::from_utf8_lossy(pty.written()).contains(SENT));
}

#[test]
fn inside_tmux_its_buffer_is_loaded() {
    let (mut pty, folder) = training("echo \"$@\" > \"$0.arguments\"; cat > \"$0.buffer\"");
    pty.wait_for("what is known", |s| {
        s.contains("in tmux's buffer: learning_rate = 0.001")
    });
    let wrote = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(wrote("tmux.buffer"), "learning_rate = 0.001");
    assert_eq!(wrote("tmux.arguments"), "load-buffer -w -\n");
    was_sent(&pty);
}

#[test]
fn an_error_of_tmux_is_quoted() {
    let (mut pty, _folder) = training("echo no server running >&2; exit 1");
    pty.wait_for("why", |s| {
        s.contains("not in tmux's buffer: no server running")
    });
    was_sent(&pty);
}

#[test]
fn outside_tmux_only_the_sending_is_reported() {
    let (mut pty, _folder) = training("");
    pty.wait_for("what is known", |s| {
        s.contains("sent to the terminal's clipboard: learning_rate = 0.001")
    });
    was_sent(&pty);
}
