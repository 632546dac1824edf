//! `data`: what is found and where, and whether it is whole.

use crate::config::Config;
use crate::data::{self, Dataset, Found, download};
use crate::domain::text::{bytes, grouped};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::sync::atomic::AtomicBool;

/// What `find` and `load` make of the settings, with a bar on a terminal.
///
/// # Errors
/// When nothing is found where the user said, or it cannot be read.
pub fn load(config: &Config) -> anyhow::Result<(Found, Dataset)> {
    let found = data::find(config.options.data.as_deref())?;
    let bar = bar(config, "reading {bar:32} {percent:>3}%");
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
pub(super) fn bar(config: &Config, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(1);
    // The templates are fixed and right; were one wrong, the default style would do.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars(&config.options.symbols().bar()));
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

/// `data download`: into the XDG data folder, where it is found from then on.
///
/// # Errors
/// When it cannot be fetched or is not what was published.
pub fn download(config: &Config, out: &mut impl Write, cancel: &AtomicBool) -> anyhow::Result<()> {
    let folder = data::data_folder().ok_or(download::DownloadError::NoFolder)?;
    let source = download::Source::new(None);
    let bar = bar(
        config,
        "{bytes:>10} of {total_bytes} {bar:32} {bytes_per_sec}  {eta}",
    );
    writeln!(out, "fetching {} into {}", source.url, folder.display())?;
    let fetched = download::fetch(
        &source,
        &folder,
        &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        },
        cancel,
    );
    bar.finish_and_clear();
    writeln!(
        out,
        "{} is here and has the published sha256",
        fetched?.display()
    )?;
    Ok(())
}

/// SHA-256 of CIFAR-10's 60,000 labels and of its pixels (train, then test; NCHW), whatever they are packed in.
const LABELS: &str = "3edb456524d5918aefded81f5aef7c32efab2a788211df998a4eb0c8957baa1f";
const PIXELS: &str = "a9c109eea1942a907c51e52dfa9e0716981c2d56af5556a733143981b8c1d804";

/// `data verify`: reads every image and holds it to what was published.
///
/// # Errors
/// When it cannot be read, or is not CIFAR-10.
pub fn verify(config: &Config, out: &mut impl Write) -> anyhow::Result<()> {
    let (found, dataset) = load(config)?;
    let info = &dataset.info;
    let counted = format!(
        "{}: all {} images can be read ({} training, {} test)",
        info.source,
        grouped(u64::from(info.train + info.test)),
        grouped(info.train.into()),
        grouped(info.test.into())
    );
    writeln!(out, "{counted}")?;
    if found.is_sample() {
        writeln!(
            out,
            "they are drawn by the program: there is nothing to hold them to"
        )?;
        return Ok(());
    }
    let digest = |part: fn(&data::Images) -> &[u8]| {
        let hash = Sha256::new()
            .chain_update(part(&dataset.train))
            .chain_update(part(&dataset.test));
        let bytes = hash.finalize();
        bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()
    };
    let labels = digest(|i| &i.labels);
    let pixels = digest(|i| &i.pixels);
    match (labels == LABELS, pixels == PIXELS) {
        (true, true) => writeln!(out, "every pixel and every label is as published")?,
        (true, false) => writeln!(
            out,
            "every label is as published; the pixels differ (sha256 {pixels}), as they do where images were \
             compressed anew, by a few levels"
        )?,
        (false, _) => anyhow::bail!(
            "{} is not CIFAR-10 as published: its labels have the sha256 {labels}, not {LABELS}; \
             `cifar-tui data download` fetches the published one",
            info.source
        ),
    }
    Ok(())
}
