//! Arguments to a front end or a command; wires the channels; the exit code.

use cifar_tui::cli::{self, Invocation, Task};
use cifar_tui::config::{self, Config, ConfigError, Surroundings};
use cifar_tui::domain::report::State;
use cifar_tui::headless::{self, Outcome, Style};
use cifar_tui::session::{self, Settings};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const DIVERGED: u8 = 3;

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
        Err(error) => {
            let code = match error.is::<ConfigError>() {
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
    let around = Surroundings::of_process()?;
    let config = config::load(&around, &invocation.flags)?;
    match &invocation.task {
        Task::Train { session, json } => {
            let style = match json {
                true => Style::Json,
                false if std::io::stdout().is_terminal() => Style::Bars,
                false => Style::Lines,
            };
            train(settings(&config, session)?, style)
        }
    }
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

fn train(settings: Settings, style: Style) -> anyhow::Result<u8> {
    let signals = catch_signals()?;
    let (link, worker) = session::start(settings)?;
    let outcome = headless::run(&link, style, &signals, &mut std::io::stdout().lock());
    if worker.join().is_err() {
        anyhow::bail!("the training thread panicked; the run's log.txt may say more");
    }
    Ok(exit_code(&outcome))
}

fn exit_code(outcome: &Outcome) -> u8 {
    match (outcome.signal, &outcome.state) {
        (_, State::Failed { .. }) => FAILED,
        (_, State::Diverged { .. }) => DIVERGED,
        (Some(signal), _) => (128 + signal) as u8,
        _ => 0,
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
