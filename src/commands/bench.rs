//! `bench`: measures the throughput of the training step and the time of each part. The step is the trainer's own:
//! batch preparation, forward, backward, optimizer. It runs on the built-in images (or `--data`), not on random ones,
//! since the number of gradients that are exactly zero, and thereby the work, depends on the images.

use super::network;
use crate::backend::{Backend, ImageSet, MemberId, PartTime, StepPlan};
use crate::cli::BenchOptions;
use crate::config::Config;
use crate::data::{self, batches};
use crate::domain::params::{Hyperparameters, Tta, Weights};
use crate::domain::text::{grouped, plain};
use crate::train::trainer::{SECONDS_PER_SUBMISSION, spec_for};
use crate::train::training_data::image_set;
use anyhow::{bail, ensure};
use serde::Serialize;
use std::io::Write;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Number of steps before the measurement, in which caches, branch predictors, the clock frequency and the first
/// weights settle.
const WARM_UP_STEPS: usize = 20;
/// Maximum seconds of the warm-up, for very large networks.
const WARM_UP_SECONDS: f64 = 2.0;

/// Time of one part of the step.
#[derive(Clone, Debug, Serialize)]
pub struct Share {
    pub op: String,
    pub forward_ms: f64,
    pub backward_ms: f64,
    /// Share of the whole step, 0 to 1.
    pub share: f64,
}

/// The results of a measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub architecture: String,
    pub device: String,
    pub threads: usize,
    pub batch: usize,
    /// Networks that train at once, each on its own batches.
    pub networks: usize,
    /// The number format of the matrix products.
    pub precision: &'static str,
    pub data: String,
    pub parameters: u64,
    /// Steps of each network.
    pub steps: usize,
    pub seconds: f64,
    /// Of all networks together.
    pub images_per_s: f64,
    pub ms_per_step: f64,
    /// Median over the submissions of their mean time per step. Other programs disturb it less than the mean.
    pub median_ms_per_step: f64,
    /// Floating-point operations per image of a training step with direct convolutions that skip no zeros.
    pub flop_per_image: u64,
    /// `flop_per_image * images_per_s / 1e9`: the rate that direct convolutions without skipped zeros would need for
    /// the same throughput. It is not the utilisation of the hardware, and may exceed the peak.
    pub equivalent_gflop_per_s: f64,
    /// Peak rate of the multiply-add units, measured in the same run. None if the device has no measurement of it.
    pub peak_gflop_per_s: Option<f64>,
    /// `equivalent_gflop_per_s` as a multiple of the peak.
    pub equivalent_per_peak: Option<f64>,
    pub shares: Vec<Share>,
    pub eval_images_per_s: Option<f64>,
}

/// Mean seconds per step: of `order`, which chooses the images of the batch, and of the whole step.
struct StepTime {
    order: f64,
    whole: f64,
}

/// Measures and prints the report.
///
/// # Errors
/// Returns an error if the device, the data or the network cannot be used, or the device does not take so many networks.
pub fn run(
    config: &Config,
    options: BenchOptions,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let report = measure(config, options)?;
    if json {
        return super::json(&report, out);
    }
    print(&report, out)
}

