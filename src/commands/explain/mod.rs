//! `bench --explain`: every kernel launch of a training step and of a scoring pass on a GPU, with its arithmetic, its bytes
//! and the least time that they take. On a GPU each launch is measured too; for a GPU that this computer does not have
//! (`--gpu`) the same launches are laid out without it.

mod run;
#[cfg(test)]
mod tests;
pub mod variants;

use super::{bench, network};
use crate::backend::gpu::schedule::{KernelSchedule, ScheduledLaunch};
use crate::backend::{NetworkSpec, StepPlan};
use crate::cli::BenchOptions;
use crate::config::Config;
use crate::data::{self, Dataset};
use crate::domain::arch::{CIFAR_CLASSES, Shape};
use crate::domain::gpus::{self, GpuRates, KnownGpu};
use crate::domain::params::{Hyperparameters, NumberFormat};
use crate::domain::text::{grouped, plain};
use crate::hardware::nvidia::driver::{Driver, driver};
use crate::train::trainer::spec_for;
use crate::train::training_data::image_set;
use anyhow::{Context, bail};
use run::RunTimes;
use serde::Serialize;
use std::io::Write;
use std::path::Path;
use std::rc::Rc;
use variants::VariantRow;

/// One launch. Times are in microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct LaunchRow {
    pub layer: String,
    pub kernel: &'static str,
    pub grid: [u32; 3],
    pub block: u32,
    pub flop: u64,
    pub bytes: u64,
    pub floor_us: f64,
    /// None on a GPU on which our kernels have not been measured.
    pub expected_us: Option<f64>,
    /// The time measured on the device, and how many times the floor it is.
    pub measured_us: Option<f64>,
    pub measured_per_floor: Option<f64>,
}

/// The launches of a training step or of a scoring pass, and their sums.
#[derive(Clone, Debug, Serialize)]
pub struct LaunchTable {
    /// Images in the batch.
    pub images: usize,
    pub launches: Vec<LaunchRow>,
    pub flop: u64,
    pub bytes: u64,
    pub floor_us: f64,
    /// Images a second if every launch took its floor: no more are possible with these launches.
    pub floor_images_per_s: f64,
    pub expected_us: Option<f64>,
    pub expected_images_per_s: Option<f64>,
    pub measured_us: Option<f64>,
    pub measured_images_per_s: Option<f64>,
}

/// Training steps of several networks in the same launches.
#[derive(Clone, Debug, Serialize)]
pub struct SharedLaunches {
    pub networks: usize,
    /// Images a second of all networks in sum: each launch is made once, with the arithmetic and the bytes of all.
    pub floor_images_per_s: f64,
    pub expected_images_per_s: Option<f64>,
}

/// The numbers of networks of [`LaunchReport::together`].
const TOGETHER: [usize; 2] = [8, 32];

#[derive(Clone, Debug, Serialize)]
pub struct LaunchReport {
    pub gpu: String,
    pub multiprocessors: u32,
    pub architecture: String,
    pub optimizer: &'static str,
    pub precision: &'static str,
    pub training: LaunchTable,
    pub together: Vec<SharedLaunches>,
    pub scoring: LaunchTable,
    /// The whole training step as `bench` measures it, in images a second.
    pub step_images_per_s: Option<f64>,
    pub run: RunTimes,
    /// The variants of the products: measured, or guessed for a GPU that is not here.
    pub variants: Vec<VariantRow>,
}

/// What is to be explained.
struct Subject {
    params: Hyperparameters,
    spec: NetworkSpec,
    /// Name of the data, and how many images it has for training and for testing.
    data: String,
    images: (usize, usize),
}

/// Prints the launches on the configured GPU, measured, or on `gpu`, which need not be here.
///
/// # Errors
/// Returns an error if the device, the data or the network cannot be used.
pub fn run(
    config: &Config,
    gpu: Option<&KnownGpu>,
    options: BenchOptions,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let report = match gpu {
        Some(gpu) => lay_out(config, gpu)?,
        None => {
            let launches = measure(config)?;
            let step = bench::measure(config, options)?;
            LaunchReport {
                step_images_per_s: Some(step.images_per_s),
                ..launches
            }
        }
    };
    if json {
        return super::json(&report, out);
    }
    print(&report, out)
}

