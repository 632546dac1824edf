use super::*;
use crate::domain::params::{Hyperparameters, Value};
use std::collections::{BTreeMap, BTreeSet};

fn points(text: &str) -> Vec<String> {
    let axis = Axis::parse(text).unwrap();
    axis.points().iter().map(ToString::to_string).collect()
}

#[test]
fn an_axis_is_a_list_or_a_range() {
    let cases: &[(&str, &[&str])] = &[
        ("dropout=0.3,0.5", &["0.3", "0.5"]),
        ("lr=1e-4..1e-2 log", &["0.0001", "0.001", "0.01"]),
        (
            "learning-rate = 1e-4..1e-2 log 5",
            &["0.0001", "0.0003162", "0.001", "0.003162", "0.01"],
        ),
        ("dropout=0.2..0.6", &["0.2", "0.4", "0.6"]),
        ("dropout=0.6..0.2 3", &["0.6", "0.4", "0.2"]),
        ("seed=1..4", &["1", "2", "3", "4"]),
        ("seed=4..1", &["4", "3", "2", "1"]),
        (
            "batch_size=32..512 log 5",
            &["32", "64", "128", "256", "512"],
        ),
        ("crop=0..3 9", &["0", "1", "2", "3"]),
        ("flip=off,random", &["off", "random"]),
        ("optimizer=adam,sgd", &["adam", "sgd"]),
        ("architecture=seed,resnet", &["seed", "resnet"]),
        ("architecture=relu, dense 10", &["relu, dense 10"]),
        (
            "architecture=dense 10; relu, dense 10",
            &["dense 10", "relu, dense 10"],
        ),
        ("clip_norm=off,0.5", &["0", "0.5"]),
        ("dropout=50%", &["0.5"]),
    ];
    for (text, expected) in cases {
        assert_eq!(points(text), *expected, "{text}");
    }
}

