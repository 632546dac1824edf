//! Detects whether a run still learns: symptoms of a collapsed network, and a plateau. Pure functions of the epochs'
//! scores. A false alarm is worse than none: undecidable cases are not reported.

use super::confusion::Confusion;
use super::params::{Hyperparameters, Schedule};
use super::report::{Collapse, EpochReport, Health, Plateau, Symptom};

/// Number of steps after the warm-up from which a network must be better than a constant answer. The built-in set's
/// first epoch has 250 steps and ends well above it.
const MIN_STEPS: u64 = 200;
/// Minimum number of validation images, and the share of them with the same prediction that counts as all.
const MIN_IMAGES: u32 = 50;
const ALL: f64 = 0.99;
/// Number of consecutive epochs with validation accuracy at chance that is a symptom by itself.
const CHANCE_EPOCHS: usize = 3;
/// Number of consecutive epochs with a flat training loss, and the relative distance from ln(classes) that counts as
/// flat.
const FLAT_EPOCHS: usize = 2;
const FLAT_SHARE: f64 = 0.01;
/// Number of epochs in each of the two means that a plateau compares.
const PLATEAU_EPOCHS: usize = 5;
/// Accuracy from which no plateau is reported.
const SOLVED: f64 = 0.99;

/// Scores at the end of one epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct EpochScores {
    epoch: u32,
    step: u64,
    train_loss: f64,
    loss: f64,
    accuracy: f64,
    classes: usize,
    /// Number of validation images, and the share of their most frequent class, which is the accuracy of a constant
    /// answer.
    images: u32,
    constant: f64,
    /// The most frequently predicted class of the validation images, and its count.
    called_most: (usize, u32),
    /// Layers whose ReLUs are all dead.
    dead_layers: Vec<String>,
}

impl EpochScores {
    /// `confusion` is the validation confusion matrix at the end of the epoch.
    pub fn new(report: &EpochReport, confusion: &Confusion) -> Self {
        let images = confusion.total();
        let classes = 0..confusion.classes;
        let largest = classes.clone().map(|c| confusion.row_total(c)).max();
        EpochScores {
            epoch: report.epoch,
            step: report.step,
            train_loss: report.train_loss,
            loss: report.loss,
            accuracy: report.accuracy,
            classes: confusion.classes,
            images,
            constant: f64::from(largest.unwrap_or(0)) / f64::from(images.max(1)),
            called_most: classes
                .map(|c| (c, confusion.column_total(c)))
                .max_by_key(|(_, count)| *count)
                .unwrap_or_default(),
            dead_layers: Vec::new(),
        }
    }

    /// Whether the scores suggest dead layers, so that checking the ReLUs is worth its cost.
    pub fn look_constant(&self) -> bool {
        self.calls_all_one_class() || self.is_at_chance()
    }

    /// Sets the layers whose ReLUs are all dead.
    pub fn set_dead_layers(&mut self, layers: Vec<String>) {
        self.dead_layers = layers;
    }

    /// The accuracy up to which this number of images cannot distinguish the network from a constant answer: three
    /// standard deviations above it.
    fn chance(&self) -> f64 {
        let p = self.constant;
        p + 3.0 * (p * (1.0 - p) / f64::from(self.images.max(1))).sqrt()
    }

    /// Whether no class dominates. If one did, a network that always predicts it would have learned something.
    fn is_balanced(&self) -> bool {
        self.classes > 1 && self.constant <= (2.0 / self.classes as f64).min(0.75)
    }

    fn is_above_chance(&self) -> bool {
        self.accuracy > self.chance()
    }

    /// Whether the accuracy is at chance. False if there are too few images to decide.
    fn is_at_chance(&self) -> bool {
        let decisive = self.chance() <= 1.5 * self.constant;
        self.is_balanced() && decisive && !self.is_above_chance()
    }

    fn calls_all_one_class(&self) -> bool {
        let all = f64::from(self.called_most.1) >= ALL * f64::from(self.images);
        self.is_balanced() && self.images >= MIN_IMAGES && all
    }

    fn is_bad(&self) -> bool {
        self.calls_all_one_class() || self.is_at_chance() || !self.dead_layers.is_empty()
    }

    /// Training loss divided by that of a uniform answer, ln(classes).
    fn relative_loss(&self) -> f64 {
        self.train_loss / (self.classes as f64).ln()
    }
}

