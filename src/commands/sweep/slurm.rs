//! `sweep --slurm`: submits a job array to Slurm whose tasks take the trials of a sweep.

use super::{folder, resume};
use crate::cli::{Slurm, SweepPlan};
use crate::config::{Config, OPTIONS};
use crate::domain::sweep::SweepReport;
use crate::domain::text::{command_line, plain, plain_lines, plain_path, shell_word};
use crate::hardware::device::DeviceChoice;
use crate::train::files::Folder;
use anyhow::{Context, bail, ensure};
use serde::Serialize;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The job script in the sweep's folder.
const SCRIPT: &str = "job.sh";
/// The folder of the tasks' output in the sweep's folder.
const OUTPUT: &str = "slurm";
/// Settings that the tasks get as flags. The plan has the data.
const PASSED_ON: [&str; 4] = ["device", "engine", "threads", "keep"];

/// What `--json` writes.
#[derive(Serialize)]
#[serde(tag = "event", rename = "submitted")]
struct Submitted<'a> {
    folder: String,
    script: String,
    job: &'a str,
    tasks: usize,
}

/// Makes or opens the sweep that the arguments describe and submits it. A job script that exists is submitted as it is,
/// unless there are new options of sbatch.
///
/// # Errors
/// Returns an error if the sweep cannot be made or opened, nothing of it is left to train, there is no sbatch, or sbatch
/// refuses the job.
pub fn submit(
    config: &Config,
    plan: &SweepPlan,
    slurm: &Slurm,
    parallel: Option<usize>,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let _: DeviceChoice = config.options.device.parse()?;
    ensure!(
        parallel != Some(0),
        "--parallel 0 trains nothing: with --slurm it is the number of runs that each task trains at the same time"
    );
    let arguments = slurm.args.as_deref().unwrap_or_default().trim();
    ensure!(
        (arguments.is_empty() || arguments.starts_with('-')) && !arguments.contains('\n'),
        "--slurm-args '{arguments}': these are options of sbatch on one line, for example '--partition=gpu --time=1:00:00'"
    );
    check_sbatch()?;
    let mut sweep = folder(config, plan)?;
    let path = sweep.path().to_owned();
    let report = sweep.report()?;
    let left = report.rows.len() - report.ended();
    ensure!(
        left > 0,
        "every trial of {} has ended: nothing is left to train",
        path.display()
    );
    let tasks = left.min(slurm.tasks.unwrap_or(left));
    let script = path.join(SCRIPT);
    let flags = flags(config, plan, parallel);
    let cannot = || format!("cannot write {}", script.display());
    if slurm.args.is_some() || !script.exists() {
        let text = script_text(&report, &path, &flags, tasks, arguments)?;
        let folder = Folder::from(&*path);
        folder.create_inner(OUTPUT).with_context(cannot)?;
        folder.write(SCRIPT, text.as_bytes()).with_context(cannot)?;
    } else if !flags.is_empty() {
        bail!(
            "{} have no effect on {}, which is submitted as it is. Change that file, or give --slurm-args too, which writes a new one.",
            command_line(&flags.iter().map(String::as_str).collect::<Vec<_>>()),
            script.display()
        );
    }
    let job = sbatch(&script, tasks).with_context(|| {
        format!(
            "the sweep is in {} and is not submitted. `{}` submits it again, or change {} and use sbatch.",
            path.display(),
            resume(&path, &["--slurm"]),
            script.display()
        )
    })?;
    if json {
        return crate::commands::json(
            &Submitted {
                folder: path.display().to_string(),
                script: script.display().to_string(),
                job: &job,
                tasks,
            },
            out,
        );
    }
    writeln!(
        out,
        "sweep    {} in {}: {} trials, {}\n\
         slurm    job {job} with {tasks} tasks, from {}; their output is in {}\n\
         follow   `{}` and `squeue --jobs {job}`",
        plain(&report.name),
        plain_path(&path),
        report.rows.len(),
        report.plan.strategy.word(),
        plain_path(&script),
        plain_path(&path.join(OUTPUT)),
        resume(&path, &["--parallel", "0"]),
    )?;
    Ok(())
}

/// The flags of the tasks: what the user has set, by flags or config.toml, so that all nodes do the same. A script that
/// exists has what config.toml said.
fn flags(config: &Config, plan: &SweepPlan, parallel: Option<usize>) -> Vec<String> {
    let resumes = matches!(plan, SweepPlan::Resume(_));
    let mut flags = Vec::new();
    for row in OPTIONS {
        let said = config.origin(row.key);
        let applies = said.is_some_and(|said| !resumes || said.starts_with("--"));
        if applies && PASSED_ON.contains(&row.key) {
            flags.extend([format!("--{}", row.flag()), row.show(&config.options)]);
        }
    }
    if let Some(parallel) = parallel {
        flags.extend(["--parallel".into(), parallel.to_string()]);
    }
    flags
}

