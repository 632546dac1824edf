//! Trains a sweep, on a terminal with its screen.

use super::{detach, say, screen_options};
use cifar_tui::commands;
use cifar_tui::commands::sweep::PreparedSweep;
use cifar_tui::config::{Config, OnHangup, OnUsr1};
use cifar_tui::domain::report::State;
use cifar_tui::domain::text::Plain;
use cifar_tui::exits::{DONE, of_signal};
use cifar_tui::session::attach;
use cifar_tui::session::protocol::Command;
use cifar_tui::session::run_dir::HostId;
use cifar_tui::session::sweep::{SweepEnd, SweepEvent, SweepRequest};
use cifar_tui::signals;
use cifar_tui::tui::sweep::{Steering, SweepApp, SweepInputs, SweepScreenEnd};
use cifar_tui::tui::{self, CloseReason, terminal};
use crossbeam_channel::{Receiver, Sender};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread::JoinHandle;

/// Trains the runs of a sweep, on a terminal with its screen.
pub fn sweep(
    prepared: PreparedSweep,
    headless: bool,
    json: bool,
    config: &Config,
) -> anyhow::Result<u8> {
    match headless || json || tui::usable().is_err() {
        true => sweep_lines(prepared, json, config),
        false => show(prepared, signals::listen(true)?, config),
    }
}

/// Prints what happens. A signal ends the sweep, with a checkpoint of each run under way; a hangup does if the
/// configuration says so.
fn sweep_lines(mut prepared: PreparedSweep, json: bool, config: &Config) -> anyhow::Result<u8> {
    let signals = signals::listen(false)?;
    let requests = commands::sweep::requests();
    let told = Arc::new(AtomicI32::new(0));
    let (signal, asks) = (Arc::clone(&told), requests.0.clone());
    let hangup_stops = config.options.on_hangup == OnHangup::CheckpointAndStop;
    let usr1_stops = config.options.on_usr1 == OnUsr1::CheckpointAndStop;
    spawn("stop", move || {
        for number in signals {
            if matches!(number, libc::SIGUSR1 | libc::SIGUSR2) && !usr1_stops {
                // Sending fails if the sweep has ended already.
                let _ = asks.send(SweepRequest::Checkpoint);
                continue;
            }
            if number == libc::SIGHUP && !hangup_stops {
                // Writing to the terminal now fails at once instead of stopping the process.
                detach();
                continue;
            }
            let _ = told.compare_exchange(0, number, Ordering::SeqCst, Ordering::SeqCst);
            let _ = asks.send(SweepRequest::Stop);
        }
    })?;
    let path = prepared.path().to_owned();
    let out = &mut Plain(std::io::stdout());
    let end = prepared.print(json, hangup_stops, &requests, out)?;
    if end == SweepEnd::Stopped && !json {
        say(&commands::sweep::resume_hint(&path));
    }
    finish_sweep(end, signal.load(Ordering::SeqCst))
}

/// The exit code of a sweep.
///
/// # Errors
/// Returns an error if runs could not be trained.
fn finish_sweep(end: SweepEnd, signal: i32) -> anyhow::Result<u8> {
    match (end, signal) {
        (SweepEnd::Done { failed }, _) => match failed.first() {
            None => Ok(DONE),
            Some((run, why)) => anyhow::bail!(
                "{} of the runs could not be trained. The first is {run}: {why}",
                failed.len()
            ),
        },
        (SweepEnd::Stopped, 0) => Ok(DONE),
        (SweepEnd::Stopped, signal) => Ok(of_signal(signal)),
    }
}

