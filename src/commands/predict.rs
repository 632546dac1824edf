//! `predict`: classifies pictures with a checkpoint.

use super::data::MAX_NAME;
use super::network::Trained;
use crate::config::Config;
use crate::data::{self, picture};
use crate::domain::params::{Tta, Weights};
use crate::domain::symbols::Symbols;
use crate::domain::text::{cell, percent, plain, plain_path};
use crate::train::training_data::image_set;
use anyhow::bail;
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;

#[derive(Serialize)]
struct Line<'a> {
    image: String,
    class: &'a str,
    probability: f32,
    /// All classes, most probable first.
    probabilities: Vec<Class<'a>>,
    /// The file is truncated: the rest of the picture counts as grey.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut_short: bool,
    /// The weights of the network.
    #[serde(skip_serializing_if = "Weights::is_last")]
    weights: Weights,
    /// The views that the network's outputs are averaged over.
    #[serde(skip_serializing_if = "Tta::is_none")]
    tta: Tta,
}

#[derive(Serialize)]
struct Class<'a> {
    class: &'a str,
    probability: f32,
}

/// Classifies the pictures and prints a result for each; warnings go to `err`.
///
/// # Errors
/// Returns an error if the checkpoint cannot be used; after the results of all others, if a picture cannot be read.
pub fn run(
    config: &Config,
    checkpoint: &Path,
    (weights, tta): (Weights, Option<Tta>),
    pictures: &[PathBuf],
    json: bool,
    out: &mut impl Write,
    err: &mut impl Write,
) -> anyhow::Result<()> {
    let mut trained = Trained::open(checkpoint, config, weights, tta)?;
    let side = trained.run_state.side;
    let mut wrong = Vec::new();
    for path in pictures {
        let picture = match picture::read(path, side) {
            Ok(picture) => picture,
            Err(error) => {
                wrong.push(error.to_string());
                continue;
            }
        };
        if picture.cut_short {
            writeln!(
                err,
                "warning: {} ends before its picture does; what is missing counts as grey",
                plain_path(path)
            )?;
        }
        let images = Rc::new(image_set(data::Images {
            side: side as usize,
            pixels: picture.pixels.into(),
            // The label is unknown; the loss that depends on it is not used.
            labels: vec![0],
        })?);
        let scored = trained.score(&images, &[0], &mut |_| {})?;
        let mut probabilities: Vec<_> = trained
            .run_state
            .classes
            .iter()
            .zip(&scored.probabilities)
            .map(|(class, p)| Class {
                class,
                probability: *p,
            })
            .collect();
        probabilities.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        let Some(first) = probabilities.first() else {
            bail!("{} has no classes", trained.file.display());
        };
        let line = Line {
            image: path.display().to_string(),
            class: first.class,
            probability: first.probability,
            probabilities,
            cut_short: picture.cut_short,
            weights: trained.weights,
            tta: trained.tta,
        };
        match json {
            true => super::json(&line, out)?,
            false => print(&line, config.options.symbols(), out)?,
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

fn print(line: &Line, symbols: Symbols, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(
        out,
        "{}: {} {}{}{}",
        plain(&line.image),
        cell(line.class, MAX_NAME),
        percent(line.probability.into()),
        line.weights.describe(),
        line.tta.describe()
    )?;
    for class in &line.probabilities {
        let bar = symbols
            .text("█")
            .repeat((class.probability * 40.0).round() as usize);
        writeln!(
            out,
            "  {:<12} {:>6}  {bar}",
            cell(class.class, MAX_NAME),
            percent(class.probability.into())
        )?;
    }
    Ok(())
}
