//! Arguments to a front end or a command; wires the channels; the exit code.

use cifar_tui::cli::{self, Invocation, Task};
use cifar_tui::commands;
use cifar_tui::config::{self, Config, ConfigError, Flags, OnHangup, Surroundings};
use cifar_tui::domain::report::State;
use cifar_tui::domain::text::{Plain, plain, plain_lines};
use cifar_tui::headless::{self, Style};
use cifar_tui::session::link::Link;
use cifar_tui::session::protocol::Command;
use cifar_tui::session::run_dir::Host;
use cifar_tui::session::{self, Settings, attach};
use cifar_tui::tui::{self, Left, terminal};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

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
            // It may quote an argument: the same error with arguments that can be printed.
            let shown = std::env::args_os().map(|arg| plain(&arg.to_string_lossy()).into_owned());
            let error = cli::parse(shown).err().unwrap_or(error);
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
            let _ = writeln!(std::io::stderr(), "error: {}", paragraph(&error));
            ExitCode::from(code)
        }
    }
}

/// An error's text with its causes, those apart that it quotes itself. What it quotes may hold line breaks: the lines after
/// the first are indented, so that none of them looks like a message of its own.
fn paragraph(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        match text.is_empty() {
            true => text = cause,
            false if !text.contains(&cause) => text = format!("{text}: {cause}"),
            false => {}
        }
    }
    plain_lines(text.trim_end()).replace('\n', "\n       ")
}

fn run(invocation: &Invocation) -> anyhow::Result<u8> {
    session::log::start();
    let around = Surroundings::of_process()?;
    let config = config::load(&around, &invocation.flags)?;
    // Not locked: the bars and the screen write from threads of their own.
    let out = &mut Plain(std::io::stdout());
    match &invocation.task {
        Task::Screen(session) => {
            return screen(settings(&config, &invocation.flags, session)?, &config);
        }
        Task::Attach { run } => return attached(run.as_deref(), &config),
        Task::Train { session, json } => {
            let style = match json {
                true => Style::Json,
                false if std::io::stdout().is_terminal() => Style::Bars(config.options.symbols()),
                false => Style::Lines,
            };
            return train(
                settings(&config, &invocation.flags, session)?,
                style,
                &config,
            );
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
        } => {
            let err = &mut Plain(std::io::stderr());
            commands::predict::run(&config, checkpoint, images, *json, out, err)?;
        }
        Task::Runs(task) => commands::runs::run(task, &config, out)?,
        Task::Data(cli::Data::Info { json }) => commands::data::info(&config, *json, out)?,
        Task::Data(cli::Data::Verify) => commands::data::verify(&config, out)?,
        Task::Data(cli::Data::Download) => return download(&config, out),
        Task::Bench {
            seconds,
            eval,
            suite: false,
            json,
        } => commands::bench::run(&config, *seconds, *eval, *json, out)?,
        Task::Bench { json, .. } => {
            commands::suite::run(&config, *json, out, &mut std::io::stderr())?;
        }
        Task::Doctor { json } => commands::doctor::run(&config, &around, *json, out)?,
        Task::Config(task) => commands::config::run(task, &config, &around, out)?,
    }
    out.flush()?;
    Ok(0)
}

fn settings(config: &Config, flags: &Flags, session: &cli::Session) -> anyhow::Result<Settings> {
    let settings = Settings {
        params: config.params.clone(),
        overrides: config.given.iter().map(|(key, _)| (*key).into()).collect(),
        data: config.options.data.clone(),
        runs: Some(config.runs.clone()),
        name: session.name.clone(),
        resume: session.resume.as_ref().map(Into::into),
        device: config.options.device.parse()?,
        threads: config.options.threads,
        data_is_for_this_session: flags.options.iter().any(|(key, _)| *key == "data"),
        serve: true,
        ..Settings::default()
    };
    match session::resume::check(&settings) {
        Err(error) if error.is_usage() => Err(Usage(error.to_string()).into()),
        outcome => {
            outcome?;
            Ok(settings)
        }
    }
}

fn screen(settings: Settings, config: &Config) -> anyhow::Result<u8> {
    check_terminal()?;
    let (link, worker) = session::start(settings)?;
    let options = tui::Options {
        mouse: config.options.mouse,
        symbols: config.options.symbols,
        attached: false,
    };
    let mut outcome = tui::run(&link, &options)?;
    if outcome.left != Left::Over {
        let silent = without_screen(&link, &outcome, config)?;
        outcome.finished = true;
        (outcome.state, outcome.signal) = (silent.state, silent.signal);
    }
    let panicked = worker.join().is_err();
    if panicked || !outcome.finished {
        anyhow::bail!("the training thread died; the run's log.txt may say more");
    }
    finish(&outcome.state, outcome.signal)
}

