//! Parses the arguments, starts a front end or a command, connects the channels and determines the exit code.

#[path = "main/attach.rs"]
mod attach;
#[path = "main/sweep.rs"]
mod sweep;

use cifar_tui::cli::{self, Invocation, Task};
use cifar_tui::commands;
use cifar_tui::config::{self, Config, ConfigError, Flags, OnHangup, OnUsr1, Surroundings};
use cifar_tui::domain::report::State;
use cifar_tui::domain::text::{Plain, grouped, plain, plain_lines};
use cifar_tui::exits::{DIVERGED, DONE, FAILED, NO_SESSION, REFUSED, TIMED_OUT, USAGE, of_signal};
use cifar_tui::headless::{self, Notice, Style};
use cifar_tui::session::attach::{AttachError, RunningSession};
use cifar_tui::session::client::SessionClient;
use cifar_tui::session::protocol::{self, Command};
use cifar_tui::session::remote::RemoteError;
use cifar_tui::session::run_dir::HostId;
use cifar_tui::session::sent::NoAnswer;
use cifar_tui::session::status::{Status, run_arguments};
use cifar_tui::session::{self, Settings, attach as sessions};
use cifar_tui::signals;
use cifar_tui::tui::{self, CloseReason, terminal};
use crossbeam_channel::Receiver;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A usage error that the command line's parser cannot detect.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

fn main() -> ExitCode {
    let invocation = match cli::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(error) => {
            // Help and version are not errors; clap prints them to the right stream.
            let code = error.exit_code();
            // The error may quote an argument. Parse again with hidden characters escaped, so that it is safe to print.
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
        // The exit code that a shell reports for the writer in `| head`.
        Err(error) if commands::reader_gone(&error) => ExitCode::from(of_signal(libc::SIGPIPE)),
        Err(error) => {
            // If standard error is closed, the error cannot be reported.
            let _ = writeln!(std::io::stderr(), "error: {}", paragraph(&error));
            ExitCode::from(code_of(&error))
        }
    }
}

/// The exit code of an error.
fn code_of(error: &anyhow::Error) -> u8 {
    if error.is::<ConfigError>() || error.is::<Usage>() {
        return USAGE;
    }
    if let Some(error) = error.downcast_ref::<RemoteError>() {
        return error.exit_code();
    }
    match (error.downcast_ref(), error.downcast_ref()) {
        (Some(NoAnswer::TimedOut { .. } | NoAnswer::Withdrawn { .. }), _)
        | (_, Some(AttachError::Silent { .. })) => TIMED_OUT,
        (Some(NoAnswer::Ended { .. }), _) | (_, Some(_)) => NO_SESSION,
        (None, None) => FAILED,
    }
}

