//! `eval`: scores a checkpoint on the test or validation images.

use super::data::MAX_NAME;
use super::network::Trained;
use crate::config::Config;
use crate::data::{self, batches::Division};
use crate::domain::confusion::Confusion;
use crate::domain::number::argmax;
use crate::domain::params::{Tta, Weights};
use crate::domain::report::{DataInfo, Evaluation, ScoredWeights, Split};
use crate::domain::text::{cell, compact, grouped, percent, plain};
use crate::train::checkpoint::DataIdentity;
use crate::train::saver::BEST;
use crate::train::training_data;
use anyhow::bail;
use serde::Serialize;
use std::io::Write;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

#[derive(Serialize)]
struct Report<'a> {
    checkpoint: String,
    run: &'a str,
    /// The path of the data set that is scored.
    data: &'a str,
    data_name: &'a str,
    /// The name of the data that the run was trained on, if the scored data differ; otherwise None.
    learned_from: Option<&'a str>,
    classes: &'a [String],
    #[serde(flatten)]
    evaluation: &'a Evaluation,
}

/// Scores the checkpoint and prints the report. Uses the run's own data, unless `--data` names another data set.
///
/// # Errors
/// Returns an error if the checkpoint or the data cannot be used, or if their classes or image sizes differ.
pub fn run(
    config: &Config,
    checkpoint: &Path,
    (weights, tta): (Weights, Option<Tta>),
    split: &str,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let mut trained = Trained::open(checkpoint, config, weights, tta)?;
    let dataset = data(config, &trained)?;
    let identity = training_data::identity(&dataset);
    let info = dataset.info;
    let run_state = &trained.run_state;
    if info.classes.len() != run_state.classes.len() || info.side != run_state.side {
        bail!(
            "{} was trained on {} classes of {}x{} images, but {} has {} of {}x{}; name the run's data with --data",
            trained.file.display(),
            run_state.classes.len(),
            run_state.side,
            run_state.side,
            info.source,
            info.classes.len(),
            info.side,
            info.side
        );
    }
    let (split, images, which) = match split {
        "validation" if run_state.params.validation == 0.0 => anyhow::bail!(
            "this run held out no images for validation (validation = 0): score the test images, without --split"
        ),
        "validation" => {
            let division = Division::new(
                dataset.train.len(),
                run_state.split_seed,
                run_state.params.validation,
            );
            (Split::Validation, dataset.train, division.validation)
        }
        _ => {
            let all = (0..dataset.test.len() as u32).collect();
            (Split::Test, dataset.test, all)
        }
    };
    let images = Rc::new(training_data::image_set(images)?);
    let bar = super::data::bar(config, "scoring {bar:32} {percent:>3}%");
    bar.set_length(which.len() as u64);
    let begin = Instant::now();
    let scored = trained.score(&images, &which, &mut |done| bar.set_position(done));
    bar.finish_and_clear();
    let scored = scored?;
    let seconds = begin.elapsed().as_secs_f64();
    let classes = info.classes.len();
    let mut confusion = Confusion::new(classes);
    for (image, row) in which.iter().zip(scored.probabilities.chunks(classes)) {
        confusion.add(usize::from(images.labels()[*image as usize]), argmax(row));
    }
    let count = which.len().max(1) as f64;
    let is_best = trained.file.file_name().is_some_and(|name| name == BEST);
    let evaluation = Evaluation {
        split,
        weights: match (weights, is_best) {
            (Weights::Average, _) => ScoredWeights::Average,
            (Weights::Last, true) => ScoredWeights::Best,
            (Weights::Last, false) => ScoredWeights::Last,
        },
        tta: trained.tta,
        step: trained.run_state.step,
        epoch: trained.run_state.epochs,
        loss: scored.losses.iter().map(|l| f64::from(*l)).sum::<f64>() / count,
        accuracy: confusion.accuracy().unwrap_or(0.0),
        confusion,
        images_per_s: count / seconds.max(1e-9),
    };
    let report = Report {
        checkpoint: trained.file.display().to_string(),
        run: &trained.run_state.run,
        data: &info.source,
        data_name: &info.name,
        learned_from: (trained.run_state.data != identity)
            .then_some(trained.run_state.data.name.as_str()),
        classes: &info.classes,
        evaluation: &evaluation,
    };
    if report.learned_from.is_some() {
        // On standard error, so that it is seen when standard output is a file.
        let text = other_data(&trained.run_state.data, &identity, &info, split);
        eprintln!("warning: {}", plain(&text));
    }
    match json {
        true => super::json(&report, out),
        false => print(&report, out),
    }
}

