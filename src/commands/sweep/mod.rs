//! `sweep`: prepares a sweep and trains its runs, without a screen or for one.

mod printer;
mod slurm;
mod steer;

pub use slurm::submit;
pub use steer::steer;

use crate::cli::SweepPlan;
use crate::config::Config;
use crate::data;
use crate::domain::keep::Keep;
use crate::domain::sweep::{Plan, Strategy, SweepReport};
use crate::domain::text::command_line;
use crate::hardware::device::DeviceChoice;
use crate::session::Settings;
use crate::session::run_dir::{HostId, Owner};
use crate::session::status::run_path;
use crate::session::sweep::{
    SweepEnd, SweepEvent, SweepFolder, SweepFolderError, SweepRequest, SweepRunner,
};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use printer::SweepPrinter;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time between two reports for the screen.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);

/// A sweep that is ready to be trained.
pub struct PreparedSweep {
    folder: SweepFolder,
    settings: Settings,
    /// Number of runs to train at the same time; 0: only show what other processes train.
    pub parallel: usize,
    waits: bool,
}

/// Makes or opens the sweep that the arguments describe. `waits` is that of [`SweepRunner::new`].
///
/// # Errors
/// Returns an error if there is no such sweep, it cannot be planned, its data does not exist, or its folder cannot be
/// written.
pub fn prepare(
    config: &Config,
    plan: &SweepPlan,
    parallel: Option<usize>,
    waits: bool,
) -> anyhow::Result<PreparedSweep> {
    with_folder(config, folder(config, plan)?, parallel, waits)
}

/// Makes the sweep of a plan whose data is known.
///
/// # Errors
/// Returns an error if its folder cannot be written.
pub fn begin(config: &Config, plan: Plan) -> anyhow::Result<PreparedSweep> {
    let folder = SweepFolder::create(&config.runs, None, plan, owner())?;
    with_folder(config, folder, None, true)
}

fn with_folder(
    config: &Config,
    folder: SweepFolder,
    parallel: Option<usize>,
    waits: bool,
) -> anyhow::Result<PreparedSweep> {
    let device: DeviceChoice = config.options.device.parse()?;
    let opened = device.open()?;
    let threads = match config.options.threads {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
        threads => threads,
    };
    let parallel = parallel
        .or(config.sweep.parallel)
        .unwrap_or(match opened.gpu() {
            Some(_) => 1,
            None => threads.min(folder.plan.trials.len()),
        });
    let keep = match (folder.plan.strategy, config.origin("keep")) {
        // A copy begins at the end of an epoch that its donor has left behind.
        (Strategy::Population, _) if config.options.keep == Keep::Last => Keep::Thin,
        (Strategy::Population, _) | (_, Some(_)) => config.options.keep,
        (_, None) => Keep::Last,
    };
    let planned = folder.plan.data.as_ref().map(PathBuf::from);
    let settings = Settings {
        data: planned.or_else(|| config.options.data.clone()),
        device,
        engine: config.options.engine,
        gpu_tuning: config.options.gpu_tuning,
        keep,
        threads: (threads / parallel.max(1)).max(1),
        serve: true,
        ..Settings::default()
    };
    Ok(PreparedSweep {
        folder,
        settings,
        parallel,
        waits,
    })
}

/// Makes or opens the folder of the sweep that the arguments describe.
///
/// # Errors
/// Returns an error if there is no such sweep, it cannot be planned, its data does not exist, or its folder cannot be
/// written.
fn folder(config: &Config, plan: &SweepPlan) -> anyhow::Result<SweepFolder> {
    Ok(match plan {
        SweepPlan::Resume(name) => open(&config.runs, Path::new(name))?,
        SweepPlan::New {
            axes,
            strategy,
            trials,
            name,
        } => {
            // The sweep of config.toml stands for one that was not typed.
            let (axes, strategy, trials) = match (axes.is_empty(), &config.sweep) {
                (true, sweep) => (
                    &sweep.axes,
                    strategy.or(sweep.strategy),
                    trials.or(sweep.trials),
                ),
                (false, _) => (axes, *strategy, *trials),
            };
            let mut plan = Plan::new(axes, strategy, trials, &config.params)?;
            // Wrong data fails here, and not once for every run.
            let found = data::find(config.options.data.as_deref())?;
            plan.data = Some(match found.is_sample() {
                true => data::SAMPLE.into(),
                false => std::path::absolute(&found.path)?.display().to_string(),
            });
            SweepFolder::create(&config.runs, name.as_deref(), plan, owner())?
        }
    })
}

