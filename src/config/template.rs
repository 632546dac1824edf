//! Texts generated from the tables: a config.toml with every key, and the README's table of hyperparameters.

use super::{OPTIONS, sweep, toml_value};
use crate::domain::params::{HYPERPARAMS, Hyperparameters};
use std::fmt::Write as _;

/// The text of config.toml with every key at its default, each with a comment.
pub fn template() -> String {
    let mut text = String::from(
        "# cifar-tui reads this file from the current folder, else from the XDG config folder; --config names another.\n\
         # Every key is also a flag, with - for _, and a flag wins. What stands here are the defaults.\n",
    );
    for row in OPTIONS {
        let _ = write!(
            text,
            "\n{}{} = {}\n",
            comment(&format!("{} Allowed: {}.", row.help, row.range)),
            row.key,
            row.default
        );
    }
    text += "\n\n# Hyperparameters. One without # in front of it overrules the recipe.\n";
    let defaults = Hyperparameters::default();
    for row in HYPERPARAMS {
        let unit = match row.unit {
            "" => String::new(),
            unit => format!(" {unit}"),
        };
        let note = format!(
            "{} Allowed: {}{unit}. A change while training applies: {}.",
            row.help,
            row.range(),
            row.applies
        );
        let _ = write!(
            text,
            "\n{}# {} = {}\n",
            comment(&note),
            row.key,
            toml_value(&row.get(&defaults))
        );
    }
    text + sweep::TEMPLATE
}

/// `text` as comment lines of at most 118 columns.
fn comment(text: &str) -> String {
    let lines = textwrap::Options::new(118)
        .initial_indent("# ")
        .subsequent_indent("# ")
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    textwrap::fill(text, lines) + "\n"
}

/// The README's table of hyperparameters, as Markdown.
pub fn parameter_table() -> String {
    let mut text = String::from("| key | default | allowed | applies | |\n|---|---|---|---|---|\n");
    let defaults = Hyperparameters::default();
    for row in HYPERPARAMS {
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} |",
            row.key,
            row.show(&row.get(&defaults)),
            row.range(),
            row.applies,
            row.help
        );
    }
    text
}
