//! `config`: shows the settings and their origins; writes config.toml.

use crate::cli::ConfigTask;
use crate::config::{Config, MAX_FILE, OPTIONS, Surroundings, template, with_value};
use crate::domain::params::HYPERPARAMS;
use crate::domain::text::{plain, plain_path};
use crate::files;
use anyhow::{Context, bail};
use std::io::Write;
use std::path::Path;

/// # Errors
/// Returns an error if the file cannot be read or written, or the key or value is wrong.
pub fn run(
    task: &ConfigTask,
    config: &Config,
    around: &Surroundings,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    match task {
        ConfigTask::Show => show(config, out),
        ConfigTask::Init => {
            let file = around.here.join("config.toml");
            if file.exists() {
                bail!("config.toml is already here; `cifar-tui config set KEY VALUE` changes it");
            }
            write_atomically(&file, &template())?;
            writeln!(out, "wrote {}", plain_path(&file))?;
            Ok(())
        }
        ConfigTask::Set { key, value } => {
            let file = match &config.file {
                Some(file) => file.clone(),
                None => around.here.join("config.toml"),
            };
            let old = match files::read_text(&file, MAX_FILE) {
                Ok(text) => text,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
                Err(e) => {
                    return Err(e).with_context(|| format!("{} cannot be read", file.display()));
                }
            };
            write_atomically(&file, &with_value(&old, key, value)?)?;
            writeln!(
                out,
                "{}: {} = {}",
                plain_path(&file),
                key.replace('-', "_"),
                plain(value)
            )?;
            Ok(())
        }
    }
}

fn show(config: &Config, out: &mut impl Write) -> anyhow::Result<()> {
    let none = "default";
    match &config.file {
        Some(file) => writeln!(out, "# read: {}", plain_path(file))?,
        None => writeln!(out, "# no config.toml was found")?,
    }
    let mut line = |key: &str, value: &str, origin: &str| {
        writeln!(out, "{key:<16} {:<24} {}", plain(value), plain(origin))
    };
    for row in OPTIONS {
        let value = row.show(&config.options);
        let origin = config.origin(row.key).unwrap_or(none);
        line(row.key, &value, origin)?;
    }
    for row in HYPERPARAMS {
        let value = row.show(&row.get(&config.params));
        let origin = config.origin(row.key).unwrap_or(none);
        line(row.key, &value, origin)?;
    }
    let sweep = &config.sweep;
    let counts = [("trials", sweep.trials), ("parallel", sweep.parallel)];
    let counts = counts
        .into_iter()
        .filter_map(|(key, count)| Some(format!("{key}={}", count?)));
    let strategy = sweep
        .strategy
        .map(|strategy| format!("strategy={}", strategy.word()));
    for setting in sweep.axes.iter().cloned().chain(strategy).chain(counts) {
        line("sweep", &setting, &sweep.said)?;
    }
    Ok(())
}

/// Writes to a new file, syncs and renames it, so that the file is never incomplete.
fn write_atomically(file: &Path, text: &str) -> anyhow::Result<()> {
    let beside = file.with_extension("toml.new");
    let write = || -> std::io::Result<()> {
        let mut handle = crate::files::create(&beside)?;
        handle.write_all(text.as_bytes())?;
        handle.sync_all()?;
        std::fs::rename(&beside, file)
    };
    write().with_context(|| format!("{} cannot be written", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, load};

    #[test]
    fn init_set_and_show_agree() {
        let folder = tempfile::tempdir().unwrap();
        let around = Surroundings {
            here: folder.path().into(),
            ..Default::default()
        };
        let mut out = Vec::new();
        let config = || load(&around, &Flags::default()).unwrap();
        run(&ConfigTask::Init, &config(), &around, &mut out).unwrap();
        assert!(run(&ConfigTask::Init, &config(), &around, &mut out).is_err());
        let set = ConfigTask::Set {
            key: "learning-rate".into(),
            value: "5e-4".into(),
        };
        run(&set, &config(), &around, &mut out).unwrap();
        out.clear();
        run(&ConfigTask::Show, &config(), &around, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let line = text
            .lines()
            .find(|l| l.starts_with("learning_rate"))
            .unwrap();
        assert!(
            line.contains("0.0005") && line.contains("config.toml, line"),
            "{line}"
        );
    }
}
