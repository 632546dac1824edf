//! Networks on the GPU, and the training steps that are submitted to them.

use super::DeviceImages;
use super::prepared::PreparedSchedule;
use super::records::{OutcomeRecord, ProgressRecord, Record, StepRecord};
use super::schedule::MAX_STEPS;
use crate::backend::cpu::optimizer::CpuOptimizer;
use crate::backend::{NetworkSpec, Result, StepOutcome, StepPlan};
use crate::domain::layer_rates::LayerRates;
use crate::domain::params::{CropPadding, LossReduction};
use crate::hardware::executor::AllocationId;
use crate::layers::dropout::Mask;
use crate::layers::input::Scaling;
use crate::optimizers::{GroupCoefficients, MAX_COEFFICIENTS};
use std::cmp::Reverse;
use std::sync::atomic::{AtomicBool, Ordering};

/// A network on the GPU.
pub(super) struct Member {
    pub memory: AllocationId,
    /// Whether the average has begun.
    pub has_average: bool,
    /// The optimizer's scalars.
    pub scalars: Vec<f64>,
    /// The factors that its pieces have.
    pub layer_rates: LayerRates,
}

/// What members need to train.
pub(super) struct MemberTraining<'a> {
    pub prepared: &'a mut PreparedSchedule,
    /// Computes the coefficients of each step.
    pub optimizer: &'a mut CpuOptimizer,
    pub spec: &'a NetworkSpec,
    pub images: DeviceImages,
}

/// The next steps of a member, with the same layer rates.
struct Submission<'a> {
    /// The member's index.
    index: usize,
    plans: &'a [StepPlan],
    /// The optimizer's scalars before each step and after the last.
    scalars: Vec<Vec<f64>>,
    /// Whether the average has begun after each step.
    averaged: Vec<bool>,
}

/// A member's steps in the order of their submission. One submission has one table of layer rates and one list of records.
fn submissions(plans: &[StepPlan]) -> impl Iterator<Item = &[StepPlan]> {
    let alike = plans.chunk_by(|a, b| a.settings.layer_rates == b.settings.layer_rates);
    alike.flat_map(|plans| plans.chunks(MAX_STEPS))
}

