//! `bench --suite`: every check and figure of a device in one command, for whoever has it for ten minutes: whether it
//! computes what the CPU does, how fast it trains and scores, and what whole runs come to. A table at the end, or JSON.

use super::bench;
use crate::config::Config;
use crate::domain::arch::{self, Shape};
use crate::domain::augment::Placement;
use crate::domain::params::{Hyperparameters, Precision};
use crate::domain::report::{ScoredWeights, Split, StepSettings};
use crate::domain::rng::{Rng, Stream};
use crate::hardware::device::DeviceChoice;
use crate::hardware::executor::KernelExecutor;
use crate::hardware::threads::Threads;
use crate::layers::slices;
use crate::net::engine::PlannedStep;
use crate::net::{Net, Scaling};
use crate::session::protocol::Event;
use crate::train::optim::Optimizer;
use anyhow::{Context, ensure};
use candle_core::{Device, Tensor};
use serde::Serialize;
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Images that are compared at once.
const COMPARED: usize = 32;
/// Seconds of each figure.
const SECONDS: f64 = 2.0;
/// Epochs of a whole run, as in the seed recipe.
const EPOCHS: u32 = 15;

/// Every kind of layer, in every way that they are fused: compared in single precision.
const ALL_LAYERS: &[&str] = &[
    "seed",
    "resnet",
    "conv 20 k5 s2, relu, drop 0.3, conv 33 same, conv 17, relu, dense 50, relu, drop, dense 10",
    "norm, relu, pool 3 s2, drop 0.25, conv 24, relu, pool 3, dense 10",
    "conv 16 same, relu, residual(conv 16 same, relu), relu, residual(conv 32 s2 p1), norm, dense 10",
];
/// Without ReLU and pooling no choice hangs on a last digit: compared in coarser formats.
const NO_CHOICES: &[&str] = &[
    "conv 32 same, conv 64 s2, dense 10",
    "conv 48 k5, norm, conv 40 s2 p1, dense 64, dense 10",
];
/// What each number format may be off, as a share of the largest number, as the kernels promise.
const FORMATS: [(Precision, &str, f64); 3] = [
    (Precision::F32, "f32", 1e-4),
    (Precision::Tf32, "tf32", 2e-3),
    (Precision::Bf16, "bf16", 3e-2),
];

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub what: String,
    pub figure: f64,
    pub unit: &'static str,
    /// The most that it may be, where there is such a limit.
    pub most: Option<f64>,
}

impl Row {
    fn passed(&self) -> bool {
        // What is no number is no pass.
        self.most.is_none_or(|most| self.figure <= most)
    }
}

#[derive(Clone, Debug, Serialize)]
struct Report {
    device: String,
    rows: Vec<Row>,
    passed: bool,
}

