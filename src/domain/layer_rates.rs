//! Factors on the learning rates of single layers, as text: `conv1 0, residual1.conv2 0.5`.

use super::arch::Summary;
use super::params::HyperParamError;
use super::text::nearest;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The key of the hyperparameter.
pub const KEY: &str = "layer_rates";
/// The largest factor.
pub const MAX: f64 = 100.0;
/// The text without any factor.
const NONE: &str = "none";

/// Factors on the learning rates of layers, by the layers' names. A layer that is not named has the factor of the block
/// that contains it, or 1.
///
/// A layer with the factor 0 is frozen: its weights, the optimizer's state for them and their decay stay as they are. Its
/// gradient is computed all the same, and counts in the norm that is shown and clipped. The running statistics of a frozen
/// norm keep following the batches, because its output in training does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct LayerRates(Vec<(String, f64)>);

impl LayerRates {
    /// The factor of a layer.
    pub fn of_layer(&self, layer: &str) -> f64 {
        self.find(|name| is_or_is_in(layer, name))
    }

    /// The factor of the layer of a parameter such as `conv1.weight`.
    pub fn of_parameter(&self, parameter: &str) -> f64 {
        self.find(|name| is_in(parameter, name))
    }

    /// That of the longest name that matches: the innermost block.
    fn find(&self, matches: impl Fn(&str) -> bool) -> f64 {
        let named = self.0.iter().filter(|(name, _)| matches(name));
        named
            .max_by_key(|(name, _)| name.len())
            .map_or(1.0, |(_, factor)| *factor)
    }

    /// The same with another factor of a layer.
    #[must_use]
    pub fn with(&self, layer: &str, factor: f64) -> Self {
        let mut rates = self.clone();
        rates.0.retain(|(name, _)| name != layer);
        if rates.of_layer(layer) != factor {
            rates.0.push((layer.into(), factor));
        }
        rates
    }

    /// Drops the factors of layers that a network does not have.
    pub fn retain(&mut self, layers: &[Summary]) {
        self.0
            .retain(|(name, _)| layers.iter().any(|layer| layer.name == *name));
    }

    /// Checks that a network has the named layers.
    ///
    /// # Errors
    /// Returns an error that names the layer that it does not have.
    pub fn check(&self, layers: &[Summary]) -> Result<(), HyperParamError> {
        let checks = self.0.iter().map(|(name, _)| check_layer(name, layers));
        let checked: Result<(), String> = checks.collect();
        checked.map_err(|why| HyperParamError {
            key: KEY.into(),
            why,
        })
    }
}

/// Checks that a network has a layer or block of this name.
///
/// # Errors
/// Returns an error that says which names there are.
pub fn check_layer(name: &str, layers: &[Summary]) -> Result<(), String> {
    let names = || layers.iter().map(|l| &*l.name).filter(|n| !n.is_empty());
    if names().any(|n| n == name) {
        return Ok(());
    }
    let known = match nearest(name, names(), 3) {
        Some(known) => format!("did you mean '{known}'?"),
        None => format!("there are: {}", names().collect::<Vec<_>>().join(", ")),
    };
    Err(format!("the network has no layer '{name}'; {known}"))
}

/// Whether a layer, or a layer of this block, has weights.
pub fn has_weights(layer: &str, layers: &[Summary]) -> bool {
    let mut inside = layers.iter().filter(|l| is_or_is_in(&l.name, layer));
    inside.any(|l| l.parameters > 0)
}

fn is_or_is_in(name: &str, block: &str) -> bool {
    name == block || is_in(name, block)
}

/// Whether the layer or parameter `name` is in `block`: `residual1.conv1.weight` is in `residual1`.
pub fn is_in(name: &str, block: &str) -> bool {
    let rest = name.strip_prefix(block);
    rest.is_some_and(|rest| rest.starts_with('.'))
}

impl FromStr for LayerRates {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut rates = LayerRates::default();
        let parts = text.split(',').map(str::trim);
        for part in parts.filter(|part| !part.is_empty() && *part != NONE) {
            let (layer, factor) = part.split_once(char::is_whitespace).ok_or_else(|| {
                format!("'{part}' is not a layer and its factor, such as `conv1 0.5`")
            })?;
            let factor = factor.trim();
            let number = factor.parse().ok().filter(|f| (0.0..=MAX).contains(f));
            let number =
                number.ok_or_else(|| format!("'{factor}' is not a factor from 0 to {MAX}"))?;
            if rates.0.iter().any(|(name, _)| name == layer) {
                return Err(format!("'{layer}' is named twice"));
            }
            rates.0.push((layer.into(), number));
        }
        Ok(rates)
    }
}

