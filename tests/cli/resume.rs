//! Tests of `--resume`: flags that take effect, flags that are refused, where the data is found, and runs of other
//! computers.

use crate::support::{Place, TINY};
use cifar_tui::session::run_dir::{HostId, Owner};
use cifar_tui::session::runs::RunsFolder;

fn trained() -> Place {
    let place = Place::with_data();
    place.train(&["--name", "one", "--epochs", "3"]).exits(0);
    place
}

fn resumed<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&["--resume", "one", "--json"], args].concat()
}

/// The key, old and new value of each reported change.
fn changes(out: &str) -> Vec<(String, String)> {
    crate::support::json(out)
        .iter()
        .filter(|e| e["event"] == "applied")
        .map(|e| {
            (
                e["change"]["key"].to_string(),
                e["change"]["new"].to_string(),
            )
        })
        .collect()
}

#[test]
fn flags_that_cannot_take_effect_are_refused_and_nothing_is_written() {
    let place = trained();
    let metrics = place.read("runs/one/metrics.jsonl");
    let args = [
        "--arch",
        "resnet",
        "--seed",
        "9",
        "--optimizer",
        "sgd",
        "--validation",
        "0.3",
    ];
    place.train(&resumed(&args)).exits(2).says(&[
        "--architecture and --optimizer and --seed and --validation cannot change",
        "its optimizer is adam; its seed is 4",
        "start a new run",
    ]);
    place.train(&resumed(&["--epochs", "2"])).exits(2).says(&[
        "--epochs 2",
        "3 epochs",
        "leave it out",
    ]);
    let best = place.path("runs/one/best.safetensors");
    std::fs::copy(place.path("runs/one/previous.safetensors"), &best).unwrap();
    place
        .train(&["--resume", "runs/one/best.safetensors"])
        .exits(2)
        .says(&[
            "best.safetensors is of step",
            "cifar-tui --resume",
            "cifar-tui fork ",
        ]);
    assert_eq!(place.read("runs/one/metrics.jsonl"), metrics);
    // Flags with the run's own values are accepted and change nothing.
    let same = ["--arch", TINY, "--seed", "4", "--epochs", "3"];
    place.train(&resumed(&same)).exits(0);
}

#[test]
fn a_recipe_in_the_configuration_never_changes_a_resumed_run_and_as_a_flag_is_refused() {
    let place = trained();
    place.write("config.toml", "recipe = \"resnet\"\n");
    let done = place.run(&["train", "--resume", "one", "--epochs", "4", "--json"]);
    let done = done.exits(0);
    let expected = ("\"epochs\"".to_owned(), "4.0".to_owned());
    assert_eq!(changes(&done.out), [expected]);
    let shown = place.run(&["runs", "--json"]).exits(0).json();
    let params = &shown[0][0]["params"];
    assert_eq!(
        (&params["recipe"], &params["optimizer"]),
        (&"seed".into(), &"adam".into())
    );
    place
        .train(&resumed(&["--recipe", "resnet"]))
        .exits(2)
        .says(&["--recipe", "cannot change"]);
}

#[test]
fn flags_that_can_take_effect_do_and_more_epochs_continue_a_finished_run() {
    let place = trained();
    let args = ["--epochs", "5", "--batch", "8", "--lr", "0.002"];
    let done = place.train(&resumed(&args)).exits(0);
    let mut changes = changes(&done.out);
    changes.sort();
    let expected = [
        ("batch_size", "8"),
        ("epochs", "5.0"),
        ("learning_rate", "0.002"),
    ];
    let expected = expected.map(|(key, new)| (format!("\"{key}\""), new.to_owned()));
    assert_eq!(changes, expected);
    let runs = place
        .run(&["runs", "--runs", "runs", "--json"])
        .exits(0)
        .json();
    assert_eq!(runs[0][0]["epochs_done"], 5);
    assert_eq!(
        (&runs[0][0]["outcome"], &runs[0][0]["open"]),
        (&"done".into(), &().into())
    );
}

#[test]
fn the_command_that_a_run_is_resumed_with_works_from_anywhere_and_finds_the_data() {
    let place = Place::with_data();
    place
        .run(&[
            "train", "--runs", "my runs", "--device", "cpu", "--arch", TINY, "--batch", "16",
            "--epochs", "1", "--data", "data", "--name", "one",
        ])
        .exits(0);
    std::fs::create_dir(place.path("elsewhere")).unwrap();
    // The printed command opens the screen; the same arguments after `train` work without a terminal.
    let script = format!(
        "#!/bin/sh\nexec '{}' train \"$@\"\n",
        env!("CARGO_BIN_EXE_cifar-tui")
    );
    place.write("elsewhere/cifar-tui", script);
    let owner_may = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(place.path("elsewhere/cifar-tui"), owner_may).unwrap();
    for name in ["it's one", "-dash", "one"] {
        let folder = place.path("my runs");
        let first = std::fs::read_dir(&folder)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        std::fs::rename(first, folder.join(name)).unwrap();
        let runs = RunsFolder::new(&folder, Owner::new(HostId::this()))
            .list()
            .unwrap();
        let command = runs[0].resume_command();
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-c", &command])
            .current_dir(place.path("elsewhere"))
            .env_clear()
            .env(
                "PATH",
                format!("{}:/usr/bin:/bin", place.path("elsewhere").display()),
            )
            .env("HOME", place.path("home"));
        let done = shell.output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{command}: {said}");
    }
}

#[test]
fn a_run_of_another_computer_is_listed_with_its_name_and_left_alone() {
    let place = trained();
    let lease = place.path("runs/one/lease-00000000-1");
    std::fs::rename(place.path("runs/one/lease"), &lease).unwrap();
    let text = "owner = \"00000000-1\"\nhost = \"gpu-7\"\nprocess = 7\nsince = 0\ncounter = 5\n";
    std::fs::write(&lease, text).unwrap();
    let list = place.run(&["runs", "--runs", "runs"]).exits(0).out;
    assert!(list.contains("done, open on gpu-7"), "{list}");
    // The program watches the lease for a while. A user who does not wait can interrupt it, and no file has changed.
    let mut waiting = place.begin(&["--resume", "one"]);
    waiting.wait_for("open on gpu-7 (process 7)");
    waiting.signal(libc::SIGINT);
    assert_eq!(waiting.end(), Some(130));
    assert_eq!(std::fs::read_to_string(&lease).unwrap(), text);
}
