//! `runs`: lists, shows and compares runs, and exports their epochs.

use crate::cli;
use crate::config::Config;
use crate::domain::params::{HYPERPARAMS, Tta};
use crate::domain::report::{RunSummary, Split};
use crate::domain::sweep::describe;
use crate::domain::text::{bytes, compact, duration, grouped, percent, plain, plain_path};
use crate::session::run_dir::{HostId, Owner};
use crate::session::runs::RunsFolder;
use crate::session::sweep::{ListedSweep, SweepFolder};
use crate::train::kept::{self, KEPT};
use anyhow::Context;
use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;

/// # Errors
/// Returns an error if the folder cannot be read, or there is no such run.
pub fn run(task: &cli::RunsCommand, config: &Config, out: &mut impl Write) -> anyhow::Result<()> {
    let mut runs = RunsFolder::new(&config.runs, Owner::new(HostId::this()));
    let mut one = |name: &str| -> anyhow::Result<RunSummary> {
        let folder = match Path::new(name).join("metrics.jsonl").exists() {
            true => Path::new(name).to_owned(),
            false => config.runs.join(name),
        };
        runs.summary(&folder).with_context(|| {
            format!(
                "there is no run '{name}' in {}; `cifar-tui runs` lists them, --runs names another folder",
                config.runs.display()
            )
        })
    };
    match task {
        cli::RunsCommand::List { json } => {
            let all = runs.list()?;
            match json {
                true => super::json(&all, out),
                false => {
                    let owner = Owner::new(HostId::this());
                    let sweeps = SweepFolder::list(&config.runs, &owner)?;
                    if sweeps.is_empty() || !all.is_empty() {
                        list(&all, config, out)?;
                    }
                    list_sweeps(&sweeps, !all.is_empty(), out)
                }
            }
        }
        cli::RunsCommand::Show { name, json } => {
            let mut run = one(name)?;
            if run.origin.is_some() {
                run = with_parent(run)?;
            }
            match json {
                true => super::json(&run, out),
                false => show(&run, out),
            }
        }
        cli::RunsCommand::Compare { names, json } => {
            let all = names
                .iter()
                .map(|name| one(name))
                .collect::<anyhow::Result<Vec<_>>>()?;
            match json {
                true => super::json(&all, out),
                false => compare(&all, out),
            }
        }
        cli::RunsCommand::Export { name, format } => {
            let run = one(name)?;
            match format.as_str() {
                "json" => super::json(&run.epochs, out),
                _ => Ok(out.write_all(csv(&run).as_bytes())?),
            }
        }
    }
}

/// The run with its place in the family tree of its runs folder.
fn with_parent(run: RunSummary) -> anyhow::Result<RunSummary> {
    let folder = Path::new(&run.folder).parent().unwrap_or(Path::new("."));
    let all = RunsFolder::new(folder, Owner::new(HostId::this())).list()?;
    let found = all.into_iter().find(|other| other.name == run.name);
    Ok(found.unwrap_or(run))
}

/// A score that is an average over these views.
fn marked(score: Option<f64>, tta: Tta) -> String {
    let mark = if score.is_some() { tta.mark() } else { "" };
    share(score) + mark
}

fn share(value: Option<f64>) -> String {
    value.map_or("-".into(), percent)
}

/// The run's test accuracy, and those of its average and its best weights.
fn test(run: &RunSummary) -> String {
    let others = [
        ("average", run.average_test_accuracy),
        ("best weights", run.best_test_accuracy),
    ];
    let others = others
        .into_iter()
        .filter_map(|(name, accuracy)| Some(format!("{name} {}", percent(accuracy?))));
    let others = match others.collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => none,
        others => format!(" ({others})"),
    };
    format!(
        "{}{others}{}",
        share(run.test_accuracy),
        run.test_tta.describe()
    )
}

fn differs(run: &RunSummary) -> String {
    let words: Vec<_> = run
        .differs
        .iter()
        .map(|(key, value)| format!("{key} {value}"))
        .collect();
    words.join(", ")
}