/// Monitors a run from epoch to epoch.
#[derive(Clone, Debug, Default)]
pub struct HealthMonitor {
    epochs: Vec<EpochScores>,
    /// Number of epochs before the last live change. Only later ones can form a plateau.
    changed: usize,
    health: Health,
}

impl HealthMonitor {
    /// Adds the scores of a finished epoch. Returns the run's health if it has changed.
    pub fn add(&mut self, scores: EpochScores, params: &Hyperparameters) -> Option<&Health> {
        self.remember(scores);
        let collapse = collapse(&self.epochs, params.warmup);
        let is_settled = is_settled(&self.epochs, params.warmup);
        let plateau = match (&collapse, &self.health.plateau, params.schedule) {
            (Some(_), ..) => None,
            (None, Some(told), _) => lasting_plateau(&self.epochs, told),
            (None, None, Schedule::Constant) if is_settled => {
                new_plateau(&self.epochs[self.changed..])
            }
            // Too early, or the learning rate is still changing by its schedule.
            (None, None, _) => None,
        };
        if (&collapse, &plateau) == (&self.health.collapse, &self.health.plateau) {
            return None;
        }
        let (step, epoch) = self.epochs.last().map_or((0, 0), |e| (e.step, e.epoch));
        self.health = Health {
            step,
            epoch,
            collapse,
            plateau,
        };
        Some(&self.health)
    }

    /// Adds an epoch of a resumed run's past without reporting anything.
    pub fn remember(&mut self, scores: EpochScores) {
        self.epochs.push(scores);
    }

    /// Restores the last report of a run that is resumed from a checkpoint.
    pub fn restore(&mut self, health: Health) {
        if let (Some(collapse), Some(last)) = (&health.collapse, self.epochs.last_mut()) {
            for sign in &collapse.signs {
                if let Symptom::DeadLayers { layers } = sign {
                    last.dead_layers.clone_from(layers);
                }
            }
        }
        self.health = health;
    }

    /// A hyperparameter changed, so later epochs cannot be compared with earlier ones.
    pub fn changed(&mut self) {
        self.changed = self.epochs.len();
    }

    pub fn health(&self) -> &Health {
        &self.health
    }
}

/// Whether there were enough steps since the warm-up for the scores to show learning.
fn is_settled(epochs: &[EpochScores], warmup: f64) -> bool {
    let Some(last) = epochs.last() else {
        return false;
    };
    let steps_of_warmup = warmup * last.step as f64 / f64::from(last.epoch.max(1));
    last.step as f64 - steps_of_warmup >= MIN_STEPS as f64
}

/// The symptoms of a collapse at the last of `epochs`. None if the network learns or the scores are inconclusive.
fn collapse(epochs: &[EpochScores], warmup: f64) -> Option<Collapse> {
    let (last, before) = epochs.split_last()?;
    let best = before
        .iter()
        .filter(|e| e.is_above_chance())
        .reduce(|a, b| if b.accuracy > a.accuracy { b } else { a });
    if best.is_none() && !is_settled(epochs, warmup) {
        return None;
    }
    let lasts = |n: usize, is: fn(&EpochScores) -> bool| {
        epochs.len() >= n && epochs[epochs.len() - n..].iter().all(is)
    };
    let mut signs = Vec::new();
    if last.calls_all_one_class() {
        let (class, images) = last.called_most;
        let of = last.images;
        signs.push(Symptom::OneClass { class, images, of });
    }
    if lasts(CHANCE_EPOCHS, EpochScores::is_at_chance) {
        signs.push(Symptom::Chance {
            epochs: CHANCE_EPOCHS as u32,
        });
    }
    if !last.dead_layers.is_empty() {
        signs.push(Symptom::DeadLayers {
            layers: last.dead_layers.clone(),
        });
    }
    let is_flat =
        |e: &EpochScores| e.is_at_chance() && (e.relative_loss() - 1.0).abs() <= FLAT_SHARE;
    if lasts(FLAT_EPOCHS, is_flat) {
        signs.push(Symptom::FlatLoss {
            epochs: FLAT_EPOCHS as u32,
        });
    }
    if signs.is_empty() {
        return None;
    }
    let since = epochs.iter().rev().take_while(|e| e.is_bad()).last();
    let since = since.map_or(last.epoch, |e| e.epoch);
    Some(Collapse {
        since,
        signs,
        best: best.filter(|b| b.epoch < since).map(|b| b.epoch),
    })
}

