//! `sweep`: trains the runs of a sweep without a screen, and prints what happens and the results.

use crate::cli::SweepPlan;
use crate::config::Config;
use crate::data;
use crate::domain::keep::Keep;
use crate::domain::params::Value;
use crate::domain::report::{RunSummary, Split};
use crate::domain::sweep::{Plan, Repeats, Strategy, TrialEnd, describe, repeats};
use crate::domain::text::{command_line, percent, plain, plain_path};
use crate::hardware::device::DeviceChoice;
use crate::session::Settings;
use crate::session::run_dir::{HostId, Owner};
use crate::session::status::run_path;
use crate::session::sweep::{SweepEnd, SweepEvent, SweepFolder, SweepRow, SweepRunner};
use crossbeam_channel::Receiver;
use serde::Serialize;
use std::io::{self, Write};

/// A line of `--json`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Line<'a> {
    Sweep {
        folder: String,
        strategy: Strategy,
        trials: usize,
        parallel: usize,
    },
    Began {
        run: &'a str,
        values: Values<'a>,
        copy_of: Option<&'a (String, u32)>,
    },
    Epoch {
        run: &'a str,
        epoch: u32,
        split: Split,
        loss: f64,
        accuracy: f64,
    },
    Warning {
        run: &'a str,
        text: &'a str,
    },
    /// Without `end`, the run is to be trained further if it is among the best.
    Ended {
        run: &'a str,
        end: Option<TrialEnd>,
        why: &'a str,
    },
    Result {
        run: &'a str,
        values: Values<'a>,
        end: Option<TrialEnd>,
        epochs: u32,
        accuracy: Option<f64>,
        test_accuracy: Option<f64>,
    },
}

/// Values of hyperparameters as a JSON object.
struct Values<'a>(&'a [(String, Value)]);

impl Serialize for Values<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// Begins or continues a sweep, and prints what happens and, at the end, the results. `stop` ends it early.
///
/// # Errors
/// Returns an error if there is no such sweep, it cannot be planned, or a folder or the output cannot be written.
pub fn run(
    config: &Config,
    plan: &SweepPlan,
    parallel: Option<usize>,
    json: bool,
    stop: &Receiver<()>,
    out: &mut impl Write,
) -> anyhow::Result<SweepEnd> {
    let owner = || Owner::new(HostId::this());
    let mut folder = match plan {
        SweepPlan::Resume(name) => SweepFolder::open(&config.runs, name, owner())?,
        SweepPlan::New {
            axes,
            strategy,
            trials,
            name,
        } => {
            let mut plan = Plan::new(axes, *strategy, *trials, &config.params)?;
            // Wrong data fails here, and not once for every run.
            let found = data::find(config.options.data.as_deref())?;
            plan.data = Some(match found.is_sample() {
                true => data::SAMPLE.into(),
                false => std::path::absolute(&found.path)?.display().to_string(),
            });
            SweepFolder::create(&config.runs, name.as_deref(), plan, owner())?
        }
    };
    let device: DeviceChoice = config.options.device.parse()?;
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = match config.options.threads {
        0 => cores,
        threads => threads,
    };
    let parallel = match parallel {
        Some(parallel) => parallel,
        None if device.open()?.gpu().is_some() => 1,
        None => threads.min(folder.plan.trials.len()),
    };
    let recorded = folder.plan.data.as_ref().map(Into::into);
    let keep = match (config.origin("keep"), folder.plan.strategy) {
        // A copy begins at the end of an epoch that its donor has left behind.
        (None | Some(_), Strategy::Population) if config.options.keep == Keep::Last => Keep::Thin,
        (Some(_), _) | (None, Strategy::Population) => config.options.keep,
        (None, _) => Keep::Last,
    };
    let settings = Settings {
        data: config.options.data.clone().or(recorded),
        device,
        engine: config.options.engine,
        keep,
        threads: (threads / parallel).max(1),
        serve: true,
        ..Settings::default()
    };
    let mut printer = Printer { json, out };
    let mut written = printer.begin(&folder, parallel);
    // A closed output ends the sweep, as it ends any command.
    let (gone, out_closed) = crossbeam_channel::bounded(1);
    let stop = either(stop, &out_closed)?;
    let mut report = |event: &SweepEvent| {
        if written.is_ok() {
            written = printer.event(event);
            if written.is_err() {
                let _ = gone.try_send(());
            }
        }
    };
    let end = SweepRunner::new(&mut folder, settings, parallel).run(&stop, &mut report)?;
    written?;
    let name = run_path(folder.path());
    printer.results(&mut folder)?;
    if end == SweepEnd::Stopped && !json {
        let words = [
            "cifar-tui",
            "sweep",
            "--resume",
            &name.display().to_string(),
        ];
        writeln!(printer.out, "\nstopped  `{}` goes on", command_line(&words))?;
    }
    Ok(end)
}

