//! `doctor`: what this machine has and where things are.

use crate::config::{Config, Surroundings};
use crate::data;
use crate::hardware::choice::{Choice, describe};
use crate::hardware::nvidia::{self, Driver};
use crate::hardware::simd::Level;
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};

/// One thing that was looked at: its name, what was found, and whether something is wrong with it.
struct Finding {
    key: &'static str,
    text: String,
    wrong: bool,
}

/// Prints every finding; the exit tells nothing, since none of them keeps the program from running.
///
/// # Errors
/// When standard output cannot be written.
pub fn run(
    config: &Config,
    around: &Surroundings,
    as_json: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let findings = findings(config, around);
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
        writeln!(out, "{mark} {:<14} {}", f.key, f.text)?;
    }
    Ok(())
}

fn findings(config: &Config, around: &Surroundings) -> Vec<Finding> {
    let mut all = Vec::new();
    let mut add = |key, text: String, wrong| all.push(Finding { key, text, wrong });
    let fine = |found: String| (found, false);
    let bad = |error: String| (error, true);

    add(
        "version",
        format!(
            "cifar-tui {}, {} build, {}",
            env!("CARGO_PKG_VERSION"),
            match cfg!(debug_assertions) {
                true => "debug",
                false => "release",
            },
            match cfg!(feature = "cuda") {
                true => "with CUDA",
                false => "without CUDA",
            }
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
        .parse::<Choice>()
        .and_then(Choice::open)
        .map_or_else(|e| bad(e.to_string()), |d| fine(describe(&d, threads)));
    add("device", device.0, device.1);
    let driver = nvidia::driver();
    add("NVIDIA driver", driver_words(&driver), false);
    let libraries: Vec<_> = nvidia::libraries()
        .into_iter()
        .map(|(what, file)| format!("{what}: {}", file.unwrap_or("none")))
        .collect();
    add("CUDA libraries", libraries.join(", "), false);
    add(
        "fitting build",
        nvidia::fitting_build(&driver).into(),
        false,
    );
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
    let terminal = terminal();
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
        None => data::places()
            .iter()
            .map(|place| format!("{} ({})", place.path.display(), place.what))
            .collect(),
    };
    add("data places", looked.join(", then "), false);
    add(
        "config",
        match &config.file {
            Some(file) => file.display().to_string(),
            None => format!(
                "no config.toml here or in {}",
                around
                    .config_folder
                    .as_ref()
                    .map_or("the XDG config folder".into(), |f| f.display().to_string())
            ),
        },
        false,
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

/// The driver and its GPUs.
fn driver_words(driver: &Driver) -> String {
    match driver {
        Driver::Absent(why) => format!("none ({why})"),
        Driver::Idle {
            cuda: (major, minor),
            why,
        } => format!("for CUDA {major}.{minor}, but {why}"),
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

/// Whether runs can be kept there: the folder, or the nearest one above it, takes new entries.
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

fn terminal() -> (String, bool) {
    let var = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
    let term = var("TERM").unwrap_or_else(|| "not set".into());
    if !std::io::stdout().is_terminal() {
        return (
            format!("standard output is no terminal (TERM is {term})"),
            false,
        );
    }
    let colors = if var("NO_COLOR").is_some() {
        "no colours (NO_COLOR)"
    } else if var("COLORTERM").is_some_and(|v| v == "truecolor" || v == "24bit") {
        "16 million colours"
    } else if term.contains("256") {
        "256 colours"
    } else {
        "16 colours"
    };
    let size = crossterm::terminal::size();
    let (words, small) = match size {
        Ok((width, height)) => (format!("{width}x{height}"), width < 60 || height < 18),
        Err(_) => ("size unknown".into(), false),
    };
    (
        format!(
            "{term}, {colors}, {words}{}",
            if small {
                ": the screen needs 60x18"
            } else {
                ""
            }
        ),
        small || term == "dumb",
    )
}