/// Difference between the mean of a value over the newest epochs and that over as many epochs before them, and its
/// standard error.
fn gain(epochs: &[EpochScores], value: fn(&EpochScores) -> f64) -> Option<(f64, f64)> {
    let from = epochs.len().checked_sub(2 * PLATEAU_EPOCHS)?;
    let values: Vec<f64> = epochs[from..].iter().map(value).collect();
    let (before, last) = values.split_at(PLATEAU_EPOCHS);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let squares = values.windows(2).map(|pair| (pair[1] - pair[0]).powi(2));
    // The squared difference of two neighbours is on average twice the variance of independent noise.
    let variance = squares.sum::<f64>() / (2 * (values.len() - 1)) as f64;
    let error = (2.0 * variance / PLATEAU_EPOCHS as f64).sqrt();
    Some((mean(last) - mean(before), error))
}

fn accuracy(epoch: &EpochScores) -> f64 {
    epoch.accuracy
}

fn negative_loss(epoch: &EpochScores) -> f64 {
    -epoch.loss
}

/// A plateau at the last of `epochs`: neither mean accuracy nor mean loss of the newest is better than before.
fn new_plateau(epochs: &[EpochScores]) -> Option<Plateau> {
    let gains = [gain(epochs, accuracy)?.0, gain(epochs, negative_loss)?.0];
    let solved = epochs.iter().any(|e| e.accuracy >= SOLVED);
    // NaN never counts as a plateau.
    let stands = gains.iter().all(|gain| *gain <= 0.0);
    let window = &epochs[epochs.len() - PLATEAU_EPOCHS..];
    let [first, .., last] = window else {
        return None;
    };
    (stands && !solved).then_some(Plateau {
        from: first.epoch,
        to: last.epoch,
        overfits: last.train_loss < first.train_loss,
    })
}