/// Measures and prints; `progress` gets a line as each figure comes.
///
/// # Errors
/// When the device, the data or a network cannot be had; when a figure is beyond its limit, after the table.
pub fn run(
    config: &Config,
    json: bool,
    out: &mut impl Write,
    progress: &mut impl Write,
) -> anyhow::Result<()> {
    let device = config.options.device.parse::<DeviceChoice>()?.open()?;
    let threads = Threads::new(config.options.threads);
    let on_gpu = !device.is_cpu();
    let mut rows: Vec<Row> = Vec::new();
    let mut tell = |row: Row| -> std::io::Result<()> {
        writeln!(progress, "{}", line(&row))?;
        rows.push(row);
        Ok(())
    };
    if on_gpu {
        for (precision, name, most) in FORMATS {
            let archs = match precision {
                Precision::F32 => [ALL_LAYERS, NO_CHOICES].concat(),
                _ => NO_CHOICES.to_vec(),
            };
            for arch in archs {
                let executor = device.executor()?.context("the device is no GPU")?;
                tell(Row {
                    what: format!("{name} against the CPU: {arch}"),
                    figure: difference(executor, arch, precision, &threads)
                        .with_context(|| format!("{name}, {arch}"))?,
                    unit: "of the largest",
                    most: Some(most),
                })?;
            }
        }
    }
    let formats = if on_gpu { &FORMATS[..] } else { &FORMATS[..1] };
    for &(precision, name, _) in formats {
        for (arch, batch, eval) in [
            ("seed", 32, true),
            ("seed", 512, false),
            ("seed", 4096, false),
            ("resnet", 128, false),
        ] {
            let config = with(config, |p| {
                p.architecture = arch.into();
                p.batch_size = batch;
                p.precision = precision;
            });
            let report = bench::measure(&config, SECONDS, eval)?;
            let what = format!("{arch}, {} images a step, {name}", report.batch);
            tell(Row {
                what: what.clone(),
                figure: report.images_per_s,
                unit: "images/s",
                most: None,
            })?;
            if let Some(figure) = report.eval_images_per_s {
                tell(Row {
                    what: format!("{what}, scoring"),
                    figure,
                    unit: "images/s",
                    most: None,
                })?;
            }
        }
    }
    let runs: &[(usize, u64)] = if on_gpu {
        &[(0, 1), (0, 2), (0, 3), (2, 1), (2, 2), (2, 3)]
    } else {
        &[(0, 1)]
    };
    for &(format, seed) in runs {
        let (precision, name, _) = FORMATS[format];
        let config = with(config, |p| {
            p.precision = precision;
            p.seed = seed;
            p.epochs = EPOCHS;
        });
        let (seconds, accuracy) = whole_run(&config, name)?;
        let what = format!("{EPOCHS} epochs, {name}, seed {seed}");
        tell(Row {
            what: format!("{what}: training and scoring"),
            figure: seconds,
            unit: "s",
            most: None,
        })?;
        tell(Row {
            what: format!("{what}: test accuracy"),
            figure: 100.0 * accuracy,
            unit: "%",
            most: None,
        })?;
    }
    let report = Report {
        device: device.describe(threads.count()),
        passed: rows.iter().all(Row::passed),
        rows,
    };
    if json {
        super::json(&report, out)?;
    } else {
        writeln!(out, "\n{}", report.device)?;
        for row in &report.rows {
            writeln!(out, "{}", line(row))?;
        }
    }
    let failed = report.rows.iter().filter(|row| !row.passed()).count();
    ensure!(failed == 0, "{failed} figures are beyond their limits");
    Ok(())
}

fn with(config: &Config, change: impl FnOnce(&mut Hyperparameters)) -> Config {
    let mut config = config.clone();
    change(&mut config.params);
    config
}

fn line(row: &Row) -> String {
    let figure = match row.figure {
        v if row.most.is_some() => format!("{v:.2e}"),
        v if v < 1000.0 => format!("{v:.2}"),
        v => crate::domain::text::grouped(v.round() as u64),
    };
    let verdict = match (row.most, row.passed()) {
        (None, _) => String::new(),
        (Some(most), true) => format!("  ok, at most {most:.0e}"),
        (Some(most), false) => format!("  FAILED, at most {most:.0e}"),
    };
    format!("{figure:>12} {:<15} {}{verdict}", row.unit, row.what)
}