fn list(runs: &[RunSummary], config: &Config, out: &mut impl Write) -> anyhow::Result<()> {
    if runs.is_empty() {
        writeln!(
            out,
            "No runs in {} yet; `cifar-tui` or `cifar-tui train` makes one.",
            plain_path(&config.runs)
        )?;
        return Ok(());
    }
    let symbols = config.options.symbols();
    let name = |run: &RunSummary| symbols.text(&run.branch()) + &plain(&run.name);
    let width = runs.iter().map(|run| name(run).chars().count()).max();
    let width = width.unwrap_or(0).max(4);
    let marks = runs.iter().map(|run| run.test_tta.mark().len());
    let mark = marks.max().unwrap_or(0);
    let (test_width, best_width) = (7 + mark, 9 + mark);
    let statuses: Vec<_> = runs.iter().map(RunSummary::status).collect();
    let status_width = statuses.iter().map(|s| s.chars().count()).max();
    let status_width = status_width.unwrap_or(0).max(11);
    writeln!(
        out,
        "{:<width$}  {:<status_width$}  {:>7}  {:>8}  {:>test_width$}  {:>best_width$}  {:>8}  differs from the seed recipe",
        "run", "outcome", "epochs", "best val", "test", "best test", "time"
    )?;
    for (run, status) in runs.iter().zip(&statuses) {
        let epochs = format!("{}/{}", run.epochs_done, run.params.epochs);
        let line = format!(
            "{:<width$}  {:<status_width$}  {epochs:>7}  {:>8}  {:>test_width$}  {:>best_width$}  {:>8}  {}",
            name(run),
            plain(status),
            share(run.best_val_accuracy),
            marked(run.test_accuracy, run.test_tta),
            marked(run.best_test_accuracy, run.test_tta),
            duration(run.elapsed),
            plain(&differs(run))
        );
        writeln!(out, "{}", line.trim_end())?;
        for text in [&forked(run), &run.problem, &run.note] {
            if !text.is_empty() {
                writeln!(out, "{:<width$}  {}", "", plain(text))?;
            }
        }
    }
    Ok(())
}

/// Writes one line for each sweep, after an empty line if something stands `above` them.
fn list_sweeps(sweeps: &[ListedSweep], above: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let width = sweeps
        .iter()
        .map(|sweep| plain(&sweep.name).chars().count());
    let Some(width) = width.max().map(|width| width.max(5)) else {
        return Ok(());
    };
    let line = |[name, strategy, ended, training, best, of]: [&str; 6]| {
        let line =
            format!("{name:<width$}  {strategy:<10}  {ended:>9}  {training:>8}  {best:>8}  {of}");
        line.trim_end().to_owned()
    };
    let above = if above { "\n" } else { "" };
    let head = ["sweep", "strategy", "ended", "training", "best", "run"];
    writeln!(out, "{above}{}", line(head))?;
    for ListedSweep { name, report } in sweeps {
        let name = plain(name);
        let report = match report {
            Ok(report) => report,
            Err(error) => {
                writeln!(out, "{name:<width$}  {}", plain(&error.to_string()))?;
                continue;
            }
        };
        let ended = format!("{}/{}", report.ended(), report.rows.len());
        let best = report.ranked().into_iter().next();
        let best = best.and_then(|row| Some((row, row.accuracy()?)));
        let of = best.map(|(row, _)| format!("{}: {}", row.run, describe(&row.start.values)));
        writeln!(
            out,
            "{}",
            line([
                &name,
                report.plan.strategy.word(),
                &ended,
                &report.training().to_string(),
                &share(best.map(|(_, accuracy)| accuracy)),
                &plain(&of.unwrap_or_default()),
            ])
        )?;
    }
    Ok(())
}

/// `forked from one at the end of epoch 5, step 6,250: learning_rate 0.001 to 0.0005`; empty for a run that is no fork.
fn forked(run: &RunSummary) -> String {
    let changes = run
        .origin
        .as_ref()
        .map_or(String::new(), |o| o.describe_changes());
    match (run.forked_from(), changes.is_empty()) {
        (None, _) => String::new(),
        (Some(from), true) => format!("forked from {from}"),
        (Some(from), false) => format!("forked from {from}: {changes}"),
    }
}

