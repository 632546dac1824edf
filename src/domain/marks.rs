//! Live changes of hyperparameters and resets of layers as marks on the x axis of a curve.

use super::params::{Change, Value, param};
use super::report::LayerReset;

/// What was done to a run, where it took effect.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// In epochs, with a fraction: 2.5 is the middle of the third.
    pub x: f64,
    pub of: Marked,
}

/// What is marked.
#[derive(Clone, Debug, PartialEq)]
pub enum Marked {
    Change(Change),
    Reset(LayerReset),
}

impl Mark {
    /// A short label for the axis: `lr 0.001→0.0005`, `flip off→on`.
    pub fn label(&self) -> String {
        let Change { key, old, new } = match &self.of {
            Marked::Change(change) => change,
            Marked::Reset(reset) => return reset.words(),
        };
        let row = param(key);
        let name = row.map_or(key.as_str(), |row| row.short);
        let show = |value: &Value| row.map_or_else(|| value.to_string(), |row| row.show(value));
        format!("{name} {}→{}", show(old), show(new))
    }
}

/// Merges successive changes of one hyperparameter that are at most `gap` apart in x into one mark, from the first
/// value to the last, at the position of the last. A merged change that ends with its first value is dropped, and so is a
/// reset that was taken back within `gap`, with its taking back. `marks` are in the order of x.
pub fn merged(marks: &[Mark], gap: f64) -> Vec<Mark> {
    let mut stretches: Vec<Mark> = Vec::new();
    for mark in marks {
        let near = stretches.iter().rposition(|m| match (&m.of, &mark.of) {
            (Marked::Change(a), Marked::Change(b)) => a.key == b.key,
            (Marked::Reset(a), Marked::Reset(b)) => a.layer == b.layer && !a.taken_back,
            _ => false,
        });
        let near = near.filter(|&at| mark.x - stretches[at].x <= gap);
        match (near, &mark.of) {
            (Some(at), Marked::Change(change)) => {
                stretches[at].x = mark.x;
                if let Marked::Change(first) = &mut stretches[at].of {
                    first.new = change.new.clone();
                }
            }
            (Some(at), Marked::Reset(reset)) if reset.taken_back => drop(stretches.remove(at)),
            _ => stretches.push(mark.clone()),
        }
    }
    stretches.retain(|m| !matches!(&m.of, Marked::Change(c) if c.old == c.new));
    stretches.sort_by(|a, b| a.x.total_cmp(&b.x));
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(x: f64, key: &str, old: f64, new: f64) -> Mark {
        Mark {
            x,
            of: Marked::Change(Change {
                key: key.into(),
                old: Value::Float(old),
                new: Value::Float(new),
            }),
        }
    }

    fn reset(x: f64, layer: &str, taken_back: bool) -> Mark {
        Mark {
            x,
            of: Marked::Reset(LayerReset {
                layer: layer.into(),
                taken_back,
                step: 1,
                epoch: 1,
            }),
        }
    }

    fn labels(marks: &[Mark]) -> Vec<(f64, String)> {
        marks.iter().map(|m| (m.x, m.label())).collect()
    }

    #[test]
    fn thirteen_nudges_are_one_mark_from_the_first_value_to_the_last() {
        let mut marks = Vec::new();
        for i in 0..13 {
            let x = 2.0 + 0.01 * f64::from(i);
            marks.push(mark(
                x,
                "learning_rate",
                0.001 * f64::from(i + 1),
                0.001 * f64::from(i + 2),
            ));
            marks.push(mark(
                x,
                "dropout",
                0.5 - 0.01 * f64::from(i),
                0.5 - 0.01 * f64::from(i + 1),
            ));
        }
        if let Marked::Change(last) = &mut marks.last_mut().unwrap().of {
            last.new = Value::Float(0.3);
        }
        let found = labels(&merged(&marks, 0.02));
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0].1, "lr 0.001→0.014");
        assert_eq!(found[1].1, "drop 0.5→0.3");
        assert!((found[0].0 - 2.12).abs() < 1e-9);
        // With a small gap they stay separate.
        assert_eq!(merged(&marks, 0.005).len(), 26);
    }

    #[test]
    fn a_change_that_was_taken_back_leaves_no_mark_and_a_later_one_its_own() {
        let marks = [
            mark(1.0, "learning_rate", 0.1, 0.2),
            mark(1.1, "learning_rate", 0.2, 0.1),
            mark(3.0, "learning_rate", 0.1, 0.05),
            mark(3.0, "clip_norm", 0.0, 1.0),
        ];
        let found = labels(&merged(&marks, 0.5));
        assert_eq!(
            found,
            [(3.0, "lr 0.1→0.05".into()), (3.0, "clip off→1".into())]
        );
    }

    #[test]
    fn a_reset_that_was_taken_back_soon_leaves_no_mark() {
        let marks = [
            reset(1.0, "dense1", false),
            reset(1.0, "conv1", false),
            reset(1.2, "dense1", true),
            reset(3.0, "conv1", true),
        ];
        let soon = labels(&merged(&marks, 0.5));
        let (conv, back) = ("conv1 reset".into(), "reset of conv1 undone".into());
        assert_eq!(soon, [(1.0, conv), (3.0, back)]);
        assert_eq!(merged(&marks, 0.0).len(), 4);
        // Two resets that are undone one after the other leave nothing.
        let both = [
            reset(1.0, "conv1", false),
            reset(1.1, "conv1", false),
            reset(1.2, "conv1", true),
            reset(1.3, "conv1", true),
        ];
        assert_eq!(merged(&both, 0.5), []);
        assert_eq!(merged(&both, 0.15).len(), 2);
        // Two resets are two marks.
        let twice = [reset(1.0, "conv1", false), reset(1.0, "conv1", false)];
        assert_eq!(merged(&twice, 0.5).len(), 2);
    }
}
