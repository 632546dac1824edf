//! A comparison: training goes on with and without a change, from one state, on the same batches with the same random
//! numbers. The trainer's own network trains without the change, as if there were no comparison. A second one, the
//! variant, trains with it, step by step beside it. All other changes are made in both.

use super::changes::{Undoable, apply_to, refuse};
use super::epochs::{ScoredEpoch, end_epoch};
use super::{Network, Trainer, TrainingHost, count};
use crate::backend::{MemberId, StepOutcome, StepPlan};
use crate::domain::comparison::{ComparisonReport, Difference, StepDifferences};
use crate::domain::params::{HyperParam, HyperParamError, Value};
use crate::train::checkpoint::{Applied, Best, Checkpoint, RunState};
use crate::train::{Error, Result};
use std::sync::atomic::AtomicBool;

/// The network with the change.
pub(super) struct Variant {
    member: MemberId,
    run_state: RunState,
    row: &'static HyperParam,
    /// The change's value in the run, and the step and epoch from which the variant has the other one.
    applied: Applied,
    /// The best epoch when the comparison began.
    best_before: Option<Best>,
    /// The variant's best checkpoint: one from before the comparison or from its own epochs. None if the run has none.
    best: Option<Box<Checkpoint>>,
    differences: StepDifferences,
    report: ComparisonReport,
}

impl Variant {
    pub(super) fn member(&self) -> MemberId {
        self.member
    }
}

/// The steps of a variant, or why memory was too short for them.
pub(super) type VariantSteps = std::result::Result<(Vec<StepPlan>, Vec<StepOutcome>), Error>;