fn show(run: &RunSummary, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, "{}", plain(&run.name))?;
    let mut line = |key: &str, value: String| match value.is_empty() {
        true => Ok(()),
        false => writeln!(out, "  {key:<16} {}", plain(&value)),
    };
    line("folder", run.folder.clone())?;
    line("note", run.note.clone())?;
    line("outcome", run.status())?;
    line("problem", run.problem.clone())?;
    if let Some(origin) = &run.origin {
        line("forked from", run.forked_from().unwrap_or_default())?;
        line("changes", origin.describe_changes())?;
        line("weights", origin.describe_weights())?;
    }
    line("data", run.data.clone())?;
    line("steps", grouped(run.step))?;
    line("time", duration(run.elapsed))?;
    line("size", bytes(run.bytes))?;
    line("kept", kept(Path::new(&run.folder)))?;
    line(
        "best validation",
        match (run.best_val_accuracy, run.best_epoch) {
            (Some(best), Some(epoch)) => format!("{} in epoch {epoch}", percent(best)),
            (best, _) => share(best),
        },
    )?;
    line("test", test(run))?;
    let target = percent(run.params.target);
    line(
        "target",
        match run.reached {
            _ if run.params.target == 0.0 => String::new(),
            None => format!("{target}, not reached"),
            Some(reached) => format!(
                "{target}, reached in {}, at step {}, the end of epoch {}",
                duration(reached.elapsed),
                grouped(reached.step),
                reached.epoch
            ),
        },
    )?;
    writeln!(out)?;
    for row in HYPERPARAMS {
        let value = row.show(&row.get(&run.params));
        let mark = match run.differs.iter().any(|(key, _)| key == row.key) {
            true => "*",
            false => " ",
        };
        writeln!(out, "{mark} {:<16} {}", row.key, plain(&value))?;
    }
    let scored = match run.params.scored_split() {
        Split::Test => ["test loss", ""],
        _ => ["val loss", "val acc"],
    };
    writeln!(
        out,
        "\n{:>6} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "epoch", "loss", "accuracy", scored[0], scored[1], "test acc", "time"
    )?;
    for e in &run.epochs {
        writeln!(
            out,
            "{:>6} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}{}{}",
            e.epoch,
            compact(e.train_loss, 4),
            percent(e.train_accuracy),
            compact(e.loss, 4),
            match e.split {
                Split::Test => String::new(),
                _ => percent(e.accuracy),
            },
            share(e.test_accuracy),
            duration(e.elapsed),
            match (e.best, e.tta.is_none()) {
                (true, _) => "  best".into(),
                (false, true) => String::new(),
                (false, false) => format!("  {}", e.tta.mark().trim()),
            },
            e.average.map_or(String::new(), |average| format!(
                "  average {}",
                percent(average.accuracy)
            ))
        )?;
    }
    Ok(())
}

fn compare(runs: &[RunSummary], out: &mut impl Write) -> anyhow::Result<()> {
    type Row = (&'static str, Vec<String>);
    let of = |key, value: &dyn Fn(&RunSummary) -> String| -> Row {
        let values = runs.iter().map(value);
        (key, values.map(|v| plain(&v).into_owned()).collect())
    };
    let mut rows = vec![
        of("run", &|r| r.name.clone()),
        of("outcome", &RunSummary::status),
        of("data", &|r| r.data.clone()),
        of("epochs", &|r| r.epochs_done.to_string()),
        of("best val", &|r| share(r.best_val_accuracy)),
        of("in epoch", &|r| {
            r.best_epoch.map_or("-".into(), |e| e.to_string())
        }),
        of("last val", &|r| share(r.final_val_accuracy)),
        of("test", &test),
        of("time", &|r| duration(r.elapsed)),
    ];
    for param in HYPERPARAMS {
        let (key, values) = of(param.key, &|r| param.show(&param.get(&r.params)));
        if values.iter().any(|v| *v != values[0]) {
            rows.push((key, values));
        }
    }
    let widths: Vec<usize> = (0..runs.len())
        .map(|i| {
            rows.iter()
                .map(|r| r.1[i].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    for (key, values) in rows {
        write!(out, "{key:<16}")?;
        for (value, width) in values.iter().zip(&widths) {
            write!(out, "  {value:>width$}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// The epochs as comma-separated values. Unknown values are empty.
fn csv(run: &RunSummary) -> String {
    let mut text = String::from(
        "epoch,step,train_loss,train_accuracy,val_loss,val_accuracy,test_loss,test_accuracy,best,images_per_s,elapsed,average_loss,average_accuracy,tta\n",
    );
    for e in &run.epochs {
        let test = e.test_accuracy.map_or(String::new(), |a| a.to_string());
        let (validation, test_loss) = match e.split {
            Split::Test => (",".to_owned(), e.loss.to_string()),
            _ => (format!("{},{}", e.loss, e.accuracy), String::new()),
        };
        let average = match e.average {
            Some(average) => format!("{},{}", average.loss, average.accuracy),
            None => ",".into(),
        };
        let _ = writeln!(
            text,
            "{},{},{},{},{validation},{test_loss},{test},{},{},{},{average},{}",
            e.epoch,
            e.step,
            e.train_loss,
            e.train_accuracy,
            e.best,
            e.images_per_s,
            e.elapsed,
            e.tta.word()
        );
    }
    text
}
/// `the ends of epochs 8, 9 and 10, in checkpoints`; empty if nothing is kept.
fn kept(folder: &Path) -> String {
    let epochs = kept::epochs(folder);
    let Some((last, others)) = epochs.split_last() else {
        return String::new();
    };
    let others: Vec<String> = others.iter().map(u32::to_string).collect();
    match others.is_empty() {
        true => format!("the end of epoch {last}, in {KEPT}"),
        false => format!(
            "the ends of epochs {} and {last}, in {KEPT}",
            others.join(", ")
        ),
    }
}
