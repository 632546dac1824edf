//! The screen of a session of another process, here or on another computer.

use super::{
    check_ended, check_terminal, finish, print_resume_hint, run_arguments, say, screen_options,
};
use cifar_tui::cli::Attach;
use cifar_tui::config::Config;
use cifar_tui::domain::text::{grouped, plain};
use cifar_tui::exits::{DONE, of_signal};
use cifar_tui::session::attach;
use cifar_tui::session::remote::pipe::Pipe;
use cifar_tui::session::remote::{self, Destination};
use cifar_tui::session::run_dir::HostId;
use cifar_tui::session::status::Status;
use cifar_tui::signals;
use cifar_tui::tui::{self, CloseReason, ScreenOutcome};
use std::io::Write;

/// Attaches to a session.
pub fn attach(what: &Attach, config: &Config) -> anyhow::Result<u8> {
    match what {
        Attach::Here { run } => here(run.as_deref(), config),
        Attach::Pipe { run } => pipe(run.as_deref(), config),
        Attach::Remote {
            host,
            run,
            ssh,
            runs,
        } => {
            let to = Destination {
                ssh: ssh.clone(),
                host: host.clone(),
                run: run.clone(),
                runs: runs.clone(),
            };
            far(&to, config)
        }
    }
}

fn here(run: Option<&str>, config: &Config) -> anyhow::Result<u8> {
    check_terminal("cifar-tui train")?;
    let signals = signals::listen(true)?;
    let (found, others) = attach::find(&config.runs, run, &HostId::this())?;
    for other in others {
        println!(
            "also running: {}; `cifar-tui {}`",
            plain(&other.name),
            run_arguments("attach", &other.folder)
        );
    }
    let client = attach::attach(&found)?;
    let options = tui::ScreenOptions {
        attached: true,
        ..screen_options(config)
    };
    let screen = tui::run(&client, &signals, &options)?;
    if let Some(signal) = signal_of(&screen) {
        return Ok(of_signal(signal));
    }
    if screen.reason == CloseReason::SessionEnded {
        check_ended(&screen.status, &found)?;
        print_resume_hint(&screen.status);
        return finish(&screen.status, None);
    }
    say(&screen.status.return_hint(true));
    Ok(DONE)
}

/// The signal that closed the screen.
fn signal_of(screen: &ScreenOutcome) -> Option<i32> {
    match screen.reason {
        CloseReason::TerminalGone => Some(libc::SIGHUP),
        _ => screen.signal,
    }
}

/// Passes the protocol's lines on; the terminal, if there is one, is not touched.
fn pipe(run: Option<&str>, config: &Config) -> anyhow::Result<u8> {
    let (found, _) = attach::find(&config.runs, run, &HostId::this())?;
    Pipe::open(&found)?.relay(std::io::stdin(), &mut std::io::stdout())?;
    Ok(DONE)
}

/// The screen of a session on another computer.
fn far(to: &Destination, config: &Config) -> anyhow::Result<u8> {
    check_terminal("cifar-tui train")?;
    // Until the session's first message, ssh may ask for a password, and signals act as usual.
    let mut show = |words: &str| {
        // Standard error may be closed.
        let _ = writeln!(std::io::stderr(), "{words}");
    };
    let (client, session) = remote::attach(to.clone(), &mut show)?;
    let signals = signals::listen(true)?;
    let options = tui::ScreenOptions {
        attached: true,
        remote: true,
        ..screen_options(config)
    };
    let screen = tui::run(&client, &signals, &options)?;
    if let Some(signal) = signal_of(&screen) {
        return Ok(of_signal(signal));
    }
    if screen.reason != CloseReason::SessionEnded {
        let back = to.attach_command(&screen.status.run);
        say(&format!(
            "{} {}; `{back}` returns to it",
            name(&screen.status),
            screen.status.goes_on()
        ));
        return Ok(DONE);
    }
    if let Some(error) = session.error() {
        return Err(error.into());
    }
    anyhow::ensure!(
        screen.status.ended,
        "the session of {} ended unexpectedly; see its log.txt on {}",
        name(&screen.status),
        to.host
    );
    if let Some(step) = screen.status.saved_step {
        say(&format!(
            "{} is saved up to step {} in {} on {}",
            name(&screen.status),
            grouped(step),
            screen.status.folder,
            to.host
        ));
    }
    finish(&screen.status, None)
}

fn name(status: &Status) -> &str {
    match status.run.as_str() {
        "" => "the session",
        run => run,
    }
}
