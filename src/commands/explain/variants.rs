//! Which variant of its kernel each product uses, and how long the others take.

use super::{Subject, named_data, subject};
use crate::backend::Device;
use crate::backend::gpu::schedule::{KernelSchedule, ScheduledLaunch};
use crate::backend::gpu::tuning::{Reason, TunedProduct};
use crate::commands::network;
use crate::config::Config;
use crate::domain::gpu_tuning::GpuTuning;
use crate::train::trainer::capacity;
use anyhow::ensure;
use serde::Serialize;
use std::io::Write;

/// The variants of a launch. Times are in microseconds, the fastest first.
#[derive(Clone, Debug, Serialize)]
pub struct VariantRow {
    pub layer: String,
    pub kernel: &'static str,
    /// Images in the batch.
    pub images: usize,
    pub chosen: &'static str,
    /// Why it is chosen: `measured`, `remembered`, `guess` or `fixed`.
    pub because: &'static str,
    pub times: Vec<VariantTime>,
    pub dropped: Vec<DroppedVariant>,
}

#[derive(Clone, Debug, Serialize)]
pub struct VariantTime {
    pub variant: &'static str,
    pub us: f64,
}

/// A variant that is not used because it fails or its results differ.
#[derive(Clone, Debug, Serialize)]
pub struct DroppedVariant {
    pub variant: &'static str,
    pub why: String,
}

/// The rows of what is known of the products of these launches.
pub(super) fn rows(launches: &[&ScheduledLaunch], known: &[TunedProduct]) -> Vec<VariantRow> {
    let row = |tuned: &TunedProduct| {
        let key = tuned.product.key();
        let of_product = |launch: &&&ScheduledLaunch| {
            let product = launch.product.as_ref();
            product.is_some_and(|product| product.key() == key)
        };
        let layers = launches.iter().filter(of_product);
        let mut layers: Vec<&str> = layers.map(|launch| &*launch.layer).collect();
        layers.dedup();
        VariantRow {
            layer: layers.join(", "),
            kernel: tuned.product.pass.entry(),
            images: tuned.product.capacity,
            chosen: tuned.chosen.name,
            because: match tuned.reason {
                Reason::Fixed => "fixed",
                Reason::Guess => "guess",
                Reason::Measured => "measured",
                Reason::Remembered => "remembered",
            },
            times: times(tuned.times.iter().copied().map(|(v, s)| (v.name, s))),
            dropped: tuned
                .dropped
                .iter()
                .map(|(variant, why)| DroppedVariant {
                    variant: variant.name,
                    why: why.clone(),
                })
                .collect(),
        }
    };
    known.iter().map(row).collect()
}

fn times(seconds: impl Iterator<Item = (&'static str, f64)>) -> Vec<VariantTime> {
    let time = |(variant, seconds): (&'static str, f64)| VariantTime {
        variant,
        us: 1e6 * seconds,
    };
    seconds.map(time).collect()
}

/// The rows of a schedule's products by guesses alone: of the best variant and of the plain one.
pub(super) fn guessed(schedule: &KernelSchedule, multiprocessors: u32) -> Vec<VariantRow> {
    let products = schedule.products();
    let known: Vec<_> = products
        .into_iter()
        .map(|product| TunedProduct::guessed(product, multiprocessors))
        .collect();
    let launches: Vec<_> = schedule.training.iter().chain(&schedule.scoring).collect();
    rows(&launches, &known)
}

/// Measures all variants of a network's products on the configured GPU, in the batches of training steps and of scoring,
/// and prints them. The winners are kept for later runs.
///
/// # Errors
/// Returns an error if the device is no GPU, or the device, the data or the network cannot be used.
pub fn tune(config: &Config, json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let device = network::device(config)?;
    ensure!(
        device.info().gpu_index.is_some(),
        "--tune measures kernels on a GPU, and this device is {}",
        device.info().words
    );
    let subject = subject(config, named_data(config)?.as_ref())?;
    let mut batches = vec![
        subject.params.batch_size as usize,
        capacity(&subject.params),
    ];
    batches.dedup();
    let mut all = Vec::new();
    for batch in batches {
        all.extend(measured(&*device, &subject, batch, GpuTuning::Full)?);
    }
    if json {
        return crate::commands::json(&all, out);
    }
    print(&all, out)
}

/// Measures the variants of a network in batches of `batch` images.
pub(super) fn measured(
    device: &dyn Device,
    subject: &Subject,
    batch: usize,
    tuning: GpuTuning,
) -> anyhow::Result<Vec<VariantRow>> {
    let known = device.tune(&subject.spec, batch, tuning, true)?;
    let schedule = KernelSchedule::of(&subject.spec, batch, 1, false)?;
    let launches: Vec<_> = schedule.training.iter().chain(&schedule.scoring).collect();
    Ok(rows(&launches, &known))
}

/// Prints rows, of which some may have no times.
///
/// # Errors
/// Returns an error if `out` cannot be written.
pub(super) fn print(rows: &[VariantRow], out: &mut impl Write) -> anyhow::Result<()> {
    for row in rows {
        writeln!(
            out,
            "  {:<24} {:<9} {:>6}  {} ({})",
            row.layer, row.kernel, row.images, row.chosen, row.because
        )?;
        for VariantTime { variant, us } in &row.times {
            writeln!(out, "  {us:>52.2} us  {variant}")?;
        }
        for DroppedVariant { variant, why } in &row.dropped {
            writeln!(out, "  {:>52}     {variant}: {why}", "dropped")?;
        }
    }
    Ok(())
}
