//! `bench`: how fast the real training step is and where its time goes. The step is the trainer's: batch preparation,
//! forward, backward, optimizer, on the built-in images (or `--data`), since how many gradients are exactly zero, and so
//! how much work there is, depends on what the network sees.

use super::network::{LabelledImages, score};
use crate::config::Config;
use crate::data::{self, batches};
use crate::domain::arch::{self, Shape};
use crate::domain::params::Hyperparameters;
use crate::domain::report::StepSettings;
use crate::domain::text::{grouped, plain};
use crate::hardware::device::DeviceChoice;
use crate::hardware::peak;
use crate::hardware::simd::Level;
use crate::hardware::threads::Threads;
use crate::net::engine::PlannedStep;
use crate::net::plan::MAX_STEPS;
use crate::net::{Net, Scaling};
use crate::train::optim::Optimizer;
use crate::train::trainer::AHEAD;
use anyhow::Context;
use candle_core::Device;
use serde::Serialize;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

/// Steps before measuring starts: caches, branch predictors, the clock and the first, unusual weights settle.
const WARM_UP_STEPS: usize = 20;
/// Seconds that the warm-up takes at most, for very large networks.
const WARM_UP_SECONDS: f64 = 2.0;

/// Time of one part of the step.
#[derive(Clone, Debug, Serialize)]
pub struct Share {
    pub op: String,
    pub forward_ms: f64,
    pub backward_ms: f64,
    /// Of the whole step, 0 to 1.
    pub share: f64,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub architecture: String,
    pub device: String,
    pub threads: usize,
    pub batch: usize,
    pub data: String,
    pub parameters: u64,
    pub steps: usize,
    pub seconds: f64,
    pub images_per_s: f64,
    pub ms_per_step: f64,
    /// The median step, which a busy machine disturbs less than the mean.
    pub median_ms_per_step: f64,
    /// Floating-point operations of a training step an image, counted as if no gradient were zero.
    pub flop_per_image: u64,
    /// The same a second: the rate at which direct convolutions without skipped zeros would have to compute to be as
    /// fast. It is no use of the hardware, and may lie above its peak.
    pub equivalent_gflop_per_s: f64,
    /// What the computer's multiply-add units can do, measured in the same run; None on a GPU.
    pub peak_gflop_per_s: Option<f64>,
    /// `equivalent_gflop_per_s` as a multiple of the peak.
    pub equivalent_per_peak: Option<f64>,
    pub shares: Vec<Share>,
    pub eval_images_per_s: Option<f64>,
}

/// Seconds of one step, and of the parts of it that are not the network's.
struct Times {
    order: f64,
    optimizer: f64,
    whole: f64,
}

/// Measures and prints.
///
/// # Errors
/// When the device, the data or the network cannot be had.
pub fn run(
    config: &Config,
    seconds: f64,
    eval: bool,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let report = measure(config, seconds, eval)?;
    if json {
        return super::json(&report, out);
    }
    print(&report, out)
}

