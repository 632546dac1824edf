//! The scores of an epoch and of an evaluation.

use super::Split;
use crate::domain::confusion::Confusion;
use crate::domain::number;
use crate::domain::params::Tta;
use serde::{Deserialize, Serialize};

/// The end of an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "EpochFields", into = "EpochFields")]
pub struct EpochReport {
    /// From 1.
    pub epoch: u32,
    pub step: u64,
    /// Means over the epoch's training images during training, with dropout, as Keras reports them.
    pub train_loss: f64,
    pub train_accuracy: f64,
    /// The images that were scored: the validation images, or the test images if none are held out.
    pub split: Split,
    /// The views that their logits were averaged over.
    pub tta: Tta,
    /// Of the images in `split`.
    pub loss: f64,
    pub accuracy: f64,
    /// Present with `test_each_epoch`, or if a viewer shows the test images.
    pub test_accuracy: Option<f64>,
    /// The scores of the average of the weights, if there is one.
    pub average: Option<AverageScores>,
    /// Whether this is the best validation accuracy so far, of the last weights.
    pub best: bool,
    pub images_per_s: f64,
    pub elapsed: f64,
    /// Number of epochs done: `epoch`, or less if the run ended within it.
    pub position: f64,
    /// The target, if this epoch reached it with the last weights.
    pub reached: Option<f64>,
}

/// The scores of the average of the weights at the end of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AverageScores {
    /// Of the images that were scored with the last weights.
    #[serde(with = "number")]
    pub loss: f64,
    #[serde(with = "number")]
    pub accuracy: f64,
    /// Present where that of the last weights is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_accuracy: Option<f64>,
}

/// The JSON form of an [`EpochReport`]: the scores are `val_loss` and `val_accuracy`, or `test_loss` and
/// `test_accuracy`, by the split.
#[derive(Serialize, Deserialize)]
struct EpochFields {
    epoch: u32,
    step: u64,
    #[serde(with = "number")]
    train_loss: f64,
    #[serde(with = "number")]
    train_accuracy: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    val_loss: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    val_accuracy: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    test_loss: Option<Number>,
    #[serde(default)]
    test_accuracy: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    average: Option<AverageScores>,
    best: bool,
    images_per_s: f64,
    elapsed: f64,
    /// Missing at the end of a whole epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    position: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reached: Option<f64>,
    #[serde(default, skip_serializing_if = "Tta::is_none")]
    tta: Tta,
}

/// A number that may be infinite or NaN.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Number(#[serde(with = "number")] f64);

impl From<EpochReport> for EpochFields {
    fn from(e: EpochReport) -> Self {
        let validated = e.split == Split::Validation;
        EpochFields {
            epoch: e.epoch,
            step: e.step,
            train_loss: e.train_loss,
            train_accuracy: e.train_accuracy,
            val_loss: validated.then_some(Number(e.loss)),
            val_accuracy: validated.then_some(Number(e.accuracy)),
            test_loss: (!validated).then_some(Number(e.loss)),
            test_accuracy: e.test_accuracy,
            average: e.average,
            best: e.best,
            images_per_s: e.images_per_s,
            elapsed: e.elapsed,
            position: (e.position != f64::from(e.epoch)).then_some(e.position),
            reached: e.reached,
            tta: e.tta,
        }
    }
}

impl TryFrom<EpochFields> for EpochReport {
    type Error = &'static str;

    fn try_from(e: EpochFields) -> Result<Self, Self::Error> {
        let (split, loss, accuracy) = match (e.val_loss, e.val_accuracy, e.test_loss) {
            (Some(loss), Some(accuracy), _) => (Split::Validation, loss.0, accuracy.0),
            (None, None, Some(loss)) => {
                let accuracy = e.test_accuracy.ok_or("test_accuracy is missing")?;
                (Split::Test, loss.0, accuracy)
            }
            _ => return Err("val_loss and val_accuracy, or test_loss, are missing"),
        };
        Ok(EpochReport {
            epoch: e.epoch,
            step: e.step,
            train_loss: e.train_loss,
            train_accuracy: e.train_accuracy,
            split,
            loss,
            accuracy,
            test_accuracy: e.test_accuracy,
            average: e.average,
            best: e.best,
            images_per_s: e.images_per_s,
            elapsed: e.elapsed,
            position: e.position.unwrap_or(f64::from(e.epoch)),
            reached: e.reached,
            tta: e.tta,
        })
    }
}

/// The weights that were scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScoredWeights {
    /// The weights after the step.
    #[default]
    Last,
    /// Their average after the step, with `average_decay`.
    Average,
    /// The weights of the best checkpoint, scored at the end of the run.
    Best,
}

/// A scoring of one whole split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    pub split: Split,
    /// Missing in old files, which contain scores of the last weights only.
    #[serde(default)]
    pub weights: ScoredWeights,
    /// The views that the logits are averaged over.
    #[serde(default, skip_serializing_if = "Tta::is_none")]
    pub tta: Tta,
    /// The step whose weights were scored.
    pub step: u64,
    pub epoch: u32,
    /// Cross-entropy, without smoothing.
    #[serde(with = "number")]
    pub loss: f64,
    #[serde(with = "number")]
    pub accuracy: f64,
    pub confusion: Confusion,
    pub images_per_s: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_written_under_the_name_of_the_images_that_were_scored() {
        let validated = r#"{"epoch":1,"step":5,"train_loss":2.0,"train_accuracy":0.25,"val_loss":"NaN","val_accuracy":0.5,"test_accuracy":null,"best":true,"images_per_s":9.0,"elapsed":1.5}"#;
        let tested = r#"{"epoch":1,"step":5,"train_loss":2.0,"train_accuracy":0.25,"test_loss":1.5,"test_accuracy":0.5,"best":false,"images_per_s":9.0,"elapsed":1.5}"#;
        for (text, split) in [(validated, Split::Validation), (tested, Split::Test)] {
            let read: EpochReport = serde_json::from_str(text).unwrap();
            assert_eq!((read.split, read.accuracy), (split, 0.5));
            assert_eq!(serde_json::to_string(&read).unwrap(), text);
        }
        let neither = tested.replace("test_loss", "other");
        assert!(serde_json::from_str::<EpochReport>(&neither).is_err());
    }

    #[test]
    fn an_evaluation_of_an_old_file_is_of_the_last_weights() {
        let old = r#"{"split":"test","step":5,"epoch":1,"loss":2.0,"accuracy":0.25,"confusion":{"classes":2,"counts":[1,2,1,0]},"images_per_s":9.0}"#;
        let read: Evaluation = serde_json::from_str(old).unwrap();
        assert_eq!((read.weights, read.accuracy), (ScoredWeights::Last, 0.25));
        let best = Evaluation {
            weights: ScoredWeights::Best,
            ..read
        };
        let text = serde_json::to_string(&best).unwrap();
        assert!(text.contains(r#""weights":"best""#), "{text}");
        assert_eq!(serde_json::from_str::<Evaluation>(&text).unwrap(), best);
    }
}
