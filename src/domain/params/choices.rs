//! The hyperparameters that are one word of several.

use serde::{Deserialize, Serialize};

/// An enumeration whose values are words in files, flags and the panel.
macro_rules! choices {
    ($(#[$about:meta])* $name:ident { $($(#[$what:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$what])* #[serde(rename = $word)] $variant),+
        }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant),+];
            /// The words, in the order of `ALL`.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }
    };
}

choices! {
    /// The optimizers. They are implemented in [`crate::optimizers`].
    Optimizer { Sgd = "sgd", Adam = "adam", Adamw = "adamw", Muon = "muon" }
}

choices! {
    /// How the learning rate changes over the run, after the warm-up.
    Schedule {
        /// The base learning rate throughout.
        Constant = "constant",
        /// A tenth of it after half of the run, a hundredth after three quarters.
        Step = "step",
        /// Linearly from the base down to zero.
        Linear = "linear",
        /// Half a cosine from the base down to zero.
        Cosine = "cosine",
        /// Linearly up from a 25th of the base over the first 30% of the run, then by a cosine down to a 250,000th.
        OneCycle = "one-cycle",
    }
}

choices! {
    /// The wanted number format of the matrix products.
    Precision {
        /// f32 on the CPU, tf32 on a GPU, as PyTorch's convolutions have it.
        Auto = "auto",
        F32 = "f32",
        Tf32 = "tf32",
        Bf16 = "bf16",
    }
}

choices! {
    /// The number format of a GPU's matrix products. Master weights and accumulation stay f32.
    NumberFormat { F32 = "f32", Tf32 = "tf32", Bf16 = "bf16" }
}

impl Precision {
    /// The format of the products on a GPU.
    pub fn on_gpu(self) -> NumberFormat {
        match self {
            Precision::F32 => NumberFormat::F32,
            Precision::Auto | Precision::Tf32 => NumberFormat::Tf32,
            Precision::Bf16 => NumberFormat::Bf16,
        }
    }
}

choices! {
    /// How the losses of a batch's images are combined into the loss whose gradient is taken. Reported losses are means.
    #[derive(Default)]
    LossReduction { #[default] Mean = "mean", Sum = "sum" }
}

choices! {
    /// Which training images are mirrored left to right.
    #[derive(Default)]
    Flip {
        #[default]
        Off = "off",
        /// Each with probability one half, drawn anew in each step.
        Random = "random",
        /// Each in every second epoch; a random half of the images begins. (Jordan: "94% on CIFAR-10 in 3.29 Seconds on
        /// a Single GPU", 2024, section 3.6.)
        Alternate = "alternate",
    }
}

choices! {
    /// What a shifted image shows beyond its edge.
    #[derive(Default)]
    CropPadding {
        #[default]
        Zero = "zero",
        /// The image mirrored at its edge, without repeating the edge itself.
        Reflect = "reflect",
    }
}

choices! {
    /// Test-time augmentation: the views of each image over which a network's logits are averaged.
    #[derive(Default)]
    Tta {
        /// The image as it is.
        #[default]
        None = "none",
        /// The image and its mirror image.
        Mirror = "mirror",
        /// The image, and at half its weight the image shifted by one pixel to the upper left and to the lower right, each
        /// of the three also mirrored. (Jordan, 2024, section 3.5.)
        MirrorTranslate = "mirror+translate",
    }
}

choices! {
    /// Which of a network's weights are scored.
    #[derive(Default)]
    Weights {
        /// Those after the last training step.
        #[default]
        Last = "last",
        /// Their average, see [`super::Hyperparameters::average_decay`].
        Average = "average",
    }
}

/// Deserialises a choice that older files contain as a bool: `true` is its second value.
pub(super) fn choice_or_bool<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + From<bool>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either<T> {
        Bool(bool),
        Choice(T),
    }
    Ok(match Either::deserialize(from)? {
        Either::Bool(on) => T::from(on),
        Either::Choice(choice) => choice,
    })
}

impl Tta {
    pub fn is_none(&self) -> bool {
        *self == Tta::None
    }

    /// The mark after a score that was made with it, such as ` tta`; empty without.
    pub fn mark(self) -> &'static str {
        match self {
            Tta::None => "",
            Tta::Mirror | Tta::MirrorTranslate => " tta",
        }
    }

    /// The same in full, such as `, with tta mirror`.
    pub fn describe(self) -> String {
        match self {
            Tta::None => String::new(),
            Tta::Mirror | Tta::MirrorTranslate => format!(", with tta {}", self.word()),
        }
    }
}

impl Weights {
    pub fn is_last(&self) -> bool {
        *self == Weights::Last
    }

    /// What follows a score that was made with them, such as `, with the average of the weights`; nothing for the last.
    pub fn describe(self) -> &'static str {
        match self {
            Weights::Last => "",
            Weights::Average => ", with the average of the weights",
        }
    }
}

impl From<bool> for Flip {
    fn from(on: bool) -> Self {
        match on {
            true => Flip::Random,
            false => Flip::Off,
        }
    }
}
