//! Tests of the screen of a session on another computer. A script stands in for ssh: it runs the command here.

use crate::LONG;
use crate::exits::on;
use crate::hangup::few_images;
use crate::pty::{Pty, Size};
use std::os::unix::fs::PermissionsExt;

/// Starts a session, and makes `ssh` in its folder: a script that writes its number to `ssh.pid` and, as ssh does,
/// leaves the command to a shell.
pub fn training(data: &str) -> Pty {
    let mut pty = Pty::start(Size::SMALL, &on(data, LONG));
    pty.wait_for("an epoch", |s| s.contains("best"));
    let program = env!("CARGO_BIN_EXE_cifar-tui");
    let folder = std::path::Path::new(program).parent().unwrap();
    let script = format!(
        "#!/bin/sh\nPATH='{}':$PATH\n[ -e refuse ] && echo 'No route to host' >&2 && exit 255\n\
         echo $$ > ssh.pid\nshift 2\nexec sh -c \"exec $*\"\n",
        folder.display()
    );
    let ssh = pty.path("ssh");
    std::fs::write(&ssh, script).unwrap();
    std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o755)).unwrap();
    pty
}

/// The arguments that attach through the script.
pub const REMOTE: &[&str] = &["attach", "--ssh", "./ssh", "gpu-3:runs/long"];

fn kill_ssh(pty: &Pty) {
    let pid = std::fs::read_to_string(pty.path("ssh.pid")).unwrap();
    let pid: i32 = pid.trim().parse().unwrap();
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
}

#[test]
fn a_screen_from_afar_shows_steers_leaves_and_returns() {
    let data = few_images();
    let mut pty = training(data.path().to_str().unwrap());
    let mut far = pty.beside(Size::WIDE, REMOTE);
    far.wait_for("the history", |s| {
        s.contains("long") && s.contains("best") && s.contains("training")
    });
    far.keys(" ");
    far.wait_for("a pause", |s| s.contains("paused"));
    pty.wait_for("the pause on its own screen", |s| s.contains("paused"));
    // Pictures are saved where the screen is drawn.
    far.keys("2");
    far.wait_for("the matrix", |s| s.contains("most confused"));
    far.keys("s");
    far.wait_for("the picture", |s| s.contains("saved screen-confusion.png"));
    assert!(far.path("screen-confusion.png").is_file());
    far.keys("D");
    far.wait_for("how to return", |s| {
        s.contains("long stays paused; `cifar-tui attach --ssh ./ssh gpu-3:runs/long` returns")
    });
    far.ends_with(0);

    let mut far = pty.beside(Size::WIDE, REMOTE);
    far.wait_for("the pause", |s| s.contains("paused"));
    far.keys("q");
    far.wait_for("a question", |s| s.contains("for everyone?"));
    far.keys("y");
    far.ends_with(0);
    far.wait_for("where it is", |s| {
        s.contains("long is saved up to step") && s.contains("on gpu-3")
    });
    assert_eq!(pty.code(), 0);
}

#[test]
fn a_broken_connection_is_said_and_taken_up_again() {
    let data = few_images();
    let mut pty = training(data.path().to_str().unwrap());
    let mut far = pty.beside(Size::WIDE, REMOTE);
    far.wait_for("the screen", |s| s.contains("training"));
    std::fs::write(far.path("refuse"), "").unwrap();
    kill_ssh(&far);
    far.wait_for("why", |s| {
        s.contains("No connection; this was known before it broke.")
    });
    far.wait_for("the next reason", |s| s.contains("No route to host"));
    far.keys(" ");
    far.wait_for("a refusal", |s| {
        s.contains("not connected to gpu-3: it was not sent")
    });
    far.keys("q");
    far.wait_for("what works", |s| s.contains("not connected; D leaves"));
    std::fs::remove_file(far.path("refuse")).unwrap();
    far.wait_for("the connection", |s| {
        s.contains("connected again") && !s.contains("No connection")
    });
    far.keys(" ");
    far.wait_for("a pause", |s| s.contains("paused"));
    pty.wait_for("the pause on its own screen", |s| s.contains("paused"));

    // A session that ends while there is no connection: the reason is the error.
    std::fs::write(far.path("refuse"), "").unwrap();
    kill_ssh(&far);
    far.wait_for("why", |s| s.contains("No connection"));
    pty.keys("q");
    assert_eq!(pty.code(), 0);
    std::fs::remove_file(far.path("refuse")).unwrap();
    far.ends_with(5);
    far.wait_for("why", |s| {
        s.contains("error: on gpu-3: the run in runs/long is not running")
    });
}

#[test]
fn without_a_connection_the_screen_is_not_taken() {
    let data = few_images();
    let pty = training(data.path().to_str().unwrap());
    let mut far = pty.beside(Size::WIDE, &["attach", "--ssh", "./ssh", "gpu-3:nothing"]);
    far.ends_with(5);
    far.wait_for("why", |s| {
        s.contains("error: on gpu-3: there is no run called 'nothing'")
    });
    assert!(!far.written().windows(8).any(|w| w == b"\x1b[?1049h"));
}
