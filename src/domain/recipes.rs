//! Recipes: named sets of an architecture and the hyperparameters that belong to it.

use super::params::{HYPERPARAMS, Hyperparameters, Value};
use serde::Serialize;

/// The hyperparameter that names the recipe.
pub const KEY: &str = "recipe";

/// The names of all recipes, in the order of [`RECIPES`].
pub const NAMES: &[&str] = &{
    let mut names = [""; RECIPES.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = RECIPES[i].name;
        i += 1;
    }
    names
};

/// Hyperparameters that no recipe sets, since they do not determine how well a run learns.
const KEPT: &[&str] = &[
    KEY,
    "seed",
    "precision",
    "target",
    "stop_at_target",
    "test_each_epoch",
];

/// A named set of hyperparameters.
#[derive(Debug, Serialize)]
pub struct Recipe {
    pub name: &'static str,
    /// One sentence for `cifar-tui recipes`.
    pub about: &'static str,
    /// The hyperparameters that differ from the defaults, as (key, value).
    pub values: &'static [(&'static str, &'static str)],
    pub reached: &'static [Reached],
}

/// A measured result of a recipe.
#[derive(Debug, Serialize)]
pub struct Reached {
    pub data: &'static str,
    /// Mean test accuracy over the seeds, in percent.
    pub mean: f64,
    /// Standard deviation of the test accuracy over the seeds, in percentage points.
    pub spread: f64,
    pub seeds: u32,
    pub device: &'static str,
    /// Seconds of training and scoring.
    pub seconds: f64,
}

/// The recipes, from the plainest to the strongest. The first one is the default.
pub const RECIPES: &[Recipe] = &[
    Recipe {
        name: "seed",
        about: "The Keras network of the 2018 blog post as it was trained there: Adam, batches of 32, 15 epochs.",
        values: &[],
        // The time is that of seed 1.
        reached: &[Reached {
            data: "CIFAR-10",
            mean: 64.67,
            spread: 0.51,
            seeds: 3,
            device: "2 threads with AVX-512",
            seconds: 128.0,
        }],
    },
    Recipe {
        name: "resnet",
        about: "Three residual blocks under SGD with one-cycle rates and augmentation.",
        values: &[
            ("architecture", "resnet"),
            ("optimizer", "sgd"),
            ("learning_rate", "0.2"),
            ("nesterov", "on"),
            ("weight_decay", "5e-4"),
            ("schedule", "one-cycle"),
            ("batch_size", "128"),
            ("epochs", "20"),
            ("dropout", "0"),
            ("flip", "alternate"),
            ("crop", "3"),
            ("crop_padding", "reflect"),
            ("standardize", "on"),
        ],
        // The time is that of seed 1.
        reached: &[Reached {
            data: "CIFAR-10",
            mean: 86.04,
            spread: 0.35,
            seeds: 3,
            device: "2 threads with AVX-512",
            seconds: 580.0,
        }],
    },
    Recipe {
        name: "airbench",
        about: "The recipe of airbench94_muon: whitened patches, Muon, 8 epochs in batches of 2,000, and test-time augmentation.",
        values: &[
            ("architecture", "airbench"),
            ("optimizer", "muon"),
            ("learning_rate", "0.24"),
            ("momentum", "0.6"),
            ("bias_rate", "0.053"),
            ("head_rate", "0.67"),
            ("whiten_rate", "0.053"),
            ("whiten_epochs", "3"),
            ("weight_decay", "0.004"),
            ("schedule", "linear"),
            ("batch_size", "2000"),
            ("drop_last", "on"),
            ("epochs", "8"),
            ("dropout", "0"),
            ("label_smoothing", "0.2"),
            ("loss_reduction", "sum"),
            ("flip", "alternate"),
            ("crop", "2"),
            ("crop_padding", "reflect"),
            ("standardize", "on"),
            ("validation", "0"),
            ("tta", "mirror+translate"),
        ],
        // The time is that of seed 3.
        reached: &[Reached {
            data: "CIFAR-10",
            mean: 90.65,
            spread: 0.06,
            seeds: 3,
            device: "2 threads with AVX-512",
            seconds: 665.0,
        }],
    },
];

impl Recipe {
    /// Sets `recipe` to its name, and every hyperparameter except those in [`KEPT`] to the recipe's value.
    pub fn apply(&self, params: &mut Hyperparameters) {
        params.recipe = self.name.into();
        for (row, value) in self.rows() {
            // A test checks that the table's values are allowed.
            let _ = row.set(params, value);
        }
    }

    /// The value of every hyperparameter that a recipe sets.
    pub fn rows(
        &self,
    ) -> impl Iterator<Item = (&'static super::params::HyperParam, Value)> + use<'_> {
        let defaults = Hyperparameters::default();
        let rows = HYPERPARAMS.iter().filter(|row| !KEPT.contains(&row.key));
        rows.map(move |row| {
            let own = self.values.iter().find(|(key, _)| *key == row.key);
            let own = own.and_then(|(_, text)| row.parse(text).ok());
            (row, own.unwrap_or_else(|| row.get(&defaults)))
        })
    }
}

/// The hyperparameters of a run that begins with these after some changes: those of the recipe, if it was changed, with
/// every other change applied. `change` gives the value that a key was changed to; it must be an allowed one.
pub fn changed(
    params: &Hyperparameters,
    change: impl Fn(&str) -> Option<Value>,
) -> Hyperparameters {
    let mut params = params.clone();
    if let Some(recipe) = change(KEY).and_then(|name| find(&name.to_string())) {
        recipe.apply(&mut params);
    }
    for row in HYPERPARAMS {
        if let Some(value) = change(row.key) {
            let _ = row.set(&mut params, value);
        }
    }
    params
}

/// The recipe of this name, if there is one.
pub fn find(name: &str) -> Option<&'static Recipe> {
    RECIPES.iter().find(|recipe| recipe.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::params;

    #[test]
    fn every_value_of_a_recipe_is_allowed_and_differs_from_the_default() {
        assert_eq!(NAMES[..2], ["seed", "resnet"]);
        for recipe in RECIPES {
            for (key, text) in recipe.values {
                assert!(!KEPT.contains(key), "{}: {key}", recipe.name);
                let row = params::find(key).unwrap();
                let value = row.parse(text).unwrap();
                let default = row.get(&Hyperparameters::default());
                assert_ne!(value, default, "{}: {key} is the default", recipe.name);
                assert!(row.applies_to(applied(recipe).optimizer), "{key}");
            }
        }
    }

    fn applied(recipe: &Recipe) -> Hyperparameters {
        let mut params = Hyperparameters {
            learning_rate: 7.0,
            seed: 99,
            ..Hyperparameters::default()
        };
        recipe.apply(&mut params);
        params
    }

    #[test]
    fn a_recipe_replaces_everything_but_the_seed() {
        let seed = Hyperparameters {
            seed: 99,
            ..Hyperparameters::default()
        };
        assert_eq!(applied(&RECIPES[0]), seed);
        let resnet = applied(find("resnet").unwrap());
        assert_eq!((resnet.recipe.as_str(), resnet.seed), ("resnet", 99));
        assert_eq!(resnet.architecture, "resnet");
        assert!(find("vgg19").is_none());
    }
}