impl fmt::Display for LayerRates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(NONE);
        }
        for (i, (layer, factor)) in self.0.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{layer} {factor}")?;
        }
        Ok(())
    }
}

impl From<LayerRates> for String {
    fn from(rates: LayerRates) -> String {
        rates.to_string()
    }
}

impl TryFrom<String> for LayerRates {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Checks a text.
///
/// # Errors
/// Returns an error that says what is wrong.
pub fn check(text: &str) -> Result<(), String> {
    text.parse::<LayerRates>().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::arch::{Shape, resolve};

    fn rates(text: &str) -> LayerRates {
        text.parse().unwrap()
    }

    #[test]
    fn texts_come_back_and_wrong_ones_say_why() {
        for (text, shown) in [
            ("", "none"),
            (" none ", "none"),
            ("conv1 0,dense2  0.5 ,", "conv1 0, dense2 0.5"),
            ("residual1.conv2 1e-2", "residual1.conv2 0.01"),
        ] {
            assert_eq!(rates(text).to_string(), shown);
            assert_eq!(rates(shown), rates(text));
            let json = serde_json::to_string(&rates(text)).unwrap();
            assert_eq!(json, format!("\"{shown}\""));
            assert_eq!(
                serde_json::from_str::<LayerRates>(&json).unwrap(),
                rates(text)
            );
        }
        for (text, why) in [
            ("conv1", "'conv1' is not a layer and its factor"),
            ("conv1 x", "'x' is not a factor from 0 to 100"),
            ("conv1 -1", "'-1' is not"),
            ("conv1 101", "'101' is not"),
            ("conv1 NaN", "'NaN' is not"),
            ("conv1 0, conv1 1", "'conv1' is named twice"),
        ] {
            let error = text.parse::<LayerRates>().unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn the_innermost_name_counts() {
        let rates = rates("residual1 0, residual1.conv2 0.5, conv1 2");
        for (layer, factor) in [
            ("conv1", 2.0),
            ("conv11", 1.0),
            ("residual1", 0.0),
            ("residual1.conv1", 0.0),
            ("residual1.conv2", 0.5),
            ("residual11.conv1", 1.0),
            ("dense1", 1.0),
        ] {
            assert_eq!(rates.of_layer(layer), factor, "{layer}");
            assert_eq!(rates.of_parameter(&format!("{layer}.weight")), factor);
        }
        // A parameter's own name is not a layer.
        assert_eq!(self::rates("conv1.bias 0").of_parameter("conv1.bias"), 1.0);
    }

    #[test]
    fn a_layer_s_factor_is_replaced_and_dropped_when_it_says_nothing() {
        let frozen = LayerRates::default().with("conv1", 0.0);
        assert_eq!(frozen.to_string(), "conv1 0");
        assert_eq!(frozen.with("conv1", 0.5).to_string(), "conv1 0.5");
        assert_eq!(frozen.with("conv1", 1.0), LayerRates::default());
        let block = rates("residual1 0").with("residual1.conv1", 1.0);
        assert_eq!(block.to_string(), "residual1 0, residual1.conv1 1");
        assert_eq!(
            block.with("residual1.conv1", 0.0).to_string(),
            "residual1 0"
        );
    }

    #[test]
    fn a_layer_that_the_network_does_not_have_is_named() {
        let arch = resolve("conv 4, residual(conv 4 same), dense 10").unwrap();
        let layers = arch.summary(Shape::CIFAR, 10).unwrap();
        rates("conv1 0, residual1 0.5, residual1.conv1 1, dense1 0")
            .check(&layers)
            .unwrap();
        let error = rates("conv1 0, conv2 0")
            .check(&layers)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("layer_rates: the network has no layer 'conv2'"),
            "{error}"
        );
        let mut some = rates("conv2 0, conv1 0.5");
        some.retain(&layers);
        assert_eq!(some, rates("conv1 0.5"));
        let far = rates("whitening 0").check(&layers).unwrap_err().to_string();
        assert!(far.contains("there are: conv1, residual1"), "{far}");
    }
}
