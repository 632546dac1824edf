//! `data`: what is found and where, and whether it is whole.

use crate::config::Config;
use crate::data::{self, Dataset, Found};
use crate::domain::text::{bytes, grouped};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::Write;

/// What `find` and `load` make of the settings, with a bar on a terminal.
///
/// # Errors
/// When nothing is found where the user said, or it cannot be read.
pub fn load(config: &Config) -> anyhow::Result<(Found, Dataset)> {
    let found = data::find(config.options.data.as_deref())?;
    let bar = bar("reading {bar:32} {percent:>3}%");
    let dataset = data::load(
        &found,
        &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        },
        config.options.threads,
    );
    bar.finish_and_clear();
    Ok((found, dataset?))
}

/// A bar on standard error; nothing when that is no terminal.
pub(super) fn bar(template: &str) -> ProgressBar {
    let bar = ProgressBar::new(1);
    // The templates are fixed and right; were one wrong, the default style would do.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
    }
    bar
}

/// `data info`.
///
/// # Errors
/// As [`load`].
pub fn info(config: &Config, json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let (_, dataset) = load(config)?;
    let info = &dataset.info;
    if json {
        return super::json(info, out);
    }
    writeln!(out, "{}", info.name)?;
    writeln!(out, "  source     {}", info.source)?;
    writeln!(out, "  format     {}", info.format)?;
    writeln!(
        out,
        "  images     {} training, {} test, {}x{} RGB",
        grouped(info.train.into()),
        grouped(info.test.into()),
        info.side,
        info.side
    )?;
    writeln!(
        out,
        "  memory     {}, read in {:.2} s",
        bytes(info.bytes),
        info.load_seconds
    )?;
    for (name, values) in [("mean", &info.mean), ("deviation", &info.deviation)] {
        let values: Vec<_> = values.iter().map(|v| format!("{v:.4}")).collect();
        writeln!(
            out,
            "  {name:<10} {} (red, green, blue; of 0 to 1)",
            values.join(" ")
        )?;
    }
    writeln!(out, "\n  {:<12} {:>8} {:>8}", "class", "training", "test")?;
    for (i, class) in info.classes.iter().enumerate() {
        let count = |counts: &[u32]| counts.get(i).map_or(0, |n| u64::from(*n));
        writeln!(
            out,
            "  {class:<12} {:>8} {:>8}",
            grouped(count(&info.train_counts)),
            grouped(count(&info.test_counts))
        )?;
    }
    if info.is_sample {
        writeln!(
            out,
            "\nThese images are drawn by the program. `cifar-tui data download` fetches CIFAR-10."
        )?;
    }
    Ok(())
}