/// An error's text followed by its causes, except causes that the text already contains. Lines after the first are
/// indented, so that line breaks in quoted text cannot imitate a message.
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
    let (config, wrong) = match (config::load(&around, &invocation.flags), &invocation.task) {
        // An error in the config file is one of doctor's findings.
        (Err(error), Task::Doctor { .. }) => {
            let config = config::load_without_file(&around, &invocation.flags)?;
            (config, Some(error))
        }
        (loaded, _) => (loaded?, None),
    };
    // Do not lock standard output: the progress bars and the screen write from their own threads.
    let out = &mut Plain(std::io::stdout());
    match &invocation.task {
        Task::Screen(session) => {
            return screen(settings(&config, &invocation.flags, session)?, &config);
        }
        Task::Attach(attach) => return attach::attach(attach, &config),
        Task::Train { session, json } => {
            return train(
                settings(&config, &invocation.flags, session)?,
                style(*json, &config),
                &config,
            );
        }
        Task::Eval {
            checkpoint,
            weights,
            tta,
            split,
            json,
        } => {
            let how = (*weights, *tta);
            commands::eval::run(&config, checkpoint, how, split, *json, out)?;
        }
        Task::Predict {
            checkpoint,
            weights,
            tta,
            images,
            json,
        } => {
            let err = &mut Plain(std::io::stderr());
            let how = (*weights, *tta);
            commands::predict::run(&config, checkpoint, how, images, *json, out, err)?;
        }
        Task::Runs(task) => commands::runs::run(task, &config, out)?,
        Task::Data(cli::DataCommand::Info { json }) => commands::data::info(&config, *json, out)?,
        Task::Data(cli::DataCommand::Verify) => commands::data::verify(&config, out)?,
        Task::Data(cli::DataCommand::Download) => return download(&config, out),
        Task::Bench {
            tune: true, json, ..
        } => commands::explain::variants::tune(&config, *json, out)?,
        Task::Bench {
            explain: true,
            options,
            gpu,
            json,
            ..
        } => commands::explain::run(&config, *gpu, *options, *json, out)?,
        Task::Bench {
            options,
            suite: false,
            json,
            ..
        } => commands::bench::run(&config, *options, *json, out)?,
        Task::Bench { peer, json, .. } => {
            let progress = &mut std::io::stderr();
            commands::suite::run(&config, peer.as_deref(), *json, out, progress)?;
        }
        Task::FindLr { run, steps, json } => {
            commands::find_lr::run(&config, run.as_deref(), *steps, *json, out)?;
        }
        Task::Sweep {
            plan,
            slurm: Some(slurm),
            parallel,
            json,
            ..
        } => commands::sweep::submit(&config, plan, slurm, *parallel, *json, out)?,
        Task::Sweep {
            plan,
            parallel,
            waits,
            headless,
            slurm: None,
            json,
        } => {
            let prepared = commands::sweep::prepare(&config, plan, *parallel, *waits)?;
            return sweep::sweep(prepared, *headless, *json, &config);
        }
        Task::Doctor { json } => {
            commands::doctor::run(&config, wrong.as_ref(), &around, *json, out)?;
        }
        Task::Send(sending) => {
            return Ok(match commands::send::run(sending, &config, out)? {
                true => DONE,
                false => REFUSED,
            });
        }
        Task::Watch { run, json } => {
            return watch(run.as_deref(), style(*json, &config), &config);
        }
        Task::Protocol => out.write_all(protocol::page().as_bytes())?,
        Task::Recipes { json } => commands::recipes::run(*json, out)?,
        Task::Keys => out.write_all(tui::actions::listing(config.options.symbols()).as_bytes())?,
        Task::Config(task) => commands::config::run(task, &config, &around, out)?,
    }
    out.flush()?;
    Ok(DONE)
}

