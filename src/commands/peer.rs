//! A peer of `bench --suite`: a Python script that trains the same networks on the same device, in several variants.
//!
//! It is run as `python3 SCRIPT --arch ARCHITECTURE --batch N...` and prints one JSON object a line. Those with `batch`,
//! `variant` and `images_per_s` are measurements; all others are ignored.

use super::suite::Speed;
use crate::domain::text::{grouped, plain};
use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// A peer's training throughput in its fastest variant.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeerSpeed {
    pub architecture: String,
    pub batch: u32,
    pub variant: String,
    pub images_per_s: f64,
}

/// A measurement that a peer prints.
#[derive(Deserialize)]
struct Line {
    batch: u32,
    variant: String,
    images_per_s: f64,
}

/// Measures the peer on an architecture in batches of these sizes.
///
/// # Errors
/// Returns an error if the script cannot be run, fails, or leaves a batch size out.
pub fn measure(
    script: &Path,
    architecture: &str,
    batches: &[u32],
) -> anyhow::Result<Vec<PeerSpeed>> {
    let mut command = Command::new("python3");
    command
        .arg(script)
        .args(["--arch", architecture, "--batch"]);
    command.args(batches.iter().map(u32::to_string));
    let shown = plain(&script.to_string_lossy()).into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("python3 cannot be run for the peer {shown}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "the peer {shown} failed: {}",
        said.trim()
    );
    let printed = String::from_utf8_lossy(&output.stdout);
    let best = |batch: &u32| {
        fastest(&printed, architecture, *batch)
            .with_context(|| format!("the peer {shown} measured no batch of {batch}"))
    };
    batches.iter().map(best).collect()
}

/// The fastest variant of a batch size among a peer's lines.
fn fastest(printed: &str, architecture: &str, batch: u32) -> Option<PeerSpeed> {
    let lines = printed
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let of_batch = lines.filter(|line: &Line| line.batch == batch);
    let best = of_batch.max_by(|a, b| a.images_per_s.total_cmp(&b.images_per_s))?;
    Some(PeerSpeed {
        architecture: architecture.into(),
        batch,
        variant: best.variant,
        images_per_s: best.images_per_s,
    })
}

/// Prints our throughput in each number format beside the peer's, and how many times the peer's our fastest is.
///
/// # Errors
/// Returns an error if `out` cannot be written.
pub fn print(ours: &[Speed], peer: &[PeerSpeed], out: &mut impl Write) -> std::io::Result<()> {
    let mut formats: Vec<&str> = ours.iter().map(|speed| speed.precision).collect();
    formats.sort_unstable();
    formats.dedup();
    write!(out, "\n{:<12} {:>6}", "images/s", "batch")?;
    for format in &formats {
        write!(out, " {format:>10}")?;
    }
    writeln!(out, " {:>10} {:>6}  its variant", "peer", "ratio")?;
    for theirs in peer {
        write!(out, "{:<12} {:>6}", theirs.architecture, theirs.batch)?;
        let mut best = 0.0f64;
        for format in &formats {
            let is_it = |speed: &&Speed| {
                let same = speed.architecture == theirs.architecture && speed.batch == theirs.batch;
                same && speed.precision == *format
            };
            match ours.iter().find(is_it) {
                Some(speed) => {
                    best = best.max(speed.images_per_s);
                    write!(out, " {:>10}", grouped(speed.images_per_s.round() as u64))?;
                }
                None => write!(out, " {:>10}", "-")?,
            }
        }
        writeln!(
            out,
            " {:>10} {:>6.2}  {}",
            grouped(theirs.images_per_s.round() as u64),
            best / theirs.images_per_s,
            plain(&theirs.variant)
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = r#"{"peer": "torch", "batch": 32, "variant": "f32", "images_per_s": 75485, "ms_per_step": 0.4}
{"arch": "seed", "batch": 32, "variant": "tf32", "error": "out of memory"}
a warning
{"peer": "torch", "batch": 32, "variant": "bf16+cl", "images_per_s": 96768, "ms_per_step": 0.3}
{"peer": "torch", "batch": 512, "variant": "f32", "images_per_s": 272268, "ms_per_step": 1.9}
{"arch": "seed", "best": {"32": ["bf16+cl", 96768]}}"#;

    #[test]
    fn the_fastest_variant_of_each_batch_size_counts() {
        let fastest = |batch| fastest(PRINTED, "seed", batch);
        let found = fastest(32).unwrap();
        assert_eq!(
            (found.variant.as_str(), found.images_per_s),
            ("bf16+cl", 96_768.0)
        );
        assert_eq!(fastest(512).unwrap().variant, "f32");
        assert_eq!(fastest(64), None);
    }

    #[test]
    fn our_best_format_is_divided_by_the_peer() {
        let speed = |precision, images_per_s| Speed {
            architecture: "seed",
            batch: 32,
            precision,
            images_per_s,
        };
        let ours = [speed("f32", 141_668.0), speed("tf32", 174_194.0)];
        let mut out = Vec::new();
        print(&ours, &[fastest(PRINTED, "seed", 32).unwrap()], &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let words: Vec<_> = text.lines().last().unwrap().split_whitespace().collect();
        let expected = [
            "seed", "32", "141,668", "174,194", "96,768", "1.80", "bf16+cl",
        ];
        assert_eq!(words, expected);
    }

    #[test]
    fn a_script_that_fails_is_named() {
        let error = measure(Path::new("no-such-peer.py"), "seed", &[32]).unwrap_err();
        assert!(
            format!("{error:#}").contains("no-such-peer.py"),
            "{error:#}"
        );
    }
}
