//! Forks: runs that begin in a saved state of another run, their parent.

use super::params::Change;
use super::text::grouped;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Which state of a run: what follows its name in `fork RUN@...`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForkAt {
    /// The newest checkpoint.
    #[default]
    Last,
    /// The checkpoint with the best validation accuracy.
    Best,
    /// The end of this epoch.
    Epoch(u32),
    /// After this step.
    Step(u64),
}

impl ForkAt {
    /// What follows the run's name: `@best`, `@5`, `@step:120`; nothing for the last checkpoint.
    pub fn suffix(self) -> String {
        match self {
            ForkAt::Last => String::new(),
            ForkAt::Best => "@best".into(),
            ForkAt::Epoch(epoch) => format!("@{epoch}"),
            ForkAt::Step(step) => format!("@step:{step}"),
        }
    }
}

/// In words: `the end of epoch 5`.
impl fmt::Display for ForkAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ForkAt::Last => f.write_str("its last step"),
            ForkAt::Best => f.write_str("its best epoch"),
            ForkAt::Epoch(epoch) => write!(f, "the end of epoch {epoch}"),
            ForkAt::Step(step) => write!(f, "step {}", grouped(*step)),
        }
    }
}

/// Parses what follows the `@`.
impl FromStr for ForkAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at = match (text, text.strip_prefix("step:")) {
            ("best", _) => Some(ForkAt::Best),
            (_, Some(step)) => step.parse().ok().map(ForkAt::Step),
            (epoch, None) => epoch.parse().ok().map(ForkAt::Epoch),
        };
        at.ok_or_else(|| {
            format!("'{text}' is not a state of a run: after the @ comes the number of an epoch, `best` or `step:N`")
        })
    }
}

/// Where a run was forked from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForkOrigin {
    /// The parent's name at that time; empty if it had none.
    pub run: String,
    /// When the parent began, in seconds since the Unix epoch: its identity if it is renamed.
    pub run_started: f64,
    /// Training steps that the parent had done, and the epoch of the last one.
    pub step: u64,
    pub epoch: u32,
    /// Whether that epoch was over.
    pub epoch_over: bool,
    /// What differs from the parent at that time.
    pub changes: Vec<Change>,
    /// Number of weight tensors that fitted and were taken over, and the names of those that began afresh.
    pub taken: u32,
    pub fresh: Vec<String>,
}

impl ForkOrigin {
    /// The state in words: `seed-0412 at the end of epoch 5, step 6,250`.
    pub fn describe(&self) -> String {
        let run = match self.run.as_str() {
            "" => "a run without a name",
            name => name,
        };
        let (epoch, step) = (self.epoch, grouped(self.step));
        match (self.step, self.epoch_over) {
            (0, _) => format!("{run} before its first step"),
            (_, true) => format!("{run} at the end of epoch {epoch}, step {step}"),
            (_, false) => format!("{run} in epoch {epoch}, after step {step}"),
        }
    }

    /// The changes in words: `learning_rate 0.001 to 0.0005, optimizer adam to sgd`; empty if there are none.
    pub fn describe_changes(&self) -> String {
        let changes = self.changes.iter();
        let words: Vec<_> = changes
            .map(|change| format!("{} {} to {}", change.key, change.old, change.new))
            .collect();
        words.join(", ")
    }

    /// The weights that could not be taken over, in words; empty if all were.
    pub fn describe_weights(&self) -> String {
        let all = self.taken as usize + self.fresh.len();
        match self.fresh.is_empty() {
            true => String::new(),
            false => format!(
                "{} of {all} weight tensors fit and were taken over; these begin afresh: {}",
                self.taken,
                self.fresh.join(", ")
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_state_is_read_and_written() {
        for (text, at) in [
            ("best", ForkAt::Best),
            ("5", ForkAt::Epoch(5)),
            ("0", ForkAt::Epoch(0)),
            ("step:120", ForkAt::Step(120)),
        ] {
            assert_eq!(text.parse(), Ok(at));
            assert_eq!(at.suffix(), format!("@{text}"));
            let json = serde_json::to_string(&at).unwrap();
            assert_eq!(serde_json::from_str::<ForkAt>(&json).unwrap(), at, "{json}");
        }
        assert_eq!(ForkAt::Last.suffix(), "");
    }

    #[test]
    fn other_texts_are_no_states() {
        for text in [
            "",
            " ",
            "step:",
            "step:x",
            "step:-1",
            "step:99999999999999999999",
            "-1",
            "5x",
            "4294967296",
            "99999999999999999999999",
            "Best",
            "best ",
            "5@5",
            "\u{1b}[31m",
        ] {
            let error = text.parse::<ForkAt>().unwrap_err();
            assert!(error.contains("`step:N`"), "{text}: {error}");
        }
    }

    #[test]
    fn an_origin_says_where_it_was() {
        let mut origin = ForkOrigin {
            run: "one".into(),
            run_started: 1.0,
            step: 6250,
            epoch: 5,
            epoch_over: true,
            changes: Vec::new(),
            taken: 9,
            fresh: Vec::new(),
        };
        assert_eq!(origin.describe(), "one at the end of epoch 5, step 6,250");
        assert_eq!(origin.describe_changes() + &origin.describe_weights(), "");
        (origin.epoch_over, origin.fresh) = (false, vec!["dense1.bias".into()]);
        assert_eq!(origin.describe(), "one in epoch 5, after step 6,250");
        assert!(
            origin
                .describe_weights()
                .starts_with("9 of 10 weight tensors")
        );
        (origin.step, origin.run) = (0, String::new());
        assert_eq!(
            origin.describe(),
            "a run without a name before its first step"
        );
    }
}
