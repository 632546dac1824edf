//! `bench --suite`: checks and measures a device in one command of about ten minutes: its results against a reference
//! in double precision, its speed in training and scoring, and the time and accuracy of whole runs; on a GPU each kernel
//! launch too, and beside them a peer's speed. Prints tables or JSON at the end.

use super::{bench, explain, network, peer};
use crate::backend::candle::CandleDevice;
use crate::backend::{
    Backend, Device, ImageSet, Inspection, NetworkSpec, Scaling, StepPlan, TensorData, rule,
};
use crate::cli::BenchOptions;
use crate::config::Config;
use crate::domain::arch::{self, Shape};
use crate::domain::gpu_tuning::GpuTuning;
use crate::domain::params::{Flip, Hyperparameters, Precision, Tta, Weights};
use crate::domain::report::{ScoredWeights, Split};
use crate::domain::rng::{Rng, Stream};
use crate::domain::sweep::Repeats;
use crate::session::protocol::Event;
use anyhow::{Context, bail, ensure};
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::atomic::AtomicBool;

/// Batch size and side of the images that are compared, for networks without ReLU and pooling.
const COMPARED: (usize, usize) = (32, 32);
/// The same for networks with ReLU or pooling: small, so that a batch in which every choice is clear can be found. A
/// choice is the sign of a ReLU's input, or the largest value of a pooling window; rounding must not decide it.
const COMPARED_CLEAR: (usize, usize) = (4, 16);
/// Minimum margin of a clear choice, relative to the layer's largest value: many times the rounding error of f32.
const MIN_MARGIN: f64 = 1e-5;
/// A gradient in the reference whose values are all below this share of the network's largest gradient counts as zero.
const ZERO_GRADIENT: f32 = 1e-9;
/// Maximum number of batches drawn until every choice is clear.
const MAX_DRAWS: u64 = 2_000;
/// Seconds that each throughput is measured.
const SECONDS: f64 = 2.0;
/// The networks and batch sizes whose speed is measured, and whether their scoring is measured too.
const SPEEDS: [(&str, u32, bool); 5] = [
    ("seed", 32, true),
    ("seed", 512, false),
    ("seed", 4096, false),
    ("resnet", 128, false),
    ("resnet", 512, false),
];
/// How many networks train at once, of the first row of [`SPEEDS`], on a device whose launches they share.
const TOGETHER: [usize; 2] = [8, 32];
/// Epochs of a whole run: those of the seed recipe.
const EPOCHS: f64 = 15.0;
/// How many whole runs train at the same time, each with a seed of its own, on a device whose launches they share.
const RUNS_TOGETHER: u64 = 8;
/// The name of their sweep.
const SWEEP: &str = "suite";

/// Every kind of layer in every fused form. Compared in f32, on images for which every choice of a ReLU or a pooling
/// window is clear.
pub const ALL_LAYERS: &[&str] = &[
    "seed",
    "resnet",
    "conv 20 k5 s2, relu, drop 0.3, conv 33 same, conv 17, relu, dense 50, relu, drop, dense 10",
    "norm, relu, pool 3 s2, drop 0.25, conv 24, relu, pool 3, dense 10",
    "conv 16 same, relu, residual(conv 16 same, relu), relu, residual(conv 32 s2 p1), norm, dense 10",
    "whiten, gelu, conv 32 same no-bias, pool, norm no-scale momentum 0.4 eps 1e-12, gelu, conv 20 k2, silu, \
     dense 10 no-bias unit-variance, scale 0.25",
];
/// Networks without ReLU and pooling, which have no choices that rounding could decide. Compared in every number
/// format.
const WITHOUT_CHOICES: &[&str] = &[
    "conv 32 same, conv 64 s2, dense 10",
    "conv 48 k5, norm, conv 40 s2 p1, dense 64, dense 10",
];
/// Each number format, its name, and its maximum difference from the reference, relative to a tensor's largest value.
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
    /// The largest allowed figure; None for measurements without a limit.
    pub most: Option<f64>,
}

