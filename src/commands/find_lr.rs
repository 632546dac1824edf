//! `find-lr`: the learning rate range test, of a new network or from where a run stands.

use super::{data, network};
use crate::config::Config;
use crate::data::{find, load};
use crate::domain::rate_test::{RatePoint, RateTest};
use crate::domain::text::{command_line, compact, grouped, plain};
use crate::train::checkpoint::{Checkpoint, RunState};
use crate::train::saver::{BEST, LAST};
use crate::train::trainer::Trainer;
use crate::train::training_data::TrainingData;
use serde::Serialize;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// Lines of the printed curve, and columns of its longest bar.
const LINES: usize = 24;
const COLUMNS: f64 = 40.0;

#[derive(Serialize)]
struct Report<'a> {
    /// The run whose network was tested; None for a new network.
    run: Option<&'a str>,
    /// Steps that the network had trained.
    step: u64,
    /// The learning rate that it has.
    learning_rate: f64,
    suggestion: Option<f64>,
    lowest: Option<&'a RatePoint>,
    #[serde(flatten)]
    test: &'a RateTest,
}

/// Tests learning rates, and prints the losses and a suggestion: on a new network with the configured hyperparameters, or
/// on that of the run or checkpoint `named`, which is only read.
///
/// # Errors
/// Returns an error if the checkpoint, the data or the device cannot be used.
pub fn run(
    config: &Config,
    named: Option<&Path>,
    steps: usize,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let mut trainer = trainer(config, named)?;
    let bar = data::bar(config, "testing rates {bar:32} {percent:>3}%");
    bar.set_length(steps as u64);
    let tested = trainer.test_rates(steps, &mut |_, test| {
        bar.set_position(test.points.len() as u64);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    let test = tested?;
    let run_state = trainer.run_state();
    let report = Report {
        run: named.map(|_| &*run_state.run),
        step: run_state.step,
        learning_rate: run_state.params.learning_rate,
        suggestion: test.suggestion(),
        lowest: test.lowest(),
        test: &test,
    };
    match json {
        true => super::json(&report, out),
        false => print(&report, run_state, config, out),
    }
}

fn trainer(config: &Config, named: Option<&Path>) -> anyhow::Result<Trainer> {
    let point = match named {
        None => None,
        Some(named) => {
            let file = network::find(named, &config.runs, [LAST, BEST])?;
            Some((Checkpoint::read(&file)?, file))
        }
    };
    let recorded = point.as_ref().map(|(checkpoint, _)| &checkpoint.run_state);
    let recorded = recorded.map(|run_state| PathBuf::from(&run_state.data_source));
    let recorded = recorded.filter(|path| !path.as_os_str().is_empty());
    let path = config.options.data.clone().or(recorded);
    let dataset = load(
        &find(path.as_deref())?,
        &mut |_, _| {},
        config.options.threads,
    )?;
    let images = Rc::new(TrainingData::new(dataset)?);
    let (device, stop) = (network::device(config)?, Arc::default());
    Ok(match point {
        Some((checkpoint, file)) => Trainer::resume(checkpoint, &file, images, &*device, stop)?,
        None => Trainer::new(config.params.clone(), images, &*device, stop)?,
    })
}

fn print(
    report: &Report,
    run_state: &RunState,
    config: &Config,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let test = report.test;
    let from = match report.run {
        Some(run) => format!("{}, step {}", plain(run), grouped(report.step)),
        None => format!("a new network, seed {}", run_state.params.seed),
    };
    writeln!(
        out,
        "{from}: {} steps of {} images, each at a higher learning rate (set: {})\n",
        test.points.len(),
        run_state.params.batch_size,
        compact(report.learning_rate, 6),
    )?;
    writeln!(out, "{:>9}  {:>7}  smoothed", "rate", "loss")?;
    let full = config.options.symbols().bar().chars().next().unwrap_or('#');
    let losses = || test.points.iter().map(|point| point.smoothed);
    let (low, high) = (
        losses().fold(f64::INFINITY, f64::min),
        losses().fold(0.0, f64::max),
    );
    let unit = (high - low).max(f64::MIN_POSITIVE) / COLUMNS;
    for point in every(&test.points, LINES) {
        let bar = 1 + ((point.smoothed - low) / unit).round() as usize;
        writeln!(
            out,
            "{:>9.1e}  {:>7.4}  {}",
            point.rate,
            point.smoothed,
            full.to_string().repeat(bar)
        )?;
    }
    writeln!(out)?;
    let last = test.points.last().map_or(0.0, |point| point.rate);
    if let Some(why) = test.end.as_ref().and_then(|end| end.describe(last)) {
        writeln!(out, "ended     {}", plain(&why))?;
    }
    let (Some(lowest), Some(rate)) = (report.lowest, report.suggestion) else {
        writeln!(
            out,
            "no rate   made the loss fall clearly; more steps (--steps) or a larger batch make it less noisy"
        )?;
        return Ok(());
    };
    writeln!(
        out,
        "lowest    {:.4} at a rate of {:.1e}",
        lowest.smoothed, lowest.rate
    )?;
    let value = rate.to_string();
    let mut words = vec!["cifar-tui", "--learning-rate", &value];
    if let Some(run) = report.run {
        words.extend(["--resume", run]);
    }
    writeln!(
        out,
        "try       {value}, a tenth of that: `{}`",
        command_line(&words)
    )?;
    Ok(())
}

/// At most `count` of the points, evenly spread, the last among them.
fn every(points: &[RatePoint], count: usize) -> impl Iterator<Item = &RatePoint> {
    let step = points.len().div_ceil(count).max(1);
    let first = points.len().saturating_sub(1) % step;
    points.iter().skip(first).step_by(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_points_are_evenly_spread_and_end_with_the_last() {
        for len in [0, 1, 23, 24, 25, 100, 1_000] {
            let mut test = RateTest::new(1_000);
            (0..len).for_each(|_| test.add(1.0));
            let rates: Vec<f64> = every(&test.points, LINES).map(|p| p.rate).collect();
            assert!(
                rates.len() <= LINES && rates.len() >= len.min(LINES / 2),
                "{len}"
            );
            assert_eq!(rates.last(), test.points.last().map(|p| &p.rate));
        }
    }
}
