//! What keys do to the chosen layer: factors on its learning rate, of which 0 freezes it, and fresh weights.

use super::{Context, ModelView};
use crate::domain::layer_rates::{KEY, MAX, has_weights};
use crate::domain::params::Value;
use crate::session::protocol::Command;
use crate::tui::session_view::SessionView;

/// The smallest factor above 0 that the keys reach.
const MIN: f64 = 1.0 / 64.0;

/// Half or twice a factor. Below the smallest one is 0.
pub(super) fn next_factor(factor: f64, faster: bool) -> f64 {
    match faster {
        true if factor == 0.0 => MIN,
        true => (2.0 * factor).min(MAX),
        false if factor <= MIN => 0.0,
        false => factor / 2.0,
    }
}

/// A factor as the table shows it; empty for 1.
pub(super) fn shown(factor: f64) -> String {
    match factor {
        1.0 => String::new(),
        0.0 => "frozen".into(),
        factor => format!("x{factor}"),
    }
}

impl ModelView {
    /// The name of the chosen layer of the running network.
    ///
    /// # Errors
    /// Returns the reason if there is no such layer, or it learns nothing.
    pub(super) fn chosen_to_train(&self, session: &SessionView) -> Result<String, String> {
        if session.ended {
            return Err("the session is over".into());
        }
        let layers = self.layers(session);
        if session.run.is_none() {
            return Err("no run has begun".into());
        }
        if !self.runs(session, &layers) {
            return Err("the layers of the text are not those of the running network".into());
        }
        let at = self.selected.min(layers.len().saturating_sub(1));
        match layers.get(at).filter(|layer| !layer.name.is_empty()) {
            Some(chosen) if has_weights(&chosen.name, &layers) => Ok(chosen.name.clone()),
            _ => Err("nothing to learn in this layer".into()),
        }
    }

    /// Gives the chosen layer fresh weights.
    pub(super) fn reset(&self, ctx: &mut Context) {
        if let Ok(layer) = self.chosen_to_train(ctx.session) {
            ctx.send(Command::ResetLayer { layer });
        }
    }

    /// Changes the factor of the chosen layer.
    pub(super) fn set_rate(&self, ctx: &mut Context, next: impl Fn(f64) -> f64) {
        if let Ok(layer) = self.chosen_to_train(ctx.session) {
            let rates = ctx.session.wanted().layer_rates;
            let changed = rates.with(&layer, next(rates.of_layer(&layer)));
            ctx.set(KEY, Value::Text(changed.to_string()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_go_down_to_frozen_and_back() {
        let mut factor = 1.0;
        let mut steps = 0;
        while factor > 0.0 {
            factor = next_factor(factor, false);
            steps += 1;
        }
        assert_eq!(steps, 7);
        for _ in 0..steps {
            factor = next_factor(factor, true);
        }
        assert_eq!(factor, 1.0);
        assert_eq!(next_factor(MAX, true), MAX);
        assert_eq!([0.0, 1.0, 0.5].map(shown), ["frozen", "", "x0.5"]);
    }
}
