//! Comparisons: training with and without a change, side by side.

use super::*;
use crate::domain::comparison::ComparisonReport;
use crate::domain::params::{Applies, HYPERPARAMS, HyperParam, Influence, Value};

/// What to do before the step with a number.
type Act = (u64, fn(&mut Trainer));

/// A host that acts at one step of the run's own network, and records both networks.
struct Comparing {
    own: Recorder,
    variant: Recorder,
    reports: Vec<ComparisonReport>,
    acts: Vec<Act>,
    /// Abandon every second submission of steps.
    impatient: Option<Arc<AtomicBool>>,
}

impl Comparing {
    fn new(acts: &[Act]) -> Self {
        Comparing {
            own: Recorder::default(),
            variant: Recorder::default(),
            reports: Vec::new(),
            acts: acts.to_vec(),
            impatient: None,
        }
    }
}

impl TrainingHost for Comparing {
    fn poll(&mut self, trainer: &mut Trainer, phase: Phase) -> ControlFlow<()> {
        let next = trainer.run_state().step + 1;
        if phase == Phase::Training
            && let Some(at) = self.acts.iter().position(|(step, _)| *step == next)
        {
            self.acts.remove(at).1(trainer);
        }
        if let Some(stop) = &self.impatient {
            let was = stop.load(Ordering::Relaxed);
            stop.store(!was, Ordering::Relaxed);
        }
        ControlFlow::Continue(())
    }
    fn change_refused(&mut self, why: String) {
        panic!("{why}");
    }
    fn applied(&mut self, _: &Applied) {}
    fn epoch_begins(&mut self, _: &Trainer) {}
    fn stepped(&mut self, report: &StepReport) {
        self.own.stepped(report);
    }
    fn evaluated(&mut self, _: Scores) {}
    fn epoch_over(&mut self, trainer: &mut Trainer, report: &EpochReport) {
        self.own.epoch_over(trainer, report);
    }
    fn compared(&mut self, step: Option<&StepReport>, report: &ComparisonReport) {
        if let Some(step) = step {
            self.variant.stepped(step);
        }
        self.reports.push(report.clone());
    }
    fn variant_epoch_over(&mut self, report: &EpochReport) {
        self.variant.reports.push(report.clone());
    }
}

fn row(key: &str) -> &'static HyperParam {
    params::param(key).unwrap()
}

fn lower_rate(trainer: &mut Trainer) {
    let rate = Value::Float(2e-4);
    trainer.request_change(row("learning_rate"), rate).unwrap();
}

fn compare_rate(trainer: &mut Trainer) {
    let rate = Value::Float(2e-4);
    let applied = trainer
        .compare(row("learning_rate"), rate, |_| Ok(None))
        .unwrap();
    assert_eq!(applied.step, trainer.run_state().step + 1);
}

fn more_dropout(trainer: &mut Trainer) {
    let half = Value::Float(0.6);
    trainer.request_change(row("dropout"), half).unwrap();
}

fn keep(trainer: &mut Trainer) {
    assert!(trainer.keep_variant().unwrap().is_some());
}

fn threads(count: usize, params: Hyperparameters) -> Trainer {
    let device = backend::open(DeviceChoice::Cpu, EngineChoice::Native, count).unwrap();
    Trainer::new(params, small_data(), &*device, Arc::default()).unwrap()
}

fn four_epochs() -> Hyperparameters {
    Hyperparameters {
        architecture: "conv 4, norm, relu, drop, dense 10".into(),
        batch_size: 10,
        epochs: 4.0,
        ..Hyperparameters::default()
    }
}

/// A report without what depends on the clock.
fn timeless(report: &EpochReport) -> EpochReport {
    EpochReport {
        images_per_s: 0.0,
        elapsed: 0.0,
        ..report.clone()
    }
}

fn all_timeless(reports: &[EpochReport]) -> Vec<EpochReport> {
    reports.iter().map(timeless).collect()
}