/// The report for a GPU that need not be here.
///
/// # Errors
/// Returns an error if the data or the network cannot be used.
pub fn lay_out(config: &Config, gpu: &KnownGpu) -> anyhow::Result<LaunchReport> {
    let subject = subject(config, named_data(config)?.as_ref())?;
    let batch = subject.params.batch_size as usize;
    let averages = subject.params.average_decay > 0.0;
    let schedule = KernelSchedule::of(&subject.spec, batch, gpu.multiprocessors, averages)?;
    let unmeasured = |launches: &[ScheduledLaunch]| {
        let rows = launches.iter().map(|launch| (launch.clone(), None));
        rows.collect::<Vec<_>>()
    };
    let tables = [&schedule.training, &schedule.scoring].map(|list| unmeasured(list));
    let device = (gpu.name, gpu.multiprocessors);
    Ok(LaunchReport {
        variants: variants::guessed(&schedule, gpu.multiprocessors),
        ..report(&subject, device, &gpu.rates, tables)?
    })
}

/// The report for the configured GPU, with the measured time of each launch.
///
/// # Errors
/// Returns an error if the device is no GPU, its rates are not known, or the device, the data or the network cannot be
/// used.
pub fn measure(config: &Config) -> anyhow::Result<LaunchReport> {
    let words: Vec<_> = gpus::words().collect();
    let instead = format!("--gpu NAME ({}) explains them without it", words.join(", "));
    let no_gpu = || format!("the launches cannot be measured; {instead}");
    let device = network::device(config).with_context(no_gpu)?;
    let Some(index) = device.info().gpu_index else {
        bail!(
            "--explain measures launches on a GPU, and this device is {}; {instead}",
            device.info().words
        );
    };
    let gpu = match driver() {
        Driver::Ready { gpus, .. } => gpus.into_iter().nth(index),
        _ => None,
    };
    let gpu = gpu.context("the driver no longer describes the GPU")?;
    let rates = match gpus::find(&gpu.name) {
        Some(known) => Some(known.rates),
        None => GpuRates::by_clocks(
            gpu.capability,
            gpu.multiprocessors,
            gpu.clocks.map(|khz| 1e3 * f64::from(khz)),
            gpu.bus_bits,
        ),
    };
    let rates = rates.with_context(|| format!("the rates of {} are not known", gpu.name))?;
    let named = named_data(config)?;
    let dataset = match &named {
        Some(dataset) => dataset.clone(),
        None => load(Path::new(data::SAMPLE), config)?,
    };
    let subject = subject(config, named.as_ref())?;
    let images = Rc::new(image_set(dataset.train)?);
    let batch = subject.params.batch_size as usize;
    if images.len() < batch {
        bail!(
            "a batch has {batch} images, and {} has {} for training",
            plain(&subject.data),
            images.len()
        );
    }
    let numbers: Vec<u32> = (0..batch as u32).collect();
    let rates_of_groups = subject.params.base_rates();
    let step = StepPlan::new(&subject.params, rates_of_groups, (1, 1), &numbers);
    let tuning = config.options.gpu_tuning;
    let variants = variants::measured(&*device, &subject, batch, tuning)?;
    let timed = device
        .time_launches(&subject.spec, &images, &step)?
        .context("this device does not run kernel launches one by one")?;
    let measured = |list: Vec<(ScheduledLaunch, f64)>| {
        let rows = list.into_iter().map(|(launch, time)| (launch, Some(time)));
        rows.collect::<Vec<_>>()
    };
    let tables = [measured(timed.training), measured(timed.scoring)];
    let device = (gpu.name.as_str(), timed.multiprocessors);
    Ok(LaunchReport {
        variants,
        ..report(&subject, device, &rates, tables)?
    })
}

fn load(named: &Path, config: &Config) -> anyhow::Result<Dataset> {
    let found = data::find(Some(named))?;
    Ok(data::load(&found, &mut |_, _| {}, config.options.threads)?)
}

/// The data that the configuration names, if it names some.
fn named_data(config: &Config) -> anyhow::Result<Option<Dataset>> {
    let named = config.options.data.as_deref();
    named.map(|named| load(named, config)).transpose()
}

/// What is explained: for this data, or else for CIFAR-10, which need not be here.
fn subject(config: &Config, dataset: Option<&Dataset>) -> anyhow::Result<Subject> {
    let params = config.params.clone();
    let (spec, data, images) = match dataset {
        Some(Dataset { info, train, test }) => {
            let statistics = (&info.mean[..], &info.std[..]);
            let spec = spec_for(&params, info.side, info.classes.len(), statistics)?;
            let images = (train.labels.len(), test.labels.len());
            (spec, info.name.clone(), images)
        }
        None => {
            let Shape { height, .. } = Shape::CIFAR;
            // The launches do not depend on the images' mean and standard deviation.
            let spec = spec_for(&params, height, CIFAR_CLASSES, (&[0.5; 3], &[0.25; 3]))?;
            (spec, "CIFAR-10".into(), run::CIFAR_IMAGES)
        }
    };
    Ok(Subject {
        params,
        spec,
        data,
        images,
    })
}