/// Trains the network on the device for some seconds.
///
/// # Errors
/// Returns an error if the device, the data or the network cannot be used, or the device does not take so many networks.
pub fn measure(config: &Config, options: BenchOptions) -> anyhow::Result<Report> {
    let BenchOptions {
        seconds,
        eval,
        networks,
    } = options;
    let params = &config.params;
    let device = network::device(config)?;
    let named = config.options.data.as_deref();
    let found = data::find(Some(named.unwrap_or(Path::new(data::SAMPLE))))?;
    let dataset = data::load(&found, &mut |_, _| {}, config.options.threads)?;
    let info = dataset.info;
    let spec = spec_for(
        params,
        info.side,
        info.classes.len(),
        (&info.mean, &info.std),
    )?;
    let batch = (params.batch_size as usize).min(dataset.train.labels.len());
    let images = Rc::new(image_set(dataset.train)?);
    // Otherwise the variants would change while the steps are timed.
    device.tune(&spec, batch, config.options.gpu_tuning, false)?;
    let mut backend = device.backend(&spec, batch)?;
    let most = backend.members_at_once();
    ensure!(
        networks <= most,
        "{} trains at most {most} networks at once, not {networks}",
        device.info().words
    );
    // Each with the seed of a run of its own.
    let seeds = (0..networks as u64).map(|network| params.seed.wrapping_add(network));
    let members: anyhow::Result<Vec<Member>> = seeds
        .map(|seed| {
            Ok(Member {
                id: backend.add(seed)?,
                batches: Batches {
                    params: Hyperparameters {
                        seed,
                        ..params.clone()
                    },
                    batch,
                    images: images.len(),
                    order: Vec::new(),
                    at: 0,
                    epoch: 0,
                    step: 0,
                },
            })
        })
        .collect();
    let layers = spec.arch.summary(spec.input, spec.classes)?;
    let parameters = layers.iter().map(|line| line.parameters).sum();
    let multiply_adds: u64 = layers.iter().map(|line| line.multiply_adds).sum();
    let first = layers
        .iter()
        .map(|line| line.multiply_adds)
        .find(|n| *n > 0)
        .unwrap_or(0);
    // The forward pass, the gradients of the weights and the gradients of the inputs take the same number of operations
    // each. The first layer has no gradient of its input.
    let flop_per_image = 2 * (3 * multiply_adds - first);

    let mut bench = Bench {
        backend: &mut *backend,
        members: members?,
        images,
    };
    let first_member = bench.members[0].id;
    let warm = Instant::now();
    let mut last = 0.0;
    for i in 0..WARM_UP_STEPS {
        last = bench.steps(1)?.whole;
        if i > 0 && warm.elapsed().as_secs_f64() > WARM_UP_SECONDS {
            break;
        }
    }
    // Submit as many steps at a time as the trainer does.
    let most = bench.backend.max_steps();
    let count = ((SECONDS_PER_SUBMISSION / last) as usize).clamp(1, most);
    let begin = Instant::now();
    let mut times = Vec::new();
    while begin.elapsed().as_secs_f64() < seconds || times.is_empty() {
        times.push(bench.steps(count)?.whole);
    }
    let elapsed = begin.elapsed().as_secs_f64();
    let steps = times.len() * count;
    let shares = bench.shares(seconds)?;

    times.sort_by(f64::total_cmp);
    let images_per_s = (steps * batch * networks) as f64 / elapsed;
    let equivalent = images_per_s * flop_per_image as f64 / 1e9;
    let peak = device.peak_flops().map(|flops| flops / 1e9);
    let eval_images_per_s = match eval {
        true => {
            let test = Rc::new(image_set(dataset.test)?);
            backend.resize(batch.max(32))?;
            let all: Vec<u32> = (0..test.len() as u32).collect();
            let mut score = || {
                let backend = &mut *backend;
                network::score(
                    backend,
                    first_member,
                    spec.classes,
                    &test,
                    &all,
                    (Weights::Last, Tta::None),
                    &mut |_| {},
                )
            };
            score()?;
            let begin = Instant::now();
            let mut rounds = 0;
            while begin.elapsed().as_secs_f64() < seconds / 2.0 || rounds == 0 {
                score()?;
                rounds += 1;
            }
            Some((rounds * all.len()) as f64 / begin.elapsed().as_secs_f64())
        }
        false => None,
    };
    Ok(Report {
        architecture: params.architecture.clone(),
        device: device.info().words.clone(),
        threads: device.info().threads.count(),
        batch,
        networks,
        precision: device.number_format(spec.precision).word(),
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

/// Networks in training, a few steps at a time.
struct Bench<'a> {
    backend: &'a mut dyn Backend,
    members: Vec<Member>,
    images: Rc<ImageSet>,
}

/// One of the networks.
struct Member {
    id: MemberId,
    batches: Batches,
}

impl Bench<'_> {
    /// Makes `count` steps of each network in one submission.
    fn steps(&mut self, count: usize) -> anyhow::Result<StepTime> {
        let begin = Instant::now();
        let members = self.members.iter_mut();
        let work = members.map(|member| {
            let plans = (0..count).map(|_| member.batches.next());
            (member.id, plans.collect())
        });
        let work: Vec<(MemberId, Vec<StepPlan>)> = work.collect();
        let order = begin.elapsed().as_secs_f64();
        let outcomes = self
            .backend
            .train(&self.images, &work, &AtomicBool::new(false))?;
        let whole = begin.elapsed().as_secs_f64();
        if let Some(step) = outcomes.iter().flatten().find(|o| o.not_finite.is_some()) {
            let what = step.not_finite.as_deref().unwrap_or_default();
            bail!(
                "{what} was not finite in step {}: choose a lower learning rate",
                step.step
            );
        }
        Ok(StepTime {
            order: order / count as f64,
            whole: whole / count as f64,
        })
    }

    /// Measures the time of each part; empty if the backend cannot. Uses steps of its own, since reading the clock
    /// between the parts would lower the throughput reported above.
    fn shares(&mut self, seconds: f64) -> anyhow::Result<Vec<Share>> {
        self.backend.measure(true);
        let begin = Instant::now();
        let (mut order, mut steps) = (0.0, 0u32);
        loop {
            order += self.steps(1)?.order;
            steps += 1;
            let enough = begin.elapsed().as_secs_f64() >= (seconds / 4.0).max(0.2);
            if enough || self.backend.timings().is_empty() {
                break;
            }
        }
        let mut parts = self.backend.timings();
        self.backend.measure(false);
        if parts.is_empty() {
            return Ok(Vec::new());
        }
        parts.push(PartTime {
            name: "batch order".into(),
            forward: order / f64::from(steps),
            backward: 0.0,
        });
        let whole: f64 = parts.iter().map(|p| p.forward + p.backward).sum();
        let share = |part: PartTime| Share {
            share: (part.forward + part.backward) / whole.max(1e-12),
            op: part.name,
            forward_ms: 1e3 * part.forward,
            backward_ms: 1e3 * part.backward,
        };
        Ok(parts.into_iter().map(share).collect())
    }
}

/// Batches of the training images, epoch after epoch.
struct Batches {
    params: Hyperparameters,
    batch: usize,
    /// Number of images in the training set.
    images: usize,
    order: Vec<u32>,
    at: usize,
    epoch: u64,
    /// Number of batches returned so far.
    step: u64,
}

impl Batches {
    /// The plan of the step on the next batch.
    fn next(&mut self) -> StepPlan {
        let (params, batch) = (&self.params, self.batch);
        if self.at + batch > self.order.len() {
            self.order = batches::Division::new(self.images, params.seed, params.validation)
                .order(params.seed, self.epoch);
            // Repeat the images if there are fewer than a batch, since a large share may be held out for validation.
            while self.order.len() < batch {
                self.order.extend_from_within(..);
            }
            self.epoch += 1;
            self.at = 0;
        }
        self.step += 1;
        self.at += batch;
        let images = &self.order[self.at - batch..self.at];
        StepPlan::new(
            params,
            params.base_rates(),
            (self.step, self.epoch as u32),
            images,
        )
    }
}

fn print(r: &Report, out: &mut impl Write) -> anyhow::Result<()> {
    let networks = match r.networks {
        1 => String::new(),
        n => format!("{n} networks at once, "),
    };
    writeln!(
        out,
        "{}, {networks}batch {}, {}, {}, {}: {} parameters",
        plain(&r.architecture),
        r.batch,
        r.precision,
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
