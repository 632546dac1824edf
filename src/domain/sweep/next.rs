//! Which run of a sweep to train next. The answer follows from the plan and from what the runs have reached, so that a
//! sweep continues after a crash, and several processes can work on one.

use super::SweepError;
use super::plan::{Plan, Strategy, Trial, TrialEnd, TrialProgress};
use crate::domain::params::Value;
use crate::domain::rng::{Rng, Stream};
use std::cmp::Ordering;
use std::collections::HashMap;

/// The share of the trials that halving trains on, as one in this many; each is trained this many times as long.
const REDUCTION: u32 = 3;
/// Most epochs between two exchanges of a population: a run keeps the checkpoints of its last eight epochs.
const MAX_INTERVAL: u32 = 8;
/// Exchanges of a population in one sweep, if its epochs allow as many.
const EXCHANGES: u32 = 10;

/// What the runs of a sweep have reached, by their names. A run that is missing has not begun.
pub type Progress = HashMap<String, TrialProgress>;

/// A run to train.
#[derive(Clone, Debug, PartialEq)]
pub struct TrialJob {
    /// Index of the trial.
    pub trial: usize,
    /// Name of the run. If it has begun already, it is resumed.
    pub run: String,
    pub start: JobStart,
    /// The epoch after which the strategy decides whether to go on. None: until the run ends.
    pub until: Option<u32>,
}

/// How a run begins.
#[derive(Clone, Debug, PartialEq)]
pub struct JobStart {
    /// Its own values.
    pub values: Vec<(String, Value)>,
    /// The run and the epoch whose weights it begins with. None: new weights.
    pub copy_of: Option<(String, u32)>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    Job(TrialJob),
    /// It depends on runs that are being trained.
    Wait,
    /// The plan is carried out.
    Over,
}

/// The next run to train, or what to wait for.
///
/// # Errors
/// Returns an error if the plan's axes cannot be read by this version.
pub fn next_job(plan: &Plan, progress: &Progress) -> Result<Next, SweepError> {
    Ok(match plan.strategy {
        Strategy::Grid | Strategy::Random => first_waiting(plan, progress),
        Strategy::Halving => halving(plan, progress),
        Strategy::Population => population(plan, progress)?,
    })
}

/// The runs of the sweep so far: one per trial, and in a population the one that its trial has now, with its values.
///
/// # Errors
/// Returns an error if the plan's axes cannot be read by this version.
pub fn current_runs(
    plan: &Plan,
    progress: &Progress,
) -> Result<Vec<(String, JobStart)>, SweepError> {
    let members = match plan.strategy {
        Strategy::Population => exchanges(plan, progress)?.0,
        _ => plan.trials.iter().map(Member::new).collect(),
    };
    let begun = members
        .into_iter()
        .zip(&plan.trials)
        .map(|(member, trial)| {
            // A copy that is planned and has not begun yet.
            match progress.contains_key(&member.run) {
                true => member,
                false => Member::new(trial),
            }
        });
    Ok(begun.map(|member| (member.run, member.start)).collect())
}

fn of<'a>(progress: &'a Progress, run: &str) -> &'a TrialProgress {
    static NOT_BEGUN: TrialProgress = TrialProgress {
        accuracies: Vec::new(),
        end: None,
        busy: false,
    };
    progress.get(run).unwrap_or(&NOT_BEGUN)
}

fn job(plan: &Plan, trial: usize, until: Option<u32>) -> Next {
    let member = Member::new(&plan.trials[trial]);
    Next::Job(TrialJob {
        trial,
        run: member.run,
        start: member.start,
        until,
    })
}

/// The first trial that is neither over nor being trained.
fn first_waiting(plan: &Plan, progress: &Progress) -> Next {
    let mut next = Next::Over;
    for (i, trial) in plan.trials.iter().enumerate() {
        match of(progress, &trial.name) {
            TrialProgress { end: Some(_), .. } => {}
            TrialProgress { busy: true, .. } => next = Next::Wait,
            _ => return job(plan, i, None),
        }
    }
    next
}

/// The epochs after which halving decides, in ascending order: a third of all epochs, a third of that, and so on.
fn rungs(plan: &Plan) -> Vec<u32> {
    let mut rungs = Vec::new();
    let mut epochs = plan.epochs() / REDUCTION;
    while epochs >= 1 {
        rungs.insert(0, epochs);
        epochs /= REDUCTION;
    }
    rungs
}