impl MemberTraining<'_> {
    /// Makes each member's steps, all members in the same launches. A member whose step is not finite makes no more: that
    /// step is its last outcome, in which the caller must still name the tensor. After `stop` is set, no more steps are
    /// submitted.
    pub fn train(
        &mut self,
        members: &mut [&mut Member],
        plans: &[&[StepPlan]],
        stop: &AtomicBool,
    ) -> Result<Vec<Vec<StepOutcome>>> {
        let mut outcomes: Vec<Vec<StepOutcome>> = vec![Vec::new(); members.len()];
        let mut queues: Vec<_> = plans.iter().map(|plans| submissions(plans)).collect();
        while !stop.load(Ordering::Relaxed) {
            let mut round = Vec::new();
            for (index, queue) in queues.iter_mut().enumerate() {
                let last = outcomes[index].last();
                if last.is_some_and(|last| last.not_finite.is_some()) {
                    continue;
                }
                if let Some(plans) = queue.next() {
                    round.push(self.submit(index, members[index], plans)?);
                }
            }
            if round.is_empty() {
                break;
            }
            self.run(members, &mut round)?;
            for submission in round {
                let member = &mut members[submission.index];
                outcomes[submission.index].extend(self.outcomes(member, submission)?);
            }
        }
        Ok(outcomes)
    }

    /// Runs the steps of a round. The members that have the most steps come first, so that those that have a step left are
    /// always the first ones.
    fn run(&mut self, members: &[&mut Member], round: &mut [Submission]) -> Result<()> {
        round.sort_by_key(|submission| Reverse(submission.plans.len()));
        let memory = round.iter().map(|s| members[s.index].memory);
        let memory: Vec<AllocationId> = memory.collect();
        let (executor, list) = (&mut *self.prepared.executor, self.prepared.training);
        let mut done = 0;
        for (last, submission) in round.iter().enumerate().rev() {
            let steps = submission.plans.len() - done;
            if steps > 0 {
                executor.run(list, &memory[..=last], steps)?;
            }
            done += steps;
        }
        Ok(())
    }

    /// Writes the records of a member's next steps.
    fn submit<'a>(
        &mut self,
        index: usize,
        member: &mut Member,
        plans: &'a [StepPlan],
    ) -> Result<Submission<'a>> {
        let MemberTraining {
            prepared,
            optimizer,
            spec,
            images: at,
        } = self;
        let memory = member.memory;
        if member.layer_rates != plans[0].settings.layer_rates {
            prepared.write_pieces(memory, &plans[0].settings.layer_rates)?;
            member
                .layer_rates
                .clone_from(&plans[0].settings.layer_rates);
        }
        let moves_average = |plan: &StepPlan| plan.settings.average_decay > 0.0;
        if !member.has_average && plans.iter().any(moves_average) {
            prepared.fill_average(memory)?;
        }
        let (executor, layout) = (&mut *prepared.executor, &prepared.schedule.layout);
        let base = executor.address(memory)?;
        let mut records = Vec::with_capacity(size_of::<StepRecord>() * plans.len());
        let mut numbers = Vec::new();
        let mut scalars = Vec::with_capacity(plans.len() + 1);
        let mut averaged = Vec::with_capacity(plans.len());
        let mut has_average = member.has_average;
        optimizer.set_scalars(member.scalars.clone());
        for plan in plans {
            let (coefficients, before) = optimizer.coefficients(&plan.settings);
            scalars.push(before);
            let first = base + (layout.images + 4 * numbers.len()) as u64;
            let decay = plan.settings.average_decay;
            let average_share = match has_average {
                _ if decay == 0.0 => 0.0,
                true => (1.0 - decay) as f32,
                false => 1.0,
            };
            has_average = decay > 0.0;
            averaged.push(has_average);
            let record = StepRecord {
                average_share,
                ..training_record(plan, &coefficients, &spec.scaling, *at, first)
            };
            records.extend_from_slice(record.bytes());
            numbers.extend_from_slice(&plan.images);
        }
        scalars.push(optimizer.scalar_values().to_vec());
        executor.write(memory, layout.images, &words(&numbers))?;
        executor.write(memory, layout.steps, &records)?;
        executor.write(memory, layout.now, &records[..size_of::<StepRecord>()])?;
        executor.clear(memory, layout.state, size_of::<ProgressRecord>())?;
        Ok(Submission {
            index,
            plans,
            scalars,
            averaged,
        })
    }

    /// Waits for a member's steps. Returns their outcomes up to the first that was not finite.
    fn outcomes(&mut self, member: &mut Member, steps: Submission) -> Result<Vec<StepOutcome>> {
        let mut bytes = vec![0; size_of::<OutcomeRecord>() * steps.plans.len()];
        let at = self.prepared.schedule.layout.found;
        self.prepared.executor.read(member.memory, at, &mut bytes)?;
        let mut outcomes = Vec::with_capacity(steps.plans.len());
        for (i, bytes) in bytes.chunks_exact(size_of::<OutcomeRecord>()).enumerate() {
            let record = OutcomeRecord::from_bytes(bytes);
            let applied = record.applied != 0;
            let finite = applied && record.not_finite == 0;
            outcomes.push(StepOutcome {
                step: record.number,
                loss: record.loss,
                grad_norm: record.norm,
                correct: record.correct,
                not_finite: (!finite).then(String::new),
            });
            member
                .scalars
                .clone_from(&steps.scalars[i + usize::from(applied)]);
            if applied {
                member.has_average = steps.averaged[i];
            }
            if !finite {
                break;
            }
        }
        Ok(outcomes)
    }
}

fn training_record(
    plan: &StepPlan,
    coefficients: &GroupCoefficients,
    scaling: &Scaling,
    at: DeviceImages,
    images: u64,
) -> StepRecord {
    let settings = &plan.settings;
    let (threshold, scale) = Mask::numbers(settings.dropout as f32);
    let scoring = scoring_record(scaling, at, images, plan.images.len());
    let mut own = [0.0; 32];
    for (own, c) in own.chunks_exact_mut(MAX_COEFFICIENTS).zip(coefficients) {
        own.copy_from_slice(&c.own);
    }
    StepRecord {
        number: settings.step,
        seed: settings.seed,
        flip: plan.augmentation.flip as u32,
        crop: plan.augmentation.crop,
        reflect: (plan.augmentation.padding == CropPadding::Reflect).into(),
        epoch: settings.epoch,
        cutout: plan.augmentation.cutout,
        threshold,
        scale,
        smoothing: settings.label_smoothing as f32,
        share: match settings.loss_reduction {
            LossReduction::Mean => scoring.share,
            LossReduction::Sum => 1.0,
        },
        l2: coefficients.map(|c| c.l2),
        decay_factor: coefficients.map(|c| c.decay_factor),
        own,
        clip_norm: settings.clip_norm.max(0.0),
        ..scoring
    }
}

pub(super) fn scoring_record(
    scaling: &Scaling,
    at: DeviceImages,
    images: u64,
    count: usize,
) -> StepRecord {
    StepRecord {
        pixels: at.pixels,
        labels: at.labels,
        images,
        count: count as u32,
        share: 1.0 / count.max(1) as f32,
        scale: 1.0,
        pixel_scale: scaling.scale,
        pixel_shift: scaling.shift,
        ..StepRecord::default()
    }
}

pub(super) fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|v| v.to_le_bytes()).collect()
}