/// A channel that receives the messages of both.
fn either(a: &Receiver<()>, b: &Receiver<()>) -> io::Result<Receiver<()>> {
    let (sender, both) = crossbeam_channel::unbounded();
    for receiver in [a.clone(), b.clone()] {
        let sender = sender.clone();
        std::thread::Builder::new()
            .name("stop".into())
            .spawn(move || {
                for message in receiver {
                    // Sending fails if the sweep has ended already.
                    let _ = sender.send(message);
                }
            })?;
    }
    Ok(both)
}

struct Printer<W> {
    json: bool,
    out: W,
}

impl<W: Write> Printer<W> {
    fn begin(&mut self, folder: &SweepFolder, parallel: usize) -> anyhow::Result<()> {
        let Plan {
            strategy, trials, ..
        } = &folder.plan;
        if self.json {
            return self.line(&Line::Sweep {
                folder: folder.path().display().to_string(),
                strategy: *strategy,
                trials: trials.len(),
                parallel,
            });
        }
        writeln!(
            self.out,
            "sweep    {} in {}: {} trials, {}, {parallel} at a time",
            plain(&folder.name()),
            plain_path(folder.path()),
            trials.len(),
            strategy.word(),
        )?;
        Ok(())
    }

    fn line(&mut self, line: &Line) -> anyhow::Result<()> {
        super::json(line, &mut self.out)?;
        Ok(self.out.flush()?)
    }

    fn event(&mut self, event: &SweepEvent) -> anyhow::Result<()> {
        if self.json {
            return self.line(&match event {
                SweepEvent::Began(job) => Line::Began {
                    run: &job.run,
                    values: Values(&job.start.values),
                    copy_of: job.start.copy_of.as_ref(),
                },
                SweepEvent::Epoch { job, report } => Line::Epoch {
                    run: &job.run,
                    epoch: report.epoch,
                    split: report.split,
                    loss: report.loss,
                    accuracy: report.accuracy,
                },
                SweepEvent::Warning { run, text } => Line::Warning { run, text },
                SweepEvent::Ended { job, end, why } => Line::Ended {
                    run: &job.run,
                    end: *end,
                    why,
                },
            });
        }
        let (run, words) = match event {
            SweepEvent::Began(job) => {
                let copy = job.start.copy_of.as_ref();
                let copy = copy.map_or_else(String::new, |(donor, epoch)| {
                    format!("  a copy of {donor} at the end of epoch {epoch}")
                });
                (&job.run, describe(&job.start.values) + &copy)
            }
            SweepEvent::Epoch { job, report } => {
                let words = format!(
                    "epoch {}  {} {}",
                    report.epoch,
                    split_name(report.split),
                    percent(report.accuracy)
                );
                (&job.run, words)
            }
            SweepEvent::Warning { run, text } => (run, format!("warning: {text}")),
            SweepEvent::Ended { job, end, why } => {
                let word = match (end, job.until) {
                    (Some(end), _) => end_word(*end).to_owned(),
                    (None, Some(epoch)) => format!("waits after epoch {epoch}"),
                    (None, None) => "interrupted".into(),
                };
                let why = if why.is_empty() {
                    String::new()
                } else {
                    format!(": {why}")
                };
                (&job.run, word + &why)
            }
        };
        writeln!(self.out, "{:<8} {}", plain(run), plain(&words))?;
        Ok(self.out.flush()?)
    }