/// A reported plateau, unless there has been progress beyond the noise between epochs since.
fn lasting_plateau(epochs: &[EpochScores], told: &Plateau) -> Option<Plateau> {
    let progress = [accuracy, negative_loss]
        .into_iter()
        .filter_map(|value| gain(epochs, value))
        .any(|(gain, error)| gain > 2.0 * error);
    (!progress).then(|| told.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::report::Split;

    const CLASSES: u32 = 10;

    /// Scores of an epoch of 250 steps on 1,000 validation images, 100 of each class: `right` of each class are
    /// predicted correctly, and all others as class 4.
    fn epoch(number: u32, right: u32, train_loss: f64, val_loss: f64) -> EpochScores {
        let mut confusion = Confusion::new(CLASSES as usize);
        for truth in 0..CLASSES {
            confusion.counts[(truth * CLASSES + truth) as usize] += right;
            confusion.counts[(truth * CLASSES + 4) as usize] += 100 - right;
        }
        scores(number, 250, &confusion, train_loss, val_loss)
    }

    fn scores(
        number: u32,
        steps: u64,
        confusion: &Confusion,
        train_loss: f64,
        loss: f64,
    ) -> EpochScores {
        let report = EpochReport {
            epoch: number,
            step: u64::from(number) * steps,
            train_loss,
            train_accuracy: 0.1,
            loss,
            split: Split::Validation,
            accuracy: confusion.accuracy().unwrap(),
            test_accuracy: None,
            average: None,
            best: false,
            images_per_s: 1.0,
            elapsed: 1.0,
            position: f64::from(number),
            reached: None,
            tta: Default::default(),
        };
        EpochScores::new(&report, confusion)
    }

    /// What the monitor returns after each epoch; None if nothing changed.
    fn follow(epochs: Vec<EpochScores>, params: &Hyperparameters) -> Vec<Option<Health>> {
        let mut monitor = HealthMonitor::default();
        epochs
            .into_iter()
            .map(|epoch| monitor.add(epoch, params).cloned())
            .collect()
    }

    fn is_quiet(epochs: Vec<EpochScores>) -> bool {
        follow(epochs, &Hyperparameters::default())
            .iter()
            .all(Option::is_none)
    }

    #[test]
    fn a_network_that_falls_to_one_class_has_collapsed_until_it_learns_again() {
        let epochs = [50, 60, 0, 0, 30].into_iter().zip(1..);
        let epochs = epochs.map(|(right, n)| epoch(n, right, 9.0, 9.0)).collect();
        let told = follow(epochs, &Hyperparameters::default());
        assert_eq!((&told[0], &told[1]), (&None, &None));
        let health = told[2].as_ref().unwrap();
        let collapse = health.collapse.as_ref().unwrap();
        assert_eq!((health.epoch, health.step), (3, 750));
        assert_eq!((collapse.since, collapse.best), (3, Some(2)));
        let sign = Symptom::OneClass {
            class: 4,
            images: 1000,
            of: 1000,
        };
        assert_eq!(collapse.signs, [sign]);
        assert_eq!(collapse.rate_to_try(), "a lower learning rate");
        let names: Vec<String> = (0..10).map(|c| format!("class{c}")).collect();
        assert_eq!(collapse.describe(&names), "every prediction is class4");
        assert_eq!(told[3], None, "told once");
        assert_eq!(told[4].as_ref().unwrap().collapse, None, "withdrawn");
    }

    #[test]
    fn a_run_that_never_learns_is_told_with_all_its_signs_and_nothing_to_go_back_to() {
        let mut epochs: Vec<_> = (1..=3).map(|n| epoch(n, 0, 10f64.ln(), 2.31)).collect();
        for epoch in &mut epochs {
            assert!(epoch.look_constant());
            epoch.set_dead_layers(vec!["conv1".into(), "dense1".into()]);
        }
        let told = follow(epochs, &Hyperparameters::default());
        let last = told[2].as_ref().unwrap().collapse.as_ref().unwrap();
        assert_eq!((last.since, last.best), (1, None));
        let words = last.describe(&vec![String::new(); 10]);
        for part in [
            "every prediction is ",
            "at chance for 3 epochs",
            "conv1 and dense1 is dead",
            "ln(10)",
        ] {
            assert!(words.contains(part), "{part} is missing in: {words}");
        }
    }

    #[test]
    fn one_image_that_is_called_otherwise_changes_nothing() {
        // Measured on the built-in set after one epoch of Adam with a learning rate of 10.
        let mut confusion = Confusion::new(10);
        (0..10).for_each(|truth| confusion.counts[truth * 10 + 3] = 200);
        confusion.counts[3] -= 1;
        confusion.counts[7] += 1;
        let told = follow(
            vec![scores(1, 250, &confusion, 9e4, 15_890.2)],
            &Hyperparameters::default(),
        );
        let collapse = told[0].as_ref().unwrap().collapse.as_ref().unwrap();
        let words = collapse.describe(&[]);
        assert_eq!(words, "1,999 of 2,000 predictions are class 3");
    }

    #[test]
    fn chance_with_several_classes_needs_three_epochs() {
        let mut confusion = Confusion::new(10);
        for truth in 0..10 {
            confusion.counts[truth * 10 + 2] = 60;
            confusion.counts[truth * 10 + 7] = 40;
        }
        let epochs = (1..=3)
            .map(|n| scores(n, 1250, &confusion, 2.5, 2.5))
            .collect();
        let told = follow(epochs, &Hyperparameters::default());
        assert_eq!((&told[0], &told[1]), (&None, &None));
        let collapse = told[2].as_ref().unwrap().collapse.as_ref().unwrap();
        assert_eq!(collapse.signs, [Symptom::Chance { epochs: 3 }]);
        assert!(collapse.rate_to_try().contains("too low"));
        assert_eq!(collapse.since, 1);
    }

    #[test]
    fn nothing_is_said_before_a_network_should_have_learned() {
        // Too early: 199 steps, or any number within the warm-up.
        let mut confusion = Confusion::new(10);
        (0..10).for_each(|truth| confusion.counts[truth * 10] = 100);
        let early = vec![scores(1, 199, &confusion, 2.3, 2.3)];
        assert!(is_quiet(early));
        let warm = Hyperparameters {
            warmup: 2.0,
            ..Hyperparameters::default()
        };
        let epochs = (1..=2)
            .map(|n| scores(n, 1250, &confusion, 2.3, 2.3))
            .collect();
        assert!(follow(epochs, &warm).iter().all(Option::is_none));
    }

    #[test]
    fn few_images_and_a_class_that_dominates_decide_nothing() {
        let mut few = Confusion::new(10);
        (0..10).for_each(|truth| few.counts[truth * 10] = 4);
        assert!(is_quiet(
            (1..=9).map(|n| scores(n, 1000, &few, 2.3, 2.3)).collect()
        ));
        let mut unbalanced = Confusion::new(10);
        (1..10).for_each(|truth| unbalanced.counts[truth * 10] = 10);
        unbalanced.counts[0] = 910;
        let epochs =
            (1..=9).map(|n| scores(n, 1000, &unbalanced, 0.5 / f64::from(n), 0.5 / f64::from(n)));
        assert!(is_quiet(epochs.collect()));
        assert!(is_quiet(vec![scores(
            1,
            1000,
            &{
                let mut none = Confusion::new(10);
                none.counts[0] = 1;
                none
            },
            f64::NAN,
            f64::NAN
        )]));
    }

    /// Scores of a curve, given as validation accuracy in percent and loss, with 1,000 images.
    fn curve(
        accuracy: &[f64],
        loss: impl Fn(u32) -> f64,
        train: impl Fn(u32) -> f64,
    ) -> Vec<EpochScores> {
        (1..)
            .zip(accuracy)
            .map(|(n, percent)| EpochScores {
                accuracy: percent / 100.0,
                ..epoch(n, 50, train(n), loss(n))
            })
            .collect()
    }

    /// Validation accuracy of the seed recipe in Keras: medians of three runs.
    const SEED: [f64; 15] = [
        48.3, 53.2, 56.8, 58.9, 60.4, 62.0, 62.6, 63.1, 63.7, 64.9, 65.1, 65.5, 65.5, 64.8, 66.2,
    ];

    #[test]
    fn the_seed_recipe_s_run_is_well() {
        let loss = |n| 1.0 + 0.5 / f64::from(n);
        assert!(is_quiet(curve(&SEED, loss, loss)));
        assert!(is_quiet(curve(&SEED[..1], loss, loss)), "one epoch");
    }

    #[test]
    fn a_plateau_is_told_once_and_ends_with_progress() {
        let mut accuracy = SEED.to_vec();
        accuracy.extend([
            66.0, 65.8, 66.1, 66.2, 65.9, 66.1, 65.8, 66.0, 66.1, 65.9, 66.0,
        ]);
        accuracy.extend([68.0, 68.2, 68.3]);
        let flat = |n: u32| {
            if n < 15 {
                2.0 - 0.06 * f64::from(n)
            } else {
                1.0 + 0.001 * f64::from(n % 3)
            }
        };
        let falls = |n| 2.0 / f64::from(n);
        let told = follow(curve(&accuracy, flat, falls), &Hyperparameters::default());
        let events: Vec<_> = (1u32..)
            .zip(&told)
            .filter_map(|(n, health)| Some((n, health.as_ref()?.plateau.clone())))
            .collect();
        let [(begin, Some(plateau)), (end, None)] = &events[..] else {
            panic!("{events:?}");
        };
        assert!((20..=26).contains(begin), "{begin}");
        assert_eq!((plateau.from, plateau.to), (begin - 4, *begin));
        assert!(plateau.overfits && plateau.describe().contains("augmentation"));
        assert!((27..=29).contains(end), "{end}");
    }

    #[test]
    fn a_plateau_is_no_news_at_the_top_under_a_schedule_or_right_after_a_change() {
        let constant = |_| 1.0;
        assert!(!is_quiet(curve(&[60.0; 12], constant, constant)));
        assert!(is_quiet(curve(&[99.5; 12], constant, constant)));
        let cosine = Hyperparameters {
            schedule: Schedule::Cosine,
            ..Hyperparameters::default()
        };
        let told = follow(curve(&[60.0; 12], constant, constant), &cosine);
        assert!(told.iter().all(Option::is_none));
        let mut monitor = HealthMonitor::default();
        for (n, epoch) in (1..).zip(curve(&[60.0; 14], constant, constant)) {
            if n == 6 {
                monitor.changed();
            }
            assert_eq!(monitor.add(epoch, &Hyperparameters::default()), None, "{n}");
        }
    }

    #[test]
    fn a_run_that_goes_on_knows_what_was_said() {
        let mut monitor = HealthMonitor::default();
        let mut first = epoch(1, 0, 2.4, 2.4);
        first.set_dead_layers(vec!["conv1".into()]);
        let said = monitor
            .add(first, &Hyperparameters::default())
            .unwrap()
            .clone();
        let mut resumed = HealthMonitor::default();
        resumed.remember(epoch(1, 0, 2.4, 2.4));
        resumed.restore(said);
        let mut second = epoch(2, 0, 2.4, 2.4);
        second.set_dead_layers(vec!["conv1".into()]);
        let params = Hyperparameters::default();
        assert_eq!(
            monitor.add(second.clone(), &params),
            resumed.add(second, &params)
        );
        assert_eq!(monitor.health(), resumed.health());
    }
}