fn halving(plan: &Plan, progress: &Progress) -> Next {
    let rungs = rungs(plan);
    let trials: Vec<&TrialProgress> = plan
        .trials
        .iter()
        .map(|trial| of(progress, &trial.name))
        .collect();
    let waits = |i: usize| trials[i].end.is_none() && !trials[i].busy;
    let rung_after = |epoch: u32| rungs.iter().copied().find(|rung| *rung > epoch);
    let all = 0..trials.len();
    // Those that were interrupted between two rungs.
    if let Some(i) = all
        .clone()
        .find(|i| waits(*i) && trials[*i].epochs() > 0 && !rungs.contains(&trials[*i].epochs()))
    {
        return job(plan, i, rung_after(trials[i].epochs()));
    }
    // The trials that have arrived at a rung, best first.
    let arrived = |rung: u32| {
        let mut arrived: Vec<(usize, f64)> = all
            .clone()
            .filter_map(|i| Some((i, trials[i].accuracy_after(rung)?)))
            .collect();
        arrived.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        arrived
    };
    // All trials are known beforehand, so the lower rungs come first: whoever is promoted has been compared with all.
    let new = all.clone().find(|i| waits(*i) && trials[*i].epochs() == 0);
    if let Some(i) = new {
        return job(plan, i, rungs.first().copied());
    }
    let stands_at = |i: usize, rung: u32| waits(i) && trials[i].epochs() == rung;
    for rung in &rungs {
        let arrived = arrived(*rung);
        let best = &arrived[..arrived.len() / REDUCTION as usize];
        if let Some((i, _)) = best.iter().find(|(i, _)| stands_at(*i, *rung)) {
            return job(plan, *i, rung_after(*rung));
        }
    }
    if trials.iter().any(|trial| trial.busy) {
        return Next::Wait;
    }
    // At least one trial is to reach the end, however few there are.
    for rung in rungs.iter().rev() {
        let passed = |i: usize| trials[i].epochs() > *rung || trials[i].end == Some(TrialEnd::Done);
        let best = arrived(*rung)
            .into_iter()
            .find(|(i, _)| stands_at(*i, *rung));
        if all.clone().any(passed) {
            return Next::Over;
        }
        if let Some((i, _)) = best {
            return job(plan, i, rung_after(*rung));
        }
    }
    Next::Over
}

/// A trial's current run in a population.
#[derive(Clone, Debug)]
struct Member {
    run: String,
    start: JobStart,
}

impl Member {
    fn new(trial: &Trial) -> Self {
        Member {
            run: trial.name.clone(),
            start: JobStart {
                values: trial.values.clone(),
                copy_of: None,
            },
        }
    }
}

/// Epochs between two exchanges of a population.
fn interval(plan: &Plan) -> u32 {
    plan.epochs().div_ceil(EXCHANGES).clamp(1, MAX_INTERVAL)
}

fn population(plan: &Plan, progress: &Progress) -> Result<Next, SweepError> {
    let (members, until) = exchanges(plan, progress)?;
    let mut next = Next::Over;
    for (trial, member) in members.into_iter().enumerate() {
        match of(progress, &member.run) {
            reached if !is_training(reached, until) => {}
            TrialProgress { busy: true, .. } => next = Next::Wait,
            _ => {
                let Member { run, start } = member;
                return Ok(Next::Job(TrialJob {
                    trial,
                    run,
                    start,
                    until,
                }));
            }
        }
    }
    Ok(next)
}

/// Whether a run is to train further before the exchange after epoch `until`.
fn is_training(run: &TrialProgress, until: Option<u32>) -> bool {
    run.end.is_none() && until.is_none_or(|until| run.epochs() < until)
}

/// The members after all exchanges whose results are known, and the epoch of the next exchange, if there is one.
fn exchanges(plan: &Plan, progress: &Progress) -> Result<(Vec<Member>, Option<u32>), SweepError> {
    let mut members: Vec<Member> = plan.trials.iter().map(Member::new).collect();
    let interval = interval(plan);
    let mut until = interval;
    while until < plan.epochs() {
        let training = |member: &Member| is_training(of(progress, &member.run), Some(until));
        if members.iter().any(training) {
            return Ok((members, Some(until)));
        }
        exchange(plan, progress, &mut members, until)?;
        until += interval;
    }
    Ok((members, None))
}

/// Replaces the worst quarter of the members by copies of the best quarter, with perturbed values.
fn exchange(
    plan: &Plan,
    progress: &Progress,
    members: &mut [Member],
    epoch: u32,
) -> Result<(), SweepError> {
    let axes = plan.parsed_axes()?;
    // Only what was known at that epoch may count, since this is computed again after later ones.
    let accuracy = |member: &Member| of(progress, &member.run).accuracy_after(epoch);
    let mut ranked: Vec<(usize, f64)> = (0..members.len())
        .filter_map(|i| Some((i, accuracy(&members[i])?)))
        .collect();
    ranked.sort_by(|a, b| {
        b.1.partial_cmp(&a.1)
            .unwrap_or(Ordering::Equal)
            .then(a.0.cmp(&b.0))
    });
    let quarter = match ranked.len() {
        0 | 1 => return Ok(()),
        count => (count / 4).max(1),
    };
    let before = members.to_vec();
    for (i, worst) in ranked.iter().rev().take(quarter) {
        let step = 1_000_000 * u64::from(epoch) + *i as u64;
        let rng = Rng::new(plan.seed, Stream::Sweep, step);
        let (donor, best) = ranked[rng.below(0, quarter as u32) as usize];
        // Not a run that has diverged either, which has no weights to copy.
        if best <= *worst {
            continue;
        }
        let mut values = before[donor].start.values.clone();
        for (axis, index) in axes.iter().zip(1..) {
            let own = values.iter_mut().find(|(key, _)| key == axis.row.key);
            if let Some((_, value)) = own.filter(|(key, _)| key != "seed") {
                *value = axis.perturbed(value, rng.below(index, 2) == 1);
            }
        }
        members[*i] = Member {
            run: format!("{}-e{epoch}", plan.trials[*i].name),
            start: JobStart {
                values,
                copy_of: Some((before[donor].run.clone(), epoch)),
            },
        };
    }
    Ok(())
}