    /// Prints the trials, the best first, and the means of those that were repeated.
    fn results(&mut self, folder: &mut SweepFolder) -> anyhow::Result<()> {
        let mut rows = folder.rows()?;
        rows.sort_by(|a, b| {
            let accuracy = |row: &SweepRow| row.accuracy().unwrap_or(f64::NEG_INFINITY);
            accuracy(b)
                .total_cmp(&accuracy(a))
                .then(a.trial.cmp(&b.trial))
        });
        if self.json {
            for row in &rows {
                self.line(&Line::Result {
                    run: &row.run,
                    values: Values(&row.start.values),
                    end: row.progress.end,
                    epochs: row.progress.epochs(),
                    accuracy: row.accuracy(),
                    test_accuracy: row.summary.as_ref().and_then(|run| run.test_accuracy),
                })?;
            }
            return Ok(());
        }
        let width = rows.iter().map(|row| row.run.chars().count()).max();
        let width = width.unwrap_or(0).max(3);
        let scored = split_name(folder.plan.params.scored_split());
        writeln!(
            self.out,
            "\n{:<width$}  {:<11}  {:>6}  {:>8}  {:>7}  values",
            "run",
            "outcome",
            "epochs",
            format!("best {scored}"),
            "test"
        )?;
        for row in &rows {
            let test = |run: &RunSummary| Some(percent(run.test_accuracy?) + run.test_tta.mark());
            writeln!(
                self.out,
                "{:<width$}  {:<11}  {:>6}  {:>8}  {:>7}  {}",
                plain(&row.run),
                outcome(row),
                row.progress.epochs(),
                row.accuracy().map_or("-".into(), percent),
                row.summary.as_ref().and_then(test).unwrap_or("-".into()),
                plain(&describe(&row.start.values)),
            )?;
        }
        let groups = repeats(rows.iter().filter_map(|row| {
            let done = row.progress.end == Some(TrialEnd::Done);
            Some((&*row.start.values, row.accuracy()?)).filter(|_| done)
        }));
        if groups.iter().any(|group| group.accuracies.len() > 1) {
            self.means(&groups, scored)?;
        }
        Ok(())
    }

    fn means(&mut self, groups: &[Repeats], scored: &str) -> anyhow::Result<()> {
        let mean = format!("best {scored}");
        writeln!(
            self.out,
            "\n{mean:>8}  {:>14}  {:>5}  values",
            "standard error", "seeds"
        )?;
        for group in groups {
            let error = group.standard_error();
            writeln!(
                self.out,
                "{:>8}  {:>14}  {:>5}  {}",
                percent(group.mean()),
                error.map_or("-".into(), |error| format!("{:.2}", 100.0 * error)),
                group.accuracies.len(),
                plain(&describe(&group.values)),
            )?;
        }
        Ok(())
    }
}

/// The images that trials are compared by, in short.
fn split_name(split: Split) -> &'static str {
    match split {
        Split::Test => "test",
        _ => "val",
    }
}

fn end_word(end: TrialEnd) -> &'static str {
    match end {
        TrialEnd::Done => "done",
        TrialEnd::Diverged => "diverged",
        TrialEnd::Stopped => "stopped",
        TrialEnd::Failed => "failed",
    }
}

fn outcome(row: &SweepRow) -> &'static str {
    match (row.progress.end, &row.summary) {
        (Some(end), _) => end_word(end),
        (None, None) => "not begun",
        (None, Some(_)) if row.progress.busy => "running",
        (None, Some(_)) => "not trained on",
    }
}