fn owner() -> Owner {
    Owner::new(HostId::this())
}

/// The sweep with this name in the runs folder, or in the folder with this path.
///
/// # Errors
/// Returns an error if there is no such sweep, or its plan cannot be read.
fn open(runs: &Path, name: &Path) -> Result<SweepFolder, SweepFolderError> {
    SweepFolder::open(runs, name, owner())
}

impl PreparedSweep {
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Trains until the plan is carried out or it is asked to stop.
    ///
    /// # Errors
    /// Returns an error if the sweep's folder cannot be read, or the system refuses a thread.
    pub fn train(
        &mut self,
        requests: &Receiver<SweepRequest>,
        report: &mut dyn FnMut(&SweepEvent),
    ) -> Result<SweepEnd, SweepFolderError> {
        let settings = self.settings.clone();
        SweepRunner::new(&mut self.folder, settings, self.parallel, self.waits)
            .run(requests, report)
    }

    /// Trains, and prints what happens and, at the end, the results. An output that nobody reads ends it early. If its
    /// terminal has disappeared, it ends if `hangup_stops`, and is silent otherwise.
    ///
    /// # Errors
    /// Returns the errors of [`PreparedSweep::train`], and an error if the output cannot be written.
    pub fn print(
        &mut self,
        json: bool,
        hangup_stops: bool,
        (asks, requests): &(Sender<SweepRequest>, Receiver<SweepRequest>),
        out: &mut impl Write,
    ) -> anyhow::Result<SweepEnd> {
        let mut printer = SweepPrinter { json, out };
        let mut written = printer.begin(&self.folder, self.parallel);
        let mut report = |event: &SweepEvent| {
            if written.is_ok() {
                written = printer.event(event);
                if written
                    .as_ref()
                    .is_err_and(|error| hangup_stops || !is_of_terminal(error))
                {
                    // Sending cannot fail while `requests` exists.
                    let _ = asks.send(SweepRequest::Stop);
                }
            }
        };
        let end = match self.parallel {
            0 => SweepEnd::Stopped,
            _ => self.train(requests, &mut report)?,
        };
        match written {
            Err(error) if !hangup_stops && is_of_terminal(&error) => return Ok(end),
            written => written?,
        }
        printer.results(&mut self.folder)?;
        Ok(end)
    }
}

/// Whether an error of writing means that the terminal has disappeared.
fn is_of_terminal(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|error| error.raw_os_error() == Some(libc::EIO))
    })
}

/// A channel of requests.
pub fn requests() -> (Sender<SweepRequest>, Receiver<SweepRequest>) {
    unbounded()
}

/// Prints the results of the sweep in the folder.
///
/// # Errors
/// Returns an error if the folder cannot be read or the output cannot be written.
pub fn print_results(folder: &Path, over: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let mut sweep = open(folder, folder)?;
    let mut printer = SweepPrinter { json: false, out };
    printer.results(&mut sweep)?;
    if !over {
        writeln!(printer.out, "\n{}", resume_hint(folder))?;
    }
    Ok(())
}

/// How to go on with a sweep that was stopped.
pub fn resume_hint(folder: &Path) -> String {
    format!("stopped  `{}` goes on", resume(folder, &[]))
}

/// How to look at a sweep that goes on without its screen.
pub fn follow_hint(folder: &Path) -> String {
    let command = resume(folder, &["--parallel", "0"]);
    format!("the sweep trains on; `{command}` shows it")
}

fn resume(folder: &Path, more: &[&str]) -> String {
    let name = run_path(folder).display().to_string();
    command_line(&[&["cifar-tui", "sweep", "--resume", &name], more].concat())
}

/// A channel of reports of the sweep in the folder: a new one whenever the last has been taken, at most two a second.
///
/// # Errors
/// Returns an error if the sweep cannot be read, or the system refuses a thread.
pub fn reports(folder: &Path) -> anyhow::Result<Receiver<SweepReport>> {
    let mut sweep = open(folder, folder)?;
    let (sender, reports) = bounded(0);
    std::thread::Builder::new()
        .name("reports".into())
        .spawn(move || {
            loop {
                match sweep.report() {
                    Ok(report) => {
                        if sender.send(report).is_err() {
                            // Nobody looks any more.
                            return;
                        }
                    }
                    Err(error) => tracing::warn!("{error}"),
                }
                std::thread::sleep(REPORT_INTERVAL);
            }
        })?;
    Ok(reports)
}