fn report(
    subject: &Subject,
    (gpu, multiprocessors): (&str, u32),
    rates: &GpuRates,
    tables: [Vec<(ScheduledLaunch, Option<f64>)>; 2],
) -> anyhow::Result<LaunchReport> {
    let Subject { params, spec, .. } = subject;
    let images = params.batch_size as usize;
    let model = Model {
        rates,
        format: spec.precision.on_gpu(),
    };
    let together = TOGETHER.map(|networks| {
        let launches = tables[0].iter().map(|(launch, _)| launch);
        let share = networks as f64;
        let images_per_s = |seconds: f64| share * images as f64 / seconds;
        let expected: Option<f64> = launches.clone().map(|l| model.expected(l, share)).sum();
        SharedLaunches {
            networks,
            floor_images_per_s: images_per_s(launches.map(|l| model.floor(l, share)).sum()),
            expected_images_per_s: expected.map(images_per_s),
        }
    });
    let [training, scoring] = tables.map(|list| table(&list, images, model));
    Ok(LaunchReport {
        together: together.into(),
        gpu: gpu.into(),
        multiprocessors,
        architecture: params.architecture.clone(),
        optimizer: params.optimizer.word(),
        precision: spec.precision.on_gpu().word(),
        training,
        scoring,
        step_images_per_s: None,
        run: RunTimes::new(subject, model, multiprocessors)?,
        variants: Vec::new(),
    })
}

/// How long launches take on a GPU, in seconds.
#[derive(Clone, Copy)]
struct Model<'a> {
    rates: &'a GpuRates,
    format: NumberFormat,
}

impl Model<'_> {
    /// The least time of a launch with a share of a full batch (several, for several networks): for its arithmetic, for its bytes, and for being launched.
    fn floor(&self, launch: &ScheduledLaunch, share: f64) -> f64 {
        let work = self.work(launch, self.rates.flops);
        (share * work).max(self.rates.launch)
    }

    /// The time that our kernels are expected to take; None on a GPU on which they have not been measured.
    fn expected(&self, launch: &ScheduledLaunch, share: f64) -> Option<f64> {
        let reached = self.rates.reached?;
        Some(reached.launch + share * self.work(launch, reached.flops))
    }

    /// The time for the arithmetic or for the bytes, whichever is longer.
    fn work(&self, launch: &ScheduledLaunch, flops: [f64; 3]) -> f64 {
        let cost = &launch.cost;
        let product = cost.product_flop as f64 / gpus::rate_of(flops, self.format);
        let other = cost.flop as f64 / gpus::rate_of(flops, NumberFormat::F32);
        let arithmetic = match self.format {
            NumberFormat::F32 => product + other,
            // Tensor cores and the other units work at the same time.
            NumberFormat::Tf32 | NumberFormat::Bf16 => product.max(other),
        };
        arithmetic.max(cost.bytes as f64 / self.rates.bandwidth)
    }
}

fn table(launches: &[(ScheduledLaunch, Option<f64>)], images: usize, model: Model) -> LaunchTable {
    let row = |(scheduled, seconds): &(ScheduledLaunch, Option<f64>)| {
        let floor = model.floor(scheduled, 1.0);
        LaunchRow {
            layer: scheduled.layer.to_string(),
            kernel: scheduled.launch.entry,
            grid: scheduled.launch.grid,
            block: scheduled.launch.block,
            flop: scheduled.cost.product_flop + scheduled.cost.flop,
            bytes: scheduled.cost.bytes,
            floor_us: 1e6 * floor,
            expected_us: model.expected(scheduled, 1.0).map(|s| 1e6 * s),
            measured_us: seconds.map(|s| 1e6 * s),
            measured_per_floor: seconds.map(|s| s / floor),
        }
    };
    let launches: Vec<LaunchRow> = launches.iter().map(row).collect();
    let floor_us = launches.iter().map(|row| row.floor_us).sum();
    let expected_us: Option<f64> = launches.iter().map(|row| row.expected_us).sum();
    let measured_us: Option<f64> = launches.iter().map(|row| row.measured_us).sum();
    let images_per_s = |us: f64| 1e6 * images as f64 / us;
    LaunchTable {
        images,
        flop: launches.iter().map(|row| row.flop).sum(),
        bytes: launches.iter().map(|row| row.bytes).sum(),
        floor_us,
        floor_images_per_s: images_per_s(floor_us),
        expected_us,
        expected_images_per_s: expected_us.map(images_per_s),
        measured_us,
        measured_images_per_s: measured_us.map(images_per_s),
        launches,
    }
}

