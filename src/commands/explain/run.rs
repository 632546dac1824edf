//! How long a whole run takes by the launches' times: its steps, the evaluation after each epoch, and the final score.

use super::{Model, Subject};
use crate::backend::gpu::schedule::{KernelSchedule, ScheduledLaunch};
use crate::data::batches::{self, Division};
use crate::domain::params::{Hyperparameters, Tta};
use crate::domain::report::Split;
use crate::domain::text::{grouped, plain};
use crate::train::trainer::capacity;
use serde::Serialize;
use std::io::Write;

/// CIFAR-10's training and test images.
pub const CIFAR_IMAGES: (usize, usize) = (50_000, 10_000);

/// What a run consists of, and how long it takes.
#[derive(Clone, Debug, Serialize)]
pub struct RunTimes {
    pub data: String,
    pub epochs: f64,
    pub steps: u64,
    /// Images that are scored after all epochs together, and at the end.
    pub evaluated: u64,
    pub scored_at_the_end: u64,
    /// Views of each image at the end.
    pub views: usize,
    /// If every launch took its floor.
    pub floor: Seconds,
    /// Expected of our kernels, where they have been measured.
    pub expected: Option<Seconds>,
}

/// Seconds of the parts of a run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Seconds {
    pub training: f64,
    pub evaluations: f64,
    pub final_score: f64,
    pub all: f64,
}

impl RunTimes {
    pub(super) fn new(
        subject: &Subject,
        model: Model,
        multiprocessors: u32,
    ) -> anyhow::Result<Self> {
        let params = &subject.params;
        let (train, test) = subject.images;
        let division = Division::new(train, params.seed, params.validation);
        let per_epoch = batches::steps(division.train.len(), params.batch_size, params.drop_last);
        let split = params.scored_split();
        let mut scored = vec![match split {
            Split::Test => test,
            _ => division.validation.len(),
        }];
        if split != Split::Test && params.test_each_epoch {
            scored.push(test);
        }
        // The last evaluation may have been the final score.
        let includes_test = split == Split::Test || params.test_each_epoch;
        let scored_at_the_end = match includes_test && params.tta_of_evaluations() == params.tta {
            true => 0,
            false => test,
        };
        let averages = params.average_decay > 0.0;
        let of = |capacity| KernelSchedule::of(&subject.spec, capacity, multiprocessors, averages);
        let plan = Run {
            params,
            trained: division.train.len(),
            steps: params.total_steps(per_epoch),
            per_epoch,
            scored,
            scored_at_the_end,
            step: of(params.batch_size as usize)?.training,
            score: of(capacity(params))?.scoring,
        };
        let expects = model.rates.reached.is_some();
        let expected =
            |launch: &ScheduledLaunch, share| model.expected(launch, share).unwrap_or(0.0);
        Ok(RunTimes {
            data: subject.data.clone(),
            epochs: params.epochs,
            steps: plan.steps,
            evaluated: params.epochs.ceil() as u64 * plan.scored.iter().sum::<usize>() as u64,
            scored_at_the_end: scored_at_the_end as u64,
            views: params.tta.views().len(),
            floor: plan.seconds(&|launch, share| model.floor(launch, share)),
            expected: expects.then(|| plan.seconds(&expected)),
        })
    }
}

/// A run: what it trains on and scores, and the launches of a step and of a scoring pass.
struct Run<'a> {
    params: &'a Hyperparameters,
    trained: usize,
    steps: u64,
    per_epoch: u64,
    /// Images of each evaluation after an epoch.
    scored: Vec<usize>,
    scored_at_the_end: usize,
    step: Vec<ScheduledLaunch>,
    score: Vec<ScheduledLaunch>,
}

impl Run<'_> {
    /// By a model of the seconds that a launch takes with a share of a full batch.
    fn seconds(&self, model: &dyn Fn(&ScheduledLaunch, f64) -> f64) -> Seconds {
        let list = |launches: &[ScheduledLaunch], share: f64| -> f64 {
            launches.iter().map(|launch| model(launch, share)).sum()
        };
        let params = self.params;
        let batch = params.batch_size as usize;
        // The last batch of an epoch may be smaller.
        let rest = self.trained % batch;
        let smaller = match rest > 0 && !(params.drop_last && self.trained >= batch) {
            true => self.steps / self.per_epoch.max(1),
            false => 0,
        };
        let training = (self.steps - smaller) as f64 * list(&self.step, 1.0)
            + smaller as f64 * list(&self.step, rest as f64 / batch as f64);

        // The last weights are scored, and their average.
        let networks = if params.average_decay > 0.0 { 2.0 } else { 1.0 };
        let most = capacity(params);
        let score = |images: usize, tta: Tta| {
            let views = tta.views().len();
            let at_once = most / views;
            let pass = |images: usize| match images {
                0 => 0.0,
                n => list(&self.score, (n * views) as f64 / most as f64),
            };
            networks * ((images / at_once) as f64 * pass(at_once) + pass(images % at_once))
        };
        let of_evaluations = params.tta_of_evaluations();
        let evaluation: f64 = self.scored.iter().map(|n| score(*n, of_evaluations)).sum();
        let evaluations = params.epochs.ceil() * evaluation;
        let final_score = score(self.scored_at_the_end, params.tta);
        Seconds {
            training,
            evaluations,
            final_score,
            all: training + evaluations + final_score,
        }
    }
}

pub(super) fn print(run: &RunTimes, out: &mut impl Write) -> anyhow::Result<()> {
    let title = if run.expected.is_some() {
        "expected s"
    } else {
        ""
    };
    writeln!(
        out,
        "A run of {} epochs on {}:",
        run.epochs,
        plain(&run.data)
    )?;
    writeln!(out, "  {:>10} {title:>10}", "floor s")?;
    let mut line = |of: fn(&Seconds) -> f64, what: &str| {
        let expected = run.expected.as_ref().map(|s| format!("{:.3}", of(s)));
        let floor = of(&run.floor);
        writeln!(
            out,
            "  {floor:>10.3} {:>10}  {what}",
            expected.unwrap_or_default()
        )
    };
    let steps = grouped(run.steps);
    line(|s| s.training, &format!("{steps} training steps"))?;
    let scored = grouped(run.evaluated);
    line(
        |s| s.evaluations,
        &format!("scoring {scored} images after the epochs"),
    )?;
    if run.scored_at_the_end > 0 {
        let scored = grouped(run.scored_at_the_end);
        let views = match run.views {
            1 => String::new(),
            n => format!(" in {n} views"),
        };
        line(
            |s| s.final_score,
            &format!("scoring {scored} images at the end{views}"),
        )?;
    }
    line(|s| s.all, "in all")?;
    Ok(())
}
