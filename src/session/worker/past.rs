//! Answers questions about earlier epochs of the run, from the checkpoints that it keeps.

use super::{Worker, split_index};
use crate::domain::fork::ForkAt;
use crate::domain::report::Split;
use crate::session::fork::{ForkError, ForkPoint};
use crate::session::protocol::{Answer, Question};
use crate::session::questions::{self, SplitResults};
use crate::train::checkpoint::Checkpoint;
use crate::train::trainer::Trainer;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

/// Most earlier epochs that are held in memory, so that two viewers can look at different ones.
const MAX_HELD: usize = 2;

/// The run as it was at the end of an epoch.
pub(super) struct EarlierEpoch {
    epoch: u32,
    checkpoint: Checkpoint,
    /// The checkpoint's file.
    path: PathBuf,
    /// The images that were scored.
    split: Split,
    results: SplitResults,
}

impl Worker<'_> {
    /// Answers a question as it was at the end of an epoch. The first question about an epoch loads its checkpoint and
    /// scores it; training waits for that long, and is not changed by it.
    ///
    /// # Errors
    /// Returns the reason if the question cannot be asked about the past, or the run keeps no undamaged checkpoint of
    /// that epoch, or another command arrives before the images are scored.
    pub(super) fn answer_about(
        &mut self,
        trainer: &mut Trainer,
        epoch: u32,
        question: Question,
    ) -> Result<Answer, String> {
        let about_network = matches!(
            question,
            Question::Evaluation
                | Question::Samples { .. }
                | Question::Cell { .. }
                | Question::Model { .. }
        );
        if !about_network {
            return Err(
                "only `evaluation`, `samples`, `cell` and `model` can be asked about an epoch"
                    .into(),
            );
        }
        let held = self.earlier.iter().position(|held| held.epoch == epoch);
        let earlier = match held {
            Some(at) => self.earlier.remove(at),
            None => self.earlier_epoch(trainer, epoch)?,
        };
        let images = &self.training_data;
        let answer = match question {
            Question::Samples {
                filter,
                offset,
                count,
            } => earlier.results.samples(images, &filter, offset, count),
            Question::Cell {
                truth,
                predicted,
                offset,
                count,
            } => (earlier.results).cell(images, (truth, predicted), offset, count),
            Question::Model { activations_of } => {
                trainer.look_back(&earlier.checkpoint, &earlier.path, |trainer| {
                    questions::model_of_checkpoint(trainer, earlier.split, activations_of)
                })
            }
            _ => earlier.results.evaluation(),
        };
        if self.earlier.len() == MAX_HELD {
            self.earlier.remove(0);
        }
        self.earlier.push(earlier);
        answer.map_err(|error| error.to_string())
    }

    /// Loads the checkpoint of the end of an epoch, and scores the images as they were scored then.
    fn earlier_epoch(&mut self, trainer: &mut Trainer, epoch: u32) -> Result<EarlierEpoch, String> {
        // The epoch's checkpoint may be on its way to the disk.
        self.report_saved(true);
        let run = self.run.as_ref();
        let folder = run
            .ok_or("nothing is saved: this session has no runs folder")?
            .folder();
        let point = ForkPoint::of_run(folder.to_owned(), ForkAt::Epoch(epoch));
        let ForkPoint {
            checkpoint, path, ..
        } = point.map_err(|error| match error {
            ForkError::Missing { nearest: ForkAt::Epoch(nearest), .. } => format!(
                "no checkpoint of the end of epoch {epoch} is kept. The nearest is that of epoch {nearest}."
            ),
            ForkError::Missing { .. } => "no checkpoint of the end of an epoch is kept yet".into(),
            error => error.to_string(),
        })?;
        let (interrupt, requests) = (self.sender.interrupt(), &self.sender.requests);
        interrupt.store(false, Ordering::SeqCst);
        let stops = || interrupt.load(Ordering::SeqCst) && !requests.is_empty();
        let scores = trainer
            .look_back(&checkpoint, &path, |trainer| trainer.score_epoch(stops))
            .map_err(|error| error.to_string())?
            .ok_or("another command came before the images were scored; ask again")?;
        let split = scores.split;
        let mut history = self.results[split_index(split)].history.before(scores.step);
        history.add(&scores);
        let results = SplitResults {
            scores: Some(scores),
            history,
        };
        Ok(EarlierEpoch {
            epoch,
            checkpoint,
            path,
            split,
            results,
        })
    }
}