/// Shows the sweep while it is trained. Opened runs are shown as `attach` shows them.
pub fn show(
    mut prepared: PreparedSweep,
    signals: Receiver<i32>,
    config: &Config,
) -> anyhow::Result<u8> {
    let (path, trains) = (prepared.path().to_owned(), prepared.parallel > 0);
    let (asks, requests) = commands::sweep::requests();
    let (note, notes) = crossbeam_channel::unbounded();
    let (done, over) = crossbeam_channel::bounded(1);
    let warn = note.clone();
    let train = move || {
        let end = prepared.train(&requests, &mut |event| {
            if let SweepEvent::Warning { run, text } = event {
                // Sending fails if the screen has closed.
                let _ = warn.send(format!("{run}: {text}"));
            }
        });
        if let Err(error) = &end {
            let _ = warn.send(error.to_string());
        }
        let _ = done.send(());
        end
    };
    let runner = match trains {
        true => Some(spawn("sweep", train)?),
        false => None,
    };
    let reports = commands::sweep::reports(&path)?;
    let mut app = SweepApp::new(runner.is_some());
    let checkpoint = || {
        // Sending fails if the sweep has ended already.
        let _ = asks.send(SweepRequest::Checkpoint);
    };
    let inputs = SweepInputs {
        reports: &reports,
        notes: &notes,
        signals: &signals,
        over: &over,
        checkpoint: &checkpoint,
    };
    let steer = |run: &str, what: Steering| {
        let (path, run, note) = (path.clone(), run.to_owned(), note.clone());
        // Without a thread, nothing happens, and the user tries again.
        let _ = spawn("steer", move || {
            let words = match commands::sweep::steer(&path, &run, |state| steering(what, state)) {
                Ok(Command::Pause) => format!("{run} is paused"),
                Ok(Command::Resume) => format!("{run} goes on"),
                Ok(_) => format!("{run} is stopped"),
                Err(why) => format!("{run}: {why:#}"),
            };
            let _ = note.send(words);
        });
    };
    let options = screen_options(config);
    let mut signal = 0;
    loop {
        let mut end = tui::sweep::run(&mut app, &inputs, &steer, &options)?;
        if let SweepScreenEnd::Open(run) = &end {
            match open_run(&path, run, &signals, &options) {
                Ok(None) => continue,
                Ok(Some(next)) => end = next,
                Err(why) => {
                    app.note(format!("{why:#}"));
                    continue;
                }
            }
        }
        match end {
            SweepScreenEnd::Signal(number) => signal = number,
            SweepScreenEnd::TerminalGone
                if config.options.on_hangup == OnHangup::CheckpointAndStop =>
            {
                signal = libc::SIGHUP;
            }
            SweepScreenEnd::TerminalGone | SweepScreenEnd::Detached if runner.is_some() => {
                if end == SweepScreenEnd::Detached {
                    say(&commands::sweep::follow_hint(&path));
                    terminal::to_background()?;
                }
                detach();
                signal = train_unseen(&signals, &over, &asks, config)?;
            }
            _ => {}
        }
        break;
    }
    // Sending fails if the sweep has ended already.
    let _ = asks.send(SweepRequest::Stop);
    let Some(runner) = runner else {
        return Ok(if signal == 0 { DONE } else { of_signal(signal) });
    };
    let end = runner
        .join()
        .map_err(|_| anyhow::anyhow!("the sweep's thread panicked"))??;
    let out = &mut Plain(std::io::stdout());
    // The terminal may be gone.
    let _ = commands::sweep::print_results(&path, end != SweepEnd::Stopped, out);
    finish_sweep(end, signal)
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.into()).spawn(work)
}

/// The command for a run in this state.
fn steering(what: Steering, state: &State) -> Command {
    match (what, state) {
        (Steering::Stop, _) => Command::Stop,
        (Steering::Pause, State::Paused) => Command::Resume,
        (Steering::Pause, _) => Command::Pause,
    }
}

/// Shows a run of a sweep until the user leaves it. Returns why the sweep's screen is to close too, if it is.
fn open_run(
    sweep: &Path,
    run: &str,
    signals: &Receiver<i32>,
    options: &tui::ScreenOptions,
) -> anyhow::Result<Option<SweepScreenEnd>> {
    let client = attach::attach_here_or_through_files(sweep, run, &HostId::this())?;
    let options = tui::ScreenOptions {
        attached: true,
        ..options.clone()
    };
    let screen = tui::run(&client, signals, &options)?;
    Ok(match (screen.reason, screen.signal) {
        (CloseReason::TerminalGone, _) => Some(SweepScreenEnd::TerminalGone),
        (_, Some(signal)) => Some(SweepScreenEnd::Signal(signal)),
        (CloseReason::Detached | CloseReason::SessionEnded, None) => None,
    })
}

/// Waits without a terminal until the sweep is over, or a signal ends it. Returns the signal, or 0.
fn train_unseen(
    signals: &Receiver<i32>,
    over: &Receiver<()>,
    asks: &Sender<SweepRequest>,
    config: &Config,
) -> anyhow::Result<i32> {
    loop {
        crossbeam_channel::select! {
            recv(over) -> _ => return Ok(0),
            recv(signals) -> signal => match signal? {
                libc::SIGHUP if config.options.on_hangup == OnHangup::Continue => {}
                libc::SIGUSR1 | libc::SIGUSR2 if config.options.on_usr1 == OnUsr1::Checkpoint => {
                    let _ = asks.send(SweepRequest::Checkpoint);
                }
                libc::SIGTSTP | libc::SIGCONT | libc::SIGWINCH => {}
                signal => return Ok(signal),
            },
        }
    }
}
