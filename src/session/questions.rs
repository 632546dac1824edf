//! Answers questions about images and the network.

use super::protocol::{Answer, Filter};
use crate::backend::{ImageSet, Inspection, filters, parameter_health};
use crate::domain::augment::{Augmentation, Placement};
use crate::domain::report::{ModelReport, Picture, Prediction, Split, StepSettings};
use crate::train::evaluate::{History, Scores};
use crate::train::trainer::Trainer;
use crate::train::training_data::{TrainingData, picture};
use crate::train::{Error, Result};
use std::rc::Rc;

/// Maximum number of images in one answer.
const MAX_ITEMS: u32 = 1024;
/// Number of scored images on which the health of units is measured.
const HEALTH_IMAGES: usize = 256;
/// Number of these images that the check for dead layers uses. Few are enough: a layer that is alive has an output
/// other than zero for nearly every image.
const DEAD_IMAGES: usize = 32;

/// The evaluations of one split.
#[derive(Default)]
pub(super) struct SplitResults {
    pub scores: Option<Scores>,
    pub history: History,
}

impl SplitResults {
    /// The newest evaluation.
    pub fn evaluation(&self) -> Result<Answer> {
        Ok(Answer::Evaluation {
            evaluation: Box::new(self.scores()?.evaluation.clone()),
        })
    }

    /// The predictions for the images that pass the filter, `count` of them from `offset` on.
    pub fn samples(
        &self,
        training_data: &TrainingData,
        filter: &Filter,
        offset: u32,
        count: u32,
    ) -> Result<Answer> {
        let scores = self.scores()?;
        let all = 0..scores.images.len() as u32;
        let wrong = |&i: &u32| scores.predicted[i as usize] != scores.labels[i as usize];
        let mut chosen: Vec<u32> = match filter {
            Filter::All | Filter::LeastSure => all.collect(),
            Filter::Wrong | Filter::MostConfidentWrong => all.filter(wrong).collect(),
            Filter::Class { class } => all
                .filter(|&i| scores.labels[i as usize] == *class)
                .collect(),
            Filter::Pinned { indices } => indices
                .iter()
                .copied()
                .filter(|i| all.contains(i))
                .collect(),
        };
        match filter {
            Filter::MostConfidentWrong => most_confident_first(scores, &mut chosen),
            Filter::LeastSure => {
                chosen.sort_by(|&a, &b| gap(scores, a).total_cmp(&gap(scores, b)).then(a.cmp(&b)));
            }
            _ => {}
        }
        self.page(training_data, scores, &chosen, offset, count)
    }

    pub fn cell(
        &self,
        training_data: &TrainingData,
        (truth, predicted): (u16, u16),
        offset: u32,
        count: u32,
    ) -> Result<Answer> {
        let scores = self.scores()?;
        let mut chosen: Vec<u32> = (0..scores.images.len())
            .filter(|&i| scores.labels[i] == truth && scores.predicted[i] == predicted)
            .map(|i| i as u32)
            .collect();
        most_confident_first(scores, &mut chosen);
        self.page(training_data, scores, &chosen, offset, count)
    }

    fn scores(&self) -> Result<&Scores> {
        self.scores.as_ref().ok_or_else(|| {
            Error::Question(
                "these images have not been scored yet: the first evaluation comes at the end of the epoch".into(),
            )
        })
    }

    fn page(
        &self,
        training_data: &TrainingData,
        scores: &Scores,
        chosen: &[u32],
        offset: u32,
        count: u32,
    ) -> Result<Answer> {
        let set = training_data.images(scores.split);
        let items = page(chosen, offset, count)
            .iter()
            .map(|&index| {
                let i = index as usize;
                Ok(Prediction {
                    split: scores.split,
                    index,
                    truth: scores.labels[i],
                    predicted: scores.predicted[i],
                    probabilities: scores.row(i).to_vec(),
                    step: scores.step,
                    picture: picture(set, scores.images[i])?,
                    past: self.history.of(i),
                })
            })
            .collect::<Result<_>>()?;
        Ok(Answer::Predictions {
            split: scores.split,
            total: chosen.len() as u32,
            offset,
            items,
        })
    }
}

fn most_confident_first(scores: &Scores, chosen: &mut [u32]) {
    let confidence = |i: u32| scores.confidence(i as usize);
    chosen.sort_by(|&a, &b| confidence(b).total_cmp(&confidence(a)).then(a.cmp(&b)));
}

/// Difference between the two highest probabilities.
fn gap(scores: &Scores, index: u32) -> f32 {
    let (mut first, mut second) = (0.0f32, 0.0f32);
    for &p in scores.row(index as usize) {
        if p > first {
            (first, second) = (p, first);
        } else if p > second {
            second = p;
        }
    }
    first - second
}

fn page(all: &[u32], offset: u32, count: u32) -> &[u32] {
    let begin = (offset as usize).min(all.len());
    let end = (begin + count.min(MAX_ITEMS) as usize).min(all.len());
    &all[begin..end]
}