/// The session goes on after its screen: the terminal has gone, or the user detached.
fn without_screen(
    link: &Link,
    screen: &tui::Outcome,
    config: &Config,
) -> anyhow::Result<headless::Outcome> {
    let signals = catch_signals()?;
    let stop = screen.left == Left::Gone && config.options.on_hangup == OnHangup::CheckpointAndStop;
    if screen.left == Left::Detached {
        let run = plain(&screen.run);
        println!("{run} trains on; `cifar-tui attach {run}` returns to it");
        if !terminal::to_background()? {
            tracing::info!("there is no shell to give the terminal back to");
        }
    }
    terminal::let_go()?;
    if stop {
        // A session that is already over needs no telling.
        let _ = link.commands.send(Command::Quit);
    }
    let mut on = || config.options.on_hangup == OnHangup::Continue;
    let mut outcome =
        headless::run_through(link, Style::Silent, &signals, &mut on, &mut std::io::sink());
    if stop {
        outcome.signal = outcome.signal.or(Some(libc::SIGHUP));
    }
    Ok(outcome)
}

fn check_terminal() -> Result<(), Usage> {
    tui::usable().map_err(|why| {
        Usage(format!(
            "cifar-tui needs a terminal: {why}. `cifar-tui train` trains without one."
        ))
    })
}

/// The screen of a session of another process.
fn attached(run: Option<&str>, config: &Config) -> anyhow::Result<u8> {
    check_terminal()?;
    let (found, others) = attach::find(&config.runs, run, &Host::this())?;
    for other in others {
        println!(
            "also running: {0}; `cifar-tui attach {0}`",
            plain(&other.name)
        );
    }
    let link = attach::attach(&found)?;
    let options = tui::Options {
        mouse: config.options.mouse,
        symbols: config.options.symbols,
        attached: true,
    };
    let outcome = tui::run(&link, &options)?;
    let signal = match outcome.left {
        Left::Gone => Some(libc::SIGHUP),
        _ => outcome.signal,
    };
    match (signal, outcome.left) {
        (Some(signal), _) => Ok((128 + signal) as u8),
        (None, Left::Over) if !outcome.finished => {
            anyhow::bail!(
                "the session of {} has gone; its log.txt may say more",
                found.name
            )
        }
        (None, Left::Over) => finish(&outcome.state, None),
        (None, _) => {
            println!(
                "{0} trains on; `cifar-tui attach {0}` returns to it",
                plain(&outcome.run)
            );
            Ok(0)
        }
    }
}

/// How long output that nobody takes is waited for when a signal has ended the session.
const PATIENCE: Duration = Duration::from_millis(200);

fn train(settings: Settings, style: Style, config: &Config) -> anyhow::Result<u8> {
    let signals = catch_signals()?;
    let (link, worker) = session::start(settings)?;
    let link = Arc::new(link);
    let (sender, forwarded) = crossbeam_channel::unbounded();
    let (done, outcome) = crossbeam_channel::bounded(1);
    let (printed, on_hangup) = (Arc::clone(&link), config.options.on_hangup);
    // On a thread of its own, since a terminal that stands still would keep signals from being heard.
    std::thread::Builder::new()
        .name("print".into())
        .spawn(move || {
            let mut hangup = || {
                if let Err(error) = terminal::let_go() {
                    tracing::warn!("cannot let go of the terminal: {error}");
                }
                on_hangup == OnHangup::Continue
            };
            let out = &mut Plain(std::io::stdout());
            let outcome = headless::run_through(&printed, style, &forwarded, &mut hangup, out);
            // Nobody waits any more when a signal was quicker.
            let _ = done.send(outcome);
        })?;
    let mut ended_by = None;
    let outcome = loop {
        crossbeam_channel::select! {
            recv(outcome) -> outcome => break outcome.ok(),
            recv(signals) -> signal => if let Ok(signal) = signal {
                // It ends only after the last word on `outcome`.
                let _ = sender.send(signal);
                if signal != libc::SIGHUP {
                    ended_by = Some(signal);
                    let _ = link.commands.send(Command::Quit);
                }
            },
            default(PATIENCE) => if ended_by.is_some() && worker.is_finished() {
                break outcome.recv_timeout(PATIENCE).ok();
            },
        }
    };
    if worker.join().is_err() {
        anyhow::bail!("the training thread panicked; the run's log.txt may say more");
    }
    match (outcome, ended_by) {
        (Some(outcome), _) => finish(&outcome.state, outcome.signal),
        // Its output stands still.
        (None, Some(signal)) => Ok((128 + signal) as u8),
        (None, None) => anyhow::bail!("the thread that prints panicked"),
    }
}

/// A signal stops the transfer; what has arrived is kept, and the next download goes on from there.
fn download(config: &Config, out: &mut impl Write) -> anyhow::Result<u8> {
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
    let fetched = commands::data::download(config, out, &stop);
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
    let mut wanted = vec![libc::SIGINT, libc::SIGTERM];
    // Under nohup a hangup is to stay without effect.
    // SAFETY: plain data, filled by sigaction, which changes nothing with a null pointer.
    let ignored = unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGHUP, std::ptr::null(), &raw mut now) == 0
            && now.sa_sigaction == libc::SIG_IGN
    };
    if !ignored {
        wanted.push(libc::SIGHUP);
    }
    let mut signals = signal_hook::iterator::Signals::new(wanted)?;
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
