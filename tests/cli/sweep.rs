//! Tests of `sweep` as a user runs it: output, signals, and processes that are killed.

use crate::support::{Done, Place, Running, TINY};
use serde_json::Value;
use std::collections::BTreeMap;

const COMMON: [&str; 12] = [
    "sweep",
    "--runs",
    "runs",
    "--data",
    "data",
    "--device",
    "cpu",
    "--threads",
    "2",
    "--epochs",
    "4",
    "--json",
];

fn arguments<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let network: &[&str] = match more.contains(&"--resume") {
        true => {
            return [
                &[
                    "sweep",
                    "--runs",
                    "runs",
                    "--device",
                    "cpu",
                    "--threads",
                    "2",
                    "--json",
                ],
                more,
            ]
            .concat();
        }
        false => &["--arch", TINY, "--batch", "16"],
    };
    [&COMMON, network, more].concat()
}

fn sweep(place: &Place, more: &[&str]) -> Done {
    place.run(&arguments(more))
}

fn begin(place: &Place, more: &[&str]) -> Running {
    place.start(&arguments(more))
}

/// What a sweep has reached at its end: the accuracies and the values of each run.
fn results(lines: &[Value]) -> BTreeMap<String, Value> {
    let results = lines.iter().filter(|line| line["event"] == "result");
    results
        .map(|line| (line["run"].as_str().unwrap().into(), line.clone()))
        .collect()
}

/// Asserts that each epoch of a run is in its metrics once, and every step.
fn assert_seamless(place: &Place, run: &str, epochs: u64) {
    let metrics = place.read(&format!("runs/{run}/metrics.jsonl"));
    let lines = crate::support::json(&metrics);
    let (mut epoch, mut step) = (0, 0);
    for line in lines {
        if line["event"] == "epoch" {
            epoch += 1;
            assert_eq!(line["epoch"], epoch, "{run}");
        }
        if line["event"] == "steps" {
            assert_eq!(line["first"], step + 1, "{run}: a gap or a duplicate");
            step = line["last"].as_u64().unwrap();
        }
    }
    assert_eq!(epoch, epochs, "{run}");
}