/// Loads the data to score: the data set that `--data` names; otherwise the one that is found, or the built-in set, if
/// the run was trained on it.
fn data(config: &Config, trained: &Trained) -> anyhow::Result<data::Dataset> {
    let load = |named: Option<&Path>| {
        data::load(&data::find(named)?, &mut |_, _| {}, config.options.threads)
    };
    if let Some(named) = config.options.data.as_deref() {
        return Ok(load(Some(named))?);
    }
    let trained_on = &trained.run_state.data.name;
    for named in [None, Some(Path::new(data::SAMPLE))] {
        let dataset = load(named)?;
        if dataset.info.name == *trained_on {
            return Ok(dataset);
        }
    }
    bail!(
        "{} was trained on {trained_on}, which is not found: name it with --data, or score the built-in images \
         with `--data {}`",
        trained.file.display(),
        data::SAMPLE
    )
}

/// The warning for a run that is scored on other data than it was trained on.
fn other_data(
    trained_on: &DataIdentity,
    scored: &DataIdentity,
    info: &DataInfo,
    split: Split,
) -> String {
    let of = |d: &DataIdentity| {
        format!(
            "{} ({} + {} images, digest {})",
            d.name,
            grouped(d.train.into()),
            grouped(d.test.into()),
            d.digest
        )
    };
    let unseen = match split {
        Split::Test => "",
        _ => "; whether the run was trained on some of these images is unknown",
    };
    format!(
        "the run was trained on {}, but is scored on {} from {}{unseen}",
        of(trained_on),
        of(scored),
        info.source
    )
}

fn print(report: &Report, out: &mut impl Write) -> anyhow::Result<()> {
    let e = report.evaluation;
    let matrix = &e.confusion;
    let name = |class: usize| {
        report
            .classes
            .get(class)
            .map_or("?".into(), |c| cell(c, MAX_NAME))
    };
    writeln!(
        out,
        "{}, step {}\n{} {} images: {} ({})\n\nloss      {}\naccuracy  {:.2}%{}{}\n",
        plain(&report.checkpoint),
        grouped(e.step),
        grouped(matrix.total().into()),
        e.split.name(),
        plain(report.data_name),
        plain(report.data),
        compact(e.loss, 4),
        e.accuracy * 100.0,
        match e.weights {
            ScoredWeights::Average => Weights::Average.describe(),
            ScoredWeights::Best | ScoredWeights::Last => "",
        },
        e.tta.describe()
    )?;
    writeln!(
        out,
        "{:<12} {:>7} {:>10} {:>8} {:>8}",
        "class", "images", "precision", "recall", "F1"
    )?;
    let share = |v: Option<f64>| v.map_or("-".into(), percent);
    for class in 0..matrix.classes {
        writeln!(
            out,
            "{:<12} {:>7} {:>10} {:>8} {:>8}",
            name(class),
            grouped(matrix.row_total(class).into()),
            share(matrix.precision(class)),
            share(matrix.recall(class)),
            share(matrix.f1(class))
        )?;
    }
    write!(out, "\n{:<12}", "true \\ called")?;
    for class in 0..matrix.classes {
        let short: String = name(class).chars().take(5).collect();
        write!(out, " {short:>5}")?;
    }
    for truth in 0..matrix.classes {
        write!(out, "\n{:<13}", name(truth))?;
        for called in 0..matrix.classes {
            write!(out, " {:>5}", matrix.count(truth, called))?;
        }
    }
    writeln!(out, "\n\nmost confused")?;
    for (truth, called, count) in matrix.most_confused(5) {
        writeln!(
            out,
            "  {} called {}: {} ({} of its images)",
            name(truth),
            name(called),
            grouped(count.into()),
            percent(f64::from(count) / f64::from(matrix.row_total(truth).max(1)))
        )?;
    }
    Ok(())
}
