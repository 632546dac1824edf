//! `data`: finds, downloads and verifies the data set.

use crate::config::Config;
use crate::data::{self, Dataset, LocatedData, download};
use crate::domain::text::{bytes, cell, grouped, plain, plain_path};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::Write;
use std::sync::atomic::AtomicBool;

/// Characters of a class's name in a table.
pub(super) const MAX_NAME: usize = 24;

/// Finds and loads the configured data set, with a progress bar on a terminal.
///
/// # Errors
/// Returns an error if nothing is found where the user said, or it cannot be read.
pub fn load(config: &Config) -> anyhow::Result<(LocatedData, Dataset)> {
    let found = data::find(config.options.data.as_deref())?;
    let dataset = with_bar(config, |progress| {
        data::load(&found, progress, config.options.threads)
    })?;
    Ok((found, dataset))
}

/// Runs `read` with a progress bar on a terminal, and returns its result.
fn with_bar<T>(config: &Config, read: impl FnOnce(&mut dyn FnMut(u64, u64)) -> T) -> T {
    let bar = bar(config, "reading {bar:32} {percent:>3}%");
    let result = read(&mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    result
}

/// A progress bar on standard error; hidden if that is not a terminal.
pub(super) fn bar(config: &Config, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(1);
    // The templates are constants and valid; otherwise the default style is used.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars(&config.options.symbols().bar()));
    }
    bar
}

/// `data info`.
///
/// # Errors
/// Returns the errors of [`load`].
pub fn info(config: &Config, json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let (found, dataset) = load(config)?;
    let info = &dataset.info;
    if json {
        return super::json(info, out);
    }
    writeln!(out, "{}", info.name)?;
    writeln!(out, "  source     {}", plain(&info.source))?;
    writeln!(out, "  format     {}", info.format)?;
    if !found.beside.is_empty() {
        writeln!(out, "  beside it  {} (not read)", found.beside.join(", "))?;
    }
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
        "  memory     {}{}",
        bytes(info.bytes),
        info.load_time(", read in ")
    )?;
    for (name, values) in [("mean", &info.mean), ("deviation", &info.std)] {
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
            "  {:<12} {:>8} {:>8}",
            cell(class, MAX_NAME),
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

/// `data download`: downloads into the XDG data folder, where the data set is then found.
///
/// # Errors
/// Returns an error if the archive cannot be downloaded or its digest differs from the published one.
pub fn download(config: &Config, out: &mut impl Write, cancel: &AtomicBool) -> anyhow::Result<()> {
    let folder = data::data_folder().ok_or(download::DownloadError::NoFolder)?;
    let source = download::DownloadSource::new(None);
    let bar = bar(
        config,
        "{bytes:>10} of {total_bytes} {bar:32} {bytes_per_sec}  {eta}",
    );
    writeln!(
        out,
        "fetching {} into {}",
        plain(&source.url),
        plain_path(&folder)
    )?;
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
        plain_path(&fetched?)
    )?;
    Ok(())
}

/// `data verify`: reads every image and compares the files with the published digests that are known.
///
/// # Errors
/// Returns an error if the data cannot be read, or differs from the published data.
pub fn verify(config: &Config, out: &mut impl Write) -> anyhow::Result<()> {
    let found = data::find(config.options.data.as_deref())?;
    let verified = with_bar(config, |progress| {
        data::verify(&found, progress, config.options.threads)
    })?;
    verdict(&verified, out)
}

fn verdict(verified: &data::Verified, out: &mut impl Write) -> anyhow::Result<()> {
    let info = &verified.info;
    writeln!(
        out,
        "{} ({}): all {} images can be read ({} training, {} test)",
        plain(&info.source),
        info.format,
        grouped(u64::from(info.train + info.test)),
        grouped(info.train.into()),
        grouped(info.test.into())
    )?;
    if info.is_sample {
        writeln!(
            out,
            "they are drawn by the program: there is nothing published to compare them with"
        )?;
        return Ok(());
    }
    let different = verified
        .files
        .iter()
        .filter(|file| !file.is_published())
        .count();
    for file in &verified.files {
        let name = plain(&file.name);
        let (kind, found) = (file.published.name(), &file.found);
        match file.is_published() {
            true => writeln!(out, "  {name}: as published (its {kind} is {found})")?,
            false => writeln!(
                out,
                "  {name}: not the published file (its {kind} is {found}, that of the published one {})",
                file.published.digest()
            )?,
        }
    }
    if !verified.differences.is_empty() {
        anyhow::bail!(
            "{} is not CIFAR-10 as published: {}; `cifar-tui data download` fetches the published one",
            info.source,
            verified.differences.join("; ")
        );
    }
    if different > 0 {
        anyhow::bail!(
            "{} is not what was published, or was packed anew: {different} of {} files differ. Whether their images and \
             labels are the published ones is unknown; `cifar-tui data download` fetches the published file",
            info.source,
            verified.files.len()
        );
    }
    if verified.files.is_empty() {
        writeln!(
            out,
            "its numbers of images and its classes are those published; whether its pixels and labels are is unknown: no \
             digest of {} is known to this program, only those of the python batches and of the two archives",
            info.format
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{CLASSES, Compared, Published, Verified};
    use crate::domain::report::DataInfo;

    fn said(files: Vec<Compared>, differences: &[&str]) -> (String, Option<String>) {
        let info = DataInfo {
            source: "here".into(),
            format: "binary batches".into(),
            classes: CLASSES.map(String::from).into(),
            train: 50_000,
            test: 10_000,
            ..DataInfo::default()
        };
        let verified = Verified {
            info,
            files,
            differences: differences.iter().map(|text| (*text).into()).collect(),
        };
        let mut out = Vec::new();
        let result = verdict(&verified, &mut out);
        let out = String::from_utf8(out).unwrap();
        (out, result.err().map(|error| error.to_string()))
    }

    #[test]
    fn a_verdict_says_what_was_compared_with_what_and_what_is_unknown() {
        let file = |name: &str, found: &str| Compared {
            name: name.into(),
            published: Published::Md5("c99c"),
            found: found.into(),
        };
        let (out, error) = said(vec![file("data_batch_1", "c99c")], &[]);
        assert!(
            out.contains("data_batch_1: as published (its MD5 is c99c)"),
            "{out}"
        );
        assert_eq!(error, None);
        let (out, error) = said(vec![file("a", "c99c"), file("b", "beef")], &[]);
        let line = "b: not the published file (its MD5 is beef, that of the published one c99c)";
        assert!(out.contains(line), "{out}");
        let error = error.unwrap();
        assert!(
            error.contains("1 of 2 files differ") && error.contains("unknown"),
            "{error}"
        );
        let (out, error) = said(Vec::new(), &[]);
        assert!(
            out.contains("whether its pixels and labels are is unknown"),
            "{out}"
        );
        assert!(!out.contains("as published") && error.is_none(), "{out}");
        let (_, error) = said(Vec::new(), &["it has 3 test images"]);
        assert!(
            error
                .unwrap()
                .contains("not CIFAR-10 as published: it has 3 test images")
        );
    }
}