fn settings(config: &Config, flags: &Flags, session: &cli::Session) -> anyhow::Result<Settings> {
    let settings = Settings {
        params: config.params.clone(),
        overrides: config.given.iter().map(|(key, _)| (*key).into()).collect(),
        data: config.options.data.clone(),
        runs: Some(config.runs.clone()),
        name: session.name.clone(),
        resume: session.resume.as_ref().map(Into::into),
        fork: session.fork.clone(),
        device: config.options.device.parse()?,
        engine: config.options.engine,
        gpu_tuning: config.options.gpu_tuning,
        keep: config.options.keep,
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
    check_terminal(match &settings.fork {
        Some(_) => "cifar-tui fork --headless",
        None => "cifar-tui train",
    })?;
    let signals = signals::listen(true)?;
    let (client, worker) = session::start(settings)?;
    let screen = tui::run(&client, &signals, &screen_options(config))?;
    let mut stopped_by = screen.signal;
    if screen.reason != CloseReason::SessionEnded && !screen.status.ended {
        if screen.reason == CloseReason::TerminalGone
            && config.options.on_hangup == OnHangup::CheckpointAndStop
        {
            stopped_by = stopped_by.or(Some(libc::SIGHUP));
        }
        leave_terminal(&client, &screen)?;
        let (style, status) = (Style::Silent, screen.status);
        return run_to_end(client, worker, style, status, &signals, stopped_by, config);
    }
    if worker.join().is_err() || !screen.status.ended {
        anyhow::bail!("the training thread died; see the run's log.txt");
    }
    print_resume_hint(&screen.status);
    if let (Some(plan), None) = (screen.sweep, stopped_by) {
        return sweep::show(commands::sweep::begin(config, plan)?, signals, config);
    }
    finish(&screen.status, stopped_by)
}

fn screen_options(config: &Config) -> tui::ScreenOptions {
    tui::ScreenOptions {
        mouse: config.options.mouse,
        symbols: config.options.symbols,
        usr1_stops: config.options.on_usr1 == OnUsr1::CheckpointAndStop,
        ..Default::default()
    }
}

/// Continues the session after its screen has closed because the terminal disappeared or the user detached.
fn leave_terminal(client: &SessionClient, screen: &tui::ScreenOutcome) -> anyhow::Result<()> {
    if screen.reason == CloseReason::Detached {
        if screen.status.state.is_over() && client.is_alone() {
            // The run is over and nobody is attached: end at once.
            print_resume_hint(&screen.status);
            return Ok(());
        }
        say(&screen.status.return_hint(!client.is_unreachable()));
        if !terminal::to_background()? {
            tracing::info!("there is no shell to give the terminal back to");
        }
    }
    signals::stop_at_once();
    terminal::detach()?;
    Ok(())
}

fn print_resume_hint(status: &Status) {
    if let Some(words) = status.resume_hint("cifar-tui") {
        say(&words);
    }
}

/// Prints a line to standard output, which may be closed.
fn say(words: &str) {
    let _ = writeln!(std::io::stdout(), "{}", plain(words));
}

/// Checks whether the screen can be shown. `instead` is a command that trains without it.
fn check_terminal(instead: &str) -> Result<(), Usage> {
    tui::usable().map_err(|why| {
        Usage(format!(
            "cifar-tui needs a terminal: {why}. `{instead}` trains without one."
        ))
    })
}

/// How events are written to standard output.
fn style(json: bool, config: &Config) -> Style {
    match json {
        true => Style::Json,
        false if std::io::stdout().is_terminal() => Style::Bars(config.options.symbols()),
        false => Style::Lines,
    }
}

/// Prints the events of a session of another process until it ends.
fn watch(run: Option<&str>, style: Style, config: &Config) -> anyhow::Result<u8> {
    let found = sessions::find_one(&config.runs, run, &HostId::this())?;
    let client = sessions::attach(&found)?;
    let gone = headless::on_closed_output()?;
    let out = &mut Plain(std::io::stdout());
    let status = headless::watch(&client, style, &gone, out)?;
    check_ended(&status, &found)?;
    if style != Style::Json {
        print_resume_hint(&status);
    }
    finish(&status, None)
}

/// # Errors
/// Returns an error if the last event of a session of another process has not arrived.
fn check_ended(status: &Status, session: &RunningSession) -> anyhow::Result<()> {
    anyhow::ensure!(
        status.ended,
        "the session of {} ended unexpectedly; see its log.txt",
        session.name
    );
    Ok(())
}

/// How long to wait for blocked output after a signal has ended the session.
const OUTPUT_TIMEOUT: Duration = Duration::from_millis(200);

fn train(settings: Settings, style: Style, config: &Config) -> anyhow::Result<u8> {
    let signals = signals::listen(false)?;
    let (client, worker) = session::start(settings)?;
    let status = Status::default();
    run_to_end(client, worker, style, status, &signals, None, config)
}

/// Runs a session with status `status` to its end without a screen. The signal `stopped_by`, which closed the screen,
/// ends the session. This thread handles signals; another one prints, since a blocked terminal must not delay signals.
fn run_to_end(
    client: SessionClient,
    worker: JoinHandle<()>,
    style: Style,
    status: Status,
    signals: &Receiver<i32>,
    mut stopped_by: Option<i32>,
    config: &Config,
) -> anyhow::Result<u8> {
    let hangup_stops = config.options.on_hangup == OnHangup::CheckpointAndStop;
    let usr1_stops = config.options.on_usr1 == OnUsr1::CheckpointAndStop;
    let on_terminal = std::io::stdout().is_terminal();
    let client = Arc::new(client);
    let printed = Arc::clone(&client);
    let (notices, noticed) = crossbeam_channel::unbounded();
    let (done, outcome) = crossbeam_channel::bounded(1);
    std::thread::Builder::new()
        .name("print".into())
        .spawn(move || {
            let mut hangup = || {
                detach();
                !hangup_stops
            };
            let out = &mut Plain(std::io::stdout());
            let outcome = headless::run(&printed, style, status, &noticed, &mut hangup, out);
            // After a signal, nobody may be waiting for the result.
            let _ = done.send(outcome);
        })?;
    let stop = |signal| {
        // Sending fails if the session or the printer has ended already.
        let _ = notices.send(Notice::Stopping(signal));
        let _ = client.commands.send(Command::Quit);
    };
    if let Some(signal) = stopped_by {
        stop(signal);
    }
    let outcome = loop {
        crossbeam_channel::select! {
            recv(outcome) -> outcome => break outcome.ok(),
            recv(signals) -> signal => match signal {
                Ok(signal @ (libc::SIGUSR1 | libc::SIGUSR2)) if !usr1_stops => {
                    let _ = client.commands.send(Command::Checkpoint);
                    let _ = notices.send(Notice::Saving);
                    tracing::info!("a checkpoint was asked for by signal {signal}");
                }
                Ok(libc::SIGHUP) if !hangup_stops => {
                    detach();
                    let _ = notices.send(Notice::HungUp { output_gone: on_terminal });
                }
                // Signals of the screen, which has closed.
                Ok(libc::SIGTSTP | libc::SIGCONT | libc::SIGWINCH) => {}
                Ok(signal) => {
                    stopped_by.get_or_insert(signal);
                    stop(signal);
                }
                Err(_) => anyhow::bail!("the thread that listens to signals has died"),
            },
            default(OUTPUT_TIMEOUT) => if stopped_by.is_some() && worker.is_finished() {
                break outcome.recv_timeout(OUTPUT_TIMEOUT).ok();
            },
        }
    };
    if worker.join().is_err() {
        anyhow::bail!("the training thread panicked; see the run's log.txt");
    }
    match (outcome, stopped_by) {
        (Some(outcome), _) => finish(&outcome.status, stopped_by.or(outcome.signal)),
        // The printing thread is blocked by its output.
        (None, Some(signal)) => Ok(of_signal(signal)),
        (None, None) => anyhow::bail!("the thread that prints panicked"),
    }
}

/// Detaches from the terminal: nothing is read from or written to it any more.
fn detach() {
    if let Err(error) = terminal::detach() {
        tracing::warn!("cannot detach from the terminal: {error}");
    }
}

/// Downloads the data set. A signal stops the transfer; received bytes are kept, and the next download continues from
/// there.
fn download(config: &Config, out: &mut impl Write) -> anyhow::Result<u8> {
    let signals = signals::listen(false)?;
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
        0 => fetched.map(|()| DONE),
        signal => Ok(of_signal(signal)),
    }
}

/// The exit code of a session.
///
/// # Errors
/// Returns an error if the session failed, or not everything is saved.
fn finish(status: &Status, signal: Option<i32>) -> anyhow::Result<u8> {
    match (&status.state, &status.unsaved, signal) {
        (State::Failed { why }, ..) => anyhow::bail!("{why}"),
        (_, Some(why), _) => anyhow::bail!(
            "not everything is saved of a run that came to step {}: {why}",
            grouped(status.step)
        ),
        (State::Diverged { .. }, ..) => Ok(DIVERGED),
        (.., Some(signal)) => Ok(of_signal(signal)),
        _ => Ok(DONE),
    }
}