/// Why no comparison can begin.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error("a comparison is under way: keep or drop its change first")]
    UnderWay,
    #[error("{0}")]
    NotComparable(String),
    #[error("{} is {} already", .row.label, .row.show(.value))]
    Unchanged {
        row: &'static HyperParam,
        value: Value,
    },
    #[error("no comparison began, since the run's best checkpoint might be needed after it: {0}")]
    Best(String),
    #[error(transparent)]
    Param(#[from] HyperParamError),
    #[error(transparent)]
    Train(#[from] Error),
}

/// A comparison whose change was kept.
pub struct KeptVariant {
    /// The run's state without the change, which is gone.
    pub without: RunState,
    /// What was known of the difference.
    pub report: ComparisonReport,
    /// The run's best checkpoint, if it is another one than without the change.
    pub best: Option<Box<Checkpoint>>,
}

impl Trainer {
    /// Begins a comparison: the next step is made with and without this value, which is no longer pending. If the run has
    /// a best epoch, `read_best` reads its checkpoint.
    ///
    /// # Errors
    /// Returns an error if a comparison is under way, the run is finished or may end at its target, the value is not allowed
    /// or equals the present one, the hyperparameter cannot be compared or has no effect, the best checkpoint cannot be
    /// read, or the device has too little memory or fails.
    pub fn compare(
        &mut self,
        row: &'static HyperParam,
        value: Value,
        read_best: impl FnOnce(Best) -> std::result::Result<Option<Box<Checkpoint>>, String>,
    ) -> std::result::Result<Applied, CompareError> {
        if self.variant.is_some() {
            return Err(CompareError::UnderWay);
        }
        let params = &self.run_state.params;
        if self.is_finished() {
            let why = "all epochs are done: there is nothing to compare".into();
            return Err(CompareError::NotComparable(why));
        }
        if params.stop_at_target && params.target > 0.0 {
            let why = "the run may end at its target, which the two would not reach together: turn stop_at_target off first".into();
            return Err(CompareError::NotComparable(why));
        }
        let optimizer = params.optimizer;
        row.comparable().map_err(CompareError::NotComparable)?;
        if !row.applies_to(optimizer) {
            let why = format!("{} has no effect with {}", row.label, optimizer.word());
            return Err(CompareError::NotComparable(why));
        }
        let value = self.check(row, value)?;
        if row.get(&self.run_state.params) == value {
            return Err(CompareError::Unchanged { row, value });
        }
        let best = match self.run_state.best {
            Some(best) => read_best(best).map_err(CompareError::Best)?,
            None => None,
        };
        let mut run_state = self.run_state.clone();
        let applied = apply_to(&mut run_state, row, value)?;
        let member = self.backend.copy(self.member).map_err(Error::from)?;
        self.run_state.pending.retain(|(key, _)| key != row.key);
        self.variant = Some(Variant {
            member,
            run_state,
            row,
            applied: applied.clone(),
            best_before: self.run_state.best,
            best,
            differences: StepDifferences::default(),
            report: ComparisonReport::default(),
        });
        Ok(applied)
    }

    /// Whether the change could be kept.
    ///
    /// # Errors
    /// Returns the reason if the variant has diverged.
    pub fn can_keep_variant(&self) -> std::result::Result<(), String> {
        match self
            .variant
            .as_ref()
            .and_then(|v| v.report.diverged.as_ref())
        {
            Some((step, first)) => Err(format!(
                "the network with the change diverged at step {step} ({first} was not finite): drop the change"
            )),
            None => Ok(()),
        }
    }

    /// Whether a comparison is under way.
    pub fn is_comparing(&self) -> bool {
        self.variant.is_some()
    }

    /// The error of a request to change the compared hyperparameter.
    pub(super) fn check_not_compared(
        &self,
        row: &'static HyperParam,
    ) -> std::result::Result<(), HyperParamError> {
        match &self.variant {
            Some(variant) if variant.row.key == row.key => Err(refuse(
                row,
                "it is being compared: keep or drop the change first",
            )),
            _ => Ok(()),
        }
    }

    /// Makes a change in the variant as well.
    pub(super) fn apply_to_variant(
        &mut self,
        row: &'static HyperParam,
        value: Value,
    ) -> std::result::Result<(), HyperParamError> {
        if let Some(variant) = &mut self.variant {
            apply_to(&mut variant.run_state, row, value)?;
        }
        Ok(())
    }

    /// Ends the comparison with the variant as the run's network: from the comparison's first step on, the run is what it
    /// would have been with the change. None if there is no comparison.
    ///
    /// # Errors
    /// Returns the reason if the variant has diverged. The comparison goes on.
    pub fn keep_variant(&mut self) -> std::result::Result<Option<KeptVariant>, String> {
        self.can_keep_variant()?;
        let Some(variant) = self.variant.take() else {
            return Ok(None);
        };
        self.backend.remove(self.member);
        self.member = variant.member;
        let without = std::mem::replace(&mut self.run_state, variant.run_state);
        self.run_state.pending.clone_from(&without.pending);
        self.run_state.elapsed = without.elapsed;
        let before = variant.applied.change.old;
        self.requests.push(Undoable::Change(variant.row, before));
        self.shuffle();
        let same = without.best == variant.best_before && self.run_state.best == without.best;
        Ok(Some(KeptVariant {
            without,
            report: variant.report,
            best: variant.best.filter(|_| !same),
        }))
    }

    /// Ends the comparison without its change. Returns what was known of the difference, if there was a comparison.
    pub fn drop_variant(&mut self) -> Option<ComparisonReport> {
        let variant = self.variant.take()?;
        self.backend.remove(variant.member);
        Some(variant.report)
    }

    /// The variant's network, if it is being trained.
    pub(super) fn variant_member(&self) -> Option<MemberId> {
        let variant = self.variant.as_ref()?;
        variant.report.diverged.is_none().then_some(variant.member)
    }

    /// Makes these steps, and the same number of steps with the variant if there is one. If a command interrupts one of the
    /// networks, it makes its remaining steps all the same, so that both have made the same number.
    ///
    /// # Errors
    /// Returns an error if the device runs out of memory for the run's own network, or fails.
    pub(super) fn train_networks(
        &mut self,
        plans: &[StepPlan],
    ) -> Result<(Vec<StepOutcome>, Option<VariantSteps>)> {
        let images = &self.training_data.train;
        let own = [(self.member, plans.to_vec())];
        let (Some(member), Some(variant)) = (self.variant_member(), &self.variant) else {
            let outcomes = self.backend.train(images, &own, &self.stop)?;
            return Ok((outcomes.into_iter().flatten().collect(), None));
        };
        let [own] = own;
        let work = [
            own,
            (member, self.plan_steps(&variant.run_state, plans.len())),
        ];
        let together = match self.backend.members_at_once() {
            0 | 1 => None,
            _ => match self.backend.train(images, &work, &self.stop) {
                // The run's own network may have enough.
                Err(error) if error.is_out_of_memory() => None,
                outcomes => Some(outcomes?),
            },
        };
        let made = match together {
            Some(mut own) => {
                let of_variant = own.split_off(1);
                (own, Ok(of_variant))
            }
            None => {
                let own = self.backend.train(images, &work[..1], &self.stop)?;
                let of_variant = self.backend.train(images, &work[1..], &self.stop);
                (own, of_variant)
            }
        };
        let mut own: Vec<StepOutcome> = made.0.into_iter().flatten().collect();
        let mut of_variant: Vec<StepOutcome> = match made.1 {
            Ok(outcomes) => outcomes.into_iter().flatten().collect(),
            Err(error) if error.is_out_of_memory() => return Ok((own, Some(Err(error.into())))),
            Err(error) => return Err(error.into()),
        };
        let most = own.len().max(of_variant.len());
        let [of_own, (_, plans)] = &work;
        self.make_remaining(of_own, most, &mut own)?;
        match self.make_remaining(&work[1], most, &mut of_variant) {
            Err(Error::Backend(error)) if error.is_out_of_memory() => {
                Ok((own, Some(Err(error.into()))))
            }
            Err(error) => Err(error),
            Ok(()) => Ok((own, Some(Ok((plans.clone(), of_variant))))),
        }
    }

    /// Makes the steps of `work` up to number `most` that are not among the outcomes, unless the network has diverged.
    fn make_remaining(
        &mut self,
        (member, plans): &(MemberId, Vec<StepPlan>),
        most: usize,
        outcomes: &mut Vec<StepOutcome>,
    ) -> Result<()> {
        let diverged = outcomes
            .last()
            .is_some_and(|last| last.not_finite.is_some());
        if outcomes.len() < most && !diverged {
            let rest = [(*member, plans[outcomes.len()..most].to_vec())];
            let never = AtomicBool::new(false);
            let made = self
                .backend
                .train(&self.training_data.train, &rest, &never)?;
            outcomes.extend(made.into_iter().flatten());
        }
        Ok(())
    }

    /// Counts finished steps of the variant and reports them. `own` are the outcomes of the same steps without the
    /// change.
    pub(super) fn advance_variant(
        &mut self,
        host: &mut impl TrainingHost,
        steps: VariantSteps,
        own: &[StepOutcome],
        seconds: Option<f64>,
    ) -> Result<()> {
        let Some(mut variant) = self.variant.take() else {
            return Ok(());
        };
        let (plans, outcomes) = match steps {
            Ok(steps) => steps,
            Err(error) => {
                self.backend.remove(variant.member);
                host.comparison_refused(variant.report, error.to_string());
                return Ok(());
            }
        };
        for (i, (plan, outcome)) in plans.iter().zip(&outcomes).enumerate() {
            if let Some(first) = &outcome.not_finite {
                variant.report.diverged = Some((outcome.step, first.clone()));
                host.compared(None, &variant.report);
                break;
            }
            let images = plan.images.len() as u64;
            count(
                &mut variant.run_state,
                images,
                outcome,
                seconds.unwrap_or(0.0),
            );
            variant.run_state.elapsed = self.run_state.elapsed;
            variant.report.steps += 1;
            let without = own.get(i).filter(|own| own.not_finite.is_none());
            if let Some(without) = without {
                variant.differences.add(outcome.loss - without.loss);
            }
            if let Some((loss, steps)) = variant.differences.newest() {
                variant.report.loss = Some(loss);
                variant.report.loss_steps = steps;
            }
            let seconds = seconds.unwrap_or(0.0);
            let report = self.step_report(&variant.run_state, plan, outcome, seconds);
            host.compared(Some(&report), &variant.report);
        }
        self.variant = Some(variant);
        Ok(())
    }

    /// Counts an epoch of the variant that has been scored, and reports it. `own` are the scores without the change.
    pub(super) fn close_variant_epoch(
        &mut self,
        host: &mut impl TrainingHost,
        own: &ScoredEpoch,
        scores: &ScoredEpoch,
    ) -> Result<()> {
        let steps_per_epoch = self.steps_per_epoch();
        let member = self.member_of(Network::Variant);
        let Some(variant) = &mut self.variant else {
            return Ok(());
        };
        variant.run_state.elapsed = self.run_state.elapsed;
        variant
            .run_state
            .pending
            .clone_from(&self.run_state.pending);
        let report = end_epoch(&mut variant.run_state, scores, steps_per_epoch);
        if report.best {
            let state = self.backend.export(member)?;
            let mut run_state = variant.run_state.clone();
            run_state.optimizer = state.scalars;
            variant.best = Some(Box::new(Checkpoint {
                run_state,
                tensors: state.tensors,
            }));
        }
        let pairs = own.scored.correct.iter().copied();
        let pairs = pairs.zip(scores.scored.correct.iter().copied());
        variant.report.accuracy = Difference::of_accuracies(pairs);
        variant.report.epochs += 1;
        host.variant_epoch_over(&report);
        host.compared(None, &variant.report);
        Ok(())
    }
}