/// Images without augmentation, of one class or of all.
pub(super) fn browse(
    trainer: &Trainer,
    split: Split,
    class: Option<u16>,
    offset: u32,
    count: u32,
) -> Result<Answer> {
    let set = trainer.training_data().images(split);
    let images = trainer.images(split);
    let label = |index: u32| set.labels()[images[index as usize] as usize];
    let chosen: Vec<u32> = (0..images.len() as u32)
        .filter(|&index| class.is_none_or(|class| label(index) == class))
        .collect();
    let items = page(&chosen, offset, count)
        .iter()
        .map(|&index| {
            let picture = picture(set, images[index as usize])?;
            Ok((index, label(index), picture))
        })
        .collect::<Result<_>>()?;
    Ok(Answer::Pictures {
        total: chosen.len() as u32,
        offset,
        items,
    })
}

/// One training image as the current augmentation places it in the epochs 1 to `count`.
pub(super) fn augmented(trainer: &Trainer, index: u32, count: u32) -> Result<Answer> {
    let images = &trainer.division().train;
    let Some(&image) = images.get(index as usize) else {
        return Err(Error::Question(format!(
            "there is no training image {index}: there are {}",
            images.len()
        )));
    };
    let set = &trainer.training_data().train;
    let (plain, label) = (picture(set, image)?, set.labels()[image as usize]);
    let params = &trainer.run_state().params;
    let augmentation = Augmentation::of(params);
    let mut placements = Vec::new();
    let items: Vec<_> = (1..=count.min(MAX_ITEMS))
        .map(|epoch| {
            let settings = StepSettings::new(params, params.base_rates(), epoch.into(), epoch);
            augmentation.place(&[image], &settings, plain.side, &mut placements);
            (index, label, placed(&plain, &placements[0]))
        })
        .collect();
    Ok(Answer::Pictures {
        total: items.len() as u32,
        offset: 0,
        items,
    })
}

/// The picture that the network sees under a placement; black where its input is zero.
fn placed(plain: &Picture, placement: &Placement) -> Picture {
    let side = plain.side;
    let mut rgb = vec![0; plain.rgb.len()];
    for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
        if let Some((row, column)) = placement.source(y, x, side) {
            let (to, from) = (3 * (y * side + x), 3 * (row * side + column));
            rgb[to as usize..][..3].copy_from_slice(&plain.rgb[from as usize..][..3]);
        }
    }
    Picture { rgb, ..*plain }
}

/// Reports on the network, and on its activations for one image of `split`.
pub(super) fn model(
    trainer: &mut Trainer,
    split: Split,
    activations_of: Option<u32>,
) -> Result<Answer> {
    let training_data = trainer.training_data().clone();
    let images = trainer.images(split);
    let image = match activations_of {
        None => None,
        Some(index) => Some(*images.get(index as usize).ok_or_else(|| {
            Error::Question(format!(
                "there is no image {index}: there are {}",
                images.len()
            ))
        })?),
    };
    let inspected = trainer.inspect(&Inspection {
        activations: image.map(|image| (Rc::clone(training_data.images(split)), image)),
        units: Some(health_images(trainer, HEALTH_IMAGES)),
        gradients: true,
    })?;
    let state = trainer.state()?;
    Ok(Answer::Model(Box::new(ModelReport {
        step: trainer.run_state().step,
        parameters: parameter_health(&state, &inspected.gradients),
        units: inspected.units,
        filters: filters(trainer.spec(), &state),
        activations: inspected.activations,
    })))
}

/// [`model`] of a network that has made no step since its weights were loaded: it has no gradients.
pub(super) fn model_of_checkpoint(
    trainer: &mut Trainer,
    split: Split,
    activations_of: Option<u32>,
) -> Result<Answer> {
    let mut answer = model(trainer, split, activations_of)?;
    if let Answer::Model(report) = &mut answer {
        (report.parameters.iter_mut()).for_each(|parameter| parameter.grad_norm = None);
    }
    Ok(answer)
}

/// The first `count` of the images that are scored after each epoch.
fn health_images(trainer: &Trainer, count: usize) -> (Rc<ImageSet>, Vec<u32>) {
    let split = trainer.scored_split();
    let mut images = trainer.images(split);
    images.truncate(count);
    (Rc::clone(trainer.training_data().images(split)), images)
}

/// The layers of which every ReLU is zero for a sample of the scored images.
///
/// # Errors
/// Returns an error if the device fails.
pub(super) fn dead_layers(trainer: &mut Trainer) -> Result<Vec<String>> {
    let inspected = trainer.inspect(&Inspection {
        units: Some(health_images(trainer, DEAD_IMAGES)),
        ..Inspection::default()
    })?;
    let dead = inspected.units.into_iter().filter(|unit| unit.dead >= 1.0);
    Ok(dead.map(|unit| unit.name).collect())
}
