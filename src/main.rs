//! Arguments to a front end or a command; wires the channels; the exit code.

use cifar_tui::cli::{self, Invocation, Task};
use cifar_tui::commands;
use cifar_tui::config::{self, Config, ConfigError, Surroundings};
use cifar_tui::domain::report::State;
use cifar_tui::headless::{self, Style};
use cifar_tui::session::{self, Settings};
use cifar_tui::tui;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const DIVERGED: u8 = 3;

/// Something that was asked for in a way that cannot work.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

fn main() -> ExitCode {
    let invocation = match cli::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(error) => {
            // Help and version are no errors: clap knows the stream and the code.
            let code = error.exit_code();
            return match error.print() {
                Ok(()) => ExitCode::from(code as u8),
                Err(_) => ExitCode::from(FAILED),
            };
        }
    };
    match run(&invocation) {
        Ok(code) => ExitCode::from(code),
        // What a shell would say of `| head`.
        Err(error) if commands::reader_gone(&error) => ExitCode::from(128 + libc::SIGPIPE as u8),
        Err(error) => {
            let code = match error.is::<ConfigError>() || error.is::<Usage>() {
                true => USAGE,
                false => FAILED,
            };
            // With standard error gone there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::from(code)
        }
    }
}

fn run(invocation: &Invocation) -> anyhow::Result<u8> {
    session::log::start();
    let around = Surroundings::of_process()?;
    let config = config::load(&around, &invocation.flags)?;
    // Not locked: the bars and the screen write from threads of their own.
    let out = &mut std::io::stdout();
    match &invocation.task {
        Task::Screen(session) => return screen(settings(&config, session)?, &config),
        Task::Train { session, json } => {
            let style = match json {
                true => Style::Json,
                false if std::io::stdout().is_terminal() => Style::Bars,
                false => Style::Lines,
            };
            return train(settings(&config, session)?, style, out);
        }
        Task::Eval {
            checkpoint,
            split,
            json,
        } => commands::eval::run(&config, checkpoint, split, *json, out)?,
        Task::Predict {
            checkpoint,
            images,
            json,
        } => commands::predict::run(&config, checkpoint, images, *json, out)?,
        Task::Runs(task) => commands::runs::run(task, &config, out)?,
        Task::Data(cli::Data::Info { json }) => commands::data::info(&config, *json, out)?,
        Task::Data(cli::Data::Verify) => commands::data::verify(&config, out)?,
        Task::Data(cli::Data::Download) => return download(out),
        Task::Bench {
            seconds,
            eval,
            json,
        } => commands::bench::run(&config, *seconds, *eval, *json, out)?,
        Task::Doctor { json } => commands::doctor::run(&config, &around, *json, out)?,
        Task::Config(task) => commands::config::run(task, &config, &around, out)?,
    }
    out.flush()?;
    Ok(0)
}

fn settings(config: &Config, session: &cli::Session) -> anyhow::Result<Settings> {
    Ok(Settings {
        params: config.params.clone(),
        overrides: config.given.iter().map(|(key, _)| (*key).into()).collect(),
        data: config.options.data.clone(),
        download_to: None,
        runs: Some(config.runs.clone()),
        name: session.name.clone(),
        resume: session.resume.as_ref().map(Into::into),
        device: config.options.device.parse()?,
        threads: config.options.threads,
        paused: false,
    })
}

fn screen(settings: Settings, config: &Config) -> anyhow::Result<u8> {
    if let Err(why) = tui::usable() {
        return Err(Usage(format!(
            "cifar-tui needs a terminal: {why}. `cifar-tui train` trains without one."
        ))
        .into());
    }
    let (link, worker) = session::start(settings)?;
    let options = tui::Options {
        mouse: config.options.mouse,
        ..Default::default()
    };
    let outcome = tui::run(link, &options)?;
    let panicked = worker.join().is_err();
    if panicked || !outcome.finished {
        anyhow::bail!("the training thread died; the run's log.txt may say more");
    }
    finish(&outcome.state, outcome.signal)
}

fn train(settings: Settings, style: Style, out: &mut impl Write) -> anyhow::Result<u8> {
    let signals = catch_signals()?;
    let (link, worker) = session::start(settings)?;
    let outcome = headless::run(&link, style, &signals, out);
    if worker.join().is_err() {
        anyhow::bail!("the training thread panicked; the run's log.txt may say more");
    }
    finish(&outcome.state, outcome.signal)
}

/// A signal stops the transfer; what has arrived is kept, and the next download goes on from there.
fn download(out: &mut impl Write) -> anyhow::Result<u8> {
    let signals = catch_signals()?;
    let stop = Arc::new(AtomicBool::new(false));
    let (told, stopper) = (Arc::new(AtomicI32::new(0)), stop.clone());
    let signal = told.clone();
    std::thread::Builder::new()
        .name("stop".into())
        .spawn(move || {
            if let Ok(number) = signals.recv() {
                told.store(number, Ordering::SeqCst);
                stopper.store(true, Ordering::SeqCst);
            }
        })?;
    let fetched = commands::data::download(out, &stop);
    match signal.load(Ordering::SeqCst) {
        0 => fetched.map(|()| 0),
        signal => Ok((128 + signal) as u8),
    }
}

/// The exit code of a session.
fn finish(state: &State, signal: Option<i32>) -> anyhow::Result<u8> {
    match (signal, state) {
        (_, State::Failed { why }) => anyhow::bail!("{why}"),
        (_, State::Diverged { .. }) => Ok(DIVERGED),
        (Some(signal), _) => Ok((128 + signal) as u8),
        _ => Ok(0),
    }
}

/// The signals that end a session in order, as they arrive.
fn catch_signals() -> std::io::Result<crossbeam_channel::Receiver<i32>> {
    let mut signals =
        signal_hook::iterator::Signals::new([libc::SIGINT, libc::SIGTERM, libc::SIGHUP])?;
    let (sender, receiver) = crossbeam_channel::unbounded();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in &mut signals {
                if sender.send(signal).is_err() {
                    return;
                }
            }
        })?;
    Ok(receiver)
}