/// # Errors
/// As [`run`].
pub fn measure(config: &Config, seconds: f64, eval: bool) -> anyhow::Result<Report> {
    let params = &config.params;
    let device = config.options.device.parse::<DeviceChoice>()?.open()?;
    let threads = Threads::new(config.options.threads);
    let named = config.options.data.as_deref();
    let found = data::find(Some(named.unwrap_or(Path::new(data::SAMPLE))))?;
    let dataset = data::load(&found, &mut |_, _| {}, config.options.threads)?;
    let info = dataset.info;
    let shape = Shape::new(3, info.side, info.side);
    let classes = info.classes.len();
    let arch = arch::resolve(&params.architecture)?;
    let batch = (params.batch_size as usize).min(dataset.train.labels.len());
    let mut net = Net::build(&arch, shape, classes, batch, params.seed, &Device::Cpu)?;
    if let Some(executor) = device.executor()? {
        net.accelerate(executor, params.optimizer, params.precision)?;
    }
    let mut optimizer = Optimizer::new(params.optimizer, &net.params())?;
    let images = LabelledImages::new(dataset.train)?;
    let scaling = match params.standardize {
        true => Scaling::standard(three(&info.mean)?, three(&info.deviation)?),
        false => Scaling::UNIT,
    };
    let parameters = net.params().iter().map(|p| p.var.elem_count() as u64).sum();
    let first = arch
        .summary(shape, classes)?
        .iter()
        .map(|line| line.multiply_adds)
        .find(|n| *n > 0)
        .unwrap_or(0);
    // Forward, and as much again for the gradients of the weights and of the inputs, of which the first layer has none.
    let flop_per_image = 2 * (3 * net.multiply_adds() - first);

    let settings = |step| StepSettings::new(params, params.learning_rate, step);
    let mut feed = Feed {
        params,
        batch,
        images: images.labels.len(),
        order: Vec::new(),
        at: 0,
        epoch: 0,
        step: 0,
    };
    let mut plan = Vec::new();
    // So many steps, and how long each took.
    let mut some = |net: &mut Net, count: usize| -> anyhow::Result<Times> {
        let begin = Instant::now();
        if net.engine().is_some() {
            let mut numbers = Vec::with_capacity(count * batch);
            let mut steps = Vec::with_capacity(count);
            for _ in 0..count {
                let (some, step) = feed.next();
                numbers.extend_from_slice(some);
                let settings = settings(step);
                let update = optimizer.plan(&settings);
                steps.push(PlannedStep::new(settings, update, batch, params));
            }
            let order = begin.elapsed().as_secs_f64();
            net.train_steps(&images.pixels, &images.labels, &scaling, &numbers, &steps)?;
            return Ok(Times {
                order: order / count as f64,
                optimizer: 0.0,
                whole: begin.elapsed().as_secs_f64() / count as f64,
            });
        }
        let (numbers, step) = feed.next();
        batches::plan(numbers, step, info.side, params, &mut plan);
        let order = begin.elapsed().as_secs_f64();
        let settings = settings(step);
        net.train_pass(
            &images.pixels,
            &images.labels,
            &plan,
            &scaling,
            &settings,
            &threads,
        )?;
        let update = Instant::now();
        optimizer.step(&net.params(), &settings, &threads)?;
        Ok(Times {
            order,
            optimizer: update.elapsed().as_secs_f64(),
            whole: begin.elapsed().as_secs_f64(),
        })
    };

    let warm = Instant::now();
    let mut last = 0.0;
    for i in 0..WARM_UP_STEPS {
        last = some(&mut net, 1)?.whole;
        if i > 0 && warm.elapsed().as_secs_f64() > WARM_UP_SECONDS {
            break;
        }
    }
    // As many at a time as a run asks for.
    let count = match net.engine() {
        Some(_) => ((AHEAD / last) as usize).clamp(1, MAX_STEPS),
        None => 1,
    };
    let begin = Instant::now();
    let mut times = Vec::new();
    while begin.elapsed().as_secs_f64() < seconds || times.is_empty() {
        times.push(some(&mut net, count)?.whole);
    }
    let elapsed = begin.elapsed().as_secs_f64();
    let steps = times.len() * count;

    let shares = match net.engine() {
        // What a machine does within a list is not timed.
        Some(_) => Vec::new(),
        None => shares(&mut net, seconds, &mut some)?,
    };

    times.sort_by(f64::total_cmp);
    let images_per_s = (steps * batch) as f64 / elapsed;
    let equivalent = images_per_s * flop_per_image as f64 / 1e9;
    let peak = device
        .is_cpu()
        .then(|| peak::flops(Level::best(), &threads) / 1e9);
    let eval_images_per_s = match eval {
        true => {
            let test = LabelledImages::new(dataset.test)?;
            net.set_capacity(batch.max(32))?;
            let all: Vec<u32> = (0..test.labels.len() as u32).collect();
            let score = |net: &mut Net| score(net, &test, &all, &scaling, &threads, &mut |_| {});
            score(&mut net)?;
            let begin = Instant::now();
            let mut rounds = 0;
            while begin.elapsed().as_secs_f64() < seconds / 2.0 || rounds == 0 {
                score(&mut net)?;
                rounds += 1;
            }
            Some((rounds * all.len()) as f64 / begin.elapsed().as_secs_f64())
        }
        false => None,
    };
    Ok(Report {
        architecture: params.architecture.clone(),
        device: device.describe(threads.count()),
        threads: threads.count(),
        batch,
        data: info.name,
        parameters,
        steps,
        seconds: elapsed,
        images_per_s,
        ms_per_step: 1e3 * elapsed / steps as f64,
        median_ms_per_step: 1e3 * times[times.len() / 2],
        flop_per_image,
        equivalent_gflop_per_s: equivalent,
        peak_gflop_per_s: peak,
        equivalent_per_peak: peak.map(|p| equivalent / p),
        shares,
        eval_images_per_s,
    })
}

