//! Tests that bring about every row of EXITS.

use crate::LONG;
use crate::hangup::{ATTACH, WILD, few_images};
use crate::pty::{Pty, Size};
use crate::remote;
use cifar_tui::exits::{EXITS, Ending, of_signal};
use cifar_tui::headless::{self, Style};
use cifar_tui::session::status::Status;
use cifar_tui::session::{self, Settings};
use cifar_tui::train::checkpoint::Checkpoint;

/// The observed effect of a cause.
struct Ended {
    /// The exit code; None if the process continues.
    code: Option<u32>,
    /// The signal that was the cause.
    signal: Option<i32>,
}

/// Starts the program, with `data` instead of the sample set, which takes longer to load.
fn start(data: &str, args: &[&str]) -> Pty {
    Pty::start(Size::WIDE, &on(data, args))
}

/// `args` with `data` in the place of the sample set.
pub fn on<'a>(data: &'a str, args: &[&'a str]) -> Vec<&'a str> {
    let replaced = args.iter().map(|arg| match *arg {
        "sample" => data,
        arg => arg,
    });
    replaced.collect()
}

/// Starts the screen and waits until the first epoch of its run is done.
fn training(data: &str, more: &[&str]) -> Pty {
    let mut pty = start(data, &[LONG, more].concat());
    pty.wait_for("an epoch", |s| s.contains("best"));
    pty
}

/// A run of one epoch.
fn short(before: &[&'static str]) -> Vec<&'static str> {
    [
        before,
        &LONG[..4],
        &["--epochs", "1", "--name", "long", "--threads", "1"],
    ]
    .concat()
}

fn step(pty: &Pty) -> u64 {
    let read = Checkpoint::read(&pty.path("runs/long/last.safetensors"));
    read.unwrap().run_state.step
}

/// Ends the program with `signal`.
fn by(mut pty: Pty, signal: i32) -> Ended {
    let last = pty.path("runs/long/last.safetensors");
    // The checkpoint of the first epoch is written while training continues.
    pty.until("a checkpoint", || {
        Checkpoint::read(&last).is_ok_and(|read| read.run_state.step > 0)
    });
    let before = step(&pty);
    pty.signal(signal);
    let code = Some(pty.code());
    assert!(step(&pty) >= before);
    Ended {
        code,
        signal: Some(signal),
    }
}

fn code(mut pty: Pty) -> Ended {
    Ended {
        code: Some(pty.code()),
        signal: None,
    }
}

/// Asserts that the process continues, by attaching to it; then ends it with a signal.
fn goes_on(mut pty: Pty, shows: &str) -> Ended {
    let mut other = pty.beside(Size::SMALL, ATTACH);
    other.wait_for("the session", |s| s.contains(shows));
    other.keys("D");
    other.ends_with(0);
    pty.signal(libc::SIGTERM);
    assert_eq!(pty.code(), 143);
    Ended {
        code: None,
        signal: None,
    }
}

fn train(data: &str, more: &[&str]) -> Pty {
    let mut pty = start(data, &[&["train"], LONG, more].concat());
    pty.wait_for("an epoch", |s| s.contains("1/9999"));
    pty
}

/// Runs a paused session without a socket and without a screen in this process.
fn without_a_socket(data: &str) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = Settings {
        data: Some(data.into()),
        runs: Some(folder.path().into()),
        name: Some("long".into()),
        threads: 1,
        paused: true,
        ..Settings::default()
    };
    settings.params.architecture = "conv 4 s4, relu, dense 10".into();
    let (link, worker) = session::start(settings).unwrap();
    let (status, nothing) = (Status::default(), crossbeam_channel::never());
    let mut out = Vec::new();
    let outcome = headless::run(
        &link,
        Style::Silent,
        status,
        &nothing,
        &mut || true,
        &mut out,
    );
    worker.join().unwrap();
    assert!(out.is_empty());
    assert!(folder.path().join("long/last.safetensors").is_file());
    Ended {
        code: outcome.signal.map(|signal| of_signal(signal).into()),
        signal: Some(libc::SIGHUP),
    }
}

const USR1_STOPS: &[&str] = &["--on-usr1", "checkpoint-and-stop"];

/// Brings about a cause, each way that it has, with runs on `data`.
fn bring_about(cause: &str, data: &str) -> Vec<Ended> {
    match cause {
        "all epochs are done" => {
            let mut pty = start(data, &short(&["train"]));
            pty.wait_for("the end", |s| s.contains("done"));
            vec![code(pty)]
        }
        "`q` or ctrl-c on the screen" => {
            let leave = |key: &str| {
                let mut pty = training(data, &[]);
                pty.keys(key);
                pty.wait_for("how to go on", |s| s.contains("cifar-tui --resume"));
                assert!(step(&pty) > 0);
                code(pty)
            };
            vec![leave("q"), leave("\u{3}")]
        }
        "`D`, or a terminal that disappears, during a run" => {
            let mut detached = training(data, &[]);
            detached.keys("D");
            detached.wait_for("how to return", |s| s.contains("attach runs/long"));
            let mut gone = training(data, &[]);
            gone.vanish();
            vec![goes_on(detached, "best"), goes_on(gone, "best")]
        }
        "`D`, or a terminal that disappears, while paused" => {
            let mut pty = training(data, &[]);
            pty.keys(" ");
            pty.wait_for("a pause", |s| s.contains("paused"));
            pty.keys("D");
            pty.wait_for("how to return", |s| s.contains("stays paused"));
            vec![goes_on(pty, "paused")]
        }
        "a terminal that disappears while paused, if no socket could be created" => {
            vec![without_a_socket(data)]
        }
        "`D`, or a terminal that disappears, after the end of the run" => {
            let over = || {
                let mut pty = start(data, &short(&[]));
                pty.wait_for("the end", |s| s.contains("✓ done"));
                pty
            };
            let (mut detached, mut gone) = (over(), over());
            detached.keys("D");
            detached.wait_for("where it lies", |s| s.contains("files are in"));
            gone.vanish();
            vec![code(detached), code(gone)]
        }
        "an error, a panic" => {
            let mut pty = start(data, &["train", "--data", "absent"]);
            pty.wait_for("the error", |s| {
                s.contains("error: ") && s.contains("absent")
            });
            vec![code(pty)]
        }
        "not everything of the run can be saved at its end" => {
            let mut pty = train(data, &[]);
            // Move the folder instead of deleting it, since the run may add a file at the same time.
            std::fs::rename(pty.path("runs/long"), pty.path("moved")).unwrap();
            pty.signal(libc::SIGTERM);
            pty.wait_for("what is lost", |s| s.contains("not everything is saved"));
            vec![code(pty)]
        }
        "a wrong flag or config.toml, no terminal for the screen" => {
            let mut flag = start(data, &["train", "--lr", "11"]);
            flag.wait_for("what is allowed", |s| s.contains("0 to 10"));
            let terminal = Pty::start_as(Size::WIDE, &[], "dumb");
            vec![code(flag), code(terminal)]
        }
        "the run has diverged (with a screen: after `q`)" => {
            let mut without = start(data, &[&["train"], WILD].concat());
            without.wait_for("what happened", |s| s.contains("stopped being finite"));
            let mut with = start(data, WILD);
            with.wait_for("what happened", |s| s.contains("stopped being finite"));
            with.keys("q");
            vec![code(without), code(with)]
        }
        "`send`: a command is refused or, with `--wait`, has no effect" => {
            let mut pty = train(data, &[]);
            let mut refused = pty.beside(Size::WIDE, &["send", "runs/long", "go-back"]);
            refused.wait_for("why", |s| s.contains("\"refused\":"));
            let mut accepted = pty.beside(Size::WIDE, &["send", "runs/long", "pause"]);
            accepted.wait_for("the step", |s| s.contains("\"applied_at\":"));
            accepted.ends_with(0);
            pty.signal(libc::SIGTERM);
            assert_eq!(pty.code(), 143);
            vec![code(refused)]
        }
        "`send`, `watch`, `attach`: no such session, or several" => {
            let without = |command: &[&str]| {
                let mut pty = start(data, &[command, &["--runs", "runs"]].concat());
                pty.wait_for("why", |s| s.contains("no session is running"));
                code(pty)
            };
            vec![
                without(&["send", "pause"]),
                without(&["watch"]),
                without(&["attach"]),
            ]
        }
        "`attach HOST:RUN`: no connection to HOST, or no such session there" => {
            let mut unreachable = start(data, &["attach", "--ssh", "false", "gpu-3:one"]);
            unreachable.wait_for("why", |s| s.contains("error: no connection to gpu-3"));
            let pty = remote::training(data);
            let mut far = pty.beside(Size::WIDE, &["attach", "--ssh", "./ssh", "gpu-3:nothing"]);
            far.wait_for("why", |s| s.contains("error: on gpu-3: there is no run"));
            vec![code(unreachable), code(far)]
        }
        "`send --timeout`: no answer in time" => {
            let mut pty = train(data, &[]);
            let mut waiting = pty.beside(
                Size::WIDE,
                &[
                    "send",
                    "runs/long",
                    "set",
                    "seed=5",
                    "--wait",
                    "--timeout",
                    "0.1",
                ],
            );
            waiting.wait_for("a hint", |s| s.contains("may still take effect"));
            pty.signal(libc::SIGTERM);
            assert_eq!(pty.code(), 143);
            vec![code(waiting)]
        }
        "SIGINT, SIGTERM" => vec![
            by(train(data, &[]), libc::SIGINT),
            by(training(data, &[]), libc::SIGTERM),
        ],
        "SIGHUP with `on_hangup = \"checkpoint-and-stop\"`" => {
            let stops = ["--on-hangup", "checkpoint-and-stop"];
            vec![
                by(train(data, &stops), libc::SIGHUP),
                by(training(data, &stops), libc::SIGHUP),
            ]
        }
        "SIGUSR1, SIGUSR2" => {
            let mut pty = train(data, &[]);
            pty.signal(libc::SIGUSR1);
            pty.wait_for("a word", |s| s.contains("writing a checkpoint"));
            vec![goes_on(pty, "best")]
        }
        "SIGUSR1, SIGUSR2 with `on_usr1 = \"checkpoint-and-stop\"`" => vec![
            by(train(data, USR1_STOPS), libc::SIGUSR1),
            by(training(data, USR1_STOPS), libc::SIGUSR2),
        ],
        "the reader of standard output has gone" => {
            let program = env!("CARGO_BIN_EXE_cifar-tui");
            let line = format!(
                "exec '{program}' train '{}' > >(head -3)",
                on(data, LONG).join("' '")
            );
            let shell = std::path::Path::new("/bin/bash");
            let pty = Pty::command(Size::WIDE, shell, &["-c", &line], "xterm-256color", &[]);
            vec![code(pty)]
        }
        "SIGKILL, a crash, a power cut" => vec![by(training(data, &[]), libc::SIGKILL)],
        other => panic!("'{other}' is not brought about"),
    }
}

#[test]
fn every_exit_matches_the_table() {
    let data = few_images();
    let data = data.path().to_str().unwrap();
    for row in EXITS {
        for ended in bring_about(row.cause, data) {
            let wanted = match (row.ending, ended.signal) {
                (Ending::Code(code), _) => Some(u32::from(code)),
                (Ending::Signal, Some(signal)) => Some(u32::from(of_signal(signal))),
                (Ending::Signal, None) => panic!("{}: by which signal?", row.cause),
                (Ending::GoesOn, _) => None,
            };
            assert_eq!(ended.code, wanted, "{}", row.cause);
        }
    }
}
