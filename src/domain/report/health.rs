//! The problems that a run can have: a collapse or a plateau.

use crate::domain::text::grouped;
use serde::{Deserialize, Serialize};

/// Detected problems of a run at the end of an epoch; empty if there are none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    pub step: u64,
    pub epoch: u32,
    pub collapse: Option<Collapse>,
    pub plateau: Option<Plateau>,
}

/// A collapse: the network is no better than a constant prediction, or all ReLUs of a layer are dead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Collapse {
    /// The first epoch whose scores show it.
    pub since: u32,
    /// At least one.
    pub signs: Vec<Symptom>,
    /// The best epoch before it, if one was better than a constant answer.
    pub best: Option<u32>,
}

/// A symptom of a collapsed network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "sign")]
pub enum Symptom {
    /// All or nearly all scored images, `images` of `of`, are predicted as this class.
    OneClass { class: usize, images: u32, of: u32 },
    /// The accuracy was at chance in this many consecutive epochs.
    Chance { epochs: u32 },
    /// Every ReLU of these layers is zero for every sampled image.
    DeadLayers { layers: Vec<String> },
    /// The training loss was that of a uniform prediction, ln(classes), in this many consecutive epochs.
    FlatLoss { epochs: u32 },
}

impl Collapse {
    /// The recommended learning rate for a new run. A network that always predicts one class was trained with too large
    /// steps; otherwise the steps may also have been too small.
    pub fn rate_to_try(&self) -> &'static str {
        let is_stuck =
            |sign: &Symptom| matches!(sign, Symptom::OneClass { .. } | Symptom::DeadLayers { .. });
        match self.signs.iter().any(is_stuck) {
            true => "a lower learning rate",
            false => "another learning rate (it may be far too low or too high)",
        }
    }

    /// `every prediction is deer; every ReLU of dense1 is dead`.
    pub fn describe(&self, classes: &[String]) -> String {
        let sign = |sign: &Symptom| match sign {
            Symptom::OneClass { class, images, of } => {
                let name = classes.get(*class).cloned();
                let name = name.unwrap_or_else(|| format!("class {class}"));
                match images == of {
                    true => format!("every prediction is {name}"),
                    false => format!(
                        "{} of {} predictions are {name}",
                        grouped(u64::from(*images)),
                        grouped(u64::from(*of))
                    ),
                }
            }
            Symptom::Chance { epochs } => {
                format!("accuracy was at chance for {epochs} epochs")
            }
            Symptom::DeadLayers { layers } => {
                format!("every ReLU of {} is dead", layers.join(" and "))
            }
            Symptom::FlatLoss { epochs } => format!(
                "training loss stayed at ln({}), that of a uniform answer, for {epochs} epochs",
                classes.len()
            ),
        };
        self.signs.iter().map(sign).collect::<Vec<_>>().join("; ")
    }
}

/// Accuracy and loss of the scored images no longer improve: epochs `from` to `to` are on average no better than as many before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plateau {
    pub from: u32,
    pub to: u32,
    /// Whether the training loss still falls.
    pub overfits: bool,
}

impl Plateau {
    /// The finding and a recommendation.
    pub fn describe(&self) -> String {
        let Plateau { from, to, .. } = self;
        let count = to - from + 1;
        let helps = match self.overfits {
            true => {
                "the training loss still falls: more dropout, weight decay or augmentation (flip, crop, cutout) may help"
            }
            false => "another learning rate, or a schedule that lowers it (cosine), may help",
        };
        format!(
            "plateau: accuracy and loss were no better in epochs {from} to {to} than in the {count} before; {helps}"
        )
    }
}