#[test]
fn with_and_without_are_the_runs_that_would_have_been() {
    let run = |acts: &[Act]| {
        let (mut trainer, mut host) = (threads(1, four_epochs()), Comparing::new(acts));
        assert_eq!(trainer.run(&mut host).unwrap(), End::Finished);
        (trainer.state().unwrap(), host)
    };
    let (plain_state, plain) = run(&[(25, more_dropout)]);
    let (changed_state, changed) = run(&[(14, lower_rate), (25, more_dropout)]);
    assert!(plain_state != changed_state);
    // One thread trains the networks in turn, as three do; of two, each trains one.
    for (count, impatient) in [(1, false), (2, false), (3, false), (2, true)] {
        for keeps in [None, Some(33), Some(20)] {
            let mut acts: Vec<Act> = vec![(14, compare_rate), (25, more_dropout)];
            acts.extend(keeps.map(|step| (step, keep as fn(&mut Trainer))));
            let mut trainer = threads(count, four_epochs());
            let mut host = Comparing::new(&acts);
            host.impatient = impatient.then(|| Arc::clone(&trainer.stop));
            assert_eq!(trainer.run(&mut host).unwrap(), End::Finished);
            let expected = match keeps {
                None => &plain_state,
                Some(_) => &changed_state,
            };
            assert!(trainer.state().unwrap() == *expected, "{count} {keeps:?}");
            let until = keeps.unwrap_or(41) as usize - 1;
            assert_eq!(host.own.losses[..until], plain.own.losses[..until]);
            assert_eq!(host.variant.losses, changed.own.losses[13..until]);
            assert_eq!(host.variant.steps, (14..=until as u64).collect::<Vec<_>>());
            // Of a kept variant, the run's epochs follow.
            let own = all_timeless(&host.own.reports);
            let before = (until / 10).min(4);
            assert_eq!(own[..before], all_timeless(&plain.own.reports)[..before]);
            assert_eq!(own[before..], all_timeless(&changed.own.reports)[before..]);
            let variant = all_timeless(&host.variant.reports);
            assert_eq!(variant, all_timeless(&changed.own.reports)[1..before]);
            let last = host.reports.last().unwrap();
            assert_eq!(last.steps, until as u64 - 13);
            let state = trainer.run_state();
            let changes: Vec<_> = state
                .changes
                .iter()
                .map(|c| (c.step, &*c.change.key))
                .collect();
            match keeps {
                None => assert_eq!(changes, [(25, "dropout")]),
                Some(_) => assert_eq!(changes, [(14, "learning_rate"), (25, "dropout")]),
            }
        }
    }
}

#[test]
fn the_difference_is_that_of_the_networks() {
    let mut trainer = threads(2, four_epochs());
    let mut host = Comparing::new(&[(11, compare_rate)]);
    trainer.run(&mut host).unwrap();
    let report = host.reports.last().unwrap();
    assert_eq!((report.steps, report.epochs), (30, 3));
    // 30 steps are 30 blocks of one.
    let pairs = host.variant.losses.iter().zip(&host.own.losses[10..]);
    let differences: Vec<f64> = pairs.map(|(with, without)| with - without).collect();
    let newer = &differences[15..];
    let mean = newer.iter().sum::<f64>() / 15.0;
    assert!((report.loss.unwrap().mean - mean).abs() < 1e-12);
    assert_eq!(report.loss_steps, 15);
    let (own, variant) = (
        host.own.reports.last().unwrap(),
        host.variant.reports.last().unwrap(),
    );
    let gained = variant.accuracy - own.accuracy;
    assert!((report.accuracy.unwrap().mean - gained).abs() < 1e-12);
}