/// The largest difference between a GPU's training step and the CPU's, over loss, gradients and probabilities, each
/// as a share of its largest number. The images are random, others for each architecture.
///
/// # Errors
/// Returns an error if the network or the executor fails.
pub fn difference(
    executor: Box<dyn KernelExecutor>,
    text: &str,
    precision: Precision,
    threads: &Threads,
) -> anyhow::Result<f64> {
    let params = Hyperparameters {
        label_smoothing: 0.1,
        weight_decay: 1e-3,
        flip: true,
        crop: 2,
        cutout: 4,
        ..Hyperparameters::default()
    };
    let shape = Shape::CIFAR;
    let side = shape.height as usize;
    let rng = Rng::new(text.len() as u64, Stream::Sample, 0);
    let bytes = (0..(COMPARED * 3 * side * side) as u32).map(|i| (rng.word(i) >> 24) as u8);
    let pixels = Tensor::from_vec(
        bytes.collect::<Vec<_>>(),
        (COMPARED, 3, side, side),
        &Device::Cpu,
    )?;
    let labels: Vec<u8> = (0..COMPARED as u32)
        .map(|i| (rng.word(i) % 10) as u8)
        .collect();
    let scaling = Scaling::standard([0.5; 3], [0.25; 3]);
    let arch = arch::resolve(text)?;
    let build = || Net::build(&arch, shape, 10, COMPARED, params.seed, &Device::Cpu);
    let (mut here, mut there) = (build()?, build()?);
    there.accelerate(executor, params.optimizer, precision)?;

    let settings = StepSettings::new(&params, params.learning_rate, 1);
    let images: Vec<u32> = (0..COMPARED as u32).collect();
    let placed: Vec<_> = images
        .iter()
        .map(|&i| Placement::random(i, i, 1, shape.height, &params))
        .collect();
    let outcome = here.train_pass(&pixels, &labels, &placed, &scaling, &settings, threads)?;
    let mut optimizer = Optimizer::new(params.optimizer, &here.params())?;
    optimizer.step(&here.params(), &settings, threads)?;
    let update = Optimizer::new(params.optimizer, &here.params())?.plan(&settings);
    let step = PlannedStep::new(settings, update, COMPARED, &params);
    let found = there.train_steps(&pixels, &labels, &scaling, &images, &[step])?;
    there.pull()?;

    let mut worst = (found[0].loss - outcome.loss).abs() / outcome.loss;
    let mut compare = |a: &[f32], b: &[f32]| {
        let largest = b.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
        for (a, b) in a.iter().zip(b) {
            let apart = f64::from((a - b).abs() / largest);
            // NaN is the worst of all.
            if apart.is_nan() || apart > worst {
                worst = apart;
            }
        }
    };
    for (a, b) in there.params().iter().zip(here.params()) {
        compare(&slices::read(&a.grad)?, &slices::read(&b.grad)?);
    }
    let plain: Vec<_> = images.iter().map(|&i| Placement::plain(i)).collect();
    let score = |net: &mut Net| -> anyhow::Result<Vec<f32>> {
        let (mut p, mut l) = (vec![f32::NAN; 10 * COMPARED], vec![f32::NAN; COMPARED]);
        net.score(&pixels, &labels, &plain, &scaling, threads, &mut p, &mut l)?;
        Ok(p)
    };
    // With the same weights, so that only this pass is compared.
    let mut all: HashMap<String, Tensor> = here
        .buffers()
        .into_iter()
        .map(|(name, buffer)| (name, buffer.clone()))
        .collect();
    for param in here.params() {
        all.insert(param.name.clone(), param.var.as_tensor().clone());
    }
    there.load(&all)?;
    let (a, b) = (score(&mut there)?, score(&mut here)?);
    compare(&a, &b);
    Ok(worst)
}

/// A whole run of this program without a screen: seconds of training and scoring, as it tells them, and its last test
/// accuracy.
fn whole_run(config: &Config, precision: &str) -> anyhow::Result<(f64, f64)> {
    let folder = Folder::new()?;
    let p = &config.params;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args([
            "train",
            "--json",
            "--arch",
            "seed",
            "--precision",
            precision,
        ])
        .args(["--device", &config.options.device])
        .args(["--epochs", &p.epochs.to_string()])
        .args(["--seed", &p.seed.to_string()])
        .arg("--runs")
        .arg(&folder.0);
    if let Some(data) = &config.options.data {
        command.arg("--data").arg(data);
    }
    if config.options.threads > 0 {
        command.args(["--threads", &config.options.threads.to_string()]);
    }
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "a run failed: {}", said.trim());
    let (mut seconds, mut accuracy) = (None, None);
    for line in String::from_utf8(output.stdout)?.lines() {
        match serde_json::from_str(line).with_context(|| format!("a run said {line}"))? {
            Event::Epoch(report) => seconds = Some(report.elapsed),
            Event::Evaluation(e) if e.split == Split::Test && e.weights == ScoredWeights::Last => {
                accuracy = Some(e.accuracy)
            }
            _ => {}
        }
    }
    seconds
        .zip(accuracy)
        .context("a run told neither its time nor its accuracy")
}

/// A folder of this process, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> std::io::Result<Self> {
        let name = format!("cifar-tui-suite-{}", std::process::id());
        let folder = Path::new(&std::env::temp_dir()).join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(Folder(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left of it is in the system's folder for such things.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