/// The job script.
///
/// # Errors
/// Returns an error if a path has characters that the script cannot hold, or this program's own is unknown.
fn script_text(
    report: &SweepReport,
    folder: &Path,
    flags: &[String],
    tasks: usize,
    arguments: &str,
) -> anyhow::Result<String> {
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    let output = folder.join(OUTPUT).display().to_string();
    // Slurm replaces what follows a percent sign.
    let output = format!("{}/%A_%a.txt", output.replace('%', "%%"));
    let mut command = format!(
        "{} sweep --resume {} --headless --no-wait --on-usr1 checkpoint-and-stop",
        word(&program)?,
        word(folder)?
    );
    if !flags.iter().any(|flag| flag == "--parallel") {
        command += " --parallel 1";
    }
    if !flags.iter().any(|flag| flag == "--threads") {
        command += " --threads \"${SLURM_CPUS_ON_NODE:-1}\"";
    }
    for flag in flags {
        command += &format!(" {}", word(Path::new(flag))?);
    }
    let arguments = match arguments {
        "" => String::new(),
        arguments => format!("#SBATCH {arguments}\n"),
    };
    let name = shell_word(&format!("cifar-tui-{}", report.name));
    let script = word(&folder.join(SCRIPT))?;
    Ok(format!(
        r#"#!/bin/sh
# Trains a sweep of cifar-tui: each task of the array takes trials until none is left. This file can be changed and
# submitted again: sbatch {script}
#SBATCH --job-name={name}
#SBATCH --array=1-{tasks}
#SBATCH --ntasks=1
#SBATCH --output={output}
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@60
{arguments}
signal=
sweep=
# Passes a signal on. The sweep then writes checkpoints of its runs and ends.
pass() {{
    signal=$1
    [ -z "$sweep" ] || kill -s "$1" "$sweep" 2>/dev/null
}}
# Slurm sends USR1 before the time limit, and TERM to a job that is cancelled or has to make room for another.
trap 'pass USR1' USR1
trap 'pass TERM' TERM

left=3
while :; do
    {command} &
    sweep=$!
    [ -z "$signal" ] || pass "$signal"
    # A signal interrupts `wait`.
    while :; do
        wait "$sweep"
        code=$?
        kill -0 "$sweep" 2>/dev/null || break
    done
    # If the program was killed (137), for want of memory for example, its run is continued, twice at most.
    left=$((left - 1))
    [ "$code" -eq 137 ] && [ -z "$signal" ] && [ "$left" -gt 0 ] || break
done

# Before the time limit: the task goes back to the queue, and continues in its next turn.
if [ "$signal" = USR1 ] && [ "$code" -gt 128 ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}${{SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}}"
fi
exit "$code"
"#,
        output = word(Path::new(&output))?,
    ))
}

/// A path as one word of the script.
///
/// # Errors
/// Returns an error if it is not UTF-8, or has hidden characters such as line breaks.
fn word(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().filter(|text| plain(text) == *text);
    let text = text.with_context(|| {
        format!(
            "{} has characters that a job script cannot hold",
            plain_path(path)
        )
    })?;
    Ok(shell_word(text))
}

/// # Errors
/// Returns an error if sbatch cannot be started.
fn check_sbatch() -> anyhow::Result<()> {
    match Command::new("sbatch").arg("--version").output() {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "there is no sbatch in PATH: --slurm works on a computer from which jobs can be submitted to Slurm, such as a cluster's login node"
        ),
        Err(error) => Err(error).context("cannot start sbatch"),
    }
}

/// Submits the script. Returns the number of the job.
///
/// # Errors
/// Returns an error with sbatch's own words if it refuses.
fn sbatch(script: &PathBuf, tasks: usize) -> anyhow::Result<String> {
    let output = Command::new("sbatch")
        .arg("--parsable")
        .arg(format!("--array=1-{tasks}"))
        .arg(script)
        .output()
        .context("cannot start sbatch")?;
    let said = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        plain_lines(text.trim()).into_owned()
    };
    ensure!(
        output.status.success(),
        "sbatch refuses the job: {}",
        said(&output.stderr)
    );
    // With several clusters, the cluster's name follows.
    let answer = said(&output.stdout);
    let job = answer.split(';').next().unwrap_or_default();
    ensure!(
        !job.is_empty() && job.bytes().all(|byte| byte.is_ascii_digit()),
        "sbatch did not answer with the number of a job but with '{answer}'"
    );
    Ok(job.into())
}