/// Each layer's time. It comes from a run of its own, so that the clocks between layers cost the figures nothing.
fn shares(
    net: &mut Net,
    seconds: f64,
    some: &mut impl FnMut(&mut Net, usize) -> anyhow::Result<Times>,
) -> anyhow::Result<Vec<Share>> {
    net.measure(true);
    let timed = Instant::now();
    let mut timed_steps = 0;
    let (mut order_seconds, mut optimizer_seconds) = (0.0, 0.0);
    while timed.elapsed().as_secs_f64() < (seconds / 4.0).max(0.2) || timed_steps == 0 {
        let times = some(net, 1)?;
        order_seconds += times.order;
        optimizer_seconds += times.optimizer;
        timed_steps += 1;
    }
    let per_step = |seconds: f64| 1e3 * seconds / timed_steps as f64;
    let mut shares: Vec<Share> = net
        .timings()
        .into_iter()
        .map(|t| Share {
            op: t.name,
            forward_ms: per_step(t.forward),
            backward_ms: per_step(t.backward),
            share: 0.0,
        })
        .collect();
    for (op, seconds) in [
        ("batch order", order_seconds),
        ("optimizer", optimizer_seconds),
    ] {
        shares.push(Share {
            op: op.into(),
            forward_ms: per_step(seconds),
            backward_ms: 0.0,
            share: 0.0,
        });
    }
    let whole: f64 = shares.iter().map(|s| s.forward_ms + s.backward_ms).sum();
    for s in &mut shares {
        s.share = (s.forward_ms + s.backward_ms) / whole.max(1e-12);
    }
    net.measure(false);
    Ok(shares)
}

/// The images to train on, batch by batch, epoch after epoch.
struct Feed<'a> {
    params: &'a Hyperparameters,
    batch: usize,
    /// How many there are.
    images: usize,
    order: Vec<u32>,
    at: usize,
    epoch: u64,
    /// Batches given so far.
    step: u64,
}

impl Feed<'_> {
    /// The next batch, and the number of its step.
    fn next(&mut self) -> (&[u32], u64) {
        let Feed { params, batch, .. } = *self;
        if self.at + batch > self.order.len() {
            self.order = batches::Division::new(self.images, params.seed, params.validation)
                .order(params.seed, self.epoch);
            // A batch is never smaller than asked for, not even when the share that is held out is large.
            while self.order.len() < batch {
                self.order.extend_from_within(..);
            }
            self.epoch += 1;
            self.at = 0;
        }
        self.step += 1;
        self.at += batch;
        (&self.order[self.at - batch..self.at], self.step)
    }
}

fn three(values: &[f32]) -> anyhow::Result<[f32; 3]> {
    values
        .try_into()
        .context("the data has no statistics of three channels")
}

fn print(r: &Report, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(
        out,
        "{}, batch {}, {}, {}: {} parameters",
        plain(&r.architecture),
        r.batch,
        r.device,
        r.data,
        grouped(r.parameters)
    )?;
    writeln!(
        out,
        "\n{:>10} images/s   {:.3} ms a step (median {:.3}), {} steps in {:.1} s",
        grouped(r.images_per_s.round() as u64),
        r.ms_per_step,
        r.median_ms_per_step,
        grouped(r.steps as u64),
        r.seconds
    )?;
    if let Some(eval) = r.eval_images_per_s {
        writeln!(
            out,
            "{:>10} images/s   scored, {:.2} times as many",
            grouped(eval.round() as u64),
            eval / r.images_per_s
        )?;
    }
    write!(
        out,
        "{:>10.1} GFLOP/s    equivalent: direct convolutions, zeros multiplied too, would need that ({:.1} MFLOP an image)",
        r.equivalent_gflop_per_s,
        r.flop_per_image as f64 / 1e6
    )?;
    match (r.peak_gflop_per_s, r.equivalent_per_peak) {
        (Some(peak), Some(ratio)) => writeln!(
            out,
            "\n{peak:>10.1} GFLOP/s    peak of the multiply-add units, measured now; the equivalent is {ratio:.2} times that: \
             minimal filtering and skipped zeros save products"
        )?,
        _ => writeln!(out)?,
    }
    if r.shares.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\n  {:<16} {:>12} {:>12} {:>7}",
        "", "forward ms", "backward ms", "share"
    )?;
    for s in &r.shares {
        let backward = match s.backward_ms {
            0.0 => String::new(),
            ms => format!("{ms:.3}"),
        };
        writeln!(
            out,
            "  {:<16} {:>12.3} {backward:>12} {:>6.1}%",
            s.op,
            s.forward_ms,
            s.share * 100.0
        )?;
    }
    Ok(())
}
