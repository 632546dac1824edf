//! Checks that every backend makes before it computes, so that a refused call has no effect.

use super::{Error, ImageSet, MemberId, NetworkSpec, Result, ScoringBatch, StepPlan};
use crate::domain::augment::Placement;

/// Checks the arguments of `train`: the number of members, the optimizer of every step, and every batch.
pub fn check_work(
    spec: &NetworkSpec,
    capacity: usize,
    at_once: usize,
    images: &ImageSet,
    work: &[(MemberId, Vec<StepPlan>)],
) -> Result<()> {
    if work.len() > at_once {
        return Err(Error::Batch(format!(
            "at most {at_once} networks train at once, not {}",
            work.len()
        )));
    }
    for plan in work.iter().flat_map(|(_, plans)| plans) {
        if plan.settings.optimizer != spec.optimizer.word {
            return Err(Error::Batch(format!(
                "a step with {:?} was requested of a network that trains with {:?}",
                plan.settings.optimizer, spec.optimizer.word
            )));
        }
        check_batch(spec, capacity, images, plan.images.iter().copied())?;
    }
    Ok(())
}

/// Checks that a batch has from 1 to `capacity` images, that the image set fits the network's input and classes, and
/// that every image exists.
pub fn check_batch(
    spec: &NetworkSpec,
    capacity: usize,
    images: &ImageSet,
    mut numbers: impl ExactSizeIterator<Item = u32>,
) -> Result<()> {
    let wrong = |what: String| Err(Error::Batch(what));
    if !(1..=capacity).contains(&numbers.len()) {
        return wrong(format!(
            "a batch has from 1 to {capacity} images, not {}",
            numbers.len()
        ));
    }
    let (side, channels, input) = (images.side() as u32, images.channels() as u32, spec.input);
    if (side, side, channels) != (input.height, input.width, input.channels) {
        return wrong(format!(
            "images of {channels} x {side} x {side} do not fit a network for {} x {} x {}",
            input.channels, input.height, input.width
        ));
    }
    if usize::from(images.largest_label()) >= spec.classes {
        return wrong(format!(
            "an image has the label {}, but there are {} classes",
            images.largest_label(),
            spec.classes
        ));
    }
    match numbers.find(|number| *number as usize >= images.len()) {
        Some(number) => wrong(format!(
            "there is no image {number}: there are {} images",
            images.len()
        )),
        None => Ok(()),
    }
}

/// The error of scoring an average that a network does not have.
pub fn no_average() -> Error {
    Error::Batch(
        "there is no average of the weights: it begins with a training step with an average_decay"
            .into(),
    )
}

/// Places the images of a scoring pass in all their views. Checks that they fit like a batch, and the lengths of the
/// result slices.
pub fn place_scoring(
    spec: &NetworkSpec,
    capacity: usize,
    batch: &ScoringBatch,
) -> Result<Vec<Placement>> {
    let placements = batch.tta.place(batch.numbers);
    let placed = placements.iter().map(|placement| placement.image);
    check_batch(spec, capacity, batch.images, placed)?;
    let (probabilities, losses) = (&batch.probabilities, &batch.losses);
    let (images, classes) = (batch.numbers.len(), spec.classes);
    if probabilities.len() != images * classes || losses.len() != images {
        return Err(Error::Batch(format!(
            "{images} images have {} probabilities and {images} losses, not {} and {}",
            images * classes,
            probabilities.len(),
            losses.len()
        )));
    }
    Ok(placements)
}