#[test]
fn only_what_leaves_the_batches_alone_can_be_compared() {
    let mut trainer = threads(1, four_epochs());
    let mut comparable = 0;
    for row in HYPERPARAMS {
        let now = row.get(&trainer.run_state().params);
        let other = row.nudged(&now, true, false).filter(|v| *v != now);
        let layer = || Some(Value::Text("conv1 0.5".into())).filter(|_| row.key == "layer_rates");
        let lower = || row.nudged(&now, false, false);
        let Some(other) = other.or_else(lower).or_else(layer) else {
            assert_eq!(row.applies, Applies::NextRun, "{}", row.key);
            continue;
        };
        let before = trainer.run_state().clone();
        let compared = trainer.compare(row, other.clone(), |_| Ok(None));
        let allowed = row.applies != Applies::NextRun
            && matches!(row.influence, Influence::Steps | Influence::Losses)
            && row.applies_to(before.params.optimizer);
        match compared {
            Ok(applied) => {
                assert!(allowed, "{}", row.key);
                assert_eq!(applied.change.new, other);
                comparable += 1;
                // What differs can be changed in neither; everything else can.
                assert!(trainer.request_change(row, now).is_err());
                let again = trainer.compare(row, other, |_| Ok(None));
                assert!(matches!(again, Err(CompareError::UnderWay)));
                assert!(trainer.drop_variant().is_some());
            }
            Err(error) => assert!(!allowed, "{}: {error}", row.key),
        }
        assert!(*trainer.run_state() == before);
    }
    assert!(comparable >= 12, "{comparable}");
    let rate = row("learning_rate").get(&trainer.run_state().params);
    let same = trainer.compare(row("learning_rate"), rate, |_| Ok(None));
    assert!(matches!(same, Err(CompareError::Unchanged { .. })));
    assert!(trainer.keep_variant().unwrap().is_none());
}

#[test]
fn undo_after_keeping_takes_the_change_back() {
    let mut trainer = threads(1, four_epochs());
    more_dropout(&mut trainer);
    compare_rate(&mut trainer);
    keep(&mut trainer);
    let (undone, outcome) = trainer.undo_change().unwrap().unwrap();
    assert_eq!(undone.key, "learning_rate");
    let ChangeOutcome::Applied(applied) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(applied.change.new, Value::Float(1e-3));
    assert_eq!(trainer.undo_change().unwrap().unwrap().0.key, "dropout");
}

#[test]
fn a_network_that_diverges_stops_alone() {
    fn spoil_variant(trainer: &mut Trainer) {
        let member = trainer.variant_member().unwrap();
        let own = std::mem::replace(&mut trainer.member, member);
        trainer.spoil(0, f32::NAN);
        trainer.member = own;
    }
    fn spoil_own(trainer: &mut Trainer) {
        trainer.spoil(0, f32::NAN);
    }
    let plain = {
        let (mut trainer, mut host) = (threads(2, four_epochs()), Recorder::default());
        trainer.run(&mut host).unwrap();
        (trainer.state().unwrap(), host.losses)
    };
    // The variant diverges: the run goes on as if nothing had been compared, and the change cannot be kept.
    let mut trainer = threads(2, four_epochs());
    let mut host = Comparing::new(&[(11, compare_rate), (17, spoil_variant)]);
    assert_eq!(trainer.run(&mut host).unwrap(), End::Finished);
    assert!(trainer.state().unwrap() == plain.0);
    assert_eq!(host.own.losses, plain.1);
    assert_eq!(host.variant.steps, (11..17).collect::<Vec<_>>());
    assert!(host.variant.reports.is_empty());
    let report = host.reports.last().unwrap();
    assert_eq!(report.diverged.as_ref().unwrap().0, 17);
    let change = &trainer.run_state().changes;
    assert!(change.is_empty());
    let why = trainer.keep_variant().err().unwrap();
    assert!(why.contains("diverged at step 17"), "{why}");
    assert!(trainer.drop_variant().is_some());

    // The run diverges: the variant has made the step, and can be kept.
    let changed = {
        let (mut trainer, mut host) = (
            threads(2, four_epochs()),
            Comparing::new(&[(11, lower_rate)]),
        );
        trainer.run(&mut host).unwrap();
        (trainer.state().unwrap(), host.own.losses)
    };
    let mut trainer = threads(2, four_epochs());
    let mut host = Comparing::new(&[(11, compare_rate), (17, spoil_own)]);
    let end = trainer.run(&mut host).unwrap();
    assert!(matches!(end, End::Diverged { step: 17, .. }), "{end:?}");
    assert_eq!(host.variant.steps, (11..=17).collect::<Vec<_>>());
    keep(&mut trainer);
    let mut host = Comparing::new(&[]);
    assert_eq!(trainer.run(&mut host).unwrap(), End::Finished);
    assert_eq!(host.own.losses, changed.1[17..]);
    assert!(trainer.state().unwrap() == changed.0);
}