/// Prints both tables and the times of a run.
///
/// # Errors
/// Returns an error if `out` cannot be written.
pub fn print(r: &LaunchReport, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(
        out,
        "{}, {}, {}, on {} with {} multiprocessors",
        plain(&r.architecture),
        r.optimizer,
        r.precision,
        r.gpu,
        r.multiprocessors
    )?;
    writeln!(
        out,
        "\nA training step of {} images:",
        grouped(r.training.images as u64)
    )?;
    print_table(&r.training, out)?;
    if let Some(step) = r.step_images_per_s {
        let step = grouped(step.round() as u64);
        writeln!(out, "{step:>12} images/s  the step as `bench` measures it")?;
    }
    for together in &r.together {
        if let Some(speed) = together.expected_images_per_s {
            let (speed, networks) = (grouped(speed.round() as u64), together.networks);
            writeln!(
                out,
                "{speed:>12} images/s  expected of {networks} such networks in the same launches, in sum"
            )?;
        }
    }
    writeln!(
        out,
        "\nScoring {} images:",
        grouped(r.scoring.images as u64)
    )?;
    print_table(&r.scoring, out)?;
    let what = match r.variants.iter().any(|row| row.because == "measured") {
        true => "measured",
        false => "by a guess that no GPU has confirmed",
    };
    if r.variants.iter().any(|row| !row.times.is_empty()) {
        writeln!(out, "\nThe variants of the products, {what}:")?;
        variants::print(&r.variants, out)?;
    }
    writeln!(out)?;
    run::print(&r.run, out)
}

/// Prints the cells of a row. Those that are empty in every row are left out.
fn print_row(out: &mut impl Write, cells: [&str; 6], times: &[String]) -> std::io::Result<()> {
    let [layer, kernel, blocks, flop, bytes, floor] = cells;
    write!(
        out,
        "  {layer:<24} {kernel:<18} {blocks:>18} {flop:>10} {bytes:>10} {floor:>10}"
    )?;
    for time in times {
        write!(out, " {time:>12}")?;
    }
    writeln!(out)
}

fn print_table(table: &LaunchTable, out: &mut impl Write) -> anyhow::Result<()> {
    let titles = [
        "layer",
        "kernel",
        "blocks x threads",
        "MFLOP",
        "MB",
        "floor us",
    ];
    let mut times = Vec::new();
    if table.expected_us.is_some() {
        times.push("expected us".to_owned());
    }
    if table.measured_us.is_some() {
        times.extend(["measured us".into(), "/ floor".into()]);
    }
    print_row(out, titles, &times)?;
    let mut line = |names: [&str; 3], flop: u64, bytes: u64, floor: f64, more: [Option<f64>; 2]| {
        let mega = |n: u64| format!("{:.2}", n as f64 / 1e6);
        let [layer, kernel, blocks] = names;
        let figures = [mega(flop), mega(bytes), format!("{floor:.2}")];
        let [flop, bytes, floor_text] = figures.each_ref().map(String::as_str);
        let [expected, measured] = more;
        let times = [expected, measured, measured.map(|us| us / floor)];
        let times: Vec<_> = times.iter().flatten().map(|v| format!("{v:.2}")).collect();
        print_row(
            out,
            [layer, kernel, blocks, flop, bytes, floor_text],
            &times,
        )
    };
    for row in &table.launches {
        let [x, y, z] = row.grid;
        let blocks = match (y, z) {
            (1, 1) => format!("{x} x {}", row.block),
            _ => format!("{x}.{y}.{z} x {}", row.block),
        };
        let times = [row.expected_us, row.measured_us];
        let names = [row.layer.as_str(), row.kernel, &blocks];
        line(names, row.flop, row.bytes, row.floor_us, times)?;
    }
    let count = format!("{} launches", table.launches.len());
    let times = [table.expected_us, table.measured_us];
    line(
        [&count, "", ""],
        table.flop,
        table.bytes,
        table.floor_us,
        times,
    )?;
    for (speed, what) in [
        (
            Some(table.floor_images_per_s),
            "if each launch took its floor",
        ),
        (table.expected_images_per_s, "expected of our kernels"),
        (
            table.measured_images_per_s,
            "by the sum of the measured launches",
        ),
    ] {
        if let Some(speed) = speed {
            writeln!(
                out,
                "{:>12} images/s  {what}",
                grouped(speed.round() as u64)
            )?;
        }
    }
    Ok(())
}