#[test]
fn wrong_axes_are_refused_with_words() {
    let cases = [
        ("dropout", "is not KEY=VALUES"),
        ("dropuot=0.1", "did you mean 'dropout'"),
        ("dropout=2", "0 to 0.95"),
        ("dropout=0.1,0.1", "given twice"),
        ("dropout=0.1..0.1", "the same"),
        ("dropout=0..0.5 log", "begin above 0"),
        (
            "dropout=0.1..0.5 lag",
            "'lag' cannot follow the range 0.1..0.5",
        ),
        ("dropout=0.1..0.5 1", "'1' cannot follow"),
        ("dropout=0.1..", "is not"),
        ("seed=1..1e9", "is not"),
        ("seed=0..1000000", "more than 1000 whole numbers"),
        ("flip=off..alternate", "off"),
    ];
    for (text, part) in cases {
        let error = Axis::parse(text)
            .map(|axis| axis.points())
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

fn plan(
    axes: &[&str],
    strategy: Option<Strategy>,
    trials: Option<usize>,
) -> Result<Plan, SweepError> {
    let axes: Vec<String> = axes.iter().map(|text| (*text).into()).collect();
    let params = Hyperparameters {
        epochs: 15.0,
        ..Default::default()
    };
    Plan::new(&axes, strategy, trials, &params)
}

#[test]
fn a_grid_has_every_combination() {
    let plan = plan(
        &["lr=1e-4..1e-2 log", "dropout=0.3,0.5", "seed=1..4"],
        None,
        None,
    )
    .unwrap();
    assert_eq!((plan.strategy, plan.trials.len()), (Strategy::Grid, 24));
    assert_eq!(plan.trials[0].describe(), "lr 0.0001, drop 0.3, seed 1");
    assert_eq!(plan.trials[23].describe(), "lr 0.01, drop 0.5, seed 4");
    let different: BTreeSet<String> = plan.trials.iter().map(Trial::describe).collect();
    assert_eq!(different.len(), 24);
    let params = plan.params_of(&plan.trials[23].values);
    assert_eq!(
        (params.learning_rate, params.dropout, params.seed),
        (0.01, 0.5, 4)
    );
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
}

#[test]
fn draws_are_spread_over_their_ranges_and_repeated_with_every_seed() {
    let plan = plan(
        &["lr=1e-4..1e-2 log", "crop=0..3", "seed=1,2"],
        None,
        Some(300),
    )
    .unwrap();
    assert_eq!((plan.strategy, plan.trials.len()), (Strategy::Random, 600));
    let (mut low, mut crops) = (0, BTreeMap::new());
    for pair in plan.trials.chunks(2) {
        let params = plan.params_of(&pair[0].values);
        assert!((1e-4..=1e-2).contains(&params.learning_rate));
        low += usize::from(params.learning_rate < 1e-3);
        *crops.entry(params.crop).or_insert(0) += 1;
        let again = plan.params_of(&pair[1].values);
        assert_eq!((params.seed, again.seed), (1, 2));
        assert_eq!(again.learning_rate, params.learning_rate);
    }
    assert!(
        (100..200).contains(&low),
        "{low} of 300 are in the lower decade"
    );
    assert!(
        crops.len() == 4 && crops.values().all(|n| (45..105).contains(n)),
        "{crops:?}"
    );
}

#[test]
fn impossible_plans_are_refused() {
    use Strategy::{Grid, Halving, Population, Random};
    let refused = |axes: &[&str], strategy, trials, part: &str| {
        let error = plan(axes, strategy, trials).unwrap_err().to_string();
        assert!(error.contains(part), "{axes:?}: {error}");
    };
    refused(&[], None, None, "needs hyperparameters");
    refused(&["seed=1..4", "seed=5"], None, None, "seed is given twice");
    refused(&["seed=1..400", "crop=0..3"], None, None, "1600 trials");
    refused(&["seed=1..4"], Some(Grid), Some(3), "no effect on a grid");
    refused(&["seed=1..4"], Some(Random), None, "needs --trials");
    refused(&["seed=1..4"], None, Some(1001), "4004 trials");
    refused(&["epochs=1..4"], Some(Halving), None, "epochs cannot vary");
    refused(
        &["validation=0.1,0.2"],
        Some(Population),
        None,
        "validation cannot vary",
    );
    let params = Hyperparameters {
        validation: 0.0,
        ..Default::default()
    };
    let axes = ["seed=1..4".to_owned()];
    assert!(Plan::new(&axes, Some(Halving), None, &params).is_err());
    assert!(Plan::new(&axes, Some(Grid), None, &params).is_ok());
}

/// Carries out a plan, `parallel` jobs at a time, as [`next_job`] says. Run `run` reaches `accuracy(run, values, epoch)`
/// after an epoch; None means that it diverges. Each job is interrupted after every epoch with chance `crash`.
struct Simulation {
    plan: Plan,
    progress: Progress,
    running: Vec<TrialJob>,
    started: BTreeMap<String, JobStart>,
    /// Epochs trained in all.
    trained: u32,
}

impl Simulation {
    fn new(plan: Plan) -> Self {
        Simulation {
            plan,
            progress: Progress::new(),
            running: Vec::new(),
            started: BTreeMap::new(),
            trained: 0,
        }
    }

    fn run(
        &mut self,
        parallel: usize,
        crash: u32,
        accuracy: impl Fn(&JobStart, u32) -> Option<f64>,
    ) {
        let rng = crate::domain::rng::Rng::new(7, crate::domain::rng::Stream::Sweep, 1);
        for round in 0.. {
            assert!(round < 100_000, "the sweep does not end");
            while self.running.len() < parallel {
                match next_job(&self.plan, &self.progress).unwrap() {
                    Next::Job(job) => self.begin(job),
                    Next::Wait => {
                        assert!(!self.running.is_empty(), "nothing to wait for");
                        break;
                    }
                    Next::Over if self.running.is_empty() => return,
                    Next::Over => break,
                }
            }
            let at = rng.below(2 * round, self.running.len() as u32) as usize;
            let job = self.running.swap_remove(at);
            let run = self.progress.get_mut(&job.run).unwrap();
            let epoch = run.epochs() + 1;
            let begun = &self.started[&job.run];
            self.trained += 1;
            match accuracy(begun, epoch) {
                Some(accuracy) => run.accuracies.push(accuracy),
                None => run.end = Some(TrialEnd::Diverged),
            }
            if epoch == self.plan.epochs() {
                run.end = run.end.or(Some(TrialEnd::Done));
            }
            let over = run.end.is_some() || job.until.is_some_and(|until| epoch >= until);
            if over || rng.below(2 * round + 1, 100) < crash {
                run.busy = false;
            } else {
                self.running.push(job);
            }
        }
    }

    fn begin(&mut self, job: TrialJob) {
        let run = self.progress.entry(job.run.clone()).or_default();
        assert!(!run.busy && run.end.is_none(), "{job:?}");
        run.busy = true;
        if !self.started.contains_key(&job.run) {
            let mut accuracies = Vec::new();
            if let Some((donor, epoch)) = &job.start.copy_of {
                accuracies = self.progress[donor].accuracies[..*epoch as usize].to_vec();
            }
            self.progress.get_mut(&job.run).unwrap().accuracies = accuracies;
            self.started.insert(job.run.clone(), job.start.clone());
        }
        self.running.push(job);
    }
}

fn rate(start: &JobStart) -> f64 {
    start
        .values
        .iter()
        .find_map(|(_, value)| number(value))
        .unwrap()
}

#[test]
fn a_grid_trains_every_trial_once_to_its_end() {
    for parallel in [1, 2, 5] {
        let mut sweep = Simulation::new(plan(&["lr=1e-4..1e-2 log 7"], None, None).unwrap());
        sweep.run(parallel, 20, |start, epoch| {
            (rate(start) < 5e-3 || epoch < 3).then_some(0.5)
        });
        let ends: Vec<_> = sweep
            .plan
            .trials
            .iter()
            .map(|t| sweep.progress[&t.name].end)
            .collect();
        assert_eq!(
            ends.iter()
                .filter(|end| **end == Some(TrialEnd::Done))
                .count(),
            6
        );
        assert_eq!(ends[6], Some(TrialEnd::Diverged));
        assert_eq!(sweep.trained, 6 * 15 + 3);
    }
}

/// The trial with the best accuracy after every epoch reaches the end, and most others do not.
#[test]
fn halving_trains_the_best_to_the_end_and_the_others_less() {
    for (trials, parallel, crash) in [
        (27, 1, 0),
        (27, 4, 0),
        (27, 4, 30),
        (9, 2, 10),
        (2, 2, 0),
        (1, 1, 0),
    ] {
        let axis = format!("lr=0.1..0.9 {}", trials.max(2));
        let mut planned = plan(&[&axis], Some(Strategy::Halving), None).unwrap();
        planned.trials.truncate(trials);
        let mut sweep = Simulation::new(planned);
        sweep.run(parallel, crash, |start, epoch| {
            Some(rate(start) * f64::from(epoch) / 15.0)
        });
        let epochs: Vec<u32> = sweep
            .plan
            .trials
            .iter()
            .map(|t| sweep.progress[&t.name].epochs())
            .collect();
        assert_eq!(epochs.last(), Some(&15), "the best of {trials}: {epochs:?}");
        assert!(
            epochs.iter().all(|epochs| [1, 5, 15].contains(epochs)),
            "{epochs:?}"
        );
        if trials == 27 {
            let full = epochs.iter().filter(|epochs| **epochs == 15).count();
            assert!(
                (3..=7).contains(&full),
                "{full} of 27 were trained to the end: {epochs:?}"
            );
            assert!(
                epochs.iter().filter(|epochs| **epochs == 1).count() >= 9,
                "{epochs:?}"
            );
        }
        assert_eq!(sweep.trained, epochs.iter().sum::<u32>(), "no epoch twice");
    }
}

#[test]
fn halving_goes_on_without_trials_that_diverge_or_that_the_user_stops() {
    let mut sweep =
        Simulation::new(plan(&["lr=0.1..0.9 9"], Some(Strategy::Halving), None).unwrap());
    let stopped = TrialProgress {
        end: Some(TrialEnd::Stopped),
        ..Default::default()
    };
    sweep.progress.insert("09".into(), stopped);
    sweep.run(2, 0, |start, epoch| {
        (rate(start) < 0.75 || epoch < 2).then(|| rate(start))
    });
    // The eighth diverges in its second epoch; the seventh is the best of the others.
    assert_eq!(sweep.progress["08"].end, Some(TrialEnd::Diverged));
    assert_eq!(sweep.progress["07"].end, Some(TrialEnd::Done));
    assert_eq!(sweep.progress["09"].epochs(), 0);
}

/// Accuracy grows by more per epoch at higher rates, up to a rate of 0.5: after some exchanges, all members are near it,
/// and none is where it began.
#[test]
fn a_population_moves_to_the_better_values_and_every_copy_is_known() {
    for (parallel, crash) in [(1, 0), (3, 0), (3, 30)] {
        let mut sweep = Simulation::new(
            plan(&["lr=0.01..0.5 log 8"], Some(Strategy::Population), None).unwrap(),
        );
        sweep.run(parallel, crash, |start, epoch| {
            Some(rate(start) * f64::from(epoch))
        });
        let now = current_runs(&sweep.plan, &sweep.progress).unwrap();
        let rates: Vec<f64> = now.iter().map(|(_, start)| rate(start)).collect();
        let begun: Vec<f64> = sweep
            .plan
            .trials
            .iter()
            .map(|t| number(&t.values[0].1).unwrap())
            .collect();
        let mean = |all: &[f64]| all.iter().sum::<f64>() / all.len() as f64;
        assert!(mean(&rates) > 2.0 * mean(&begun), "{rates:?}");
        assert!(rates.iter().all(|rate| (0.01..=0.5).contains(rate)));
        for (name, start) in &now {
            assert_eq!(sweep.progress[name].end, Some(TrialEnd::Done));
            assert_eq!(&sweep.started[name], start);
        }
        let copies = sweep
            .started
            .values()
            .filter(|start| start.copy_of.is_some())
            .count();
        assert!(copies >= 6, "{copies}");
        // Copies repeat nothing: every member trains each epoch once.
        assert_eq!(sweep.trained, 8 * 15);
    }
}

#[test]
fn a_member_that_diverges_continues_with_a_copy_of_a_better_one() {
    let mut sweep =
        Simulation::new(plan(&["lr=0.1..0.4 4"], Some(Strategy::Population), None).unwrap());
    sweep.run(2, 0, |start, epoch| {
        (rate(start) < 0.35 || epoch > 1).then(|| 1.0 - rate(start))
    });
    assert_eq!(sweep.progress["04"].end, Some(TrialEnd::Diverged));
    let now = current_runs(&sweep.plan, &sweep.progress).unwrap();
    assert!(now[3].0.starts_with("04-e"), "{now:?}");
    assert!(
        now.iter()
            .all(|(name, _)| sweep.progress[name].end == Some(TrialEnd::Done))
    );
}

#[test]
fn words_and_seeds_are_not_perturbed_but_numbers_are() {
    let rate = Axis::parse("lr=1e-4..1e-2 log").unwrap();
    assert_eq!(
        rate.perturbed(&Value::Float(1e-3), true),
        Value::Float(1.25e-3)
    );
    assert_eq!(
        rate.perturbed(&Value::Float(1e-2), true),
        Value::Float(1e-2),
        "the range's end"
    );
    let crop = Axis::parse("crop=0..4").unwrap();
    assert_eq!(crop.perturbed(&Value::Int(1), true), Value::Int(2));
    assert_eq!(crop.perturbed(&Value::Int(1), false), Value::Int(0));
    assert_eq!(crop.perturbed(&Value::Int(0), false), Value::Int(0));
    let list = Axis::parse("dropout=0.5,0.1,0.3").unwrap();
    assert_eq!(list.perturbed(&Value::Float(0.3), true), Value::Float(0.5));
    assert_eq!(list.perturbed(&Value::Float(0.1), false), Value::Float(0.1));
    let word = Axis::parse("optimizer=adam,sgd").unwrap();
    assert_eq!(
        word.perturbed(&Value::Text("sgd".into()), true),
        Value::Text("sgd".into())
    );
}