#[test]
fn a_sweep_prints_what_happens_and_ranks_its_runs() {
    let place = Place::with_data();
    let args = [
        "sweep",
        "lr=1e-3,1e-2",
        "seed=1..2",
        "--runs",
        "runs",
        "--data",
        "data",
        "--device",
        "cpu",
        "--arch",
        TINY,
        "--epochs",
        "2",
        "--name",
        "rates",
        "--parallel",
        "2",
    ];
    let out = place.run(&args).exits(0).out;
    for part in [
        "sweep    rates in ",
        ": 4 trials, grid, 2 at a time\n",
        "01       lr 0.001, seed 1\n",
        "04       epoch 2  val ",
        "04       done\n",
        "\nrun  outcome      epochs   best val     test  values\n",
        "\n best val  standard error  seeds  values\n",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    // Its runs are runs like any other.
    let show = place
        .run(&["runs", "show", "03", "--runs", "runs/rates"])
        .exits(0)
        .out;
    assert!(show.contains("* learning_rate    0.01\n"), "{show}");
    // A list of the folder above has one line for the sweep, and one for a sweep that cannot be read.
    place.write("runs/one.json", "");
    std::fs::create_dir(place.path("runs/torn")).unwrap();
    place.write("runs/torn/sweep.json", "{");
    let best = results(&sweep(&place, &["--resume", "rates"]).exits(0).json());
    let of = |line: &Value| line["accuracy"].as_f64().unwrap();
    let best = best.values().max_by(|a, b| {
        let by_name = || b["run"].as_str().cmp(&a["run"].as_str());
        of(a).total_cmp(&of(b)).then_with(by_name)
    });
    let best = best.unwrap();
    let list = place.run(&["runs", "--runs", "runs"]).exits(0).out;
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(
        lines[..2],
        [
            "sweep  strategy        ended  training      best  run".to_owned(),
            format!(
                "rates  grid              4/4         0  {:>7.1}%  {}: lr {}, seed {}",
                100.0 * of(best),
                best["run"].as_str().unwrap(),
                best["values"]["learning_rate"],
                best["values"]["seed"],
            )
        ],
        "{list}"
    );
    assert!(
        lines[2].starts_with("torn   cannot read the plan "),
        "{list}"
    );
    assert_eq!(lines.len(), 3, "{list}");
    let json = place
        .run(&["runs", "--runs", "runs", "--json"])
        .exits(0)
        .out;
    assert_eq!(json.trim(), "[]");
    let again = sweep(&place, &["--resume", "rates"]).exits(0);
    assert_eq!(results(&again.json()).len(), 4);
    assert_eq!(
        again.json().len(),
        5,
        "nothing is trained again: {}",
        again.out
    );
    sweep(&place, &["seed=1,2", "--name", "rates"])
        .exits(1)
        .says(&["exists already", "sweep --resume runs/rates"]);
}

#[test]
fn wrong_sweeps_are_refused_before_anything_is_made() {
    let place = Place::with_data();
    for (args, code, part) in [
        (&["dropuot=0.1"][..], 1, "did you mean 'dropout'"),
        (&[], 1, "needs hyperparameters to vary"),
        (
            &["seed=1..4", "--strategy", "grid", "--trials", "2"],
            1,
            "no effect on a grid",
        ),
        (
            &["seed=1..4", "--strategy", "halving", "--validation", "0"],
            1,
            "chosen by the test images",
        ),
        (
            &["seed=1..4", "--data", "nowhere"],
            2,
            "cannot be used multiple times",
        ),
        (&["--resume", "other"], 1, "there is no sweep 'other'"),
        (&["--resume", "other", "--lr", "1"], 2, "no effect"),
        (&["--resume", "other", "seed=1"], 2, "cannot be used with"),
    ] {
        sweep(&place, args).exits(code).says(&[part]);
    }
    assert!(
        !place.path("runs").exists()
            || std::fs::read_dir(place.path("runs"))
                .unwrap()
                .next()
                .is_none()
    );
}

/// A sweep that is killed again and again reaches what an undisturbed one does.
#[test]
fn a_sweep_that_is_killed_goes_on_and_trains_nothing_twice() {
    let place = Place::with_data();
    let axes = ["lr=1e-3..1e-1 log 4", "--parallel", "2"];
    let calm = sweep(&place, &[&axes[..], &["--name", "calm"]].concat()).exits(0);
    let mut kills = 0;
    let mut running = begin(&place, &[&axes[..], &["--name", "stormy"]].concat());
    // Each process is killed after other lines of its output: at the beginning of a run, after an epoch, at an end.
    for lines in [2, 3, 4, 2, 5, 3, 4, 3] {
        let mut ended = false;
        for _ in 0..lines {
            ended = running.line().contains("\"event\":\"result\"");
            if ended {
                break;
            }
        }
        if ended {
            break;
        }
        running.signal(libc::SIGKILL);
        running.end();
        kills += 1;
        running = begin(&place, &["--resume", "stormy"]);
    }
    assert!(kills >= 4, "{kills}");
    let lines = crate::support::json(&running.rest());
    assert_eq!(running.end(), Some(0));
    let stormy = results(&lines);
    // The run that reached its result before the rest was read is missing at most.
    assert!(stormy.len() >= 3);
    let calm = results(&calm.json());
    for (run, result) in &stormy {
        assert_eq!(result, &calm[run]);
    }
    for run in calm.keys() {
        assert_seamless(&place, &format!("stormy/{run}"), 4);
    }
}

#[test]
fn a_signal_ends_a_sweep_with_everything_saved() {
    let place = Place::with_data();
    let mut running = begin(&place, &["seed=1..4", "--name", "one"]);
    running.wait_for("\"event\":\"epoch\"");
    running.signal(libc::SIGTERM);
    assert_eq!(running.end(), Some(143));
    let rest = sweep(&place, &["--resume", "one"]).exits(0);
    assert_eq!(results(&rest.json()).len(), 4);
    for run in ["01", "02", "03", "04"] {
        assert_seamless(&place, &format!("one/{run}"), 4);
    }
}

/// Two processes work on one sweep.
#[test]
fn two_processes_share_a_sweep() {
    let place = Place::with_data();
    let mut first = begin(&place, &["seed=1..6", "--name", "both", "--parallel", "1"]);
    first.wait_for("\"event\":\"began\"");
    let second = sweep(&place, &["--resume", "both", "--parallel", "1"]).exits(0);
    assert_eq!(first.end(), Some(0));
    let results = results(&second.json());
    assert_eq!(results.len(), 6);
    for (run, result) in results {
        assert_eq!(result["end"], "done", "{run}");
        assert_seamless(&place, &format!("both/{run}"), 4);
    }
}

#[test]
fn a_run_that_the_user_stops_is_left_as_it_is() {
    let place = Place::with_data();
    let args = [
        "sweep",
        "seed=1,2",
        "--name",
        "one",
        "--runs",
        "runs",
        "--data",
        "data",
        "--device",
        "cpu",
        "--arch",
        TINY,
        "--epochs",
        "9999",
        "--parallel",
        "1",
        "--json",
    ];
    let mut running = place.start(&args);
    for run in ["01", "02"] {
        running.wait_for("\"event\":\"epoch\"");
        place
            .run(&["send", "--runs", "runs/one", run, "stop"])
            .exits(0);
        running.wait_for("\"end\":\"stopped\"");
    }
    assert_eq!(running.end(), Some(0));
    let again = sweep(&place, &["--resume", "one"]).exits(0);
    assert_eq!(again.json().len(), 3, "{}", again.out);
}

/// Starts `sweep` with a Slurm whose sbatch is a script: it prints `answer` and ends with `code`, and writes its arguments
/// to the file `asked`.
fn slurm(place: &Place, answer: &str, code: i32, more: &[&str]) -> Done {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(place.path("bin")).unwrap();
    place.write(
        "bin/sbatch",
        format!("#!/bin/sh\n[ \"$1\" = --version ] && exit\nprintf '%s\\n' \"$@\" > asked\n{answer}\nexit {code}\n"),
    );
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(place.path("bin/sbatch"), mode).unwrap();
    let path = format!("{}:/usr/bin:/bin", place.path("bin").display());
    let args = arguments(&[&["--slurm"], more].concat());
    Done::of(
        place.command(&args).env("PATH", path).output().unwrap(),
        &args,
    )
}

/// Whether sh accepts the script's syntax.
fn assert_is_shell(script: &std::path::Path) {
    let checked = std::process::Command::new("sh")
        .arg("-n")
        .arg(script)
        .status();
    assert!(checked.unwrap().success());
}

#[test]
fn a_sweep_is_submitted_to_slurm_with_a_script_that_can_be_changed() {
    let place = Place::with_data();
    let axes = ["seed=1..4", "--name", "one", "--slurm-tasks", "3"];
    let args = [
        &axes[..],
        &["--slurm-args", "--partition=gpu --time=1:00:00"],
    ]
    .concat();
    let out = slurm(&place, "echo '12;east'", 0, &args).exits(0).json();
    assert_eq!(out.len(), 1, "{out:?}");
    assert_eq!(out[0]["job"], "12");
    assert_eq!(out[0]["tasks"], 3);
    let script = place.path("runs/one/job.sh");
    assert_eq!(
        place.read("asked"),
        format!("--parsable\n--array=1-3\n{}\n", script.display())
    );
    let text = place.read("runs/one/job.sh");
    let folder = place.path("runs/one").display().to_string();
    for part in [
        "#!/bin/sh\n",
        "#SBATCH --array=1-3\n",
        &format!("#SBATCH --output={folder}/slurm/%A_%a.txt\n"),
        "#SBATCH --open-mode=append\n#SBATCH --requeue\n#SBATCH --signal=B:USR1@60\n#SBATCH --partition=gpu --time=1:00:00\n",
        &format!(
            "cifar-tui sweep --resume {folder} --headless --no-wait --on-usr1 checkpoint-and-stop --parallel 1 --device cpu --threads 2 &\n"
        ),
        "scontrol requeue \"${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}\"\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_is_shell(&script);
    assert!(place.path("runs/one/slurm").is_dir());
    assert!(!place.path("runs/one/01").exists(), "nothing is trained");

    // A script that was changed is submitted as it is.
    place.write("runs/one/job.sh", "#!/bin/sh\necho mine\n");
    let again = |more: &[&str]| {
        let args = [&["sweep", "--resume", "runs/one", "--slurm"], more].concat();
        let path = format!("{}:/usr/bin:/bin", place.path("bin").display());
        Done::of(
            place.command(&args).env("PATH", path).output().unwrap(),
            &args,
        )
    };
    let out = again(&[]).exits(0).out;
    for part in [
        "sweep    one in ",
        ": 4 trials, grid\nslurm    job 12 with 4 tasks, from ",
        "`cifar-tui sweep --resume runs/one --parallel 0` and `squeue --jobs 12`\n",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(place.read("runs/one/job.sh").ends_with("echo mine\n"));
    again(&["--device", "cpu"])
        .exits(1)
        .says(&["--device cpu", "no effect", "--slurm-args too"]);
    again(&["--slurm-args", "--time=5", "--parallel", "2"]).exits(0);
    let text = place.read("runs/one/job.sh");
    assert!(
        text.contains(" --parallel 2 &\n") && text.contains("#SBATCH --time=5\n"),
        "{text}"
    );

    // The rest is trained here, and then nothing is left to submit.
    sweep(&place, &["--resume", "one"]).exits(0);
    again(&[]).exits(1).says(&["every trial of", "has ended"]);
}

#[test]
fn a_slurm_that_refuses_a_sweep_is_quoted() {
    let place = Place::with_data();
    let args = arguments(&["seed=1..2", "--slurm"]);
    let mut without = place.command(&args);
    Done::of(without.env("PATH", "").output().unwrap(), &args)
        .exits(1)
        .says(&["there is no sbatch in PATH", "login node"]);
    for (args, code, part) in [
        (
            &["--slurm-args", "gpu"][..],
            1,
            "'gpu': these are options of sbatch",
        ),
        (&["--slurm-args", "--a\n--b"], 1, "on one line"),
        (&["--parallel", "0"], 1, "--parallel 0 trains nothing"),
        (&["--headless"], 2, "cannot be used with"),
        (&["--slurm-tasks", "0"], 2, "0 is not in 1..=1000"),
    ] {
        slurm(&place, "echo 1", 0, &[&["seed=1..2"], args].concat())
            .exits(code)
            .says(&[part]);
    }
    sweep(&place, &["seed=1..2", "--slurm-tasks", "2"])
        .exits(2)
        .says(&["--slurm"]);
    assert!(!place.path("runs").exists());
    let refusal = "echo 'sbatch: error: invalid partition specified: gpu' >&2";
    slurm(&place, refusal, 1, &["seed=1..2", "--name", "one"])
        .exits(1)
        .says(&[
            "sbatch refuses the job: sbatch: error: invalid partition specified: gpu",
            "sweep --resume runs/one --slurm` submits it again",
        ]);
    slurm(&place, "echo hello", 0, &["seed=1..2", "--name", "two"])
        .exits(1)
        .says(&["but with 'hello'"]);
}

/// Without other trials to begin, a process leaves those of a living process to it.
#[test]
fn a_process_that_does_not_wait_leaves_the_rest_to_the_others() {
    let place = Place::with_data();
    let args = ["seed=1,2", "--name", "one", "--parallel", "2"];
    let mut args = arguments(&args);
    let epochs = args.iter().position(|arg| *arg == "4").unwrap();
    args[epochs] = "9999";
    let mut first = place.start(&args);
    for run in ["01", "02"] {
        first.wait_for(&format!("\"began\",\"run\":\"{run}\""));
    }
    first.wait_for("\"event\":\"epoch\"");
    while !["01", "02"].iter().all(|run| {
        place
            .path(&format!("runs/one/{run}/metrics.jsonl"))
            .exists()
    }) {
        first.line();
    }
    let second = sweep(&place, &["--resume", "one", "--no-wait"]).exits(0);
    let began = second.json().iter().any(|line| line["event"] == "began");
    assert!(!began, "{}", second.out);
    first.signal(libc::SIGTERM);
    assert_eq!(first.end(), Some(143));
}

#[test]
fn a_signal_for_a_checkpoint_ends_a_sweep_only_if_the_option_says_so() {
    let place = Place::with_data();
    for (name, more, code) in [
        ("on", &[][..], 0),
        ("off", &["--on-usr1", "checkpoint-and-stop"], 138),
    ] {
        let args = [&["seed=1..3", "--name", name], more].concat();
        let mut running = begin(&place, &args);
        running.wait_for("\"event\":\"epoch\"");
        running.signal(libc::SIGUSR1);
        assert_eq!(running.end(), Some(code), "{name}");
    }
}
