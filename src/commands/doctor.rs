//! `doctor`: shows the computer's devices, the terminal, the data and the folders.

use crate::config::{Config, ConfigError, Surroundings};
use crate::data;
use crate::domain::terminal::{MIN_SIZE, Terminal, drawn_size};
use crate::domain::text::plain_lines;
use crate::hardware::device::DeviceChoice;
use crate::hardware::nvidia::driver::{self, Driver};
use crate::hardware::nvidia::nvrtc_search::{SearchPath, install_command};
use crate::hardware::simd::Level;
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};

/// A finding: its name, its value, and whether it is a problem.
struct Finding {
    key: &'static str,
    text: String,
    wrong: bool,
}

/// Prints every finding. The exit code does not depend on them, since none keeps the program from running. `wrong` is
/// the error in the config file, if there is one; `config` was then loaded without the file.
///
/// # Errors
/// Returns an error if standard output cannot be written.
pub fn run(
    config: &Config,
    wrong: Option<&ConfigError>,
    around: &Surroundings,
    as_json: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let findings = findings(config, wrong, around);
    if as_json {
        let map: serde_json::Map<String, Value> = findings
            .iter()
            .map(|f| {
                (
                    f.key.to_owned(),
                    json!({ "text": f.text, "wrong": f.wrong }),
                )
            })
            .collect();
        return super::json(&map, out);
    }
    for f in &findings {
        let mark = if f.wrong { "!" } else { " " };
        let text = plain_lines(&f.text).replace('\n', "\n                 ");
        writeln!(out, "{mark} {:<14} {text}", f.key)?;
    }
    Ok(())
}

fn findings(config: &Config, wrong: Option<&ConfigError>, around: &Surroundings) -> Vec<Finding> {
    let mut all = Vec::new();
    let mut add = |key, text: String, wrong| all.push(Finding { key, text, wrong });
    let fine = |found: String| (found, false);
    let bad = |error: String| (error, true);

    add(
        "version",
        format!(
            "cifar-tui {}, {} build",
            env!("CARGO_PKG_VERSION"),
            match cfg!(debug_assertions) {
                true => "debug",
                false => "release",
            },
        ),
        false,
    );
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = match config.options.threads {
        0 => cores,
        n => n,
    };
    let device = config
        .options
        .device
        .parse::<DeviceChoice>()
        .and_then(DeviceChoice::open)
        .map_or_else(
            |error| bad(error.to_string()),
            |device| match device.unused_gpu() {
                Some(error) => bad(format!("{}: {error}", device.describe(threads))),
                None => fine(device.describe(threads)),
            },
        );
    add("device", device.0, device.1);
    let driver = driver::driver();
    let broken = matches!(driver, Driver::Broken { .. });
    add("NVIDIA driver", driver_words(&driver), broken);
    let compiler = compiler_words(&driver);
    add("NVRTC", compiler.0, compiler.1);
    let levels: Vec<_> = Level::available().into_iter().map(Level::name).collect();
    add(
        "processor",
        format!(
            "{cores} cores, vectors: {} (in use: {})",
            levels.join(", "),
            Level::best().name()
        ),
        false,
    );
    add(
        "threads",
        match config.options.threads {
            0 => format!("{cores}, one a core"),
            n => format!("{n}, as set by {}", config.origin("threads").unwrap_or("?")),
        },
        false,
    );
    let terminal = terminal(config);
    add("terminal", terminal.0, terminal.1);
    let data = match data::find(config.options.data.as_deref()) {
        Ok(found) if found.is_sample() => fine(format!(
            "{} (no CIFAR-10 was found; `cifar-tui data download` fetches it)",
            found.format.name
        )),
        Ok(found) => fine(format!("{}, {}", found.path.display(), found.format.name)),
        Err(error) => bad(error.to_string()),
    };
    add("data", data.0, data.1);
    let looked: Vec<_> = match &config.options.data {
        Some(path) => vec![format!(
            "{} ({})",
            path.display(),
            config.origin("data").unwrap_or("set")
        )],
        None => data::locations()
            .iter()
            .map(|place| format!("{} ({})", place.path.display(), place.what))
            .collect(),
    };
    add("data places", looked.join(", then "), false);
    add(
        "config",
        match (wrong, &config.file) {
            (Some(error), _) => format!("ignored, since it has an error: {error}"),
            (None, Some(file)) => file.display().to_string(),
            (None, None) => format!(
                "no config.toml here or in {}",
                around
                    .config_folder
                    .as_ref()
                    .map_or("the XDG config folder".into(), |f| f.display().to_string())
            ),
        },
        wrong.is_some(),
    );
    let runs = writable(&config.runs);
    add(
        "runs",
        format!(
            "{} ({}){}",
            config.runs.display(),
            config.runs_because,
            runs.as_ref()
                .err()
                .map_or(String::new(), |e| format!(": {e}"))
        ),
        runs.is_err(),
    );
    all
}