impl Row {
    fn passed(&self) -> bool {
        // NaN fails the check.
        self.most.is_none_or(|most| self.figure <= most)
    }
}

/// Our training throughput.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Speed {
    pub architecture: &'static str,
    pub batch: u32,
    pub precision: &'static str,
    pub images_per_s: f64,
}

#[derive(Clone, Debug, Serialize)]
struct Report {
    device: String,
    rows: Vec<Row>,
    passed: bool,
    /// The launches of each measured step on a GPU.
    launches: Vec<explain::LaunchReport>,
    /// What is missing, and why.
    not_measured: Vec<String>,
    speeds: Vec<Speed>,
    peer: Vec<peer::PeerSpeed>,
}

/// Runs the suite, with the script `peer` if one is given, and prints the report to `out`. Writes each row to `progress` as
/// soon as it is measured.
///
/// # Errors
/// Returns an error if the device, the data or a network cannot be used; after the table, if a figure exceeds its
/// limit.
pub fn run(
    config: &Config,
    peer: Option<&Path>,
    json: bool,
    out: &mut impl Write,
    progress: &mut impl Write,
) -> anyhow::Result<()> {
    let device = network::device(config)?;
    let is_computed = |format: &&(Precision, &str, f64)| device.precisions().contains(&format.0);
    let formats: Vec<_> = FORMATS.iter().filter(is_computed).collect();
    let mut rows: Vec<Row> = Vec::new();
    let mut tell = |row: Row| -> std::io::Result<()> {
        writeln!(progress, "{}", line(&row))?;
        rows.push(row);
        Ok(())
    };
    for &&(precision, name, most) in &formats {
        let archs = match precision {
            Precision::F32 => [ALL_LAYERS, WITHOUT_CHOICES].concat(),
            _ => WITHOUT_CHOICES.to_vec(),
        };
        for arch in archs {
            tell(Row {
                what: format!("{name} against Candle in f64: {arch}"),
                figure: difference(&*device, arch, precision)
                    .with_context(|| format!("{name}, {arch}"))?,
                unit: "of the largest",
                most: Some(most),
            })?;
        }
    }
    let (mut launches, mut speeds) = (Vec::new(), Vec::new());
    let mut not_measured = Vec::new();
    for &&(precision, name, _) in &formats {
        for (arch, batch, eval) in SPEEDS {
            let config = with(config, |p| {
                p.architecture = arch.into();
                p.batch_size = batch;
                p.precision = precision;
            });
            let options = BenchOptions {
                seconds: SECONDS,
                eval,
                networks: 1,
            };
            let report = bench::measure(&config, options)?;
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
            let together = if device.is_shared() && (arch, batch) == (SPEEDS[0].0, SPEEDS[0].1) {
                &TOGETHER[..]
            } else {
                &[]
            };
            for &networks in together {
                let options = BenchOptions {
                    networks,
                    eval: false,
                    ..options
                };
                let what = format!("{what}, {networks} networks at once");
                match bench::measure(&config, options) {
                    Ok(report) => tell(Row {
                        what,
                        figure: report.images_per_s,
                        unit: "images/s",
                        most: None,
                    })?,
                    // Such as too little memory, which must not cost the other figures.
                    Err(error) => not_measured.push(format!("{what}: {error:#}")),
                }
            }
            speeds.push(Speed {
                architecture: arch,
                batch,
                precision: name,
                images_per_s: report.images_per_s,
            });
            if device.info().gpu_index.is_some() {
                // All variants of a network's products are compared with the plain ones, in its first batch.
                let first = SPEEDS.iter().find(|(name, ..)| *name == arch);
                let mut all = config.clone();
                if first.is_some_and(|(_, first, _)| *first == batch) {
                    all.options.gpu_tuning = GpuTuning::Full;
                }
                match explain::measure(&all) {
                    Ok(explained) => {
                        let variants = &explained.variants;
                        let compared = variants.iter().map(|row| row.times.len()).sum::<usize>();
                        let dropped = variants.iter().map(|row| row.dropped.len());
                        tell(Row {
                            what: format!("{what}, variants that were compared with the plain one"),
                            figure: compared as f64,
                            unit: "variants",
                            most: None,
                        })?;
                        tell(Row {
                            what: format!(
                                "{what}, variants that fail or differ from the plain one"
                            ),
                            figure: dropped.sum::<usize>() as f64,
                            unit: "variants",
                            most: Some(0.0),
                        })?;
                        launches.push(explain::LaunchReport {
                            step_images_per_s: Some(report.images_per_s),
                            ..explained
                        });
                    }
                    Err(error) => not_measured.push(format!("{what}, launches: {error:#}")),
                }
            }
        }
    }
    // Runs on a GPU take seconds, and share its launches.
    let seeds = if device.is_shared() { RUNS_TOGETHER } else { 1 };
    for &&(precision, name, _) in &formats {
        let config = with(config, |p| {
            p.precision = precision;
            p.epochs = EPOCHS;
        });
        let runs = whole_runs(&config, seeds)?;
        let what = match seeds {
            1 => format!("{EPOCHS} epochs, {name}"),
            _ => format!("{EPOCHS} epochs, {name}, {seeds} seeds in one process"),
        };
        let longest = runs.iter().map(|run| run.seconds).fold(0.0, f64::max);
        let seeds = Repeats {
            values: Vec::new(),
            accuracies: runs.iter().map(|run| 100.0 * run.accuracy).collect(),
        };
        let std = seeds.std().map(|std| ("test accuracy, std", std, "points"));
        let figures = [
            (
                "longest training, with its scoring after each epoch",
                longest,
                "s",
            ),
            ("test accuracy, mean", seeds.mean(), "%"),
        ];
        let figures = figures.into_iter().chain(std);
        for (part, figure, unit) in figures {
            tell(Row {
                what: format!("{what}: {part}"),
                figure,
                unit,
                most: None,
            })?;
        }
    }
    let mut peers = Vec::new();
    if let Some(script) = peer {
        for arch in ["seed", "resnet"] {
            let of_arch = SPEEDS.iter().filter(|(name, ..)| *name == arch);
            let batches: Vec<u32> = of_arch.map(|(_, batch, _)| *batch).collect();
            peers.extend(peer::measure(script, arch, &batches)?);
        }
    }
    let report = Report {
        device: device.info().words.clone(),
        passed: rows.iter().all(Row::passed),
        rows,
        launches,
        not_measured,
        speeds,
        peer: peers,
    };
    if json {
        super::json(&report, out)?;
    } else {
        writeln!(out, "\n{}", report.device)?;
        for row in &report.rows {
            writeln!(out, "{}", line(row))?;
        }
        for what in &report.not_measured {
            writeln!(out, "\nnot measured: {what}")?;
        }
        for launches in &report.launches {
            writeln!(out)?;
            explain::print(launches, out)?;
        }
        if !report.peer.is_empty() {
            peer::print(&report.speeds, &report.peer, out)?;
        }
    }
    let failed = report.rows.iter().filter(|row| !row.passed()).count();
    ensure!(
        failed == 0,
        "{failed} figures exceed their limits; they are marked FAILED above"
    );
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

/// Returns the largest difference between one training step on `device` and the same step in Candle in double
/// precision, over the loss, the gradients and the probabilities. Differences are relative to the largest value of each
/// tensor. The images are random and depend on the architecture.
///
/// # Errors
/// Returns an error if the architecture cannot be read, the device fails, or no batch with clear choices was found.
pub fn difference(device: &dyn Device, text: &str, precision: Precision) -> anyhow::Result<f64> {
    let params = Hyperparameters {
        label_smoothing: 0.1,
        weight_decay: 1e-3,
        flip: Flip::Random,
        crop: 2,
        cutout: 4,
        ..Hyperparameters::default()
    };
    let arch = arch::resolve(text)?;
    let (count, side) = match arch.makes_choices(Shape::CIFAR, arch::CIFAR_CLASSES)? {
        true => COMPARED_CLEAR,
        false => COMPARED,
    };
    let spec = NetworkSpec {
        arch,
        input: Shape::new(3, side as u32, side as u32),
        classes: arch::CIFAR_CLASSES,
        scaling: Scaling::standard(&[0.5; 3], &[0.25; 3]),
        optimizer: rule(params.optimizer),
        precision,
    };
    let reference = CandleDevice::reference();
    let (images, plan) = find_clear_batch(&reference, &spec, &params, count, text.len() as u64)?;
    let step = |device: &dyn Device| -> anyhow::Result<_> {
        let mut backend = device.backend(&spec, count)?;
        let member = backend.add(params.seed)?;
        let work = [(member, vec![plan.clone()])];
        let outcomes = backend.train(&images, &work, &AtomicBool::new(false))?;
        let loss = outcomes.iter().flatten().next().map(|o| o.loss);
        let loss = loss.context("the backend returned no outcome for the training step")?;
        let inspection = Inspection {
            gradients: true,
            ..Inspection::default()
        };
        let gradients = backend.inspect(member, &inspection)?.gradients;
        Ok((backend, member, loss, gradients))
    };
    let (mut theirs, their_member, their_loss, their_gradients) = step(&reference)?;
    let (mut ours, our_member, our_loss, our_gradients) = step(device)?;

    let mut worst = (our_loss - their_loss).abs() / their_loss;
    let largest = |values: &[f32]| values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let mut compare = |a: &[f32], b: &[f32], largest: f32| {
        for (a, b) in a.iter().zip(b) {
            let apart = f64::from((a - b).abs() / largest);
            // NaN counts as the largest difference.
            if apart.is_nan() || apart > worst {
                worst = apart;
            }
        }
    };
    let gradients = their_gradients.iter().map(|(_, g)| largest(&g.values));
    let largest_gradient = gradients.fold(0.0, f32::max);
    let names = |gradients: &[(String, TensorData)]| -> Vec<String> {
        gradients.iter().map(|(name, _)| name.clone()).collect()
    };
    ensure!(
        names(&our_gradients) == names(&their_gradients),
        "the device and the reference returned gradients of different parameters"
    );
    for ((_, a), (_, b)) in our_gradients.iter().zip(&their_gradients) {
        let largest = match largest(&b.values) {
            // Some gradients are zero in exact arithmetic, such as that of a bias before a norm. In f32 they consist of
            // rounding errors, so they are compared relative to the largest gradient.
            zero if zero < ZERO_GRADIENT * largest_gradient => largest_gradient,
            largest => largest,
        };
        compare(&a.values, &b.values, largest);
    }
    // Copy the reference's weights, so that only the scoring pass is compared.
    ours.import(our_member, &theirs.export(their_member)?)?;
    let score = |backend: &mut dyn Backend, member| -> anyhow::Result<Vec<f32>> {
        let scored = network::score(
            backend,
            member,
            10,
            &images,
            &plan.images,
            (Weights::Last, Tta::None),
            &mut |_| {},
        )?;
        Ok(scored.probabilities)
    };
    let probabilities = score(&mut *ours, our_member)?;
    let expected = score(&mut *theirs, their_member)?;
    compare(&probabilities, &expected, largest(&expected));
    Ok(worst)
}

/// Finds a batch in whose first training step every choice is clear. Images with an unclear choice are drawn again.
/// With batch normalisation a new image changes the choices of all others, so many draws may be needed.
fn find_clear_batch(
    reference: &CandleDevice,
    spec: &NetworkSpec,
    params: &Hyperparameters,
    count: usize,
    seed: u64,
) -> anyhow::Result<(Rc<ImageSet>, StepPlan)> {
    let side = spec.input.height as usize;
    let len = 3 * side * side;
    let numbers: Vec<u32> = (0..count as u32).collect();
    let plan = StepPlan::new(params, params.base_rates(), (1, 1), &numbers);
    let mut pixels = vec![0; count * len];
    let mut unclear = vec![true; count];
    for draw in 0..MAX_DRAWS {
        let rng = Rng::new(seed, Stream::Sample, draw);
        let images = pixels.chunks_exact_mut(len).zip(&unclear).enumerate();
        for (i, (image, _)) in images.filter(|(_, (_, unclear))| **unclear) {
            for (j, byte) in image.iter_mut().enumerate() {
                *byte = (rng.word((i * len + j) as u32) >> 24) as u8;
            }
        }
        let labels = numbers.iter().map(|i| (7 * i % 10) as u16).collect();
        let images = ImageSet::new(3, side, pixels.clone(), labels)?;
        let margins = reference.margins(spec, None, &images, &plan)?;
        unclear = margins.iter().map(|margin| *margin < MIN_MARGIN).collect();
        if !unclear.contains(&true) {
            return Ok((Rc::new(images), plan));
        }
    }
    bail!(
        "rounding could decide a ReLU or a pooling window in each of {MAX_DRAWS} random batches (margin below {MIN_MARGIN:e} of the layer's largest value)"
    )
}

/// A finished run.
#[derive(Debug)]
pub struct WholeRun {
    /// Of training, with the scoring after each epoch.
    pub seconds: f64,
    /// Test accuracy of the last weights.
    pub accuracy: f64,
}

/// Runs this program once as a sweep over this number of seeds, all of which train at the same time. Returns the runs.
///
/// # Errors
/// Returns an error if a run fails or does not report its end.
pub fn whole_runs(config: &Config, seeds: u64) -> anyhow::Result<Vec<WholeRun>> {
    let folder = TemporaryFolder::new()?;
    let p = &config.params;
    let seeds: Vec<String> = (1..=seeds).map(|seed| seed.to_string()).collect();
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["sweep", &format!("seed={}", seeds.join(",")), "--headless"])
        .args(["--parallel", &seeds.len().to_string()])
        .args(["--arch", "seed", "--precision", p.precision.word()])
        .args(["--device", &config.options.device])
        .args(["--engine", config.options.engine.name()])
        .args(["--epochs", &p.epochs.to_string()])
        .args(["--name", SWEEP])
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
    ensure!(output.status.success(), "the runs failed: {}", said.trim());
    let mut runs = Vec::new();
    for entry in std::fs::read_dir(folder.0.join(SWEEP))? {
        let metrics = entry?.path().join("metrics.jsonl");
        if metrics.is_file() {
            runs.push(whole_run(&std::fs::read_to_string(metrics)?)?);
        }
    }
    ensure!(
        runs.len() == seeds.len(),
        "{} of {} runs left their metrics",
        runs.len(),
        seeds.len()
    );
    Ok(runs)
}

/// A run from the lines of its metrics.
fn whole_run(metrics: &str) -> anyhow::Result<WholeRun> {
    let (mut seconds, mut accuracy) = (None, None);
    for line in metrics.lines() {
        match serde_json::from_str(line)
            .with_context(|| format!("a run wrote a line that is not an event: {line}"))?
        {
            Event::Epoch(report) => seconds = Some(report.elapsed),
            Event::Evaluation(e) if e.split == Split::Test && e.weights == ScoredWeights::Last => {
                accuracy = Some(e.accuracy)
            }
            _ => {}
        }
    }
    let (seconds, accuracy) = seconds
        .zip(accuracy)
        .context("a run reported no finished epoch or no test accuracy")?;
    Ok(WholeRun { seconds, accuracy })
}

/// A temporary folder, deleted when dropped.
struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    fn new() -> std::io::Result<Self> {
        let name = format!("cifar-tui-suite-{}", std::process::id());
        let folder = Path::new(&std::env::temp_dir()).join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(TemporaryFolder(folder))
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // If deleting fails, the system cleans its folder of temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
