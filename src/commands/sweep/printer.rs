//! Writes what happens in a sweep and its results, as lines or as JSON.

use crate::domain::params::Value;
use crate::domain::report::{RunSummary, Split};
use crate::domain::sweep::{Plan, Repeats, Strategy, TrialEnd, accuracy_name, describe, repeats};
use crate::domain::text::{percent, plain, plain_path};
use crate::session::sweep::{SweepEvent, SweepFolder};
use serde::Serialize;
use std::io::Write;

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

/// Writes the events and the results of a sweep.
pub(super) struct SweepPrinter<W> {
    pub json: bool,
    pub out: W,
}

impl<W: Write> SweepPrinter<W> {
    pub fn begin(&mut self, folder: &SweepFolder, parallel: usize) -> anyhow::Result<()> {
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
        crate::commands::json(line, &mut self.out)?;
        Ok(self.out.flush()?)
    }

    pub fn event(&mut self, event: &SweepEvent) -> anyhow::Result<()> {
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
                    (Some(end), _) => end.word().to_owned(),
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
    pub fn results(&mut self, folder: &mut SweepFolder) -> anyhow::Result<()> {
        let report = folder.report()?;
        let rows = report.ranked();
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
        let accuracy = accuracy_name(&folder.plan.params);
        writeln!(
            self.out,
            "\n{:<width$}  {:<11}  {:>6}  {:>9}  {:>7}  values",
            "run", "outcome", "epochs", accuracy, "test"
        )?;
        for row in &rows {
            let test = |run: &RunSummary| Some(percent(run.test_accuracy?) + run.test_tta.mark());
            writeln!(
                self.out,
                "{:<width$}  {:<11}  {:>6}  {:>9}  {:>7}  {}",
                plain(&row.run),
                row.state(),
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
            self.means(&groups, accuracy)?;
        }
        Ok(())
    }

    fn means(&mut self, groups: &[Repeats], accuracy: &str) -> anyhow::Result<()> {
        writeln!(
            self.out,
            "\n{accuracy:>9}  {:>14}  {:>5}  values",
            "standard error", "seeds"
        )?;
        for group in groups {
            let error = group.standard_error();
            writeln!(
                self.out,
                "{:>9}  {:>14}  {:>5}  {}",
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