/// The NVIDIA driver and its GPUs.
fn driver_words(driver: &Driver) -> String {
    match driver {
        Driver::Absent(why) => format!("none ({why})"),
        Driver::NoGpu {
            cuda: (major, minor),
        } => format!("for CUDA {major}.{minor}; it finds no GPU that it may use"),
        Driver::Broken {
            cuda: (major, minor),
            why,
        } => format!("for CUDA {major}.{minor}; it does not work: {why}"),
        Driver::Ready {
            cuda: (major, minor),
            gpus,
        } => {
            let gpus: Vec<_> = gpus
                .iter()
                .enumerate()
                .map(|(i, gpu)| format!("cuda:{i} {gpu}"))
                .collect();
            format!("for CUDA {major}.{minor}; {}", gpus.join("; "))
        }
    }
}

/// The copy of NVRTC that compiles the GPU's kernels, and whether it is missing.
fn compiler_words(driver: &Driver) -> (String, bool) {
    let (version, missed) = match *driver {
        Driver::Absent(_) => (None, false),
        Driver::NoGpu { cuda } | Driver::Broken { cuda, .. } => (Some(cuda), false),
        Driver::Ready { cuda, .. } => (Some(cuda), true),
    };
    let most = version.map_or(u32::MAX, |(major, _)| major);
    match (SearchPath::of_process().newest(most), version) {
        (Some(compiler), _) => (compiler.to_string(), false),
        (None, Some(version)) if missed => {
            let command = install_command(version);
            (format!("none; install it with `{command}`"), true)
        }
        (None, _) => ("none (only a GPU needs it)".into(), false),
    }
}

/// Whether runs can be saved there: the folder, or its nearest existing parent, is writable.
fn writable(folder: &std::path::Path) -> Result<(), String> {
    let there = folder
        .ancestors()
        .find(|f| f.exists())
        .ok_or("no such folder")?;
    let path =
        std::ffi::CString::new(there.as_os_str().as_encoded_bytes()).map_err(|e| e.to_string())?;
    // SAFETY: a valid C string that lives over the call.
    match unsafe { libc::access(path.as_ptr(), libc::W_OK) } {
        0 => Ok(()),
        _ => Err(format!(
            "{} cannot be written ({}); name another with --runs",
            there.display(),
            std::io::Error::last_os_error()
        )),
    }
}

/// The symbols and colours used on this terminal, and the reason.
fn terminal(config: &Config) -> (String, bool) {
    let terminal = Terminal::of_process();
    let set = config.options.symbols.and(config.origin("symbols"));
    let symbols = match (set, &terminal.locale) {
        (Some(origin), _) => origin.to_owned(),
        (None, Some(locale)) => format!("TERM, {locale}"),
        (None, None) => "TERM; no locale is set".into(),
    };
    let words = format!(
        "{}: {} ({}), {} symbols ({symbols})",
        match terminal.term.as_str() {
            "" => "TERM is not set",
            term => term,
        },
        terminal.colors,
        terminal.colors_by,
        config.options.symbols(),
    );
    if !std::io::stdout().is_terminal() {
        return (format!("{words}; standard output is not a terminal"), false);
    }
    let (size, wrong) = match crossterm::terminal::size() {
        Ok(size) => size_words(size),
        Err(error) => (format!("size unknown ({error})"), true),
    };
    (format!("{words}, {size}"), wrong || terminal.term == "dumb")
}

/// The terminal's reported size, the size used, and whether there is a problem with it.
fn size_words(reported: (u16, u16)) -> (String, bool) {
    let (columns, lines) = drawn_size(reported);
    let words = format!("{}x{}", reported.0, reported.1);
    if reported.0 == 0 || reported.1 == 0 {
        return (
            format!(
                "{words}: it reports no size, so {columns}x{lines} is used until it reports one"
            ),
            true,
        );
    }
    if (columns, lines) != reported {
        return (
            format!("{words}, of which {columns}x{lines} is drawn: more would only cost memory"),
            false,
        );
    }
    let (least_columns, least_lines) = MIN_SIZE;
    if columns < least_columns || lines < least_lines {
        return (
            format!("{words}: the screen needs {least_columns}x{least_lines}"),
            true,
        );
    }
    (words, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_that_is_drawn_is_told_where_it_is_not_the_reported_one() {
        let words = |columns, lines| size_words((columns, lines));
        assert_eq!(words(120, 36), ("120x36".into(), false));
        let (unknown, wrong) = words(0, 0);
        assert!(unknown.contains("80x24 is used") && wrong, "{unknown}");
        let (huge, wrong) = words(u16::MAX, 5000);
        assert!(
            huge.contains("65535x5000, of which 1000x400") && !wrong,
            "{huge}"
        );
        let (small, wrong) = words(40, 10);
        assert!(small.contains("needs 60x18") && wrong, "{small}");
    }
}
